//! The only code that knows Kamailio: exports and lifecycle, allocator hooks, SIP gate, RPC, statistics, sampler.
//! Forbidden here: decisions (those are `guard`'s) and layouts of shared state (those are `shared`'s).

pub mod answer;
pub mod arrived;
pub mod ballast;
pub mod commands;
pub mod entry;
pub mod exports;
pub mod forecast_reports;
pub mod forecasts;
pub mod gate;
pub mod growth;
pub mod hooks;
pub mod learn;
pub mod lifecycle;
pub mod log;
pub mod measures;
pub mod os;
pub mod outside;
pub mod overview;
pub mod owners;
pub mod pressure;
pub mod pv;
pub mod python;
pub mod reports;
pub mod routes;
pub mod rpc;
pub mod sampler;
pub mod script;
pub mod serve;
pub mod settings;
pub mod site_reports;
pub mod state;
pub mod stats;
pub mod sys;
pub mod textfile;
pub mod visit;
