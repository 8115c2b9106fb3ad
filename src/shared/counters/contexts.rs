//! What sampled blocks carry from their allocation to their free: how it was reached, and how much is still held.
//! Forbidden here: locks, heap, waiting, panics; workers come here with the global shm lock held.
//!
//! ```text
//! slots  32768 × 512 bytes   one context each; the first words count, the rest is what it is
//!          0  key │ state │ owner │ in │ out │ growth │ steady
//!         64  name: the module's, zero-terminated: what the block's header points to
//!         96  record: path, configuration line, method, place; believed only under the slot's key
//! index  65536 words         tag and slot, by key; a hint: a stale word is passed by
//! free     512 words         one bit per slot: nothing that lives carries it
//! ```
//!
//! **One context, many blocks.** Blocks of one process that were allocated in the same way share a context (equal
//! key); `state` counts those that live. So the table holds as many contexts as there are ways to allocate, not as
//! there are blocks, and every allocation of a server can be sampled.
//!
//! **Reuse.** A slot is claimed by moving its `state` from "nobody" to "being written", which fails while a block that
//! carries it lives, and counts a new generation, so that who looked at the slot before cannot take hold of it any
//! more. A block is counted in `state` before its header points here, and counted off when it is freed, by whichever
//! process that is (shm), or by its own (pkg).
//!
//! **Order of words.** The record is published by `state` (Release) and read after it (Acquire); a reader checks the
//! record against the key and the key against the state before and after.
//!
//! **Recovery.** A process killed between claiming and publishing leaves a slot that nobody uses again; one killed
//! between counting a block and writing its header leaves a context that counts one block too many. Everything else
//! stays right. Lowest slots are used first: what is touched is what was needed at once.

use std::io;
use std::mem::offset_of;

use crate::guard::foresee::{growth::Growth, sampling};
use crate::shared::counters::contexts::{context::WORDS, state::State};
use crate::shared::parts::{
    mapping::{self, SharedZeroable},
    record::Record,
    sync::{AtomicU64, Ordering},
};

mod context;
mod state;
pub use crate::shared::counters::contexts::context::{
    Context, FILE_BYTES, FRAMES, Held, NAME_BYTES, Owner, ROUTE_BYTES,
};

/// Contexts that can be told apart at a time.
pub const CONTEXTS: usize = if cfg!(loom) { 1 } else { 32768 };
const INDEX: usize = 2 * CONTEXTS;
/// How far a key may lie from where it belongs in the index.
const PROBES: usize = if cfg!(loom) { 1 } else { 16 };
/// Free bits that are tried before the table counts as full.
const CLAIMS: usize = 8;
/// How often a state is looked at again after somebody else changed it.
const TRIES: usize = if cfg!(loom) { 3 } else { 1000 };

/// One context. Everything but `state` belongs to the process that is writing the slot, until it is published.
#[repr(C, align(64))]
#[derive(Default)]
struct Slot {
    key: AtomicU64,
    state: AtomicU64,
    owner: AtomicU64,
    /// Bytes that the sampled blocks stood for, allocated and freed; monotonic within a generation.
    taken: AtomicU64,
    given: AtomicU64,
    growth: AtomicU64,
    steady: AtomicU64,
    _unused: AtomicU64,
    name: [AtomicU64; NAME_BYTES / 8],
    record: Record<WORDS>,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Slot>() == 512 && offset_of!(Slot, name) == 64);

/// The table; 17 MB of address space, of which the used part costs memory.
#[repr(C)]
pub struct Contexts {
    slots: [Slot; CONTEXTS],
    index: [AtomicU64; INDEX],
    /// Bit set: free again. Slots from `fresh` on were never used.
    free: [AtomicU64; CONTEXTS.div_ceil(64)],
    fresh: AtomicU64,
    /// Samples that found no slot.
    missed: AtomicU64,
}

// SAFETY: atomics only.
unsafe impl SharedZeroable for Contexts {}

/// Where a text of a header must point to be one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried(usize);

impl Contexts {
    /// Length of the range that the headers' pointers lie in, from the table's beginning on.
    pub const RANGE: usize = CONTEXTS * size_of::<Slot>();

    /// Maps an empty table.
    ///
    /// # Errors
    /// As [`mapping::map_shared`].
    pub fn map() -> io::Result<&'static Contexts> {
        mapping::map_one()
    }

    /// An empty table outside of any mapping.
    #[cfg(loom)]
    pub fn boxed() -> Contexts {
        Contexts {
            slots: std::array::from_fn(|_| Slot::default()),
            index: crate::shared::parts::sync::zeroed(),
            free: crate::shared::parts::sync::zeroed(),
            fresh: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        }
    }

    /// Counts a block of `size` bytes under its context; the answer is what its header shall carry. `None`: the table
    /// is full. `module` is cut to [`NAME_BYTES`] − 1.
    pub fn take(
        &self,
        owner: Owner,
        context: &Context,
        module: &[u8],
        size: u64,
    ) -> Option<Carried> {
        let words = context.pack();
        let key = context::key(owner, &words);
        let weight = sampling::weight(size, u64::from(owner.rate));
        let slot = match self.find(key) {
            Some(slot) => slot,
            None => self.claim(key, owner, &words, module)?,
        };
        // ORDERING: Release; pairs with the Acquire in held: a reader never sees more given than taken.
        self.slots
            .get(slot)?
            .taken
            .fetch_add(weight, Ordering::Release);
        Some(Carried(slot))
    }

    /// The known context of a key, with one more block that carries it.
    fn find(&self, key: u64) -> Option<usize> {
        for probe in 0..PROBES {
            let place = (key as usize).wrapping_add(probe) % INDEX;
            // ORDERING: Relaxed; a hint, the slot itself is asked.
            let word = self.index.get(place)?.load(Ordering::Relaxed);
            if word == 0 {
                return None;
            }
            let slot = (word as u32 as usize).wrapping_sub(1);
            if word >> 32 == key >> 32 && self.hold(slot, key) {
                return Some(slot);
            }
        }
        None
    }

    /// One more block carries the slot, if it is still this key's.
    fn hold(&self, slot: usize, key: u64) -> bool {
        let Some(at) = self.slots.get(slot) else {
            return false;
        };
        // ORDERING: Acquire; pairs with the Release in claim, so that the key is this state's.
        let mut seen = at.state.load(Ordering::Acquire);
        for _ in 0..TRIES {
            let Some(next) = State::unpack(seen).held() else {
                return false;
            };
            // ORDERING: Relaxed; after the Acquire above, and proven by the exchange: while the state is this one
            // the key does not change.
            if at.key.load(Ordering::Relaxed) != key {
                return false;
            }
            // ORDERING: AcqRel; what the block's freeing process writes comes after what claim wrote.
            match at
                .state
                .compare_exchange(seen, next.pack(), Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return true,
                Err(other) => seen = other,
            }
        }
        false
    }

    /// Writes a context into a slot that nobody carries, and counts one block that does.
    fn claim(&self, key: u64, owner: Owner, words: &[u64; WORDS], module: &[u8]) -> Option<usize> {
        let (slot, state) = self.own_one()?;
        let at = self.slots.get(slot)?;
        // ORDERING: Relaxed; published by the state below.
        at.key.store(key, Ordering::Relaxed);
        at.owner.store(owner.pack(), Ordering::Relaxed);
        for word in [&at.taken, &at.given, &at.growth, &at.steady] {
            word.store(0, Ordering::Relaxed);
        }
        let mut bytes = module.iter().take(NAME_BYTES - 1);
        for word in &at.name {
            let mut eight = [0; 8];
            eight
                .iter_mut()
                .zip(&mut bytes)
                .for_each(|(to, from)| *to = *from);
            word.store(u64::from_ne_bytes(eight), Ordering::Relaxed);
        }
        at.record.store_as(key, words);
        // ORDERING: Release; pairs with the Acquire in hold and held.
        at.state.store(state.published().pack(), Ordering::Release);
        self.note(key, slot);
        Some(slot)
    }

    /// A slot that is being written from now on, by us only.
    fn own_one(&self) -> Option<(usize, State)> {
        let mut claims = 0;
        let used = self.used().div_ceil(64);
        for (at, word) in self.free.iter().take(used).enumerate() {
            // ORDERING: Relaxed loads; a bit is a hint, the slot's state decides. Acquire where it is taken; pairs with
            // the Release in give: who takes the bit sees the slot free, else bit and slot would be lost.
            let mut bits = word.load(Ordering::Relaxed);
            while bits != 0 && claims < CLAIMS {
                claims += 1;
                let bit = bits & bits.wrapping_neg();
                let before = word.fetch_and(!bit, Ordering::Acquire);
                let slot = at
                    .wrapping_mul(64)
                    .wrapping_add(bit.trailing_zeros() as usize);
                if let Some(state) = Some(slot)
                    .filter(|_| before & bit != 0)
                    .and_then(|slot| self.own(slot))
                {
                    return Some((slot, state));
                }
                bits = word.load(Ordering::Relaxed);
            }
        }
        // ORDERING: Relaxed; a number that is given out once.
        if self.fresh.load(Ordering::Relaxed) < CONTEXTS as u64 {
            let slot = self.fresh.fetch_add(1, Ordering::Relaxed) as usize;
            if let Some(state) = self.own(slot) {
                return Some((slot, state));
            }
        }
        // ORDERING: Relaxed; a counter.
        self.missed.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// Makes a slot ours to write, if nobody carries or writes it.
    fn own(&self, slot: usize) -> Option<State> {
        let at = self.slots.get(slot)?;
        // ORDERING: Acquire; the words that are overwritten next are overwritten after everything that was done while
        // they were another's. Relaxed where it fails: nothing follows.
        let seen = at.state.load(Ordering::Acquire);
        let next = State::unpack(seen).claimed()?;
        at.state
            .compare_exchange(seen, next.pack(), Ordering::Acquire, Ordering::Relaxed)
            .ok()
            .map(|_| next)
    }

    /// Has the index lead to the slot; where there is no room another entry is forgotten (its context stays right, the
    /// next block of its kind gets another slot).
    fn note(&self, key: u64, slot: usize) {
        let word = key >> 32 << 32 | (slot as u64).wrapping_add(1);
        let place = |probe: usize| (key as usize).wrapping_add(probe) % INDEX;
        let is_stale = |word: u64| {
            let slot = self.slots.get((word as u32 as usize).wrapping_sub(1));
            // ORDERING: Relaxed; a hint.
            slot.is_none_or(|slot| slot.key.load(Ordering::Relaxed) >> 32 != word >> 32)
        };
        let free = (0..PROBES).map(place).find(|place| {
            let entry = self.index.get(*place);
            // ORDERING: Relaxed; a hint.
            entry.is_some_and(|entry| is_stale(entry.load(Ordering::Relaxed)))
        });
        let place = free.unwrap_or_else(|| place((key >> 20) as usize % PROBES));
        if let Some(entry) = self.index.get(place) {
            // ORDERING: Relaxed; a hint.
            entry.store(word, Ordering::Relaxed);
        }
    }

    /// Address of the name that a block's header shall point to.
    pub fn address(&self, carried: Carried) -> usize {
        let slots = self.slots.as_ptr() as usize;
        slots
            .wrapping_add(carried.0.wrapping_mul(size_of::<Slot>()))
            .wrapping_add(offset_of!(Slot, name))
    }

    /// What a header's pointer carries; `None` for all that [`Contexts::address`] never gave.
    pub fn carried(&self, address: usize) -> Option<Carried> {
        let from = address
            .wrapping_sub(self.slots.as_ptr() as usize)
            .wrapping_sub(offset_of!(Slot, name));
        let slot = from / size_of::<Slot>();
        (from % size_of::<Slot>() == 0 && slot < CONTEXTS).then_some(Carried(slot))
    }

    /// Whose block it is that carries this; only while it lives.
    pub fn owner(&self, carried: Carried) -> Option<Owner> {
        // ORDERING: Relaxed; unchanged as long as a block carries the slot.
        let slot = self.slots.get(carried.0)?;
        Some(Owner::unpack(slot.owner.load(Ordering::Relaxed)))
    }

    /// A block of `size` bytes that carried this was freed. Any process.
    pub fn give(&self, carried: Carried, size: u64) {
        let (Some(slot), Some(owner)) = (self.slots.get(carried.0), self.owner(carried)) else {
            return;
        };
        // ORDERING: Release; pairs with the Acquire in held.
        slot.given.fetch_add(
            sampling::weight(size, u64::from(owner.rate)),
            Ordering::Release,
        );
        // ORDERING: AcqRel; what was done while the block lived comes before the next claim.
        let mut seen = slot.state.load(Ordering::Acquire);
        for _ in 0..TRIES {
            let Some(next) = State::unpack(seen).released() else {
                return; // a block that was freed twice
            };
            match slot.state.compare_exchange(
                seen,
                next.pack(),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) if next.is_free() => {
                    if let Some(word) = self.free.get(carried.0 / 64) {
                        // ORDERING: Release; pairs with the Acquire in own_one.
                        word.fetch_or(1 << (carried.0 % 64), Ordering::Release);
                    }
                    return;
                }
                Ok(_) => return,
                Err(other) => seen = other,
            }
        }
    }

    /// A block that carries this changed its size in place.
    pub fn resized(&self, carried: Carried, before: u64, after: u64) {
        let (Some(slot), Some(owner)) = (self.slots.get(carried.0), self.owner(carried)) else {
            return;
        };
        let weight = |size| sampling::weight(size, u64::from(owner.rate));
        // ORDERING: Release; as in take and give.
        slot.taken.fetch_add(weight(after), Ordering::Release);
        slot.given.fetch_add(weight(before), Ordering::Release);
    }

    /// Slots that were ever used are below this.
    pub fn used(&self) -> usize {
        // ORDERING: Relaxed; a slot that is being added now is seen by the next reader.
        (self.fresh.load(Ordering::Relaxed) as usize).min(CONTEXTS)
    }

    /// Samples that found no slot since the start.
    #[cfg(feature = "surface")]
    pub fn missed(&self) -> u64 {
        // ORDERING: Relaxed; a counter.
        self.missed.load(Ordering::Relaxed)
    }

    /// The key of a slot that is carried, and the bytes that it stands for; for the sampling process.
    pub fn live(&self, slot: usize) -> Option<(u64, u64)> {
        let at = self.slots.get(slot)?;
        // ORDERING: Acquire; pairs with the Release in claim.
        let state = State::unpack(at.state.load(Ordering::Acquire));
        state.is_held().then(|| {
            // ORDERING: Acquire; what is given first, so that it is never more than what was taken before.
            let given = at.given.load(Ordering::Acquire);
            let taken = at.taken.load(Ordering::Acquire);
            (at.key.load(Ordering::Relaxed), taken.saturating_sub(given))
        })
    }

    /// Publishes how the bytes of a context grow. Writer: the sampling process. A slot that became another's meanwhile
    /// shows it until the next sample.
    pub fn set_growth(&self, slot: usize, growth: Growth) {
        if let Some(at) = self.slots.get(slot) {
            // ORDERING: Relaxed; figures for people.
            at.growth.store(growth.now.to_bits(), Ordering::Relaxed);
            at.steady.store(growth.steady.to_bits(), Ordering::Relaxed);
        }
    }

    /// A context that is carried by a block now; `None` for the rest, and for one that changes hands at this moment.
    pub fn held(&self, slot: usize) -> Option<Held> {
        let at = self.slots.get(slot)?;
        // ORDERING: Acquire; pairs with the Release in claim.
        let state = State::unpack(at.state.load(Ordering::Acquire));
        let (key, live_bytes) = self.live(slot)?;
        let words = at.record.load_as(key)?;
        // ORDERING: Relaxed; each for itself, and the state is looked at again below.
        let owner = Owner::unpack(at.owner.load(Ordering::Relaxed));
        let growth = [&at.growth, &at.steady].map(|w| f64::from_bits(w.load(Ordering::Relaxed)));
        // ORDERING: Acquire; the loads above are not moved below it in practice; a mixture would show one stale figure.
        let after = State::unpack(at.state.load(Ordering::Acquire));
        (state.is_held() && after.is_held() && after.generation == state.generation).then(|| Held {
            context: Context::unpack(&words),
            owner,
            samples: u64::from(state.live),
            live_bytes,
            growth: (growth[0], growth[1]),
        })
    }
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests;
