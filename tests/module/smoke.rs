//! The harness itself on plain Kamailio: what the other tests stand on.
//! Forbidden here: memguard.

use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use serde_json::json;

use super::harness::server::is_running;
use super::harness::sip::Request;
use super::harness::sipp::{Counts, Sipp};
use super::harness::{Pair, Server, for_each_pair, until};

const MIB: f64 = 1_048_576.0;

fn plain(pair: &Pair) -> Server {
    Server::registrar(pair).without_memguard().start()
}

#[test]
fn smoke_a_hundred_registrations_are_accepted_and_nothing_is_left_behind() {
    for_each_pair(|pair| {
        let server = plain(pair);
        let users = (0..100).map(|i| Request::register(&format!("user{i}")));
        let tally = server.udp().flood(users, 20, |_, _, _| ());
        assert_eq!((tally.of(200), tally.unanswered), (100, 0), "{tally:?}");
        assert_eq!(server.statistic("usrloc:registered_users"), 100);

        let (address, folder, pids) = (server.sip(), server.places.folder.clone(), server.pids());
        assert!(
            pids.len() > 5,
            "a forking server has many processes: {pids:?}"
        );
        let status = server.stop();
        assert!(status.success(), "{status}");
        until(Duration::from_secs(5), "no process is left", || {
            !pids.iter().any(|&pid| is_running(pid))
        });
        UdpSocket::bind(address).expect("the UDP port is free again");
        TcpListener::bind(address).expect("the TCP port is free again");
        assert!(!folder.exists(), "the folder is removed");
    });
}

#[test]
fn smoke_rpc_answers_as_json_and_to_kamcmd() {
    for_each_pair(|pair| {
        let server = plain(pair);
        let version = server.rpc("core.version", json!([])).to_string();
        let said = pair.kamailio.said_version();
        assert!(version.contains(&said), "{version}");
        let text = server
            .kamcmd(&["core.version"])
            .expect("kamcmd is answered");
        assert!(text.contains(&said), "{text}");
        let fault = server
            .try_rpc("no.such_command", json!([]))
            .expect_err("there is no such command");
        assert!(fault.code != 0 && !fault.text.is_empty(), "{fault:?}");
        let fault = server
            .kamcmd(&["no.such_command"])
            .expect_err("there is no such command");
        assert!(fault.code == 404 || fault.code == 500, "{fault:?}");
    });
}

#[test]
fn smoke_tcp_and_options_and_unregister_are_answered() {
    for_each_pair(|pair| {
        let server = plain(pair);
        let register = Request::register("alice");
        let reply = server.tcp().request(&register);
        assert_eq!(reply.code, 200);
        assert!(
            reply
                .header("Contact")
                .is_some_and(|c| c.contains("expires=3600")),
            "{reply:?}"
        );
        assert_eq!(server.udp().request(&Request::options()).code, 200);
        assert_eq!(server.udp().request(&Request::invite("nobody")).code, 404);
        assert_eq!(server.udp().request(&register.next().expires(0)).code, 200);
        assert_eq!(server.statistic("usrloc:registered_users"), 0);
    });
}

#[test]
fn smoke_a_proxy_passes_registrations_on() {
    for_each_pair(|pair| {
        let registrar = plain(pair);
        let proxy = Server::proxy(pair, registrar.sip())
            .without_memguard()
            .start();
        let users = (0..20).map(|i| Request::register(&format!("user{i}")));
        assert_eq!(proxy.udp().flood(users, 5, |_, _, _| ()).of(200), 20);
        assert_eq!(registrar.statistic("usrloc:registered_users"), 20);
    });
}

#[test]
fn smoke_the_test_module_leaks_what_it_is_asked_for_in_the_worker_that_is_asked() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .without_memguard()
            .with_mgtest()
            .workers(1)
            .config(|c| {
                c.before =
                    "if ($hdr(X-Leak) != $null) { mgtest_leak_pkg(\"$(hdr(X-Leak){s.int})\"); }
    append_to_reply(\"X-Pkg-Used: $mgtest(pkg_used)\\r\\nX-Pid: $mgtest(pid)\\r\\n\");"
                        .into();
            })
            .start();
        let client = server.udp();
        let used = |request: Request| -> (u64, String) {
            let reply = client.request(&request);
            let number = reply.header("X-Pkg-Used").and_then(|v| v.parse().ok());
            (
                number.expect("the worker says what it uses"),
                reply.header("X-Pid").unwrap_or_default().to_owned(),
            )
        };
        let (before, worker) = used(Request::options());
        let (after, same_worker) = used(Request::options().header("X-Leak: 100000"));
        assert_eq!(worker, same_worker);
        assert!(
            (99_000..110_000).contains(&(after.saturating_sub(before))),
            "{before} -> {after}"
        );

        // Not `free`: on a full tlsf pool it wraps, as real_used comes to exceed the total.
        let used = || {
            server.rpc("mgtest.shm_info", json!([]))["real_used"]
                .as_f64()
                .expect("a number")
        };
        let start = used();
        assert_eq!(server.rpc("mgtest.fill_shm", json!([1000])), json!(1));
        let full = used();
        assert!(full > 16.0 * MIB - 0.4 * MIB, "{full}");
        server.rpc("mgtest.release", json!([]));
        let end = used();
        assert!(
            (end - start).abs() < 0.2 * MIB,
            "{start} -> {full} -> {end}"
        );
    });
}

/// One REGISTER per call, for the user of the row.
const REGISTER_ONCE: &str = r#"<?xml version="1.0" encoding="ISO-8859-1" ?>
<scenario name="register once">
  <send retrans="500"><![CDATA[
REGISTER sip:example.test SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:[field0]@example.test>;tag=[call_number]
To: <sip:[field0]@example.test>
Call-ID: [call_id]
CSeq: 1 REGISTER
Contact: <sip:[field0]@[local_ip]:[local_port]>
Expires: 3600
Max-Forwards: 70
Content-Length: 0

]]></send>
  <recv response="200"/>
</scenario>
"#;

#[test]
fn smoke_sipp_registers_and_its_counts_are_read() {
    for_each_pair(|pair| {
        let server = plain(pair);
        let users: Vec<String> = (0..50).map(|i| format!("sipp{i};")).collect();
        let folder = server.places.folder.join("sipp");
        let sipp = Sipp::start(
            &pair.kamailio.sipp,
            server.sip(),
            &folder,
            REGISTER_ONCE,
            &users,
            &["-m", "50", "-r", "200"],
        );
        let counts = sipp.finish(Duration::from_secs(20));
        assert_eq!(
            counts,
            Counts {
                created: 50,
                successful: 50,
                failed: 0,
                accepted: 0, // the scenario has no such counter
                retransmissions: counts.retransmissions
            }
        );
        assert_eq!(server.statistic("usrloc:registered_users"), 50);
    });
}

#[test]
fn smoke_pkg_and_shm_have_the_manager_and_the_size_that_were_asked_for() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .without_memguard()
            .with_mgtest()
            .shm_mb(24)
            .pkg_mb(6)
            .start();
        for (method, size) in [
            ("mgtest.shm_info", 24.0 * MIB),
            ("mgtest.pkg_info", 6.0 * MIB),
        ] {
            let info = server.rpc(method, json!([]));
            let manager = info["manager"].as_str().unwrap_or_default();
            assert!(
                manager.starts_with(&pair.manager[..1]),
                "{manager} is not {}",
                pair.manager
            );
            let total = info["total"].as_f64().expect("a number");
            assert!(
                (total - size).abs() < 0.1 * MIB,
                "{method}: {total}, not {size}"
            );
        }
    });
}

#[test]
fn smoke_a_daemon_serves_and_ends_with_its_test() {
    for_each_pair(|pair| {
        let mut server = Server::registrar(pair).without_memguard().daemon().start();
        assert_eq!(server.udp().request(&Request::register("alice")).code, 200);
        assert!(server.is_alive());
        let pids = server.pids();
        assert!(pids.len() > 5 && pids.contains(&server.pid()), "{pids:?}");
        drop(server);
        assert!(!pids.iter().any(|&pid| is_running(pid)), "{pids:?}");
    });
}

#[test]
fn smoke_a_bad_configuration_is_reported_and_does_not_start() {
    for_each_pair(|pair| {
        let bad = Server::registrar(pair).without_memguard().config(|c| {
            c.param("usrloc", "no_such_parameter", 1);
        });
        let (accepted, text) = bad.check();
        assert!(!accepted && text.contains("no_such_parameter"), "{text}");
        let log = bad.try_start().err().expect("it does not start");
        assert!(log.contains("no_such_parameter"), "{log}");
        let (accepted, text) = Server::registrar(pair).without_memguard().check();
        assert!(accepted, "{text}");
    });
}
