//! `memguard.evidence`: everything that a restart would destroy, in one folder below `profile_dir`, and a report of it.
//! Forbidden here: Kamailio's pools and locks; phones (names, numbers, addresses). Process: RPC processes.
//!
//! The folder is there whole or not at all: it is filled beside its place and then renamed.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::guard::config::params::{Int, Text};
use crate::guard::decide::{level::permyriad, track::Track};
use crate::guard::formats::{
    blackbox::{format::FILE_BYTES, reading, story},
    evidence::{self, PoolUse, Report, Suspect},
    paths,
    profile::{self as format, flame},
    report::{Answer, Fault, Node, int, word},
};
use crate::host::commands::json;
use crate::host::kamailio::{own_memory, replace, state};
use crate::host::memory::hooks;
use crate::host::reports::{
    self, Now, forecast_reports, measures, path_reports, profile, region, site_reports,
};
use crate::shared::figures::history::{MINUTES, SECONDS};
use crate::shared::region::Region;

/// The report's file.
const REPORT: &str = "report.md";
/// Places that the report names.
const SUSPECTS: usize = 12;
/// Other ways to one place that the report names.
const OTHER_WAYS: usize = 5;
/// More than one sample takes in a profile's file.
const SAMPLE_ROOM: usize = 1024;
/// More than the history takes as text.
const HISTORY_ROOM: usize = 2 << 20;
/// More than telling a black box takes.
const STORY_ROOM: usize = 4 * FILE_BYTES;

/// `memguard.evidence`
pub fn evidence(words: &[&str]) -> Result<Answer, Fault> {
    reports::no_arguments(words, "memguard.evidence")?;
    let region = region()?;
    let folder = profile::folder_set()?;
    let name = format!("memguard-evidence-{}", format::stamp(state::wall_ms()));
    let beside = folder.join(format!(".{name}.{}", std::process::id()));
    let place = folder.join(name);
    let mut writing = Writing {
        folder: &beside,
        is_whole: false,
        files: Vec::new(),
        bytes: 0,
    };
    let mut write = || {
        fs::DirBuilder::new().mode(0o755).create(&beside)?;
        writing.all(region)?;
        fs::rename(&beside, &place)?;
        writing.is_whole = true;
        Ok(())
    };
    write().map_err(|e: io::Error| profile::not_written(folder, &e))?;
    Ok(Answer::One(vec![
        ("folder", word(place.display())),
        ("report", word(place.join(REPORT).display())),
        ("files", int(writing.files.len() as u64)),
        ("bytes", Node::Count(writing.bytes)),
    ]))
}

/// The folder that is being filled. Half a folder does not stay, however the filling ends.
struct Writing<'a> {
    folder: &'a Path,
    is_whole: bool,
    files: Vec<(String, &'static str)>,
    bytes: u64,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if !self.is_whole {
            let _ = fs::remove_dir_all(self.folder);
        }
    }
}

impl Writing<'_> {
    fn file(&mut self, name: &str, what: &'static str, bytes: &[u8]) -> io::Result<()> {
        let beside = self.folder.join(".beside");
        replace::replace(&self.folder.join(name), &beside, bytes)?;
        self.files.push((name.to_owned(), what));
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn all(&mut self, region: &Region) -> io::Result<()> {
        let text = json::public_json();
        let what = "what every command answers: status, pools, workers, places, failures, configuration, forecast";
        self.file("memguard.json", what, text.as_bytes())?;
        drop(text);
        let text = measures::text();
        let what = "the metrics, as Prometheus reads them";
        self.file("metrics.prom", what, text.as_bytes())?;
        self.heaps()?;
        own_memory::need(HISTORY_ROOM);
        let what = "the last hour by second: bytes used, rates, level";
        self.file("hour.csv", what, history(region, SECONDS, 1).as_bytes())?;
        let what = "the last day by minute";
        self.file("day.csv", what, history(region, MINUTES, 60).as_bytes())?;
        // Told where there is memory for it; the black box itself outlives a restart.
        if let Ok(Some(told)) = own_memory::scope(told) {
            let what = "what the black box tells of this run and those before";
            self.file("blackbox.txt", what, told.as_bytes())?;
        }
        let text = self.report(region);
        let what = "this report";
        self.file(REPORT, what, text.as_bytes())
    }

    /// The heap by place and by path, for pprof, for flame graphs and as a picture.
    fn heaps(&mut self) -> io::Result<()> {
        let written = profile::with_public_heaps(|held, reached| {
            own_memory::need(held.samples.len() * SAMPLE_ROOM);
            let what = "the live heap by place, for pprof";
            self.file("heap.pb", what, &format::encode(held))?;
            let what = "the same as folded stacks, for flame graphs";
            self.file("heap.folded", what, format::folded(held).as_bytes())?;
            let Some(reached) = reached else {
                return Ok(());
            };
            own_memory::need(reached.samples.len() * SAMPLE_ROOM + 2 * flame::MOST_BYTES);
            let what = "the live heap by call path, for pprof";
            self.file("paths.pb", what, &format::encode(reached))?;
            let folded = format::folded(reached);
            let what = "the same as folded stacks";
            self.file("paths.folded", what, folded.as_bytes())?;
            let what = "the same as a picture (flame graph)";
            let picture = flame::flame(&folded, flame::SUBJECT);
            self.file("paths.svg", what, picture.as_bytes())
        });
        written.unwrap_or(Ok(())) // places are not counted: there is nothing to write
    }

    fn report(&self, region: &Region) -> String {
        let now = Now::of(region);
        let (now_s, uptime_s) = (state::date(now.at_ms / 1000), now.uptime_s());
        let suspects = suspects(now_s, uptime_s);
        let (explanation, exhaustion) = forecast_reports::in_words(&now);
        let report = Report {
            kamailio: measures::BUILD.kamailio,
            version: measures::BUILD.version,
            system: &system(),
            managers: hooks::manager_names(),
            now_s,
            uptime_s,
            processes: hooks::processes() as u64,
            messages: reports::total(region, |row| row.sip.messages.get()),
            level: now.level(),
            explanation: &explanation,
            exhaustion: &exhaustion,
            pools: &pools(&now),
            suspects: &suspects,
            sample_bytes: region.settings.get_u64(Int::SampleBytes),
            before: state::before(),
            files: &self.files,
        };
        report.markdown()
    }
}

/// What rises, with the way to it that grows most.
fn suspects(now_s: u64, uptime_s: u64) -> Vec<Suspect> {
    let ways = path_reports::all();
    let rising = site_reports::rising(SUSPECTS).into_iter();
    rising
        .map(|(site, per_message, per_register)| {
            let growth = site
                .growth
                .map_or(0.0, |growth| growth.now)
                .max(f64::MIN_POSITIVE);
            let age = (site.live_bytes.max(0) as f64 / growth).min(uptime_s as f64) as u64;
            let is_here = |path: &&paths::Path| {
                (path.pool, &path.file, path.line) == (site.pool, &site.file, site.line)
                    && path.function == site.function
            };
            let mut here = ways.iter().filter(is_here).cloned();
            let path = here.next();
            let is_growing = |path: &paths::Path| path.growth > 0.0;
            Suspect {
                path,
                others: here.filter(is_growing).take(OTHER_WAYS).collect(),
                since_s: now_s.saturating_sub(age),
                site,
                per_message,
                per_register,
            }
        })
        .collect()
}

fn pools(now: &Now) -> Vec<PoolUse> {
    now.uses()
        .map(|(pool, size, used)| PoolUse {
            pool,
            size,
            used,
            permyriad: permyriad(used, size),
        })
        .collect()
}

/// The remembered figures at a step, as comma-separated values.
fn history(region: &Region, points: usize, step_s: u64) -> String {
    let past = Track::ALL
        .iter()
        .map(|track| region.history.last(*track, points, step_s).values);
    let past: Vec<Vec<u64>> = past.collect();
    let newest_s = state::date(region.history.newest_s());
    let names = Track::ALL.iter().map(|track| match track.is_rate() {
        true => format!("{track}_per_1000_s"),
        false => track.to_string(),
    });
    let mut out = format!("unix_time,{}\n", names.collect::<Vec<_>>().join(","));
    let rows = past.iter().map(Vec::len).min().unwrap_or(0);
    for row in 0..rows {
        let back = (rows - 1 - row) as u64 * step_s;
        out.push_str(&newest_s.saturating_sub(back).to_string());
        for values in &past {
            // Tracks are written one after the other: the newest belong together.
            let value = values
                .len()
                .checked_sub(rows)
                .and_then(|first| values.get(first + row));
            out.push(',');
            out.push_str(&value.copied().unwrap_or(0).to_string());
        }
        out.push('\n');
    }
    out
}

/// What the black box tells; `None` without one.
fn told() -> Option<String> {
    let file = state::tables()?.texts.get(Text::BlackBox);
    let size = fs::metadata(file).ok()?.len();
    if file.is_empty() || size > FILE_BYTES as u64 {
        return None;
    }
    own_memory::need(STORY_ROOM);
    let found = reading::read(&fs::read(file).ok()?).ok()?;
    let scene = story::Scene {
        file: file.to_owned(),
        is_held: true,
        ..story::Scene::default()
    };
    Some(evidence::without_addresses(&story::tell(&found, &scene)))
}

/// The system's name, as it calls itself.
fn system() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let mut names = text
        .lines()
        .filter_map(|line| line.strip_prefix("PRETTY_NAME="));
    names
        .next()
        .unwrap_or_default()
        .trim_matches('"')
        .to_owned()
}
