//! Gathers the metrics' figures from memguard's own region, for the text and for the statistics alike.
//! Forbidden here: locks, allocation in `server` (a statistic is read through it), Kamailio's pools. Process: any.

use crate::guard::foresee::growth::Leak;
use crate::guard::formats::metrics::{self, Build, Measures};
use crate::guard::terms::words::{Class, Mode};
use crate::host::kamailio::state;
use crate::host::memory::hooks;
use crate::host::reports::{self, Now};
use crate::shared::counters::rows::Row;
use crate::shared::region::Region;

/// The versions of this build.
pub const BUILD: Build<'static> = Build {
    version: env!("CARGO_PKG_VERSION"),
    kamailio: env!("MEMGUARD_KAMAILIO_VERSION"),
};

/// The rows that processes write, one for each process there is.
fn rows(region: &Region) -> impl Iterator<Item = &Row> {
    region
        .used_rows(hooks::processes())
        .iter()
        .map(|row| &**row)
}

/// The server's figures at this moment. Approximate: rows are summed while their processes run.
pub fn server(region: &Region) -> Measures {
    let now = Now::of(region);
    let (figures, control) = (&now.figures, &region.control);
    let size = now.shm_size;
    let used = now.shm_used.unwrap_or(0).min(size); // tlsf's can exceed it
    let (shm_failures, pkg_failures) = reports::failures_since_start(region);
    let (_, forecast) = now.told();
    let (cost, left) = now.registrations_left().unwrap_or_default();
    let mut measures = Measures {
        level: now.level().index() as u64,
        enforcing: u64::from(region.settings.mode() == Mode::Enforce),
        level_changes_total: region.events.pushed(),
        shm_size_bytes: size,
        shm_used_bytes: used,
        shm_peak_bytes: reports::shm_peak(region).min(size),
        shm_drift_bytes: control.shm_drift.get(),
        shm_failures_total: shm_failures,
        pkg_failures_total: pkg_failures,
        pkg_size_bytes: control.pkg_size.get(),
        pkg_used_max_bytes: figures.fullest_real_used,
        os_limit_bytes: figures.os_limit,
        os_used_bytes: figures.os_used,
        headroom_bytes: now.headroom(),
        exhaustion_seconds: forecast.ends_in(),
        full_at_this_rate_seconds: now.first_full_at_this_rate().1,
        forecast_valid: u64::from(forecast.outlook.valid),
        workers_leaking: reports::leaking(region),
        registration_cost_bytes: cost,
        registrations_left: left,
        known_bindings: reports::known().0,
        queue_length: now.queue_length(),
        storm: figures.storm,
        address_alarm: region.addresses.alarm.get(),
        address_missing: region.addresses.missing.get(),
        address_leased: region.addresses.leased.get(),
        address_claims_total: region.addresses.claims.get(),
        workers: hooks::processes() as u64,
        draining: u64::from(region.drains_for(now.at_ms) > 0),
        restart_advice: region.restart.advice.get(),
        comeback_before: region.comeback.bindings.before.get(),
        comeback_back: region.comeback.bindings.back.get(),
        comeback_overdue: region.comeback.overdue(),
        last_sample_timestamp_seconds: state::date(figures.time_ms / 1000),
        sample_errors_total: figures.sample_errors,
        ..Measures::default()
    };
    for row in rows(region) {
        measures.fail_open_total += row.sip.fail_open.get();
        for (index, class) in Class::ALL.iter().enumerate() {
            measures.registers_total[index] += row.sip.received.get(*class);
            measures.rejected_total[index] += row.sip.rejected.get(*class);
            measures.rejected_observed_total[index] += row.sip.observed.get(*class);
        }
    }
    measures
}

/// Each process's figures, by index.
pub fn workers(region: &Region) -> Vec<metrics::Worker> {
    let rows = rows(region).enumerate();
    rows.map(|(index, row)| metrics::Worker {
        index: index as u64,
        pkg_used_bytes: row.pkg.real_used.get(),
        private_bytes: row.private_bytes.get(),
        leaking: u64::from(row.leak() != Leak::None),
    })
    .collect()
}

/// The whole Prometheus text; empty before the region exists.
pub fn text() -> String {
    state::region().map_or_else(String::new, |region| {
        metrics::text(BUILD, &server(region), &workers(region))
    })
}
