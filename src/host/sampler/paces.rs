//! The pace of each pool's last seconds: when it is full if that goes on. The sampling process's own.
//! Forbidden here: judging a pace (that is `guard::pace`), reading memory.

use crate::guard::foresee::pace::Pace;
use crate::guard::terms::{text::NONE_FORESEEN_S, words::Pool};

/// One pace and what it says.
#[derive(Clone, Copy, Default)]
struct Paced {
    pace: Pace,
    /// Seconds until full, plus one; 0: it does not grow.
    full_in: u64,
}

/// The paces of shm, the machine and each process.
#[derive(Default)]
pub struct Paces {
    shm: Paced,
    os: Paced,
    pkg: Vec<Paced>,
}

impl Paces {
    /// Takes use of a pool (of a process, for pkg) of `size` bytes.
    pub fn push(&mut self, pool: Pool, worker: Option<usize>, now_ms: u64, used: u64, size: u64) {
        let paced = match (pool, worker) {
            (Pool::Shm, _) => &mut self.shm,
            (Pool::Os, _) => &mut self.os,
            (Pool::Pkg, worker) => {
                let index = worker.unwrap_or(0);
                if self.pkg.len() <= index {
                    self.pkg.resize_with(index + 1, Paced::default);
                }
                match self.pkg.get_mut(index) {
                    Some(paced) => paced,
                    None => return,
                }
            }
        };
        paced.pace.push(now_ms, used);
        paced.full_in = match paced.pace.full_in(size) {
            NONE_FORESEEN_S.. => 0,
            seconds => seconds + 1,
        };
    }

    /// Seconds until it is full at this rate; of pkg without a process, the one that comes first.
    /// [`NONE_FORESEEN_S`] when nothing grows.
    pub fn full_in(&self, pool: Pool, worker: Option<usize>) -> u64 {
        let seconds = |paced: &Paced| paced.full_in.checked_sub(1).unwrap_or(NONE_FORESEEN_S);
        match (pool, worker) {
            (Pool::Shm, _) => seconds(&self.shm),
            (Pool::Os, _) => seconds(&self.os),
            (Pool::Pkg, Some(index)) => self.pkg.get(index).map_or(NONE_FORESEEN_S, seconds),
            (Pool::Pkg, None) => self
                .pkg
                .iter()
                .map(seconds)
                .min()
                .unwrap_or(NONE_FORESEEN_S),
        }
    }
}
