//! The only code that knows Kamailio: exports and lifecycle, allocator hooks, SIP gate, RPC, statistics, sampler.
//! Forbidden here: decisions (those are `guard`'s) and layouts of shared state (those are `shared`'s).

pub mod os;
