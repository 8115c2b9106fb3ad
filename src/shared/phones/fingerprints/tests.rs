//! What one process sees of a fingerprint table; races are in `tests/loom_shared.rs` and `tests/processes.rs`.
//! Forbidden here: random walks (those are in `tests/fingerprints_model.rs`).

use crate::shared::phones::fingerprints::*;

const BASE: u64 = 1_700_000_000;

fn table(buckets: usize) -> Fingerprints {
    Fingerprints::from_parts(
        mapping::map_slice(buckets).unwrap(),
        mapping::map_one().unwrap(),
        BASE,
    )
}

#[test]
fn an_entry_is_known_until_its_end_and_its_grace() {
    let known = table(4);
    assert_eq!(known.get(5, BASE, 0), None);
    assert_eq!(known.put(5, BASE + 100, BASE, 0), Put::Inserted);
    assert_eq!(known.get(5, BASE + 99, 0), Some(BASE + 100));
    assert_eq!(known.get(5, BASE + 100, 0), None);
    assert_eq!(known.get(5, BASE + 159, 60), Some(BASE + 100));
    assert_eq!(known.get(5, BASE + 160, 60), None);
}

#[test]
fn a_table_of_more_entries_than_fingerprints_can_tell_apart_is_refused() {
    let error = Fingerprints::map((1 << 31) + 1, BASE).err();
    let kind = error.map(|error| error.kind());
    assert_eq!(kind, Some(std::io::ErrorKind::InvalidInput));
}

#[test]
fn put_sets_and_raise_only_lengthens() {
    let known = table(4);
    known.put(5, BASE + 100, BASE, 0);
    assert_eq!(known.raise(5, BASE + 50, BASE, 0), Put::Updated);
    assert_eq!(known.get(5, BASE, 0), Some(BASE + 100));
    assert_eq!(known.raise(5, BASE + 150, BASE, 0), Put::Updated);
    assert_eq!(known.get(5, BASE, 0), Some(BASE + 150));
    assert_eq!(known.put(5, BASE + 20, BASE, 0), Put::Updated);
    assert_eq!(known.get(5, BASE, 0), Some(BASE + 20));
    assert_eq!(
        known.put(5, BASE + 90, BASE + 30, 0),
        Put::Inserted,
        "it had ended"
    );
}

#[test]
fn copies_left_by_a_race_are_one_to_every_caller() {
    let known = table(1);
    for (word, until) in known.buckets[0].0.iter().zip([40, 70]) {
        word.store(Entry { tag: 9, until }.pack(), Ordering::Relaxed);
    }
    assert_eq!(known.get(9, BASE, 0), Some(BASE + 70));
    known.put(9, BASE + 10, BASE, 0);
    assert_eq!(known.get(9, BASE, 0), Some(BASE + 10));
    assert!(known.remove(9));
    assert_eq!(known.get(9, BASE, 0), None);
    assert!(!known.remove(9));
}

#[test]
fn a_copy_in_the_second_bucket_is_found_once_the_first_ones_has_ended() {
    const FP: u64 = 9 << 40 | 9;
    let known = table(64);
    let place = known.place(FP).unwrap();
    let second = place.second.unwrap();
    for (bucket, until) in [(place.first, 40), (second, 70)] {
        let tag = place.tag;
        bucket.0[0].store(Entry { tag, until }.pack(), Ordering::Relaxed);
    }
    let get = |now| known.get(FP, BASE + now, 0);
    assert_eq!((get(30), get(40)), (Some(BASE + 40), Some(BASE + 70)));
    assert!(known.remove(FP));
    assert_eq!((get(30), get(40)), (None, None));
}

/// Half full is what tables are sized for: nearly all is in its first bucket, and nothing is pushed out however often it
/// is replaced. `SPREAD_OUT` numbers as a keyed hash makes them.
#[test]
fn at_half_load_nothing_is_pushed_out_and_most_is_one_cache_line_away() {
    const SPREAD_OUT: u64 = 0x2545_f491_4f6c_dd1d;
    let known = table(8192);
    let live = known.slots() / 2;
    let mut random = 1u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random.wrapping_mul(SPREAD_OUT)
    };
    let mut there: Vec<u64> = (0..live).map(|_| next()).collect();
    let put = |fp| known.put(fp, BASE + 100, BASE, 0);
    assert!(there.iter().all(|fp| put(*fp) == Put::Inserted));
    for _ in 0..500_000 {
        let at = (next() >> 33) as usize % live;
        assert!(known.remove(there[at]));
        there[at] = next();
        assert_eq!(put(there[at]), Put::Inserted);
    }
    let is_first = |fp: &&u64| {
        let place = known.place(**fp).unwrap();
        place.latest_in(place.first) != 0
    };
    let first = there.iter().filter(is_first).count();
    assert!(first * 100 > live * 70, "{first} of {live}");
}

#[test]
fn a_full_table_pushes_out_the_entry_that_ends_first_and_says_so() {
    let known = table(1);
    for fp in 1..=8 {
        assert_eq!(known.put(fp, BASE + 100 + fp, BASE, 0), Put::Inserted);
    }
    assert_eq!((known.evictions(), known.forgotten_until()), (0, 0));
    assert_eq!(known.put(9, BASE + 300, BASE + 7, 0), Put::Evicted);
    assert_eq!(known.get(1, BASE, 0), None);
    assert!((2..=9).all(|fp| known.get(fp, BASE, 0).is_some()));
    assert_eq!(known.put(10, BASE + 300, BASE + 8, 0), Put::Evicted);
    assert_eq!(known.evictions(), 2);
    assert_eq!(known.forgotten_until(), BASE + 102);
    assert_eq!(
        known.put(11, BASE + 300, BASE + 103, 0),
        Put::Inserted,
        "entry 3 has ended"
    );
}

#[test]
fn of_two_full_buckets_the_entry_that_ends_first_goes() {
    let known = table(2);
    for (bucket, soonest) in known.buckets.iter().zip([50, 40]) {
        for (word, tag) in bucket.0.iter().zip(100..) {
            let until = if tag == 105 { soonest } else { 900 };
            word.store(Entry { tag, until }.pack(), Ordering::Relaxed);
        }
    }
    for (fp, forgotten) in [(1, 40), (1 << 63 | 2, 50)] {
        assert_eq!(known.put(fp, BASE + 900, BASE, 0), Put::Evicted);
        assert_eq!(known.forgotten_until(), BASE + forgotten);
    }
}

#[test]
fn the_two_buckets_of_a_fingerprint_are_never_the_same() {
    for buckets in 2..20 {
        let known = table(buckets);
        for n in 0..2_000u64 {
            let place = known.place(n.wrapping_mul(SPREAD)).unwrap();
            let [first, second] = place.numbers;
            assert!(first != second && first.max(second) < buckets, "{n}");
        }
    }
}

#[test]
fn what_an_earlier_run_had_forgotten_is_inherited_until_it_ends() {
    let known = table(1);
    known.inherit_doubt(BASE + 60, BASE + 60);
    assert_eq!(known.forgotten_until(), 0, "it has ended");
    known.inherit_doubt(BASE + 61, BASE + 60);
    assert_eq!(known.forgotten_until(), BASE + 61);
    assert_eq!(known.evictions(), 0, "this run has pushed out nobody");
}

#[test]
fn a_large_table_forgets_everything_also_what_was_put_back() {
    const CAPACITY: usize = 1 << 21;
    let (known, other) = (
        Fingerprints::map(CAPACITY, BASE).unwrap(),
        Fingerprints::map(CAPACITY, BASE).unwrap(),
    );
    let fps = || (1..=300u64).map(|n| n.wrapping_mul(SPREAD));
    for fp in fps() {
        known.put(fp, BASE + 60, BASE, 0);
    }
    for bucket in 0..known.buckets() {
        let words = known.save_bucket(bucket).unwrap();
        other.restore_bucket(bucket, words, BASE, BASE, 0);
    }
    for table in [known, other] {
        assert!(fps().all(|fp| table.get(fp, BASE, 0).is_some()));
        assert_eq!(table.entries(), 300);
        table.clear();
        assert!(fps().all(|fp| table.get(fp, BASE, 0).is_none()));
        assert_eq!(table.entries(), 0);
    }
}

#[test]
fn times_that_an_entry_cannot_hold_are_cut_towards_knowing() {
    let known = table(1);
    known.put(1, u64::MAX, BASE, 0);
    known.put(2, BASE - 5, BASE, 0);
    assert_eq!(known.get(1, u64::MAX, 0), Some(NEVER));
    assert_eq!(known.get(2, BASE, 0), None);
    assert_eq!(known.get(2, BASE, 1), Some(BASE));
}

#[test]
fn the_fingerprint_zero_is_one_like_any_other() {
    let known = table(2);
    assert_eq!(known.get(0, BASE, 0), None);
    known.put(0, BASE + 9, BASE, 0);
    assert_eq!(known.get(0, BASE, 0), Some(BASE + 9));
    assert!(known.remove(0));
    assert_eq!(known.count_live(BASE, 0, 0, 2), (0, 0));
}

#[test]
fn live_entries_are_counted_in_parts() {
    let known = Fingerprints::map(100, BASE).unwrap();
    assert_eq!((known.slots(), known.buckets()), (200, 25));
    for fp in 0..60u64 {
        known.put(fp.wrapping_mul(SPREAD), BASE + 10 + fp % 2, BASE, 0);
    }
    let (mut live, mut from) = (0, 0);
    loop {
        let (part, next) = known.count_live(BASE + 10, 0, from, 5);
        live += part;
        from = next;
        if next == 0 {
            break;
        }
    }
    assert_eq!(live, 30);
    assert_eq!(known.count_live(BASE, 0, 0, usize::MAX), (60, 0));
    assert_eq!(known.count_live(BASE, 0, 99, 5), (0, 0));
}

#[test]
fn a_saved_table_comes_back_under_a_later_base_without_its_dead() {
    let (old, later) = (table(5), BASE + 1000);
    let ends = [later - 1, later + 7, later + 8, u64::MAX];
    for (fp, until) in (0..).map(|n: u64| n.wrapping_mul(SPREAD)).zip(ends) {
        old.put(fp, until, BASE, 0);
    }
    let new = Fingerprints {
        base: later,
        ..table(5)
    };
    let put_back: usize = (0..9)
        .filter_map(|bucket| {
            Some(new.restore_bucket(bucket, old.save_bucket(bucket)?, BASE, later, 0))
        })
        .sum();
    assert_eq!(put_back, 3);
    let read = [0, 1, 2, 3].map(|n: u64| new.get(n.wrapping_mul(SPREAD), later, 0));
    assert_eq!(read, [None, Some(later + 7), Some(later + 8), Some(NEVER)]);
}

#[test]
fn a_table_of_no_entries_and_one_too_large_are_answered() {
    assert_eq!(Fingerprints::map(0, BASE).unwrap().slots(), BUCKET_WORDS);
    assert!(Fingerprints::map(usize::MAX, BASE).is_err());
    let nothing = Fingerprints::from_parts(&[], mapping::map_one().unwrap(), BASE);
    assert_eq!(
        (nothing.put(1, BASE + 1, BASE, 0), nothing.get(1, BASE, 0)),
        (Put::Dropped, None)
    );
}

#[test]
fn entries_are_counted_as_they_come_and_go_and_the_ended_are_reaped() {
    let known = Fingerprints::map(1000, BASE).unwrap();
    let fp = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n << 40;
    for n in 1..=500 {
        known.put(fp(n), BASE + n, BASE, 0);
        assert_eq!(known.entries(), n, "at once");
    }
    let again = |n| known.raise(fp(n), BASE + n, BASE, 0);
    assert!((1..=500).all(|n| again(n) == Put::Updated));
    assert_eq!(known.entries(), 500, "a refresh changes nothing");
    assert!((1..=100).all(|n| known.remove(fp(n))));
    assert_eq!(known.entries(), 400);
    assert_eq!(known.reap(BASE, 0, 0, 64), 64, "a part and no more");
    let last = known.buckets() - 192;
    assert_eq!(known.reap(BASE, 0, 192, last), 0, "the end of the table");
    let mut next = known.reap(BASE + 200, 0, 0, 7);
    while next != 0 {
        next = known.reap(BASE + 200, 0, next, 7);
    }
    assert_eq!(known.entries(), 300, "101 to 200 have ended");
    assert_eq!(known.count_live(BASE + 200, 0, 0, usize::MAX).0, 300);
    known.put(fp(150), BASE + 900, BASE + 200, 0);
    assert_eq!(known.entries(), 301);
    assert_eq!(known.reap(BASE + 300, 100, 0, usize::MAX), 0);
    assert_eq!(known.entries(), 301, "grace keeps them");

    let other = Fingerprints::map(1000, BASE).unwrap();
    for bucket in 0..known.buckets() {
        let words = known.save_bucket(bucket).unwrap();
        other.restore_bucket(bucket, words, BASE, BASE + 300, 0);
    }
    assert_eq!(other.entries(), 201, "what is alive comes back");
}

#[test]
fn reaping_leaves_what_was_never_written_untouched() {
    const CAPACITY: usize = 1 << 22;
    let known = Fingerprints::map(CAPACITY, BASE).unwrap();
    known.put(1 << 60 | 5, BASE + 10, BASE, 0);
    assert_eq!(
        known.reap(BASE + 20, 0, 0, 100_000),
        0,
        "one call sees it all"
    );
    assert_eq!(known.entries(), 0);
    let mut resident = vec![0u8; known.buckets().div_ceil(64)];
    let start = known.buckets.as_ptr().cast_mut().cast();
    // SAFETY: the mapping is that long, and there is a byte per page.
    let answered = unsafe { libc::mincore(start, known.buckets() * 64, resident.as_mut_ptr()) };
    assert_eq!(answered, 0);
    let pages = resident.iter().filter(|page| **page & 1 == 1).count();
    assert!(pages < 4096, "{pages} of {} pages", resident.len());
}

#[test]
fn an_entry_for_ever_that_was_pushed_out_is_a_doubt_of_a_day_at_most() {
    let known = Fingerprints::map(4, BASE).unwrap();
    for fp in 0..1000u64 {
        known.put(fp << 32 | 1, NEVER, BASE + 10, 0);
    }
    assert!(known.evictions() > 0);
    assert_eq!(known.forgotten_until(), BASE + 10 + 86_400);
}
