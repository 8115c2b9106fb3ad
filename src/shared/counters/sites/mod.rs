//! The places that allocate ("sites"): one dictionary for all processes, and per process a row of counters per site.
//! Forbidden here: locks, waiting, panics, and for writers the heap: workers come here on every allocation and free.
//!
//! ```text
//! slots    8192 × 16 bytes   open addressing: file pointer, line, pool │ index, in focus or not; found by hash, never removed
//! places   4096 × 160 bytes  by index: pool, line and the texts, copied when the site was first seen
//! tables    512 × 4096 × 64  one row of counters per process and site; single writer: the process's main thread
//! threads  4096 × 64         the same for all other threads of all processes together, by atomic adds
//! common   4096 × 64         the same for the private pools of all processes beyond the 512th
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

use crate::guard::foresee::growth::Growth;
use crate::shared::counters::{
    marks::Marks,
    rows::{COMMON_ROW, MAX_PROCESSES},
};
use crate::shared::parts::{
    mapping::{self, SharedZeroable},
    sync::{AtomicU64, Ordering},
};

mod counts;
mod dictionary;
mod leading;
mod place;
#[cfg(all(test, not(loom), not(miri)))]
mod tests;

pub use crate::shared::counters::sites::counts::{Counts, Tally, Writer};
pub use crate::shared::counters::sites::dictionary::{Dictionary, Entry, Key};
pub use crate::shared::counters::sites::leading::{Held, Leading};
pub use crate::shared::counters::sites::place::{
    FILE_BYTES, FUNC_BYTES, MODULE_BYTES, Named, SitePool, Texts,
};
pub use crate::shared::parts::sync::SITES;

/// The row of everything in a pool that found no index.
pub const fn overflow_row(pool: SitePool) -> usize {
    pool as usize
}

/// The row of a pool's blocks that are older than the wrappers and have no known place.
pub const fn before_row(pool: SitePool) -> usize {
    2 + pool as usize
}

/// One process's counters by site index.
pub type Table = [Counts; SITES];

/// Messages and REGISTERs per second (bits of f64).
type Rates = [AtomicU64; 2];

/// The dictionary and all tables; 150 MB of address space, of which the pages of existing sites cost memory.
#[repr(C)]
pub struct Sites {
    dictionary: Dictionary,
    /// Growth by site as the sampling process sees it ([`Growth`]'s numbers as bits).
    growth: [[AtomicU64; Growth::WORDS]; SITES],
    /// Messages and REGISTERs per second over the same time.
    rates: Rates,
    /// Growth of one worker's own share of a site, by process and index (bits of f64).
    worker_growth: [[AtomicU64; SITES]; MAX_PROCESSES],
    /// Messages and REGISTERs per second of each process.
    worker_rates: [Rates; MAX_PROCESSES],
    /// Snapshots of an operator.
    pub marks: Marks,
    threads: Table,
    tables: [Table; MAX_PROCESSES],
    /// Private pools of all processes beyond the last table, by atomic adds.
    common: Table,
}

// SAFETY: atomics only.
unsafe impl SharedZeroable for Sites {}

/// The dictionary's own words.
impl std::ops::Deref for Sites {
    type Target = Dictionary;

    #[inline(always)]
    fn deref(&self) -> &Dictionary {
        &self.dictionary
    }
}

/// Publishes a figure for people; each stands for itself. A page that holds only zeros is not touched by another zero.
fn store_real(word: &AtomicU64, value: f64) {
    let bits = value.to_bits();
    // ORDERING: Relaxed throughout; one writer, and no data depends on it.
    if word.load(Ordering::Relaxed) != bits {
        word.store(bits, Ordering::Relaxed);
    }
}

fn load_real(word: &AtomicU64) -> f64 {
    // ORDERING: Relaxed; as in store_real.
    f64::from_bits(word.load(Ordering::Relaxed))
}

impl Sites {
    /// Growth of a pool: of all its places together.
    pub fn growth_of(&self, pool: SitePool) -> Growth {
        (0..self.count())
            .filter(|index| self.pool(*index) == Some(pool))
            .map(|index| self.growth(index))
            .fold(Growth::default(), Growth::plus)
    }

    /// Maps empty tables.
    ///
    /// # Errors
    /// As [`mapping::map_shared`].
    pub fn map() -> io::Result<&'static Sites> {
        mapping::map_one()
    }

    /// Counters of one process; of [`COMMON_ROW`], those of all further processes together.
    #[inline(always)]
    pub fn table(&self, process: usize) -> Option<&Table> {
        match process {
            COMMON_ROW => Some(&self.common),
            process => self.tables.get(process),
        }
    }

    /// The tables that are in use while there are so many processes: theirs, and those that several share.
    fn used_tables(&self, processes: usize) -> impl Iterator<Item = &Table> {
        let common = (processes > MAX_PROCESSES).then_some(&self.common);
        let own = self.tables.iter().take(processes);
        own.chain(common).chain(std::iter::once(&self.threads))
    }

    /// Counters of all threads that are not their process's main thread.
    #[inline(always)]
    pub fn threads(&self) -> &Table {
        &self.threads
    }

    /// Blocks and bytes that were ever allocated at a site; for those that are told apart one by one.
    pub fn allocated(&self, processes: usize, index: usize) -> (u64, u64) {
        let mut sum = Tally::default();
        let rows = self
            .used_tables(processes)
            .filter_map(|table| table.get(index));
        rows.for_each(|counts| counts.read_allocated(&mut sum));
        (sum.allocs, sum.bytes_allocated)
    }

    /// Publishes a site's growth. Writer: the sampling process.
    pub fn set_growth(&self, index: usize, growth: Growth) {
        if let Some(words) = self.growth.get(index) {
            for (word, value) in words.iter().zip(growth.to_array()) {
                store_real(word, value);
            }
        }
    }

    /// A site's growth by the last sample.
    pub fn growth(&self, index: usize) -> Growth {
        self.growth
            .get(index)
            .map_or_else(Growth::default, |words| {
                Growth::from_array(words.each_ref().map(load_real))
            })
    }

    /// Publishes the growth of one worker's own share of a site. Writer: the sampling process. Rows of workers that do
    /// not grow stay untouched.
    pub fn set_worker_growth(&self, process: usize, index: usize, growth: f64) {
        let words = self.worker_growth.get(process);
        if let Some(word) = words.and_then(|words| words.get(index)) {
            store_real(word, growth);
        }
    }

    /// Growth of one worker's own share of a site by the last sample, bytes per second; 0 while not known.
    pub fn worker_growth(&self, process: usize, index: usize) -> f64 {
        let words = self.worker_growth.get(process);
        words
            .and_then(|words| words.get(index))
            .map_or(0.0, load_real)
    }

    /// Publishes messages and REGISTERs per second over the time that growth is measured over, of one process or of all.
    pub fn set_rates(&self, process: Option<usize>, rates: [f64; 2]) {
        for (word, rate) in self.rates_of(process).iter().zip(rates) {
            store_real(word, rate);
        }
    }

    /// Messages and REGISTERs per second, of one process or of all.
    pub fn rates(&self, process: Option<usize>) -> [f64; 2] {
        match self.rates_of(process) {
            [messages, registers] => [load_real(messages), load_real(registers)],
            _ => [0.0; 2],
        }
    }

    fn rates_of(&self, process: Option<usize>) -> &[AtomicU64] {
        match process {
            None => &self.rates,
            Some(process) => self.worker_rates.get(process).map_or(&[], |rates| rates),
        }
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

    /// What the first `processes` processes and all other threads counted at all sites of a pool together.
    pub fn sum_of(&self, processes: usize, pool: SitePool) -> Tally {
        let count = self.count();
        let mut is_of_pool = [false; SITES];
        for (index, is_of_pool) in is_of_pool.iter_mut().enumerate().take(count) {
            *is_of_pool = self.pool(index) == Some(pool);
        }
        let mut sum = Tally::default();
        let mut read = |what: fn(&Counts, &mut Tally)| {
            for table in self.used_tables(processes) {
                let rows = table.iter().zip(&is_of_pool).take(count);
                let of_pool = rows.filter(|(_, is_of_pool)| **is_of_pool);
                of_pool.for_each(|(counts, _)| what(counts, &mut sum));
            }
        };
        read(Counts::read_freed);
        read(Counts::read_allocated);
        sum
    }

    /// What the first `processes` processes and all other threads counted at each site in use, by index.
    pub fn sums(&self, processes: usize) -> Vec<Tally> {
        let count = self.count();
        let mut sums = vec![Tally::default(); count];
        let tables = || self.used_tables(processes);
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
