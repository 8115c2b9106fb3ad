//! What memguard.forecast, memguard.history and memguard.check answer, and the forecast's part of other answers.
//! Forbidden here: changing anything; shm locks; Kamailio's allocators. Process: RPC processes.

use crate::guard::config::{filters, params::Int};
use crate::guard::decide::level::{Thresholds, permyriad};
use crate::guard::foresee::{
    cause::{self, Cause, Judgement},
    told::Forecast,
};
use crate::guard::formats::{
    nagios::{self, Server, Standing},
    report::{Answer, Fault, Fields, Node, int, real, word},
};
use crate::guard::terms::{text::Until, words::Pool};
use crate::host::kamailio::state;
use crate::host::reports::{Now, addresses, region, restart};
use crate::shared::figures::history::{MINUTES, SECONDS, Track};

/// Values that fit into one answer: ctl keeps 8 KB for a list, and a number takes up to 9 bytes there.
const MOST_POINTS: usize = 900;

/// When and why, for `memguard.status`.
pub fn status_fields(now: &Now) -> Fields {
    let (pool, forecast) = now.told();
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
            Node::Count(now.first_full_at_this_rate().1),
        ),
        ("cause", word(forecast.cause)),
        ("confidence", word(forecast.confidence)),
        (
            "explanation",
            word(cause::sentence(&judgement, &forecast.evidence)),
        ),
    ];
    fields.extend(culprit_fields(&forecast));
    if let Some((cost, left)) = now.registrations_left() {
        fields.push(("registration_cost", Node::Count(cost)));
        fields.push(("registrations_left", Node::Count(left)));
        let control = &now.region.control;
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
pub fn in_words(now: &Now) -> (String, String) {
    let (_, forecast) = now.told();
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
    let now = Now::of(region);
    let values = region.settings.all();
    let pools: Vec<Standing> = now
        .uses()
        .map(|(pool, size, used)| {
            let thresholds = Thresholds::of(&values, pool);
            let outlook = now.forecast(pool).outlook;
            Standing {
                pool,
                permyriad: permyriad(used, size),
                thresholds: (thresholds.warning, thresholds.shed),
                exhaustion_s: outlook.exhaustion_s,
                is_known: outlook.valid,
                full_in_s: now.full_at_this_rate(pool),
            }
        })
        .collect();
    let interval = region.settings.get_u64(Int::SampleInterval);
    let answer = nagios::check(
        &Server {
            level: now.level(),
            pools: &pools,
            cause: now.told().1.cause,
            headroom: now.headroom(),
            sample_age_ms: now.sample_age_ms(),
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
