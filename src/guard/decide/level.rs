//! Levels: when a pool's use makes its level rise, and how long it must stay low before the level falls again.
//! Forbidden here: refusing (that is `admission`, which follows live use and needs no level); clocks.
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use crate::guard::config::params::Int;
use crate::guard::terms::words::{Level, Pool};

/// The whole of a pool, in the unit in which use is measured here: 1/100 percent.
pub const WHOLE: u32 = 10_000;

/// Use in 1/100 percent of the whole, rounded down; 0 when the whole is unknown (0), at most [`WHOLE`].
pub fn permyriad(used: u64, total: u64) -> u32 {
    if total == 0 {
        return 0;
    }
    let used = used.min(total);
    let share = match used.checked_mul(u64::from(WHOLE)) {
        Some(parts) => parts / total,
        // Above 2^50 bytes: in u128, whose division is a call.
        None => (u128::from(used) * u128::from(WHOLE) / u128::from(total)) as u64,
    };
    u32::try_from(share).unwrap_or(WHOLE)
}

/// Bytes left before the pool is full; never negative.
pub fn headroom_bytes(total: u64, used: u64) -> u64 {
    total.saturating_sub(used)
}

/// The four thresholds of one pool, in percent of the whole (design §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// The level becomes warning.
    pub warning: u32,
    /// The level becomes shedding, and refusing of class `new` starts.
    pub shed: u32,
    /// All of class `new` is refused, and refusing of class `returning` starts.
    pub full: u32,
    /// The level becomes emergency, and all of class `returning` is refused.
    pub emergency: u32,
}

impl Thresholds {
    /// The thresholds of a pool out of all numeric parameters.
    pub fn of(values: &[i64; Int::COUNT], pool: Pool) -> Thresholds {
        Self::by(
            |param| values.get(param as usize).copied().unwrap_or(100),
            pool,
        )
    }

    /// The thresholds of a pool, asking for the parameters that it needs.
    #[inline]
    pub fn by(value_of: impl Fn(Int) -> i64, pool: Pool) -> Thresholds {
        use Int::*;
        let [warning, shed, full, emergency] = match pool {
            Pool::Shm => [ShmWarning, ShmShed, ShmFull, ShmEmergency],
            Pool::Pkg => [PkgWarning, PkgShed, PkgFull, PkgEmergency],
            Pool::Os => [OsWarning, OsShed, OsFull, OsEmergency],
        }
        .map(|param| u32::try_from(value_of(param).clamp(0, 100)).unwrap_or(100));
        Thresholds {
            warning,
            shed,
            full,
            emergency,
        }
    }

    /// Use at which a level is entered, in 1/100 percent; `normal` has no threshold (0).
    pub fn entry(&self, level: Level) -> u32 {
        let percent = match level {
            Level::Normal => 0,
            Level::Warning => self.warning,
            Level::Shedding => self.shed,
            Level::Emergency => self.emergency,
        };
        percent.saturating_mul(100)
    }

    /// Whether use lies low enough that a level may be left after the dwell.
    ///
    /// Low is `resume_gap_pct` under the level's threshold, or lower. A gap that is as large as the threshold, or
    /// larger, would never let the level go; then half of the threshold counts as low.
    pub fn is_low(&self, level: Level, used_permyriad: u32, resume_gap_pct: u32) -> bool {
        let entry = self.entry(level);
        let exit = match entry.saturating_sub(resume_gap_pct.saturating_mul(100)) {
            0 => entry / 2,
            exit => exit,
        };
        used_permyriad <= exit && used_permyriad < entry
    }

    /// The level that live use alone calls for, without any memory of the past.
    pub fn live(&self, used_permyriad: u32) -> Level {
        [Level::Emergency, Level::Shedding, Level::Warning]
            .into_iter()
            .find(|level| used_permyriad >= self.entry(*level))
            .unwrap_or(Level::Normal)
    }
}

/// The level of one pool over time. Plain data; all zero is the valid start (`normal`).
///
/// Each level keeps its own time of staying low, so that use which only just fell under the warning's threshold does
/// not leave `warning` because it has long been under the emergency's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LevelTracker {
    /// [`Level`]'s number.
    level: u64,
    /// Since when use has stayed low for warning, shedding and emergency, in ms; 0 while it is not low.
    low_since_ms: [u64; 3],
}

impl LevelTracker {
    /// Goes on at a level that another tracker came to; how long use has been low is counted anew.
    pub fn at(level: Level) -> LevelTracker {
        LevelTracker {
            level: level.index() as u64,
            ..LevelTracker::default()
        }
    }

    /// The level after the last sample.
    pub fn level(&self) -> Level {
        Level::from_index(self.level).unwrap_or(Level::Normal)
    }

    /// Takes one sample of use (1/100 percent) at `now_ms` (any clock that does not run backwards); answers the level
    /// left and the level entered when it changes.
    ///
    /// A higher level is entered at once, straight to the highest whose threshold is reached. A level is left only
    /// when use has been low ([`Thresholds::is_low`]) in every sample of the last `dwell_s` seconds; then the highest
    /// level that may not be left yet follows.
    pub fn sample(
        &mut self,
        used_permyriad: u32,
        thresholds: &Thresholds,
        resume_gap_pct: u32,
        dwell_s: u32,
        now_ms: u64,
    ) -> Option<(Level, Level)> {
        let from = self.level();
        let dwell_ms = u64::from(dwell_s).saturating_mul(1000);
        let mut held = Level::Normal;
        let steps = [Level::Warning, Level::Shedding, Level::Emergency];
        for (level, since) in steps.into_iter().zip(&mut self.low_since_ms) {
            if !thresholds.is_low(level, used_permyriad, resume_gap_pct) {
                *since = 0;
            } else if *since == 0 {
                *since = now_ms.max(1); // 0 says "not low"
            }
            let is_released = *since != 0 && now_ms.saturating_sub(*since) >= dwell_ms;
            if level <= from && !is_released {
                held = level;
            }
        }
        let to = held.max(thresholds.live(used_permyriad));
        self.level = to.index() as u64;
        (to != from).then_some((from, to))
    }
}

/// The worst of several levels; `normal` of none.
pub fn worst(levels: impl IntoIterator<Item = Level>) -> Level {
    levels.into_iter().max().unwrap_or(Level::Normal)
}

/// One pool or limit as it stands, for [`tightest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// What it is.
    pub pool: Pool,
    /// Its size or limit in bytes.
    pub total: u64,
    /// Bytes of it in use (real_used).
    pub used: u64,
    /// Its own shed threshold in percent.
    pub shed_pct: u32,
}

impl Standing {
    /// Use in 1/100 percent.
    pub fn used_permyriad(&self) -> u32 {
        permyriad(self.used, self.total)
    }

    /// Bytes left.
    pub fn headroom_bytes(&self) -> u64 {
        headroom_bytes(self.total, self.used)
    }

    /// Part that is left, in 1/100 percent.
    pub fn headroom_permyriad(&self) -> u32 {
        WHOLE.saturating_sub(self.used_permyriad())
    }
}

/// The candidate with the highest use relative to its own shed threshold; of equals the first. Candidates without a
/// size (0: unknown) do not count.
pub fn tightest(candidates: impl IntoIterator<Item = Standing>) -> Option<Standing> {
    let mut best: Option<Standing> = None;
    for candidate in candidates.into_iter().filter(|c| c.total > 0) {
        // used/shed compared without a division: a/b > c/d as a*d > c*b
        let is_tighter = best.is_none_or(|b| {
            u64::from(candidate.used_permyriad()) * u64::from(b.shed_pct.max(1))
                > u64::from(b.used_permyriad()) * u64::from(candidate.shed_pct.max(1))
        });
        if is_tighter {
            best = Some(candidate);
        }
    }
    best
}

/// Whether a manager's figures cannot be true: more used than there is, or more free (the difference of its books went
/// below zero and wrapped). Then the caller goes by memguard's own count.
pub fn is_impossible(total: u64, real_used: u64, free: u64) -> bool {
    real_used > total || free > total
}
