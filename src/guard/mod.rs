//! Pure decisions: configuration, levels, classes, admission, SIP text. Time and randomness come as arguments.
//! Forbidden here: unsafe, atomics, clocks, system calls, anything of Kamailio.
#![forbid(unsafe_code)]

pub(crate) mod words8;

pub mod admission;
pub mod aor;
pub mod blackbox;
pub mod buddy;
pub mod cause;
pub mod cgroup;
pub mod check;
pub mod class;
pub mod clock;
pub mod cost;
pub mod event;
pub mod filters;
pub mod forecast;
pub mod fragments;
pub mod growth;
pub mod http;
pub mod level;
pub mod metrics;
pub mod nagios;
pub mod osmem;
pub mod outside;
pub mod pace;
pub mod page;
pub mod params;
pub mod paths;
pub mod priority;
pub mod profile;
pub mod queue;
pub mod rates;
pub mod reply;
pub mod report;
pub mod sampling;
pub mod sip;
pub mod sites;
pub mod text;
pub mod track;
pub mod trend;
pub mod warnings;
pub mod words;
