//! What may be rising too slowly to be carried on as a trend: between which paces growth lies, and whether "none" is sure.
//! Forbidden here: clocks, allocation; foretelling an end (see `short`, `days`): this only keeps a straight line from
//! being called nothing.

use crate::guard::foresee::{
    forecast::{
        CERTAINTY, Forecaster, LEAST_STEP,
        shapes::{deviation, differences, rise_of},
    },
    trend::{MOST_POINTS, Trend, Window, theil},
};

/// Windows in minutes, the longest first.
const WINDOWS: [usize; 6] = [90, 60, 45, 30, 20, 12];
/// The window that must be level before it is said that nothing ends.
const LEVEL: usize = 45;
/// What fills the pool within so many seconds must be excluded before that is said.
const AHEAD_S: f64 = 72.0 * 3_600.0;
/// A rise is spoken of from this share of the pool on.
const LEAST_RISE: f64 = 0.0004;
/// And when it is so many times the scatter around its line.
const CLEAR: f64 = 4.0;
/// Each half rises at least so much as the whole does.
const GOES_ON: f64 = 0.4;
/// Hours after which a day counts as seen: what its load did is known.
const DAY: usize = 24;

/// Between which paces use grows, bytes per second, and what that means.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rising {
    /// The slowest growth that cannot be excluded; 0: it may be none.
    pub(super) slow: f64,
    /// The fastest.
    pub(super) fast: f64,
    /// It rises steadily, and the load does not explain it.
    pub(super) is_certain: bool,
    /// An end within days cannot be excluded.
    pub(super) is_possible: bool,
}

impl Rising {
    pub(super) const UNSEEN: Rising = Rising {
        slow: 0.0,
        fast: 0.0,
        is_certain: false,
        is_possible: false,
    };
}

impl Forecaster {
    /// One look, each minute.
    pub(super) fn look_for_rise(&self, size: f64) -> Rising {
        let len = self.minutes.complete();
        if len < WINDOWS[WINDOWS.len() - 1] - 2 {
            return Rising::UNSEEN;
        }
        let window = Window::of(&self.minutes, WINDOWS[0], LEAST_STEP * size);
        let left = (size - self.used).max(0.0);
        let mut tried = usize::MAX;
        for count in WINDOWS.map(|count| count.min(window.len)) {
            if std::mem::replace(&mut tried, count) == count {
                continue;
            }
            let from = window.len - count;
            let Some(trend) = window.trend(from, window.len) else {
                continue;
            };
            if let Some(rising) = self.certain(&window, from, &trend, size) {
                return rising;
            }
        }
        let from = window.len - LEVEL.min(window.len);
        let trend = window.trend(from, window.len).unwrap_or_default();
        let fast = trend.slope.max(trend.raw_slope) + CERTAINTY * trend.error;
        // A day's load is known by the day before: what grew no faster since then is no end within days.
        let excluded = match self.hours.complete() >= DAY {
            true => fast.min(self.since_yesterday()),
            false => fast,
        };
        Rising {
            slow: 0.0,
            fast: fast.max(0.0),
            is_certain: false,
            is_possible: excluded * AHEAD_S > left,
        }
    }

    /// Whether a window rises steadily, whatever the load may have brought.
    fn certain(&self, window: &Window, from: usize, trend: &Trend, size: f64) -> Option<Rising> {
        let lows = &window.low[from..window.len];
        let span_s = trend.span_s;
        let rise = (trend.raw_slope * span_s).min(rise_of(lows));
        let half = lows.len() / 2;
        let goes_on = [&lows[..half], &lows[half..]]
            .iter()
            .all(|half| theil(half) / window.step_s > GOES_ON * trend.raw_slope);
        // The regression's error is large where a load cannot be told from time; that is load_at_most's to judge.
        let error = 3.5 * trend.scatter / (trend.points as f64).sqrt() / span_s;
        let load = self.load_at_most(window, from);
        let least = rise - load - CERTAINTY * error * span_s;
        let is_certain = rise >= (LEAST_RISE * size).max(CLEAR * trend.scatter)
            && goes_on
            && least > 0.0
            && rise > self.usual_rise(span_s, [0.0; 2], size);
        is_certain.then_some(Rising {
            slow: least / span_s,
            fast: trend.slope.max(trend.raw_slope) + CERTAINTY * error,
            is_certain: true,
            is_possible: true,
        })
    }

    /// The most by which use grew since the same hours of the day before, bytes per second.
    fn since_yesterday(&self) -> f64 {
        const HOURS: usize = 6;
        let hours = Window::of(&self.hours, DAY + HOURS, f64::MAX);
        let mut grew = [0.0; MOST_POINTS];
        let count = differences(hours.lows(), DAY, &mut grew);
        if count == 0 {
            return f64::MAX;
        }
        let (middle, scatter) = deviation(&mut grew[..count]);
        (middle + scatter) / 86_400.0
    }
}
