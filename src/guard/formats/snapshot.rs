//! A set of figures that is read in many parts one after the other: made once for all that ask at the same tick.
//! Forbidden here: clocks (the tick is given); what the figures are.

use std::cell::Cell;

/// The figures as they were at one tick.
pub struct Snapshot<T: Copy> {
    tick: Cell<u64>,
    figures: Cell<Option<T>>,
}

impl<T: Copy> Snapshot<T> {
    /// None yet.
    pub const fn new() -> Snapshot<T> {
        Snapshot {
            tick: Cell::new(0),
            figures: Cell::new(None),
        }
    }

    /// Those of this tick; `make` makes them where nobody has asked at it before.
    pub fn at(&self, tick: u64, make: impl FnOnce() -> T) -> T {
        match self.figures.get() {
            Some(figures) if self.tick.get() == tick => figures,
            _ => {
                let figures = make();
                self.tick.set(tick);
                self.figures.set(Some(figures));
                figures
            }
        }
    }
}

impl<T: Copy> Default for Snapshot<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::formats::metrics::{self, Measures};

    #[test]
    fn one_scrape_of_all_statistics_makes_the_sums_once() {
        let snapshot = Snapshot::new();
        let made = Cell::new(0);
        let count = metrics::statistics().len();
        assert!(count > 40, "{count}");
        let make = || {
            made.set(made.get() + 1);
            Measures::default()
        };
        for tick in [1, 1, 2, 9] {
            for number in 0..count {
                metrics::statistic_value(&snapshot.at(tick, make), number);
            }
        }
        assert_eq!(made.get(), 3, "three ticks, {count} statistics each");
    }
}
