//! The black box's file: where everything lies, and how a slot is made and believed.
//! Forbidden here: what the records mean (`reading`), and I/O.
//!
//! ```text
//! offset   0              4096        + SECTION_BYTES
//!          head: 8 words │ section 0 │ section 1 │ … │ section RUNS−1        one section holds one run of the server
//!
//! section  the rings of [`Ring`] one after the other, each from a multiple of 4096 bytes on
//! slot     number + 1 │ check │ payload                                      number n of a ring lies in slot n % slots
//! ```
//!
//! All words are 64 bits, little-endian. The check covers the payload, the number, the ring and the run: a slot that
//! was torn by a kill or by the end of the machine, or that belongs to an earlier run in the same section, is not
//! believed. Nothing else is needed: no slot points to another one.

use crate::guard::decide::track::Track;
use crate::guard::foresee::week;
use crate::guard::formats::check::check;
use crate::guard::terms::words::words;

/// First bytes of the file.
pub const MAGIC: [u8; 8] = *b"mgblkbox";
/// Raised whenever the meaning of any byte changes.
pub const FORMAT: u64 = 2;
/// Runs of the server that a file holds.
pub const RUNS: usize = 4;

const WORD: usize = 8;
const PAGE: usize = 4096;
/// Words of the head: magic, format, bytes of the file, runs, bytes of a section, two unused, check.
const HEAD: usize = 8;
/// Words of a slot before its payload.
const SLOT_HEAD: usize = 2;

words! {
    /// What a section holds.
    Ring {
        /// Who runs: JSON text, its run's number before it.
        Identity = "identity",
        /// How it ended: JSON text. Empty while it runs, and after an end without a warning.
        End = "end",
        /// Time and a value of each track, about once per second.
        Seconds = "seconds",
        /// The same by minute.
        Minutes = "minutes",
        /// Level changes.
        Events = "events",
        /// Views of the whole: JSON texts, at level changes and every some minutes.
        Views = "views",
        /// The newest view, renewed every few seconds.
        Latest = "latest",
        /// The load by hour: which hour of Unix time, and messages per second times 1000. Of earlier runs, too.
        Hours = "hours",
    }
}

impl Ring {
    /// How many slots it has.
    pub const fn slots(self) -> usize {
        match self {
            Ring::Identity | Ring::End => 1,
            Ring::Seconds => 3600,
            Ring::Minutes => 1440,
            Ring::Events => 256,
            Ring::Views => 64,
            Ring::Latest => 2,
            Ring::Hours => week::KEPT,
        }
    }

    /// How many words a slot's payload has.
    pub const fn words(self) -> usize {
        let page = PAGE / WORD - SLOT_HEAD;
        match self {
            Ring::Identity | Ring::End => page,
            Ring::Seconds | Ring::Minutes => 1 + Track::COUNT,
            Ring::Events => crate::guard::terms::event::WORDS,
            Ring::Hours => 2,
            Ring::Views | Ring::Latest => 2 * PAGE / WORD - SLOT_HEAD,
        }
    }

    const fn slot_bytes(self) -> usize {
        (SLOT_HEAD + self.words()) * WORD
    }

    /// Where it begins within its section.
    const fn begin(self) -> usize {
        let mut at = 0;
        let mut ring = 0;
        while ring < self.index() {
            let before = Ring::ALL[ring];
            at += (before.slots() * before.slot_bytes()).next_multiple_of(PAGE);
            ring += 1;
        }
        at
    }
}

/// Bytes of a section: about 1.1 MB.
pub const SECTION_BYTES: usize = {
    let last = Ring::ALL[Ring::COUNT - 1];
    last.begin() + (last.slots() * last.slot_bytes()).next_multiple_of(PAGE)
};
/// Bytes of a file: about 4.5 MB.
pub const FILE_BYTES: usize = PAGE + RUNS * SECTION_BYTES;

/// Bytes of text that a slot of this ring takes.
pub const fn text_room(ring: Ring) -> usize {
    (ring.words() - TEXT_HEAD) * WORD
}

/// Words of a text's payload before its bytes: a number (the run's, or a time) and the length.
const TEXT_HEAD: usize = 2;

/// The first bytes of a file.
pub fn head() -> Vec<u8> {
    let magic = u64::from_le_bytes(MAGIC);
    let mut words = [
        magic,
        FORMAT,
        FILE_BYTES as u64,
        RUNS as u64,
        SECTION_BYTES as u64,
        0,
        0,
    ]
    .to_vec();
    words.push(check(0, &words));
    to_bytes(&words)
}

/// What the first bytes of a file say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// This format.
    Ours,
    /// A black box of another format.
    Format(u64),
    /// Damaged, or something else.
    Foreign,
}

/// Reads the first bytes.
pub fn read_head(bytes: &[u8]) -> Head {
    let words = to_words(bytes.get(..HEAD * WORD).unwrap_or_default());
    let Some((sum, before)) = words.split_last().filter(|_| words.len() == HEAD) else {
        return Head::Foreign;
    };
    if before.first() != Some(&u64::from_le_bytes(MAGIC)) || check(0, before) != *sum {
        return Head::Foreign;
    }
    match before.get(1) {
        Some(&FORMAT) if bytes.starts_with(&head()) => Head::Ours,
        Some(other) => Head::Format(*other),
        None => Head::Foreign,
    }
}

/// Where slot `number % slots` of a ring lies in the file.
pub const fn place(section: usize, ring: Ring, number: u64) -> usize {
    let slot = (number % ring.slots() as u64) as usize;
    PAGE + section * SECTION_BYTES + ring.begin() + slot * ring.slot_bytes()
}

/// Where a section lies.
pub const fn section_place(section: usize) -> usize {
    PAGE + section * SECTION_BYTES
}

/// The check's name: what the payload is of. The identity tells the run, so it is believed without.
fn name(run: u64, ring: Ring, number: u64) -> u64 {
    let run = if matches!(ring, Ring::Identity) {
        0
    } else {
        run
    };
    check(run, &[ring.index() as u64, number])
}

/// A slot's bytes. A payload that is too short is filled with zeros, one that is too long is cut.
pub fn slot(run: u64, ring: Ring, number: u64, payload: &[u64]) -> Vec<u8> {
    let mut words = vec![number.wrapping_add(1), 0];
    words.extend(payload.iter().take(ring.words()));
    words.resize(SLOT_HEAD + ring.words(), 0);
    if let [_, sum, payload @ ..] = words.as_mut_slice() {
        *sum = check(name(run, ring, number), payload);
    }
    to_bytes(&words)
}

/// What a slot holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Nothing was ever written.
    Empty,
    /// Something that is not whole.
    Torn,
    /// A record with its number.
    Whole(u64, Vec<u64>),
}

/// All slots of a ring that the bytes reach; those beyond the end of a cut file are not answered.
pub fn slots(
    bytes: &[u8],
    section: usize,
    run: u64,
    ring: Ring,
) -> impl Iterator<Item = Slot> + '_ {
    (0..ring.slots() as u64).map_while(move |at| {
        let start = place(section, ring, at);
        let slot = bytes.get(start..start.checked_add(ring.slot_bytes())?)?;
        Some(read_slot(slot, run, ring, at))
    })
}

fn read_slot(bytes: &[u8], run: u64, ring: Ring, at: u64) -> Slot {
    let words = to_words(bytes);
    let [first, sum, payload @ ..] = words.as_slice() else {
        return Slot::Torn;
    };
    let Some(number) = first.checked_sub(1) else {
        return match words.iter().all(|word| *word == 0) {
            true => Slot::Empty,
            false => Slot::Torn,
        };
    };
    let is_here = number % ring.slots() as u64 == at;
    match is_here && check(name(run, ring, number), payload) == *sum {
        true => Slot::Whole(number, payload.to_vec()),
        false => Slot::Torn,
    }
}

/// A text as a payload, after a number; cut at a character where it does not fit.
pub fn text_payload(ring: Ring, number: u64, text: &str) -> Vec<u64> {
    let mut length = text.len().min(text_room(ring));
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    let mut bytes = text.as_bytes().get(..length).unwrap_or_default().to_vec();
    bytes.resize(length.next_multiple_of(WORD), 0);
    let mut words = vec![number, length as u64];
    words.extend(to_words(&bytes));
    words
}

/// The number and the text of a payload.
pub fn payload_text(payload: &[u64]) -> Option<(u64, String)> {
    let [number, length, rest @ ..] = payload else {
        return None;
    };
    let bytes = to_bytes(rest);
    let text = bytes.get(..usize::try_from(*length).ok()?)?;
    Some((*number, String::from_utf8_lossy(text).into_owned()))
}

fn to_bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Whole words; what is left over at the end is dropped.
fn to_words(bytes: &[u8]) -> Vec<u64> {
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    bytes.chunks_exact(WORD).map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_lie_one_after_the_other_within_their_section() {
        for section in 0..RUNS {
            let mut end = section_place(section);
            for ring in Ring::ALL {
                let first = place(section, *ring, 0);
                assert!(first >= end && first % PAGE == 0, "{ring}");
                end = place(section, *ring, ring.slots() as u64 - 1) + ring.slot_bytes();
            }
            assert!(end <= section_place(section + 1));
        }
        assert_eq!(section_place(RUNS), FILE_BYTES);
    }

    #[test]
    fn a_slot_is_believed_in_its_place_and_run_only() {
        let ring = Ring::Events;
        let bytes = slot(7, ring, 300, &[1, 2]);
        assert_eq!(bytes.len(), ring.slot_bytes());
        assert_eq!(read_slot(&bytes, 7, ring, 44), Slot::Whole(300, vec![1, 2]));
        assert_eq!(read_slot(&bytes, 7, ring, 45), Slot::Torn, "elsewhere");
        assert_eq!(read_slot(&bytes, 8, ring, 44), Slot::Torn, "another run's");
        assert_eq!(read_slot(&vec![0; bytes.len()], 7, ring, 44), Slot::Empty);
        for place in 0..bytes.len() {
            let mut torn = bytes.clone();
            torn[place] ^= 0x10;
            assert_eq!(read_slot(&torn, 7, ring, 44), Slot::Torn, "byte {place}");
        }
    }

    #[test]
    fn a_text_comes_back_and_is_cut_at_a_character() {
        let payload = text_payload(Ring::End, 5, "{\"é\":1}");
        assert_eq!(payload_text(&payload), Some((5, "{\"é\":1}".into())));
        let long = "é".repeat(text_room(Ring::End));
        let (_, cut) = payload_text(&text_payload(Ring::End, 0, &long)).expect("a text");
        assert_eq!(cut.len(), text_room(Ring::End));
        assert_eq!(payload_text(&[1, u64::MAX, 3]), None);
    }

    #[test]
    fn the_head_tells_ours_another_format_and_anything_else_apart() {
        assert_eq!(read_head(&head()), Head::Ours);
        assert_eq!(read_head(b"mgblkbox"), Head::Foreign);
        assert_eq!(read_head(&[0; 64]), Head::Foreign);
        let mut words = to_words(&head());
        words[1] = 9;
        let sum = check(0, &words[..HEAD - 1]);
        words[HEAD - 1] = sum;
        assert_eq!(read_head(&to_bytes(&words)), Head::Format(9));
    }
}
