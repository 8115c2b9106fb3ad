//! The module in real Kamailio: `./dev test module` prepares what these tests need and tells them by the environment.
//! Forbidden here: linking Kamailio, traffic beyond loopback, processes, ports or files that outlive a test.

mod accounting;
mod avalanche;
mod classes;
mod examples;
mod forecast;
mod guard;
mod harness;
mod http;
mod kemi;
mod levels;
mod monitoring;
mod observe;
mod parameters;
mod pressure;
mod priority;
mod proxy;
mod queue;
mod robust;
mod rpc;
mod script;
mod sites;
mod smoke;
mod soak;
mod torture;
mod zero;
