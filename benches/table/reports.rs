//! CPU time of whole RPC answers on a server with 64 SIP workers and 3,000 places that allocate in each of them.
//! Forbidden here: wall clock; other tenants of the machine would decide it.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::beside::cpu_ns;
use crate::harness::{Server, for_each_pair};
use crate::report::{Table, progress, undisturbed};

/// UDP workers; as many TCP workers are started beside them.
const WORKERS: u32 = 32;
/// Places of each pool that every process holds a block of.
const PLACES: usize = 1500;
const ROUNDS: usize = 30;
const CALLS: usize = 10;
/// Milliseconds of CPU.
const STATUS: f64 = 1.0;
const SITES: f64 = 10.0;
pub const SCRAPE: f64 = 2.0;

pub fn measure(table: &mut Table) {
    let Ok(mgbench) = std::env::var("MEMGUARD_MGBENCH") else {
        return progress("reports: skipped, as MEMGUARD_MGBENCH is not set: run ./dev bench");
    };
    let table = std::cell::RefCell::new(table);
    for_each_pair(|pair| {
        if pair.manager == "fm" {
            progress("reports: 64 SIP workers, 3,000 places in each");
            let server = Server::registrar(pair)
                .workers(WORKERS)
                .shm_mb(256)
                .config(|c| {
                    c.global(&format!("loadmodule \"{mgbench}\""));
                    c.param("mgbench", "places", PLACES);
                })
                .start();
            on(&server, &mut table.borrow_mut());
        }
    });
}

fn on(server: &Server, table: &mut Table) {
    assert_large(server);
    table.note("sampling process, CPU per second", sampling(server), "ms");
    let what = "one scrape of the statistics, 64 workers, 3,000 places";
    table.add(what, scrape(server), "ms", SCRAPE);
    let answering = server
        .processes()
        .into_iter()
        .find(|(_, _, what)| what.to_lowercase().contains("jsonrpcs datagram"));
    let pid = answering.expect("the process that answers").1;
    for (command, words, bound) in [
        ("core.version", json!([]), None),
        ("memguard.status", json!([]), Some(STATUS)),
        ("memguard.sites", json!(["top", 20]), Some(SITES)),
        ("memguard.sites", json!(["worker", 3]), Some(SITES)),
        ("memguard.modules", json!([]), None),
        ("memguard.pools", json!([]), None),
        ("memguard.workers", json!([]), None),
        ("memguard.metrics", json!([]), None),
    ] {
        let ms = milliseconds(server, pid, command, &words);
        let mut what = format!("RPC {command}");
        for word in words.as_array().into_iter().flatten() {
            what += &format!(" {}", word.to_string().trim_matches('"'));
        }
        match bound {
            Some(bound) => table.add(what, ms, "ms", bound),
            None => table.note(what, ms, "ms"),
        }
    }
}

/// Milliseconds of CPU of one scrape of the statistics group.
pub fn scrape(server: &Server) -> f64 {
    let answering = server
        .processes()
        .into_iter()
        .find(|(_, _, what)| what.to_lowercase().contains("jsonrpcs datagram"));
    let pid = answering.expect("the process that answers").1;
    milliseconds(server, pid, "stats.get_statistics", &json!(["memguard:"]))
        - milliseconds(server, pid, "core.version", &json!([]))
}

/// Milliseconds of CPU that the sampling process uses in a second, at its usual interval.
pub fn sampling(server: &Server) -> f64 {
    const SECONDS: u64 = 10;
    let pid = sampling_pid(server);
    let before = cpu_ns(pid);
    std::thread::sleep(Duration::from_secs(SECONDS)); // what a second costs is the question
    (cpu_ns(pid) - before) as f64 / SECONDS as f64 / 1e6
}

/// The process that samples: the only child of the one that core.psx calls "memguard sampler", which just watches it.
pub fn sampling_pid(server: &Server) -> i32 {
    let processes = server.processes();
    let watcher = processes
        .iter()
        .find(|(_, _, what)| what == "memguard sampler");
    let watcher = watcher.expect("core.psx shows it").1;
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        let children = fs::read_to_string(format!("/proc/{watcher}/task/{watcher}/children"));
        let first = children
            .ok()
            .and_then(|c| c.split(' ').next()?.parse().ok());
        if let Some(pid) = first {
            return pid;
        }
        std::thread::sleep(Duration::from_millis(50)); // it is started after the workers
    }
    panic!("no process samples");
}

/// CPU milliseconds of the answering process per call.
fn milliseconds(server: &Server, pid: i32, command: &str, words: &Value) -> f64 {
    let round = || {
        let before = cpu_ns(pid);
        for _ in 0..CALLS {
            server.rpc(command, words.clone());
        }
        (cpu_ns(pid) - before) as f64 / CALLS as f64 / 1e6
    };
    undisturbed((0..ROUNDS).map(|_| round()).collect())
}

/// The server is as large as the lines say.
fn assert_large(server: &Server) {
    let sites = server.rpc("memguard.sites", json!(["top", 10_000]));
    let rows = sites.as_array().expect("rows");
    let cut = rows.last().and_then(|row| row["truncated"].as_i64());
    let count = rows.len() as i64 + cut.unwrap_or(0);
    assert!(count > 2 * PLACES as i64, "{count} places");
    let processes = server.processes();
    let is_sip = |what: &str| what.contains("udp receiver") || what.contains("tcp receiver");
    let workers = processes.iter().filter(|(_, _, what)| is_sip(what));
    assert_eq!(workers.count(), 2 * WORKERS as usize, "{processes:?}");
}
