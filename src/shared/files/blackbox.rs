//! Writes the black box: the file that the next run, and whoever looks after the end, shares with this one.
//! Forbidden here: what is written and when (the host's), mapping the file, and destroying anything that is not ours.
//!
//! The file has its whole size from the beginning, so a disk that fills up later takes nothing from it. It is written
//! record by record with pwrite(2), not through a mapping: what a killed process has written is the kernel's already,
//! as it would be with a mapping, but a disk that fails or a file that somebody cuts is an error here and not a signal.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::guard::formats::blackbox::{
    format::{self, FILE_BYTES, Head, Ring, SECTION_BYTES},
    reading::{self, Run},
};
use crate::shared::parts::mapping::Scratch;

/// The owner and his group: whoever may read it may read which places in the code hold how much.
const MODE: u32 = 0o640;
/// How long the end of the run before is waited for: its sampling process may outlive the others by some 100 ms.
const LOCK_LIMIT: Duration = Duration::from_secs(1);

/// Why there is no black box.
#[derive(Debug)]
pub enum Trouble {
    /// The path can never work: the configuration is wrong.
    Path(String),
    /// It does not work at this moment.
    Now(String),
}

/// A black box at its start.
pub struct Opened {
    /// Writes this run's section.
    pub writer: Writer,
    /// The runs before, oldest first.
    pub before: Vec<Run>,
    /// Where a file that was no black box of this format is now, and why it is not one.
    pub aside: Option<(PathBuf, String)>,
}

/// Writes one run's section. One process only.
#[derive(Debug)]
pub struct Writer {
    file: File,
    section: usize,
    run: u64,
    next: [u64; Ring::COUNT],
}

/// Opens or makes the file, locks it and begins a new run with this identity (JSON). `owner` is the user and group
/// that it shall belong to, where this process may give it away.
///
/// # Errors
/// [`Trouble`], each a whole sentence.
pub fn open(
    path: &Path,
    identity: &str,
    now_s: u64,
    owner: Option<(u32, u32)>,
) -> Result<Opened, Trouble> {
    let name = path.display();
    let now = |e: io::Error| Trouble::Now(format!("blackbox {name}: {e}"));
    let mut file = open_locked(path)?;
    let length = file.metadata().map_err(now)?.len();
    let mut aside = None;
    let mut before = Vec::new();
    if length > 0 {
        match read_ours(&mut file, length).map_err(now)? {
            Ok(runs) => before = runs,
            Err(reason) => {
                let to = beside(path, now_s);
                fs::rename(path, &to).map_err(now)?;
                aside = Some((to, reason));
                file = open_locked(path)?;
            }
        }
    }
    if aside.is_some() || length == 0 {
        begin(&file).map_err(|e| {
            Trouble::Now(format!(
                "blackbox {name}: {FILE_BYTES} bytes cannot be had: {e}"
            ))
        })?;
    }
    if let Some((user, group)) = owner {
        std::os::unix::fs::fchown(&file, Some(user), Some(group)).map_err(now)?;
    }
    let (section, run) = reading::next_run(&before);
    let zeros = vec![0; SECTION_BYTES];
    let place = format::section_place(section) as u64;
    file.write_all_at(&zeros, place).map_err(now)?;
    let mut writer = Writer {
        file,
        section,
        run,
        next: [0; Ring::COUNT],
    };
    let payload = format::text_payload(Ring::Identity, run, identity);
    writer.put(Ring::Identity, &payload).map_err(now)?;
    Ok(Opened {
        writer,
        before,
        aside,
    })
}

/// Whether a writer that lives holds the file.
#[cfg(feature = "surface")]
pub fn is_held(file: &File) -> bool {
    !lock(file, libc::LOCK_SH)
}

fn lock(file: &File, kind: libc::c_int) -> bool {
    // SAFETY: a descriptor that is open for the call.
    unsafe { libc::flock(file.as_raw_fd(), kind | libc::LOCK_NB) == 0 }
}

fn open_locked(path: &Path) -> Result<File, Trouble> {
    let name = path.display();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        // Neither through a link nor waiting for the reader of a pipe that somebody put there.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(|e| trouble(path, &e))?;
    let kind = file.metadata().map_err(|e| trouble(path, &e))?.file_type();
    if !kind.is_file() {
        return Err(Trouble::Path(format!(
            "parameter blackbox: {name} is not a regular file"
        )));
    }
    let end = Instant::now() + LOCK_LIMIT;
    while !lock(&file, libc::LOCK_EX) {
        if Instant::now() >= end {
            return Err(Trouble::Now(format!(
                "blackbox {name} is in use by another server, or by a process of an earlier run that still lives"
            )));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(file)
}

fn trouble(path: &Path, e: &io::Error) -> Trouble {
    let sentence = format!(
        "parameter blackbox: {} cannot be written: {e}",
        path.display()
    );
    let is_wrong_path = matches!(
        e.kind(),
        ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
    ) || matches!(
        e.raw_os_error(),
        Some(libc::ELOOP | libc::ENAMETOOLONG | libc::ENXIO)
    );
    match is_wrong_path {
        true => Trouble::Path(sentence),
        false => Trouble::Now(sentence),
    }
}

/// The runs of a file of this format, or why it is none.
fn read_ours(file: &mut File, length: u64) -> io::Result<Result<Vec<Run>, String>> {
    // Not on the heap: it is larger than the reserve for when libc has no memory.
    let mut scratch = Scratch::of(FILE_BYTES + 1)?;
    let bytes = scratch.bytes();
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => (),
            Err(e) => return Err(e),
        }
    }
    let bytes = bytes.get(..filled).unwrap_or_default();
    Ok(match format::read_head(bytes) {
        Head::Ours if length == FILE_BYTES as u64 => Ok(reading::read(bytes)
            .map(|found| found.runs)
            .unwrap_or_default()),
        Head::Ours => Err(format!("it has {length} bytes instead of {FILE_BYTES}")),
        Head::Format(other) => Err(format!(
            "it has format {other}, and this memguard writes format {}",
            format::FORMAT
        )),
        Head::Foreign => Err("it does not begin as a black box does".into()),
    })
}

/// Where a file goes that is not what it should be: FILE.aside-TIME, or with a number behind it where that exists.
pub fn beside(path: &Path, now_s: u64) -> PathBuf {
    let name = |more: String| {
        let mut name = OsString::from(path);
        name.push(format!(".aside-{now_s}{more}"));
        PathBuf::from(name)
    };
    let numbered = (1..1000).map(|n| name(format!("-{n}")));
    std::iter::once(name(String::new()))
        .chain(numbered)
        .find(|candidate| fs::symlink_metadata(candidate).is_err())
        .unwrap_or_else(|| name("-1000".into()))
}

/// A new file's whole size and its head.
fn begin(file: &File) -> io::Result<()> {
    // SAFETY: a descriptor that is open for the call.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, FILE_BYTES as libc::off_t) } {
        0 => (),
        // A file system that cannot promise space: it is taken as it is written.
        libc::EOPNOTSUPP | libc::EINVAL => file.set_len(FILE_BYTES as u64)?,
        e => return Err(io::Error::from_raw_os_error(e)),
    }
    file.write_all_at(&format::head(), 0)
}

impl Writer {
    /// Adds a record to a ring, overwriting the oldest. A record that could not be written is tried in the same slot
    /// next time.
    ///
    /// # Errors
    /// What pwrite(2) says.
    pub fn put(&mut self, ring: Ring, payload: &[u64]) -> io::Result<()> {
        let number = self.next.get(ring.index()).copied().unwrap_or(0);
        self.write(ring, number, payload)?;
        if let Some(next) = self.next.get_mut(ring.index()) {
            *next = number + 1;
        }
        Ok(())
    }

    /// Replaces the newest record of a ring.
    ///
    /// # Errors
    /// As [`Writer::put`].
    pub fn replace(&mut self, ring: Ring, payload: &[u64]) -> io::Result<()> {
        let next = self.next.get(ring.index()).copied().unwrap_or(0);
        self.write(ring, next.saturating_sub(1), payload)
    }

    fn write(&self, ring: Ring, number: u64, payload: &[u64]) -> io::Result<()> {
        let bytes = format::slot(self.run, ring, number, payload);
        let place = format::place(self.section, ring, number) as u64;
        self.file.write_all_at(&bytes, place)
    }

    /// Adds a text (JSON) to a ring.
    ///
    /// # Errors
    /// As [`Writer::put`].
    pub fn put_text(&mut self, ring: Ring, time_s: u64, text: &str) -> io::Result<()> {
        self.put(ring, &format::text_payload(ring, time_s, text))
    }

    /// How many records went into each ring.
    pub fn next(&self) -> [u64; Ring::COUNT] {
        self.next
    }

    /// Goes on behind the records that another process wrote into the same section.
    pub fn go_on(&mut self, next: [u64; Ring::COUNT]) {
        self.next = next;
    }

    /// Section and number of this run, for [`Writer::again`].
    pub fn place(&self) -> (usize, u64) {
        (self.section, self.run)
    }

    /// Goes on in a section that another process began, after that process's end.
    ///
    /// # Errors
    /// What open(2) says.
    pub fn again(path: &Path, (section, run): (usize, u64)) -> io::Result<Writer> {
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)?;
        Ok(Writer {
            file,
            section,
            run,
            next: [0; Ring::COUNT],
        })
    }
}
