//! The order of classes, by pairs of neighbours: new, returning, priority; then refresh, followup and unregister (and
//! query), which are refused only when nothing can be parsed, and so all at once (zero.rs).
//! Forbidden here: how a class is found (classes.rs), but that a second leg is known by its Call-ID.

use serde_json::json;

use super::classes::{CREDENTIALS, challenging};
use super::guard::{Guarded, SOON, number};
use super::harness::builder::Builder;
use super::harness::sip::{Connection, Reply, Request, Tcp, Udp};
use super::harness::wait::found;
use super::harness::{Pair, Server, for_each_pair, until};

fn registrar(pair: &Pair) -> Builder {
    Server::registrar(pair)
        .shm_mb(8)
        .with_mgtest()
        .param("sample_interval", 100)
}

/// Phones on both kinds of transport; the connection is older than the shortage, as a new one takes 17 KB of shm.
struct Phones {
    udp: Udp,
    tcp: Tcp,
}

impl Phones {
    fn of(server: &Server) -> Phones {
        let mut tcp = server.tcp();
        assert_eq!(tcp.request(&Request::options()).code, 200);
        Phones {
            udp: server.udp(),
            tcp,
        }
    }

    /// The answers of one user's phone over UDP and of another's over TCP.
    #[track_caller]
    fn both(&mut self, make: impl Fn(&str) -> Request) -> [Reply; 2] {
        [
            self.udp.request(&make("udp")),
            self.tcp.request(&make("tcp")),
        ]
    }
}

#[track_caller]
fn assert_pass(replies: [Reply; 2], what: &str) {
    for reply in replies {
        assert_eq!(reply.code, 200, "{what}: {reply:?}");
    }
}

#[track_caller]
fn assert_refused(replies: [Reply; 2], seconds: std::ops::RangeInclusive<u64>, what: &str) {
    for reply in replies {
        assert_eq!(reply.code, 503, "{what}: {reply:?}");
        let told = reply.retry_after().expect("Retry-After");
        assert!(seconds.contains(&told), "{what}: {told} s");
    }
}

const QUEUE: std::ops::RangeInclusive<u64> = 30..=1800;

fn phone(name: &str) -> Request {
    Request::register(name)
}

/// A known AoR at a new address.
fn moved(name: &str) -> Request {
    phone(name).contact("<sip:moved@192.0.2.250>")
}

/// An emergency registration.
fn sos(name: &str) -> Request {
    phone(name).contact("<sip:sos@192.0.2.1;sos>")
}

#[test]
fn order_new_is_refused_while_returning_passes_and_returning_while_priority_does() {
    for_each_pair(|pair| {
        let server = registrar(pair)
            .param("shm_warning_pct", 30)
            .param("shm_shed_pct", 40)
            .param("shm_full_pct", 50)
            .param("shm_emergency_pct", 97)
            .start();
        let mut phones = Phones::of(&server);
        let known: Vec<String> = (0..100).map(|i| format!("known{i}")).collect();
        for name in &known {
            assert_eq!(phones.udp.request(&phone(name)).code, 200);
        }
        // At full: all of new, and of returning a fiftieth of what lies between full and emergency.
        server.fill_shm(51);
        for i in 0..10 {
            let name = |transport: &str| format!("new{i}{transport}");
            assert_refused(phones.both(|t| phone(&name(t))), QUEUE, "new");
        }
        let passed = known
            .iter()
            .filter(|name| phones.udp.request(&moved(name)).code == 200);
        assert!(passed.count() >= 85, "returning passes, but some");
        // At emergency: all of returning too, also of those who have passed.
        server.fill_shm(98);
        for name in known.iter().take(10) {
            let back = phone(name).contact("<sip:back@192.0.2.251>");
            assert_refused(phones.both(|_| back.clone()), QUEUE, "returning");
        }
        assert_pass(phones.both(|t| sos(&format!("sos-{t}"))), "priority");
    });
}

/// Holds pieces of shm until at most `most` bytes are free.
fn fill_to(server: &Server, piece: i64, most: i64) -> i64 {
    loop {
        let shm = server.pool("shm");
        let free = number(&shm, "size") - number(&shm, "real_used");
        if free <= most {
            return free;
        }
        let count = ((free - most) / (2 * piece + 400)).max(1);
        if server.rpc("mgtest.hold_shm", json!([piece, count])) == json!(0) {
            return free; // what is left lies in smaller pieces
        }
    }
}

/// With room for one more registration of this cost, and a little, priority passes; with less it is refused, and who
/// keeps a registration alive passes still.
pub fn reserve_holds_the_last_registration_for_priority(server: &Server, cost: i64) {
    let mut phones = Phones::of(server);
    let known = phone("reserve-known");
    assert_eq!(phones.udp.request(&known).code, 200);
    let free = fill_to(server, 512, 4 * cost);
    assert!(free > 2 * cost, "{free} bytes free of a cost of {cost}");
    assert_refused(phones.both(|t| phone(&format!("r-{t}"))), QUEUE, "new");
    assert_eq!(phones.udp.request(&sos("reserve-one")).code, 200, "it fits");
    let free = fill_to(server, 64, cost - 200);
    assert!(free < cost, "{free} bytes free of a cost of {cost}");
    assert_refused(
        phones.both(|t| sos(&format!("reserve-{t}"))),
        5..=5,
        "priority",
    );
    assert_eq!(phones.udp.request(&known.next()).code, 200, "refresh");
    assert_eq!(
        phones.udp.request(&known.next().next().no_contact()).code,
        200
    );
    let gone = known.next().next().next().expires(0);
    assert_eq!(phones.udp.request(&gone).code, 200, "unregister");
    server.release_shm();
    assert_pass(phones.both(|t| sos(&format!("reserve-{t}"))), "priority");
}

#[test]
fn order_priority_is_refused_when_not_one_more_fits_while_refresh_and_unregister_pass() {
    for_each_pair(|pair| {
        let server = registrar(pair).start();
        // The cost is not learned yet: a kilobyte is assumed.
        assert!(server.status().get("registration_cost").is_none());
        reserve_holds_the_last_registration_for_priority(&server, 1024);
    });
}

/// A request whose From and To are written differently.
fn rewritten(request: &Request, local: std::net::SocketAddr) -> Vec<u8> {
    let text = String::from_utf8(request.bytes("UDP", local)).expect("text");
    let aor = &request.aor;
    let (from, to) = (format!("From: <{aor}>;tag="), format!("To: <{aor}>"));
    assert!(text.contains(&from) && text.contains(&to), "{text}");
    let text = text
        .replace(&from, &format!("From: \"Anna\" <{aor}>;x=1;y=\"a;b\";tag="))
        .replace(&to, &format!("t: \"A, <na>\" <{aor};user=phone>;later=yes"));
    text.into_bytes()
}

#[test]
fn order_a_second_leg_passes_when_new_and_priority_do_not_however_from_and_to_are_written() {
    for_each_pair(|pair| {
        let server = challenging(pair)
            .shm_mb(8)
            .with_mgtest()
            .param("sample_interval", 100)
            .start();
        let Phones { udp, mut tcp } = Phones::of(&server);
        let first: Vec<Request> = ["a", "b", "c"].map(phone).into();
        for request in &first {
            assert_eq!(udp.request(request).code, 401);
        }
        let free = fill_to(&server, 64, 900);
        assert!(free < 1024, "{free}");
        assert_eq!(udp.request(&sos("late")).code, 503, "priority");
        assert_eq!(udp.request(&phone("late")).code, 503, "new");
        // The registrar has no room for them, but the gate lets them through to it: 500 is its answer.
        let count = || server.by_class("admitted").get("followup").copied();
        for (i, request) in first.iter().enumerate() {
            let second = request.next().header(CREDENTIALS);
            match i {
                0 => udp.send_raw(&udp.bytes(&second)),
                1 => udp.send_raw(&rewritten(&second, udp.local())),
                _ => tcp.send(&second).expect("it is sent"),
            }
            until(SOON, "it is let in as a second leg", || {
                count() == Some(i as i64 + 1)
            });
        }
        assert_eq!(server.by_class("rejected").get("followup"), None);
        server.release_shm();
        // With room again the next second leg is registered, rewritten or not.
        for (name, is_rewritten) in [("d", false), ("e", true)] {
            let request = phone(name);
            assert_eq!(udp.request(&request).code, 401);
            server.rpc("memguard.shed", json!([60]));
            let second = request.next().header(CREDENTIALS);
            match is_rewritten {
                false => udp.send_raw(&udp.bytes(&second)),
                true => udp.send_raw(&rewritten(&second, udp.local())),
            }
            let reply = found(SOON, "an answer", || {
                Reply::parse(&udp.receive_raw(SOON)?).filter(|r| r.answers(&second))
            });
            assert_eq!(reply.code, 200, "{reply:?}");
            server.rpc("memguard.resume", json!([]));
        }
    });
}
