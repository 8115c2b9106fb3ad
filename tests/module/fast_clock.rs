//! What takes hours, on a clock sixty times faster: the rule for leaks in shm on real servers.
//! Forbidden here: judging before the servers' own clock says so; figures that the real machine's clock decides.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use super::guard::{Guarded, number, rows, word};
use super::harness::builder::Builder;
use super::harness::pairs::Pair;
use super::harness::sip::{Request, Udp};
use super::harness::wait::holds_within;
use super::harness::{Server, for_each_pair};

/// Every span of the servers is this many times shorter.
const SPEED: u32 = 60;
/// Eleven windows after the first, of 720 looks one second apart.
const RULE: Duration = Duration::from_secs(11 * 720);
/// Looks come late on a busy machine; a leak that is not suspected after this is not.
const LIMIT: Duration = Duration::from_secs(3 * 7_920);
/// Phones that stay; each refreshes twice in the 3,600 seconds that it asks for.
const PHONES: usize = 300;
const REFRESH: Duration = Duration::from_secs(1_800);
/// The worker that leaks.
const CULPRIT: i64 = 2;

/// The library that makes the clock fast; `./dev leaks` builds one for each version.
fn clock(pair: &Pair) -> PathBuf {
    let folder = pair.kamailio.mgtest.parent();
    folder.expect("a file").join("fastclock.so")
}

/// A registrar on the fast clock, every message of which runs `before`.
fn start(pair: &Pair, before: &str) -> Server {
    let library = clock(pair);
    assert!(library.is_file(), "no {}: ./dev leaks", library.display());
    let on_fast_clock = |builder: Builder| {
        builder
            .environment("LD_PRELOAD", &library.display().to_string())
            .environment("FASTCLOCK", &SPEED.to_string())
    };
    on_fast_clock(Server::registrar(pair))
        .shm_mb(32)
        .with_mgtest()
        .workers(3)
        // The machine around is not sixty times faster.
        .param("os_limit", 1_000_000)
        .config(|c| {
            c.param("htable", "htable", "calls=>size=6;autoexpire=600;");
            c.before = format!("$sht(calls=>$ci) = $ci;\n    {before}");
        })
        .start()
}

/// The phones: all at once, and then each in its turn.
struct Phones {
    client: Udp,
    next: Vec<Request>,
    at: usize,
    began: Instant,
}

impl Phones {
    fn of(server: &Server) -> Phones {
        let next: Vec<Request> = (0..PHONES)
            .map(|i| Request::register(&format!("phone{i}")).expires(3_600))
            .collect();
        let client = server.udp();
        let all = client.flood(next.iter().cloned(), 16, |_, _, _| ());
        assert_eq!(all.of(200), PHONES, "{all:?}");
        Phones {
            client,
            next,
            at: 0,
            began: Instant::now(),
        }
    }

    /// Refreshes whoever is due.
    fn work(&mut self) {
        let passed = self.began.elapsed() * SPEED;
        let due = passed.as_secs_f64() / REFRESH.as_secs_f64() * PHONES as f64;
        while self.at < due as usize {
            let phone = &mut self.next[self.at % PHONES];
            *phone = phone.next();
            let reply = self.client.request(phone);
            assert_eq!(reply.code, 200, "{reply:?}");
            self.at += 1;
        }
    }
}

/// Workers that are called leaking now: index, word, pool.
fn called(server: &Server) -> Vec<(i64, String, String)> {
    let leaking = server.rpc("memguard.workers", json!(["leaking"]));
    let said = |w| {
        let text = |field| word(w, field).to_owned();
        (number(w, "index"), text("leak"), text("leak_in"))
    };
    rows(&leaking).iter().map(said).collect()
}

#[test]
#[ignore = "minutes long: ./dev leaks"]
fn leaks_in_shm_are_suspected_after_two_hours_in_the_worker_that_leaks_and_in_no_healthy_one() {
    for_each_pair(|pair| {
        let leak = format!("if ($mgtest(index) == {CULPRIT}) {{ mgtest_leak_shm(\"100\"); }}");
        let (leaky, healthy) = (start(pair, &leak), start(pair, ""));
        let mut phones = [&leaky, &healthy].map(Phones::of);
        let began = Instant::now();
        let is_suspected = holds_within(LIMIT / SPEED, || {
            phones.iter_mut().for_each(Phones::work);
            assert_eq!(called(&healthy), []);
            !called(&leaky).is_empty()
        });
        let after = began.elapsed() * SPEED;
        println!(
            "   suspected after {} minutes of their clock",
            after.as_secs() / 60
        );
        let suspected = (CULPRIT, "suspected".to_owned(), "shm".to_owned());
        assert!(is_suspected, "nothing after {after:?}");
        assert_eq!(called(&leaky), [suspected]);
        assert!(after >= RULE, "too early: {after:?}");
        // What rises is named; and at rest with the same phones the other server goes on to be called nothing.
        let sites = leaky.rpc("memguard.sites", json!(["pool", "shm", "top", 1]));
        assert_eq!(word(&rows(&sites)[0], "function"), "w_leak_shm", "{sites}");
        assert_eq!(number(&leaky.status(), "workers_leaking"), 1);
        assert_eq!(number(&healthy.status(), "workers_leaking"), 0);
        let known = |server: &Server| number(&server.registrations(), "known_bindings");
        assert_eq!([known(&leaky), known(&healthy)], [PHONES as i64; 2]);
        let refreshed = number(&healthy.registrations(), "refresh_admitted") as usize;
        assert!(
            refreshed >= phones[1].at && phones[1].at > 2 * PHONES,
            "{refreshed}"
        );
    });
}
