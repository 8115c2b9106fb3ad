//! The answer of `memguard.check`: code, sentence and performance data as Nagios and Icinga read them.
//! Forbidden here: printing, and looking at the server.

use crate::guard::foresee::{
    cause::Cause,
    pace::{AtThisRate, SOON_S},
    restart::Advice,
};
use crate::guard::net::terms::Alarm;
use crate::guard::terms::{
    text::{Bytes, NONE_FORESEEN_S, Until},
    words::{Level, Pool},
};

/// One pool as it stands.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// Which.
    pub pool: Pool,
    /// Use in 1/100 percent.
    pub permyriad: u32,
    /// Its own thresholds in percent, for when none are given: warning, and where refusing starts.
    pub thresholds: (u32, u32),
    /// Time until it is full.
    pub exhaustion_s: u64,
    /// That is known.
    pub is_known: bool,
    /// Time until it is full at the pace of the last seconds.
    pub full_in_s: u64,
}

/// Seconds for when none are given: a day, and an hour.
pub const USUAL_SECONDS: (u32, u32) = (86_400, 3_600);

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// 0 fine, 1 warning, 2 critical, 3 unknown.
    pub code: u8,
    /// One line.
    pub text: String,
    /// Performance data: 'label'=value[unit];warning;critical;least;most
    pub perfdata: String,
}

/// What the check looks at.
#[derive(Clone, Debug)]
pub struct Server<'a> {
    /// Its level.
    pub level: Level,
    /// Its pools.
    pub pools: &'a [Standing],
    /// Why what runs out first does so.
    pub cause: Cause,
    /// Bytes left in the tightest.
    pub headroom: u64,
    /// Age of the last sample, milliseconds.
    pub sample_age_ms: u64,
    /// Longest age that is believed, milliseconds.
    pub stale_ms: u64,
    /// What is to be said of restarts.
    pub upkeep: Upkeep,
    /// The watched address that is worst, in one sentence; `None` while all is well with them.
    pub addresses: Option<(Alarm, String)>,
}

/// What is to be said of restarts.
#[derive(Clone, Copy, Debug)]
pub struct Upkeep {
    /// For how long a drain goes on, seconds; 0: none runs.
    pub draining_s: u64,
    /// Whether the server should be restarted.
    pub advice: Advice,
    /// AoRs that did not come back after the last restart though they had time, and of how many.
    pub overdue: (u64, u64),
}

impl Upkeep {
    /// Nothing.
    #[cfg_attr(not(feature = "surface"), allow(dead_code))] // tests begin with it
    pub const NONE: Upkeep = Upkeep {
        draining_s: 0,
        advice: Advice::None,
        overdue: (0, 0),
    };

    /// More than 2 % of those who were known are missing.
    fn is_overdue(&self) -> bool {
        let (missing, before) = self.overdue;
        missing * 50 > before
    }
}

/// Checks the server against percent and seconds; without percent each pool's own thresholds count.
pub fn check(server: &Server<'_>, pct: Option<(u32, u32)>, seconds: Option<(u32, u32)>) -> Check {
    let (warn_s, crit_s) = seconds.unwrap_or(USUAL_SECONDS);
    let mut code = 0;
    let mut said = Vec::new();
    let mut perfdata = Vec::new();
    for standing in server.pools {
        let (warn, crit) = pct.unwrap_or(standing.thresholds);
        let (used, pool) = (standing.permyriad, standing.pool);
        let by_use = grade(used >= warn * 100, used >= crit * 100);
        let left = standing.exhaustion_s;
        let is_near =
            |limit: u32| standing.is_known && left < NONE_FORESEEN_S && left < u64::from(limit);
        let by_time = grade(is_near(warn_s), is_near(crit_s));
        code = code.max(by_use).max(by_time);
        if by_use > 0 {
            said.push(format!("{pool} at {}.{} %", used / 100, used % 100 / 10));
        }
        if by_time > 0 {
            said.push(format!("{pool} full in {}", Until(left)));
        }
        perfdata.push(format!(
            "{pool}_used={}.{:02}%;{warn};{crit};0;100",
            used / 100,
            used % 100
        ));
        perfdata.push(format!(
            "{pool}_exhaustion={left}s;{warn_s}:;{crit_s}:;0;{NONE_FORESEEN_S}"
        ));
    }
    let upkeep = &server.upkeep;
    if upkeep.is_overdue() {
        let (missing, before) = upkeep.overdue;
        said.push(format!(
            "{missing} of {before} AoRs have not come back since the restart"
        ));
        code = code.max(1);
    }
    if matches!(upkeep.advice, Advice::Soon | Advice::Now) {
        said.push(format!("restart it {}: memguard.restart", upkeep.advice));
        code = code.max(1);
    }
    if upkeep.draining_s > 0 {
        said.push(format!("draining for another {} s", upkeep.draining_s));
    }
    if server.sample_age_ms > server.stale_ms || server.pools.is_empty() {
        let text = format!(
            "UNKNOWN - the last sample is {} s old: is the sampling process alive?",
            server.sample_age_ms / 1000
        );
        return Check {
            code: 3,
            text,
            perfdata: perfdata.join(" "),
        };
    }
    // An operator's shed and a worker's own level raise it as well, whatever the use of the fullest pool; given percents
    // replace that, but at emergency phones are turned away that are registered nowhere else: no limit hides it.
    let level = server.level;
    code = code.max(match pct {
        None => grade(level >= Level::Warning, level >= Level::Shedding),
        Some(_) => grade(false, level >= Level::Emergency),
    });
    if let Some((alarm, sentence)) = &server.addresses {
        code = code.max(grade(*alarm >= Alarm::Warning, *alarm >= Alarm::Critical));
        said.push(sentence.clone());
    }
    let word = ["OK", "WARNING", "CRITICAL"][usize::from(code.min(2))];
    // No forecast: it raises nothing, and is said once it is a matter of minutes.
    let first = server.pools.iter().min_by_key(|pool| pool.full_in_s);
    let pace = first
        .filter(|pool| pool.full_in_s <= SOON_S)
        .map_or(String::new(), |pool| {
            format!("; {} {}", pool.pool, AtThisRate(pool.full_in_s))
        });
    let text = match code {
        0 => format!(
            "{word} - level {}, {} left{pace}",
            server.level,
            Bytes(server.headroom)
        ),
        _ => format!(
            "{word} - {}{}level {}, cause {}{pace}",
            said.join(", "),
            if said.is_empty() { "" } else { "; " },
            server.level,
            server.cause
        ),
    };
    Check {
        code,
        text,
        perfdata: perfdata.join(" "),
    }
}

fn grade(is_warning: bool, is_critical: bool) -> u8 {
    match (is_warning, is_critical) {
        (_, true) => 2,
        (true, false) => 1,
        (false, false) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pool of which there is nothing to say.
    const QUIET: Standing = Standing {
        pool: Pool::Shm,
        permyriad: 100,
        thresholds: (70, 80),
        exhaustion_s: NONE_FORESEEN_S,
        is_known: true,
        full_in_s: NONE_FORESEEN_S,
    };

    /// A server of which there is nothing to say.
    fn quiet() -> Server<'static> {
        Server {
            level: Level::Normal,
            pools: &[QUIET],
            cause: Cause::None,
            headroom: 1,
            sample_age_ms: 0,
            stale_ms: 1,
            upkeep: Upkeep::NONE,
            addresses: None,
        }
    }

    fn said(permyriad: u32, exhaustion_s: u64, is_known: bool, age: u64) -> Check {
        let pool = Standing {
            pool: Pool::Shm,
            permyriad,
            thresholds: (70, 80),
            exhaustion_s,
            is_known,
            full_in_s: NONE_FORESEEN_S,
        };
        let server = Server {
            level: Level::Normal,
            pools: &[pool],
            cause: Cause::Leak,
            headroom: 1 << 20,
            sample_age_ms: age,
            stale_ms: 10_000,
            upkeep: Upkeep::NONE,
            addresses: None,
        };
        check(&server, None, None)
    }

    #[test]
    fn use_and_time_left_each_raise_the_code() {
        assert_eq!(said(5_000, NONE_FORESEEN_S, true, 0).code, 0);
        assert_eq!(said(7_000, NONE_FORESEEN_S, true, 0).code, 1);
        assert_eq!(said(8_000, NONE_FORESEEN_S, true, 0).code, 2);
        assert_eq!(
            said(5_000, 20_000, true, 0).text,
            "WARNING - shm full in 5h 33m; level normal, cause leak"
        );
        assert_eq!(said(5_000, 600, true, 0).code, 2);
        assert_eq!(
            said(5_000, 600, false, 0).code,
            0,
            "what is not known raises nothing"
        );
        assert_eq!(said(9_900, 600, true, 11_000).code, 3);
    }

    #[test]
    fn each_limit_is_said_once_it_is_reached_and_not_before() {
        for (permyriad, left, text) in [
            (
                7_000,
                NONE_FORESEEN_S,
                "WARNING - shm at 70.0 %; level normal, cause leak",
            ),
            (6_999, 86_400, "OK - level normal, 1.0 MiB left"),
            (
                6_999,
                3_600,
                "WARNING - shm full in 1h 0m; level normal, cause leak",
            ),
            (
                8_057,
                3_599,
                "CRITICAL - shm at 80.5 %, shm full in 59m 59s; level normal, cause leak",
            ),
        ] {
            assert_eq!(said(permyriad, left, true, 10_000).text, text);
        }
    }

    #[test]
    fn draining_is_said_while_it_lasts() {
        let drains = |draining_s| {
            let mut server = quiet();
            server.level = Level::Warning;
            server.upkeep.draining_s = draining_s;
            check(&server, None, None).text
        };
        assert!(drains(40).contains("draining for another 40 s"));
        assert!(!drains(0).contains("draining"), "{}", drains(0));
    }

    #[test]
    fn the_level_counts_unless_percents_are_given() {
        let pool = Standing {
            pool: Pool::Shm,
            permyriad: 1_000,
            thresholds: (70, 80),
            exhaustion_s: NONE_FORESEEN_S,
            is_known: true,
            full_in_s: 34,
        };
        let mut server = Server {
            level: Level::Shedding,
            pools: &[pool],
            cause: Cause::None,
            headroom: 1,
            sample_age_ms: 0,
            stale_ms: 1,
            upkeep: Upkeep::NONE,
            addresses: None,
        };
        let answer = check(&server, None, None);
        assert_eq!(
            (answer.code, answer.text.as_str()),
            (
                2,
                "CRITICAL - level shedding, cause none; shm at this rate full in 34 s"
            )
        );
        assert_eq!(check(&server, Some((70, 80)), None).code, 0);
        server.level = Level::Warning;
        assert_eq!(check(&server, None, None).code, 1);
    }

    #[test]
    fn an_emergency_is_critical_by_code_and_text_whatever_percents_are_given() {
        let pool = Standing {
            pool: Pool::Shm,
            permyriad: 9_700,
            thresholds: (70, 80),
            exhaustion_s: NONE_FORESEEN_S,
            is_known: true,
            full_in_s: NONE_FORESEEN_S,
        };
        let mut server = Server {
            level: Level::Emergency,
            pools: &[pool],
            cause: Cause::Leak,
            headroom: 1,
            sample_age_ms: 0,
            stale_ms: 1,
            upkeep: Upkeep::NONE,
            addresses: None,
        };
        let answer = check(&server, Some((98, 99)), None);
        assert_eq!(
            (answer.code, answer.text.as_str()),
            (2, "CRITICAL - level emergency, cause leak")
        );
        server.sample_age_ms = 2;
        let answer = check(&server, Some((98, 99)), None);
        assert_eq!(answer.code, 3);
        assert!(answer.text.starts_with("UNKNOWN"), "{answer:?}");
    }

    #[test]
    fn phones_that_stay_away_and_a_restart_that_is_due_are_warnings_and_a_few_phones_are_not() {
        let with = |upkeep| check(&Server { upkeep, ..quiet() }, None, None);
        let overdue = |missing| Upkeep {
            overdue: (missing, 100),
            ..Upkeep::NONE
        };
        assert_eq!(with(overdue(2)).code, 0);
        assert_eq!(
            with(overdue(3)).text,
            "WARNING - 3 of 100 AoRs have not come back since the restart; level normal, cause none"
        );
        let advice = |advice| Upkeep {
            advice,
            ..Upkeep::NONE
        };
        assert_eq!(with(advice(Advice::Plan)).code, 0);
        assert_eq!(with(advice(Advice::Now)).code, 1);
        assert!(with(advice(Advice::Soon)).text.contains("restart it soon"));
    }

    #[test]
    fn the_first_word_always_says_the_code() {
        for &level in Level::ALL {
            for permyriad in (0..=10_000).step_by(500) {
                for pct in [None, Some((50, 60)), Some((98, 99))] {
                    for sample_age_ms in [0, 5] {
                        let pool = Standing {
                            pool: Pool::Shm,
                            permyriad,
                            thresholds: (70, 80),
                            exhaustion_s: 5_000,
                            is_known: permyriad % 1_000 == 0,
                            full_in_s: NONE_FORESEEN_S,
                        };
                        let server = Server {
                            level,
                            pools: &[pool],
                            cause: Cause::Leak,
                            headroom: 1,
                            sample_age_ms,
                            stale_ms: 1,
                            upkeep: Upkeep::NONE,
                            addresses: None,
                        };
                        let answer = check(&server, pct, None);
                        let word = ["OK", "WARNING", "CRITICAL", "UNKNOWN"][answer.code as usize];
                        assert!(answer.text.starts_with(word), "{answer:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn an_address_raises_the_code_and_is_named() {
        let server = |alarm: Alarm| Server {
            addresses: Some((alarm, "address 192.0.2.7: gone".to_owned())),
            ..quiet()
        };
        let said = |alarm| check(&server(alarm), None, None);
        assert_eq!(
            (said(Alarm::Warning).code, said(Alarm::Critical).code),
            (1, 2)
        );
        assert_eq!(
            said(Alarm::Critical).text,
            "CRITICAL - address 192.0.2.7: gone; level normal, cause none"
        );
    }

    #[test]
    fn perfdata_has_value_unit_and_limits() {
        assert_eq!(
            said(1_234, 77, true, 0).perfdata,
            "shm_used=12.34%;70;80;0;100 shm_exhaustion=77s;86400:;3600:;0;2592000"
        );
    }
}
