//! `memguard.evidence`: one folder with everything and a report that names the leak and no phone, at zero free bytes too;
//! the picture of the paths; profiles over HTTP.
//! Forbidden here: reading pprof's format by hand.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::guard::{Guarded, SOON, number, rows, word};
use super::harness::builder::{Folder, free_port};
use super::harness::pprof::{fetched, program};
use super::harness::sip::Request;
use super::harness::{Server, for_each_pair, http, until};
use super::paths::line_of;
use super::sites::{sites, traffic};

/// All files of a folder, by name.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    let mut all: Vec<(String, Vec<u8>)> = entries
        .map(|entry| {
            let entry = entry.expect("an entry");
            let name = entry.file_name().into_string().expect("plain");
            (name, fs::read(entry.path()).expect("it can be read"))
        })
        .collect();
    all.sort();
    all
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|part| part == text.as_bytes())
}

fn written(server: &Server) -> (PathBuf, String, Vec<(String, Vec<u8>)>) {
    let answer = server.rpc("memguard.evidence", json!([]));
    let folder = PathBuf::from(word(&answer, "folder"));
    let all = files(&folder);
    assert_eq!(number(&answer, "files"), all.len() as i64, "{answer}");
    let report = fs::read_to_string(word(&answer, "report")).expect("the report");
    (folder, report, all)
}

/// The value that Kamailio's own list has for a place; `None` while it has none.
fn by_mod_stats(server: &Server, module: &str, place: &str) -> Option<i64> {
    let all = server.rpc("mod.stats", json!([module, "shm"]));
    rows(&all).iter().find_map(|part| part[place].as_i64())
}

#[test]
fn evidence_names_place_path_and_line_of_a_leak_and_no_phone_and_is_written_at_zero_bytes() {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "evidence");
        let listen = free_port();
        let server = Server::registrar(pair)
            .shm_mb(32)
            .with_mgtest()
            .param("listen", listen)
            .param("pprof", 1)
            .param("blackbox", folder.file("box").display())
            .param("profile_dir", folder.path().display())
            .param("priority_aor", "sip:thepresident@example.org")
            .param("silent_source", "192.0.2.99")
            .config(|c| {
                c.param("htable", "htable", "t=>size=6;");
                c.before = "route(KEEPS);".into();
                c.routes = "
route[KEEPS] {
    $sht(t=>$ci) = \"a value\";
}
"
                .into();
            })
            .start();
        // user0 to user49 register and refresh; each message leaves a cell behind
        let mut first = Value::Null;
        let is_named = traffic(&server, Duration::from_secs(60), || {
            first = sites(&server, json!(["top", 1])).remove(0);
            first["function"] == "ht_cell_new" && first["focus"] == 1
        });
        assert!(is_named, "{first}");
        let is_reached = traffic(&server, Duration::from_secs(30), || {
            let paths = server.rpc("memguard.paths", json!(["module", "htable", "top", 1]));
            let first = rows(&paths).first().cloned().unwrap_or_default();
            first["growth"].as_f64() > Some(0.0) && first["function"] == "ht_cell_new"
        });
        assert!(is_reached);
        // refused phones stand in memguard.refusals
        server.rpc("memguard.shed", json!([60]));
        let client = server.udp();
        for i in 0..5 {
            let refused = client.request(&Request::register(&format!("stranger{i}")));
            assert_eq!(refused.code, 503);
        }
        server.rpc("memguard.resume", json!([]));

        let (path, report, all) = written(&server);
        let line = line_of(&server, "$sht(t=>$ci)");
        let kamailio = &pair.kamailio.version;
        let place = format!("{}:{}", word(&first, "file"), number(&first, "line"));
        for said in [
            format!("# Kamailio {kamailio}: module htable keeps "),
            format!("| place | `htable` {place} `ht_cell_new` |"),
            format!("kamailio.cfg:{line} route[KEEPS]`"),
            "| SIP message in hand | REGISTER |".into(),
            "| bytes per message | ".into(),
            "| since | ".into(),
            "core run_actions\n".into(),
            "the way to each of its allocations is noted".into(),
        ] {
            assert!(report.contains(&said), "{said}\n{report}");
        }
        // what it says of mod.stats is what mod.stats says
        let key = format!("ht_cell_new({})", number(&first, "line"));
        let told = report
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{key}: ")));
        let told: i64 = told.and_then(|n| n.parse().ok()).expect("bytes");
        assert_eq!(
            Some(told),
            by_mod_stats(&server, "htable", &key),
            "{report}"
        );
        // complete, and the document in it is the whole one
        for name in [
            "memguard.json",
            "metrics.prom",
            "heap.pb",
            "heap.folded",
            "paths.pb",
            "paths.folded",
            "paths.svg",
            "hour.csv",
            "day.csv",
            "blackbox.txt",
            "report.md",
        ] {
            let (_, bytes) = all.iter().find(|(found, _)| found == name).expect(name);
            assert!(bytes.len() > 20, "{name}");
        }
        let json: Value =
            serde_json::from_slice(&fs::read(path.join("memguard.json")).expect("it"))
                .expect("JSON");
        assert!(
            json["sites"].is_array() && json["truncated"].is_null() && json["refusals"].is_null()
        );
        assert!(
            fs::read_to_string(path.join("hour.csv"))
                .expect("it")
                .lines()
                .count()
                > 20
        );

        // at zero bytes
        server.rpc("mgtest.fill_shm", json!([64]));
        let (_, report, full) = written(&server);
        assert!(
            report.contains("module htable keeps ") || report.contains("hold_shm"),
            "{report}"
        );
        server.rpc("mgtest.release", json!([]));

        // nobody is in any of it: AoRs, contacts, sources, and what the configuration says of phones
        let nobody = [
            "user1",
            "user4",
            "stranger",
            "thepresident",
            "example.org",
            "192.0.2.99",
            "127.0.0.1",
            "sip:user",
        ];
        for (name, bytes) in all.iter().chain(&full) {
            for text in nobody {
                assert!(!holds(bytes, text), "{text} stands in {name}");
            }
        }
        let left = files_of(folder.path());
        assert!(left.iter().all(|name| !name.starts_with('.')), "{left:?}");

        // the picture is the folded paths as a picture
        let svg = http::get(listen, "/paths.svg", SOON).expect("a picture");
        assert_eq!(
            svg.header("Content-Type"),
            Some("image/svg+xml; charset=utf-8")
        );
        assert!(
            svg.body.len() < 100_000 && !svg.body.contains("<script"),
            "{}",
            svg.body.len()
        );
        assert!(
            svg.body.contains("<title id=\"t\">") && svg.body.contains("ht_cell_new"),
            "{}",
            svg.body
        );
        let page = http::get(listen, "/", SOON).expect("the page");
        assert!(page.body.contains("<a href=\"/paths.svg\">"));
    });
}

fn files_of(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("it is there");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

#[test]
fn evidence_for_continuous_profiling_is_read_by_a_real_pprof_over_http_at_zero_bytes() {
    let Some(program) = program() else { return };
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "scraped");
        let listen = free_port();
        let server = Server::registrar(pair)
            .with_mgtest()
            .param("listen", listen)
            .param("pprof", 1)
            .param("sample_bytes", 1)
            .start();
        server.rpc("mgtest.hold_shm", json!([1000, 5000]));
        server.rpc("mgtest.fill_shm", json!([64]));
        for path in ["heap", "allocs", "paths"] {
            let url = format!("http://{listen}/debug/pprof/{path}");
            let top = fetched(
                &program,
                &["-top", "-unit=B", "-symbolize=none"],
                &url,
                folder.path(),
            );
            let kind = if path == "allocs" {
                "alloc_space"
            } else {
                "inuse_space"
            };
            assert!(top.contains(kind), "{path}: {top}");
            assert!(top.contains("hold_shm"), "{path}: {top}");
        }
        server.rpc("mgtest.release", json!([]));
        drop(server);

        let server = Server::registrar(pair).param("listen", listen).start();
        let answer = http::get(listen, "/debug/pprof/heap", SOON).expect("an answer");
        assert_eq!(answer.status, 404);
        assert!(answer.body.contains("\"pprof\", 1"), "{}", answer.body);
        until(SOON, "it samples", || {
            number(&server.status(), "sample_age_ms") < 2000
        });
    });
}
