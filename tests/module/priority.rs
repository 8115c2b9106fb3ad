//! `memguard.priority` in real Kamailio: who is let in to the last is changed at run time, in every process at once.
//! Forbidden here: what an entry matches (tests/decide_priority.rs), and how entries are shared (tests/processes.rs).

use serde_json::{Value, json};

use super::guard::{Guarded, rows, word};
use super::harness::rpc::Fault;
use super::harness::sip::{Request, Udp, unique};
use super::harness::{Server, for_each_pair};

/// What is in force, as `list value from`.
fn in_force(answer: &Value) -> Vec<String> {
    let line = |row: &Value| {
        format!(
            "{} {} {}",
            word(row, "list"),
            word(row, "value"),
            word(row, "from")
        )
    };
    rows(answer).iter().map(line).collect()
}

/// A REGISTER with a contact that was never there before: no refresh.
fn anew(user: &str) -> Request {
    Request::register(user).contact(&format!("<sip:{user}-{}@192.0.2.1>", unique()))
}

#[test]
fn priority_a_user_added_at_run_time_is_let_in_by_every_worker_at_emergency_until_it_is_removed() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .with_mgtest()
            .workers(3)
            .param("priority_aor", "sip:chief@example.test")
            .start();
        server.fill_shm(98);
        server.await_level("emergency");
        // Enough of them that every worker reads some.
        let codes = |user: &str| -> Vec<u16> {
            (0..12)
                .map(|_| server.udp().request(&anew(user)).code)
                .collect()
        };
        assert_eq!(codes("nurse"), [503; 12], "nobody knows the nurse");
        let added = server.rpc(
            "memguard.priority",
            json!(["add", "aor", "sip:nurse@example.test"]),
        );
        assert_eq!(
            in_force(&added),
            [
                "aor chief@example.test configuration",
                "aor nurse@example.test run time"
            ]
        );
        assert!(rows(&added)[1]["since"].as_f64() > Some(1.7e9), "{added}");
        assert_eq!(codes("nurse"), [200; 12], "in force in every worker");
        assert_eq!(server.tcp().request(&anew("nurse")).code, 200);
        assert_eq!(codes("chief")[0], 200, "the configuration's is untouched");

        server.rpc(
            "memguard.priority",
            json!(["remove", "aor", "nurse@example.test"]),
        );
        assert_eq!(
            codes("nurse"),
            [503; 12],
            "a new contact of hers is refused again"
        );
        server.rpc(
            "memguard.priority",
            json!(["add", "source", "127.0.0.9/32"]),
        );
        let from_there = Udp::from("127.0.0.9", server.sip());
        assert_eq!(
            from_there.request(&Request::register("by-source")).code,
            200
        );
        assert_eq!(
            server.udp().request(&Request::register("elsewhere")).code,
            503
        );
        server.rpc(
            "memguard.priority",
            json!(["add", "domain", "ward.example"]),
        );
        let ward = Request {
            aor: "sip:anybody@ward.example".into(),
            ..Request::register("anybody")
        };
        assert_eq!(server.udp().request(&ward).code, 200);
    });
}

#[test]
fn priority_lists_say_where_entries_come_from_and_last_until_the_restart() {
    for_each_pair(|pair| {
        let builder = Server::registrar(pair)
            .param("priority_aor", "chief")
            .param("priority_source", "192.0.2.0/24");
        let configured = [
            "aor chief configuration",
            "source 192.0.2.0/24 configuration",
        ];
        {
            let server = builder.start();
            assert_eq!(
                in_force(&server.rpc("memguard.priority", json!([]))),
                configured
            );
            server.rpc("memguard.priority", json!(["remove", "aor", "chief"]));
            server.rpc(
                "memguard.priority",
                json!(["add", "domain", "Example.ORG."]),
            );
            server.rpc("memguard.priority", json!(["add", "domain", "example.org"]));
            assert_eq!(
                in_force(&server.rpc("memguard.priority", json!(["list"]))),
                [
                    "domain example.org run time",
                    "source 192.0.2.0/24 configuration"
                ],
                "the same value twice is one entry"
            );
            let domains = server.rpc("memguard.priority", json!(["list", "domain"]));
            assert_eq!(in_force(&domains), ["domain example.org run time"]);
            let config = server.rpc("memguard.config", json!([]));
            let value = |name: &str| {
                let row = rows(&config).iter().find(|row| row["name"] == name);
                word(row.expect("the parameter is there"), "value").to_owned()
            };
            assert_eq!(
                (value("priority_aor"), value("priority_domain")),
                (String::new(), "example.org".into()),
                "config tells what is in force"
            );
            // kamcmd sends bare digits as a number; sip: in front keeps them as they are.
            let shown = server
                .kamcmd(&["memguard.priority", "add", "aor", "sip:0301234"])
                .expect("kamcmd is answered");
            assert!(shown.contains("value: 0301234"), "{shown}");
        }
        let restarted = builder.start();
        assert_eq!(
            in_force(&restarted.rpc("memguard.priority", json!([]))),
            configured
        );
    });
}

#[test]
fn priority_faults_say_what_is_accepted_and_a_full_list_says_so() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair).start();
        let fault = |words: Value| -> Fault {
            server
                .try_rpc("memguard.priority", words)
                .expect_err("a fault")
        };
        for (words, code, part) in [
            (
                json!(["show"]),
                400,
                "list, add or remove; then aor, domain or source",
            ),
            (json!(["add", "aor"]), 400, "to add or remove, then VALUE"),
            (
                json!(["add", "network", "10.0.0.0/8"]),
                400,
                "aor, domain or source",
            ),
            (
                json!(["add", "aor", "two words"]),
                400,
                "accepts user or user@domain",
            ),
            (json!(["add", "source", "10.0.0.0/40"]), 400, "IPv4 or IPv6"),
            (json!(["add", "domain", "a..b"]), 400, "accepts a host name"),
            (
                json!(["remove", "aor", "nobody"]),
                404,
                "aor nobody is not in force",
            ),
        ] {
            let fault = fault(words);
            assert_eq!(fault.code, code, "{fault:?}");
            assert!(fault.text.contains(part), "{fault:?}");
        }
        for n in 0..1024 {
            server.rpc(
                "memguard.priority",
                json!(["add", "aor", format!("user{n}")]),
            );
        }
        let full = fault(json!(["add", "aor", "one-more"]));
        assert_eq!(full.code, 500, "{full:?}");
        assert!(
            full.text.contains("1024 entries") && full.text.contains("full"),
            "{full:?}"
        );
        let rows = server.rpc("memguard.priority", json!(["list", "aor"]));
        let last = rows.as_array().and_then(|rows| rows.last()).expect("rows");
        assert!(last["truncated"].as_f64() > Some(0.0), "{last}");
        server.rpc("memguard.priority", json!(["remove", "aor", "user512"]));
        server.rpc("memguard.priority", json!(["add", "aor", "one-more"]));
    });
}
