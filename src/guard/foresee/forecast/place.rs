//! The place in the code that keeps growing: what it holds is the leak by itself, whatever the load does meanwhile.
//! Forbidden here: clocks, allocation; whether memory runs out at all (that is the forecast's trends to say).
//!
//! Use falls with the load and rises with the leak, and a trend of use sees only the difference. What the leaking place
//! holds rises with the leak alone. Whether it does so by the clock or with each message is told apart as far as the
//! messages varied meanwhile; as far as they did not, half and half is meant and the interval holds both.

use crate::guard::foresee::trend::{Ring, SIGNALS, median};

/// Minutes that are remembered.
const MINUTES: usize = 240;
/// Windows that are tried, in minutes, the longest first.
const WINDOWS: [usize; 8] = [240, 180, 132, 96, 66, 45, 30, 15];
/// The place in force stays while it grows by this share of the one that grows most: no place changes with the noise.
const STAYS: f64 = 0.5;
/// Halves of a window must grow as the whole does, within this share.
const STRAIGHT: f64 = 0.2;
/// Neighbouring marks err alike: so many of them are one piece of news.
const MEMORY: f64 = 8.0;

/// The place that grows most steadily, of those that grow, and stays so for a while.
///
/// `current` is the one in force; candidates are numbers of places with the growth that goes on all the time.
pub fn choose(
    current: Option<usize>,
    candidates: impl Iterator<Item = (usize, f64)>,
) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    let mut own = 0.0;
    for (number, steady) in candidates.filter(|(_, steady)| *steady > 0.0) {
        if Some(number) == current {
            own = steady;
        }
        if best.is_none_or(|(_, most)| steady > most) {
            best = Some((number, steady));
        }
    }
    match best {
        Some((_, most)) if own >= STAYS * most => current,
        Some((number, _)) => Some(number),
        None => current,
    }
}

/// The memory of one pool's growing place: about 15 KB of plain data.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    number: usize,
    /// What it held when it was chosen.
    first: f64,
    /// Minutes: what it holds, and messages per second.
    minutes: Ring<MINUTES>,
    /// What the rest of the pool holds, by minute and for a day by ten minutes.
    rest: Ring<MINUTES>,
    rest_ten: Ring<144>,
    growing: Option<Growing>,
}

impl Default for Place {
    fn default() -> Place {
        Place::new()
    }
}

/// How a place grows: bytes per second by the clock, and per message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growing {
    /// Bytes per second that come whatever the load is.
    pub by_clock: f64,
    /// Bytes per message.
    pub by_message: f64,
    /// Standard error of the growth as a whole, as a share of it.
    pub error: f64,
    /// Standard error of the part that comes with messages, as a share of the whole growth.
    pub split_error: f64,
    /// Messages per second in the window, in the mean.
    pub messages: f64,
    /// What it held at the window's begin, bytes.
    pub began: f64,
    /// What it grew by within the window, bytes.
    pub rise: f64,
    /// Length of the window, seconds.
    pub span_s: f64,
    /// Share of the variation that this explains, 0 to 1.
    pub fit: f64,
}

impl Growing {
    /// Bytes per second at so many messages per second; `split` standard errors more of it with the messages.
    pub fn rate(&self, messages: f64, split: f64) -> f64 {
        let whole = self.by_clock + self.by_message * self.messages;
        let mean = self.messages.max(f64::MIN_POSITIVE);
        let with = (self.by_message * mean + split * self.split_error * whole).clamp(0.0, whole);
        whole - with + with * messages / mean
    }
}

impl Place {
    /// No place yet.
    pub const fn new() -> Place {
        Place {
            number: usize::MAX,
            first: 0.0,
            minutes: Ring::new(60_000),
            rest: Ring::new(60_000),
            rest_ten: Ring::new(600_000),
            growing: None,
        }
    }

    /// Number of the place that is followed.
    #[cfg(feature = "surface")]
    pub fn number(&self) -> Option<usize> {
        (self.number != usize::MAX).then_some(self.number)
    }

    /// Takes one sample: what a place holds of the use, and the rate of messages. Another place begins anew.
    pub fn push(&mut self, time_ms: u64, number: usize, live: i64, used: f64, messages: f32) {
        let live = live as f64;
        if number != self.number {
            *self = Place {
                number,
                first: live,
                ..Place::new()
            };
        }
        let is_minute = self.minutes.push(time_ms, live, [messages, 0.0]);
        self.rest.push(time_ms, used - live, [0.0; SIGNALS]);
        self.rest_ten.push(time_ms, used - live, [0.0; SIGNALS]);
        if is_minute {
            self.growing = self.look();
        }
    }

    /// How it grows, if it does so evenly.
    pub fn growing(&self) -> Option<&Growing> {
        self.growing.as_ref()
    }

    /// What the rest of the pool held so many ten minutes before the newest complete ones; of the time before the place
    /// was chosen, less what the place held then, the caller knows.
    pub(super) fn rest(&self, back: usize) -> Option<f64> {
        self.rest_ten.back(back).map(|point| point.low)
    }

    /// What it held when it was chosen.
    pub(super) fn first(&self) -> f64 {
        self.first
    }

    /// What the rest of the pool gained within so many seconds.
    pub(super) fn rest_gained(&self, span_s: f64) -> Option<f64> {
        const FEW: usize = 5;
        let back = (span_s / self.rest.step_s()).round() as usize;
        let level = |from: usize| {
            let mut lows = [0.0; FEW];
            let mut count = 0;
            for (slot, point) in lows
                .iter_mut()
                .zip((from..from + FEW).filter_map(|b| self.rest.back(b)))
            {
                *slot = point.low;
                count += 1;
            }
            (count > 0).then(|| median(&mut lows[..count]))
        };
        Some(level(0)? - level(back.saturating_sub(FEW - 1))?)
    }

    fn look(&self) -> Option<Growing> {
        let mut tried = usize::MAX;
        for minutes in WINDOWS {
            let count = minutes.min(self.minutes.complete());
            if count < WINDOWS[WINDOWS.len() - 1] || count == tried {
                continue;
            }
            tried = count;
            if let Some(growing) = self.fit(count) {
                return Some(growing);
            }
        }
        None
    }

    /// Least squares on time and messages; of what they share, half is given to each.
    fn fit(&self, count: usize) -> Option<Growing> {
        let step_s = self.minutes.step_s();
        let mut held = [0.0; MINUTES];
        let mut sent = [0.0; MINUTES]; // messages up to this mark
        let mut sum = 0.0;
        for ((held, sent), point) in held.iter_mut().zip(&mut sent).zip(self.minutes.last(count)) {
            *held = point.low;
            sum += f64::from(point.load[0]) * step_s;
            *sent = sum;
        }
        let (held, sent) = (&held[..count], &sent[..count]);
        let span_s = (count - 1) as f64 * step_s;
        let messages = (sent[count - 1] - sent[0]) / span_s;
        // Seconds by the clock, and seconds by the messages: both are as long as the window.
        let by_messages = |i: usize| match messages > 0.0 {
            true => (sent[i] - sent[0]) / messages,
            false => i as f64 * step_s,
        };
        let half = |i: usize| (i as f64 * step_s + by_messages(i)) / 2.0;
        let differs = |i: usize| (by_messages(i) - i as f64 * step_s) / 2.0;
        let n = count as f64;
        let mean = |f: &dyn Fn(usize) -> f64| (0..count).map(f).sum::<f64>() / n;
        let (mp, mq, ml) = (mean(&half), mean(&differs), mean(&|i| held[i]));
        let dot = |f: &dyn Fn(usize) -> f64, g: &dyn Fn(usize) -> f64| {
            (0..count).map(|i| f(i) * g(i)).sum::<f64>()
        };
        let (p, q, l) = (
            |i: usize| half(i) - mp,
            |i: usize| differs(i) - mq,
            |i: usize| held[i] - ml,
        );
        let (pp, pq, qq) = (dot(&p, &p), dot(&p, &q), dot(&q, &q));
        let (pl, ql, ll) = (dot(&p, &l), dot(&q, &l), dot(&l, &l));
        if pp <= 0.0 || ll <= 0.0 {
            return None;
        }
        let mut noise = (ll - pl * pl / pp).max(0.0) / n;
        let (mut rate, mut split, mut weight) = (pl / pp, 0.0, 0.0);
        for _ in 0..3 {
            if rate <= 0.0 {
                return None;
            }
            // What is thought beforehand: the split is nothing, give or take the whole rate.
            weight = MEMORY * noise.max(1.0) / (rate * rate);
            let free = qq - pq * pq / pp + weight;
            split = ((ql - pq * pl / pp) / free).clamp(-rate, rate);
            rate = (pl - split * pq) / pp;
            noise = (0..count)
                .map(|i| (l(i) - rate * p(i) - split * q(i)).powi(2))
                .sum::<f64>()
                / n;
        }
        split = split.clamp(-rate, rate);
        let rise = rate * half(count - 1) + split * differs(count - 1);
        if rate <= 0.0 || rise < 5.0 * noise.sqrt() {
            return None;
        }
        let middle = count / 2;
        let grown = |from: usize, to: usize| {
            rate * (half(to) - half(from)) + split * (differs(to) - differs(from))
        };
        let smooth = |at: usize| {
            let few = (count / 8).clamp(1, 9);
            let from = at.min(count - few);
            let mut marks = [0.0; 9];
            for (k, slot) in marks[..few].iter_mut().enumerate() {
                let i = from + k;
                *slot = held[i] - rate * half(i) - split * differs(i);
            }
            median(&mut marks[..few])
        };
        let (first, mid, last) = (smooth(0), smooth(middle), smooth(count));
        if (mid - first).abs() > STRAIGHT * grown(0, middle)
            || (last - mid).abs() > STRAIGHT * grown(middle, count - 1)
        {
            return None;
        }
        Some(Growing {
            by_clock: (rate - split) / 2.0,
            by_message: (rate + split) / 2.0 / messages.max(f64::MIN_POSITIVE),
            error: (MEMORY * noise / pp).sqrt() / rate,
            split_error: ((MEMORY * noise / (qq - pq * pq / pp + weight)).sqrt() / rate / 2.0)
                .min(0.5),
            messages,
            began: held[0],
            rise,
            span_s,
            fit: (1.0 - noise * n / ll).clamp(0.0, 1.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two hours in which messages fall from 400 to 200 per second.
    fn grown(per_second: f64, per_message: f64) -> Growing {
        let (mut place, mut live) = (Place::new(), 1e6);
        for second in 0..7_260u64 {
            let messages = 400.0 - 200.0 * second as f64 / 7_260.0;
            live += per_second + per_message * messages;
            let time_ms = 1_700_000_000_000 + second * 1000;
            place.push(time_ms, 7, live as i64, 1e8, messages as f32);
        }
        *place.growing().expect("it grows")
    }

    #[test]
    fn what_comes_with_messages_is_told_from_what_comes_by_the_clock() {
        for (per_second, per_message) in [(3_000.0, 0.0), (0.0, 10.0), (1_500.0, 5.0)] {
            let growing = grown(per_second, per_message);
            for messages in [100.0, 200.0, 400.0] {
                let truth = per_second + per_message * messages;
                let said = growing.rate(messages, 0.0);
                assert!(
                    (said - truth).abs() < 0.05 * 3_000.0,
                    "{growing:?}: {said}, not {truth}"
                );
            }
        }
    }

    #[test]
    fn what_does_not_grow_evenly_is_not_carried_on() {
        let mut place = Place::new();
        for second in 0..7_260u64 {
            let live = if second < 3_600 { 0 } else { 10_000_000 };
            place.push(1_700_000_000_000 + second * 1000, 7, live, 1e8, 50.0);
        }
        assert_eq!(place.growing(), None, "a step");
    }

    #[test]
    fn another_place_begins_anew_and_is_chosen_only_when_it_grows_twice_as_fast() {
        let among = |a: f64, b: f64| choose(Some(1), [(1, a), (2, b)].into_iter());
        assert_eq!(among(10.0, 19.0), Some(1));
        assert_eq!(among(10.0, 21.0), Some(2));
        assert_eq!(among(0.0, 0.0), Some(1), "a pause is no end");
        assert_eq!(choose(None, [(3, -1.0)].into_iter()), None);
    }
}
