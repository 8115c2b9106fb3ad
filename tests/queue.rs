//! The virtual queue as facts: within its bounds, in order, and an avalanche of 50,000 phones becomes a ramp.
//! Properties: Retry-After never leaves the bounds; coming early moves nothing; the tail never moves back.

use memguard::guard::decide::queue::{
    Rules, SOURCE_BOUND_S, charge, drained_in, early, is_crowd, length, own_rules, take,
};
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

/// The queue with its sources, as the module keeps them.
struct Sourced {
    tail: u64,
    accounts: Vec<(u64, u64)>,
}

impl Sourced {
    fn new(sources: usize) -> Sourced {
        Sourced {
            tail: 0,
            accounts: vec![(0, 0); sources],
        }
    }

    /// Slot (ms) and Retry-After (s) of one phone of a source.
    fn ask(&mut self, source: usize, now_ms: u64, rules: &Rules) -> (u64, u32) {
        let crowds = self.accounts.iter();
        let crowds = crowds.filter(|(held, _)| is_crowd(*held, now_ms, rules));
        let own = own_rules(rules, crowds.count() as u64);
        let (held, tail) = &mut self.accounts[source];
        let (after, may) = charge(*held, now_ms, rules);
        *held = after;
        let ticket = if may {
            let (next, ticket) = take(self.tail, now_ms, rules, 7);
            self.tail = next;
            *tail = next.max(*tail);
            ticket
        } else {
            let (next, ticket) = take(*tail, now_ms, &own, 7);
            *tail = next;
            *held = next.max(*held);
            ticket
        };
        (ticket.slot_ms, ticket.retry_after)
    }
}

#[test]
fn a_hundred_thousand_invented_phones_of_one_source_leave_the_others_where_they_were() {
    let mut queue = Sourced::new(2);
    for i in 0..110_000u64 {
        queue.ask(0, 1_000_000 + i / 55, &RULES); // two seconds
    }
    let (_, told) = queue.ask(1, 1_002_000, &RULES);
    assert!((30..=30 + SOURCE_BOUND_S as u32).contains(&told), "{told}");
    let own = queue.ask(0, 1_002_000, &RULES).1;
    assert!(own > 900, "{own}: beyond its bound it queues behind itself");
}

#[test]
fn five_thousand_phones_behind_one_address_come_back_as_the_ramp_that_they_would_be_alone() {
    let mut queue = Sourced::new(1);
    let slots: Vec<u64> = (0..5_000).map(|_| queue.ask(0, 0, &RULES).0).collect();
    assert!(slots.windows(2).all(|w| w[1] - w[0] == 20), "50 per second");
    assert_eq!(slots.last(), Some(&(30_000 + 4_999 * 20)));
}

#[test]
fn three_proxies_with_five_thousand_phones_each_come_back_at_about_the_rate_together() {
    let mut queue = Sourced::new(3);
    let mut slots: Vec<u64> = (0..15_000).map(|i| queue.ask(i % 3, 0, &RULES).0).collect();
    slots.sort_unstable();
    let in_ten_s = |begin: u64| {
        slots
            .iter()
            .filter(|s| (begin..begin + 10_000).contains(s))
            .count()
    };
    let most = (30..330).map(|s| in_ten_s(s * 1000)).max().unwrap_or(0);
    assert!(most <= 1_000, "{most} in ten seconds, of 500 that may come");
}

proptest! {
    /// The other asks at most once in six seconds, so that it holds fewer slots than would make it a crowd of its own.
    #[test]
    fn what_one_source_adds_to_the_wait_of_another_is_bounded(
        rate in 2u64..500, asks in proptest::collection::vec((any::<bool>(), 0u64..400), 1..400),
    ) {
        let rules = Rules { rate, ..RULES };
        let (mut with, mut without) = (Sourced::new(4), Sourced::new(4));
        let (mut now, mut last) = (1_000_000, 0);
        for (is_other, wait) in asks {
            now += wait;
            if is_other && now < last + 6_000 {
                continue;
            }
            let told = with.ask(usize::from(is_other), now, &rules).1;
            if is_other {
                last = now;
                let alone = without.ask(1, now, &rules).1;
                // What was begun of a slot counts whole, and seconds are rounded up.
                let bound = (SOURCE_BOUND_S + 3u64.div_ceil(rate) + 2) as u32;
                prop_assert!(told <= alone + bound, "{told} instead of {alone}");
            }
            prop_assert!((30..=1800).contains(&told));
        }
    }
}
