//! The sampling process's forecasts: feeds each pool's, finds the cause, learns what a registration costs.
//! Forbidden here: Kamailio's allocators and locks; deciding (that is `guard::forecast`, `cause` and `cost`).

use crate::guard::foresee::{
    cause::{self, Cause, Confidence, Evidence},
    cost::CostLearner,
    forecast::{Forecaster, Method, Outlook, place::Place},
    growth::{Leak, Trail},
};
use crate::guard::machine::{
    fragments::Fragments,
    outside::{LeakIn, Part},
};
use crate::guard::terms::{text::NONE_FORESEEN_S, words::Pool};
use crate::host::kamailio::{
    log::{Severity, log},
    own_memory, sys,
};
use crate::host::memory::hooks::{self, owners};
use crate::shared::counters::{
    outside::Outside,
    sites::{Held, SitePool},
};
use crate::shared::figures::{forecasts::Forecast, sampled::Figures};
use crate::shared::region::Region;

/// Time constant of the rate of messages.
const RATE_MS: f64 = 15_000.0;

/// Growths of one pool that are compared with each other, so they are measured alike.
#[derive(Default)]
struct Parts {
    used: Trail,
    drift: Trail,
}

/// Everything that is remembered between two ticks.
pub struct Forecasts {
    shm: Box<Forecaster>,
    /// Where places are counted: the one in shm that grows most steadily.
    place: Box<Place>,
    os: Box<Forecaster>,
    pkg: Vec<Box<Forecaster>>,
    shm_parts: Parts,
    os_trail: Trail,
    /// Private memory of all processes together, against what the machine has left: what else runs there is no matter.
    own: Box<Forecaster>,
    own_trail: Trail,
    pkg_parts: Vec<Parts>,
    bindings: Trail,
    cost: CostLearner,
    fragments: Fragments,
    messages: u64,
    rate: f64,
    last_ms: u64,
    announced: [Cause; Pool::COUNT],
}

impl Forecasts {
    /// Knows nothing yet.
    pub fn new() -> Forecasts {
        Forecasts {
            shm: Box::default(),
            place: Box::default(),
            os: Box::default(),
            pkg: Vec::new(),
            shm_parts: Parts::default(),
            os_trail: Trail::default(),
            own: Box::default(),
            own_trail: Trail::default(),
            pkg_parts: Vec::new(),
            bindings: Trail::default(),
            cost: CostLearner::default(),
            fragments: Fragments::default(),
            messages: 0,
            rate: 0.0,
            last_ms: 0,
            announced: [Cause::None; Pool::COUNT],
        }
    }

    /// One tick, after the figures of this sample are complete.
    pub fn tick(&mut self, region: &Region, figures: &Figures, held: Option<Held>, now_ms: u64) {
        let messages = region.sum(hooks::processes(), |row| row.sip.messages.get());
        let passed = now_ms.saturating_sub(self.last_ms).clamp(1, 60_000) as f64;
        if self.last_ms != 0 {
            let rate = messages.saturating_sub(self.messages) as f64 * 1000.0 / passed;
            self.rate += (rate - self.rate) * (passed / RATE_MS).min(1.0);
        }
        (self.messages, self.last_ms) = (messages, now_ms);
        let load = [figures.known_bindings as f32, self.rate as f32];
        self.bindings.feed(now_ms, figures.known_bindings as i64);
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
        let booked = pool.real_used.saturating_sub(unbooked);
        let cost = self
            .cost
            .push(now_ms, figures.known_bindings, connections(), booked);
        region.control.registration_cost.set(cost);
        let (binding, connection) = self.cost.parts().unwrap_or_default();
        region.control.binding_cost.set(binding);
        region.control.connection_cost.set(connection);
        self.shm.push(now_ms, pool.real_used, size, load);
        self.shm_parts.used.feed(now_ms, pool.real_used as i64);
        self.shm_parts.drift.feed(now_ms, unbooked as i64);
        if let Some(held) = held {
            let used = self.shm.levelled();
            self.place
                .push(now_ms, held.number, held.bytes, used, load[1]);
        }
        let outlook = self.shm.outlook_of(size, Some(&self.place));
        let largest_free = Some(hooks::shm_largest_free()).filter(|bytes| *bytes > 0);
        let free = size.saturating_sub(pool.real_used);
        let evidence = Evidence {
            registrations: self.bindings.growth().now * cost as f64,
            cost_known: cost > 0,
            site: largest_site(),
            largest_free,
            pieces: self.fragments.feed(size, free, largest_free),
            ..self.shm_parts.evidence(&outlook, size, pool.real_used)
        };
        self.publish(region, Pool::Shm, outlook, evidence, None);
    }

    /// Each process has its own; what is shown is the one that runs out first, else the fullest.
    fn pkg(&mut self, region: &Region, now_ms: u64) {
        let size = region.control.pkg_size.get();
        let rows = region.used_rows(hooks::processes());
        self.pkg.resize_with(rows.len(), || {
            own_memory::checkpoint();
            Box::default()
        });
        self.pkg_parts.resize_with(rows.len(), Parts::default);
        let mut first: Option<(usize, Outlook, u64)> = None;
        for (index, row) in rows.iter().enumerate() {
            let used = row.pkg.real_used.get();
            let (Some(forecaster), Some(parts)) =
                (self.pkg.get_mut(index), self.pkg_parts.get_mut(index))
            else {
                continue;
            };
            forecaster.push(now_ms, used, size, [0.0; 2]);
            parts.used.feed(now_ms, used as i64);
            parts.drift.feed(now_ms, row.pkg.unbooked.get() as i64);
            let outlook = forecaster.outlook(size);
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
        let evidence = match self.pkg_parts.get(index) {
            Some(parts) => parts.evidence(&outlook, size, used),
            None => return,
        };
        self.publish(
            region,
            Pool::Pkg,
            outlook,
            evidence,
            u16::try_from(index).ok(),
        );
    }

    fn os(&mut self, region: &Region, figures: &Figures, now_ms: u64, load: [f32; 2]) {
        let (size, used) = (figures.os_limit, figures.os_used);
        if size == 0 {
            return;
        }
        let own = region.sum(hooks::processes(), |row| row.private_bytes.get());
        let room = own.saturating_add(size.saturating_sub(used));
        self.os.push(now_ms, used, size, load);
        self.own.push(now_ms, own, room, load);
        self.os_trail.feed(now_ms, used as i64);
        self.own_trail.feed(now_ms, own as i64);
        let (whole, ours) = (self.os.outlook(size), self.own.outlook(room));
        let is_ours =
            is_foreseen(&ours) && (!is_foreseen(&whole) || ours.exhaustion_s < whole.exhaustion_s);
        let (outlook, trail) = match is_ours {
            true => (ours, &self.own_trail),
            false => (whole, &self.os_trail),
        };
        let most = fastest(region);
        let (growth, step) = trail.settled();
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
        // Once per cause that is sure enough to act on: never a line per tick.
        let Some(said) = self.announced.get_mut(pool.index()) else {
            return;
        };
        let is_news = *said != judgement.cause && judgement.confidence >= Confidence::Medium;
        let stands_alone = evidence.leak != Leak::None || judgement.cause == Cause::Fragmentation;
        if is_news && stands_alone && !is_foreseen(&outlook) {
            *said = judgement.cause;
            let why = cause::sentence(&judgement, &evidence);
            log!(Severity::Warn, "{pool} has no end in sight, but {why}");
        } else if !is_foreseen(&outlook) {
            if judgement.cause == Cause::None {
                *said = Cause::None;
            }
        } else if is_news {
            *said = judgement.cause;
            let when = crate::guard::terms::text::Until(outlook.exhaustion_s);
            let why = cause::sentence(&judgement, &evidence);
            log!(Severity::Warn, "{pool} will be full in {when}: {why}");
        }
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
