//! What a run says while it runs, on the error output: one line per step.
//! Forbidden here: the verdict.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Says what is done.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    silent: bool,
    began: Instant,
}

impl Progress {
    /// From now on; or never.
    pub fn new(silent: bool) -> Progress {
        Progress {
            silent,
            began: Instant::now(),
        }
    }

    /// One line.
    pub fn say(&self, text: impl AsRef<str>) {
        if !self.silent {
            eprintln!("{:5.1} s  {}", self.seconds(), text.as_ref());
        }
    }

    /// When that was, in Unix milliseconds.
    pub fn began_ms(&self) -> u64 {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        now.saturating_sub(self.began.elapsed()).as_millis() as u64
    }

    /// Since the start.
    pub fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }
}
