//! Per process: what it tells of its memory outside the pools when it is asked, and what the sampler concludes.
//! Forbidden here: asking the heap or the interpreter (host), locks, waiting.
//!
//! ```text
//! Outside, 128 bytes
//!    0  64 bytes  the sampling process writes: question, growth, verdict, when it will be full
//!   64  64 bytes  the process itself writes, at the end of a message after it was asked
//! ```
//! Recovery: every word stands for itself; a process killed while it answers leaves some figures of before.

use crate::guard::machine::outside::{LeakIn, Part};
use crate::guard::terms::{text::NONE_FORESEEN_S, words::Pool};
use crate::shared::parts::mapping::SharedZeroable;
use crate::shared::parts::word::Word;

/// What a process tells of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Bytes in use in libc's heap.
    pub heap: u64,
    /// Bytes that libc's heap holds and that nobody uses.
    pub heap_free: u64,
    /// Blocks that the Python interpreter holds; `None` without one, or where it is left alone.
    pub python_blocks: Option<u64>,
    /// How long the question took it, microseconds.
    pub took_us: u64,
}

#[repr(C, align(64))]
#[derive(Default)]
struct Sampled {
    is_asked: Word,
    growth: Word,
    part: Word,
    leak_in: Word,
    /// Seconds + 1; 0: none foreseen.
    exhaustion: Word,
    exhaustion_of: Word,
}

#[repr(C, align(64))]
#[derive(Default)]
struct Answered {
    answers: Word,
    heap: Word,
    heap_free: Word,
    /// Blocks + 1; 0: not known.
    blocks: Word,
    took_us: Word,
}

/// The row of one process.
#[repr(C)]
#[derive(Default)]
pub struct Outside {
    sampled: Sampled,
    answered: Answered,
}

const _: () = assert!(size_of::<Outside>() == 128);

// SAFETY: atomics only.
unsafe impl SharedZeroable for Outside {}

impl Outside {
    /// Asks the process. Writer: the sampling process.
    pub fn ask(&self) {
        self.sampled.is_asked.set(1);
    }

    /// Whether it is asked: one load, at the end of every message of the process.
    #[inline(always)]
    pub fn is_asked(&self) -> bool {
        self.sampled.is_asked.get() != 0
    }

    /// The process's answer.
    pub fn answer(&self, told: &Told) {
        self.sampled.is_asked.set(0);
        self.answered.heap.set(told.heap);
        self.answered.heap_free.set(told.heap_free);
        self.answered
            .blocks
            .set(told.python_blocks.map_or(0, |blocks| blocks + 1));
        self.answered.took_us.set(told.took_us);
        self.answered.answers.add(1);
    }

    /// The last answer; `None` before the first. Approximate: the words are read one by one.
    pub fn told(&self) -> Option<Told> {
        (self.answered.answers.get() > 0).then(|| Told {
            heap: self.answered.heap.get(),
            heap_free: self.answered.heap_free.get(),
            python_blocks: self.answered.blocks.get().checked_sub(1),
            took_us: self.answered.took_us.get(),
        })
    }

    /// Publishes how its private memory grows, bytes per second, and who holds that. Writer: the sampling process.
    pub fn set_growth(&self, per_second: f64, part: Part) {
        self.sampled.growth.set(per_second.to_bits());
        self.sampled.part.set(part.index() as u64);
    }

    /// Growth of its private memory and who holds that.
    pub fn growth(&self) -> (f64, Part) {
        let part = Part::from_index(self.sampled.part.get()).unwrap_or(Part::Other);
        (f64::from_bits(self.sampled.growth.get()), part)
    }

    /// Publishes where its leak is. Writer: the sampling process.
    pub fn set_leak_in(&self, place: LeakIn) {
        self.sampled.leak_in.set(place.index() as u64);
    }

    /// Where its leak is.
    pub fn leak_in(&self) -> LeakIn {
        LeakIn::from_index(self.sampled.leak_in.get()).unwrap_or(LeakIn::None)
    }

    /// Publishes when this process will have filled its pkg or the machine's memory. Writer: the sampling process.
    pub fn set_exhaustion(&self, foreseen: Option<(Pool, u64)>) {
        let (pool, seconds) = foreseen.map_or((Pool::Pkg, 0), |(pool, s)| (pool, s + 1));
        self.sampled.exhaustion_of.set(pool.index() as u64);
        self.sampled.exhaustion.set(seconds);
    }

    /// What this process will have filled, and in how many seconds.
    pub fn exhaustion(&self) -> Option<(Pool, u64)> {
        let seconds = self.sampled.exhaustion.get().checked_sub(1)?;
        let pool = Pool::from_index(self.sampled.exhaustion_of.get())?;
        (seconds < NONE_FORESEEN_S).then_some((pool, seconds))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_the_question_and_says_what_is_not_known() {
        let row = Outside::default();
        assert_eq!((row.told(), row.is_asked()), (None, false));
        row.ask();
        assert!(row.is_asked());
        let told = Told {
            heap: 7,
            heap_free: 3,
            python_blocks: None,
            took_us: 12,
        };
        row.answer(&told);
        assert_eq!((row.told(), row.is_asked()), (Some(told), false));
        let told = Told {
            python_blocks: Some(0),
            ..told
        };
        row.answer(&told);
        assert_eq!(row.told(), Some(told));
    }

    #[test]
    fn an_untouched_row_says_nothing() {
        let row = Outside::default();
        assert_eq!(row.growth(), (0.0, Part::Other));
        assert_eq!((row.leak_in(), row.exhaustion()), (LeakIn::None, None));
        row.set_exhaustion(Some((Pool::Os, 0)));
        assert_eq!(row.exhaustion(), Some((Pool::Os, 0)));
        row.set_exhaustion(Some((Pool::Pkg, NONE_FORESEEN_S - 1)));
        assert_eq!(row.exhaustion(), Some((Pool::Pkg, NONE_FORESEEN_S - 1)));
        row.set_exhaustion(Some((Pool::Pkg, NONE_FORESEEN_S)));
        assert_eq!(row.exhaustion(), None);
    }

    #[test]
    fn where_it_grows_and_leaks_comes_back() {
        let row = Outside::default();
        row.set_growth(12.5, Part::Python);
        row.set_leak_in(LeakIn::Python);
        assert_eq!(row.growth(), (12.5, Part::Python));
        assert_eq!(row.leak_in(), LeakIn::Python);
    }
}
