//! Planted leaks, each of which must become the first row of `memguard.sites` and show in its worker; and healthy
//! servers on which nothing may be called a leak.
//! Forbidden here: sleeps where a condition can be awaited; leaks that a script or a module could not have.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::guard::{Guarded, number, rows, word};
use super::harness::builder::Builder;
use super::harness::sip::Request;
use super::harness::wait::holds_within;
use super::harness::{Server, for_each_pair_at_once, until};
use super::sites::{sites, traffic};

/// How long a leak may stay unnamed under 100 REGISTERs per second.
const NAMED_WITHIN: Duration = Duration::from_secs(60);

/// Seconds that `./dev leaks` gives what takes long; without it the tests stop at the suspicion.
pub fn long_seconds() -> Option<u64> {
    let given = std::env::var("MEMGUARD_LEAK_SECONDS").ok()?;
    Some(
        given
            .parse()
            .expect("MEMGUARD_LEAK_SECONDS is a number of seconds"),
    )
}

fn growth(row: &Value) -> f64 {
    row["growth"].as_f64().unwrap_or(0.0)
}

/// Asserts that the first row of `memguard.sites` becomes this module and function under traffic, and answers it.
#[track_caller]
fn named(server: &Server, module: &str, function: &str) -> Value {
    let mut first = Value::Null;
    let is_named = traffic(server, NAMED_WITHIN, || {
        first = sites(server, json!(["top", 1]))
            .first()
            .cloned()
            .unwrap_or_default();
        first["module"] == module && first["function"] == function && growth(&first) > 0.0
    });
    assert!(is_named, "{module} {function} is not first, but {first}");
    assert!(
        word(&first, "file").ends_with(".c") && number(&first, "line") > 0,
        "{first}"
    );
    first
}

/// The worker that grows most.
fn fastest(server: &Server) -> Value {
    let workers = server.workers();
    let most = workers
        .iter()
        .max_by(|a, b| growth(a).total_cmp(&growth(b)));
    most.expect("there are workers").clone()
}

#[test]
fn leaks_an_htable_that_is_filled_without_expiry_is_named() {
    for_each_pair_at_once(|pair| {
        let server = Server::registrar(pair)
            .shm_mb(32)
            .config(|c| {
                c.param("htable", "htable", "t=>size=6;");
                c.before = "$sht(t=>$ci) = $ci;".into();
            })
            .start();
        let row = named(&server, "htable", "ht_cell_new");
        assert_eq!(word(&row, "pool"), "shm");
        // 100 REGISTERs per second, and each keeps a cell of some 100 bytes.
        for field in ["growth_per_message", "growth_per_register"] {
            let per = row[field].as_f64().unwrap_or(0.0);
            assert!((50.0..400.0).contains(&per), "{field}: {row}");
        }
    });
}

#[test]
fn leaks_a_script_variable_that_is_appended_to_is_named() {
    for_each_pair_at_once(|pair| {
        let server = Server::registrar(pair)
            .workers(1)
            .config(|c| c.before = "$var(all) = \"+\" + $var(all) + $ci;".into())
            .start();
        let row = named(&server, "pv", "set_var_value");
        assert_eq!(word(&row, "pool"), "pkg");
    });
}

#[test]
fn leaks_avps_of_an_event_route_are_named_with_its_line() {
    for_each_pair_at_once(|pair| {
        // AVPs end with the message that is being handled; in the timer process, which runs this route, none is: what
        // it assigns stays (htable's ht_handle_expired_record).
        let server = Server::registrar(pair)
            .param("sample_bytes", 4096)
            .config(|c| {
                c.param("htable", "htable", "calls=>size=6;autoexpire=1;")
                    .param("htable", "timer_interval", 1);
                c.before = "$sht(calls=>$ci) = $ci;".into();
                c.routes = "
event_route[htable:expired:calls] {
    $avp(last) = $shtrecord(key);
}
"
                .into();
            })
            .start();
        let row = named(&server, "core", "create_avp");
        assert_eq!(
            (word(&row, "pool"), word(&row, "file")),
            ("shm", "core/usr_avp.c"),
            "{row}"
        );
        // The place is the core's; the culprit is on the path, and its line beside it.
        let mut path = Value::Null;
        let is_first = traffic(&server, NAMED_WITHIN, || {
            let all = server.rpc("memguard.paths", json!(["pool", "shm", "top", 1]));
            path = rows(&all).first().cloned().unwrap_or_default();
            path["function"] == "create_avp"
        });
        assert!(is_first, "{path}");
        assert!(path["path"].to_string().contains("\"htable "), "{path}");
        let cfg = word(&path, "cfg");
        assert!(cfg.ends_with("route[htable:expired:calls]"), "{path}");
        // Nobody but the timer that runs the route.
        let mut holders = server.processes().into_iter().filter(|(index, _, _)| {
            let own = sites(
                &server,
                json!(["worker", index, "module", "core", "top", 200]),
            );
            own.iter()
                .any(|row| row["function"] == "create_avp" && number(row, "live_bytes") > 1000)
        });
        let (holder, others) = (holders.next(), holders.next());
        assert!(
            others.is_none()
                && holder
                    .as_ref()
                    .is_some_and(|h| h.2.to_lowercase().contains("timer")),
            "{holder:?}, {others:?}"
        );
    });
}

#[test]
fn leaks_a_module_that_forgets_pkg_in_one_worker_is_named_with_that_worker() {
    for_each_pair_at_once(|pair| {
        let server = Server::registrar(pair)
            .with_mgtest()
            .workers(3)
            .config(|c| c.before = "if ($mgtest(index) == 2) { mgtest_leak_pkg(\"200\"); }".into())
            .start();
        named(&server, "mgtest", "w_leak_pkg");
        let worker = fastest(&server);
        assert_eq!(number(&worker, "index"), 2, "{worker}");
        let per_message = worker["growth_per_message"].as_f64().unwrap_or(0.0);
        assert!(
            (150.0..500.0).contains(&per_message),
            "every message of this worker leaks 200 bytes, which fm gives in blocks of up to 416: {worker}"
        );
        for worker in server.workers().iter().filter(|w| number(w, "index") != 2) {
            assert!(growth(worker) < 50.0, "{worker}");
        }
        // The worker's own places: the leak is its first row, per REGISTER too, and in no other worker's rows.
        let own = |index| sites(&server, json!(["worker", index, "top", 3]));
        let mut row = Value::Null;
        let is_named = traffic(&server, NAMED_WITHIN, || {
            row = own(2).first().cloned().unwrap_or_default();
            row["function"] == "w_leak_pkg"
        });
        assert!(is_named, "{row}");
        for field in ["growth_per_message", "growth_per_register"] {
            let per = row[field].as_f64().unwrap_or(0.0);
            assert!((150.0..500.0).contains(&per), "{field}: {row}");
        }
        assert!(row.get("growth_10m").is_none(), "{row}");
        for other in [1, 3] {
            let is_leak = |row: &Value| row["function"] == "w_leak_pkg";
            assert!(!own(other).iter().any(is_leak), "worker {other}");
        }
    });
}

#[test]
fn leaks_a_module_that_forgets_shm_is_named() {
    for_each_pair_at_once(|pair| {
        let server = Server::registrar(pair)
            .with_mgtest()
            .config(|c| c.before = "mgtest_leak_shm(\"100\");".into())
            .start();
        named(&server, "mgtest", "w_leak_shm");
    });
}

#[test]
fn leaks_in_a_timer_process_and_in_the_rpc_process_are_named() {
    for_each_pair_at_once(|pair| {
        let server = Server::registrar(pair)
            .with_mgtest()
            .config(|c| {
                c.module("rtimer");
                c.param("rtimer", "timer", "name=t;interval=100000u;mode=1;");
                c.param("rtimer", "exec", "timer=t;route=TICK");
                c.routes = "route[TICK] { mgtest_leak_pkg(\"2000\"); }".into();
            })
            .start();
        named(&server, "mgtest", "w_leak_pkg");
        let worker = fastest(&server);
        assert!(
            word(&worker, "desc").to_lowercase().contains("timer"),
            "{worker}"
        );
        // Now faster, in the process that answers RPC.
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

/// Registrations that rise fast and then slowly to a plateau, load that comes and goes, a table that fills and
/// expires; ten samples per second, so that the rule's ten minutes take one.
fn healthy(builder: Builder) -> Builder {
    builder
        .shm_mb(32)
        .pkg_mb(long_seconds().map_or(32, |_| 256)) // a full pool would stop the leak
        .with_mgtest()
        .workers(3)
        .param("sample_interval", 100)
        .config(|c| {
            c.param("htable", "htable", "t=>size=6;autoexpire=5;");
            c.before =
                "$sht(t=>$ci) = $ci;\n    if ($mgtest(index) == 2) { mgtest_leak_pkg(\"40\"); }"
                    .into();
        })
}

/// Traffic as [`healthy`] says, until `condition` holds; it is asked after each wave.
fn live_healthily(server: &Server, limit: Duration, mut condition: impl FnMut() -> bool) {
    let (client, mut tcp) = (server.udp(), server.tcp());
    let start = Instant::now();
    let mut registered = 0;
    until(limit, "what is waited for under traffic", || {
        let wave = 20 + (start.elapsed().as_secs() / 8 % 3) as usize * 60;
        let users: Vec<Request> = (0..wave)
            .map(|i| {
                registered += usize::from(registered < 3000);
                Request::register(&format!("user{}", if i % 4 == 0 { registered } else { i }))
            })
            .collect();
        client.flood(users.iter().cloned(), 16, |_, _, _| ());
        for user in users.iter().take(20) {
            tcp.request(user);
        }
        condition()
    });
}

/// Workers that are called leaking now, with what they are called.
fn called(server: &Server) -> Vec<(i64, String)> {
    let leaking = server.rpc("memguard.workers", json!(["leaking"]));
    rows(&leaking)
        .iter()
        .map(|w| (number(w, "index"), word(w, "leak").to_owned()))
        .collect()
}

#[test]
fn leaks_are_suspected_in_the_worker_that_leaks_and_in_no_healthy_one() {
    for_each_pair_at_once(|pair| {
        let server = healthy(Server::registrar(pair)).start();
        let start = Instant::now();
        live_healthily(&server, Duration::from_secs(150), || {
            let called = called(&server);
            assert!(called.iter().all(|(index, _)| *index == 2), "{called:?}");
            !called.is_empty()
        });
        let after = start.elapsed();
        assert!(
            after > Duration::from_secs(55),
            "not before eleven windows of 60 samples: {after:?}"
        );
        assert_eq!(number(&server.status(), "workers_leaking"), 1);
        assert_eq!(called(&server), [(2, "suspected".to_owned())]);
        let Some(seconds) = long_seconds() else {
            return;
        };
        // Eleven windows of 300 samples: 55 minutes at the usual interval, five and a half here.
        live_healthily(&server, Duration::from_secs(seconds), || {
            let called = called(&server);
            assert!(called.iter().all(|(index, _)| *index == 2), "{called:?}");
            called == [(2, "confirmed".to_owned())]
        });
        let after = start.elapsed();
        assert!(after > Duration::from_secs(300), "{after:?}");
    });
}
