//! The fingerprint table against a plain map that does the same things.
//!
//! * As long as nothing was pushed out, the table answers exactly what the map answers, whatever is done in which
//!   order and however time passes.
//! * Filled with random fingerprints to what it is sized for, and while these are replaced, it pushes nothing out.
//! * Far above it, what was pushed out is counted, and the doubt covers every end that was forgotten.
//! * Unknown fingerprints are unknown.
#![cfg(not(loom))]

use std::collections::HashMap;

use memguard::shared::phones::fingerprints::{Fingerprints, Put};
use proptest::prelude::*;

const BASE: u64 = 1_700_000_000;

/// Spreads small numbers as the caller's keyed hash does (splitmix64).
fn fp(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Put { number: u64, seconds: u64 },
    Raise { number: u64, seconds: u64 },
    Remove { number: u64 },
    Pass { seconds: u64 },
}

fn action() -> impl Strategy<Value = Action> {
    let (number, seconds) = (|| 0..60u64, || 0..200u64);
    prop_oneof![
        4 => (number(), seconds()).prop_map(|(number, seconds)| Action::Put { number, seconds }),
        2 => (number(), seconds()).prop_map(|(number, seconds)| Action::Raise { number, seconds }),
        2 => number().prop_map(|number| Action::Remove { number }),
        1 => (0..40u64).prop_map(|seconds| Action::Pass { seconds }),
    ]
}

proptest! {
    #[test]
    fn the_table_answers_what_a_map_answers(actions in proptest::collection::vec(action(), 0..400), grace in 0..50u32) {
        let table = Fingerprints::map(60, BASE).unwrap();
        let mut map: HashMap<u64, u64> = HashMap::new();
        let mut now = BASE;
        let is_live = |until: u64, now: u64| until + u64::from(grace) > now;
        for action in actions {
            match action {
                Action::Put { number, seconds } => {
                    let was_live = map.insert(number, now + seconds).is_some_and(|until| is_live(until, now));
                    let put = table.put(fp(number), now + seconds, now, grace);
                    prop_assert_eq!(put, if was_live { Put::Updated } else { Put::Inserted });
                }
                Action::Raise { number, seconds } => {
                    let until = map.entry(number).or_insert(0);
                    let was_live = is_live(*until, now);
                    *until = (*until).max(now + seconds);
                    let put = table.raise(fp(number), now + seconds, now, grace);
                    prop_assert_eq!(put, if was_live { Put::Updated } else { Put::Inserted });
                }
                Action::Remove { number } => {
                    let was_live = map.remove(&number).is_some_and(|until| is_live(until, now));
                    prop_assert!(table.remove(fp(number)) || !was_live);
                }
                Action::Pass { seconds } => now += seconds,
            }
            for number in 0..70 {
                let expected = map.get(&number).copied().filter(|until| is_live(*until, now));
                prop_assert_eq!(table.get(fp(number), now, grace), expected);
            }
            let live = map.values().filter(|until| is_live(**until, now)).count() as u64;
            prop_assert_eq!(table.count_live(now, grace, 0, usize::MAX), (live, 0));
        }
        prop_assert_eq!(table.evictions(), 0);
    }

    #[test]
    fn at_its_capacity_nothing_is_pushed_out(capacity in 1..5_000u64, seed: u64) {
        let table = Fingerprints::map(capacity as usize, BASE).unwrap();
        let fp = |number: u64| fp(seed.wrapping_add(number));
        for number in 0..capacity {
            prop_assert_eq!(table.put(fp(number), BASE + 60, BASE, 0), Put::Inserted);
        }
        for number in 0..capacity * 2 {
            prop_assert!(table.remove(fp(number)));
            prop_assert_eq!(table.put(fp(number + capacity), BASE + 60, BASE, 0), Put::Inserted);
        }
        prop_assert!((capacity * 2..capacity * 3).all(|number| table.get(fp(number), BASE, 0).is_some()));
    }

    #[test]
    fn what_is_pushed_out_is_counted_and_in_doubt(capacity in 8..500usize, seed: u64) {
        let table = Fingerprints::map(capacity, BASE).unwrap();
        let end = |number: u64| BASE + 1 + fp(number ^ 77) % 1000;
        let numbers = 0..capacity as u64 * 3;
        for number in numbers.clone() {
            table.put(fp(seed.wrapping_add(number)), end(number), BASE, 0);
        }
        let lost: Vec<u64> = numbers.filter(|n| table.get(fp(seed.wrapping_add(*n)), BASE, 0).is_none()).collect();
        prop_assert_eq!(lost.len() as u64, table.evictions());
        prop_assert_eq!(lost.into_iter().map(end).max(), Some(table.forgotten_until()));
    }
}

#[test]
fn unknown_fingerprints_are_unknown() {
    let table = Fingerprints::map(100_000, BASE).unwrap();
    (0..100_000).for_each(|number| {
        table.put(fp(number), BASE + 60, BASE, 0);
    });
    let mistaken = (1_000_000..4_000_000)
        .filter(|number| table.get(fp(*number), BASE, 0).is_some())
        .count();
    assert_eq!(mistaken, 0, "expected 3·10⁶ · 16 / 2³⁷ = 0.0003");
}
