//! The examples of kamailio-cfg start as they are, with memguard first, and serve phones.
//! Forbidden here: changing the examples' text; what differs comes from the command line, as for their users.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::guard::{Guarded, SOON, counts, number, rows, word};
use super::harness::builder::{Builder, free_port};
use super::harness::sip::{Request, unique};
use super::harness::sipp::Sipp;
use super::harness::{Pair, Server, for_each_pair, until};

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
    assert_eq!(complaint(server), None);
}

/// The first line of the log that says that something went wrong.
fn complaint(server: &Server) -> Option<String> {
    let log = server.log();
    let is_one = |line: &&str| line.contains(" ERROR: ") || line.contains(" CRITICAL: ");
    log.lines().find(is_one).map(str::to_owned)
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

/// Phones with a password, from this port on: challenged, then answered with `code`; how many were.
fn authenticated(
    pair: &Pair,
    server: &Server,
    users: &[(&str, &str)],
    port: u16,
    code: u16,
) -> u64 {
    let scenario = std::fs::read_to_string(project("tests/sipp/authenticated.xml"))
        .expect("the scenario is there")
        .replace("FINAL", &code.to_string());
    let row = |(user, password): &(&str, &str)| {
        format!("{user};[authentication username={user} password={password}]")
    };
    let rows: Vec<String> = users.iter().map(row).collect();
    let folder = server.places.folder.join(format!("sipp{}", unique()));
    let (port, count) = (port.to_string(), users.len().to_string());
    let arguments = [
        "-m",
        &count,
        "-r",
        "50",
        "-key",
        "callee_port",
        &port,
        "-trace_logs",
    ];
    let sipp = Sipp::start(
        &pair.kamailio.sipp,
        server.sip(),
        &folder,
        &scenario,
        &rows,
        &arguments,
    );
    let counts = sipp.finish(Duration::from_secs(30));
    assert_eq!(counts.failed, 0, "{code}: {counts:?}");
    let files = std::fs::read_dir(&folder)
        .expect("the folder is there")
        .flatten();
    let logs = files.filter(|file| file.file_name().to_string_lossy().ends_with("_logs.log"));
    let text: String = logs
        .flat_map(|log| std::fs::read_to_string(log.path()))
        .collect();
    let told = |line: &&str| {
        line.split_once(' ')
            .is_some_and(|(_, wait)| wait.parse::<u32>().is_ok_and(|s| s >= 30))
    };
    let with_wait = text.lines().filter(told).count();
    assert_eq!(
        with_wait,
        if code == 503 { users.len() } else { 0 },
        "{text}"
    );
    counts.successful
}

#[test]
fn examples_the_registrar_with_passwords_refuses_after_authentication_only() {
    for_each_pair(|pair| {
        let server = example(pair, "registrar-auth.cfg").start();
        let (alice, bob, carol) = (
            ("alice", "wonderland"),
            ("bob", "builder"),
            ("carol", "christmas"),
        );
        assert_eq!(authenticated(pair, &server, &[alice, bob], 5070, 200), 2);
        assert_eq!(
            server.by_class("received"),
            counts(&[("new", 2)]),
            "first legs are not asked about"
        );

        server.rpc("memguard.shed", json!([60]));
        assert_eq!(
            authenticated(pair, &server, &[alice, bob], 5070, 200),
            2,
            "refreshes pass"
        );
        assert_eq!(
            authenticated(pair, &server, &[alice, carol], 5071, 503),
            2,
            "another phone of alice, and carol"
        );
        let stranger = [("carol", "guessed"), ("mallory", "x")];
        assert_eq!(authenticated(pair, &server, &stranger, 5072, 401), 2);
        until(SOON, "the refusals are listed", || {
            rows(&server.rpc("memguard.refusals", json!([]))).len() == 2
        });
        let refusals = server.rpc("memguard.refusals", json!([]));
        for refusal in rows(&refusals) {
            assert_eq!(
                (word(refusal, "stage"), number(refusal, "code")),
                ("script", 503),
                "{refusals}"
            );
        }
        let expected = counts(&[("new", 1), ("returning", 1)]);
        assert_eq!(
            server.by_class("rejected"),
            expected,
            "strangers take no place in the queue"
        );
        assert_eq!(complaint(&server), None);

        server.rpc("memguard.resume", json!([]));
        assert_eq!(authenticated(pair, &server, &[carol], 5071, 200), 1);
        assert_eq!(server.statistic("usrloc:registered_users"), 3);
    });
}
