//! The place in shm that grows most steadily, with what its blocks take of the pool: what a leak is foretold by.
//! Forbidden here: counting, and foreseeing (that is `guard::forecast`). The sampling process's own.

use crate::guard::foresee::forecast::place;
use crate::shared::counters::sites::{SitePool, Sites, Tally};

/// What grows by this share of the place that grows most, in the same module, is part of the same leak.
const SHARES: f64 = 0.1;
/// No manager puts more around a block, rounding included.
const MOST_AROUND: f64 = 256.0;

/// A place by its index, and what it takes of the pool with the places that grow with it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Held {
    /// Index of the site that grows most steadily.
    pub number: usize,
    /// Bytes, the manager's own around the blocks included.
    pub bytes: i64,
}

/// Which place it was, and what each place took when it was looked at last.
#[derive(Default)]
pub struct Leading {
    held: Option<Held>,
    took: Vec<i64>,
}

impl Leading {
    /// Goes on with the place that an earlier process had; what came meanwhile is not added.
    pub fn after(held: Option<Held>) -> Leading {
        Leading {
            held,
            took: Vec::new(),
        }
    }

    /// One look, after the growths of all sites were published. `pool` is real use without what is in no block.
    pub fn look(&mut self, sites: &Sites, sums: &[Tally], pool: i64) {
        let is_shm = |index: usize| sites.pool(index) == Some(SitePool::Shm);
        let shm = || sums.iter().enumerate().filter(|(index, _)| is_shm(*index));
        let (bytes, blocks) = shm().fold((0, 0), |(bytes, blocks), (_, sum)| {
            (bytes + sum.live_bytes(), blocks + sum.live_blocks())
        });
        let around = ((pool - bytes) as f64 / blocks.max(1) as f64).clamp(0.0, MOST_AROUND);
        let takes = |sum: &Tally| sum.live_bytes() + (around * sum.live_blocks() as f64) as i64;
        let steady = |index: usize| sites.growth(index).steady;
        let current = self.held.map(|held| held.number);
        let chosen = place::choose(current, shm().map(|(index, _)| (index, steady(index))));
        self.held = chosen.and_then(|number| {
            let own = takes(sums.get(number)?);
            let Some(held) = self.held.filter(|held| held.number == number) else {
                return Some(Held { number, bytes: own });
            };
            let module = sites.place(number)?.module;
            let least = SHARES * steady(number);
            let joins = |index: usize| {
                index == number
                    || (steady(index) > least.max(0.0)
                        && sites
                            .place(index)
                            .is_some_and(|place| place.module == module))
            };
            let gained: i64 = shm()
                .filter(|(index, _)| joins(*index))
                .filter_map(|(index, sum)| Some(takes(sum) - self.took.get(index)?))
                .sum();
            let bytes = held.bytes + gained;
            Some(Held { number, bytes })
        });
        self.took.clear();
        self.took.extend(sums.iter().map(takes));
    }

    /// By the last look.
    pub fn held(&self) -> Option<Held> {
        self.held
    }
}
