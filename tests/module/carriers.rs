//! Who carries SIP, and whose private memory therefore refuses and makes the server's level: not whoever runs a route for
//! a message that a module made up, but async workers that go on with a request.
//! Forbidden here: what a level does (levels.rs).

use serde_json::{Value, json};

use super::guard::{Guarded, SOON, number, word};
use super::harness::sip::Request;
use super::harness::{Pair, Server, for_each_pair, until};

/// Holds as much of the process's own pkg as leaves 4 % (once: what is held already counts).
const FILL: &str = "$var(missing) = $mgtest(pkg_total) * 96 / 100 - $mgtest(pkg_real_used);
    if ($var(missing) > 0) { mgtest_hold_pkg(\"$var(missing)\"); }";

fn server(pair: &Pair) -> super::harness::builder::Builder {
    Server::registrar(pair)
        .with_mgtest()
        .workers(2)
        .param("sample_interval", 100)
        .param("dwell", 1)
}

fn worker(server: &Server, what: impl Fn(&Value) -> bool) -> Option<Value> {
    server.workers().into_iter().find(|row| what(row))
}

#[test]
fn carriers_a_message_that_a_timer_made_up_is_no_sip() {
    for_each_pair(|pair| {
        let server = server(pair)
            .config(|c| {
                c.module("rtimer");
                c.param("rtimer", "timer", "name=tick;interval=1;mode=1;");
                c.param("rtimer", "exec", "timer=tick;route=TICK");
                c.routes = format!("route[TICK] {{ {FILL} }}");
            })
            .start();
        let is_full =
            |row: &Value| number(row, "pkg_real_used") * 100 >= number(row, "pkg_size") * 93;
        until(SOON, "the timer's process is full", || {
            worker(&server, is_full).is_some()
        });
        let row = worker(&server, is_full).expect("it was there");
        until(SOON, "its own level says so", || {
            worker(&server, is_full).is_some_and(|row| word(&row, "level") != "normal")
        });
        assert_eq!(number(&row, "messages"), 0, "{row}");
        let status = server.status();
        assert_eq!(word(&status, "level"), "normal", "{status}");
        // What is refused is nothing, and that is said.
        assert_eq!(number(&status, "shed_pct"), 0, "{status}");
        let log = server.log();
        assert!(!log.contains("its ballast is released"), "{log}");
        assert_eq!(server.udp().request(&Request::register("phone")).code, 200);
    });
}

#[test]
fn carriers_an_async_worker_that_goes_on_with_requests_keeps_a_ballast_and_counts_for_the_level() {
    for_each_pair(|pair| {
        let server = server(pair)
            .config(|c| {
                c.module("async");
                c.global("async_workers=1");
                c.before = "if (is_method(\"OPTIONS\")) { async_task_route(\"WORK\"); exit; }".into();
                c.routes = format!(
                    "route[WORK] {{ if ($tU == \"fill\") {{ {FILL} }} t_reply(\"200\", \"done\"); }}"
                );
            })
            .start();
        let client = server.udp();
        assert_eq!(client.request(&Request::new("OPTIONS", "calm")).code, 200);
        let is_async = |row: &Value| word(row, "desc").to_ascii_lowercase().contains("async");
        let ballast = number(
            &worker(&server, is_async).expect("an async worker"),
            "pkg_real_used",
        );
        assert_eq!(client.request(&Request::new("OPTIONS", "fill")).code, 200);
        // The next request finds less than one message's need, and the ballast is there to be given.
        server.await_level("shedding");
        let row = worker(&server, is_async).expect("an async worker");
        assert_eq!(word(&row, "level"), "shedding", "{row} (calm: {ballast})");
        let events = server.rpc("memguard.events", json!([]));
        assert!(events.to_string().contains("pkg"), "{events}");
        let sites = server.rpc(
            "memguard.sites",
            json!(["worker", number(&row, "index"), "module", "memguard"]),
        );
        assert!(
            sites.to_string().contains("mg_pkg_take"),
            "no ballast: {sites}"
        );
    });
}

#[test]
fn carriers_messages_are_counted_where_the_script_calls_memguard() {
    for_each_pair(|pair| {
        let server = server(pair).param("auto", 0).start();
        let client = server.udp();
        for i in 0..5 {
            assert_eq!(
                client
                    .request(&Request::register(&format!("phone{i}")))
                    .code,
                200
            );
        }
        let all: i64 = server
            .workers()
            .iter()
            .map(|row| number(row, "messages"))
            .sum();
        assert_eq!(all, 5);
    });
}

#[test]
fn carriers_check_says_the_same_by_code_and_text_at_an_emergency_below_the_limits_given() {
    for_each_pair(|pair| {
        let server = server(pair).start();
        server.fill_shm(97);
        server.await_level("emergency");
        let answer = server.rpc("memguard.check", json!([98, 99]));
        assert_eq!(number(&answer, "code"), 2, "{answer}");
        assert!(word(&answer, "text").starts_with("CRITICAL"), "{answer}");
    });
}
