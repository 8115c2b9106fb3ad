//! Where this process's memory cgroup is (v2, v1, hybrid, inside containers), and what one of its directories says.
//! Forbidden here: opening files (the caller lends a `read`), and failing: what cannot be read is handed back as a text.

use std::io;
use std::path::{Path, PathBuf};

use crate::guard::machine::osmem::{Missing, SELF_MOUNTINFO, Source};

/// cgroup v1 says "no limit" with the largest multiple of a page that fits 63 bits; nothing real comes near 2^60.
const NO_LIMIT_V1: u64 = 1 << 60;
/// More levels than this are not followed (the kernel's own default bound is higher, real trees have five or so).
const MAX_LEVELS: usize = 64;

/// A limit file's number; `None` for "max", for v1's "no limit", and for what is no limit that anything could hold.
pub fn limit_bytes(text: &str) -> Option<u64> {
    let number: u64 = text.trim().parse().ok()?;
    (1..NO_LIMIT_V1).contains(&number).then_some(number)
}

/// The value of a `key 123` line of a cgroup's memory.stat.
pub fn stat_field(text: &str, key: &str) -> Option<u64> {
    stat_text(text, key)?.parse().ok()
}

fn stat_text<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
        .map(str::trim)
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
        let shown = |mount: &&Mount| mount.relative(path).map(|_| mount.root.len());
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

/// What could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// File and reason.
    pub why: String,
    /// The file is not there, which is no fault where use is found at all: the controller is not switched on in this
    /// directory, or the kernel does not have this limit.
    pub is_unaccounted: bool,
}

impl Unread {
    fn of(path: &Path, error: &io::Error) -> Unread {
        Unread {
            why: format!("{}: {error}", path.display()),
            is_unaccounted: error.kind() == io::ErrorKind::NotFound,
        }
    }
}

/// What one cgroup directory says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Bytes in use, without the page cache that the kernel gives back at once.
    pub used_bytes: Option<u64>,
    /// The tightest limit that is set here, and what set it.
    pub limit: Option<(u64, Source)>,
    /// The first file that should have been readable.
    pub unread: Option<Unread>,
}

impl Cgroup {
    /// Reads use and limit of one of the directories.
    pub fn look(&self, dir: &Path, read: &dyn Fn(&Path) -> io::Result<String>) -> Look {
        let mut look = Look::default();
        let [usage, cache_key] = match self.version {
            Version::V1 => ["memory.usage_in_bytes", "total_inactive_file"],
            Version::V2 => ["memory.current", "inactive_file"],
        };
        let usage_path = dir.join(usage);
        let number = |text: String| {
            let number = text.trim().parse::<u64>();
            number.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
        };
        let usage = match read(&usage_path).and_then(number) {
            Ok(usage) => usage,
            Err(error) => {
                look.unread = Some(Unread::of(&usage_path, &error));
                return look;
            }
        };
        let stat = read(&dir.join("memory.stat")).unwrap_or_default();
        let cache = stat_field(&stat, cache_key).unwrap_or(0);
        look.used_bytes = Some(usage.saturating_sub(cache));
        let mut limit = |name: &str, source| {
            let path = dir.join(name);
            match read(&path) {
                Ok(text) => limit_bytes(&text).map(|bytes| (bytes, source)),
                Err(error) => {
                    look.unread.get_or_insert_with(|| Unread::of(&path, &error));
                    None
                }
            }
        };
        let limits = match self.version {
            Version::V1 => [
                limit("memory.limit_in_bytes", Source::CgroupV1),
                // what an ancestor allows that this process may not be able to see
                stat_text(&stat, "hierarchical_memory_limit")
                    .and_then(limit_bytes)
                    .map(|bytes| (bytes, Source::CgroupV1)),
            ],
            Version::V2 => [
                limit("memory.max", Source::CgroupMax),
                limit("memory.high", Source::CgroupHigh),
            ],
        };
        look.limit = limits.into_iter().flatten().min_by_key(|(bytes, _)| *bytes);
        look
    }

    /// Whether the unified hierarchy here does without memory accounting; then there is no limit to miss.
    pub fn is_without_memory(&self, read: &dyn Fn(&Path) -> io::Result<String>) -> bool {
        let top = self.dirs.last().filter(|_| self.version == Version::V2);
        top.and_then(|top| read(&top.join("cgroup.controllers")).ok())
            .is_some_and(|text| !text.split_whitespace().any(|word| word == "memory"))
    }
}
