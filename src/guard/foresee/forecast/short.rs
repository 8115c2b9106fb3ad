//! Trends below a day: when one is worth carrying on, and what speaks against it.
//! Forbidden here: clocks, allocation; whole days (see `days`).

use crate::guard::foresee::{
    forecast::{
        CERTAINTY, Forecaster, LEAST_RISE, LEAST_STEP, REACH,
        shapes::{given_back, rise_of, usual_range},
        verdict::Finding,
    },
    trend::{MOST_POINTS, Ring, SIGNALS, Trend, Window, spread, theil},
};

/// The same for growth that the load explains: load comes and goes.
const LOAD_REACH: f64 = 0.75;
/// Such growth is spoken of from this share of the pool on.
const LOAD_LEAST_USE: f64 = 0.7;
/// Share of a window's variation that trend and load must explain.
const LEAST_FIT: f64 = 0.85;

impl Forecaster {
    /// The longest window of a ring below a day that shows a trend worth carrying on.
    pub(super) fn short<const N: usize>(
        &self,
        ring: &Ring<N>,
        counts: &[usize],
        size: f64,
    ) -> Finding {
        let least_step = if N == 144 {
            f64::MAX
        } else {
            LEAST_STEP * size
        };
        let Some(least) = counts.last().filter(|least| ring.complete() >= **least) else {
            return Finding::Nothing;
        };
        if !may_rise(ring, *least, size, N >= 120 && ring.step_s() >= 60.0) {
            return Finding::Nothing;
        }
        let longest = counts[0].min(ring.complete());
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
    pub(super) fn load_at_most(&self, window: &Window, from: usize) -> f64 {
        const MARGIN: f64 = 2.0;
        let used = window.low[from].max(0.0);
        let day =
            (self.hours.complete() >= 24).then(|| Window::of(&self.ten_minutes, 144, f64::MAX));
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
    pub(super) fn usual_rise(&self, span_s: f64, cost: [f64; SIGNALS], size: f64) -> f64 {
        let within_day = recovered(&self.ten_minutes, 144, span_s, cost, 1.5);
        let within_week = recovered(&self.hours, 192, span_s, cost, 2.0);
        let largest = within_day.max(within_week);
        if largest <= 0.01 * size {
            return 0.0;
        }
        1.3 * largest + 0.01 * size
    }
}

/// A cheap look that spares the fit: did use rise, or may a falling load hide that it did?
fn may_rise<const N: usize>(ring: &Ring<N>, least: usize, size: f64, hides: bool) -> bool {
    let Some(newest) = ring.back(0) else {
        return false;
    };
    let mut backs = [least - 1, ring.complete() / 2, ring.complete() - 1];
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
    let len = ring.complete().min(most);
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
