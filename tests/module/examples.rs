//! The examples of kamailio-cfg start as they are, with memguard first, and serve phones.
//! Forbidden here: changing the examples' text; what differs comes from the command line, as for their users.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::harness::builder::{Builder, free_port};
use super::harness::sip::Request;
use super::harness::sipp::Sipp;
use super::harness::{Pair, Server, for_each_pair};

const PHONES: usize = 50;

/// A file of this project.
fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A server on an example; the example loads memguard first.
fn example(pair: &Pair, name: &str) -> Builder {
    let file = project("kamailio-cfg").join(name);
    let text = std::fs::read_to_string(&file).expect("the example is there");
    let first = text.lines().find(|line| line.starts_with("loadmodule"));
    assert_eq!(
        first,
        Some("loadmodule \"memguard.so\""),
        "{name} loads memguard first"
    );
    Server::registrar(pair).file(&file)
}

/// Registers through `to` with the scenario that `./dev run` uses; all must be accepted.
fn fifty_phones_register(pair: &Pair, server: &Server, to: SocketAddr) {
    let scenario = std::fs::read_to_string(project("tests/sipp/newcomers.xml"))
        .expect("the scenario is there");
    let users: Vec<String> = (0..PHONES).map(|i| format!("phone{i}")).collect();
    let port = free_port().port().to_string();
    let (folder, count) = (server.places.folder.join("sipp"), PHONES.to_string());
    let arguments = ["-m", &count, "-r", "50", "-key", "callee_port", &port];
    let sipp = Sipp::start(
        &pair.kamailio.sipp,
        to,
        &folder,
        &scenario,
        &users,
        &arguments,
    );
    let counts = sipp.finish(Duration::from_secs(30));
    assert_eq!(
        (counts.created, counts.successful, counts.failed),
        (PHONES as u64, PHONES as u64, 0)
    );
}

/// Level normal, and what passed was counted: all new, all accepted, none refused.
fn is_well(server: &Server) {
    let status = server.rpc("memguard.status", json!([]));
    assert_eq!(status["level"], "normal", "{status}");
    assert_eq!(status["mode"], "enforce", "{status}");
    let counts = server.rpc("memguard.registrations", json!([]));
    assert_eq!(counts["received"], PHONES, "{counts}");
    assert_eq!(counts["accepted"], PHONES, "{counts}");
    let text = server
        .kamcmd(&["memguard.status"])
        .expect("kamcmd is answered on the example's socket");
    assert!(text.contains("level: normal"), "{text}");
    let log = server.log();
    let complaint = log
        .lines()
        .find(|line| line.contains(" ERROR: ") || line.contains(" CRITICAL: "));
    assert_eq!(complaint, None);
}

#[test]
fn examples_the_registrar_registers_fifty_phones_at_level_normal() {
    for_each_pair(|pair| {
        let registrar = example(pair, "registrar.cfg").start();
        fifty_phones_register(pair, &registrar, registrar.sip());
        is_well(&registrar);
        assert_eq!(
            registrar.statistic("usrloc:registered_users"),
            PHONES as i64
        );
        let ping = Request {
            uri: format!("sip:{}", registrar.sip()),
            ..Request::options()
        };
        assert_eq!(registrar.udp().request(&ping).code, 200);
    });
}

#[test]
fn examples_the_proxy_relays_fifty_registrations_to_the_registrar_behind_it_and_both_learn_them() {
    for_each_pair(|pair| {
        let registrar = example(pair, "registrar.cfg").start();
        let upstream = format!("REGISTRARS=\"sip:{}\"", registrar.sip());
        let proxy = example(pair, "proxy.cfg").define(&upstream).start();
        fifty_phones_register(pair, &proxy, proxy.sip());
        is_well(&proxy);
        is_well(&registrar);
        assert_eq!(
            registrar.statistic("usrloc:registered_users"),
            PHONES as i64
        );
    });
}
