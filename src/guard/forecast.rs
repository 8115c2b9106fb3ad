//! When a pool will be full: earliest, likely and latest, or that nobody can know yet. Fixed memory, one push a sample.
//! Forbidden here: clocks, allocation, and why it grows (see `cause`).
//!
//! Five rings of low-water marks (1 s to 1 h) see leaks of minutes and of weeks. Below a day a trend counts only when
//! the load does not explain it, when it is straight, when no rise like it was ever given back, and when it does not
//! reach further than twelve times its own length. From three days on the low-water marks of whole days are compared,
//! in which a daily curve is level whatever its shape.

use super::text::{NONE_FORESEEN_S, seconds};
use super::trend::{MOST_POINTS, Ring, SIGNALS, Trend, Window, median, spread, theil};
use super::words::words;

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
    }
}

/// Least growth within a window that is spoken of, as a share of the pool.
const LEAST_RISE: f64 = 0.05;
/// A trend is carried on over at most this many times its own length.
const REACH: f64 = 12.0;
/// The same for growth that the load explains: load comes and goes.
const LOAD_REACH: f64 = 0.75;
/// Such growth is spoken of from this share of the pool on.
const LOAD_LEAST_USE: f64 = 0.7;
/// A slope must be this many standard errors above zero.
const CERTAINTY: f64 = 3.0;
/// Looks in a row that must agree before a trend is announced, and that must fail before it is taken back.
const STREAK: u8 = 3;
/// Share of a window's variation that trend and load must explain.
const LEAST_FIT: f64 = 0.85;
/// Jump between two minutes, as a share of the pool, that can be a reload.
const LEAST_STEP: f64 = 0.015;
/// 90 % of a normal distribution lie within this many standard errors.
const INTERVAL: f64 = 1.64;
/// Nobody knows a slope better than this.
const LEAST_ERROR: f64 = 0.08;

const SCALES: usize = 5;

/// What one scale says.
#[derive(Clone, Copy, Debug, Default)]
struct Verdict {
    /// The last trend that was good enough.
    trend: Trend,
    /// It is explained by the load.
    is_load: bool,
    /// Something grows here, but not so that it may be carried on.
    is_unsure: bool,
    /// Looks in a row that found a trend.
    found: u8,
    /// Looks in a row that found none.
    missed: u8,
    /// It has been announced.
    is_on: bool,
}

/// What is known of a pool's future.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outlook {
    /// What it stands on.
    pub method: Method,
    /// Growth of the low-water mark, bytes per second: of the trend, else of the last hour or what there is of it.
    pub growth: f64,
    /// Likely time until the pool is full, seconds; [`NONE_FORESEEN_S`] for none.
    pub exhaustion_s: u64,
    /// Earliest (one in twenty is earlier).
    pub low_s: u64,
    /// Latest (one in twenty is later).
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
        const SILENT: Verdict = Verdict {
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
        Forecaster {
            seconds: Ring::new(1_000),
            ten_seconds: Ring::new(10_000),
            minutes: Ring::new(60_000),
            ten_minutes: Ring::new(600_000),
            hours: Ring::new(3_600_000),
            verdicts: [SILENT; SCALES],
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

    /// A rise within one minute that stands alone and that the load did not share is a reload: the coarse rings go on
    /// as if it had not been. What is given back at once is real.
    fn watch_steps(&mut self, size: f64) {
        let Some((new, old)) = self.minutes.back(0).zip(self.minutes.back(1)) else {
            return;
        };
        let (jump, load, old_load) = (new.low - old.low, new.load, old.load);
        if jump.abs() < LEAST_STEP * size {
            return;
        }
        if jump < 0.0 {
            self.offset = (self.offset + jump).max(0.0);
            return;
        }
        let shared = load
            .iter()
            .zip(old_load)
            .any(|(new, old)| (new - old).abs() > 0.1 * old.abs().max(1.0));
        let mut increments = [0.0; 32];
        let mut count = 0;
        for (back, slot) in increments.iter_mut().enumerate() {
            if let Some((late, early)) =
                self.minutes.back(back + 1).zip(self.minutes.back(back + 2))
            {
                *slot = (late.low - early.low).abs();
                count += 1;
            }
        }
        let usual = median(&mut increments[..count]);
        if !shared && jump > 12.0 * usual {
            self.offset += jump;
        }
    }

    /// The longest window of a ring below a day that shows a trend worth carrying on.
    fn short<const N: usize>(&self, ring: &Ring<N>, counts: &[usize], size: f64) -> Finding {
        let least_step = if N == 144 {
            f64::MAX
        } else {
            LEAST_STEP * size
        };
        let Some(least) = counts.last().filter(|least| ring.len() >= **least) else {
            return Finding::Nothing;
        };
        if !may_rise(ring, *least, size, N >= 120 && ring.step_s() >= 60.0) {
            return Finding::Nothing;
        }
        let longest = counts[0].min(ring.len());
        let window = Window::of(ring, longest, least_step);
        let mut finding = Finding::Nothing;
        let mut tried = usize::MAX;
        for count in counts.iter().map(|count| (*count).min(longest)) {
            if count == tried {
                continue;
            }
            tried = count;
            let Some(trend) = window.trend(longest - count, longest) else {
                continue;
            };
            match self.judge(&window, longest - count, trend, size) {
                Finding::Nothing => (),
                Finding::Unsure => finding = Finding::Unsure,
                found => return found,
            }
        }
        finding
    }

    fn judge(&self, window: &Window, from: usize, trend: Trend, size: f64) -> Finding {
        let least = (LEAST_RISE * size).max(5.0 * trend.scatter);
        let left = (size - self.used).max(0.0);
        let lows = &window.low[from..window.len];
        let rest = &without_load(window, from, &trend)[..lows.len()];
        let rise = (trend.slope * trend.span_s).min(rise_of(rest));
        if rise >= least
            && trend.slope > CERTAINTY * trend.error
            && trend.fit >= LEAST_FIT
            && left <= REACH * rise
            && is_straight(rest, &trend, trend.slope)
            && rise > self.usual_rise(trend.span_s, trend.cost, size)
            && rise_of(lows) > 0.5 * rise
            && rise > self.load_at_most(window, from)
        {
            return Finding::Found(trend, false);
        }
        let raw = trend.raw_slope;
        let rise = (raw * trend.span_s).min(rise_of(lows));
        if rise < least {
            return Finding::Nothing;
        }
        if left <= LOAD_REACH * rise
            && self.used >= LOAD_LEAST_USE * size
            && is_straight(lows, &trend, raw)
            && rise > self.usual_rise(trend.span_s, [0.0; SIGNALS], size)
        {
            let trend = Trend {
                slope: raw,
                error: trend.scatter / trend.span_s,
                ..trend
            };
            return Finding::Found(trend, true);
        }
        Finding::Unsure
    }

    /// The most that the load can have added to the window: what all use would grow by, were all of it the load's; and
    /// once a whole day has been seen, no more than what the day's range of load brought, with a margin.
    fn load_at_most(&self, window: &Window, from: usize) -> f64 {
        const MARGIN: f64 = 2.0;
        let used = window.low[from].max(0.0);
        let day = (self.hours.len() >= 24).then(|| Window::of(&self.ten_minutes, 144, f64::MAX));
        let mut most = 0.0f64;
        for (k, column) in window.load.iter().enumerate() {
            let values = &column[from..window.len];
            let moved = rise_of(values).abs();
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let mut bound = used * moved / (mean - moved / 2.0).max(1.0);
            if let Some(day) = &day {
                let range = usual_range(&day.load[k][..day.len]).max(1.0);
                bound = bound.min(MARGIN * spread(day.lows()) * moved / range);
            }
            most = most.max(bound);
        }
        most
    }

    /// The largest rise within `span_s` that was given back later, with a margin: such a rise is no news.
    fn usual_rise(&self, span_s: f64, cost: [f64; SIGNALS], size: f64) -> f64 {
        let within_day = recovered(&self.ten_minutes, 144, span_s, cost, 1.5);
        let within_week = recovered(&self.hours, 192, span_s, cost, 2.0);
        let largest = within_day.max(within_week);
        if largest <= 0.01 * size {
            return 0.0;
        }
        1.3 * largest + 0.01 * size
    }

    /// The trend of whole days' low-water marks.
    fn days(&self, size: f64) -> Finding {
        const DAY: usize = 24;
        let len = self.hours.len();
        if len < 3 * DAY {
            return Finding::Nothing;
        }
        let window = Window::of(&self.hours, len, f64::MAX);
        // lows of the day that ends at each hour
        let mut days = [0.0; MOST_POINTS];
        let count = len - DAY + 1;
        for (i, slot) in days[..count].iter_mut().enumerate() {
            *slot = window.low[i..i + DAY]
                .iter()
                .copied()
                .fold(f64::MAX, f64::min);
        }
        // what a day brings when nothing leaks
        let mut scratch = [0.0; MOST_POINTS];
        let mut noise = 0.0;
        if count > 4 * DAY {
            let n = differences(&days[..count], DAY, &mut scratch);
            let middle = deviation(&mut { scratch }[..n]).0;
            for value in &mut scratch[..n] {
                *value = (*value - middle).abs();
            }
            // one day in ten differs more
            noise = *scratch[..n]
                .select_nth_unstable_by(n * 9 / 10, f64::total_cmp)
                .1
                / INTERVAL;
        }
        let mut finding = Finding::Nothing;
        for hours in [720, 504, 336, 240, 168, 120, 96, 72] {
            if hours > len && hours != 720 {
                continue;
            }
            let hours = hours.min(len);
            let marks = &days[count - (hours - DAY + 1)..count];
            let whole = marks.len() / DAY; // 2 or more
            let lag = DAY * whole.div_ceil(2);
            let n = differences(marks, lag, &mut scratch);
            let slope = DAY as f64 / lag as f64 * deviation(&mut scratch[..n]).0;
            let n = differences(&marks[marks.len() / 2..], DAY, &mut scratch);
            let late = match n {
                0 => slope,
                _ => deviation(&mut scratch[..n]).0,
            };
            let n = differences(marks, DAY, &mut scratch);
            let error = deviation(&mut scratch[..n]).1 / whole as f64;
            let whole_days = hours as f64 / DAY as f64;
            let grown = marks[marks.len() - 1] - marks[0];
            let largest = marks.windows(2).map(|m| m[1] - m[0]).fold(0.0, f64::max);
            if largest > 0.45 * grown {
                continue; // one step
            }
            let rise = (slope * whole_days).min(grown * whole_days / (whole_days - 1.0));
            let least = if hours < 96 {
                2.0 * LEAST_RISE
            } else {
                LEAST_RISE
            };
            if rise < (least * size).max(4.0 * noise)
                || rise < 1.3 * given_back(&days[..count], hours - DAY)
            {
                continue;
            }
            finding = Finding::Unsure;
            let left = (size - self.used).max(0.0);
            if slope > CERTAINTY * error
                && left <= REACH * rise
                && (late - slope).abs() <= (0.3 * slope).max(2.0 * error)
            {
                let per_second = 1.0 / 86_400.0;
                return Finding::Found(
                    Trend {
                        slope: slope * per_second,
                        error: error * per_second,
                        raw_slope: slope * per_second,
                        scatter: noise,
                        cost: [0.0; SIGNALS],
                        fit: (1.0 - (error / slope).powi(2)).clamp(0.0, 1.0),
                        span_s: whole_days * 86_400.0,
                        points: hours,
                    },
                    false,
                );
            }
        }
        finding
    }

    /// What is known now of a pool of `size` bytes.
    pub fn outlook(&self, size: u64) -> Outlook {
        let size = size as f64;
        let chosen = (0..SCALES)
            .rev()
            .filter(|scale| self.verdicts[*scale].is_on)
            .reduce(|long, short| {
                let (a, b) = (&self.verdicts[long], &self.verdicts[short]);
                // A leak that has become much faster lately is what counts.
                if !b.is_load && b.trend.slope > 1.5 * a.trend.slope {
                    short
                } else {
                    long
                }
            });
        let Some((scale, verdict)) = chosen.map(|scale| (scale, &self.verdicts[scale])) else {
            return Outlook {
                growth: self.recent_growth(),
                valid: self.minutes.len() >= 10 && !self.verdicts.iter().any(|v| v.is_unsure),
                ..Outlook::default()
            };
        };
        let Trend {
            slope,
            error,
            points,
            fit,
            span_s,
            ..
        } = verdict.trend;
        let doubt = INTERVAL * error.max(LEAST_ERROR * slope);
        let until = |slope: f64| seconds(self.until_full(size, slope, span_s));
        Outlook {
            method: Method::from_index(scale as u64 + 1).unwrap_or(Method::None),
            growth: slope,
            exhaustion_s: until(slope),
            low_s: until(slope + doubt),
            high_s: until(slope - doubt),
            samples: points as u32,
            fit,
            valid: true,
            is_load: verdict.is_load,
        }
    }

    /// Growth of the low-water mark over the last hour, or what there is of it, bytes per second.
    fn recent_growth(&self) -> f64 {
        let window = match self.minutes.len() {
            0..8 => Window::of(&self.seconds, 60, f64::MAX),
            _ => Window::of(&self.minutes, 60, f64::MAX),
        };
        if window.len < 8 {
            return 0.0;
        }
        theil(window.lows()) / window.step_s
    }

    /// Seconds until use reaches `size` when it grows by `slope` and has done so for `span_s`. What the load will do is
    /// taken from what it did a day before, as far as that was seen.
    fn until_full(&self, size: f64, slope: f64, span_s: f64) -> f64 {
        if slope <= 0.0 {
            return f64::INFINITY;
        }
        let straight = self.straight_time(size, slope);
        if straight < 3_600.0 || self.hours.len() < 2 {
            return straight;
        }
        let (per_hour, span) = (slope * 3_600.0, span_s / 3_600.0);
        let level = size - straight * slope;
        // How far today is above yesterday; that fades.
        let above = match self.hours.back(0).zip(self.hours.back(24)) {
            Some((now, then)) => now.low - then.low - per_hour * span.min(24.0),
            None => 0.0,
        };
        let mut before = level;
        for hour in 1..=720usize {
            let of_day = (hour - 1) % 24 + 1;
            let days = ((hour - 1) / 24) as f64;
            let high = match self.hours.back(24 - of_day) {
                Some(then) => {
                    let leaked = per_hour * (24.0 * days + (of_day as f64 + span).min(24.0));
                    let fading = above * (-(hour as f64) / 6.0).exp();
                    then.low + f64::from(then.swing) + self.offset + leaked + fading
                }
                None => level + per_hour * hour as f64,
            };
            if high >= size {
                let part = ((size - before) / (high - before).max(1.0)).clamp(0.0, 1.0);
                return (hour as f64 - 1.0 + part) * 3_600.0;
            }
            before = high;
        }
        f64::INFINITY
    }

    fn straight_time(&self, size: f64, slope: f64) -> f64 {
        let mut swings = [0.0; 12];
        let mut count = 0;
        for (slot, point) in swings.iter_mut().zip(self.ten_seconds.last(12)) {
            *slot = f64::from(point.swing);
            count += 1;
        }
        let swing = (median(&mut swings[..count]) - slope * 10.0).max(0.0);
        let mut lows = [0.0; 5];
        let mut count = 0;
        for (slot, (back, point)) in lows
            .iter_mut()
            .zip((0..5).filter_map(|b| Some((b, self.ten_seconds.back(b)?))))
        {
            *slot = point.low + slope * 10.0 * (back as f64 + 1.0);
            count += 1;
        }
        let level = if count > 0 {
            median(&mut lows[..count])
        } else {
            self.used
        };
        (size - level - swing).max(0.0) / slope
    }
}

/// Range of the middle nine tenths: a storm does not count.
fn usual_range(values: &[f64]) -> f64 {
    let mut sorted = [0.0; MOST_POINTS];
    let count = values.len();
    sorted[..count].copy_from_slice(values);
    let sorted = &mut sorted[..count];
    sorted.sort_unstable_by(f64::total_cmp);
    let skipped = count / 20;
    sorted[count - 1 - skipped] - sorted[skipped]
}

/// From the first points of a window to its last ones.
fn rise_of(values: &[f64]) -> f64 {
    let few = (values.len() / 8).clamp(1, 9);
    let mut first = [0.0; 9];
    let mut last = [0.0; 9];
    first[..few].copy_from_slice(&values[..few]);
    last[..few].copy_from_slice(&values[values.len() - few..]);
    let between = (values.len() - few) as f64;
    // the middles of both groups are that far apart; the window is a little longer
    (median(&mut last[..few]) - median(&mut first[..few])) * values.len() as f64 / between
}

enum Finding {
    Nothing,
    Unsure,
    Found(Trend, bool),
}

impl Verdict {
    fn take(&mut self, finding: Finding, streak: u8) {
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

/// A cheap look that spares the fit: did use rise, or may a falling load hide that it did?
fn may_rise<const N: usize>(ring: &Ring<N>, least: usize, size: f64, hides: bool) -> bool {
    let Some(newest) = ring.back(0) else {
        return false;
    };
    let mut backs = [least - 1, ring.len() / 2, ring.len() - 1];
    backs.sort_unstable();
    backs.iter().filter_map(|back| ring.back(*back)).any(|old| {
        let rose = newest.low - old.low > 0.6 * LEAST_RISE * size;
        let fell = newest
            .load
            .iter()
            .zip(old.load)
            .any(|(new, old)| *new < 0.85 * old);
        rose || (hides && fell)
    })
}

/// Use less the load's part.
fn without_load(window: &Window, from: usize, trend: &Trend) -> [f64; MOST_POINTS] {
    let mut rest = [0.0; MOST_POINTS];
    for (i, slot) in rest[..window.len - from].iter_mut().enumerate() {
        let load: f64 = (0..SIGNALS)
            .map(|k| trend.cost[k] * window.load[k][from + i])
            .sum();
        *slot = window.low[from + i] - load;
    }
    rest
}

/// Whether the window grows all along: its late half as its whole, its early half not much less.
fn is_straight(values: &[f64], trend: &Trend, slope: f64) -> bool {
    let step = trend.span_s / values.len().max(1) as f64;
    let half = values.len() / 2;
    let early = theil(&values[..half]) / step;
    let late = theil(&values[half..]) / step;
    let room = (0.25 * slope).max(5.6 * trend.error.min(0.1 * slope));
    (late - slope).abs() <= room && (early - slope).abs() <= 1.5 * room
}

/// The largest rise over `span_s` in the past of a ring that was given back later. Rises shorter than a bucket are a
/// bucket's, by their share of it times `burst`.
fn recovered<const N: usize>(
    ring: &Ring<N>,
    most: usize,
    span_s: f64,
    cost: [f64; SIGNALS],
    burst: f64,
) -> f64 {
    let len = ring.len().min(most);
    let lag = ((span_s / ring.step_s()).round() as usize).max(1);
    if len < lag + 2 {
        return 0.0;
    }
    let share = (burst * span_s / ring.step_s()).min(1.0);
    let mut rest = [0.0; MOST_POINTS];
    for (slot, point) in rest.iter_mut().zip(ring.last(len)) {
        let load: f64 = (0..SIGNALS)
            .map(|k| cost[k] * f64::from(point.load[k]))
            .sum();
        *slot = point.low - load;
    }
    given_back(&rest[..len], lag) * share
}

/// The largest rise over a lag that was given back later.
fn given_back(values: &[f64], lag: usize) -> f64 {
    let mut lowest = f64::MAX;
    let mut largest = 0.0f64;
    for late in (lag..values.len()).rev() {
        if lowest < f64::MAX {
            let rise = values[late] - values[late - lag];
            largest = largest.max(rise.min(values[late] - lowest));
        }
        lowest = lowest.min(values[late]);
    }
    largest
}

/// Differences over a lag into `into`; answers how many.
fn differences(values: &[f64], lag: usize, into: &mut [f64; MOST_POINTS]) -> usize {
    let mut count = 0;
    for (early, late) in values.iter().zip(values.get(lag..).unwrap_or_default()) {
        into[count] = late - early;
        count += 1;
    }
    count
}

/// Median and robust standard deviation; destroys the values.
fn deviation(values: &mut [f64]) -> (f64, f64) {
    let middle = median(values);
    if spread(values) == 0.0 {
        return (middle, 0.0);
    }
    for value in values.iter_mut() {
        *value = (*value - middle).abs();
    }
    (middle, 1.48 * median(values))
}
