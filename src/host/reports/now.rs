//! One look at the server: every field of an answer is made from one of these, so that they belong together.
//! Forbidden here: changing anything; formatting; allocation but in `warnings` (statistics are read through it). Process: any.

use crate::guard::config::params::Int;
use crate::guard::decide::{
    admission::{self, Curves, Pressure},
    level::{self, Standing, Thresholds, permyriad},
    queue,
};
use crate::guard::foresee::{
    cost,
    growth::Leak,
    told::{self, Forecast},
};
use crate::guard::terms::{
    text::NONE_FORESEEN_S,
    warnings::{self, Warning},
    words::{Class, Level, Mode, Pool},
};
use crate::host::kamailio::state;
use crate::host::memory::hooks;
use crate::host::reports::total;
use crate::shared::figures::sampled::Figures;
use crate::shared::region::Region;

/// The last sample and what it foresees, with shm's use and the clock of one moment.
#[derive(Clone, Copy)]
pub struct Now<'a> {
    /// Where counters that run on are read.
    pub region: &'a Region,
    /// The last sample.
    pub figures: Figures,
    /// What was foreseen with it, by [`Pool::index`].
    pub forecasts: [Forecast; Pool::COUNT],
    /// Milliseconds of memguard's clock.
    pub at_ms: u64,
    /// Size of shm, bytes.
    pub shm_size: u64,
    /// Use of shm, bytes, live; nothing before its manager is known.
    pub shm_used: Option<u64>,
}

impl<'a> Now<'a> {
    /// Looks. A sample's forecasts are published just before its figures (sampler/ticks.rs): what is read in between is
    /// one sample apart, which no counter tells.
    pub fn of(region: &'a Region) -> Now<'a> {
        /// The sampling process may publish in the middle of a look: so often it is repeated.
        const LOOKS: u32 = 3;
        let mut figures = region.figures();
        let mut forecasts = region.forecasts.all();
        for _ in 1..LOOKS {
            let again = region.figures();
            if again.samples == figures.samples {
                break;
            }
            figures = again;
            forecasts = region.forecasts.all();
        }
        let shm_size = region.control.shm_size.get();
        Now {
            region,
            figures,
            forecasts,
            at_ms: state::now_ms(),
            shm_size,
            shm_used: hooks::shm_now(shm_size).map(|pool| pool.real_used),
        }
    }

    /// What is foreseen for a pool.
    pub fn forecast(&self, pool: Pool) -> Forecast {
        self.forecasts
            .get(pool.index())
            .copied()
            .unwrap_or_default()
    }

    /// The pool that is told where only one is, and its future.
    pub fn told(&self) -> (Pool, Forecast) {
        let tightest = Pool::from_index(self.figures.tightest).unwrap_or(Pool::Shm);
        told::first(tightest, &self.forecasts)
    }

    /// The level as it is: the last sample's, or shedding from the moment an operator says so.
    pub fn level(&self) -> Level {
        let sampled = Level::from_index(self.figures.level).unwrap_or(Level::Normal);
        if self.region.is_shed(self.at_ms) {
            sampled.max(Level::Shedding)
        } else {
            sampled
        }
    }

    /// Each pool that has a size: its size and use, bytes. shm live; pkg of the fullest worker and the machine's memory
    /// by the last sample.
    pub fn uses(&self) -> impl Iterator<Item = (Pool, u64, u64)> + use<> {
        let figures = &self.figures;
        let shm = self.shm_used.map(|used| (Pool::Shm, self.shm_size, used));
        let pkg = (
            Pool::Pkg,
            self.region.control.pkg_size.get(),
            figures.fullest_real_used,
        );
        let os = (Pool::Os, figures.os_limit, figures.os_used);
        let all = [shm, Some(pkg), Some(os)].into_iter().flatten();
        all.filter(|(_, size, _)| *size > 0)
    }

    /// The pool or limit that is tightest.
    pub fn tightest(&self) -> Option<Standing> {
        let values = self.region.settings.all();
        level::tightest(self.uses().map(|(pool, total, used)| Standing {
            pool,
            total,
            used,
            shed_pct: Thresholds::of(&values, pool).shed,
        }))
    }

    /// Bytes left in it.
    pub fn headroom(&self) -> u64 {
        self.tightest()
            .map_or(0, |tightest| tightest.headroom_bytes())
    }

    /// Seconds until a pool is full at the pace of the last seconds; [`NONE_FORESEEN_S`] when it does not grow, or
    /// before the first sample.
    pub fn full_at_this_rate(&self, pool: Pool) -> u64 {
        let figures = &self.figures;
        let seconds = match pool {
            Pool::Shm => figures.shm_full_in,
            Pool::Pkg => figures.pkg_full_in,
            Pool::Os if figures.os_limit > 0 => figures.os_full_in,
            Pool::Os => NONE_FORESEEN_S,
        };
        match figures.samples {
            0 => NONE_FORESEEN_S,
            _ => seconds,
        }
    }

    /// The pool that is full first at the pace of the last seconds, and in how many; of those that do not grow, shm.
    pub fn first_full_at_this_rate(&self) -> (Pool, u64) {
        let each =
            [Pool::Shm, Pool::Pkg, Pool::Os].map(|pool| (pool, self.full_at_this_rate(pool)));
        let first = each.into_iter().min_by_key(|(_, seconds)| *seconds);
        first.unwrap_or((Pool::Shm, NONE_FORESEEN_S))
    }

    /// Share of class `new` that is refused at this moment where it is largest, whole percent: shm live; by the last
    /// sample the pkg of the fullest process that receives SIP, and the machine's memory where that sample is not stale.
    pub fn shed_pct(&self) -> u64 {
        let region = self.region;
        let pressure = Pressure {
            shm_permyriad: permyriad(self.shm_used.unwrap_or(0), self.shm_size),
            pkg_permyriad: permyriad(self.figures.fullest_sip_used, region.control.pkg_size.get()),
            os_permyriad: region.os_permyriad(self.at_ms),
            shm_free_bytes: u64::MAX,
            operator_shed: region.is_shed(self.at_ms),
            ..Pressure::default()
        };
        if region.settings.mode() == Mode::Off {
            return 0;
        }
        let curves = Curves::of(&region.settings.all());
        u64::from(admission::shed_pct(admission::share_of(
            Class::New,
            &pressure,
            &curves,
        )))
    }

    /// Age of the last sample, milliseconds; before the first, that of the start.
    pub fn sample_age_ms(&self) -> u64 {
        let control = &self.region.control;
        self.at_ms
            .saturating_sub(self.figures.time_ms.max(control.start_ms.get()))
    }

    /// Seconds since the start.
    pub fn uptime_s(&self) -> u64 {
        self.at_ms
            .saturating_sub(self.region.control.start_ms.get())
            / 1000
    }

    /// What there is to warn of: what was found, and that nobody looks any more.
    pub fn warnings(&self) -> Vec<&'static str> {
        let control = &self.region.control;
        let mut mask = control.warnings.get();
        let sampled = self.figures.time_ms.max(control.start_ms.get());
        if self.region.is_stale(sampled, self.at_ms) {
            mask |= 1 << Warning::StaleSample as u8;
        }
        warnings::sentences(mask)
    }

    /// What a registration costs in shm, bytes, and how many fit below the point where every new one is refused; nothing
    /// while the cost is not learned.
    pub fn registrations_left(&self) -> Option<(u64, u64)> {
        let cost = self.region.control.registration_cost.get();
        let full = self.shm_size / 100 * self.region.settings.get_u64(Int::ShmFull);
        let left = || cost::registrations_left(full, self.shm_used.unwrap_or(0), cost);
        (cost > 0).then(|| (cost, left()))
    }

    /// Slots of the queue that lie ahead: of the common one now, of the crowds' own by the last sample.
    pub fn queue_length(&self) -> u64 {
        let control = &self.region.control;
        let rules = self.region.queue_rules();
        let common = queue::length(control.queue_tail_us.get(), self.at_ms, &rules);
        common.saturating_add(control.queue_crowd_slots.get())
    }

    /// Seconds until the last of them has passed.
    pub fn queue_seconds(&self) -> u64 {
        let control = &self.region.control;
        let tails = [&control.queue_tail_us, &control.queue_crowd_tail_us].map(|tail| tail.get());
        queue::drained_in(tails[0].max(tails[1]), self.at_ms)
    }

    /// Whether unknown phones may be registered ones: the table does not know all that live.
    pub fn is_unsure(&self) -> bool {
        self.region.control.usrloc_in_memory.get() == 0
            && state::tables().is_some_and(|t| t.is_unsure(self.region, self.at_ms / 1000))
    }
}

/// Largest use of shm since the start or `reset peaks`: sampled, and now.
pub fn shm_peak(region: &Region) -> u64 {
    let now = hooks::shm_now(region.control.shm_size.get()).map_or(0, |p| p.real_used);
    region.control.shm_peak.get().max(now)
}

/// Failed allocations of shm and pkg since the start.
pub fn failures_since_start(region: &Region) -> (u64, u64) {
    (
        total(region, |r| r.shm_sum().failures),
        total(region, |r| r.pkg_failures.get()),
    )
}

/// Known bindings and AoRs at this moment. What has ended is taken off within two samples where the tables have their
/// usual size.
pub fn known() -> (u64, u64) {
    state::tables().map_or((0, 0), |tables| {
        (tables.bindings.entries(), tables.aors.entries())
    })
}

/// Workers whose leak is suspected or confirmed.
pub fn leaking(region: &Region) -> u64 {
    let rows = region.used_rows(hooks::processes()).iter();
    rows.filter(|row| row.leak() != Leak::None).count() as u64
}
