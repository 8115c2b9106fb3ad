//! A server whose processes may not have one more byte of address space (as ulimit -v, LimitAS= or overcommit at its
//! limit): it samples, answers and lives on, or says one sentence.
//! Forbidden here: Kamailio's pools being full (zero.rs).

use std::fs;

use serde_json::json;

use super::guard::{Guarded, SOON, number, rows};
use super::harness::builder::{Folder, free_port};
use super::harness::sip::Request;
use super::harness::{Server, for_each_pair, http, until};

/// Takes a process's present size for its limit.
fn limit(pid: i32) {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).expect("it lives");
    let pages: u64 = statm
        .split(' ')
        .next()
        .and_then(|pages| pages.parse().ok())
        .expect("pages");
    let limit = libc::rlimit {
        rlim_cur: pages * 4096,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: a process of the server that this test started, a limit on the stack.
    let done = unsafe { libc::prlimit(pid, libc::RLIMIT_AS, &limit, std::ptr::null_mut()) };
    assert_eq!(done, 0, "{pid}");
}

const COMMANDS: [&str; 23] = [
    "status",
    "pools",
    "workers",
    "registrations",
    "sites",
    "modules",
    "paths",
    "failures",
    "mark",
    "diff",
    "profile",
    "evidence",
    "forecast",
    "history",
    "check",
    "events",
    "refusals",
    "config",
    "metrics",
    "json",
    "mode",
    "priority",
    "reset",
];

fn words(command: &str) -> Vec<&str> {
    match command {
        "history" => vec!["shm_used"],
        "reset" => vec!["peaks"],
        _ => vec![],
    }
}

#[test]
fn short_of_memory_no_process_may_grow_and_everything_is_answered_or_said() {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "short");
        let listen = free_port();
        let mut server = Server::registrar(pair)
            .workers(8)
            .param("sample_interval", 100)
            .param("sample_bytes", 1)
            .param("listen", listen)
            .param("blackbox", folder.file("box").display())
            .param("bindings_file", folder.file("known").display())
            .param("textfile", folder.file("metrics.prom").display())
            .param("profile_dir", folder.path().display())
            .start();
        assert_eq!(server.udp().request(&Request::register("first")).code, 200);
        server.sampling_pid();
        let mut pids = server.pids();
        pids.sort_unstable();
        pids.iter().for_each(|pid| limit(*pid));
        let (mut answered, mut said, mut turned_away) = (0, 0, 0);
        for round in 0..20 {
            let users = (0..50).map(|i| Request::register(&format!("u{round}-{i}")));
            assert_eq!(server.udp().flood(users, 8, |_, _, _| ()).of(200), 50);
            for path in ["/status.json", "/metrics", "/", "/ready", "/paths.svg"] {
                let answer = http::get(listen, path, SOON).expect("it is served");
                match answer.status {
                    200 => answered += 1,
                    _ => {
                        assert_eq!(answer.status, 503, "{path}");
                        assert!(answer.body.contains("not enough memory"), "{}", answer.body);
                        said += 1;
                    }
                }
            }
            for command in COMMANDS {
                let arguments = words(command);
                match server.try_rpc(&format!("memguard.{command}"), json!(arguments)) {
                    Ok(_) => answered += 1,
                    Err(fault) => {
                        let text = format!("{fault:?}");
                        assert!(text.contains("not enough memory"), "{command}: {text}");
                        said += 1;
                    }
                }
                let name = format!("memguard.{command}");
                let mut line = vec![name.as_str()];
                line.extend(arguments);
                if let Err(fault) = server.kamcmd(&line) {
                    let text = format!("{fault:?}");
                    // ctl takes a connection with libc's memory before it asks for the command: that is Kamailio's own no.
                    match text.contains("Connection reset") {
                        true => turned_away += 1,
                        false => assert!(text.contains("not enough memory"), "{command}: {text}"),
                    }
                    said += 1;
                }
            }
        }
        println!("{answered} answered, {said} said: {}", server.status());
        assert!(answered > 20 * 20, "{answered} {said}");
        assert!(server.is_alive());
        let mut now = server.pids();
        now.sort_unstable();
        assert_eq!(now, pids, "the same processes");
        until(SOON, "it samples", || {
            number(&server.status(), "sample_age_ms") < 1000
        });
        let status = server.status();
        assert_eq!(number(&status, "sampler_restarts"), 0, "{status}");
        if number(&status, "memory_refused") > 0 {
            let warnings = rows(&status["warnings"]);
            assert!(
                warnings
                    .iter()
                    .any(|w| w.to_string().contains("libc refused memory")),
                "{status}"
            );
        }
        let log = server.log();
        assert!(!log.contains("internal error"), "{log}");
        assert!(
            turned_away <= log.matches("s_conn_new failed").count(),
            "{turned_away}: {log}"
        );
        assert!(server.stop().success());
    });
}
