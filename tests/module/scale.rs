//! Servers of 275 and of 520 processes: every command, the page and the metrics answer; whoever is beyond the last row
//! refuses like the others; what is counted of them costs no page that is not used.
//! Forbidden here: absolute times (benches/table holds those).

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::guard::{Guarded, SOON, number, rows};
use super::harness::builder::{Builder, free_port};
use super::harness::http;
use super::harness::sip::Request;
use super::harness::{Pair, Server, for_each_pair, until};

/// Rows that memguard has for processes (README, limits).
const ROWS: usize = 512;
/// What a caller's buffer holds at least: ctl's reply (modules/ctl, binrpc_max_body_size).
const CTL_REPLY: usize = 32 * 1024;
/// A large server's answer on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server of about `processes` processes, which listens for HTTP at the address.
fn large(pair: &Pair, processes: u32) -> (Builder, SocketAddr) {
    let address = free_port();
    // UDP and TCP workers, and some ten others.
    let builder = Server::registrar(pair)
        .workers((processes - 13) / 2)
        .shm_mb(64)
        .pkg_mb(4)
        .with_mgtest()
        .param("listen", address)
        .param("ballast", 16384);
    (builder, address)
}

/// Every command that only reads, with what kamcmd is told.
const COMMANDS: [&[&str]; 22] = [
    &["memguard.status"],
    &["memguard.pools"],
    &["memguard.workers"],
    &["memguard.workers", "top", "600"],
    &["memguard.registrations"],
    &["memguard.sites"],
    &["memguard.sites", "top", "4000"],
    &["memguard.modules"],
    &["memguard.paths"],
    &["memguard.failures"],
    &["memguard.mark"],
    &["memguard.diff"],
    &["memguard.diff", "top", "4000"],
    &["memguard.forecast"],
    &["memguard.history", "shm_used"],
    &["memguard.check"],
    &["memguard.events"],
    &["memguard.refusals"],
    &["memguard.config"],
    &["memguard.metrics"],
    &["memguard.json"],
    &["memguard.priority"],
];

/// Everything answers; the answers say what they leave out, and where the whole is.
fn assert_answers(server: &Server, address: SocketAddr, processes: usize) {
    for words in COMMANDS {
        let text = server.kamcmd(words);
        assert!(text.is_ok(), "kamcmd {words:?}: {text:?}");
        let answer = server.try_rpc(words[0], json!(words[1..]));
        assert!(answer.is_ok(), "{words:?}: {answer:?}");
    }
    let text = server.rpc("memguard.json", json!([]));
    let text = text.as_str().expect("one string");
    assert!(text.len() < CTL_REPLY, "{} bytes", text.len());
    let cut: Value = serde_json::from_str(text).expect("a document");
    let whole = get(address, "/status.json");
    let whole: Value = serde_json::from_str(&whole).expect("a document");
    assert_eq!(
        cut["status"].as_object().map(|status| status.len()),
        whole["status"].as_object().map(|status| status.len()),
        "what is no list is all there"
    );
    let all = rows(&whole["workers"]).len();
    assert_eq!(all, processes.min(ROWS) + usize::from(processes > ROWS));
    let kept = rows(&cut["workers"]);
    assert!(
        !kept.is_empty() && kept.len() < all,
        "{} workers",
        kept.len()
    );
    let truncated = &cut["truncated"];
    assert_eq!(
        truncated["workers"].as_u64(),
        Some((all - kept.len()) as u64),
        "{truncated}"
    );
    let place = truncated["whole"].as_str().unwrap_or_default();
    assert!(place.contains("/status.json"), "{truncated}");
    assert!(whole["truncated"].is_null(), "the page's document is whole");

    let metrics = get(address, "/metrics");
    let series = metrics.matches("worker_pkg_used_bytes{").count();
    assert_eq!(series, all, "one series per row");
    assert!(get(address, "/").contains("</html>"));
    assert_eq!(
        number(&server.rpc("memguard.status", json!([])), "workers") as usize,
        processes
    );
}

fn get(address: SocketAddr, path: &str) -> String {
    let answer = http::get(address, path, PATIENCE);
    let answer = answer.unwrap_or_else(|| panic!("{path} is answered"));
    assert_eq!(answer.status, 200, "{path}: {}", answer.head);
    answer.body
}

#[test]
fn scale_everything_answers_with_275_processes() {
    for_each_pair(|pair| {
        let (builder, address) = large(pair, 275);
        let server = builder.start();
        let processes = server.processes().len();
        assert!((270..=280).contains(&processes), "{processes}");
        until(PATIENCE, "all are sampled", || {
            number(&server.rpc("memguard.status", json!([])), "workers") as usize == processes
        });
        assert_answers(&server, address, processes);
    });
}

#[test]
fn scale_who_is_beyond_the_last_row_refuses_and_is_counted_in_a_common_row() {
    const PHONES: usize = 600;
    for_each_pair(|pair| {
        let (builder, address) = large(pair, 540);
        let server = builder.start();
        let processes = server.processes().len();
        assert!(processes > ROWS + 10, "{processes}");
        until(PATIENCE, "all are sampled", || {
            number(&server.rpc("memguard.status", json!([])), "workers") as usize == processes
        });
        assert_answers(&server, address, processes);

        // Each request over a connection of its own: they go to many workers, also to those beyond the last row.
        let counted = |what: &str| server.by_class(what).get("new").copied().unwrap_or(0);
        server.rpc("memguard.shed", json!([600]));
        let mut connections = Vec::new();
        for phone in 0..PHONES {
            let mut tcp = server.tcp();
            let reply = tcp.request(&Request::register(&format!("late{phone}")));
            assert_eq!(reply.code, 503, "phone {phone}: {reply:?}");
            connections.push(tcp);
        }
        until(SOON, "each is counted", || {
            counted("rejected") == PHONES as i64
        });
        let common = server.rpc("memguard.workers", json!(["index", ROWS]));
        let common = &rows(&common)[0];
        assert!(number(common, "messages") > 0, "{common}");
        assert!(
            number(common, "processes") as usize == processes - ROWS,
            "{common}"
        );
        until(SOON, "it is said", || {
            let said = server.status()["warnings"].to_string();
            said.contains("common row")
        });
        drop(connections);

        // The books are right with all of them: what the common row counts is part of the sum.
        server.rpc("memguard.resume", json!([]));
        let drift = || {
            let pool = server.pool("shm");
            number(&pool, "drift") - number(&pool, "unbooked")
        };
        until(SOON, "the books are right", || drift() == 0);
    });
}

#[test]
fn scale_known_bindings_are_counted_at_once_and_cost_no_page_that_is_not_used() {
    const PHONES: i64 = 1250;
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .param("bindings", 4_194_304)
            .param("sample_interval", 60_000) // nobody looks meanwhile
            .start();
        let known = || {
            let all = server.registrations();
            (number(&all, "known_bindings"), number(&all, "known_aors"))
        };
        let client = server.udp();
        let phones = || (0..PHONES).map(|i| Request::register(&format!("k{i}")));
        assert_eq!(
            client.flood(phones(), 8, |_, _, _| ()).of(200),
            PHONES as usize
        );
        assert_eq!(known(), (PHONES, PHONES));
        let gone = phones().take(50).map(|phone| phone.next().expires(0));
        assert_eq!(client.flood(gone, 8, |_, _, _| ()).of(200), 50);
        assert_eq!(known(), (PHONES - 50, PHONES), "an AoR is remembered");
        drop(server);

        // The same table, looked at by the sampling process ten times, with none known.
        let server = Server::registrar(pair)
            .param("bindings", 4_194_304)
            .param("sample_interval", 100)
            .start();
        let samples = || server.status()["uptime"].as_f64().unwrap_or(0.0);
        until(SOON, "some samples", || samples() >= 6.0);
        let shared: u64 = server
            .pids()
            .into_iter()
            .map(shared_pages)
            .max()
            .unwrap_or(0);
        assert!(shared < 48 << 20, "{} MiB of shared pages", shared >> 20);
    });
}

/// Resident bytes that a process shares with nobody's file: shm and memguard's mappings (RssShmem).
fn shared_pages(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("RssShmem:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}
