//! An avalanche: every phone comes at once against a full pool, then there is room again. When do they come back?
//! `./dev avalanche` runs 5,000 phones, beside Kamailio's own random Retry-After and none; the suite runs small ones.
//! The phones are sipp's: each waits as long as it is told to, and asks again (tests/sipp/followers.xml).
//! Forbidden here: asking the phones what they did; what came, and when, is what the server counted.

use std::time::{Duration, Instant};

use serde_json::json;

use super::guard::{Guarded, SOON, number};
use super::harness::builder::Folder;
use super::harness::sipp::Sipp;
use super::harness::{Pair, Server, for_each_pair, for_each_pair_at_once};

/// The size of an avalanche.
#[derive(Clone, Copy)]
struct Size {
    phones: usize,
    /// Addresses that they come from; each holds at most five seconds of the queue.
    addresses: usize,
    /// `retry_rate`, per second.
    rate: usize,
    /// `retry_after_min`, seconds.
    min_s: usize,
    /// Over how many seconds arrivals are counted together.
    window_s: usize,
}

const SMALL: Size = Size {
    phones: 900, // more than 1.5 x rate x window_s: else no wave could be seen
    addresses: 1,
    rate: 100,
    min_s: 3,
    window_s: 4, // so long that a test that is not run for a second does not look like a wave
};

/// Phones per second of the first wave; more would overrun the buffers of sockets.
const WAVE_RATE: &str = "2000";
/// Between two looks at the server's counters.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What came once there was room again; seconds since the very first one came, as the queue drains from then on.
struct Outcome {
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

/// REGISTERs that came, and phones that are registered, as the server counts them.
type Counted = (usize, usize);

/// Every phone comes at once; after each has been refused once, `make_room` is called.
fn avalanche(
    server: &Server,
    size: Size,
    count: impl Fn() -> Counted,
    make_room: impl Fn(),
) -> Outcome {
    let folder = Folder::of(&server.pair, "avalanche");
    let address = |phone: usize| match phone % size.addresses {
        _ if size.addresses == 1 => "127.0.0.1".to_owned(),
        n => format!("127.20.{}.{}", n / 250, n % 250 + 1),
    };
    let users: Vec<String> = (0..size.phones)
        .map(|i| format!("p{i};{}", address(i)))
        .collect();
    let phones = size.phones.to_string();
    let mut words = vec!["-m", &phones, "-l", &phones, "-r", WAVE_RATE];
    if size.addresses > 1 {
        words.extend(["-t", "ui", "-ip_field", "1", "-max_socket", "1000"]);
    }
    let sipp = Sipp::start(
        &server.pair.kamailio.sipp,
        server.sip(),
        &folder.file("sipp"),
        include_str!("../sipp/followers.xml"),
        &users,
        &words,
    );
    let limit = Duration::from_secs((size.min_s + size.phones / size.rate) as u64 * 3 + 30);
    // By then all have been refused, also who was lost and asked again; and nobody has come a second time.
    let until_room = Duration::from_secs(size.min_s as u64) * 2 / 3;
    let (mut start, mut room) = (None, None);
    let (mut arrivals, mut registered) = (vec![], vec![]);
    let begin = Instant::now();
    while registered.len() < size.phones {
        let (came, inside) = count();
        let now = Instant::now();
        assert!(
            begin.elapsed() < limit,
            "{inside} of {} registered",
            size.phones
        );
        if came > 0 {
            start.get_or_insert(now);
        }
        arrivals.resize(came, now);
        registered.resize(inside, now);
        let is_time = start.is_some_and(|start: Instant| start.elapsed() >= until_room);
        if room.is_none() && came >= size.phones && is_time {
            make_room();
            room = Some(Instant::now());
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let counts = sipp.finish(SOON);
    assert_eq!(counts.successful, size.phones as u64, "{counts:?}");
    let room = room.expect("everybody was refused once");
    let start = start.expect("somebody came");
    let since = |times: Vec<Instant>| -> Vec<f64> {
        let after = times.into_iter().filter(|t| *t >= room);
        after.map(|t| (t - start).as_secs_f64()).collect()
    };
    Outcome {
        arrivals: since(arrivals),
        registered: since(registered),
    }
}

/// What Kamailio counts, memguard or not.
fn statistic(server: &Server, name: &str) -> usize {
    usize::try_from(server.statistic(name)).expect("a count")
}

fn with_memguard(pair: &Pair, size: Size) -> Outcome {
    let server = Server::registrar(pair)
        .with_mgtest()
        .shm_mb(64)
        .param("retry_rate", size.rate)
        .param("retry_after_min", size.min_s)
        .start();
    server.fill_shm(98);
    let received = || number(&server.registrations(), "received") as usize;
    let count = || (received(), statistic(&server, "usrloc:registered_users"));
    avalanche(&server, size, count, || server.release_shm())
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
    let names = ["core:rcv_requests_register", "usrloc:registered_users"];
    let count = || {
        let [came, registered] = names.map(|name| statistic(&server, name));
        (came, registered)
    };
    avalanche(&server, size, count, || {
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
    let last = outcome.last_registered();
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
    for_each_pair_at_once(|pair| assert_ramp(&with_memguard(pair, SMALL), SMALL));
}

#[test]
fn avalanche_from_many_addresses_comes_back_as_the_same_ramp() {
    let size = Size {
        addresses: 90,
        ..SMALL
    };
    // One after the other: two sipps would take the same addresses, and each other's replies.
    for_each_pair(|pair| assert_ramp(&with_memguard(pair, size), size));
}

#[test]
#[ignore = "minutes long: ./dev avalanche"]
fn avalanche_full_beside_random_retry_after_and_none() {
    let phones = std::env::var("MEMGUARD_AVALANCHE")
        .ok()
        .and_then(|n| n.parse().ok());
    let size = Size {
        phones: phones.unwrap_or(5000),
        addresses: 1,
        rate: 50,
        min_s: 30,
        window_s: 10,
    };
    for_each_pair(|pair| {
        let many = Size {
            addresses: 250,
            ..size
        };
        let random = "pl_drop(\"30\", \"60\");";
        let none = "sl_send_reply(\"500\", \"Server error\");";
        let outcomes = [
            (
                "memguard: Retry-After is a slot of a queue",
                with_memguard(pair, size),
            ),
            ("the same from 250 addresses", with_memguard(pair, many)),
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
            "{} phones, retry_rate {}, retry_after_min {} s; seconds since the first one came",
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
        for (_, outcome) in &outcomes[..2] {
            assert_ramp(outcome, size);
        }
    });
}
