//! The story that a black box tells: text for people, newest run first, and JSON for programs.
//! Forbidden here: I/O and clocks; printing foreign text with its control characters.

use std::fmt::{Display, Formatter, Result, Write};

use serde_json::{Map, Value, json};

use crate::guard::decide::{
    level::permyriad,
    track::{Track, Values},
};
use crate::guard::formats::{
    blackbox::{
        picture,
        reading::{BlackBox, Fate, Run},
        sentence::{number, rows, size, tightest, track, value},
    },
    page::markup::{Clock, Count, Moment, Percent, Rate},
};
use crate::guard::terms::{
    event::Event,
    text::{Bytes, Span},
    words::{Level, Pool},
};

/// Runs that are told in full unless all are asked for.
const TOLD: usize = 2;
/// Width of the picture in characters, and its height in rows.
const WIDTH: usize = 64;
const HEIGHT: usize = 4;
/// Rows of each table.
const EVENTS: usize = 16;
const SITES: usize = 6;
const FAILURES: usize = 5;
const WORKERS: usize = 4;
const SAMPLES: usize = 8;

/// What the teller knows besides the file.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    /// Name of the file.
    pub file: String,
    /// The server that writes the file is alive.
    pub is_held: bool,
    /// Which start of the machine it is now; `None` when that is not known.
    pub boot: Option<String>,
    /// Only characters that every screen shows.
    pub is_plain: bool,
    /// Every run in full.
    pub is_all: bool,
}

/// Foreign text for a terminal: without control characters and without those that turn the writing direction.
struct Plain<'a>(&'a str);

impl Display for Plain<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        self.0.chars().take(200).try_for_each(|c| match c {
            c if c.is_control() || matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                f.write_char('?')
            }
            c => f.write_char(c),
        })
    }
}

fn text<'a>(value: &'a Value, name: &str) -> Plain<'a> {
    Plain(value[name].as_str().unwrap_or("?"))
}

/// Bytes per second, as they add up in an hour.
fn per_hour(row: &Value, name: &str) -> String {
    let growth = row[name].as_f64().unwrap_or(0.0) * 3600.0;
    match growth {
        1.0.. => format!("+{}/h", Bytes(growth as u64)),
        ..=-1.0 => format!("-{}/h", Bytes(-growth as u64)),
        _ => "steady".into(),
    }
}

/// "module file:line function".
fn place(site: &Value) -> String {
    format!(
        "{} {}:{} {}",
        text(site, "module"),
        text(site, "file"),
        number(site, "line"),
        text(site, "function")
    )
}

/// The fates of all runs, in their order: the next run's boot tells whether the machine was started in between.
fn fates(found: &BlackBox, scene: &Scene) -> Vec<Fate> {
    let last = found.runs.len().saturating_sub(1);
    let fate = |(at, run): (usize, &Run)| {
        let next = found
            .runs
            .get(at + 1)
            .map(|next| next.identity["boot"].as_str());
        let boot = next.unwrap_or(scene.boot.as_deref());
        run.fate(scene.is_held && at == last, boot)
    };
    found.runs.iter().enumerate().map(fate).collect()
}

/// The story for people.
pub fn tell(found: &BlackBox, scene: &Scene) -> String {
    let mut out = String::with_capacity(8192);
    // Writing to a String cannot fail.
    let _ = write_all(found, scene, &mut out);
    out
}

fn write_all(found: &BlackBox, scene: &Scene, out: &mut String) -> Result {
    let count = found.runs.len();
    writeln!(
        out,
        "{}: {count} {} of the server, the newest first. Times are UTC.",
        Plain(&scene.file),
        if count == 1 { "run" } else { "runs" }
    )?;
    for complaint in &found.complaints {
        writeln!(out, "Note: {complaint}.")?;
    }
    let runs = found.runs.iter().zip(fates(found, scene)).rev().enumerate();
    for (back, (run, fate)) in runs {
        writeln!(out)?;
        if back < TOLD || scene.is_all {
            full(run, fate, scene, out)?;
        } else {
            heading(run, fate, out)?;
        }
    }
    if count > TOLD && !scene.is_all {
        writeln!(out, "\nWith --all, every run is told in full.")?;
    }
    Ok(())
}

fn heading(run: &Run, fate: Fate, out: &mut String) -> Result {
    let word = match fate {
        Fate::Running => "it runs now",
        Fate::Stopped => "stopped in order",
        Fate::ProcessDied => "DIED: one of its processes ended",
        Fate::MainVanished => "DIED: its main process vanished",
        Fate::Killed => "KILLED, all processes at once",
        Fate::MachineDown => "CUT OFF with the machine",
    };
    writeln!(
        out,
        "RUN {}: {}, {}: {word}",
        run.number,
        Moment(run.start_s()).to_string().trim_end_matches(" UTC"),
        Span(run.length_s())
    )
}

/// What the end says about its cause.
fn how(run: &Run, fate: Fate, out: &mut String) -> Result {
    let end = run.end.as_ref();
    let said = match fate {
        Fate::Running | Fate::Stopped => return Ok(()),
        Fate::ProcessDied => {
            let who = end.map_or(Plain("a process"), |end| text(end, "who"));
            return writeln!(
                out,
                "  How: {who} ended by itself or was killed, so Kamailio stopped; its log names the signal."
            );
        }
        Fate::MainVanished => "the main process was killed or crashed, the others were left alone.",
        Fate::Killed => {
            "no shutdown was written: kill -9 of all, or the OOM killer (see the kernel's log)."
        }
        Fate::MachineDown => {
            "no shutdown was written, and the machine was started anew since: power, reset, or killed before."
        }
    };
    writeln!(out, "  How: {said}")
}

fn full(run: &Run, fate: Fate, scene: &Scene, out: &mut String) -> Result {
    heading(run, fate, out)?;
    how(run, fate, out)?;
    let identity = &run.identity;
    writeln!(
        out,
        "  {}, {}, memguard {}; from {} to {}",
        text(identity, "host"),
        text(identity, "kamailio"),
        text(identity, "version"),
        Time(run.start_s()),
        Time(run.last_s())
    )?;
    last_state(run, fate, out)?;
    chart(run, scene, out)?;
    changes(run, out)?;
    sites(run, out)?;
    failures(run, out)?;
    workers(run, out)?;
    samples(run, out)
}

/// Date and time with seconds.
struct Time(u64);

impl Display for Time {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let moment = Moment(self.0).to_string();
        write!(f, "{} {}", moment.get(..10).unwrap_or("?"), Clock(self.0))
    }
}

/// What it was like at the last look, why, and who.
fn last_state(run: &Run, fate: Fate, out: &mut String) -> Result {
    let Some((_, values)) = run.seconds.last() else {
        return writeln!(out, "  Nothing was sampled.");
    };
    let level = Level::from_index(value(values, Track::Level)).unwrap_or(Level::Normal);
    let pool = tightest(run);
    let (used, size) = (value(values, track(pool)), size(run, pool));
    let when = if fate == Fate::Running {
        "Now"
    } else {
        "At the end"
    };
    writeln!(
        out,
        "  {when}: level {}; {pool} {} % of {} used, {} left.",
        level.word().to_uppercase(),
        Percent(permyriad(used, size)),
        Bytes(size),
        Bytes(size.saturating_sub(used))
    )?;
    let Some(view) = run.last_view() else {
        return Ok(());
    };
    let status = &view["status"];
    writeln!(
        out,
        "  Why: {} (confidence {}).",
        text(status, "explanation"),
        text(status, "confidence")
    )?;
    if let Some(site) = worst(view, pool) {
        let is_growing = site["growth"].as_f64().is_some_and(|growth| growth > 0.0);
        writeln!(
            out,
            "  {}: {}, {} held, {}.",
            if is_growing { "Who" } else { "Most held by" },
            place(site),
            Bytes(number(site, "live_bytes")),
            per_hour(site, "growth")
        )?;
    }
    let rejected = value(values, Track::Rejected);
    if rejected > 0 {
        writeln!(
            out,
            "  Refused since the start: {} registrations.",
            Count(rejected)
        )?;
    }
    let status = if status["mode"] == "observe" {
        "Mode observe: nobody was refused."
    } else {
        ""
    };
    match status {
        "" => Ok(()),
        said => writeln!(out, "  {said}"),
    }
}

/// The place that is to blame most: the first of the view's list in that pool, which is ordered by growth, then size.
fn worst(view: &Value, pool: Pool) -> Option<&Value> {
    let sites = rows(Some(view), "sites");
    let of_pool = sites.iter().find(|site| site["pool"] == pool.word());
    of_pool.or(sites.first())
}

/// Use of the tightest pool: by second if the run was short, by minute for up to a day.
fn chart(run: &Run, scene: &Scene, out: &mut String) -> Result {
    let pool = tightest(run);
    let size = size(run, pool);
    if size == 0 || run.seconds.len() < 2 {
        return Ok(());
    }
    let share =
        |(time, values): &(u64, Values)| (*time, value(values, track(pool)) as f64 / size as f64);
    // Seconds after the minutes: the picture takes the larger of both.
    let points: Vec<(u64, f64)> = run.minutes.iter().chain(&run.seconds).map(share).collect();
    let end_s = run.last_s();
    let start_s = points.iter().map(|(time, _)| *time).min().unwrap_or(end_s);
    let columns = picture::columns(
        &points,
        start_s,
        end_s,
        WIDTH.min(run.length_s() as usize + 1),
    );
    writeln!(
        out,
        "\n  {pool} used, {} (up to 100 % of {})",
        Span(end_s.saturating_sub(start_s)),
        Bytes(size)
    )?;
    for (row, cells) in picture::rows(&columns, HEIGHT, scene.is_plain)
        .iter()
        .enumerate()
    {
        let label = match row {
            0 => "100 %",
            row if row + 1 == HEIGHT => "  0 %",
            _ => "",
        };
        writeln!(out, "  {label:>5} |{cells}")?;
    }
    let (from, to) = (Clock(start_s).to_string(), Clock(end_s).to_string());
    let gap = columns.len().saturating_sub(from.len() + to.len()).max(1);
    writeln!(out, "         {from}{}{to}", " ".repeat(gap))
}

/// Level changes, with what was known at that moment of why and who.
fn changes(run: &Run, out: &mut String) -> Result {
    if run.events.is_empty() {
        return writeln!(out, "\n  The level did not change.");
    }
    let left_out = run.events.len().saturating_sub(EVENTS);
    writeln!(out, "\n  When the level changed")?;
    if left_out > 0 {
        writeln!(out, "    ({left_out} earlier changes are in --json)")?;
    }
    for event in run.events.iter().skip(left_out) {
        change(event, out)?;
        if let Some(view) = view_of(run, event) {
            let status = &view["status"];
            write!(out, "              cause {}", text(status, "cause"))?;
            if let Some(site) = worst(view, event.pool) {
                write!(
                    out,
                    "; {}: {}, {}",
                    place(site),
                    Bytes(number(site, "live_bytes")),
                    per_hour(site, "growth")
                )?;
            }
            writeln!(out)?;
        }
    }
    Ok(())
}

fn change(event: &Event, out: &mut String) -> Result {
    let worker = event
        .worker
        .map_or(String::new(), |index| format!(" of process {index}"));
    let why = match event.reason {
        crate::guard::terms::event::Reason::Memory => {
            format!("{}{worker} at {} %", event.pool, event.percent)
        }
        reason => format!("{reason} (memguard.shed)"),
    };
    writeln!(
        out,
        "    {}  {:<9} -> {:<9}  {why}",
        Clock(event.time_ms / 1000),
        event.from.word(),
        event.to.word()
    )
}

/// The view that was taken because of this change.
fn view_of<'a>(run: &'a Run, event: &Event) -> Option<&'a Value> {
    let at = event.time_ms / 1000;
    run.views.iter().find(|view| {
        view["why"] == "level"
            && view["time"]
                .as_u64()
                .is_some_and(|time| time.abs_diff(at) <= 1)
    })
}

fn sites(run: &Run, out: &mut String) -> Result {
    let sites = rows(run.last_view(), "sites");
    if sites.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\n  Who held memory (what rises first, then what is large)"
    )?;
    for site in sites.iter().take(SITES) {
        writeln!(
            out,
            "    {:<3} {:>10} {:>14}  {}",
            text(site, "pool").to_string(),
            Bytes(number(site, "live_bytes")).to_string(),
            per_hour(site, "growth"),
            place(site)
        )?;
    }
    Ok(())
}

fn failures(run: &Run, out: &mut String) -> Result {
    let failures = rows(run.last_view(), "failures");
    if failures.is_empty() {
        return Ok(());
    }
    writeln!(out, "\n  Allocations that failed")?;
    for row in failures.iter().take(FAILURES) {
        writeln!(
            out,
            "    {:<3} {:>7} x, up to {}, {} to {}  {}",
            text(row, "pool").to_string(),
            Count(number(row, "count")).to_string(),
            Bytes(number(row, "size_max")),
            Clock(number(row, "first")),
            Clock(number(row, "last")),
            place(row)
        )?;
    }
    Ok(())
}

fn workers(run: &Run, out: &mut String) -> Result {
    let workers = rows(run.last_view(), "workers");
    if workers.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\n  Fullest processes (pkg used; outside the pools; leak)"
    )?;
    for row in workers.iter().take(WORKERS) {
        writeln!(
            out,
            "    {:>3} {:>10} {:>10} {:<9}  {}",
            number(row, "index"),
            Bytes(number(row, "pkg_real_used")).to_string(),
            Bytes(number(row, "private")).to_string(),
            text(row, "leak").to_string(),
            text(row, "desc")
        )?;
    }
    Ok(())
}

fn samples(run: &Run, out: &mut String) -> Result {
    if run.seconds.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "\n  The last seconds\n    {:<8}  {:<9} {:>7} {:>7} {:>7} {:>10}  {:>8} {:>8} {:>8}",
        "time", "level", "shm", "pkg", "os", "left", "new", "refresh", "refused"
    )?;
    for (time, values) in run
        .seconds
        .iter()
        .skip(run.seconds.len().saturating_sub(SAMPLES))
    {
        let share = |pool| match size(run, pool) {
            0 => "-".into(),
            size => format!("{} %", Percent(permyriad(value(values, track(pool)), size))),
        };
        let level = Level::from_index(value(values, Track::Level)).map_or("?", Level::word);
        let rate = |track| Rate(value(values, track)).to_string();
        writeln!(
            out,
            "    {}  {level:<9} {:>7} {:>7} {:>7} {:>10}  {:>8} {:>8} {:>8}",
            Clock(*time),
            share(Pool::Shm),
            share(Pool::Pkg),
            share(Pool::Os),
            Bytes(value(values, Track::Headroom)).to_string(),
            rate(Track::NewRate),
            rate(Track::RefreshRate),
            rate(Track::RejectedRate)
        )?;
    }
    Ok(())
}

/// Everything that was read, for programs.
pub fn json(found: &BlackBox, scene: &Scene) -> Value {
    let runs: Vec<Value> = found
        .runs
        .iter()
        .zip(fates(found, scene))
        .map(|(run, fate)| run_json(run, fate))
        .collect();
    json!({ "file": scene.file, "complaints": found.complaints, "runs": runs })
}

fn run_json(run: &Run, fate: Fate) -> Value {
    let event = |event: &Event| {
        let mut row = json!({
            "time_ms": event.time_ms, "from": event.from.word(), "to": event.to.word(), "pool": event.pool.word(),
            "percent": event.percent, "reason": event.reason.word(),
        });
        if let (Some(worker), Some(fields)) = (event.worker, row.as_object_mut()) {
            fields.insert("worker".into(), worker.into());
        }
        row
    };
    json!({
        "run": run.number,
        "fate": fate.word(),
        "identity": run.identity,
        "end": run.end,
        "start": run.start_s(),
        "last": run.last_s(),
        "torn": run.torn,
        "events": run.events.iter().map(event).collect::<Vec<_>>(),
        "views": run.views,
        "seconds": tracks(&run.seconds),
        "minutes": tracks(&run.minutes),
    })
}

/// A column per track; rates in thousandths per second.
fn tracks(samples: &[(u64, Values)]) -> Value {
    let column =
        |track: &Track| -> Value { samples.iter().map(|(_, v)| value(v, *track)).collect() };
    let mut columns = Map::new();
    columns.insert(
        "time".into(),
        samples.iter().map(|(time, _)| *time).collect(),
    );
    columns.extend(
        Track::ALL
            .iter()
            .map(|track| (track.word().to_owned(), column(track))),
    );
    Value::Object(columns)
}
