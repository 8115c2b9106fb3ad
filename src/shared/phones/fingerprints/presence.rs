//! How many entries a fingerprint table holds, and which parts of it were ever written: so that nobody has to look.
//! Forbidden here: the entries themselves.
//!
//! ```text
//! Presence   0        128                                 640
//!            count │ … │ 4096 bits: this part of the table was written
//! ```
//! **Kill.** A writer killed between its entry and the count leaves the count one off for good; the mark of a part is
//! set before the first entry goes into it, so a part that holds something is always marked.

use crossbeam_utils::CachePadded;

use crate::shared::parts::{
    mapping::SharedZeroable,
    sync::{AtomicU64, Ordering},
};

/// Words of the marks.
const WORDS: usize = 64;
/// Parts that a table has at most.
const PARTS: usize = WORDS * 64;
/// Buckets of a part at least: a page.
const LEAST_SHIFT: u32 = 6;

/// See the file's head.
#[repr(C)]
pub struct Presence {
    count: CachePadded<AtomicU64>,
    written: [AtomicU64; WORDS],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Presence>() == 128 + PARTS / 8);

// SAFETY: atomics only.
unsafe impl SharedZeroable for Presence {}

/// Buckets of one part, as a power of two.
pub(super) fn shift(buckets: usize) -> u32 {
    let mut shift = LEAST_SHIFT;
    while buckets.saturating_sub(1) >> shift >= PARTS {
        shift += 1;
    }
    shift
}

impl Presence {
    /// So many entries more.
    pub(super) fn came(&self, entries: u64) {
        // ORDERING: Relaxed; a counter.
        self.count.fetch_add(entries, Ordering::Relaxed);
    }

    /// So many entries less.
    pub(super) fn went(&self, entries: u64) {
        // ORDERING: Relaxed; a counter.
        self.count.fetch_sub(entries, Ordering::Relaxed);
    }

    /// Entries at this moment.
    pub(super) fn count(&self) -> u64 {
        // ORDERING: Relaxed; a counter.
        self.count.load(Ordering::Relaxed)
    }

    /// Marks a part, before the first entry goes into it.
    pub(super) fn write(&self, part: usize) {
        let bit = 1 << (part % 64);
        if let Some(word) = self.written.get(part / 64) {
            // ORDERING: Relaxed; a part that is missed by a reader now is seen the next time.
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
    }

    /// Whether a part was ever written.
    pub(super) fn is_written(&self, part: usize) -> bool {
        let word = self.written.get(part / 64);
        // ORDERING: Relaxed; as in write.
        word.is_some_and(|word| word.load(Ordering::Relaxed) >> (part % 64) & 1 == 1)
    }
}
