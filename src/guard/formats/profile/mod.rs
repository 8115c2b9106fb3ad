//! A heap profile: who holds how much, with stacks; as pprof's protobuf and as folded stacks for flame graphs.
//! Forbidden here: reading counters, files or clocks.

mod binaries;
pub mod flame;
mod pprof;
mod stacks;

pub use crate::guard::formats::profile::binaries::{Mapping, build_id, mappings};
pub use crate::guard::formats::profile::pprof::encode;
pub use crate::guard::formats::profile::stacks::{Stacks, call};

/// A function, on a line of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Line<'a> {
    /// What it is called: a function, or what stands around it (module, pool).
    pub function: &'a str,
    /// File it is in; empty: not known, or none.
    pub file: &'a str,
    /// Line; 0: not known, or none.
    pub line: u32,
}

/// One step of a stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Address of the call; 0: the step is no code of its own.
    pub address: u64,
    /// Index into the profile's mappings of the binary that it belongs to.
    pub mapping: Option<usize>,
    /// What is there: several, the innermost first, where the compiler made one part of the other; none: not known.
    pub lines: Vec<Line<'a>>,
    /// What folded stacks call it.
    pub text: String,
}

impl<'a> Frame<'a> {
    /// A step without an address.
    pub fn named(line: Line<'a>, mapping: Option<usize>) -> Frame<'a> {
        Frame {
            address: 0,
            mapping,
            lines: vec![line],
            text: stacks::text(&line),
        }
    }
}

/// What is held at one stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample<'a> {
    /// What its folded stack begins with, where that is none of the frames; empty: nothing.
    pub root: &'a str,
    /// Indices into the profile's frames, the innermost first.
    pub stack: Vec<usize>,
    /// One for each of the profile's kinds; the last is what is live, in bytes.
    pub values: Vec<u64>,
    /// Names with words to tell samples of equal stacks apart ("worker", "2").
    pub labels: Vec<(&'a str, &'a str)>,
}

/// A heap at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile<'a> {
    /// Unix time in milliseconds.
    pub time_ms: u64,
    /// How long the server has run, milliseconds.
    pub uptime_ms: u64,
    /// What its values are, with their units; the last is what is live.
    pub kinds: &'a [(&'a str, &'a str)],
    /// Which of them is shown unless one asks for another; empty: the last.
    pub shown: &'a str,
    /// Bytes for which there is one sample.
    pub period: u64,
    /// Whether functions, files and lines are known as well as they can be; else debug symbols may say more.
    pub is_named: bool,
    /// The loaded binaries, the main one first.
    pub mappings: &'a [Mapping],
    /// The steps of the stacks.
    pub frames: Vec<Frame<'a>>,
    /// Who holds what.
    pub samples: Vec<Sample<'a>>,
    /// What the profile is of, in sentences.
    pub comments: Vec<String>,
}

impl Sample<'_> {
    fn live_bytes(&self) -> u64 {
        self.values.last().copied().unwrap_or_default()
    }
}

impl Profile<'_> {
    /// Live bytes of all samples.
    pub fn live_bytes(&self) -> u64 {
        let bytes = self.samples.iter().map(Sample::live_bytes);
        bytes.fold(0, u64::saturating_add)
    }
}

/// Folded stacks, outermost first and separated by semicolons, with their live bytes: what flamegraph.pl, inferno and
/// speedscope read. Equal stacks are one line; stacks that hold nothing are left out.
pub fn folded(profile: &Profile) -> String {
    let text = |at: &usize| profile.frames.get(*at).map_or("?", |f| f.text.as_str());
    let mut lines: Vec<(String, u64)> = profile
        .samples
        .iter()
        .filter(|sample| sample.live_bytes() > 0)
        .map(|sample| {
            let root = Some(sample.root).filter(|root| !root.is_empty());
            let steps = root.into_iter().chain(sample.stack.iter().rev().map(text));
            let steps: Vec<&str> = steps.collect();
            (steps.join(";"), sample.live_bytes())
        })
        .collect();
    lines.sort();
    lines.dedup_by(|next, kept| {
        let is_same = next.0 == kept.0;
        if is_same {
            kept.1 = kept.1.saturating_add(next.1);
        }
        is_same
    });
    lines
        .iter()
        .map(|(stack, bytes)| format!("{stack} {bytes}\n"))
        .collect()
}

/// A time in UTC as it stands in file names: `20261121-043012.123`.
pub fn stamp(time_ms: u64) -> String {
    let (s, ms) = (time_ms / 1000, time_ms % 1000);
    let (year, month, day) = civil(s / 86_400);
    let (hour, minute, second) = (s / 3600 % 24, s / 60 % 60, s % 60);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}.{ms:03}")
}

/// Year, month and day of a day since 1970, by counting 400-year eras that begin on 1 March.
fn civil(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468; // from 1 March of year 0
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153; // 0: March
    let of_month = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (400 * era + year + u64::from(month <= 2), month, of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folded_stacks_begin_at_the_outermost_and_equal_ones_are_summed() {
        let line = |function, line| Line {
            function,
            file: "a.c",
            line,
        };
        let lines = [
            line("new", 7),
            line("a;b", 1),
            line("gone", 2),
            line("shm", 0),
        ];
        let sample = |at, bytes| Sample {
            root: if bytes == 7 { "all" } else { "" },
            stack: vec![at, 3],
            values: vec![1, bytes],
            labels: Vec::new(),
        };
        let profile = Profile {
            frames: lines.map(|line| Frame::named(line, None)).into(),
            samples: [(0, 10), (1, 1), (0, 5), (2, 0), (1, 7)]
                .map(|(at, bytes)| sample(at, bytes))
                .into(),
            ..Profile::default()
        };
        assert_eq!(
            folded(&profile),
            "all;shm;a:b (a.c:1) 7\nshm;a:b (a.c:1) 1\nshm;new (a.c:7) 15\n"
        );
        assert_eq!(profile.live_bytes(), 23);
    }

    #[test]
    fn times_are_dates_of_the_calendar() {
        for (s, text) in [
            (0, "19700101-000000"),
            (951_782_400, "20000229-000000"),
            (1_735_689_599, "20241231-235959"),
            (1_795_235_412, "20261121-043012"),
            (4_107_542_400, "21000301-000000"),
        ] {
            assert_eq!(stamp(s * 1000 + 5), format!("{text}.005"));
        }
    }
}
