//! When use reaches the pool's size along a trend, with what the load did a day before.
//! Forbidden here: clocks, allocation; whether the trend is one.

use crate::guard::foresee::{
    forecast::{
        Forecaster, INTERVAL, Method, SCALES,
        shapes::{deviation, differences, usual_range},
    },
    trend::{MOST_POINTS, Trend, Window, median},
};

/// Nobody knows a slope better than this share of it: over less than an hour, over a load whose days were seen by whole
/// days or in parts, and over a load whose day was not seen. Calibrated on simulated servers (`./dev bench forecast`):
/// nine of ten ends lie within the interval.
const LEAST_ERROR: [f64; 4] = [0.08, 0.12, 0.25, 0.28];
/// Of a day's surprises, so much comes within the last hour.
pub(super) const WITHIN_AN_HOUR: f64 = 0.15;
/// Hours after which a day counts as seen.
const DAY_SEEN: usize = 26;
/// A day's use differs from the day before by at least this share of the day's range.
pub(super) const DAY_DIFFERS: f64 = 0.06;
/// Earliest is never less than this share of the likely time: nobody is alarmed by the noise.
pub(super) const LEAST_EARLY: f64 = 0.2;

impl Forecaster {
    /// Earliest and latest time to the end, seconds: nine in ten lie between them. Two things are in doubt, the slope,
    /// and how high the load will lift use meanwhile.
    pub(super) fn interval(
        &self,
        size: f64,
        trend: &Trend,
        likely: f64,
        scale: usize,
    ) -> (f64, f64) {
        let is_short = likely < 3_600.0 && scale < Method::TenMinutes.index() - 1;
        let has_days = self.hours.complete() >= DAY_SEEN;
        let (least, part) = match (is_short, has_days) {
            (true, _) => (LEAST_ERROR[0], WITHIN_AN_HOUR),
            (false, true) if scale + 1 == SCALES => (LEAST_ERROR[1], 1.0),
            (false, true) => (LEAST_ERROR[2], 1.0),
            (false, false) => (LEAST_ERROR[3], 1.0),
        };
        let doubt = INTERVAL * trend.error.max(least * trend.slope);
        let level = INTERVAL * part * self.level_error(trend.slope);
        let until = |size, slope| self.until_full(size, slope, trend.span_s);
        let low = until(size - level, trend.slope + doubt);
        let high = until(size + level, trend.slope - doubt);
        (low.clamp(LEAST_EARLY * likely, likely), high.max(likely))
    }

    /// How much higher or lower than foreseen the load may lift use, bytes: one standard error.
    fn level_error(&self, slope: f64) -> f64 {
        let day = Window::of(&self.ten_minutes, 144, f64::MAX);
        if day.len < 12 {
            return 0.0;
        }
        let mut rest = [0.0; MOST_POINTS];
        for (i, (slot, low)) in rest.iter_mut().zip(day.lows()).enumerate() {
            *slot = low - slope * day.step_s * i as f64;
        }
        let range = usual_range(&rest[..day.len]);
        let hours = Window::of(&self.hours, 168, f64::MAX);
        let mut differs = [0.0; MOST_POINTS];
        let count = differences(hours.lows(), 24, &mut differs);
        let days = match count {
            0..6 => 0.0,
            _ => deviation(&mut differs[..count]).1,
        };
        days.max(DAY_DIFFERS * range)
    }

    /// Seconds until use reaches `size` when it grows by `slope` and has done so for `span_s`. What the load will do is
    /// taken from what it did a day before, as far as that was seen.
    pub(super) fn until_full(&self, size: f64, slope: f64, span_s: f64) -> f64 {
        if slope <= 0.0 {
            return f64::INFINITY;
        }
        let straight = self.straight_time(size, slope);
        if straight < 3_600.0 || self.hours.complete() < 2 {
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
        (size - self.level(slope)).max(0.0) / slope
    }

    /// How high use rises now, the smallest swings left out.
    pub(super) fn level(&self, slope: f64) -> f64 {
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
        level + swing
    }
}
