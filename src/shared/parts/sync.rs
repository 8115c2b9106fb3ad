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

/// Sites that can be told apart; Kamailio with 60 modules has about 1,500. Four are no places (see `sites`).
pub const SITES: usize = if cfg!(loom) { 8 } else { 4096 };

/// How far a search for a site goes before it counts as "not there".
pub const SITE_PROBES: usize = if cfg!(loom) { 4 } else { 64 };

/// Words of a site's texts: file, function, module.
pub const TEXT_WORDS: [usize; 3] = if cfg!(loom) { [1, 1, 1] } else { [9, 6, 4] };

/// Most marks of an operator that are kept.
pub const MARKS: usize = if cfg!(loom) { 1 } else { 8 };

/// An array of zeroed atomics (loom's cannot be made in a constant).
pub fn zeroed<const N: usize>() -> [AtomicU64; N] {
    std::array::from_fn(|_| AtomicU64::new(0))
}

/// The standard atomics for what no model looks at: words that stand for themselves, each of them.
pub mod plain {
    pub use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering, compiler_fence};
}
