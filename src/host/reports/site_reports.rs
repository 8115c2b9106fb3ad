//! What the commands about owners of memory answer: sites, modules, failures, and marks with their differences.
//! Forbidden here: changing anything but marks; shm locks; Kamailio's allocators. Process: RPC processes.

use crate::guard::config::filters::{self, Sites as Filter};
use crate::guard::foresee::growth::Growth;
use crate::guard::formats::{
    report::{Answer, Fault, Fields, Node, int, real, word},
    sites as listed,
    sites::Site,
};
use crate::guard::terms::{text::finite, words::Pool};
use crate::host::kamailio::{own_memory, state};
use crate::host::memory::hooks::{self, owners};
use crate::host::reports;
use crate::host::reports::region;
use crate::shared::counters::{
    marks::Mark,
    sites::{SitePool, Sites, Tally},
};

/// Rows that are shown when no number is asked for.
const USUAL_ROWS: usize = 20;
/// Name of a mark that was given none.
const UNNAMED: &str = "default";

/// The counters by place.
///
/// # Errors
/// A fault that says why memory is not counted by place.
pub fn tables() -> Result<&'static Sites, Fault> {
    owners::sites().ok_or_else(|| {
        Fault::cannot("memory is not counted by place: attribution is 0, or memguard.status warns that it cannot be")
    })
}

fn pool(of: SitePool) -> Pool {
    match of {
        SitePool::Shm => Pool::Shm,
        SitePool::Pkg => Pool::Pkg,
    }
}

/// A site by its index, with what was counted there.
fn site(sites: &Sites, index: usize, tally: &Tally, growth: Option<Growth>) -> Option<Site> {
    own_memory::checkpoint();
    let named = sites.place(index)?;
    Some(Site {
        pool: pool(named.pool),
        file: listed::file_name(&named.file).to_owned(),
        module: named.module,
        line: named.line,
        function: named.func,
        live_bytes: tally.live_bytes(),
        live_blocks: tally.live_blocks(),
        allocated_bytes: tally.bytes_allocated,
        allocations: tally.allocs,
        growth,
        failures: tally.failures,
        unbooked: tally.unbooked,
        focus: None,
    })
}

/// The fault for a worker that does not exist.
pub fn no_worker(index: u32) -> Fault {
    Fault::unknown(format!(
        "there is no worker with index {index}; see core.psx"
    ))
}

/// What one worker counted, or all processes together.
pub fn tallies(sites: &Sites, worker: Option<u32>) -> Result<Vec<Tally>, Fault> {
    let Some(index) = worker else {
        return Ok(sites.sums(hooks::processes()));
    };
    let table = sites
        .table(index as usize)
        .filter(|_| (index as usize) < hooks::processes());
    let table = table.ok_or_else(|| no_worker(index))?;
    Ok(table
        .iter()
        .take(sites.count())
        .map(|counts| counts.tally())
        .collect())
}

/// The sites that a filter lets pass, merged by text.
fn found(sites: &Sites, filter: &Filter) -> Result<Vec<Site>, Fault> {
    let tallies = tallies(sites, filter.worker)?;
    let focused = sites.focused();
    let all = tallies.iter().enumerate().filter_map(|(index, tally)| {
        let is_active =
            tally.allocs != 0 || tally.frees != 0 || tally.failures != 0 || tally.unbooked != 0;
        let growth = || match filter.worker {
            None => sites.growth(index),
            Some(worker) => Growth::of_minute(sites.worker_growth(worker as usize, index)),
        };
        is_active
            .then(|| {
                let of = focused.iter().find(|focused| focused.index == index);
                Some(Site {
                    focus: of.map(|focused| 1 << focused.thinned),
                    ..site(sites, index, tally, Some(growth()))?
                })
            })
            .flatten()
    });
    let mut all = listed::merged(all);
    all.retain(|site| listed::passes(site, filter));
    Ok(all)
}

/// Live amounts: one worker's own may be negative (it freed what others allocated), all together never.
fn amount(live: i64, is_one_worker: bool) -> Node {
    if is_one_worker {
        Node::Signed(live)
    } else {
        Node::Count(u64::try_from(live).unwrap_or(0))
    }
}

fn place(site: &Site) -> Fields {
    vec![
        ("pool", word(site.pool)),
        ("module", word(&site.module)),
        ("file", word(&site.file)),
        ("line", int(u64::from(site.line))),
        ("function", word(&site.function)),
    ]
}

/// `memguard.sites [pool P] [worker INDEX] [module M] [by live|growth|failures|drift] [top N] [from N]`
pub fn sites(words: &[&str]) -> Result<Answer, Fault> {
    let filter = filters::sites(words).map_err(Fault::bad)?;
    let sites = tables()?;
    let mut all = found(sites, &filter)?;
    listed::rank(&mut all, filter.by);
    let [messages, registers] = sites.rates(filter.worker.map(|index| index as usize));
    let per = |growth: f64, rate: f64| real(if rate > 0.0 { growth / rate } else { 0.0 });
    let rows = all
        .iter()
        .skip(filter.from.unwrap_or(0) as usize)
        .take(filter.top.map_or(USUAL_ROWS, |n| n as usize))
        .map(|site| {
            let is_one = filter.worker.is_some();
            let mut row = place(site);
            row.extend([
                ("live_bytes", amount(site.live_bytes, is_one)),
                ("live_blocks", amount(site.live_blocks, is_one)),
                ("allocated_bytes", Node::Count(site.allocated_bytes)),
                ("allocations", Node::Count(site.allocations)),
            ]);
            if let Some(growth) = site.growth {
                row.extend([("growth", real(growth.now)), ("growth_1m", real(growth.m1))]);
                if !is_one {
                    row.extend([
                        ("growth_10m", real(growth.m10)),
                        ("growth_60m", real(growth.m60)),
                    ]);
                }
                row.extend([
                    ("growth_per_message", per(growth.now, messages)),
                    ("growth_per_register", per(growth.now, registers)),
                ]);
            }
            row.push(("unbooked", Node::Count(site.unbooked)));
            row.push(("failures", Node::Count(site.failures)));
            row.extend(site.focus.map(|every| ("focus", int(every))));
            row
        });
    Ok(Answer::Many(rows.collect()))
}

/// The places that rise all the time, the fastest first, with what each keeps of a message and of a REGISTER.
pub fn rising(count: usize) -> Vec<(Site, Option<f64>, Option<f64>)> {
    let rates = tables().map_or([0.0; 2], |sites| sites.rates(None));
    let per = |growth: f64, rate: f64| (rate > 0.0).then(|| finite(growth / rate));
    let mut all = largest(usize::MAX);
    all.retain(|site| listed::is_rising(site));
    all.truncate(count);
    all.into_iter()
        .map(|site| {
            let growth = site.growth.map_or(0.0, |growth| growth.now);
            let [messages, registers] = rates.map(|rate| per(growth, rate));
            (site, messages, registers)
        })
        .collect()
}

/// The sites that hold most, for the page; none while places are not counted.
pub fn largest(count: usize) -> Vec<Site> {
    let Ok(filter) = filters::sites(&[]) else {
        return Vec::new();
    };
    let mut all = tables()
        .and_then(|sites| found(sites, &filter))
        .unwrap_or_default();
    listed::rank(&mut all, filter.by);
    all.truncate(count);
    all
}

/// `memguard.modules [pool P] [worker INDEX]`
pub fn modules(words: &[&str]) -> Result<Answer, Fault> {
    let filter = filters::modules(words).map_err(Fault::bad)?;
    let all = found(tables()?, &filter)?;
    let rows = listed::by_module(&all).into_iter().map(|module| {
        let is_one = filter.worker.is_some();
        let mut row = vec![
            ("pool", word(module.pool)),
            ("module", word(&module.module)),
            ("live_bytes", amount(module.live_bytes, is_one)),
            ("live_blocks", amount(module.live_blocks, is_one)),
        ];
        row.extend(module.growth.map(|growth| ("growth", real(growth.now))));
        row
    });
    Ok(Answer::Many(rows.collect()))
}

/// `memguard.failures`: per worker and place, the most first. Threads of receivers have no worker of their own.
pub fn failures(words: &[&str]) -> Result<Answer, Fault> {
    reports::no_arguments(words, "memguard.failures")?;
    let sites = tables()?;
    let workers =
        (0..hooks::processes()).filter_map(|index| Some((Some(index), sites.table(index)?)));
    let mut rows: Vec<(u64, Fields)> = Vec::new();
    for (worker, table) in workers.chain(std::iter::once((None, sites.threads()))) {
        for (index, counts) in table.iter().take(sites.count()).enumerate() {
            let tally = counts.tally();
            if tally.failures == 0 {
                continue;
            }
            let Some(site) = site(sites, index, &tally, None) else {
                continue;
            };
            let mut row = place(&site);
            row.splice(1..1, worker.map(|index| ("worker", int(index as u64))));
            row.extend([
                ("size_max", Node::Count(tally.largest_failed)),
                ("count", Node::Count(tally.failures)),
                ("first", Node::Count(state::date(tally.first_failed))),
                ("last", Node::Count(state::date(tally.last_failed))),
            ]);
            rows.push((tally.failures, row));
        }
    }
    rows.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    Ok(Answer::Many(rows.into_iter().map(|(_, row)| row).collect()))
}

/// What every site holds now.
fn snapshot(name: &str, sites: &Sites) -> Result<Mark, Fault> {
    let region = region()?;
    let held = sites.sums(hooks::processes());
    Ok(Mark {
        name: name.to_owned(),
        time_ms: state::now_ms(),
        messages: region
            .rows
            .iter()
            .map(|row| row.sip.messages.get())
            .fold(0, u64::wrapping_add),
        registers: region
            .rows
            .iter()
            .map(|row| row.sip.received.sum())
            .fold(0, u64::wrapping_add),
        held: held
            .iter()
            .map(|tally| (tally.live_bytes(), tally.live_blocks()))
            .collect(),
    })
}

/// `memguard.mark [NAME]`
pub fn mark(words: &[&str]) -> Result<Answer, Fault> {
    let name = filters::mark(words).map_err(Fault::bad)?.unwrap_or(UNNAMED);
    let sites = tables()?;
    let mark = snapshot(name, sites)?;
    if !sites.marks.take(&mark) {
        return Err(Fault::cannot(
            "another process is setting a mark at this moment: please repeat",
        ));
    }
    Ok(Answer::One(vec![
        ("name", word(&mark.name)),
        ("time", Node::Count(state::date(mark.time_ms / 1000))),
    ]))
}

/// Rows of `memguard.diff`: gained first, by bytes.
fn gained(sites: &Sites, before: &Mark, now: &Mark) -> Vec<Site> {
    let then = before.held.iter().copied().chain(std::iter::repeat((0, 0)));
    let all = now
        .held
        .iter()
        .zip(then)
        .enumerate()
        .filter_map(|(index, (now, then))| {
            let (bytes, blocks) = (now.0 - then.0, now.1 - then.1);
            let tally = Tally {
                bytes_allocated: bytes as u64,
                allocs: blocks as u64,
                ..Tally::default()
            };
            (bytes != 0 || blocks != 0)
                .then(|| site(sites, index, &tally, None))
                .flatten()
        });
    let mut all = listed::merged(all);
    all.retain(|site| site.live_bytes != 0 || site.live_blocks != 0);
    all.sort_by_key(|site| std::cmp::Reverse(site.live_bytes));
    all
}

/// `memguard.diff [NAME] [top N]`
pub fn diff(words: &[&str]) -> Result<Answer, Fault> {
    let asked = filters::diff(words).map_err(Fault::bad)?;
    let sites = tables()?;
    let name = asked.name.unwrap_or(UNNAMED);
    let before = sites.marks.find(name).ok_or_else(|| {
        let names = sites.marks.names();
        let known = if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        };
        Fault::unknown(format!(
            "there is no mark {name}; set it with memguard.mark. Marks: {known}"
        ))
    })?;
    let now = snapshot(name, sites)?;
    let messages = now.messages.wrapping_sub(before.messages);
    let registers = now.registers.wrapping_sub(before.registers);
    let per = |bytes: i64, n: u64| real(if n == 0 { 0.0 } else { bytes as f64 / n as f64 });
    let all = gained(sites, &before, &now);
    let rows = all
        .iter()
        .take(asked.top.map_or(USUAL_ROWS, |n| n as usize))
        .map(|site| {
            let mut row = place(site);
            row.extend([
                ("bytes", Node::Signed(site.live_bytes)),
                ("blocks", Node::Signed(site.live_blocks)),
                ("bytes_per_message", per(site.live_bytes, messages)),
                ("bytes_per_register", per(site.live_bytes, registers)),
            ]);
            row
        });
    Ok(Answer::One(vec![
        ("name", word(name)),
        (
            "seconds",
            Node::Count(now.time_ms.saturating_sub(before.time_ms) / 1000),
        ),
        ("messages", Node::Count(messages)),
        ("registers", Node::Count(registers)),
        (
            "bytes",
            Node::Signed(all.iter().map(|site| site.live_bytes).sum()),
        ),
        (
            "blocks",
            Node::Signed(all.iter().map(|site| site.live_blocks).sum()),
        ),
        ("rows", Node::List(rows.collect())),
    ]))
}
