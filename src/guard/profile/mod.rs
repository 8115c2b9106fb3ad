//! A heap profile: who holds how much, with stacks; as pprof's protobuf and as folded stacks for flame graphs.
//! Forbidden here: reading counters, files or clocks.

mod binaries;
mod pprof;

pub use binaries::{Mapping, build_id, mappings};
pub use pprof::encode;

/// One step of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frame<'a> {
    /// What it is called: a function, or what stands around it (module, pool).
    pub function: &'a str,
    /// File it is in; empty: none.
    pub file: &'a str,
    /// Line; 0: none.
    pub line: u32,
    /// Index into the profile's mappings of the binary that it belongs to.
    pub mapping: Option<usize>,
}

/// What is held at one stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample<'a> {
    /// The innermost first.
    pub stack: [Frame<'a>; 3],
    /// Blocks and bytes allocated since the start.
    pub allocated: (u64, u64),
    /// Blocks and bytes allocated and not freed.
    pub live: (u64, u64),
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
    /// The loaded binaries, the main one first.
    pub mappings: &'a [Mapping],
    /// Who holds what.
    pub samples: Vec<Sample<'a>>,
    /// What the profile is of, in sentences.
    pub comments: Vec<String>,
}

impl Profile<'_> {
    /// Live bytes of all samples.
    pub fn live_bytes(&self) -> u64 {
        self.samples
            .iter()
            .fold(0, |sum, sample| sum.saturating_add(sample.live.1))
    }
}

/// Folded stacks, outermost first and separated by semicolons, with their live bytes: what flamegraph.pl, inferno and
/// speedscope read. Equal stacks are one line; stacks that hold nothing are left out.
pub fn folded(profile: &Profile) -> String {
    let mut lines: Vec<(String, u64)> = profile
        .samples
        .iter()
        .filter(|sample| sample.live.1 > 0)
        .map(|sample| {
            let steps: Vec<String> = sample.stack.iter().rev().map(step).collect();
            (steps.join(";"), sample.live.1)
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

fn step(frame: &Frame) -> String {
    let plain = frame.function.replace([';', '\n'], ":");
    match frame.line {
        0 => plain,
        line => format!("{plain} ({}:{line})", frame.file.replace([';', '\n'], ":")),
    }
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

    fn sample(function: &str, line: u32, bytes: u64) -> Sample<'_> {
        let around = |function| Frame {
            function,
            file: "",
            line: 0,
            mapping: None,
        };
        let own = Frame {
            file: "a.c",
            line,
            ..around(function)
        };
        Sample {
            stack: [own, around("htable"), around("shm")],
            allocated: (1, bytes),
            live: (1, bytes),
            labels: Vec::new(),
        }
    }

    #[test]
    fn folded_stacks_begin_at_the_outermost_and_equal_ones_are_summed() {
        let profile = Profile {
            samples: vec![
                sample("new", 7, 10),
                sample("a;b", 1, 1),
                sample("new", 7, 5),
                sample("gone", 2, 0),
            ],
            ..Profile::default()
        };
        assert_eq!(
            folded(&profile),
            "shm;htable;a:b (a.c:1) 1\nshm;htable;new (a.c:7) 15\n"
        );
        assert_eq!(profile.live_bytes(), 16);
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
