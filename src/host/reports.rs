//! What the read-only commands answer, from memguard's own state and lock-free reads.
//! Forbidden here: changing anything; shm locks; Kamailio's allocators. Process: RPC processes.

use super::commands::region;
use super::rpc::COMMANDS;
use super::{
    answer, forecast_reports, growth, hooks, measures, owners, pressure, sampler, state, visit,
};
use crate::guard::admission::{self, Curves, Pressure};
use crate::guard::filters;
use crate::guard::growth::Leak;
use crate::guard::level::{self, Standing, Thresholds, permyriad};
use crate::guard::params::{INT_PARAMS, Int, Kind, TEXT_PARAMS, Text};
use crate::guard::priority::List;
use crate::guard::queue;
use crate::guard::report::{Answer, Fault, Fields, MAX_ANSWER, Node, int, real, to_json, word};
use crate::guard::warnings::{self, Warning};
use crate::guard::words::{Class, Level, Mode, Pool};
use crate::shared::figures::Figures;
use crate::shared::region::Region;
use crate::shared::rows::Row;

/// Refuses arguments where there are none.
pub fn no_arguments(words: &[&str], command: &str) -> Result<(), Fault> {
    if words.is_empty() {
        Ok(())
    } else {
        Err(Fault::bad(format!("{command} accepts no arguments")))
    }
}

fn bytes(n: u64) -> Node {
    Node::Count(n)
}

fn milli(thousandths: u64) -> Node {
    real(thousandths as f64 / 1000.0)
}

fn percent(permyriad: u32) -> Node {
    real(f64::from(permyriad) / 100.0)
}

/// Sums over all rows.
pub fn total(region: &Region, f: impl Fn(&Row) -> u64) -> u64 {
    let rows = region.used_rows(hooks::processes());
    rows.iter().map(f).fold(0, u64::wrapping_add)
}

/// Largest use of shm since the start or `reset peaks`: sampled, and now.
pub fn shm_peak(region: &Region) -> u64 {
    let now = hooks::shm_now(region.control.shm_size.get()).map_or(0, |p| p.real_used);
    region.control.shm_peak.get().max(now)
}

/// Failed allocations of shm and pkg since the start.
pub fn failures_since_start(region: &Region) -> (u64, u64) {
    (
        total(region, |r| r.shm_sum().failures),
        total(region, |r| r.pkg_failures.get()),
    )
}

/// The level as it is: the last sample's, or shedding from the moment an operator says so.
pub fn level_now(region: &Region) -> Level {
    let sampled = Level::from_index(region.figures().level).unwrap_or(Level::Normal);
    let is_shed = region.control.shed_until_ms.get() > state::now_ms();
    if is_shed {
        sampled.max(Level::Shedding)
    } else {
        sampled
    }
}

/// The pool or limit that is tightest: shm live, pkg of the fullest worker and the machine's memory by the last sample.
pub fn tightest_now(region: &Region) -> Option<Standing> {
    let figures = region.figures();
    let control = &region.control;
    let values = region.settings.all();
    let standing = |pool, total, used| Standing {
        pool,
        total,
        used,
        shed_pct: Thresholds::of(&values, pool).shed,
    };
    let shm =
        hooks::shm_now(control.shm_size.get()).map(|p| standing(Pool::Shm, p.size, p.real_used));
    let pkg = Some(standing(
        Pool::Pkg,
        control.pkg_size.get(),
        figures.fullest_real_used,
    ))
    .filter(|s| s.total > 0);
    let os = Some(standing(Pool::Os, figures.os_limit, figures.os_used)).filter(|s| s.total > 0);
    level::tightest([shm, pkg, os].into_iter().flatten())
}

/// Share of class `new` that is refused at this moment (shm live, the fullest worker's pkg by the last sample).
fn share_now(region: &Region, figures: &Figures) -> u32 {
    let control = &region.control;
    let shm = hooks::shm_now(control.shm_size.get()).unwrap_or_default();
    let pressure = Pressure {
        shm_permyriad: permyriad(shm.real_used, shm.size),
        pkg_permyriad: permyriad(figures.fullest_real_used, control.pkg_size.get()),
        os_permyriad: (control.os_time_ms.get() != 0).then(|| control.os_permyriad.get() as u32),
        shm_free_bytes: u64::MAX,
        pkg_free_bytes: u64::MAX,
        operator_shed: control.shed_until_ms.get() > state::now_ms(),
        ..Pressure::default()
    };
    if region.settings.mode() == Mode::Off {
        return 0;
    }
    admission::share_of(Class::New, &pressure, &Curves::of(&region.settings.all())).0
}

/// The same in whole percent.
pub fn shed_pct_now(region: &Region) -> u64 {
    u64::from(admission::shed_pct(share_now(region, &region.figures())))
}

/// `memguard.status`
pub fn status(words: &[&str]) -> Result<Answer, Fault> {
    no_arguments(words, "memguard.status")?;
    let region = region()?;
    Ok(Answer::One(status_fields(region)))
}

fn status_fields(region: &Region) -> Fields {
    let figures = region.figures();
    let now = state::now_ms();
    let tightest = tightest_now(region);
    let mut fields = vec![
        ("level", word(level_now(region))),
        ("mode", word(region.settings.mode())),
        ("tightest", word(tightest.map_or(Pool::Shm, |t| t.pool))),
        (
            "headroom",
            bytes(tightest.map_or(0, |t| t.headroom_bytes())),
        ),
        (
            "headroom_pct",
            percent(tightest.map_or(0, |t| t.headroom_permyriad())),
        ),
        ("shed_pct", int(shed_pct_now(region))),
    ];
    fields.extend(forecast_reports::status_fields(region));
    fields.extend([
        ("new_rate", milli(figures.new_rate_10s)),
        ("refresh_rate", milli(figures.refresh_rate_10s)),
        (
            "rejected",
            Node::Count(total(region, |r| r.sip.rejected.sum())),
        ),
        (
            "rejected_observed",
            Node::Count(total(region, |r| r.sip.observed.sum())),
        ),
        (
            "fail_open",
            Node::Count(total(region, |r| r.sip.fail_open.get())),
        ),
        ("workers", int(hooks::processes() as u64)),
        ("workers_leaking", int(leaking(region))),
        (
            "sample_age_ms",
            Node::Count(now.saturating_sub(figures.time_ms.max(region.control.start_ms.get()))),
        ),
        (
            "warnings",
            Node::Texts(
                warnings_now(region)
                    .into_iter()
                    .map(str::to_owned)
                    .collect(),
            ),
        ),
        (
            "uptime",
            Node::Count(now.saturating_sub(region.control.start_ms.get()) / 1000),
        ),
        ("version", word(env!("CARGO_PKG_VERSION"))),
        ("kamailio", word(env!("MEMGUARD_KAMAILIO_VERSION"))),
    ]);
    fields
}

/// What there is to warn of at this moment: what was found, and that nobody looks any more.
pub fn warnings_now(region: &Region) -> Vec<&'static str> {
    let sampled = region.figures().time_ms.max(region.control.start_ms.get());
    let mut mask = region.control.warnings.get();
    if pressure::is_stale(region, sampled, state::now_ms()) {
        mask |= 1 << Warning::StaleSample as u8;
    }
    warnings::sentences(mask)
}

/// `memguard.pools`
pub fn pools(words: &[&str]) -> Result<Answer, Fault> {
    no_arguments(words, "memguard.pools")?;
    Ok(Answer::Many(pool_rows(region()?)))
}

/// Workers whose leak is suspected or confirmed.
pub fn leaking(region: &Region) -> u64 {
    let rows = region.used_rows(hooks::processes()).iter();
    rows.filter(|row| row.leak() != Leak::None).count() as u64
}

fn pool_rows(region: &Region) -> Vec<Fields> {
    let figures = region.figures();
    let control = &region.control;
    let (shm_failures, pkg_failures) = failures_since_start(region);
    let mut rows = Vec::new();
    if let Some(shm) = hooks::shm_now(control.shm_size.get()) {
        let sum = hooks::shm_sum_of_all(region);
        let live = u64::try_from(sum.live()).unwrap_or(0);
        let mut row = pool_head(Pool::Shm, shm.size, shm.real_used, Some(live));
        row.extend([
            ("peak", bytes(shm_peak(region))),
            ("largest_free", bytes(hooks::shm_largest_free())),
            ("fragments", Node::Count(shm.fragments)),
            (
                "growth",
                real(owners::sites().map_or(0.0, |s| growth::of_shm(s).now)),
            ),
            ("drift", Node::Signed(shm.used.wrapping_sub(live) as i64)),
            ("unbooked", bytes(sum.unbooked)),
            (
                "failures",
                Node::Count(shm_failures.saturating_sub(control.shm_failures_base.get())),
            ),
        ]);
        rows.push(finished(region, Pool::Shm, row, figures.shm_level));
    }
    let fullest = usize::try_from(figures.fullest_worker).unwrap_or(0);
    if let (Some(worker), size @ 1..) = (region.rows.get(fullest), control.pkg_size.get()) {
        let used = worker.pkg.real_used.get();
        let live = hooks::pkg_sum(fullest, worker).live();
        let mut row = pool_head(Pool::Pkg, size, used, Some(live));
        row.extend([
            ("peak", bytes(worker.pkg.peak.get())),
            ("growth", real(worker.growth().0)),
            (
                "drift",
                Node::Signed(worker.pkg.used.get().wrapping_sub(live) as i64),
            ),
            ("unbooked", bytes(worker.pkg.unbooked.get())),
            (
                "failures",
                Node::Count(pkg_failures.saturating_sub(control.pkg_failures_base.get())),
            ),
            ("worker", int(figures.fullest_worker)),
        ]);
        rows.push(finished(region, Pool::Pkg, row, figures.pkg_level));
    }
    if figures.os_limit > 0 {
        let mut row = pool_head(Pool::Os, figures.os_limit, figures.os_used, None);
        row.push(("peak", bytes(control.os_peak.get())));
        row.push((
            "growth",
            real(region.forecasts.read(Pool::Os).outlook.growth),
        ));
        rows.push(finished(region, Pool::Os, row, figures.os_level));
    }
    rows
}

fn pool_head(pool: Pool, size: u64, used: u64, live: Option<u64>) -> Fields {
    let mut row = vec![
        ("name", word(pool)),
        ("size", bytes(size)),
        ("real_used", bytes(used)),
    ];
    row.extend(live.map(|live| ("live", bytes(live))));
    row.push(("free", bytes(level::headroom_bytes(size, used))));
    row.push(("used_pct", percent(permyriad(used, size))));
    row
}

fn finished(region: &Region, pool: Pool, mut row: Fields, level: u64) -> Fields {
    let outlook = region.forecasts.read(pool).outlook;
    row.push(("exhaustion_seconds", Node::Count(outlook.exhaustion_s)));
    row.push((
        "level",
        word(Level::from_index(level).unwrap_or(Level::Normal)),
    ));
    row
}

/// `memguard.workers [pid N or rank N or index N or leaking or top N]`
pub fn workers(words: &[&str]) -> Result<Answer, Fault> {
    let region = region()?;
    let filter = filters::workers(words).map_err(Fault::bad)?;
    let mut found: Vec<(u64, Fields)> = sampler::process_table()
        .enumerate()
        .filter(|(index, process)| match filter {
            filters::Workers::All | filters::Workers::Top(_) => true,
            filters::Workers::Pid(pid) => process.pid == pid,
            filters::Workers::Rank(rank) => process.rank == rank,
            filters::Workers::Index(wanted) => *index == wanted as usize,
            filters::Workers::Leaking => region
                .rows
                .get(*index)
                .is_some_and(|r| r.leak() != Leak::None),
        })
        .filter_map(|(index, process)| {
            let row = region.rows.get(index)?;
            Some((
                row.pkg.real_used.get(),
                worker_row(region, index, &process, row),
            ))
        })
        .collect();
    match filter {
        filters::Workers::Top(n) => {
            found.sort_by_key(|(used, _)| std::cmp::Reverse(*used));
            found.truncate(n as usize);
        }
        filters::Workers::All | filters::Workers::Leaking => (),
        _ if found.is_empty() => {
            return Err(Fault::unknown(format!(
                "there is no worker with {}; see core.psx",
                words.join(" ")
            )));
        }
        _ => (),
    }
    Ok(Answer::Many(
        found.into_iter().map(|(_, fields)| fields).collect(),
    ))
}

fn worker_row(region: &Region, index: usize, process: &sampler::Process, row: &Row) -> Fields {
    let shm = hooks::shm_sum(index, row);
    let pkg = hooks::pkg_sum(index, row);
    let (growth, growth_per_message) = row.growth();
    let mut fields = vec![
        ("index", int(index as u64)),
        ("pid", Node::Int(process.pid)),
        ("rank", Node::Int(process.rank)),
        ("desc", word(&process.description)),
        ("pkg_size", bytes(region.control.pkg_size.get())),
        ("pkg_real_used", bytes(row.pkg.real_used.get())),
        ("pkg_live", bytes(pkg.live())),
        ("pkg_peak", bytes(row.pkg.peak.get())),
        (
            "pkg_drift",
            Node::Signed(row.pkg.used.get().wrapping_sub(pkg.live()) as i64),
        ),
        ("pkg_unbooked", bytes(row.pkg.unbooked.get())),
        ("pkg_allocs", Node::Count(pkg.allocs)),
        ("pkg_frees", Node::Count(pkg.frees)),
        ("pkg_bytes_allocated", bytes(pkg.bytes_allocated)),
        ("pkg_bytes_freed", bytes(pkg.bytes_freed)),
        ("shm_allocs", Node::Count(shm.allocs)),
        ("shm_frees", Node::Count(shm.frees)),
        ("shm_bytes_allocated", bytes(shm.bytes_allocated)),
        ("shm_bytes_freed", bytes(shm.bytes_freed)),
        (
            "failures",
            Node::Count(row.pkg_failures.get().wrapping_add(shm.failures)),
        ),
        ("private", bytes(row.private_bytes.get())),
    ];
    fields.extend(outside_fields(region, index));
    fields.extend([
        ("messages", Node::Count(row.sip.messages.get())),
        ("registers", Node::Count(row.sip.received.sum())),
        ("growth", real(growth)),
        ("growth_per_message", real(growth_per_message)),
        ("leak", word(row.leak())),
        ("level", word(row.level())),
    ]);
    if let Some(outside) = region.outside.get(index) {
        if row.leak() != Leak::None {
            fields.push(("leak_in", word(outside.leak_in())));
        }
        if let Some((pool, seconds)) = outside.exhaustion() {
            fields.push(("exhaustion_seconds", Node::Count(seconds)));
            fields.push(("exhaustion_pool", word(pool)));
        }
    }
    fields
}

/// What the process told of its memory outside the pools; what it never told is left out.
fn outside_fields(region: &Region, index: usize) -> Fields {
    let outside = region.outside.get(index);
    let Some((row, told)) = outside.and_then(|row| Some((row, row.told()?))) else {
        return Fields::new();
    };
    let mut fields = vec![
        ("private_growth", real(row.growth().0)),
        ("heap", bytes(told.heap)),
        ("heap_free", bytes(told.heap_free)),
    ];
    fields.extend(
        told.python_blocks
            .map(|blocks| ("python_blocks", Node::Count(blocks))),
    );
    fields
}

/// Field names of the classes: received, admitted, rejected, rejected_observed.
macro_rules! class_names {
    ($($class:ident $received:literal $admitted:literal $rejected:literal $observed:literal;)+) => {
        const CLASS_NAMES: [(Class, [&str; 4]); Class::COUNT] =
            [$((Class::$class, [$received, $admitted, $rejected, $observed])),+];
    };
}
class_names! {
    Unregister "unregister_received" "unregister_admitted" "unregister_rejected" "unregister_rejected_observed";
    Query "query_received" "query_admitted" "query_rejected" "query_rejected_observed";
    Followup "followup_received" "followup_admitted" "followup_rejected" "followup_rejected_observed";
    Refresh "refresh_received" "refresh_admitted" "refresh_rejected" "refresh_rejected_observed";
    Priority "priority_received" "priority_admitted" "priority_rejected" "priority_rejected_observed";
    Returning "returning_received" "returning_admitted" "returning_rejected" "returning_rejected_observed";
    New "new_received" "new_admitted" "new_rejected" "new_rejected_observed";
}

/// `memguard.registrations`
pub fn registrations(words: &[&str]) -> Result<Answer, Fault> {
    no_arguments(words, "memguard.registrations")?;
    Ok(Answer::One(registration_fields(region()?)))
}

fn registration_fields(region: &Region) -> Fields {
    let f = region.figures();
    let not_understood = total(region, |r| r.sip.not_understood.get());
    let received = total(region, |r| r.sip.received.sum());
    let mut fields = vec![(
        "received",
        Node::Count(received.wrapping_add(not_understood)),
    )];
    for (class, [received, admitted, rejected, observed]) in CLASS_NAMES {
        // Rejected first: a REGISTER that is counted meanwhile then shows as admitted, never as less than none.
        let refused = total(region, |r| r.sip.rejected.get(class));
        let came = total(region, |r| r.sip.received.get(class));
        fields.extend([
            (received, Node::Count(came)),
            (admitted, Node::Count(came.saturating_sub(refused))),
            (rejected, Node::Count(refused)),
            (
                observed,
                Node::Count(total(region, |r| r.sip.observed.get(class))),
            ),
        ]);
    }
    fields.extend([
        ("not_understood", Node::Count(not_understood)),
        (
            "stale_decisions",
            Node::Count(region.control.stale_decisions.get()),
        ),
        (
            "challenged",
            Node::Count(total(region, |r| r.sip.challenged.get())),
        ),
        (
            "accepted",
            Node::Count(total(region, |r| r.sip.accepted.get())),
        ),
        ("failed", Node::Count(total(region, |r| r.sip.failed.get()))),
        ("new_rate_1s", milli(f.new_rate_1s)),
        ("new_rate_10s", milli(f.new_rate_10s)),
        ("new_rate_1m", milli(f.new_rate_1m)),
        ("new_rate_5m", milli(f.new_rate_5m)),
        ("new_rate_15m", milli(f.new_rate_15m)),
        ("refresh_rate_1s", milli(f.refresh_rate_1s)),
        ("refresh_rate_10s", milli(f.refresh_rate_10s)),
        ("refresh_rate_1m", milli(f.refresh_rate_1m)),
        ("refresh_rate_5m", milli(f.refresh_rate_5m)),
        ("refresh_rate_15m", milli(f.refresh_rate_15m)),
        ("rejected_rate_1s", milli(f.rejected_rate_1s)),
        ("rejected_rate_10s", milli(f.rejected_rate_10s)),
        ("rejected_rate_1m", milli(f.rejected_rate_1m)),
        ("rejected_rate_5m", milli(f.rejected_rate_5m)),
        ("rejected_rate_15m", milli(f.rejected_rate_15m)),
        ("known_bindings", Node::Count(f.known_bindings)),
        ("known_aors", Node::Count(f.known_aors)),
        (
            "table_size",
            Node::Count(region.settings.get_u64(Int::Bindings)),
        ),
        ("table_unsure", int(u64::from(is_unsure(region)))),
        (
            "replicated",
            Node::Count(total(region, |r| r.sip.replicated.get())),
        ),
        ("baseline", milli(f.baseline)),
        ("storm", int(f.storm)),
        ("queue_length", Node::Count(queue_length(region))),
        (
            "queue_seconds",
            Node::Count(queue::drained_in(
                region.control.queue_tail_us.get(),
                state::now_ms(),
            )),
        ),
    ]);
    fields
}

/// Slots of the queue that lie ahead.
pub fn queue_length(region: &Region) -> u64 {
    queue::length(
        region.control.queue_tail_us.get(),
        state::now_ms(),
        &answer::rules(region),
    )
}

fn is_unsure(region: &Region) -> bool {
    let now = state::now_ms() / 1000;
    region.control.usrloc_in_memory.get() == 0
        && state::tables().is_some_and(|tables| visit::is_unsure(region, tables, now))
}

/// Rows of `memguard.events` and `memguard.refusals` when no number is given.
const USUAL_ROWS: u32 = 20;

/// `memguard.events [N]`
pub fn events(words: &[&str]) -> Result<Answer, Fault> {
    let count = filters::events(words)
        .map_err(Fault::bad)?
        .unwrap_or(USUAL_ROWS) as usize;
    let rows = region()?.events.last(count).map(|(_, event)| {
        let mut row = vec![
            ("time", Node::Count(event.time_ms / 1000)),
            ("from", word(event.from)),
            ("to", word(event.to)),
            ("pool", word(event.pool)),
        ];
        row.extend(
            event
                .worker
                .map(|worker| ("worker", int(u64::from(worker)))),
        );
        row.push(("percent", int(u64::from(event.percent))));
        row.push(("reason", word(event.reason)));
        row
    });
    Ok(Answer::Many(rows.collect()))
}

/// `memguard.refusals [N]`
pub fn refusals(words: &[&str]) -> Result<Answer, Fault> {
    let count = filters::refusals(words)
        .map_err(Fault::bad)?
        .unwrap_or(USUAL_ROWS) as usize;
    let rows = region()?.refusals.last(count).map(|(_, refusal)| {
        let address = refusal.source();
        let source = match address.ip().to_ipv4_mapped() {
            Some(v4) => format!("{v4}:{}", address.port()),
            None => address.to_string(),
        };
        vec![
            ("time", Node::Count(refusal.time_ms / 1000)),
            ("aor", word(String::from_utf8_lossy(refusal.aor.as_bytes()))),
            ("source", word(source)),
            ("class", word(refusal.class)),
            ("stage", word(refusal.stage)),
            ("code", int(u64::from(refusal.code))),
            ("retry_after", int(u64::from(refusal.retry_after))),
            ("position", int(u64::from(refusal.position))),
        ]
    });
    Ok(Answer::Many(rows.collect()))
}

/// `memguard.config`
pub fn config(words: &[&str]) -> Result<Answer, Fault> {
    no_arguments(words, "memguard.config")?;
    Ok(Answer::Many(config_rows(region()?)))
}

fn config_rows(region: &Region) -> Vec<Fields> {
    let ints = Int::ALL.iter().zip(INT_PARAMS).map(|(param, line)| {
        let value = match line.kind {
            Kind::Mode => region.settings.mode().word().to_owned(),
            _ => region.settings.get(*param).to_string(),
        };
        (line, value)
    });
    let texts = state::tables().map(|tables| &tables.texts);
    let texts = Text::ALL.iter().zip(TEXT_PARAMS).map(|(text, line)| {
        let value = match (texts, line.kind) {
            (_, Kind::List { .. }) => in_force(region, *text),
            (Some(texts), _) => texts.get(*text).to_owned(),
            (None, _) => String::new(),
        };
        (line, value)
    });
    ints.chain(texts)
        .map(|(line, value)| {
            vec![
                ("name", word(line.name)),
                ("value", word(value)),
                ("unit", word(line.unit)),
                ("runtime", int(u64::from(line.runtime))),
                ("doc", word(line.doc)),
            ]
        })
        .collect()
}

/// How many values of a list `memguard.config` shows; `memguard.priority` shows all.
const SHOWN_VALUES: usize = 20;

/// A priority list in force, in one line.
fn in_force(region: &Region, text: Text) -> String {
    let list = match text {
        Text::PriorityAor => List::Aor,
        Text::PriorityDomain => List::Domain,
        _ => List::Source,
    };
    let entries = region.priorities.in_force();
    let of_list = entries.iter().filter(|e| e.entry.list() == Some(list));
    let values: Vec<String> = of_list.map(|e| e.entry.to_string()).collect();
    match values.get(SHOWN_VALUES..) {
        Some(more @ [_, ..]) => format!(
            "{} and {} more",
            values[..SHOWN_VALUES].join(", "),
            more.len()
        ),
        _ => values.join(", "),
    }
}

/// The rows of `memguard.priority`: one list, or all.
pub fn priorities(region: &Region, list: Option<List>) -> Vec<Fields> {
    let entries = region.priorities.in_force();
    let rows = entries.iter().filter_map(|found| {
        let own = found.entry.list()?;
        let mut row = vec![("list", word(own.word())), ("value", word(found.entry))];
        match found.since_s {
            0 => row.push(("from", word("configuration"))),
            since => row.extend([("from", word("run time")), ("since", Node::Count(since))]),
        }
        (list.is_none() || list == Some(own)).then_some(row)
    });
    rows.collect()
}

/// `memguard.metrics`: what `/metrics` serves, cut at a line's end where it would not fit into an answer.
pub fn metrics(words: &[&str]) -> Result<Answer, Fault> {
    no_arguments(words, "memguard.metrics")?;
    region()?;
    let mut text = measures::text();
    if text.len() > MAX_ANSWER {
        let end = text.get(..MAX_ANSWER).and_then(|t| t.rfind('\n'));
        text.truncate(end.map_or(0, |end| end + 1));
        text.push_str("# truncated: /metrics serves all of it\n");
    }
    Ok(Answer::Text(text))
}

/// `memguard.json`: every read-only command's answer under its name.
pub fn json(words: &[&str]) -> Result<Answer, Fault> {
    no_arguments(words, "memguard.json")?;
    let mut document = serde_json::Map::new();
    for command in COMMANDS.iter().filter(|c| IN_JSON.contains(&c.name)) {
        // Places may not be counted; the rest is answered all the same.
        let Ok(answer) = (command.run)(&[]) else {
            continue;
        };
        let name = command
            .name
            .strip_prefix("memguard.")
            .unwrap_or(command.name);
        document.insert(name.to_owned(), to_json(&answer));
    }
    Ok(Answer::Text(
        serde_json::Value::Object(document).to_string(),
    ))
}

/// What `memguard.json` holds: the read-only commands but itself.
const IN_JSON: [&str; 13] = [
    "memguard.status",
    "memguard.pools",
    "memguard.workers",
    "memguard.registrations",
    "memguard.sites",
    "memguard.modules",
    "memguard.failures",
    "memguard.events",
    "memguard.refusals",
    "memguard.config",
    "memguard.check",
    "memguard.forecast",
    "memguard.priority",
];
