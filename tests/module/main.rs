//! The module in real Kamailio: `./dev test module` prepares what these tests need and tells them by the environment.
//! Forbidden here: linking Kamailio, traffic beyond loopback, processes, ports or files that outlive a test.

mod accounting;
mod bindings_file;
mod blackbox;
mod classes;
mod examples;
mod faults;
mod forecast;
mod guard;
mod harness;
mod http;
mod kemi;
mod leaks;
mod levels;
mod monitoring;
mod observe;
mod outside;
mod package;
mod parameters;
mod paths;
mod pressure;
mod priority;
mod profile;
mod proxy;
mod queue;
mod robust;
mod rpc;
mod script;
mod sites;
mod smoke;
mod soak;
mod stopped;
mod torture;
mod transports;
mod zero;
