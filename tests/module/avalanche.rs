//! An avalanche: every phone comes at once against a full pool, then there is room again. When do they come back?
//! `./dev avalanche` runs 5,000 phones, beside Kamailio's own random Retry-After and none; the suite runs a small one.
//! Forbidden here: sipp, whose pauses cannot follow a Retry-After; these phones are the harness's own, over real SIP.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::{Duration, Instant};

use serde_json::json;

use super::guard::Guarded;
use super::harness::sip::{Reply, Request};
use super::harness::{Pair, Server, for_each_pair};

/// The size of an avalanche.
#[derive(Clone, Copy)]
struct Size {
    phones: usize,
    /// `retry_rate`, per second.
    rate: usize,
    /// `retry_after_min`, seconds; also what a phone waits that is told nothing.
    min_s: usize,
    /// Over how many seconds arrivals are counted together.
    window_s: usize,
}

const SMALL: Size = Size {
    phones: 600,
    rate: 100,
    min_s: 2,
    window_s: 4, // so long that a test that is not run for a second does not look like a wave
};

/// A phone that was sent nothing back asks again.
const RESEND: Duration = Duration::from_secs(1);
/// Requests on their way at once: fewer than a socket's buffer holds.
const OPEN: usize = 64;

/// What came of it; seconds since there was room again.
struct Outcome {
    /// How long everybody had been coming by then: the queue drains from its first moment on.
    before_s: f64,
    arrivals: Vec<f64>,
    registered: Vec<f64>,
}

impl Outcome {
    /// The most that arrived within any `seconds`, per second.
    fn peak(&self, seconds: usize) -> f64 {
        let mut sorted = self.arrivals.clone();
        sorted.sort_by(f64::total_cmp);
        let within = |from: usize| {
            sorted[from..]
                .iter()
                .take_while(|t| **t < sorted[from] + seconds as f64)
                .count()
        };
        (0..sorted.len()).map(within).max().unwrap_or(0) as f64 / seconds as f64
    }

    fn last_registered(&self) -> f64 {
        self.registered.iter().copied().fold(0.0, f64::max)
    }

    /// A line per step of seconds: how many came in each second of it, as a bar.
    fn picture(&self, rate: usize) -> String {
        let end = self.last_registered() as usize + 1;
        let step = end.div_ceil(40);
        let bars = (0..=end / step).map(|row| {
            let from = (row * step) as f64;
            let came = self
                .arrivals
                .iter()
                .filter(|t| (from..from + step as f64).contains(*t))
                .count();
            let rate_here = came as f64 / step as f64;
            let bar = "#".repeat(((rate_here * 20.0 / rate as f64) as usize).min(100));
            format!("  {from:>4.0} s {rate_here:>7.1} /s |{bar}\n")
        });
        bars.collect()
    }
}

/// Every phone comes at once; after each has been refused once, `make_room` is called.
fn avalanche(server: &Server, size: Size, make_room: impl Fn()) -> Outcome {
    let client = server.udp();
    let mut phones: Vec<Request> = (0..size.phones)
        .map(|i| Request::register(&format!("p{i}")))
        .collect();
    let numbers: HashMap<String, usize> = phones
        .iter()
        .enumerate()
        .map(|(i, p)| (p.call_id.clone(), i))
        .collect();
    let start = Instant::now();
    let mut due: BinaryHeap<Reverse<(Instant, usize)>> =
        (0..size.phones).map(|i| Reverse((start, i))).collect();
    let mut open: HashMap<usize, Instant> = HashMap::new();
    let (mut arrivals, mut registered) = (vec![], vec![]);
    let (mut refused_once, mut room) = (vec![false; size.phones], None);
    let limit = Duration::from_secs((size.min_s + size.phones / size.rate) as u64 * 3 + 30);
    while registered.len() < size.phones {
        assert!(
            start.elapsed() < limit,
            "{} of {} registered",
            registered.len(),
            size.phones
        );
        while open.len() < OPEN {
            let now = Instant::now();
            let Some(Reverse((_, phone))) = due.pop_if_due(now) else {
                break;
            };
            client.send_raw(&client.bytes(&phones[phone]));
            open.insert(phone, now);
            arrivals.push(now);
        }
        let reply = client
            .receive_raw(Duration::from_millis(5))
            .and_then(|d| Reply::parse(&d));
        let now = Instant::now();
        if let Some(reply) = reply.filter(Reply::is_final) {
            let phone = reply
                .header("Call-ID")
                .and_then(|id| numbers.get(id))
                .copied();
            if let Some(phone) =
                phone.filter(|p| reply.answers(&phones[*p]) && open.remove(p).is_some())
            {
                match reply.code {
                    200 => registered.push(now),
                    _ => {
                        let wait = reply.retry_after().map_or(size.min_s as u64, u64::from);
                        phones[phone] = phones[phone].next();
                        due.push(Reverse((now + Duration::from_secs(wait), phone)));
                        refused_once[phone] = true;
                    }
                }
            }
        }
        for (phone, sent) in open.iter_mut().filter(|(_, sent)| sent.elapsed() > RESEND) {
            client.send_raw(&client.bytes(&phones[*phone]));
            *sent = now;
        }
        if room.is_none() && refused_once.iter().all(|refused| *refused) {
            make_room();
            room = Some(Instant::now());
        }
    }
    let room = room.expect("everybody was refused once");
    let since = |times: Vec<Instant>| -> Vec<f64> {
        let after = times.into_iter().filter(|t| *t >= room);
        after.map(|t| (t - room).as_secs_f64()).collect()
    };
    Outcome {
        before_s: (room - start).as_secs_f64(),
        arrivals: since(arrivals),
        registered: since(registered),
    }
}

/// The next phone whose time has come.
trait PopIfDue {
    fn pop_if_due(&mut self, now: Instant) -> Option<Reverse<(Instant, usize)>>;
}

impl PopIfDue for BinaryHeap<Reverse<(Instant, usize)>> {
    fn pop_if_due(&mut self, now: Instant) -> Option<Reverse<(Instant, usize)>> {
        let is_due = self.peek().is_some_and(|Reverse((due, _))| *due <= now);
        is_due.then(|| self.pop()).flatten()
    }
}

fn with_memguard(pair: &Pair, size: Size) -> Outcome {
    let server = Server::registrar(pair)
        .with_mgtest()
        .shm_mb(64)
        .param("retry_rate", size.rate)
        .param("retry_after_min", size.min_s)
        .start();
    server.fill_shm(98);
    avalanche(&server, size, || server.release_shm())
}

/// Plain Kamailio; `refuse` is what its script says while it is told that it is full.
fn without_memguard(pair: &Pair, size: Size, refuse: &str) -> Outcome {
    let server = Server::registrar(pair)
        .without_memguard()
        .shm_mb(64)
        .config(|c| {
            c.module("pipelimit");
            c.param("pv", "shvset", "full=i:1");
            c.before =
                format!("if (is_method(\"REGISTER\") && $shv(full) == 1) {{ {refuse} exit; }}");
        })
        .start();
    avalanche(&server, size, || {
        server.rpc("pv.shvSet", json!(["full", "int", 0]));
    })
}

fn assert_ramp(outcome: &Outcome, size: Size) {
    let peak = outcome.peak(size.window_s);
    assert!(
        peak < 1.5 * size.rate as f64,
        "{peak} per second came\n{}",
        outcome.picture(size.rate)
    );
    let expected = size.min_s as f64 + size.phones as f64 / size.rate as f64;
    let last = outcome.before_s + outcome.last_registered();
    assert!(
        (last / expected - 1.0).abs() <= 0.2,
        "the last one was registered {last:.1} s after the first came, expected {expected:.1} s\n{}",
        outcome.picture(size.rate)
    );
    assert_eq!(
        outcome.registered.len(),
        size.phones,
        "nobody before there was room"
    );
}

#[test]
fn avalanche_comes_back_as_a_ramp_at_the_rate_of_the_queue() {
    for_each_pair(|pair| assert_ramp(&with_memguard(pair, SMALL), SMALL));
}

#[test]
#[ignore = "minutes long: ./dev avalanche"]
fn avalanche_full_beside_random_retry_after_and_none() {
    let phones = std::env::var("MEMGUARD_AVALANCHE")
        .ok()
        .and_then(|n| n.parse().ok());
    let size = Size {
        phones: phones.unwrap_or(5000),
        rate: 50,
        min_s: 30,
        window_s: 10,
    };
    for_each_pair(|pair| {
        let random = "pl_drop(\"30\", \"60\");";
        let none = "sl_send_reply(\"500\", \"Server error\");";
        let outcomes = [
            (
                "memguard: Retry-After is a slot of a queue",
                with_memguard(pair, size),
            ),
            (
                "pipelimit: pl_drop(30, 60), a random Retry-After",
                without_memguard(pair, size, random),
            ),
            (
                "no Retry-After; every phone waits 30 s of its own",
                without_memguard(pair, size, none),
            ),
        ];
        println!(
            "{} phones, retry_rate {}, retry_after_min {} s; seconds since there was room again",
            size.phones, size.rate, size.min_s
        );
        for (name, outcome) in &outcomes {
            println!("\n{name}\n{}", outcome.picture(size.rate));
        }
        println!(
            "{:<52} {:>14} {:>14} {:>16}",
            "", "most in 10 s", "most in 1 s", "last registered"
        );
        for (name, outcome) in &outcomes {
            println!(
                "{name:<52} {:>12.1}/s {:>12.1}/s {:>14.1} s",
                outcome.peak(10),
                outcome.peak(1),
                outcome.last_registered()
            );
        }
        assert_ramp(&outcomes[0].1, size);
    });
}
