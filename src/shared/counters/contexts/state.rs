//! The one word that says who has a slot: nobody, somebody who writes it, or so many blocks that live.
//! Forbidden here: atomics; these are the steps, the table takes them.

/// Bits of the count of blocks.
const LIVE_BITS: u32 = 32;
const WRITING: u64 = 1 << 63;
const GENERATIONS: u64 = (1 << 31) - 1;

/// A slot's state. All zero: never used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// A process writes the slot.
    pub is_written: bool,
    /// Counts the contexts that the slot has held; 31 bits.
    pub generation: u32,
    /// Blocks that carry it.
    pub live: u32,
}

impl State {
    pub fn pack(self) -> u64 {
        let writing = if self.is_written { WRITING } else { 0 };
        writing | (u64::from(self.generation) & GENERATIONS) << LIVE_BITS | u64::from(self.live)
    }

    pub fn unpack(word: u64) -> State {
        State {
            is_written: word & WRITING != 0,
            generation: (word >> LIVE_BITS & GENERATIONS) as u32,
            live: word as u32,
        }
    }

    /// A block that lives carries it.
    pub fn is_held(self) -> bool {
        !self.is_written && self.live > 0
    }

    /// It may be claimed.
    pub fn is_free(self) -> bool {
        !self.is_written && self.live == 0
    }

    /// With one more block. A context that nobody carries any more can come back until it is claimed.
    pub fn held(self) -> Option<State> {
        let is_known = !self.is_written && self.generation > 0;
        let live = self.live.checked_add(1).filter(|_| is_known)?;
        Some(State { live, ..self })
    }

    /// With one block less.
    pub fn released(self) -> Option<State> {
        let live = self.live.checked_sub(1).filter(|_| !self.is_written)?;
        Some(State { live, ..self })
    }

    /// Being written, as a new generation.
    pub fn claimed(self) -> Option<State> {
        self.is_free().then(|| State {
            is_written: true,
            // 0 is "never used": left out when the count begins anew
            generation: ((u64::from(self.generation) % GENERATIONS) + 1) as u32,
            live: 0,
        })
    }

    /// Written, and carried by its first block.
    pub fn published(self) -> State {
        State {
            is_written: false,
            live: 1,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_state_is_what_was_packed(is_written: bool, generation in 0..=GENERATIONS as u32, live: u32) {
            let state = State { is_written, generation, live };
            prop_assert_eq!(State::unpack(state.pack()), state);
        }
    }

    #[test]
    fn only_a_slot_that_nobody_carries_is_claimed_and_its_generation_changes() {
        let first = State::default().claimed().unwrap();
        assert_eq!(
            (first.generation, first.held(), first.claimed()),
            (1, None, None)
        );
        let held = first.published();
        assert!(held.is_held() && held.claimed().is_none());
        let free = held.released().unwrap();
        assert!(free.is_free() && free.released().is_none());
        assert_eq!(free.held(), Some(held), "it comes back");
        assert_eq!(free.claimed().unwrap().generation, 2);
        let last = State {
            generation: GENERATIONS as u32,
            ..State::default()
        };
        assert_eq!(last.claimed().unwrap().generation, 1);
        assert_eq!(State::default().held(), None, "never used");
    }
}
