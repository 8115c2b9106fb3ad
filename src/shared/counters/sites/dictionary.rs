//! The dictionary of sites: from pool, line and address of the file literal to an index, and from it to the texts.
//! Forbidden here: locks, waiting, panics, and on the way to an index the heap; counters.

use crate::guard::foresee::focus::Focused;
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

/// What a slot says of its place, as one word: the index (bits 0 to 31); whether it is in focus (bit 63, so that one
/// look at the sign tells), and how thinly it is noted then (bits 32 to 36).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(u64);

impl Entry {
    const FOCUS: u64 = 1 << 63;

    fn new(index: u64, focus: Option<u8>) -> Entry {
        let focus = focus.map_or(0, |thinned| Self::FOCUS | u64::from(thinned % 32) << 32);
        Entry(index | focus)
    }

    /// Index of the place.
    #[inline(always)]
    pub fn index(self) -> usize {
        self.0 as u32 as usize
    }

    /// Negative while the place is in focus.
    #[inline(always)]
    pub fn focus(self) -> i64 {
        self.0 as i64
    }

    /// How thinly an [`Entry::focus`] says that its place is noted; `None`: it is not in focus.
    pub fn thinned(focus: i64) -> Option<u8> {
        (focus < 0).then_some((focus as u64 >> 32 & 31) as u8)
    }
}

#[repr(C, align(16))]
struct Slot {
    /// [`Key::word`]; 0: free.
    key: AtomicU64,
    /// An [`Entry`]; 0 while the claimer has not finished. After that only the sampling process changes it, and only
    /// whether its place is in focus.
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
    pub fn find_at_once(&self, key: Key) -> Option<Entry> {
        let key = key.word();
        let slot = self.slots.get(home(key))?;
        // ORDERING: Relaxed; the key stands for itself. Acquire; pairs with the Release in insert (texts).
        let entry = slot.index.load(Ordering::Acquire);
        (slot.key.load(Ordering::Relaxed) == key && entry != 0).then_some(Entry(entry))
    }

    /// Index of a known site; `None` when it was never seen.
    #[inline(always)]
    pub fn find(&self, key: Key) -> Option<usize> {
        self.entry(key).map(Entry::index)
    }

    /// What is known of a site; `None` when it was never seen.
    #[inline(always)]
    pub fn entry(&self, key: Key) -> Option<Entry> {
        self.find_at_once(key).or_else(|| {
            let key = key.word();
            match self.search(key, home(key)) {
                0 => None,
                entry => Some(Entry(entry)),
            }
        })
    }

    /// Has the way to nearly every allocation of some places be noted, and of no others. Process: the sampling process.
    pub fn set_focus(&self, focused: &[Focused]) {
        for slot in &self.slots {
            // ORDERING: Acquire; pairs with the Release in insert. After it nobody else writes a word that is not 0.
            let before = slot.index.load(Ordering::Acquire);
            let index = Entry(before).index();
            let found = focused.iter().find(|focused| focused.index == index);
            let after = Entry::new(index as u64, found.map(|focused| focused.thinned));
            if before != 0 && Entry(before) != after {
                // ORDERING: Release; as in insert, whose texts it goes on publishing.
                slot.index.store(after.0, Ordering::Release);
            }
        }
    }

    /// The places in focus.
    pub fn focused(&self) -> Vec<Focused> {
        let entries = self.slots.iter().map(|slot| {
            // ORDERING: Relaxed; figures for people.
            Entry(slot.index.load(Ordering::Relaxed))
        });
        let focused = entries.filter_map(|entry| {
            let thinned = Entry::thinned(entry.focus())?;
            let index = entry.index();
            Some(Focused { index, thinned })
        });
        focused.collect()
    }

    /// The whole probe sequence; ends at a free slot. Plain words in and out: they stay in registers. 0: not found.
    #[inline(never)]
    fn search(&self, wanted: u64, start: usize) -> u64 {
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
                return index;
            }
        }
        0
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
                return Entry(known).index(); // another process was first: our index stays unused
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
