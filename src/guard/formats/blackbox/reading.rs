//! What can be read of a black box, whatever happened to its bytes: runs, oldest first, and what is wrong with the file.
//! Forbidden here: I/O, clocks, panics, and believing a record that is not whole.

use serde_json::Value;

use crate::guard::decide::track::{Track, Values};
use crate::guard::formats::blackbox::format::{self, FILE_BYTES, Head, RUNS, Ring, Slot};
use crate::guard::terms::event::Event;

/// A black box as it was read.
#[derive(Clone, Debug, Default)]
pub struct BlackBox {
    /// The runs, oldest first.
    pub runs: Vec<Run>,
    /// One sentence each about what is wrong with the file.
    #[cfg_attr(not(feature = "surface"), allow(dead_code))] // memguard-blackbox tells them
    pub complaints: Vec<String>,
}

/// One run of the server.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Counts the runs of this file from 1 on.
    pub number: u64,
    /// Which section holds it.
    pub section: usize,
    /// Who it was: versions, sizes, start (`start_ms`), boot, pid.
    pub identity: Value,
    /// How it ended, where that could still be written.
    pub end: Option<Value>,
    /// Unix seconds and the tracks' values, oldest first.
    pub seconds: Vec<(u64, Values)>,
    /// The same by minute.
    pub minutes: Vec<(u64, Values)>,
    /// Level changes, oldest first.
    pub events: Vec<Event>,
    /// Views of the whole, oldest first; the last one is the newest that there is.
    pub views: Vec<Value>,
    /// Records that were not whole.
    pub torn: usize,
}

/// Reads a file's bytes.
///
/// # Errors
/// One sentence, when nothing can be read at all.
pub fn read(bytes: &[u8]) -> Result<BlackBox, String> {
    if bytes.is_empty() {
        return Err("it is empty: no run of the server was recorded in it".into());
    }
    let mut complaints = Vec::new();
    match format::read_head(bytes) {
        Head::Ours => (),
        Head::Format(other) => {
            return Err(format!(
                "it is a black box of format {other}, and this memguard-blackbox reads format {}: use the one that \
                 belongs to the memguard that wrote it",
                format::FORMAT
            ));
        }
        Head::Foreign => complaints
            .push("the head of the file is damaged; what follows was found without it".to_owned()),
    }
    if bytes.len() < FILE_BYTES {
        complaints.push(format!(
            "the file is cut off: {} of {FILE_BYTES} bytes are there; what follows is what they hold",
            bytes.len()
        ));
    }
    let mut runs: Vec<Run> = (0..RUNS).filter_map(|at| run(bytes, at)).collect();
    runs.sort_by_key(|run| run.number);
    if runs.is_empty() {
        return Err(match complaints.is_empty() {
            true => "no run of the server was recorded in it yet".into(),
            false if bytes.starts_with(&format::MAGIC) => {
                "it is a black box of memguard, but too damaged: no run can be read".into()
            }
            false => "it is not a black box of memguard".into(),
        });
    }
    let torn: usize = runs.iter().map(|run| run.torn).sum();
    if torn > 0 {
        complaints.push(format!(
            "{torn} {} not whole and left out",
            if torn == 1 {
                "record is"
            } else {
                "records are"
            }
        ));
    }
    Ok(BlackBox { runs, complaints })
}

/// The run of one section; `None` when there is none that can be read.
fn run(bytes: &[u8], section: usize) -> Option<Run> {
    let (_, payload) = whole(bytes, section, 0, Ring::Identity).0.pop()?;
    let (number, text) = format::payload_text(&payload)?;
    let mut run = Run {
        number,
        section,
        identity: serde_json::from_str(&text).ok()?,
        ..Run::default()
    };
    let mut records = |ring| {
        let (records, torn) = whole(bytes, section, number, ring);
        run.torn += torn;
        records
    };
    let end = records(Ring::End)
        .pop()
        .and_then(|(_, payload)| view(&payload));
    let seconds = records(Ring::Seconds).iter().filter_map(sample).collect();
    let minutes = records(Ring::Minutes).iter().filter_map(sample).collect();
    let events = records(Ring::Events);
    let views = records(Ring::Views);
    let latest = records(Ring::Latest);
    run.end = end;
    run.seconds = seconds;
    run.minutes = minutes;
    run.events = events
        .iter()
        .filter_map(|(_, payload)| Event::unpack(payload.as_slice().try_into().ok()?))
        .collect();
    // The newest one may stand in both rings.
    let mut views: Vec<(u64, Value)> = views
        .iter()
        .chain(latest.last())
        .filter_map(|(_, payload)| Some((*payload.first()?, view(payload)?)))
        .collect();
    views.sort_by_key(|(time, _)| *time);
    run.views = views.into_iter().map(|(_, view)| view).collect();
    Some(run)
}

/// The whole records of a ring by their number, and how many slots are torn.
fn whole(bytes: &[u8], section: usize, run: u64, ring: Ring) -> (Vec<(u64, Vec<u64>)>, usize) {
    let mut torn = 0;
    let mut records = Vec::new();
    for slot in format::slots(bytes, section, run, ring) {
        match slot {
            Slot::Empty => (),
            Slot::Torn => torn += 1,
            Slot::Whole(number, payload) => records.push((number, payload)),
        }
    }
    records.sort_unstable_by_key(|(number, _)| *number);
    (records, torn)
}

fn view(payload: &[u64]) -> Option<Value> {
    let (_, text) = format::payload_text(payload)?;
    serde_json::from_str(&text).ok()
}

fn sample((_, payload): &(u64, Vec<u64>)) -> Option<(u64, Values)> {
    let (time, values) = payload.split_first()?;
    Some((*time, values.get(..Track::COUNT)?.try_into().ok()?))
}

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It runs now.
    Running,
    /// It was told to stop.
    Stopped,
    /// One of its processes died, and Kamailio stopped itself.
    ProcessDied,
    /// Its main process vanished.
    MainVanished,
    /// All of it was gone at once.
    Killed,
    /// The machine has been started anew since, and nothing of an end was written.
    MachineDown,
}

impl Fate {
    /// The word of `--json`.
    pub const fn word(self) -> &'static str {
        match self {
            Fate::Running => "running",
            Fate::Stopped => "stopped",
            Fate::ProcessDied => "process_died",
            Fate::MainVanished => "main_vanished",
            Fate::Killed => "killed",
            Fate::MachineDown => "machine_down",
        }
    }

    /// The fate of an end's word.
    fn of(word: &str) -> Option<Fate> {
        [Fate::Stopped, Fate::ProcessDied, Fate::MainVanished]
            .into_iter()
            .find(|fate| fate.word() == word)
    }
}

impl Run {
    /// What became of it. `is_held`: the server that writes this file is alive; `boot`: which start of the machine it
    /// is now, or was at the next run's start.
    pub fn fate(&self, is_held: bool, boot: Option<&str>) -> Fate {
        let written = self
            .end
            .as_ref()
            .and_then(|end| Fate::of(end["how"].as_str()?));
        let then = self.identity["boot"].as_str();
        match written {
            Some(fate) => fate,
            None if is_held => Fate::Running,
            None => match (then, boot) {
                (Some(then), Some(boot)) if then != boot => Fate::MachineDown,
                _ => Fate::Killed,
            },
        }
    }

    /// When it started, Unix seconds.
    pub fn start_s(&self) -> u64 {
        self.identity["start_ms"].as_u64().unwrap_or(0) / 1000
    }

    /// The last moment that anything is known of, Unix seconds.
    pub fn last_s(&self) -> u64 {
        let end = self.end.as_ref().and_then(|end| end["time"].as_u64());
        let second = self.seconds.last().map(|(time, _)| *time);
        end.max(second).unwrap_or(0).max(self.start_s())
    }

    /// How long it lasted, seconds.
    pub fn length_s(&self) -> u64 {
        self.last_s().saturating_sub(self.start_s())
    }

    /// The newest view of the whole.
    pub fn last_view(&self) -> Option<&Value> {
        self.views.last()
    }
}

/// A run that lasted less than this is the first to be overwritten: of a server that starts and dies again and again,
/// the long run before is what matters.
const SHORT_S: u64 = 600;

/// Which section a new run takes, and its number: an unused one; else the oldest of the short runs, but for the last
/// run of all; else the oldest.
pub fn next_run(runs: &[Run]) -> (usize, u64) {
    let number = runs.iter().map(|run| run.number).max().unwrap_or(0);
    let is_free = |section: &usize| runs.iter().all(|run| run.section != *section);
    let oldest_short = || {
        let before = runs.iter().filter(|run| run.number != number);
        before
            .filter(|run| run.length_s() < SHORT_S)
            .min_by_key(|run| run.number)
    };
    let oldest = || runs.iter().min_by_key(|run| run.number);
    let section = (0..RUNS)
        .find(is_free)
        .or_else(|| oldest_short().or_else(oldest).map(|run| run.section));
    (section.unwrap_or(0), number.wrapping_add(1).max(1))
}
