//! What the tests in real Kamailio share: the pairs to run on, a server, its RPC, SIP clients, sipp, waiting.
//! Forbidden here: knowing what memguard should answer; that is the tests' business.
#![allow(dead_code, unused_imports)] // a toolbox: not every test target of every commit uses every tool

pub mod builder;
pub mod calls;
pub mod config;
pub mod http;
pub mod net;
pub mod pairs;
pub mod pprof;
pub mod prometheus;
pub mod rpc;
pub mod schemas;
pub mod server;
pub mod sip;
pub mod sipp;
pub mod standin;
pub mod tls;
pub mod traced;
pub mod upstream;
pub mod wait;

pub use pairs::{Pair, for_each_pair, for_each_pair_at_once};
pub use server::Server;
pub use upstream::{Received, Upstream};
pub use wait::until;
