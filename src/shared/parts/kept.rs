//! What one process works on and the next one of its kind goes on with: plain values in a shared mapping.
//! Forbidden here: what they mean; two processes at once.
//!
//! A value is worked on in place. Before, its mark says that it is in hand, and after, that it is whole: a process that
//! is killed in between leaves a value that says so, and the next one begins that one anew, and no other.

use std::cell::UnsafeCell;
use std::io;
use std::mem::MaybeUninit;

use crate::shared::parts::{
    mapping::{self, SharedZeroable},
    sync::plain::{AtomicU64, Ordering, compiler_fence},
};

/// A type whose values may be taken over by another process of the same program.
///
/// # Safety
/// Nothing in it belongs to one process: no pointer, no reference, no handle.
pub unsafe trait Plain: Copy + 'static {}

/// Never worked on, or forgotten.
const EMPTY: u64 = 0;
const WHOLE: u64 = 1;
const IN_HAND: u64 = 2;

#[repr(C)]
struct Cell<T> {
    mark: AtomicU64,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: the mark is an atomic; the value is touched through the one lease only.
unsafe impl<T: Plain> Sync for Cell<T> {}
// SAFETY: as above; zeros are an empty cell, nothing in a value belongs to one process, and a Copy type needs no drop.
unsafe impl<T: Plain> SharedZeroable for Cell<T> {}

/// The values, as every process finds them; made before the first fork.
pub struct Kept<T: Plain>(&'static [Cell<T>]);

impl<T: Plain> Kept<T> {
    /// Maps `count` of them; a page costs memory when the first value in it is worked on.
    ///
    /// # Errors
    /// As [`mapping::map_shared`].
    pub fn map(count: usize) -> io::Result<Kept<T>> {
        Ok(Kept(mapping::map_slice(count)?))
    }

    /// The right to work on them.
    ///
    /// # Safety
    /// Whoever had it before, in this or another process, does not use it any more: it was given back, or its process was
    /// waited for.
    pub unsafe fn lease(&self) -> Lease<T> {
        Lease(self.0)
    }
}

/// The right to work on the values, of one process at a time.
pub struct Lease<T: Plain>(&'static [Cell<T>]);

impl<T: Plain> Lease<T> {
    /// Works on one value, which begins as `fresh` where there is none or where its last worker was killed at it. `None`:
    /// there is no such value.
    pub fn work<R>(
        &mut self,
        index: usize,
        fresh: impl FnOnce() -> T,
        work: impl FnOnce(&mut T) -> R,
    ) -> Option<R> {
        let cell = self.0.get(index)?;
        // ORDERING: Relaxed, and the compiler's order: the next reader is a process that begins after this one has ended.
        let is_whole = cell.mark.swap(IN_HAND, Ordering::Relaxed) == WHOLE;
        compiler_fence(Ordering::SeqCst);
        // SAFETY: `&mut self` is the only lease, so nobody else touches the value.
        let value = unsafe { &mut *cell.value.get() };
        if !is_whole {
            value.write(fresh());
        }
        // SAFETY: just written, or whole by its mark: written by this same program, and of a type of plain values.
        let done = work(unsafe { value.assume_init_mut() });
        compiler_fence(Ordering::SeqCst);
        // ORDERING: as above.
        cell.mark.store(WHOLE, Ordering::Relaxed);
        Some(done)
    }

    /// Forgets the first `count`.
    pub fn forget(&mut self, count: usize) {
        for cell in self.0.iter().take(count) {
            // ORDERING: Relaxed; as in `work`.
            cell.mark.store(EMPTY, Ordering::Relaxed);
        }
    }
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;

    // SAFETY: a number.
    unsafe impl Plain for u32 {}

    #[test]
    fn a_value_is_gone_on_with_and_one_that_was_in_hand_begins_anew() {
        let kept = Kept::<u32>::map(3).expect("some memory");
        // SAFETY: the only one.
        let mut lease = unsafe { kept.lease() };
        for _ in 0..3 {
            lease.work(0, || 10, |n| *n += 1);
            lease.work(2, || 20, |n| *n += 1);
        }
        // SAFETY: the other one is not used any more.
        let mut lease = unsafe { kept.lease() };
        assert_eq!(lease.work(0, || 10, |n| *n), Some(13));
        let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            lease.work(0, || 10, |_| panic!("in the midst of it"));
        }));
        assert!(stopped.is_err());
        assert_eq!(lease.work(0, || 10, |n| *n), Some(10), "it was in hand");
        assert_eq!(lease.work(2, || 20, |n| *n), Some(23), "no other");
        assert_eq!(lease.work(3, || 0, |n| *n), None);
        lease.forget(2);
        assert_eq!(lease.work(0, || 5, |n| *n), Some(5));
        assert_eq!(lease.work(2, || 20, |n| *n), Some(23));
    }
}
