//! The virtual queue as facts: within its bounds, in order, and an avalanche of 50,000 phones becomes a ramp.
//! Properties: Retry-After never leaves the bounds; coming early moves nothing; the tail never moves back.

use memguard::guard::decide::queue::{
    Rules, SOURCE_BOUND_S, charge, drained_in, early, held_since_ms, is_crowd, length, own_rules,
    take,
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
fn a_source_holds_its_bound_and_not_one_slot_more() {
    let rates = [1u64, 3, 50, 250];
    let taken = rates.map(|rate| {
        let rules = Rules { rate, ..RULES };
        let (mut held, mut tail, mut slots) = (0, 0, 0);
        while let (after, true) = charge(held, tail, 1_000_000, &rules) {
            (held, slots) = (after, slots + 1);
            tail = take(tail, 1_000_000, &rules, 7).0;
            assert_eq!(held_since_ms(held), 1_030_000, "since the first of them");
        }
        assert_eq!(charge(held, tail, 1_000_000, &rules), (held, false));
        assert!(is_crowd(held, tail, 1_000_000, &rules));
        slots
    });
    assert_eq!(taken, rates.map(|rate| rate * SOURCE_BOUND_S));
}

#[test]
fn a_source_begins_anew_when_its_last_slot_has_passed_but_not_in_its_first_moment() {
    let (mut held, _) = charge(0, 0, 1_000_000, &RULES);
    while let (after, true) = charge(held, u64::MAX, 1_000_000, &RULES) {
        held = after;
    }
    let at = |tail_us, now_ms| charge(held, tail_us, now_ms, &RULES);
    assert_eq!(at(1_030_200_001, 1_000_200), (held, false), "a slot left");
    let (anew, may) = at(1_030_200_000, 1_000_200);
    assert!(may);
    assert_eq!(held_since_ms(anew), 1_030_192, "in units of 16 ms");
    assert!(!at(0, 1_000_199).1, "others write its slot down just now");
}

#[test]
fn a_ticket_says_how_many_are_before_it() {
    let ahead_of = |tail_us| take(tail_us, 1_000_000, &RULES, 7).1.position;
    let first_us = 1_030_000_000;
    assert_eq!(ahead_of(first_us + 2_000_000), 100);
    assert_eq!(ahead_of(first_us + 2_019_999), 100, "and a part of one");
    assert_eq!(ahead_of(first_us - 5_000_000), 0);
    assert_eq!(ahead_of(u64::MAX), u32::MAX);
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
    // 915 to 1800, each second as often as the others.
    assert_eq!((answers[0], answers[885], answers[886]), (1800, 915, 1800));
    let (tail, ticket) = take(far, 1_000_000, &RULES, 1);
    assert_eq!((tail, ticket.slot_ms), (far, 1_000_000 + 1_799_000));
    let last = (1_000_000 + 1_800_000) * 1000;
    let (tail, ticket) = take(last, 1_000_000, &RULES, 1);
    assert_eq!((tail, ticket.retry_after), (last + 20_000, 1800));
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
        let crowds = crowds.filter(|(held, tail)| is_crowd(*held, *tail, now_ms, rules));
        let own = own_rules(rules, crowds.count() as u64);
        let (held, tail) = &mut self.accounts[source];
        let (after, may) = charge(*held, *tail, now_ms, rules);
        *held = after;
        let ticket = if may {
            let (next, ticket) = take(self.tail, now_ms, rules, 7);
            self.tail = next;
            *tail = next.max(*tail);
            ticket
        } else {
            let (next, ticket) = take(*tail, now_ms, &own, 7);
            *tail = next;
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

/// What was begun of a slot counts whole, and seconds are rounded up.
fn rounding(rate: u64) -> u64 {
    3u64.div_ceil(rate) + 2
}

proptest! {
    /// A source, the first, and up to nine others that do as they like, a flood each or a NAT.
    #[test]
    fn what_others_add_to_the_wait_of_a_source_is_bounded_whatever_it_is_itself(
        rate in 2u64..500,
        others in 1usize..10,
        asks in proptest::collection::vec((0usize..20, 0u64..400, 1usize..30), 1..300),
    ) {
        let rules = Rules { rate, ..RULES };
        // Alone with all of the queue, and alone with what is its share when every other one is a crowd.
        let slow = own_rules(&rules, others as u64 + 1);
        let (mut with, mut alone, mut in_share) = (Sourced::new(10), Sourced::new(10), Sourced::new(10));
        let mut now = 1_000_000;
        let mut was_crowd = false;
        let held_by_others = SOURCE_BOUND_S.max(1u64.div_ceil(rate)) * others as u64;
        for (who, wait, phones) in asks {
            now += wait;
            let who = who.saturating_sub(10) % (others + 1); // half of all are the first one's
            for _ in 0..phones {
                let told = u64::from(with.ask(who, now, &rules).1);
                prop_assert!((30..=1800).contains(&told));
                if who != 0 {
                    continue;
                }
                let by_itself = u64::from(alone.ask(0, now, &rules).1);
                let shared = u64::from(in_share.ask(0, now, &slow).1);
                let (held, tail) = alone.accounts[0];
                was_crowd |= is_crowd(held, tail, now, &rules);
                let bound = held_by_others + rounding(rate);
                if !was_crowd {
                    prop_assert!(told <= by_itself + bound, "{told} instead of {by_itself}");
                }
                prop_assert!(told <= shared + bound, "a crowd: {told} instead of {shared}");
            }
        }
    }
}

#[test]
fn a_flood_from_one_address_halves_the_pace_of_a_crowd_behind_another_and_no_more() {
    // 2,000 phones behind one NAT; alone the last one has its slot after 30 + 40 s.
    let last = |floods: usize| {
        let mut queue = Sourced::new(20);
        for i in 0..30_000u64 {
            for flood in 1..=floods {
                queue.ask(flood, 1_000_000 + i / 15, &RULES);
            }
        }
        let slots = (0..2_000).map(|_| queue.ask(0, 1_002_000, &RULES).0);
        slots.max().unwrap_or(0) / 1000 - 1_002
    };
    let told: Vec<u64> = [0, 1, 3, 7, 12].map(last).to_vec();
    assert_eq!(told[0], 69);
    let most = |crowds: u64, floods: u64| 30 + 40 * crowds + SOURCE_BOUND_S * floods + 2;
    for (told, (crowds, floods)) in told[1..].iter().zip([(2, 1), (4, 3), (8, 7), (8, 12)]) {
        let most = most(crowds, floods);
        assert!((most - 60..=most).contains(told), "{told} s of {most}");
    }
}

#[test]
fn sources_that_ask_at_the_rate_each_hold_their_bound_and_no_more_however_long() {
    // Two that ask fifty times a second for ten minutes: none of them is a flood by itself, and together they are more
    // than the queue drains. A third asks once a second.
    let mut queue = Sourced::new(3);
    let mut most = 0;
    for tick in 0..30_000u64 {
        let now = 1_000_000 + 20 * tick;
        queue.ask(0, now, &RULES);
        queue.ask(1, now, &RULES);
        if tick % 50 == 0 {
            most = most.max(queue.ask(2, now, &RULES).1);
        }
    }
    let bound = 30 + 2 * SOURCE_BOUND_S as u32 + 1;
    assert!((31..=bound).contains(&most), "{most} s, at most {bound}");
}
