//! The file of the parameter `bindings_file`: read once in `mod_init`, written by the sampling process every some minutes
//! and by main at an orderly end, when no other process can learn any more.
//! Forbidden here: SIP workers; what stands in the file (`shared::bindings_file`); Kamailio's pools.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, ErrorKind, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::guard::config::params::{Int, Text};
use crate::guard::config::texts::Texts;
use crate::guard::formats::blackbox::reading::Fate;
use crate::guard::sip::aor::Key;
use crate::guard::terms::warnings::Warning;
use crate::host::kamailio::{
    file_limit,
    log::{Severity, log},
    state::{self, Tables},
};
use crate::host::outputs::{blackbox, ending};
use crate::host::sip::granted;
use crate::shared::files::{
    bindings_file::{self, Head, REWRITES_CONTACTS, SAVES_ELSEWHERE, TABLES},
    blackbox::beside,
};
use crate::shared::phones::fingerprints::Fingerprints;
use crate::shared::region::Region;

/// The key stands in it: nobody else's.
const MODE: u32 = 0o600;
/// Milliseconds between two saves. Full tables of the default size are 16 MB.
const EVERY_MS: u64 = 300_000;
/// A complete file that is older than this (seconds) may miss what was granted meanwhile elsewhere.
const FRESH_S: u64 = 120;

/// A file that was read.
struct Found {
    /// On this run's clock.
    head: Head,
    /// Seconds since it was saved.
    age_s: u64,
    /// Bindings, AoRs and hints that live.
    alive: [usize; TABLES],
}

/// The path of the parameter; `None` when it is not set.
fn path_of(texts: &Texts) -> Option<&Path> {
    Some(texts.get(Text::BindingsFile))
        .filter(|path| !path.is_empty())
        .map(Path::new)
}

/// Fills the new tables from the file, if there is one that can be used; answers the key that belongs to them. Process:
/// main, in `mod_init`.
///
/// # Errors
/// A whole sentence, if the path can never work.
pub fn restore(
    region: &Region,
    texts: &Texts,
    tables: [&Fingerprints; TABLES],
) -> Result<Option<Key>, String> {
    let start_s = region.control.start_ms.get() / 1000;
    region.control.knows_since_s.set(start_s);
    let Some(path) = path_of(texts) else {
        return Ok(None);
    };
    let name = path.display();
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    if folder.is_some_and(|folder| !folder.is_dir()) {
        return Err(format!(
            "parameter bindings_file: the directory of {name} does not exist"
        ));
    }
    let file = match open(path) {
        Ok(Some(file)) => Ok(file),
        Ok(None) => {
            return Err(format!(
                "parameter bindings_file: {name} is not a regular file"
            ));
        }
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None), // the first start
        Err(e) => Err(e.to_string()),
    };
    match file.and_then(|file| read(region, &file, tables)) {
        Ok(found) => Ok(Some(take_over(region, path, tables, &found, start_s))),
        Err(reason) => {
            let to = beside(path, start_s);
            match fs::rename(path, &to) {
                Ok(()) => log!(
                    Severity::Warn,
                    "bindings_file {name} is not used: {reason}. It is {} now, and all bindings are learned anew",
                    to.display()
                ),
                Err(e) => log!(
                    Severity::Warn,
                    "bindings_file {name} is not used: {reason}; nor can it be renamed: {e}"
                ),
            }
            Ok(None)
        }
    }
}

/// Opens the file, once: what is checked of this descriptor holds for what is read from it, whatever happens to the
/// path meanwhile. `None`: something else stands there (a link is not followed, a pipe not waited for).
fn open(path: &Path) -> io::Result<Option<File>> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    match opened {
        Ok(file) => Ok(file.metadata()?.is_file().then_some(file)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Checks the file, then takes its entries. Twice read: an entry of a damaged file must not get in.
fn read(
    region: &Region,
    mut file: &File,
    tables: [&Fingerprints; TABLES],
) -> Result<Found, String> {
    let said = |e: io::Error| e.to_string();
    let mode = file.metadata().map_err(said)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "others can read or write it (mode {mode:o}), and it holds the key of the fingerprints"
        ));
    }
    let buckets = tables.map(Fingerprints::buckets);
    let written = bindings_file::load(&mut BufReader::new(file), buckets, |_, _, _| ())?;
    let [k0, k1] = written.key;
    if Key::new(k0, k1).probe() != written.probe {
        return Err("its fingerprints were made by another version of memguard".into());
    }
    let now_s = state::now_ms() / 1000;
    let (head, age_s) = written.read_at(&state::saved(), now_s);
    let memory = u32::try_from(region.settings.get_u64(Int::AorMemory)).unwrap_or(u32::MAX);
    let grace = [0, memory, 0];
    let mut alive = [0; TABLES];
    file.rewind().map_err(said)?;
    let again = bindings_file::load(
        &mut BufReader::new(file),
        buckets,
        |table, bucket, words| {
            if let (Some(to), Some(grace), Some(count)) =
                (tables.get(table), grace.get(table), alive.get_mut(table))
            {
                *count += to.restore_bucket(bucket, words, head.base_s, now_s, *grace);
            }
        },
    )?;
    if again != written {
        return Err("it was changed while it was read".into());
    }
    Ok(Found { head, age_s, alive })
}

/// What else the earlier run knew.
fn take_over(
    region: &Region,
    path: &Path,
    tables: [&Fingerprints; TABLES],
    found: &Found,
    start_s: u64,
) -> Key {
    let (head, age_s) = (&found.head, found.age_s);
    granted::raise_longest_expires(region, head.longest_expires_s);
    for table in tables {
        table.inherit_doubt(head.forgotten_until_s, start_s);
    }
    let control = &region.control;
    let has_habit = |habit| u64::from(head.script_habits & habit != 0);
    control.saves_elsewhere.set(has_habit(SAVES_ELSEWHERE));
    control.rewrites_contacts.set(has_habit(REWRITES_CONTACTS));
    let is_fresh = head.is_complete == 1 && age_s <= FRESH_S && !head.lacks_hints;
    if is_fresh {
        region
            .control
            .knows_since_s
            .set(head.knows_since_s.min(start_s));
    }
    let [bindings, aors, _] = found.alive;
    log!(
        Severity::Notice,
        "bindings_file {}: {bindings} bindings and {aors} AoRs are known again, saved {age_s} s ago{}",
        path.display(),
        match (is_fresh, head.lacks_hints) {
            (true, _) => "",
            (false, true) => ", by an earlier version that did not save all: some may be missing",
            (false, false) => ", and not at an orderly end just now: some may be missing",
        }
    );
    let [k0, k1] = head.key;
    Key::new(k0, k1)
}

/// What was complete at the end of the run before is not so any more: a kill before the first save must not leave it so.
/// Process: main, in `mod_init`, when the tables are in their place.
pub fn begin(region: &Region) {
    let Some((tables, path)) = wanted().filter(|(_, path)| fs::symlink_metadata(path).is_ok())
    else {
        return;
    };
    if let Err(e) = write(region, tables, path, false) {
        log!(
            Severity::Warn,
            "bindings_file {} cannot be written: {e}",
            path.display()
        );
    }
}

/// Saves now and then. Process: sampling.
#[derive(Default)]
pub struct Saver {
    last_ms: Option<u64>,
    has_failed: bool,
}

impl Saver {
    /// At the first tick, so that a directory that cannot be written is noticed at once, and every some minutes.
    pub fn tick(&mut self, region: &Region, now_ms: u64) {
        let is_due = self
            .last_ms
            .is_none_or(|last| now_ms.abs_diff(last) >= EVERY_MS);
        let Some((tables, path)) = wanted().filter(|_| is_due) else {
            return;
        };
        self.last_ms = Some(now_ms);
        let result = write(region, tables, path, false);
        let has_failed = result.is_err();
        if has_failed != self.has_failed {
            self.has_failed = has_failed;
            region.warn(Warning::BindingsFile, has_failed);
            let name = path.display();
            match result {
                Err(e) => log!(
                    Severity::Warn,
                    "bindings_file {name} cannot be written: {e}"
                ),
                Ok(()) => log!(Severity::Notice, "bindings_file {name} is written again"),
            }
        }
    }
}

fn wanted() -> Option<(&'static Tables, &'static Path)> {
    let tables = state::tables()?;
    Some((tables, path_of(&tables.texts)?))
}

/// The last save: nobody can learn any more. Process: main, at the end of all others.
pub fn close() {
    let (Some(region), Some((tables, path))) = (state::region(), wanted()) else {
        return;
    };
    if region.figures().samples == 0 {
        return; // it never ran: what an earlier run left is better
    }
    let is_complete = ending::said(Fate::Killed).0 == Fate::Stopped;
    if let Err(e) = write(region, tables, path, is_complete) {
        log!(
            Severity::Warn,
            "bindings_file {} cannot be written: {e}",
            path.display()
        );
    }
}

/// Writes beside it and renames, so that a kill leaves the file as it was.
fn write(region: &Region, tables: &Tables, path: &Path, is_complete: bool) -> io::Result<()> {
    file_limit::as_an_error(|| replace(region, tables, path, is_complete))
}

fn replace(region: &Region, tables: &Tables, path: &Path, is_complete: bool) -> io::Result<()> {
    let control = &region.control;
    let clocks = state::saved();
    let forgotten = [&tables.bindings, &tables.aors].map(Fingerprints::forgotten_until);
    let habit = |is_seen: u64, habit| if is_seen != 0 { habit } else { 0 };
    let head = Head {
        saved_s: state::now_ms() / 1000,
        clocks: [clocks.wall_s, clocks.boot_s, clocks.boot],
        base_s: control.start_ms.get() / 1000,
        key: tables.key.words(),
        probe: tables.key.probe(),
        knows_since_s: control.knows_since_s.get(),
        is_complete: u64::from(is_complete),
        longest_expires_s: control.longest_expires.get(),
        forgotten_until_s: forgotten.into_iter().max().unwrap_or(0),
        script_habits: habit(control.saves_elsewhere.get(), SAVES_ELSEWHERE)
            | habit(control.rewrites_contacts.get(), REWRITES_CONTACTS),
        lacks_hints: false,
    };
    let mut new = OsString::from(path);
    new.push(".tmp");
    let new = PathBuf::from(new);
    let _ = fs::remove_file(&new); // of a kill, or somebody's: ours begins with our mode
    let result = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(MODE)
        .open(&new)
        .and_then(|file| {
            if let Some((user, group)) = blackbox::owner() {
                fchown(&file, Some(user), Some(group))?;
            }
            let mut out = BufWriter::with_capacity(65_536, file);
            let all = [&tables.bindings, &tables.aors, &tables.hints];
            bindings_file::save(&head, all, &mut out)?;
            out.flush()
        })
        .and_then(|()| fs::rename(&new, path));
    if result.is_err() {
        let _ = fs::remove_file(&new); // half a file must not stay
    }
    result
}
