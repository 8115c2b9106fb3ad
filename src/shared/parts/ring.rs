//! The last records of something, written by every process: level changes, refusals.
//! Forbidden here: the meaning of the records (`events`, `refusals`), waiting, and promising that none is missing.
//!
//! ```text
//! offset   0                              128
//!          tickets taken │ (unused)     │ slot 0 │ slot 1 │ … │ slot SLOTS−1     each a Record<WORDS>
//! ```
//!
//! A writer takes a ticket and stores its record in slot `ticket % SLOTS`, under the ticket as the record's name.
//! A reader goes back from the newest ticket and asks each slot for exactly the ticket that belongs there: a slot
//! that is empty, torn, being written, or already holds a later lap is skipped.
//! After a kill between ticket and store that one slot is a hole until the ring comes round. A process stopped
//! there and continued a lap later overwrites a newer record with an old one, which then no reader asks for: again
//! one hole.

use crossbeam_utils::CachePadded;

use crate::shared::parts::{
    mapping::SharedZeroable,
    record::Record,
    sync::{AtomicU64, Ordering},
};

/// The last `SLOTS` records of `WORDS` words.
#[repr(C)]
pub struct Ring<const SLOTS: usize, const WORDS: usize> {
    /// Away from the slots: every writer writes it.
    tickets: CachePadded<AtomicU64>,
    slots: [Record<WORDS>; SLOTS],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Ring<4, 7>>() == 128 + 4 * 64);

// SAFETY: atomics only.
unsafe impl<const SLOTS: usize, const WORDS: usize> SharedZeroable for Ring<SLOTS, WORDS> {}

impl<const SLOTS: usize, const WORDS: usize> Ring<SLOTS, WORDS> {
    const HAS_SLOTS: () = assert!(SLOTS > 0);

    /// An empty ring outside of any mapping.
    pub fn new() -> Self {
        Ring {
            tickets: CachePadded::new(AtomicU64::new(0)),
            slots: std::array::from_fn(|_| Record::new()),
        }
    }

    /// Adds a record, overwriting the oldest; returns its ticket (0 for the first one ever).
    pub fn push(&self, words: [u64; WORDS]) -> u64 {
        let () = Self::HAS_SLOTS;
        // ORDERING: Relaxed; only hands out different numbers. Readers believe the slot's check, not the counter.
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        if let Some(slot) = self.slot(ticket) {
            slot.store_as(ticket, &words);
        }
        ticket
    }

    /// How many tickets were taken since the start.
    pub fn pushed(&self) -> u64 {
        // ORDERING: Relaxed; a counter, no data depends on it.
        self.tickets.load(Ordering::Relaxed)
    }

    /// The last `count` records that can be read, newest first, each with its ticket.
    /// Looks at no slot twice, so it ends after `SLOTS` looks however fast others write.
    pub fn last(&self, count: usize) -> impl Iterator<Item = (u64, [u64; WORDS])> + '_ {
        let pushed = self.pushed();
        let oldest = pushed.saturating_sub(SLOTS as u64);
        let readable = move |ticket| Some((ticket, self.slot(ticket)?.load_as(ticket)?));
        (oldest..pushed).rev().filter_map(readable).take(count)
    }

    fn slot(&self, ticket: u64) -> Option<&Record<WORDS>> {
        self.slots.get((ticket % SLOTS as u64) as usize)
    }
}

impl<const SLOTS: usize, const WORDS: usize> Default for Ring<SLOTS, WORDS> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_newest_come_first_and_the_oldest_are_overwritten() {
        let ring = Ring::<4, 1>::new();
        assert_eq!(ring.last(9).count(), 0);
        for value in 100..106 {
            ring.push([value]);
        }
        let seen: Vec<_> = ring.last(9).collect();
        assert_eq!(seen, [(5, [105]), (4, [104]), (3, [103]), (2, [102])]);
        assert_eq!(ring.last(1).collect::<Vec<_>>(), [(5, [105])]);
    }

    #[test]
    fn a_ticket_without_a_record_is_skipped() {
        let ring = Ring::<4, 1>::new();
        ring.push([1]);
        ring.tickets.fetch_add(1, Ordering::Relaxed); // killed before its store
        ring.push([3]);
        assert_eq!(ring.last(9).collect::<Vec<_>>(), [(2, [3]), (0, [1])]);
    }

    #[test]
    fn a_record_that_comes_a_lap_late_is_not_taken_for_the_new_one() {
        let ring = Ring::<2, 1>::new();
        for value in 0..4 {
            ring.push([value]);
        }
        ring.slots[1].store_as(1, &[77]); // the writer of ticket 1 was stopped until now
        assert_eq!(ring.last(9).collect::<Vec<_>>(), [(2, [2])]);
    }
}
