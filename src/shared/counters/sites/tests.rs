//! The dictionary and the counters, in one process and by its threads.
//! Forbidden here: models of interleavings (tests/loom_sites.rs).

use crate::shared::counters::sites::*;

fn key(file: usize, line: u32) -> Key {
    Key {
        pool: SitePool::Shm,
        file,
        line,
    }
}

fn texts(file: &str) -> Texts<'_> {
    Texts {
        file: file.as_bytes(),
        func: b"make",
        module: b"core",
    }
}

#[test]
fn a_site_is_found_again_and_another_line_pool_or_file_is_another_site() {
    let sites = Sites::map().unwrap();
    let index = sites.insert(key(0x1000, 7), texts("core: a.c"));
    assert_eq!(sites.find(key(0x1000, 7)), Some(index));
    assert_eq!(
        sites.insert(key(0x1000, 7), texts("other")),
        index,
        "known already"
    );
    let pkg = Key {
        pool: SitePool::Pkg,
        ..key(0x1000, 7)
    };
    for other in [key(0x1000, 8), key(0x1008, 7), pkg] {
        assert_eq!(sites.find(other), None);
    }
    let named = sites.place(index).unwrap();
    assert_eq!((named.line, named.pool), (7, SitePool::Shm));
    assert_eq!(
        (named.file.as_str(), named.func.as_str()),
        ("core: a.c", "make")
    );
}

#[test]
fn a_long_text_keeps_its_end() {
    let sites = Sites::map().unwrap();
    let long = format!("core: {}/end.c", "x".repeat(200));
    let index = sites.insert(key(1, 1), texts(&long));
    let file = sites.place(index).unwrap().file;
    assert!(
        file.len() == FILE_BYTES && file.ends_with("xx/end.c"),
        "{file}"
    );
}

#[test]
fn what_finds_no_index_is_counted_in_the_overflow_row() {
    let sites = Sites::map().unwrap();
    assert_eq!(sites.unknown(SitePool::Pkg), before_row(SitePool::Pkg));
    let given = (0..2 * SITES).map(|i| sites.insert(key(8 * (i + 1), i as u32), texts("f")));
    let mut indices: Vec<usize> = given
        .filter(|i| *i != overflow_row(SitePool::Shm))
        .collect();
    let count = indices.len();
    assert!(count > SITES * 9 / 10 && count <= SITES, "{count}");
    assert_eq!(sites.overflows() as usize, 2 * SITES - count);
    indices.sort_unstable();
    indices.dedup();
    assert_eq!(indices.len(), count, "each index is given once");
    assert_eq!(sites.count(), SITES);
    assert_eq!(sites.unknown(SitePool::Pkg), overflow_row(SitePool::Pkg));
}

#[test]
fn a_slot_whose_claimer_was_killed_is_passed_by() {
    let sites = Sites::map().unwrap();
    let site = key(0x4000, 3);
    sites.claim_and_die(site);
    assert_eq!(sites.find(site), None);
    let index = sites.insert(site, texts("f"));
    assert_eq!(sites.find(site), Some(index));
    assert_ne!(index, overflow_row(SitePool::Shm));
}

#[test]
fn threads_that_meet_new_sites_together_count_every_operation_once() {
    let sites = Sites::map().unwrap();
    const ROUNDS: u64 = 100_000;
    std::thread::scope(|scope| {
        for process in 0..4 {
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let site = key(0x10_0000 + 8 * (round as usize % 100), 1);
                    let index = sites
                        .find(site)
                        .unwrap_or_else(|| sites.insert(site, texts("f")));
                    sites.table(process).unwrap()[index].allocated(10);
                    sites.threads()[before_row(SitePool::Shm)].add(
                        Writer::OneOfMany,
                        (1, 10),
                        (0, 0),
                        0,
                    );
                    sites.table(process).unwrap()[index].freed(10);
                }
            });
        }
        for _ in 0..2000 {
            for (index, sum) in sites.sums(4).iter().enumerate() {
                assert!(
                    sum.live_bytes() >= 0 && sum.live_blocks() >= 0,
                    "{index}: {sum:?}"
                );
            }
        }
    });
    let all = sites.sums(4).iter().fold(Tally::default(), |mut all, sum| {
        all.plus(sum);
        all
    });
    assert_eq!((all.allocs, all.bytes_allocated), (8 * ROUNDS, 80 * ROUNDS));
    assert_eq!((all.frees, all.bytes_freed), (4 * ROUNDS, 40 * ROUNDS));
}

#[test]
fn failures_keep_the_largest_size_and_both_times() {
    let counts = Counts::new();
    counts.failed(100, 1000);
    counts.failed(5000, 1010);
    counts.failed(50, 1020);
    let tally = counts.tally();
    assert_eq!((tally.failures, tally.largest_failed), (3, 5000));
    assert_eq!((tally.first_failed, tally.last_failed), (1000, 1020));
}

#[test]
fn the_place_that_grows_is_followed_with_its_neighbours_and_what_the_manager_adds() {
    const AROUND: u64 = 50; // bytes that the manager takes for each block
    let sites = Sites::map().unwrap();
    let of = |line, module: &'static [u8]| {
        let texts = Texts {
            module,
            ..texts("core: a.c")
        };
        sites.insert(key(0x1000, line), texts)
    };
    let (calm, leaking, neighbour, stranger) = (
        of(1, b"core"),
        of(2, b"dialog"),
        of(3, b"dialog"),
        of(4, b"usrloc"),
    );
    let growths = [(leaking, 100.0), (neighbour, 40.0), (stranger, 30.0)];
    let mut leading = Leading::default();
    let mut look = |blocks: [u64; 4]| {
        let mut sums = vec![Tally::default(); sites.count()];
        for (index, blocks) in [calm, leaking, neighbour, stranger].into_iter().zip(blocks) {
            sums[index].allocs = blocks;
            sums[index].bytes_allocated = 100 * blocks;
        }
        let pool: u64 = blocks.iter().map(|blocks| (100 + AROUND) * blocks).sum();
        leading.look(sites, &sums, pool as i64);
        leading.held()
    };
    assert_eq!(look([1000, 10, 10, 10]), None, "nothing grows");
    for (index, steady) in growths {
        sites.set_growth(
            index,
            Growth {
                steady,
                ..Growth::default()
            },
        );
    }
    let held = |bytes| {
        Some(Held {
            number: leaking,
            bytes,
        })
    };
    assert_eq!(look([1000, 20, 10, 10]), held(20 * 150));
    assert_eq!(
        look([1000, 30, 14, 90]),
        held(34 * 150),
        "and four of its module, none of another"
    );
    sites.set_growth(
        calm,
        Growth {
            steady: 150.0,
            ..Growth::default()
        },
    );
    assert_eq!(
        look([1100, 40, 18, 90]),
        held(48 * 150),
        "it stays while it grows half as much as another"
    );
    sites.set_growth(
        calm,
        Growth {
            steady: 250.0,
            ..Growth::default()
        },
    );
    assert_eq!(look([1200, 50, 22, 90]).map(|held| held.number), Some(calm));
}
