//! A bounded set of entries that any process may add to and take from, and every gate reads without a lock.
//! Forbidden here: waiting, and the meaning of an entry (`priorities`).
//!
//! ```text
//! offset   0               8              64
//!          numbers given │ places used  │ place 0: holder │ Record<WORDS> │ place 1: …      each at a multiple of 64
//! ```
//!
//! Every entry gets a number of its own, ever. To add one is to claim a free place by writing the number where 0 was,
//! and then to store the words under that number; to take it out is to write 0 where its number was. A reader
//! believes the words of a place only under the number that holds it: so an entry is there whole or not at all, one
//! that was taken out is gone at once, and a change is never undone by somebody who was late. A process that is
//! killed between claiming and storing leaves one place unused until the restart.

use crate::shared::parts::{
    mapping::SharedZeroable,
    record::Record,
    sync::{AtomicU64, Ordering},
};

/// `PLACES` places for entries of `WORDS` words.
#[repr(C, align(64))]
pub struct Places<const PLACES: usize, const WORDS: usize> {
    /// The number of the newest entry.
    numbers: AtomicU64,
    /// Places from the first one on that were ever claimed.
    used: AtomicU64,
    places: [Place<WORDS>; PLACES],
}

#[repr(C, align(64))]
struct Place<const WORDS: usize> {
    /// The number of the entry that is here; 0: free.
    holder: AtomicU64,
    record: Record<WORDS>,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Places<2, 13>>() == 64 + 2 * 128);

// SAFETY: atomics only.
unsafe impl<const PLACES: usize, const WORDS: usize> SharedZeroable for Places<PLACES, WORDS> {}

impl<const PLACES: usize, const WORDS: usize> Places<PLACES, WORDS> {
    /// No entry, outside of any mapping.
    pub fn new() -> Self {
        Places {
            numbers: AtomicU64::new(0),
            used: AtomicU64::new(0),
            places: std::array::from_fn(|_| Place {
                holder: AtomicU64::new(0),
                record: Record::new(),
            }),
        }
    }

    /// Adds an entry; false when every place is taken.
    pub fn add(&self, words: &[u64; WORDS]) -> bool {
        // ORDERING: Relaxed; only hands out different numbers.
        let number = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        for (index, place) in self.places.iter().enumerate() {
            // ORDERING: Relaxed; a number is believed only with a record of its name, whose check is Release.
            let claimed =
                place
                    .holder
                    .compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed);
            if claimed.is_ok() {
                place.record.store_as(number, words);
                // ORDERING: Release; pairs with the Acquire in used: who goes as far as this place finds its entry.
                self.used.fetch_max(index as u64 + 1, Ordering::Release);
                return true;
            }
        }
        false
    }

    /// Takes out every entry that `is` says so of; answers how many this call took out.
    pub fn remove(&self, is: impl Fn(&[u64; WORDS]) -> bool) -> usize {
        let gone = |place: &&Place<WORDS>| {
            place.load().is_some_and(|(number, words)| {
                // ORDERING: Relaxed; the number is this entry's alone, so at most one process takes it out.
                is(&words)
                    && place
                        .holder
                        .compare_exchange(number, 0, Ordering::Relaxed, Ordering::Relaxed)
                        .is_ok()
            })
        };
        self.used().iter().filter(gone).count()
    }

    /// Whether `is` says so of any entry; asked only of those of whose first word `may` does. No lock, no allocation.
    pub fn any(&self, may: impl Fn(u64) -> bool, is: impl Fn(&[u64; WORDS]) -> bool) -> bool {
        self.used().iter().any(|place| {
            may(place.record.first()) && place.load().is_some_and(|(_, words)| is(&words))
        })
    }

    /// The entries with their numbers, which tell the order in which they were added.
    pub fn entries(&self) -> impl Iterator<Item = (u64, [u64; WORDS])> + '_ {
        self.used().iter().filter_map(Place::load)
    }

    fn used(&self) -> &[Place<WORDS>] {
        // ORDERING: Acquire; pairs with the Release in add.
        let used = self.used.load(Ordering::Acquire);
        let used = usize::try_from(used).unwrap_or(PLACES);
        self.places.get(..used).unwrap_or(&self.places)
    }
}

impl<const PLACES: usize, const WORDS: usize> Default for Places<PLACES, WORDS> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const WORDS: usize> Place<WORDS> {
    /// Number and words of the entry that is here.
    fn load(&self) -> Option<(u64, [u64; WORDS])> {
        // ORDERING: Relaxed; the number only names which words are believed, the record's check orders them.
        match self.holder.load(Ordering::Relaxed) {
            0 => None,
            number => self.record.load_as(number).map(|words| (number, words)),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn all(places: &Places<3, 2>) -> Vec<[u64; 2]> {
        places.entries().map(|(_, words)| words).collect()
    }

    #[test]
    fn entries_are_there_until_they_are_taken_out() {
        let places = Places::<3, 2>::new();
        assert!(places.add(&[1, 10]) && places.add(&[2, 20]));
        assert_eq!(all(&places), [[1, 10], [2, 20]]);
        assert!(places.any(|first| first == 2, |words| words[1] == 20));
        assert_eq!(places.remove(|words| words[0] == 1), 1);
        assert_eq!(places.remove(|words| words[0] == 1), 0);
        assert_eq!(all(&places), [[2, 20]]);
        assert!(!places.any(|first| first == 1, |_| true), "it is gone");
    }

    #[test]
    fn a_full_set_says_so_and_a_place_that_is_given_up_is_used_again() {
        let places = Places::<3, 2>::new();
        assert!((1..=3).all(|n| places.add(&[n, n])));
        assert!(!places.add(&[4, 4]));
        assert_eq!(places.remove(|words| words[0] == 2), 1);
        assert!(places.add(&[5, 5]));
        assert_eq!(all(&places), [[1, 1], [5, 5], [3, 3]]);
        let numbers: Vec<u64> = places.entries().map(|(number, _)| number).collect();
        assert_eq!(numbers, [1, 5, 3], "the order in which they were added");
    }

    #[test]
    fn a_writer_that_died_between_claim_and_store_costs_one_place_only() {
        let places = Places::<3, 2>::new();
        places.places[0].holder.store(99, Ordering::Relaxed);
        assert!(places.add(&[1, 1]) && places.add(&[2, 2]) && !places.add(&[3, 3]));
        assert_eq!(all(&places), [[1, 1], [2, 2]]);
    }

    #[test]
    fn words_that_an_earlier_entry_left_behind_are_not_believed() {
        let places = Places::<3, 2>::new();
        assert!(places.add(&[7, 7]));
        assert_eq!(places.remove(|_| true), 1);
        places.places[0].holder.store(2, Ordering::Relaxed); // claimed by number 2, not stored yet
        assert_eq!(all(&places), [[0; 2]; 0]);
    }
}
