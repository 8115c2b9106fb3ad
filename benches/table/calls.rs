//! CPU time per call, INVITE to BYE through tm, rr and dialog, with memguard idle in level normal over the same Kamailio
//! without it. Forbidden here: wall clock; other tenants of the machine would decide it.

use std::time::Duration;

use serde_json::json;

use crate::beside::{self, Line, Processes, Spent};
use crate::harness::calls::{self, Calls, MESSAGES};
use crate::harness::{Server, until};
use crate::report::Table;

/// Server trios that are started one after the other.
const STARTS: usize = 3;
/// Batches per server of each start, in turn.
const ROUNDS: usize = 40;
/// Calls of one batch.
const CALLS: usize = 250;
/// Calls on their way at once: the receive queue is never empty, and never full.
const WINDOW: usize = 64;
const BOUND: f64 = 1.03;
/// UDP children.
const CHILDREN: [u32; 1] = [2];
/// Room for all calls of a start at once, though most are forgotten some seconds after their end.
const SHM_MB: u32 = 1024;
/// Until tm has forgotten a call, on a machine that is busy with others.
const PATIENCE: Duration = Duration::from_secs(120);
/// Who works for a call: the timers free what tm and dialog keep for some seconds after its end.
const WORK: [&str; 3] = ["udp receiver", "timer", "slow timer"];

pub fn measure(table: &mut Table) {
    beside::for_each(&CHILDREN, |pair, children, name| {
        let builder = calls::proxy(pair)
            .workers(children)
            .shm_mb(SHM_MB)
            .pkg_mb(8)
            .config(|c| {
                c.global("tcp_children=1");
            });
        let spent = beside::trios(STARTS, &format!("calls: {name}"), &builder, run);
        let line = Line {
            what: "call, INVITE to BYE",
            name,
            bound: (pair.manager == "fm").then_some(BOUND),
            count: STARTS * ROUNDS * CALLS,
        };
        line.into_table(spent, table);
    });
}

/// One start of the three servers, in turn under load; adds what each spent until all its calls were forgotten.
fn run(servers: &[Server; 3], spent: &mut Spent) {
    let mut loads = servers
        .each_ref()
        .map(|server| Calls::through(server.sip()));
    let work = servers
        .each_ref()
        .map(|server| Processes::named(server, &WORK));
    for load in &mut loads {
        load.make(WINDOW, WINDOW); // a first few, that nothing is new
    }
    let before = work.each_ref().map(Processes::cpu_ns);
    beside::in_turn(ROUNDS, |which| loads[which].make(CALLS, WINDOW));
    for (server, load) in servers.iter().zip(&loads) {
        assert_went_through(server, load);
    }
    servers[1..].iter().for_each(assert_counted);
    for (spent, (work, before)) in spent.iter_mut().zip(work.iter().zip(before)) {
        *spent += (work.cpu_ns() - before) as f64;
    }
}

/// Each call was a dialog that began and ended, and two transactions: else it would be cheap for a bad reason.
fn assert_went_through(server: &Server, load: &Calls) {
    let made = WINDOW + ROUNDS * CALLS;
    assert_eq!(load.ended(), made);
    until(PATIENCE, "all calls are forgotten", || {
        server.rpc("tm.stats", json!([]))["current"] == 0
    });
    let transactions = server.rpc("tm.stats", json!([]));
    assert_eq!(transactions["total"], 2 * made, "{transactions}");
    let dialogs = ["processed", "active", "failed", "expired"]
        .map(|what| server.statistic(&format!("dialog:{what}_dialogs")));
    assert_eq!(
        dialogs,
        [made as i64, 0, 0, 0],
        "processed, active, failed, expired"
    );
}

/// memguard counted each message, in level normal throughout, and the pool was nowhere near its end.
fn assert_counted(server: &Server) {
    let workers = server.rpc("memguard.workers", json!(["top", 600]));
    let rows = workers.as_array().expect("rows").iter();
    let messages: f64 = rows.filter_map(|row| row["messages"].as_f64()).sum();
    let expected = MESSAGES * (WINDOW + ROUNDS * CALLS);
    assert_eq!(messages as usize, expected, "{workers}");
    let status = server.rpc("memguard.status", json!([]));
    assert_eq!(status["level"], "normal", "{status}");
    let shm = server.rpc("memguard.pools", json!([]))[0].clone();
    let [peak, size] = ["peak", "size"].map(|field| shm[field].as_f64().unwrap_or(f64::NAN));
    assert!(peak < size / 2.0, "{shm}");
}
