//! Figures of one writer (the sampling process) that every process reads whole.
//! Forbidden here: a second writer at the same time, waiting for the writer, and what the figures mean.
//!
//! ```text
//! offset   0                        64
//!          number of publications │ buffer of even numbers │ buffer of odd numbers     each a Record<WORDS>
//! ```
//!
//! The writer fills the buffer that readers are not sent to, under the next number as the record's name, and then
//! publishes the number. A reader goes to the buffer of the newest number and believes it only under that number.
//!
//! A writer killed or stopped while it fills leaves the number, and so the last published figures, as they were;
//! its successor fills the same buffer again. A stopped writer that is continued after a successor took over can
//! spoil one buffer or set the number back: readers then get `None` until the successor's next publication.

use crate::shared::parts::{
    mapping::SharedZeroable,
    record::Record,
    sync::{AtomicU64, Ordering, READ_TRIES},
};

/// The last published `WORDS` words, and the ones being written.
#[repr(C, align(64))]
pub struct DoubleBuffer<const WORDS: usize> {
    newest: Newest,
    even: Record<WORDS>,
    odd: Record<WORDS>,
}

/// The number of the newest publication, 0 before the first.
#[repr(C, align(64))]
struct Newest(AtomicU64);

#[cfg(not(loom))]
const _: () = assert!(size_of::<DoubleBuffer<7>>() == 64 + 2 * 64);

// SAFETY: atomics only.
unsafe impl<const WORDS: usize> SharedZeroable for DoubleBuffer<WORDS> {}

impl<const WORDS: usize> DoubleBuffer<WORDS> {
    /// Nothing published, outside of any mapping.
    pub fn new() -> Self {
        DoubleBuffer {
            newest: Newest(AtomicU64::new(0)),
            even: Record::new(),
            odd: Record::new(),
        }
    }

    /// Publishes the words. Writer: the sampling process only.
    pub fn publish(&self, words: &[u64; WORDS]) {
        // ORDERING: Relaxed; this process is the only writer (a successor starts after its predecessor's end).
        let number = self.newest.0.load(Ordering::Relaxed).wrapping_add(1).max(1);
        self.buffer(number).store_as(number, words);
        // ORDERING: Release; pairs with the Acquire in read: who sees the number sees its buffer, or a newer one.
        self.newest.0.store(number, Ordering::Release);
    }

    /// The newest published words; `None` before the first publication, and when the writer published twice during
    /// each of [`READ_TRIES`] copies (it publishes about once per second).
    pub fn read(&self) -> Option<[u64; WORDS]> {
        (0..READ_TRIES).find_map(|_| {
            // ORDERING: Acquire; pairs with the Release in publish.
            match self.newest.0.load(Ordering::Acquire) {
                0 => None,
                number => self.buffer(number).load_as(number),
            }
        })
    }

    /// How many times something was published.
    #[cfg(feature = "surface")]
    pub fn publications(&self) -> u64 {
        // ORDERING: Relaxed; a counter, no data depends on it.
        self.newest.0.load(Ordering::Relaxed)
    }

    fn buffer(&self, number: u64) -> &Record<WORDS> {
        if number % 2 == 0 {
            &self.even
        } else {
            &self.odd
        }
    }
}

impl<const WORDS: usize> Default for DoubleBuffer<WORDS> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_newest_publication_is_read() {
        let figures = DoubleBuffer::<2>::new();
        assert_eq!(figures.read(), None);
        for value in 1..6 {
            figures.publish(&[value, value * 2]);
            assert_eq!(figures.read(), Some([value, value * 2]));
        }
        assert_eq!(figures.publications(), 5);
    }

    #[test]
    fn a_writer_that_dies_while_filling_leaves_the_last_figures() {
        let figures = DoubleBuffer::<2>::new();
        figures.publish(&[1, 2]);
        figures.even.store_as(99, &[8, 8]); // half of publication 2, whatever it looks like
        assert_eq!(figures.read(), Some([1, 2]));
        figures.publish(&[3, 4]);
        assert_eq!(figures.read(), Some([3, 4]));
    }

    #[test]
    fn an_old_writer_that_comes_back_spoils_figures_only_until_the_next_publication() {
        let figures = DoubleBuffer::<1>::new();
        for value in 1..=4 {
            figures.publish(&[value]);
        }
        figures.even.store_as(2, &[2]); // publication 2 of a writer stopped since then
        figures.newest.0.store(2, Ordering::Relaxed);
        figures.publish(&[5]);
        assert_eq!(figures.read(), Some([5]));
    }
}
