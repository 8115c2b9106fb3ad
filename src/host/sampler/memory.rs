//! What the sampling process remembers from tick to tick, where the next one finds it when it was killed: in shared memory.
//! Forbidden here: what it says (the files beside this one); anything that belongs to one process.

use std::io;

use once_cell::sync::OnceCell;

use crate::guard::decide::rates::{Baseline, RateMeter};
use crate::host::sampler::{forecasts, growth};
use crate::shared::counters::rows::{MAX_PROCESSES, ROWS};
use crate::shared::parts::{
    kept::{Kept, Lease, Plain},
    sync::SITES,
};

/// The rates of what arrives.
#[derive(Clone, Copy)]
pub struct Rates {
    pub new: RateMeter,
    pub refresh: RateMeter,
    pub rejected: RateMeter,
    pub baseline: Baseline,
    pub baseline_resets: u64,
}
// SAFETY: numbers.
unsafe impl Plain for Rates {}

impl Rates {
    /// Begins with the totals as they stand: what came before is no rate.
    pub fn new(now_ms: u64, new: u64, refresh: u64, rejected: u64, baseline_resets: u64) -> Rates {
        Rates {
            new: RateMeter::new(now_ms, new),
            refresh: RateMeter::new(now_ms, refresh),
            rejected: RateMeter::new(now_ms, rejected),
            baseline: Baseline::default(),
            baseline_resets,
        }
    }
}

struct Memory {
    rates: Kept<Rates>,
    counts: Kept<growth::Counts>,
    workers: Kept<growth::Worker>,
    sites: Kept<growth::Site>,
    announced: Kept<forecasts::Announced>,
    shm: Kept<forecasts::Shm>,
    os: Kept<forecasts::Os>,
    pkg: Kept<forecasts::Pkg>,
}

static MEMORY: OnceCell<Memory> = OnceCell::new();

/// Maps it; in `mod_init`, before the first fork.
///
/// # Errors
/// As [`crate::shared::parts::mapping::map_shared`].
pub fn map() -> io::Result<()> {
    let memory = Memory {
        rates: Kept::map(1)?,
        counts: Kept::map(1)?,
        workers: Kept::map(MAX_PROCESSES)?,
        sites: Kept::map(SITES)?,
        announced: Kept::map(1)?,
        shm: Kept::map(1)?,
        os: Kept::map(1)?,
        pkg: Kept::map(ROWS)?,
    };
    let _ = MEMORY.set(memory); // once: mod_init runs once
    Ok(())
}

/// All of it, to work on.
pub struct Leases {
    pub rates: Lease<Rates>,
    pub growth: growth::Leases,
    pub forecasts: forecasts::Leases,
}

/// The right to work on it; `None` before [`map`]. Process: sampling, once, at its begin.
pub fn take() -> Option<Leases> {
    let memory = MEMORY.get()?;
    // SAFETY: this is the one process that samples, which takes them once, and its supervisor has waited for the one
    // before (supervise.rs).
    unsafe {
        Some(Leases {
            rates: memory.rates.lease(),
            growth: growth::Leases {
                counts: memory.counts.lease(),
                workers: memory.workers.lease(),
                sites: memory.sites.lease(),
            },
            forecasts: forecasts::Leases {
                announced: memory.announced.lease(),
                shm: memory.shm.lease(),
                os: memory.os.lease(),
                pkg: memory.pkg.lease(),
            },
        })
    }
}
