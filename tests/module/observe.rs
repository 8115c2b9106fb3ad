//! Mode observe refuses nothing and counts what enforce would have refused: the same traffic twice, on one server.
//! Forbidden here: traffic whose second run finds another state than the first (a phone that gets in becomes known).
//!
//! The script answers 200 without a Contact, so no run leaves a binding behind, and shm stays at the byte where it was.

use serde_json::json;

use super::guard::{Counts, Guarded, SOON, number};
use super::harness::sip::{Request, Tcp};
use super::harness::{Pair, Server, for_each_pair, until};

/// Phones of the traffic.
const PHONES: usize = 240;
/// Runs again when a reply was late and so a request was sent twice, or memory moved meanwhile.
const TRIES: usize = 5;

/// What phone `i` does: kinds and their order are mixed (a multiplicative hash), and the same in every run.
fn kind_of(i: usize) -> u64 {
    ((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % 100
}

fn phone(i: usize) -> Request {
    let request = Request::register(&format!("phone{i}"));
    match kind_of(i) {
        0..40 => request,                                                          // new
        40..65 => request.contact(&format!("<sip:moved@192.0.2.9:{}>", 1024 + i)), // returning
        65..80 => request,                                                         // refresh
        80..88 => Request {
            aor: format!("sip:p{i}@ward.test"),
            ..request
        }, // priority
        88..94 => request.no_contact(),                                            // query
        _ => Request {
            aor: format!("sip:gone{i}@example.test"),
            ..request.expires(0)
        }, // unregister
    }
}

/// Those that are registered before the pressure comes: they refresh, or come back with another contact.
fn is_known_before(i: usize) -> bool {
    (40..80).contains(&kind_of(i))
}

fn server(pair: &Pair) -> Server {
    Server::registrar(pair)
        .with_mgtest()
        .param("priority_domain", "ward.test")
        .param("retry_after_min", 600) // nobody's slot comes while the test runs
        .config(|c| {
            c.register = "if (is_present_hf(\"X-Save\")) { save(\"location\"); } else { sl_send_reply(\"200\", \"OK\"); }".into();
        })
        .start()
}

/// Counts that one run of the traffic adds: `rejected` and `rejected_observed` by class; and how many got 503.
fn run(server: &Server, tcp: &mut Tcp, mode: &str) -> (Counts, Counts, usize) {
    server.rpc("memguard.mode", json!([mode]));
    let use_now = || number(&server.pool("shm"), "real_used");
    for _ in 0..TRIES {
        let read = || {
            (
                server.by_class("rejected"),
                server.by_class("rejected_observed"),
            )
        };
        let (before, used) = (read(), use_now());
        let received = number(&server.registrations(), "received");
        let (by_udp, by_tcp) = (PHONES * 9 / 10, PHONES);
        let tally = server.udp().flood((0..by_udp).map(phone), 4, |_, _, _| ());
        let codes = (by_udp..by_tcp).map(|i| tcp.request(&phone(i)).code);
        let refused = tally.of(503) + codes.filter(|code| *code == 503).count();
        assert_eq!(tally.unanswered, 0, "{tally:?}");
        // A refusal is written down after its reply is out.
        until(SOON, "everything is written down", || {
            number(&server.registrations(), "received") >= received + PHONES as i64
        });
        let after = read();
        if tally.resent == 0 && use_now() == used {
            return (
                added(&before.0, &after.0),
                added(&before.1, &after.1),
                refused,
            );
        }
    }
    panic!("no run of {TRIES} without a repeated request and with steady memory");
}

fn added(before: &Counts, after: &Counts) -> Counts {
    let of = |class: &&'static str| before.get(class).copied().unwrap_or(0);
    let difference = after.iter().map(|(class, n)| (*class, n - of(class)));
    difference.filter(|(_, n)| *n != 0).collect()
}

#[test]
fn observe_counts_exactly_what_enforce_refuses_by_class_and_answers_nothing() {
    for_each_pair(|pair| {
        let server = server(pair);
        let known = (0..PHONES).filter(|i| is_known_before(*i));
        let known = known.map(|i| {
            let request = Request::register(&format!("phone{i}"));
            request.header("X-Save: 1")
        });
        let (client, mut tcp) = (server.udp(), server.tcp()); // a connection costs shm: one for all runs
        let registered = client.flood(known, 4, |_, _, _| ());
        assert_eq!(registered.codes.len(), 1, "{registered:?}");

        // A part of new and none of returning; all of new and a part of returning; all of both.
        for percent in [86, 94, 98] {
            server.fill_shm(percent);
            let (refused, nothing, replies) = run(&server, &mut tcp, "enforce");
            let (nothing_refused, observed, served) = run(&server, &mut tcp, "observe");
            assert_eq!(observed, refused, "at {percent} %");
            assert_eq!(
                nothing.len() + nothing_refused.len() + served,
                0,
                "at {percent} %"
            );
            assert_eq!(
                replies as i64,
                refused.values().sum::<i64>(),
                "at {percent} %"
            );
            let of = |class| refused.get(class).copied().unwrap_or(0) as usize;
            let there = |kinds: std::ops::Range<u64>| {
                (0..PHONES).filter(|i| kinds.contains(&kind_of(*i))).count()
            };
            let (new, returning) = (there(0..40), there(40..65));
            match percent {
                86 => assert!(
                    (1..new).contains(&of("new")) && of("returning") == 0,
                    "{refused:?}"
                ),
                94 => assert!(
                    of("new") == new && (1..returning).contains(&of("returning")),
                    "{refused:?}"
                ),
                _ => assert_eq!((of("new"), of("returning")), (new, returning)),
            }
        }
    });
}
