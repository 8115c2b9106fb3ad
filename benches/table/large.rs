//! What grows with the processes, on a server of 275 of them: a scrape, and the sampling process.
//! Forbidden here: wall clock; other tenants of the machine would decide it.

use std::cell::RefCell;
use std::fs;

use crate::harness::{Server, for_each_pair};
use crate::report::{Table, progress};
use crate::reports::{SCRAPE, sampling, sampling_pid, scrape};

/// UDP workers, and as many for TCP; with the others 275 processes.
const WORKERS: u32 = 131;
/// Milliseconds of CPU per second: 0.5 % of a core.
const SAMPLING: f64 = 5.0;
/// MB that the sampling process has for itself.
const RESIDENT: f64 = 24.0;

pub fn measure(table: &mut Table) {
    let table = RefCell::new(table);
    for_each_pair(|pair| {
        if pair.manager != "fm" {
            return;
        }
        progress("large: a server of 275 processes");
        let server = Server::registrar(pair).workers(WORKERS).shm_mb(256).start();
        let processes = server.processes();
        assert!(
            (265..=285).contains(&processes.len()),
            "{} processes",
            processes.len()
        );
        let mut table = table.borrow_mut();
        let what = "one scrape of the statistics, 275 processes";
        table.add(what, scrape(&server), "ms", SCRAPE);
        std::thread::sleep(std::time::Duration::from_secs(4)); // growth is followed from then on
        let what = "sampling process, CPU per second, 275 processes";
        table.add(what, sampling(&server), "ms", SAMPLING);
        let own = own_bytes(sampling_pid(&server));
        let what = "sampling process, resident of its own, 275 processes";
        table.add(what, own as f64 / 1e6, "MB", RESIDENT);
    });
}

/// Bytes that are resident for this process alone, and its part of what it shares (/proc/PID/smaps_rollup, Pss).
fn own_bytes(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the process lives");
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("kernels from 4.14 on say so") * 1024
}
