//! The pace of the last seconds: when a pool is full if it goes on so. No forecast, but what an operator needs in a storm.
//! Forbidden here: clocks, allocation, and carrying a single step on as if it were growth.

use std::fmt;

use crate::guard::foresee::{
    forecast::is_even,
    trend::{median, theil},
};
use crate::guard::terms::text::{NONE_FORESEEN_S, Span, seconds};

/// The pace is that of so many milliseconds.
const SPAN_MS: u64 = 10_000;
/// Growth must have gone on for so long; a little less, for no clock ticks exactly.
const LEAST_MS: u64 = 4_900;
/// Within so many seconds it is put into words.
pub const SOON_S: u64 = 600;
/// Points are kept this far apart.
const SPACING_MS: u64 = 450;
/// Points kept: ten seconds and some more.
const KEPT: usize = 24;
/// Points that tell growth from a step.
const LEAST_POINTS: usize = 4;
/// Each half of the time must bring at least this part of its share of the growth.
const EACH_HALF: f64 = 0.7;
/// Two of its steps may have so much more of it than their share.
const UNEVEN: f64 = 0.3;
/// The growth must be so many times the scatter around it.
const CLEAR: f64 = 4.0;

/// The last seconds of one pool's use. Plain data; zeros are the valid start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// Milliseconds and bytes, oldest first; the first `len` are valid.
    points: [(u64, u64); KEPT],
    len: usize,
}

impl Pace {
    /// Takes use at a time in milliseconds; a clock that was set back begins anew. With long sample intervals the last
    /// points are kept whatever their age.
    pub fn push(&mut self, now_ms: u64, used: u64) {
        let last = self.len.checked_sub(1).and_then(|at| self.points.get(at));
        match last {
            Some((last, _)) if now_ms < *last => self.len = 0,
            Some((last, _)) if now_ms - last < SPACING_MS => return,
            _ => (),
        }
        let old = |point: &(u64, u64)| now_ms - point.0 > SPAN_MS + SPACING_MS;
        while self.len == KEPT || (self.len > LEAST_POINTS - 1 && old(&self.points[0])) {
            self.points.rotate_left(1);
            self.len -= 1;
        }
        if let Some(free) = self.points.get_mut(self.len) {
            *free = (now_ms, used);
            self.len += 1;
        }
    }

    /// Bytes per second, from five seconds of growth on; 0 when it does not grow.
    pub fn growth(&self) -> f64 {
        let points = self.points.get(..self.len).unwrap_or_default();
        (0..points.len())
            .filter_map(|from| points.get(from..))
            .take_while(|points| span_ms(points) >= LEAST_MS)
            .find_map(growth_of)
            .unwrap_or(0.0)
    }

    /// Seconds until `size` is reached at that pace; [`NONE_FORESEEN_S`] when it does not grow.
    pub fn full_in(&self, size: u64) -> u64 {
        let last = self.len.checked_sub(1).and_then(|at| self.points.get(at));
        match (self.growth(), last) {
            (growth, Some((_, used))) if growth > 0.0 => {
                seconds(size.saturating_sub(*used) as f64 / growth)
            }
            _ => NONE_FORESEEN_S,
        }
    }
}

fn span_ms(points: &[(u64, u64)]) -> u64 {
    match points {
        [first, .., last] => last.0 - first.0,
        _ => 0,
    }
}

/// The growth of these points, if it is one: in both halves, in many steps, and clear of the noise.
fn growth_of(points: &[(u64, u64)]) -> Option<f64> {
    let count = points.len();
    let (first, last) = (points.first()?, points.last()?);
    if count < LEAST_POINTS {
        return None;
    }
    let mut used = [0.0; KEPT];
    for (slot, point) in used.iter_mut().zip(points) {
        *slot = point.1 as f64 - first.1 as f64;
    }
    let used = &used[..count];
    let rise = used[count - 1];
    let middle = used[count / 2];
    let early = (count / 2) as f64 / (count - 1) as f64;
    let in_both =
        middle >= EACH_HALF * early * rise && rise - middle >= EACH_HALF * (1.0 - early) * rise;
    let step_s = (last.0 - first.0) as f64 / 1000.0 / (count - 1) as f64;
    let slope = theil(used);
    let mut rests = [0.0; KEPT];
    for (i, (slot, used)) in rests.iter_mut().zip(used).enumerate() {
        *slot = used - slope * i as f64;
    }
    let rests = &mut rests[..count];
    let level = median(rests);
    for rest in rests.iter_mut() {
        *rest = (*rest - level).abs();
    }
    let is_clear = slope * (count - 1) as f64 >= CLEAR * 1.48 * median(rests);
    // two of its steps have no more than their share and some
    let few = (UNEVEN + 2.0 / (count - 1) as f64).min(0.95);
    let is_growth = rise > 0.0 && slope > 0.0 && in_both && is_clear && is_even(used, rise, few);
    is_growth.then_some(slope / step_s)
}

/// A pace in words: `at this rate full in 34 s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtThisRate(pub u64);

impl fmt::Display for AtThisRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            NONE_FORESEEN_S.. => f.write_str("not growing"),
            s @ 120.. => write!(f, "at this rate full in {}", Span(s)),
            s => write!(f, "at this rate full in {s} s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::formats::check::check;

    const SIZE: u64 = 64 << 20;

    /// What is said after each sample of a use that is given by time in milliseconds.
    fn said(interval_ms: u64, until_ms: u64, used: impl Fn(u64) -> u64) -> Vec<(u64, u64)> {
        let mut pace = Pace::default();
        (0..=until_ms / interval_ms)
            .map(|i| {
                let at = 1_700_000_000_000 + i * interval_ms;
                pace.push(at, used(i * interval_ms));
                (i * interval_ms, pace.full_in(SIZE))
            })
            .collect()
    }

    #[test]
    fn a_storm_is_told_from_five_seconds_on_and_right() {
        for interval_ms in [100, 200, 1_000, 1_030, 2_000] {
            // 54 of 64 MiB for a minute, then the last 10 MiB within 34 s
            let used = |ms: u64| (54 << 20) + (10 << 20) * ms.saturating_sub(60_000) / 34_000;
            for (ms, full_in) in said(interval_ms, 92_000, used) {
                let left = (94_000.0 - ms as f64) / 1000.0;
                if ms <= 60_000 {
                    assert_eq!(full_in, NONE_FORESEEN_S, "at {ms}");
                }
                let least_points = 60_000 + (LEAST_POINTS as u64) * interval_ms;
                if ms >= 66_100.max(least_points) {
                    assert!(
                        (full_in as f64 - left).abs() < 0.2 * left + 1.5,
                        "every {interval_ms}: at {ms}: {full_in}, not {left}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_step_is_no_growth_and_neither_is_noise() {
        let step = |ms: u64| if ms < 20_000 { 10u64 << 20 } else { 40 << 20 };
        let two_steps = |ms: u64| (10 << 20) + (15 << 20) * (ms / 1000).clamp(19, 21);
        let noise = |ms: u64| (30 << 20) + check(ms, &[ms]) % 700_000;
        let falling = |ms: u64| (60 << 20) - 100 * ms;
        for interval_ms in [100, 1_000] {
            for (name, used) in [
                ("step", &step as &dyn Fn(u64) -> u64),
                ("two", &two_steps),
                ("noise", &noise),
                ("falling", &falling),
            ] {
                let told = said(interval_ms, 60_000, used);
                let alarms = told.iter().filter(|(_, s)| *s < 600).count();
                assert_eq!(alarms, 0, "{name}: {told:?}");
            }
        }
    }

    #[test]
    fn rare_samples_tell_too_and_a_clock_that_is_set_back_begins_anew() {
        let told = said(10_000, 60_000, |ms| 10_000 * ms / 1000);
        assert!(told.iter().skip(4).all(|(_, s)| *s < 10_000), "{told:?}");
        let mut pace = Pace::default();
        (0..20).for_each(|s| pace.push(1_000_000 + s * 1000, s * 1_000_000));
        assert!(pace.full_in(SIZE) < 100);
        pace.push(5_000, 20_000_000);
        assert_eq!(pace.full_in(SIZE), NONE_FORESEEN_S);
        assert_eq!(AtThisRate(34).to_string(), "at this rate full in 34 s");
        assert_eq!(AtThisRate(754).to_string(), "at this rate full in 12m 34s");
    }
}
