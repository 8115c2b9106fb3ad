//! The last level changes, for `memguard.events`: written by whoever changes the level, read by the RPC process.
//! Forbidden here: deciding about levels, and logging.

use crate::guard::words::{Level, Pool, words};

use super::mapping::SharedZeroable;
use super::ring::Ring;

words! {
    /// Why the level changed.
    Reason {
        /// Use crossed a threshold, or fell back below it for long enough.
        Memory = "memory",
        /// `memguard.shed`.
        Operator = "operator",
        /// An operator's `shed` ended: its time was over, or `memguard.resume`.
        Ended = "ended",
    }
}

/// One level change.
///
/// ```text
/// word 0   time_ms
/// word 1   0..8 from, 8..16 to, 16..24 pool, 24..32 reason, 32..40 percent, 40..56 worker, 56 has a worker
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, Unix milliseconds.
    pub time_ms: u64,
    /// The level before.
    pub from: Level,
    /// The level after.
    pub to: Level,
    /// The pool (or limit) that decided it.
    pub pool: Pool,
    /// The worker whose pool it is (`core.psx` index); `None` for shm and os.
    pub worker: Option<u16>,
    /// Use of that pool in percent of its size.
    pub percent: u8,
    /// Why.
    pub reason: Reason,
}

const WORDS: usize = 2;
/// How many level changes are kept: a day of changes every six minutes.
pub const KEPT: usize = 256;

impl Event {
    fn pack(&self) -> [u64; WORDS] {
        let word = self.from.index() as u64
            | (self.to.index() as u64) << 8
            | (self.pool.index() as u64) << 16
            | (self.reason.index() as u64) << 24
            | u64::from(self.percent) << 32
            | u64::from(self.worker.unwrap_or(0)) << 40
            | u64::from(self.worker.is_some()) << 56;
        [self.time_ms, word]
    }

    fn unpack([time_ms, word]: [u64; WORDS]) -> Option<Event> {
        Some(Event {
            time_ms,
            from: Level::from_index(word & 0xff)?,
            to: Level::from_index(word >> 8 & 0xff)?,
            pool: Pool::from_index(word >> 16 & 0xff)?,
            reason: Reason::from_index(word >> 24 & 0xff)?,
            percent: (word >> 32) as u8,
            worker: (word >> 56 & 1 == 1).then_some((word >> 40) as u16),
        })
    }
}

/// The ring of level changes: about 6 KiB.
#[repr(transparent)]
#[derive(Default)]
pub struct Events(Ring<KEPT, WORDS>);

#[cfg(not(loom))]
const _: () = assert!(size_of::<Events>() == 64 + KEPT * 24);

// SAFETY: atomics only.
unsafe impl SharedZeroable for Events {}

impl Events {
    /// Adds a level change; returns its ticket.
    pub fn push(&self, event: &Event) -> u64 {
        self.0.push(event.pack())
    }

    /// The last `count` level changes that can be read, newest first, each with its ticket.
    pub fn last(&self, count: usize) -> impl Iterator<Item = (u64, Event)> + '_ {
        self.0
            .last(KEPT)
            .filter_map(|(ticket, words)| Some((ticket, Event::unpack(words)?)))
            .take(count)
    }

    /// How many level changes there were since the start.
    pub fn pushed(&self) -> u64 {
        self.0.pushed()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_event_survives_the_ring(time_ms: u64, from in 0..4usize, to in 0..4usize, pool in 0..3usize, reason in 0..3usize, worker: Option<u16>, percent: u8) {
            let event = Event {
                time_ms, from: Level::ALL[from], to: Level::ALL[to], pool: Pool::ALL[pool],
                worker, percent, reason: Reason::ALL[reason],
            };
            let events = Events::default();
            prop_assert_eq!(events.push(&event), 0);
            prop_assert_eq!(events.last(9).collect::<Vec<_>>(), [(0, event)]);
        }
    }

    #[test]
    fn words_outside_the_vocabulary_are_no_event() {
        assert_eq!(Event::unpack([1, 0xff]), None);
        assert_eq!(Event::unpack([1, 0xff << 24]), None);
    }
}
