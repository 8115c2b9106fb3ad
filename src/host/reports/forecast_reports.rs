//! What memguard.forecast, memguard.history and memguard.check answer, and the forecast's part of other answers.
//! Forbidden here: changing anything; shm locks; Kamailio's allocators. Process: RPC processes.

use crate::guard::config::{filters, params::Int};
use crate::guard::decide::level::{Thresholds, permyriad};
use crate::guard::foresee::{
    cause::{self, Cause, Confidence, Judgement},
    cost,
    growth::Leak,
};
use crate::guard::formats::{
    nagios::{self, Server, Standing},
    report::{Answer, Fault, Fields, Node, int, real, word},
};
use crate::guard::terms::{
    text::{NONE_FORESEEN_S, Until},
    words::Pool,
};
use crate::host::kamailio::state;
use crate::host::memory::hooks;
use crate::host::reports;
use crate::host::reports::{addresses, region, restart};
use crate::shared::figures::{
    forecasts::Forecast,
    history::{MINUTES, SECONDS, Track},
};
use crate::shared::region::Region;

/// Values that fit into one answer: ctl keeps 8 KB for a list, and a number takes up to 9 bytes there.
const MOST_POINTS: usize = 900;

/// The pool that runs out first, and its future; of those that do not, the tightest.
pub fn soonest(region: &Region) -> (Pool, Forecast) {
    let tightest = Pool::from_index(region.figures().tightest).unwrap_or(Pool::Shm);
    let mut pools = [tightest, Pool::Shm, Pool::Pkg, Pool::Os];
    pools.sort_by_key(|pool| *pool != tightest);
    let foreseen = |pool: &Pool| {
        let outlook = region.forecasts.read(*pool).outlook;
        if outlook.valid {
            outlook.exhaustion_s
        } else {
            NONE_FORESEEN_S
        }
    };
    let pool = pools.into_iter().min_by_key(foreseen).unwrap_or(tightest);
    // Nothing ends as far as can be seen. A process that leaks outside the pools is to be known all the same, and so is
    // free memory that fell to pieces.
    if foreseen(&pool) == NONE_FORESEEN_S {
        let stands_alone = |(_, f): &(Pool, Forecast)| {
            f.evidence.leak != Leak::None
                || (f.cause == Cause::Fragmentation && f.confidence >= Confidence::Medium)
        };
        let others = [Pool::Os, Pool::Shm].map(|pool| (pool, region.forecasts.read(pool)));
        if let Some(found) = others.into_iter().find(stands_alone) {
            return found;
        }
        // What grows is told, and not the tightest that does not. What else runs on the machine comes and goes.
        let grows = |(pool, f): &(Pool, Forecast)| {
            let is_told = *pool != Pool::Os && f.cause != Cause::None && f.evidence.size > 0;
            f.evidence.is_rising || is_told
        };
        let mut each = pools
            .into_iter()
            .map(|pool| (pool, region.forecasts.read(pool)));
        if let Some(found) = each.find(grows) {
            return found;
        }
    }
    (pool, region.forecasts.read(pool))
}

/// When and why, for `memguard.status`.
pub fn status_fields(region: &Region) -> Fields {
    let (pool, forecast) = soonest(region);
    let outlook = forecast.outlook;
    let judgement = Judgement {
        cause: forecast.cause,
        confidence: forecast.confidence,
    };
    let mut fields = vec![
        ("exhaustion_seconds", Node::Count(outlook.exhaustion_s)),
        ("exhaustion", word(exhaustion(&forecast))),
        ("exhaustion_pool", word(pool)),
        (
            "full_at_this_rate_seconds",
            Node::Count(reports::first_full_at_this_rate(&region.figures()).1),
        ),
        ("cause", word(forecast.cause)),
        ("confidence", word(forecast.confidence)),
        (
            "explanation",
            word(cause::sentence(&judgement, &forecast.evidence)),
        ),
    ];
    fields.extend(culprit_fields(&forecast));
    let cost = region.control.registration_cost.get();
    if cost > 0 {
        fields.push(("registration_cost", Node::Count(cost)));
        fields.push((
            "registrations_left",
            Node::Count(registrations_left(region, cost)),
        ));
        let control = &region.control;
        if control.connection_cost.get() > 0 {
            fields.push(("binding_cost", Node::Count(control.binding_cost.get())));
            fields.push((
                "connection_cost",
                Node::Count(control.connection_cost.get()),
            ));
        }
    }
    fields
}

/// Why memory grows, and when it ends, in words.
pub fn in_words(region: &Region) -> (String, String) {
    let (_, forecast) = soonest(region);
    let judgement = Judgement {
        cause: forecast.cause,
        confidence: forecast.confidence,
    };
    let why = cause::sentence(&judgement, &forecast.evidence);
    (why, exhaustion(&forecast))
}

/// Whose the cause is, where that is one process, and who in it.
fn culprit_fields(forecast: &Forecast) -> Fields {
    let mut fields = Fields::new();
    let worker = forecast.worker.filter(|_| forecast.cause != Cause::None);
    fields.extend(worker.map(|worker| ("cause_worker", int(u64::from(worker)))));
    if worker.is_some() && forecast.cause == Cause::Outside {
        fields.push(("cause_part", word(forecast.evidence.part)));
    }
    fields
}

/// The time in words: "unknown" while it is not known.
fn exhaustion(forecast: &Forecast) -> String {
    match forecast.outlook.valid {
        true => Until(forecast.outlook.exhaustion_s).to_string(),
        false => "unknown".into(),
    }
}

/// Registrations that fit below the point where every new one is refused.
pub fn registrations_left(region: &Region, cost: u64) -> u64 {
    let size = region.control.shm_size.get();
    let full = size / 100 * region.settings.get_u64(Int::ShmFull);
    let used = hooks::shm_now(size).map_or(0, |pool| pool.real_used);
    cost::registrations_left(full, used, cost)
}

/// `memguard.forecast [POOL]`
pub fn forecast(words: &[&str]) -> Result<Answer, Fault> {
    let wanted = filters::forecast(words).map_err(Fault::bad)?;
    let region = region()?;
    let pools = Pool::ALL
        .iter()
        .filter(|pool| wanted.is_none_or(|w| w == **pool));
    Ok(Answer::Many(
        pools
            .map(|pool| row(*pool, &region.forecasts.read(*pool)))
            .collect(),
    ))
}

fn row(pool: Pool, forecast: &Forecast) -> Fields {
    let (outlook, evidence) = (&forecast.outlook, &forecast.evidence);
    let explained = match evidence.growth > 0.0 {
        true => (100.0 * evidence.registrations / evidence.growth).clamp(0.0, 100.0),
        false => 0.0,
    };
    let mut fields = vec![
        ("pool", word(pool)),
        ("method", word(outlook.method)),
        ("growth", real(outlook.growth)),
        ("exhaustion_seconds", Node::Count(outlook.exhaustion_s)),
        ("exhaustion", word(exhaustion(forecast))),
        ("low_seconds", Node::Count(outlook.low_s)),
        ("high_seconds", Node::Count(outlook.high_s)),
        ("samples", int(u64::from(outlook.samples))),
        ("fit", real(outlook.fit)),
        ("explained_by_registrations_pct", real(explained)),
        ("cause", word(forecast.cause)),
        ("confidence", word(forecast.confidence)),
        ("valid", int(u64::from(outlook.valid))),
    ];
    fields.extend(
        forecast
            .worker
            .map(|worker| ("worker", int(u64::from(worker)))),
    );
    if forecast.worker.is_some() && forecast.cause == Cause::Outside {
        fields.push(("part", word(evidence.part)));
    }
    fields
}

/// `memguard.history NAME [points] [step]`: the last value belongs to the second, or the minute's last second, at the end.
pub fn history(words: &[&str]) -> Result<Answer, Fault> {
    let asked = filters::history(words).map_err(Fault::bad)?;
    let region = region()?;
    let track = Track::parse(asked.name).ok_or_else(|| {
        let names: Vec<_> = Track::ALL.iter().map(|track| track.word()).collect();
        Fault::unknown(format!(
            "there is no history of {}; there is of {}",
            asked.name,
            names.join(", ")
        ))
    })?;
    let step = u64::from(asked.step_s.unwrap_or(1));
    let is_by_second = step < 60;
    let most = if is_by_second { SECONDS } else { MINUTES };
    let wanted = asked.points.map_or(60, |n| n as usize).min(most);
    let past = region.history.last(track, wanted.min(MOST_POINTS), step);
    let newest_s = region.history.newest_s();
    // The newest minute is the one that is over.
    let end_s = match is_by_second {
        true => newest_s,
        false => ((newest_s + 1) / 60 * 60).saturating_sub(1),
    };
    let span = past.step_s * (past.values.len() as u64).saturating_sub(1);
    let mut fields = vec![
        ("name", word(track)),
        ("step", Node::Count(past.step_s)),
        (
            "start",
            Node::Count(state::date(end_s.saturating_sub(span))),
        ),
    ];
    if past.values.len() == MOST_POINTS && wanted > MOST_POINTS {
        fields.push(("truncated", int((wanted - MOST_POINTS) as u64)));
    }
    fields.push(("values", values(track, past.values)));
    Ok(Answer::One(fields))
}

/// Rates per second, everything else as it was counted.
fn values(track: Track, values: Vec<u64>) -> Node {
    if !track.is_rate() {
        return Node::Counts(values);
    }
    Node::Reals(values.iter().map(|value| *value as f64 / 1000.0).collect())
}

/// `memguard.check [warn_pct crit_pct] [warn_s crit_s]`
pub fn check(words: &[&str]) -> Result<Answer, Fault> {
    let limits = filters::check(words).map_err(Fault::bad)?;
    let region = region()?;
    let figures = region.figures();
    let control = &region.control;
    let values = region.settings.all();
    let shm = hooks::shm_now(control.shm_size.get()).map_or((0, 0), |p| (p.real_used, p.size));
    let uses = [
        (Pool::Shm, shm),
        (
            Pool::Pkg,
            (figures.fullest_real_used, control.pkg_size.get()),
        ),
        (Pool::Os, (figures.os_used, figures.os_limit)),
    ];
    let pools: Vec<Standing> = uses
        .into_iter()
        .filter(|(_, (_, size))| *size > 0)
        .map(|(pool, (used, size))| {
            let thresholds = Thresholds::of(&values, pool);
            let outlook = region.forecasts.read(pool).outlook;
            Standing {
                pool,
                permyriad: permyriad(used, size),
                thresholds: (thresholds.warning, thresholds.shed),
                exhaustion_s: outlook.exhaustion_s,
                is_known: outlook.valid,
                full_in_s: reports::full_at_this_rate(&figures, pool),
            }
        })
        .collect();
    let interval = region.settings.get_u64(Int::SampleInterval);
    let answer = nagios::check(
        &Server {
            level: reports::level_now(region),
            pools: &pools,
            cause: soonest(region).1.cause,
            headroom: reports::tightest_now(region).map_or(0, |t| t.headroom_bytes()),
            sample_age_ms: state::now_ms()
                .saturating_sub(figures.time_ms.max(region.control.start_ms.get())),
            stale_ms: 10 * interval.max(1000),
            upkeep: restart::upkeep(region),
            addresses: addresses::worst(region),
        },
        limits.pct,
        limits.seconds,
    );
    Ok(Answer::One(vec![
        ("code", int(u64::from(answer.code))),
        ("text", word(answer.text)),
        ("perfdata", word(answer.perfdata)),
    ]))
}
