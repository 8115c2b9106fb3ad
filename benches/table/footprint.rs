//! Resident memory and start time: the same Kamailio with memguard and without.
//! Forbidden here: counting what Kamailio itself uses.

use std::cell::RefCell;
use std::fs;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Pair, Server, for_each_pair};
use crate::register::register;
use crate::report::{Table, median, progress};

const WORKERS: u32 = 16;
const BINDINGS: usize = 250_000;
/// MB (10^6 bytes) that memguard may hold resident.
const RESIDENT: f64 = 24.0;
const STARTS: usize = 9;
/// Milliseconds that a start may take longer.
const START: f64 = 50.0;
const WINDOW: usize = 32;

pub fn measure(table: &mut Table) {
    let table = RefCell::new(table);
    for_each_pair(|pair| {
        if pair.manager == "fm" {
            resident(pair, &mut table.borrow_mut());
            start_time(pair, &mut table.borrow_mut());
        }
    });
}

/// Both servers grant every REGISTER and keep nothing, so that what is left between them is memguard's.
fn resident(pair: &Pair, table: &mut Table) {
    progress(&format!(
        "footprint: {BINDINGS} REGISTERs to {WORKERS} workers, without and with memguard"
    ));
    let builder = Server::registrar(pair).workers(WORKERS).shm_mb(64).pkg_mb(8).config(|c| {
        c.register = "append_to_reply(\"Contact: $ct;expires=3600\\r\\n\"); sl_send_reply(\"200\", \"OK\");".into();
    });
    let [without, with] = [builder.clone().without_memguard(), builder].map(|builder| {
        let server = builder.start();
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
        socket.connect(server.sip()).expect("the server listens");
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .expect("a limit above zero");
        let mut reply = [0; 4096];
        for first in (0..BINDINGS).step_by(WINDOW) {
            let last = (first + WINDOW).min(BINDINGS);
            for user in first..last {
                socket
                    .send(&register(user, 1))
                    .expect("loopback takes a datagram");
            }
            for _ in first..last {
                socket
                    .recv(&mut reply)
                    .expect("each REGISTER gets its reply");
            }
        }
        let bytes: u64 = server.pids().into_iter().map(proportional).sum();
        (bytes, server)
    });
    let accepted = with.1.rpc("memguard.registrations", json!([]))["accepted"].as_f64();
    assert_eq!(
        accepted,
        Some(BINDINGS as f64),
        "memguard saw every binding"
    );
    let added = (with.0 as f64 - without.0 as f64) / 1e6;
    table.add(
        format!("resident, {WORKERS} workers, {BINDINGS} known bindings"),
        added,
        "MB",
        RESIDENT,
    );
}

/// Resident bytes of a process, shared pages by parts (/proc/PID/smaps_rollup, Pss).
fn proportional(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("the process lives") * 1024
}

fn start_time(pair: &Pair, table: &mut Table) {
    progress("footprint: starts, with and without memguard in turn");
    let builder = Server::registrar(pair);
    let builders = [builder.clone().without_memguard(), builder];
    let mut added = Vec::new();
    for _ in 0..STARTS {
        let [without, with] = builders.each_ref().map(|builder| {
            let start = Instant::now();
            let server = builder.start();
            let spent = start.elapsed();
            server.stop();
            spent.as_secs_f64() * 1000.0
        });
        added.push(with - without);
    }
    table.add(
        "added start time, until RPC answers",
        median(added),
        "ms",
        START,
    );
}
