//! What makes server time (`guard::clock`) of the kernel's clocks, for every process alike.
//! Forbidden here: reading a clock; the wall clock after the start.
//!
//! Server time is CLOCK_BOOTTIME plus `base`. The cheap clock, CLOCK_MONOTONIC_COARSE, stands still while the machine is
//! suspended: `slept` is what it lacks. It only grows, so no reader sees time go back.

use crate::shared::parts::{
    mapping::SharedZeroable,
    sync::{AtomicU64, Ordering},
};

/// All times in milliseconds.
#[repr(C)]
pub struct Clock {
    /// Unix time at the start less CLOCK_BOOTTIME then (wrapping).
    base: AtomicU64,
    /// CLOCK_BOOTTIME less CLOCK_MONOTONIC.
    slept: AtomicU64,
}

// SAFETY: atomics only.
unsafe impl SharedZeroable for Clock {}

impl Clock {
    /// A clock outside of any mapping.
    pub fn new() -> Clock {
        Clock {
            base: AtomicU64::new(0),
            slept: AtomicU64::new(0),
        }
    }

    /// Server time is Unix time at this moment. Process: the one that maps the region, once.
    pub fn start(&self, wall_ms: u64, boot_ms: u64, monotonic_ms: u64) {
        // ORDERING: Relaxed; before the first fork.
        self.base
            .store(wall_ms.wrapping_sub(boot_ms), Ordering::Relaxed);
        self.suspended(boot_ms, monotonic_ms);
    }

    /// Takes suspend into account: CLOCK_BOOTTIME and, read after it, CLOCK_MONOTONIC. Writer: the sampling process.
    pub fn suspended(&self, boot_ms: u64, monotonic_ms: u64) {
        let slept = boot_ms.saturating_sub(monotonic_ms);
        // ORDERING: Relaxed; the word stands for itself and only grows.
        self.slept.fetch_max(slept, Ordering::Relaxed);
    }

    /// Server time of CLOCK_BOOTTIME.
    #[inline(always)]
    pub fn of_boot(&self, boot_ms: u64) -> u64 {
        // ORDERING: Relaxed; written before the first fork.
        boot_ms.wrapping_add(self.base.load(Ordering::Relaxed))
    }

    /// Server time of CLOCK_MONOTONIC; behind by the last suspend until the sampling process has noticed it.
    #[inline(always)]
    pub fn of_monotonic(&self, monotonic_ms: u64) -> u64 {
        // ORDERING: Relaxed; the word stands for itself and only grows.
        let slept = self.slept.load(Ordering::Relaxed);
        self.of_boot(monotonic_ms.wrapping_add(slept))
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn server_time_begins_as_unix_time_and_counts_suspend() {
        let clock = Clock::new();
        clock.start(1_700_000_000_000, 50_000, 40_000);
        assert_eq!(clock.of_boot(50_000), 1_700_000_000_000);
        assert_eq!(clock.of_monotonic(40_000), 1_700_000_000_000);
        assert_eq!(clock.of_monotonic(41_000), 1_700_000_001_000);
        // an hour of suspend
        clock.suspended(3_652_000, 42_000);
        assert_eq!(clock.of_monotonic(42_000), clock.of_boot(3_652_000));
        // a reading that was interrupted between its two clocks takes nothing back
        clock.suspended(3_652_000, 45_000);
        assert_eq!(clock.of_monotonic(42_000), clock.of_boot(3_652_000));
    }

    #[test]
    fn a_machine_whose_clock_begins_at_1970_runs_all_the_same() {
        let clock = Clock::new();
        clock.start(3_000, 90_000, 90_000);
        assert_eq!(clock.of_monotonic(91_500), 4_500);
    }
}
