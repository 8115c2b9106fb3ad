//! `memguard.status`: the first five seconds of an operator's night.
//! Forbidden here: changing anything; shm locks. Process: RPC processes.

use crate::guard::formats::report::Answer;
use crate::guard::formats::report::Fault;
use crate::guard::formats::report::Fields;
use crate::guard::formats::report::Node;
use crate::guard::formats::report::int;
use crate::guard::formats::report::word;
use crate::guard::terms::words::Pool;
use crate::host::memory::hooks;
use crate::host::reports::addresses;
use crate::host::reports::bytes;
use crate::host::reports::forecast_reports;
use crate::host::reports::milli;
use crate::host::reports::no_arguments;
use crate::host::reports::now::{Now, leaking};
use crate::host::reports::percent;
use crate::host::reports::region;
use crate::host::reports::total;

/// `memguard.status`
pub fn status(words: &[&str]) -> Result<Answer, Fault> {
    no_arguments(words, "memguard.status")?;
    Ok(Answer::One(status_fields(&Now::of(region()?))))
}

fn status_fields(now: &Now) -> Fields {
    let (region, figures) = (now.region, &now.figures);
    let tightest = now.tightest();
    let mut fields = vec![
        ("level", word(now.level())),
        ("mode", word(region.settings.mode())),
        ("tightest", word(tightest.map_or(Pool::Shm, |t| t.pool))),
        ("headroom", bytes(now.headroom())),
        (
            "headroom_pct",
            percent(tightest.map_or(0, |t| t.headroom_permyriad())),
        ),
        ("shed_pct", int(now.shed_pct())),
    ];
    fields.extend(forecast_reports::status_fields(now));
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
        ("sample_age_ms", Node::Count(now.sample_age_ms())),
        (
            "warnings",
            Node::Texts(now.warnings().into_iter().map(str::to_owned).collect()),
        ),
        ("uptime", Node::Count(now.uptime_s())),
        ("version", word(env!("CARGO_PKG_VERSION"))),
        ("kamailio", word(env!("MEMGUARD_KAMAILIO_VERSION"))),
    ]);
    fields
}
