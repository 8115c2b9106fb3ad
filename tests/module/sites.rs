//! Who holds the memory: sums by place against the managers' books, planted leaks that must be named, healthy servers
//! on which nothing may be called a leak, failures, readers under load.
//! Forbidden here: sleeps where a condition can be awaited; leaks that the script could not have.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::accounting::{assert_pkg_books, assert_shm_books, churn};
use super::guard::{Guarded, SOON, number, rows, word};
use super::harness::sip::Request;
use super::harness::wait::holds_within;
use super::harness::{Server, for_each_pair, until};

/// How long a leak may stay unnamed under [`traffic`].
const NAMED_WITHIN: Duration = Duration::from_secs(60);
/// Between two REGISTERs: 100 per second.
const STEP: Duration = Duration::from_millis(10);

fn sites(server: &Server, words: Value) -> Vec<Value> {
    rows(&server.rpc("memguard.sites", words)).clone()
}

/// REGISTERs of the same 50 users until `condition` holds, which is asked twice per second; whether it came to hold.
fn traffic(server: &Server, limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
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

/// Asserts that the first row of `memguard.sites WORDS` becomes this module and function under traffic.
#[track_caller]
fn assert_named(server: &Server, words: Value, module: &str, function: &str) {
    let mut first = Value::Null;
    let is_named = traffic(server, NAMED_WITHIN, || {
        first = sites(server, words.clone())
            .first()
            .cloned()
            .unwrap_or_default();
        first["module"] == module
            && first["function"] == function
            && first["growth"].as_f64() > Some(0.0)
    });
    assert!(is_named, "{module} {function} is not first, but {first}");
    assert!(
        word(&first, "file").ends_with(".c") && number(&first, "line") > 0,
        "{first}"
    );
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
        let server = Server::registrar(pair)
            .shm_mb(32)
            .pkg_mb(8)
            .with_mgtest()
            .config(|c| {
                c.param("usrloc", "timer_interval", 1).param("registrar", "min_expires", 1);
                c.param("htable", "htable", "t=>size=6;autoexpire=2;");
                c.before = "mgtest_shrink_pkg(\"400\", \"100\"); mgtest_shrink_shm(\"400\", \"100\"); $sht(t=>$ci) = $ci;".into();
            })
            .start();
        assert_sums(&server, "after the start");
        churn(&server);
        assert_sums(&server, "after the churn");
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

#[test]
fn sites_name_an_htable_that_is_filled_without_expiry() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .shm_mb(32)
            .config(|c| {
                c.param("htable", "htable", "t=>size=6;");
                c.before = "$sht(t=>$ci) = $ci;".into();
            })
            .start();
        assert_named(&server, json!(["pool", "shm"]), "htable", "ht_cell_new");
        assert_named(&server, json!([]), "htable", "ht_cell_new");
    });
}

#[test]
fn sites_name_a_module_that_forgets_pkg_in_one_worker_only_and_which_worker_it_is() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .with_mgtest()
            .workers(3)
            .config(|c| c.before = "if ($mgtest(index) == 2) { mgtest_leak_pkg(\"200\"); }".into())
            .start();
        assert_named(&server, json!(["module", "mgtest"]), "mgtest", "w_leak_pkg");
        assert_named(&server, json!([]), "mgtest", "w_leak_pkg");
        let growth = |w: &Value| w["growth"].as_f64().unwrap_or(0.0);
        let workers = server.workers();
        let most = workers
            .iter()
            .max_by(|a, b| growth(a).total_cmp(&growth(b)))
            .expect("there are workers");
        assert_eq!(number(most, "index"), 2, "{most}");
        let per_message = most["growth_per_message"].as_f64().unwrap_or(0.0);
        assert!(
            (150.0..500.0).contains(&per_message),
            "every message of this worker leaks 200 bytes, which fm gives in blocks of up to 416: {most}"
        );
        let healthy = workers.iter().filter(|w| number(w, "index") != 2);
        assert!(
            healthy.clone().all(|w| growth(w) < 50.0),
            "{:?}",
            healthy.collect::<Vec<_>>()
        );
    });
}

#[test]
fn sites_name_a_module_that_forgets_shm() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .with_mgtest()
            .config(|c| c.before = "mgtest_leak_shm(\"100\");".into())
            .start();
        assert_named(&server, json!([]), "mgtest", "w_leak_shm");
    });
}

#[test]
fn sites_name_leaks_in_a_timer_process_and_in_the_rpc_process() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .with_mgtest()
            .config(|c| {
                c.module("rtimer");
                c.param("rtimer", "timer", "name=t;interval=100000u;mode=1;");
                c.param("rtimer", "exec", "timer=t;route=TICK");
                c.routes = "route[TICK] { mgtest_leak_pkg(\"2000\"); }".into();
            })
            .start();
        assert_named(&server, json!([]), "mgtest", "w_leak_pkg");
        let growing = |server: &Server| {
            let workers = server.workers();
            let growth = |w: &Value| w["growth"].as_f64().unwrap_or(0.0);
            let most = workers
                .iter()
                .max_by(|a, b| growth(a).total_cmp(&growth(b)));
            most.map(|w| word(w, "desc").to_owned()).unwrap_or_default()
        };
        assert!(
            growing(&server).to_lowercase().contains("timer"),
            "{}",
            growing(&server)
        );
        // now faster, in the process that answers RPC
        let mut first = Value::Null;
        let mut leaked = 0;
        let is_named = holds_within(NAMED_WITHIN, || {
            server.rpc("mgtest.leak_pkg", json!([500]));
            leaked += 1;
            if leaked % 50 == 0 {
                first = sites(&server, json!(["by", "growth"]))
                    .first()
                    .cloned()
                    .unwrap_or_default();
            }
            first["function"] == "rpc_leak_pkg"
        });
        assert!(is_named, "{first}");
    });
}

#[test]
fn sites_call_no_healthy_worker_a_leak_and_suspect_those_that_leak() {
    for_each_pair(|pair| {
        // Ten samples per second: the rule's ten minutes take one.
        let server = Server::registrar(pair)
            .shm_mb(32)
            .pkg_mb(32) // a full pool would stop the leak
            .with_mgtest()
            .workers(3)
            .param("sample_interval", 100)
            .config(|c| {
                c.param("htable", "htable", "t=>size=6;autoexpire=5;");
                c.before = "$sht(t=>$ci) = $ci;
    if ($proto == \"udp\") { mgtest_leak_pkg(\"40\"); }"
                    .into();
            })
            .start();
        // registrations that rise to a plateau, first fast and then slowly, load that comes and goes
        let (client, mut tcp) = (server.udp(), server.tcp());
        let start = Instant::now();
        let mut suspected_after = None;
        let mut registered = 0;
        until(
            Duration::from_secs(150),
            "the leaking worker is suspected",
            || {
                let wave = 20 + (start.elapsed().as_secs() / 8 % 3) as usize * 60;
                let users: Vec<Request> = (0..wave)
                    .map(|i| {
                        registered += usize::from(registered < 3000);
                        Request::register(&format!(
                            "user{}",
                            if i % 4 == 0 { registered } else { i }
                        ))
                    })
                    .collect();
                client.flood(users.iter().cloned(), 16, |_, _, _| ());
                for user in users.iter().take(20) {
                    tcp.request(user);
                }
                for worker in server
                    .workers()
                    .iter()
                    .filter(|w| word(w, "leak") != "none")
                {
                    assert!(word(worker, "desc").starts_with("udp receiver"), "{worker}");
                    suspected_after = Some(start.elapsed());
                }
                suspected_after.is_some()
            },
        );
        let after = suspected_after.unwrap_or_default();
        assert!(
            after > Duration::from_secs(55),
            "not before eleven windows of 60 samples: {after:?}"
        );
        let leaking = server.rpc("memguard.workers", json!(["leaking"]));
        assert!(
            !rows(&leaking).is_empty() && rows(&leaking).len() <= 3,
            "{leaking}"
        );
        assert!(number(&server.status(), "workers_leaking") >= 1);
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

#[test]
fn sites_a_reader_under_load_never_sees_an_impossible_row() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair).start();
        let size = number(&server.pool("shm"), "size") + 64 * number(&server.pool("pkg"), "size");
        let (mut last, mut looks) = (std::collections::HashMap::new(), 0);
        traffic(&server, Duration::from_secs(15), || {
            for _ in 0..5 {
                for row in sites(&server, json!(["top", 400])) {
                    if row.get("truncated").is_some() {
                        continue;
                    }
                    let n = |field| number(&row, field);
                    assert!((0..size).contains(&n("live_bytes")), "{row}");
                    assert!(
                        n("live_bytes") <= n("allocated_bytes")
                            && n("live_blocks") <= n("allocations"),
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
                looks += 1;
            }
            false
        });
        assert!(looks >= 100, "{looks}");
    });
}

#[test]
fn sites_marks_show_what_was_gained_since_and_filters_are_kept() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair).with_mgtest().start();
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
