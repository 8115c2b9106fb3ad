//! Which part of a reserve of memory is free: a buddy system over a tree of bytes.
//! Forbidden here: the memory itself (`host::memory` has it), and any allocation: it stands in for the allocator.
//!
//! Blocks are [`LEAF`] bytes times a power of two and lie at multiples of their size. Node 1 of the tree is the whole,
//! nodes 2n and 2n+1 are the halves of node n. A node's byte says how many halvings the largest free block in it is
//! away from the whole of it, so that zeros are a tree of which everything is free; one more than its own order
//! says that nothing is. Below a block that is taken the bytes stay zero.
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

/// Smallest block, bytes.
pub const LEAF: usize = 64;

/// Bytes that the tree over 2^`order` leaves takes.
pub const fn tree_bytes(order: u32) -> usize {
    2 << order
}

/// The tree of a reserve of 2^`order` leaves; its bytes are the caller's, all zero at the begin.
pub struct Buddy<'a> {
    tree: &'a mut [u8],
    order: u32,
}

/// The order of the smallest block that holds so many bytes; `None`: no block is that large.
fn order_of(bytes: usize) -> Option<u32> {
    let leaves = bytes.max(1).div_ceil(LEAF).checked_next_power_of_two()?;
    Some(leaves.trailing_zeros())
}

/// Bytes of the block that so many bytes get.
pub fn block_bytes(bytes: usize) -> Option<usize> {
    LEAF.checked_shl(order_of(bytes)?)
}

impl Buddy<'_> {
    /// Of a tree of [`tree_bytes`].
    pub fn new(tree: &mut [u8], order: u32) -> Buddy<'_> {
        Buddy { tree, order }
    }

    /// Order of the largest free block in a node of this order; `None`: nothing of it is free.
    fn free_in(&self, node: usize, order: u32) -> Option<u32> {
        let away = self.tree.get(node).copied().map_or(u32::MAX, u32::from);
        order.checked_sub(away)
    }

    fn put(&mut self, node: usize, away: u32) {
        if let Some(byte) = self.tree.get_mut(node) {
            *byte = u8::try_from(away).unwrap_or(u8::MAX);
        }
    }

    /// Bytes of the largest block that can be had.
    pub fn largest(&self) -> usize {
        self.free_in(1, self.order).map_or(0, |order| LEAF << order)
    }

    /// Takes a block for so many bytes: where it begins. `None`: there is none.
    pub fn take(&mut self, bytes: usize) -> Option<usize> {
        let wanted = order_of(bytes)?;
        self.free_in(1, self.order).filter(|free| *free >= wanted)?;
        let (mut node, mut order) = (1usize, self.order);
        while order > wanted {
            order -= 1;
            // The half whose largest block is the smaller one that is large enough, so that large ones stay whole.
            let fits = |half: usize| self.free_in(half, order).filter(|free| *free >= wanted);
            let (left, right) = (2 * node, 2 * node + 1);
            node = match (fits(left), fits(right)) {
                (Some(l), Some(r)) if r < l => right,
                (None, Some(_)) => right,
                (Some(_), _) => left,
                (None, None) => return None, // a tree that somebody else wrote into
            };
        }
        self.put(node, order + 1);
        let at = (node - (1usize << (self.order - order))) * (LEAF << order);
        self.mend(node, order);
        Some(at)
    }

    /// Gives a block back that was taken for so many bytes.
    pub fn give(&mut self, at: usize, bytes: usize) {
        let Some(order) = order_of(bytes).filter(|order| *order <= self.order) else {
            return;
        };
        let node = (1usize << (self.order - order)) + at / (LEAF << order);
        self.put(node, 0);
        self.mend(node, order);
    }

    /// What a node's change means for those above it.
    fn mend(&mut self, mut node: usize, mut order: u32) {
        while node > 1 {
            node /= 2;
            let halves = [2 * node, 2 * node + 1].map(|half| self.free_in(half, order));
            let largest = match halves {
                [Some(left), Some(right)] if left == order && right == order => Some(order + 1),
                [left, right] => left.max(right),
            };
            order += 1;
            self.put(node, largest.map_or(order + 1, |free| order - free));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ORDER: u32 = 8;
    const WHOLE: usize = LEAF << ORDER;

    #[test]
    fn all_of_it_can_be_had_in_the_smallest_blocks_and_then_in_one() {
        let mut tree = vec![0; tree_bytes(ORDER)];
        let mut buddy = Buddy::new(&mut tree, ORDER);
        assert_eq!(buddy.largest(), WHOLE);
        let mut all: Vec<usize> = (0..1 << ORDER)
            .map(|_| buddy.take(LEAF).expect("there is one"))
            .collect();
        assert_eq!((buddy.largest(), buddy.take(1)), (0, None));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 1 << ORDER);
        all.into_iter().for_each(|at| buddy.give(at, LEAF));
        assert_eq!(buddy.take(WHOLE), Some(0));
        assert_eq!(buddy.take(1), None);
        buddy.give(0, WHOLE);
        assert!(tree.iter().all(|byte| *byte == 0), "as at the begin");
    }

    #[test]
    fn a_small_block_leaves_a_large_one_whole() {
        let mut tree = vec![0; tree_bytes(ORDER)];
        let mut buddy = Buddy::new(&mut tree, ORDER);
        assert_eq!(buddy.take(WHOLE / 2), Some(0), "the first of two halves");
        assert_eq!(buddy.take(LEAF), Some(WHOLE / 2));
        buddy.give(0, WHOLE / 2);
        assert_eq!(
            buddy.take(LEAF),
            Some(WHOLE / 2 + LEAF),
            "not from the half"
        );
        assert_eq!(buddy.take(WHOLE / 2), Some(0));
        buddy.give(WHOLE / 2, LEAF);
        buddy.give(WHOLE / 2 + LEAF, LEAF);
        assert_eq!(
            buddy.take(LEAF),
            Some(WHOLE / 2),
            "what was given back first"
        );
    }

    #[test]
    fn more_than_there_is_cannot_be_had() {
        let mut tree = vec![0; tree_bytes(ORDER)];
        let mut buddy = Buddy::new(&mut tree, ORDER);
        for bytes in [WHOLE + 1, usize::MAX / 2, usize::MAX] {
            assert_eq!(buddy.take(bytes), None);
        }
        assert_eq!(buddy.largest(), WHOLE);
    }

    proptest! {
        #[test]
        fn blocks_do_not_overlap_and_all_comes_back(steps in prop::collection::vec((any::<bool>(), 0..5000usize), 1..300)) {
            let mut tree = vec![0; tree_bytes(ORDER)];
            let mut held: Vec<(usize, usize)> = Vec::new();
            for (is_take, n) in steps {
                let mut buddy = Buddy::new(&mut tree, ORDER);
                if is_take || held.is_empty() {
                    let largest = buddy.largest();
                    let block = block_bytes(n).expect("small");
                    match buddy.take(n) {
                        Some(at) => {
                            prop_assert!(block <= largest && at + block <= WHOLE && at % block == 0);
                            for (other, bytes) in &held {
                                let end = other + block_bytes(*bytes).expect("small");
                                prop_assert!(at + block <= *other || end <= at);
                            }
                            held.push((at, n));
                        }
                        None => prop_assert!(block > largest),
                    }
                } else {
                    let (at, bytes) = held.swap_remove(n % held.len());
                    buddy.give(at, bytes);
                }
            }
            let mut buddy = Buddy::new(&mut tree, ORDER);
            held.into_iter().for_each(|(at, bytes)| buddy.give(at, bytes));
            prop_assert!(tree.iter().all(|byte| *byte == 0));
        }
    }
}
