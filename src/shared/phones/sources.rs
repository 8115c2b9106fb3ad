//! Accounts of the sources that were refused (an IPv4 address, an IPv6 /64): what each has moved the queue by.
//! Forbidden here: the rules (`guard::queue`), time, and addresses (a keyed number stands for each).
//!
//! ```text
//! set      account │ account │ … 8 of them        set = number % sets
//! account  key │ held │ tail                     each word stands for itself
//! ```
//!
//! An account whose times have passed says nothing, so its place is free: taking it is one exchange of the key, and
//! what a late writer of the source before it adds is one slot in a stranger's account. Where no place of a set is free
//! the source shares one with another, so that sources without number do not queue better than few. A process killed at
//! any instruction leaves an account that lacks its last slot.

use std::io;

use crate::guard::decide::queue;
use crate::shared::parts::{
    mapping::{self, SharedZeroable},
    sync::{AtomicU64, Ordering},
};

/// Sets of accounts; 200 bytes each.
const SETS: usize = if cfg!(loom) { 1 } else { 1024 };
/// Accounts in a set.
const WAYS: usize = if cfg!(loom) { 2 } else { 8 };
/// Lost races after which a step counts as made.
const TRIES: usize = if cfg!(loom) { 2 } else { 64 };

/// One source.
#[repr(C)]
pub struct Account {
    key: AtomicU64,
    /// What it holds of the common queue ([`queue::charge`]).
    held: AtomicU64,
    /// End of the last slot that it got anywhere.
    tail: AtomicU64,
}

impl Account {
    fn is_free(&self, now_us: u64) -> bool {
        // ORDERING: Acquire, with the Release of whoever wrote it: who finds it busy finds the key of who made it so. A
        // late look takes a place that just became busy: two share it then.
        let held = self.held.load(Ordering::Acquire);
        let since_us = queue::held_since_ms(held).saturating_mul(1000);
        since_us <= now_us && self.tail.load(Ordering::Acquire) <= now_us
    }

    /// End of the last slot that the source got anywhere.
    pub fn tail_us(&self) -> u64 {
        // ORDERING: Relaxed; what is written a moment later is allowed for (queue::charge).
        self.tail.load(Ordering::Relaxed)
    }

    /// Moves on what the source is charged for; as [`crate::shared::parts::word::Word::take`].
    pub fn charge<T>(&self, step: impl FnMut(u64) -> (u64, T)) -> T {
        take(&self.held, step)
    }

    /// Takes the next slot behind the source's own last one.
    pub fn queue<T>(&self, step: impl FnMut(u64) -> (u64, T)) -> T {
        take(&self.tail, step)
    }

    /// It got a slot of the common queue that ends then.
    pub fn got(&self, end_us: u64) {
        // ORDERING: Release, for is_free().
        self.tail.fetch_max(end_us, Ordering::Release);
    }
}

fn take<T>(word: &AtomicU64, mut step: impl FnMut(u64) -> (u64, T)) -> T {
    // ORDERING: Release where it is written, for is_free(); Relaxed else, the word stands for itself.
    let mut seen = word.load(Ordering::Relaxed);
    for _ in 0..TRIES {
        let (next, made) = step(seen);
        match word.compare_exchange_weak(seen, next, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return made,
            Err(other) => seen = other,
        }
    }
    step(seen).1
}

/// One set.
#[repr(C)]
pub struct Set([Account; WAYS]);

// SAFETY: atomics only.
unsafe impl SharedZeroable for Set {}

impl Set {
    /// An empty set outside of any mapping.
    pub fn new() -> Set {
        Set(std::array::from_fn(|_| Account {
            key: AtomicU64::new(0),
            held: AtomicU64::new(0),
            tail: AtomicU64::new(0),
        }))
    }
}

impl Default for Set {
    fn default() -> Self {
        Self::new()
    }
}

/// All accounts.
pub struct Sources(&'static [Set]);

impl Sources {
    /// Maps the accounts.
    ///
    /// # Errors
    /// As [`mapping::map_shared`].
    pub fn map() -> io::Result<Sources> {
        Ok(Sources(mapping::map_slice(SETS)?))
    }

    /// Of sets made elsewhere (model tests).
    #[cfg(feature = "surface")]
    pub fn from_sets(sets: &'static [Set]) -> Sources {
        Sources(sets)
    }

    /// The account of a source by its keyed number; `None` without sets.
    pub fn account(&self, key: u64, now_us: u64) -> Option<&'static Account> {
        let key = key.max(1); // 0 is nobody
        let set = &self.0.get((key % (self.0.len() as u64).max(1)) as usize)?.0;
        // ORDERING: Relaxed; keys stand for themselves.
        let is_own = |account: &&Account| account.key.load(Ordering::Relaxed) == key;
        if let Some(own) = set.iter().find(is_own) {
            return Some(own);
        }
        for account in set {
            if !account.is_free(now_us) {
                // Another process of the same source may have taken it since the look above.
                if is_own(&account) {
                    return Some(account);
                }
                continue;
            }
            // ORDERING: Relaxed; as above.
            let old = account.key.load(Ordering::Relaxed);
            let taken =
                account
                    .key
                    .compare_exchange(old, key, Ordering::Relaxed, Ordering::Relaxed);
            let holder = match taken {
                Ok(_) => key,
                Err(other) => other,
            };
            if holder == key {
                return Some(account);
            }
        }
        set.get((key >> 32) as usize % WAYS)
    }

    /// The last slots of those that queue behind themselves, by what each holds and its last slot.
    pub fn crowds(&self, is_crowd: impl Fn(u64, u64) -> bool) -> impl Iterator<Item = u64> {
        let all = self.0.iter().flat_map(|set| &set.0);
        all.filter_map(move |account| {
            // ORDERING: Relaxed; figures for pacing and for people.
            let held = account.held.load(Ordering::Relaxed);
            let tail = account.tail.load(Ordering::Relaxed);
            is_crowd(held, tail).then_some(tail)
        })
    }

    /// Forgets all.
    pub fn clear(&self) {
        for account in self.0.iter().flat_map(|set| &set.0) {
            // ORDERING: Relaxed; a slot that is taken meanwhile may be kept or lost.
            account.held.store(0, Ordering::Relaxed);
            account.tail.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_source_finds_its_account_again_and_a_drained_one_gives_its_place_away() {
        let sources = Sources::map().expect("some memory");
        let key = |n: u64| 5 + n * SETS as u64; // all in one set
        for n in 0..WAYS as u64 {
            let account = sources.account(key(n), 100).expect("a place");
            account.got(200 + n);
        }
        let end = |n, now| {
            let account = sources.account(key(n), now).expect("a place");
            account.queue(|tail| (tail, tail))
        };
        for n in 0..WAYS as u64 {
            assert_eq!(end(n, 100), 200 + n);
        }
        // No place is free: whoever comes shares one by the upper half of its number, which does not stand there.
        for way in 0..WAYS as u64 {
            let shared = sources.account(5 + ((99 * WAYS as u64 + way) << 32), 150);
            assert_eq!(shared.expect("a place").tail_us(), 200 + way);
        }
        assert_eq!(end(0, 150), 200);
        let crowds = sources.crowds(|held, tail| held == 0 && tail > 204);
        assert_eq!(crowds.collect::<Vec<_>>(), [205, 206, 207]);
        // The first one's slots have passed.
        assert_eq!(end(99, 200), 200);
        sources.account(key(99), 200).expect("its own").got(999);
        assert_eq!((end(99, 201), end(1, 100)), (999, 201));
        sources.clear();
        assert_eq!(end(99, 1), 0);
    }
}
