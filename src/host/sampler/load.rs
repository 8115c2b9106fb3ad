//! The load hour by hour, for the profile of the week; and what is advised about a restart, for the metrics.
//! Forbidden here: deciding (`guard::foresee`). Process: sampling.

use crate::guard::foresee::{
    restart::Advice,
    week::{Counting, FORGET, Hour},
};
use crate::host::kamailio::state;
use crate::host::reports::{Now, restart};
use crate::shared::region::Region;

/// The wall clock was set when it moves by more than this against server time, seconds: what was seen before stood at
/// other hours.
const STEP_S: u64 = 1800;
/// Between two looks at a restart, milliseconds.
const EVERY_MS: u64 = 30_000;

/// What is remembered between two ticks.
pub struct Load {
    counting: Counting,
    messages: u64,
    lead_s: i64,
    advised_ms: Option<u64>,
}

impl Load {
    /// Begins with this count of messages.
    pub fn new(messages: u64) -> Load {
        Load {
            counting: Counting::default(),
            messages,
            lead_s: state::lead_s(),
            advised_ms: None,
        }
    }

    /// So many messages were counted since the start; answers what is to be kept for later runs.
    pub fn tick(
        &mut self,
        region: &Region,
        messages: u64,
        passed_ms: u64,
        now_ms: u64,
    ) -> Option<Hour> {
        let more = messages.saturating_sub(self.messages);
        self.messages = messages;
        let lead_s = state::lead_s();
        let is_set = lead_s.abs_diff(self.lead_s) > STEP_S;
        self.lead_s = lead_s;
        let over = if is_set {
            self.counting = Counting::default();
            region.hours.clear();
            Some(FORGET)
        } else {
            let over = self.counting.add(state::wall_ms() / 1000, more, passed_ms);
            over.inspect(|hour| region.hours.put(*hour))
        };
        if self
            .advised_ms
            .is_none_or(|last| now_ms.abs_diff(last) >= EVERY_MS)
        {
            self.advised_ms = Some(now_ms);
            self.advise(region);
        }
        over
    }

    /// Addresses are looked at only where a restart is advised at all.
    fn advise(&self, region: &Region) {
        let week = restart::week_of(region);
        let mut plan = restart::plan_of(&Now::of(region), &week, false);
        if plan.advice != Advice::None && !restart::missing_addresses().is_empty() {
            plan = restart::plan_of(&Now::of(region), &week, true);
        }
        region.restart.advice.set(plan.advice.index() as u64);
    }
}
