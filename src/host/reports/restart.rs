//! Restarts: whether and when, what one costs, what is in its way; what a drain waits for; who came back.
//! Forbidden here: changing anything but a socket that is closed at once; restarting. Process: RPC processes, and the
//! sampling process, which may wait for none of it.

use crate::guard::config::params::Text;
use crate::guard::foresee::{
    cause::Cause,
    forecast::Method,
    restart::{self, Advice, LastDay, Plan, Situation},
    told::Forecast,
    week::Week,
};
use crate::guard::formats::nagios::Upkeep;
use crate::guard::formats::report::{Answer, Fault, Fields, Node, int, real, word};
use crate::guard::terms::{
    text::NONE_FORESEEN_S,
    words::{Level, Pool},
};
use crate::host::kamailio::{config_files, listen, state, sys};
use crate::host::reports::{self, Now, region};
use crate::shared::figures::{
    comeback::Returned,
    history::{MINUTES, Track},
};
use crate::shared::region::Region;

/// usrloc's db_mode 0: bindings are lost with the process (usrloc.h NO_DB).
const NO_DB: i32 = 0;

/// What counts as a whole day, seconds.
const DAY_S: u64 = 86_400;

/// `memguard.restart`
pub fn restart(words: &[&str]) -> Result<Answer, Fault> {
    reports::no_arguments(words, "memguard.restart")?;
    let region = region()?;
    let week = week_of(region);
    let missing = missing_addresses();
    let now = &Now::of(region);
    let plan = plan_of(now, &week, !missing.is_empty());
    let mut fields: Fields = vec![("advice", word(plan.advice))];
    fields.extend(plan.before_s.map(|s| ("before", Node::Count(s))));
    if let Some(at_s) = plan.at_s {
        fields.push(("at", Node::Count(at_s)));
        fields.push(("at_rate", real(plan.at_rate / 1000.0)));
        fields.push(("usual_rate", real(week.mean() / 1000.0)));
    }
    let (bindings, _) = reports::known();
    let (lost, uncallable) = losses(bindings);
    fields.extend([
        ("days_seen", real(week.days())),
        ("cause", word(now.told().1.cause)),
    ]);
    fields.extend(takes_s(region).map(|s| ("takes_seconds", Node::Count(s))));
    fields.extend([
        ("bindings", Node::Count(bindings)),
        ("bindings_lost", Node::Count(lost)),
        ("bindings_uncallable", Node::Count(uncallable)),
        ("connections", int(connections())),
    ]);
    fields.extend(calls().map(|calls| ("calls", Node::Count(calls))));
    let mut blockers = missing;
    blockers.extend(config_files::changes());
    fields.push(("blockers", Node::Texts(blockers)));
    Ok(Answer::One(fields))
}

/// The load of the last weeks as a usual one.
pub fn week_of(region: &Region) -> Week {
    Week::of(&region.hours.all(), state::wall_ms() / 3_600_000)
}

/// What is advised at this moment.
pub fn plan_of(now: &Now, week: &Week, is_blocked: bool) -> Plan {
    let (region, figures) = (now.region, &now.figures);
    let (pool, forecast) = now.told();
    let situation = Situation {
        now_s: state::wall_ms() / 1000,
        low_s: foreseen(pool, &forecast)
            .map(|low_s| before_peaks(region, week, pool, &forecast, low_s)),
        has_seen_day: now.uptime_s() >= DAY_S,
        cause: forecast.cause,
        level: Level::from_index(figures.level).unwrap_or(Level::Normal),
        takes_s: takes_s(region),
        is_busy: figures.storm != 0 || region.comeback.is_going_on(),
        is_blocked,
    };
    restart::plan(&situation, week)
}

/// The early end of a forecast that a restart would put off: no guess from seconds, and not what else runs here.
fn foreseen(pool: Pool, forecast: &Forecast) -> Option<u64> {
    let outlook = &forecast.outlook;
    let is_foreseen = outlook.valid
        && outlook.exhaustion_s < NONE_FORESEEN_S
        && outlook.method != Method::Moments
        && (pool != Pool::Os || forecast.cause == Cause::Outside);
    is_foreseen.then_some(outlook.low_s.min(outlook.exhaustion_s))
}

/// The same, with the load of the last day and of the usual week counted in.
fn before_peaks(region: &Region, week: &Week, pool: Pool, forecast: &Forecast, low_s: u64) -> u64 {
    let track = match pool {
        Pool::Shm => Track::ShmUsed,
        Pool::Pkg => Track::PkgUsed,
        Pool::Os => Track::OsUsed,
    };
    let past = region.history.last(track, MINUTES, 60);
    let seen = past.values.iter().position(|used| *used > 0);
    let now = state::wall_ms() / 3_600_000;
    let day = LastDay {
        used: seen
            .and_then(|at| past.values.get(at..))
            .unwrap_or_default(),
        step_s: past.step_s,
        size: forecast.evidence.size,
        growth: forecast.outlook.growth,
        busier: week.busier(now, now + low_s / 3600),
    };
    restart::before_peaks(low_s, &day)
}

fn takes_s(region: &Region) -> Option<u64> {
    let takes_ms = region.restart.takes_ms.get();
    (takes_ms > 0).then(|| takes_ms.div_ceil(1000))
}

/// Of so many bindings: how many memguard would take for strangers after a restart, and how many Kamailio could not
/// reach until they refresh.
fn losses(bindings: u64) -> (u64, u64) {
    // SAFETY: the table that was bound in PROC_INIT, or none: -1.
    let db_mode = unsafe { sys::mg_usrloc_db_mode() };
    let has_file =
        state::tables().is_some_and(|tables| !tables.texts.get(Text::BindingsFile).is_empty());
    let is_written = db_mode > NO_DB;
    match (is_written, has_file) {
        (true, _) => (0, 0),
        (false, true) if db_mode == NO_DB => (0, bindings),
        (false, true) => (0, 0),
        (false, false) if db_mode == NO_DB => (bindings, bindings),
        (false, false) => (bindings, 0),
    }
}

/// One sentence for each address that is not here: Kamailio does not start without it.
pub fn missing_addresses() -> Vec<String> {
    let missing = listen::sockets()
        .into_iter()
        .filter(|l| !l.is_virtual && !listen::is_here(l.address.ip()));
    missing
        .map(|listen| {
            format!(
                "the listen address {} ({}) is not on this machine: Kamailio would not start",
                listen.address,
                listen.transport()
            )
        })
        .collect()
}

/// Open TCP connections, those of TLS and WebSocket among them.
fn connections() -> u64 {
    // SAFETY: reads two words of shm that the core made before the fork.
    u64::try_from(unsafe { sys::mg_tcp_connections() }).unwrap_or(0)
}

/// Calls that are going on, where the module dialog counts them.
fn calls() -> Option<u64> {
    // SAFETY: texts that live for the call; a counter's rows are read, nothing is locked.
    let active = unsafe { sys::mg_counter_value(c"dialog".as_ptr(), c"active_dialogs".as_ptr()) };
    u64::try_from(active).ok()
}

/// What `memguard.drain` answers.
pub fn drain_fields(now: &Now) -> Fields {
    let left_ms = now.region.drains_for(now.at_ms);
    let mut fields = vec![
        ("draining", int(u64::from(left_ms > 0))),
        ("seconds", Node::Count(left_ms.div_ceil(1000))),
        ("level", word(now.level())),
        (
            "messages_per_second",
            real(now.figures.message_rate as f64 / 1000.0),
        ),
    ];
    fields.extend(calls().map(|calls| ("calls", Node::Count(calls))));
    fields.push(("connections", int(connections())));
    fields
}

/// What monitoring is to say of restarts.
pub fn upkeep(region: &Region) -> Upkeep {
    Upkeep {
        draining_s: region.drains_for(state::now_ms()).div_ceil(1000),
        advice: Advice::from_index(region.restart.advice.get()).unwrap_or(Advice::None),
        overdue: (region.comeback.overdue(), region.comeback.aors.before.get()),
    }
}

/// The same, and who is still on the way back, in sentences for the page.
pub fn notes(region: &Region) -> Vec<String> {
    let upkeep = upkeep(region);
    let comeback = &region.comeback;
    let mut notes = Vec::new();
    if upkeep.draining_s > 0 {
        notes.push(format!(
            "Draining for another {} s (memguard.drain).",
            upkeep.draining_s
        ));
    }
    if comeback.is_going_on() {
        notes.push(format!(
            "After the restart {} of {} bindings are back (memguard.comeback).",
            comeback.bindings.back.get(),
            comeback.bindings.before.get()
        ));
    }
    let (overdue, before) = upkeep.overdue;
    if overdue > 0 {
        notes.push(format!(
            "{overdue} of {before} AoRs have not come back since the restart (memguard.comeback)."
        ));
    }
    if upkeep.advice != Advice::None {
        notes.push(format!(
            "Restart: {} (memguard.restart says when, and what is in the way).",
            upkeep.advice
        ));
    }
    notes
}

/// `memguard.comeback`
pub fn comeback(words: &[&str]) -> Result<Answer, Fault> {
    reports::no_arguments(words, "memguard.comeback")?;
    let region = region()?;
    let comeback = &region.comeback;
    if comeback.bindings.before.get() == 0 {
        return Err(Fault::unknown(
            "no binding was carried over the last restart: bindings_file is not set, or nothing in it was alive",
        ));
    }
    let Returned {
        before,
        back,
        expired,
    } = &comeback.bindings;
    let left_ms = match comeback.is_over.get() {
        0 => comeback.until_ms.get().saturating_sub(state::now_ms()),
        _ => 0,
    };
    let mut fields = vec![
        ("before", Node::Count(before.get())),
        ("back", Node::Count(back.get())),
        ("missing", Node::Count(comeback.bindings.missing())),
        ("expired", Node::Count(expired.get())),
    ];
    for (name, reached) in ["t50", "t90", "t99"].into_iter().zip(&comeback.reached_ms) {
        if reached.get() > 0 {
            fields.push((name, Node::Count(reached.get().div_ceil(1000))));
        }
    }
    fields.extend([
        ("aors_before", Node::Count(comeback.aors.before.get())),
        ("aors_back", Node::Count(comeback.aors.back.get())),
        ("aors_missing", Node::Count(comeback.aors.missing())),
        ("overdue", Node::Count(comeback.overdue())),
        ("waiting_seconds", Node::Count(left_ms.div_ceil(1000))),
    ]);
    Ok(Answer::One(fields))
}
