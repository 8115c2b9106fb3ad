//! Fragmentation on a simulated heap (first fit, neighbours joined) whose truth is known.
//! Facts: blocks that come and go break nothing up; small blocks that stay between them do, and that is found; the
//! verdict goes when they do.

#[path = "simulator/mod.rs"]
#[allow(dead_code)]
mod simulator;

use memguard::guard::machine::fragments::{Fragments, Pieces};
use simulator::Random;

/// Units of a pool; a unit stands for 64 bytes.
const UNITS: usize = 1 << 15;

/// A heap: which units are taken.
struct Heap {
    taken: Vec<bool>,
}

impl Heap {
    fn new() -> Heap {
        Heap {
            taken: vec![false; UNITS],
        }
    }

    fn allocate(&mut self, units: usize) -> Option<(usize, usize)> {
        let mut run = 0;
        for at in 0..UNITS {
            run = if self.taken[at] { 0 } else { run + 1 };
            if run == units {
                let from = at + 1 - units;
                self.taken[from..=at].fill(true);
                return Some((from, units));
            }
        }
        None
    }

    fn free(&mut self, (from, units): (usize, usize)) {
        self.taken[from..from + units].fill(false);
    }

    /// Free bytes, and the largest free block as a manager tells it: the power of two below it.
    fn figures(&self) -> (u64, u64) {
        let (mut free, mut run, mut largest) = (0u64, 0u64, 0u64);
        for &taken in &self.taken {
            run = if taken { 0 } else { run + 1 };
            free += u64::from(!taken);
            largest = largest.max(run);
        }
        let class = largest.checked_ilog2().map_or(0, |log| 1u64 << log);
        (free * 64, class * 64)
    }

    fn verdict(&self, pool: &mut Fragments) -> Pieces {
        let (free, largest) = self.figures();
        pool.feed(UNITS as u64 * 64, free, Some(largest))
    }
}

#[test]
fn blocks_that_come_and_go_break_nothing_up() {
    for seed in 0..4 {
        let mut random = Random(seed);
        let (mut heap, mut pool) = (Heap::new(), Fragments::default());
        let mut held = Vec::new();
        for round in 0..4_000 {
            held.extend(heap.allocate(random.decades(2.0, 24.0) as usize));
            if held.len() > 1_500 {
                let gone = (random.bits() % held.len() as u64) as usize;
                heap.free(held.swap_remove(gone));
            }
            if round % 20 == 0 {
                let said = heap.verdict(&mut pool);
                assert_eq!(
                    said,
                    Pieces::Whole,
                    "seed {seed}, round {round}: {:?}",
                    heap.figures()
                );
            }
        }
    }
}

#[test]
fn small_blocks_that_stay_between_those_that_go_are_found_and_forgiven_when_they_go() {
    for seed in 0..4 {
        let mut random = Random(seed);
        let (mut heap, mut pool) = (Heap::new(), Fragments::default());
        let large = heap.allocate(UNITS / 4 * 3).expect("room");
        assert_eq!(
            heap.verdict(&mut pool),
            Pieces::Whole,
            "a quarter in one piece"
        );
        heap.free(large);
        let (mut stays, mut goes) = (Vec::new(), Vec::new());
        while let Some(block) = heap.allocate(1 + (random.bits() % 12) as usize) {
            let to = if stays.len() <= goes.len() {
                &mut stays
            } else {
                &mut goes
            };
            to.push(block);
        }
        assert_eq!(
            heap.verdict(&mut pool),
            Pieces::Whole,
            "full is not broken up"
        );
        goes.into_iter().for_each(|block| heap.free(block));
        let (free, largest) = heap.figures();
        assert!(
            free > UNITS as u64 * 64 / 3 && largest < 1024,
            "{free} {largest}"
        );
        assert_eq!(heap.verdict(&mut pool), Pieces::Fallen, "seed {seed}");
        stays.into_iter().for_each(|block| heap.free(block));
        assert_eq!(heap.verdict(&mut pool), Pieces::Whole, "seed {seed}");
    }
}
