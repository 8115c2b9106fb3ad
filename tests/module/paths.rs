//! How memory was reached: leaks through the core's helpers are shown with the module and the configuration line that
//! cause them; sampling every allocation changes no book; a change of `sample_bytes` counts at once.
//! Forbidden here: leaks whose allocating place is the culprit (those are the sites' tests).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::accounting::{assert_pkg_books, assert_shm_books, churn};
use super::guard::{Guarded, SOON, number, rows, word};
use super::harness::sip::Request;
use super::harness::wait::holds_within;
use super::harness::{Pair, Server, for_each_pair, until};

fn paths(server: &Server, words: Value) -> Vec<Value> {
    rows(&server.rpc("memguard.paths", words)).clone()
}

/// The frames of a row, outermost first.
fn frames(row: &Value) -> Vec<&str> {
    let frames = row["path"].as_array().into_iter().flatten();
    frames.filter_map(Value::as_str).collect()
}

/// The line of the configuration that holds a text, as `memguard.paths` writes it.
#[track_caller]
pub fn line_of(server: &Server, text: &str) -> usize {
    let file = fs::read_to_string(server.places.folder.join("kamailio.cfg"));
    let file = file.expect("the configuration is there");
    let line = file.lines().position(|line| line.contains(text));
    line.unwrap_or_else(|| panic!("no {text} in the configuration")) + 1
}

fn set_sampling(server: &Server, bytes: u32) {
    server.rpc(
        "cfg.set_now_int",
        json!(["memguard", "sample_bytes", bytes]),
    );
}

/// The first row whose allocating function is this one.
fn of_function(server: &Server, function: &str) -> Option<Value> {
    let all = paths(server, json!(["module", "mgtest", "top", 200]));
    all.into_iter().find(|row| row["function"] == function)
}

/// Sends OPTIONS until the leak through `function` is seen often enough, and answers its row.
#[track_caller]
fn leaked_through(server: &Server, function: &str, times: i64) -> Value {
    let client = server.udp();
    let mut row = Value::Null;
    let is_seen = holds_within(SOON, || {
        client.request(&Request::options());
        row = of_function(server, function).unwrap_or_default();
        row["samples"].as_i64() >= Some(times)
    });
    assert!(is_seen, "{function}: {row}; {:?}", paths(server, json!([])));
    row
}

#[test]
fn paths_lead_from_a_helper_of_the_core_to_the_module_and_the_line_that_leak() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .with_mgtest()
            .param("sample_bytes", 1)
            .config(|c| {
                c.before = "route(LEAKS);".into();
                c.routes = "
route[LEAKS] {
    mgtest_forget_params(\"a=1;b=2;c=3\");
    mgtest_forget_format(\"$ru and $ci\");
    mgtest_forget_xavp(\"a value of some length\");
    mgtest_route_then_forget(\"INNER\", \"a copy of some length\");
}
route[INNER] {
    $var(x) = 1;
}
"
                .into();
            })
            .start();
        // function that allocates, its pool, the frame of the culprit, its call in the configuration
        let leaks = [
            (
                "parse_params2",
                "pkg",
                "mgtest mgtest_forget_params",
                "mgtest_forget_params(",
            ),
            (
                "pv_parse_format",
                "pkg",
                "mgtest+0x",
                "mgtest_forget_format(",
            ),
            (
                pair.kamailio.xavp_maker(),
                "shm",
                "mgtest mgtest_forget_xavp",
                "mgtest_forget_xavp(",
            ),
            (
                "as_asciiz",
                "pkg",
                "mgtest mgtest_forget_copy",
                "mgtest_route_then_forget(",
            ),
        ];
        for (function, pool, culprit, call) in leaks {
            let row = leaked_through(&server, function, 5);
            assert_eq!(
                (word(&row, "pool"), word(&row, "module")),
                (pool, "core"),
                "{row}"
            );
            assert!(
                word(&row, "file").ends_with(".c") && number(&row, "line") > 0,
                "{row}"
            );
            let path = frames(&row);
            let at = path.iter().position(|frame| frame.starts_with(culprit));
            let script = path.iter().position(|frame| *frame == "core run_actions");
            assert!(script.is_some() && at > script, "outermost first: {row}");
            assert!(
                path.len() <= 32 && path.last().is_some_and(|last| last.starts_with("core")),
                "{row}"
            );
            assert!(
                !path.iter().any(|frame| frame.starts_with("memguard")),
                "{row}"
            );
            let mark = if function == "as_asciiz" { "~" } else { "" };
            let line = format!("{mark}kamailio.cfg:{} route[LEAKS]", line_of(&server, call));
            assert_eq!(word(&row, "cfg"), line, "{row}");
            assert_eq!(word(&row, "method"), "OPTIONS", "{row}");
            assert!(number(&row, "live_bytes") >= 5 * 8, "{row}");
        }
    });
}

/// Live bytes and blocks of a module's own places in shm, by the paths.
fn shm_of(server: &Server, module: &str) -> (i64, i64) {
    let all = paths(server, json!(["pool", "shm", "module", module, "top", 500]));
    assert!(
        all.iter().all(|row| row.get("truncated").is_none()),
        "{module}: too many paths"
    );
    let own = all.iter().filter(|row| row["module"] == module);
    own.fold((0, 0), |(bytes, blocks), row| {
        (
            bytes + number(row, "live_bytes"),
            blocks + number(row, "samples"),
        )
    })
}

#[test]
fn paths_of_every_allocation_add_up_to_what_a_module_holds_and_change_no_book() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .shm_mb(32)
            .with_mgtest()
            .param("sample_bytes", 1)
            .config(|c| {
                c.param("usrloc", "timer_interval", 1).param("registrar", "min_expires", 1);
                c.param("htable", "htable", "t=>size=6;autoexpire=2;");
                c.before = "mgtest_shrink_pkg(\"400\", \"100\"); mgtest_shrink_shm(\"400\", \"100\"); $sht(t=>$ci) = $ci;".into();
            })
            .start();
        churn(&server);
        until(
            Duration::from_secs(15),
            "short registrations expire",
            || server.statistic("usrloc:registered_users") == 600 + 150,
        );
        assert_shm_books(&server, "with every allocation sampled");
        assert_pkg_books(&server, "with every allocation sampled");
        // usrloc begins after memguard: every block of its carries a context
        let mut seen = ((0, 0), (0, 0), Value::Null);
        let is_equal = holds_within(SOON, || {
            let modules = server.rpc("memguard.modules", json!(["pool", "shm"]));
            let all = rows(&modules);
            let own = all
                .iter()
                .find(|m| m["module"] == "usrloc")
                .expect("usrloc holds shm");
            seen.0 = (number(own, "live_bytes"), number(own, "live_blocks"));
            seen.1 = shm_of(&server, "usrloc");
            // Kamailio's own list of blocks goes by the text that the context's pointer leads to
            seen.2 = server.rpc("mod.stats", json!(["usrloc", "shm"]));
            let total = rows(&seen.2).iter().find_map(|part| part["Total"].as_i64());
            seen.0 == seen.1 && total == Some(seen.0.0)
        });
        assert!(
            is_equal && seen.0.1 > 1000,
            "places, paths, mod.stats: {seen:?}"
        );
        // at zero bytes, and back
        server.rpc("mgtest.fill_shm", json!([64]));
        let client = server.udp();
        for _ in 0..20 {
            client.request(&Request::options());
        }
        server.rpc("mgtest.release", json!([]));
        assert_shm_books(&server, "after shm was full");
        assert_pkg_books(&server, "after shm was full");
        assert!(
            of_function(&server, "hold_shm").is_none(),
            "what was given back is gone"
        );
        assert!(number(&server.status(), "fail_open") == 0);
    });
}

#[test]
fn paths_estimate_what_lives_without_bias_and_follow_a_change_of_the_rate_at_once() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .with_mgtest()
            .param("sample_bytes", 0)
            .config(|c| {
                c.module("cfg_rpc");
            })
            .start();
        let hold = |count: i64| server.rpc("mgtest.hold_shm", json!([1000, count]));
        hold(2000);
        assert_eq!(
            paths(&server, json!([])),
            Vec::<Value>::new(),
            "0: nothing is sampled"
        );
        set_sampling(&server, 1);
        hold(100);
        let row = of_function(&server, "hold_shm").expect("1: everything is sampled");
        let missed = 100 - number(&row, "samples");
        assert!(
            (0..=16).contains(&missed),
            "the change counts within 16 KiB: {row}"
        );
        server.rpc("mgtest.release", json!([]));
        assert_eq!(
            of_function(&server, "hold_shm"),
            None,
            "what was given back is gone"
        );
        set_sampling(&server, 10_000);
        hold(4000);
        let row = of_function(&server, "hold_shm").expect("some are sampled");
        // some 380 of 4000 blocks, each for about 10 of them; 6 standard deviations of the sum are 30 %
        let live = number(&row, "live_bytes");
        assert!(
            (2_800_000..5_600_000).contains(&live),
            "4,000,000 live: {row}"
        );
        assert!((200..700).contains(&number(&row, "samples")), "{row}");
        assert_eq!(
            (word(&row, "pool"), word(&row, "module")),
            ("shm", "mgtest"),
            "{row}"
        );
        let index = number(&server.rpc("mgtest.shm_info", json!([])), "index");
        let of_worker = paths(
            &server,
            json!(["worker", index, "module", "mgtest", "top", 1]),
        );
        assert_eq!(of_worker[0]["live_bytes"], live, "the worker that took it");
        let of_other = paths(&server, json!(["worker", 1, "module", "mgtest"]));
        assert!(
            of_other.iter().all(|row| row["function"] != "hold_shm"),
            "{of_other:?}"
        );
        let code = |words| {
            server
                .try_rpc("memguard.paths", words)
                .expect_err("not accepted")
                .code
        };
        assert_eq!(
            (code(json!(["by", "live"])), code(json!(["worker", 400]))),
            (400, 404)
        );
        server.rpc("mgtest.release", json!([]));
        assert_eq!(of_function(&server, "hold_shm"), None);
        assert_shm_books(&server, "at the end");
    });
}

#[test]
fn paths_rank_what_grows_first_and_say_how_fast() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .with_mgtest()
            .param("sample_bytes", 1)
            .config(|c| c.before = "mgtest_forget_xavp(\"a value of some length\");".into())
            .start();
        let client = server.udp();
        let mut first = Value::Null;
        let is_first = holds_within(Duration::from_secs(60), || {
            for _ in 0..5 {
                client.request(&Request::options());
            }
            first = paths(&server, json!(["top", 1])).pop().unwrap_or_default();
            first["growth"].as_f64() > Some(0.0) && first["function"] == pair.kamailio.xavp_maker()
        });
        assert!(is_first, "{first}");
    });
}

#[test]
fn paths_of_receiver_threads_and_their_workers_change_no_book() {
    for_each_pair(|pair| {
        if pair.kamailio.version.starts_with("5.") {
            return; // threads came with 6.0
        }
        let server = Server::registrar(pair)
            .shm_mb(32)
            .param("sample_bytes", 1)
            .config(|c| {
                c.global("udp_receiver_mode=1");
                c.global("async_workers_group=\"name=udp;workers=3;nonblock=0;usleep=0\"");
                c.param("usrloc", "timer_interval", 1)
                    .param("registrar", "min_expires", 1);
            })
            .start();
        let client = server.udp();
        let users = (0..1500).map(|i| Request::register(&format!("user{i}")));
        let all = client.flood(users, 16, |_, _, _| ());
        assert_eq!(all.of(200), 1500, "{all:?}");
        assert_shm_books(&server, "with receiver threads");
        assert_pkg_books(&server, "with receiver threads");
        let rows = paths(&server, json!(["module", "usrloc"]));
        assert!(
            rows.iter().any(|row| row["method"] == "REGISTER"),
            "{rows:?}"
        );
    });
}

/// A server whose requests this Python script handles, with every allocation sampled.
fn run_by(script: &Script, pair: &Pair) -> Server {
    Server::registrar(pair)
        .with_mgtest()
        .pkg_mb(16)
        .param("sample_bytes", 1)
        .config(|c| {
            c.module("app_python3");
            c.param("app_python3", "load", script.0.display());
            c.engine = Some("python".into());
        })
        .start()
}

#[test]
fn paths_through_what_a_process_loaded_after_its_fork_show_its_addresses() {
    let script = Script::new("late", PYTHON_LATE);
    for_each_pair(|pair| {
        let server = run_by(&script, pair);
        let row = leaked_through(&server, "parse_params2", 3);
        let path = frames(&row);
        // Another process may have something else there: names would be guesses.
        assert!(path.iter().any(|frame| frame.starts_with("0x")), "{row}");
        for late in ["_ctypes", "libffi"] {
            assert!(!path.iter().any(|frame| frame.starts_with(late)), "{row}");
        }
        let at = |wanted: &str| path.iter().position(|frame| frame.starts_with(wanted));
        assert!(
            at("app_python3").is_some() && at("mgtest mgtest_forget_params") > at("app_python3"),
            "what lies around them is named: {row}"
        );
    });
}

#[test]
fn paths_of_a_python_script_show_the_way_through_the_interpreter() {
    let script = Script::new("script", PYTHON);
    for_each_pair(|pair| {
        let server = run_by(&script, pair);
        let row = leaked_through(&server, "parse_params2", 3);
        let path = frames(&row);
        let at = |wanted: &str| path.iter().position(|frame| frame.starts_with(wanted));
        assert!(
            at("app_python3").is_some() && at("mgtest mgtest_forget_params") > at("app_python3"),
            "{row}"
        );
        assert!(
            path.iter().any(|frame| frame.starts_with("libpython")),
            "{row}"
        );
        assert_eq!(
            row.get("cfg"),
            None,
            "no line of the native configuration is being run: {row}"
        );
        assert_shm_books(&server, "with python");
    });
}

/// A file with the script, gone with the test.
struct Script(PathBuf);

impl Script {
    fn new(name: &str, text: &str) -> Script {
        let name = format!("paths-{name}-{}.py", std::process::id());
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&file, text).expect("the folder for temporary files is writable");
        Script(file)
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

const PYTHON: &str = "
import KSR

def mod_init():
    return kamailio()

class kamailio:
    def child_init(self, rank):
        return 0

    def ksr_request_route(self, msg):
        KSR.mgtest.forget_params('a=1;b=2;c=3')
        KSR.sl.send_reply(200, 'OK')
        return 1
";

/// Every process loads an extension when it starts, and the leak is reached through it.
const PYTHON_LATE: &str = "
import KSR

def mod_init():
    return kamailio()

class kamailio:
    def child_init(self, rank):
        if rank != -127:
            import ctypes
            forget = lambda: KSR.mgtest.forget_params('a=1;b=2;c=3') and None
            self.through_an_extension = ctypes.CFUNCTYPE(None)(forget)
        return 0

    def ksr_request_route(self, msg):
        self.through_an_extension()
        KSR.sl.send_reply(200, 'OK')
        return 1
";
