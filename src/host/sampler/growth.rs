//! The sampling process's short history of every site and worker: growth of low-water marks, and what is called a leak.
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
struct Worker {
    trail: Trail,
    messages: Trail,
    registers: Trail,
    pkg: LeakWatch,
    outside: outside::Watch,
}

/// One site's trails.
struct Site {
    trail: Trail,
    /// Only of shm: what is kept for good in pkg shows in its worker.
    watch: LeakWatch,
}

/// Everything that is remembered.
pub struct Growths {
    workers: Vec<Worker>,
    sites: Vec<Site>,
    books: Books,
    leading: Leading,
    messages: Trail,
    registers: Trail,
    /// Rises while known bindings do: then registrations explain what shm gains, and no shm leak is called.
    bindings: LeakWatch,
    /// The same by the short windows that Python scripts are judged by.
    bindings_lately: LeakWatch,
    sample: u64,
    looks: u64,
    looked_ms: u64,
    processes: usize,
    changed_ms: u64,
}

impl Growths {
    /// Remembers nothing yet.
    pub fn new() -> Growths {
        Growths {
            workers: Vec::new(),
            sites: Vec::new(),
            books: Books::default(),
            leading: Leading::default(),
            messages: Trail::default(),
            registers: Trail::default(),
            bindings: LeakWatch::slow(),
            bindings_lately: LeakWatch::pkg(),
            sample: 0,
            looks: 0,
            looked_ms: 0,
            processes: 0,
            changed_ms: 0,
        }
    }

    /// One sample, after the rows' own figures were taken. `bindings` are the known ones.
    pub fn tick(&mut self, region: &Region, processes: usize, bindings: u64, now_ms: u64) {
        if processes != self.processes {
            *self = Growths {
                processes,
                changed_ms: now_ms,
                ..Growths::new()
            };
        }
        if now_ms.saturating_sub(self.changed_ms) < SETTLE_MS && now_ms >= self.changed_ms {
            return;
        }
        self.sample += 1;
        self.settle(region);
        self.workers(region, bindings, now_ms);
        if now_ms.saturating_sub(self.looked_ms) >= LOOK_EVERY_MS || now_ms < self.looked_ms {
            self.looked_ms = now_ms;
            self.looks += 1;
            if let Some(sites) = owners::sites() {
                self.sites(region, sites, bindings, now_ms);
            }
        }
    }

    /// Reads the books, puts the one number right that all processes tell of shm, and publishes what the manager books
    /// beyond it.
    fn settle(&mut self, region: &Region) {
        // The manager before and after: what is allocated or freed while ours is read is never drift.
        let size = region.control.shm_size.get();
        let before = hooks::shm_now(size).unwrap_or_default();
        let told = region.control.shm_counted.get();
        let live = match owners::sites() {
            Some(sites) => self.books.read(region, sites, self.looked_ms),
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
        let count = self.processes.min(MAX_PROCESSES);
        self.workers.resize_with(count, || Worker {
            trail: Trail::default(),
            messages: Trail::default(),
            registers: Trail::default(),
            pkg: LeakWatch::pkg(),
            outside: outside::Watch::default(),
        });
        let weighed = bindings.saturating_mul(BINDING) as i64;
        let is_explained = self.bindings_lately.feed(self.sample, weighed) != Leak::None;
        let rows = region.rows.iter().zip(&region.outside);
        for (index, (worker, (row, outside))) in self.workers.iter_mut().zip(rows).enumerate() {
            own_memory::checkpoint();
            let live = self.books.pkg(index);
            let live = live.unwrap_or_else(|| hooks::pkg_sum(index, row).live() as i64);
            worker.trail.feed(now_ms, live);
            worker.messages.feed(now_ms, row.sip.messages.get() as i64);
            worker.pkg.feed(self.sample, live);
            let told = outside.told();
            let look = Look {
                private: row.private_bytes.get(),
                heap: told.map(|told| told.heap),
                python_blocks: told.and_then(|told| told.python_blocks),
            };
            worker.outside.feed(self.sample, now_ms, look, is_explained);
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
        }
    }

    fn sites(&mut self, region: &Region, sites: &Sites, bindings: u64, now_ms: u64) {
        let processes = self.processes;
        let total = |figure: fn(&Row) -> u64| region.sum(processes, figure) as i64;
        self.messages
            .feed(now_ms, total(|row| row.sip.messages.get()));
        self.registers
            .feed(now_ms, total(|row| row.sip.received.sum()));
        let rates = [self.messages.growth().now, self.registers.growth().now];
        sites.set_rates(None, rates);
        self.shares(region, sites, now_ms);
        let sums = self.books.sums();
        self.sites.resize_with(sums.len(), || Site {
            trail: Trail::default(),
            watch: LeakWatch::slow(),
        });
        let weighed = bindings.saturating_mul(BINDING) as i64;
        let is_explained = self.bindings.feed(self.looks, weighed) != Leak::None;
        for (index, (site, sum)) in self.sites.iter_mut().zip(sums).enumerate() {
            let live = sum.live_bytes();
            site.trail.feed(now_ms, live);
            sites.set_growth(index, site.trail.growth());
            if self.books.pool(index) == Some(SitePool::Shm) {
                let leak = site.watch.feed(self.looks, live);
                if leak != Leak::None && !is_explained {
                    blame(region, &self.books, index, live, leak);
                }
            }
        }
        let unbooked = total(|row| row.shm_sum().unbooked);
        if let Some(pool) = hooks::shm_now(region.control.shm_size.get()) {
            let booked = (pool.real_used as i64).saturating_sub(unbooked);
            self.leading.look(sites, sums, booked);
        }
    }

    /// What each worker's own share of the sites does, and what the worker does meanwhile.
    fn shares(&mut self, region: &Region, sites: &Sites, now_ms: u64) {
        for (process, (worker, row)) in self.workers.iter_mut().zip(&region.rows).enumerate() {
            own_memory::checkpoint();
            worker.registers.feed(now_ms, row.sip.received.sum() as i64);
            let rates = [worker.messages.growth().m1, worker.registers.growth().m1];
            sites.set_rates(Some(process), rates);
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
