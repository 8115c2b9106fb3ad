//! The trend of whole days' low-water marks, in which a daily curve is level whatever its shape.
//! Forbidden here: clocks, allocation; what happens within a day (see `short`).

use crate::guard::foresee::{
    forecast::{
        CERTAINTY, Forecaster, INTERVAL, LEAST_RISE, REACH,
        shapes::{deviation, differences, given_back},
        verdict::Finding,
    },
    trend::{MOST_POINTS, SIGNALS, Trend, Window},
};

impl Forecaster {
    /// The trend of whole days' low-water marks.
    pub(super) fn days(&self, size: f64) -> Finding {
        const DAY: usize = 24;
        let len = self.hours.complete();
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
}
