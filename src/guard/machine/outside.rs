//! Memory outside the pools, process by process: how it grows, whose it is (Python, libc), and whether it leaks.
//! Forbidden here: clocks, allocation, and asking anybody; figures come as arguments.

use crate::guard::foresee::growth::{Leak, LeakWatch, Trail};
use crate::guard::terms::words::words;

words! {
    /// Who holds a process's memory outside the pools, as far as that can be told.
    Part {
        /// Neither libc's heap nor the interpreter grows along: mappings, stacks, libraries with a heap of their own.
        Other = "other",
        /// libc's heap grows along: a library, or a module that calls malloc.
        Libc = "libc",
        /// The Python interpreter holds more blocks all the time: a script keeps references.
        Python = "python",
    }
}

words! {
    /// Where a process's leak is.
    LeakIn {
        /// Nowhere.
        None = "none",
        /// Its private pool.
        Pkg = "pkg",
        /// The shared pool: it holds its share of a place that leaks.
        Shm = "shm",
        /// Outside the pools, and nobody can be named.
        Outside = "outside",
        /// Outside the pools, in libc's heap.
        Libc = "libc",
        /// Outside the pools, in the Python interpreter.
        Python = "python",
    }
}

impl From<Part> for LeakIn {
    fn from(part: Part) -> LeakIn {
        match part {
            Part::Other => LeakIn::Outside,
            Part::Libc => LeakIn::Libc,
            Part::Python => LeakIn::Python,
        }
    }
}

/// Samples between two questions to a process.
const ASK_EVERY: u64 = 10;

/// Milliseconds between two questions to a process that took `took_us` microseconds for its last answer: ten samples,
/// and so long that answering never takes a thousandth of its time.
pub fn rest_ms(sample_interval_ms: u64, took_us: u64) -> u64 {
    // a thousand times as many microseconds are as many milliseconds
    sample_interval_ms.saturating_mul(ASK_EVERY).max(took_us)
}

/// One look at a process: its private bytes, and what it told of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    /// Resident bytes outside the pools.
    pub private: u64,
    /// Bytes in use in libc's heap.
    pub heap: Option<u64>,
    /// Blocks that the Python interpreter holds.
    pub python_blocks: Option<u64>,
}

/// Larger than the average object that a script keeps, bytes: above it, what grows is not what Python counts.
const LARGEST_OBJECT: f64 = 1_048_576.0;
/// libc's heap is named when it explains this part of the growth.
const MOST: f64 = 0.6;
/// The smallest block of the interpreter, bytes: what the leak rule weighs one with.
const LEAST_OBJECT: u64 = 64;

/// What is remembered of one process.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    slow: LeakWatch,
    quick: LeakWatch,
    blocks: LeakWatch,
    private_trail: Trail,
    heap_trail: Trail,
    blocks_trail: Trail,
    leak: Leak,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch {
            slow: LeakWatch::slow(),
            quick: LeakWatch::pkg(),
            blocks: LeakWatch::pkg(),
            private_trail: Trail::default(),
            heap_trail: Trail::default(),
            blocks_trail: Trail::default(),
            leak: Leak::None,
        }
    }
}

impl Watch {
    /// Takes one look. `is_explained`: known bindings rise as steadily, so a script that keeps something for each is
    /// no leak; then only the slow rule counts.
    ///
    /// Private bytes alone are watched as slowly as shm: caches fill for hours. Where the interpreter's blocks rise
    /// through the same windows, ten minutes are enough: garbage that is only late to be collected raises the blocks,
    /// but then reuses its memory.
    pub fn feed(&mut self, sample: u64, now_ms: u64, look: Look, is_explained: bool) {
        let private = look.private as i64;
        self.private_trail.feed(now_ms, private);
        let slow = self.slow.feed(sample, private);
        let quick = self.quick.feed(sample, private);
        if let Some(heap) = look.heap {
            self.heap_trail.feed(now_ms, heap as i64);
        }
        let mut both = Leak::None;
        if let Some(blocks) = look.python_blocks {
            self.blocks_trail.feed(now_ms, blocks as i64);
            let weighed = blocks.saturating_mul(LEAST_OBJECT) as i64;
            both = self.blocks.feed(sample, weighed).min(quick);
        }
        if is_explained || self.part() != Part::Python {
            both = Leak::None;
        }
        self.leak = slow.max(both);
    }

    /// Whether it leaks.
    pub fn leak(&self) -> Leak {
        self.leak
    }

    /// Growth of its private bytes' low-water mark, bytes per second.
    pub fn growth(&self) -> f64 {
        self.private_trail.growth().now
    }

    /// Who holds what grows.
    pub fn part(&self) -> Part {
        let grown = self.growth();
        let blocks = self.blocks_trail.growth().now;
        if self.blocks.state() != Leak::None && grown <= LARGEST_OBJECT * blocks {
            Part::Python
        } else if grown > 0.0 && self.heap_trail.growth().now >= MOST * grown {
            Part::Libc
        } else {
            Part::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two requests per second for so many minutes, looked at each second; the process tells of itself every tenth.
    fn after(minutes: u64, is_explained: bool, look: impl Fn(u64) -> Look) -> (Leak, Part) {
        let mut watch = Watch::default();
        for second in 0..=minutes * 60 {
            let told = look(second / 10 * 10);
            let look = Look {
                private: look(second).private,
                ..told
            };
            watch.feed(second, 1_000_000 + second * 1000, look, is_explained);
        }
        (watch.leak(), watch.part())
    }

    fn keeps(bytes: u64, blocks: u64) -> impl Fn(u64) -> Look {
        move |second| Look {
            private: 20_000_000 + second * bytes,
            heap: Some(8_000_000 + second * bytes),
            python_blocks: Some(90_000 + second * blocks),
        }
    }

    #[test]
    fn a_script_that_keeps_references_is_python_within_a_quarter_of_an_hour() {
        assert_eq!(
            after(12, false, keeps(60_000, 4)),
            (Leak::Suspected, Part::Python)
        );
        assert_eq!(
            after(60, false, keeps(60_000, 4)),
            (Leak::Confirmed, Part::Python)
        );
        assert_eq!(after(12, true, keeps(60_000, 4)).0, Leak::None);
    }

    #[test]
    fn a_library_that_leaks_is_libc_and_takes_the_slow_rule() {
        assert_eq!(after(60, false, keeps(60_000, 0)), (Leak::None, Part::Libc));
        assert_eq!(
            after(140, false, keeps(60_000, 0)),
            (Leak::Suspected, Part::Libc)
        );
        // one block in a while beside many megabytes is not what Python holds
        let beside = |second| Look {
            python_blocks: Some(90_000 + second / 20),
            ..keeps(3_000_000, 0)(second)
        };
        assert_eq!(after(60, false, beside), (Leak::None, Part::Libc));
        let slower = |second| Look {
            python_blocks: Some(90_000 + second / 20),
            ..keeps(300_000, 0)(second)
        };
        assert_eq!(after(60, false, slower), (Leak::None, Part::Libc));
    }

    #[test]
    fn what_grows_beside_heap_and_interpreter_is_called_other() {
        let mapped = |second| Look {
            private: 20_000_000 + second * 60_000,
            heap: Some(8_000_000),
            python_blocks: None,
        };
        assert_eq!(after(140, false, mapped), (Leak::Suspected, Part::Other));
        let half_in_the_heap = |second| Look {
            heap: Some(8_000_000 + second * 30_000),
            ..mapped(second)
        };
        assert_eq!(after(140, false, half_in_the_heap).1, Part::Other);
    }

    #[test]
    fn a_process_is_asked_rarely_and_more_rarely_when_answering_takes_it_long() {
        assert_eq!(rest_ms(1000, 300), 10_000);
        assert_eq!(rest_ms(100, 0), 1_000);
        assert_eq!(rest_ms(1000, 30_000), 30_000); // 30 ms of 30 s
    }

    #[test]
    fn a_healthy_script_is_not_named() {
        // warms up, then makes garbage that is collected now and then
        let healthy = |second: u64| Look {
            private: 20_000_000 + 2_000_000 * second.min(200) / 200,
            heap: Some(8_000_000 + 1_000_000 * second.min(200) / 200),
            python_blocks: Some(90_000 + 50 * (second % 1500)),
        };
        for minutes in [12, 24, 60, 200] {
            assert_eq!(after(minutes, false, healthy).0, Leak::None, "{minutes}");
        }
    }
}
