//! What the read-only commands answer, from memguard's own state and lock-free reads.
//! Forbidden here: changing anything; shm locks; Kamailio's allocators. Process: RPC processes.

pub mod addresses;
mod lists;
mod now;
mod pools;
mod registrations;
mod status;
mod workers;

pub use crate::host::reports::addresses::addresses;
pub use crate::host::reports::lists::{config, events, priorities, refusals};
pub use crate::host::reports::now::*;
pub use crate::host::reports::pools::pools;
pub use crate::host::reports::registrations::registrations;
pub use crate::host::reports::status::status;
pub use crate::host::reports::workers::workers;

use crate::guard::formats::report::{Answer, Fault, MAX_ANSWER, Node, real};
use crate::host::kamailio::state;
use crate::host::memory::hooks;
use crate::shared::counters::rows::Row;
use crate::shared::region::Region;

/// The shared region, or a fault that says why there is none.
pub fn region() -> Result<&'static Region, Fault> {
    state::region()
        .ok_or_else(|| Fault::cannot("memguard has no shared region; see the log of the start"))
}

/// Refuses arguments where there are none.
pub fn no_arguments(words: &[&str], command: &str) -> Result<(), Fault> {
    if words.is_empty() {
        Ok(())
    } else {
        Err(Fault::bad(format!("{command} accepts no arguments")))
    }
}

fn bytes(n: u64) -> Node {
    Node::Count(n)
}

fn milli(thousandths: u64) -> Node {
    real(thousandths as f64 / 1000.0)
}

fn percent(permyriad: u32) -> Node {
    real(f64::from(permyriad) / 100.0)
}

/// Sums over all rows.
pub fn total(region: &Region, f: impl Fn(&Row) -> u64) -> u64 {
    region.sum(hooks::processes(), f)
}

/// `memguard.metrics`: what `/metrics` serves, cut at a line's end where it would not fit into an answer.
pub fn metrics(words: &[&str]) -> Result<Answer, Fault> {
    no_arguments(words, "memguard.metrics")?;
    region()?;
    let mut text = measures::text();
    if text.len() > MAX_ANSWER {
        let end = text.get(..MAX_ANSWER).and_then(|t| t.rfind('\n'));
        text.truncate(end.map_or(0, |end| end + 1));
        text.push_str("# truncated: /metrics serves all of it\n");
    }
    Ok(Answer::Text(text))
}

pub mod binaries;
pub mod forecast_reports;
pub mod frames;
pub mod measures;
pub mod overview;
pub mod path_reports;
pub mod profile;
pub mod restart;
pub mod site_reports;
