//! The dictionary of sites: from pool, line and address of the file literal to an index, and from it to the texts.
//! Forbidden here: locks, waiting, panics, and on the way to an index the heap; counters.

use crate::shared::counters::sites::{
    SITES, before_row, overflow_row,
    place::{Named, Place, SitePool, Texts},
};
use crate::shared::parts::{
    mapping::SharedZeroable,
    sync::{AtomicU64, Ordering, SITE_PROBES},
};

/// Slots of the hash table; at most half of them are ever taken.
const SLOTS: usize = 2 * SITES;
/// First index that a site gets; below it are, per pool, the overflow row and the row of older blocks.
const FIRST: u64 = 4;

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
    /// One word: addresses of literals have 47 bits (x86-64), then the pool, then the line. Two lines of one file that
    /// lie 65,536 lines apart are one site.
    #[inline(always)]
    fn word(self) -> u64 {
        self.file as u64 | (self.pool as u64) << 47 | u64::from(self.line) << 48
    }
}

/// Where the search for a key begins.
#[inline(always)]
fn home(key: u64) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SLOTS.trailing_zeros())) as usize
}

/// What a search without a result answers.
const NOT_FOUND: usize = usize::MAX;

#[repr(C, align(16))]
struct Slot {
    /// [`Key::word`]; 0: free.
    key: AtomicU64,
    /// 0 while the claimer has not finished.
    index: AtomicU64,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Slot>() == 16);

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

/// All sites that were ever seen, of all processes. Nothing is ever removed.
#[repr(C)]
pub struct Dictionary {
    /// Next index to give out, less [`FIRST`].
    given: AtomicU64,
    /// Calls that found no index.
    overflows: AtomicU64,
    slots: [Slot; SLOTS],
    places: [Place; SITES],
}

// SAFETY: atomics only.
unsafe impl SharedZeroable for Dictionary {}

impl Dictionary {
    /// Index of a known site that lies where its hash says, as nine in ten do; `None` says nothing.
    #[inline(always)]
    pub fn find_at_once(&self, key: Key) -> Option<usize> {
        let key = key.word();
        let slot = self.slots.get(home(key))?;
        // ORDERING: Relaxed; the key stands for itself. Acquire; pairs with the Release in insert (texts).
        let index = slot.index.load(Ordering::Acquire) as usize;
        (slot.key.load(Ordering::Relaxed) == key && index != 0).then_some(index)
    }

    /// Index of a known site; `None` when it was never seen.
    #[inline(always)]
    pub fn find(&self, key: Key) -> Option<usize> {
        self.find_at_once(key).or_else(|| {
            let key = key.word();
            match self.search(key, home(key)) {
                NOT_FOUND => None,
                index => Some(index),
            }
        })
    }

    /// The whole probe sequence; ends at a free slot. Plain words in and out: they stay in registers.
    #[inline(never)]
    fn search(&self, wanted: u64, start: usize) -> usize {
        for probe in 0..SITE_PROBES {
            let Some(slot) = self.slots.get(start.wrapping_add(probe) % SLOTS) else {
                break;
            };
            // ORDERING: as in find_at_once.
            let key = slot.key.load(Ordering::Relaxed);
            if key == 0 {
                break;
            }
            let index = slot.index.load(Ordering::Acquire);
            if key == wanted && index != 0 {
                return index as usize;
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
        place.describe(key.line, key.pool, texts);
        let wanted = key.word();
        for probe in 0..SITE_PROBES {
            let Some(slot) = self.slots.get(home(wanted).wrapping_add(probe) % SLOTS) else {
                break;
            };
            // ORDERING: Relaxed; the slot is claimed by its key, and described by its index.
            if slot
                .key
                .compare_exchange(0, wanted, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
            {
                // ORDERING: Release; pairs with the Acquire in find_at_once.
                slot.index.store(index, Ordering::Release);
                return index as usize;
            }
            // ORDERING: as in find_at_once.
            let known = slot.index.load(Ordering::Acquire);
            if slot.key.load(Ordering::Relaxed) == wanted && known != 0 {
                return known as usize; // another process was first: our index stays unused
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
        self.places.get(index)?.named()
    }

    /// Pool of a site.
    pub fn pool(&self, index: usize) -> Option<SitePool> {
        match nameless(index) {
            Some((pool, _)) => Some(pool),
            None => self.places.get(index)?.pool(),
        }
    }
}

#[cfg(loom)]
impl Dictionary {
    /// Empty, outside of any mapping.
    pub fn new() -> Dictionary {
        let slot = |_| Slot {
            key: AtomicU64::new(0),
            index: AtomicU64::new(0),
        };
        Dictionary {
            given: AtomicU64::new(0),
            overflows: AtomicU64::new(0),
            slots: std::array::from_fn(slot),
            places: std::array::from_fn(|_| Place::new()),
        }
    }
}

#[cfg(all(test, not(loom), not(miri)))]
impl Dictionary {
    /// As a process leaves it that is killed between claiming a slot and describing it.
    pub(super) fn claim_and_die(&self, key: Key) {
        let key = key.word();
        self.slots[home(key)].key.store(key, Ordering::Relaxed);
    }
}
