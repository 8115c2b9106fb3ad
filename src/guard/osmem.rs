//! The machine's side of memory: cgroup limits (v2, v1, hybrid, inside containers) and the host's own, out of texts.
//! Forbidden here: opening files (the caller lends a `read`), and failing: every source is optional, absence is said.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Where this process's cgroups are named (cgroups(7)).
pub const SELF_CGROUP: &str = "/proc/self/cgroup";
/// Where the mounts that this process sees are listed (proc_pid_mountinfo(5)).
pub const SELF_MOUNTINFO: &str = "/proc/self/mountinfo";
/// The host's memory (proc_meminfo(5)).
pub const MEMINFO: &str = "/proc/meminfo";

/// cgroup v1 says "no limit" with the largest multiple of a page that fits 63 bits; nothing real comes near 2^60.
const NO_LIMIT_V1: u64 = 1 << 60;
/// More levels than this are not followed (the kernel's own default bound is higher, real trees have five or so).
const MAX_LEVELS: usize = 64;

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

impl OsSample {
    /// The sentences for `warnings`: what is missing, and what memguard goes by instead.
    pub fn warnings(&self) -> Vec<String> {
        let instead = match (self.memory, self.missing.first()) {
            (None, _) => "the machine's memory is not watched",
            (Some(m), _) if m.source == Source::Configured => "using the configured limit",
            (_, Some(Missing::Cgroup(_))) => "using host memory only",
            (_, _) => "using the cgroup limit only",
        };
        let sentence = |missing| format!("{missing}; {instead}");
        self.missing.iter().map(sentence).collect()
    }
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

/// The value of a `key 123` line of a cgroup's memory.stat.
pub fn stat_field(text: &str, key: &str) -> Option<u64> {
    let rest = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
    rest.trim().parse().ok()
}

/// Anonymous resident bytes of a process out of its /proc/PID/status (RssAnon; Linux 4.5 and later).
pub fn rss_anon_bytes(status: &str) -> Option<u64> {
    kib_field(status, "RssAnon")
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

/// A limit file's number; `None` for "max", for v1's "no limit", and for what is no limit that anything could hold.
pub fn limit_bytes(text: &str) -> Option<u64> {
    let number: u64 = text.trim().parse().ok()?;
    (1..NO_LIMIT_V1).contains(&number).then_some(number)
}

/// The two kinds of cgroup hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The memory controller has a hierarchy of its own.
    V1,
    /// The unified hierarchy.
    V2,
}

/// Where this process's memory cgroup is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Which files to expect.
    pub version: Version,
    /// The process's own directory first, then its ancestors up to the mount point.
    pub dirs: Vec<PathBuf>,
    /// The process is in the root of the hierarchy, which has no limit.
    pub is_root: bool,
}

/// One mounted cgroup hierarchy that carries memory, out of a line of mountinfo.
struct Mount {
    version: Version,
    root: String,
    point: String,
}

impl Mount {
    fn of(line: &str) -> Option<Mount> {
        // id parent major:minor root point options [optional …] - type source super-options
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(3);
        let (root, point) = (front.next()?, front.next()?);
        let mut back = back.split(' ');
        let version = match back.next()? {
            "cgroup2" => Version::V2,
            "cgroup" if back.nth(1)?.split(',').any(|word| word == "memory") => Version::V1,
            _ => return None,
        };
        Some(Mount {
            version,
            root: unescape(root),
            point: unescape(point),
        })
    }

    /// The cgroup's path below this mount; `None` when it is not visible there.
    fn relative<'a>(&self, path: &'a str) -> Option<&'a str> {
        let rest = path.strip_prefix(self.root.trim_end_matches('/'))?;
        let is_below = rest.is_empty() || rest.starts_with('/');
        // "/../x" is how a cgroup outside of this namespace is shown
        (is_below && !rest.split('/').any(|part| part == "..")).then_some(rest)
    }
}

/// mountinfo writes blanks and backslashes as three octal digits.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut out = String::from(parts.next().unwrap_or_default());
    for part in parts {
        let code = part
            .get(..3)
            .and_then(|octal| u8::from_str_radix(octal, 8).ok())
            .filter(u8::is_ascii);
        match (code, part.get(3..)) {
            (Some(byte), Some(rest)) => {
                out.push(char::from(byte));
                out.push_str(rest);
            }
            _ => {
                out.push('\\');
                out.push_str(part);
            }
        }
    }
    out
}

/// The path of this process in the hierarchy that accounts memory, out of /proc/self/cgroup.
fn cgroup_path(self_cgroup: &str, version: Version) -> Option<&str> {
    self_cgroup.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let is_it = match version {
            Version::V1 => controllers.split(',').any(|word| word == "memory"),
            Version::V2 => id == "0" && controllers.is_empty(),
        };
        is_it.then(|| path.strip_suffix(" (deleted)").unwrap_or(path))
    })
}

/// Finds the directories to read out of /proc/self/cgroup and /proc/self/mountinfo.
///
/// A v1 hierarchy that carries memory goes before the unified one (hybrid set-ups). Of several mounts the one that
/// shows the process's own cgroup most directly is taken; where none shows it (a container that was given the host's
/// path), the mount point itself is the nearest ancestor that can be read.
///
/// # Errors
/// Why there is none although the process is in a cgroup. `Ok(None)`: this kernel accounts no memory by cgroup.
pub fn find_cgroup(self_cgroup: &str, mountinfo: &str) -> Result<Option<Cgroup>, Missing> {
    let mounts: Vec<Mount> = mountinfo.lines().filter_map(Mount::of).collect();
    let mut is_in_any = false;
    for version in [Version::V1, Version::V2] {
        let Some(path) = cgroup_path(self_cgroup, version) else {
            continue;
        };
        is_in_any = true;
        let shown = |mount: &&Mount| mount.relative(path).map(|_| mount.root.len() + 1);
        // of equals the last: it was mounted over the others
        let best = mounts
            .iter()
            .filter(|mount| mount.version == version)
            .max_by_key(|mount| shown(mount).unwrap_or(0));
        let Some(mount) = best else { continue };
        let below = mount.relative(path).unwrap_or("");
        let below = below.trim_matches('/');
        let own = match below {
            "" => PathBuf::from(&mount.point),
            _ => Path::new(&mount.point).join(below),
        };
        let dirs = own
            .ancestors()
            .take_while(|dir| dir.starts_with(&mount.point))
            .take(MAX_LEVELS)
            .map(Path::to_path_buf)
            .collect();
        return Ok(Some(Cgroup {
            version,
            dirs,
            is_root: path == "/" && mount.root == "/",
        }));
    }
    if is_in_any {
        let why = format!("no cgroup file system that carries memory in {SELF_MOUNTINFO}");
        return Err(Missing::Cgroup(why));
    }
    Ok(None)
}

/// What a look at one cgroup directory brought.
enum Look {
    /// There is no memory accounting in this directory.
    Absent(String),
    /// Bytes used, and the limit with its source where there is one.
    Found(u64, Option<(u64, Source)>),
}

impl Cgroup {
    fn look(&self, dir: &Path, read: &dyn Fn(&Path) -> io::Result<String>) -> Look {
        let text = |name: &str| {
            let path = dir.join(name);
            read(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let [usage, cache_key] = match self.version {
            Version::V1 => ["memory.usage_in_bytes", "total_inactive_file"],
            Version::V2 => ["memory.current", "inactive_file"],
        };
        let usage = match text(usage) {
            Ok(usage) => usage,
            Err(why) => return Look::Absent(why),
        };
        let Ok(usage) = usage.trim().parse::<u64>() else {
            return Look::Absent(format!("{}: its usage is no number", dir.display()));
        };
        let stat = text("memory.stat").unwrap_or_default();
        let used = usage.saturating_sub(stat_field(&stat, cache_key).unwrap_or(0));
        let limit = |name: &str| text(name).ok().and_then(|text| limit_bytes(&text));
        let limits = match self.version {
            Version::V1 => [
                limit("memory.limit_in_bytes").map(|l| (l, Source::CgroupV1)),
                // what an ancestor allows that this process may not be able to see
                stat_field(&stat, "hierarchical_memory_limit")
                    .filter(|l| (1..NO_LIMIT_V1).contains(l))
                    .map(|l| (l, Source::CgroupV1)),
            ],
            Version::V2 => [
                limit("memory.max").map(|l| (l, Source::CgroupMax)),
                limit("memory.high").map(|l| (l, Source::CgroupHigh)),
            ],
        };
        let tightest = limits.into_iter().flatten().min_by_key(|(bytes, _)| *bytes);
        Look::Found(used, tightest)
    }

    /// Whether the unified hierarchy here does without memory accounting; then there is no limit to miss.
    fn is_without_memory(&self, read: &dyn Fn(&Path) -> io::Result<String>) -> bool {
        let top = self.dirs.last().filter(|_| self.version == Version::V2);
        top.and_then(|top| read(&top.join("cgroup.controllers")).ok())
            .is_some_and(|text| !text.split_whitespace().any(|word| word == "memory"))
    }
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

    /// The directories of the memory cgroup, the process's own first.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
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
            let mut absent = None;
            for dir in &cgroup.dirs {
                match cgroup.look(dir, read) {
                    Look::Absent(why) => absent = absent.or(Some(why)),
                    Look::Found(used_bytes, limit) => {
                        nearest_used = nearest_used.or(Some(used_bytes));
                        candidates.extend(limit.map(|(limit_bytes, source)| OsMemory {
                            limit_bytes,
                            used_bytes,
                            source,
                        }));
                    }
                }
            }
            let is_expected = !cgroup.is_root && nearest_used.is_none();
            if let Some(why) = absent.filter(|_| is_expected && !cgroup.is_without_memory(read)) {
                missing.push(Missing::Cgroup(why));
            }
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
