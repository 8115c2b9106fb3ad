//! Gathers what the page at `/` shows, from memguard's own region.
//! Forbidden here: markup (guard::page), locks, Kamailio's pools. Process: the sampling process.

use crate::guard::decide::level::{Thresholds, permyriad};
use crate::guard::foresee::{
    cause::{self, Cause, Judgement},
    growth::Leak,
};
use crate::guard::formats::page::{
    EventRow, Outlook, Page, PoolRow, Registrations, SiteRow, WorkerRow, history::Point,
};
use crate::guard::machine::osmem::Source;
use crate::guard::terms::{
    text::NONE_FORESEEN_S,
    words::{Level, Pool},
};
use crate::host::kamailio::processes;
use crate::host::kamailio::state;
use crate::host::reports::{self, Now, addresses, measures, restart, site_reports};
use crate::shared::figures::{
    history::{SECONDS, Track},
    sampled::Figures,
};
use crate::shared::region::Region;

/// Sites that are shown.
const SITES: usize = 12;

/// Level changes that are shown.
const EVENTS: usize = 12;

/// The page's content at this moment.
///
/// `history` is what [`points`] answered.
pub fn page<'a>(region: &Region, history: &'a [Point]) -> Page<'a> {
    let now = &Now::of(region);
    let workers = workers(region);
    Page {
        version: measures::BUILD.version,
        kamailio: measures::BUILD.kamailio,
        now_s: state::date(now.at_ms / 1000),
        uptime_s: now.uptime_s(),
        level: now.level(),
        mode: region.settings.mode(),
        is_shed: region.is_shed(now.at_ms),
        shed_pct: now.shed_pct(),
        tightest: now.tightest().map_or(Pool::Shm, |t| t.pool),
        outlook: outlook(now, &workers),
        pools: pools(now, &workers),
        registrations: registrations(now),
        sites: sites(),
        addresses: addresses::page_rows(region),
        events: region.events.last(EVENTS).map(event_row).collect(),
        warnings: now.warnings(),
        notes: restart::notes(region),
        before: state::before(),
        history,
        workers,
    }
}

/// The last hour, from the history that memguard.history answers.
pub fn points(region: &Region) -> Vec<Point> {
    let control = &region.control;
    let newest_s = state::date(region.history.newest_s());
    let past = |track| region.history.last(track, SECONDS, 1).values;
    let [shm, pkg, os] = [Track::ShmUsed, Track::PkgUsed, Track::OsUsed].map(past);
    let [new, refresh, rejected] =
        [Track::NewRate, Track::RefreshRate, Track::RejectedRate].map(past);
    let sizes = [
        control.shm_size.get(),
        control.pkg_size.get(),
        region.figures().os_limit,
    ];
    // 0 bytes are not used but unknown: no pool is ever empty.
    let share = |used: u64, size: u64| (used > 0 && size > 0).then(|| permyriad(used, size));
    let back = (0..shm.len() as u64).rev();
    let used = shm.into_iter().zip(pkg).zip(os);
    let rates = new.into_iter().zip(refresh).zip(rejected);
    back.zip(used.zip(rates))
        .map(
            |(back, (((shm, pkg), os), ((new, refresh), rejected)))| Point {
                time_s: newest_s.saturating_sub(back),
                shm: share(shm, sizes[0]),
                pkg: share(pkg, sizes[1]),
                os: share(os, sizes[2]),
                new_rate: new,
                refresh_rate: refresh,
                rejected_rate: rejected,
            },
        )
        .collect()
}

/// When, why and who, of the pool that runs out first.
fn outlook(now: &Now, workers: &[WorkerRow]) -> Outlook {
    let (pool, forecast) = now.told();
    let (when, judgement) = (
        forecast.outlook,
        Judgement {
            cause: forecast.cause,
            confidence: forecast.confidence,
        },
    );
    let is_foreseen = when.valid && when.exhaustion_s < NONE_FORESEEN_S;
    let may_end = !when.valid && when.low_s < NONE_FORESEEN_S;
    let at_this_rate = now.first_full_at_this_rate();
    let is_known = is_foreseen || forecast.evidence.leak != Leak::None;
    let worker = forecast.worker.or(forecast.evidence.worker);
    let leaking = workers.iter().find(|w| w.leak != "none");
    let named = workers
        .iter()
        .find(|w| is_known && worker.is_some_and(|index| u64::from(index) == w.index));
    Outlook {
        exhaustion_s: forecast.ends_in(),
        between_s: is_foreseen.then_some((when.low_s, when.high_s)),
        is_valid: when.valid,
        may_end_s: may_end.then_some((when.low_s, when.high_s)),
        at_this_rate: Some(at_this_rate).filter(|(_, s)| *s < NONE_FORESEEN_S),
        grows: forecast.cause != Cause::None && forecast.evidence.size > 0,
        pool: Some(pool),
        cause: cause::sentence(&judgement, &forecast.evidence),
        confidence: forecast.confidence.word().to_owned(),
        who: named.or(leaking).map_or(String::new(), |w| {
            format!("process {}, {}", w.index, w.description)
        }),
    }
}

/// The places that hold most.
fn sites() -> Vec<SiteRow> {
    let sites = site_reports::largest(SITES);
    sites
        .iter()
        .map(|site| SiteRow {
            pool: site.pool,
            place: format!(
                "{} {}:{} {}",
                site.module, site.file, site.line, site.function
            ),
            live: u64::try_from(site.live_bytes).unwrap_or(0),
            growth: site.growth.map_or(0, |growth| growth.now as i64),
        })
        .collect()
}

fn pools(now: &Now, workers: &[WorkerRow]) -> Vec<PoolRow> {
    let values = now.region.settings.all();
    let figures = &now.figures;
    let row = |pool, total, used, level, whose: String| PoolRow {
        pool,
        size: total,
        used,
        used_permyriad: permyriad(used, total),
        level: Level::from_index(level).unwrap_or(Level::Normal),
        thresholds: Thresholds::of(&values, pool),
        whose,
        growth: Some(now.forecast(pool).outlook)
            .filter(|outlook| outlook.valid && total > 0)
            .map(|outlook| outlook.growth * 10_000.0 / total as f64),
    };
    now.uses()
        .map(|(pool, size, used)| {
            let (level, whose) = match pool {
                Pool::Shm => (
                    figures.shm_level,
                    "shared memory of all processes".to_owned(),
                ),
                Pool::Pkg => (figures.pkg_level, fullest(figures, workers)),
                Pool::Os => (figures.os_level, machine(figures)),
            };
            row(pool, size, used, level, whose)
        })
        .collect()
}

/// The process whose pkg is the fullest.
fn fullest(figures: &Figures, workers: &[WorkerRow]) -> String {
    let fullest = workers.iter().find(|w| w.index == figures.fullest_worker);
    fullest.map_or(String::new(), |w| {
        format!("process {}, {}", w.index, w.description)
    })
}

/// Which limit the machine's memory has.
fn machine(figures: &Figures) -> String {
    let source = Source::ALL
        .iter()
        .find(|s| **s as u64 == figures.os_source)
        .map_or("", |s| s.word());
    format!("memory of the machine or container ({source})")
}

fn registrations(now: &Now) -> Registrations {
    let figures = &now.figures;
    Registrations {
        known: reports::known().0,
        new_rate: figures.new_rate_10s,
        refresh_rate: figures.refresh_rate_10s,
        rejected_rate: figures.rejected_rate_10s,
        rejected: reports::total(now.region, |r| r.sip.rejected.sum()),
        left: now.registrations_left().map(|(_, left)| left),
        storm: figures.storm != 0,
    }
}

/// All processes, fullest first.
fn workers(region: &Region) -> Vec<WorkerRow> {
    let size = region.control.pkg_size.get();
    let processes = processes::counted_processes().enumerate();
    let mut rows: Vec<WorkerRow> = processes
        .filter_map(|(index, process)| {
            let row = region.rows.get(index)?;
            let used = row.pkg.real_used.get();
            Some(WorkerRow {
                index: index as u64,
                description: process.description,
                pkg_used: used,
                pkg_permyriad: permyriad(used, size),
                private: row.private_bytes.get(),
                messages: row.sip.messages.get(),
                level: row.level(),
                leak: match region.outside.get(index) {
                    Some(outside) if row.leak() != Leak::None => {
                        format!("{} ({})", row.leak(), outside.leak_in())
                    }
                    _ => row.leak().to_string(),
                },
            })
        })
        .collect();
    rows.sort_by_key(|row| (std::cmp::Reverse(row.pkg_used), row.index));
    rows
}

fn event_row((_, event): (u64, crate::shared::figures::events::Event)) -> EventRow {
    EventRow {
        time_s: state::date(event.time_ms / 1000),
        from: event.from,
        to: event.to,
        pool: event.pool,
        worker: event.worker,
        percent: event.percent,
    }
}
