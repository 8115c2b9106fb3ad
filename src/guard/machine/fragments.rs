//! Fragmentation: the largest free block falls while free memory does not.
//! Forbidden here: clocks, allocation, reading a pool.

use crate::guard::terms::words::words;

words! {
    /// How broken up the free memory of a pool is.
    Pieces {
        /// A good part of it is in one piece.
        Whole = "whole",
        /// It is in small pieces; whether it ever was otherwise was not seen.
        Small = "small",
        /// It is in small pieces, and with as little or less of it free there was a far larger one.
        Fallen = "fallen",
    }
}

/// Levels of free memory that are told apart.
const LEVELS: usize = 32;
/// A largest piece below this part of what is free is small.
const SMALL: u64 = 20;
/// It has fallen when it was this many times larger (managers tell sizes by powers of two).
const FALLEN: u64 = 8;
/// With less than this part of the pool free, memory is short, not broken up.
const LEAST_FREE: u64 = 10;

/// What the largest free block once was, by how much was free.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fragments {
    largest: [u64; LEVELS],
}

impl Fragments {
    /// Takes one sample: size of the pool, free bytes, its largest free block (a lower bound, `None` when unknown).
    pub fn feed(&mut self, size: u64, free: u64, largest: Option<u64>) -> Pieces {
        let Some(largest) = largest.filter(|_| size > 0) else {
            return Pieces::Whole;
        };
        let free = free.min(size);
        let level = (u128::from(free) * (LEVELS as u128 - 1) / u128::from(size)) as usize;
        let seen = self.largest.iter().take(level + 1).copied().max();
        if let Some(slot) = self.largest.get_mut(level) {
            *slot = largest.max(*slot);
        }
        if free < size / LEAST_FREE || largest.saturating_mul(SMALL) >= free {
            return Pieces::Whole;
        }
        match seen.is_some_and(|seen| seen >= largest.saturating_mul(FALLEN)) {
            true => Pieces::Fallen,
            false => Pieces::Small,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 64 << 20;

    #[test]
    fn a_largest_block_that_falls_while_as_much_is_free_is_fragmentation() {
        let mut pool = Fragments::default();
        assert_eq!(pool.feed(SIZE, SIZE / 2, Some(SIZE / 4)), Pieces::Whole);
        assert_eq!(pool.feed(SIZE, SIZE / 2, Some(4096)), Pieces::Fallen);
        assert_eq!(pool.feed(SIZE, SIZE / 8 * 5, Some(4096)), Pieces::Fallen);
        assert_eq!(pool.feed(SIZE, SIZE / 2, Some(SIZE / 4)), Pieces::Whole);
    }

    #[test]
    fn an_empty_pool_is_remembered_too() {
        let mut pool = Fragments::default();
        assert_eq!(pool.feed(SIZE, SIZE, Some(SIZE)), Pieces::Whole);
        assert_eq!(pool.feed(SIZE, SIZE, Some(4096)), Pieces::Fallen);
    }

    #[test]
    fn memory_is_short_below_a_tenth_and_a_piece_is_small_below_a_twentieth() {
        for (free, largest, pieces) in [
            (100, 4, Pieces::Small),
            (99, 4, Pieces::Whole),
            (100, 5, Pieces::Whole),
        ] {
            let found = Fragments::default().feed(1000, free, Some(largest));
            assert_eq!(found, pieces, "{free} {largest}");
        }
    }

    #[test]
    fn small_pieces_that_were_never_seen_larger_are_only_small() {
        let mut pool = Fragments::default();
        assert_eq!(
            pool.feed(SIZE, SIZE / 10 * 9, Some(SIZE / 2)),
            Pieces::Whole
        );
        // less is free than there ever was: what the largest would be is not known
        assert_eq!(pool.feed(SIZE, SIZE / 3, Some(4096)), Pieces::Small);
    }

    #[test]
    fn a_full_pool_and_an_unknown_one_are_not_broken_up() {
        let mut pool = Fragments::default();
        pool.feed(SIZE, SIZE / 20, Some(SIZE / 20));
        assert_eq!(pool.feed(SIZE, SIZE / 20, Some(64)), Pieces::Whole);
        assert_eq!(pool.feed(SIZE, SIZE / 2, None), Pieces::Whole);
        assert_eq!(pool.feed(0, 0, Some(0)), Pieces::Whole);
        assert_eq!(pool.feed(SIZE, u64::MAX, Some(u64::MAX)), Pieces::Whole);
    }
}
