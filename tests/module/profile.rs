//! `memguard.profile`: what it writes is opened by a real pprof and by who reads folded stacks, says what the pools
//! hold, and names the leak; and what it says where it cannot write.
//! Forbidden here: reading the format by hand.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::guard::{Guarded, SOON, number, word};
use super::harness::builder::Folder;
use super::harness::pprof::{pprof, program};
use super::harness::sip::Request;
use super::harness::{Server, for_each_pair, until};

/// The names in a folder, sorted.
fn files(folder: &Folder) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).expect("the folder is there");
    let names = entries.map(|e| e.expect("an entry").file_name());
    let mut names: Vec<String> = names.map(|n| n.into_string().expect("plain")).collect();
    names.sort();
    names
}

fn path(answer: &Value, field: &str) -> PathBuf {
    PathBuf::from(word(answer, field))
}

/// Function names of `pprof -top`, the first first, with their own bytes.
fn top(text: &str) -> Vec<(i64, String)> {
    let rows = text
        .lines()
        .skip_while(|line| !line.contains("flat%"))
        .skip(1);
    rows.filter_map(|row| {
        let mut words = row.split_whitespace();
        let flat = words.next()?.trim_end_matches('B').parse().ok()?;
        Some((flat, words.skip(4).collect::<Vec<_>>().join(" ")))
    })
    .collect()
}

#[test]
fn profile_is_opened_by_a_real_pprof_and_its_top_names_the_leak() {
    let Some(program) = program() else { return };
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "top");
        let server = Server::registrar(pair)
            .with_mgtest()
            .pkg_mb(16)
            .param("profile_dir", folder.path().display())
            .config(|c| c.before = "mgtest_hold_pkg(\"100000\");".into())
            .start();
        let before = server.rpc("memguard.profile", json!([]));
        server.rpc("mgtest.hold_shm", json!([1000, 5000]));
        for i in 0..20 {
            server
                .udp()
                .request(&Request::register(&format!("user{i}")));
        }
        let after = server.rpc("memguard.profile", json!([]));
        let file = path(&after, "file");

        let shm = pprof(
            &program,
            &["-top", "-unit=B", "-tagfocus=pool=^shm$"],
            &file,
        );
        let first = &top(&shm)[0];
        assert_eq!(first.1, "hold_shm", "{shm}");
        assert!((5_000_000..5_600_000).contains(&first.0), "{shm}");

        // What came since the first one, as an engineer asks for it.
        let base = format!("-diff_base={}", word(&before, "file"));
        let pkg = ["-top", "-unit=B", &base, "-tagfocus=pool=^pkg$"];
        let gained = pprof(&program, &pkg, &file);
        assert_eq!(top(&gained)[0].1, "hold_pkg", "{gained}");
        assert!(
            (2_000_000..2_100_000).contains(&top(&gained)[0].0),
            "{gained}"
        );
        let lines = pprof(&program, &["-top", "-lines", "-unit=B", &base], &file);
        let row = top(&lines)[0].1.clone();
        assert!(
            row.starts_with("hold_shm") && row.contains("mgtest.c:"),
            "{lines}"
        );
        // By module: hold_pkg is called by nobody but its module, which stands in the pool.
        let peek = pprof(&program, &["-peek=^mgtest$", "-unit=B"], &file);
        assert!(
            peek.contains("hold_shm") && peek.contains("shm") && peek.contains("pkg"),
            "{peek}"
        );

        let raw = pprof(&program, &["-raw"], &file);
        let (samples, rest) = raw.split_once("\nLocations\n").expect("pprof -raw");
        let values = |line: &str| -> Option<i64> {
            line.split(':')
                .next()?
                .split_whitespace()
                .nth(3)?
                .parse()
                .ok()
        };
        let all: Vec<i64> = samples.lines().filter_map(values).collect();
        assert_eq!(all.iter().sum::<i64>(), number(&after, "bytes"));
        assert_eq!(all.len() as i64, number(&after, "samples"));
        let (_, mappings) = rest.split_once("\nMappings\n").expect("pprof -raw");
        let with_id = |name: &str| {
            let is_it = |line: &&str| {
                let words: Vec<&str> = line.split_whitespace().collect();
                words.iter().any(|w| w.ends_with(name))
                    && words
                        .iter()
                        .any(|w| w.len() == 40 && w.bytes().all(|b| b.is_ascii_hexdigit()))
            };
            mappings.lines().any(|line| is_it(&line))
        };
        assert!(
            mappings
                .trim_start()
                .lines()
                .next()
                .is_some_and(|l| l.contains("kamailio")),
            "{mappings}"
        );
        assert!(
            with_id("/kamailio") && with_id("/tm.so") && with_id("/usrloc.so"),
            "{mappings}"
        );
    });
}

#[test]
fn profile_of_one_worker_holds_its_pool_and_the_folded_stacks_say_the_same() {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "worker");
        let server = Server::registrar(pair)
            .with_mgtest()
            .param("profile_dir", folder.path().display())
            .config(|c| {
                c.before = "if ($mgtest(index) == 2) { mgtest_hold_pkg(\"50000\"); }".into()
            })
            .start();
        let client = server.udp();
        let live = |index: i64| {
            let row = server.rpc("memguard.workers", json!(["index", index]));
            number(&row[0], "pkg_live")
        };
        until(SOON, "worker 2 holds ten blocks", || {
            client.request(&Request::register("a"));
            live(2) > live(1) + 500_000
        });
        let mut answer = Value::Null;
        until(SOON, "the profile holds what the worker holds", || {
            let before = live(2);
            answer = server.rpc("memguard.profile", json!(["pkg", "worker", 2]));
            let bytes = number(&answer, "bytes");
            [before, live(2)].contains(&bytes)
        });
        let folded = fs::read_to_string(path(&answer, "folded")).expect("it was written");
        let mut sum = 0;
        for line in folded.lines() {
            let (stack, bytes) = line.rsplit_once(' ').expect("stack and bytes");
            assert!(
                stack.starts_with("pkg;") && stack.matches(';').count() == 2,
                "{line}"
            );
            sum += bytes.parse::<i64>().expect("a number");
        }
        assert_eq!(sum, number(&answer, "bytes"));
        let held = folded
            .lines()
            .find(|line| line.starts_with("pkg;mgtest;hold_pkg (tests/module/leaky/mgtest.c:"));
        assert!(held.is_some(), "{folded}");
        let name = path(&answer, "file");
        let name = name.file_name().expect("a file").to_string_lossy();
        assert!(
            name.starts_with("memguard-20") && name.ends_with("-pkg-worker2.pb"),
            "{name}"
        );

        let other = server.rpc("memguard.profile", json!(["pkg", "worker", 1]));
        let other = fs::read_to_string(path(&other, "folded")).expect("it was written");
        assert!(!other.contains("hold_pkg"), "{other}");
        assert!(
            files(&folder)
                .iter()
                .all(|f| f.ends_with(".pb") || f.ends_with(".folded")),
            "nothing half-written stays: {:?}",
            files(&folder)
        );
    });
}

#[test]
fn profile_takes_nothing_from_the_pools_and_is_written_when_they_are_full() {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "full");
        let server = Server::registrar(pair)
            .with_mgtest()
            .param("profile_dir", folder.path().display())
            .start();
        server.rpc("mgtest.fill_shm", json!([64]));
        let allocated = || {
            let all = server.workers();
            all.iter().map(|w| number(w, "shm_allocs")).sum::<i64>()
        };
        let before = allocated();
        let text = server
            .kamcmd(&["memguard.profile", "shm"])
            .expect("it is answered");
        assert!(
            text.contains(".paths.pb") && files(&folder).len() == 4,
            "{text}"
        );
        // Timers go on; the profile alone would take thousands of blocks.
        assert!(
            allocated() - before < 100,
            "{} blocks",
            allocated() - before
        );
        server.rpc("mgtest.release", json!([]));
    });
}

#[test]
fn profile_says_what_is_missing_where_it_cannot_write() {
    for_each_pair(|pair| {
        let fault = |server: &Server, words: Value| {
            let fault = server
                .try_rpc("memguard.profile", words)
                .expect_err("not accepted");
            (fault.code, fault.text)
        };
        let server = Server::registrar(pair).start();
        let (code, text) = fault(&server, json!([]));
        assert!(code == 500 && text.contains("profile_dir"), "{text}");
        drop(server);

        let folder = Folder::of(pair, "closed");
        let missing = folder.file("missing");
        for wrong in [missing.as_path(), Path::new("/dev/null")] {
            let (accepted, log) = Server::registrar(pair)
                .param("profile_dir", wrong.display())
                .check();
            assert!(
                !accepted && log.contains("parameter profile_dir is"),
                "{log}"
            );
            assert!(log.contains("it accepts a directory"), "{log}");
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).expect("ours");
        let mut server = Server::registrar(pair).param("profile_dir", folder.path().display());
        // SAFETY: reads the kernel's number.
        if unsafe { libc::geteuid() } == 0 {
            server = server.run_by_nobody(); // root may write anywhere
        }
        let server = server.start();
        let warnings = server.status()["warnings"].to_string();
        assert!(warnings.contains("profile_dir"), "{warnings}");
        let (code, text) = fault(&server, json!([]));
        assert!(
            code == 500 && text.contains("cannot be written to"),
            "{text}"
        );
        assert_eq!(fault(&server, json!(["worker", 400])).0, 404);
        assert_eq!(fault(&server, json!(["os"])).0, 400);
        assert_eq!(files(&folder), Vec::<String>::new());
    });
}
