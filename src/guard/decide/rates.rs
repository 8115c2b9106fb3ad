//! Rates out of running totals, and the storm: new registrations far above their usual rate.
//! Forbidden here: clocks; answers that are NaN, infinite or negative.

use crate::guard::terms::text::non_negative;

/// Points kept per window.
const POINTS: usize = 20;
/// A new point is kept when the last one is this part of the window old.
const SPACING: u64 = 16; // 20 points 1/16 apart reach back further than one window

/// The rate of one running total over one window. Plain data, no allocation.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    span_ms: u64,
    /// Points (ms, total), oldest first; the first `len` are valid.
    points: [(u64, u64); POINTS],
    len: usize,
}

impl Window {
    /// A window of `span_ms` that begins at `now_ms` with a total.
    pub fn new(span_ms: u64, now_ms: u64, total: u64) -> Window {
        Window {
            span_ms: span_ms.max(1),
            points: [(now_ms, total); POINTS],
            len: 1,
        }
    }

    /// Takes the total at `now_ms` and answers its rate per second.
    ///
    /// It is measured from the kept point whose age is nearest to the window, over the time that really passed since;
    /// so shortly after the start it is the rate since the start. A total that fell was set back: the window begins
    /// anew.
    pub fn sample(&mut self, now_ms: u64, total: u64) -> f64 {
        let kept = self.points.get(..self.len).unwrap_or_default();
        let Some(&(last_ms, last_total)) = kept.last() else {
            *self = Window::new(self.span_ms, now_ms, total);
            return 0.0;
        };
        if total < last_total || now_ms < last_ms {
            *self = Window::new(self.span_ms, now_ms, total);
            return 0.0;
        }
        let nearest = kept
            .iter()
            .filter(|(ms, _)| *ms < now_ms)
            .min_by_key(|(ms, _)| (now_ms - ms).abs_diff(self.span_ms));
        let rate = nearest.map_or(0.0, |&(ms, then)| per_second(total - then, now_ms - ms));
        if now_ms - last_ms >= (self.span_ms / SPACING).max(1) {
            self.keep(now_ms, total);
        }
        rate
    }

    fn keep(&mut self, now_ms: u64, total: u64) {
        if self.len == POINTS {
            self.points.rotate_left(1);
            self.len -= 1;
        }
        if let Some(free) = self.points.get_mut(self.len) {
            *free = (now_ms, total);
            self.len += 1;
        }
    }
}

/// Events per second; 0 for no time.
pub fn per_second(events: u64, elapsed_ms: u64) -> f64 {
    if elapsed_ms == 0 {
        return 0.0;
    }
    non_negative(events as f64 * 1000.0 / elapsed_ms as f64)
}

/// The rates of one total over the windows that `memguard.registrations` shows, per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Over 1 s, or the last sample interval when that is longer.
    pub s1: f64,
    /// Over 10 s.
    pub s10: f64,
    /// Over 1 minute.
    pub m1: f64,
    /// Over 5 minutes.
    pub m5: f64,
    /// Over 15 minutes.
    pub m15: f64,
}

/// The five windows of one running total; about 2 KiB of plain data, kept by the sampler.
#[derive(Clone, Copy, Debug)]
pub struct RateMeter {
    windows: [Window; 5],
}

impl RateMeter {
    /// Begins at `now_ms` with the total as it stands.
    pub fn new(now_ms: u64, total: u64) -> RateMeter {
        let spans_ms = [1_000, 10_000, 60_000, 300_000, 900_000];
        RateMeter {
            windows: spans_ms.map(|span_ms| Window::new(span_ms, now_ms, total)),
        }
    }

    /// Takes the total at `now_ms` and answers all rates. Any sample interval will do.
    pub fn sample(&mut self, now_ms: u64, total: u64) -> Rates {
        let [s1, s10, m1, m5, m15] = &mut self.windows;
        Rates {
            s1: s1.sample(now_ms, total),
            s10: s10.sample(now_ms, total),
            m1: m1.sample(now_ms, total),
            m5: m5.sample(now_ms, total),
            m15: m15.sample(now_ms, total),
        }
    }
}

/// Time in which the usual rate forgets (time constant of its average).
const MEMORY_MS: f64 = 3_600_000.0;
/// A rate that is "storming" for longer than this is the usual one by now, and is learned.
const LONGEST_STORM_MS: u64 = 3_600_000;

/// The usual rate of new registrations, and whether they storm now. Plain data; all zero is the valid start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Baseline {
    rate: f64,
    learned_ms: u64,
    storm_ms: u64,
    is_storm: u64,
}

impl Baseline {
    /// The usual rate per second; 0 before anything was learned.
    pub fn rate(&self) -> f64 {
        non_negative(self.rate)
    }

    /// Whether a storm is on.
    pub fn is_storm(&self) -> bool {
        self.is_storm != 0
    }

    /// Forgets everything (`memguard.reset baseline`).
    pub fn reset(&mut self) {
        *self = Baseline::default();
    }

    /// Takes the rate over the last 10 s, `elapsed_ms` after the sample before; answers whether a storm is on.
    ///
    /// The usual rate is the plain mean of what was seen in the first hour, then an average with a memory of one hour;
    /// it does not learn from storms, unless one lasts so long that it is none.
    pub fn sample(&mut self, rate_10s: f64, elapsed_ms: u64, factor: u32, min_rate: u32) -> bool {
        let rate_10s = non_negative(rate_10s);
        let is_storm = storm(rate_10s, self.rate(), factor, min_rate, self.is_storm());
        self.is_storm = u64::from(is_storm);
        self.storm_ms = match is_storm {
            true => self.storm_ms.saturating_add(elapsed_ms),
            false => 0,
        };
        if !is_storm || self.storm_ms > LONGEST_STORM_MS {
            self.learn(rate_10s, elapsed_ms);
        }
        is_storm
    }

    fn learn(&mut self, rate: f64, elapsed_ms: u64) {
        self.learned_ms = self.learned_ms.saturating_add(elapsed_ms);
        let weight = elapsed_ms as f64 / (self.learned_ms as f64).clamp(1.0, MEMORY_MS);
        self.rate = non_negative(self.rate + (rate - self.rate) * weight.min(1.0));
    }
}

/// Whether new registrations storm: `factor` times the usual rate, and at least `min_rate` per second. A storm that is
/// on ends below half of that.
pub fn storm(rate_10s: f64, baseline: f64, factor: u32, min_rate: u32, is_on: bool) -> bool {
    let begins = (non_negative(baseline) * f64::from(factor)).max(f64::from(min_rate));
    let threshold = if is_on { begins / 2.0 } else { begins };
    rate_10s > 0.0 && rate_10s >= threshold
}
