//! Keeps the last hour and day: one value per second of the clock into the region, and what the black box takes of it.
//! Forbidden here: Kamailio's allocators and locks; deciding. Process: the sampling process.

use crate::guard::decide::track::Kept;
use crate::guard::decide::track::{Minute, Track, Values};
use crate::host::memory::hooks;
use crate::shared::figures::{
    history::{MINUTES, SECONDS},
    sampled::Figures,
};
use crate::shared::region::Region;

/// More seconds than anything is remembered for.
const LONGEST: u64 = (MINUTES * 60) as u64;

/// What lies between two ticks.
#[derive(Default)]
pub struct Past {
    second: u64,
    minute: Minute,
}

impl Past {
    /// Goes on after the last second that an earlier sampling process kept; 0: there was none.
    pub fn after(second: u64) -> Past {
        Past {
            second,
            ..Past::default()
        }
    }

    /// One value per second of the clock, however long the sample interval is; after a pause the last one is repeated,
    /// so that what came before it stays where it was.
    pub fn tick(&mut self, region: &Region, figures: &Figures, now_ms: u64) -> Kept {
        let time_s = now_ms / 1000;
        let passed = match time_s.checked_sub(self.second) {
            Some(passed) if self.second != 0 => passed.min(LONGEST),
            _ => 1, // the first one
        };
        let values = values(region, figures);
        let mut newest = None;
        for back in (0..passed).rev() {
            let time_s = time_s.saturating_sub(back);
            self.minute.add(&values);
            let minute = match time_s % 60 {
                59 => self.minute.take(),
                _ => None,
            };
            if minute.is_some() || back < SECONDS as u64 {
                region.history.push(time_s, &values, minute.as_ref());
            }
            newest = minute.map(|minute| (time_s, minute)).or(newest);
        }
        self.second = time_s;
        Kept {
            time_s,
            is_new: passed > 0,
            values,
            minute: newest,
        }
    }
}

/// What is remembered of this second.
fn values(region: &Region, figures: &Figures) -> Values {
    let rejected = region.sum(hooks::processes(), |row| row.sip.rejected.sum());
    let shm_used = hooks::shm_now(region.control.shm_size.get()).map_or(0, |p| p.real_used);
    std::array::from_fn(|i| match Track::ALL.get(i) {
        Some(Track::ShmUsed) => shm_used,
        Some(Track::PkgUsed) => figures.fullest_real_used,
        Some(Track::OsUsed) => figures.os_used,
        Some(Track::Headroom) => figures.headroom,
        Some(Track::NewRate) => figures.new_rate_1s,
        Some(Track::RefreshRate) => figures.refresh_rate_1s,
        Some(Track::RejectedRate) => figures.rejected_rate_1s,
        Some(Track::Rejected) => rejected,
        Some(Track::Bindings) => figures.known_bindings,
        Some(Track::Level) => figures.level,
        None => 0,
    })
}
