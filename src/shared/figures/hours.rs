//! The load of the last four weeks, hour by hour, by the wall clock; the black box carries it over a restart.
//! Forbidden here: what is concluded from it (`guard::foresee::week`). Writers: main in `mod_init`, then the sampling
//! process. An hour is two words; a reader that meets them half written takes one hour's number for another's, once.

use crate::guard::foresee::week::{Hour, KEPT};
use crate::shared::parts::{mapping::SharedZeroable, word::Word};

/// See the file's head.
#[repr(C)]
pub struct Hours {
    numbers: [Word; KEPT],
    rates: [Word; KEPT],
}

// SAFETY: atomics only.
unsafe impl SharedZeroable for Hours {}

impl Hours {
    /// Keeps one hour, instead of the one that was four weeks before.
    pub fn put(&self, hour: Hour) {
        let place = (hour.number % KEPT as u64) as usize;
        if let (Some(number), Some(rate)) = (self.numbers.get(place), self.rates.get(place)) {
            rate.set(hour.rate_milli);
            number.set(hour.number);
        }
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.numbers.iter().for_each(|number| number.set(0));
    }

    /// All that are kept, oldest first.
    pub fn all(&self) -> Vec<Hour> {
        let each = self.numbers.iter().zip(&self.rates);
        let mut hours: Vec<Hour> = each
            .map(|(number, rate)| Hour {
                number: number.get(),
                rate_milli: rate.get(),
            })
            .filter(|hour| hour.number > 0)
            .collect();
        hours.sort_unstable_by_key(|hour| hour.number);
        hours
    }
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;
    use crate::shared::parts::mapping::map_one;

    #[test]
    fn four_weeks_of_hours_are_kept_in_order() {
        const FOUR_WEEKS: u64 = KEPT as u64;
        let hours: &Hours = map_one().expect("some pages");
        assert_eq!(hours.all(), []);
        let hour = |number| Hour {
            number,
            rate_milli: number * 7,
        };
        let first = 480_000;
        let last = first + FOUR_WEEKS + 2;
        (first..=last).for_each(|number| hours.put(hour(number)));
        let kept: Vec<Hour> = (last + 1 - FOUR_WEEKS..=last).map(hour).collect();
        assert_eq!(hours.all(), kept);
        hours.clear();
        assert_eq!(hours.all(), []);
    }
}
