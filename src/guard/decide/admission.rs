//! Admission: whether one REGISTER may still cost memory, from live use at this moment (design §4).
//! Forbidden here: allocation, division by what could be zero, panics: every worker runs this for every REGISTER.
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use crate::guard::config::params::Int;
use crate::guard::decide::level::{Thresholds, WHOLE};
use crate::guard::terms::words::{Class, Mode, Pool};

/// How many points an AoR's hash may fall on; a share of this many refuses all of them.
pub const POINTS: u32 = WHOLE;

/// Part that is refused at a use: 0 up to `from`, everything from `to` on, linear between; all three in 1/100
/// percent, the answer in 1/[`POINTS`].
pub const fn share(used: u32, from: u32, to: u32) -> u32 {
    if used >= to {
        POINTS
    } else if used <= from {
        0
    } else {
        // from < used < to; 64 bits because a foreign `used` is not bounded
        ((used - from) as u64 * POINTS as u64 / (to - from) as u64) as u32
    }
}

/// The refusal curve of one pool: where refusing of `new` starts, where it is complete and that of `returning`
/// starts, and where that is complete. In 1/100 percent, ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Curve {
    shed: u32,
    full: u32,
    emergency: u32,
}

impl Curve {
    /// The curve of a pool's thresholds; thresholds out of order are raised to the one before.
    pub fn of(thresholds: &Thresholds) -> Curve {
        let shed = thresholds.shed.saturating_mul(100);
        let full = thresholds.full.saturating_mul(100).max(shed);
        let emergency = thresholds.emergency.saturating_mul(100).max(full);
        Curve {
            shed,
            full,
            emergency,
        }
    }

    /// Part of class `new` that is refused at a use.
    pub const fn share_new(&self, used_permyriad: u32) -> u32 {
        share(used_permyriad, self.shed, self.full)
    }

    /// Part of class `returning` that is refused at a use.
    pub const fn share_returning(&self, used_permyriad: u32) -> u32 {
        share(used_permyriad, self.full, self.emergency)
    }
}

/// The curves of all three pools, made once when a parameter changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Curves {
    /// Shared memory pool.
    pub shm: Curve,
    /// The worker's private pool.
    pub pkg: Curve,
    /// The machine's or container's memory.
    pub os: Curve,
}

impl Curves {
    /// The curves out of all numeric parameters.
    pub fn of(values: &[i64; Int::COUNT]) -> Curves {
        Self::by(|param| values.get(param as usize).copied().unwrap_or(100))
    }

    /// The curves, asking for the parameters that they need: cheap enough for every message.
    #[inline]
    pub fn by(value_of: impl Fn(Int) -> i64) -> Curves {
        let curve = |pool| Curve::of(&Thresholds::by(&value_of, pool));
        Curves {
            shm: curve(Pool::Shm),
            pkg: curve(Pool::Pkg),
            os: curve(Pool::Os),
        }
    }
}

/// What memory looks like to one worker at this moment. All zero means: nothing is free and nothing is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Live use of shm, 1/100 percent.
    pub shm_permyriad: u32,
    /// Live use of this worker's pkg, 1/100 percent.
    pub pkg_permyriad: u32,
    /// Use of the machine's memory by the last sample, 1/100 percent; `None` when the sample is stale or missing.
    pub os_permyriad: Option<u32>,
    /// Bytes free in shm.
    pub shm_free_bytes: u64,
    /// Learned shm cost of one registration in bytes; 0 while unknown.
    pub registration_cost_bytes: u64,
    /// An operator's `memguard.shed` is running.
    pub operator_shed: bool,
    /// This worker has given its ballast away and not taken it back yet.
    pub ballast_released: bool,
}

impl Pressure {
    /// The pools cannot hold one more registration: the only thing that refuses class `priority`.
    pub const fn is_exhausted(&self) -> bool {
        self.shm_free_bytes < self.registration_cost_bytes
    }
}

/// Classes that free memory or keep a registration alive: whatever memory looks like, their share is 0.
pub const fn is_never_refused(class: Class) -> bool {
    matches!(
        class,
        Class::Unregister | Class::Query | Class::Followup | Class::Refresh
    )
}

/// Part of a class that is refused now, in 1/[`POINTS`].
///
/// What frees memory or keeps a registration alive is never refused here. The share never falls when use rises, and
/// never falls from a class to one that is dearer to admit.
pub fn share_of(class: Class, pressure: &Pressure, curves: &Curves) -> u32 {
    match class {
        _ if is_never_refused(class) => 0,
        Class::Priority if pressure.is_exhausted() => POINTS,
        Class::Priority => 0,
        Class::Returning => refusable(pressure, curves, Curve::share_returning),
        _ => refusable(pressure, curves, Curve::share_new),
    }
}

/// The share of a class that memory's use may refuse: complete for a cause beyond the curves, or else the largest.
fn refusable(pressure: &Pressure, curves: &Curves, share_on: impl Fn(&Curve, u32) -> u32) -> u32 {
    if pressure.operator_shed || pressure.ballast_released || pressure.is_exhausted() {
        return POINTS;
    }
    let shm = share_on(&curves.shm, pressure.shm_permyriad);
    let pkg = share_on(&curves.pkg, pressure.pkg_permyriad);
    let os = share_on(&curves.os, pressure.os_permyriad.unwrap_or(0));
    shm.max(pkg).max(os)
}

/// What happens to one REGISTER.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Decision {
    /// It goes on.
    Admit,
    /// It goes on, and is counted as one that mode `enforce` would refuse.
    Observe,
    /// It is answered and ends here.
    Refuse,
}

/// Decides about one REGISTER. `point` (0 to [`POINTS`] − 1) is its AoR's: the same share gives one AoR always the same
/// answer, and the answer changes only when the share passes the point.
pub fn decide(
    class: Class,
    point: u32,
    pressure: &Pressure,
    curves: &Curves,
    mode: Mode,
) -> Decision {
    let refusal = match mode {
        Mode::Off => return Decision::Admit,
        Mode::Observe => Decision::Observe,
        Mode::Enforce => Decision::Refuse,
    };
    // a point beyond the last would never be refused
    if point.min(POINTS - 1) < share_of(class, pressure, curves) {
        refusal
    } else {
        Decision::Admit
    }
}

/// A share in whole percent for reports: 0 only when nothing and 100 only when everything is refused.
pub const fn shed_pct(share: u32) -> u32 {
    match share {
        0 => 0,
        1..100 => 1,
        100..POINTS => share / 100,
        _ => 100,
    }
}

/// Status code of a refusal: with more than one Via value the request came through a proxy, which must not take 503
/// for a reason to stop sending calls (RFC 3261 §21.5.4).
pub const fn reply_code(via_count: u32, direct: u32, proxied: u32) -> u32 {
    if via_count > 1 { proxied } else { direct }
}
