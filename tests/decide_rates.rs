//! Facts about rates, the storm, and how durations and sizes are written.
//!
//! * A rate is measured over the time that really passed; before a window is full, over the uptime.
//! * The usual rate does not learn from a storm, unless the storm lasts so long that it is none.
//! * No number that leaves here is NaN, infinite or (for rates) negative.

use memguard::guard::decide::rates::{Baseline, RateMeter, Window, per_second, storm};
use memguard::guard::terms::text::{
    Bytes, LARGEST, NONE_FORESEEN_S, Span, Until, finite, non_negative, seconds,
};
use proptest::prelude::*;

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= b.abs() * 0.07 + 1e-9
}

#[test]
fn each_window_sees_its_own_past() {
    let mut meter = RateMeter::new(0, 0);
    let mut total = 0;
    let mut rates = Default::default();
    for second in 1..=1200u64 {
        // 10/s for 20 minutes, but 100/s in the last 10 s
        total += if second > 1190 { 100 } else { 10 };
        rates = meter.sample(second * 1000, total);
    }
    assert!(near(rates.s1, 100.0) && near(rates.s10, 100.0), "{rates:?}");
    assert!(near(rates.m1, 25.0), "{rates:?}");
    assert!(near(rates.m5, 13.0) && near(rates.m15, 11.0), "{rates:?}");
}

#[test]
fn before_a_window_is_full_its_rate_is_that_of_the_uptime() {
    let mut meter = RateMeter::new(5_000, 1_000);
    let rates = meter.sample(7_000, 1_060);
    assert_eq!(
        [rates.s1, rates.s10, rates.m1, rates.m5, rates.m15],
        [30.0; 5]
    );
}

#[test]
fn any_sample_interval_gives_the_same_rate() {
    for interval_ms in [100u64, 700, 1_000, 60_000] {
        let mut meter = RateMeter::new(0, 0);
        let mut rates = Default::default();
        for n in 1..=3_000_000 / interval_ms {
            rates = meter.sample(n * interval_ms, n * interval_ms / 100); // 10/s
        }
        for rate in [rates.s1, rates.s10, rates.m1, rates.m5, rates.m15] {
            assert!(near(rate, 10.0), "every {interval_ms} ms: {rates:?}");
        }
    }
}

#[test]
fn after_a_burst_ends_the_short_rate_is_zero_and_the_long_one_remembers() {
    let mut window = Window::new(1_000, 0, 0);
    let mut minute = Window::new(60_000, 0, 0);
    for n in 1..=5 {
        window.sample(n * 1000, 500);
        minute.sample(n * 1000, 500);
    }
    assert_eq!(window.sample(6_000, 500), 0.0);
    assert!(near(minute.sample(6_000, 500), 500.0 / 6.0));
}

#[test]
fn a_total_that_was_set_back_begins_anew() {
    let mut window = Window::new(10_000, 0, 1_000_000);
    assert_eq!(window.sample(1_000, 5), 0.0);
    assert_eq!(window.sample(2_000, 15), 10.0);
    assert_eq!(window.sample(1_500, 20), 0.0, "so does a clock");
}

#[test]
fn two_samples_at_one_instant_are_no_division_by_zero() {
    assert_eq!(per_second(7, 0), 0.0);
    let mut window = Window::new(1_000, 0, 0);
    assert_eq!(window.sample(0, 100), 0.0);
    // Two looks at one instant see the same past: the clock was not set back, and the first look is not a past.
    assert_eq!(window.sample(4_000, 100), 25.0);
    assert_eq!(window.sample(4_000, 200), 50.0);
}

#[test]
fn a_storm_needs_both_the_factor_and_the_least_rate() {
    assert!(storm(50.0, 10.0, 5, 20, false));
    assert!(!storm(49.9, 10.0, 5, 20, false));
    assert!(!storm(19.0, 0.1, 5, 20, false));
    assert!(storm(20.0, 0.0, 5, 20, false));
}

#[test]
fn a_storm_that_is_on_ends_below_half_of_its_beginning() {
    assert!(storm(25.0, 10.0, 5, 20, true));
    assert!(!storm(24.9, 10.0, 5, 20, true));
    assert!(!storm(f64::NAN, 10.0, 5, 20, true));
    assert!(!storm(0.0, 0.0, 5, 0, true), "nothing is no storm");
}

fn run(baseline: &mut Baseline, rate: f64, seconds: u32) -> bool {
    (0..seconds).fold(false, |_, _| baseline.sample(rate, 1_000, 5, 20))
}

#[test]
fn the_usual_rate_is_learned_and_a_storm_leaves_it_alone() {
    let mut baseline = Baseline::default();
    assert!(!run(&mut baseline, 10.0, 600));
    assert!(near(baseline.rate(), 10.0));
    assert!(run(&mut baseline, 400.0, 600));
    assert!(near(baseline.rate(), 10.0), "{}", baseline.rate());
    assert!(run(&mut baseline, 26.0, 1), "one that is on goes on");
    assert!(baseline.is_storm());
    assert!(!run(&mut baseline, 12.0, 1));
    assert!(!run(&mut baseline, 26.0, 1), "and none begins there");
}

#[test]
fn the_usual_rate_is_a_mean_at_first_and_then_remembers_an_hour() {
    let mut baseline = Baseline::default();
    let learn = |baseline: &mut Baseline, rate, seconds: u64| {
        assert!(!baseline.sample(rate, seconds * 1000, 5, 100));
        baseline.rate()
    };
    assert!(near(learn(&mut baseline, 10.0, 100), 10.0));
    assert!(
        near(learn(&mut baseline, 20.0, 100), 15.0),
        "half of it each"
    );
    assert!(near(learn(&mut baseline, 30.0, 200), 22.5));
    assert!(near(learn(&mut baseline, 22.5, 3_200), 22.5), "an hour");
    assert!(
        near(learn(&mut baseline, 40.0, 360), 24.25),
        "a tenth of one"
    );
    assert!(near(learn(&mut baseline, 7.0, 7_200), 7.0), "never past it");
}

#[test]
fn a_storm_of_an_hour_is_not_learned_and_a_longer_one_is() {
    let mut baseline = Baseline::default();
    for minute in 1..=61 {
        assert!(baseline.sample(1_000.0, 60_000, 5, 20));
        assert_eq!(baseline.rate() > 0.0, minute > 60, "{minute}");
    }
    assert!(!baseline.sample(1_000.0, 60_000, 5, 20), "it is usual now");
}

#[test]
fn a_rate_that_stays_is_usual_in_the_end() {
    let mut baseline = Baseline::default();
    assert!(
        run(&mut baseline, 100.0, 60),
        "after a start nothing is usual"
    );
    assert!(!run(&mut baseline, 100.0, 2 * 3600));
    assert!(baseline.rate() > 20.0);
    baseline.reset();
    assert_eq!((baseline.rate(), baseline.is_storm()), (0.0, false));
}

#[test]
fn durations_are_written_in_their_two_largest_units() {
    let said = [0, 59, 60, 725, 3_600, 19_999, 86_400, 273_600].map(|s| Span(s).to_string());
    assert_eq!(
        said,
        [
            "0s", "59s", "1m 0s", "12m 5s", "1h 0m", "5h 33m", "1d 0h", "3d 4h"
        ]
    );
}

#[test]
fn thirty_days_and_more_are_none_foreseen() {
    assert_eq!(Until(19_980).to_string(), "5h 33m");
    assert_eq!(Until(2_591_999).to_string(), "29d 23h");
    assert_eq!(Until(2_592_000).to_string(), "none foreseen");
    assert_eq!(seconds(f64::NAN), NONE_FORESEEN_S);
    assert_eq!(seconds(f64::INFINITY), NONE_FORESEEN_S);
    assert_eq!([seconds(-3.0), seconds(7.9)], [0, 7]);
}

#[test]
fn sizes_are_written_in_the_unit_that_fits() {
    let said =
        [0, 1023, 1024, 12_897_485, 1_048_575, 1 << 30, u64::MAX].map(|b| Bytes(b).to_string());
    assert_eq!(
        said,
        [
            "0 B", "1023 B", "1.0 KiB", "12.3 MiB", "1.0 MiB", "1.0 GiB", "16.0 EiB"
        ]
    );
}

#[test]
fn a_size_is_never_written_with_four_digits_before_the_point() {
    // The first that would be "1024.0 PiB", to the byte; and one step of the double below it.
    let first = (1023.95 * (1u64 << 50) as f64) as u64;
    let said = [first, first - 128].map(|bytes| Bytes(bytes).to_string());
    assert_eq!(said, ["1.0 EiB", "1023.9 PiB"]);
}

#[test]
fn numbers_for_reports_are_bounded() {
    assert_eq!(finite(f64::NAN), 0.0);
    assert_eq!(finite(f64::NEG_INFINITY), -LARGEST);
    assert_eq!(finite(-2.5), -2.5);
    assert!(finite(-0.0).is_sign_positive(), "no \"-0\" in a report");
    assert_eq!(non_negative(-1.0), 0.0);
    assert_eq!(non_negative(f64::INFINITY), LARGEST);
}

proptest! {
    #[test]
    fn rates_are_finite_and_never_negative(samples in prop::collection::vec((any::<u64>(), any::<u64>()), 1..60)) {
        let mut meter = RateMeter::new(samples[0].0, samples[0].1);
        let mut baseline = Baseline::default();
        for (now_ms, total) in samples {
            let rates = meter.sample(now_ms, total);
            baseline.sample(rates.s10, now_ms, 5, 20);
            for rate in [rates.s1, rates.s10, rates.m1, rates.m5, rates.m15, baseline.rate()] {
                prop_assert!(rate.is_finite() && rate >= 0.0, "{rate}");
            }
        }
    }

    #[test]
    fn a_storm_is_monotone_in_the_rate(rate in 0f64..1e6, more in 0f64..1e6, usual in 0f64..1e5, on: bool) {
        let at = |rate| storm(rate, usual, 5, 20, on);
        prop_assert!(at(rate) <= at(rate + more));
    }

    #[test]
    fn any_numbers_can_be_written(n: u64, x: f64) {
        let said = [Span(n).to_string(), Until(n).to_string(), Bytes(n).to_string()];
        prop_assert!(said.iter().all(|text| text.len() <= 25 && !text.contains("NaN")), "{said:?}");
        prop_assert!(finite(x).is_finite() && non_negative(x) >= 0.0 && seconds(x) <= NONE_FORESEEN_S);
    }
}
