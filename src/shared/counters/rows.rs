//! One row of counters per Kamailio process (core.psx index) in the shared mapping: memory and SIP.
//! Forbidden here: locks, heap, waiting, panics; every worker writes its own row on its hottest path.
//!
//! ```text
//! Row, 512 bytes, aligned to 128 (adjacent-line prefetch, as core/counters.c pads its rows)
//!    0  pkg   64 bytes  published copies of the owner's private totals (see host::hooks)
//!   64  pkg2  64 bytes  ledger, failures, peak, identity
//!  128  shm   64 bytes  totals of the process's main thread (single writer)
//!  192  shm   64 bytes  totals of its other threads (atomic adds: 6.x receivers)
//!  256  SIP  256 bytes  messages and REGISTERs by class
//! ```
//! Recovery: every word is a counter of its own; a process killed between two stores leaves sums that differ by
//! the one operation that it was in. Nothing waits for anything.

use crossbeam_utils::CachePadded;

use crate::shared::parts::sync::plain::{AtomicU32, AtomicU64, Ordering};

use crate::guard::foresee::growth::Leak;
use crate::guard::terms::words::{Class, Level};

/// Most processes that are counted each for itself; Kamailio installations have 20 to 200.
pub const MAX_PROCESSES: usize = 512;
/// The row that all further processes share. Several processes write it, so only its atomic counters are used: SIP,
/// and of memory the half of other threads; its pkg figures are those of the fullest of them.
pub const COMMON_ROW: usize = MAX_PROCESSES;
/// All rows.
pub const ROWS: usize = MAX_PROCESSES + 1;

/// A counter with one writer: the process (and its main thread) that owns the row.
#[repr(transparent)]
#[derive(Default)]
pub struct Own(AtomicU64);

impl Own {
    /// Adds; only the owner may call this.
    #[inline(always)]
    pub fn add(&self, n: u64) {
        // ORDERING: Relaxed; one writer, each counter stands for itself.
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(n),
            Ordering::Relaxed,
        );
    }

    /// Replaces the value; only the owner may call this.
    #[inline(always)]
    pub fn set(&self, n: u64) {
        // ORDERING: Relaxed; one writer, each counter stands for itself.
        self.0.store(n, Ordering::Relaxed);
    }

    /// Current value, for anybody.
    #[inline(always)]
    pub fn get(&self) -> u64 {
        // ORDERING: Relaxed; no other word depends on this one.
        self.0.load(Ordering::Relaxed)
    }

    /// Keeps the larger value. For [`COMMON_ROW`], which has many writers.
    pub fn raise(&self, n: u64) {
        // ORDERING: Relaxed; the word stands for itself.
        self.0.fetch_max(n, Ordering::Relaxed);
    }
}

/// A counter with any number of writers.
#[repr(transparent)]
#[derive(Default)]
pub struct Shared(AtomicU64);

impl Shared {
    /// Adds; anybody may.
    #[inline(always)]
    pub fn add(&self, n: u64) {
        // ORDERING: Relaxed; a counter, nothing is published through it.
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Replaces the value (resets by an operator).
    pub fn set(&self, n: u64) {
        // ORDERING: Relaxed; a counter, nothing is published through it.
        self.0.store(n, Ordering::Relaxed);
    }

    /// Current value.
    #[inline(always)]
    pub fn get(&self) -> u64 {
        // ORDERING: Relaxed; a counter, nothing is published through it.
        self.0.load(Ordering::Relaxed)
    }
}

/// How many operations the owner of a row has finished.
#[repr(transparent)]
#[derive(Default)]
pub struct Operations(AtomicU64);

impl Operations {
    /// One more; only the owner may call this.
    #[inline(always)]
    pub fn finished(&self) {
        // ORDERING: Relaxed load, one writer. Release; pairs with the Acquire in get: who sees it sees the books.
        let value = self.0.load(Ordering::Relaxed).wrapping_add(1);
        self.0.store(value, Ordering::Release);
    }

    /// Present number.
    pub fn get(&self) -> u64 {
        // ORDERING: Acquire; pairs with the Release in finished.
        self.0.load(Ordering::Acquire)
    }
}

/// Private pool of one process, as its owner published it last.
#[repr(C, align(64))]
#[derive(Default)]
pub struct PkgTotals {
    /// Blocks allocated since the pool was made.
    pub allocs: Own,
    /// Bytes allocated (block sizes as the manager keeps them).
    pub bytes_allocated: Own,
    /// Blocks freed.
    pub frees: Own,
    /// Bytes freed.
    pub bytes_freed: Own,
    /// The manager's `used_size` after the owner's last operation.
    pub used: Own,
    /// The manager's `real_used` after the owner's last operation.
    pub real_used: Own,
    /// Largest `real_used` seen; an operator may lower it to the present value.
    pub peak: Own,
    /// Bytes that the manager forgot to book off in shrinking reallocs (qm up to 5.8.7 and 6.0.5).
    pub unbooked: Own,
}

/// What one writer (or all the threads that are not the main one) did to the shared pool.
#[repr(C, align(64))]
#[derive(Default)]
pub struct ShmTotals<C> {
    /// Blocks allocated by this process.
    pub allocs: C,
    /// Bytes allocated by this process.
    pub bytes_allocated: C,
    /// Blocks freed by this process.
    pub frees: C,
    /// Bytes freed by this process.
    pub bytes_freed: C,
    /// Bytes that the manager forgot to book off (see [`PkgTotals::unbooked`]).
    pub unbooked: C,
    /// Allocations that failed.
    pub failures: C,
}

/// REGISTERs of one outcome by class.
#[repr(C)]
#[derive(Default)]
pub struct ByClass([Shared; Class::COUNT]);

impl ByClass {
    /// Counts one.
    pub fn count(&self, class: Class) {
        if let Some(counter) = self.0.get(class.index()) {
            counter.add(1);
        }
    }

    /// Value of one class.
    pub fn get(&self, class: Class) -> u64 {
        self.0.get(class.index()).map_or(0, Shared::get)
    }

    /// Sum over the classes.
    pub fn sum(&self) -> u64 {
        self.0.iter().map(Shared::get).fold(0, u64::wrapping_add)
    }
}

/// SIP seen by one process. Several threads of a 6.x receiver may write: atomic adds.
#[repr(C)]
#[derive(Default)]
pub struct SipTotals {
    /// Requests and replies that came from the network and reached the script stage.
    pub messages: Shared,
    /// 1: it runs the script for requests that another process received (a suspended transaction goes on).
    pub goes_on: Shared,
    /// REGISTERs by class, before the decision.
    pub received: ByClass,
    /// REGISTERs refused.
    pub rejected: ByClass,
    /// REGISTERs that would have been refused (mode observe).
    pub observed: ByClass,
    /// REGISTERs that could not be understood and went on untouched.
    pub not_understood: Shared,
    /// 401 and 407 sent for REGISTERs.
    pub challenged: Shared,
    /// 2xx sent for REGISTERs.
    pub accepted: Shared,
    /// Other final replies sent for REGISTERs.
    pub failed: Shared,
    /// Decisions that could not be made and admitted.
    pub fail_open: Shared,
    /// Contacts that came in without a REGISTER here (DMQ, RPC).
    pub replicated: Shared,
    /// Replies of ours that could not be sent.
    pub reply_errors: Shared,
}

impl SipTotals {
    /// Whether the process carries SIP, whatever its rank is.
    pub fn carries(&self) -> bool {
        self.messages.get() > 0 || self.goes_on.get() > 0
    }
}

/// The row of one process.
#[repr(C)]
#[derive(Default)]
pub struct Row {
    /// Private pool.
    pub pkg: PkgTotals,
    /// Failed pkg allocations.
    pub pkg_failures: Own,
    /// Process id, for `/proc` and reports; never exported as a label.
    pub pid: AtomicU32,
    /// Last published level ([`crate::guard::terms::words::Level`]'s number), by the sampler.
    level: AtomicU32,
    /// Bytes outside the pools, by the sampler.
    pub private_bytes: Shared,
    /// Resident bytes of anonymous memory (RssAnon), by the sampler.
    pub rss_anon: Shared,
    /// Growth of the private pool's low-water mark in bytes per second (bits of f64), by the sampler.
    growth: AtomicU64,
    /// The same per message handled.
    growth_per_message: AtomicU64,
    /// [`Leak`]'s number, by the sampler.
    leak: AtomicU64,
    /// Operations of the main thread on both pools, counted after their books: while it stands still, so do they.
    pub ops: Operations,
    /// Shared pool, main thread.
    pub shm: ShmTotals<Own>,
    /// Shared pool, other threads of the process.
    pub shm_threads: ShmTotals<Shared>,
    /// SIP.
    pub sip: SipTotals,
}

const _: () = assert!(size_of::<PkgTotals>() == 64);
const _: () = assert!(size_of::<ShmTotals<Own>>() == 64);
const _: () = assert!(size_of::<Row>() == 512 && size_of::<CachePadded<Row>>() == 512);

/// The shared pool's totals of one process, both writers together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShmSum {
    /// Blocks allocated.
    pub allocs: u64,
    /// Bytes allocated.
    pub bytes_allocated: u64,
    /// Blocks freed.
    pub frees: u64,
    /// Bytes freed.
    pub bytes_freed: u64,
    /// Bytes that the manager forgot to book off.
    pub unbooked: u64,
    /// Failed allocations.
    pub failures: u64,
}

impl ShmSum {
    /// Adds another process's.
    pub fn plus(self, o: ShmSum) -> ShmSum {
        ShmSum {
            allocs: self.allocs.wrapping_add(o.allocs),
            bytes_allocated: self.bytes_allocated.wrapping_add(o.bytes_allocated),
            frees: self.frees.wrapping_add(o.frees),
            bytes_freed: self.bytes_freed.wrapping_add(o.bytes_freed),
            unbooked: self.unbooked.wrapping_add(o.unbooked),
            failures: self.failures.wrapping_add(o.failures),
        }
    }

    /// Bytes allocated and not freed; negative for a process that mostly frees what others allocated.
    pub fn live(self) -> i64 {
        self.bytes_allocated.wrapping_sub(self.bytes_freed) as i64
    }
}

impl Row {
    /// The process's part of the shared pool. Approximate while it runs: words are read one by one.
    pub fn shm_sum(&self) -> ShmSum {
        let (own, threads) = (&self.shm, &self.shm_threads);
        // Frees first: a block that is allocated and freed while we read then counts as live, never as negative.
        let frees = own.frees.get().wrapping_add(threads.frees.get());
        let bytes_freed = own
            .bytes_freed
            .get()
            .wrapping_add(threads.bytes_freed.get());
        ShmSum {
            frees,
            bytes_freed,
            allocs: own.allocs.get().wrapping_add(threads.allocs.get()),
            bytes_allocated: own
                .bytes_allocated
                .get()
                .wrapping_add(threads.bytes_allocated.get()),
            unbooked: own.unbooked.get().wrapping_add(threads.unbooked.get()),
            failures: own.failures.get().wrapping_add(threads.failures.get()),
        }
    }

    /// Publishes growth in bytes per second and per message. Writer: the sampling process.
    pub fn set_growth(&self, per_second: f64, per_message: f64) {
        // ORDERING: Relaxed; figures for people, each for itself.
        self.growth.store(per_second.to_bits(), Ordering::Relaxed);
        self.growth_per_message
            .store(per_message.to_bits(), Ordering::Relaxed);
    }

    /// Growth of the private pool's low-water mark in bytes per second, and per message.
    pub fn growth(&self) -> (f64, f64) {
        // ORDERING: Relaxed; as in set_growth.
        let load = |w: &AtomicU64| f64::from_bits(w.load(Ordering::Relaxed));
        (load(&self.growth), load(&self.growth_per_message))
    }

    /// Publishes whether the process leaks. Writer: the sampling process.
    pub fn set_leak(&self, leak: Leak) {
        // ORDERING: Relaxed; one word, read by reports.
        self.leak.store(leak as u64, Ordering::Relaxed);
    }

    /// Whether the process leaks, by the last sample.
    pub fn leak(&self) -> Leak {
        // ORDERING: Relaxed; one word.
        Leak::from_index(self.leak.load(Ordering::Relaxed))
    }

    /// Publishes the process's level. Writer: the sampling process.
    pub fn set_level(&self, level: Level) {
        // ORDERING: Relaxed; one word, read by reports.
        self.level.store(level.index() as u32, Ordering::Relaxed);
    }

    /// The process's level by the last sample.
    pub fn level(&self) -> Level {
        // ORDERING: Relaxed; one word.
        Level::from_index(u64::from(self.level.load(Ordering::Relaxed))).unwrap_or(Level::Normal)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_counter_keeps_what_was_added_set_and_raised() {
        let own = Own::default();
        own.add(5);
        own.add(2);
        assert_eq!(own.get(), 7);
        own.raise(6);
        assert_eq!(own.get(), 7, "the larger value stays");
        own.raise(9);
        assert_eq!(own.get(), 9);
        own.set(3);
        assert_eq!(own.get(), 3);
        let shared = Shared::default();
        shared.add(4);
        shared.add(4);
        assert_eq!(shared.get(), 8);
        shared.set(1);
        assert_eq!(shared.get(), 1);
        let operations = Operations::default();
        (0..3).for_each(|_| operations.finished());
        assert_eq!(operations.get(), 3);
    }

    #[test]
    fn each_class_has_its_own_counter() {
        let counters = ByClass::default();
        for (times, class) in (2..).zip(Class::ALL) {
            (0..times).for_each(|_| counters.count(*class));
        }
        let values: Vec<u64> = Class::ALL.iter().map(|c| counters.get(*c)).collect();
        let expected: Vec<u64> = (2..).take(Class::COUNT).collect();
        assert_eq!(values, expected);
        assert_eq!(counters.sum(), expected.iter().sum::<u64>());
    }

    #[test]
    fn a_process_carries_sip_by_messages_or_by_suspended_transactions() {
        let totals = SipTotals::default();
        assert!(!totals.carries());
        totals.goes_on.add(1);
        assert!(totals.carries());
        let totals = SipTotals::default();
        totals.messages.add(2);
        assert!(totals.carries());
    }

    #[test]
    fn a_process_and_its_threads_hold_shm_together() {
        let row = Row::default();
        row.shm.allocs.add(3);
        row.shm.bytes_allocated.add(300);
        row.shm.failures.add(1);
        row.shm_threads.bytes_allocated.add(50);
        row.shm_threads.frees.add(2);
        row.shm_threads.bytes_freed.add(120);
        row.shm_threads.unbooked.add(8);
        let sum = row.shm_sum();
        let expected = ShmSum {
            allocs: 3,
            bytes_allocated: 350,
            frees: 2,
            bytes_freed: 120,
            unbooked: 8,
            failures: 1,
        };
        assert_eq!((sum, sum.live()), (expected, 230));
        let freed = ShmSum {
            bytes_freed: 400,
            ..ShmSum::default()
        };
        assert_eq!(sum.plus(freed).live(), -170, "others' blocks");
        assert_eq!(sum.plus(freed).bytes_freed, 520);
    }

    #[test]
    fn what_the_sampling_process_says_of_a_row_comes_back() {
        let row = Row::default();
        assert_eq!(row.growth(), (0.0, 0.0));
        assert_eq!((row.leak(), row.level()), (Leak::None, Level::Normal));
        row.set_growth(-2.5, 0.125);
        row.set_leak(Leak::Confirmed);
        row.set_level(Level::Shedding);
        assert_eq!(row.growth(), (-2.5, 0.125));
        assert_eq!(
            (row.leak(), row.level()),
            (Leak::Confirmed, Level::Shedding)
        );
    }
}
