//! What the server holds at one moment, by place, and what of it is alive for a reason; and waiting until it is quiet.
//! Forbidden here: judging.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::process::pause;
use crate::server::Server;

/// Between two looks at a server that becomes quiet.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What still moves so long after the last transaction has ended is a timer's work, and goes on.
const STILL_LIMIT: Duration = Duration::from_secs(3);

/// Where memory was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// "shm" or "pkg".
    pub pool: String,
    /// Kamailio's name of the module, "core" for its own.
    pub module: String,
    /// Source file.
    pub file: String,
    /// Its line.
    pub line: u64,
    /// Function.
    pub function: String,
}

/// What a place holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Bytes.
    pub bytes: i64,
    /// Blocks.
    pub blocks: i64,
}

/// A process and what it holds outside the pools.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Worker {
    /// core.psx index.
    pub index: u64,
    /// Kamailio's description.
    pub name: String,
    /// SIP messages that it handled.
    pub messages: u64,
    /// Bytes of its own outside the pools, as the system sees them.
    pub private: i64,
    /// Bytes in use in libc's heap; `None`: it never told.
    pub heap: Option<i64>,
    /// Blocks of the Python interpreter; `None`: it has none, or never told.
    pub python: Option<i64>,
}

/// A moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Shared memory by place.
    pub shm: BTreeMap<Place, Held>,
    /// Private memory by process and place.
    pub pkg: BTreeMap<(u64, Place), Held>,
    /// The processes.
    pub workers: Vec<Worker>,
    /// By module: how many things it holds that will end by themselves (bindings, dialogs, cells that expire).
    pub alive: BTreeMap<&'static str, i64>,
    /// Transactions that have not ended.
    pub transactions: i64,
    /// Requests by method in lower case, and all of them as "".
    pub requests: BTreeMap<String, u64>,
    /// Bytes that the manager's books lost (qm's shrinking realloc): reported, never failed.
    pub unbooked: u64,
}

impl Worker {
    /// Whether it handles SIP messages.
    pub fn is_sip(&self) -> bool {
        self.messages > 0 || self.name.contains(" receiver ")
    }

    /// Whether it is there, or at work, because of the gate: memguard's own process, and the one that is asked.
    pub fn is_the_gates(&self) -> bool {
        self.name.starts_with("memguard") || self.name.starts_with("JSONRPCS")
    }
}

impl Snapshot {
    /// Reads it all.
    ///
    /// # Errors
    /// The server died or does not answer.
    pub fn take(server: &mut Server) -> Result<Snapshot, Failure> {
        let mut now = Snapshot {
            workers: workers(server)?,
            ..Snapshot::default()
        };
        for row in server.rows(
            "memguard.sites",
            &[json!("pool"), json!("shm"), json!("by"), json!("live")],
        )? {
            now.unbooked += row["unbooked"].as_u64().unwrap_or(0);
            now.shm.insert(place(&row), held(&row));
        }
        for index in now.workers.iter().map(|w| w.index).collect::<Vec<_>>() {
            let words = ["pool", "pkg", "by", "live", "worker"].map(Value::from);
            let words: Vec<Value> = words.into_iter().chain([json!(index)]).collect();
            for row in server.rows("memguard.sites", &words)? {
                now.unbooked += row["unbooked"].as_u64().unwrap_or(0);
                now.pkg.insert((index, place(&row)), held(&row));
            }
        }
        now.alive = alive(server);
        now.transactions = transactions(server);
        now.requests = requests(server);
        Ok(now)
    }

    /// What a place holds, in all processes.
    pub fn held(&self, place: &Place) -> Held {
        let own = self.pkg.iter().filter(|((_, of), _)| of == place);
        let mut all = self.shm.get(place).copied().unwrap_or_default();
        for (_, held) in own {
            all.bytes += held.bytes;
            all.blocks += held.blocks;
        }
        all
    }

    /// Whether nothing arrived since `before`. memguard counts no messages where the script asks it (`auto` 0).
    pub fn is_untouched_since(&self, before: &Snapshot) -> bool {
        let requests = |s: &Snapshot| s.requests.get("").copied();
        self.messages() == before.messages() && requests(self) == requests(before)
    }

    /// SIP messages of all processes.
    pub fn messages(&self) -> u64 {
        self.workers.iter().map(|w| w.messages).sum()
    }
}

fn place(row: &Value) -> Place {
    let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
    Place {
        pool: text("pool"),
        module: text("module"),
        file: text("file"),
        line: number(&row["line"]) as u64,
        function: text("function"),
    }
}

fn held(row: &Value) -> Held {
    Held {
        bytes: number(&row["live_bytes"]),
        blocks: number(&row["live_blocks"]),
    }
}

fn number(value: &Value) -> i64 {
    value
        .as_i64()
        .or_else(|| value.as_f64().map(|f| f as i64))
        .or_else(|| value.as_str()?.trim().parse().ok())
        .unwrap_or(0)
}

fn workers(server: &mut Server) -> Result<Vec<Worker>, Failure> {
    // One at a time: a list of many is cut.
    let count = server.call("memguard.status", &[])?["workers"]
        .as_u64()
        .unwrap_or(0);
    let mut all = Vec::new();
    for index in 0..count {
        let answer = server.call("memguard.workers", &[json!("index"), json!(index)])?;
        let row = answer.get(0).unwrap_or(&answer);
        all.push(Worker {
            index,
            name: row["desc"].as_str().unwrap_or_default().to_owned(),
            messages: number(&row["messages"]) as u64,
            private: number(&row["private"]),
            heap: row.get("heap").map(number),
            python: row.get("python_blocks").map(number),
        });
    }
    Ok(all)
}

/// Things that hold memory and end by themselves, by the module that takes it.
fn alive(server: &mut Server) -> BTreeMap<&'static str, i64> {
    let mut all = BTreeMap::new();
    if let Some(Value::Object(fields)) = server.try_call("stats.fetch", &[json!("usrloc:")]) {
        let contacts = fields.iter().filter(|(name, _)| name.ends_with("contacts"));
        all.insert("usrloc", contacts.map(|(_, value)| number(value)).sum());
    }
    if let Some(dialogs) = server.try_call("dlg.stats_active", &[]) {
        all.insert("dialog", number(&dialogs["all"]));
    }
    if let Some(cells) = expiring_cells(server) {
        all.insert("htable", cells);
    }
    all
}

/// Cells of hash tables that expire by themselves; the others are kept for good.
fn expiring_cells(server: &mut Server) -> Option<i64> {
    let tables = server.try_call("htable.listTables", &[])?;
    let counts = server.try_call("htable.stats", &[])?;
    let expires = |name: &Value| {
        let rows = tables.as_array().into_iter().flatten();
        rows.filter(|row| &row["name"] == name)
            .any(|row| number(&row["expire"]) > 0)
    };
    let rows = counts.as_array().into_iter().flatten();
    Some(
        rows.filter(|row| expires(&row["name"]))
            .map(|row| number(&row["all"]))
            .sum(),
    )
}

/// Transactions that have not ended: at work, and those that wait for retransmissions (tm's wait timer, 5 s).
fn transactions(server: &mut Server) -> i64 {
    match server.try_call("tm.stats", &[]) {
        Some(stats) => number(&stats["current"]).max(0) + number(&stats["waiting"]).max(0),
        None => 0,
    }
}

/// Requests that the server received, by method.
fn requests(server: &mut Server) -> BTreeMap<String, u64> {
    let Some(Value::Object(fields)) = server.try_call("stats.fetch", &[json!("core:")]) else {
        return BTreeMap::new();
    };
    fields
        .iter()
        .filter_map(|(name, value)| {
            let method = name.strip_prefix("core.rcv_requests")?;
            let method = method.strip_prefix('_').unwrap_or(method);
            Some((method.to_owned(), number(value).max(0) as u64))
        })
        .collect()
}

/// How the wait for quiet ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quiet {
    /// Transactions that were still there.
    pub transactions: i64,
    /// Whether what lives stood still.
    pub still: bool,
}

/// Waits until transactions have ended, at most `limit`, and then until what lives was equal twice, where it ever is.
///
/// # Errors
/// The server died, or the run was interrupted.
pub fn wait_for_quiet(server: &mut Server, limit: Duration) -> Result<Quiet, Failure> {
    let began = Instant::now();
    let mut before = None;
    let mut ended_at = None;
    loop {
        server.lives("after a round of traffic")?;
        let transactions = transactions(server);
        let live = live(server)?;
        let still = before == Some(live);
        if transactions == 0 && still {
            return Ok(Quiet {
                transactions,
                still,
            });
        }
        before = Some(live);
        match transactions {
            0 => drop(ended_at.get_or_insert_with(Instant::now)),
            _ => ended_at = None,
        }
        let moves_on = ended_at.is_some_and(|at| at.elapsed() > STILL_LIMIT);
        if moves_on || began.elapsed() > limit {
            return Ok(Quiet {
                transactions,
                still,
            });
        }
        pause(LOOK_EVERY)?;
    }
}

/// Live bytes of shm and of the fullest pkg, and messages so far.
fn live(server: &mut Server) -> Result<[i64; 3], Failure> {
    let pools = server.call("memguard.pools", &[])?;
    let of = |name: &str| {
        let rows = pools.as_array().into_iter().flatten();
        rows.filter(|row| row["name"] == name)
            .map(|row| number(&row["live"]))
            .sum()
    };
    let requests = requests(server).get("").copied().unwrap_or(0);
    Ok([of("shm"), of("pkg"), requests as i64])
}
