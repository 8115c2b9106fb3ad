//! `memguard.profile`: the live heap by place, and by sampled call path, written for pprof and for flame graphs into
//! `profile_dir`.
//! Forbidden here: Kamailio's pools and locks; formats (`guard::profile`). Process: RPC processes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::guard::config::{
    filters::{self, Sites as Filter},
    params::Text,
};
use crate::guard::formats::{
    evidence,
    profile::{self, Mapping, Profile, flame},
    report::{Answer, Fault, Node, int, word},
};
use crate::host::kamailio::processes;
use crate::host::kamailio::replace;
use crate::host::kamailio::{own_memory, state};
use crate::host::reports::{binaries, measures, site_reports};

mod paths;
mod places;

/// The folder of the parameter; `None` while it is not set.
fn folder() -> Option<&'static Path> {
    let folder = state::tables()?.texts.get(Text::ProfileDir);
    (!folder.is_empty()).then(|| Path::new(folder))
}

/// The folder to write into.
///
/// # Errors
/// A fault that says how to name one.
pub fn folder_set() -> Result<&'static Path, Fault> {
    folder().ok_or_else(|| {
        Fault::cannot(
            "there is no directory to write into: set modparam(\"memguard\", \"profile_dir\", \"/a/directory\") and restart",
        )
    })
}

/// Nothing could be written there, as a sentence.
pub fn not_written(folder: &Path, e: &io::Error) -> Fault {
    Fault::cannot(format!(
        "profile_dir {} cannot be written to: {e}; give Kamailio's user the right to, and room",
        folder.display()
    ))
}

/// What is wrong with a value of `profile_dir`, as a sentence; when its line of the configuration is read.
pub fn check_folder(folder: &str) -> Result<(), String> {
    let what = match fs::metadata(folder) {
        _ if folder.is_empty() => return Ok(()),
        Ok(there) if there.is_dir() => return Ok(()),
        Ok(_) => "which is no directory".to_owned(),
        Err(e) => format!("which cannot be used: {e}"),
    };
    Err(format!(
        "parameter profile_dir is \"{folder}\", {what}; it accepts a directory that Kamailio's user may write to"
    ))
}

/// Whether the folder, if it is set, can be written to by the user that Kamailio runs as (after PROC_INIT).
pub fn is_writable() -> bool {
    use std::os::unix::ffi::OsStrExt;
    let Some(folder) = folder() else { return true };
    let Ok(name) = std::ffi::CString::new(folder.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: a C string that lives for the call.
    unsafe { libc::access(name.as_ptr(), libc::W_OK | libc::X_OK) == 0 }
}

/// `memguard.profile [pool] [worker INDEX]`
pub fn profile(words: &[&str]) -> Result<Answer, Fault> {
    let filter = filters::profile(words).map_err(Fault::bad)?;
    let folder = folder_set()?;
    let cannot = |e: io::Error| not_written(folder, &e);
    with_heaps(&filter, |held, reached| {
        let files = Files::new(folder, &filter, held.time_ms);
        let (file, folded) = files.write("", held).map_err(cannot)?;
        let mut answer = vec![
            ("file", word(file.display())),
            ("folded", word(folded.display())),
            ("samples", int(held.samples.len() as u64)),
            ("bytes", Node::Count(held.live_bytes())),
        ];
        if let Some(reached) = reached {
            let (file, folded) = files.write(".paths", reached).map_err(cannot)?;
            answer.extend([
                ("paths", word(file.display())),
                ("paths_folded", word(folded.display())),
                ("paths_samples", int(reached.samples.len() as u64)),
                ("paths_bytes", Node::Count(reached.live_bytes())),
            ]);
        }
        Ok(Answer::One(answer))
    })?
}

/// Does something with what is held: by place, and by call path where the way to some of it was noted.
///
/// # Errors
/// Places are not counted, or there is no such worker.
pub fn with_heaps<R>(
    filter: &Filter,
    work: impl FnOnce(&Profile, Option<&Profile>) -> R,
) -> Result<R, Fault> {
    with_heaps_of(workers(), filter, work)
}

/// The same for a bug report: no address is in it.
///
/// # Errors
/// Places are not counted.
pub fn with_public_heaps<R>(
    work: impl FnOnce(&Profile, Option<&Profile>) -> R,
) -> Result<R, Fault> {
    let workers = workers().into_iter();
    let plain =
        |(index, description): (String, String)| (index, evidence::without_addresses(&description));
    with_heaps_of(workers.map(plain).collect(), &Filter::default(), work)
}

fn with_heaps_of<R>(
    workers: Vec<(String, String)>,
    filter: &Filter,
    work: impl FnOnce(&Profile, Option<&Profile>) -> R,
) -> Result<R, Fault> {
    let is_missing = |index: &u32| *index as usize >= workers.len();
    if let Some(index) = filter.worker.filter(is_missing) {
        return Err(site_reports::no_worker(index));
    }
    let names = places::names()?;
    let calls = paths::Calls::gather(filter);
    let mappings = binaries::common();
    let empty = empty(&mappings);
    let held = places::heap(&empty, filter, &names, &workers)?;
    let reached = calls
        .as_ref()
        .map(|calls| paths::heap(&empty, filter, calls, &names, &workers));
    Ok(work(&held, reached.as_ref()))
}

/// Which profile `/debug/pprof` serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// By place, what lives first.
    Heap,
    /// By place, what was ever allocated first.
    Allocs,
    /// By call path.
    Paths,
}

/// A profile of everything as pprof reads it; empty where there is none.
pub fn served(which: Served) -> Vec<u8> {
    let encoded = with_heaps(&Filter::default(), |held, reached| {
        let held = Profile {
            shown: match which {
                Served::Allocs => "alloc_space",
                _ => held.shown,
            },
            ..held.clone()
        };
        let wanted = match which {
            Served::Paths => reached.unwrap_or(&held),
            _ => &held,
        };
        own_memory::need(wanted.samples.len() * SAMPLE_ROOM);
        profile::encode(wanted)
    });
    encoded.unwrap_or_default()
}

/// What is held by call path, as folded stacks; what is held by place where no way was noted.
pub fn folded_paths() -> String {
    let folded = with_heaps(&Filter::default(), |held, reached| {
        let wanted = reached.unwrap_or(held);
        own_memory::need(wanted.samples.len() * SAMPLE_ROOM);
        profile::folded(wanted)
    });
    folded.unwrap_or_default()
}

/// The same as a picture.
pub fn picture() -> String {
    let folded = folded_paths();
    own_memory::need(2 * flame::MOST_BYTES + 8 * folded.len());
    flame::flame(&folded, flame::SUBJECT)
}

/// What both profiles have in common.
fn empty(mappings: &[Mapping]) -> Profile<'_> {
    let now_ms = state::now_ms();
    let start_ms = state::region().map_or(now_ms, |region| region.control.start_ms.get());
    Profile {
        time_ms: state::wall_ms(),
        uptime_ms: now_ms.saturating_sub(start_ms),
        mappings,
        comments: vec![format!(
            "memguard {}, {}",
            measures::BUILD.version,
            measures::BUILD.kamailio
        )],
        ..Profile::default()
    }
}

/// More than one sample takes in a file.
const SAMPLE_ROOM: usize = 1024;

/// Index, as a word, and description of every worker, in the order of the indices.
fn workers() -> Vec<(String, String)> {
    processes::process_table()
        .enumerate()
        .map(|(index, process)| (index.to_string(), process.description))
        .collect()
}

/// Which pools and workers a profile is of, as a sentence's beginning; `of_shm`: what it holds of one worker's there.
fn subject(filter: &Filter, of_shm: &str) -> String {
    let pools = filter
        .pool
        .map_or("shm and pkg".to_owned(), |pool| pool.to_string());
    let whose = filter.worker.map_or("all workers".to_owned(), |index| {
        format!("worker {index} (of shm: {of_shm})")
    });
    format!("{pools} of {whose}")
}

/// What files are called says when they were written and of what.
struct Files<'a> {
    folder: &'a Path,
    name: String,
}

impl Files<'_> {
    fn new<'a>(folder: &'a Path, filter: &Filter, time_ms: u64) -> Files<'a> {
        let mut name = format!("memguard-{}", profile::stamp(time_ms));
        for part in [
            filter.pool.map(|pool| pool.to_string()),
            filter.worker.map(|index| format!("worker{index}")),
        ] {
            name.extend(part.map(|part| format!("-{part}")));
        }
        Files { folder, name }
    }

    /// Writes a heap for pprof and as folded stacks.
    fn write(&self, which: &str, heap: &Profile) -> io::Result<(PathBuf, PathBuf)> {
        let Files { folder, name } = self;
        let path = |end: &str| folder.join(format!("{name}{which}.{end}"));
        let (file, folded) = (path("pb"), path("folded"));
        own_memory::need(heap.samples.len() * SAMPLE_ROOM);
        let beside = folder.join(format!(".{name}.{}", std::process::id()));
        replace::replace(&file, &beside, &profile::encode(heap))?;
        replace::replace(&folded, &beside, profile::folded(heap).as_bytes())?;
        Ok((file, folded))
    }
}
