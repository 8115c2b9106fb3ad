//! The last hour as the page needs it: one point per second.
//! Forbidden here: clocks, keeping points, and knowing where they come from.

/// Seconds that are shown.
pub const HOUR_S: u64 = 3600;

/// One sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// Unix seconds.
    pub time_s: u64,
    /// Use of shm in 1/100 percent; `None`: not known.
    pub shm: Option<u32>,
    /// The same of the fullest worker's pkg.
    pub pkg: Option<u32>,
    /// The same of the machine's memory.
    pub os: Option<u32>,
    /// New registrations in thousandths per second.
    pub new_rate: u64,
    /// Refreshes.
    pub refresh_rate: u64,
    /// Refusals.
    pub rejected_rate: u64,
}
