//! `memguard.pools`: shm, the fullest worker's pkg, and the machine's memory.
//! Forbidden here: changing anything; shm locks. Process: RPC processes.

use std::time::Duration;

use crate::guard::decide::level;
use crate::guard::decide::level::permyriad;
use crate::guard::formats::report::Answer;
use crate::guard::formats::report::Fault;
use crate::guard::formats::report::Fields;
use crate::guard::formats::report::Node;
use crate::guard::formats::report::int;
use crate::guard::formats::report::real;
use crate::guard::formats::report::word;
use crate::guard::terms::words::Level;
use crate::guard::terms::words::Pool;
use crate::host::memory::hooks;
use crate::host::memory::hooks::owners;
use crate::host::reports::bytes;
use crate::host::reports::no_arguments;
use crate::host::reports::now::Now;
use crate::host::reports::now::failures_since_start;
use crate::host::reports::now::shm_peak;
use crate::host::reports::percent;
use crate::host::reports::region;
use crate::shared::counters::sites::SitePool;

/// `memguard.pools`
pub fn pools(words: &[&str]) -> Result<Answer, Fault> {
    no_arguments(words, "memguard.pools")?;
    Ok(Answer::Many(pool_rows(&Now::of(region()?))))
}

fn pool_rows(now: &Now) -> Vec<Fields> {
    let (region, figures) = (now.region, &now.figures);
    let control = &region.control;
    let (shm_failures, pkg_failures) = failures_since_start(region);
    let mut rows = Vec::new();
    let size = control.shm_size.get();
    let look = || {
        let figures = hooks::shm_now(size)?;
        Some((figures, hooks::shm_sum_of_all(region)))
    };
    if let (Some((shm, sum)), is_steady) = steady(look, |(shm, sum)| {
        let explained = (sum.live() as u64).wrapping_add(sum.unbooked);
        shm.used.wrapping_sub(explained)
    }) {
        let live = u64::try_from(sum.live()).unwrap_or(0);
        let mut row = pool_head(Pool::Shm, shm.size, shm.real_used, Some(live));
        row.extend([
            ("peak", bytes(shm_peak(region))),
            ("largest_free", bytes(hooks::shm_largest_free())),
            ("fragments", Node::Count(shm.fragments)),
            (
                "growth",
                real(owners::sites().map_or(0.0, |s| s.growth_of(SitePool::Shm).now)),
            ),
        ]);
        let drift = Node::Signed(shm.used.wrapping_sub(live) as i64);
        row.extend(is_steady.then_some(("drift", drift)));
        row.extend([
            ("unbooked", bytes(sum.unbooked)),
            (
                "failures",
                Node::Count(shm_failures.saturating_sub(control.shm_failures_base.get())),
            ),
        ]);
        rows.push(finished(now, Pool::Shm, row, figures.shm_level));
    }
    let fullest = usize::try_from(figures.fullest_worker).unwrap_or(0);
    if let (Some(worker), size @ 1..) = (region.rows.get(fullest), control.pkg_size.get()) {
        let look = || Some((worker.pkg.used.get(), hooks::pkg_sum(fullest, worker)));
        let (looked, is_steady) = steady(look, |(booked, sum)| {
            let explained = sum.live().wrapping_add(worker.pkg.unbooked.get());
            booked.wrapping_sub(explained)
        });
        let (booked, sum) = looked.unwrap_or_default();
        let (used, live) = (worker.pkg.real_used.get(), sum.live());
        let mut row = pool_head(Pool::Pkg, size, used, Some(live));
        row.extend([
            ("peak", bytes(worker.pkg.peak.get())),
            ("growth", real(worker.growth().0)),
        ]);
        let drift = Node::Signed(booked.wrapping_sub(live) as i64);
        row.extend(is_steady.then_some(("drift", drift)));
        row.extend([
            ("unbooked", bytes(worker.pkg.unbooked.get())),
            (
                "failures",
                Node::Count(pkg_failures.saturating_sub(control.pkg_failures_base.get())),
            ),
            ("worker", int(figures.fullest_worker)),
        ]);
        rows.push(finished(now, Pool::Pkg, row, figures.pkg_level));
    }
    if figures.os_limit > 0 {
        let mut row = pool_head(Pool::Os, figures.os_limit, figures.os_used, None);
        row.push(("peak", bytes(control.os_peak.get())));
        row.push(("growth", real(now.forecast(Pool::Os).outlook.growth)));
        rows.push(finished(now, Pool::Os, row, figures.os_level));
    }
    rows
}

/// Looks at a pool's books until they can be believed: between two looks lie the many words of a sum that others write
/// meanwhile, and a difference made of two moments is no drift. `missing` is what neither count nor ledger explain: 0
/// twice is enough; anything else must stay the same for longer than a process is stopped inside of an operation. The
/// last look, and whether it may be believed.
fn steady<T>(look: impl Fn() -> Option<T>, missing: impl Fn(&T) -> u64) -> (Option<T>, bool) {
    const LOOKS: u32 = 40;
    const MOMENT: Duration = Duration::from_millis(4);
    const STAYS: u32 = 30;
    let mut last = look();
    let mut same = 0;
    for _ in 0..LOOKS {
        std::thread::sleep(MOMENT); // whoever was in the middle of an operation ends it
        let again = look();
        let (before, now) = (last.as_ref().map(&missing), again.as_ref().map(&missing));
        same = if before == now { same + 1 } else { 0 };
        last = again;
        if same >= STAYS || (same > 0 && now == Some(0)) {
            return (last, true);
        }
    }
    (last, false)
}

fn pool_head(pool: Pool, size: u64, used: u64, live: Option<u64>) -> Fields {
    let mut row = vec![
        ("name", word(pool)),
        ("size", bytes(size)),
        ("real_used", bytes(used)),
    ];
    row.extend(live.map(|live| ("live", bytes(live))));
    row.push(("free", bytes(level::headroom_bytes(size, used))));
    row.push(("used_pct", percent(permyriad(used, size))));
    row
}

fn finished(now: &Now, pool: Pool, mut row: Fields, level: u64) -> Fields {
    let outlook = now.forecast(pool).outlook;
    row.push(("exhaustion_seconds", Node::Count(outlook.exhaustion_s)));
    row.push((
        "full_at_this_rate_seconds",
        Node::Count(now.full_at_this_rate(pool)),
    ));
    row.push((
        "level",
        word(Level::from_index(level).unwrap_or(Level::Normal)),
    ));
    row
}
