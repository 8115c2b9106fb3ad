//! When a server is quiet: the usual load of every hour of the week, from what the last four weeks showed.
//! Forbidden here: clocks, and what the load is measured in (messages per second, times 1000).

/// Hours of a day and of a week.
const DAY: u64 = 24;
const WEEK: u64 = 168;
/// Hours that are kept: four weeks.
pub const KEPT: usize = 4 * WEEK as usize;
/// How much the same hour of other days weighs beside the same hour of the week, in observations of it.
const OTHER_DAYS: f64 = 2.0;

/// One hour that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hour {
    /// Which: Unix time over 3600.
    pub number: u64,
    /// Its mean load, in thousandths.
    pub rate_milli: u64,
}

/// Stands in a row of hours where the clock was set: those before it are forgotten.
pub const FORGET: Hour = Hour {
    number: u64::MAX,
    rate_milli: 0,
};

/// What counts of a row of hours, in the order in which they were seen.
pub fn counting(hours: &[Hour]) -> &[Hour] {
    let after = hours.iter().rposition(|hour| *hour == FORGET);
    hours
        .get(after.map_or(0, |at| at + 1)..)
        .unwrap_or_default()
}

/// The usual week.
#[derive(Clone, Debug)]
pub struct Week {
    /// By hour of the week; `None`: neither that hour nor the same hour of another day was seen.
    usual: Vec<Option<f64>>,
    /// The same of that hour of the week alone, where it was seen.
    own: Vec<Option<f64>>,
    seen: usize,
}

impl Week {
    /// Concludes it from what was seen until the hour of the number `now`; what lies beyond, or four weeks back, is of
    /// a clock that was wrong, or old.
    pub fn of(hours: &[Hour], now: u64) -> Week {
        let is_ours =
            |hour: &&Hour| hour.number <= now && now - hour.number < KEPT as u64 && hour.number > 0;
        let hours: Vec<Hour> = hours.iter().filter(is_ours).copied().collect();
        let middle_of = |is_same: &dyn Fn(u64) -> bool| {
            let same = hours.iter().filter(|hour| is_same(hour.number));
            let mut rates: Vec<u64> = same.map(|hour| hour.rate_milli).collect();
            rates.sort_unstable();
            let count = rates.len();
            // The lower of the two middle ones of four: a holiday is no usual day, nor is a day of storms.
            let middle = rates.get(count.saturating_sub(1) / 2).copied();
            middle.map(|rate| (rate as f64, count as f64))
        };
        let by_hour: Vec<Option<(f64, f64)>> = (0..DAY)
            .map(|hour| middle_of(&|number| number % DAY == hour))
            .collect();
        let by_week: Vec<Option<(f64, f64)>> = (0..WEEK)
            .map(|at| middle_of(&|number| number % WEEK == at))
            .collect();
        let usual = (0..WEEK)
            .map(|at| {
                let of_day = by_hour.get((at % DAY) as usize).copied().flatten();
                let of_week = by_week.get(at as usize).copied().flatten();
                match (of_week, of_day) {
                    (Some((own, count)), Some((others, _))) => {
                        Some((own * count + others * OTHER_DAYS) / (count + OTHER_DAYS))
                    }
                    (_, others) => others.map(|(rate, _)| rate),
                }
            })
            .collect();
        let own = by_week.into_iter().map(|of| of.map(|(rate, _)| rate));
        Week {
            own: own.collect(),
            usual,
            seen: hours.len(),
        }
    }

    /// The usual load of the hour of this number, in thousandths.
    pub fn usual_at(&self, number: u64) -> Option<f64> {
        let place = usize::try_from(number % WEEK).ok()?;
        self.usual.get(place).copied().flatten()
    }

    /// The mean of the usual week, in thousandths.
    pub fn mean(&self) -> f64 {
        let known: Vec<f64> = self.usual.iter().copied().flatten().collect();
        match known.len() {
            0 => 0.0,
            count => known.iter().sum::<f64>() / count as f64,
        }
    }

    /// How many times as far above the quietest hour the hours from the one of this number on are at their height as the
    /// day before it was, of at most a week; at least once.
    pub fn busier(&self, now: u64, until: u64) -> f64 {
        let least = self
            .own
            .iter()
            .copied()
            .flatten()
            .fold(f64::INFINITY, f64::min);
        let height = |from: u64, to: u64| {
            let each = (from..=to).filter_map(|number| {
                let own = self.own.get((number % WEEK) as usize).copied().flatten();
                own.or_else(|| self.usual_at(number))
            });
            each.fold(0.0, f64::max) - least
        };
        let was = height(now.saturating_sub(DAY), now);
        let will = height(now, until.max(now + 1).min(now.saturating_add(WEEK)));
        match was > 0.0 && least.is_finite() {
            true => (will / was).max(1.0),
            false => 1.0,
        }
    }

    /// How many days were seen.
    pub fn days(&self) -> f64 {
        self.seen as f64 / DAY as f64
    }
}

/// Adds up one hour's load, tick by tick.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counting {
    number: u64,
    messages: u64,
    covered_ms: u64,
}

/// An hour of which less was seen does not count, milliseconds.
const LEAST_MS: u64 = 30 * 60_000;

impl Counting {
    /// So many messages in the time that ended now, at this Unix time; answers an hour that is over.
    pub fn add(&mut self, unix_s: u64, messages: u64, passed_ms: u64) -> Option<Hour> {
        let number = unix_s / 3600;
        let before = *self;
        if number != self.number {
            *self = Counting {
                number,
                ..Counting::default()
            };
        }
        self.messages += messages;
        self.covered_ms += passed_ms;
        let is_over = number != before.number && before.covered_ms >= LEAST_MS;
        is_over.then(|| Hour {
            number: before.number,
            rate_milli: before.messages.saturating_mul(1_000_000) / before.covered_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some Monday at midnight, as an hour.
    const MONDAY: u64 = 1_700_438_400 / 3600;

    fn load(number: u64) -> u64 {
        let (day, hour) = (number / DAY % 7, number % DAY);
        let is_busy = (8..18).contains(&hour);
        10_000 + 1_000 * u64::from(is_busy) * (30 + day) - 100 * u64::from(hour == 3)
    }

    fn seen(from: u64, count: u64) -> Vec<Hour> {
        let hour = |number| Hour {
            number,
            rate_milli: load(number),
        };
        (from..from + count).map(hour).collect()
    }

    #[test]
    fn a_day_is_a_profile_for_each_other_day_and_weeks_tell_them_apart() {
        let day = Week::of(&seen(MONDAY, 24), MONDAY + 24);
        assert_eq!(day.days(), 1.0);
        assert_eq!(day.usual_at(MONDAY + 24 + 3), Some(9_900.0));
        let weeks = Week::of(&seen(MONDAY, KEPT as u64), MONDAY + KEPT as u64 - 1);
        assert_eq!(weeks.days(), 28.0);
        let at = |day: u64| weeks.usual_at(MONDAY + KEPT as u64 + day * 24 + 12);
        assert!(at(2) > at(3), "{:?}", (at(2), at(3)));
        assert_eq!(Week::of(&[], MONDAY).usual_at(MONDAY), None);
    }

    #[test]
    fn one_holiday_changes_nothing_and_hours_of_a_wrong_clock_do_not_count() {
        let mut hours = seen(MONDAY, KEPT as u64);
        let end = MONDAY + KEPT as u64;
        let usual = Week::of(&hours, end).usual_at(end + 12);
        for hour in hours.iter_mut().filter(|h| h.number / DAY == MONDAY / DAY) {
            hour.rate_milli = 100;
        }
        let after = Week::of(&hours, end).usual_at(end + 12);
        assert!(after > usual.map(|rate| rate * 0.95), "{after:?} {usual:?}");
        let early = Week::of(&seen(MONDAY, 48), MONDAY + 23);
        assert_eq!(early.days(), 1.0, "the rest lies ahead");
        let late = Week::of(&seen(MONDAY, 48), MONDAY + KEPT as u64 + 24);
        assert!(late.days() < 1.0, "the rest is too long ago");
    }

    #[test]
    fn an_hour_is_told_when_it_is_over_and_half_of_it_was_seen() {
        let mut counting = Counting::default();
        let start = MONDAY * 3600;
        for second in 0..3600 {
            assert_eq!(counting.add(start + second, 5, 1000), None);
        }
        let hour = Hour {
            number: MONDAY,
            rate_milli: 5000,
        };
        assert_eq!(counting.add(start + 3600, 5, 1000), Some(hour));
        assert_eq!(counting.add(start + 7200, 5, 1000), None, "a second of it");
    }
}
