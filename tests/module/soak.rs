//! Mixed traffic for as long as MEMGUARD_SOAK_SECONDS says (`./dev soak`): the books stay right to the byte at every
//! quiet moment, and memguard itself does not grow. Forbidden here: tolerances on the books.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::accounting::{assert_pkg_books, assert_shm_books, churn};
use super::guard::{Guarded, number, rows, word};
use super::harness::sip::{Reply, Request, Udp};
use super::harness::{Pair, Server, for_each_pair};
use super::step_clock::Clock;

/// Seconds per pair; the quick test goes round a few times.
fn seconds() -> u64 {
    let given = std::env::var("MEMGUARD_SOAK_SECONDS").ok();
    given.map_or(4, |s| {
        s.parse()
            .expect("MEMGUARD_SOAK_SECONDS is a number of seconds")
    })
}

/// Bytes between two sampled allocations (MEMGUARD_SOAK_SAMPLE_BYTES; 1: every one); else the default.
fn sample_bytes() -> Option<u64> {
    let given = std::env::var("MEMGUARD_SOAK_SAMPLE_BYTES").ok();
    given.map(|s| {
        s.parse()
            .expect("MEMGUARD_SOAK_SAMPLE_BYTES is a number of bytes")
    })
}

/// Every path that memory was reached by is still told apart, and its books are no larger than the pool's.
fn assert_paths(server: &Server, when: &str) {
    let warnings = server.status()["warnings"].to_string();
    assert!(!warnings.contains("sample_bytes"), "{when}: {warnings}");
    let paths = server.rpc("memguard.paths", json!(["pool", "shm", "top", 1000]));
    let paths = paths.as_array().expect("a list of paths").iter();
    // A long answer is cut, and its last row says so.
    let rows = paths.filter(|row| row.get("truncated").is_none());
    let held: i64 = rows.map(|path| number(path, "live_bytes")).sum();
    let live = number(&server.pool("shm"), "live");
    assert!(
        (1..=live).contains(&held),
        "{when}: {held} of {live} bytes of shm were sampled"
    );
}

/// Rounds after which the sampling process has seen every place that allocates and every worker.
const WARM_ROUNDS: u32 = 30;
/// More than this it never holds with a dozen workers.
const LARGEST: i64 = 8 << 20;

/// libc memory of the sampling process: all of memguard's own that could grow.
fn sampler_private(server: &Server) -> i64 {
    let workers = server.workers();
    let sampler = workers
        .iter()
        .find(|w| word(w, "desc") == "memguard sampler");
    number(sampler.expect("the sampling process"), "private")
}

/// Whether this comes beside the traffic: all that is named in MEMGUARD_SOAK_BESIDE, or both where that is not set.
fn comes(beside: &str) -> bool {
    let given = std::env::var("MEMGUARD_SOAK_BESIDE").ok();
    given.is_none_or(|words| words.split_whitespace().any(|word| word == beside))
}

fn start(pair: &Pair, clock: Option<&Clock>, is_flooded: bool) -> Server {
    let builder = Server::registrar(pair).shm_mb(64).config(|c| {
        c.param("usrloc", "timer_interval", 1)
            .param("registrar", "min_expires", 1);
        if is_flooded {
            c.param("memguard", "priority_source", "127.0.0.1");
        }
        if let Some(bytes) = sample_bytes() {
            c.param("memguard", "sample_bytes", bytes);
        }
    });
    match clock {
        Some(clock) => clock.on(builder).start(),
        None => builder.start(),
    }
}

/// Rounds of traffic until the time is over, the books compared after each; `beside` is done in each as well. What was
/// held is printed at the end.
fn soak(server: &Server, mut beside: impl FnMut(u32)) {
    let name = format!("{} {}", server.pair.kamailio.version, server.pair.manager);
    let (sampler, processes) = (server.sampling_pid(), server.pids().len());
    let (mut warm, mut largest) = (0, 0);
    let end = Instant::now() + Duration::from_secs(seconds());
    let mut rounds = 0;
    while Instant::now() < end {
        beside(rounds);
        churn(server);
        rounds += 1;
        assert_shm_books(server, &format!("round {rounds}"));
        if rounds == WARM_ROUNDS {
            warm = sampler_private(server);
        }
        if rounds % 10 == 0 {
            assert_pkg_books(server, &format!("round {rounds}"));
            if sample_bytes() == Some(1) {
                assert_paths(server, &format!("round {rounds}"));
            }
            let private = sampler_private(server);
            largest = largest.max(private);
            println!("{name}: round {rounds}, books right, sampler {private} bytes");
        }
    }
    assert_pkg_books(server, "at the end");
    let private = sampler_private(server);
    assert!(
        private < LARGEST,
        "the sampling process holds {private} bytes of its own"
    );
    if rounds > 2 * WARM_ROUNDS {
        let grown = private - warm;
        assert!(
            grown < 256 * 1024,
            "the sampling process grew by {grown} bytes in {rounds} rounds"
        );
    }
    assert_eq!(number(&server.status(), "fail_open"), 0);
    assert_eq!(server.sampling_pid(), sampler, "the one of the start");
    assert_eq!(server.pids().len(), processes, "all of them live");
    println!(
        "{name}: {rounds} rounds, books right after each; sampler {private} bytes, at most {}",
        largest.max(private)
    );
}

#[test]
fn soak_books_stay_right_and_memguard_does_not_grow() {
    for_each_pair(|pair| soak(&start(pair, None, false), |_| ()));
}

/// Rounds between two steps of the clock.
const STEP_ROUNDS: u32 = 3;
/// The clock's seconds ahead of the machine's, in turn: hours and a day, both ways, and right again. Kamailio's own timers
/// run every tick that a step leaves out (a year of them is minutes without TCP), with memguard as without.
const STEPS: [i64; 6] = [7_200, -7_200, 86_400, 0, -86_400, 1];

/// Addresses that the flood comes from; each may hold five seconds of the queue.
const SOURCES: u8 = 3;
/// What a phone of another address may be told: 30 s, what each of the flood's sources may hold, its own slot and rounding.
const LONGEST: u64 = 30 + 5 * SOURCES as u64 + 2;
/// Datagrams at a time, and the pause from one burst to the next: 500 per second at most.
const BURST: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);

/// What the flood came to.
#[derive(Default)]
struct Flood {
    sent: i64,
    broken: i64,
    refused: i64,
}

/// REGISTERs of phones that do not exist, and some that break off in the middle, until it is to end.
fn flood(server: &Server, ends: &AtomicBool) -> Flood {
    let all: Vec<Udp> = (1..=SOURCES)
        .map(|n| Udp::from(&format!("127.66.0.{n}"), server.sip()))
        .collect();
    let mut flood = Flood::default();
    // ORDERING: Relaxed; a flag alone.
    while !ends.load(Ordering::Relaxed) {
        let began = Instant::now();
        for source in &all {
            for n in 0..BURST / u32::from(SOURCES) {
                let invented = Request::register(&format!("invented{}", flood.sent));
                let bytes = source.bytes(&invented);
                if n == 0 {
                    source.send_raw(&bytes[..bytes.len() / 3]);
                    flood.broken += 1;
                } else {
                    source.send_raw(&bytes);
                    flood.sent += 1;
                }
            }
            while let Some(datagram) = source.receive_raw(Duration::from_millis(5)) {
                let reply = Reply::parse(&datagram).expect("a reply");
                assert_eq!(reply.code, 503, "{reply:?}");
                flood.refused += 1;
            }
        }
        std::thread::sleep(PAUSE.saturating_sub(began.elapsed())); // a bounded flood, nothing is awaited
    }
    flood
}

#[test]
fn soak_beside_a_flood_and_a_moving_clock_books_stay_right() {
    for_each_pair(|pair| {
        let clock = Clock::new(pair, 0);
        let server = start(pair, comes("steps").then_some(&clock), comes("flood"));
        let ends = AtomicBool::new(false);
        let honest = Udp::from("127.77.0.1", server.sip());
        let (mut steps, mut longest) = (0, 0);
        let flooded = std::thread::scope(|scope| {
            let flood = comes("flood").then(|| {
                // The phones of the soak are on the priority list, all others are refused.
                server.rpc("memguard.shed", json!([seconds() + 3_600]));
                scope.spawn(|| flood(&server, &ends))
            });
            let _stop = EndsWith(&ends);
            soak(&server, |round| {
                if comes("steps") && round % STEP_ROUNDS == STEP_ROUNDS - 1 {
                    clock.set(STEPS[steps % STEPS.len()]);
                    steps += 1;
                }
                if flood.is_some() {
                    let reply = honest.request(&Request::register(&format!("honest{round}")));
                    assert_eq!(reply.code, 503, "round {round}: {reply:?}");
                    let told = reply.retry_after().expect("Retry-After");
                    longest = longest.max(told);
                    assert!((30..=LONGEST).contains(&told), "round {round}: {told} s");
                }
            });
            // ORDERING: Relaxed; a flag alone.
            ends.store(true, Ordering::Relaxed);
            flood.map(|flood| flood.join().expect("the flood ends"))
        });
        let status = server.status();
        assert_eq!(status["warnings"], json!([]), "{status}");
        println!("   {steps} steps of the clock");
        let Some(flood) = flooded else { return };
        let all = server.registrations();
        let refused = number(&all, "new_rejected");
        assert!(flood.refused > 0, "nothing was answered");
        assert!(
            refused >= flood.refused,
            "{refused} of {}: {all}",
            flood.refused
        );
        server.rpc("memguard.resume", json!([]));
        server.await_level("normal");
        assert_eq!(honest.request(&Request::register("late")).code, 200);
        let events = server.rpc("memguard.events", json!([]));
        assert_eq!(
            rows(&events).len(),
            2,
            "shed and resumed, no more: {events}"
        );
        println!(
            "   flood: {} sent, {} broken off, {} refused; another address was told at most {longest} s",
            flood.sent, flood.broken, flood.refused
        );
    });
}

/// Sets a flag when it goes, also when a check fails: a scope waits for its threads.
struct EndsWith<'a>(&'a AtomicBool);

impl Drop for EndsWith<'_> {
    fn drop(&mut self) {
        // ORDERING: Relaxed; a flag alone.
        self.0.store(true, Ordering::Relaxed);
    }
}
