//! The black box of a real server: what it tells after kill -9, after the death of one process and after an orderly
//! stop, over restarts; and what is done about a file or a path that is none.
//! Forbidden here: files made by hand (tests/blackbox.rs).

use std::fs;
use std::path::Path;
use std::process::Command;

use memguard::guard::formats::blackbox::{
    reading,
    story::{self, Scene},
};
use memguard::shared::files::blackbox::is_held;
use serde_json::{Value, json};

use super::guard::{Guarded, SOON, number, rows, word};
use super::harness::builder::{Builder, Folder, free_port};
use super::harness::sip::Request;
use super::harness::{Pair, Server, for_each_pair, until};

fn server(pair: &Pair, file: &Path) -> Builder {
    Server::registrar(pair)
        .with_mgtest()
        .param("sample_interval", 100)
        .param("dwell", 1)
        .param("blackbox", file.display())
        .config(|c| {
            c.before =
                "if ($hdr(X-Leak) != $null) { mgtest_leak_shm(\"$(hdr(X-Leak){s.int})\"); }".into();
        })
}

fn told(file: &Path, option: &str) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_memguard-blackbox"));
    let output = program
        .arg(file)
        .arg(option)
        .output()
        .expect("memguard-blackbox runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// The runs as `--json` tells them; without a program, as this is asked for again and again.
fn runs(file: &Path) -> Vec<Value> {
    let found = reading::read(&fs::read(file).expect("the box is readable")).expect("runs");
    let scene = Scene {
        is_held: is_held(&fs::File::open(file).expect("it is there")),
        ..Scene::default()
    };
    rows(&story::json(&found, &scene)["runs"]).clone()
}

/// Leaks until the level is shedding, and until the box knows.
#[track_caller]
fn leak(server: &Server, file: &Path) {
    let client = server.udp();
    until(SOON, "shm is leaked", || {
        (0..8).for_each(|_| {
            drop(client.request(&Request::options().header("X-Leak: 65536")));
        });
        server.shm_pct() > 85.0
    });
    server.await_level("shedding");
    let leaked = number(&server.pool("shm"), "real_used");
    until(SOON, "the box has seen it", || {
        let runs = runs(file);
        let run = runs.last().expect("this run");
        let view = rows(&run["views"]).last();
        let seconds = rows(&run["seconds"]["shm_used"]);
        let used = seconds.last().and_then(Value::as_i64);
        let is_told = view.is_some_and(|view| view["status"]["level"] == "shedding");
        is_told && used.is_some_and(|used| used >= leaked) && seconds.len() >= 2
    });
}

#[test]
fn blackbox_tells_why_a_leaking_server_was_killed_and_keeps_it_over_restarts() {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "killed");
        let file = folder.file("memguard.blackbox");
        let first = server(pair, &file).start();
        leak(&first, &file);
        assert_eq!(runs(&file)[0]["fate"], "running");
        first.kill_all();

        let said = told(&file, "--all");
        for part in [
            "RUN 1: ",
            "KILLED, all processes at once",
            "At the end: level SHEDDING; shm 8",
            "w_leak_shm",
            "-> shedding",
            "shm used, ",
        ] {
            assert!(said.contains(part), "no \"{part}\" in {said}");
        }
        let who = said
            .lines()
            .find(|line| line.contains("held") && line.contains(": "));
        assert!(
            who.is_some_and(|line| line.contains("mgtest.c:") && line.contains("w_leak_shm")),
            "{said}"
        );
        let printed: Value = serde_json::from_str(&told(&file, "--json")).expect("JSON");
        let run = runs(&file).remove(0);
        assert_eq!(printed["runs"][0]["seconds"], run["seconds"]);
        assert_eq!((number(&run, "torn"), &run["end"]), (0, &Value::Null));

        // The next one says so, and takes nothing of it for its own future.
        let second = server(pair, &file).param("listen", free_port()).start();
        let log = second.log();
        assert!(
            log.contains("the run before")
                && log.contains("killed, all processes at once at level shedding, shm at 8"),
            "{log}"
        );
        let client = second.udp();
        let phones = (0..500).map(|n| Request::register(&format!("warm{n}")));
        assert_eq!(client.flood(phones, 8, |_, _, _| ()).of(200), 500);
        until(SOON, "samples of the new run", || {
            runs(&file)[1]["seconds"]["time"]
                .as_array()
                .is_some_and(|times| times.len() >= 3)
        });
        let status = second.status();
        assert_eq!(
            (
                word(&status, "exhaustion"),
                number(&status, "exhaustion_seconds")
            ),
            ("unknown", 2_592_000)
        );
        for forecast in rows(&second.rpc("memguard.forecast", json!([]))) {
            assert_eq!(number(forecast, "valid"), 0, "{forecast}");
        }
        assert!(!second.log().contains("will be full"), "{}", second.log());
        assert!(second.stop().success());

        let found = runs(&file);
        let fates: Vec<_> = found.iter().map(|run| word(run, "fate")).collect();
        assert_eq!(fates, ["killed", "stopped"]);
        assert_eq!(found[0], run, "the former story is untouched");
        let end = &found[1];
        assert_eq!(number(&end["end"], "time"), number(end, "last"));
        assert!(told(&file, "--all").contains("RUN 2: "), "both are told");

        let third = server(pair, &file).start();
        assert!(
            !third.log().contains("the run before"),
            "a good end is not news: {}",
            third.log()
        );
    });
}

#[test]
fn blackbox_names_the_process_whose_death_ended_the_server() {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "died");
        let file = folder.file("memguard.blackbox");
        for (victim, fate) in [
            ("udp receiver", "process_died"),
            ("memguard sampler", "process_died"),
            ("", "main_vanished"),
        ] {
            let mut server = server(pair, &file).start();
            until(SOON, "a sample", || {
                server.status()["sample_age_ms"].as_f64() < Some(1000.0)
            });
            let processes = server.processes();
            let (index, pid, name) = processes
                .iter()
                .find(|(_, _, name)| !victim.is_empty() && name.contains(victim))
                .cloned()
                .unwrap_or((0, server.pid(), String::new()));
            server.kill(pid);
            until(SOON, "the server ends", || !server.is_alive());
            until(SOON, "its end is written", || {
                !runs(&file).last().expect("a run")["end"].is_null()
            });
            let run = runs(&file).pop().expect("a run");
            assert_eq!(word(&run, "fate"), fate, "{}", run["end"]);
            if index > 0 {
                let who = word(&run["end"], "who");
                assert!(
                    who.starts_with(&format!("process {index} (pid {pid}, "))
                        && who.contains(&name),
                    "{who}"
                );
                assert!(
                    told(&file, "--all")
                        .contains(&format!("How: {who} ended by itself or was killed"))
                );
            }
            drop(server); // what a killed main left behind, before the next one wants the file
        }
        assert_eq!(runs(&file).len(), 3);
    });
}

#[test]
fn blackbox_a_wrong_path_stops_the_start_and_a_foreign_file_is_kept() {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "paths");
        for (path, part) in [
            (folder.file("none/box"), "No such file"),
            (folder.path().to_owned(), "parameter blackbox"),
        ] {
            let log = server(pair, &path)
                .try_start()
                .err()
                .expect("it must not start");
            let said = log.lines().find(|line| line.contains("parameter blackbox"));
            assert!(said.is_some_and(|line| line.contains(part)), "{log}");
        }
        let file = folder.file("memguard.blackbox");
        fs::write(&file, "somebody's notes").expect("written");
        let first = server(pair, &file).start();
        let log = first.log();
        assert!(log.contains("was no black box of this version"), "{log}");
        let aside = fs::read_dir(folder.path())
            .expect("ours")
            .flatten()
            .map(|e| e.path());
        let aside = aside.filter(|path| path != &file).collect::<Vec<_>>();
        assert_eq!(aside.len(), 1, "{aside:?}");
        assert_eq!(
            fs::read(&aside[0]).expect("it is there"),
            b"somebody's notes"
        );

        // A second server with the same file starts, says that it is not recorded, and leaves the file alone.
        let second = server(pair, &file).start();
        let warnings = second.status()["warnings"].to_string();
        assert!(
            warnings.contains("the black box (parameter blackbox) is not written"),
            "{warnings}"
        );
        assert!(
            second.log().contains("is in use by another server"),
            "{}",
            second.log()
        );
        assert_eq!(runs(&file).len(), 1);
        second.stop();
        first.stop();
        assert_eq!(word(&runs(&file)[0], "fate"), "stopped");
    });
}

#[test]
fn blackbox_belongs_to_the_user_that_the_server_runs_as() {
    for_each_pair(|pair| {
        // SAFETY: a plain call.
        if unsafe { libc::geteuid() } != 0 {
            return super::harness::pairs::skip("only root can start as another user");
        }
        let folder = Folder::of(pair, "nobody");
        let file = folder.file("memguard.blackbox");
        let running = server(pair, &file).run_by_nobody().start();
        until(SOON, "a sample is recorded", || {
            runs(&file)[0]["seconds"]["time"]
                .as_array()
                .is_some_and(|times| !times.is_empty())
        });
        assert!(
            !running.status()["warnings"]
                .to_string()
                .contains("black box")
        );
        running.stop();
        assert_eq!(word(&runs(&file)[0], "fate"), "stopped");
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&file).expect("the file"));
        assert_eq!(owner, 65_534, "nobody's");
    });
}
