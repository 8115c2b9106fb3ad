//! Whether a server should be restarted, by when, and at which quiet hour. Right or silent: what is not foreseen advises
//! nothing. Forbidden here: clocks, and restarting anything.

use crate::guard::foresee::{cause::Cause, week::Week};
use crate::guard::terms::words::{Level, words};

words! {
    /// What to do.
    Advice {
        /// Nothing ends as far as can be seen, or a restart would not help.
        None = "none",
        /// There is more than a day.
        Plan = "plan",
        /// Within a day.
        Soon = "soon",
        /// The quiet hour is now, or there is no time left for another one.
        Now = "now",
        /// A restart would help, but not at this moment.
        Wait = "wait",
    }
}

/// A restart is assumed to take so long while none was measured, seconds.
pub const USUAL_TAKES_S: u64 = 60;
/// Of the time until the low end of a forecast so many percent are used, of the first day and of the rest: a leak may
/// grow faster, the load may rise more than it did, and one case in twenty ends before the low end.
const USED_PCT: [u64; 2] = [35, 60];
/// While fewer days were seen, nobody knows how busy the next one is: the time is divided by so much.
const WHOLE_DAYS: f64 = 7.0;
const FIRST_WEEK: u64 = 3;
/// With less time than this (seconds) no other hour is waited for.
const NO_TIME_S: u64 = 3600;
/// Below this much time (seconds) it is `soon`.
const SOON_S: u64 = 86_400;
/// Days that must have been seen before an hour is called quiet.
const LEAST_DAYS: f64 = 1.0;

/// A day may be busier than the one before by so much, as a factor of what it takes.
const DAY_TO_DAY: f64 = 1.25;

/// What a pool held during the last day.
#[derive(Clone, Copy, Debug)]
pub struct LastDay<'a> {
    /// Bytes used, oldest first; the last one is now.
    pub used: &'a [u64],
    /// Seconds between two of them.
    pub step_s: u64,
    /// The pool's size.
    pub size: u64,
    /// How fast it leaks, bytes per second.
    pub growth: f64,
    /// How many times as busy the time ahead is at its height as the last day was ([`Week::busier`]).
    pub busier: f64,
}

/// The early end of a forecast, moved to where the load of a usual day takes the rest: a forecast of what leaks does not
/// count that memory is fuller at noon than at night.
pub fn before_peaks(low_s: u64, day: &LastDay<'_>) -> u64 {
    let (Some(&first), Some(&now)) = (day.used.first(), day.used.last()) else {
        return low_s;
    };
    let age_s = |place: usize| (day.used.len() - 1 - place) as f64 * day.step_s as f64;
    // At this time of day the load was the same: the difference has leaked. Before it began to leak nothing is added.
    let is_whole = age_s(0) >= 0.98 * SOON_S as f64;
    let leaked = match is_whole {
        true => now.saturating_sub(first) as f64,
        false => f64::INFINITY,
    };
    let levelled = |(place, used): (usize, &u64)| {
        *used as f64 + (day.growth.max(0.0) * age_s(place)).min(leaked)
    };
    let each = || day.used.iter().enumerate().map(levelled);
    let (lowest, highest) = (
        each().fold(f64::INFINITY, f64::min),
        each().fold(0.0, f64::max),
    );
    let peak = lowest + (highest - lowest) * day.busier * DAY_TO_DAY;
    let rise = (peak - now as f64).max(0.0);
    let free = day.size.saturating_sub(now).max(1) as f64;
    (low_s as f64 * (1.0 - rise / free).max(0.0)) as u64
}

/// What the server is like at this moment.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// Unix time.
    pub now_s: u64,
    /// Earliest time until the first pool is full, seconds ([`before_peaks`]); `None`: none is foreseen.
    pub low_s: Option<u64>,
    /// A whole day of this run was seen: before that nobody knows how high its load rises.
    pub has_seen_day: bool,
    /// Why.
    pub cause: Cause,
    /// Its level by memory.
    pub level: Level,
    /// How long a restart takes, where it was measured, seconds.
    pub takes_s: Option<u64>,
    /// Phones come in masses: a storm, or the way back from the last restart.
    pub is_busy: bool,
    /// The server would not come up again, or not as it is.
    pub is_blocked: bool,
}

/// What is advised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// What to do.
    pub advice: Advice,
    /// By when, Unix time; `None`: it does not matter, or nobody knows yet.
    pub before_s: Option<u64>,
    /// The begin of the quietest hour before that, or now; `None`: less than a day was seen, or there is no time to choose.
    pub at_s: Option<u64>,
    /// The usual load at that hour, in thousandths.
    pub at_rate: f64,
}

impl Plan {
    const NOTHING: Plan = Plan {
        advice: Advice::None,
        before_s: None,
        at_s: None,
        at_rate: 0.0,
    };
}

/// Decides.
pub fn plan(situation: &Situation, week: &Week) -> Plan {
    let Situation { now_s, level, .. } = *situation;
    // More phones come back after a restart as well.
    let helps = !matches!(situation.cause, Cause::None | Cause::Registrations);
    let is_full = level == Level::Emergency;
    let left_s = match situation.low_s {
        Some(low_s) if helps => {
            let takes_s = situation.takes_s.unwrap_or(USUAL_TAKES_S);
            let first_s = low_s.min(SOON_S);
            let [first, rest] = USED_PCT;
            let used_s = (first_s * first + (low_s - first_s) * rest) / 100;
            let careful = if week.days() < WHOLE_DAYS {
                FIRST_WEEK
            } else {
                1
            };
            (used_s / careful).saturating_sub(takes_s)
        }
        None if helps && is_full => 0,
        _ => return Plan::NOTHING,
    };
    let before_s = now_s.saturating_add(left_s);
    let knows_date = situation.has_seen_day || left_s < NO_TIME_S;
    let at = quietest(week, now_s, before_s).filter(|_| knows_date);
    let is_now = left_s < NO_TIME_S || is_full || at.is_some_and(|(start, _)| start == now_s);
    let is_pressing = left_s < NO_TIME_S || is_full;
    let advice = match is_now {
        _ if situation.is_blocked => Advice::Wait,
        _ if situation.is_busy && !is_pressing => Advice::Wait,
        true => Advice::Now,
        false if left_s < SOON_S => Advice::Soon,
        false => Advice::Plan,
    };
    Plan {
        advice,
        before_s: knows_date.then_some(before_s),
        at_s: at.map(|(start, _)| start),
        at_rate: at.map_or(0.0, |(_, rate)| rate),
    }
}

/// Begin and usual load of the quietest hour that begins between the two moments; of the present hour what is left of
/// it, while that is most of it.
fn quietest(week: &Week, now_s: u64, before_s: u64) -> Option<(u64, f64)> {
    const HOUR: u64 = 3600;
    if week.days() < LEAST_DAYS || before_s <= now_s {
        return None;
    }
    let present = (now_s % HOUR < HOUR / 2).then_some((now_s, now_s / HOUR));
    let ahead = (now_s / HOUR + 1..=before_s / HOUR).map(|number| (number * HOUR, number));
    let each = present.into_iter().chain(ahead);
    each.filter_map(|(start, number)| Some((start, week.usual_at(number)?)))
        .min_by(|(_, a), (_, b)| a.total_cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::foresee::week::Hour;

    /// A Monday, 10:00.
    const NOW: u64 = 1_700_438_400 + 36_000;

    fn week(days: u64) -> Week {
        let now = NOW / 3600;
        let hours: Vec<Hour> = (now - days * 24..now)
            .map(|number| Hour {
                number,
                rate_milli: match number % 24 {
                    4 => 1_000,
                    hour => 5_000 + 1_000 * hour,
                },
            })
            .collect();
        Week::of(&hours, now)
    }

    const LEAK: Situation = Situation {
        now_s: NOW,
        low_s: Some(3 * 86_400),
        has_seen_day: true,
        cause: Cause::Leak,
        level: Level::Normal,
        takes_s: Some(20),
        is_busy: false,
        is_blocked: false,
    };

    #[test]
    fn the_quietest_hour_before_the_early_end_is_named() {
        let plan = plan(&LEAK, &week(7));
        assert_eq!(plan.advice, Advice::Plan);
        let before = NOW + 86_400 * 35 / 100 + 2 * 86_400 * 60 / 100 - 20;
        assert_eq!(plan.before_s, Some(before));
        let at = plan.at_s.expect("an hour");
        assert!(at > NOW && at < before && at % 86_400 == 4 * 3600, "{at}");
        assert_eq!(plan.at_rate, 1_000.0);
    }

    #[test]
    fn what_a_day_takes_at_its_height_is_not_there_to_leak_into() {
        let day = |hour: u64| 100 + if (8..18).contains(&hour) { 300 } else { 0 };
        let steady: Vec<u64> = (0..=24).map(|hour| day(hour % 24)).collect(); // now it is night
        let of = |used: &[u64], growth, busier| {
            let day = LastDay {
                used,
                step_s: 3600,
                size: 1000,
                growth,
                busier,
            };
            before_peaks(90_000, &day)
        };
        let left = |rise: f64| (90_000.0 * (1.0 - rise / 900.0)) as u64;
        assert_eq!(of(&steady, 0.0, 1.0), left(375.0));
        assert_eq!(of(&steady, 0.0, 3.0), 0, "Monday does not fit in any more");
        assert_eq!(of(&[500, 500, 500], 0.0, 3.0), 90_000, "no load, no peak");
        assert_eq!(of(&[], 0.0, 1.0), 90_000);
        // What leaked since yesterday is no peak, however fast it leaks now.
        let leaked: Vec<u64> = steady
            .iter()
            .enumerate()
            .map(|(i, u)| u + if i > 22 { 50 } else { 0 })
            .collect();
        let with_leak = of(&leaked, 0.014, 1.0) as f64;
        let expected = 90_000.0 * (1.0 - 375.0 / 850.0);
        assert!(
            (with_leak - expected).abs() < 6_000.0,
            "{with_leak} {expected}"
        );
    }

    #[test]
    fn with_less_time_it_is_soon_then_now_and_now_at_the_quiet_hour() {
        let with = |low_s| plan(&Situation { low_s, ..LEAK }, &week(7));
        assert_eq!(with(Some(170_000)).advice, Advice::Soon);
        assert_eq!(with(Some(10_000)).advice, Advice::Now);
        let night = Situation {
            now_s: NOW - 6 * 3600 + 60,
            ..LEAK
        };
        let at_night = plan(&night, &week(7));
        assert_eq!(
            (at_night.advice, at_night.at_s),
            (Advice::Now, Some(night.now_s))
        );
        let full = Situation {
            level: Level::Emergency,
            low_s: None,
            ..LEAK
        };
        assert_eq!(plan(&full, &week(7)).advice, Advice::Now);
    }

    #[test]
    fn nothing_is_advised_where_nothing_ends_or_a_restart_cures_nothing() {
        for situation in [
            Situation {
                low_s: None,
                ..LEAK
            },
            Situation {
                cause: Cause::Registrations,
                ..LEAK
            },
            Situation {
                cause: Cause::None,
                ..LEAK
            },
            Situation {
                cause: Cause::Registrations,
                level: Level::Emergency,
                ..LEAK
            },
        ] {
            assert_eq!(plan(&situation, &week(7)), Plan::NOTHING, "{situation:?}");
        }
    }

    #[test]
    fn below_a_day_there_is_neither_an_hour_nor_a_date_unless_no_time_is_left() {
        let without_week = plan(&LEAK, &week(0));
        assert_eq!(
            (without_week.advice, without_week.at_s),
            (Advice::Soon, None)
        );
        let fresh = Situation {
            has_seen_day: false,
            ..LEAK
        };
        let said = plan(&fresh, &week(7));
        assert_eq!(
            (said.advice, said.before_s, said.at_s),
            (Advice::Plan, None, None)
        );
        let short = Situation {
            low_s: Some(600),
            ..fresh
        };
        let said = plan(&short, &week(7));
        assert_eq!((said.advice, said.before_s), (Advice::Now, Some(NOW + 190)));
    }

    #[test]
    fn what_would_not_come_up_waits_and_so_does_a_busy_server_that_has_time() {
        let with = |is_busy, is_blocked, low_s| {
            let situation = Situation {
                is_busy,
                is_blocked,
                low_s: Some(low_s),
                ..LEAK
            };
            plan(&situation, &week(7)).advice
        };
        assert_eq!(with(false, true, 86_400), Advice::Wait);
        assert_eq!(
            with(false, true, 60),
            Advice::Wait,
            "it would be down for good"
        );
        assert_eq!(with(true, false, 86_400), Advice::Wait);
        assert_eq!(with(true, false, 600), Advice::Now);
    }
}
