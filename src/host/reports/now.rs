//! What holds at this moment, for every report: level, tightest pool, share refused, warnings, sums over the workers.
//! Forbidden here: changing anything; formatting. Process: RPC processes.

use crate::guard::decide::admission;
use crate::guard::decide::admission::Curves;
use crate::guard::decide::admission::Pressure;
use crate::guard::decide::level;
use crate::guard::decide::level::Standing;
use crate::guard::decide::level::Thresholds;
use crate::guard::decide::level::permyriad;
use crate::guard::decide::queue;
use crate::guard::foresee::growth::Leak;
use crate::guard::terms::text::NONE_FORESEEN_S;
use crate::guard::terms::warnings;
use crate::guard::terms::warnings::Warning;
use crate::guard::terms::words::Class;
use crate::guard::terms::words::Level;
use crate::guard::terms::words::Mode;
use crate::guard::terms::words::Pool;
use crate::host::kamailio::state;
use crate::host::memory::hooks;
use crate::host::reports::total;
use crate::shared::figures::sampled::Figures;
use crate::shared::region::Region;

/// Largest use of shm since the start or `reset peaks`: sampled, and now.
pub fn shm_peak(region: &Region) -> u64 {
    let now = hooks::shm_now(region.control.shm_size.get()).map_or(0, |p| p.real_used);
    region.control.shm_peak.get().max(now)
}

/// Failed allocations of shm and pkg since the start.
pub fn failures_since_start(region: &Region) -> (u64, u64) {
    (
        total(region, |r| r.shm_sum().failures),
        total(region, |r| r.pkg_failures.get()),
    )
}

/// The level as it is: the last sample's, or shedding from the moment an operator says so.
pub fn level_now(region: &Region) -> Level {
    let sampled = Level::from_index(region.figures().level).unwrap_or(Level::Normal);
    let is_shed = region.control.shed_until_ms.get() > state::now_ms();
    if is_shed {
        sampled.max(Level::Shedding)
    } else {
        sampled
    }
}

/// The pool or limit that is tightest: shm live, pkg of the fullest worker and the machine's memory by the last sample.
pub fn tightest_now(region: &Region) -> Option<Standing> {
    let figures = region.figures();
    let control = &region.control;
    let values = region.settings.all();
    let standing = |pool, total, used| Standing {
        pool,
        total,
        used,
        shed_pct: Thresholds::of(&values, pool).shed,
    };
    let shm =
        hooks::shm_now(control.shm_size.get()).map(|p| standing(Pool::Shm, p.size, p.real_used));
    let pkg = Some(standing(
        Pool::Pkg,
        control.pkg_size.get(),
        figures.fullest_real_used,
    ))
    .filter(|s| s.total > 0);
    let os = Some(standing(Pool::Os, figures.os_limit, figures.os_used)).filter(|s| s.total > 0);
    level::tightest([shm, pkg, os].into_iter().flatten())
}

/// Seconds until a pool is full at the pace of the last seconds; [`NONE_FORESEEN_S`] when it does not grow, or before
/// the first sample.
pub fn full_at_this_rate(figures: &Figures, pool: Pool) -> u64 {
    let seconds = match pool {
        Pool::Shm => figures.shm_full_in,
        Pool::Pkg => figures.pkg_full_in,
        Pool::Os if figures.os_limit > 0 => figures.os_full_in,
        Pool::Os => NONE_FORESEEN_S,
    };
    match figures.samples {
        0 => NONE_FORESEEN_S,
        _ => seconds,
    }
}

/// The pool that is full first at the pace of the last seconds, and in how many; of those that do not grow, shm.
pub fn first_full_at_this_rate(figures: &Figures) -> (Pool, u64) {
    let each =
        [Pool::Shm, Pool::Pkg, Pool::Os].map(|pool| (pool, full_at_this_rate(figures, pool)));
    let first = each.into_iter().min_by_key(|(_, seconds)| *seconds);
    first.unwrap_or((Pool::Shm, NONE_FORESEEN_S))
}

/// Share of class `new` that is refused at this moment where it is largest: shm live; by the last sample the pkg of the
/// fullest process that receives SIP, and the machine's memory where that sample is not stale.
pub(super) fn share_now(region: &Region, figures: &Figures) -> u32 {
    let control = &region.control;
    let now_ms = state::now_ms();
    let sampled = control.os_time_ms.get();
    let is_used = sampled != 0 && !region.is_stale(sampled, now_ms);
    let shm = hooks::shm_now(control.shm_size.get()).unwrap_or_default();
    let pressure = Pressure {
        shm_permyriad: permyriad(shm.real_used, shm.size),
        pkg_permyriad: permyriad(figures.fullest_sip_used, control.pkg_size.get()),
        os_permyriad: is_used.then(|| control.os_permyriad.get() as u32),
        shm_free_bytes: u64::MAX,
        operator_shed: control.shed_until_ms.get() > now_ms,
        ..Pressure::default()
    };
    if region.settings.mode() == Mode::Off {
        return 0;
    }
    admission::share_of(Class::New, &pressure, &Curves::of(&region.settings.all()))
}

/// The same in whole percent.
pub fn shed_pct_now(region: &Region) -> u64 {
    u64::from(admission::shed_pct(share_now(region, &region.figures())))
}

/// What there is to warn of at this moment: what was found, and that nobody looks any more.
pub fn warnings_now(region: &Region) -> Vec<&'static str> {
    let sampled = region.figures().time_ms.max(region.control.start_ms.get());
    let mut mask = region.control.warnings.get();
    if region.is_stale(sampled, state::now_ms()) {
        mask |= 1 << Warning::StaleSample as u8;
    }
    warnings::sentences(mask)
}

/// Known bindings and AoRs at this moment. What has ended is taken off within two samples where the tables have their
/// usual size.
pub fn known() -> (u64, u64) {
    state::tables().map_or((0, 0), |tables| {
        (tables.bindings.entries(), tables.aors.entries())
    })
}

/// Workers whose leak is suspected or confirmed.
pub fn leaking(region: &Region) -> u64 {
    let rows = region.used_rows(hooks::processes()).iter();
    rows.filter(|row| row.leak() != Leak::None).count() as u64
}

/// Slots of the queue that lie ahead: of the common one now, of the crowds' own by the last sample.
pub fn queue_length(region: &Region) -> u64 {
    let control = &region.control;
    let common = queue::length(
        control.queue_tail_us.get(),
        state::now_ms(),
        &region.queue_rules(),
    );
    common.saturating_add(control.queue_crowd_slots.get())
}

/// Seconds until the last of them has passed.
pub(super) fn queue_seconds(region: &Region) -> u64 {
    let control = &region.control;
    let tail = control
        .queue_tail_us
        .get()
        .max(control.queue_crowd_tail_us.get());
    queue::drained_in(tail, state::now_ms())
}

pub(super) fn is_unsure(region: &Region) -> bool {
    let now = state::now_ms() / 1000;
    region.control.usrloc_in_memory.get() == 0
        && state::tables().is_some_and(|tables| tables.is_unsure(region, now))
}
