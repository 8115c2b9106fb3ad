//! Who holds the memory: sums by place against the managers' books and their drift, marks, failures, readers under load.
//! Forbidden here: sleeps where a condition can be awaited; planted leaks (those are `leaks`').

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::accounting::{assert_pkg_books, assert_shm_books, churn};
use super::guard::{Guarded, SOON, number, rows, word};
use super::harness::builder::Folder;
use super::harness::sip::Request;
use super::harness::wait::holds_within;
use super::harness::{Server, for_each_pair, for_each_pair_at_once, until};

/// Between two REGISTERs: 100 per second.
const STEP: Duration = Duration::from_millis(10);

pub fn sites(server: &Server, words: Value) -> Vec<Value> {
    rows(&server.rpc("memguard.sites", words)).clone()
}

/// REGISTERs of the same 50 users until `condition` holds, which is asked twice per second; whether it came to hold.
pub fn traffic(server: &Server, limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let client = server.udp();
    let start = Instant::now();
    let users: Vec<Request> = (0..50)
        .map(|i| Request::register(&format!("user{i}")))
        .collect();
    for round in 0u32.. {
        let due = start + STEP * round;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        // A new Call-ID each time, as phones that restarted have.
        let user = &users[round as usize % users.len()];
        let fresh = Request {
            contacts: user.contacts.clone(),
            aor: user.aor.clone(),
            ..Request::register("x")
        };
        client.send_raw(&client.bytes(&fresh));
        if round % 50 == 49 {
            if condition() {
                return true;
            }
            if start.elapsed() > limit {
                return false;
            }
        }
        while client.receive_raw(Duration::from_micros(1)).is_some() {}
    }
    false
}

/// The sum of `live_bytes` over the modules of a pool, of all processes or of one.
fn sum(server: &Server, words: Value) -> i64 {
    let modules = server.rpc("memguard.modules", words);
    rows(&modules).iter().map(|m| number(m, "live_bytes")).sum()
}

#[track_caller]
fn assert_sums(server: &Server, when: &str) {
    assert_shm_books(server, when);
    assert_pkg_books(server, when);
    until(
        SOON,
        &format!("{when}: shm by place is what is live"),
        || sum(server, json!(["pool", "shm"])) == number(&server.pool("shm"), "live"),
    );
    for index in server.workers().iter().map(|w| number(w, "index")) {
        let mut both = (0, 0);
        let is_equal = holds_within(SOON, || {
            let worker = server.rpc("memguard.workers", json!(["index", index]));
            both = (
                sum(server, json!(["pool", "pkg", "worker", index])),
                number(&rows(&worker)[0], "pkg_live"),
            );
            both.0 == both.1
        });
        assert!(
            is_equal,
            "{when}: worker {index}: by place {}, live {}",
            both.0, both.1
        );
    }
}

#[test]
fn sites_add_up_to_what_is_live_in_every_process_after_every_kind_of_traffic() {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "reloads");
        let list = folder.file("destinations").display().to_string();
        let lines: String = (1..200)
            .map(|i| format!("{} sip:127.0.0.1:{}\n", i % 9, 20_000 + i))
            .collect();
        std::fs::write(&list, lines).expect("the folder for temporary files is writable");
        let server = Server::registrar(pair)
            .shm_mb(32)
            .pkg_mb(8)
            .with_mgtest()
            .config(|c| {
                c.param("usrloc", "timer_interval", 1).param("registrar", "min_expires", 1);
                c.param("htable", "htable", "t=>size=6;autoexpire=2;");
                c.module("dispatcher");
                c.param("dispatcher", "list_file", &list).param("dispatcher", "reload_delta", 0);
                c.before = "mgtest_shrink_pkg(\"400\", \"100\"); mgtest_shrink_shm(\"400\", \"100\"); $sht(t=>$ci) = $ci;".into();
            })
            .start();
        assert_sums(&server, "after the start");
        churn(&server);
        assert_sums(&server, "after the churn");
        for _ in 0..30 {
            server.rpc("dispatcher.reload", json!([]));
        }
        assert_sums(&server, "after the reloads");
        server.rpc("mgtest.fill_shm", json!([2000]));
        server.rpc("mgtest.release", json!([]));
        assert_sums(&server, "after shm was full");
    });
}

#[test]
fn sites_agree_with_kamailios_own_list_of_blocks() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair).config(|c| {
            // only processes of their own come and go meanwhile
            c.param("usrloc", "timer_interval", 600);
        });
        let server = server.start();
        churn(&server);
        let mut seen = (Vec::new(), Vec::new());
        let agree = holds_within(SOON, || {
            let ours = server.rpc("memguard.modules", json!(["pool", "shm"]));
            let names = ["usrloc", "tm", "htable", "registrar"];
            let live = |name: &str| {
                let row = rows(&ours).iter().find(|m| m["module"] == name);
                row.map_or(0, |m| number(m, "live_bytes"))
            };
            seen = (
                names.map(live).to_vec(),
                names.map(|name| their_total(&server, name)).to_vec(),
            );
            seen.0 == seen.1
        });
        assert!(agree, "memguard {:?}, mod.stats {:?}", seen.0, seen.1);
        assert!(
            seen.0[0] > 100_000,
            "usrloc holds registrations: {:?}",
            seen.0
        );
    });
}

/// What mod.stats counts for a module in shm, walking the pool.
fn their_total(server: &Server, module: &str) -> i64 {
    let answer = server.rpc("mod.stats", json!([module, "shm"]));
    let total = rows(&answer).iter().find_map(|part| part["Total"].as_i64());
    total.unwrap_or(0)
}

/// The line of tests/module/leaky/mgtest.c that holds this text.
fn line_of(text: &str) -> i64 {
    let source = include_str!("leaky/mgtest.c");
    let at = source.lines().position(|line| line.contains(text));
    at.expect("mgtest.c has the line") as i64 + 1
}

#[test]
fn sites_name_the_places_whose_reallocs_make_the_books_drift_and_call_none_of_it_a_leak() {
    for_each_pair(|pair| {
        const SHRINKS: i64 = 300;
        let server = Server::registrar(pair)
            .with_mgtest()
            .workers(1)
            .config(|c| c.before = "if (is_method(\"OPTIONS\")) { mgtest_shrink_pkg(\"4000\", \"800\"); mgtest_shrink_shm(\"4000\", \"800\"); }".into())
            .start();
        let client = server.udp();
        for _ in 0..SHRINKS {
            assert_eq!(client.request(&Request::options()).code, 200);
        }
        // Each block was as large as the manager gave it, and had 800 bytes when it was freed.
        let forgotten = |row: &Value| number(row, "allocated_bytes") - SHRINKS * 800;
        let forgets = pair.manager == "qm"; // both packaged versions (fixed in 5.8.8 and 6.0.6)
        for (pool, function, call) in [
            ("pkg", "w_shrink_pkg", "block = pkg_malloc((size_t)from)"),
            ("shm", "w_shrink_shm", "block = shm_malloc((size_t)from)"),
        ] {
            let mut seen = Value::Null;
            let is_so = holds_within(SOON, || {
                let all = sites(&server, json!(["pool", pool, "by", "drift", "top", 400]));
                // The last row may say how many were cut off: those have none.
                let sum: i64 = all
                    .iter()
                    .filter(|row| row.get("truncated").is_none())
                    .map(|row| number(row, "unbooked"))
                    .sum();
                seen = all.first().cloned().unwrap_or_default();
                match (forgets, pool) {
                    (false, _) => sum == 0,
                    (true, "shm") => {
                        word(&seen, "function") == function
                            && sum == number(&server.pool("shm"), "unbooked")
                            && sum == number(&server.pool("shm"), "drift")
                    }
                    (true, _) => word(&seen, "function") == function,
                }
            });
            assert!(is_so, "{pool}: {seen}, {}", server.pool(pool));
            if forgets {
                assert!(word(&seen, "file").ends_with("mgtest.c"), "{seen}");
                assert_eq!(number(&seen, "line"), line_of(call), "{seen}");
                assert_eq!(number(&seen, "allocations"), SHRINKS, "{seen}");
                assert_eq!(number(&seen, "unbooked"), forgotten(&seen), "{seen}");
                assert!(number(&seen, "unbooked") >= SHRINKS * 3200, "{seen}");
                assert_eq!(number(&seen, "live_bytes"), 0, "drift is not live: {seen}");
            }
        }
        if forgets {
            let own = sites(
                &server,
                json!(["worker", 1, "pool", "pkg", "by", "drift", "top", 1]),
            );
            assert_eq!(number(&own[0], "unbooked"), forgotten(&own[0]), "{own:?}");
            let other = sites(&server, json!(["worker", 2, "by", "drift", "top", 5]));
            assert!(
                !other.iter().any(|row| row["module"] == "mgtest"),
                "it is worker 1's alone: {other:?}"
            );
        }
        let leaks: Vec<Value> = server
            .workers()
            .into_iter()
            .filter(|w| word(w, "leak") != "none")
            .collect();
        assert!(leaks.is_empty(), "{leaks:?}");
    });
}

#[test]
fn sites_failures_name_the_place_the_size_and_the_worker() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair).with_mgtest().start();
        let none = server.rpc("memguard.failures", json!([]));
        assert!(rows(&none).is_empty(), "{none}");
        server.rpc("mgtest.fill_shm", json!([4000]));
        let index = number(&server.rpc("mgtest.shm_info", json!([])), "index");
        let all = server.rpc("memguard.failures", json!([]));
        let row = rows(&all)
            .iter()
            .find(|r| r["function"] == "hold_shm")
            .cloned()
            .unwrap_or_default();
        assert_eq!(
            (
                word(&row, "pool"),
                word(&row, "module"),
                number(&row, "worker")
            ),
            ("shm", "mgtest", index),
            "{row}"
        );
        assert_eq!(
            number(&row, "size_max"),
            1 << 24,
            "the largest piece that was tried: {row}"
        );
        assert!(
            number(&row, "count") > 3 && number(&row, "first") > 1_600_000_000,
            "{row}"
        );
        assert!(number(&row, "last") >= number(&row, "first"), "{row}");
        let by_failures = sites(&server, json!(["by", "failures", "top", 1]));
        assert_eq!(by_failures[0]["function"], "hold_shm");
        assert_eq!(number(&by_failures[0], "failures"), number(&row, "count"));
        server.rpc("mgtest.release", json!([]));
    });
}

/// How long the reader looks; `./dev leaks` makes it longer.
fn reading_time() -> Duration {
    Duration::from_secs(super::leaks::long_seconds().map_or(8, |s| s.min(60)))
}

/// CPU nanoseconds that the SIP workers have used: first number of /proc/PID/schedstat (kernel: sched-stats).
fn workers_cpu(workers: &[i32]) -> f64 {
    let of = |pid: &i32| -> f64 {
        let path = format!("/proc/{pid}/schedstat");
        let text = std::fs::read_to_string(path).expect("the worker lives");
        let first = text.split(' ').next().and_then(|n| n.parse().ok());
        first.expect("a number comes first")
    };
    workers.iter().map(of).sum()
}

/// Asserts what must hold in each row at any moment; `last` are the allocations of the look before.
fn look(server: &Server, size: i64, last: &mut HashMap<String, i64>) {
    for row in sites(server, json!(["top", 400])) {
        if row.get("truncated").is_some() {
            continue;
        }
        let n = |field| number(&row, field);
        assert!((0..size).contains(&n("live_bytes")), "{row}");
        assert!(
            n("live_bytes") <= n("allocated_bytes") && n("live_blocks") <= n("allocations"),
            "{row}"
        );
        let place = format!(
            "{}{}{}{}",
            row["pool"], row["file"], row["line"], row["function"]
        );
        let before = last.insert(place, n("allocations")).unwrap_or(0);
        assert!(
            n("allocations") >= before,
            "{row} had {before} allocations before"
        );
    }
}

#[test]
fn sites_a_reader_under_full_load_sees_no_impossible_row_and_costs_the_workers_nothing() {
    const BATCH: usize = 1000;
    for_each_pair_at_once(|pair| {
        let server = Server::registrar(pair).start();
        let size = number(&server.pool("shm"), "size") + 64 * number(&server.pool("pkg"), "size");
        let processes = server.processes();
        let is_worker = |what: &str| what.starts_with("udp receiver");
        let workers = processes.iter().filter(|(_, _, what)| is_worker(what));
        let workers: Vec<i32> = workers.map(|(_, pid, _)| *pid).collect();
        let mut users: Vec<Request> = (0..BATCH)
            .map(|i| Request::register(&format!("user{i}")))
            .collect();
        let client = server.udp();
        let (mut last, mut looks) = (HashMap::new(), 0);
        // Nanoseconds per REGISTER without and with the reader, batch by batch in turn.
        let mut spent = [Vec::new(), Vec::new()];
        let end = Instant::now() + reading_time();
        client.flood(users.iter().cloned(), 16, |_, _, _| ());
        while Instant::now() < end || spent[1].len() < 5 {
            for is_read in [false, true] {
                users = users.iter().map(Request::next).collect();
                let is_over = AtomicBool::new(false);
                let before = workers_cpu(&workers);
                std::thread::scope(|scope| {
                    if is_read {
                        scope.spawn(|| {
                            // ORDERING: Relaxed; only the flag itself counts.
                            while !is_over.load(Ordering::Relaxed) {
                                look(&server, size, &mut last);
                                looks += 1;
                                std::thread::sleep(Duration::from_millis(100));
                            }
                        });
                    }
                    let all = client.flood(users.iter().cloned(), 16, |_, _, _| ());
                    assert_eq!(all.of(200), BATCH, "{all:?}");
                    is_over.store(true, Ordering::Relaxed);
                });
                spent[usize::from(is_read)].push((workers_cpu(&workers) - before) / BATCH as f64);
            }
        }
        let [without, with] = spent.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        });
        println!(
            "{looks} looks; CPU per REGISTER {without:.0} ns without, {with:.0} ns with the reader"
        );
        assert!(looks >= 5, "{looks}");
        assert!(
            with < 1.2 * without,
            "CPU per REGISTER: {without:.0} ns without, {with:.0} ns with the reader"
        );
    });
}

#[test]
fn sites_marks_show_what_was_gained_since_and_filters_are_kept() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair).with_mgtest().start();
        // What the processes take for themselves while they begin is no gain since a mark.
        until(SOON, "the server has begun", || {
            number(&server.rpc("memguard.status", json!([])), "uptime") >= 2
        });
        let fault = server
            .try_rpc("memguard.diff", json!(["none-such"]))
            .expect_err("there is no mark");
        assert_eq!(fault.code, 404, "{fault:?}");
        server.rpc("memguard.mark", json!(["before"]));
        server.rpc("mgtest.hold_shm", json!([1000, 50]));
        let diff = server.rpc("memguard.diff", json!(["before", "top", 1]));
        let row = &rows(&diff["rows"])[0];
        assert_eq!(
            (word(row, "function"), number(row, "blocks")),
            ("hold_shm", 50),
            "{diff}"
        );
        assert!((50_000..56_000).contains(&number(row, "bytes")), "{row}");
        // another process sees the same mark
        let text = server
            .kamcmd(&["memguard.diff", "before"])
            .expect("kamcmd is answered");
        assert!(text.contains("hold_shm"), "{text}");

        for row in sites(&server, json!(["pool", "shm", "module", "usrloc"])) {
            assert_eq!(
                (word(&row, "pool"), word(&row, "module")),
                ("shm", "usrloc"),
                "{row}"
            );
        }
        assert_eq!(sites(&server, json!(["top", 3])).len(), 3);
        let live: Vec<i64> = sites(&server, json!(["by", "live"]))
            .iter()
            .map(|r| number(r, "live_bytes"))
            .collect();
        assert!(
            live.is_sorted_by(|a, b| a >= b) && live.len() == 20,
            "{live:?}"
        );
        let code = |words| {
            server
                .try_rpc("memguard.sites", words)
                .expect_err("not accepted")
                .code
        };
        assert_eq!(
            (code(json!(["by", "size"])), code(json!(["worker", 400]))),
            (400, 404)
        );
    });
}

#[test]
fn sites_are_off_with_attribution_0_and_totals_stay() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair).param("attribution", 0).start();
        let fault = server
            .try_rpc("memguard.sites", json!([]))
            .expect_err("places are not counted");
        assert_eq!(fault.code, 500, "{fault:?}");
        churn(&server);
        assert_shm_books(&server, "without places");
    });
}
