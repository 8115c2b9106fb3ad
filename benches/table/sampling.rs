//! What sampling costs: one allocation with its context, and a registrar at the default rate over the same without.
//! Forbidden here: comparing two servers as such; the rate is changed while they run, so that blocks lie where they lie.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Server, for_each_pair};
use crate::register::Load;
use crate::report::{Table, median, progress, undisturbed};

/// Calls between the RPC handler and the allocation: with those of the server the path has its longest, 32 frames.
const DEEP: u32 = 30;
const ROUNDS: u32 = 500;
/// Microseconds of a sampled allocation, with the free of what it carries.
const SAMPLED: f64 = 6.0;

/// Batches with sampling and without, in turn.
const BATCHES: usize = 400;
const DEFAULT: i64 = 524_288;
const REGISTER: f64 = 1.01;

/// Turns, each with the places of the REGISTER's own path in focus on the one server or on the other, and the batches on
/// each server of a turn.
const TURNS: usize = 16;
const BATCHES_OF_A_TURN: usize = 60;
/// Places of a registration that rise while phones come in masses: four on 6.0.1, at least.
const FOCUSED: usize = 4;

pub fn measure(table: &mut Table) {
    let Ok(mgbench) = std::env::var("MEMGUARD_MGBENCH") else {
        return progress("sampling: skipped, as MEMGUARD_MGBENCH is not set: run ./dev bench");
    };
    let table = std::cell::RefCell::new(table);
    for_each_pair(|pair| {
        let start = || {
            let builder = Server::registrar(pair).workers(1).shm_mb(1536).pkg_mb(8);
            builder
                .config(|c| {
                    c.global(&format!("loadmodule \"{mgbench}\""))
                        .module("cfg_rpc")
                        // usrloc's lists stay short, however many phones there are in the end: they would dilute the ratios.
                        .param("usrloc", "hash_size", 16);
                })
                .start()
        };
        let server = start();
        one_allocation(&server, &mut table.borrow_mut());
        if pair.manager == "fm" {
            let mut load = Load::on(&server);
            load.fill();
            registrations(&server, &mut load, &mut table.borrow_mut());
            let other = start();
            let mut other_load = Load::on(&other);
            other_load.fill();
            let loads = [load, other_load];
            focused(&[server, other], loads, &mut table.borrow_mut());
        }
    });
}

fn sample(server: &Server, bytes: i64) {
    server.rpc(
        "cfg.set_now_int",
        json!(["memguard", "sample_bytes", bytes]),
    );
}

fn one_allocation(server: &Server, table: &mut Table) {
    let manager = &server.pair.manager;
    progress(&format!("sampling: one allocation on {manager}"));
    sample(server, 1);
    for (pool, name) in ["pkg", "shm"].iter().enumerate() {
        for (depth, path) in [(0, "short path"), (DEEP, "32 frames")] {
            let answer = server.rpc("mgbench.deep", json!([pool, depth, ROUNDS]));
            let [bare, wrapped] = ["bare", "wrapped"].map(|which| micro(&answer[which]));
            table.add(
                format!("{manager} {name} sampled malloc+free, {path}: added"),
                wrapped - bare,
                "us",
                SAMPLED,
            );
        }
    }
    let seen = server.rpc("memguard.paths", json!(["module", "mgbench", "top", 1]));
    assert_eq!(seen, json!([]), "every block was given back");
    sample(server, DEFAULT);
}

fn micro(list: &Value) -> f64 {
    let picoseconds = list.as_array().into_iter().flatten();
    undisturbed(picoseconds.filter_map(Value::as_f64).collect()) / 1e6
}

fn registrations(server: &Server, load: &mut Load, table: &mut Table) {
    progress("sampling: accepted REGISTERs, at the default rate and without, in turn");
    let mut ratios = Vec::new();
    for round in 0..BATCHES {
        let mut spent = [0.0; 2];
        for which in [round % 2, 1 - round % 2] {
            sample(server, [0, DEFAULT][which]);
            spent[which] = load.batch();
        }
        ratios.push(spent[1] / spent[0]);
    }
    table.add(
        "accepted REGISTER: sampling at its default over off (fm)",
        median(ratios),
        "x",
        REGISTER,
    );
}

/// Registrations that go on and on: their places rise and come into focus, and all lie on the way of a REGISTER.
///
/// A place takes seconds to come into focus, and in seconds the machine becomes faster or slower by tens of percents. So
/// there are two servers, batch against batch, of which each has focus in every other turn: what is theirs cancels out.
fn focused(servers: &[Server; 2], mut loads: [Load; 2], table: &mut Table) {
    progress(
        "sampling: accepted REGISTERs on two servers, with the places that rise in focus and without, in turn",
    );
    let ratios = (0..TURNS).map(|turn| {
        let (with, without) = (turn % 2, 1 - turn % 2);
        sample(&servers[with], DEFAULT);
        sample(&servers[without], 0);
        let deadline = Instant::now() + Duration::from_secs(120);
        while in_focus(&servers[with]) < FOCUSED || in_focus(&servers[without]) > 0 {
            assert!(Instant::now() < deadline, "no {FOCUSED} places in focus");
            for load in &mut loads {
                load.batch();
            }
        }
        let rounds = (0..BATCHES_OF_A_TURN).map(|round| {
            let mut spent = [0.0; 2];
            for which in [round % 2, 1 - round % 2] {
                spent[which] = loads[which].batch();
            }
            spent[with] / spent[without]
        });
        median(rounds.collect())
    });
    // Of a ratio and its inverse the middle is the geometric one.
    let logarithms: f64 = ratios.map(f64::ln).sum();
    table.add(
        "accepted REGISTER: its four rising places in focus over sampling off (fm)",
        (logarithms / TURNS as f64).exp(),
        "x",
        REGISTER,
    );
}

fn in_focus(server: &Server) -> usize {
    let places = server.rpc("memguard.sites", json!(["top", 500]));
    let rows = places.as_array().into_iter().flatten();
    rows.filter(|row| row.get("focus").is_some()).count()
}
