//! Words for people: durations and sizes, and numbers that a report may print.
//! Forbidden here: deciding anything; allocation (these are `Display`s, the caller has the buffer).

use std::fmt::{Display, Formatter, Result};

/// Seconds that stand for "none foreseen" (30 days; design §6).
pub const NONE_FORESEEN_S: u64 = 2_592_000;

/// A time until something happens, in seconds: `5h 33m`, and "none foreseen" from [`NONE_FORESEEN_S`] on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Until(pub u64);

impl Display for Until {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        if self.0 >= NONE_FORESEEN_S {
            return f.pad("none foreseen");
        }
        Span(self.0).fmt(f)
    }
}

/// A length of time in seconds, in its two largest units: `42s`, `12m 5s`, `5h 33m`, `3d 4h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub u64);

impl Display for Span {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let (minute, hour, day) = (60, 3600, 86_400);
        match self.0 {
            s if s < minute => write!(f, "{s}s"),
            s if s < hour => write!(f, "{}m {}s", s / minute, s % minute),
            s if s < day => write!(f, "{}h {}m", s / hour, s % hour / minute),
            s => write!(f, "{}d {}h", s / day, s % day / hour),
        }
    }
}

/// A size in bytes: `512 B`, `12.3 MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl Display for Bytes {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = "KiB";
        for larger in ["MiB", "GiB", "TiB", "PiB", "EiB"] {
            // 1023.95 would round to "1024.0"
            if value < 1023.95 {
                break;
            }
            value /= 1024.0;
            unit = larger;
        }
        write!(f, "{value:.1} {unit}")
    }
}

/// The largest number that a report prints: every whole number up to it is exact in a double (2^53).
pub const LARGEST: f64 = 9_007_199_254_740_992.0;

/// A number that a report may print: NaN becomes 0, and what is larger than [`LARGEST`] becomes that.
pub fn finite(value: f64) -> f64 {
    if value.is_nan() {
        return 0.0;
    }
    value.clamp(-LARGEST, LARGEST) + 0.0 // -0.0 becomes 0.0
}

/// As [`finite`], and what is negative becomes 0.
pub fn non_negative(value: f64) -> f64 {
    finite(value).max(0.0)
}

/// Seconds until something, for a report: whole, at least 0, at most [`NONE_FORESEEN_S`]; NaN is "none foreseen".
pub fn seconds(value: f64) -> u64 {
    if value.is_nan() || value >= NONE_FORESEEN_S as f64 {
        return NONE_FORESEEN_S;
    }
    value.max(0.0) as u64
}
