//! Processes that stand still (SIGSTOP): without the sampling process the gate goes by live memory and says so; a worker
//! that stops at any moment stops no reader, and the others go on.
//! Forbidden here: processes that die; Kamailio ends with any of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::guard::{Guarded, SOON, number, rows, word};
use super::harness::sip::Request;
use super::harness::{Server, for_each_pair, until};

/// Stops a process for as long as it lives.
struct Frozen(i32);

impl Frozen {
    fn new(pid: i32) -> Frozen {
        // SAFETY: a process of the server that this test started.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGSTOP) }, 0);
        until(SOON, "it stands still", || state_of(pid) == Some('T'));
        Frozen(pid)
    }
}

/// The kernel's letter for what the process does.
fn state_of(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // SAFETY: as above; its server still runs, so the pid is still its own.
        unsafe { libc::kill(self.0, libc::SIGCONT) };
    }
}

/// A process by how core.psx describes it.
#[track_caller]
fn pid_of(server: &Server, desc: &str) -> i32 {
    let all = server.processes();
    let found = all.iter().find(|(_, _, name)| name.starts_with(desc));
    found.unwrap_or_else(|| panic!("no {desc} in {all:?}")).1
}

fn says_stale(server: &Server) -> bool {
    let warnings = server.status();
    let mut texts = rows(&warnings["warnings"]).iter();
    texts.any(|w| w.as_str().is_some_and(|w| w.contains("no sample for")))
}

#[test]
fn stopped_sampling_process_leaves_the_gate_to_live_memory_and_is_warned_of() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .with_mgtest()
            .param("sample_interval", 100)
            .start();
        let stale = || number(&server.registrations(), "stale_decisions");
        let code = |name: &str| server.udp().request(&Request::register(name)).code;
        assert_eq!(code("first"), 200);
        until(SOON, "the machine's memory is sampled", || {
            rows(&server.rpc("memguard.pools", json!([])))
                .iter()
                .any(|pool| pool["name"] == "os")
        });
        assert!(!says_stale(&server) && stale() == 0);
        let frozen = Frozen::new(server.sampling_pid());
        until(SOON, "the sample gets old", || {
            number(&server.status(), "sample_age_ms") > 1500
        });
        assert!(says_stale(&server), "{}", server.status());
        assert_eq!(code("early"), 200);
        server.fill_shm(98);
        assert_eq!(code("late"), 503);
        assert_eq!(server.tcp().request(&Request::register("later")).code, 503);
        assert_eq!(code("early"), 200, "refresh");
        until(SOON, "each decision about a new phone is counted", || {
            stale() == 3
        });
        let status = server.status();
        assert_eq!(
            word(&status, "level"),
            "normal",
            "the level is the last sample's"
        );
        assert_eq!(number(&status, "shed_pct"), 100, "what is refused is live");
        server.release_shm();
        assert_eq!(code("late"), 200);
        drop(frozen);
        until(SOON, "it samples again", || {
            number(&server.status(), "sample_age_ms") < 1000
        });
        assert!(!says_stale(&server), "{}", server.status());
        assert_eq!(code("healed"), 200);
        assert_eq!(stale(), 4);
    });
}

#[test]
fn stopped_sampling_process_takes_the_machines_memory_out_of_the_decision() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .param("sample_interval", 100)
            .param("os_limit", 1) // MiB: less than anybody uses
            .start();
        let code = |name: &str| server.udp().request(&Request::register(name)).code;
        server.await_level("emergency");
        assert_eq!(code("a"), 503);
        let frozen = Frozen::new(server.sampling_pid());
        until(SOON, "os has no say any more", || code("b") == 200);
        assert!(number(&server.status(), "sample_age_ms") > 1000);
        drop(frozen);
        let mut user = 0;
        until(SOON, "it has again", || {
            user += 1;
            code(&format!("c{user}")) == 503
        });
    });
}

/// Says that it is enough when it goes, also with a failing test.
struct Enough<'a>(&'a AtomicBool);

impl Drop for Enough<'_> {
    fn drop(&mut self) {
        // ORDERING: Relaxed; a flag that only ends a loop.
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How often the worker is stopped under load.
const STOPS: usize = 30;

/// What a reader may wait at most: it needs no lock, but the machine may be busy.
const READING: Duration = Duration::from_secs(2);

#[test]
fn stopped_worker_stops_no_reader_and_no_other_worker() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .workers(2)
            .param("sample_interval", 100)
            .start();
        let worker = pid_of(&server, "udp receiver");
        let client = server.udp();
        let is_enough = AtomicBool::new(false);
        let sent: usize = std::thread::scope(|scope| {
            // It stops wherever it happens to be: in memguard's wrappers, its tables, the gate.
            let flood = scope.spawn(|| {
                let mut sent = 0;
                // ORDERING: Relaxed; a flag that only ends the loop.
                while !is_enough.load(Ordering::Relaxed) {
                    // The same users again: more would fill the pool in the end.
                    let users = (0..200).map(|i| Request::register(&format!("u{i}")));
                    let tally = client.flood(users, 16, |_, _, _| ());
                    assert_eq!((tally.of(200), tally.unanswered), (200, 0), "{tally:?}");
                    sent += 200 + tally.resent;
                }
                sent
            });
            let enough = Enough(&is_enough);
            for _ in 0..STOPS {
                let frozen = Frozen::new(worker);
                let started = Instant::now();
                for command in ["status", "workers", "registrations", "sites", "metrics"] {
                    server.rpc(&format!("memguard.{command}"), json!([]));
                }
                let took = started.elapsed();
                assert!(took < READING, "a reader waited {took:?}");
                drop(frozen);
            }
            drop(enough);
            flood.join().expect("the flood")
        });
        until(SOON, "every one is counted once", || {
            number(&server.registrations(), "received") == sent as i64
        });
        // Stopped while it rests, for as long as it takes the others to serve everybody.
        let frozen = Frozen::new(worker);
        let more = (0..200).map(|i| Request::register(&format!("more{i}")));
        let tally = client.flood(more, 4, |_, _, _| ());
        assert_eq!((tally.of(200), tally.resent), (200, 0), "{tally:?}");
        drop(frozen);
        assert_eq!(server.udp().request(&Request::options()).code, 200);
    });
}
