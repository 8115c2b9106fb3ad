//! Samples of one figure at a fixed step (a total each second), newest last, for rates and for history.
//! Forbidden here: a second writer, the length of a step, and gaps (the writer pushes one value per step).
//!
//! ```text
//! offset   0        8
//!          pushed │ point 0 │ point 1 │ … │ point POINTS−1      push number i lives in point i % POINTS
//! ```
//!
//! While the writer writes, a reader sees the points that were complete before: the newest appears when `pushed`
//! counts it. The one point that may be being overwritten is never answered, so `POINTS − 1` can be read; a reader
//! that was delayed until its point was overwritten notices and answers `None`. Two calls may see different newest
//! points. A writer killed between its two stores leaves a point that nobody counts; its successor writes it again.

use crate::shared::parts::{
    mapping::SharedZeroable,
    sync::{AtomicU64, Ordering, zeroed},
};

/// The last `POINTS` − 1 samples.
#[repr(C)]
pub struct Series<const POINTS: usize> {
    pushed: AtomicU64,
    points: [AtomicU64; POINTS],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Series<15>>() == 128);

// SAFETY: atomics only.
unsafe impl<const POINTS: usize> SharedZeroable for Series<POINTS> {}

impl<const POINTS: usize> Series<POINTS> {
    const HAS_POINTS: () = assert!(POINTS > 1);

    /// An empty series outside of any mapping.
    pub fn new() -> Self {
        Series {
            pushed: AtomicU64::new(0),
            points: zeroed(),
        }
    }

    /// Adds the newest sample. Writer: the sampling process only.
    pub fn push(&self, value: u64) {
        let () = Self::HAS_POINTS;
        // ORDERING: Relaxed; this process is the only writer.
        let number = self.pushed.load(Ordering::Relaxed);
        if let Some(point) = self.point(number) {
            // ORDERING: Release; pairs with the Acquire in back: who sees this value also sees `pushed` at `number`
            // or later, and so notices that the older value of this point is gone.
            point.store(value, Ordering::Release);
        }
        // ORDERING: Release; pairs with the Acquire in back: who sees the count sees the point.
        self.pushed.store(number.wrapping_add(1), Ordering::Release);
    }

    /// How many samples were pushed since the start; the model check asks.
    #[cfg(loom)]
    pub fn pushed(&self) -> u64 {
        // ORDERING: Relaxed; a counter, no data depends on it.
        self.pushed.load(Ordering::Relaxed)
    }

    /// The sample `back` steps before the newest (0 is the newest); `None` when there is none (any more).
    pub fn back(&self, back: usize) -> Option<u64> {
        // ORDERING: Acquire; pairs with the Release of `pushed` in push.
        let pushed = self.pushed.load(Ordering::Acquire);
        self.sample(pushed.checked_sub(1)?.checked_sub(back as u64)?)
    }

    /// The value of one push by its number.
    fn sample(&self, number: u64) -> Option<u64> {
        // ORDERING: Acquire; pairs with the Release of the point in push, for the look at `pushed` that follows.
        let value = self.point(number)?.load(Ordering::Acquire);
        // ORDERING: Relaxed; ordered after the value by the Acquire above.
        let pushed = self.pushed.load(Ordering::Relaxed);
        // Push number `number + POINTS` overwrites the point while `pushed` still equals it.
        (pushed.wrapping_sub(number) < POINTS as u64).then_some(value)
    }

    fn point(&self, number: u64) -> Option<&AtomicU64> {
        self.points.get((number % POINTS as u64) as usize)
    }
}

impl<const POINTS: usize> Default for Series<POINTS> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_their_age() {
        let series = Series::<4>::new();
        assert_eq!(series.back(0), None);
        series.push(10);
        assert_eq!((series.back(0), series.back(1)), (Some(10), None));
        for value in [20, 30, 40, 50] {
            series.push(value);
        }
        let seen: Vec<_> = (0..5).map(|back| series.back(back)).collect();
        assert_eq!(seen, [Some(50), Some(40), Some(30), None, None]);
    }

    #[test]
    fn a_point_whose_push_was_not_counted_is_not_read() {
        let series = Series::<4>::new();
        for value in 1..=6 {
            series.push(value);
        }
        series.points[2].store(99, Ordering::Relaxed); // push number 6 was killed before it counted
        assert_eq!(
            (0..4).map(|back| series.back(back)).collect::<Vec<_>>(),
            [Some(6), Some(5), Some(4), None]
        );
        series.push(7);
        assert_eq!(series.back(0), Some(7));
    }
}
