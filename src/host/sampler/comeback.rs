//! After a restart: looks which of the phones that the run before knew are back, until the last of them must have come.
//! Forbidden here: what coming back means (`fingerprints::expected`); SIP. Process: sampling.

use crate::host::kamailio::{
    log::{Severity, log},
    state,
};
use crate::shared::figures::comeback::SHARES;
use crate::shared::region::Region;

/// Buckets of each table that one tick looks at: a full table of the default size within four ticks.
const LOOKED_AT: usize = 16_384;
/// How long after the last end the last look comes, milliseconds: more than one round through a large table takes.
const GRACE_MS: u64 = 10_000;

/// Where the next look begins, by table.
#[derive(Default)]
pub struct Comeback([usize; 2]);

impl Comeback {
    /// A look, while somebody is waited for.
    pub fn tick(&mut self, region: &Region, now_ms: u64) {
        let comeback = &region.comeback;
        let Some((tables, expected)) = state::tables()
            .and_then(|tables| Some((tables, tables.expected.as_ref()?)))
            .filter(|_| comeback.is_over.get() == 0)
        else {
            return;
        };
        let each = expected
            .iter()
            .zip([&tables.bindings, &tables.aors])
            .zip([&comeback.bindings, &comeback.aors])
            .zip(&mut self.0);
        for (((expected, table), returned), at) in each {
            let (seen, next) = expected.look(table, now_ms / 1000, *at, LOOKED_AT);
            returned.back.add(seen.back);
            returned.expired.add(seen.expired);
            *at = next;
        }
        self.tell(region, now_ms);
        let is_settled = [&comeback.bindings, &comeback.aors]
            .iter()
            .all(|of| of.back.get() + of.expired.get() >= of.before.get());
        if is_settled || now_ms >= comeback.until_ms.get().saturating_add(GRACE_MS) {
            comeback.is_over.set(1);
            expected.iter().for_each(|list| list.forget());
            say_missing(region);
        }
    }

    /// Half, nine tenths, 99 %: when each was reached.
    fn tell(&self, region: &Region, now_ms: u64) {
        let comeback = &region.comeback;
        let (before, back) = (comeback.bindings.before.get(), comeback.bindings.back.get());
        let since_ms = now_ms.saturating_sub(region.control.start_ms.get()).max(1);
        for (share, reached) in SHARES.iter().zip(&comeback.reached_ms) {
            if reached.get() > 0 || back * 100 < before * share {
                continue;
            }
            reached.set(since_ms);
            if *share == 99 {
                log!(
                    Severity::Notice,
                    "{back} of the {before} bindings of the run before are back, {} s after the start (memguard.comeback)",
                    since_ms.div_ceil(1000)
                );
            }
        }
    }
}

/// One line where more than 2 % of the AoRs did not come.
fn say_missing(region: &Region) {
    let aors = &region.comeback.aors;
    let (before, missing) = (aors.before.get(), aors.missing());
    if missing * 50 > before {
        log!(
            Severity::Warn,
            "{missing} of the {before} AoRs that the run before knew have not come back, and their registrations have ended"
        );
    }
}
