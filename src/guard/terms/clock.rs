//! Server time: a clock that never steps and counts suspend; its numbers are the Unix time that the wall clock would show
//! had nobody corrected it since the start. Forbidden here: reading a clock (the host's).
//!
//! Every duration is measured in it. Dates are made of it when they are printed, and what others date by the wall clock
//! (usrloc's `expires`) is turned into it when it is learned: both by [`lead_s`], read at that moment.

/// Seconds by which the wall clock is ahead of server time (negative: behind), of one reading of each in milliseconds.
///
/// Whole seconds: what is read at two moments gives the same date, and a clock that is only slewed keeps 0.
pub fn lead_s(wall_ms: u64, server_ms: u64) -> i64 {
    let lead_ms = i128::from(wall_ms) - i128::from(server_ms);
    let rounded = (lead_ms + 500).div_euclid(1000);
    i64::try_from(rounded).unwrap_or(0) // both are 64 bits: never
}

/// The date (Unix seconds) of a moment of server time (seconds). 0 is "never" and stays so.
pub fn date_s(server_s: u64, lead_s: i64) -> u64 {
    match server_s {
        0 => 0,
        s => s.saturating_add_signed(lead_s),
    }
}

/// The moment of server time (seconds) of a date on the wall clock (Unix seconds). 0 is "for ever" (usrloc).
pub fn until_s(expires_wall_s: u64, lead_s: i64) -> u64 {
    match expires_wall_s {
        0 | u64::MAX => u64::MAX,
        s => s.saturating_add_signed(lead_s.saturating_neg()),
    }
}

/// One saved moment: the clocks as they stood when something was written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Wall clock, Unix seconds.
    pub wall_s: u64,
    /// Seconds since the machine was started, suspend counted (CLOCK_BOOTTIME).
    pub boot_s: u64,
    /// Which start of the machine it was; 0: not known.
    pub boot: u64,
}

/// How many seconds lie between two moments: by the machine's own count where it ran through, whatever was done to the
/// wall clock meanwhile; after a reboot only the wall clock is left.
pub fn between_s(then: &Saved, now: &Saved) -> u64 {
    match then.boot == now.boot && now.boot != 0 && then.boot_s <= now.boot_s {
        true => now.boot_s - then.boot_s,
        false => now.wall_s.saturating_sub(then.wall_s),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_slewed_clock_has_no_lead_and_a_stepped_one_has_whole_seconds() {
        assert_eq!(lead_s(10_499, 10_000), 0);
        assert_eq!(lead_s(9_501, 10_000), 0);
        assert_eq!(lead_s(7_210_003, 10_000), 7200);
        assert_eq!(lead_s(10_000, 7_209_998), -7200);
        assert_eq!(lead_s(0, u64::MAX), -18_446_744_073_709_552);
    }

    #[test]
    fn never_and_for_ever_are_no_dates() {
        assert_eq!(date_s(0, 7200), 0);
        assert_eq!(until_s(0, 7200), u64::MAX);
        assert_eq!(until_s(5, 7200), 0);
        assert_eq!(date_s(5, -7200), 0);
    }

    #[test]
    fn time_passes_on_through_a_step_between_two_runs_and_by_the_wall_clock_through_a_reboot() {
        let saved = |wall_s, boot_s, boot| Saved {
            wall_s,
            boot_s,
            boot,
        };
        let then = saved(100_000, 500, 7);
        assert_eq!(between_s(&then, &saved(92_860, 560, 7)), 60); // back two hours
        assert_eq!(between_s(&then, &saved(107_260, 560, 7)), 60);
        assert_eq!(between_s(&then, &saved(100_090, 20, 8)), 90);
        assert_eq!(between_s(&then, &saved(100_090, 20, 7)), 90); // a file of another machine with the same mark
        assert_eq!(between_s(&then, &saved(99_000, 20, 8)), 0);
    }

    proptest! {
        /// Whatever the wall clock shows: what lives another N seconds on it lives N seconds of server time, and its
        /// date is the one on the wall.
        #[test]
        fn what_is_left_on_the_wall_clock_is_left_of_server_time(
            wall_ms in 10_000_000_000u64..4_000_000_000_000,
            server_ms in 10_000_000_000u64..4_000_000_000_000,
            left_s in 1u64..86_400,
        ) {
            let lead = lead_s(wall_ms, server_ms);
            let until = until_s(wall_ms / 1000 + left_s, lead);
            let left = i128::from(until) - i128::from(server_ms / 1000);
            prop_assert!((left - i128::from(left_s)).abs() <= 1, "{left} of {left_s}");
            prop_assert_eq!(date_s(until, lead), wall_ms / 1000 + left_s);
        }
    }
}
