//! The virtual queue as facts: within its bounds, in order, and an avalanche of 50,000 phones becomes a ramp.
//! Properties: Retry-After never leaves the bounds; coming early moves nothing; the tail never moves back.

use memguard::guard::queue::{Rules, drained_in, early, length, take};
use proptest::prelude::*;

const RULES: Rules = Rules {
    min_s: 30,
    max_s: 1800,
    rate: 50,
};

#[test]
fn slots_follow_each_other_at_the_rate() {
    let (tail, first) = take(0, 1_000_000, &RULES, 7);
    assert_eq!(
        (first.position, first.retry_after, first.slot_ms),
        (0, 30, 1_030_000)
    );
    let (tail, second) = take(tail, 1_000_000, &RULES, 7);
    assert_eq!((second.position, second.slot_ms), (1, 1_030_020));
    assert_eq!(length(tail, 1_000_000, &RULES), 2);
    assert_eq!(drained_in(tail, 1_000_000), 31);
    assert_eq!(length(tail, 1_031_000, &RULES), 0, "time drains it");
}

#[test]
fn a_phone_that_comes_early_is_told_what_is_left() {
    assert_eq!(early(1_100_000, 1_000_000, &RULES), 100);
    assert_eq!(
        early(1_005_000, 1_000_000, &RULES),
        30,
        "never below the smallest"
    );
}

#[test]
fn beyond_the_longest_wait_the_tail_stays_and_answers_spread() {
    let far = (1_000_000 + 1_801_000) * 1000;
    let answers: Vec<u32> = (0..1000)
        .map(|random| take(far, 1_000_000, &RULES, random).1.retry_after)
        .collect();
    assert!(answers.iter().all(|s| (915..=1800).contains(s)));
    assert!(answers.iter().max() > answers.iter().min());
    assert_eq!(take(far, 1_000_000, &RULES, 1).0, far);
}

/// Phones that do what Retry-After says; the pool has room again at `room_ms`, and a slot then lets its phone in.
fn avalanche(phones: u64, rules: &Rules) -> (f64, u64) {
    const ROOM_MS: u64 = 5_000;
    let mut tail = 0;
    // (time of arrival, number); all come within the first two seconds, as after a power cut.
    let mut due: std::collections::BTreeSet<(u64, u64)> =
        (0..phones).map(|n| (n * 2000 / phones, n)).collect();
    let (mut arrivals, mut last_in) = (Vec::new(), 0);
    let mut slots = std::collections::HashMap::new();
    while let Some((now, phone)) = due.pop_first() {
        if now > ROOM_MS {
            arrivals.push(now);
        }
        let holds_slot = slots.get(&phone).is_some_and(|slot| *slot <= now);
        if now > ROOM_MS && holds_slot {
            last_in = now;
            continue;
        }
        let (moved, ticket) = take(tail, now, rules, phone.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        tail = moved;
        slots.insert(phone, ticket.slot_ms);
        due.insert((now + u64::from(ticket.retry_after) * 1000, phone));
    }
    let mut peak = 0;
    let mut from = 0;
    for (to, time) in arrivals.iter().enumerate() {
        while arrivals[from] + 10_000 <= *time {
            from += 1;
        }
        peak = peak.max(to - from + 1);
    }
    (peak as f64 / 10.0, last_in / 1000)
}

#[test]
fn fifty_thousand_phones_come_back_as_a_ramp() {
    let (peak, last) = avalanche(50_000, &RULES);
    assert!(
        peak < 1.5 * RULES.rate as f64,
        "peak {peak}/s in 10 seconds"
    );
    let expected = RULES.min_s + 50_000 / RULES.rate;
    assert!(
        last * 10 >= expected * 8 && last * 10 <= expected * 12,
        "all in after {last} s, expected {expected}"
    );
}

proptest! {
    #[test]
    fn the_bounds_hold_whatever_happens(
        tail in any::<u64>(), now in 0u64..1 << 45, min in 1u64..86_400, more in 0u64..86_400, rate in 1u64..100_000,
        random in any::<u64>(),
    ) {
        let rules = Rules { min_s: min, max_s: min + more, rate };
        let (moved, ticket) = take(tail, now, &rules, random);
        prop_assert!((min..=min + more).contains(&u64::from(ticket.retry_after)));
        prop_assert!(moved >= tail);
        let told = u64::from(early(ticket.slot_ms, now, &rules));
        prop_assert!((min..=min + more).contains(&told));
    }
}
