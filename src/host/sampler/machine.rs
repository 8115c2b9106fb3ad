//! Lends files to `guard::osmem`: the machine's memory and a process's private memory, read by the sampling process.
//! Forbidden here: parsing and deciding (guard's), and any call from a SIP worker: this opens files.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::guard::machine::osmem::{self, OsSample, Plan};

/// More of one file is not read; the largest is mountinfo, some 100 bytes per mount.
const MAX_FILE: u64 = 4 << 20;

/// A whole small file as text; bytes that are no UTF-8 (paths in mountinfo) become replacement characters.
fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

/// The machine's memory as this process sees it.
#[derive(Clone, Debug)]
pub struct OsReader {
    plan: Plan,
}

impl OsReader {
    /// Finds the limits that hold for this process. `os_limit_mib` is the parameter `os_limit`, 0 to detect.
    pub fn discover(os_limit_mib: u64) -> OsReader {
        OsReader {
            plan: Plan::discover(os_limit_mib, &read),
        }
    }

    /// The tightest limit and its use at this moment.
    pub fn sample(&self) -> OsSample {
        self.plan.sample(&read)
    }
}

/// Anonymous resident bytes of a process; `None` when it is gone or the kernel does not say. From statm: a fifth of the
/// price of status, and this is asked of every process in every sample.
pub fn rss_anon_bytes(pid: i32) -> Option<u64> {
    let mut text = [0; 128]; // seven numbers
    let path = format!("/proc/{pid}/statm");
    let length = File::open(path).ok()?.read(&mut text).ok()?;
    osmem::rss_anon_bytes(text.get(..length)?)
}

/// Bytes of a process's address range that are resident, by /proc/PID/pagemap (bit 63: the page is present; kernel
/// documentation, admin-guide/mm/pagemap). `None` when the kernel does not let us read it (another user's process, or
/// one that changed its user and may not be dumped).
pub fn resident_bytes(pid: i32, start: usize, length: usize) -> Option<u64> {
    const PAGE: usize = 4096;
    const ENTRY: usize = 8;
    let first = start / PAGE;
    let pages = (start + length).div_ceil(PAGE) - first;
    let file = File::open(format!("/proc/{pid}/pagemap")).ok()?;
    let mut entries = vec![0u8; pages * ENTRY];
    file.read_exact_at(&mut entries, (first * ENTRY) as u64)
        .ok()?;
    // Little-endian: the present bit is the top bit of the last byte of each entry.
    let present = entries
        .chunks_exact(ENTRY)
        .filter(|entry| entry[ENTRY - 1] & 0x80 != 0);
    Some((present.count() * PAGE) as u64)
}
