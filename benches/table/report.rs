//! The table: each line with what was measured, what it must hold, and whether it does.
//! Forbidden here: measuring.

use std::fmt;

/// A miss beyond this part of its bound fails the run; less is shown only.
const TOLERANCE: f64 = 0.10;

struct Line {
    what: String,
    measured: f64,
    at_most: Option<f64>,
    unit: &'static str,
}

impl Line {
    /// By how much of its bound the line misses; 0 when it holds.
    fn miss(&self) -> f64 {
        self.at_most
            .map_or(0.0, |bound| (self.measured / bound - 1.0).max(0.0))
    }
}

/// All lines of one run.
#[derive(Default)]
pub struct Table {
    lines: Vec<Line>,
}

impl Table {
    /// A line that must hold a bound.
    pub fn add(
        &mut self,
        what: impl Into<String>,
        measured: f64,
        unit: &'static str,
        at_most: f64,
    ) {
        self.push(Line {
            what: what.into(),
            measured,
            at_most: Some(at_most),
            unit,
        });
    }

    /// A line that only informs.
    pub fn note(&mut self, what: impl Into<String>, measured: f64, unit: &'static str) {
        self.push(Line {
            what: what.into(),
            measured,
            at_most: None,
            unit,
        });
    }

    fn push(&mut self, line: Line) {
        eprintln!("   {line}");
        self.lines.push(line);
    }

    /// Whether a line misses its bound by more than the tolerance.
    pub fn has_missed(&self) -> bool {
        self.lines.iter().any(|line| line.miss() > TOLERANCE)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<66} {:>9.3} {:<3}",
            self.what, self.measured, self.unit
        )?;
        match self.at_most {
            None => Ok(()),
            Some(bound) if self.miss() == 0.0 => {
                write!(f, " at most {bound:>7} {:<3} OK", self.unit)
            }
            Some(bound) => write!(
                f,
                " at most {bound:>7} {:<3} MISS by {:.1} %",
                self.unit,
                self.miss() * 100.0
            ),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// The middle one of some measurements; 0 of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// The tenth part from below of some times: what it costs when nobody else has the core; 0 of none.
pub fn undisturbed(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 10).copied().unwrap_or(0.0)
}

/// Says what is being measured now.
pub fn progress(what: &str) {
    eprintln!("-- {what}");
}
