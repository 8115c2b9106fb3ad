//! What a registration costs, learned from what really happens: over UDP and over TCP, where each phone brings a
//! connection; and that as many fit as was said.
//! Forbidden here: figures of one version; the truth is what fits.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::guard::{Guarded, SOON, number};
use super::harness::sip::{Request, Tcp};
use super::harness::wait::found;
use super::harness::{Pair, Server, for_each_pair_at_once};

/// Three intervals of ten seconds teach; samples and machines are slow.
const LEARNT_WITHIN: Duration = Duration::from_secs(75);
/// Above this use every new registration would be refused (`shm_full_pct`).
const FULL_PCT: f64 = 92.0;

/// Registers one phone and answers whether it was accepted.
trait Phones {
    fn register(&mut self, server: &Server, n: u64) -> bool;
}

/// All over one UDP socket.
struct ByUdp;
/// Each over a connection of its own, which stays open.
struct ByTcp(Vec<Tcp>);

impl Phones for ByUdp {
    fn register(&mut self, server: &Server, n: u64) -> bool {
        server.udp().request(&phone(n)).code == 200
    }
}

impl Phones for ByTcp {
    fn register(&mut self, server: &Server, n: u64) -> bool {
        let mut connection = server.tcp();
        let code = connection.request(&phone(n)).code;
        self.0.push(connection);
        code == 200
    }
}

fn phone(n: u64) -> Request {
    Request::register(&format!("phone{n}"))
}

/// Registers phones until a cost is learned, then as many as fit; answers the cost, how many were said to fit, and how
/// many did.
fn measured(pair: &Pair, mut phones: impl Phones, per_second: u32) -> (i64, i64, i64) {
    let server = Server::registrar(pair)
        .param("mode", "observe") // so that all are let in
        .param("sample_interval", 200)
        .start();
    let begin = Instant::now();
    let every = Duration::from_secs(1) / per_second;
    let mut n = 0;
    let learned: Value = loop {
        let due = begin + every * u32::try_from(n).expect("a test ends before that");
        std::thread::sleep(due.saturating_duration_since(Instant::now())); // a rate that does not fill the pool
        assert!(phones.register(&server, n), "phone {n} is let in");
        n += 1;
        if n % u64::from(per_second) == 0 {
            let status = server.status();
            if status["registration_cost"].is_number() {
                break status;
            }
        }
        assert!(begin.elapsed() < LEARNT_WITHIN, "{}", server.status());
    };
    let said = number(&learned, "registrations_left");
    let mut fitted = 0;
    while server.shm_pct() < FULL_PCT {
        for _ in 0..10 {
            assert!(phones.register(&server, n), "phone {n} is let in");
            n += 1;
            fitted += 1;
        }
    }
    // That they are all there, not refused in silence, usrloc says.
    found(SOON, "usrloc holds them", || {
        (server.statistic("usrloc:registered_users") == i64::try_from(n).ok()?).then_some(())
    });
    (number(&learned, "registration_cost"), said, fitted)
}

#[test]
fn cost_of_a_registration_is_what_its_transport_takes_and_as_many_fit_as_was_said() {
    for_each_pair_at_once(|pair| {
        let (udp, tcp) = std::thread::scope(|scope| {
            let udp = scope.spawn(|| measured(pair, ByUdp, 60));
            let tcp = scope.spawn(|| measured(pair, ByTcp(Vec::new()), 8));
            (udp.join().expect("UDP"), tcp.join().expect("TCP"))
        });
        println!(
            "{} {}: UDP {udp:?}, TCP {tcp:?}",
            pair.kamailio.version, pair.manager
        );
        assert!(
            tcp.0 > 5 * udp.0,
            "a connection costs: UDP {udp:?}, TCP {tcp:?}"
        );
        for (cost, said, fitted) in [udp, tcp] {
            assert!(
                (said - fitted).abs() * 5 < fitted,
                "a registration costs {cost}: {said} were said to fit, {fitted} did"
            );
        }
    });
}

/// How far from the truth a cost may be when it is shown.
const RIGHT: f64 = 0.15;

#[test]
fn cost_is_absent_until_it_is_right_on_a_steady_stream_of_new_phones() {
    for_each_pair_at_once(|pair| {
        let server = Server::registrar(pair)
            .param("mode", "observe") // so that all are let in
            .start();
        let mut phones = ByUdp;
        let begin = Instant::now();
        let every = Duration::from_secs(1) / 60;
        let used = || number(&server.pool("shm"), "real_used") as f64;
        let (first, mut shown, mut n) = (used(), Vec::new(), 0);
        while begin.elapsed() < Duration::from_secs(100) {
            let due = begin + every * u32::try_from(n).expect("a test ends before that");
            std::thread::sleep(due.saturating_duration_since(Instant::now())); // the rate is what is tested
            assert!(phones.register(&server, n), "phone {n} is let in");
            n += 1;
            if n % 60 == 0 {
                let cost = server.status()["registration_cost"].as_f64();
                shown.extend(cost.map(|cost| (begin.elapsed().as_secs(), cost)));
            }
        }
        let truth = (used() - first) / n as f64;
        println!(
            "{} {}: {truth:.0} in truth, shown {shown:?}",
            pair.kamailio.version, pair.manager
        );
        assert!(!shown.is_empty(), "it is learned within 100 s");
        for (second, cost) in &shown {
            assert!(
                (cost - truth).abs() <= RIGHT * truth,
                "{cost} at {second} s, in truth {truth}: {shown:?}"
            );
        }
    });
}
