//! Facts about levels.
//!
//! * A level is entered at the sample that reaches its threshold, straight to the highest.
//! * It is left only after use was low for it in every sample of the dwell, whatever happens between.
//! * The tightest pool is the one nearest to its own shed threshold, not the fullest.

use memguard::guard::config::params::{Int, int_defaults};
use memguard::guard::decide::level::{
    LevelTracker, Standing, Thresholds, headroom_bytes, is_impossible, permyriad, tightest, worst,
};
use memguard::guard::terms::words::{Level, Pool};
use proptest::prelude::*;

const SHM: Thresholds = Thresholds {
    warning: 70,
    shed: 80,
    full: 92,
    emergency: 97,
};

/// Feeds samples (second, percent) with gap 5 and dwell 10; answers the level after each.
fn levels(samples: &[(u64, u32)]) -> Vec<Level> {
    let mut tracker = LevelTracker::default();
    let mut seen = Vec::new();
    for (second, percent) in samples {
        tracker.sample(percent * 100, &SHM, 5, 10, second * 1000);
        seen.push(tracker.level());
    }
    seen
}

#[test]
fn thresholds_come_from_the_parameters_of_their_pool() {
    let mut values = int_defaults();
    assert_eq!(Thresholds::of(&values, Pool::Shm), SHM);
    values[Int::OsFull as usize] = 96;
    let os = Thresholds::of(&values, Pool::Os);
    assert_eq!(
        [os.warning, os.shed, os.full, os.emergency],
        [80, 90, 96, 98]
    );
    assert_eq!(Thresholds::of(&values, Pool::Pkg), SHM);
}

#[test]
fn a_threshold_is_reached_at_its_percent_and_not_below() {
    let mut tracker = LevelTracker::default();
    assert_eq!(tracker.sample(6_999, &SHM, 5, 10, 0), None);
    let change = tracker.sample(7_000, &SHM, 5, 10, 1);
    assert_eq!(change, Some((Level::Normal, Level::Warning)));
}

#[test]
fn a_jump_enters_the_highest_level_at_once() {
    let mut tracker = LevelTracker::default();
    let change = tracker.sample(9_700, &SHM, 5, 10, 0);
    assert_eq!(change, Some((Level::Normal, Level::Emergency)));
    assert_eq!(tracker.sample(9_900, &SHM, 5, 10, 1), None);
}

#[test]
fn a_level_is_left_after_the_dwell_and_not_before() {
    use Level::*;
    let seen = levels(&[(0, 85), (1, 60), (10, 60), (11, 60)]);
    assert_eq!(seen, [Shedding, Shedding, Shedding, Normal]);
}

#[test]
fn one_sample_above_the_gap_starts_the_dwell_anew() {
    use Level::*;
    let seen = levels(&[(0, 85), (1, 60), (9, 76), (10, 60), (19, 60), (20, 60)]);
    assert_eq!(
        seen,
        [Shedding, Shedding, Shedding, Shedding, Shedding, Normal]
    );
}

#[test]
fn use_within_the_gap_holds_the_level_for_ever() {
    assert_eq!(levels(&[(0, 80), (1, 76), (1000, 76)])[2], Level::Shedding);
    assert_eq!(levels(&[(0, 80), (1, 75), (1000, 75)])[2], Level::Warning);
}

#[test]
fn falling_stops_at_a_level_whose_own_gap_is_not_cleared() {
    use Level::*;
    // 68 is under the warning's threshold, but not 5 below it
    let seen = levels(&[
        (0, 98),
        (1, 68),
        (11, 68),
        (100, 68),
        (101, 65),
        (110, 65),
        (111, 65),
    ]);
    assert_eq!(
        seen,
        [
            Emergency, Emergency, Warning, Warning, Warning, Warning, Normal
        ]
    );
}

#[test]
fn each_level_waits_for_its_own_dwell() {
    use Level::*;
    // low for emergency since second 1, but for warning only since second 20
    let seen = levels(&[(0, 98), (1, 90), (11, 90), (20, 50), (29, 50), (30, 50)]);
    assert_eq!(
        seen,
        [Emergency, Emergency, Shedding, Shedding, Shedding, Normal]
    );
}

#[test]
fn a_gap_larger_than_the_threshold_still_lets_the_level_go() {
    let low = Thresholds {
        warning: 4,
        shed: 5,
        full: 6,
        emergency: 7,
    };
    let mut tracker = LevelTracker::default();
    tracker.sample(700, &low, 50, 0, 0);
    assert_eq!(tracker.level(), Level::Emergency);
    tracker.sample(201, &low, 50, 0, 1);
    assert_eq!(tracker.level(), Level::Warning);
    tracker.sample(200, &low, 50, 0, 2);
    assert_eq!(tracker.level(), Level::Normal);
}

#[test]
fn without_a_gap_use_at_the_threshold_itself_is_not_low() {
    let mut tracker = LevelTracker::default();
    for (second, used) in [(0, 8_000), (100, 8_000), (101, 7_999)] {
        tracker.sample(used, &SHM, 0, 10, second * 1000);
        assert_eq!(tracker.level(), Level::Shedding, "at second {second}");
    }
}

#[test]
fn without_gap_and_dwell_the_level_is_what_live_use_says() {
    let mut tracker = LevelTracker::default();
    for used in [9_700, 9_699, 8_000, 7_999, 7_000, 6_999, 9_000] {
        tracker.sample(used, &SHM, 0, 0, 5);
        assert_eq!(tracker.level(), SHM.live(used), "at {used}");
    }
}

#[test]
fn the_tightest_is_nearest_to_its_own_shed_threshold() {
    let standing = |pool, used, shed_pct| Standing {
        pool,
        total: 1000,
        used,
        shed_pct,
    };
    let (shm, os) = (standing(Pool::Shm, 600, 80), standing(Pool::Os, 650, 90));
    assert_eq!(tightest([os, shm]), Some(shm)); // 600/80 = 7.5 > 650/90 = 7.2
    let pkg = standing(Pool::Pkg, 600, 80);
    assert_eq!(tightest([shm, pkg]), Some(shm), "of equals the first");
    let unknown = Standing {
        total: 0,
        used: 9,
        ..pkg
    };
    assert_eq!(tightest([unknown]), None);
    assert_eq!(
        (shm.headroom_bytes(), shm.headroom_permyriad()),
        (400, 4_000)
    );
}

#[test]
fn a_tracker_that_goes_on_from_another_counts_its_dwell_anew() {
    let mut tracker = LevelTracker::at(Level::Shedding);
    assert_eq!(tracker.level(), Level::Shedding);
    let after = [5_000, 14_999, 15_000].map(|now_ms| {
        tracker.sample(1_000, &SHM, 5, 10, now_ms);
        tracker.level()
    });
    assert_eq!(after, [Level::Shedding, Level::Shedding, Level::Normal]);
}

#[test]
fn the_worst_of_no_level_is_normal() {
    assert_eq!(worst([]), Level::Normal);
    assert_eq!(
        worst([Level::Warning, Level::Shedding, Level::Normal]),
        Level::Shedding
    );
}

#[test]
fn figures_that_cannot_be_true_are_seen() {
    assert!(is_impossible(100, 101, 0));
    assert!(is_impossible(100, 50, u64::MAX - 3));
    assert!(!is_impossible(100, 100, 0) && !is_impossible(100, 0, 100));
}

#[test]
fn use_and_headroom_saturate() {
    assert_eq!(permyriad(1, 0), 0);
    assert_eq!(permyriad(u64::MAX, u64::MAX), 10_000);
    assert_eq!(permyriad(7, 5), 10_000);
    assert_eq!(permyriad(9_999, 100_000), 999, "rounded down");
    for shift in [45, 49, 50, 51, 61] {
        // 17/64 + a byte, on both sides of where the product outgrows 64 bits
        assert_eq!(permyriad((1u64 << shift) / 64 * 17 + 1, 1 << shift), 2_656);
    }
    assert_eq!(headroom_bytes(5, 7), 0);
}

proptest! {
    #[test]
    fn a_level_never_falls_below_what_was_reached_or_not_low_within_the_dwell(
        steps in prop::collection::vec((0u32..=10_000, 0u64..4_000), 1..200),
        gap in 0u32..=50,
        dwell in 0u32..=10,
    ) {
        let mut tracker = LevelTracker::default();
        let mut past: Vec<(u64, u32)> = Vec::new();
        let mut now = 0;
        for (used, pause) in steps {
            now += pause;
            let before = tracker.level();
            let change = tracker.sample(used, &SHM, gap, dwell, now);
            past.push((now, used));
            let after = tracker.level();
            prop_assert_eq!(change, (before != after).then_some((before, after)));
            prop_assert!(after >= SHM.live(used));
            prop_assert!(after <= before.max(SHM.live(used)), "rises only by use");
            // leaving a level needs a whole dwell of nothing but low samples
            for level in Level::ALL.iter().copied().filter(|l| *l > after && *l <= before) {
                let low = |(_, used): &&(u64, u32)| SHM.is_low(level, *used, gap);
                let since = past.iter().rev().take_while(low).last().map(|(ms, _)| *ms);
                let stayed = since.map(|since| now - since);
                prop_assert!(stayed.is_some_and(|ms| ms >= u64::from(dwell) * 1000), "{level}: {stayed:?}");
            }
        }
    }

    #[test]
    fn any_words_in_the_region_are_a_tracker_that_does_not_panic(
        used: u32, gap: u32, dwell: u32, now: u64, later: u64, warning: u32, shed: u32, emergency: u32,
    ) {
        let t = Thresholds { warning, shed, full: shed, emergency };
        let mut tracker = LevelTracker::default();
        tracker.sample(used, &t, gap, dwell, now);
        tracker.sample(used / 2, &t, gap, dwell, later);
    }
}
