//! The sampling process's short history of every site and worker: growth of low-water marks, and what is called a leak.
//! It lies in shared memory (`memory`), so that the next sampling process goes on with it.
//! Forbidden here: Kamailio's allocators and locks; decisions (the rule is `guard::growth`'s).

use crate::guard::foresee::growth::{Leak, LeakWatch, Trail};
use crate::guard::machine::outside::{self, LeakIn, Look};
use crate::host::kamailio::own_memory;
use crate::host::memory::hooks::{self, owners};
use crate::host::sampler::books::Books;
use crate::shared::counters::{
    rows::{MAX_PROCESSES, Row},
    sites::{Held, Leading, SitePool, Sites},
};
use crate::shared::parts::kept::{Lease, Plain};
use crate::shared::region::Region;

/// Sites are looked at no more often than this, however short the sample interval.
const LOOK_EVERY_MS: u64 = 900;
/// After the last process was forked: what the processes allocate when they begin is no growth.
const SETTLE_MS: u64 = 3_000;
/// A worker holds its share of a leaking shm site when it allocated more of it than one part in so many.
const SHARE: i64 = 10;

/// About what a binding holds of shm: makes the rule's least rise one binding.
const BINDING: u64 = 1024;

/// One worker's trails.
#[derive(Clone, Copy)]
pub struct Worker {
    trail: Trail,
    messages: Trail,
    registers: Trail,
    pkg: LeakWatch,
    outside: outside::Watch,
}
// SAFETY: numbers.
unsafe impl Plain for Worker {}

impl Worker {
    fn new() -> Worker {
        Worker {
            trail: Trail::default(),
            messages: Trail::default(),
            registers: Trail::default(),
            pkg: LeakWatch::pkg(),
            outside: outside::Watch::default(),
        }
    }
}

/// One site's trails.
#[derive(Clone, Copy)]
pub struct Site {
    trail: Trail,
    /// Only of shm: what is kept for good in pkg shows in its worker.
    watch: LeakWatch,
}
// SAFETY: numbers.
unsafe impl Plain for Site {}

impl Site {
    fn new() -> Site {
        Site {
            trail: Trail::default(),
            watch: LeakWatch::slow(),
        }
    }
}

/// What is there once, and how far it has come.
#[derive(Clone, Copy)]
pub struct Counts {
    messages: Trail,
    registers: Trail,
    /// Rises while known bindings do: then registrations explain what shm gains, and no shm leak is called.
    bindings: LeakWatch,
    /// The same by the short windows that Python scripts are judged by.
    bindings_lately: LeakWatch,
    /// The shm place that grows most steadily.
    leading: Option<Held>,
    sample: u64,
    looks: u64,
    looked_ms: u64,
    processes: usize,
    changed_ms: u64,
}
// SAFETY: numbers.
unsafe impl Plain for Counts {}

impl Counts {
    fn new() -> Counts {
        Counts {
            messages: Trail::default(),
            registers: Trail::default(),
            bindings: LeakWatch::slow(),
            bindings_lately: LeakWatch::pkg(),
            leading: None,
            sample: 0,
            looks: 0,
            looked_ms: 0,
            processes: 0,
            changed_ms: 0,
        }
    }
}

/// What the next sampling process goes on with.
pub struct Leases {
    pub counts: Lease<Counts>,
    pub workers: Lease<Worker>,
    pub sites: Lease<Site>,
}

/// Everything that is remembered.
pub struct Growths {
    kept: Leases,
    /// As kept at the end of the last sample.
    counts: Counts,
    books: Books,
    leading: Leading,
}

impl Growths {
    /// Goes on with what an earlier sampling process remembered, if there was one.
    pub fn new(mut kept: Leases) -> Growths {
        let counts = kept.counts.work(0, Counts::new, |counts| *counts);
        let counts = counts.unwrap_or_else(Counts::new);
        Growths {
            kept,
            counts,
            books: Books::default(),
            leading: Leading::after(counts.leading),
        }
    }

    /// Gives back what can be read again.
    pub fn shrink(&mut self) {
        self.books = Books::default();
        self.leading = Leading::after(self.counts.leading);
    }

    /// One sample, after the rows' own figures were taken. `bindings` are the known ones.
    pub fn tick(&mut self, region: &Region, processes: usize, bindings: u64, now_ms: u64) {
        if processes != self.counts.processes {
            self.begin_anew(processes, now_ms);
        }
        let since_ms = self.counts.changed_ms;
        if now_ms.saturating_sub(since_ms) < SETTLE_MS && now_ms >= since_ms {
            return;
        }
        self.counts.sample += 1;
        self.settle(region);
        self.workers(region, bindings, now_ms);
        let looked_ms = self.counts.looked_ms;
        if now_ms.saturating_sub(looked_ms) >= LOOK_EVERY_MS || now_ms < looked_ms {
            self.counts.looked_ms = now_ms;
            self.counts.looks += 1;
            if let Some(sites) = owners::sites() {
                self.sites(region, sites, bindings, now_ms);
            }
        }
        self.keep();
    }

    /// Other processes than before: nothing of what was seen says anything.
    fn begin_anew(&mut self, processes: usize, now_ms: u64) {
        self.kept.workers.forget(self.counts.processes);
        self.kept.sites.forget(self.books.sums().len());
        self.counts = Counts {
            processes,
            changed_ms: now_ms,
            ..Counts::new()
        };
        self.shrink();
        self.keep();
    }

    fn keep(&mut self) {
        let counts = self.counts;
        self.kept.counts.work(0, Counts::new, |kept| *kept = counts);
    }

    /// Reads the books, puts the one number right that all processes tell of shm, and publishes what the manager books
    /// beyond it.
    fn settle(&mut self, region: &Region) {
        // The manager before and after: what is allocated or freed while ours is read is never drift.
        let size = region.control.shm_size.get();
        let before = hooks::shm_now(size).unwrap_or_default();
        let told = region.control.shm_counted.get();
        let live = match owners::sites() {
            Some(sites) => self.books.read(region, sites, self.counts.looked_ms),
            None => hooks::shm_sum_of_all(region).live(),
        };
        let booked = hooks::shm_now(size).map_or(0, |pool| pool.used.min(before.used));
        let control = &region.control;
        control.shm_counted.add((live as u64).wrapping_sub(told));
        control
            .shm_drift
            .set(booked.saturating_sub(u64::try_from(live).unwrap_or(0)));
    }

    /// The shm place that grows most steadily, by the last look.
    pub fn leading(&self) -> Option<Held> {
        self.leading.held()
    }

    fn workers(&mut self, region: &Region, bindings: u64, now_ms: u64) {
        let count = self.counts.processes.min(MAX_PROCESSES);
        let sample = self.counts.sample;
        let weighed = bindings.saturating_mul(BINDING) as i64;
        let is_explained = self.counts.bindings_lately.feed(sample, weighed) != Leak::None;
        let rows = region.rows.iter().zip(&region.outside).take(count);
        for (index, (row, outside)) in rows.enumerate() {
            own_memory::checkpoint();
            let live = self.books.pkg(index);
            let live = live.unwrap_or_else(|| hooks::pkg_sum(index, row).live() as i64);
            let told = outside.told();
            let look = Look {
                private: row.private_bytes.get(),
                heap: told.map(|told| told.heap),
                python_blocks: told.and_then(|told| told.python_blocks),
            };
            self.kept.workers.work(index, Worker::new, |worker| {
                worker.trail.feed(now_ms, live);
                worker.messages.feed(now_ms, row.sip.messages.get() as i64);
                worker.pkg.feed(sample, live);
                worker.outside.feed(sample, now_ms, look, is_explained);
                outside.set_growth(worker.outside.growth(), worker.outside.part());
                let (growth, rate) = (worker.trail.growth().now, worker.messages.growth().now);
                row.set_growth(growth, if rate > 0.0 { growth / rate } else { 0.0 });
                let (pkg, beyond) = (worker.pkg.state(), worker.outside.leak());
                row.set_leak(pkg.max(beyond));
                outside.set_leak_in(match pkg.max(beyond) {
                    Leak::None => LeakIn::None,
                    _ if pkg >= beyond => LeakIn::Pkg,
                    _ => worker.outside.part().into(),
                });
            });
        }
    }

    fn sites(&mut self, region: &Region, sites: &Sites, bindings: u64, now_ms: u64) {
        let rows = region.used_rows(self.counts.processes);
        let total = |f: &dyn Fn(&Row) -> u64| rows.iter().map(f).fold(0, u64::wrapping_add) as i64;
        let counts = &mut self.counts;
        counts
            .messages
            .feed(now_ms, total(&|row| row.sip.messages.get()));
        counts
            .registers
            .feed(now_ms, total(&|row| row.sip.received.sum()));
        let rates = [counts.messages.growth().now, counts.registers.growth().now];
        sites.set_rates(None, rates);
        self.shares(region, sites, now_ms);
        let sums = self.books.sums();
        let looks = self.counts.looks;
        let weighed = bindings.saturating_mul(BINDING) as i64;
        let is_explained = self.counts.bindings.feed(looks, weighed) != Leak::None;
        for (index, sum) in sums.iter().enumerate() {
            let live = sum.live_bytes();
            let is_shm = self.books.pool(index) == Some(SitePool::Shm);
            let leak = self.kept.sites.work(index, Site::new, |site| {
                site.trail.feed(now_ms, live);
                sites.set_growth(index, site.trail.growth());
                match is_shm {
                    true => site.watch.feed(looks, live),
                    false => Leak::None,
                }
            });
            let leak = leak.unwrap_or(Leak::None);
            if leak != Leak::None && !is_explained {
                blame(region, &self.books, index, live, leak);
            }
        }
        let unbooked = total(&|row| row.shm_sum().unbooked);
        if let Some(pool) = hooks::shm_now(region.control.shm_size.get()) {
            let booked = (pool.real_used as i64).saturating_sub(unbooked);
            self.leading.look(sites, sums, booked);
            self.counts.leading = self.leading.held();
        }
    }

    /// What each worker's own share of the sites does, and what the worker does meanwhile.
    fn shares(&mut self, region: &Region, sites: &Sites, now_ms: u64) {
        let count = self.counts.processes.min(MAX_PROCESSES);
        for (process, row) in region.rows.iter().take(count).enumerate() {
            own_memory::checkpoint();
            let received = row.sip.received.sum() as i64;
            let rates = self.kept.workers.work(process, Worker::new, |worker| {
                worker.registers.feed(now_ms, received);
                [worker.messages.growth().m1, worker.registers.growth().m1]
            });
            sites.set_rates(Some(process), rates.unwrap_or_default());
        }
        self.books.publish_growth(sites, now_ms);
    }
}

/// Marks the workers that hold their share of a leaking shm site.
fn blame(region: &Region, books: &Books, index: usize, live: i64, leak: Leak) {
    for (process, (row, outside)) in region.rows.iter().zip(&region.outside).enumerate() {
        if books.share(process, index) > live / SHARE && row.leak() < leak {
            row.set_leak(leak);
            outside.set_leak_in(LeakIn::Shm);
        }
    }
}
