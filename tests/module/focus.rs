//! Small leaks: a place that rises comes into focus, and its call path and configuration line are known within a minute;
//! what is held stays told without bias while places come into focus and leave it.
//! Forbidden here: leaks so large that the usual sampling finds them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::accounting::assert_shm_books;
use super::guard::{number, rows, word};
use super::harness::sip::Request;
use super::harness::wait::holds_within;
use super::harness::{Server, for_each_pair_at_once, until};
use super::paths::line_of;
use super::sites::sites;

const SCRIPT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/module/kemi/keeps_cells.py"
);
/// From the first message on.
const NAMED_WITHIN: Duration = Duration::from_secs(60);
/// 100 messages per second, of which each leak takes one.
const STEP: Duration = Duration::from_millis(10);
const PER_SECOND: usize = 100;

/// Each leak by the header that asks for it, its call in the configuration, and what its path must lead through.
const LEAKS: [(&str, &str, &str); 3] = [
    ("module", "mgtest_forget_xavp(", "mgtest mgtest_forget_xavp"),
    ("native", "$sht(t=>$ci) =", "core lval_assign"),
    ("python", "python_exec(", "app_python3"),
];

/// The row of `memguard.paths` that one of the leaks has: path and line, and it grows.
fn path_of(
    server: &Server,
    all: &[Value],
    (_, call, through): (&str, &str, &str),
) -> Option<Value> {
    let line = format!("kamailio.cfg:{} route[KEEPS]", line_of(server, call));
    let is_it = |row: &&Value| {
        let frames = row["path"].as_array().into_iter().flatten();
        let mut frames = frames.filter_map(Value::as_str);
        word(row, "pool") == "shm"
            && row["growth"].as_f64() > Some(0.0)
            && row["cfg"]
                .as_str()
                .is_some_and(|cfg| cfg.trim_start_matches('~') == line)
            && frames.any(|frame| frame.starts_with(through))
    };
    all.iter().find(is_it).cloned()
}

#[test]
fn focus_names_path_and_line_of_leaks_of_100_bytes_a_second_within_a_minute() {
    for_each_pair_at_once(|pair| {
        let server = Server::registrar(pair)
            .with_mgtest()
            .environment("PYTHONDONTWRITEBYTECODE", "1")
            .config(|c| {
                c.module("app_python3").param("app_python3", "load", SCRIPT);
                c.param("htable", "htable", "t=>size=6;");
                c.before = "route(KEEPS);".into();
                c.routes = "
route[KEEPS] {
    if ($hdr(X-Keep) == \"module\") {
        mgtest_forget_xavp(\"a value of some length\");
    }
    if ($hdr(X-Keep) == \"native\") {
        $sht(t=>$ci) = \"a value of some length\";
    }
    if ($hdr(X-Keep) == \"python\") {
        python_exec(\"keep\");
    }
}
"
                .into();
            })
            .start();
        let client = server.udp();
        let start = Instant::now();
        let mut all = Vec::new();
        for round in 0.. {
            std::thread::sleep((start + STEP * round).saturating_duration_since(Instant::now()));
            let request = Request::options();
            let request = match LEAKS.get(round as usize % PER_SECOND / 10) {
                Some((kind, ..)) if round % 10 == 0 => request.header(&format!("X-Keep: {kind}")),
                _ => request,
            };
            client.send_raw(&client.bytes(&request));
            while client.receive_raw(Duration::from_micros(1)).is_some() {}
            if round as usize % PER_SECOND == 0 {
                all =
                    rows(&server.rpc("memguard.paths", json!(["pool", "shm", "top", 60]))).clone();
                if LEAKS
                    .iter()
                    .all(|leak| path_of(&server, &all, *leak).is_some())
                {
                    break;
                }
            }
            let missing = || LEAKS.map(|leak| path_of(&server, &all, leak).is_some());
            let in_focus = || sites(&server, json!(["by", "growth", "top", 12]));
            assert!(
                start.elapsed() < NAMED_WITHIN,
                "{:?} of {LEAKS:?}: {all:#?}; {:#?}",
                missing(),
                in_focus()
            );
        }
        // no more than some hundred blocks of each: far from what the usual sampling would find
        let first = &sites(&server, json!(["top", 1]))[0];
        assert!(
            ["ht_cell_new", pair.kamailio.xavp_maker()].contains(&word(first, "function")),
            "{first}"
        );
        assert_eq!(
            number(first, "focus"),
            1,
            "every allocation is noted: {first}"
        );
        assert!(number(first, "live_bytes") < 50_000, "{first}");
        for leak in LEAKS {
            let row = path_of(&server, &all, leak).expect("it was there");
            assert_eq!(word(&row, "method"), "OPTIONS", "{row}");
        }
        let focused = sites(&server, json!(["top", 500]));
        let focused = focused.iter().filter(|row| row.get("focus").is_some());
        assert!(
            (2..=8).contains(&focused.count()),
            "at most eight at a time"
        );
    });
}

/// What the place that `mgtest.hold_shm` allocates at is told to hold: by the counters, by the paths, and its focus.
fn held(server: &Server) -> (i64, i64, Option<i64>) {
    let is_it = |row: &&Value| row["function"] == "hold_shm";
    let places = sites(
        server,
        json!(["module", "mgtest", "pool", "shm", "top", 50]),
    );
    let place = places.iter().find(is_it).cloned().unwrap_or_default();
    let paths = server.rpc("memguard.paths", json!(["module", "mgtest", "top", 50]));
    let live = rows(&paths)
        .iter()
        .filter(is_it)
        .map(|row| number(row, "live_bytes"));
    (
        place["live_bytes"].as_i64().unwrap_or(0),
        live.sum(),
        place["focus"].as_i64(),
    )
}

#[test]
fn focus_comes_and_goes_and_what_is_held_stays_told_without_bias() {
    for_each_pair_at_once(|pair| {
        let server = Server::registrar(pair)
            .with_mgtest()
            .shm_mb(128) // however much is held until it comes into focus
            .param("sample_bytes", 10_000)
            .config(|c| _ = c.module("cfg_rpc"))
            .start();
        let hold = |count: i64| server.rpc("mgtest.hold_shm", json!([500, count]));
        // Blocks from before it is in focus stand for others; some 200 of 4,000 are noted.
        hold(4000);
        let mut seen = held(&server);
        let mut until_focus = |count: i64, is_it: fn(i64) -> bool| {
            let came = holds_within(Duration::from_secs(60), || {
                std::thread::sleep(Duration::from_millis(50)); // a rate, however quick the machine is
                hold(count);
                seen = held(&server);
                seen.2.is_some_and(is_it)
            });
            assert!(came, "{seen:?}");
        };
        // On a quick machine these are so many allocations a second that they are thinned out; the later ones never.
        until_focus(20, |every| every >= 1);
        for _ in 0..50 {
            hold(20);
        }
        until_focus(2, |every| every == 1);
        let before = held(&server);
        for _ in 0..20 {
            hold(2);
        }
        let after = held(&server);
        assert!(after.0 - before.0 >= 20 * 2 * 500);
        assert_eq!(
            after.1 - before.1,
            after.0 - before.0,
            "each stands for itself: {before:?} {after:?}"
        );
        // by far most of it was noted one in ten or denser; six standard deviations of the sum are 42 % at most
        let ratio = after.1 as f64 / after.0 as f64;
        assert!((0.58..1.42).contains(&ratio), "{after:?}");
        // off is off, at once for what is allocated and within a second or two for who is in focus
        let sample = |bytes: u32| {
            server.rpc(
                "cfg.set_now_int",
                json!(["memguard", "sample_bytes", bytes]),
            )
        };
        sample(0);
        until(Duration::from_secs(20), "sample_bytes 0 ends it", || {
            held(&server).2.is_none()
        });
        let before = held(&server).1;
        hold(10);
        assert_eq!(held(&server).1, before, "nothing is noted any more");
        sample(10_000);
        let is_back = holds_within(Duration::from_secs(20), || {
            hold(2);
            held(&server).2.is_some()
        });
        assert!(is_back, "it still rises");
        server.rpc("mgtest.release", json!([]));
        let (by_places, by_paths, _) = held(&server);
        assert_eq!((by_places, by_paths), (0, 0), "nothing is left");
        until(Duration::from_secs(60), "what does not rise leaves", || {
            held(&server).2.is_none()
        });
        assert_shm_books(&server, "at the end");
    });
}
