//! The script decides: `auto` 0 with memguard_admit() and memguard_reject(), stateless and within a transaction, in the
//! native language. Forbidden here: the automatic gate (pressure.rs), and KEMI (kemi.rs).

use serde_json::json;

use super::guard::{Guarded, SOON, counts, number, rows, word};
use super::harness::sip::Request;
use super::harness::wait::found;
use super::harness::{Pair, Server, for_each_pair, until};

fn scripted(pair: &Pair, register: &str) -> Server {
    Server::registrar(pair)
        .param("auto", 0)
        .config(|c| c.register = register.into())
        .start()
}

pub fn sheds_by_script(server: &Server) {
    let client = server.udp();
    let known = Request::register("known");
    assert_eq!(client.request(&known).code, 200);
    server.rpc("memguard.shed", json!([60]));
    let reply = client.request(&Request::register("new"));
    assert_eq!(reply.code, 503, "{reply:?}");
    assert!(
        reply
            .retry_after()
            .is_some_and(|s| (30..=1800).contains(&s)),
        "{reply:?}"
    );
    assert_eq!(client.request(&known.next()).code, 200, "a refresh passes");
    // The worker writes a refusal down after the answer is out.
    let refusal = found(SOON, "the refusal is listed", || {
        rows(&server.rpc("memguard.refusals", json!([])))
            .first()
            .cloned()
    });
    assert_eq!(word(&refusal, "stage"), "script");
    assert_eq!(
        server.by_class("received"),
        counts(&[("new", 2), ("refresh", 1)])
    );
    assert_eq!(server.by_class("rejected"), counts(&[("new", 1)]));
}

#[test]
fn script_functions_refuse_statelessly() {
    for_each_pair(|pair| {
        sheds_by_script(&scripted(
            pair,
            "if (!memguard_admit()) { memguard_reject(); exit; } save(\"location\");",
        ));
    });
}

#[test]
fn script_functions_refuse_through_the_transaction() {
    for_each_pair(|pair| {
        let script = "t_newtran();
        if (!memguard_admit()) { memguard_reject(); exit; }
        save(\"location\");";
        let server = scripted(pair, script);
        sheds_by_script(&server);
        // tm tells of a reply after it is out.
        until(SOON, "replies through tm are seen", || {
            number(&server.registrations(), "accepted") == 2
        });
    });
}

#[test]
fn script_a_class_given_by_the_script_replaces_memguards() {
    for_each_pair(|pair| {
        let server = scripted(
            pair,
            "if (!memguard_admit(\"refresh\")) { memguard_reject(); exit; } save(\"location\");",
        );
        server.rpc("memguard.shed", json!([60]));
        assert_eq!(server.udp().request(&Request::register("new")).code, 200);
        assert_eq!(server.by_class("received"), counts(&[("refresh", 1)]));
    });
}

#[test]
fn script_pseudo_variables_tell_level_class_and_retry_after() {
    for_each_pair(|pair| {
        let server = scripted(
            pair,
            "$var(admitted) = 1;
        if (!memguard_admit()) { $var(admitted) = 0; }
        append_to_reply(\"X-Guard: $memguard(level) $memguard(shed_pct) $memguard(retry_after)\\r\\n\");
        sl_send_reply(\"200\", \"OK\");",
        );
        let client = server.udp();
        let calm = client.request(&Request::register("a"));
        assert_eq!(calm.header("X-Guard"), Some("normal 0 <null>"));
        server.rpc("memguard.shed", json!([60]));
        let shed = client.request(&Request::register("b"));
        assert_eq!(shed.header("X-Guard"), Some("shedding 100 30"));
    });
}

#[test]
fn script_the_event_route_tells_each_change_and_one_that_blocks_does_not_stop_the_guard() {
    const SAYS: &str = "xlog(\"L_NOTICE\", \"told: $memguard(from) $memguard(to) $memguard(pool) $memguard(reason) end\\n\");";
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .param("sample_interval", 100)
            .config(|c| {
                c.module("cfgutils");
                c.debug = 2;
                c.routes = format!(
                    "event_route[memguard:level-changed] {{ {SAYS} if ($memguard(reason) == \"ended\") {{ sleep(\"3\"); }} }}"
                );
            })
            .start();
        server.rpc("memguard.shed", json!([60]));
        until(SOON, "the route runs when refusing begins", || {
            server
                .log()
                .contains("told: normal shedding shm operator end")
        });
        server.rpc("memguard.resume", json!([]));
        until(SOON, "and when it ends", || {
            server.log().contains("told: shedding normal shm ended end")
        });
        // The route sleeps now; samples, answers and refusals go on.
        let begin = std::time::Instant::now();
        server.rpc("memguard.shed", json!([60]));
        until(SOON, "new phones are refused meanwhile", || {
            server.udp().request(&Request::register("newcomer")).code == 503
        });
        until(SOON, "the level is shown meanwhile", || {
            server.rpc("memguard.status", json!([]))["level"] == "shedding"
        });
        let age = server.rpc("memguard.status", json!([]))["sample_age_ms"].as_u64();
        assert!(age < Some(2_000), "{age:?}");
        let told = server.log().matches("told: ").count();
        assert!(
            told == 2 || begin.elapsed().as_secs() >= 2,
            "the third is told when the route has woken up: {told}"
        );
        until(SOON, "nothing is lost: it is told then", || {
            server
                .log()
                .matches("told: normal shedding shm operator end")
                .count()
                == 2
        });
    });
}

#[test]
fn script_a_class_that_the_script_names_counts_though_the_gate_has_let_the_request_in() {
    for_each_pair(|pair| {
        let script =
            "if (!memguard_admit(\"new\")) { memguard_reject(); exit; } save(\"location\");";
        for auto in [0, 1] {
            let server = Server::registrar(pair)
                .param("auto", auto)
                .config(|c| c.register = script.into())
                .start();
            let client = server.udp();
            let phone = Request::register("phone");
            assert_eq!(client.request(&phone).code, 200);
            server.rpc("memguard.shed", json!([60]));
            assert_eq!(client.request(&phone.next()).code, 503, "auto {auto}");
        }
    });
}
