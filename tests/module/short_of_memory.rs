//! A server whose processes may not have one more byte of address space (as ulimit -v, LimitAS= or overcommit at its
//! limit): it samples, answers and lives on, or says one sentence.
//! Forbidden here: Kamailio's pools being full (zero.rs).

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::process::Command;

use serde_json::json;

use super::guard::{Guarded, SOON, number, rows};
use super::harness::builder::{Folder, free_port};
use super::harness::sip::Request;
use super::harness::{Pair, Server, for_each_pair, http, until};

/// Takes a process's present size for its limit.
fn limit(pid: i32) {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).expect("it lives");
    let pages: u64 = statm
        .split(' ')
        .next()
        .and_then(|pages| pages.parse().ok())
        .expect("pages");
    set_limit(pid, pages * 4096);
}

fn unlimit(pid: i32) {
    set_limit(pid, libc::RLIM_INFINITY);
}

fn set_limit(pid: i32, bytes: u64) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
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
        let complaints = log.matches("s_conn_new failed").count();
        assert!(turned_away <= complaints, "{turned_away}: {log}");
        assert!(server.stop().success());
    });
}

/// The reserve of one process (src/host/kamailio/own_memory.rs): found by its symbol, changed in the process's memory.
struct Reserve {
    memory: File,
    /// The byte that says how much of it is free: the first node of its tree.
    first_node: u64,
}

impl Reserve {
    /// Bytes of the reserve; its tree follows.
    const BYTES: u64 = 4 << 20;
    /// One more than the order of the tree: nothing is free.
    const NOTHING: u8 = 17;

    fn of(pair: &Pair, pid: i32) -> Reserve {
        let module = pair.kamailio.memguard.as_ref().expect("it was built");
        let symbols = Command::new("nm").arg(module).output().expect("nm runs");
        let symbols = String::from_utf8_lossy(&symbols.stdout).into_owned();
        let mut lines = symbols.lines();
        let symbol = lines.find(|line| line.contains("own_memory5LOCAL17h"));
        let symbol = symbol.expect("the reserve has a symbol");
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("it lives");
        let name = module.display().to_string();
        let mapped = maps.lines().find(|line| line.ends_with(&name));
        let hex = |text: &str| u64::from_str_radix(text, 16).expect("a number");
        let mut fields = mapped.expect("it is loaded").split_whitespace();
        let (range, offset) = (fields.next().unwrap_or(""), fields.nth(1).unwrap_or(""));
        assert_eq!(hex(offset), 0, "the first part of the file");
        let base = hex(range.split('-').next().unwrap_or(""));
        let memory = OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"));
        Reserve {
            memory: memory.expect("a process of this test"),
            first_node: base + hex(&symbol[..16]) + Self::BYTES + 1,
        }
    }

    fn set(&self, from: u8, to: u8) {
        let mut byte = [0];
        let read = self.memory.read_exact_at(&mut byte, self.first_node);
        assert!(read.is_ok() && byte[0] == from, "{read:?} {byte:?}");
        let written = self.memory.write_all_at(&[to], self.first_node);
        assert!(written.is_ok(), "{written:?}");
    }

    fn use_up(&self) {
        self.set(0, Self::NOTHING);
    }

    fn give_back(&self) {
        self.set(Self::NOTHING, 0);
    }
}

/// The processes that answer commands.
fn answering(server: &Server) -> Vec<i32> {
    let all = server.processes().into_iter();
    let answers = |name: &str| name.contains("ctl") || name.to_lowercase().contains("rpc");
    let found = all.filter(|(_, _, name)| answers(name));
    let found: Vec<i32> = found.map(|(_, pid, _)| pid).collect();
    assert!(found.len() >= 2, "{:?}", server.processes());
    found
}

#[test]
fn short_of_memory_with_the_reserve_used_up_one_sentence_is_answered_and_the_server_goes_on() {
    for_each_pair(|pair| {
        let listen = free_port();
        let mut server = Server::registrar(pair).param("listen", listen).start();
        let everybody = server.everybody();
        let before = server.status();
        let mut pids = answering(&server);
        pids.push(server.sampling_pid());
        let reserves: Vec<Reserve> = pids.iter().map(|pid| Reserve::of(pair, *pid)).collect();
        reserves.iter().for_each(Reserve::use_up);
        let mut said = 0;
        for command in COMMANDS {
            let name = format!("memguard.{command}");
            let fault = server.try_rpc(&name, json!(words(command)));
            let fault = fault.expect_err(&name);
            assert!(
                fault.code == 500 && fault.text.contains("not enough memory"),
                "{name}: {fault:?}"
            );
            let mut line = vec![name.as_str()];
            line.extend(words(command));
            let text = format!("{:?}", server.kamcmd(&line).expect_err(&name));
            assert!(
                text.contains("500") && text.contains("not enough memory"),
                "{text}"
            );
            said += 2;
        }
        for path in ["/status.json", "/metrics", "/", "/ready"] {
            let answer = http::get(listen, path, SOON).expect("it is served");
            assert_eq!(answer.status, 503, "{path}");
            assert!(answer.body.contains("not enough memory"), "{}", answer.body);
            said += 1;
        }
        let users = (0..50).map(|i| Request::register(&format!("u{i}")));
        assert_eq!(server.udp().flood(users, 8, |_, _, _| ()).of(200), 50);
        reserves.iter().for_each(Reserve::give_back);
        let now = server.status();
        let skipped = number(&now, "memory_skipped") - number(&before, "memory_skipped");
        assert!(skipped >= said, "{skipped} of {said}: {now}");
        let warned = now["warnings"].to_string();
        assert!(warned.contains("memory"), "{now}");
        assert!(server.log().contains("a sample or an answer is left out"));
        for path in ["/status.json", "/metrics", "/", "/ready"] {
            let answer = http::get(listen, path, SOON).expect("it is served");
            assert_eq!(answer.status, 200, "{path}");
        }
        until(SOON, "it samples", || {
            number(&server.status(), "sample_age_ms") < 1500
        });
        server.assert_nobody_died(&everybody);
        assert!(server.is_alive());
        assert!(server.stop().success());
    });
}

#[test]
fn short_of_memory_without_any_memory_the_sampling_process_ends_and_is_started_again() {
    for_each_pair(|pair| {
        let listen = free_port();
        let mut server = Server::registrar(pair)
            .param("listen", listen)
            .param("sample_interval", 100)
            .start();
        let first = server.sampling_pid();
        until(SOON, "it samples", || {
            number(&server.status(), "uptime") >= 2
        });
        let everybody = server.everybody();
        Reserve::of(pair, first).use_up();
        limit(first);
        let is_back = || {
            let again = server.sampling_pid() != first;
            again && number(&server.status(), "sample_age_ms") < 1500
        };
        let client = server.udp();
        until(3 * SOON, "another one samples", || {
            assert_eq!(client.request(&Request::options()).code, 200);
            is_back()
        });
        let log = server.log();
        let said = format!("the sampling process {first} ended with status 112");
        assert!(log.contains(&said), "{log}");
        server.assert_nobody_died(&everybody);
        let warned = server.status()["warnings"].to_string();
        assert!(warned.contains("the sampling process died"), "{warned}");
        assert_eq!(http::get(listen, "/", SOON).expect("served").status, 200);

        // A process that Kamailio ends with waits, and answers when there is memory.
        let pids = answering(&server);
        let reserves: Vec<Reserve> = pids.iter().map(|pid| Reserve::of(pair, *pid)).collect();
        reserves.iter().for_each(Reserve::use_up);
        pids.iter().for_each(|pid| limit(*pid));
        for command in COMMANDS {
            let _ = server.try_rpc(&format!("memguard.{command}"), json!(words(command)));
        }
        assert_eq!(client.request(&Request::register("one")).code, 200);
        pids.iter().for_each(|pid| unlimit(*pid));
        reserves.iter().for_each(Reserve::give_back);
        until(SOON, "it is answered", || {
            server.try_rpc("memguard.json", json!([])).is_ok()
        });
        assert!(server.is_alive());
        assert!(server.stop().success());
    });
}
