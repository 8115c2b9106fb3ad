//! The last level changes, for `memguard.events`: written by whoever changes the level, read by the RPC process.
//! Forbidden here: deciding about levels, and logging.

use crate::guard::terms::event::WORDS;
pub use crate::guard::terms::event::{Event, Reason};
use crate::shared::parts::{mapping::SharedZeroable, ring::Ring};

/// How many level changes are kept: a day of changes every six minutes.
pub const KEPT: usize = 256;

/// The ring of level changes: about 6 KiB.
#[repr(transparent)]
#[derive(Default)]
pub struct Events(Ring<KEPT, WORDS>);

#[cfg(not(loom))]
const _: () = assert!(size_of::<Events>() == 128 + KEPT * 24);

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
    use crate::guard::terms::words::{Level, Pool};
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
}
