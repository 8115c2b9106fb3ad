//! The rule: a place leaks when what it holds rises in every measured round, and by more than the limit per request.
//! Forbidden here: asking anything; figures come as arguments.
//!
//! What else must be right, and why:
//! * A worker's first requests fill its own caches, and another worker may get its first ones in every round. So of
//!   each process's own memory its first rise at a place does not count, warm-up rounds included.
//! * What is alive and will end by itself (bindings, dialogs, cells that expire) is subtracted from its module's
//!   places: as many blocks for each as the place held for each when measuring began.
//! * A cache that still fills rises ever less; a leak does not. Where the second half of the rounds rose by less than
//!   half of the first, the place is told as filling, and held.
//! * What expires by a timer falls while nothing arrives, and a leak never does. A leak takes the same for each request, so
//!   only a place whose rounds differ is waited for.
//! * Blocks have other sizes than what was asked for, and may be exchanged for others. A place whose number of blocks
//!   stands still must rise by more than that in all.

use std::collections::{BTreeMap, BTreeSet};

use crate::snapshot::{Held, Place, Snapshot, Worker};

/// A block may be larger than what was asked for by about the smallest fragment that a manager splits off.
const ROUNDING: i64 = 256;
/// Memory outside the pools is seen in pages, and libc's and Python's caches take some: in all measured rounds.
const PRIVATE_LEAST: i64 = 32 * 1024;
/// A Python block with what it refers to, about; only to compare blocks with the limit in bytes.
const PYTHON_BLOCK: f64 = 128.0;

/// Where memory is kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Where {
    /// In one of Kamailio's pools.
    Pool(Place),
    /// Outside them, in this process.
    Outside {
        /// core.psx index.
        worker: u64,
        /// Its description.
        name: String,
        /// "python" or "libc".
        part: &'static str,
    },
}

/// What rose.
#[derive(Clone, Debug, PartialEq)]
pub struct Rise {
    /// Where.
    pub at: Where,
    /// Bytes in each measured round, less what is alive for a reason.
    pub rounds: Vec<i64>,
    /// Blocks in each measured round.
    pub blocks: Vec<i64>,
    /// Processes whose own memory rose, the most first; empty for shm.
    pub workers: Vec<u64>,
}

impl Rise {
    /// Bytes in all measured rounds.
    pub fn bytes(&self) -> i64 {
        self.rounds.iter().sum()
    }
}

/// What the rounds say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// Places that leak, the worst first.
    pub leaks: Vec<Rise>,
    /// Places that rose in every round, but ever less: caches that fill, most likely.
    pub filling: Vec<Rise>,
    /// Places that rose in every round, and fell when nothing arrived any more: what they hold expires.
    pub expiring: Vec<Rise>,
}

/// What may be kept, in bytes per request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// At a place in the pools.
    pub pools: f64,
    /// By a process outside them.
    pub private: f64,
}

/// Judges snapshots: one before the first round, one after each; the first `warmup` rounds are not measured.
pub fn judge(snapshots: &[Snapshot], warmup: usize, limits: Limits) -> Findings {
    let Some(measured) = snapshots.get(warmup..).filter(|s| s.len() > 1) else {
        return Findings::default();
    };
    let requests = requests(&measured[0], &measured[measured.len() - 1]);
    let mut rises = shm(measured);
    rises.extend(pkg(snapshots, warmup));
    let mut found = Findings::default();
    for rise in rises {
        let per_request = rise.bytes() as f64 / requests as f64;
        if !rises_always(&rise) || per_request <= limits.pools {
            continue;
        }
        match fills(&rise.rounds) {
            true => found.filling.push(rise),
            false => found.leaks.push(rise),
        }
    }
    found.leaks.extend(outside(measured, limits.private));
    let worst = |rise: &Rise| std::cmp::Reverse(rise.bytes());
    found.leaks.sort_by_key(worst);
    found.filling.sort_by_key(worst);
    found
}

impl Findings {
    /// Whether a place of the pools rose unevenly: it may be one whose memory expires.
    pub fn has_uneven(&self) -> bool {
        self.leaks.iter().any(is_uneven)
    }

    /// A look at the quiet server: places that rose unevenly and gave back more than half of that by now are no leak.
    pub fn look_again(&mut self, end: &Snapshot, now: &Snapshot) {
        let has_fallen = |rise: &Rise| match &rise.at {
            Where::Pool(place) => {
                let fell = end.held(place).bytes - now.held(place).bytes;
                is_uneven(rise) && fell * 2 > rise.bytes()
            }
            Where::Outside { .. } => false,
        };
        let (fallen, leaks) = std::mem::take(&mut self.leaks)
            .into_iter()
            .partition(has_fallen);
        self.leaks = leaks;
        self.expiring.extend::<Vec<Rise>>(fallen);
    }
}

/// The smallest round is less than three quarters of the largest.
fn is_uneven(rise: &Rise) -> bool {
    let least = rise.rounds.iter().min().copied().unwrap_or(0);
    let most = rise.rounds.iter().max().copied().unwrap_or(0);
    matches!(rise.at, Where::Pool(_)) && least * 4 < most * 3
}

/// Requests between two moments, at least 1; where Kamailio does not count them, messages.
pub fn requests(from: &Snapshot, to: &Snapshot) -> u64 {
    let of = |s: &Snapshot| s.requests.get("").copied().unwrap_or(0);
    match of(to).saturating_sub(of(from)) {
        0 => to.messages().saturating_sub(from.messages()).max(1),
        n => n,
    }
}

fn rises_always(rise: &Rise) -> bool {
    let all = |of: &[i64]| of.iter().all(|n| *n > 0);
    all(&rise.rounds)
        && (all(&rise.blocks) || rise.bytes() > ROUNDING * (1 + rise.rounds.len() as i64))
}

/// Whether the later half rose by less than half of the earlier one.
fn fills(rounds: &[i64]) -> bool {
    let half = rounds.len() / 2;
    let sum = |of: &[i64]| of.iter().sum::<i64>();
    let (first, last) = (sum(&rounds[..half]), sum(&rounds[rounds.len() - half..]));
    last * 2 < first
}

fn shm(measured: &[Snapshot]) -> Vec<Rise> {
    let last = &measured[measured.len() - 1];
    last.shm
        .keys()
        .map(|place| {
            let held = |s: &Snapshot| s.shm.get(place).copied().unwrap_or_default();
            let steps = measured.windows(2).map(|pair| {
                let (before, after) = (held(&pair[0]), held(&pair[1]));
                let rise = Held {
                    bytes: after.bytes - before.bytes,
                    blocks: after.blocks - before.blocks,
                };
                less_alive(
                    rise,
                    &pair[0],
                    &pair[1],
                    place,
                    held(&measured[0]),
                    &measured[0],
                )
            });
            let (rounds, blocks) = steps.map(|h| (h.bytes, h.blocks)).unzip();
            Rise {
                at: Where::Pool(place.clone()),
                rounds,
                blocks,
                workers: Vec::new(),
            }
        })
        .collect()
}

/// Less the blocks of what came to life in this round and ends by itself.
fn less_alive(
    rise: Held,
    before: &Snapshot,
    after: &Snapshot,
    place: &Place,
    base: Held,
    start: &Snapshot,
) -> Held {
    let count = |s: &Snapshot| s.alive.get(place.module.as_str()).copied().unwrap_or(0);
    let came = count(after) - count(before);
    if came == 0 || rise.blocks == 0 {
        return rise;
    }
    let each = match count(start) {
        0 => 1.0,
        n => (base.blocks as f64 / n as f64).round().max(1.0),
    };
    let explained = (came as f64 * each).clamp(-1e15, 1e15) as i64;
    // No more than there is: a place that holds nothing for them is not made to fall.
    let explained = if came > 0 {
        explained.min(rise.blocks.max(0))
    } else {
        explained.max(rise.blocks.min(0))
    };
    let size = rise.bytes as f64 / rise.blocks as f64;
    Held {
        bytes: rise.bytes - (size * explained as f64).round() as i64,
        blocks: rise.blocks - explained,
    }
}

fn pkg(snapshots: &[Snapshot], warmup: usize) -> Vec<Rise> {
    let last = &snapshots[snapshots.len() - 1];
    let places: BTreeSet<&Place> = last.pkg.keys().map(|(_, place)| place).collect();
    let mut by_place: BTreeMap<&Place, Vec<u64>> = BTreeMap::new();
    for (index, place) in last.pkg.keys() {
        by_place.entry(place).or_default().push(*index);
    }
    let count = snapshots.len() - 1 - warmup;
    places
        .into_iter()
        .map(|place| {
            let (mut rounds, mut blocks) = (vec![0; count], vec![0; count]);
            let mut workers: Vec<(i64, u64)> = Vec::new();
            for index in &by_place[place] {
                let steps = counted(snapshots, *index, place);
                let own = &steps[warmup..];
                for (at, step) in own.iter().enumerate() {
                    rounds[at] += step.bytes;
                    blocks[at] += step.blocks;
                }
                let sum: i64 = own.iter().map(|s| s.bytes).sum();
                if sum > 0 {
                    workers.push((-sum, *index));
                }
            }
            workers.sort_unstable();
            Rise {
                at: Where::Pool(place.clone()),
                rounds,
                blocks,
                workers: workers.into_iter().map(|(_, index)| index).collect(),
            }
        })
        .collect()
}

/// A process's rises at a place in every round; the first one, of its first requests, is none.
fn counted(snapshots: &[Snapshot], index: u64, place: &Place) -> Vec<Held> {
    let key = (index, place.clone());
    let held = |s: &Snapshot| s.pkg.get(&key).copied().unwrap_or_default();
    let mut is_first = snapshots
        .last()
        .and_then(|s| s.workers.iter().find(|w| w.index == index))
        .is_some_and(Worker::is_sip);
    snapshots
        .windows(2)
        .map(|pair| {
            let (before, after) = (held(&pair[0]), held(&pair[1]));
            let step = Held {
                bytes: after.bytes - before.bytes,
                blocks: after.blocks - before.blocks,
            };
            if is_first && step.bytes > 0 {
                is_first = false;
                return Held::default();
            }
            step
        })
        .collect()
}

/// Processes whose memory outside the pools rises in every round.
fn outside(measured: &[Snapshot], limit: f64) -> Vec<Rise> {
    let last = &measured[measured.len() - 1];
    let each = last
        .workers
        .iter()
        .filter(|worker| !worker.is_the_gates())
        .filter_map(|worker| one_outside(measured, worker, limit));
    together(each.collect())
}

/// Processes of one kind that keep the same sort of memory are one leak: all of them run the same configuration.
fn together(mut each: Vec<Rise>) -> Vec<Rise> {
    let kind = |rise: &Rise| match &rise.at {
        Where::Outside { name, part, .. } => {
            let kind = name.split(" child=").next().unwrap_or_default();
            (*part, kind.to_owned())
        }
        Where::Pool(_) => ("", String::new()),
    };
    each.sort_by_key(|rise| std::cmp::Reverse(rise.bytes()));
    let mut all: Vec<Rise> = Vec::new();
    for rise in each {
        match all.iter_mut().find(|first| kind(first) == kind(&rise)) {
            None => all.push(rise),
            Some(first) => {
                let add = |to: &mut [i64], of: &[i64]| {
                    to.iter_mut().zip(of).for_each(|(sum, n)| *sum += n);
                };
                add(&mut first.rounds, &rise.rounds);
                add(&mut first.blocks, &rise.blocks);
                first.workers.extend(rise.workers);
            }
        }
    }
    all
}

fn one_outside(measured: &[Snapshot], worker: &Worker, limit: f64) -> Option<Rise> {
    let of = |s: &Snapshot| s.workers.iter().find(|w| w.index == worker.index).cloned();
    let own: Vec<Worker> = measured.iter().map(of).collect::<Option<_>>()?;
    let steps = |value: &dyn Fn(&Worker) -> Option<i64>| {
        let values: Vec<i64> = own.iter().map(value).collect::<Option<_>>()?;
        Some(
            values
                .windows(2)
                .map(|pair| pair[1] - pair[0])
                .collect::<Vec<i64>>(),
        )
    };
    let requests = own[own.len() - 1]
        .messages
        .saturating_sub(own[0].messages)
        .max(1) as f64;
    let is_more = |rounds: &[i64], least: i64, limit: f64| {
        let sum: i64 = rounds.iter().sum();
        sum >= least && sum as f64 / requests > limit && !fills(rounds)
    };
    // A process tells of itself once in a second, at the end of a message, and a dictionary grows by doubling: such a
    // figure may stand still for a round.
    let is_leak = |rounds: &[i64], least, limit| {
        let rising = rounds.iter().filter(|n| **n > 0).count();
        rounds.iter().all(|n| *n >= 0) && rising * 2 > rounds.len() && is_more(rounds, least, limit)
    };
    let is_leak_in_pages = |rounds: &[i64], least, limit| {
        rounds.iter().all(|n| *n > 0) && is_more(rounds, least, limit)
    };
    let rise = |part, rounds: Vec<i64>, blocks| Rise {
        at: Where::Outside {
            worker: worker.index,
            name: worker.name.clone(),
            part,
        },
        rounds,
        blocks,
        workers: vec![worker.index],
    };
    let private = steps(&|w| Some(w.private)).unwrap_or_default();
    if let Some(blocks) = steps(&|w| w.python) {
        if is_leak(&blocks, 50, limit / PYTHON_BLOCK) {
            // Its bytes are what the process grew by, or the blocks' usual size where pages do not show it yet.
            let sum: i64 = private.iter().sum();
            let least: Vec<i64> = blocks.iter().map(|n| n * PYTHON_BLOCK as i64).collect();
            let rounds = if sum > least.iter().sum() {
                private
            } else {
                least
            };
            return Some(rise("python", rounds, blocks));
        }
    }
    let none = |rounds: &[i64]| vec![0; rounds.len()];
    match steps(&|w| w.heap) {
        Some(heap) if is_leak(&heap, PRIVATE_LEAST, limit) => {
            let part = if worker.python.is_some() {
                "python"
            } else {
                "libc"
            };
            let blocks = none(&heap);
            Some(rise(part, heap, blocks))
        }
        // What libc's heap does not show is mapped by somebody else; pages are a coarse measure.
        _ if is_leak_in_pages(&private, 8 * PRIVATE_LEAST, limit.max(256.0)) => {
            let blocks = none(&private);
            Some(rise("libc", private, blocks))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        pools: 0.0,
        private: 64.0,
    };

    fn place(pool: &str, module: &str) -> Place {
        Place {
            pool: pool.into(),
            module: module.into(),
            file: "a.c".into(),
            line: 1,
            function: "f".into(),
        }
    }

    fn worker(index: u64, messages: u64) -> Worker {
        Worker {
            index,
            messages,
            ..Worker::default()
        }
    }

    /// One snapshot per value; 100 requests in each round.
    fn of(count: usize, mut fill: impl FnMut(usize, &mut Snapshot)) -> Vec<Snapshot> {
        let one = |n: usize| {
            let mut s = Snapshot::default();
            s.requests.insert(String::new(), 100 * n as u64);
            s.workers = vec![
                worker(0, 0),
                worker(1, 60 * n as u64),
                worker(2, 40 * n as u64),
            ];
            fill(n, &mut s);
            s
        };
        (0..count).map(one).collect()
    }

    fn series(values: &[(i64, i64)]) -> Vec<Snapshot> {
        of(values.len(), |n, s| {
            let (bytes, blocks) = values[n];
            s.shm.insert(place("shm", "m"), Held { bytes, blocks });
        })
    }

    fn leaks(snapshots: &[Snapshot]) -> usize {
        judge(snapshots, 0, LIMITS).leaks.len()
    }

    #[test]
    fn a_place_that_rises_in_every_round_leaks() {
        let rising = series(&[(0, 0), (100, 1), (200, 2), (300, 3), (400, 4), (500, 5)]);
        assert_eq!(leaks(&rising), 1);
        assert_eq!(judge(&rising, 2, LIMITS).leaks[0].rounds, [100, 100, 100]);
    }

    #[test]
    fn what_rose_unevenly_and_falls_in_the_quiet_has_expired_and_a_leak_does_not_fall() {
        let held = |bytes, blocks| series(&[(bytes, blocks)]).remove(0);
        let uneven = series(&[(0, 0), (27_000, 50), (29_500, 55), (56_000, 103)]);
        let end = &uneven[3];
        let mut found = judge(&uneven, 0, LIMITS);
        assert!(found.has_uneven());
        found.look_again(end, &held(40_000, 70));
        assert_eq!((found.leaks.len(), found.expiring.len()), (1, 0));
        found.look_again(end, &held(2_000, 5));
        assert_eq!((found.leaks.len(), found.expiring.len()), (0, 1));
        // the same for each request: a leak, whatever is freed for another reason later
        let even = series(&[(0, 0), (100, 1), (200, 2), (300, 3)]);
        let mut found = judge(&even, 0, LIMITS);
        assert!(!found.has_uneven());
        found.look_again(&even[3], &held(0, 0));
        assert_eq!((found.leaks.len(), found.expiring.len()), (1, 0));
    }

    #[test]
    fn a_place_that_stands_still_or_falls_once_does_not() {
        assert_eq!(
            leaks(&series(&[
                (0, 0),
                (100, 1),
                (200, 2),
                (200, 2),
                (300, 3),
                (400, 4)
            ])),
            0
        );
        assert_eq!(
            leaks(&series(&[
                (0, 0),
                (900, 9),
                (800, 8),
                (900, 9),
                (1000, 10),
                (1100, 11)
            ])),
            0
        );
    }

    #[test]
    fn what_is_within_the_limit_per_request_is_held() {
        let rising = series(&[(0, 0), (100, 1), (200, 2), (300, 3), (400, 4), (500, 5)]);
        let limits = |pools| Limits {
            pools,
            private: 64.0,
        };
        assert_eq!(judge(&rising, 0, limits(1.0)).leaks.len(), 0);
        assert_eq!(judge(&rising, 0, limits(0.9)).leaks.len(), 1);
    }

    #[test]
    fn a_cache_that_fills_ever_slower_is_told_and_held() {
        let filling = series(&[
            (0, 0),
            (1000, 10),
            (1600, 16),
            (1900, 19),
            (2100, 21),
            (2200, 22),
        ]);
        let found = judge(&filling, 0, LIMITS);
        assert_eq!((found.leaks.len(), found.filling.len()), (0, 1));
    }

    #[test]
    fn rounding_of_as_many_blocks_is_no_leak_and_a_string_that_grows_is() {
        assert_eq!(
            leaks(&series(&[
                (100, 4),
                (116, 4),
                (132, 4),
                (140, 4),
                (156, 4),
                (172, 4)
            ])),
            0
        );
        assert_eq!(
            leaks(&series(&[
                (100, 1),
                (900, 1),
                (1700, 1),
                (2500, 1),
                (3300, 1),
                (4100, 1)
            ])),
            1
        );
    }

    #[test]
    fn bindings_that_live_are_subtracted_and_what_is_kept_beside_them_is_not() {
        let with = |extra: i64| {
            of(6, move |n, s| {
                let n = n as i64;
                let blocks = 2 * (50 + 10 * n) + extra * n;
                s.alive.insert("usrloc", 50 + 10 * n);
                s.shm.insert(
                    place("shm", "usrloc"),
                    Held {
                        bytes: 80 * blocks,
                        blocks,
                    },
                );
            })
        };
        assert_eq!(leaks(&with(0)), 0);
        let found = judge(&with(3), 0, LIMITS);
        assert_eq!(found.leaks[0].rounds, [240; 5]);
    }

    #[test]
    fn the_first_requests_of_another_worker_in_every_round_are_no_leak() {
        // Worker 1 fills its cache in round 1, worker 2 in round 2, and so on.
        let first = of(6, |n, s| {
            s.workers = (1..6)
                .map(|i| worker(i, u64::from(n as u64 >= i)))
                .collect();
            for i in 1..6 {
                let bytes = if n as u64 >= i { 5000 } else { 0 };
                s.pkg.insert(
                    (i, place("pkg", "core")),
                    Held {
                        bytes,
                        blocks: bytes / 5000,
                    },
                );
            }
        });
        assert_eq!(leaks(&first), 0);
    }

    #[test]
    fn a_leak_in_pkg_of_one_worker_is_named_with_it() {
        let found = judge(
            &of(7, |n, s| {
                for i in 0..3 {
                    let blocks = if i == 2 { n as i64 } else { 1 };
                    s.pkg.insert(
                        (i, place("pkg", "m")),
                        Held {
                            bytes: 48 * blocks,
                            blocks,
                        },
                    );
                }
            }),
            1,
            LIMITS,
        );
        assert_eq!(found.leaks.len(), 1);
        assert_eq!(
            (&found.leaks[0].rounds, &found.leaks[0].workers),
            (&vec![48; 5], &vec![2])
        );
    }

    #[test]
    fn a_process_without_messages_has_no_first_requests() {
        let timer = of(4, |n, s| {
            s.pkg.insert(
                (0, place("pkg", "m")),
                Held {
                    bytes: 48 * n as i64,
                    blocks: n as i64,
                },
            );
        });
        assert_eq!(judge(&timer, 0, LIMITS).leaks[0].workers, [0]);
    }

    #[test]
    fn python_blocks_that_rise_are_named_and_pages_that_move_are_not() {
        let python = |step: i64| {
            of(6, move |n, s| {
                s.workers[1].python = Some(20_000 + step * n as i64);
                s.workers[1].private = 9_000_000 + 4096 * n as i64;
            })
        };
        assert_eq!(leaks(&python(0)), 0);
        let moves = |n: usize| 20_000 + [0, 300, 500, 400, 900, 1200][n];
        assert_eq!(
            leaks(&of(6, |n, s| s.workers[1].python = Some(moves(n)))),
            0,
            "it fell once"
        );
        let found = judge(&python(120), 0, LIMITS);
        assert!(
            matches!(
                &found.leaks[0].at,
                Where::Outside {
                    worker: 1,
                    part: "python",
                    ..
                }
            ),
            "{found:?}"
        );
    }

    #[test]
    fn workers_that_keep_the_same_sort_of_memory_are_one_leak() {
        let snapshots = of(5, |n, s| {
            for (index, name) in [
                (0, "timer"),
                (1, "udp receiver child=0"),
                (2, "udp receiver child=1"),
            ] {
                let worker = &mut s.workers[index];
                worker.name = name.into();
                worker.heap = Some(n as i64 * 10_000 * index as i64);
            }
        });
        let found = judge(&snapshots, 0, LIMITS);
        assert_eq!(found.leaks.len(), 1, "{found:?}");
        assert_eq!(found.leaks[0].workers, [2, 1]);
        assert_eq!(found.leaks[0].rounds, [30_000; 4]);
    }

    #[test]
    fn the_worst_is_first() {
        let found = judge(
            &of(4, |n, s| {
                for (module, size) in [("a", 10), ("b", 1000), ("c", 100)] {
                    let blocks = n as i64;
                    s.shm.insert(
                        place("shm", module),
                        Held {
                            bytes: size * blocks,
                            blocks,
                        },
                    );
                }
            }),
            0,
            LIMITS,
        );
        let modules = found.leaks.iter().map(|rise| match &rise.at {
            Where::Pool(place) => place.module.as_str(),
            Where::Outside { .. } => "",
        });
        assert_eq!(modules.collect::<Vec<_>>(), ["b", "c", "a"]);
    }
}
