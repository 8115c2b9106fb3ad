//! Reloads: a rise that stands alone is a step and no trend.
//! Forbidden here: clocks, allocation.

use crate::guard::foresee::{
    forecast::{Forecaster, LEAST_STEP},
    trend::median,
};

impl Forecaster {
    /// A rise within one minute that stands alone and that the load did not share is a reload: the coarse rings go on
    /// as if it had not been. What is given back at once is real.
    pub(super) fn watch_steps(&mut self, size: f64) {
        let Some((new, old)) = self.minutes.back(0).zip(self.minutes.back(1)) else {
            return;
        };
        let (jump, load, old_load) = (new.low - old.low, new.load, old.load);
        if jump.abs() < LEAST_STEP * size {
            return;
        }
        if jump < 0.0 {
            self.offset = (self.offset + jump).max(0.0);
            return;
        }
        let shared = load
            .iter()
            .zip(old_load)
            .any(|(new, old)| (new - old).abs() > 0.1 * old.abs().max(1.0));
        let mut increments = [0.0; 32];
        let mut count = 0;
        for (back, slot) in increments.iter_mut().enumerate() {
            if let Some((late, early)) =
                self.minutes.back(back + 1).zip(self.minutes.back(back + 2))
            {
                *slot = (late.low - early.low).abs();
                count += 1;
            }
        }
        let usual = median(&mut increments[..count]);
        if !shared && jump > 12.0 * usual {
            self.offset += jump;
        }
    }
}
