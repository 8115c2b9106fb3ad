//! The sampling process's forecasts: feeds each pool's, finds the cause, learns what a registration costs.
//! Forbidden here: Kamailio's allocators and locks; deciding (that is `guard::forecast`, `cause` and `cost`).

use crate::guard::foresee::{
    cause::{self, Cause, Confidence, Evidence, PushedOut},
    cost::CostLearner,
    forecast::{Forecaster, Method, Outlook, place::Place},
    growth::{Leak, Trail},
    told::Forecast,
};
use crate::guard::machine::{
    fragments::Fragments,
    outside::{LeakIn, Part},
};
use crate::guard::terms::{text::NONE_FORESEEN_S, words::Pool};
use crate::host::kamailio::{
    log::{Severity, log},
    state, sys,
};
use crate::host::memory::hooks::{self, owners};
use crate::shared::counters::{
    outside::Outside,
    sites::{Held, SitePool},
};
use crate::shared::figures::sampled::Figures;
use crate::shared::parts::kept::{Lease, Plain};
use crate::shared::region::Region;

/// Time constant of the rate of messages.
const RATE_MS: f64 = 15_000.0;

/// Growths of one pool that are compared with each other, so they are measured alike.
#[derive(Clone, Copy, Default)]
struct Parts {
    used: Trail,
    drift: Trail,
}

/// What is known of shm, and of what its use comes from.
#[derive(Clone, Copy, Default)]
pub struct Shm {
    forecaster: Forecaster,
    /// Where places are counted: the one in shm that grows most steadily.
    place: Place,
    parts: Parts,
    bindings: Trail,
    cost: CostLearner,
    pushed_out: PushedOut,
    fragments: Fragments,
    messages: u64,
    rate: f64,
    last_ms: u64,
}
// SAFETY: numbers.
unsafe impl Plain for Shm {}

/// What is known of the machine's memory.
#[derive(Clone, Copy, Default)]
pub struct Os {
    whole: Forecaster,
    whole_trail: Trail,
    /// Private memory of all processes together, against what the machine has left: what else runs there is no matter.
    own: Forecaster,
    own_trail: Trail,
}
// SAFETY: numbers.
unsafe impl Plain for Os {}

/// What is known of one process's private pool.
#[derive(Clone, Copy, Default)]
pub struct Pkg {
    forecaster: Forecaster,
    parts: Parts,
}
// SAFETY: numbers.
unsafe impl Plain for Pkg {}

/// The cause that was told last, by pool.
#[derive(Clone, Copy)]
pub struct Announced([Cause; Pool::COUNT]);
// SAFETY: numbers.
unsafe impl Plain for Announced {}

impl Announced {
    fn nothing() -> Announced {
        Announced([Cause::None; Pool::COUNT])
    }
}

/// What the next sampling process goes on with.
pub struct Leases {
    pub announced: Lease<Announced>,
    pub shm: Lease<Shm>,
    pub os: Lease<Os>,
    pub pkg: Lease<Pkg>,
}

/// Everything that is remembered between two ticks; in shared memory (`memory`).
pub struct Forecasts(Leases);

impl Forecasts {
    /// Goes on with what an earlier sampling process knew, if there was one.
    pub fn new(kept: Leases) -> Forecasts {
        Forecasts(kept)
    }

    /// One tick, after the figures of this sample are complete.
    pub fn tick(&mut self, region: &Region, figures: &Figures, held: Option<Held>, now_ms: u64) {
        let messages = region.sum(hooks::processes(), |r| r.sip.messages.get());
        let load = self.0.shm.work(0, Shm::default, |shm| {
            shm.loaded(messages, now_ms);
            [figures.known_bindings as f32, shm.rate as f32]
        });
        let load = load.unwrap_or_default();
        self.shm(region, figures, held, now_ms, load);
        self.pkg(region, now_ms);
        self.os(region, figures, now_ms, load);
    }

    fn shm(
        &mut self,
        region: &Region,
        figures: &Figures,
        held: Option<Held>,
        now_ms: u64,
        load: [f32; 2],
    ) {
        let size = region.control.shm_size.get();
        let Some(pool) = hooks::shm_now(size) else {
            return;
        };
        let unbooked = region.sum(hooks::processes(), |row| row.shm_sum().unbooked);
        let bindings = figures.known_bindings;
        let pushed_out = state::tables().map_or(0, |tables| tables.bindings.evictions());
        let seen = self.0.shm.work(0, Shm::default, |shm| {
            shm.bindings.feed(now_ms, bindings as i64);
            let booked = pool.real_used.saturating_sub(unbooked);
            let is_table_full = shm.pushed_out.look(now_ms, pushed_out);
            let cost = match is_table_full {
                true => shm.cost.cost(), // nothing to be learned from
                false => shm.cost.push(now_ms, bindings, connections(), booked),
            };
            shm.forecaster.push(now_ms, pool.real_used, size, load);
            shm.parts.used.feed(now_ms, pool.real_used as i64);
            shm.parts.drift.feed(now_ms, unbooked as i64);
            if let Some(held) = held {
                let used = shm.forecaster.levelled();
                shm.place
                    .push(now_ms, held.number, held.bytes, used, load[1]);
            }
            let outlook = shm.forecaster.outlook_of(size, Some(&shm.place));
            let largest_free = Some(hooks::shm_largest_free()).filter(|bytes| *bytes > 0);
            let free = size.saturating_sub(pool.real_used);
            let evidence = Evidence {
                registrations: shm.bindings.growth().now * cost as f64,
                cost_known: cost > 0,
                is_table_full,
                site: largest_site(),
                largest_free,
                pieces: shm.fragments.feed(size, free, largest_free),
                ..shm.parts.evidence(&outlook, size, pool.real_used)
            };
            (
                cost,
                shm.cost.parts().unwrap_or_default(),
                outlook,
                evidence,
            )
        });
        let Some((cost, (binding, connection), outlook, evidence)) = seen else {
            return;
        };
        region.control.registration_cost.set(cost);
        region.control.binding_cost.set(binding);
        region.control.connection_cost.set(connection);
        self.publish(region, Pool::Shm, outlook, evidence, None);
    }

    /// Each process has its own; what is shown is the one that runs out first, else the fullest.
    fn pkg(&mut self, region: &Region, now_ms: u64) {
        let size = region.control.pkg_size.get();
        let rows = region.used_rows(hooks::processes());
        let mut first: Option<(usize, Outlook, u64)> = None;
        for (index, row) in rows.iter().enumerate() {
            let used = row.pkg.real_used.get();
            let unbooked = row.pkg.unbooked.get() as i64;
            let seen = self.0.pkg.work(index, Pkg::default, |pkg| {
                pkg.forecaster.push(now_ms, used, size, [0.0; 2]);
                pkg.parts.used.feed(now_ms, used as i64);
                pkg.parts.drift.feed(now_ms, unbooked);
                pkg.forecaster.outlook(size)
            });
            let Some(outlook) = seen else { continue };
            if let Some(outside) = region.outside.get(index) {
                let foreseen = is_foreseen(&outlook).then_some((Pool::Pkg, outlook.exhaustion_s));
                outside.set_exhaustion(foreseen);
            }
            let rank = |outlook: &Outlook, used: u64| (outlook.exhaustion_s, u64::MAX - used);
            if first.is_none_or(|(_, other, most)| rank(&outlook, used) < rank(&other, most)) {
                first = Some((index, outlook, used));
            }
        }
        let Some((index, outlook, used)) = first else {
            return;
        };
        let parts = |pkg: &mut Pkg| pkg.parts.evidence(&outlook, size, used);
        if let Some(evidence) = self.0.pkg.work(index, Pkg::default, parts) {
            let worker = u16::try_from(index).ok();
            self.publish(region, Pool::Pkg, outlook, evidence, worker);
        }
    }

    fn os(&mut self, region: &Region, figures: &Figures, now_ms: u64, load: [f32; 2]) {
        let (size, used) = (figures.os_limit, figures.os_used);
        if size == 0 {
            return;
        }
        let own = region.sum(hooks::processes(), |row| row.private_bytes.get());
        let room = own.saturating_add(size.saturating_sub(used));
        let seen = self.0.os.work(0, Os::default, |os| {
            os.whole.push(now_ms, used, size, load);
            os.own.push(now_ms, own, room, load);
            os.whole_trail.feed(now_ms, used as i64);
            os.own_trail.feed(now_ms, own as i64);
            let (whole, ours) = (os.whole.outlook(size), os.own.outlook(room));
            let is_ours = is_foreseen(&ours)
                && (!is_foreseen(&whole) || ours.exhaustion_s < whole.exhaustion_s);
            match is_ours {
                true => (ours, os.own_trail.settled()),
                false => (whole, os.whole_trail.settled()),
            }
        });
        let Some((outlook, (growth, step))) = seen else {
            return;
        };
        let most = fastest(region);
        let evidence = Evidence {
            growth,
            step,
            is_foreseen: is_foreseen(&outlook),
            is_unsure: !outlook.valid,
            is_brief: is_brief(&outlook),
            is_rising: is_rising(&outlook),
            size,
            free: size.saturating_sub(used),
            private: most.map_or(0.0, |most| most.growth),
            worker: most.and_then(|most| u16::try_from(most.index).ok()),
            part: most.map_or(Part::Other, |most| most.part),
            leak: most.map_or(Leak::None, |most| most.leak),
            python: region.control.python.get() == 1,
            is_os: true,
            ..Evidence::default()
        };
        if let Some(most) =
            most.filter(|most| is_foreseen(&outlook) && 2.0 * most.growth > outlook.growth)
        {
            let row = region.outside.get(most.index);
            let sooner = |row: &&Outside| {
                row.exhaustion()
                    .is_none_or(|(_, s)| s > outlook.exhaustion_s)
            };
            if let Some(row) = row.filter(sooner) {
                row.set_exhaustion(Some((Pool::Os, outlook.exhaustion_s)));
            }
        }
        let worker = evidence.worker.filter(|_| {
            evidence.leak != Leak::None
                || (evidence.is_foreseen && 2.0 * evidence.private > evidence.growth)
        });
        self.publish(region, Pool::Os, outlook, evidence, worker);
    }

    fn publish(
        &mut self,
        region: &Region,
        pool: Pool,
        outlook: Outlook,
        evidence: Evidence,
        worker: Option<u16>,
    ) {
        let judgement = cause::judge(&evidence);
        region.forecasts.publish(
            pool,
            &Forecast {
                outlook,
                cause: judgement.cause,
                confidence: judgement.confidence,
                evidence,
                worker,
            },
        );
        let log = |announced: &mut Announced| {
            if let Some(said) = announced.0.get_mut(pool.index()) {
                announce(pool, said, &outlook, &judgement, &evidence);
            }
        };
        self.0.announced.work(0, Announced::nothing, log);
    }
}

/// Once per cause that is sure enough to act on: never a line per tick.
fn announce(
    pool: Pool,
    said: &mut Cause,
    outlook: &Outlook,
    judgement: &cause::Judgement,
    evidence: &Evidence,
) {
    let is_news = *said != judgement.cause && judgement.confidence >= Confidence::Medium;
    let stands_alone = evidence.leak != Leak::None || judgement.cause == Cause::Fragmentation;
    if is_news && stands_alone && !is_foreseen(outlook) {
        *said = judgement.cause;
        let why = cause::sentence(judgement, evidence);
        log!(Severity::Warn, "{pool} has no end in sight, but {why}");
    } else if !is_foreseen(outlook) {
        if judgement.cause == Cause::None {
            *said = Cause::None;
        }
    } else if is_news {
        *said = judgement.cause;
        let when = crate::guard::terms::text::Until(outlook.exhaustion_s);
        let why = cause::sentence(judgement, evidence);
        log!(Severity::Warn, "{pool} will be full in {when}: {why}");
    }
}

/// Open TCP connections, those of TLS and WebSocket among them.
fn connections() -> u64 {
    // SAFETY: reads two words of shm that the core made before the fork.
    u64::try_from(unsafe { sys::mg_tcp_connections() }).unwrap_or(0)
}

/// Whether a time is foreseen.
fn is_foreseen(outlook: &Outlook) -> bool {
    outlook.valid && outlook.exhaustion_s < NONE_FORESEEN_S
}

/// Whether that is a guess from seconds.
fn is_brief(outlook: &Outlook) -> bool {
    outlook.method == Method::Moments
}

/// Whether it rises for certain, without a forecast.
fn is_rising(outlook: &Outlook) -> bool {
    !outlook.valid && outlook.high_s < NONE_FORESEEN_S
}

impl Shm {
    /// The load: takes the messages so far.
    fn loaded(&mut self, messages: u64, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.last_ms).clamp(1, 60_000) as f64;
        if self.last_ms != 0 {
            let rate = messages.saturating_sub(self.messages) as f64 * 1000.0 / passed;
            self.rate += (rate - self.rate) * (passed / RATE_MS).min(1.0);
        }
        (self.messages, self.last_ms) = (messages, now_ms);
    }
}

impl Parts {
    fn evidence(&self, outlook: &Outlook, size: u64, used: u64) -> Evidence {
        let (growth, step) = self.used.settled();
        Evidence {
            growth,
            step,
            is_foreseen: is_foreseen(outlook),
            is_unsure: !outlook.valid,
            is_brief: is_brief(outlook),
            is_rising: is_rising(outlook),
            drift: self.drift.growth().now,
            size,
            free: size.saturating_sub(used),
            ..Evidence::default()
        }
    }
}

/// The process whose private memory leaks, else grows, fastest.
#[derive(Clone, Copy)]
struct Fastest {
    index: usize,
    growth: f64,
    part: Part,
    leak: Leak,
}

fn fastest(region: &Region) -> Option<Fastest> {
    let processes = hooks::processes();
    let rows = region.used_rows(processes).iter();
    let each = rows.zip(region.used_outside(processes)).enumerate();
    let candidates = each.map(|(index, (row, outside))| {
        let (growth, part) = outside.growth();
        let is_outside = matches!(
            outside.leak_in(),
            LeakIn::Outside | LeakIn::Libc | LeakIn::Python
        );
        Fastest {
            index,
            growth,
            part,
            leak: if is_outside { row.leak() } else { Leak::None },
        }
    });
    candidates
        .filter(|one| one.growth > 0.0)
        .max_by(|a, b| (a.leak.cmp(&b.leak)).then(a.growth.total_cmp(&b.growth)))
}

/// Growth of the shm site that grows most steadily, where sites are counted.
fn largest_site() -> Option<f64> {
    let sites = owners::sites()?;
    (0..sites.count())
        .filter(|index| sites.pool(*index) == Some(SitePool::Shm))
        .map(|index| sites.growth(index).steady)
        .max_by(f64::total_cmp)
}
