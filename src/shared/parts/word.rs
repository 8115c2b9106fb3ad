//! A number that anybody may set and everybody reads.
//! Forbidden here: what it means; words that belong together (those are `published` or `record`).

use crate::shared::parts::sync::plain::{AtomicU64, Ordering};

/// A number that anybody may set and everybody reads; each stands for itself.
#[repr(transparent)]
#[derive(Default)]
pub struct Word(AtomicU64);

impl Word {
    /// Present value.
    #[inline(always)]
    pub fn get(&self) -> u64 {
        // ORDERING: Relaxed; each word stands for itself.
        self.0.load(Ordering::Relaxed)
    }

    /// Replaces the value.
    #[inline(always)]
    pub fn set(&self, value: u64) {
        // ORDERING: Relaxed; each word stands for itself.
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds.
    pub fn add(&self, n: u64) {
        // ORDERING: Relaxed; a counter.
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Keeps the larger one.
    pub fn raise(&self, value: u64) {
        // Nearly always it is large enough: a load leaves the cache line shared.
        if self.get() < value {
            // ORDERING: Relaxed; each word stands for itself.
            self.0.fetch_max(value, Ordering::Relaxed);
        }
    }

    /// Moves the value on in one atomic step and answers what else the step made; bounded: after 64 lost races the
    /// last try's answer stands and the value stays.
    pub fn take<T>(&self, mut step: impl FnMut(u64) -> (u64, T)) -> T {
        // ORDERING: Relaxed throughout; the word stands for itself.
        let mut seen = self.0.load(Ordering::Relaxed);
        for _ in 0..64 {
            let (next, made) = step(seen);
            match self
                .0
                .compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return made,
                Err(other) => seen = other,
            }
        }
        step(seen).1
    }

    /// Sets bits.
    pub fn set_bits(&self, bits: u64) {
        // ORDERING: Relaxed; each bit stands for itself.
        self.0.fetch_or(bits, Ordering::Relaxed);
    }

    /// Clears bits.
    pub fn clear_bits(&self, bits: u64) {
        // ORDERING: Relaxed; each bit stands for itself.
        self.0.fetch_and(!bits, Ordering::Relaxed);
    }
}
