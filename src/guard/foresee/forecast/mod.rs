//! When a pool will be full: earliest, likely and latest, or that nobody can know yet. Fixed memory, one push a sample.
//! Forbidden here: clocks, allocation, and why it grows (see `cause`).
//!
//! Ends within minutes are seen by second (`fast`), as a guess.
//! Five rings of low-water marks (1 s to 1 h) see leaks of minutes and of weeks. Below a day a trend counts only when
//! the load does not explain it, when it is straight, when no rise like it was ever given back, and when it does not
//! reach further than twelve times its own length. From three days on the low-water marks of whole days are compared,
//! in which a daily curve is level whatever its shape.

mod days;
mod end;
mod fast;
mod leaking;
pub mod place;
mod rising;
mod shapes;
mod short;
mod steps;
mod verdict;

pub use crate::guard::foresee::forecast::shapes::is_even;
use crate::guard::foresee::{
    forecast::{end::LEAST_EARLY, fast::Fast, place::Place, rising::Rising, verdict::Verdict},
    trend::{Ring, SIGNALS, Trend, Window, theil},
};
use crate::guard::terms::{
    text::{NONE_FORESEEN_S, seconds},
    words::words,
};

words! {
    /// Which low-water marks the forecast stands on.
    Method {
        /// None: nothing grows, or it is not known.
        None = "none",
        /// One to two minutes by second.
        Seconds = "seconds",
        /// Two to fifteen minutes by ten seconds.
        TenSeconds = "ten-seconds",
        /// Up to two hours by minute.
        Minutes = "minutes",
        /// Up to a day by ten minutes.
        TenMinutes = "ten-minutes",
        /// Days by hour.
        Days = "days",
        /// What the leaking place itself holds, up to four hours by minute.
        Place = "place",
        /// Ten seconds to a minute by second: an end within ten minutes, a guess.
        Moments = "moments",
    }
}

/// Least growth within a window that is spoken of, as a share of the pool.
const LEAST_RISE: f64 = 0.05;
/// A trend is carried on over at most this many times its own length.
const REACH: f64 = 12.0;
/// A slope must be this many standard errors above zero.
const CERTAINTY: f64 = 3.0;
/// Looks in a row that must agree before a trend is announced, and that must fail before it is taken back.
const STREAK: u8 = 3;
/// Jump between two minutes, as a share of the pool, that can be a reload.
const LEAST_STEP: f64 = 0.015;
/// 90 % of a normal distribution lie within this many standard errors.
const INTERVAL: f64 = 1.64;

/// What grew in the last seconds counts before a longer trend when it is this many times as fast.
const FASTER: f64 = 1.2;
/// What rises but may not be carried on may do so a little slower than it can be seen to.
const LATEST: f64 = 1.25;
/// A trend whose error is this many times another's is vague beside it.
const VAGUE: f64 = 3.0;
/// An error below this share of the slope is as good as none.
const SHARP: f64 = 0.03;

const SCALES: usize = 5;

/// What is known of a pool's future.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outlook {
    /// What it stands on.
    pub method: Method,
    /// Growth of the low-water mark, bytes per second: of the trend, else of the last hour or what there is of it.
    pub growth: f64,
    /// Likely time until the pool is full, seconds; [`NONE_FORESEEN_S`] for none.
    pub exhaustion_s: u64,
    /// Earliest (one in twenty is earlier). Where it is not known (not `valid`): when it would be full at the earliest
    /// if what rises, or may be rising, went on; [`NONE_FORESEEN_S`] before that was looked at.
    pub low_s: u64,
    /// Latest (one in twenty is later). Where it is not known: when it would be full at the latest if what rises went
    /// on; [`NONE_FORESEEN_S`] where it may not be rising at all.
    pub high_s: u64,
    /// Low-water marks that it stands on.
    pub samples: u32,
    /// Share of the variation that it explains, 0 to 1.
    pub fit: f64,
    /// Whether it is known; a pool of which nothing is known has "none foreseen" and `false`.
    pub valid: bool,
    /// The load explains the growth.
    pub is_load: bool,
}

impl Default for Outlook {
    fn default() -> Outlook {
        Outlook {
            method: Method::None,
            growth: 0.0,
            exhaustion_s: NONE_FORESEEN_S,
            low_s: NONE_FORESEEN_S,
            high_s: NONE_FORESEEN_S,
            samples: 0,
            fit: 0.0,
            valid: false,
            is_load: false,
        }
    }
}

/// The memory of one pool's forecast: about 29 KB of plain data.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Forecaster {
    seconds: Ring<120>,
    ten_seconds: Ring<90>,
    minutes: Ring<120>,
    ten_minutes: Ring<144>,
    hours: Ring<720>,
    verdicts: [Verdict; SCALES],
    fast: Fast,
    rising: Rising,
    /// Bytes of steps (reloads) that were taken out of the two coarse rings.
    offset: f64,
    used: f64,
    looks: u64,
}

impl Default for Forecaster {
    fn default() -> Forecaster {
        Forecaster::new()
    }
}

impl Forecaster {
    /// Knows nothing yet.
    pub const fn new() -> Forecaster {
        Forecaster {
            seconds: Ring::new(1_000),
            ten_seconds: Ring::new(10_000),
            minutes: Ring::new(60_000),
            ten_minutes: Ring::new(600_000),
            hours: Ring::new(3_600_000),
            verdicts: [Verdict::SILENT; SCALES],
            fast: Fast::SILENT,
            rising: Rising::UNSEEN,
            offset: 0.0,
            used: 0.0,
            looks: 0,
        }
    }

    /// Takes one sample: use in bytes, and what the load is (zeros when nothing is known of it).
    pub fn push(&mut self, time_ms: u64, used: u64, size: u64, load: [f32; SIGNALS]) {
        let (used, size) = (used as f64, size.max(1) as f64);
        self.used = used;
        if self.seconds.push(time_ms, used, load) {
            self.looks = self.looks.wrapping_add(1);
            let moment = self.moments(size);
            self.fast.take(moment, (size - used).max(0.0));
            if self.looks % 5 == 0 {
                let found = self.short(&self.seconds, &[120, 84, 60], size);
                self.verdicts[0].take(found, STREAK);
            }
        }
        if self.ten_seconds.push(time_ms, used, load) {
            let found = self.short(&self.ten_seconds, &[90, 66, 48, 34, 24, 15], size);
            self.verdicts[1].take(found, STREAK);
        }
        if self.minutes.push(time_ms, used, load) {
            self.watch_steps(size);
            let found = self.short(&self.minutes, &[120, 84, 60, 42, 30, 20, 15], size);
            self.verdicts[2].take(found, STREAK);
            self.rising = self.look_for_rise(size);
        }
        let level = used - self.offset;
        if self.ten_minutes.push(time_ms, level, load) {
            let found = self.short(&self.ten_minutes, &[144, 102, 72, 50, 36, 25, 18, 12], size);
            self.verdicts[3].take(found, STREAK);
        }
        if self.hours.push(time_ms, level, load) {
            let found = self.days(size);
            self.verdicts[4].take(found, 2);
        }
    }

    /// Use now, reloads taken out: what a [`Place`] is to be given.
    pub fn levelled(&self) -> f64 {
        self.used - self.offset
    }

    /// What is known now of a pool of `size` bytes.
    pub fn outlook(&self, size: u64) -> Outlook {
        self.outlook_of(size, None)
    }

    /// The same where it is known what the place holds that grows most steadily.
    pub fn outlook_of(&self, size: u64, place: Option<&Place>) -> Outlook {
        let size = size as f64;
        // What the load explains over many hours says nothing while use grows much faster than that.
        let is_outrun = |v: &Verdict| v.is_load && self.recent_growth(size) > 1.5 * v.trend.slope;
        let chosen = (0..SCALES)
            .rev()
            .filter(|scale| self.verdicts[*scale].is_on && !is_outrun(&self.verdicts[*scale]))
            .reduce(|long, short| {
                let (a, b) = (&self.verdicts[long], &self.verdicts[short]);
                // A leak that has become much faster lately is what counts, and one that is much better known.
                let is_faster = b.trend.slope > 1.5 * a.trend.slope;
                let is_sharper = a.is_load || a.trend.doubt() > VAGUE * b.trend.doubt().max(SHARP);
                if !b.is_load && (is_faster || is_sharper) {
                    short
                } else {
                    long
                }
            });
        // What ends within minutes is told before anything else but a trend that is as fast.
        let known = chosen.map_or(0.0, |scale| self.verdicts[scale].trend.slope);
        if self.fast.is_on && self.fast.slope() > FASTER * known {
            return self.fast.outlook();
        }
        let Some((scale, verdict)) = chosen.map(|scale| (scale, &self.verdicts[scale])) else {
            return self.without_trend(size);
        };
        let Trend {
            slope,
            points,
            fit,
            span_s,
            ..
        } = verdict.trend;
        if let Some(leaking) = place.and_then(|place| self.leaking(size, place, verdict)) {
            return leaking;
        }
        let likely = self.until_full(size, slope, span_s);
        let (low, high) = self.interval(size, &verdict.trend, likely, scale);
        // Where the last seconds agree with a longer trend, they know better where use stands now.
        let (likely, low, high) = match self.fast.is_on && FASTER * self.fast.slope() > slope {
            true => self.fast.times(),
            false => (likely, low, high),
        };
        Outlook {
            method: Method::from_index(scale as u64 + 1).unwrap_or(Method::None),
            growth: slope,
            exhaustion_s: seconds(likely),
            low_s: seconds(low),
            high_s: seconds(high),
            samples: points as u32,
            fit,
            valid: true,
            is_load: verdict.is_load,
        }
    }

    /// What is known while no trend may be carried on: that nothing ends, or between which times it would if what
    /// rises (or may be rising) now went on. What rises steadily is never called nothing.
    fn without_trend(&self, size: f64) -> Outlook {
        let is_looked_at = self.minutes.complete() >= 10;
        let is_unsure = self.verdicts.iter().any(|v| v.is_unsure || v.is_on);
        let Rising {
            slow,
            fast,
            is_certain,
            is_possible,
        } = self.rising;
        let valid = is_looked_at && !is_unsure && !is_possible;
        let end = |pace: f64| self.until_full(size, pace, 3_600.0);
        let (low_s, high_s) = match is_looked_at && !valid && fast > 0.0 {
            true => (
                seconds(LEAST_EARLY * end(fast)),
                match is_certain {
                    true => seconds(LATEST * end(slow)),
                    false => NONE_FORESEEN_S,
                },
            ),
            false => (NONE_FORESEEN_S, NONE_FORESEEN_S),
        };
        Outlook {
            growth: self.recent_growth(size),
            low_s,
            high_s,
            valid,
            ..Outlook::default()
        }
    }

    /// Growth of the low-water mark over the last hour, or what there is of it, bytes per second.
    fn recent_growth(&self, size: f64) -> f64 {
        let window = match self.minutes.complete() {
            0..8 => Window::of(&self.seconds, 60, LEAST_STEP * size),
            _ => Window::of(&self.minutes, 60, LEAST_STEP * size),
        };
        if window.len < 8 {
            return 0.0;
        }
        theil(window.lows()) / window.step_s
    }
}
