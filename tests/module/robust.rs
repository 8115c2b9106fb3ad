//! What must not bring anything down: tortured messages, missing neighbours, another user, the end of the server.
//! Forbidden here: asking how tortured messages are classified, but that only new registrations are refused.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::guard::{Everybody, Guarded, SOON, number, rows};
use super::harness::pairs::skip;
use super::harness::sip::{Request, Tcp};
use super::harness::{Pair, Server, for_each_pair, until};
use super::torture;

fn everything() -> Vec<Vec<u8>> {
    let mut all = torture::strange_registers();
    all.extend(torture::malformed_registers());
    all.extend(torture::others());
    all.extend(torture::large_registers(60_000));
    all.extend(torture::truncated());
    all
}

/// The same processes, answering; and nobody was refused but who may be.
#[track_caller]
fn assert_unharmed(server: &Server, everybody: &Everybody, when: &str) {
    assert_eq!(
        server.udp().request(&Request::options()).code,
        200,
        "{when}: UDP"
    );
    assert_eq!(
        server.tcp().request(&Request::options()).code,
        200,
        "{when}: TCP"
    );
    server.assert_nobody_died(everybody);
    let refused: Vec<_> = server.by_class("rejected").into_keys().collect();
    let may_be = |class: &&str| ["new", "returning"].contains(class);
    assert!(refused.iter().all(may_be), "{when}: {refused:?}");
    assert!(!server.log().contains("internal error"), "{when}");
}

#[test]
fn robust_tortured_messages_change_nothing_but_counters() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair).start();
        let everybody = server.everybody();
        let client = server.udp();
        let over_tcp = |message: &[u8]| {
            let mut tcp = Tcp::to(server.sip());
            let _ = tcp.send_raw(message);
        };
        for (shed, when) in [(false, "at level normal"), (true, "under shed")] {
            if shed {
                server.rpc("memguard.shed", json!([300]));
            }
            for (i, message) in everything().iter().enumerate() {
                client.send_raw(message);
                if i % 50 == 49 {
                    // no faster than it is read: a datagram that is dropped tests nothing
                    assert_eq!(
                        server.udp().request(&Request::options()).code,
                        200,
                        "{when} {i}"
                    );
                }
            }
            let for_tcp = [
                torture::strange_registers(),
                torture::malformed_registers(),
                torture::large_registers(60_000),
            ];
            for_tcp
                .iter()
                .flatten()
                .for_each(|message| over_tcp(message));
            torture::truncated()
                .iter()
                .step_by(7)
                .for_each(|message| over_tcp(message));
            assert_unharmed(&server, &everybody, when);
        }
        let before = number(&server.registrations(), "received");
        assert!(before > 0, "some of them were REGISTERs");
        server.rpc("memguard.resume", json!([]));
        assert_eq!(client.request(&Request::register("healthy")).code, 200);
    });
}

#[test]
fn robust_strange_but_whole_registers_are_refused_with_an_answer_under_shed() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair).start();
        server.rpc("memguard.shed", json!([60]));
        for message in torture::strange_registers() {
            let client = server.udp();
            client.send_raw(&message);
            let answer = client.receive_raw(SOON).expect("an answer");
            let text = String::from_utf8_lossy(&answer);
            assert!(
                text.starts_with("SIP/2.0 503") && text.contains("\r\nRetry-After: "),
                "{text} to {}",
                String::from_utf8_lossy(&message)
            );
        }
    });
}

/// memguard.so without its extension, as a module's name in the configuration.
fn memguard_path(pair: &Pair) -> String {
    let path: PathBuf = pair.kamailio.memguard.clone().expect("it was built");
    path.with_extension("").to_str().expect("a path").to_owned()
}

fn warnings(server: &Server) -> Vec<String> {
    let status = server.status();
    let texts = rows(&status["warnings"]).iter();
    texts
        .map(|w| w.as_str().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn robust_loaded_last_it_guards_and_says_so() {
    for_each_pair(|pair| {
        let path = memguard_path(pair);
        let server = Server::registrar(pair)
            .without_memguard()
            .config(|c| {
                c.module(&path);
            })
            .start();
        let said = warnings(&server);
        assert!(said.iter().any(|w| w.contains("first module")), "{said:?}");
        assert_eq!(server.udp().request(&Request::register("a")).code, 200);
        server.rpc("memguard.shed", json!([60]));
        assert_eq!(server.udp().request(&Request::register("b")).code, 503);
        assert_eq!(server.tcp().request(&Request::register("c")).code, 503);
        assert_eq!(
            server.udp().request(&Request::register("a")).code,
            200,
            "refresh"
        );
        let sum = |field: &str| -> i64 { server.workers().iter().map(|w| number(w, field)).sum() };
        until(
            SOON,
            "the books agree, also of what was there before",
            || {
                let used = number(&server.rpc("core.shmmem", json!([])), "used");
                let unbooked = number(&server.pool("shm"), "unbooked");
                sum("shm_bytes_allocated") - sum("shm_bytes_freed") + unbooked == used
            },
        );
    });
}

#[test]
fn robust_without_sl_tm_and_usrloc_it_still_refuses() {
    for_each_pair(|pair| {
        // Answers nothing: what is answered is a refusal.
        let server = Server::registrar(pair)
            .config(|c| {
                c.modules = ["kex", "corex", "pv", "textops", "xlog", "ctl", "jsonrpcs"]
                    .map(String::from)
                    .into();
                c.script = Some("exit;".into());
            })
            .start();
        let said = warnings(&server);
        for missing in ["sl is not loaded", "usrloc is not loaded"] {
            assert!(
                said.iter().any(|w| w.contains(missing)),
                "{missing}: {said:?}"
            );
        }
        let short = Duration::from_millis(700);
        assert!(
            server
                .udp()
                .try_request(&Request::register("a"), short)
                .is_none()
        );
        server.rpc("memguard.shed", json!([60]));
        assert_eq!(server.udp().request(&Request::register("b")).code, 503);
        assert_eq!(server.tcp().request(&Request::register("c")).code, 503);
    });
}

#[test]
fn robust_as_another_user_it_samples_and_refuses() {
    // SAFETY: reads the kernel's number.
    if unsafe { libc::geteuid() } != 0 {
        return skip("only root can start a server as another user");
    }
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .run_by_nobody()
            .param("sample_interval", 100)
            .start();
        until(SOON, "it samples", || {
            number(&server.status(), "sample_age_ms") < 1000
        });
        let said = warnings(&server);
        assert!(
            !said.iter().any(|w| w.contains("/proc/PID/status")),
            "{said:?}"
        );
        server.rpc("memguard.shed", json!([60]));
        assert_eq!(server.udp().request(&Request::register("b")).code, 503);
        assert!(server.stop().success());
    });
}

#[test]
fn robust_the_end_is_clean_and_a_restart_at_the_same_place_works() {
    for_each_pair(|pair| {
        let builder = Server::registrar(pair);
        let server = builder.start();
        let place = server.sip();
        let users = (0..50).map(|i| Request::register(&format!("u{i}")));
        assert_eq!(server.udp().flood(users, 8, |_, _, _| ()).of(200), 50);
        let pids = server.pids();
        assert!(server.stop().success());
        let is_gone = |pid: &i32| !PathBuf::from(format!("/proc/{pid}")).exists();
        until(SOON, "no process is left", || pids.iter().all(is_gone));
        let server = builder.at(place).start();
        assert_eq!(
            number(&server.registrations(), "received"),
            0,
            "counted from its own start"
        );
        assert_eq!(server.udp().request(&Request::register("u1")).code, 200);
        assert!(!server.log().contains("CRITICAL"), "{}", server.log());
        assert!(server.stop().success());
    });
}

#[test]
fn robust_without_a_place_at_the_event_before_parsing_it_says_what_does_not_work() {
    for_each_pair(|pair| {
        let said = |taken: u32| {
            let server = Server::registrar(pair)
                .with_mgtest()
                .config(|c| {
                    c.param("mgtest", "take_stream", taken);
                })
                .start();
            assert_eq!(server.udp().request(&Request::register("a")).code, 200);
            assert_eq!(server.tcp().request(&Request::register("b")).code, 200);
            let log = server.log();
            let is_said = warnings(&server)
                .iter()
                .any(|w| w.contains("hold all eight places"));
            assert_eq!(is_said, log.contains("hold all eight places"), "{log}");
            is_said
        };
        assert!(!said(0));
        assert!(said(1));
    });
}
