//! Changes of parameters at run time follow Kamailio's rules: at once, with the commit, taken back, put back.
//! Forbidden here: bounds and contradictions one by one (parameters.rs).

use serde_json::json;

use super::guard::{Guarded, SOON, number, rows};
use super::harness::sip::Request;
use super::harness::{Server, for_each_pair, until};

#[track_caller]
fn cfg(server: &Server, words: &[&str]) {
    let said = server.kamcmd(&[&["--"], words].concat());
    assert!(said.is_ok(), "{words:?}: {said:?}");
}

/// A parameter in force.
#[track_caller]
fn value(server: &Server, name: &str) -> String {
    let all = server.rpc("memguard.config", json!([]));
    let row = rows(&all).iter().find(|row| row["name"] == name);
    row.expect("a parameter")["value"]
        .as_str()
        .expect("text")
        .to_owned()
}

#[test]
fn changes_that_are_delayed_come_with_the_commit_and_not_before() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .config(|c| {
                c.module("cfg_rpc");
            })
            .start();
        cfg(
            &server,
            &["cfg.set_delayed_int", "memguard", "retry_after_min", "77"],
        );
        assert_eq!(value(&server, "retry_after_min"), "30");
        server.rpc("memguard.shed", json!([600]));
        let client = server.udp();
        let told = |user: &str| client.request(&Request::register(user)).retry_after();
        assert!(told("before").is_some_and(|s| s < 40));
        cfg(&server, &["cfg.commit"]);
        assert!(told("after").is_some_and(|s| s >= 77), "at once");
        assert_eq!(value(&server, "retry_after_min"), "77");
        // Taken back: neither now nor with a later commit.
        cfg(
            &server,
            &["cfg.set_delayed_int", "memguard", "retry_after_min", "5"],
        );
        cfg(&server, &["cfg.rollback"]);
        cfg(&server, &["cfg.commit"]);
        assert_eq!(value(&server, "retry_after_min"), "77");
        // Those that wait count for the check of the next: 60 alone would contradict warning 70.
        let shed = [
            "--",
            "cfg.set_delayed_int",
            "memguard",
            "shm_shed_pct",
            "60",
        ];
        assert!(server.kamcmd(&shed).is_err());
        cfg(
            &server,
            &["cfg.set_delayed_int", "memguard", "shm_warning_pct", "50"],
        );
        cfg(&server, &shed[1..]);
        assert_eq!(
            (
                value(&server, "shm_warning_pct"),
                value(&server, "shm_shed_pct")
            ),
            ("70".into(), "80".into())
        );
        cfg(&server, &["cfg.commit"]);
        assert_eq!(
            (
                value(&server, "shm_warning_pct"),
                value(&server, "shm_shed_pct")
            ),
            ("50".into(), "60".into())
        );
    });
}

#[test]
fn changes_at_once_are_in_force_for_the_next_message_and_reset_puts_all_back() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .param("retry_after_min", 40)
            .config(|c| {
                c.module("cfg_rpc");
            })
            .start();
        server.rpc("memguard.shed", json!([600]));
        let client = server.udp();
        for wanted in [50u64, 60, 70] {
            cfg(
                &server,
                &[
                    "cfg.set_now_int",
                    "memguard",
                    "retry_after_min",
                    &wanted.to_string(),
                ],
            );
            let told = client
                .request(&Request::register(&format!("phone{wanted}")))
                .retry_after();
            assert!(
                told.is_some_and(|s| (wanted..wanted + 3).contains(&s)),
                "{told:?}, not {wanted}"
            );
        }
        cfg(&server, &["cfg.set_now_int", "memguard", "dwell", "3"]);
        cfg(&server, &["cfg.reset", "memguard"]);
        until(SOON, "all values of the start", || {
            (value(&server, "retry_after_min"), value(&server, "dwell"))
                == ("40".into(), "10".into())
        });
        // And everything works as before.
        cfg(&server, &["cfg.set_now_int", "memguard", "dwell", "4"]);
        assert_eq!(value(&server, "dwell"), "4");
        until(SOON, "it is told", || {
            server.log().contains("dwell is 4 now")
        });
        assert_eq!(number(&server.status(), "fail_open"), 0);
    });
}
