//! Private memory: each worker has its own level and refuses for itself; the others go on.
//! Forbidden here: pressure of shm (pressure.rs).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::guard::{Guarded, SOON, number, rows, word};
use super::harness::sip::{Reply, Request};
use super::harness::{Pair, Server, for_each_pair, until};

/// Every request says which worker had it, and makes it hold or release private memory when it is asked to.
const SCRIPT: &str = "if ($hdr(X-Hold) != $null) { mgtest_hold_pkg(\"$(hdr(X-Hold){s.int})\"); }
    if ($hdr(X-Release) != $null) { mgtest_release(); }
    append_to_reply(\"X-Pid: $mgtest(pid)\\r\\nX-Real: $mgtest(pkg_real_used)\\r\\nX-Total: $mgtest(pkg_total)\\r\\n\");";

fn server(pair: &Pair, workers: u32) -> Server {
    Server::registrar(pair)
        .with_mgtest()
        .workers(workers)
        .param("sample_interval", 100)
        .param("dwell", 1)
        .config(|c| c.before = SCRIPT.into())
        .start()
}

#[track_caller]
fn value(reply: &Reply, header: &str) -> i64 {
    let value = reply.header(header).and_then(|v| v.parse().ok());
    value.unwrap_or_else(|| panic!("no {header} in {reply:?}"))
}

/// Fills the private memory of the worker that gets the request, to a percentage; its pid.
fn fill(ask: &mut dyn FnMut(Request) -> Reply, percent: i64) -> i64 {
    let reply = ask(Request::options());
    let missing = value(&reply, "X-Total") * percent / 100 - value(&reply, "X-Real");
    let held = ask(Request::options().header(&format!("X-Hold: {missing}")));
    assert_eq!(value(&held, "X-Pid"), value(&reply, "X-Pid"), "one worker");
    value(&held, "X-Pid")
}

fn row_of(server: &Server, pid: i64) -> Value {
    rows(&server.rpc("memguard.workers", json!(["pid", pid])))[0].clone()
}

#[test]
fn levels_a_full_worker_refuses_new_registrations_and_the_others_do_not() {
    for_each_pair(|pair| {
        let server = server(pair, 1);
        let (client, mut tcp) = (server.udp(), server.tcp());
        let known = Request::register("known");
        assert_eq!(client.request(&known).code, 200);
        let pid = fill(&mut |request| client.request(&request), 96);
        until(SOON, "the worker's level is shedding", || {
            word(&row_of(&server, pid), "level") == "shedding"
        });
        let index = number(&row_of(&server, pid), "index");
        for worker in server.workers() {
            let expected = if number(&worker, "index") == index {
                "shedding"
            } else {
                "normal"
            };
            assert_eq!(word(&worker, "level"), expected, "{worker}");
        }
        // A worker that receives SIP counts for the server.
        server.await_level("shedding");
        let status = server.status();
        assert_eq!(word(&status, "tightest"), "pkg", "{status}");
        let pool = server.pool("pkg");
        assert_eq!(
            (number(&pool, "worker"), word(&pool, "level")),
            (index, "shedding"),
            "{pool}"
        );

        let refused = client.request(&Request::register("new"));
        assert_eq!(refused.code, 503, "{refused:?}");
        assert!(
            refused
                .retry_after()
                .is_some_and(|s| (30..=1800).contains(&s))
        );
        assert_eq!(client.request(&known.next()).code, 200, "refresh");
        assert_eq!(client.request(&Request::options()).code, 200);
        let other = tcp.request(&Request::register("new"));
        assert_eq!(other.code, 200, "the TCP worker has memory");
        assert_ne!(value(&other, "X-Pid"), pid);

        let events = server.rpc("memguard.events", json!([]));
        let event = rows(&events).iter().find(|e| e["to"] == "shedding");
        let event = event.unwrap_or_else(|| panic!("no event in {events}"));
        assert_eq!(
            (word(event, "pool"), number(event, "worker")),
            ("pkg", index),
            "{event}"
        );
        assert!((94..98).contains(&number(event, "percent")), "{event}");

        client.request(&Request::options().header("X-Release: 1"));
        let admitted = client.request(&Request::register("new2"));
        assert_eq!(
            admitted.code, 200,
            "at once, whatever the level: {admitted:?}"
        );
        until(SOON, "the worker's level is normal again", || {
            word(&row_of(&server, pid), "level") == "normal"
        });
        server.await_level("normal");
    });
}

#[test]
fn levels_of_several_workers_only_the_full_one_refuses() {
    for_each_pair(|pair| {
        let server = server(pair, 3);
        let client = server.udp();
        // Two requests in a row may meet two workers: ask until one worker had both.
        let mut full = None;
        until(SOON, "a worker is filled", || {
            let reply = client.request(&Request::options());
            let missing = value(&reply, "X-Total") * 97 / 100 - value(&reply, "X-Real");
            let held = client.request(&Request::options().header(&format!("X-Hold: {missing}")));
            full = Some(value(&held, "X-Pid"));
            let row = row_of(&server, value(&held, "X-Pid"));
            let real = number(&row, "pkg_real_used") * 100;
            real >= number(&row, "pkg_size") * 93
        });
        let full = full.expect("a pid");
        let (mut refused, mut accepted) = (0, BTreeSet::new());
        for batch in 0..200 {
            let users = (0..20).map(|i| Request::register(&format!("w{batch}-{i}")));
            client.flood(users, 10, |_, _, reply| match reply.code {
                503 => refused += 1,
                _ => drop(accepted.insert(value(reply, "X-Pid"))),
            });
            if refused > 0 && accepted.len() == 2 {
                break;
            }
        }
        assert!(refused > 0, "the full worker never had a message");
        assert_eq!(accepted.len(), 2, "both others accept: {accepted:?}");
        assert!(
            !accepted.contains(&full),
            "the full one accepts nothing new"
        );
    });
}
