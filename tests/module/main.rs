//! The module in real Kamailio: `./dev test module` prepares what these tests need and tells them by the environment.
//! Forbidden here: linking Kamailio, traffic beyond loopback, processes, ports or files that outlive a test.

mod harness;
mod http;
mod monitoring;
mod smoke;
