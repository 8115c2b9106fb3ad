//! What the page shows, as its maker fills it in.
//! Forbidden here: markup and behaviour; these are values.

use std::net::IpAddr;

use crate::guard::decide::level::Thresholds;
use crate::guard::formats::page::history::Point;
use crate::guard::net::terms::{Alarm, Origin, State};
use crate::guard::terms::words::{Level, Mode, Pool};

/// What is known of the end of memory.
#[derive(Clone, Debug, Default)]
pub struct Outlook {
    /// Seconds until the first pool is full; `NONE_FORESEEN_S`: none foreseen.
    pub exhaustion_s: u64,
    /// Earliest and latest likely time, seconds; `None` where only one time is known.
    pub between_s: Option<(u64, u64)>,
    /// Where no end is known: between which times it would come if what rises went on, seconds; the later is
    /// [`NONE_FORESEEN_S`](crate::guard::terms::text::NONE_FORESEEN_S) where it may not be rising.
    pub may_end_s: Option<(u64, u64)>,
    /// The pool that is full first at the pace of the last seconds, and in how many.
    pub at_this_rate: Option<(Pool, u64)>,
    /// Something grows, whatever comes of it.
    pub grows: bool,
    /// Whether there were samples enough to say so.
    pub is_valid: bool,
    /// Which pool it is.
    pub pool: Option<Pool>,
    /// Word of the contract: none, registrations, leak, …
    pub cause: String,
    /// none, low, medium or high.
    pub confidence: String,
    /// Who holds the memory: a worker, a site; empty where nobody can be named.
    pub who: String,
}

/// One pool or limit.
#[derive(Clone, Debug)]
pub struct PoolRow {
    /// Which.
    pub pool: Pool,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes used.
    pub used: u64,
    /// The same in 1/100 percent.
    pub used_permyriad: u32,
    /// Its level.
    pub level: Level,
    /// Its thresholds.
    pub thresholds: Thresholds,
    /// Whose it is: "worker 4, udp receiver …"; where the limit comes from; empty for shm.
    pub whose: String,
    /// Growth in 1/100 percent per second, where it is known.
    pub growth: Option<f64>,
}

/// Registrations, rates in thousandths per second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Registrations {
    /// Known bindings.
    pub known: u64,
    /// New ones.
    pub new_rate: u64,
    /// Refreshes.
    pub refresh_rate: u64,
    /// Refusals.
    pub rejected_rate: u64,
    /// Refused since the start.
    pub rejected: u64,
    /// How many more fit; `None`: the cost of one is not known yet.
    pub left: Option<u64>,
    /// New ones come far above their usual rate.
    pub storm: bool,
}

/// One process.
#[derive(Clone, Debug)]
pub struct WorkerRow {
    /// Its index in `core.psx`.
    pub index: u64,
    /// What it does.
    pub description: String,
    /// Private pool used, bytes.
    pub pkg_used: u64,
    /// The same in 1/100 percent.
    pub pkg_permyriad: u32,
    /// Bytes outside of the pools.
    pub private: u64,
    /// SIP messages.
    pub messages: u64,
    /// Its level.
    pub level: Level,
    /// none, suspected or confirmed.
    pub leak: String,
}

/// One place that holds memory.
#[derive(Clone, Debug)]
pub struct SiteRow {
    /// shm or pkg.
    pub pool: Pool,
    /// Module, file, line, function.
    pub place: String,
    /// Bytes that live.
    pub live: u64,
    /// Bytes per second.
    pub growth: i64,
}

/// One level change.
#[derive(Clone, Copy, Debug)]
pub struct EventRow {
    /// Unix seconds.
    pub time_s: u64,
    /// Before.
    pub from: Level,
    /// After.
    pub to: Level,
    /// Which pool.
    pub pool: Pool,
    /// Of which process.
    pub worker: Option<u16>,
    /// Its use in whole percent.
    pub percent: u8,
}

/// One watched address.
#[derive(Clone, Debug)]
pub struct AddressRow {
    /// The address.
    pub address: IpAddr,
    /// What Kamailio listens with, "udp tcp".
    pub sockets: String,
    /// How bad it is.
    pub alarm: Alarm,
    /// Where it is.
    pub state: State,
    /// Who set it.
    pub origin: Origin,
    /// Since when, Unix seconds.
    pub since_s: u64,
    /// What is the matter, as a sentence.
    pub said: String,
}

/// Everything that the page shows.
#[derive(Clone, Debug)]
pub struct Page<'a> {
    /// memguard's version.
    pub version: &'a str,
    /// Kamailio's version.
    pub kamailio: &'a str,
    /// Unix seconds.
    pub now_s: u64,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// The server's level.
    pub level: Level,
    /// The mode in force.
    pub mode: Mode,
    /// An operator's `shed` is running.
    pub is_shed: bool,
    /// Share of class `new` that is refused now, percent.
    pub shed_pct: u64,
    /// What is tightest.
    pub tightest: Pool,
    /// The end that is foreseen.
    pub outlook: Outlook,
    /// shm, pkg, os.
    pub pools: Vec<PoolRow>,
    /// Registrations.
    pub registrations: Registrations,
    /// Processes, fullest first.
    pub workers: Vec<WorkerRow>,
    /// Sites, largest first; may be empty.
    pub sites: Vec<SiteRow>,
    /// The watched addresses, the worst first; may be empty.
    pub addresses: Vec<AddressRow>,
    /// Level changes, newest first.
    pub events: Vec<EventRow>,
    /// What does not work as it could.
    pub warnings: Vec<&'a str>,
    /// What is to be said of restarts, in whole sentences.
    pub notes: Vec<String>,
    /// How the run before ended, where it did not end well.
    pub before: Option<&'a str>,
    /// The last hour, oldest first.
    pub history: &'a [Point],
}
