//! The heap by place: every block counted, as function in module in pool.
//! Forbidden here: estimates.

use crate::guard::config::filters::Sites as Filter;
use crate::guard::formats::{
    profile::{Frame, Line, Profile, Sample, Stacks},
    report::Fault,
    sites::file_name,
};
use crate::guard::terms::words::Pool;
use crate::host::kamailio::own_memory;
use crate::host::reports::{profile::subject, site_reports};
use crate::shared::counters::sites::{Named, SitePool, Sites, Tally};

const KINDS: &[(&str, &str)] = &[
    ("alloc_objects", "count"),
    ("alloc_space", "bytes"),
    ("inuse_objects", "count"),
    ("inuse_space", "bytes"),
];

/// The places that are known now, by index.
pub(super) fn names() -> Result<Vec<Option<Named>>, Fault> {
    let sites = site_reports::tables()?;
    let named = |index| {
        own_memory::checkpoint();
        sites.place(index)
    };
    Ok((0..sites.count()).map(named).collect())
}

/// What is held at each place, of pkg by each worker.
pub(super) fn heap<'a>(
    empty: &Profile<'a>,
    filter: &Filter,
    names: &'a [Option<Named>],
    workers: &'a [(String, String)],
) -> Result<Profile<'a>, Fault> {
    let sites = site_reports::tables()?;
    let mut heap = Heap {
        profile: Profile {
            kinds: KINDS,
            period: 1,
            is_named: true,
            ..empty.clone()
        },
        stacks: Stacks::default(),
        names,
    };
    heap.profile.comments.push(format!(
        "{}, every block counted",
        subject(filter, "what it allocated more than it freed")
    ));
    if filter.pool != Some(Pool::Pkg) {
        let held = site_reports::tallies(sites, filter.worker)?;
        heap.add(SitePool::Shm, &held, &[]);
    }
    if filter.pool != Some(Pool::Shm) {
        for (index, (worker, description)) in workers.iter().enumerate() {
            if filter.worker.is_none_or(|wanted| wanted as usize == index) {
                let held = own(sites, index);
                heap.add(
                    SitePool::Pkg,
                    &held,
                    &[("worker", worker), ("process", description)],
                );
            }
        }
    }
    Ok(heap.profile)
}

/// What a worker counted, by index of the place.
fn own(sites: &Sites, worker: usize) -> Vec<Tally> {
    let rows = sites.table(worker).into_iter().flatten();
    rows.take(sites.count())
        .map(|counts| counts.tally())
        .collect()
}

struct Heap<'a> {
    profile: Profile<'a>,
    stacks: Stacks<(Line<'a>, Option<usize>)>,
    names: &'a [Option<Named>],
}

impl<'a> Heap<'a> {
    /// Adds what is held at the places of a pool.
    fn add(&mut self, pool: SitePool, held: &[Tally], labels: &[(&'a str, &'a str)]) {
        let around = match pool {
            SitePool::Shm => "shm",
            SitePool::Pkg => "pkg",
        };
        for (named, tally) in self.names.iter().zip(held) {
            let Some(named) = named.as_ref().filter(|named| named.pool == pool) else {
                continue;
            };
            // One worker's own can be negative in shm: it freed what others allocated, and holds nothing.
            let blocks = u64::try_from(tally.live_blocks()).unwrap_or(0);
            let bytes = u64::try_from(tally.live_bytes()).unwrap_or(0);
            if tally.allocs == 0 && bytes == 0 {
                continue;
            }
            let mappings = self.profile.mappings;
            let mapping = mappings
                .iter()
                .position(|m| m.is_of_module(&named.module))
                .or((!mappings.is_empty()).then_some(0)); // the core and its libraries
            let place = self.step(&named.func, (file_name(&named.file), named.line), mapping);
            let module = self.step(&named.module, ("", 0), mapping);
            let pool = self.step(around, ("", 0), None);
            own_memory::room_in(&mut self.profile.samples);
            let mut all = vec![("pool", around)];
            all.extend_from_slice(labels);
            self.profile.samples.push(Sample {
                root: "",
                stack: vec![place, module, pool],
                values: vec![tally.allocs, tally.bytes_allocated, blocks, bytes],
                labels: all,
            });
        }
    }

    fn step(
        &mut self,
        function: &'a str,
        (file, line): (&'a str, u32),
        mapping: Option<usize>,
    ) -> usize {
        let line = Line {
            function,
            file,
            line,
        };
        self.stacks.index(&mut self.profile, (line, mapping), || {
            Frame::named(line, mapping)
        })
    }
}
