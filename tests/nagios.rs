//! memguard.check: which state is which code, that text and performance data keep the plugins' form.
//! Forbidden here: Kamailio; monitoring/check_memguard is run in tests/module.

use memguard::guard::filters::Check;
use memguard::guard::level::Thresholds;
use memguard::guard::nagios::{State, Use, check};
use memguard::guard::text::NONE_FORESEEN_S;
use memguard::guard::words::{Level, Pool};

const NONE: Check = Check {
    pct: None,
    seconds: None,
};

fn state(level: Level, shm: u32, exhaustion_s: u64) -> State {
    let used = |pool, permyriad| Use {
        pool,
        permyriad,
        thresholds: Thresholds {
            warning: 70,
            shed: 80,
            full: 92,
            emergency: 97,
        },
    };
    State {
        level,
        uses: vec![
            used(Pool::Shm, shm),
            used(Pool::Pkg, 2000),
            used(Pool::Os, 4005),
        ],
        headroom: 123_456,
        exhaustion_s,
        shed_pct: 0,
        sample_age_ms: 400,
        sample_interval_ms: 1000,
    }
}

#[test]
fn without_limits_level_and_time_decide() {
    for (level, left, code) in [
        (Level::Normal, NONE_FORESEEN_S, 0),
        (Level::Normal, 86_400, 0),
        (Level::Normal, 86_399, 1),
        (Level::Normal, 3600, 1),
        (Level::Normal, 3599, 2),
        (Level::Normal, 0, 2),
        (Level::Warning, NONE_FORESEEN_S, 1),
        (Level::Shedding, NONE_FORESEEN_S, 2),
        (Level::Emergency, NONE_FORESEEN_S, 2),
    ] {
        assert_eq!(
            check(&state(level, 3000, left), &NONE).code,
            code,
            "{level} {left}"
        );
    }
}

#[test]
fn given_limits_replace_the_levels() {
    let limits = Check {
        pct: Some((50, 60)),
        seconds: Some((100, 10)),
    };
    for (shm, left, code) in [
        (4999, 100, 0),
        (5000, 100, 1),
        (6000, 100, 2),
        (4999, 99, 1),
        (4999, 9, 2),
    ] {
        assert_eq!(
            check(&state(Level::Emergency, shm, left), &limits).code,
            code,
            "{shm} {left}"
        );
    }
}

#[test]
fn a_stale_sample_is_unknown_by_the_interval_in_force() {
    let mut old = state(Level::Emergency, 9800, 5);
    for (age, interval, code) in [
        (10_000, 1000, 2),
        (10_001, 1000, 3),
        (180_000, 60_000, 2),
        (180_001, 60_000, 3),
    ] {
        (old.sample_age_ms, old.sample_interval_ms) = (age, interval);
        assert_eq!(check(&old, &NONE).code, code, "{age} {interval}");
    }
    assert!(
        check(&old, &NONE)
            .text
            .starts_with("MEMGUARD UNKNOWN - the last sample is 3m 0s old")
    );
}

#[test]
fn text_and_performance_data_are_one_line_each_in_the_plugins_form() {
    let mut bad = state(Level::Shedding, 8512, 7500);
    bad.shed_pct = 42;
    let verdict = check(&bad, &NONE);
    assert_eq!(
        verdict.text,
        "MEMGUARD CRITICAL - level shedding, shm 85.1 %, pkg 20.0 %, os 40.0 %, full in 2h 5m, \
         42 % of new registrations are refused"
    );
    assert_eq!(
        verdict.perfdata,
        "shm=85.12%;70;80;0;100 pkg=20.00%;70;80;0;100 os=40.05%;70;80;0;100 headroom=123456B;;;0 \
         exhaustion=7500s;86400:;3600:;0 level=2;0;1;0;3 shed=42%;;;0;100"
    );
    assert!(!verdict.text.contains(['|', '\n']));
}
