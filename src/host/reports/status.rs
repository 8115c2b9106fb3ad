//! `memguard.status`: the first five seconds of an operator's night.
//! Forbidden here: changing anything; shm locks. Process: RPC processes.

use crate::guard::formats::report::Answer;
use crate::guard::formats::report::Fault;
use crate::guard::formats::report::Fields;
use crate::guard::formats::report::Node;
use crate::guard::formats::report::int;
use crate::guard::formats::report::word;
use crate::guard::terms::words::Pool;
use crate::host::kamailio::state;
use crate::host::memory::hooks;
use crate::host::reports::addresses;
use crate::host::reports::bytes;
use crate::host::reports::forecast_reports;
use crate::host::reports::milli;
use crate::host::reports::no_arguments;
use crate::host::reports::now::leaking;
use crate::host::reports::now::level_now;
use crate::host::reports::now::shed_pct_now;
use crate::host::reports::now::tightest_now;
use crate::host::reports::now::warnings_now;
use crate::host::reports::percent;
use crate::host::reports::region;
use crate::host::reports::total;
use crate::shared::region::Region;

/// `memguard.status`
pub fn status(words: &[&str]) -> Result<Answer, Fault> {
    no_arguments(words, "memguard.status")?;
    let region = region()?;
    Ok(Answer::One(status_fields(region)))
}

fn status_fields(region: &Region) -> Fields {
    let figures = region.figures();
    let now = state::now_ms();
    let tightest = tightest_now(region);
    let mut fields = vec![
        ("level", word(level_now(region))),
        ("mode", word(region.settings.mode())),
        ("tightest", word(tightest.map_or(Pool::Shm, |t| t.pool))),
        (
            "headroom",
            bytes(tightest.map_or(0, |t| t.headroom_bytes())),
        ),
        (
            "headroom_pct",
            percent(tightest.map_or(0, |t| t.headroom_permyriad())),
        ),
        ("shed_pct", int(shed_pct_now(region))),
    ];
    fields.extend(forecast_reports::status_fields(region));
    fields.extend([
        ("new_rate", milli(figures.new_rate_10s)),
        ("refresh_rate", milli(figures.refresh_rate_10s)),
        (
            "rejected",
            Node::Count(total(region, |r| r.sip.rejected.sum())),
        ),
        (
            "rejected_observed",
            Node::Count(total(region, |r| r.sip.observed.sum())),
        ),
        (
            "fail_open",
            Node::Count(total(region, |r| r.sip.fail_open.get())),
        ),
        (
            "sampler_restarts",
            Node::Count(region.sampling.restarts.get()),
        ),
        (
            "memory_refused",
            Node::Count(region.sampling.memory_refused.get()),
        ),
        (
            "memory_skipped",
            Node::Count(region.sampling.memory_skipped.get()),
        ),
        (
            "memory_reserve_peak",
            bytes(region.sampling.reserve_peak.get()),
        ),
        ("addresses", word(addresses::in_a_word(region))),
        ("workers", int(hooks::processes() as u64)),
        ("workers_leaking", int(leaking(region))),
        (
            "sample_age_ms",
            Node::Count(now.saturating_sub(figures.time_ms.max(region.control.start_ms.get()))),
        ),
        (
            "warnings",
            Node::Texts(
                warnings_now(region)
                    .into_iter()
                    .map(str::to_owned)
                    .collect(),
            ),
        ),
        (
            "uptime",
            Node::Count(now.saturating_sub(region.control.start_ms.get()) / 1000),
        ),
        ("version", word(env!("CARGO_PKG_VERSION"))),
        ("kamailio", word(env!("MEMGUARD_KAMAILIO_VERSION"))),
    ]);
    fields
}
