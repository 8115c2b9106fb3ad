//! Lends files to `guard::osmem`: the machine's memory and a process's private memory, read by the sampling process.
//! Forbidden here: parsing and deciding (guard's), and any call from a SIP worker: this opens files.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::guard::osmem::{self, OsSample, Plan};

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

/// Anonymous resident bytes of a process; `None` when it is gone or the kernel does not say.
pub fn rss_anon_bytes(pid: i32) -> Option<u64> {
    let text = read(Path::new(&format!("/proc/{pid}/status"))).ok()?;
    osmem::rss_anon_bytes(&text)
}
