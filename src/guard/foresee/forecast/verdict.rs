//! What one scale says, and when that is announced or taken back.
//! Forbidden here: finding trends.

use crate::guard::foresee::trend::{SIGNALS, Trend};

/// What one scale says.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Verdict {
    /// The last trend that was good enough.
    pub(super) trend: Trend,
    /// It is explained by the load.
    pub(super) is_load: bool,
    /// Something grows here, but not so that it may be carried on.
    pub(super) is_unsure: bool,
    /// Looks in a row that found a trend.
    found: u8,
    /// Looks in a row that found none.
    missed: u8,
    /// It has been announced.
    pub(super) is_on: bool,
}

/// What one look at one scale found.
pub(super) enum Finding {
    /// No growth.
    Nothing,
    /// Growth that may not be carried on.
    Unsure,
    /// A trend, and whether the load explains it.
    Found(Trend, bool),
}

impl Verdict {
    /// Says nothing.
    pub(super) const SILENT: Verdict = Verdict {
        trend: Trend {
            slope: 0.0,
            error: 0.0,
            raw_slope: 0.0,
            scatter: 0.0,
            cost: [0.0; SIGNALS],
            fit: 0.0,
            span_s: 0.0,
            points: 0,
        },
        is_load: false,
        is_unsure: false,
        found: 0,
        missed: 0,
        is_on: false,
    };

    /// Takes one look's finding; `streak` looks in a row must agree.
    pub(super) fn take(&mut self, finding: Finding, streak: u8) {
        match finding {
            Finding::Found(trend, is_load) => {
                self.trend = trend;
                self.is_load = is_load;
                self.is_unsure = false;
                self.missed = 0;
                self.found = self.found.saturating_add(1);
                self.is_on |= self.found >= streak;
                self.is_unsure = !self.is_on;
            }
            other => {
                self.found = 0;
                self.missed = self.missed.saturating_add(1);
                self.is_on &= self.missed < streak;
                self.is_unsure = matches!(other, Finding::Unsure);
            }
        }
    }
}
