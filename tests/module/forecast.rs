//! When and why, in real Kamailio: a leak is announced with its cause and a time that comes true.
//! Forbidden here: simulated memory (tests/forecast_truth.rs).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::guard::{Guarded, SOON, number, rows, word};
use super::harness::builder::free_port;
use super::harness::sip::Request;
use super::harness::{Pair, Server, for_each_pair, for_each_pair_at_once, http, until};

/// Requests make their worker leak or shrink as much shared memory as they say.
const SCRIPT: &str = "if ($hdr(X-Leak) != $null) { mgtest_leak_shm(\"$(hdr(X-Leak){s.int})\"); }
    if ($hdr(X-Shrink) != $null) { mgtest_shrink_shm(\"$(hdr(X-Shrink){s.int})\", \"100\"); }";
/// A minute is the shortest window that a forecast stands on; three looks must agree; machines are slow.
const LONGEST: Duration = Duration::from_secs(240);

fn server(pair: &Pair) -> Server {
    Server::registrar(pair)
        .with_mgtest()
        .config(|c| c.before = SCRIPT.into())
        .start()
}

/// Sends requests at a steady rate and looks about once a second, until the look finds something.
#[track_caller]
fn traffic<T>(
    server: &Server,
    per_second: u32,
    mut request: impl FnMut(u64) -> Request,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let client = server.udp();
    let begin = Instant::now();
    let every = Duration::from_secs(1) / per_second;
    for n in 0u64.. {
        let due = begin + every * u32::try_from(n).expect("a test ends before that");
        std::thread::sleep(due.saturating_duration_since(Instant::now())); // the rate is what is tested
        client.try_request(&request(n), Duration::from_secs(2));
        if n % u64::from(per_second) == 0 {
            if let Some(found) = look() {
                return found;
            }
            assert!(
                begin.elapsed() < LONGEST,
                "not within {LONGEST:?}: {}",
                server.rpc("memguard.forecast", json!([]))
            );
        }
    }
    unreachable!("the loop has no end")
}

fn status(server: &Server) -> Value {
    server.rpc("memguard.status", json!([]))
}

fn shm(server: &Server) -> Value {
    rows(&server.rpc("memguard.forecast", json!(["shm"])))[0].clone()
}

fn used_pct(server: &Server) -> f64 {
    rows(&server.rpc("memguard.pools", json!([])))[0]["used_pct"]
        .as_f64()
        .expect("a number")
}

/// From the end of a sampling process until the next one has taken a sample: three seconds (supervise.rs) and an interval.
const GOES_ON: Duration = Duration::from_secs(6);

/// The process that samples is killed while memory leaks: the next one goes on with what was known.
#[track_caller]
fn assert_a_killed_sampler_costs_samples_only(server: &Server, leaking: impl Fn(u64) -> Request) {
    const PHONES: usize = 40;
    let phones = (0..PHONES).map(|i| Request::register(&format!("p{i}")));
    assert_eq!(server.udp().flood(phones, 8, |_, _, _| ()).of(200), PHONES);
    let known = shm(server);
    let first = server.sampling_pid();
    server.kill(first);
    let killed = Instant::now();
    let (mut back, mut looks) = (None, 0);
    traffic(server, 20, leaking, || {
        let (forecast, all) = (shm(server), server.registrations());
        let again = server
            .workers()
            .iter()
            .find_map(|row| row["sampling_pid"].as_i64());
        let is_another = again.is_some_and(|pid| pid != i64::from(first));
        if is_another && number(&server.status(), "sample_age_ms") < 1_500 {
            back.get_or_insert(killed.elapsed());
        }
        // It is valid all the while: what was foretold stays, and what comes is no less.
        assert_eq!(number(&forecast, "valid"), 1, "{forecast}");
        let (a, b) = (real(&known, "growth"), real(&forecast, "growth"));
        assert!((a - b).abs() < 0.3 * a, "{known} {forecast}");
        // The server has run for a minute and more; since the restart it would be a jump.
        for (window, most) in [("10s", 8.0), ("1m", 1.5), ("5m", 1.5), ("15m", 1.5)] {
            assert!(
                real(&all, &format!("new_rate_{window}")) < most,
                "{window}: {all}"
            );
        }
        assert_eq!(number(&all, "storm"), 0, "{all}");
        looks += u32::from(back.is_some());
        (looks >= 8).then_some(())
    });
    let back = back.expect("it was seen");
    assert!(back < GOES_ON, "{back:?}");
    assert_eq!(number(&server.status(), "sampler_restarts"), 1);
    println!("   another process sampled {back:?} after the kill");
}

fn real(answer: &Value, field: &str) -> f64 {
    let found = answer[field].as_f64();
    found.unwrap_or_else(|| panic!("no number {field} in {answer}"))
}

#[test]
fn forecast_a_leak_is_announced_a_killed_sampler_changes_nothing_and_its_time_comes_true() {
    for_each_pair(|pair| {
        let server = server(pair);
        let fresh = status(&server);
        assert_eq!(
            word(&fresh, "exhaustion"),
            "unknown",
            "nothing is known at the start"
        );
        let leaking = |_| Request::options().header("X-Leak: 3600");
        let foretold = traffic(&server, 20, leaking, || {
            let forecast = shm(&server);
            (number(&forecast, "valid") == 1 && number(&forecast, "exhaustion_seconds") < 2_592_000)
                .then_some(forecast)
        });
        let said = Instant::now();
        let at = status(&server);
        assert!(["leak", "unknown"].contains(&word(&at, "cause")), "{at}");
        assert!(
            word(&at, "explanation").len() > 10 && word(&at, "exhaustion") != "none foreseen",
            "{at}"
        );
        assert!(
            server.log().contains("shm will be full in"),
            "{}",
            server.log()
        );

        assert_a_killed_sampler_costs_samples_only(&server, leaking);
        let mut plans = Vec::new();
        traffic(&server, 20, leaking, || {
            plans.push(server.rpc("memguard.restart", json!([])));
            (used_pct(&server) > 99.0).then_some(())
        });
        let truth = said.elapsed().as_secs_f64();
        // A restart is advised, with a date that lies before the end.
        let now_s = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970")
            .as_secs();
        plans.retain(|plan| word(plan, "advice") != "none");
        assert!(plans.iter().any(|plan| word(plan, "advice") == "now"));
        for plan in &plans {
            let before = plan["before"].as_u64().expect("a date");
            assert!(before <= now_s && plan.get("at").is_none(), "{plan}");
        }
        let told = number(&foretold, "exhaustion_seconds") as f64;
        assert!(
            (told - truth).abs() < 0.25 * truth,
            "said {told} s, was {truth} s: {foretold}"
        );
    });
}

/// What was said at one look while memory fills.
#[derive(Clone, Debug)]
struct Look {
    /// Seconds since the traffic began.
    at: f64,
    at_this_rate: i64,
    is_told: bool,
    exhaustion: [i64; 3],
    confidence: String,
    headline: String,
    check: String,
    metrics: String,
}

/// Fills a pool from the moment when it was quiet for a while; answers the looks and when it was full.
fn filled(
    server: &Server,
    address: std::net::SocketAddr,
    request: impl Fn(u64) -> Request,
) -> (Vec<Look>, f64) {
    until(Duration::from_secs(40), "half a minute was seen", || {
        number(&status(server), "uptime") >= 30
    });
    let (begin, mut looks, mut agreed) = (Instant::now(), Vec::new(), 0);
    traffic(server, 60, request, || {
        agreed += usize::from(assert_answers_agree(server, address));
        let (said, row) = (status(server), shm(server));
        let get = |path: &str| http::get(address, path, SOON).map_or_else(String::new, |r| r.body);
        let page = get("/");
        let headline = page.split("<p>").nth(1).unwrap_or_default();
        looks.push(Look {
            at: begin.elapsed().as_secs_f64(),
            at_this_rate: number(&said, "full_at_this_rate_seconds"),
            is_told: number(&row, "valid") == 1 && number(&row, "exhaustion_seconds") < 2_592_000,
            exhaustion: ["low_seconds", "exhaustion_seconds", "high_seconds"]
                .map(|f| number(&row, f)),
            confidence: word(&row, "confidence").to_owned(),
            headline: headline.split("</p>").next().unwrap_or_default().to_owned(),
            check: word(&server.rpc("memguard.check", json!([])), "text").to_owned(),
            metrics: get("/metrics")
                .lines()
                .find_map(|l| {
                    Some(
                        l.strip_prefix("kamailio_memguard_full_at_this_rate_seconds ")?
                            .to_owned(),
                    )
                })
                .unwrap_or_default(),
        });
        (used_pct(server) > 98.5).then_some(())
    });
    assert!(agreed > 5, "{agreed} looks lay between two samples");
    (looks, begin.elapsed().as_secs_f64())
}

/// Status, forecast, check, page and metrics tell one thing. False: a sample came between them, and nothing was judged.
#[track_caller]
fn assert_answers_agree(server: &Server, address: std::net::SocketAddr) -> bool {
    let told = |said: &Value| {
        let fields = [
            "pool",
            "cause",
            "confidence",
            "explanation",
            "exhaustion_pool",
        ];
        (
            number(said, "exhaustion_seconds"),
            fields.map(|field| said[field].clone()),
        )
    };
    let said = status(server);
    let row = server.rpc("memguard.forecast", json!([word(&said, "exhaustion_pool")]));
    let check = server.rpc("memguard.check", json!([]));
    let get = |path: &str| http::get(address, path, SOON).map_or_else(String::new, |r| r.body);
    let (page, metrics) = (get("/"), get("/metrics"));
    if told(&status(server)) != told(&said) {
        return false;
    }
    let row = &rows(&row)[0];
    for field in ["exhaustion_seconds", "exhaustion", "cause", "confidence"] {
        assert_eq!(row[field], said[field], "{field}: {row} {said}");
    }
    // A check that is calm names no cause.
    if let Some((_, cause)) = word(&check, "text").split_once("cause ") {
        let is_it = cause.starts_with(word(&said, "cause"));
        assert!(is_it, "{check} {said}");
    }
    // What the page writes as it is: no character of markup in it.
    let why = word(&said, "explanation").split(['<', '>', '&', '"', '\'']);
    let why = why.into_iter().next().unwrap_or_default();
    assert!(page.contains(why), "{why}: {page}");
    let seconds = if number(row, "valid") == 1 {
        number(row, "exhaustion_seconds")
    } else {
        2_592_000
    };
    let line = format!("kamailio_memguard_exhaustion_seconds {seconds}\n");
    assert!(metrics.contains(&line), "{line}: {metrics}");
    true
}

/// What holds for every end within minutes: told at this rate, foretold before half of the time is gone, and right.
#[track_caller]
fn assert_told_in_time(looks: &[Look], whole: f64) {
    let share = |look: &Look| look.at / whole;
    let left = |look: &Look| (whole - look.at).max(1.0);
    let told = looks
        .iter()
        .find(|l| l.is_told)
        .unwrap_or_else(|| panic!("never told: {looks:#?}"));
    assert!(
        share(told) < 0.5,
        "told at {} of {whole}: {looks:#?}",
        told.at
    );
    let late: Vec<&Look> = looks
        .iter()
        .filter(|l| (0.5..0.93).contains(&share(l)))
        .collect();
    let right = |said: i64, look: &Look| (said as f64 - left(look)).abs() < 0.25 * left(look) + 1.5;
    let most = |what: &str, of: &dyn Fn(&Look) -> bool| {
        let good = late.iter().filter(|l| of(l)).count();
        assert!(
            4 * good >= 3 * late.len(),
            "{what} in {good} of {}, full after {whole}: {looks:#?}",
            late.len()
        );
    };
    most("right at this rate", &|l| right(l.at_this_rate, l));
    most("a forecast", &|l| l.is_told);
    most("right", &|l| right(l.exhaustion[1], l));
    // seconds are whole, and a request or two lie between the answer and its time
    most("within its interval", &|l| {
        l.exhaustion[0] as f64 - 2.0 <= left(l) && left(l) <= l.exhaustion[2] as f64 + 2.0
    });
    most("told by the page", &|l| {
        l.headline.contains("at this rate full in") || l.headline.contains("will be full in")
    });
    most("told by the check", &|l| {
        l.check.contains("at this rate full in")
    });
    most("told by the metrics", &|l| {
        l.metrics.parse::<i64>().is_ok_and(|s| s < 600)
    });
    let begun = looks.iter().filter(|l| share(l) > 0.35);
    for look in begun {
        assert!(
            !look.headline.contains("Nothing is running out"),
            "{look:?}"
        );
    }
}

#[test]
fn forecast_a_storm_that_fills_ten_megabytes_in_half_a_minute_is_told() {
    for_each_pair(|pair| {
        let address = free_port();
        let server = Server::registrar(pair)
            .with_mgtest()
            .param("listen", address)
            .param("mode", "observe")
            .config(|c| c.before = SCRIPT.into())
            .start();
        let phone = |n: u64| Request::register(&format!("phone{n}")).header("X-Leak: 4200");
        let (looks, whole) = filled(&server, address, phone);
        println!(
            "{} {}: full after {whole:.0} s, told {:?}",
            pair.kamailio.version,
            pair.manager,
            looks.iter().find(|l| l.is_told)
        );
        assert_told_in_time(&looks, whole);
        let first = looks.iter().find(|l| l.is_told).expect("told");
        assert_eq!(first.confidence, "low", "{first:?}");
        let log = server.log();
        let line = log
            .lines()
            .find(|l| l.contains("level normal -> warning: shm"));
        assert!(
            line.is_some_and(|l| l.contains("at this rate full in")),
            "{line:?}"
        );
    });
}

#[test]
fn forecast_a_leak_that_fills_the_pool_in_seventy_seconds_is_told() {
    for_each_pair(|pair| {
        let address = free_port();
        let server = Server::registrar(pair)
            .with_mgtest()
            .param("listen", address)
            .config(|c| c.before = SCRIPT.into())
            .start();
        let leaking = |_| Request::options().header("X-Leak: 2300");
        let (looks, whole) = filled(&server, address, leaking);
        println!(
            "{} {}: full after {whole:.0} s, told {:?}",
            pair.kamailio.version,
            pair.manager,
            looks.iter().find(|l| l.is_told)
        );
        assert_told_in_time(&looks, whole);
    });
}

#[test]
fn forecast_a_table_that_is_loaded_in_one_step_is_told_as_a_step() {
    for_each_pair_at_once(|pair| {
        let server = server(pair);
        // What a server takes while it starts would be growth beside the step.
        let mut rest = (0.0, Instant::now());
        until(
            Duration::from_secs(150),
            "it is at rest after its start",
            || {
                let used = used_pct(&server);
                if rest.0 != used {
                    rest = (used, Instant::now());
                }
                rest.1.elapsed() > Duration::from_secs(30)
            },
        );
        server.fill_shm(65);
        let begin = Instant::now();
        let mut told = 0;
        while begin.elapsed() < Duration::from_secs(50) {
            let (said, row) = (status(&server), shm(&server));
            assert_eq!(word(&row, "cause"), "none", "{row}");
            assert_eq!(number(&row, "exhaustion_seconds"), 2_592_000, "{row}");
            let pools = server.rpc("memguard.pools", json!([]));
            let pools = rows(&pools);
            assert_eq!(
                number(&pools[0], "full_at_this_rate_seconds"),
                2_592_000,
                "{pools:?}"
            );
            told +=
                usize::from(word(&said, "explanation").contains("at once and has not grown since"));
            std::thread::sleep(Duration::from_secs(1)); // what is said for a minute is looked at
        }
        assert!(told > 20, "{told} looks said so: {}", status(&server));
    });
}

#[test]
fn forecast_registrations_are_named_and_what_one_costs_is_learned() {
    for_each_pair(|pair| {
        let server = server(pair);
        let phone = |n: u64| Request::register(&format!("phone{n}"));
        let named = traffic(&server, 60, phone, || {
            let status = status(&server);
            (word(&status, "cause") == "registrations").then_some(status)
        });
        let cost = number(&named, "registration_cost");
        assert!((500..5_000).contains(&cost), "{named}");
        let left = number(&named, "registrations_left");
        super::order::reserve_holds_the_last_registration_for_priority(&server, cost);
        assert!(left > 0 && left * cost < 16 * 1_048_576, "{named}");
        assert!(
            shm(&server)["explained_by_registrations_pct"].as_f64() > Some(50.0),
            "{}",
            shm(&server)
        );
    });
}

#[test]
fn forecast_of_more_phones_than_the_table_has_room_for_accuses_nobody_and_says_what_helps() {
    for_each_pair_at_once(|pair| {
        let server = Server::registrar(pair)
            .param("bindings", 1024)
            .param("mode", "observe")
            .start();
        let phone = |n: u64| Request::register(&format!("phone{n}"));
        let mut told = 0;
        traffic(&server, 200, phone, || {
            let status = status(&server);
            assert_ne!(word(&status, "cause"), "leak", "{status}");
            told += usize::from(word(&status, "explanation").contains("raise modparam bindings"));
            (number(&status, "exhaustion_seconds") < 25).then_some(())
        });
        assert!(told > 15, "{told} looks said so");
    });
}

#[test]
fn forecast_the_managers_books_are_not_called_a_leak() {
    for_each_pair(|pair| {
        if pair.manager != "qm" {
            return; // the others book what shrinks
        }
        let server = server(pair);
        let named = traffic(
            &server,
            20,
            |_| Request::options().header("X-Shrink: 4000"),
            || {
                let status = status(&server);
                assert_ne!(word(&status, "cause"), "leak", "{status}");
                (word(&status, "cause") == "bookkeeping").then_some(status)
            },
        );
        assert!(
            ["medium", "high"].contains(&word(&named, "confidence")),
            "{named}"
        );
    });
}

#[test]
fn forecast_the_worker_whose_pkg_runs_out_is_named_with_its_time() {
    for_each_pair_at_once(|pair| {
        let server = Server::registrar(pair)
            .with_mgtest()
            .config(|c| c.before = "if ($proto == \"tcp\") { mgtest_leak_pkg(\"1000\"); }".into())
            .start();
        let mut tcp = server.tcp();
        let over_both = |_| {
            tcp.try_request(&Request::options(), Duration::from_secs(2));
            Request::options()
        };
        let (named, others) = traffic(&server, 20, over_both, || {
            let (ending, others): (Vec<_>, Vec<_>) = server
                .workers()
                .into_iter()
                .partition(|w| w["exhaustion_seconds"].is_number());
            Some((ending.first()?.clone(), others)).filter(|_| ending.len() == 1)
        });
        assert!(word(&named, "desc").starts_with("tcp receiver"), "{named}");
        assert_eq!(word(&named, "exhaustion_pool"), "pkg", "{named}");
        assert!(others.len() > 5, "nobody else ends: {others:?}");
        let pkg = rows(&server.rpc("memguard.forecast", json!(["pkg"])))[0].clone();
        assert_eq!(number(&pkg, "worker"), number(&named, "index"), "{pkg}");
        // Both are of the same process; a few samples may lie between the two answers.
        let (one, other) = (
            number(&pkg, "exhaustion_seconds"),
            number(&named, "exhaustion_seconds"),
        );
        assert!((one - other).abs() <= 15, "{pkg}\n{named}");
    });
}

#[test]
fn forecast_free_memory_in_small_pieces_is_called_fragmentation() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .with_mgtest()
            .param("sample_interval", 200)
            .start();
        let most_free = number(&server.pool("shm"), "free");
        // With a third of it free there was a large block: that must have been seen.
        server.fill_shm(66);
        until(SOON, "a sample saw it", || {
            let past = server.rpc("memguard.history", json!(["shm_used", 1]));
            let last = past["values"][0].as_i64();
            last > Some(16 * 1_048_576 * 65 / 100)
        });
        assert_ne!(word(&status(&server), "cause"), "fragmentation");
        server.release_shm();
        server.rpc("mgtest.checker_shm", json!([512]));

        let shm = server.pool("shm");
        let (free, largest) = (number(&shm, "free"), number(&shm, "largest_free"));
        assert!(3 * free > most_free && 20 * largest < free, "{shm}");
        until(SOON, "it is named, and surer with the samples", || {
            let said = status(&server);
            (word(&said, "cause"), word(&said, "confidence")) == ("fragmentation", "medium")
        });
        let said = status(&server);
        assert_eq!(word(&said, "exhaustion_pool"), "shm", "{said}");
        assert!(
            word(&said, "explanation").contains("largest piece"),
            "{said}"
        );
        until(SOON, "the log says it", || {
            server
                .log()
                .contains("shm has no end in sight, but fragmentation")
        });
        if pair.manager != "fm" {
            // fm does not join what is freed
            server.release_shm();
            until(SOON, "joined again, it is not named any more", || {
                word(&status(&server), "cause") != "fragmentation"
            });
        }
    });
}

#[test]
fn forecast_history_and_check_answer_what_they_promise() {
    for_each_pair(|pair| {
        let server = server(pair);
        let used = |points: u32| server.rpc("memguard.history", json!(["shm_used", points]));
        until(SOON, "three seconds are remembered", || {
            used(3)["values"].as_array().map(Vec::len) == Some(3)
        });
        let past = used(3);
        assert_eq!(number(&past, "step"), 1);
        for value in past["values"].as_array().expect("values") {
            let bytes = value.as_f64().unwrap_or_else(|| panic!("{past}"));
            assert!(bytes > 1e6 && bytes < 16.0 * 1_048_576.0, "{past}");
        }
        let start = number(&past, "start");
        let now = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .expect("a clock")
            .as_secs() as i64;
        assert!((now - 12..=now).contains(&(start + 2)), "{past} at {now}");
        for name in [
            "pkg_used",
            "os_used",
            "headroom",
            "new_rate",
            "refresh_rate",
            "rejected_rate",
            "rejected",
            "bindings",
            "level",
        ] {
            let past = server.rpc("memguard.history", json!([name, "points", 2, "step", 2]));
            let values = past["values"].as_array().expect("values");
            assert!(
                !values.is_empty() && values.iter().all(serde_json::Value::is_number),
                "{past}"
            );
            assert_eq!(number(&past, "step"), 2, "{past}");
        }
        let text = server
            .kamcmd(&["memguard.history", "refresh_rate", "2"])
            .expect("an answer");
        assert!(
            text.contains("name: refresh_rate") && text.contains("values"),
            "{text}"
        );
        for bad in [
            json!([]),
            json!(["shm_used", 0]),
            json!(["shm_used", "many"]),
            json!(["shm_used", 1, 2, 3]),
        ] {
            let fault = server
                .try_rpc("memguard.history", bad.clone())
                .expect_err("not accepted");
            assert_eq!(fault.code, 400, "{bad}: {fault:?}");
            assert!(
                fault
                    .text
                    .contains("memguard.history accepts the name of a series"),
                "{fault:?}"
            );
        }
        let fault = server
            .try_rpc("memguard.history", json!(["weather"]))
            .expect_err("no such history");
        assert_eq!(fault.code, 404, "{fault:?}");
        assert!(fault.text.contains("shm_used"), "{fault:?}");

        let fine = server.rpc("memguard.check", json!([]));
        assert_eq!(number(&fine, "code"), 0, "{fine}");
        assert!(
            word(&fine, "text").starts_with("OK") && word(&fine, "perfdata").contains("shm_used="),
            "{fine}"
        );
        let strict = server.rpc("memguard.check", json!([1, 2]));
        assert_eq!(number(&strict, "code"), 2, "{strict}");
        let fault = server
            .try_rpc("memguard.check", json!([90]))
            .expect_err("two numbers or none");
        assert_eq!(fault.code, 400, "{fault:?}");
    });
}
