//! The answer of `memguard.check` in the form of monitoring plugins: code, one line of text, performance data.
//! Forbidden here: reading anything; a `|` in the text (what follows it is performance data).

use std::fmt::Write;

use crate::guard::filters::Check;
use crate::guard::level::Thresholds;
use crate::guard::text::{NONE_FORESEEN_S, Span, Until};
use crate::guard::words::{Level, Pool};

/// Warning and critical when nothing else is asked for: a day, and an hour.
const SECONDS: (u32, u32) = (86_400, 3600);
/// A sample older than this many intervals (and ten seconds) makes everything unknown.
const STALE_INTERVALS: u64 = 3;

/// Use of one pool or limit.
#[derive(Clone, Copy, Debug)]
pub struct Use {
    /// Which.
    pub pool: Pool,
    /// In 1/100 percent.
    pub permyriad: u32,
    /// Its thresholds.
    pub thresholds: Thresholds,
}

/// What the verdict is about.
#[derive(Clone, Debug)]
pub struct State {
    /// The server's level.
    pub level: Level,
    /// shm, pkg and, where it is known, os.
    pub uses: Vec<Use>,
    /// Bytes left before the tightest is full.
    pub headroom: u64,
    /// Seconds until the first one is full; [`NONE_FORESEEN_S`]: none foreseen.
    pub exhaustion_s: u64,
    /// Share of new registrations that is refused, percent.
    pub shed_pct: u64,
    /// Age of the last sample, and the time between two.
    pub sample_age_ms: u64,
    /// As above.
    pub sample_interval_ms: u64,
}

/// The code's word, as plugins spell it; the code is the place: 0 OK … 3 UNKNOWN.
pub const WORDS: [&str; 4] = ["OK", "WARNING", "CRITICAL", "UNKNOWN"];

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// 0 to 3.
    pub code: u8,
    /// One line for people.
    pub text: String,
    /// `label=value[unit];warning;critical;smallest;largest`, by spaces.
    pub perfdata: String,
}

fn code(is_warning: bool, is_critical: bool) -> u8 {
    if is_critical { 2 } else { u8::from(is_warning) }
}

/// Without limits the level decides (warning; shedding and emergency are critical); with them the use of each pool.
/// The time left decides as well.
pub fn check(state: &State, limits: &Check) -> Verdict {
    let (warn_s, crit_s) = limits.seconds.unwrap_or(SECONDS);
    let by_use = match limits.pct {
        None => code(
            state.level >= Level::Warning,
            state.level >= Level::Shedding,
        ),
        Some((warn, crit)) => {
            let reaches = |pct: u32| state.uses.iter().any(|u| u.permyriad >= pct * 100);
            code(reaches(warn), reaches(crit))
        }
    };
    let is_foreseen = state.exhaustion_s < NONE_FORESEEN_S;
    let by_time = code(
        is_foreseen && state.exhaustion_s < u64::from(warn_s),
        is_foreseen && state.exhaustion_s < u64::from(crit_s),
    );
    let oldest = 10_000.max(state.sample_interval_ms.saturating_mul(STALE_INTERVALS));
    let is_stale = state.sample_age_ms > oldest;
    let code = if is_stale { 3 } else { by_use.max(by_time) };
    let word = WORDS.get(usize::from(code)).copied().unwrap_or("UNKNOWN");
    let mut text = format!("MEMGUARD {word} - ");
    // Writing to a String cannot fail.
    if is_stale {
        let age = Span(state.sample_age_ms / 1000);
        let _ = write!(text, "the last sample is {age} old; it said: ");
    }
    let _ = write!(text, "level {}", state.level);
    for u in &state.uses {
        let _ = write!(
            text,
            ", {} {}.{} %",
            u.pool,
            u.permyriad / 100,
            u.permyriad % 100 / 10
        );
    }
    let _ = match state.exhaustion_s {
        NONE_FORESEEN_S.. => write!(text, ", no end foreseen"),
        s => write!(text, ", full in {}", Until(s)),
    };
    if state.shed_pct > 0 {
        let _ = write!(
            text,
            ", {} % of new registrations are refused",
            state.shed_pct
        );
    }
    Verdict {
        code,
        text,
        perfdata: perfdata(state, limits, warn_s, crit_s),
    }
}

fn perfdata(state: &State, limits: &Check, warn_s: u32, crit_s: u32) -> String {
    let mut out = String::new();
    for u in &state.uses {
        let (warn, crit) = limits
            .pct
            .unwrap_or((u.thresholds.warning, u.thresholds.shed));
        let (whole, rest) = (u.permyriad / 100, u.permyriad % 100);
        let _ = write!(out, "{}={whole}.{rest:02}%;{warn};{crit};0;100 ", u.pool);
    }
    let (headroom, left, level) = (state.headroom, state.exhaustion_s, state.level.index());
    // "10:" is a range: a value below 10 is bad.
    let _ = write!(
        out,
        "headroom={headroom}B;;;0 exhaustion={left}s;{warn_s}:;{crit_s}:;0 level={level};0;1;0;3 shed={}%;;;0;100",
        state.shed_pct
    );
    out
}
