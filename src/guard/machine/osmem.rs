//! The machine's side of memory: the host's own and the cgroups' limits, and which of them is the tightest.
//! Forbidden here: opening files (the caller lends a `read`), and failing: every source is optional, absence is said.

use std::fmt;
use std::io;
use std::path::Path;

use crate::guard::machine::cgroup::{Cgroup, Unread, find_cgroup};

/// Where this process's cgroups are named (cgroups(7)).
pub const SELF_CGROUP: &str = "/proc/self/cgroup";
/// Where the mounts that this process sees are listed (proc_pid_mountinfo(5)).
pub const SELF_MOUNTINFO: &str = "/proc/self/mountinfo";
/// The host's memory (proc_meminfo(5)).
pub const MEMINFO: &str = "/proc/meminfo";

/// What set the limit that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The host's MemTotal.
    Host,
    /// A cgroup's memory.max.
    CgroupMax,
    /// A cgroup's memory.high.
    CgroupHigh,
    /// A v1 cgroup's memory.limit_in_bytes.
    CgroupV1,
    /// The parameter `os_limit`.
    Configured,
}

impl Source {
    /// Every source in the order of its number.
    pub const ALL: [Source; 5] = [
        Source::Host,
        Source::CgroupMax,
        Source::CgroupHigh,
        Source::CgroupV1,
        Source::Configured,
    ];

    /// The spelling in reports.
    pub const fn word(self) -> &'static str {
        match self {
            Source::Host => "host",
            Source::CgroupMax => "cgroup max",
            Source::CgroupHigh => "cgroup high",
            Source::CgroupV1 => "cgroup v1 limit",
            Source::Configured => "configured",
        }
    }
}

/// The limit that decides, and how much of it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OsMemory {
    /// Bytes that there are.
    pub limit_bytes: u64,
    /// Bytes in use, without what the kernel can give back at once.
    pub used_bytes: u64,
    /// What set the limit.
    pub source: Source,
}

impl OsMemory {
    fn is_tighter_than(&self, other: &OsMemory) -> bool {
        // used/limit compared without a division: a/b > c/d as a*d > c*b
        u128::from(self.used_bytes) * u128::from(other.limit_bytes)
            > u128::from(other.used_bytes) * u128::from(self.limit_bytes)
    }
}

/// A source that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The host's memory.
    Host(String),
    /// The cgroup's limit.
    Cgroup(String),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::Host(why) => write!(f, "host memory not readable: {why}"),
            Missing::Cgroup(why) => write!(f, "cgroup limit not readable: {why}"),
        }
    }
}

/// One look at the machine's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OsSample {
    /// The tightest limit; `None` when nothing could be read.
    pub memory: Option<OsMemory>,
    /// What could not be read.
    pub missing: Vec<Missing>,
}

/// The value of a `Key: 123 kB` line of /proc/meminfo or /proc/PID/status, in bytes.
pub fn kib_field(text: &str, key: &str) -> Option<u64> {
    let rest = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let mut words = rest.split_whitespace();
    let number: u64 = words.next()?.parse().ok()?;
    (words.next() == Some("kB")).then(|| number.saturating_mul(1024))
}

/// Pages of x86-64.
const PAGE: u64 = 4096;

/// Anonymous resident bytes of a process out of its /proc/PID/statm: what is resident (the second number) less what of
/// that belongs to files and shared memory (the third); fs/proc/task_mmu.c, task_statm, Linux 4.5 and later.
pub fn rss_anon_bytes(statm: &[u8]) -> Option<u64> {
    let mut numbers = std::str::from_utf8(statm).ok()?.split_ascii_whitespace();
    let resident: u64 = numbers.nth(1)?.parse().ok()?;
    let shared: u64 = numbers.next()?.parse().ok()?;
    Some(resident.saturating_sub(shared).saturating_mul(PAGE))
}

/// Bytes of a process outside its pools: anonymous memory less what of its pkg pool is resident.
pub fn private_bytes(rss_anon: u64, pkg_resident: u64) -> u64 {
    rss_anon.saturating_sub(pkg_resident)
}

/// The host's memory out of /proc/meminfo: MemTotal, and MemTotal less MemAvailable.
pub fn host_memory(meminfo: &str) -> Option<OsMemory> {
    let total = kib_field(meminfo, "MemTotal").filter(|total| *total > 0)?;
    let available = kib_field(meminfo, "MemAvailable")?;
    Some(OsMemory {
        limit_bytes: total,
        used_bytes: total.saturating_sub(available),
        source: Source::Host,
    })
}

/// What to read at each sample; found once, at start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    cgroup: Option<Cgroup>,
    missing: Option<Missing>,
    /// `os_limit` in bytes; 0: detect.
    configured_bytes: u64,
}

impl Plan {
    /// Looks where the limits are. `configured_mib` is `os_limit`.
    pub fn discover(configured_mib: u64, read: &dyn Fn(&Path) -> io::Result<String>) -> Plan {
        let text = |path: &str| {
            let said = |error| Missing::Cgroup(format!("{path}: {error}"));
            read(Path::new(path)).map_err(said)
        };
        let found =
            text(SELF_CGROUP).and_then(|cgroup| find_cgroup(&cgroup, &text(SELF_MOUNTINFO)?));
        let (cgroup, missing) = match found {
            Ok(cgroup) => (cgroup, None),
            Err(missing) => (None, Some(missing)),
        };
        Plan {
            cgroup,
            missing,
            configured_bytes: configured_mib.saturating_mul(1 << 20),
        }
    }

    /// Reads the host's memory, and use and limit of every cgroup from the process's own up; the tightest decides:
    /// the highest use relative to its limit.
    ///
    /// With `os_limit` that limit alone decides, against the use of the nearest cgroup, or of the host without one.
    pub fn sample(&self, read: &dyn Fn(&Path) -> io::Result<String>) -> OsSample {
        let mut missing: Vec<Missing> = self.missing.iter().cloned().collect();
        let mut candidates = Vec::new();
        let mut nearest_used = None;
        if let Some(cgroup) = &self.cgroup {
            let mut unread = None;
            for dir in &cgroup.dirs {
                let look = cgroup.look(dir, read);
                nearest_used = nearest_used.or(look.used_bytes);
                if let (Some(used_bytes), Some((limit_bytes, source))) =
                    (look.used_bytes, look.limit)
                {
                    candidates.push(OsMemory {
                        limit_bytes,
                        used_bytes,
                        source,
                    });
                }
                // a real fault tells more than a directory without accounting
                if let Some(next) = look.unread {
                    let is_worse = |old: &Unread| old.is_unaccounted && !next.is_unaccounted;
                    if unread.as_ref().is_none_or(is_worse) {
                        unread = Some(next);
                    }
                }
            }
            let is_no_fault =
                nearest_used.is_some() || cgroup.is_root || cgroup.is_without_memory(read);
            let fault = unread.filter(|unread| !(unread.is_unaccounted && is_no_fault));
            missing.extend(fault.map(|unread| Missing::Cgroup(unread.why)));
        }
        let host = match read(Path::new(MEMINFO)) {
            Ok(text) => {
                host_memory(&text).ok_or_else(|| "MemTotal or MemAvailable is absent".into())
            }
            Err(error) => Err(error.to_string()),
        };
        match host {
            Ok(host) => candidates.push(host),
            Err(why) => missing.push(Missing::Host(format!("{MEMINFO}: {why}"))),
        }
        if self.configured_bytes > 0 {
            let host_used = candidates.iter().find(|c| c.source == Source::Host);
            let used = nearest_used.or(host_used.map(|host| host.used_bytes));
            candidates.clear();
            candidates.extend(used.map(|used_bytes| OsMemory {
                limit_bytes: self.configured_bytes,
                used_bytes,
                source: Source::Configured,
            }));
        }
        let tightest = |best: OsMemory, next: OsMemory| match next.is_tighter_than(&best) {
            true => next,
            false => best,
        };
        OsSample {
            memory: candidates.into_iter().reduce(tightest),
            missing,
        }
    }
}
