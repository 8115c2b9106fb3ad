//! A run of the black box in one sentence, for the log of the next one, and the figures that the story takes too.
//! Forbidden here: I/O and clocks; foreign text.

use serde_json::Value;

use crate::guard::decide::{
    level::permyriad,
    track::{Track, Values},
};
use crate::guard::formats::{
    blackbox::reading::{Fate, Run},
    page::markup::{Moment, Percent},
};
use crate::guard::terms::{
    text::Span,
    words::{Level, Pool},
};

/// A run in one sentence, for the log of the next one; `None` where it was stopped in order at level normal. `boot`:
/// which start of the machine it is now.
pub fn sentence(run: &Run, boot: Option<&str>) -> Option<String> {
    let level = run
        .seconds
        .last()
        .map_or(0, |(_, values)| value(values, Track::Level));
    let level = Level::from_index(level).unwrap_or(Level::Normal);
    let how = match run.fate(false, boot) {
        Fate::Stopped if level == Level::Normal => return None,
        Fate::Stopped => "was stopped",
        Fate::ProcessDied => "ended because one of its processes died",
        Fate::MainVanished => "ended because its main process vanished",
        Fate::MachineDown => "ended without a shutdown before the machine was started anew",
        Fate::Killed | Fate::Running => "was killed, all processes at once",
    };
    let pool = tightest(run);
    let used = run
        .seconds
        .last()
        .map_or(0, |(_, values)| value(values, track(pool)));
    Some(format!(
        "the run before, from {} on for {}, {how} at level {level}, {pool} at {} %",
        Moment(run.start_s()),
        Span(run.length_s()),
        Percent(permyriad(used, size(run, pool)))
    ))
}

/// Size of a pool in a run; 0 when unknown.
pub(super) fn size(run: &Run, pool: Pool) -> u64 {
    match pool {
        Pool::Shm => number(&run.identity, "shm_size"),
        Pool::Pkg => number(&run.identity, "pkg_size"),
        Pool::Os => rows(run.last_view(), "pools")
            .iter()
            .find(|row| row["name"] == "os")
            .map_or(0, |row| number(row, "size")),
    }
}

pub(super) fn track(pool: Pool) -> Track {
    match pool {
        Pool::Shm => Track::ShmUsed,
        Pool::Pkg => Track::PkgUsed,
        Pool::Os => Track::OsUsed,
    }
}

pub(super) fn value(values: &Values, track: Track) -> u64 {
    values.get(track.index()).copied().unwrap_or(0)
}

/// The pool that was tightest when it was last looked at.
pub(super) fn tightest(run: &Run) -> Pool {
    let word = run
        .last_view()
        .and_then(|view| view["status"]["tightest"].as_str());
    word.and_then(Pool::parse).unwrap_or(Pool::Shm)
}

pub(super) fn rows<'a>(view: Option<&'a Value>, name: &str) -> &'a [Value] {
    view.and_then(|view| view[name].as_array())
        .map_or(&[], Vec::as_slice)
}

pub(super) fn number(value: &Value, name: &str) -> u64 {
    let found = &value[name];
    found
        .as_u64()
        .unwrap_or_else(|| found.as_f64().unwrap_or(0.0) as u64)
}
