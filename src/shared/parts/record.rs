//! A few words that are believed only together: the building block of rings, pending registrations, figures.
//! Forbidden here: versions, locks, waiting, and any meaning of the words.
//!
//! ```text
//! offset   0        8              8·(WORDS−1)   8·WORDS
//!          word 0 │ word 1 │ … │ word WORDS−1 │ check
//! ```
//!
//! A writer stores the words and then their check; a reader loads all and believes them only if the check is theirs.
//! That is the whole argument for crash safety: whatever a writer left behind when it was killed or stopped, and
//! however many writers ran into each other, the words either are exactly what one `store` was given, or read as
//! absent. A record that was left torn stays absent until the next `store`; nobody has to repair it.
//!
//! The check has 64 bits and each step of it is a bijection of the word: words that differ from a stored record in
//! one place never pass, words that differ in more places pass once in 2⁶⁴. It is not keyed by a secret: a record
//! must not decide anything that a sender of SIP could gain by (fingerprints in records are keyed by the caller).

use crate::guard::formats::check::check;
use crate::shared::parts::{
    mapping::SharedZeroable,
    sync::{AtomicU64, Ordering, zeroed},
};

/// `WORDS` words and their check. All zero is the empty record.
#[repr(C)]
pub struct Record<const WORDS: usize> {
    words: [AtomicU64; WORDS],
    check: AtomicU64,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Record<7>>() == 64 && align_of::<Record<7>>() == 8);

// SAFETY: atomics only.
unsafe impl<const WORDS: usize> SharedZeroable for Record<WORDS> {}

impl<const WORDS: usize> Record<WORDS> {
    /// An empty record outside of any mapping.
    pub fn new() -> Self {
        Record {
            words: zeroed(),
            check: AtomicU64::new(0),
        }
    }

    /// Stores the words. With several writers at once the last one wins, or none (then the record is absent).
    pub fn store(&self, words: &[u64; WORDS]) {
        self.store_as(0, words);
    }

    /// The words of one `store`; `None` when empty, torn, being written, or stored under a name.
    pub fn load(&self) -> Option<[u64; WORDS]> {
        self.load_as(0)
    }

    /// Makes the record absent.
    pub fn clear(&self) {
        // ORDERING: Release; as in store_as: a check says nothing of older words than those stored before it.
        self.check.store(0, Ordering::Release);
    }

    /// The first word as it is now, whoever is writing; only to pass over what cannot be meant.
    pub fn first(&self) -> u64 {
        // ORDERING: Relaxed; nothing is believed by it.
        self.words
            .first()
            .map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Stores the words under a name (a ticket, a number of publication) that only the check carries.
    pub fn store_as(&self, name: u64, words: &[u64; WORDS]) {
        for (shared, word) in self.words.iter().zip(words) {
            // ORDERING: Relaxed; believed only through the check, which mixes in every word.
            shared.store(*word, Ordering::Relaxed);
        }
        // ORDERING: Release; pairs with the Acquire in load_as: who sees this check sees these words or newer ones.
        self.check.store(check(name, words), Ordering::Release);
    }

    /// The words of one `store_as` of exactly this name; `None` for everything else.
    pub fn load_as(&self, name: u64) -> Option<[u64; WORDS]> {
        // ORDERING: Acquire; pairs with the Release in store_as. First, so that a record at rest is never torn.
        let expected = self.check.load(Ordering::Acquire);
        if expected == 0 {
            return None;
        }
        let mut words = [0; WORDS];
        for (word, shared) in words.iter_mut().zip(&self.words) {
            // ORDERING: Relaxed; the comparison below finds every mixture of two stores.
            *word = shared.load(Ordering::Relaxed);
        }
        (check(name, &words) == expected).then_some(words)
    }
}

impl<const WORDS: usize> Default for Record<WORDS> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn zeroed_memory_is_an_empty_record() {
        assert_eq!(Record::<4>::new().load(), None);
        assert_eq!(Record::<4>::new().load_as(9), None);
    }

    #[test]
    fn zeros_that_were_stored_are_not_empty() {
        let record = Record::<3>::new();
        record.store(&[0; 3]);
        assert_eq!(record.load(), Some([0; 3]));
    }

    #[test]
    fn a_store_cut_at_any_word_reads_as_absent() {
        for cut in 1..4 {
            let record = Record::<4>::new();
            record.store(&[1, 2, 3, 4]);
            for (shared, word) in record.words.iter().zip([5, 6, 7, 8]).take(cut) {
                shared.store(word, Ordering::Relaxed);
            }
            assert_eq!(record.load(), None, "cut after {cut} words");
            record.store(&[5, 6, 7, 8]);
            assert_eq!(record.load(), Some([5, 6, 7, 8]));
        }
    }

    #[test]
    fn a_record_answers_only_to_its_name() {
        let record = Record::<2>::new();
        record.store_as(3, &[1, 2]);
        assert_eq!(record.load_as(3), Some([1, 2]));
        assert_eq!(record.load_as(4), None);
        assert_eq!(record.load(), None);
    }

    #[test]
    fn changing_one_bit_of_one_word_is_always_noticed() {
        let record = Record::<3>::new();
        record.store(&[7, 0, u64::MAX]);
        for word in &record.words {
            for bit in 0..64 {
                word.fetch_xor(1 << bit, Ordering::Relaxed);
                assert_eq!(record.load(), None);
                word.fetch_xor(1 << bit, Ordering::Relaxed);
            }
        }
        assert_eq!(record.load(), Some([7, 0, u64::MAX]));
    }
}
