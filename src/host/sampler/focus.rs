//! Brings the places that rise into focus: from then on the way to nearly every allocation of theirs is noted.
//! Forbidden here: choosing (guard::foresee::focus does); Kamailio's allocators and locks. Process: the sampling process.
//!
//! Who is in focus stands in the dictionary of places alone: a sampling process that is started anew goes on from there.

use std::collections::HashMap;

use crate::guard::config::params::Int;
use crate::guard::foresee::focus::{self, Focused, Seen};
use crate::guard::foresee::growth::Growth;
use crate::host::memory::hooks::{self, sample};
use crate::shared::counters::sites::{SitePool, Sites, before_row};
use crate::shared::region::Region;

/// Places whose allocations are counted: more than come into focus, since some are busier than it pays.
const COUNTED: usize = 4 * focus::MOST;

/// The last of the rows that stand for no place.
const NAMELESS: usize = before_row(SitePool::Pkg);

/// What the places that rise had allocated when they were looked at last.
#[derive(Default)]
pub struct Focus {
    before: HashMap<usize, (u64, u64)>,
    looked_ms: u64,
}

impl Focus {
    /// One look, after the growth of all places.
    pub fn look(
        &mut self,
        region: &Region,
        sites: &Sites,
        growths: impl Iterator<Item = (usize, Growth)>,
        now_ms: u64,
    ) {
        let rate = match sample::contexts() {
            Some(_) => region.settings.get_u64(Int::SampleBytes),
            None => 0,
        };
        let seconds = now_ms.saturating_sub(self.looked_ms).max(1) as f64 / 1000.0;
        self.looked_ms = now_ms;
        let mut rising: Vec<(usize, Growth)> = growths
            .filter(|(index, growth)| *index > NAMELESS && growth.m1 > 0.0)
            .collect();
        let worth = |growth: &Growth| (growth.steady.max(0.0), growth.m1);
        rising.sort_by(|(_, a), (_, b)| {
            let (a, b) = (worth(a), worth(b));
            b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1))
        });
        rising.truncate(COUNTED);
        let before = std::mem::take(&mut self.before);
        let seen = rising.iter().filter_map(|(index, growth)| {
            let now = sites.allocated(hooks::processes(), *index);
            self.before.insert(*index, now);
            let was = before.get(index)?; // the next look knows how busy it is
            let per_second = |now: u64, was: u64| now.saturating_sub(was) as f64 / seconds;
            Some(Seen {
                index: *index,
                steady: growth.steady,
                minute: growth.m1,
                allocations: per_second(now.0, was.0),
                bytes: per_second(now.1, was.1),
            })
        });
        let seen: Vec<Seen> = seen.collect();
        let mut current: Vec<Focused> = sites.focused();
        let mut chosen = focus::choose(&current, seen, rate);
        chosen.sort_by_key(|focused| focused.index);
        current.sort_by_key(|focused| focused.index);
        if chosen != current {
            sites.set_focus(&chosen);
        }
    }
}
