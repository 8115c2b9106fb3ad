//! `memguard.paths`: how the memory that is held was reached, from the contexts of sampled blocks; and their growth.
//! Forbidden here: changing anything but growth; shm locks; Kamailio's allocators. Process: RPC and sampling processes.

use std::collections::HashMap;

use crate::guard::config::filters::{self, Sites as Filter};
use crate::guard::foresee::{growth::Trail, sampling};
use crate::guard::formats::{
    paths::{self, Path},
    report::{Answer, Fault, Fields, Node, int, real, word},
    sites as listed,
};
use crate::guard::terms::words::Pool;
use crate::host::kamailio::own_memory;
use crate::host::memory::hooks::{self, owners};
use crate::host::reports::{frames::Names, site_reports};
use crate::shared::counters::{
    contexts::{Context, Contexts, Held},
    sites::Sites,
};

/// Rows that are shown when no number is asked for.
const USUAL_ROWS: usize = 20;

fn table() -> Result<(&'static Contexts, &'static Sites), Fault> {
    hooks::sample::contexts().zip(owners::sites()).ok_or_else(|| {
        Fault::cannot("nothing is sampled: attribution is 0, or memguard.status warns that places cannot be read")
    })
}

/// Whose pool it is.
pub(in crate::host) fn pool(held: &Held) -> Pool {
    if held.owner.is_pkg {
        Pool::Pkg
    } else {
        Pool::Shm
    }
}

/// The line of the configuration.
pub(in crate::host) fn cfg(context: &Context) -> String {
    paths::cfg(
        &text(&context.file),
        context.line,
        &text(&context.route),
        context.is_outer,
    )
}

/// A text of a context up to its first zero.
fn text(bytes: &[u8]) -> String {
    let text = bytes.split(|b| *b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn path(sites: &Sites, names: &mut Names, held: &Held) -> Option<Path> {
    own_memory::checkpoint();
    let context = &held.context;
    let place = sites.place(context.site as usize)?;
    let frames = context.path().iter().rev();
    Some(Path {
        pool: pool(held),
        file: listed::file_name(&place.file).to_owned(),
        module: place.module,
        line: place.line,
        function: place.func,
        frames: paths::shortened(frames.map(|address| names.frame(*address))),
        cfg: cfg(context),
        method: sampling::method(&context.message).to_owned(),
        samples: held.samples,
        live_bytes: held.live_bytes,
        growth: held.growth.0,
        steady: held.growth.1,
    })
}

/// The paths that a filter lets pass, the worst first.
fn found(filter: &Filter) -> Result<Vec<Path>, Fault> {
    let (contexts, sites) = table()?;
    let is_missing = |index: &u32| *index as usize >= hooks::processes();
    if let Some(index) = filter.worker.filter(is_missing) {
        return Err(site_reports::no_worker(index));
    }
    let mut names = Names::new();
    let held = (0..contexts.used())
        .filter_map(|slot| contexts.held(slot))
        .filter(|held| {
            filter
                .worker
                .is_none_or(|index| u32::from(held.owner.process) == index)
        });
    let mut all = paths::merged(held.filter_map(|held| path(sites, &mut names, &held)));
    all.retain(|path| paths::passes(path, filter));
    paths::rank(&mut all);
    Ok(all)
}

fn row(path: &Path) -> Fields {
    let mut row = vec![
        ("pool", word(path.pool)),
        ("live_bytes", Node::Count(path.live_bytes)),
        ("samples", Node::Count(path.samples)),
        ("growth", real(path.growth)),
        ("module", word(&path.module)),
        ("file", word(&path.file)),
        ("line", int(u64::from(path.line))),
        ("function", word(&path.function)),
        (
            "path",
            Node::Texts(path.frames.iter().map(ToString::to_string).collect()),
        ),
    ];
    for (name, text) in [("cfg", &path.cfg), ("method", &path.method)] {
        if !text.is_empty() {
            row.push((name, word(text)));
        }
    }
    row
}

/// Every path, the worst first; none while nothing is sampled.
pub fn all() -> Vec<Path> {
    found(&Filter::default()).unwrap_or_default()
}

/// `memguard.paths [pool P] [worker INDEX] [module M] [top N] [from N]`
pub fn paths(words: &[&str]) -> Result<Answer, Fault> {
    let filter = filters::paths(words).map_err(Fault::bad)?;
    let all = found(&filter)?;
    let top = filter.top.map_or(USUAL_ROWS, |n| n as usize);
    let from = filter.from.unwrap_or(0) as usize;
    let rows = all.iter().skip(from).take(top).map(row);
    Ok(Answer::Many(rows.collect()))
}

/// The sampling process's short history of every context that is carried.
#[derive(Default)]
pub struct PathGrowths {
    trails: HashMap<u64, Trail>,
    looked_ms: u64,
}

/// Contexts are looked at no more often than this, however short the sample interval.
const LOOK_EVERY_MS: u64 = 900;

impl PathGrowths {
    /// One sample. A context that is not carried any more is forgotten.
    pub fn tick(&mut self, now_ms: u64) {
        let Some(contexts) = hooks::sample::contexts() else {
            return;
        };
        if now_ms.saturating_sub(self.looked_ms) < LOOK_EVERY_MS && now_ms >= self.looked_ms {
            return;
        }
        self.looked_ms = now_ms;
        let mut before = std::mem::take(&mut self.trails);
        for slot in 0..contexts.used() {
            let Some((key, live)) = contexts.live(slot) else {
                continue;
            };
            own_memory::checkpoint();
            let mut trail = before.remove(&key).unwrap_or_default();
            trail.feed(now_ms, live as i64);
            contexts.set_growth(slot, trail.growth());
            self.trails.insert(key, trail);
        }
    }
}
