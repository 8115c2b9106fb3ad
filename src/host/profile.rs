//! `memguard.profile`: the live heap by place, written for pprof and for flame graphs into `profile_dir`.
//! Forbidden here: Kamailio's pools and locks; formats (`guard::profile`). Process: RPC processes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{measures, sampler, site_reports, state, textfile};
use crate::guard::filters::{self, Sites as Filter};
use crate::guard::params::Text;
use crate::guard::profile::{self, Frame, Mapping, Profile, Sample};
use crate::guard::report::{Answer, Fault, Node, int, word};
use crate::guard::sites::file_name;
use crate::guard::words::Pool;
use crate::shared::sites::{Named, SitePool, Sites, Tally};

/// The folder of the parameter; `None` while it is not set.
fn folder() -> Option<&'static Path> {
    let folder = state::tables()?.texts.get(Text::ProfileDir);
    (!folder.is_empty()).then(|| Path::new(folder))
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
    let folder = folder().ok_or_else(|| {
        Fault::cannot(
            "there is no directory to write into: set modparam(\"memguard\", \"profile_dir\", \"/a/directory\") and restart",
        )
    })?;
    let sites = site_reports::tables()?;
    let workers = workers(filter.worker)?;
    let names: Vec<Option<Named>> = (0..sites.count()).map(|index| sites.place(index)).collect();
    let now_ms = state::now_ms();
    let mappings = loaded_binaries();
    let mut heap = Profile {
        time_ms: now_ms,
        uptime_ms: uptime_ms(now_ms),
        mappings: &mappings,
        samples: Vec::new(),
        comments: comments(&filter),
    };
    if filter.pool != Some(Pool::Pkg) {
        let held = site_reports::tallies(sites, filter.worker)?;
        add(&mut heap, &names, SitePool::Shm, &held, Vec::new());
    }
    if filter.pool != Some(Pool::Shm) {
        for (worker, description) in &workers {
            let held = own(sites, worker);
            let labels = vec![("worker", worker.as_str()), ("process", description)];
            add(&mut heap, &names, SitePool::Pkg, &held, labels);
        }
    }
    let (file, folded) = write(folder, &filter, &heap).map_err(|e| {
        Fault::cannot(format!(
            "profile_dir {} cannot be written to: {e}; give Kamailio's user the right to, and room",
            folder.display()
        ))
    })?;
    Ok(Answer::One(vec![
        ("file", word(file.display())),
        ("folded", word(folded.display())),
        ("samples", int(heap.samples.len() as u64)),
        ("bytes", Node::Count(heap.live_bytes())),
    ]))
}

fn uptime_ms(now_ms: u64) -> u64 {
    let start_ms = state::region().map_or(now_ms, |region| region.control.start_ms.get());
    now_ms.saturating_sub(start_ms)
}

/// Index and description of all workers, or of the one that is asked for.
fn workers(wanted: Option<u32>) -> Result<Vec<(String, String)>, Fault> {
    let all: Vec<(String, String)> = sampler::process_table()
        .enumerate()
        .filter(|(index, _)| wanted.is_none_or(|wanted| wanted as usize == *index))
        .map(|(index, process)| (index.to_string(), process.description))
        .collect();
    match wanted {
        Some(index) if all.is_empty() => Err(site_reports::no_worker(index)),
        _ => Ok(all),
    }
}

/// What a worker counted, by index of the place.
fn own(sites: &Sites, worker: &str) -> Vec<Tally> {
    let table = worker.parse().ok().and_then(|index| sites.table(index));
    let rows = table.into_iter().flatten().take(sites.count());
    rows.map(|counts| counts.tally()).collect()
}

fn comments(filter: &Filter) -> Vec<String> {
    let versions = format!(
        "memguard {}, {}",
        measures::BUILD.version,
        measures::BUILD.kamailio
    );
    let pools = filter
        .pool
        .map_or("shm and pkg".to_owned(), |p| p.to_string());
    let whose = filter.worker.map_or("all workers".to_owned(), |index| {
        format!("worker {index} (of shm: what it allocated more than it freed)")
    });
    vec![versions, format!("{pools} of {whose}, every block counted")]
}

/// Adds what is held at the places of a pool, as function in module in pool.
fn add<'a>(
    heap: &mut Profile<'a>,
    names: &'a [Option<Named>],
    pool: SitePool,
    held: &[Tally],
    labels: Vec<(&'a str, &'a str)>,
) {
    let around = match pool {
        SitePool::Shm => "shm",
        SitePool::Pkg => "pkg",
    };
    let mappings = heap.mappings;
    let samples = names.iter().zip(held).filter_map(|(named, tally)| {
        let named = named.as_ref().filter(|named| named.pool == pool)?;
        // One worker's own can be negative in shm: it freed what others allocated, and holds nothing.
        let blocks = u64::try_from(tally.live_blocks()).unwrap_or(0);
        let bytes = u64::try_from(tally.live_bytes()).unwrap_or(0);
        if tally.allocs == 0 && bytes == 0 {
            return None;
        }
        let mapping = mappings
            .iter()
            .position(|m| m.is_of_module(&named.module))
            .or((!mappings.is_empty()).then_some(0)); // the core and its libraries
        let frame = |function, file, line| Frame {
            function,
            file,
            line,
            mapping,
        };
        let mut all = vec![("pool", around)];
        all.extend_from_slice(&labels);
        Some(Sample {
            stack: [
                frame(&named.func, file_name(&named.file), named.line),
                frame(&named.module, "", 0),
                Frame {
                    mapping: None,
                    ..frame(around, "", 0)
                },
            ],
            allocated: (tally.allocs, tally.bytes_allocated),
            live: (blocks, bytes),
            labels: all,
        })
    });
    heap.samples.extend(samples);
}

/// The binaries of this process, which are those of all: modules are loaded before the first fork.
fn loaded_binaries() -> Vec<Mapping> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut mappings = profile::mappings(&maps);
    for mapping in &mut mappings {
        mapping.build_id = build_id(&mapping.file).unwrap_or_default();
    }
    mappings
}

/// `None` also when the file was replaced since it was loaded: its name then ends in " (deleted)".
fn build_id(path: &str) -> Option<String> {
    let file = File::open(path).ok()?;
    profile::build_id(|from, count| {
        let mut bytes = vec![0; count];
        file.read_exact_at(&mut bytes, from).ok()?;
        Some(bytes)
    })
}

/// Writes both files; what they are called says when and of what.
fn write(folder: &Path, filter: &Filter, heap: &Profile) -> io::Result<(PathBuf, PathBuf)> {
    let mut name = format!("memguard-{}", profile::stamp(heap.time_ms));
    for part in [
        filter.pool.map(|pool| pool.to_string()),
        filter.worker.map(|index| format!("worker{index}")),
    ] {
        name.extend(part.map(|part| format!("-{part}")));
    }
    let path = |end: &str| folder.join(format!("{name}.{end}"));
    let (file, folded) = (path("pb"), path("folded"));
    let beside = folder.join(format!(".{name}.{}", std::process::id()));
    textfile::replace(&file, &beside, &profile::encode(heap))?;
    textfile::replace(&folded, &beside, profile::folded(heap).as_bytes())?;
    Ok((file, folded))
}
