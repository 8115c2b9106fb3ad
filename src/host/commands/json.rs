//! `memguard.json`: every read-only command's answer in one document, cut where the caller's buffer ends.
//! Forbidden here: gathering anything itself; shm locks. Process: RPC processes, and the sampling process for /status.json.

use serde_json::Value;

use crate::guard::formats::evidence;
use crate::guard::formats::report::{self, Answer, Fault, MAX_ANSWER, to_json};
use crate::host::commands::COMMANDS;
use crate::host::kamailio::own_memory;
use crate::host::reports;

/// Where the document stands that fits into no caller's buffer.
const WHOLE: &str =
    "GET /status.json of the parameter listen has all of it; so has each command for its own list";

/// `memguard.json`: every read-only command's answer under its name; its lists are cut where the caller's buffer ends.
pub fn json(words: &[&str]) -> Result<Answer, Fault> {
    reports::no_arguments(words, "memguard.json")?;
    let text = whole_json();
    if text.len() <= MAX_ANSWER {
        return Ok(Answer::Text(text));
    }
    let mut document = document();
    if let Ok(fullest) = reports::workers(&["top", "4096"]) {
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

/// All of it but what phones are called and where they and the server are: for a bug report.
pub fn public_json() -> String {
    let mut document = document();
    for name in OF_PHONES {
        document.remove(name);
    }
    if let Some(Value::Array(rows)) = document.get_mut("config") {
        for row in rows {
            let is_list = |name: &str| name.starts_with("priority_") || name == "silent_source";
            let is_set = row["value"] != "";
            if row["name"].as_str().is_some_and(is_list) && is_set {
                row["value"] = Value::from("(left out)");
            }
        }
    }
    own_memory::need(2 * JSON_ROOM);
    evidence::without_addresses(&Value::Object(document).to_string())
}

/// What of the document names phones.
const OF_PHONES: [&str; 2] = ["refusals", "priority"];

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
const IN_JSON: [&str; 16] = [
    "memguard.status",
    "memguard.pools",
    "memguard.workers",
    "memguard.registrations",
    "memguard.sites",
    "memguard.modules",
    "memguard.failures",
    "memguard.addresses",
    "memguard.events",
    "memguard.refusals",
    "memguard.config",
    "memguard.check",
    "memguard.forecast",
    "memguard.priority",
    "memguard.comeback",
    "memguard.restart",
];
