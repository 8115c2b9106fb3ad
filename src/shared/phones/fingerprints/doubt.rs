//! What a fingerprint table may have forgotten: how often, and until when it matters.
//! Forbidden here: the entries themselves, and taking a doubt back.

use crate::shared::parts::{
    mapping::SharedZeroable,
    sync::{AtomicU64, Ordering, zeroed},
};

/// What the table may have forgotten.
///
/// ```text
/// offset   0           8                 16…63
///          evictions │ forgotten until │ (unused)
/// ```
#[repr(C, align(64))]
pub struct Doubt {
    evictions: AtomicU64,
    forgotten_until: AtomicU64,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Doubt>() == 64);

// SAFETY: atomics only.
unsafe impl SharedZeroable for Doubt {}

/// How long one forgotten entry makes unknown ones doubtful at most, seconds: a day, however late its end was. Otherwise
/// one binding for ever would be a doubt for ever.
pub const LONGEST_DOUBT: u64 = 86_400;

impl Doubt {
    /// No doubt, outside of any mapping.
    pub fn new() -> Self {
        let [evictions, forgotten_until] = zeroed();
        Doubt {
            evictions,
            forgotten_until,
        }
    }

    /// Counts an entry that was pushed out.
    pub(super) fn count(&self) {
        // ORDERING: Relaxed; a counter.
        self.evictions.fetch_add(1, Ordering::Relaxed);
    }

    /// Records, before it happens, that a live entry with this end is forgotten; an end more than [`LONGEST_DOUBT`] away
    /// counts as that.
    pub(super) fn forget(&self, until: u64, now: u64) {
        let until = until.min(now.saturating_add(LONGEST_DOUBT));
        // ORDERING: Relaxed; the figure stands for itself and only grows.
        self.forgotten_until.fetch_max(until, Ordering::Relaxed);
    }

    /// How many live entries were pushed out (or not taken in, [`Put::Dropped`](crate::shared::phones::fingerprints::Put::Dropped)) since the start.
    pub fn evictions(&self) -> u64 {
        // ORDERING: Relaxed; a counter, no data depends on it.
        self.evictions.load(Ordering::Relaxed)
    }

    /// The latest end among all entries that were pushed out, seconds of server time (0: none was): while `now` is before it (plus the
    /// grace), an unknown fingerprint may be a forgotten one; after it the table is sure again.
    pub fn forgotten_until(&self) -> u64 {
        // ORDERING: Relaxed; one figure.
        self.forgotten_until.load(Ordering::Relaxed)
    }
}

impl Default for Doubt {
    fn default() -> Self {
        Self::new()
    }
}
