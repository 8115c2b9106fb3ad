//! What each process holds at each place, kept up by reading the tables of those processes only that did something.
//! Forbidden here: Kamailio's allocators and locks; judging growth. Process: the sampling process alone.
//!
//! A process counts its operations in its row (`Row::ops`, after their books): while that number stands still, so does
//! its table, which is not read again. Of a table only the places are kept that the process ever used: some 150 of
//! 1,000.

use crate::guard::foresee::growth::MinuteTrail;
use crate::host::memory::hooks;
use crate::shared::counters::{
    rows::{COMMON_ROW, MAX_PROCESSES},
    sites::{SitePool, Sites, Table, Tally},
};
use crate::shared::region::Region;

/// One process's part of a place.
struct Share {
    place: u16,
    bytes: i64,
    blocks: i64,
    trail: MinuteTrail,
}

/// One process's parts, by place.
#[derive(Default)]
struct Shares {
    /// Operations of the process when its table was read; `None` before the first time.
    ops: Option<u64>,
    is_read_now: bool,
    shares: Vec<Share>,
    /// Live bytes of its private pool.
    pkg: i64,
}

/// Everything that is held.
#[derive(Default)]
pub struct Books {
    own: Vec<Shares>,
    /// What several processes count together: threads, and the processes beyond the last row.
    common: [Shares; 2],
    sums: Vec<Tally>,
    pools: Vec<Option<SitePool>>,
}

impl Shares {
    /// First half: what was freed. A place that the process uses for the first time gets its share.
    fn read_freed(&mut self, table: &Table, places: usize, looked_ms: u64) {
        let is_first = self.ops.is_none();
        let mut next = 0;
        for (place, counts) in table.iter().take(places).enumerate() {
            let is_known = self.is_at(next, place);
            if !is_known && counts.is_unused() {
                continue;
            }
            if !is_known {
                let mut trail = MinuteTrail::default();
                if !is_first {
                    trail.feed(looked_ms, 0); // it was nothing at the last look
                }
                let share = Share {
                    place: place as u16,
                    bytes: 0,
                    blocks: 0,
                    trail,
                };
                self.shares.insert(next, share);
            }
            if let Some(share) = self.shares.get_mut(next) {
                let mut freed = Tally::default();
                counts.read_freed(&mut freed);
                (share.bytes, share.blocks) = (freed.live_bytes(), freed.live_blocks());
            }
            next += 1;
        }
    }

    /// Second half, after the first of all processes: what was allocated.
    fn read_allocated(&mut self, table: &Table) {
        for share in &mut self.shares {
            if let Some(counts) = table.get(usize::from(share.place)) {
                let mut allocated = Tally::default();
                counts.read_allocated(&mut allocated);
                share.bytes = share.bytes.wrapping_add(allocated.live_bytes());
                share.blocks = share.blocks.wrapping_add(allocated.live_blocks());
            }
        }
    }

    fn is_at(&self, next: usize, place: usize) -> bool {
        self.shares
            .get(next)
            .is_some_and(|share| usize::from(share.place) == place)
    }
}

impl Books {
    /// Reads what has changed; answers the bytes of shm that live. Approximate while processes run: a place that a
    /// process uses for the first time during the reading is read the next time.
    pub fn read(&mut self, region: &Region, sites: &Sites, looked_ms: u64) -> i64 {
        let places = sites.count();
        self.pools.clear();
        self.pools
            .extend((0..places).map(|place| sites.pool(place)));
        let processes = hooks::processes();
        self.own
            .resize_with(processes.min(MAX_PROCESSES), Shares::default);
        let [threads, common] = &mut self.common;
        let own = self.own.iter_mut().enumerate();
        let mut tables: Vec<(&mut Shares, &Table)> = Vec::with_capacity(processes + 2);
        for (process, shares) in own {
            let row = region.rows.get(process);
            let ops = row.map(|row| row.ops.get());
            shares.is_read_now = shares.ops.is_none() || shares.ops != ops;
            if let (true, Some(table)) = (shares.is_read_now, sites.table(process)) {
                tables.push((shares, table));
            }
        }
        tables.push((threads, sites.threads()));
        if let (true, Some(table)) = (processes > MAX_PROCESSES, sites.table(COMMON_ROW)) {
            tables.push((common, table));
        }
        // Operations are counted after their books, so they are read before them.
        let seen: Vec<Option<u64>> = region.rows.iter().map(|row| Some(row.ops.get())).collect();
        for (shares, table) in &mut tables {
            shares.read_freed(table, places, looked_ms);
        }
        for (shares, table) in &mut tables {
            shares.read_allocated(table);
        }
        drop(tables);
        for (shares, ops) in self.own.iter_mut().zip(seen) {
            if shares.is_read_now {
                shares.ops = ops;
                let pkg = shares.shares.iter().filter(|share| {
                    self.pools.get(usize::from(share.place)) == Some(&Some(SitePool::Pkg))
                });
                shares.pkg = pkg.map(|share| share.bytes).sum();
            }
        }
        self.common
            .iter_mut()
            .for_each(|shares| shares.ops = Some(0));
        self.add_up(places);
        let shm = self.sums.iter().zip(&self.pools);
        shm.filter(|(_, pool)| **pool == Some(SitePool::Shm))
            .map(|(sum, _)| sum.live_bytes())
            .sum()
    }

    fn add_up(&mut self, places: usize) {
        self.sums.clear();
        self.sums.resize(places, Tally::default());
        for share in self
            .own
            .iter()
            .chain(&self.common)
            .flat_map(|own| &own.shares)
        {
            if let Some(sum) = self.sums.get_mut(usize::from(share.place)) {
                sum.bytes_allocated = sum.bytes_allocated.wrapping_add(share.bytes as u64);
                sum.allocs = sum.allocs.wrapping_add(share.blocks as u64);
            }
        }
    }

    /// What all processes hold at each place (as allocated and not freed: a sum has no totals).
    pub fn sums(&self) -> &[Tally] {
        &self.sums
    }

    /// The pool of each place.
    pub fn pool(&self, place: usize) -> Option<SitePool> {
        self.pools.get(place).copied().flatten()
    }

    /// Live bytes of a process's private pool; `None` before the first reading.
    pub fn pkg(&self, process: usize) -> Option<i64> {
        let shares = self.own.get(process)?;
        shares.ops.map(|_| shares.pkg)
    }

    /// Bytes that a process holds at a place.
    pub fn share(&self, process: usize, place: usize) -> i64 {
        let shares = self.own.get(process).map_or(&[][..], |own| &own.shares);
        let found = shares.binary_search_by_key(&place, |share| usize::from(share.place));
        found
            .ok()
            .and_then(|at| shares.get(at))
            .map_or(0, |share| share.bytes)
    }

    /// Publishes how each process's own share of each place grows.
    pub fn publish_growth(&mut self, sites: &Sites, now_ms: u64) {
        for (process, own) in self.own.iter_mut().enumerate() {
            for share in &mut own.shares {
                if let Some(growth) = share.trail.feed(now_ms, share.bytes) {
                    sites.set_worker_growth(process, usize::from(share.place), growth);
                }
            }
        }
    }
}
