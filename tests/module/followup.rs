//! Second legs and retransmissions: who was admitted once gets through with what was asked for, and with nothing else.
//! Forbidden here: replies that nobody asked for (forged.rs).

use std::time::Duration;

use serde_json::json;

use super::classes::{CREDENTIALS, challenging};
use super::guard::{Guarded, SOON, number};
use super::harness::sip::{Request, Tcp};
use super::harness::{Server, Upstream, for_each_pair, until};

/// The codes of a first leg at level normal and of its second leg under full shed.
fn both_legs(
    server: &Server,
    first: &Request,
    second: &Request,
    mut ask: impl FnMut(&Request) -> u16,
) -> (u16, u16) {
    server.rpc("memguard.resume", json!([]));
    let challenge = ask(first);
    server.rpc("memguard.shed", json!([60]));
    (challenge, ask(second))
}

#[test]
fn followup_asks_for_what_its_first_leg_asked_for_and_for_nothing_else() {
    for_each_pair(|pair| {
        let server = challenging(pair).start();
        let contact = |number: usize| format!("<sip:p@192.0.2.1:{}>", 5060 + number);
        let of = |user: &str, contacts: &[usize], expires: Option<u32>| Request {
            contacts: contacts.iter().map(|number| contact(*number)).collect(),
            expires,
            ..Request::register(user)
        };
        let second = |first: &Request, contacts: &[usize], expires| Request {
            contacts: contacts.iter().map(|number| contact(*number)).collect(),
            expires,
            ..first.next().header(CREDENTIALS)
        };
        let hour = Some(3600);
        let many: Vec<usize> = (0..7).collect();
        let many_and_one: Vec<usize> = (0..8).collect();
        let mut other = many.clone();
        other[6] = 99;
        type Leg<'a> = (&'a [usize], Option<u32>);
        let cases: [(&str, Leg, Leg, u16); 14] = [
            ("the same", (&[1], hour), (&[1], hour), 200),
            ("another Expires", (&[1], hour), (&[1], Some(600)), 200),
            ("no Expires header", (&[1], hour), (&[1], None), 200),
            ("one of two", (&[1, 2], hour), (&[2], hour), 200),
            ("in another order", (&[1, 2], hour), (&[2, 1], hour), 200),
            ("seven, as before", (&many, hour), (&many, hour), 200),
            ("no Contact, then one", (&[], hour), (&[1], hour), 503),
            (
                "no Contact and no Expires, then one",
                (&[], None),
                (&[1], hour),
                503,
            ),
            (
                "Expires 0, then to stay",
                (&[1], Some(0)),
                (&[1], hour),
                503,
            ),
            ("another contact", (&[1], hour), (&[2], hour), 503),
            ("one more", (&[1], hour), (&[1, 2], hour), 503),
            (
                "the fourth is another",
                (&[1, 2, 3, 4], hour),
                (&[1, 2, 3, 5], hour),
                503,
            ),
            ("an eighth", (&many, hour), (&many_and_one, hour), 503),
            (
                "of seven the last is another",
                (&many, hour),
                (&other, hour),
                503,
            ),
        ];
        let udp = server.udp();
        let mut tcp = Tcp::to(server.sip());
        for (number, (what, asked, then, expected)) in cases.into_iter().enumerate() {
            for transport in ["udp", "tcp"] {
                let first = of(&format!("{transport}{number}"), asked.0, asked.1);
                let second = second(&first, then.0, then.1);
                let got = both_legs(&server, &first, &second, |request| match transport {
                    "udp" => udp.request(request).code,
                    _ => tcp.request(request).code,
                });
                assert_eq!(got, (401, expected), "{what}, by {transport}");
            }
        }
    });
}

#[test]
fn followup_of_one_line_stands_beside_those_of_other_lines_with_the_same_call_id() {
    for_each_pair(|pair| {
        let server = challenging(pair).start();
        let client = server.udp();
        let call_id = Request::register("x").call_id;
        let lines: Vec<Request> = (0..5)
            .map(|line| Request {
                call_id: call_id.clone(),
                ..Request::register(&format!("line{line}"))
            })
            .collect();
        for line in &lines {
            assert_eq!(client.request(line).code, 401);
        }
        server.rpc("memguard.shed", json!([60]));
        for line in &lines {
            let second = line.next().header(CREDENTIALS);
            assert_eq!(client.request(&second).code, 200, "{}", line.aor);
        }
    });
}

#[test]
fn followup_first_leg_that_comes_again_does_not_undo_its_challenge() {
    for_each_pair(|pair| {
        let server = challenging(pair).start();
        let client = server.udp();
        let first = Request::register("again");
        assert_eq!(client.request(&first).code, 401);
        server.rpc("memguard.shed", json!([60]));
        for _ in 0..3 {
            assert_eq!(client.request(&first).code, 401, "the answer was lost");
        }
        let other = Request {
            contacts: vec!["<sip:again@192.0.2.99>".into()],
            ..first.clone()
        };
        assert_eq!(
            client.request(&other).code,
            503,
            "it only looks like a retransmission"
        );
        let second = first.next().header(CREDENTIALS);
        assert_eq!(client.request(&second).code, 200);
    });
}

/// A registrar that answers when it is told to.
fn slow() -> Upstream {
    Upstream::start(|_| Vec::new())
}

#[test]
fn followup_a_retransmission_of_what_is_in_flight_gets_the_real_answer_only() {
    for_each_pair(|pair| {
        for relay in ["t_relay();", "forward();"] {
            let registrar = slow();
            let script = format!("$du = \"sip:{}\"; {relay}", registrar.address());
            let proxy = Server::proxy(pair, registrar.address())
                .config(|c| c.register = script)
                .start();
            let client = proxy.udp();
            let legs = [
                Request::register("first"),
                Request::register("second").header(CREDENTIALS),
            ];
            for request in &legs {
                client.send_raw(&client.bytes(request));
            }
            until(SOON, "both are with the registrar", || {
                registrar.received().len() >= 2
            });
            let seen = number(&proxy.registrations(), "received");
            proxy.rpc("memguard.shed", json!([60]));
            for _ in 0..5 {
                legs.iter()
                    .for_each(|request| client.send_raw(&client.bytes(request)));
            }
            until(SOON, "the retransmissions passed the gate", || {
                number(&proxy.registrations(), "received") == seen + 10
            });
            let mut newer = legs[0].clone();
            newer.branch += "x";
            assert_eq!(
                client.request(&newer).code,
                503,
                "another transaction is decided anew"
            );
            until(SOON, "that one is counted, and no other", || {
                proxy.by_class("rejected").values().sum::<i64>() == 1
            });
            let mut calls = Vec::new();
            for request in registrar.received() {
                let call_id = request.header("Call-ID").to_owned();
                if !calls.contains(&call_id) {
                    let contact = format!("Contact: {};expires=600", request.header("Contact"));
                    registrar.send(request.from, &request.reply(200, &[contact]));
                    calls.push(call_id);
                }
            }
            for _ in 0..2 {
                let answer = loop {
                    let answer = client.receive_raw(SOON).expect("the real answer");
                    if !answer.starts_with(b"SIP/2.0 100") {
                        break answer;
                    }
                };
                assert!(
                    answer.starts_with(b"SIP/2.0 200"),
                    "{}",
                    String::from_utf8_lossy(&answer)
                );
            }
            // Known now, they are no retransmissions any more.
            assert_eq!(
                client.try_request(&legs[0].next(), Duration::from_millis(300)),
                None
            );
            until(SOON, "a refresh", || {
                proxy.by_class("received").contains_key("refresh")
            });
        }
    });
}

#[test]
fn followup_a_retransmission_passes_while_the_script_of_the_first_one_runs() {
    for_each_pair(|pair| {
        // A script that waits for something slow, at a level where the stage before parsing looks at datagrams.
        let server = Server::registrar(pair)
            .with_mgtest()
            .workers(2)
            .param("shm_warning_pct", 1)
            .param("shm_shed_pct", 2)
            .param("shm_full_pct", 98)
            .param("shm_emergency_pct", 99)
            .config(|c| {
                c.module("cfgutils");
                c.register = format!("usleep(\"1500000\"); {}", c.register);
            })
            .start();
        let client = server.udp();
        // Some are refused at this share already, and are not what is asked about.
        let admitted = (0..50).find_map(|user| {
            let request = Request::register(&format!("u{user}"));
            client.send_raw(&client.bytes(&request));
            let refused = client.receive_raw(Duration::from_millis(200)).is_some();
            (!refused).then_some(request)
        });
        let request = admitted.expect("one is admitted");
        server.rpc("memguard.shed", json!([60]));
        client.send_raw(&client.bytes(&request));
        let answer = client.receive_raw(SOON).expect("an answer");
        assert!(
            answer.starts_with(b"SIP/2.0 200"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    });
}
