//! What is shown, and how: answers, metrics, page, Nagios, pprof, black box, HTTP.
//! Forbidden here: where the figures come from.

pub mod blackbox;
pub mod check;
pub mod http;
pub mod metrics;
pub mod nagios;
pub mod page;
pub mod paths;
pub mod profile;
pub mod report;
pub mod sites;
pub mod snapshot;
