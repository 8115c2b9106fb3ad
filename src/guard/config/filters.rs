//! Arguments of the RPC commands: words (numbers as words too) to a typed request.
//! Forbidden here: looking anything up; whether a worker or a name exists is the caller's to say (404).

use crate::guard::decide::track::Track;
use crate::guard::terms::words::{Mode, Pool};

/// The error of every parser here, the sentence of fault 400: what its command accepts.
pub type Rejected = String;

/// Longest duration of `memguard.shed` in seconds (a day).
pub const MAX_SHED_S: u32 = 86_400;
/// Longest name of a mark in bytes.
pub const MAX_NAME: usize = 32;

/// Which workers `memguard.workers` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// All of them.
    All,
    /// The process with this system pid.
    Pid(i32),
    /// The processes of this Kamailio rank; negative for those that are no SIP workers.
    Rank(i32),
    /// The process with this `core.psx` index.
    Index(u32),
    /// Those whose leak is suspected or confirmed.
    Leaking,
    /// The N fullest.
    Top(u32),
}

/// What `memguard.sites` and `memguard.paths` are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Live bytes.
    Live,
    /// Bytes per second.
    Growth,
    /// Failed allocations.
    Failures,
    /// Bytes that the manager did not book off when blocks shrank.
    Drift,
}

/// What `memguard.sites`, `modules`, `paths` and `profile` are narrowed to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sites<'a> {
    /// Only this pool (shm or pkg).
    pub pool: Option<Pool>,
    /// Only the process with this `core.psx` index.
    pub worker: Option<u32>,
    /// Only this module.
    pub module: Option<&'a str>,
    /// The order; `None`: what rises all the time first, then what is large.
    pub by: Option<By>,
    /// Only the first N.
    pub top: Option<u32>,
    /// Without the first N: an answer holds some fifty rows, so a long list is asked for in pieces.
    pub from: Option<u32>,
}

/// What `memguard.reset` sets back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// Peaks of use.
    Peaks,
    /// The learned usual rate of new registrations.
    Baseline,
    /// Counts of failed allocations.
    Failures,
    /// The queue of the refused.
    Queue,
}

/// What `memguard.history` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History<'a> {
    /// Name of the series.
    pub name: &'a str,
    /// How many values at most.
    pub points: Option<u32>,
    /// Seconds between two values.
    pub step_s: Option<u32>,
}

/// What `memguard.diff` compares with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Diff<'a> {
    /// The mark; `None` is the unnamed one.
    pub name: Option<&'a str>,
    /// Only the first N sites.
    pub top: Option<u32>,
}

/// Limits of `memguard.check`: percent of use, and seconds until exhaustion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Warning from this use on, critical from that use on.
    pub pct: Option<(u32, u32)>,
    /// Warning when fewer seconds are left than the first, critical when fewer than the second.
    pub seconds: Option<(u32, u32)>,
}

fn positive(word: &str) -> Option<u32> {
    word.parse().ok().filter(|n| *n > 0)
}

fn pool_word(word: &str) -> Option<Pool> {
    Pool::parse(word).filter(|pool| *pool != Pool::Os)
}

/// `memguard.workers [pid N | rank N | index N | leaking | top N]`
pub fn workers(words: &[&str]) -> Result<Workers, Rejected> {
    let found = match words {
        [] => Some(Workers::All),
        ["leaking"] => Some(Workers::Leaking),
        ["pid", n] => n.parse().ok().filter(|pid| *pid > 0).map(Workers::Pid),
        ["rank", n] => n.parse().ok().map(Workers::Rank),
        ["index", n] => n.parse().ok().map(Workers::Index),
        ["top", n] => positive(n).map(Workers::Top),
        _ => None,
    };
    found.ok_or_else(|| {
        "memguard.workers accepts nothing, pid N, rank N, index N, leaking, or top N".into()
    })
}

/// Reads pairs of filter and value in any order; `known` are the filters that only some commands have.
fn narrowed<'a>(
    words: &[&'a str],
    known: &[&str],
    accepted: &'static str,
) -> Result<Sites<'a>, Rejected> {
    let wrong = || Rejected::from(accepted);
    let mut found = Sites::default();
    let mut by = None;
    let mut rest = words.iter().copied();
    while let Some(key) = rest.next() {
        // a bare pool is clear enough: "profile shm"
        let value = match pool_word(key) {
            Some(_) => key,
            None => rest.next().ok_or_else(wrong)?,
        };
        let is_first = match key {
            "pool" | "shm" | "pkg" => {
                let pool = pool_word(value).ok_or_else(wrong)?;
                found.pool.replace(pool).is_none()
            }
            "worker" => {
                let index = value.parse().map_err(|_| wrong())?;
                found.worker.replace(index).is_none()
            }
            "module" if known.contains(&"module") => found.module.replace(value).is_none(),
            "top" if known.contains(&"top") => {
                let top = positive(value).ok_or_else(wrong)?;
                found.top.replace(top).is_none()
            }
            "from" if known.contains(&"top") => {
                let from = value.parse().map_err(|_| wrong())?;
                found.from.replace(from).is_none()
            }
            "by" if known.contains(&"by") => {
                let order = match value {
                    "live" => By::Live,
                    "growth" => By::Growth,
                    "failures" => By::Failures,
                    "drift" => By::Drift,
                    _ => return Err(wrong()),
                };
                by.replace(order).is_none()
            }
            _ => false,
        };
        if !is_first {
            return Err(wrong());
        }
    }
    found.by = by;
    Ok(found)
}

/// `memguard.sites [pool P] [worker INDEX] [module M] [by live|growth|failures|drift] [top N] [from N]`, in any order.
pub fn sites<'a>(words: &[&'a str]) -> Result<Sites<'a>, Rejected> {
    narrowed(
        words,
        &["module", "by", "top"],
        "memguard.sites accepts pool shm or pkg, worker INDEX, module NAME, by live, growth, failures or drift, \
                       top N, and from N (leaves out the first N), each once",
    )
}

/// `memguard.modules [pool P] [worker INDEX]`, in any order.
pub fn modules<'a>(words: &[&'a str]) -> Result<Sites<'a>, Rejected> {
    narrowed(
        words,
        &[],
        "memguard.modules accepts pool shm or pkg, and worker INDEX, each once",
    )
}

/// `memguard.paths [pool P] [worker INDEX] [module M] [top N] [from N]`, in any order.
pub fn paths<'a>(words: &[&'a str]) -> Result<Sites<'a>, Rejected> {
    narrowed(
        words,
        &["module", "top"],
        "memguard.paths accepts pool shm or pkg, worker INDEX, module NAME, top N, and from N (leaves out the first N), each once",
    )
}

/// `memguard.profile [pool] [worker INDEX]`, in any order.
pub fn profile<'a>(words: &[&'a str]) -> Result<Sites<'a>, Rejected> {
    narrowed(
        words,
        &[],
        "memguard.profile accepts shm or pkg, and worker INDEX, each once",
    )
}

fn last_n(words: &[&str], command: &str) -> Result<Option<u32>, Rejected> {
    match words {
        [] => Ok(None),
        [n] if positive(n).is_some() => Ok(positive(n)),
        _ => Err(format!(
            "memguard.{command} accepts nothing, or how many of the last to show, from 1"
        )),
    }
}

/// `memguard.events [N]`
pub fn events(words: &[&str]) -> Result<Option<u32>, Rejected> {
    last_n(words, "events")
}

/// `memguard.refusals [N]`
pub fn refusals(words: &[&str]) -> Result<Option<u32>, Rejected> {
    last_n(words, "refusals")
}

/// `memguard.mode [enforce|observe|off]`; `None` only asks.
pub fn mode(words: &[&str]) -> Result<Option<Mode>, Rejected> {
    match words {
        [] => Ok(None),
        [word] if Mode::parse(word).is_some() => Ok(Mode::parse(word)),
        _ => Err("memguard.mode accepts nothing, enforce, observe or off".into()),
    }
}

/// `memguard.shed SECONDS`
pub fn shed(words: &[&str]) -> Result<u32, Rejected> {
    let seconds = match words {
        [n] => positive(n).filter(|s| *s <= MAX_SHED_S),
        _ => None,
    };
    seconds
        .ok_or_else(|| format!("memguard.shed accepts a number of seconds from 1 to {MAX_SHED_S}"))
}

/// `memguard.fault [INDEX N]`; `None` only asks.
pub fn fault(words: &[&str]) -> Result<Option<(u64, u64)>, Rejected> {
    match words {
        [] => Ok(None),
        [index, nth] => {
            let both = index.parse().ok().zip(nth.parse().ok());
            both.map(Some).ok_or(())
        }
        _ => Err(()),
    }
    .map_err(|()| {
        "memguard.fault accepts nothing, or a worker's index and which of its allocations fails, 0 for none".into()
    })
}

/// `memguard.reset peaks|baseline|failures`
pub fn reset(words: &[&str]) -> Result<Reset, Rejected> {
    match words {
        ["peaks"] => Ok(Reset::Peaks),
        ["baseline"] => Ok(Reset::Baseline),
        ["failures"] => Ok(Reset::Failures),
        ["queue"] => Ok(Reset::Queue),
        _ => Err("memguard.reset accepts peaks, baseline, failures or queue".into()),
    }
}

/// `memguard.history NAME [points] [step]`; also `points N` and `step N`, by name.
pub fn history<'a>(words: &[&'a str]) -> Result<History<'a>, Rejected> {
    let wrong = || {
        let names: Vec<_> = Track::ALL.iter().map(|track| track.word()).collect();
        let names = names.join(", ");
        format!(
            "memguard.history accepts the name of a series ({names}), then how many points and how many seconds \
             between them, both from 1"
        )
    };
    let (name, rest) = words.split_first().ok_or_else(wrong)?;
    let number = |word: &str| positive(word).map(Some).ok_or_else(wrong);
    let (points, step_s) = match rest {
        [] => (None, None),
        ["points", n] => (number(n)?, None),
        ["step", n] => (None, number(n)?),
        ["points", n, "step", s] | ["step", s, "points", n] => (number(n)?, number(s)?),
        [n] => (number(n)?, None),
        [n, s] => (number(n)?, number(s)?),
        _ => return Err(wrong()),
    };
    Ok(History {
        name,
        points,
        step_s,
    })
}

/// `memguard.forecast [POOL]`; `None` is all of them.
pub fn forecast(words: &[&str]) -> Result<Option<Pool>, Rejected> {
    match words {
        [] => Ok(None),
        [word] if Pool::parse(word).is_some() => Ok(Pool::parse(word)),
        _ => Err("memguard.forecast accepts nothing, shm, pkg or os".into()),
    }
}

/// Whether a text may name a mark: letters, digits, `.`, `_` and `-`, at most [`MAX_NAME`] bytes; not `top`, which
/// `memguard.diff` reads as a filter.
fn is_mark_name(name: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_plain) && name != "top"
}

/// `memguard.mark [NAME]`; `None` is the unnamed one.
pub fn mark<'a>(words: &[&'a str]) -> Result<Option<&'a str>, Rejected> {
    match words {
        [] => Ok(None),
        [name] if is_mark_name(name) => Ok(Some(name)),
        _ => Err(format!(
            "memguard.mark accepts nothing, or one name of letters, digits, '.', '_' and '-', at most {MAX_NAME} long, \
             but not top"
        )),
    }
}

/// `memguard.diff [NAME] [top N]`
pub fn diff<'a>(words: &[&'a str]) -> Result<Diff<'a>, Rejected> {
    let top = |n: &str| positive(n);
    let found = match words {
        [] => Some(Diff::default()),
        ["top", n] => top(n).map(|n| Diff {
            name: None,
            top: Some(n),
        }),
        [name] if is_mark_name(name) => Some(Diff {
            name: Some(name),
            top: None,
        }),
        [name, "top", n] if is_mark_name(name) => top(n).map(|n| Diff {
            name: Some(name),
            top: Some(n),
        }),
        _ => None,
    };
    found.ok_or_else(|| "memguard.diff accepts the name of a mark, and top N".into())
}

/// `memguard.check [warn_pct crit_pct] [warn_s crit_s]`
pub fn check(words: &[&str]) -> Result<Check, Rejected> {
    let wrong = || {
        Rejected::from(
            "memguard.check accepts nothing, warning and critical percent (1 to 100, ascending), and after them warning \
             and critical seconds (descending)",
        )
    };
    let numbers: Option<Vec<u32>> = words.iter().map(|word| word.parse().ok()).collect();
    let (pct, seconds) = match numbers.ok_or_else(wrong)?.as_slice() {
        [] => (None, None),
        &[warn, crit] => (Some((warn, crit)), None),
        &[warn, crit, warn_s, crit_s] => (Some((warn, crit)), Some((warn_s, crit_s))),
        _ => return Err(wrong()),
    };
    let is_pct_ok = pct.is_none_or(|(warn, crit)| (1..=crit).contains(&warn) && crit <= 100);
    let is_seconds_ok = seconds.is_none_or(|(warn, crit)| warn >= crit);
    if is_pct_ok && is_seconds_ok {
        Ok(Check { pct, seconds })
    } else {
        Err(wrong())
    }
}
