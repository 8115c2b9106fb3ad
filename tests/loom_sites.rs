//! Models of the tables of places and of an operator's marks, through interleavings that the memory model allows.
//! Run: `RUSTFLAGS="--cfg loom" cargo test --release --test loom_sites --no-default-features`
//!
//! * A site that is found has its texts; sites inserted at once are both found, under different indices.
//! * The same site inserted by two processes at once is one name in reports, and no operation is lost.
//! * Over all processes a reader never sees more freed than allocated, whoever frees.
//! * Adds of many writers to one row are all there.
//! * A mark is one writer's or absent, never a mixture, and is answered under its own name only.
#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use memguard::shared::counters::{
    marks::{Mark, Marks},
    sites::{Counts, Dictionary, Key, SitePool, Tally, Texts, Writer},
};

/// Interleavings with up to two forced changes of the running thread; all of them take hours here.
fn model(of: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(of);
}

fn key(line: u32) -> Key {
    Key {
        pool: SitePool::Shm,
        file: 0x1000,
        line,
    }
}

fn texts(func: &[u8]) -> Texts<'_> {
    Texts {
        file: b"a.c",
        func,
        module: b"core",
    }
}

/// What a place of [`texts`] is called in full.
fn assert_whole(dictionary: &Dictionary, index: usize, line: u32, func: &str) {
    let named = dictionary.place(index).expect("an index has a place");
    assert_eq!((named.line, named.pool), (line, SitePool::Shm));
    assert_eq!(
        (&*named.file, &*named.func, &*named.module),
        ("a.c", func, "core")
    );
}

#[test]
fn a_site_that_is_found_has_its_texts() {
    model(|| {
        let dictionary = Arc::new(Dictionary::new());
        let reader = {
            let dictionary = dictionary.clone();
            thread::spawn(move || {
                if let Some(index) = dictionary.find(key(7)) {
                    assert_whole(&dictionary, index, 7, "new");
                }
            })
        };
        let index = dictionary.insert(key(7), texts(b"new"));
        reader.join().unwrap();
        assert_eq!(dictionary.find(key(7)), Some(index));
    });
}

#[test]
fn two_sites_inserted_at_once_are_both_found() {
    model(|| {
        let dictionary = Arc::new(Dictionary::new());
        let other = {
            let dictionary = dictionary.clone();
            thread::spawn(move || dictionary.insert(key(8), texts(b"other")))
        };
        let own = dictionary.insert(key(7), texts(b"own"));
        let other = other.join().unwrap();
        assert_ne!(own, other);
        for (line, index, func) in [(7, own, "own"), (8, other, "other")] {
            assert_eq!(dictionary.find(key(line)), Some(index));
            assert_whole(&dictionary, index, line, func);
        }
        assert_eq!(dictionary.overflows(), 0);
    });
}

#[test]
fn a_site_that_two_processes_insert_at_once_has_one_name_and_loses_no_operation() {
    model(|| {
        let dictionary = Arc::new(Dictionary::new());
        let insert = |dictionary: &Dictionary| {
            let index = dictionary.insert(key(7), texts(b"new"));
            assert_whole(dictionary, index, 7, "new");
            index
        };
        let other = {
            let dictionary = dictionary.clone();
            thread::spawn(move || insert(&dictionary))
        };
        let both = [insert(&dictionary), other.join().unwrap()];
        let found = dictionary.find(key(7)).expect("it is there");
        // Two indices at most, with one text between them: reports merge them.
        assert!(both.contains(&found), "{found} of {both:?}");
        for index in both {
            assert_whole(&dictionary, index, 7, "new");
        }
        assert_eq!(dictionary.overflows(), 0);
    });
}

#[test]
fn a_reader_never_sees_more_freed_than_allocated_whoever_frees() {
    model(|| {
        // One row per process; the block goes from the first to the second through a word, as pools hand blocks on.
        let rows = Arc::new([Counts::default(), Counts::default()]);
        let block = Arc::new(AtomicU64::new(0));
        let freeing = {
            let (rows, block) = (rows.clone(), block.clone());
            thread::spawn(move || {
                if block.load(Ordering::Acquire) == 1 {
                    rows[1].freed(64);
                }
            })
        };
        let reader = {
            let rows = rows.clone();
            thread::spawn(move || {
                let mut sum = Tally::default();
                rows.iter().for_each(|row| row.read_freed(&mut sum));
                rows.iter().for_each(|row| row.read_allocated(&mut sum));
                assert!(sum.live_bytes() >= 0 && sum.live_blocks() >= 0, "{sum:?}");
            })
        };
        rows[0].allocated(64);
        block.store(1, Ordering::Release);
        freeing.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn adds_of_many_writers_are_all_there() {
    model(|| {
        let row = Arc::new(Counts::default());
        let other = {
            let row = row.clone();
            thread::spawn(move || row.add(Writer::OneOfMany, (1, 10), (0, 0), 3))
        };
        row.add(Writer::OneOfMany, (1, 20), (1, 5), 0);
        other.join().unwrap();
        let tally = row.tally();
        assert_eq!((tally.allocs, tally.bytes_allocated), (2, 30));
        assert_eq!((tally.frees, tally.bytes_freed), (1, 5));
        assert_eq!(tally.unbooked, 3);
    });
}

fn mark(name: &str, value: u64) -> Mark {
    Mark {
        name: name.into(),
        time_ms: value,
        messages: value,
        registers: value,
        held: vec![(value as i64, -(value as i64))],
    }
}

#[test]
fn a_mark_that_is_read_while_it_is_replaced_is_whole_or_absent() {
    model(|| {
        let marks = Arc::new(Marks::new());
        assert!(marks.take(&mark("a", 1)));
        let reader = {
            let marks = marks.clone();
            thread::spawn(move || {
                let found = marks.find("a");
                assert!(found.is_none_or(|found| found == mark("a", 1)));
            })
        };
        // There is one slot in a model build: the newer mark takes it.
        assert!(marks.take(&mark("b", 2)));
        reader.join().unwrap();
        assert_eq!(marks.find("b"), Some(mark("b", 2)));
        assert_eq!(marks.find("a"), None);
    });
}

#[test]
fn of_two_marks_taken_at_once_one_is_kept_whole_and_the_other_refused_or_replaced() {
    model(|| {
        let marks = Arc::new(Marks::new());
        let other = {
            let marks = marks.clone();
            thread::spawn(move || marks.take(&mark("a", 1)))
        };
        let own = marks.take(&mark("a", 2));
        let other = other.join().unwrap();
        assert!(own || other);
        let kept = marks.find("a");
        assert!(
            (other && kept == Some(mark("a", 1))) || (own && kept == Some(mark("a", 2))),
            "{own} {other} {kept:?}"
        );
    });
}
