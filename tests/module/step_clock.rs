//! The wall clock is stepped under running servers, both ways and in each state: nothing changes but printed dates.
//! Forbidden here: stepping the machine's own clock (a preloaded library steps the servers' only).

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::guard::{Guarded, SOON, number, rows, word};
use super::harness::builder::{Builder, Folder, free_port};
use super::harness::http::get;
use super::harness::sip::Request;
use super::harness::{Pair, Server, for_each_pair, until};

/// What the clock is stepped by, seconds.
const STEP: i64 = 7200;

/// A wall clock of our own.
pub struct Clock {
    folder: Folder,
}

impl Clock {
    /// Compiles the library; the clock is ahead of the machine's by `ahead` seconds.
    pub fn new(pair: &Pair, ahead: i64) -> Clock {
        let clock = Clock {
            folder: Folder::of(pair, "clock"),
        };
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/module/step_clock.c");
        let built = Command::new("cc")
            .args([
                "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", source, "-o",
            ])
            .arg(clock.folder.file("clock.so"))
            .status()
            .expect("a C compiler");
        assert!(built.success());
        fs::write(clock.folder.file("offset"), ahead.to_le_bytes()).expect("a folder of ours");
        clock
    }

    /// The server that is to be started runs on it.
    pub fn on(&self, builder: Builder) -> Builder {
        let name = |file| self.folder.file(file).display().to_string();
        builder
            .environment("LD_PRELOAD", &name("clock.so"))
            .environment("STEPCLOCK", &name("offset"))
    }

    /// Steps it: `ahead` seconds from the machine's from now on.
    pub fn set(&self, ahead: i64) {
        let file = OpenOptions::new()
            .write(true)
            .open(self.folder.file("offset"))
            .expect("it is there");
        file.write_all_at(&ahead.to_le_bytes(), 0)
            .expect("a file of ours");
    }
}

fn unix_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("after 1970").as_secs() as i64
}

/// Waits for two samples that were taken from now on.
#[track_caller]
fn await_samples(server: &Server) {
    std::thread::sleep(Duration::from_millis(50)); // so that the age below is of a sample after the step
    let began = Instant::now();
    until(SOON, "samples go on", || {
        let age = number(&server.status(), "sample_age_ms");
        assert!(age < 8_000, "a sample {age} ms old");
        began.elapsed().as_millis() as i64 > age + 300
    });
}

fn start(pair: &Pair, clock: &Clock, change: impl FnOnce(Builder) -> Builder) -> Server {
    let server = Server::registrar(pair)
        .with_mgtest()
        .workers(2)
        .param("sample_interval", 100);
    clock.on(change(server)).start()
}

#[test]
fn step_clock_at_rest_uptime_samples_and_bindings_go_on_and_dates_follow_the_clock() {
    for_each_pair(|pair| {
        for step in [STEP, -STEP] {
            let clock = Clock::new(pair, 0);
            let server = start(pair, &clock, |b| b);
            let client = server.udp();
            let phone = Request::register("phone").expires(600);
            assert_eq!(client.request(&phone).code, 200);
            clock.set(step);
            await_samples(&server);
            let status = server.status();
            assert!((0..60).contains(&number(&status, "uptime")), "{status}");
            assert_eq!(status["warnings"], json!([]), "{status}");
            // What was known before is known, and what comes now lives as long as it was granted.
            let other = Request::register("other").expires(600);
            assert_eq!(client.request(&other).code, 200);
            for phone in [phone.next(), other.next()] {
                assert_eq!(client.request(&phone).code, 200);
            }
            let all = server.registrations();
            assert_eq!(number(&all, "new_received"), 2, "{all}");
            assert_eq!(number(&all, "refresh_received"), 2, "{all}");
            until(SOON, "both are known", || {
                number(&server.registrations(), "known_bindings") == 2
            });
            // Dates are those of the clock on the wall.
            let mark = server.rpc("memguard.mark", json!([]));
            let is_off = number(&mark, "time") - (unix_now() + step);
            assert!(is_off.abs() <= 2, "{mark} is off by {is_off} s");
            let past = server.rpc("memguard.history", json!(["shm_used", 2]));
            let end = number(&past, "start") + 1 - (unix_now() + step);
            assert!(end.abs() <= 4, "{past} ends {end} s from now");
        }
    });
}

#[test]
fn step_clock_while_shedding_slots_stay_where_they_are() {
    for_each_pair(|pair| {
        for step in [STEP, -STEP] {
            let clock = Clock::new(pair, 0);
            let server = start(pair, &clock, |b| b.param("retry_rate", 10));
            server.fill_shm(96);
            let client = server.udp();
            let told = |request: &Request| {
                let reply = client.request(request);
                assert_eq!(reply.code, 503, "{reply:?}");
                reply.retry_after().expect("Retry-After")
            };
            let first = Request::register("first");
            assert!((30..=31).contains(&told(&first)));
            for i in 0..100 {
                told(&Request::register(&format!("phone{i}")));
            }
            let before = told(&Request::register("before"));
            clock.set(step);
            await_samples(&server);
            let after = told(&Request::register("after"));
            assert!(
                after <= before + 1 && after + 6 >= before,
                "{before} {after}"
            );
            assert!((24..=31).contains(&told(&first.next())));
            let queued = number(&server.registrations(), "queue_seconds");
            assert!((20..=42).contains(&queued), "{queued}");
            let refusals = server.rpc("memguard.refusals", json!([1]));
            let is_off = number(&rows(&refusals)[0], "time") - (unix_now() + step);
            assert!(is_off.abs() <= 3, "{refusals} is off by {is_off} s");
        }
    });
}

#[test]
fn step_clock_an_operators_shed_ends_when_its_seconds_are_over() {
    for_each_pair(|pair| {
        for step in [STEP, -STEP] {
            let clock = Clock::new(pair, 0);
            let server = start(pair, &clock, |b| b);
            let began = Instant::now();
            server.rpc("memguard.shed", json!([6]));
            clock.set(step);
            await_samples(&server);
            let client = server.udp();
            if began.elapsed() < Duration::from_secs(5) {
                assert_eq!(client.request(&Request::register("one")).code, 503);
            }
            until(Duration::from_secs(20), "the shed is over", || {
                client.request(&Request::register("two")).code == 200
            });
            server.await_level("normal");
            assert!(began.elapsed() >= Duration::from_secs(6));
        }
    });
}

#[test]
fn step_clock_an_emergency_ends_after_its_dwell() {
    for_each_pair(|pair| {
        for step in [STEP, -STEP] {
            let clock = Clock::new(pair, 0);
            let listen = free_port();
            let server = start(pair, &clock, |b| {
                b.param("dwell", 3).param("listen", listen)
            });
            let is_ready = || {
                let answer = get(listen, "/ready", Duration::from_secs(2));
                answer.expect("an answer").status == 200
            };
            server.fill_shm(98);
            server.await_level("emergency");
            assert!(!is_ready());
            server.release_shm();
            let began = Instant::now();
            std::thread::sleep(Duration::from_millis(500)); // the dwell runs
            clock.set(step);
            assert_eq!(word(&server.status(), "level"), "emergency");
            until(Duration::from_secs(20), "the dwell is over", || {
                word(&server.status(), "level") == "normal"
            });
            assert!(is_ready());
            assert!(began.elapsed() >= Duration::from_millis(2_800));
            let reasons = server.rpc("memguard.events", json!([]));
            assert!(rows(&reasons).len() >= 2, "{reasons}");
        }
    });
}

#[test]
fn step_clock_ahead_at_the_start_and_corrected_bindings_live_and_survive_a_restart() {
    for_each_pair(|pair| {
        for step in [STEP, -STEP] {
            let clock = Clock::new(pair, step);
            let file = clock.folder.file("bindings");
            let with_file =
                |b: Builder| b.param("bindings_file", file.display().to_string().as_str());
            let server = start(pair, &clock, with_file);
            let client = server.udp();
            let early = Request::register("early").expires(600);
            assert_eq!(client.request(&early).code, 200);
            clock.set(0);
            await_samples(&server);
            let late = Request::register("late").expires(600);
            assert_eq!(client.request(&late).code, 200);
            until(SOON, "both are known and alive", || {
                number(&server.registrations(), "known_bindings") == 2
            });
            let address = server.sip();
            server.fill_shm(96);
            assert_eq!(client.request(&late.next()).code, 200);
            assert_eq!(client.request(&early.next()).code, 200);
            assert_eq!(client.request(&Request::register("new")).code, 503);
            // The next run has another server time, and the clock is stepped once more while nobody runs.
            let client_late = late.next().next();
            server.stop();
            clock.set(-step);
            let server = start(pair, &clock, |b| with_file(b).at(address));
            until(SOON, "both are known again", || {
                number(&server.registrations(), "known_bindings") == 2
            });
            server.fill_shm(96);
            let client = server.udp();
            assert_eq!(client.request(&client_late).code, 200);
            assert_eq!(client.request(&Request::register("new2")).code, 503);
        }
    });
}
