//! The places that allocate ("sites"): one dictionary for all processes, and per process a row of counters per site.
//! Forbidden here: locks, heap, waiting, panics; every worker comes here on every allocation and free.
//!
//! ```text
//! slots    8192 × 16 bytes   open addressing: file pointer │ line, pool, index      found by hash, never removed
//! places   4096 × 160 bytes  by index: pool, line and the texts, copied when the site was first seen
//! tables    512 × 4096 × 64  one row of counters per process and site; single writer: the process's main thread
//! threads  4096 × 64         the same for all other threads of all processes together, by atomic adds
//! ```
//!
//! **Key.** Pool, line and the *address* of the file literal: modules are loaded before the first fork, so a literal
//! has one address in every process. The function is not part of it: one line of one file is one function, and tls
//! rewrites the function of a block after the allocation (core/mem/shm.h `shm_setfunc`). Equal text at several
//! addresses (inline functions of headers, several .so) is several sites here and one in reports.
//!
//! **Texts** are copied when a site is first seen, by the process that allocates: its caller holds valid strings then,
//! also where they are no literals (tls debug malloc); no reader ever follows a pointer of another process.
//!
//! **Indices** are dense, so a process touches only the pages of the sites that exist. [`overflow_row`] counts what has no
//! index because the dictionary is full (or a probe sequence is); [`before_row`] counts blocks that are older than the
//! wrappers and could not be named.
//!
//! **Order of words.** A block's allocation is counted before anybody can free it, and a reader reads frees before
//! allocations (`Acquire` against `Release`), so over all processes a reader never sees more freed than allocated.
//! A row's blocks and bytes may differ by the one operation that is between its two stores.
//!
//! **Recovery.** A process killed between claiming a slot and describing it leaves a slot that matches nothing; the
//! next user of that site takes another one. A counter row can be off by the one operation that was under way.

use std::io;

use super::mapping::{self, SharedZeroable};
use super::marks::Marks;
use super::rows::MAX_PROCESSES;
use super::sync::{AtomicU64, Ordering};
use crate::guard::growth::Growth;

/// Sites that can be told apart; Kamailio with 60 modules has about 1,500.
pub const SITES: usize = 4096;
/// Slots of the hash table; at most half of them are ever taken.
const SLOTS: usize = 2 * SITES;
/// How far a search goes before it counts as "not there".
const PROBES: usize = 64;
/// First index that a site gets; below it are, per pool, the overflow row and the row of older blocks.
const FIRST: u64 = 4;

/// The row of everything in a pool that found no index.
pub const fn overflow_row(pool: SitePool) -> usize {
    pool as usize
}

/// The row of a pool's blocks that are older than the wrappers and have no known place.
pub const fn before_row(pool: SitePool) -> usize {
    2 + pool as usize
}

/// The rows that stand for no place: their pool and what reports call them.
fn nameless(index: usize) -> Option<(SitePool, &'static str)> {
    [SitePool::Shm, SitePool::Pkg].into_iter().find_map(|pool| {
        if index == overflow_row(pool) {
            Some((pool, "(more places than memguard can tell apart)"))
        } else if index == before_row(pool) {
            Some((pool, "(allocated before memguard was loaded)"))
        } else {
            None
        }
    })
}

const FILE_WORDS: usize = 9;
const FUNC_WORDS: usize = 6;
const MODULE_WORDS: usize = 4;

/// Which pool a site allocates from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u64)]
pub enum SitePool {
    /// The shared pool.
    Shm = 0,
    /// A private pool.
    Pkg = 1,
}

/// What identifies a site in every process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The pool.
    pub pool: SitePool,
    /// Address of the file literal.
    pub file: usize,
    /// Line.
    pub line: u32,
}

impl Key {
    /// Line and pool as one word; the index takes the bits between.
    #[inline(always)]
    fn tag(self) -> u64 {
        (u64::from(self.line) << 32) | ((self.pool as u64) << 31)
    }

    #[inline(always)]
    fn slot(self) -> usize {
        let mixed = (self.file as u64)
            .wrapping_add(self.tag())
            .wrapping_add(u64::from(self.line))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> (64 - SLOTS.trailing_zeros())) as usize
    }
}

/// What a search without a result answers.
const NOT_FOUND: usize = usize::MAX;

/// Bits of a slot's second word that hold the index.
const INDEX_BITS: u64 = (1 << 31) - 1;

#[repr(C, align(16))]
struct Slot {
    /// Address of the file literal; 0: free.
    file: AtomicU64,
    /// Line, pool and index; 0 while the claimer has not finished.
    what: AtomicU64,
}

/// Texts of a site as they were when it was first seen; longer ones keep their end.
#[repr(C)]
struct Place {
    /// Line and pool as in [`Key::tag`], with bit 0 set: 0 is "nothing here".
    tag: AtomicU64,
    file: [AtomicU64; FILE_WORDS],
    func: [AtomicU64; FUNC_WORDS],
    module: [AtomicU64; MODULE_WORDS],
}

/// A site as reports show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The pool.
    pub pool: SitePool,
    /// Line.
    pub line: u32,
    /// File as Kamailio's literal has it ("core: core/parser/…"); a long one without its beginning.
    pub file: String,
    /// Function.
    pub func: String,
    /// Module, "core" for the core and its libraries.
    pub module: String,
}

/// Texts to be copied, already cut to what they may hold.
#[derive(Clone, Copy, Debug)]
pub struct Texts<'a> {
    /// File.
    pub file: &'a [u8],
    /// Function.
    pub func: &'a [u8],
    /// Module.
    pub module: &'a [u8],
}

/// Longest texts that are kept, in bytes.
pub const FILE_BYTES: usize = FILE_WORDS * 8;
/// As above.
pub const FUNC_BYTES: usize = FUNC_WORDS * 8;
/// As above.
pub const MODULE_BYTES: usize = MODULE_WORDS * 8;

fn write_text(words: &[AtomicU64], text: &[u8]) {
    let text = text
        .get(text.len().saturating_sub(words.len() * 8)..)
        .unwrap_or_default();
    let mut rest = text;
    for word in words {
        let (now, later) = rest.split_at(rest.len().min(8));
        let mut bytes = [0u8; 8];
        for (to, from) in bytes.iter_mut().zip(now) {
            *to = *from;
        }
        // ORDERING: Relaxed; published by the Release of the slot.
        word.store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
        rest = later;
    }
}

fn read_text(words: &[AtomicU64]) -> String {
    // ORDERING: Relaxed; read after the Acquire of the tag.
    let bytes: Vec<u8> = words
        .iter()
        .flat_map(|w| w.load(Ordering::Relaxed).to_ne_bytes())
        .collect();
    let text = bytes.split(|b| *b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

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
    /// First and last failure in Unix seconds, 32 bits each.
    failed_when: AtomicU64,
}

const _: () =
    assert!(size_of::<Counts>() == 64 && size_of::<Slot>() == 16 && size_of::<Place>() == 160);

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
    /// Unix seconds of the first one; 0: none.
    pub first_failed: u64,
    /// Unix seconds of the last one.
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
    pub fn allocated(&self, size: u64) -> (u64, u64) {
        (bump(&self.allocs, 1), bump(&self.bytes_allocated, size))
    }

    /// Counts one freed block; only the row's writer may call this.
    #[inline(always)]
    pub fn freed(&self, size: u64) -> (u64, u64) {
        (bump(&self.frees, 1), bump(&self.bytes_freed, size))
    }

    /// Publishes values that [`Counts::allocated`] gave for the private original of this row.
    #[inline(always)]
    pub fn set_allocated(&self, (blocks, bytes): (u64, u64)) {
        // ORDERING: Release; pairs with the Acquire in tally.
        self.allocs.store(blocks, Ordering::Release);
        self.bytes_allocated.store(bytes, Ordering::Release);
    }

    /// As above, of [`Counts::freed`].
    #[inline(always)]
    pub fn set_freed(&self, (blocks, bytes): (u64, u64)) {
        // ORDERING: Release; pairs with the Acquire in tally.
        self.frees.store(blocks, Ordering::Release);
        self.bytes_freed.store(bytes, Ordering::Release);
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

/// One process's counters by site index.
pub type Table = [Counts; SITES];

/// The dictionary and all tables; 130 MB of address space, of which the pages of existing sites cost memory.
#[repr(C)]
pub struct Sites {
    /// Next index to give out, less [`FIRST`].
    given: AtomicU64,
    /// Calls that found no index.
    overflows: AtomicU64,
    slots: [Slot; SLOTS],
    places: [Place; SITES],
    /// Growth by site as the sampling process sees it ([`Growth`]'s numbers as bits).
    growth: [[AtomicU64; Growth::WORDS]; SITES],
    /// Messages and REGISTERs per second over the same time (bits of f64).
    message_rate: AtomicU64,
    register_rate: AtomicU64,
    /// Snapshots of an operator.
    pub marks: Marks,
    threads: Table,
    tables: [Table; MAX_PROCESSES],
}

// SAFETY: atomics only.
unsafe impl SharedZeroable for Sites {}

impl Sites {
    /// Maps empty tables.
    ///
    /// # Errors
    /// As [`mapping::map_shared`].
    pub fn map() -> io::Result<&'static Sites> {
        mapping::map_one()
    }

    /// Index of a known site; `None` when it was never seen.
    #[inline(always)]
    pub fn find(&self, key: Key) -> Option<usize> {
        // ORDERING: Relaxed; the address stands for itself. Acquire; pairs with the Release in insert (texts).
        let slot = self.slots.get(key.slot())?;
        let what = slot.what.load(Ordering::Acquire);
        if slot.file.load(Ordering::Relaxed) == key.file as u64
            && what & !INDEX_BITS == key.tag()
            && what != 0
        {
            return Some((what & INDEX_BITS) as usize);
        }
        match self.search(key.file as u64, key.tag(), key.slot()) {
            NOT_FOUND => None,
            index => Some(index),
        }
    }

    /// The whole probe sequence; ends at a free slot. Plain words in and out: they stay in registers.
    #[inline(never)]
    fn search(&self, wanted: u64, tag: u64, start: usize) -> usize {
        for probe in 0..PROBES {
            let Some(slot) = self.slots.get(start.wrapping_add(probe) % SLOTS) else {
                break;
            };
            // ORDERING: as in find.
            let file = slot.file.load(Ordering::Relaxed);
            if file == 0 {
                break;
            }
            let what = slot.what.load(Ordering::Acquire);
            if file == wanted && what != 0 && what & !INDEX_BITS == tag {
                return (what & INDEX_BITS) as usize;
            }
        }
        NOT_FOUND
    }

    /// Gives a site an index, or the overflow row's. `texts` are copied. Called once per site and process at most.
    #[cold]
    #[inline(never)]
    pub fn insert(&self, key: Key, texts: Texts) -> usize {
        if key.file == 0 {
            return self.overflow(key.pool);
        }
        if let Some(index) = self.find(key) {
            return index;
        }
        // ORDERING: Relaxed; a number that is given out once.
        let index = self
            .given
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_add(FIRST);
        let Some(place) = self.places.get(index as usize) else {
            // ORDERING: Relaxed; keeps the number from wrapping around.
            self.given.store(SITES as u64, Ordering::Relaxed);
            return self.overflow(key.pool);
        };
        write_text(&place.file, texts.file);
        write_text(&place.func, texts.func);
        write_text(&place.module, texts.module);
        // ORDERING: Release; pairs with the Acquire in place: who sees the tag sees the texts.
        place.tag.store(key.tag() | 1, Ordering::Release);
        for probe in 0..PROBES {
            let Some(slot) = self.slots.get(key.slot().wrapping_add(probe) % SLOTS) else {
                break;
            };
            // ORDERING: Relaxed; the slot is claimed by its address, and described by `what`.
            if slot
                .file
                .compare_exchange(0, key.file as u64, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
            {
                // ORDERING: Release; pairs with the Acquire in find.
                slot.what.store(key.tag() | index, Ordering::Release);
                return index as usize;
            }
            let what = slot.what.load(Ordering::Acquire);
            if slot.file.load(Ordering::Relaxed) == key.file as u64
                && what != 0
                && what & !INDEX_BITS == key.tag()
            {
                return (what & INDEX_BITS) as usize; // another process was first: our index stays unused
            }
        }
        self.overflow(key.pool)
    }

    fn overflow(&self, pool: SitePool) -> usize {
        // ORDERING: Relaxed; a counter.
        self.overflows.fetch_add(1, Ordering::Relaxed);
        overflow_row(pool)
    }

    /// Row of a block whose site is not known: older than the wrappers, or one that found no index.
    #[cold]
    pub fn unknown(&self, pool: SitePool) -> usize {
        if self.overflows() == 0 {
            before_row(pool)
        } else {
            overflow_row(pool)
        }
    }

    /// Calls that found no index.
    pub fn overflows(&self) -> u64 {
        // ORDERING: Relaxed; a counter.
        self.overflows.load(Ordering::Relaxed)
    }

    /// Indices in use are below this.
    pub fn count(&self) -> usize {
        // ORDERING: Relaxed; a site that is being added now is seen by the next reader.
        (self.given.load(Ordering::Relaxed).wrapping_add(FIRST) as usize).min(SITES)
    }

    /// A site by its index; `None` for indices that are not in use.
    pub fn place(&self, index: usize) -> Option<Named> {
        if let Some((pool, func)) = nameless(index) {
            return Some(Named {
                pool,
                line: 0,
                file: String::new(),
                func: func.into(),
                module: "memguard".into(),
            });
        }
        let place = self.places.get(index)?;
        // ORDERING: Acquire; pairs with the Release in insert.
        let tag = place.tag.load(Ordering::Acquire);
        (tag != 0).then(|| Named {
            pool: if tag >> 31 & 1 == 1 {
                SitePool::Pkg
            } else {
                SitePool::Shm
            },
            line: (tag >> 32) as u32,
            file: read_text(&place.file),
            func: read_text(&place.func),
            module: read_text(&place.module),
        })
    }

    /// Pool of a site.
    pub fn pool(&self, index: usize) -> Option<SitePool> {
        if let Some((pool, _)) = nameless(index) {
            return Some(pool);
        }
        // ORDERING: Relaxed; one word.
        let tag = self.places.get(index)?.tag.load(Ordering::Relaxed);
        (tag != 0).then_some(if tag >> 31 & 1 == 1 {
            SitePool::Pkg
        } else {
            SitePool::Shm
        })
    }

    /// Counters of one process.
    #[inline(always)]
    pub fn table(&self, process: usize) -> Option<&Table> {
        self.tables.get(process)
    }

    /// Counters of all threads that are not their process's main thread.
    #[inline(always)]
    pub fn threads(&self) -> &Table {
        &self.threads
    }

    /// Publishes a site's growth. Writer: the sampling process.
    pub fn set_growth(&self, index: usize, growth: Growth) {
        if let Some(words) = self.growth.get(index) {
            for (word, value) in words.iter().zip(growth.to_array()) {
                // ORDERING: Relaxed; figures for people, each for itself.
                word.store(value.to_bits(), Ordering::Relaxed);
            }
        }
    }

    /// A site's growth by the last sample.
    pub fn growth(&self, index: usize) -> Growth {
        let words = self.growth.get(index);
        // ORDERING: Relaxed; as in set_growth.
        words.map_or_else(Growth::default, |words| {
            Growth::from_array(std::array::from_fn(|i| {
                f64::from_bits(words[i].load(Ordering::Relaxed))
            }))
        })
    }

    /// Publishes messages and REGISTERs per second over the time that growth is measured over.
    pub fn set_rates(&self, messages: f64, registers: f64) {
        // ORDERING: Relaxed; as in set_growth.
        self.message_rate
            .store(messages.to_bits(), Ordering::Relaxed);
        self.register_rate
            .store(registers.to_bits(), Ordering::Relaxed);
    }

    /// Messages and REGISTERs per second.
    pub fn rates(&self) -> (f64, f64) {
        // ORDERING: Relaxed; as in set_growth.
        let load = |w: &AtomicU64| f64::from_bits(w.load(Ordering::Relaxed));
        (load(&self.message_rate), load(&self.register_rate))
    }

    /// What the main thread of a process counted in a pool at all sites together.
    pub fn total(&self, process: usize, pool: SitePool) -> Tally {
        let mut total = Tally::default();
        let Some(table) = self.table(process) else {
            return total;
        };
        let rows = || {
            table
                .iter()
                .take(self.count())
                .enumerate()
                .filter(|(index, _)| self.pool(*index) == Some(pool))
        };
        rows().for_each(|(_, counts)| counts.read_freed(&mut total));
        rows().for_each(|(_, counts)| counts.read_allocated(&mut total));
        total
    }

    /// What the first `processes` processes and all other threads counted at each site in use, by index.
    pub fn sums(&self, processes: usize) -> Vec<Tally> {
        let count = self.count();
        let mut sums = vec![Tally::default(); count];
        let tables = || {
            self.tables
                .iter()
                .take(processes)
                .chain(std::iter::once(&self.threads))
        };
        for table in tables() {
            sums.iter_mut()
                .zip(table)
                .for_each(|(sum, counts)| counts.read_freed(sum));
        }
        for table in tables() {
            sums.iter_mut()
                .zip(table)
                .for_each(|(sum, counts)| counts.read_allocated(sum));
        }
        for table in tables() {
            sums.iter_mut()
                .zip(table)
                .for_each(|(sum, counts)| counts.read_rest(sum));
        }
        sums
    }
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;

    fn key(file: usize, line: u32) -> Key {
        Key {
            pool: SitePool::Shm,
            file,
            line,
        }
    }

    fn texts(file: &str) -> Texts<'_> {
        Texts {
            file: file.as_bytes(),
            func: b"make",
            module: b"core",
        }
    }

    #[test]
    fn a_site_is_found_again_and_another_line_pool_or_file_is_another_site() {
        let sites = Sites::map().unwrap();
        let index = sites.insert(key(0x1000, 7), texts("core: a.c"));
        assert_eq!(sites.find(key(0x1000, 7)), Some(index));
        assert_eq!(
            sites.insert(key(0x1000, 7), texts("other")),
            index,
            "known already"
        );
        let pkg = Key {
            pool: SitePool::Pkg,
            ..key(0x1000, 7)
        };
        for other in [key(0x1000, 8), key(0x1008, 7), pkg] {
            assert_eq!(sites.find(other), None);
        }
        let named = sites.place(index).unwrap();
        assert_eq!((named.line, named.pool), (7, SitePool::Shm));
        assert_eq!(
            (named.file.as_str(), named.func.as_str()),
            ("core: a.c", "make")
        );
    }

    #[test]
    fn a_long_text_keeps_its_end() {
        let sites = Sites::map().unwrap();
        let long = format!("core: {}/end.c", "x".repeat(200));
        let index = sites.insert(key(1, 1), texts(&long));
        let file = sites.place(index).unwrap().file;
        assert!(
            file.len() == FILE_BYTES && file.ends_with("xx/end.c"),
            "{file}"
        );
    }

    #[test]
    fn what_finds_no_index_is_counted_in_the_overflow_row() {
        let sites = Sites::map().unwrap();
        assert_eq!(sites.unknown(SitePool::Pkg), before_row(SitePool::Pkg));
        let given = (0..2 * SITES).map(|i| sites.insert(key(8 * (i + 1), i as u32), texts("f")));
        let mut indices: Vec<usize> = given
            .filter(|i| *i != overflow_row(SitePool::Shm))
            .collect();
        let count = indices.len();
        assert!(count > SITES * 9 / 10 && count <= SITES, "{count}");
        assert_eq!(sites.overflows() as usize, 2 * SITES - count);
        indices.sort_unstable();
        indices.dedup();
        assert_eq!(indices.len(), count, "each index is given once");
        assert_eq!(sites.count(), SITES);
        assert_eq!(sites.unknown(SitePool::Pkg), overflow_row(SitePool::Pkg));
    }

    #[test]
    fn a_slot_whose_claimer_was_killed_is_passed_by() {
        let sites = Sites::map().unwrap();
        let site = key(0x4000, 3);
        sites.slots[site.slot()]
            .file
            .store(0x4000, Ordering::Relaxed);
        assert_eq!(sites.find(site), None);
        let index = sites.insert(site, texts("f"));
        assert_eq!(sites.find(site), Some(index));
        assert_ne!(index, overflow_row(SitePool::Shm));
    }

    #[test]
    fn threads_that_meet_new_sites_together_count_every_operation_once() {
        let sites = Sites::map().unwrap();
        const ROUNDS: u64 = 100_000;
        std::thread::scope(|scope| {
            for process in 0..4 {
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let site = key(0x10_0000 + 8 * (round as usize % 100), 1);
                        let index = sites
                            .find(site)
                            .unwrap_or_else(|| sites.insert(site, texts("f")));
                        sites.table(process).unwrap()[index].allocated(10);
                        sites.threads()[before_row(SitePool::Shm)].add(
                            Writer::OneOfMany,
                            (1, 10),
                            (0, 0),
                            0,
                        );
                        sites.table(process).unwrap()[index].freed(10);
                    }
                });
            }
            for _ in 0..2000 {
                for (index, sum) in sites.sums(4).iter().enumerate() {
                    assert!(
                        sum.live_bytes() >= 0 && sum.live_blocks() >= 0,
                        "{index}: {sum:?}"
                    );
                }
            }
        });
        let all = sites.sums(4).iter().fold(Tally::default(), |mut all, sum| {
            all.plus(sum);
            all
        });
        assert_eq!((all.allocs, all.bytes_allocated), (8 * ROUNDS, 80 * ROUNDS));
        assert_eq!((all.frees, all.bytes_freed), (4 * ROUNDS, 40 * ROUNDS));
    }

    #[test]
    fn failures_keep_the_largest_size_and_both_times() {
        let counts = Counts::new();
        counts.failed(100, 1000);
        counts.failed(5000, 1010);
        counts.failed(50, 1020);
        let tally = counts.tally();
        assert_eq!((tally.failures, tally.largest_failed), (3, 5000));
        assert_eq!((tally.first_failed, tally.last_failed), (1000, 1020));
    }
}
