//! Models of the shared structures, run through every interleaving and every value the memory model allows.
//! Run: `RUSTFLAGS="--cfg loom" cargo test --release --test loom_shared --no-default-features`
//!
//! * A record is one writer's words or absent, never a mixture; at rest after one writer it is that writer's.
//! * A ring answers each ticket with the words of its writer only, and with all of them when no slot was shared.
//! * Published figures are there at any moment of one publication, never mixed, and never go back.
//! * Entries of a set are there whole from their addition to their removal; two who add get two places.
//! * A series never answers a point that was overwritten.
//! * Server time never goes back.
//! * A source is charged for every slot that it got.
//! * A context is never another's while a block carries it, and its blocks are counted one by one.
//! * Fingerprints that were inserted are there, unless an eviction is counted; a removal removes all copies.
//!
//! Writers run in the model's first thread and readers in spawned ones wherever a writer loads before it stores:
//! loom looks for another order only against the *last* access of an atomic, and in the other arrangement that is
//! the writer's own load, so it would try one order only.
#![cfg(loom)]

use loom::sync::Arc;
use loom::thread;

use memguard::shared::counters::contexts::{Context, Contexts, Owner};
use memguard::shared::parts::{
    clock::Clock, published::DoubleBuffer, record::Record, ring::Ring, series::Series,
    slots::Places,
};
use memguard::shared::phones::{
    fingerprints::{Bucket, Doubt, Fingerprints, Put},
    sources::{Set, Sources},
};

/// Words that only belong together.
fn words(value: u64) -> [u64; 2] {
    [value, !value]
}

fn is_whole(read: [u64; 2]) -> bool {
    read == words(read[0])
}

#[test]
fn a_record_is_one_writers_words_or_absent() {
    loom::model(|| {
        let record = Arc::new(Record::<2>::new());
        let reader = {
            let record = record.clone();
            thread::spawn(move || assert!(record.load().is_none_or(is_whole)))
        };
        let writer = {
            let record = record.clone();
            thread::spawn(move || record.store(&words(1)))
        };
        record.store(&words(2));
        reader.join().unwrap();
        writer.join().unwrap();
        let read = record.load();
        assert!(read.is_none_or(is_whole), "{read:?}");
        record.store(&words(3));
        assert_eq!(record.load(), Some(words(3)));
    });
}

#[test]
fn a_record_at_rest_is_its_only_writers() {
    loom::model(|| {
        let record = Arc::new(Record::<2>::new());
        let writer = {
            let record = record.clone();
            thread::spawn(move || record.store(&words(1)))
        };
        let read = record.load();
        assert!(read.is_none_or(|read| read == words(1)));
        writer.join().unwrap();
        assert_eq!(record.load(), Some(words(1)));
    });
}

#[test]
fn a_ring_with_room_keeps_every_record() {
    loom::model(|| {
        let ring = Arc::new(Ring::<2, 2>::new());
        let writers = [1, 2].map(|value| {
            let ring = ring.clone();
            thread::spawn(move || ring.push(words(value)))
        });
        assert!(
            ring.last(9)
                .all(|(ticket, read)| ticket < 2 && is_whole(read))
        );
        let tickets = writers.map(|writer| writer.join().unwrap());
        for (ticket, value) in tickets.into_iter().zip([1, 2]) {
            assert!(ring.last(9).any(|found| found == (ticket, words(value))));
        }
    });
}

#[test]
fn a_slot_answers_only_the_newest_ticket_while_it_is_overwritten() {
    loom::model(|| {
        let ring = Arc::new(Ring::<1, 2>::new());
        ring.push(words(1));
        let writer = {
            let ring = ring.clone();
            thread::spawn(move || ring.push(words(2)))
        };
        for found in ring.last(9) {
            assert!(
                found == (0, words(1)) || found == (1, words(2)),
                "{found:?}"
            );
        }
        writer.join().unwrap();
        assert!(ring.last(9).eq([(1, words(2))]));
    });
}

#[test]
fn two_writers_that_meet_in_one_slot_leave_the_newest_or_a_hole() {
    loom::model(|| {
        let ring = Arc::new(Ring::<1, 2>::new());
        let writer = {
            let ring = ring.clone();
            thread::spawn(move || (ring.push(words(1)), words(1)))
        };
        let mine = (ring.push(words(2)), words(2));
        let pushed = [mine, writer.join().unwrap()];
        assert!(
            ring.last(9)
                .all(|found| found.0 == 1 && pushed.contains(&found))
        );
    });
}

#[test]
fn figures_are_there_at_any_moment_of_a_publication() {
    loom::model(|| {
        let figures = Arc::new(DoubleBuffer::<2>::new());
        figures.publish(&words(1));
        let reader = {
            let figures = figures.clone();
            thread::spawn(move || {
                let first = figures
                    .read()
                    .expect("one publication leaves one buffer alone");
                let second = figures.read().expect("as above");
                assert!(is_whole(first) && is_whole(second) && first[0] <= second[0]);
            })
        };
        figures.publish(&words(2));
        reader.join().unwrap();
        assert_eq!(figures.read(), Some(words(2)));
    });
}

#[test]
fn figures_are_never_mixed_however_fast_they_are_published() {
    loom::model(|| {
        let figures = Arc::new(DoubleBuffer::<2>::new());
        let reader = {
            let figures = figures.clone();
            thread::spawn(move || assert!(figures.read().is_none_or(is_whole)))
        };
        (1..=3).for_each(|value| figures.publish(&words(value)));
        reader.join().unwrap();
        assert_eq!(figures.read(), Some(words(3)));
    });
}

#[test]
fn a_series_never_answers_a_point_that_was_overwritten() {
    loom::model(|| {
        let series = Arc::new(Series::<3>::new());
        series.push(100);
        series.push(101);
        let reader = {
            let series = series.clone();
            thread::spawn(move || {
                // Push number n has the value 100 + n: the one before the newest is at most 98 + (pushed so far).
                let value = series.back(1);
                let pushed = series.pushed();
                assert!(
                    value.is_none_or(|value| value <= 98 + pushed),
                    "{value:?} of {pushed}"
                );
            })
        };
        (102..=104).for_each(|value| series.push(value));
        reader.join().unwrap();
        let seen = (series.back(0), series.back(1), series.back(2));
        assert_eq!(seen, (Some(104), Some(103), None));
    });
}

/// A table of one bucket of two words.
fn table() -> Fingerprints {
    let buckets = Box::leak(Box::new([Bucket::new()]));
    Fingerprints::from_parts(buckets, Box::leak(Box::new(Doubt::new())), 0)
}

#[test]
fn fingerprints_inserted_at_once_are_both_there() {
    loom::model(|| {
        let known = table();
        let writers = [1, 2].map(|fp| thread::spawn(move || known.put(fp, 100 + fp, 1, 0)));
        let reader = thread::spawn(move || assert!(matches!(known.get(1, 1, 0), None | Some(101))));
        reader.join().unwrap();
        for writer in writers {
            assert_eq!(writer.join().unwrap(), Put::Inserted);
        }
        assert_eq!(
            (known.get(1, 1, 0), known.get(2, 1, 0)),
            (Some(101), Some(102))
        );
        assert_eq!(known.evictions(), 0);
    });
}

#[test]
fn the_same_fingerprint_inserted_twice_is_one_to_callers() {
    loom::model(|| {
        let known = table();
        let writers = [100, 200].map(|until| thread::spawn(move || known.put(5, until, 1, 0)));
        for writer in writers {
            assert!(matches!(
                writer.join().unwrap(),
                Put::Inserted | Put::Updated
            ));
        }
        assert!(matches!(known.get(5, 1, 0), Some(100 | 200)));
        known.put(5, 50, 1, 0);
        assert_eq!(known.get(5, 1, 0), Some(50));
        assert!(known.remove(5));
        assert_eq!(known.get(5, 1, 0), None);
    });
}

#[test]
fn raising_at_once_keeps_the_later_end() {
    loom::model(|| {
        let known = table();
        known.put(5, 50, 1, 0);
        let writers = [100, 200].map(|until| thread::spawn(move || known.raise(5, until, 1, 0)));
        for writer in writers {
            assert_eq!(writer.join().unwrap(), Put::Updated);
        }
        assert_eq!(known.get(5, 1, 0), Some(200));
    });
}

#[test]
fn insert_insert_and_remove_lose_nothing_uncounted() {
    loom::model(|| {
        let known = table();
        known.put(3, 300, 1, 0);
        let writers = [1, 2].map(|fp| thread::spawn(move || known.put(fp, 100 + fp, 1, 0)));
        known.remove(3);
        let evicting = writers.map(|writer| writer.join().unwrap());
        assert_eq!(known.get(3, 1, 0), None);
        let there = [1, 2]
            .iter()
            .filter(|fp| known.get(**fp, 1, 0).is_some())
            .count() as u64;
        assert!(
            there + known.evictions() >= 2,
            "{there} there, {} evicted, {evicting:?}",
            known.evictions()
        );
        assert_eq!(
            known.evictions() > 0,
            known.forgotten_until() > 0 && evicting.iter().any(|put| *put != Put::Inserted)
        );
    });
}

#[test]
fn entries_added_at_once_get_two_places_and_are_read_whole() {
    loom::model(|| {
        let places = Arc::new(Places::<2, 2>::new());
        let reader = {
            let places = places.clone();
            thread::spawn(move || {
                assert!(places.entries().all(|(_, read)| is_whole(read)));
            })
        };
        let writer = {
            let places = places.clone();
            thread::spawn(move || assert!(places.add(&words(1))))
        };
        assert!(places.add(&words(2)));
        reader.join().unwrap();
        writer.join().unwrap();
        let mut found: Vec<_> = places.entries().map(|(_, read)| read[0]).collect();
        found.sort_unstable();
        assert_eq!(found, [1, 2]);
        assert!(!places.add(&words(3)), "both places are taken");
    });
}

#[test]
fn a_place_that_changes_hands_shows_one_entry_or_the_other_whole() {
    loom::model(|| {
        let places = Arc::new(Places::<1, 2>::new());
        assert!(places.add(&words(1)));
        let reader = {
            let places = places.clone();
            thread::spawn(move || {
                for (number, read) in places.entries() {
                    assert_eq!(read, words(number), "the words of this number");
                }
            })
        };
        assert_eq!(places.remove(|read| read[0] == 1), 1);
        assert!(!places.any(|_| true, |_| true), "gone at once");
        assert!(places.add(&words(2)));
        reader.join().unwrap();
        assert!(places.any(|first| first == 2, |_| true));
    });
}

#[test]
fn two_who_remove_the_same_entry_cannot_take_out_the_next_one() {
    loom::model(|| {
        let places = Arc::new(Places::<1, 2>::new());
        assert!(places.add(&words(1)));
        let other = {
            let places = places.clone();
            thread::spawn(move || places.remove(|read| read[0] == 1))
        };
        let mine = places.remove(|read| read[0] == 1);
        let is_added = places.add(&words(2));
        let theirs = other.join().unwrap();
        assert_eq!(mine + theirs, 1);
        assert!(is_added, "whoever removed it, the place is free");
        assert!(places.any(|_| true, |read| *read == words(2)));
    });
}

/// A context that differs from others in its line.
fn context(line: u32) -> Context {
    Context {
        line,
        ..Context::NONE
    }
}

const OWNER: Owner = Owner {
    process: 1,
    is_pkg: false,
    rate: 1,
    thinned: 0,
};

#[test]
fn a_context_is_nobody_elses_while_a_block_carries_it() {
    loom::model(|| {
        // One slot for two kinds of blocks.
        let contexts: &'static Contexts = Box::leak(Box::new(Contexts::boxed()));
        let work = move |line| {
            let carried = contexts.take(OWNER, &context(line), b"m", 16);
            if let Some(carried) = carried {
                let held = contexts.held(0).expect("our block carries it");
                assert_eq!((held.context.line, held.samples), (line, 1));
                contexts.give(carried, 16);
            }
            carried.is_some()
        };
        let other = thread::spawn(move || work(2));
        let first = work(1);
        assert!(first | other.join().unwrap(), "one of them got the slot");
        assert_eq!(contexts.held(0), None);
        assert!(contexts.take(OWNER, &context(3), b"m", 16).is_some());
    });
}

#[test]
fn blocks_of_one_kind_are_counted_one_by_one() {
    loom::model(|| {
        let contexts: &'static Contexts = Box::leak(Box::new(Contexts::boxed()));
        let kept = contexts.take(OWNER, &context(1), b"m", 8).unwrap();
        let other = thread::spawn(move || {
            let carried = contexts.take(OWNER, &context(1), b"m", 16);
            carried.into_iter().for_each(|c| contexts.give(c, 16));
            carried.is_some()
        });
        let second = contexts.take(OWNER, &context(1), b"m", 32);
        assert!(other.join().unwrap() && second.is_some());
        let held = contexts.held(0).unwrap();
        assert_eq!((held.samples, held.live_bytes), (2, 40));
        contexts.give(kept, 8);
        contexts.give(second.unwrap(), 32);
        assert_eq!(contexts.held(0), None);
    });
}

#[test]
fn server_time_does_not_go_back_while_the_sampler_counts_suspends() {
    loom::model(|| {
        let clock = Arc::new(Clock::new());
        clock.start(1_000_000, 500, 500);
        let reader = {
            let clock = clock.clone();
            thread::spawn(move || {
                let first = clock.of_monotonic(600);
                let second = clock.of_monotonic(600);
                assert!(first <= second, "{first} {second}");
                assert!(
                    first >= 1_000_100 && second <= 1_000_300,
                    "{first} {second}"
                );
            })
        };
        clock.suspended(700, 600);
        clock.suspended(800, 610); // the second reading came late: it counts less
        clock.suspended(860, 660);
        reader.join().unwrap();
        assert_eq!(clock.of_monotonic(660), clock.of_boot(860));
    });
}

#[test]
fn a_source_is_charged_for_every_slot_that_it_got() {
    loom::model(|| {
        let sets: &'static [Set] = Box::leak(Box::new([Set::new()]));
        let sources = Arc::new(Sources::from_sets(sets));
        let ask = |sources: &Sources| {
            let account = sources.account(7, 10).expect("a set");
            account.charge(|held| (held.max(100) + 1, held.max(100)))
        };
        let other = {
            let sources = sources.clone();
            thread::spawn(move || ask(&sources))
        };
        let mut got = [ask(&sources), 0];
        got[1] = other.join().unwrap();
        got.sort_unstable();
        assert_eq!(got, [100, 101]);
        assert_eq!(ask(&sources), 102);
    });
}
