//! The atomics of this layer: the standard ones, or loom's in a model build; and the sizes that differ there.
//! Forbidden here: anything else; and nowhere else in `shared` may `std::sync::atomic` or `loom` be named.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU64, Ordering};

/// Words of one bucket of the fingerprint table: one cache line. Two in a model build, so that buckets overflow.
pub const BUCKET_WORDS: usize = if cfg!(loom) { 2 } else { 8 };

/// How often a writer of the fingerprint table looks again after another one changed the word it wanted.
pub const WRITE_TRIES: usize = if cfg!(loom) { 2 } else { 8 };

/// How often a reader of published figures starts again after the writer overtook it.
pub const READ_TRIES: usize = if cfg!(loom) { 2 } else { 4 };

/// An array of zeroed atomics (loom's cannot be made in a constant).
pub fn zeroed<const N: usize>() -> [AtomicU64; N] {
    std::array::from_fn(|_| AtomicU64::new(0))
}
