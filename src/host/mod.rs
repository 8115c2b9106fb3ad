//! The only code that knows Kamailio: exports and lifecycle, allocator hooks, SIP gate, RPC, statistics, sampler.
//! Forbidden here: decisions (those are `guard`'s) and layouts of shared state (those are `shared`'s).

pub mod entry;
pub mod exports;
pub mod hooks;
pub mod lifecycle;
pub mod log;
pub mod os;
pub mod settings;
pub mod state;
pub mod sys;
