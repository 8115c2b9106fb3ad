//! The commands from outside: over kamcmd and JSON-RPC (datagram, FIFO, HTTP), their filters, their faults, and what
//! polling them costs.
//! Forbidden here: pressure.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Instant;

use serde_json::{Value, json};

use super::guard::{CLASSES, Guarded, SOON, number, rows, word};
use super::harness::rpc::Fault;
use super::harness::sip::Request;
use super::harness::wait::found;
use super::harness::{Pair, Server, for_each_pair, until};

/// Commands that only read, and take no argument.
const READS: [&str; 8] = [
    "memguard.status",
    "memguard.pools",
    "memguard.workers",
    "memguard.registrations",
    "memguard.events",
    "memguard.refusals",
    "memguard.config",
    "memguard.json",
];

/// A server that has something to tell.
fn busy(pair: &Pair) -> Server {
    let server = Server::registrar(pair)
        .param("sample_interval", 100)
        .config(|c| {
            c.param("jsonrpcs", "transport", 7); // HTTP, FIFO and datagrams
        })
        .start();
    let users = (0..50).map(|i| Request::register(&format!("u{i}")));
    assert_eq!(server.udp().flood(users, 8, |_, _, _| ()).of(200), 50);
    server.rpc("memguard.shed", json!([60]));
    assert_eq!(
        server.udp().request(&Request::register("refused")).code,
        503
    );
    until(SOON, "there is an event", || {
        !rows(&server.rpc("memguard.events", json!([]))).is_empty()
    });
    server.rpc("memguard.resume", json!([]));
    server
}

/// The same request over HTTP, as a monitoring system sends it.
fn over_http(server: &Server, body: &str) -> Value {
    let mut stream = TcpStream::connect(server.http()).expect("the HTTP port answers");
    stream
        .set_read_timeout(Some(SOON))
        .expect("a limit above zero");
    write!(
        stream,
        "POST /RPC HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("the request is taken");
    let mut text = String::new();
    let mut buffer = [0; 65536];
    loop {
        let length = stream.read(&mut buffer).expect("an answer in time");
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body);
        match body.map(serde_json::from_str) {
            Some(Ok(answer)) => return answer,
            _ => assert!(length > 0, "closed after {text}"),
        }
    }
}

/// The same request over the FIFO.
fn over_fifo(server: &Server, method: &str) -> Value {
    let folder = &server.places.folder;
    let reply = folder.join("fiforeply");
    let path = std::ffi::CString::new(reply.to_str().expect("a path")).expect("no NUL");
    // SAFETY: mkfifo reads the path.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    let reader = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&reply);
    let mut reader = reader.expect("our own FIFO");
    let request = json!({"jsonrpc": "2.0", "method": method, "reply_name": "fiforeply", "id": 1});
    let mut fifo = File::options()
        .write(true)
        .open(server.places.fifo())
        .expect("the FIFO is there");
    writeln!(fifo, "{request}").expect("the FIFO takes a request");
    let mut text = Vec::new();
    let answer = found(SOON, "an answer on the FIFO", || {
        let mut buffer = [0; 65536];
        while let Ok(length @ 1..) = reader.read(&mut buffer) {
            text.extend_from_slice(&buffer[..length]);
        }
        serde_json::from_slice(&text).ok()
    });
    let _ = fs::remove_file(reply);
    answer
}

/// What a field of an answer is, without its value.
fn shape(answer: &Value) -> Value {
    match answer {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, v)| (name.clone(), shape(v)))
            .collect(),
        Value::Array(rows) => json!([rows.first().map(shape)]),
        Value::Number(_) => json!("number"),
        Value::String(_) => json!("text"),
        other => other.clone(),
    }
}

#[test]
fn rpc_every_command_answers_the_same_over_kamcmd_datagram_fifo_and_http() {
    for_each_pair(|pair| {
        let server = busy(pair);
        for command in READS {
            let answer = server.rpc(command, json!([]));
            let request = json!({"jsonrpc": "2.0", "method": command, "id": 1}).to_string();
            let http = over_http(&server, &request);
            assert_eq!(
                shape(&http["result"]),
                shape(&answer),
                "{command} over HTTP"
            );
            assert_eq!(
                shape(&over_fifo(&server, command)["result"]),
                shape(&answer),
                "{command} over the FIFO"
            );
            let text = server
                .kamcmd(&[command])
                .unwrap_or_else(|f| panic!("{command}: {f:?}"));
            let first = if answer.is_array() {
                &answer[0]
            } else {
                &answer
            };
            for name in first
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, _)| name)
            {
                assert!(
                    text.contains(&format!("{name}:")),
                    "no {name} in {command}: {text}"
                );
            }
            assert!(!text.trim().is_empty());
            let help = server
                .rpc("system.methodHelp", json!([command]))
                .to_string();
            assert!(help.len() > 20 && help.contains('.'), "{command}: {help}");
        }
        for command in [
            "memguard.mode",
            "memguard.shed",
            "memguard.resume",
            "memguard.reset",
        ] {
            let help = server
                .rpc("system.methodHelp", json!([command]))
                .to_string();
            assert!(help.len() > 20 && help.contains('.'), "{command}: {help}");
        }
    });
}

#[test]
fn rpc_workers_are_filtered_by_pid_rank_index_top_and_leaking() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair).start();
        let workers = |words: Value| rows(&server.rpc("memguard.workers", words)).clone();
        let all = workers(json!([]));
        let processes = server.processes();
        assert_eq!(all.len(), processes.len());
        for (row, (index, pid, description)) in all.iter().zip(&processes) {
            let expected = (*index, i64::from(*pid), description.as_str());
            assert_eq!(
                (number(row, "index"), number(row, "pid"), word(row, "desc")),
                expected
            );
        }
        for row in [&all[0], &all[3]] {
            let (pid, index) = (number(row, "pid"), number(row, "index"));
            for words in [
                json!(["pid", pid]),
                json!(["pid", pid.to_string()]),
                json!(["index", index]),
                json!(["index", index.to_string()]),
            ] {
                let found = workers(words.clone());
                assert_eq!((found.len(), &found[0]["pid"]), (1, &row["pid"]), "{words}");
            }
            let text = server.kamcmd(&["memguard.workers", "pid", &pid.to_string()]);
            assert!(text.expect("an answer").contains(&format!("pid: {pid}")));
        }
        // The main process of TCP has a negative rank: PROC_TCP_MAIN is -4 (core/sr_module.h).
        for words in [json!(["rank", -4]), json!(["rank", "-4"])] {
            let found = workers(words.clone());
            assert!(
                found.len() == 1 && word(&found[0], "desc").contains("tcp main"),
                "{words}: {found:?}"
            );
        }
        let text = server
            .kamcmd(&["--", "memguard.workers", "rank", "-4"])
            .expect("an answer");
        assert!(text.contains("tcp main"), "{text}");
        let used: Vec<i64> = workers(json!(["top", 3]))
            .iter()
            .map(|w| number(w, "pkg_real_used"))
            .collect();
        assert!(
            used.len() == 3 && used.is_sorted_by(|a, b| a >= b),
            "{used:?}"
        );
        let leaking = server.rpc("memguard.workers", json!(["leaking"]));
        assert_eq!(leaking, json!([]), "an empty list is an empty array");
    });
}

#[test]
fn rpc_bad_arguments_are_400_and_unknown_workers_404_with_a_sentence() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair).start();
        let bad: [(&str, Value); 14] = [
            ("memguard.status", json!(["now"])),
            ("memguard.pools", json!([1])),
            ("memguard.workers", json!(["pid"])),
            ("memguard.workers", json!(["pid", "x"])),
            ("memguard.workers", json!(["pid", 0])),
            ("memguard.workers", json!(["top", 0])),
            ("memguard.workers", json!(["top", -1])),
            ("memguard.workers", json!(["index", -1])),
            ("memguard.workers", json!(["fat"])),
            ("memguard.registrations", json!(["all"])),
            ("memguard.events", json!(["last"])),
            ("memguard.refusals", json!([0])),
            ("memguard.mode", json!(["enforce", "now"])),
            ("memguard.reset", json!(["everything"])),
        ];
        let is_sentence = |fault: &Fault, code: i64| {
            fault.code == code && fault.text.len() > 15 && !fault.text.contains("error")
        };
        for (command, words) in bad {
            let answer = server.try_rpc(command, words.clone());
            let fault = answer.expect_err(&format!("{command} {words}"));
            assert!(is_sentence(&fault, 400), "{command} {words}: {fault:?}");
            let words: Vec<String> = rows(&words)
                .iter()
                .map(|w| w.to_string().replace('"', ""))
                .collect();
            let line: Vec<&str> = ["--", command]
                .into_iter()
                .chain(words.iter().map(String::as_str))
                .collect();
            let fault = server.kamcmd(&line).expect_err("kamcmd says so too");
            assert!(is_sentence(&fault, 400), "{line:?}: {fault:?}");
        }
        for words in [
            json!(["pid", 1]),
            json!(["index", 4000]),
            json!(["rank", 4000]),
        ] {
            let fault = server
                .try_rpc("memguard.workers", words.clone())
                .expect_err("nobody");
            assert!(is_sentence(&fault, 404), "{words}: {fault:?}");
        }
    });
}

/// Every number in an answer but those that may be negative.
fn assert_not_negative(answer: &Value, name: &str) {
    let is_signed = name.starts_with("growth") || name.ends_with("drift") || name == "rank";
    match answer {
        Value::Number(n) => assert!(
            is_signed || n.as_f64().is_some_and(|n| n >= 0.0),
            "{name} is {n}"
        ),
        Value::Object(fields) => fields
            .iter()
            .for_each(|(name, v)| assert_not_negative(v, name)),
        Value::Array(rows) => rows.iter().for_each(|row| assert_not_negative(row, name)),
        _ => (),
    }
}

#[test]
fn rpc_the_json_document_holds_every_answer_and_they_agree() {
    for_each_pair(|pair| {
        let server = busy(pair);
        let document = || -> Value {
            let text = server.rpc("memguard.json", json!([]));
            serde_json::from_str(text.as_str().expect("one string")).expect("JSON inside")
        };
        let all = document();
        assert_not_negative(&all, "");
        for command in READS.iter().filter(|&&c| c != "memguard.json") {
            let part = &all[command.strip_prefix("memguard.").expect("a prefix")];
            assert_eq!(
                shape(part),
                shape(&server.rpc(command, json!([]))),
                "{command}"
            );
        }
        let (status, registrations) = (&all["status"], &all["registrations"]);
        let sum = |what: &str| -> i64 {
            CLASSES
                .iter()
                .map(|class| number(registrations, &format!("{class}_{what}")))
                .sum()
        };
        assert_eq!(number(status, "rejected"), sum("rejected"));
        assert_eq!(number(registrations, "received"), sum("received"));
        assert_eq!(sum("received"), sum("admitted") + sum("rejected"));
        // The document ends where the caller's buffer does, and says how many it has left out.
        let left_out = all["truncated"]["workers"].as_i64().unwrap_or(0);
        assert_eq!(
            number(status, "workers"),
            rows(&all["workers"]).len() as i64 + left_out
        );
        let workers = server.rpc("memguard.workers", json!([]));
        let of_workers =
            |field: &str| -> i64 { rows(&workers).iter().map(|w| number(w, field)).sum() };
        // Some may be left out in the middle: each is held against the command's own of the same index.
        for row in rows(&all["workers"]) {
            let same = |w: &&Value| w["index"] == row["index"];
            let alone = rows(&workers).iter().find(same).expect("a worker");
            for field in ["pid", "registers"] {
                assert_eq!(row[field], alone[field], "{field}");
            }
        }
        assert_eq!(of_workers("registers"), number(registrations, "received"));
        let shm = rows(&all["pools"])
            .iter()
            .find(|p| p["name"] == "shm")
            .expect("shm");
        let live = of_workers("shm_bytes_allocated") - of_workers("shm_bytes_freed");
        assert_eq!(number(shm, "live"), live);
        assert_eq!(
            number(shm, "size"),
            number(shm, "real_used") + number(shm, "free")
        );
        let mode = rows(&all["config"])
            .iter()
            .find(|p| p["name"] == "mode")
            .expect("mode");
        assert_eq!(mode["value"], status["mode"]);
        assert_eq!(number(&all["refusals"][0], "code"), 503);
        // A fresh server: lists that are empty are there.
        let fresh = Server::registrar(pair).start();
        for list in ["memguard.events", "memguard.refusals"] {
            assert_eq!(fresh.rpc(list, json!([])), json!([]), "{list}");
        }
        assert_eq!(fresh.status()["warnings"], json!([]));
    });
}

#[test]
fn rpc_polling_takes_no_shm_beyond_what_the_transport_takes() {
    const TIMES: usize = 200;
    for_each_pair(|pair| {
        let server = busy(pair);
        let cost = |command: &str| -> (i64, i64) {
            let read = || {
                let rows = server.workers();
                let of = |field: &str| -> i64 { rows.iter().map(|w| number(w, field)).sum() };
                (
                    of("shm_allocs"),
                    of("shm_bytes_allocated") - of("shm_bytes_freed"),
                )
            };
            let before = read();
            (0..TIMES).for_each(|_| drop(server.rpc(command, json!([]))));
            let after = read();
            (after.0 - before.0, after.1 - before.1)
        };
        let (transport, _) = cost("core.version");
        for command in READS {
            let (allocs, live) = cost(command);
            // Timers of other modules may allocate meanwhile; a command that did would do it each time.
            assert!(
                allocs - transport < TIMES as i64 / 10,
                "{command}: {allocs} allocations, {transport} without"
            );
            assert!(live.abs() < 4096, "{command}: {live} bytes");
        }
    });
}

#[test]
fn rpc_reset_starts_peaks_anew() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .with_mgtest()
            .param("sample_interval", 100)
            .start();
        server.fill_shm(60);
        let filled = Instant::now();
        until(SOON, "a sample is taken", || {
            let age = filled.elapsed().as_millis() as i64;
            number(&server.status(), "sample_age_ms") < age
        });
        let peak = || number(&server.pool("shm"), "peak");
        server.release_shm();
        assert!(peak() > 8 << 20, "a peak stays");
        assert_eq!(server.rpc("memguard.reset", json!(["peaks"])), json!("ok"));
        assert!(peak() < 8 << 20, "{}", server.pool("shm"));
    });
}
