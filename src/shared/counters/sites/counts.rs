//! The counters of one site in one process, and what a reader makes of them.
//! Forbidden here: locks, heap, waiting, panics; every worker comes here on every allocation and free.

use crate::shared::parts::sync::{AtomicU64, Ordering};

/// Counters of one site in one process, all monotonic but `largest_failed`.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Counts {
    allocs: AtomicU64,
    bytes_allocated: AtomicU64,
    frees: AtomicU64,
    bytes_freed: AtomicU64,
    /// Bytes that the manager forgot to book off in shrinking reallocs.
    unbooked: AtomicU64,
    failures: AtomicU64,
    largest_failed: AtomicU64,
    /// First and last failure in seconds of server time, 32 bits each.
    failed_when: AtomicU64,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Counts>() == 64);

/// How a row is written: plain by its only writer, or by atomic adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// The row's only writer.
    Only,
    /// One of many.
    OneOfMany,
}

/// What a row has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Blocks and bytes allocated.
    pub allocs: u64,
    /// As above.
    pub bytes_allocated: u64,
    /// Blocks and bytes freed.
    pub frees: u64,
    /// As above.
    pub bytes_freed: u64,
    /// See [`Counts`].
    pub unbooked: u64,
    /// Failed allocations.
    pub failures: u64,
    /// Size of the largest one.
    pub largest_failed: u64,
    /// Seconds of server time of the first one; 0: none.
    pub first_failed: u64,
    /// Seconds of server time of the last one.
    pub last_failed: u64,
}

impl Tally {
    /// Bytes allocated and not freed; negative where mostly other processes' blocks are freed.
    pub fn live_bytes(&self) -> i64 {
        self.bytes_allocated.wrapping_sub(self.bytes_freed) as i64
    }

    /// Blocks allocated and not freed.
    pub fn live_blocks(&self) -> i64 {
        self.allocs.wrapping_sub(self.frees) as i64
    }

    /// Adds another row of the same site.
    pub fn plus(&mut self, o: &Tally) {
        self.allocs = self.allocs.wrapping_add(o.allocs);
        self.bytes_allocated = self.bytes_allocated.wrapping_add(o.bytes_allocated);
        self.frees = self.frees.wrapping_add(o.frees);
        self.bytes_freed = self.bytes_freed.wrapping_add(o.bytes_freed);
        self.unbooked = self.unbooked.wrapping_add(o.unbooked);
        self.failures = self.failures.wrapping_add(o.failures);
        self.largest_failed = self.largest_failed.max(o.largest_failed);
        self.last_failed = self.last_failed.max(o.last_failed);
        self.first_failed = match (self.first_failed, o.first_failed) {
            (0, first) | (first, 0) => first,
            (a, b) => a.min(b),
        };
    }
}

/// Adds and answers the new value; `Release`, for readers that look at frees first (see the head of this file).
#[inline(always)]
fn bump(counter: &AtomicU64, n: u64) -> u64 {
    // ORDERING: Relaxed load; this thread is the only writer. Release store; pairs with the Acquire in tally.
    let value = counter.load(Ordering::Relaxed).wrapping_add(n);
    counter.store(value, Ordering::Release);
    value
}

impl Counts {
    /// An empty row outside of any mapping.
    #[cfg(not(loom))]
    pub const fn new() -> Counts {
        Counts {
            allocs: AtomicU64::new(0),
            bytes_allocated: AtomicU64::new(0),
            frees: AtomicU64::new(0),
            bytes_freed: AtomicU64::new(0),
            unbooked: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            largest_failed: AtomicU64::new(0),
            failed_when: AtomicU64::new(0),
        }
    }

    /// Counts one block; only the row's writer may call this.
    #[inline(always)]
    pub fn allocated(&self, size: u64) {
        bump(&self.allocs, 1);
        bump(&self.bytes_allocated, size);
    }

    /// Counts one freed block; only the row's writer may call this.
    #[inline(always)]
    pub fn freed(&self, size: u64) {
        bump(&self.frees, 1);
        bump(&self.bytes_freed, size);
    }

    /// Adds blocks and bytes of either kind, by whoever may write this row.
    pub fn add(&self, writer: Writer, allocated: (u64, u64), freed: (u64, u64), unbooked: u64) {
        let pairs = [
            (&self.allocs, allocated.0),
            (&self.bytes_allocated, allocated.1),
            (&self.frees, freed.0),
            (&self.bytes_freed, freed.1),
            (&self.unbooked, unbooked),
        ];
        for (counter, n) in pairs {
            match (n, writer) {
                (0, _) => 0,
                (n, Writer::Only) => bump(counter, n),
                // ORDERING: Release; as in bump.
                (n, Writer::OneOfMany) => counter.fetch_add(n, Ordering::Release),
            };
        }
    }

    /// Counts a failed allocation. Any number of writers: it is rare.
    #[cold]
    pub fn failed(&self, size: u64, now_s: u64) {
        // ORDERING: Relaxed; figures for people, each for itself.
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.largest_failed.fetch_max(size, Ordering::Relaxed);
        let now = now_s & 0xffff_ffff;
        let first = match self.failed_when.load(Ordering::Relaxed) >> 32 {
            0 => now,
            first => first,
        };
        self.failed_when.store(first << 32 | now, Ordering::Relaxed);
    }

    /// Makes this row equal to `other` (a private original, published by its owner); touches nothing when it is zero.
    pub fn copy_from(&self, other: &Counts) {
        // ORDERING: Relaxed loads of this process's own words; Release stores as in bump.
        for (to, from) in self.words().into_iter().zip(other.words()) {
            let value = from.load(Ordering::Relaxed);
            if value != to.load(Ordering::Relaxed) {
                to.store(value, Ordering::Release);
            }
        }
    }

    /// Adds what `other` counted (a private original) to a row that several processes write.
    pub fn join(&self, other: &Counts) {
        let tally = other.tally();
        self.add(
            Writer::OneOfMany,
            (tally.allocs, tally.bytes_allocated),
            (tally.frees, tally.bytes_freed),
            tally.unbooked,
        );
    }

    /// Nothing was ever counted here.
    pub fn is_unused(&self) -> bool {
        // ORDERING: Relaxed; own words, or a report's.
        self.words()
            .into_iter()
            .all(|w| w.load(Ordering::Relaxed) == 0)
    }

    fn words(&self) -> [&AtomicU64; 8] {
        [
            &self.allocs,
            &self.bytes_allocated,
            &self.frees,
            &self.bytes_freed,
            &self.unbooked,
            &self.failures,
            &self.largest_failed,
            &self.failed_when,
        ]
    }

    /// Adds the freed half into `into`; to be called for every process before [`Counts::read_allocated`] for any.
    pub fn read_freed(&self, into: &mut Tally) {
        // ORDERING: Acquire; pairs with the Release of writers: allocations of these blocks are visible after it.
        into.frees = into.frees.wrapping_add(self.frees.load(Ordering::Acquire));
        into.bytes_freed = into
            .bytes_freed
            .wrapping_add(self.bytes_freed.load(Ordering::Acquire));
    }

    /// Adds the allocated half into `into`.
    pub fn read_allocated(&self, into: &mut Tally) {
        // ORDERING: Acquire; keeps the order of the head of this file.
        into.bytes_allocated = into
            .bytes_allocated
            .wrapping_add(self.bytes_allocated.load(Ordering::Acquire));
        into.allocs = into
            .allocs
            .wrapping_add(self.allocs.load(Ordering::Acquire));
    }

    /// Adds ledger and failures into `into`.
    pub fn read_rest(&self, into: &mut Tally) {
        // ORDERING: Relaxed; figures for people.
        let load = |w: &AtomicU64| w.load(Ordering::Relaxed);
        let when = load(&self.failed_when);
        into.plus(&Tally {
            unbooked: load(&self.unbooked),
            failures: load(&self.failures),
            largest_failed: load(&self.largest_failed),
            first_failed: when >> 32,
            last_failed: when & 0xffff_ffff,
            ..Tally::default()
        });
    }

    /// Everything of this row.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        self.read_freed(&mut tally);
        self.read_allocated(&mut tally);
        self.read_rest(&mut tally);
        tally
    }
}
