//! How many of the phones that the run before knew are back: counts of the sampling process, read by everybody.
//! Forbidden here: looking for them (`fingerprints::expected`), and deciding when they are late.

use crate::shared::parts::{mapping::SharedZeroable, word::Word};

/// What is counted of one table. Writer: main in `mod_init`, then the sampling process.
#[repr(C)]
pub struct Returned {
    /// What was alive when it was carried over.
    pub before: Word,
    /// What has been heard of since.
    pub back: Word,
    /// What ended without a word.
    pub expired: Word,
}

impl Returned {
    /// What has not been heard of since, ended or not.
    pub fn missing(&self) -> u64 {
        self.before.get().saturating_sub(self.back.get())
    }
}

/// The way back after a restart; all zero where nothing was carried over.
#[repr(C)]
pub struct Comeback {
    /// Bindings.
    pub bindings: Returned,
    /// AoRs: one is back when any contact of it is.
    pub aors: Returned,
    /// Milliseconds from the start until half, nine tenths and 99 % of the bindings were back; 0: not yet.
    pub reached_ms: [Word; 3],
    /// When the last of them that says nothing has ended, server time in milliseconds; 0: nothing was carried over.
    pub until_ms: Word,
    /// 1: nobody is waited for any more.
    pub is_over: Word,
}

// SAFETY: atomics only.
unsafe impl SharedZeroable for Comeback {}

/// The shares of [`Comeback::reached_ms`], percent.
pub const SHARES: [u64; 3] = [50, 90, 99];

impl Comeback {
    /// AoRs of which nothing was heard although their longest registration must have ended; 0 before that moment.
    pub fn overdue(&self) -> u64 {
        match self.is_over.get() {
            0 => 0,
            _ => self.aors.missing(),
        }
    }

    /// Whether phones are still on their way back: fewer than nine tenths are here, and they have time left.
    pub fn is_going_on(&self) -> bool {
        let [_, most, _] = &self.reached_ms;
        self.bindings.before.get() > 0 && self.is_over.get() == 0 && most.get() == 0
    }
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;
    use crate::shared::parts::mapping::map_one;

    fn comeback(bindings: u64) -> &'static Comeback {
        let comeback: &Comeback = map_one().expect("one page");
        comeback.bindings.before.set(bindings);
        comeback.aors.before.set(10);
        comeback.aors.back.set(7);
        comeback
    }

    #[test]
    fn phones_are_overdue_once_nobody_is_waited_for() {
        let comeback = comeback(10);
        assert_eq!((comeback.aors.missing(), comeback.overdue()), (3, 0));
        comeback.is_over.set(1);
        assert_eq!(comeback.overdue(), 3);
        comeback.aors.back.set(12);
        assert_eq!(comeback.overdue(), 0, "more than were carried over");
    }

    #[test]
    fn the_way_back_ends_with_nine_tenths_or_with_its_time() {
        assert!(!comeback(0).is_going_on(), "nothing was carried over");
        let way = comeback(10);
        assert!(way.is_going_on());
        way.reached_ms[0].set(500);
        assert!(way.is_going_on(), "half of them");
        way.reached_ms[1].set(900);
        assert!(!way.is_going_on());
        let way = comeback(10);
        way.is_over.set(1);
        assert!(!way.is_going_on());
    }
}
