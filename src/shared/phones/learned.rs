//! What another server knew of its phones (`memguard.learn`): two sets of tables, of which one is in force while the next
//! is filled. Forbidden here: reading files, and deciding what is known.
//!
//! **Order.** A set is filled and its key written before its number is put into `force` (Release); who reads the number
//! (Acquire) sees all of it. A reader that is still in a set when it is filled anew, which takes two more calls, may take
//! one phone for a stranger, once. **Kill.** A set that was not finished is never in force.

use std::io;

use crate::guard::sip::aor::Key;
use crate::shared::files::bindings_file::TABLES;
use crate::shared::parts::{
    mapping::{self, SharedZeroable},
    sync::plain::{AtomicU64, Ordering},
};
use crate::shared::phones::fingerprints::Fingerprints;

/// What both sets share.
#[repr(C)]
struct Control {
    /// Number + 1 of the set in force; 0: nothing was learned.
    force: AtomicU64,
    /// 1: a set is being filled.
    is_filling: AtomicU64,
    keys: [[AtomicU64; 2]; 2],
}

// SAFETY: atomics only.
unsafe impl SharedZeroable for Control {}

/// See the file's head.
pub struct Learned {
    control: &'static Control,
    sets: [[Fingerprints; TABLES]; 2],
}

/// The set in force.
pub struct Known<'a> {
    /// Makes the other server's fingerprints.
    pub key: Key,
    /// Its bindings.
    pub bindings: &'a Fingerprints,
    /// Its AoRs.
    pub aors: &'a Fingerprints,
    /// Other names of its bindings.
    pub hints: &'a Fingerprints,
}

/// A set that is being filled; dropped without [`Filling::finish`] it changes nothing.
pub struct Filling<'a> {
    learned: &'a Learned,
    number: usize,
}

impl Learned {
    /// Maps both sets, untouched until something is learned; arguments as [`Fingerprints::map`].
    ///
    /// # Errors
    /// As [`Fingerprints::map`].
    pub fn map(capacity: usize, base_s: u64) -> io::Result<Learned> {
        let set = || -> io::Result<[Fingerprints; TABLES]> {
            Ok([
                Fingerprints::map(capacity, base_s)?,
                Fingerprints::map(capacity, base_s)?,
                Fingerprints::map(capacity, base_s)?,
            ])
        };
        Ok(Learned {
            control: mapping::map_one()?,
            sets: [set()?, set()?],
        })
    }

    /// What was learned last; one read where that is nothing. Process: SIP workers.
    #[inline]
    pub fn known(&self) -> Option<Known<'_>> {
        // ORDERING: Acquire; with the Release of `finish`.
        let number = self.control.force.load(Ordering::Acquire).checked_sub(1)? as usize;
        let [bindings, aors, hints] = self.sets.get(number)?;
        let [k0, k1] = self.control.keys.get(number)?;
        // ORDERING: Relaxed; written before the number was.
        let key = Key::new(k0.load(Ordering::Relaxed), k1.load(Ordering::Relaxed));
        Some(Known {
            key,
            bindings,
            aors,
            hints,
        })
    }

    /// Begins with the set that is not in force, emptied; `None` while another process does so. Process: RPC.
    pub fn fill(&self) -> Option<Filling<'_>> {
        // ORDERING: Acquire and Release: one process at a time, each after the other.
        self.control
            .is_filling
            .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
            .ok()?;
        // ORDERING: Acquire; as in `known`.
        let in_force = self.control.force.load(Ordering::Acquire);
        let filling = Filling {
            learned: self,
            number: usize::from(in_force == 1),
        };
        filling.tables().iter().for_each(Fingerprints::clear);
        Some(filling)
    }
}

impl Filling<'_> {
    /// The tables to fill: bindings, AoRs, hints.
    pub fn tables(&self) -> &[Fingerprints; TABLES] {
        &self.learned.sets[self.number & 1]
    }

    /// Puts the set in force.
    pub fn finish(self, key: [u64; 2]) {
        let control = self.learned.control;
        for (to, word) in control.keys[self.number & 1].iter().zip(key) {
            // ORDERING: Relaxed; told by the number.
            to.store(word, Ordering::Relaxed);
        }
        // ORDERING: Release; with the Acquire of `known`.
        control
            .force
            .store(self.number as u64 + 1, Ordering::Release);
    }
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        // ORDERING: Release; with the Acquire of `fill`.
        self.learned.control.is_filling.store(0, Ordering::Release);
    }
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;

    #[test]
    fn a_set_counts_when_it_is_finished_and_the_next_replaces_it_whole() {
        let learned = Learned::map(1000, NOW).expect("some memory");
        assert!(learned.known().is_none());
        let first = learned.fill().expect("nobody fills");
        assert!(learned.fill().is_none(), "one at a time");
        first.tables()[0].put(5, NOW + 60, NOW, 0);
        assert!(learned.known().is_none(), "not before it is finished");
        first.finish([1, 2]);
        let second = learned.fill().expect("the first has ended");
        second.tables()[0].put(6, NOW + 60, NOW, 0);
        drop(second); // a file that turned out to be bad
        let has = |fp| {
            let known = learned.known().expect("something was learned");
            (known.key.words(), known.bindings.get(fp, NOW, 0).is_some())
        };
        assert_eq!((has(5), has(6)), (([1, 2], true), ([1, 2], false)));
        learned.fill().expect("again").finish([3, 4]);
        assert_eq!((has(5), has(6)), (([3, 4], false), ([3, 4], false)));
        learned.fill().expect("again").finish([5, 6]);
        assert_eq!(has(5), ([5, 6], false), "what was there before is gone");
    }
}
