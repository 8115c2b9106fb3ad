//! Memory outside the pools, in real Kamailio: what processes tell of themselves, and a KEMI Python script that keeps
//! references: it is named with its worker, a healthy one is not.
//! Forbidden here: simulated figures (guard::outside).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::guard::{Guarded, SOON, number, rows, word};
use super::harness::builder::Builder;
use super::harness::sip::{Request, Tcp, Udp};
use super::harness::wait::found;
use super::harness::{Pair, Server, for_each_pair_at_once, until};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/module/kemi/keeps.py");
/// What the rule takes at the shortest sample interval (12 windows of 60 samples, after 3 s), and half as much again.
const NAMED_WITHIN: Duration = Duration::from_secs(115);
/// Between two requests of each client.
const STEP: Duration = Duration::from_millis(25);
/// Bytes that each leaking request leaves behind.
const KEPT: u64 = 30_000;

fn kemi(pair: &Pair) -> Builder {
    Server::registrar(pair)
        .workers(2)
        .param("sample_interval", 100)
        .environment("PYTHONDONTWRITEBYTECODE", "1")
        .config(|c| {
            c.modules.retain(|module| module != "xhttp"); // wants an event route
            c.module("app_python3").param("app_python3", "load", SCRIPT);
            c.script = Some(String::new());
            c.routes = "cfgengine \"python\"\n".into();
        })
}

/// Requests over UDP that keep nothing, and over TCP that keep `keep` bytes each, until `is_found`; asked each second.
fn traffic(
    server: &Server,
    keep: Option<u64>,
    limit: Duration,
    mut is_found: impl FnMut() -> bool,
) -> bool {
    let (udp, mut tcp) = (server.udp(), server.tcp());
    let begin = Instant::now();
    for n in 0u32.. {
        let due = begin + STEP * n;
        std::thread::sleep(due.saturating_duration_since(Instant::now())); // the rate is what is tested
        healthy(&udp);
        leaking(&mut tcp, keep);
        if n % 40 == 0 && is_found() {
            return true;
        }
        if begin.elapsed() > limit {
            return false;
        }
    }
    false
}

fn healthy(client: &Udp) {
    client.try_request(&Request::options(), Duration::from_secs(2));
}

fn leaking(client: &mut Tcp, keep: Option<u64>) {
    let request = match keep {
        Some(bytes) => Request::options().header(&format!("X-Keep: {bytes}")),
        None => Request::options(),
    };
    client.try_request(&request, Duration::from_secs(2));
}

fn worker(server: &Server, index: i64) -> Value {
    rows(&server.rpc("memguard.workers", json!(["index", index])))[0].clone()
}

fn leaks(server: &Server) -> Vec<Value> {
    rows(&server.rpc("memguard.workers", json!(["leaking"]))).clone()
}

#[test]
fn outside_a_python_script_that_keeps_references_is_named_with_its_worker() {
    for_each_pair_at_once(|pair| {
        let server = kemi(pair).start();
        let is_named = traffic(&server, Some(KEPT), NAMED_WITHIN, || {
            server.status()["cause"] == "outside"
        });
        let (status, leaks) = (server.status(), leaks(&server));
        assert!(is_named, "{status}\n{leaks:?}\n{:?}", server.workers());
        let index = number(&status, "cause_worker");
        assert_eq!(word(&status, "cause_part"), "python", "{status}");
        assert!(
            ["medium", "high"].contains(&word(&status, "confidence")),
            "{status}"
        );
        let explanation = word(&status, "explanation");
        assert!(
            explanation.contains("python") && explanation.contains(&format!("worker {index}")),
            "{status}"
        );
        // It is one that got the requests that keep, and no other is accused.
        for leaking in &leaks {
            assert!(
                word(leaking, "desc").starts_with("tcp receiver"),
                "{leaks:?}"
            );
            assert_eq!(word(leaking, "leak_in"), "python", "{leaks:?}");
        }
        let named = worker(&server, index);
        assert!(
            ["suspected", "confirmed"].contains(&word(&named, "leak")),
            "{named}"
        );
        assert!(number(&named, "private_growth") > 100_000, "{named}");
        let os = rows(&server.rpc("memguard.forecast", json!(["os"])))[0].clone();
        assert_eq!(
            (word(&os, "cause"), number(&os, "worker"), word(&os, "part")),
            ("outside", index, "python"),
            "{os}"
        );
        until(SOON, "the log says it", || {
            server
                .log()
                .contains("outside / python: the Python script in worker")
        });
    });
}

#[test]
fn outside_a_healthy_python_script_is_not_named() {
    for_each_pair_at_once(|pair| {
        let server = kemi(pair).start();
        // As long as it takes to name the one that keeps.
        let is_named = traffic(&server, None, Duration::from_secs(82), || {
            server.status()["cause"] == "outside" || !leaks(&server).is_empty()
        });
        assert!(!is_named, "{}\n{:?}", server.status(), leaks(&server));
        let told = server.workers();
        let told = told.iter().filter(|w| w["python_blocks"].is_number());
        assert!(told.count() >= 3, "{:?}", server.workers()); // so it was looked at
    });
}

#[test]
fn outside_processes_tell_of_heap_and_interpreter_when_they_are_asked() {
    for_each_pair_at_once(|pair| {
        let server = kemi(pair).start();
        let mut client = server.tcp();
        let mut told = |least: u64| {
            found(SOON, "a worker tells of itself", || {
                leaking(&mut client, Some(2_000_000));
                let all = server.workers();
                all.into_iter()
                    .find(|w| w["heap"].as_f64() > Some(least as f64))
            })
        };
        let first = told(4_000_000);
        let blocks = number(&first, "python_blocks");
        assert!((10_000..10_000_000).contains(&blocks), "{first}");
        // Large blocks of Python lie in libc's heap, which is part of what is private.
        let later = told(number(&first, "heap") as u64 + 10_000_000);
        assert_eq!(number(&later, "index"), number(&first, "index"));
        assert!(
            number(&later, "private") > number(&first, "private"),
            "{first}\n{later}"
        );

        if !pair.kamailio.version.starts_with("5.") {
            // 6.x can give the interpreter's lock away between messages.
            let server = kemi(pair)
                .config(|c| _ = c.param("app_python3", "threads_mode", 1))
                .start();
            let mut client = server.tcp();
            found(
                SOON,
                "a worker tells of blocks, having taken the lock",
                || {
                    leaking(&mut client, None);
                    let all = server.workers();
                    all.into_iter().find(|w| w["python_blocks"].is_number())
                },
            );
        }

        let server = kemi(pair).param("python", 0).start();
        let mut client = server.tcp();
        let quiet = found(SOON, "a worker tells of its heap only", || {
            leaking(&mut client, None);
            let all = server.workers();
            all.into_iter().find(|w| w["heap"].is_number())
        });
        assert!(quiet["python_blocks"].is_null(), "{quiet}");
    });
}
