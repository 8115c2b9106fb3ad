//! A level change, as it is kept: which pool, from which level to which, why; and its two words.
//! Forbidden here: deciding about levels, and keeping.

use crate::guard::terms::words::{Level, Pool, words};

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
    /// When, milliseconds of server time.
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

/// How many words an event takes.
pub const WORDS: usize = 2;

impl Event {
    /// As words.
    pub fn pack(&self) -> [u64; WORDS] {
        let word = self.from.index() as u64
            | (self.to.index() as u64) << 8
            | (self.pool.index() as u64) << 16
            | (self.reason.index() as u64) << 24
            | u64::from(self.percent) << 32
            | u64::from(self.worker.unwrap_or(0)) << 40
            | u64::from(self.worker.is_some()) << 56;
        [self.time_ms, word]
    }

    /// Back from [`Event::pack`]; `None` for words that are no level change.
    pub fn unpack([time_ms, word]: [u64; WORDS]) -> Option<Event> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_change_survives_its_two_words(
            time_ms: u64, from in 0..Level::COUNT, to in 0..Level::COUNT, pool in 0..Pool::COUNT, worker: Option<u16>,
            percent: u8, reason in 0..Reason::COUNT,
        ) {
            let event = Event {
                time_ms, from: Level::ALL[from], to: Level::ALL[to], pool: Pool::ALL[pool], worker, percent,
                reason: Reason::ALL[reason],
            };
            prop_assert_eq!(Event::unpack(event.pack()), Some(event));
        }
    }

    #[test]
    fn words_that_name_no_level_pool_or_reason_are_no_change() {
        for shift in [0, 8, 16, 24] {
            assert_eq!(Event::unpack([1, 0xff << shift]), None, "{shift}");
        }
    }
}
