//! Parameters: what `kamailio -c` and the start say about bad ones, what is in force without any, and what run-time
//! changes are refused.
//! Forbidden here: what the parameters do; that is each subject's test.

use serde_json::json;

use memguard::guard::config::params::{INT_PARAMS, Int, Kind, TEXT_PARAMS};

use super::guard::{Guarded, rows, word};
use super::harness::{Pair, Server, for_each_pair};

/// memguard's complaints in a log.
fn sentences(log: &str) -> Vec<&str> {
    let is_complaint = |line: &&str| line.contains("ERROR: memguard");
    log.lines().filter(is_complaint).collect()
}

#[track_caller]
fn check(pair: &Pair, given: &[(&str, &str)]) -> (bool, String) {
    let add = |server: super::harness::builder::Builder, (name, value): &(&str, &str)| {
        server.param(name, value)
    };
    let server = given.iter().fold(Server::registrar(pair), add);
    if pair.kamailio.version.starts_with("5.") {
        return server.check();
    }
    server.arguments(&["--all-errors"]).check() // 6.0 ends at the first error without it
}

#[test]
fn parameters_good_values_pass_the_check_as_numbers_and_as_words() {
    for_each_pair(|pair| {
        let (accepted, log) = check(pair, &[]);
        assert!(accepted, "{log}");
        let good = [
            ("mode", "observe"),
            ("shm_shed_pct", "75"),
            ("dwell", "0"),
            ("retry_rate", " 10 "), // a text with blanks: quoted in the configuration
            ("reply_reason", "Try Later"),
            ("priority_aor", "sip:a@example.test"),
            ("priority_aor", "112"),
            ("priority_source", "2001:db8::/32"),
        ];
        let (accepted, log) = check(pair, &good);
        assert!(accepted, "{log}");
        assert_eq!(sentences(&log), Vec::<&str>::new());
        let server = good
            .iter()
            .fold(Server::registrar(pair), |s, (n, v)| s.param(n, v))
            .start();
        assert_eq!(value(&server, "retry_rate"), "10");
        assert_eq!(value(&server, "mode"), "observe");
        assert_eq!(value(&server, "reply_reason"), "Try Later");
        assert_eq!(value(&server, "priority_aor"), "a@example.test, 112");
    });
}

#[test]
fn parameters_a_bad_value_stops_the_check_with_one_sentence_at_its_line() {
    for_each_pair(|pair| {
        let cases = [
            ("mode", "on", "enforce, observe or off"),
            ("mode", "7", "enforce, observe or off"),
            ("shm_shed_pct", "101", "1 to 100"),
            ("shm_shed_pct", "0", "1 to 100"),
            ("shm_shed_pct", "-5", "1 to 100"),
            ("shm_shed_pct", "eighty", "1 to 100"),
            ("shm_shed_pct", "80%", "1 to 100"),
            ("shm_shed_pct", "99999999999999999999", "1 to 100"),
            ("sample_interval", "99", "100 to 60000"),
            ("reply_code", "200", "400 to 699"),
            ("retry_rate", "0", "1 to 100000"),
            ("bindings", "12", "1024 to 16777216"),
            ("auto", "2", "0 to 1"),
            ("priority_source", "10.0.0.0/33", ""),
            ("priority_source", "somewhere", ""),
            ("priority_domain", "a b", ""),
            ("priority_aor", "sip:", ""),
        ];
        for (name, bad, accepts) in cases {
            let (accepted, log) = check(pair, &[(name, bad)]);
            assert!(!accepted, "{name} = {bad} passes: {log}");
            let said = sentences(&log);
            assert_eq!(said.len(), 1, "{name} = {bad}: {said:?} in {log}");
            assert!(
                said[0].contains(name) && said[0].contains(accepts),
                "{said:?}"
            );
            assert!(log.contains("kamailio.cfg, line "), "where it is: {log}");
        }
        let long = "x".repeat(65);
        let (accepted, log) = check(pair, &[("reply_reason", &long)]);
        assert!(!accepted && sentences(&log).len() == 1, "{log}");
        // Every bad line is named, not only the first.
        let (accepted, log) = check(
            pair,
            &[
                ("dwell", "soon"),
                ("dwell", "5"),
                ("retry_rate", "0"),
                ("mode", "x"),
            ],
        );
        let said = sentences(&log);
        assert!(!accepted && said.len() == 3, "{said:?}");
        let (accepted, log) = check(pair, &[("shm_shed", "80")]);
        assert!(
            !accepted && log.contains("shm_shed"),
            "an unknown name: {log}"
        );
    });
}

#[test]
fn parameters_a_list_takes_256_values_and_no_more() {
    for_each_pair(|pair| {
        let with = |count: usize| {
            let users: Vec<String> = (0..count).map(|i| format!("user{i}")).collect();
            let given: Vec<_> = users.iter().map(|u| ("priority_aor", u.as_str())).collect();
            check(pair, &given)
        };
        let (accepted, log) = with(256);
        assert!(accepted, "{log}");
        let (accepted, log) = with(257);
        assert!(!accepted && log.contains("256"), "{log}");
    });
}

#[test]
fn parameters_that_contradict_stop_the_start_all_in_one_message() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .param("shm_shed_pct", 92)
            .param("pkg_warning_pct", 85)
            .param("os_full_pct", 99)
            .param("retry_after_min", 2000);
        let log = server.try_start().err().expect("it must not start");
        let lines: Vec<&str> = log.lines().filter(|l| l.contains("contradict")).collect();
        assert_eq!(lines.len(), 1, "{log}");
        for part in [
            "shm_shed_pct (92) must be smaller than shm_full_pct (92)",
            "pkg_warning_pct (85) must be smaller than pkg_shed_pct (80)",
            "os_full_pct (99) must be smaller than os_emergency_pct (98)",
            "retry_after_min (2000) must not be larger than retry_after_max (1800)",
        ] {
            assert!(lines[0].contains(part), "no \"{part}\" in {}", lines[0]);
        }
    });
}

/// The value in force of one parameter.
#[track_caller]
fn value(server: &Server, name: &str) -> String {
    let all = server.rpc("memguard.config", json!([]));
    let row = rows(&all).iter().find(|row| row["name"] == name);
    word(row.unwrap_or_else(|| panic!("no {name} in {all}")), "value").to_owned()
}

#[test]
fn parameters_defaults_are_in_force_when_the_configuration_is_silent() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair).start();
        let all = server.rpc("memguard.config", json!([]));
        let table = INT_PARAMS.iter().chain(TEXT_PARAMS);
        assert_eq!(rows(&all).len(), table.clone().count());
        for (row, param) in rows(&all).iter().zip(table) {
            let expected = match param.kind {
                Kind::Int { default, .. } => default.to_string(),
                Kind::Mode => "enforce".into(),
                Kind::Text { default, .. } => default.into(),
                Kind::List { .. } => String::new(),
            };
            assert_eq!(
                (word(row, "name"), word(row, "value")),
                (param.name, expected.as_str())
            );
        }
    });
}

#[test]
fn parameters_change_at_run_time_within_bounds_and_without_contradiction_only() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .config(|c| {
                c.module("cfg_rpc");
            })
            .start();
        let set = |name: &str, value: &str| {
            server.kamcmd(&["--", "cfg.set_now_int", "memguard", name, value])
        };
        for param in Int::ALL
            .iter()
            .map(|p| p.param())
            .filter(|p| p.name != "mode")
        {
            let before = value(&server, param.name);
            let Kind::Int { min, max, .. } = param.kind else {
                continue;
            };
            for wrong in [min - 1, max + 1] {
                assert!(
                    set(param.name, &wrong.to_string()).is_err(),
                    "{} = {wrong}",
                    param.name
                );
            }
            assert_eq!(value(&server, param.name), before, "{}", param.name);
            // Where it cannot change at run time, cfg does not know it.
            assert_eq!(
                set(param.name, &before).is_ok(),
                param.runtime,
                "{}",
                param.name
            );
        }
        for (name, contradicting) in [
            ("shm_shed_pct", "92"),
            ("shm_shed_pct", "70"),
            ("pkg_emergency_pct", "92"),
            ("retry_after_min", "1801"),
            ("retry_after_max", "29"),
        ] {
            let before = value(&server, name);
            assert!(
                set(name, contradicting).is_err(),
                "{name} = {contradicting}"
            );
            assert_eq!(value(&server, name), before);
        }
        server.set("shm_shed_pct", 75);
        assert_eq!(value(&server, "shm_shed_pct"), "75");
        server.rpc("cfg.set_now_int", json!(["memguard", "dwell", 3]));
        assert_eq!(value(&server, "dwell"), "3");
    });
}
