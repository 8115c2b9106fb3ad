//! An operator's marks: what every site held at a moment, to be compared with later (`memguard.mark`, `memguard.diff`).
//! Forbidden here: taking the figures, comparing them.
//!
//! Eight slots, written by whichever process runs the command. A slot that is being written belongs to its writer; a
//! writer that was killed leaves it so, and it may be taken after `STALE_MS`. (One that was only stopped for longer
//! than that, and goes on, may spoil the mark that took its place.)

use crate::shared::parts::{
    mapping::SharedZeroable,
    sync::{AtomicU64, MARKS, Ordering, SITES},
};

/// A slot that has been in writing for longer than this was left by a killed process.
const STALE_MS: u64 = 10_000;
const NAME_WORDS: usize = 4;
/// A slot that was never written.
const ABSENT: u64 = 0;

/// State of a slot while the mark number `n` (from 1) is being written into it.
fn writing(n: u64) -> u64 {
    n.wrapping_mul(2).wrapping_sub(1)
}

/// State of a slot that holds the mark number `n`.
fn written(n: u64) -> u64 {
    n.wrapping_mul(2)
}

fn is_written(state: u64) -> bool {
    state != ABSENT && state % 2 == 0
}

#[repr(C)]
struct Slot {
    /// [`ABSENT`], [`writing`] or [`written`].
    state: AtomicU64,
    time_ms: AtomicU64,
    messages: AtomicU64,
    registers: AtomicU64,
    count: AtomicU64,
    name: [AtomicU64; NAME_WORDS],
    held: [[AtomicU64; 2]; SITES],
}

/// All marks.
#[repr(C)]
pub struct Marks {
    /// How many marks were ever made.
    made: AtomicU64,
    slots: [Slot; MARKS],
}

// SAFETY: atomics only.
unsafe impl SharedZeroable for Marks {}

/// What a mark says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Its name, at most 32 bytes.
    pub name: String,
    /// Milliseconds of server time.
    pub time_ms: u64,
    /// Messages handled by all processes until then.
    pub messages: u64,
    /// REGISTERs received until then.
    pub registers: u64,
    /// Live bytes and blocks by site index.
    pub held: Vec<(i64, i64)>,
}

fn set(word: &AtomicU64, value: u64) {
    // ORDERING: Release; a reader that sees the value also sees the slot in writing when it looks at its state again.
    word.store(value, Ordering::Release);
}

fn get(word: &AtomicU64) -> u64 {
    // ORDERING: Acquire; pairs with the Release in set.
    word.load(Ordering::Acquire)
}

fn to_words(name: &str) -> [u64; NAME_WORDS] {
    let mut bytes = [0u8; NAME_WORDS * 8];
    bytes
        .iter_mut()
        .zip(name.bytes())
        .for_each(|(to, from)| *to = from);
    let mut words = [0; NAME_WORDS];
    for (word, part) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = part
            .iter()
            .rev()
            .fold(0, |all, byte| all << 8 | u64::from(*byte));
    }
    words
}

impl Slot {
    fn name(&self) -> [u64; NAME_WORDS] {
        std::array::from_fn(|i| get(&self.name[i]))
    }

    fn state(&self) -> u64 {
        // ORDERING: Acquire; pairs with the Release in Marks::take.
        self.state.load(Ordering::Acquire)
    }

    fn read(&self) -> Option<Mark> {
        let state = self.state();
        if !is_written(state) {
            return None;
        }
        let bytes: Vec<u8> = self
            .name()
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .take_while(|b| *b != 0)
            .collect();
        let count = (get(&self.count) as usize).min(SITES);
        let mark = Mark {
            name: String::from_utf8_lossy(&bytes).into_owned(),
            time_ms: get(&self.time_ms),
            messages: get(&self.messages),
            registers: get(&self.registers),
            held: self
                .held
                .iter()
                .take(count)
                .map(|[a, b]| (get(a) as i64, get(b) as i64))
                .collect(),
        };
        (self.state() == state).then_some(mark)
    }

    /// Writer: who holds the slot in [`writing`].
    fn write(&self, mark: &Mark) {
        set(&self.time_ms, mark.time_ms);
        set(&self.messages, mark.messages);
        set(&self.registers, mark.registers);
        for (word, value) in self.name.iter().zip(to_words(&mark.name)) {
            set(word, value);
        }
        set(&self.count, mark.held.len().min(SITES) as u64);
        for ([bytes, blocks], (b, n)) in self.held.iter().zip(&mark.held) {
            set(bytes, *b as u64);
            set(blocks, *n as u64);
        }
    }
}

#[cfg(loom)]
impl Marks {
    /// No marks, outside of any mapping.
    pub fn new() -> Marks {
        use crate::shared::parts::sync::zeroed;
        let word = || AtomicU64::new(0);
        Marks {
            made: word(),
            slots: std::array::from_fn(|_| Slot {
                state: word(),
                time_ms: word(),
                messages: word(),
                registers: word(),
                count: word(),
                name: zeroed(),
                held: std::array::from_fn(|_| zeroed()),
            }),
        }
    }
}

impl Marks {
    /// Keeps a mark: over one of the same name, else in an empty slot, else in place of the oldest. False: another
    /// process is marking at this moment.
    pub fn take(&self, mark: &Mark) -> bool {
        let Some((slot, state)) = self.slot_for(mark) else {
            return false;
        };
        // ORDERING: Relaxed; a number that is given out once.
        let number = self.made.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        // ORDERING: Acquire; pairs with the last writer's Release. Relaxed on failure: nothing is read.
        if slot
            .state
            .compare_exchange(state, writing(number), Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            return false;
        }
        slot.write(mark);
        // ORDERING: Release; who sees the new state sees the mark. Relaxed on failure: somebody took the slot from us.
        slot.state
            .compare_exchange(
                writing(number),
                written(number),
                Ordering::Release,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// The slot that a mark goes into, and the state that it was chosen for.
    fn slot_for(&self, mark: &Mark) -> Option<(&Slot, u64)> {
        let name = to_words(&mark.name);
        let all = || self.slots.iter().map(|slot| (slot, slot.state()));
        let is_free = |(slot, state): &(&Slot, u64)| {
            let age = mark.time_ms.saturating_sub(get(&slot.time_ms));
            *state == ABSENT || (!is_written(*state) && age > STALE_MS)
        };
        let marks = || all().filter(|(_, state)| is_written(*state));
        marks()
            .find(|(slot, _)| slot.name() == name)
            .or_else(|| all().find(is_free))
            .or_else(|| marks().min_by_key(|(slot, _)| get(&slot.time_ms)))
    }

    /// A mark by its name.
    pub fn find(&self, name: &str) -> Option<Mark> {
        let wanted = to_words(name);
        self.slots
            .iter()
            .filter(|slot| slot.name() == wanted)
            .filter_map(Slot::read)
            .find(|mark| mark.name == name) // it may have been replaced since we looked
    }

    /// Names of all marks, the newest first.
    pub fn names(&self) -> Vec<String> {
        let mut all: Vec<Mark> = self.slots.iter().filter_map(Slot::read).collect();
        all.sort_by_key(|mark| std::cmp::Reverse(mark.time_ms));
        all.into_iter().map(|mark| mark.name).collect()
    }
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;
    use crate::shared::parts::mapping;

    fn mark(name: &str, time_ms: u64) -> Mark {
        Mark {
            name: name.into(),
            time_ms,
            messages: 3,
            registers: 2,
            held: vec![(time_ms as i64, 1), (-5, -1)],
        }
    }

    #[test]
    fn a_mark_is_found_as_it_was_taken() {
        let marks = mapping::map_one::<Marks>().unwrap();
        assert_eq!(
            marks.find(""),
            None,
            "an empty slot is no mark without a name"
        );
        for name in ["", "a", "exactly-32-bytes-long-name-abcdef"[..32].into()] {
            assert!(marks.take(&mark(name, 7)));
            assert_eq!(marks.find(name), Some(mark(name, 7)));
        }
        assert!(marks.take(&mark("a", 9)));
        assert_eq!(
            marks.find("a"),
            Some(mark("a", 9)),
            "the same name is the same mark"
        );
    }

    #[test]
    fn the_ninth_mark_takes_the_place_of_the_oldest() {
        let marks = mapping::map_one::<Marks>().unwrap();
        for time in 1..=9 {
            assert!(marks.take(&mark(&format!("m{time}"), time)));
        }
        assert_eq!(marks.find("m1"), None);
        assert_eq!(
            marks.names(),
            ["m9", "m8", "m7", "m6", "m5", "m4", "m3", "m2"]
        );
    }

    #[test]
    fn a_slot_that_a_killed_process_left_is_taken_again_later() {
        let marks = mapping::map_one::<Marks>().unwrap();
        for time in 1..=8 {
            marks.take(&mark(&format!("m{time}"), time));
        }
        marks
            .slots
            .iter()
            .for_each(|slot| slot.state.store(writing(99), Ordering::Relaxed));
        assert_eq!(marks.names(), Vec::<String>::new());
        assert!(
            !marks.take(&mark("new", 100)),
            "its writer may still be at it"
        );
        assert!(marks.take(&mark("new", 20_000)));
        assert_eq!(marks.names(), ["new"]);
    }
}
