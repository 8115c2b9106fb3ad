//! The only code that knows Kamailio: exports and lifecycle, allocator hooks, SIP gate, RPC, statistics, sampler.
//! Forbidden here: decisions (those are `guard`'s) and layouts of shared state (those are `shared`'s).

pub mod commands;
pub mod kamailio;
pub mod memory;
pub mod module;
pub mod net;
pub mod outputs;
pub mod reports;
pub mod sampler;
pub mod sip;
