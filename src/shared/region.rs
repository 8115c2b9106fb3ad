//! The one shared mapping: run-time settings, control words, rows, published figures, events and refusals.
//! Forbidden here: decisions; this is where things lie and how they are reached. Made before the first fork.

use crate::shared::parts::sync::plain::{AtomicI64, Ordering};
use crate::shared::parts::word::Word;
use std::io;

use crossbeam_utils::CachePadded;

use crate::guard::config::params::{Int, int_defaults};
use crate::guard::decide::queue::Rules;
use crate::guard::terms::{warnings::Warning, words::Mode};
use crate::shared::counters::{
    outside::Outside,
    rows::{MAX_PROCESSES, ROWS, Row},
};
use crate::shared::figures::{
    addresses::Addresses,
    comeback::Comeback,
    events::Events,
    forecasts::Forecasts,
    history::History,
    hours::Hours,
    restart::Restart,
    sampled::{Figures, Published},
    sampling::Sampling,
};
use crate::shared::parts::{
    clock::Clock,
    mapping::{self, SharedZeroable},
};
use crate::shared::phones::{priorities::Priorities, refusals::Refusals};

/// A sample older than this many intervals (plus a second) does not decide any more.
const STALE_INTERVALS: u64 = 3;

/// The numeric parameters in force, for every gate: cfg handles are never read on a SIP path (design §4).
#[repr(C)]
pub struct Settings([AtomicI64; Int::COUNT]);

impl Settings {
    /// One value.
    #[inline(always)]
    pub fn get(&self, param: Int) -> i64 {
        // ORDERING: Relaxed; each parameter stands for itself.
        self.0
            .get(param as usize)
            .map_or(0, |v| v.load(Ordering::Relaxed))
    }

    /// One value that cannot be negative (all bounds start at 0).
    #[inline(always)]
    pub fn get_u64(&self, param: Int) -> u64 {
        self.get(param).max(0) as u64
    }

    /// Sets one value; the caller has checked it.
    pub fn set(&self, param: Int, value: i64) {
        if let Some(v) = self.0.get(param as usize) {
            // ORDERING: Relaxed; each parameter stands for itself.
            v.store(value, Ordering::Relaxed);
        }
    }

    /// All values.
    pub fn all(&self) -> [i64; Int::COUNT] {
        // ORDERING: Relaxed; each parameter stands for itself.
        std::array::from_fn(|i| self.0[i].load(Ordering::Relaxed))
    }

    /// The mode in force; `off` when the number is none.
    pub fn mode(&self) -> Mode {
        Mode::from_index(self.get_u64(Int::Mode)).unwrap_or(Mode::Off)
    }
}

/// Words that several processes steer by.
#[repr(C)]
pub struct Control {
    /// When the server started, server time in milliseconds.
    pub start_ms: Word,
    /// Size of shm in bytes.
    pub shm_size: Word,
    /// Size of each private pool in bytes.
    pub pkg_size: Word,
    /// Until when an operator's `shed` runs, server time in milliseconds; 0: none.
    pub shed_until_ms: Word,
    /// Until when an operator's `drain` runs, server time in milliseconds; 0: none.
    pub drain_until_ms: Word,
    /// End of the last slot of the queue, server time in microseconds ([`crate::guard::decide::queue`]).
    pub queue_tail_us: Word,
    /// Counts `memguard.reset queue`: slots that were told before are not known any more.
    pub queue_epoch: Word,
    /// Sources that queue behind themselves, by the last sample.
    pub queue_crowds: Word,
    /// How many slots those queues hold, by the last sample.
    pub queue_crowd_slots: Word,
    /// When the last of those slots ends, server time in microseconds.
    pub queue_crowd_tail_us: Word,
    /// Salt of the AoRs' points; changes when the level returns to normal.
    pub salt: Word,
    /// Use of the machine's memory in 1/100 percent, by the last sample.
    pub os_permyriad: Word,
    /// When that sample was taken, server time in milliseconds; 0: the machine's memory is not known.
    pub os_time_ms: Word,
    /// Largest `real_used` of shm that was sampled since the start or `reset peaks`.
    pub shm_peak: Word,
    /// Largest use of the machine's memory that was sampled since the start or `reset peaks`.
    pub os_peak: Word,
    /// Learned shm cost of one registration in bytes; 0: unknown.
    pub registration_cost: Word,
    /// What of it a binding costs and what a connection (TCP, TLS, WebSocket); 0: not told apart.
    pub binding_cost: Word,
    /// As above.
    pub connection_cost: Word,
    /// Longest Expires that was granted, seconds.
    pub longest_expires: Word,
    /// Every binding that was granted since then (server time in seconds) passed here: the start, or an earlier one where
    /// the table was carried over.
    pub knows_since_s: Word,
    /// When a change of a parameter was asked for last, server time in milliseconds; 0: long ago.
    pub cfg_asked_ms: Word,
    /// Address of Kamailio's shared configuration that the settings were taken from.
    pub cfg_block: Word,
    /// Bits of [`Warning`].
    pub warnings: Word,
    /// Decisions that had to leave os out because the sample was stale.
    pub stale_decisions: Word,
    /// Panics caught at the C boundary.
    pub internal_errors: Word,
    /// 1: usrloc is here and holds its bindings in memory, so it can be asked.
    pub usrloc_in_memory: Word,
    /// 1: a contact was stored in another spelling than its REGISTER named (NAT rewriting by the script).
    pub rewrites_contacts: Word,
    /// 1: a contact was stored under another AoR than its REGISTER's (`save()` with a URI).
    pub saves_elsewhere: Word,
    /// `shm_failures` and `pkg_failures` before the last `reset failures`.
    pub shm_failures_base: Word,
    /// As above.
    pub pkg_failures_base: Word,
    /// Counts `memguard.reset baseline`: the sampling process follows it.
    pub baseline_resets: Word,
    /// Level events that the event route has been run for.
    pub events_routed: Word,
    /// What main said about the end of the server (`host::ending`); 0: nothing yet.
    pub ending: Word,
    /// 1: the end stands in the black box.
    pub end_written: Word,
    /// 1: a Python interpreter is in the processes and is asked.
    pub python: Word,
    /// Bytes of shm that live by memguard's own count, but for what processes have not told yet (`host::hooks`): the
    /// one number that a SIP worker holds the manager's figures against.
    pub shm_counted: Word,
    /// Use of pkg of the fullest process without a row of its own, since the last sample.
    pub common_pkg: Word,
    /// What the manager books of shm beyond memguard's count and the ledger, by the last sample.
    pub shm_drift: Word,
}

/// Everything of fixed size.
#[repr(C)]
pub struct Region {
    /// Parameters in force.
    pub settings: Settings,
    /// Server time.
    pub clock: Clock,
    /// Control words.
    pub control: Control,
    /// The sampling process and the one that supervises it.
    pub sampling: Sampling,
    /// The sampler's figures.
    pub published: Published,
    /// What each pool's future is.
    pub forecasts: Forecasts,
    /// The last hour and day.
    pub history: History,
    /// Who came back after the last restart.
    pub comeback: Comeback,
    /// The load of the last weeks, by hour.
    pub hours: Hours,
    /// What the sampling process thinks of a restart.
    pub restart: Restart,
    /// The priority lists in force.
    pub priorities: Priorities,
    /// Level changes.
    pub events: Events,
    /// The watched addresses.
    pub addresses: Addresses,
    /// Refusals.
    pub refusals: Refusals,
    /// One row per process, and one for all processes beyond them.
    pub rows: [CachePadded<Row>; ROWS],
    /// One row per process: memory outside the pools.
    pub outside: [Outside; MAX_PROCESSES],
}

// SAFETY: atomics only.
unsafe impl SharedZeroable for Region {}

impl Region {
    /// What the queue of refused registrations is made of, by the parameters in force.
    pub fn queue_rules(&self) -> Rules {
        Rules {
            min_s: self.settings.get_u64(Int::RetryAfterMin),
            max_s: self.settings.get_u64(Int::RetryAfterMax),
            rate: self.settings.get_u64(Int::RetryRate),
        }
    }

    /// Whether an operator has new registrations refused at this moment (`memguard.shed`, `memguard.drain`).
    #[inline]
    pub fn is_shed(&self, now_ms: u64) -> bool {
        let control = &self.control;
        control
            .shed_until_ms
            .get()
            .max(control.drain_until_ms.get())
            > now_ms
    }

    /// For how long a drain goes on, milliseconds; 0: none runs.
    #[inline]
    pub fn drains_for(&self, now_ms: u64) -> u64 {
        self.control.drain_until_ms.get().saturating_sub(now_ms)
    }

    /// Whether a sample of that time is too old to decide anything.
    pub fn is_stale(&self, sampled_ms: u64, now_ms: u64) -> bool {
        let interval = self.settings.get_u64(Int::SampleInterval);
        let limit = interval
            .saturating_mul(STALE_INTERVALS)
            .saturating_add(1000);
        now_ms.saturating_sub(sampled_ms) > limit
    }

    /// Use of the machine's memory by the last sample, 1/100 percent; `None` where there is none, or it is stale.
    pub fn os_permyriad(&self, now_ms: u64) -> Option<u32> {
        let sampled_ms = self.control.os_time_ms.get();
        let is_used = sampled_ms != 0 && !self.is_stale(sampled_ms, now_ms);
        is_used.then(|| self.control.os_permyriad.get() as u32)
    }

    /// Maps the region with the parameters' defaults.
    ///
    /// # Errors
    /// As [`mapping::map_shared`].
    pub fn map() -> io::Result<&'static Region> {
        let region = mapping::map_one::<Region>()?;
        for (param, value) in Int::ALL.iter().zip(int_defaults()) {
            region.settings.set(*param, value);
        }
        Ok(region)
    }

    /// The last published figures; zeros before the first sample.
    pub fn figures(&self) -> Figures {
        self.published
            .read()
            .map(Figures::from_words)
            .unwrap_or_default()
    }

    /// The rows of the processes there are; beyond them lies untouched memory.
    pub fn used_rows(&self, processes: usize) -> &[CachePadded<Row>] {
        self.rows.get(..processes.max(1)).unwrap_or(&self.rows)
    }

    /// One figure of all those rows together. Approximate: they are read one by one while their processes run.
    pub fn sum(&self, processes: usize, figure: impl Fn(&Row) -> u64) -> u64 {
        let rows = self.used_rows(processes).iter();
        rows.map(|row| figure(row)).fold(0, u64::wrapping_add)
    }

    /// Memory outside the pools of the processes there are.
    pub fn used_outside(&self, processes: usize) -> &[Outside] {
        self.outside
            .get(..processes.max(1))
            .unwrap_or(&self.outside)
    }

    /// Sets or clears a warning.
    pub fn warn(&self, warning: Warning, is_on: bool) {
        let bit = 1 << warning as u8;
        if is_on {
            self.control.warnings.set_bits(bit)
        } else {
            self.control.warnings.clear_bits(bit)
        }
    }
}
