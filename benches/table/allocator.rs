//! Cost of one malloc and free with memguard's wrappers over the bare manager, in one process (tests/bench/mgbench.c).
//! Forbidden here: comparing two processes or two servers.

use serde_json::{Value, json};

use crate::harness::{Server, for_each_pair};
use crate::report::{Table, median, progress, undisturbed};

/// Calls, and rounds of a bare and a wrapped batch per call.
const CALLS: usize = 10;
const ROUNDS: usize = 200;
/// Nanoseconds that counting may add to a pair of calls.
const ADDED: f64 = 5.0;

/// What wrapped may cost over bare.
fn ratio_bound(manager: &str) -> f64 {
    match manager {
        "fm" => 1.15,
        "tlsf" => 1.2,
        _ => 1.01,
    }
}

pub fn measure(table: &mut Table) {
    let Ok(mgbench) = std::env::var("MEMGUARD_MGBENCH") else {
        return progress("allocator: skipped, as MEMGUARD_MGBENCH is not set: run ./dev bench");
    };
    let table = std::cell::RefCell::new(table);
    for_each_pair(|pair| {
        progress(&format!("allocator: {}", pair.manager));
        let server = Server::registrar(pair)
            .workers(1)
            .config(|c| {
                c.global(&format!("loadmodule \"{mgbench}\""));
            })
            .start();
        for (pool, pool_name) in ["pkg", "shm"].iter().enumerate() {
            for (mix, sizes) in ["64 bytes", "mixed sizes"].iter().enumerate() {
                let (mut bare, mut wrapped, mut ratios) = (vec![], vec![], vec![]);
                for _ in 0..CALLS {
                    let answer = server.rpc("mgbench.run", json!([pool, mix, ROUNDS]));
                    assert_eq!(answer["is_wrapped"], 1, "memguard was loaded after mgbench");
                    for (b, w) in picoseconds(&answer["bare"]).zip(picoseconds(&answer["wrapped"]))
                    {
                        bare.push(b / 1000.0);
                        wrapped.push(w / 1000.0);
                        ratios.push(w / b);
                    }
                }
                let what = format!("{} {pool_name} malloc+free, {sizes}", pair.manager);
                let mut table = table.borrow_mut();
                let bare = undisturbed(bare);
                let added = undisturbed(wrapped) - bare;
                table.note(format!("{what}: bare"), bare, "ns");
                table.add(format!("{what}: added"), added, "ns", ADDED);
                table.add(
                    format!("{what}: ratio"),
                    median(ratios),
                    "x",
                    ratio_bound(&pair.manager),
                );
            }
        }
    });
}

fn picoseconds(list: &Value) -> impl Iterator<Item = f64> {
    list.as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_f64)
}
