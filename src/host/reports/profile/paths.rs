//! The heap by call path: what sampled blocks stand for, with the addresses of the calls that led to them.
//! Forbidden here: names that no symbol gives.

use crate::guard::config::{filters::Sites as Filter, params::Int};
use crate::guard::foresee::sampling;
use crate::guard::formats::{
    profile::{self, Frame, Line, Profile, Sample, Stacks},
    sites::file_name,
};
use crate::guard::terms::words::Pool;
use crate::host::kamailio::{own_memory, state};
use crate::host::memory::hooks;
use crate::host::reports::{
    frames::{self, Names},
    path_reports,
    profile::subject,
};
use crate::shared::counters::{contexts::Held, sites::Named};

const KINDS: &[(&str, &str)] = &[("samples", "count"), ("inuse_space", "bytes")];

/// The contexts that are carried now, and the names of their calls.
pub(super) struct Calls {
    /// Each with its line of the configuration.
    held: Vec<(Held, String)>,
    names: Names,
}

impl Calls {
    /// Those that a filter lets pass; `None` while there are none.
    pub(super) fn gather(filter: &Filter) -> Option<Calls> {
        let contexts = hooks::sample::contexts()?;
        let mut names = Names::new();
        let mut held = Vec::new();
        for slot in 0..contexts.used() {
            let Some(one) = contexts.held(slot) else {
                continue;
            };
            let is_wanted = |wanted| u32::from(one.owner.process) == wanted;
            if filter.worker.is_none_or(is_wanted)
                && filter
                    .pool
                    .is_none_or(|pool| pool == path_reports::pool(&one))
            {
                for address in one.context.path() {
                    names.look_up(*address);
                }
                own_memory::room_in(&mut held);
                let cfg = path_reports::cfg(&one.context);
                held.push((one, cfg));
            }
        }
        (!held.is_empty()).then_some(Calls { held, names })
    }
}

/// What is held by each way to allocate, of each worker.
pub(super) fn heap<'a>(
    empty: &Profile<'a>,
    filter: &Filter,
    calls: &'a Calls,
    places: &'a [Option<Named>],
    workers: &'a [(String, String)],
) -> Profile<'a> {
    let rate = state::region().map_or(0, |region| region.settings.get_u64(Int::SampleBytes));
    let mut heap = Profile {
        kinds: KINDS,
        period: rate,
        ..empty.clone()
    };
    heap.comments.push(format!(
        "{}, estimated from sampled blocks that live; now there is a sample in about every {rate} bytes",
        subject(filter, "what it allocated")
    ));
    let mut stacks = Stacks::default();
    for (held, cfg) in &calls.held {
        let site = held.context.site;
        let Some(Some(place)) = places.get(site as usize) else {
            continue; // seen after the places were read
        };
        let place = Line {
            function: &place.func,
            file: file_name(&place.file),
            line: place.line,
        };
        own_memory::room_in(&mut heap.samples);
        let mut stack = Vec::with_capacity(held.context.path().len());
        for (depth, address) in held.context.path().iter().enumerate() {
            let Some(known) = calls.names.known(*address) else {
                continue;
            };
            let own = (depth == 0).then_some(place);
            let key = (*address, own.map(|_| site));
            stack.push(stacks.index(&mut heap, key, || {
                let call = frames::call(*address);
                let mapping = empty.mappings.iter().position(|m| m.holds(call));
                profile::call(call, mapping, known, own)
            }));
        }
        if stack.is_empty() {
            let key = (0, Some(site));
            stack.push(stacks.index(&mut heap, key, || Frame::named(place, None)));
        }
        let pool = match path_reports::pool(held) {
            Pool::Pkg => "pkg",
            _ => "shm",
        };
        let mut labels = vec![("pool", pool)];
        if let Some((worker, description)) = workers.get(usize::from(held.owner.process)) {
            labels.extend([("worker", worker.as_str()), ("process", description)]);
        }
        let method = sampling::method(&held.context.message);
        let texts = [("cfg", cfg.as_str()), ("method", method)];
        labels.extend(texts.into_iter().filter(|(_, text)| !text.is_empty()));
        heap.samples.push(Sample {
            root: pool,
            stack,
            values: vec![held.samples, held.live_bytes],
            labels,
        });
    }
    heap
}
