//! --faults: each allocation of one request of each scenario fails in turn.
//! Forbidden here: deciding which allocation fails (the module does).

use std::path::Path;

use serde_json::{Value, json};

use crate::failure::{Failure, not_run};
use crate::options::Options;
use crate::progress::Progress;

/// What did not hold when an allocation failed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fault {
    /// Scenario.
    pub scenario: String,
    /// Which allocation of the request, from 1.
    pub number: u64,
    /// The place that asked for it.
    pub place: String,
    /// The line of the configuration; empty: none.
    pub cfg: String,
    /// What happened.
    pub what: String,
}

impl Fault {
    /// One sentence.
    pub fn sentence(&self) -> String {
        let from = if self.cfg.is_empty() {
            String::new()
        } else {
            format!(", from {}", self.cfg)
        };
        format!(
            "{}: when allocation {} fails ({}{from}), {}",
            self.scenario, self.number, self.place, self.what
        )
    }

    /// For --json.
    pub fn json(&self) -> Value {
        json!({ "scenario": self.scenario, "allocation": self.number, "place": self.place, "cfg": self.cfg, "what": self.what })
    }
}

/// Fails them all; what was found, and how many were failed.
///
/// # Errors
/// It cannot be run.
pub fn sweep(
    _options: &Options,
    _progress: Progress,
    _folder: &Path,
) -> Result<(Vec<Fault>, u64), Failure> {
    Err(not_run("--faults is not there yet"))
}
