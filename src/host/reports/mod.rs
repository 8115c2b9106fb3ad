//! What the read-only commands answer, from memguard's own state and lock-free reads.
//! Forbidden here: changing anything; shm locks; Kamailio's allocators. Process: RPC processes.

mod lists;
mod now;
mod pools;
mod registrations;
mod status;
mod workers;

pub use crate::host::reports::lists::{config, events, priorities, refusals};
pub use crate::host::reports::now::*;
pub use crate::host::reports::pools::pools;
pub use crate::host::reports::registrations::registrations;
pub use crate::host::reports::status::status;
pub use crate::host::reports::workers::workers;

use crate::guard::config::{
    filters,
    params::{INT_PARAMS, Int, Kind, TEXT_PARAMS, Text},
    priority::List,
};
use crate::guard::decide::{
    admission::{self, Curves, Pressure},
    level::{self, Standing, Thresholds, permyriad},
    queue,
};
use crate::guard::foresee::growth::Leak;
use crate::guard::formats::report::{
    self, Answer, Fault, Fields, MAX_ANSWER, Node, int, real, to_json, word,
};
use crate::guard::terms::{
    text::NONE_FORESEEN_S,
    warnings::{self, Warning},
    words::{Class, Level, Mode, Pool},
};
use crate::host::commands::changing::region;
use crate::host::kamailio::{own_memory, state};
use crate::host::memory::hooks::{self, owners};
use crate::host::module::rpc::COMMANDS;
use crate::host::sampler::{growth, ticks};
use crate::host::sip::{answer, pressure, visit};
use crate::shared::counters::rows::Row;
use crate::shared::figures::sampled::Figures;
use crate::shared::region::Region;
use serde_json::Value;

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
    let rows = region.used_rows(hooks::processes());
    rows.iter().map(f).fold(0, u64::wrapping_add)
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

/// Where the document stands that fits into no caller's buffer.
const WHOLE: &str =
    "GET /status.json of the parameter listen has all of it; so has each command for its own list";

/// `memguard.json`: every read-only command's answer under its name; its lists are cut where the caller's buffer ends.
pub fn json(words: &[&str]) -> Result<Answer, Fault> {
    no_arguments(words, "memguard.json")?;
    let text = whole_json();
    if text.len() <= MAX_ANSWER {
        return Ok(Answer::Text(text));
    }
    let mut document = document();
    if let Ok(fullest) = workers(&["top", "4096"]) {
        document.insert("workers".to_owned(), to_json(&fullest)); // the fullest first: they are kept
    }
    own_memory::need(JSON_ROOM);
    let cut = report::cut_lists(document, MAX_ANSWER, WHOLE);
    Ok(Answer::Text(Value::Object(cut).to_string()))
}

/// All of it, however long.
pub fn whole_json() -> String {
    let document = document();
    own_memory::need(JSON_ROOM);
    Value::Object(document).to_string()
}

fn document() -> serde_json::Map<String, Value> {
    let mut document = serde_json::Map::new();
    for command in COMMANDS.iter().filter(|c| IN_JSON.contains(&c.name)) {
        // Places may not be counted; the rest is answered all the same.
        let Ok(answer) = (command.run)(&[]) else {
            continue;
        };
        own_memory::need_in_pieces(weight(&answer));
        let name = command
            .name
            .strip_prefix("memguard.")
            .unwrap_or(command.name);
        document.insert(name.to_owned(), to_json(&answer));
    }
    document
}

/// About what a copy of an answer takes, as a document or as rows.
pub fn weight(answer: &Answer) -> usize {
    const FIELD: usize = 160; // name, value and their places
    match answer {
        Answer::Text(text) => text.len(),
        Answer::One(fields) => fields.len() * FIELD,
        Answer::Many(rows) => rows.iter().map(|row| row.len() * FIELD).sum(),
    }
}

/// More than the text of the document takes while it grows.
const JSON_ROOM: usize = 1 << 20;

/// What `memguard.json` holds: the read-only commands but itself.
const IN_JSON: [&str; 13] = [
    "memguard.status",
    "memguard.pools",
    "memguard.workers",
    "memguard.registrations",
    "memguard.sites",
    "memguard.modules",
    "memguard.failures",
    "memguard.events",
    "memguard.refusals",
    "memguard.config",
    "memguard.check",
    "memguard.forecast",
    "memguard.priority",
];
pub mod binaries;
pub mod forecast_reports;
pub mod frames;
pub mod measures;
pub mod overview;
pub mod path_reports;
pub mod profile;
pub mod site_reports;
