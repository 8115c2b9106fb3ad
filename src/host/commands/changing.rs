//! The commands that change something: they write memguard's own region only, so they work when every pool is empty.
//! Forbidden here: Kamailio's pools and locks. Process: RPC processes.

use crate::guard::config::{
    filters,
    params::Int,
    priority::{self, Change},
};
use crate::guard::formats::{
    paths,
    report::{Answer, Fault, int, word},
};
use crate::host::kamailio::{
    log::{Severity, log},
    state,
};
use crate::host::memory::hooks;
use crate::host::reports::{self, Now, region};
use crate::shared::phones::priorities::{Added, MAX_ENTRIES};

/// `memguard.mode [enforce, observe or off]`
pub fn mode(words: &[&str]) -> Result<Answer, Fault> {
    let region = region()?;
    if let Some(mode) = filters::mode(words).map_err(Fault::bad)? {
        region.settings.set(Int::Mode, mode as i64);
        log!(Severity::Notice, "mode is {mode} now (memguard.mode)");
    }
    Ok(Answer::One(vec![("mode", word(region.settings.mode()))]))
}

/// `memguard.priority [list, add or remove] [aor, domain or source] [VALUE]`: the lists in force after it.
pub fn priority(words: &[&str]) -> Result<Answer, Fault> {
    let region = region()?;
    let shown = match priority::parse_change(words).map_err(Fault::bad)? {
        Change::Show(list) => list,
        Change::Add(entry) => {
            match region.priorities.add(&entry, state::now_ms() / 1000) {
                Added::New => log!(Severity::Notice, "{entry:?} was added (memguard.priority)"),
                Added::Known => (),
                Added::Full => return Err(Fault::cannot(full(&entry))),
            }
            entry.list()
        }
        Change::Remove(entry) => {
            if !region.priorities.remove(&entry) {
                return Err(Fault::unknown(format!(
                    "{entry:?} is not in force; memguard.priority list shows what is"
                )));
            }
            log!(
                Severity::Notice,
                "{entry:?} was removed (memguard.priority)"
            );
            entry.list()
        }
    };
    Ok(Answer::Many(reports::priorities(region, shown)))
}

fn full(entry: &priority::Entry) -> String {
    format!(
        "{entry:?} was not added: the lists hold {MAX_ENTRIES} entries in all and are full; remove one first"
    )
}

/// `memguard.shed SECONDS`
pub fn shed(words: &[&str]) -> Result<Answer, Fault> {
    let region = region()?;
    let seconds = filters::shed(words).map_err(Fault::bad)?;
    region
        .control
        .shed_until_ms
        .set(state::now_ms().saturating_add(u64::from(seconds) * 1000));
    log!(
        Severity::Warn,
        "new and returning registrations are refused for {seconds} s (memguard.shed)"
    );
    Ok(Answer::One(vec![
        ("level", word(Now::of(region).level())),
        ("seconds", int(u64::from(seconds))),
    ]))
}

/// `memguard.drain [SECONDS]`: begins, prolongs or (0) ends it; always answers what is left to wait for.
pub fn drain(words: &[&str]) -> Result<Answer, Fault> {
    let region = region()?;
    let now_ms = state::now_ms();
    let was_draining = region.drains_for(now_ms) > 0;
    match filters::drain(words).map_err(Fault::bad)? {
        None => (),
        Some(0) => {
            region.control.drain_until_ms.set(0);
            if was_draining {
                log!(Severity::Notice, "draining has ended (memguard.drain 0)");
            }
        }
        Some(seconds) => {
            let until_ms = now_ms.saturating_add(u64::from(seconds) * 1000);
            region.control.drain_until_ms.set(until_ms);
            log!(
                Severity::Warn,
                "draining for {seconds} s: new and returning registrations are refused, and /ready says 503{} (memguard.drain)",
                match region.settings.get(Int::DrainOptions) {
                    0 => "",
                    _ => ", and so do OPTIONS to this server itself",
                }
            );
        }
    }
    Ok(Answer::One(reports::restart::drain_fields(&Now::of(
        region,
    ))))
}

/// `memguard.resume`
pub fn resume(words: &[&str]) -> Result<Answer, Fault> {
    reports::no_arguments(words, "memguard.resume")?;
    let region = region()?;
    region.control.shed_until_ms.set(0);
    region.control.drain_until_ms.set(0);
    log!(
        Severity::Notice,
        "refusing follows live use again, and nothing drains (memguard.resume)"
    );
    Ok(Answer::One(vec![("level", word(Now::of(region).level()))]))
}

/// `memguard.reset peaks, baseline, failures or queue`
pub fn reset(words: &[&str]) -> Result<Answer, Fault> {
    let region = region()?;
    let control = &region.control;
    match filters::reset(words).map_err(Fault::bad)? {
        filters::Reset::Peaks => {
            let shm = hooks::shm_now(control.shm_size.get()).unwrap_or_default();
            control.shm_peak.set(shm.real_used);
            control.os_peak.set(region.figures().os_used);
            for row in region.used_rows(hooks::processes()) {
                // Its owner raises it again; at worst one operation's peak is lost.
                row.pkg.peak.set(row.pkg.real_used.get());
            }
        }
        filters::Reset::Queue => {
            control.queue_tail_us.set(0);
            control.queue_crowd_slots.set(0);
            control.queue_crowd_tail_us.set(0);
            control.queue_epoch.add(1); // whoever was told a slot queues anew, or is let in
            if let Some(tables) = state::tables() {
                tables.sources.clear();
            }
            log!(
                Severity::Notice,
                "the queue of refused registrations was emptied (memguard.reset queue)"
            );
        }
        filters::Reset::Baseline => control.baseline_resets.add(1),
        filters::Reset::Failures => {
            let (shm, pkg) = reports::failures_since_start(region);
            control.shm_failures_base.set(shm);
            control.pkg_failures_base.set(pkg);
        }
    }
    Ok(Answer::Text("ok".into()))
}

/// `memguard.fault [INDEX N]`: from now on the N-th allocation of the process fails, once (0: none does); without words
/// what became of it.
pub fn fault(words: &[&str]) -> Result<Answer, Fault> {
    let off = || {
        Fault::cannot(
            "faults is 0: set modparam(\"memguard\", \"faults\", 1), on a server for tests only",
        )
    };
    match filters::fault(words).map_err(Fault::bad)? {
        Some((process, nth)) => match hooks::faults::arm(process, nth) {
            true => Ok(Answer::One(vec![
                ("worker", int(process)),
                ("nth", int(nth)),
            ])),
            false => Err(off()),
        },
        None => {
            let outcome = hooks::faults::outcome().ok_or_else(off)?;
            let (file, line, function) = &outcome.place;
            let (cfg, cfg_line, route) = &outcome.cfg;
            Ok(Answer::One(vec![
                ("seen", int(outcome.seen)),
                ("failed", int(u64::from(outcome.failed))),
                ("file", word(file)),
                ("line", int(u64::from(*line))),
                ("function", word(function)),
                ("cfg", word(paths::cfg(cfg, *cfg_line, route, false))),
            ]))
        }
    }
}
