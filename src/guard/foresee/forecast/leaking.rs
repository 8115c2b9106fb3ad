//! When a pool will be full while one known place leaks: its own growth, and the rest as it was a day before.
//! Forbidden here: clocks, allocation; which place it is (see `place`).

use crate::guard::foresee::{
    forecast::{
        Forecaster, INTERVAL, Method, Outlook,
        end::{DAY_DIFFERS, LEAST_EARLY, WITHIN_AN_HOUR},
        place::{Growing, Place},
        shapes::usual_range,
        verdict::Verdict,
    },
    trend::MOST_POINTS,
};
use crate::guard::terms::text::seconds;

/// Nobody knows the growth of a place better than this share of it.
const LEAST_ERROR: f64 = 0.06;
/// What the rest of the pool gained more than the day before, as a share of what the place gained: beyond it, the place
/// is not the whole leak.
const UNEXPLAINED: f64 = 0.25;
/// A load that changed by less than this share did not change.
const FEW: f64 = 0.03;
/// The place must grow by no less and no more than these times what use does.
const LIKE_USE: std::ops::Range<f64> = 0.4..2.5;
/// A place must have grown by this share of the pool to be spoken of.
const LEAST_RISE: f64 = 0.02;
/// Further ahead than so many windows, and so many seconds, is not looked: by then the load has turned.
const REACH: f64 = 12.0;
const AHEAD_S: f64 = 8.0 * 3_600.0;
/// Ten minutes in a day.
const DAY: usize = 144;
/// Length of such a step, seconds.
const STEP_S: f64 = 600.0;
/// What is different from the day before fades within so many seconds.
const FADES_S: f64 = 6.0 * 3_600.0;

/// How much of the doubt goes into one end of the interval: standard errors of growth, of its split, of the level.
#[derive(Clone, Copy, Default)]
struct Doubt {
    growth: f64,
    split: f64,
    level: f64,
}

impl Forecaster {
    /// The outlook by what the leaking place holds; `None` where that does not explain the pool's trend.
    pub(super) fn leaking(&self, size: f64, place: &Place, verdict: &Verdict) -> Option<Outlook> {
        let growing = place.growing()?;
        let (grew, fell) = self.load_grew(growing.span_s);
        let like_use = growing.rate(growing.messages, 0.0) / verdict.trend.slope;
        if self.ten_minutes.complete() < DAY
            || grew > FEW
            || fell > -FEW
            || !LIKE_USE.contains(&like_use)
            || growing.rise < LEAST_RISE * size
            || (size - self.used) > REACH * growing.rise
            || self.unexplained(place, growing) > UNEXPLAINED * growing.rise
        {
            return None;
        }
        let likely = self.until_leaked(size, place, growing, Doubt::default())?;
        if likely > AHEAD_S {
            return None;
        }
        let is_short = likely < 3_600.0;
        let part = if is_short { WITHIN_AN_HOUR } else { 1.0 };
        let growth = INTERVAL * growing.error.max(LEAST_ERROR);
        let level = INTERVAL * part * self.rest_error(place);
        let (mut low, mut high) = (likely, likely);
        for split in [-INTERVAL, INTERVAL] {
            for sign in [-1.0, 1.0] {
                let doubt = Doubt {
                    growth: sign * growth,
                    split,
                    level: sign * level,
                };
                let end = self.until_leaked(size, place, growing, doubt)?;
                (low, high) = (low.min(end), high.max(end));
            }
        }
        Some(Outlook {
            method: Method::Place,
            growth: growing.rate(self.messages(), 0.0),
            exhaustion_s: seconds(likely),
            low_s: seconds(low.max(LEAST_EARLY * likely)),
            high_s: seconds(high),
            samples: (growing.span_s / 60.0) as u32 + 1,
            fit: growing.fit,
            valid: true,
            is_load: false,
        })
    }

    /// By how much the loads grew within so many seconds, as a share: the one that did most, and the one that did least.
    fn load_grew(&self, span_s: f64) -> (f64, f64) {
        let back = (span_s / self.minutes.step_s()) as usize;
        let oldest = self.minutes.complete().saturating_sub(1);
        let ends = self
            .minutes
            .back(0)
            .zip(self.minutes.back(back.min(oldest)));
        let Some((now, then)) = ends else {
            return (0.0, 0.0);
        };
        let (mut most, mut least) = (0.0f64, 0.0f64);
        for (now, then) in now.load.iter().zip(then.load) {
            let grew = f64::from(now - then) / f64::from(then).max(1.0);
            (most, least) = (most.max(grew), least.min(grew));
        }
        (most, least)
    }

    /// Messages per second now.
    fn messages(&self) -> f64 {
        self.minutes
            .back(0)
            .map_or(0.0, |now| f64::from(now.load[1]))
    }

    /// Use without the place, and messages per second, so many ten minutes before the newest ones.
    fn rest(&self, place: &Place, back: usize) -> Option<(f64, f64)> {
        let then = self.ten_minutes.back(back)?;
        let rest = place.rest(back).unwrap_or(then.low - place.first());
        Some((rest, f64::from(then.load[1])))
    }

    /// What the rest of the pool gained within the place's window more than in the same hours a day before.
    fn unexplained(&self, place: &Place, growing: &Growing) -> f64 {
        let gained = place.rest_gained(growing.span_s).unwrap_or(0.0);
        let then = |s: f64| self.hour_mark((86_400.0 + s) / 3_600.0);
        let before = then(0.0)
            .zip(then(growing.span_s))
            .map(|(late, early)| late - early);
        gained - before.unwrap_or(0.0)
    }

    /// Use so many hours ago, between the marks of two hours.
    fn hour_mark(&self, hours: f64) -> Option<f64> {
        let at = (hours - 0.5).max(0.0);
        let (late, early) = (
            self.hours.back(at as usize)?,
            self.hours.back(at as usize + 1)?,
        );
        Some(late.low + at.fract() * (early.low - late.low))
    }

    /// How much higher or lower than foreseen the load may lift use, bytes: one standard error.
    fn rest_error(&self, place: &Place) -> f64 {
        let mut rests = [0.0; MOST_POINTS];
        let mut count = 0;
        for (slot, (rest, _)) in rests
            .iter_mut()
            .zip((0..DAY).filter_map(|back| self.rest(place, back)))
        {
            *slot = rest;
            count += 1;
        }
        DAY_DIFFERS * usual_range(&rests[..count])
    }

    /// Seconds until use reaches `size`; infinite when it does not within a day. `None` before a day was seen.
    fn until_leaked(
        &self,
        size: f64,
        place: &Place,
        growing: &Growing,
        doubt: Doubt,
    ) -> Option<f64> {
        let rate = |messages| (1.0 + doubt.growth) * growing.rate(messages, doubt.split);
        let messages = self.messages();
        let level = self.level(rate(messages)) + doubt.level;
        let (rest_now, _) = self.rest(place, 0)?;
        let (rest_before, messages_before) = self.rest(place, DAY - 1)?;
        // How far today is above yesterday; that fades.
        let above = rest_now - rest_before;
        let more = (messages / messages_before.max(1.0)).clamp(0.5, 2.0) - 1.0;
        let (mut before, mut leaked) = (level, 0.0);
        for step in 1..=DAY {
            let ahead = step as f64 * STEP_S;
            let fading = (-ahead / FADES_S).exp();
            let (rest_then, messages_then) = self.rest(place, DAY - step)?;
            leaked += rate(messages_then * (1.0 + more * fading)) * STEP_S;
            let high = level + leaked + rest_then - rest_before + above * (fading - 1.0);
            if high >= size {
                let part = ((size - before) / (high - before).max(1.0)).clamp(0.0, 1.0);
                return Some(ahead - STEP_S * (1.0 - part));
            }
            before = high;
        }
        Some(f64::INFINITY)
    }
}
