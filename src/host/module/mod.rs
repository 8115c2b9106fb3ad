//! What Kamailio calls: exports, lifecycle, parameters, functions, RPC, variables, statistics, event routes.
//! Forbidden here: work; each entry hands on to the room that does it.

pub mod event_routes;
pub mod exports;
pub mod functions;
pub mod lifecycle;
pub mod parameters;
pub mod rpc;
pub mod statistics;
pub mod variables;
