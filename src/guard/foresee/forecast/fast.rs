//! Ends that come within ten minutes: a growth that is straight over ten seconds to a minute, and large against what is
//! left. Forbidden here: clocks, allocation; longer trends (see `short`), and more than a guess: it may end like a storm.

use crate::guard::foresee::{
    forecast::{
        Forecaster, INTERVAL, Method, Outlook,
        shapes::{is_even, rise_of},
    },
    trend::{MOST_POINTS, Ring, Window, median, theil},
};
use crate::guard::terms::text::seconds;

/// Windows in seconds, the longest first.
const WINDOWS: [usize; 8] = [120, 84, 60, 42, 30, 21, 15, 11];
/// Further ahead is not looked.
const AHEAD_S: f64 = 600.0;
/// What is left must be at most so many times what came within the window; the shortest window reaches less far.
const REACH: f64 = 4.0;
const SHORTEST_REACH: f64 = 2.5;
/// The same for growth that the load may explain: load comes and goes. What fills the pool within a minute is not
/// waited for.
const LOAD_REACH: f64 = 1.3;
const LOAD_REACH_SOON: f64 = 2.5;
const SOON_S: f64 = 60.0;
/// The window grows by so many times the scatter around its line.
const CLEAR: f64 = 8.0;
/// A half of it grows as the whole does, within this share.
const STRAIGHT: f64 = 0.3;
/// Nobody knows the end of something so short better than this share of it.
const LEAST_ERROR: f64 = 0.12;
/// Looks in a row, one a second.
const FOUND: u8 = 2;
const MISSED: u8 = 4;

/// What the last look found, and whether that is told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fast {
    /// Bytes per second.
    slope: f64,
    /// Its standard error.
    error: f64,
    /// Scatter around the line, bytes.
    scatter: f64,
    /// Seconds that were left, and when that was so.
    left_s: f64,
    points: u32,
    fit: f64,
    is_load: bool,
    /// Where this growth began, bytes, and where it is now.
    began: f64,
    now: f64,
    found: u8,
    missed: u8,
    pub(super) is_on: bool,
}

impl Fast {
    pub(super) const SILENT: Fast = Fast {
        slope: 0.0,
        error: 0.0,
        scatter: 0.0,
        left_s: 0.0,
        points: 0,
        fit: 0.0,
        is_load: false,
        began: 0.0,
        now: 0.0,
        found: 0,
        missed: 0,
        is_on: false,
    };

    /// Bytes per second of what is told.
    pub(super) fn slope(&self) -> f64 {
        self.slope
    }

    /// Takes one look's finding; keeps what was told for some seconds.
    pub(super) fn take(&mut self, finding: Option<Fast>, left: f64) {
        let Some(new) = finding else {
            self.found = 0;
            self.missed = self.missed.saturating_add(1);
            self.is_on &= self.missed < MISSED;
            self.left_s = (self.left_s - 1.0).max(0.0);
            return;
        };
        let goes_on = self.missed < MISSED && self.now > self.began;
        let began = match goes_on {
            true => self.began.min(new.began),
            false => new.began,
        };
        let is_enough = left <= new.reach() * (new.now - began);
        let found = match is_enough {
            true => self.found.saturating_add(1),
            false => 0,
        };
        *self = Fast {
            began,
            found,
            missed: 0,
            is_on: (self.is_on && goes_on) || found >= FOUND,
            ..new
        };
    }

    /// How many times what came so far may be left.
    fn reach(&self) -> f64 {
        match (self.is_load, self.left_s <= SOON_S) {
            (true, false) => LOAD_REACH,
            (true, true) => LOAD_REACH_SOON,
            (false, _) if self.points <= WINDOWS[WINDOWS.len() - 1] as u32 => SHORTEST_REACH,
            (false, _) => REACH,
        }
    }

    /// Likely, earliest and latest seconds until the end.
    pub(super) fn times(&self) -> (f64, f64, f64) {
        let doubt = INTERVAL * (self.error / self.slope.max(f64::MIN_POSITIVE)).max(LEAST_ERROR);
        // where within its noise use touches the end
        let noise_s = 2.0 * self.scatter / self.slope.max(f64::MIN_POSITIVE) + 1.0;
        let high = match doubt < 0.9 {
            true => self.left_s / (1.0 - doubt) + noise_s,
            false => 10.0 * self.left_s + noise_s,
        };
        let low = (self.left_s / (1.0 + doubt) - noise_s).max(0.0);
        (self.left_s, low, high)
    }

    /// In words of the forecast.
    pub(super) fn outlook(&self) -> Outlook {
        let (likely, low, high) = self.times();
        Outlook {
            method: Method::Moments,
            growth: self.slope,
            exhaustion_s: seconds(likely),
            low_s: seconds(low),
            high_s: seconds(high),
            samples: self.points,
            fit: self.fit,
            valid: true,
            is_load: self.is_load,
        }
    }
}

impl Forecaster {
    /// One look at the last seconds; cheap while nothing grows that fast.
    pub(super) fn moments(&self, size: f64) -> Option<Fast> {
        let left = (size - self.used).max(0.0);
        if !may_end_soon(&self.seconds, left) {
            return None;
        }
        let window = Window::of(&self.seconds, WINDOWS[0], f64::MAX);
        let mut tried = usize::MAX;
        WINDOWS
            .iter()
            .map(|count| (*count).min(window.len))
            .filter(|count| *count >= WINDOWS[WINDOWS.len() - 1])
            .filter(|count| std::mem::replace(&mut tried, *count) != *count)
            .find_map(|count| self.moment(&window, window.len - count, size))
    }

    fn moment(&self, window: &Window, from: usize, size: f64) -> Option<Fast> {
        let lows = &window.low[from..window.len];
        let (count, step) = (lows.len(), window.step_s);
        let slope = theil(lows) / step;
        let span_s = count as f64 * step;
        let rise = (slope * span_s).min(rise_of(lows));
        if slope <= 0.0 || rise <= 0.0 {
            return None;
        }
        // the line through them, and how they scatter around it
        let mut rests = [0.0; MOST_POINTS];
        for (i, (slot, low)) in rests.iter_mut().zip(lows).enumerate() {
            *slot = low + slope * step * (count - 1 - i) as f64;
        }
        let rests = &mut rests[..count];
        let now = median(rests);
        for rest in rests.iter_mut() {
            *rest = (*rest - now).abs();
        }
        let off: f64 = rests.iter().map(|rest| rest * rest).sum();
        let scatter = 1.48 * median(rests);
        let mean = lows.iter().sum::<f64>() / count as f64;
        let total: f64 = lows.iter().map(|low| (low - mean).powi(2)).sum();
        let error = scatter * (12.0 / count as f64).sqrt() / span_s;
        let left = (size - now - scatter).max(0.0);
        let left_s = left / slope;
        let is_load = rise <= self.load_at_most(window, from);
        let half = count / 2;
        let is_straight = [&lows[..half], &lows[half..]]
            .iter()
            .all(|half| (theil(half) / step - slope).abs() <= STRAIGHT * slope);
        let is_one = left_s <= AHEAD_S
            && rise >= CLEAR * scatter
            && is_straight
            && is_even(lows, rise, 0.5)
            && rise > self.usual_rise(span_s, [0.0; 2], size);
        is_one.then_some(Fast {
            slope,
            error,
            scatter,
            left_s,
            points: count as u32,
            fit: (1.0 - off / total.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0),
            is_load,
            began: now - rise,
            now,
            ..Fast::SILENT
        })
    }
}

/// A cheap look: does what is left fill within ten minutes at the pace of one of the windows?
fn may_end_soon<const N: usize>(ring: &Ring<N>, left: f64) -> bool {
    let Some(newest) = ring.back(0) else {
        return false;
    };
    WINDOWS.iter().any(|count| {
        let span_s = count.saturating_sub(1) as f64 * ring.step_s();
        ring.back(count - 1)
            .is_some_and(|old| 1.3 * (newest.low - old.low) * AHEAD_S > left * span_s)
    })
}
