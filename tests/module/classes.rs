//! Every REGISTER is counted once, in the class that the contract gives it: new, refresh, returning, unregister, query,
//! followup, priority; retransmissions and concurrent senders included.
//! Forbidden here: pressure, but where a class is proven by being let through.

use std::time::Duration;

use serde_json::json;

use super::guard::{CLASSES, Counts, Guarded, SOON, counts, number};
use super::harness::builder::Builder;
use super::harness::sip::{Reply, Request};
use super::harness::wait::holds_within;
use super::harness::{Pair, Server, for_each_pair, until};

/// What a step added to the counts of one kind.
struct Watch<'a> {
    server: &'a Server,
    what: &'static str,
    before: Counts,
}

impl<'a> Watch<'a> {
    fn new(server: &'a Server, what: &'static str) -> Watch<'a> {
        let before = server.by_class(what);
        Watch {
            server,
            what,
            before,
        }
    }

    /// What was counted since the last step.
    fn gained(&self) -> Counts {
        let now = self.server.by_class(self.what);
        let gained = |class| now.get(class).unwrap_or(&0) - self.before.get(class).unwrap_or(&0);
        let of = |class| (class, gained(class));
        CLASSES
            .map(of)
            .into_iter()
            .filter(|(_, n)| *n != 0)
            .collect()
    }

    /// This and nothing else; awaited, as a refusal is counted when it is on its way.
    #[track_caller]
    fn expect_all(&mut self, expected: &[(&'static str, i64)], step: &str) {
        holds_within(SOON, || self.gained() == counts(expected));
        assert_eq!(self.gained(), counts(expected), "{step}");
        self.before = self.server.by_class(self.what);
    }

    #[track_caller]
    fn expect(&mut self, class: &'static str, step: &str) {
        self.expect_all(&[(class, 1)], step);
    }
}

#[test]
fn classes_each_step_of_a_phones_life_is_counted_in_its_class() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair).start();
        let client = server.udp();
        let mut watch = Watch::new(&server, "received");
        let mut step = |request: &Request, class: &'static str, step: &str| {
            assert_eq!(client.request(request).code, 200, "{step}");
            watch.expect(class, step);
        };
        let phone = Request::register("alice");
        let other = "<sip:alice@192.0.2.9:5062>";
        step(&phone, "new", "a first registration");
        step(&phone.next(), "refresh", "the same again");
        step(
            &Request::register("alice"),
            "refresh",
            "the same with a new Call-ID",
        );
        step(
            &phone.next().no_contact(),
            "query",
            "which bindings are there?",
        );
        step(
            &Request::register("alice").contact(other),
            "returning",
            "another contact",
        );
        let both = Request {
            contacts: vec!["<sip:alice@192.0.2.1:5060>".into(), other.into()],
            ..Request::register("alice")
        };
        step(&both, "refresh", "both known contacts at once");
        let mut mixed = both.clone();
        mixed.contacts.push("<sip:alice@192.0.2.77>".into());
        let mixed = Request {
            call_id: Request::register("alice").call_id,
            ..mixed
        };
        step(
            &mixed,
            "returning",
            "of several contacts the costliest counts",
        );
        let gone = Request {
            expires: None,
            ..Request::register("alice")
        };
        let gone = gone.contact("<sip:alice@192.0.2.9:5062>;expires=0");
        step(&gone, "unregister", "a contact with expires=0");
        step(
            &Request::register("alice").contact(other),
            "returning",
            "and back",
        );
        step(
            &Request::register("alice").expires(0),
            "unregister",
            "Expires: 0",
        );
        step(
            &Request::register("alice").contact("*").expires(0),
            "unregister",
            "*",
        );
        step(
            &Request::register("alice").no_contact(),
            "query",
            "none is left",
        );
        step(
            &Request::register("alice"),
            "returning",
            "its AoR is remembered",
        );
        step(
            &Request::register("nobody").expires(0),
            "unregister",
            "of an unknown AoR",
        );
    });
}

#[test]
fn classes_the_same_aor_and_contact_in_other_spellings_are_a_refresh() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair).start();
        let client = server.udp();
        let mut watch = Watch::new(&server, "received");
        let with_aor = |aor: &str, contact: &str| Request {
            aor: aor.into(),
            ..Request::register("x").contact(contact)
        };
        let step = |request: &Request| assert_eq!(client.request(request).code, 200);
        step(&with_aor(
            "sip:bob@example.test",
            "<sip:bob@192.0.2.1:5060>",
        ));
        watch.expect("new", "first");
        step(&with_aor(
            "sip:bob@EXAMPLE.test",
            "<sip:bob@192.0.2.1:5060>",
        ));
        watch.expect("refresh", "the host's case");
        step(&with_aor(
            "sip:%62ob@example.test",
            "\"Bob\" <sip:bob@192.0.2.1:5060>",
        ));
        watch.expect("refresh", "an escape and a display name");
        // RFC 5626: the instance is the binding, wherever the phone is now.
        let instance = ";+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-000A95A0E128>\"";
        let phone = |port: u16| {
            with_aor(
                "sip:carol@example.test",
                &format!("<sip:carol@192.0.2.1:{port}>{instance}"),
            )
        };
        step(&phone(5060));
        watch.expect("new", "an instance");
        step(&phone(5999));
        watch.expect("refresh", "the same instance at another port");
    });
}

#[test]
fn classes_credentials_make_a_followup_only_after_a_challenge_of_this_server() {
    for_each_pair(|pair| {
        let server = challenging(pair).start();
        let client = server.udp();
        let mut watch = Watch::new(&server, "received");
        let first = Request::register("dora");
        assert_eq!(client.request(&first).code, 401);
        watch.expect("new", "the first leg");
        assert_eq!(number(&server.registrations(), "challenged"), 1);
        let second = first.next().header(CREDENTIALS);
        // The first leg was admitted: the second is let through whatever happens meanwhile.
        server.rpc("memguard.shed", json!([60]));
        let stolen = Request {
            call_id: first.call_id.clone(),
            ..Request::register("frida")
        };
        assert_eq!(
            client
                .request(&stolen.next().next().header(CREDENTIALS))
                .code,
            503
        );
        watch.expect("new", "another AoR with the Call-ID of a challenge");
        assert_eq!(client.request(&second).code, 200);
        watch.expect("followup", "the second leg");
        let other = Request::register("erik");
        assert_eq!(client.request(&other.clone().header(CREDENTIALS)).code, 503);
        watch.expect("new", "credentials that nobody asked for change nothing");
        assert_eq!(
            client.request(&other.next()).code,
            503,
            "a refused first leg"
        );
        assert_eq!(
            client
                .request(&other.next().next().header(CREDENTIALS))
                .code,
            503
        );
        watch.expect_all(&[("new", 2)], "an attempt of its own, and its credentials");
    });
}

pub const CREDENTIALS: &str = "Authorization: Digest username=\"u\", realm=\"example.test\", nonce=\"n1\", uri=\"sip:example.test\", response=\"0123456789abcdef0123456789abcdef\"";

/// A registrar that asks for credentials, and believes any.
pub fn challenging(pair: &Pair) -> Builder {
    let script = "if (!is_present_hf(\"Authorization\")) {
            append_to_reply(\"WWW-Authenticate: Digest realm=\\\"example.test\\\", nonce=\\\"n1\\\"\\r\\n\");
            sl_send_reply(\"401\", \"Unauthorized\");
            exit;
        }
        if (!save(\"location\")) { sl_reply_error(); }";
    Server::registrar(pair).config(|c| c.register = script.into())
}

#[test]
fn classes_priority_is_let_in_by_aor_domain_source_and_sos() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .param("priority_aor", "sip:chief@example.test")
            .param("priority_aor", "112")
            .param("priority_domain", "control.test")
            .param("priority_source", "127.0.0.9")
            .param("priority_source", "127.0.8.0/24")
            .start();
        server.rpc("memguard.shed", json!([60]));
        let mut watch = Watch::new(&server, "admitted");
        let client = server.udp();
        let of = |aor: &str| Request {
            aor: aor.into(),
            ..Request::register("x")
        };
        let mut priority = |reply: Reply, step: &str| {
            assert_eq!(reply.code, 200, "{step}");
            watch.expect("priority", step);
        };
        priority(client.request(&Request::register("chief")), "an AoR");
        priority(
            client.request(&of("sip:112@anywhere.test")),
            "a user of any domain",
        );
        priority(client.request(&of("sip:anna@control.test")), "a domain");
        let near = super::harness::sip::Udp::from("127.0.0.9", server.sip());
        priority(near.request(&Request::register("near")), "an address");
        let net = super::harness::sip::Udp::from("127.0.8.77", server.sip());
        priority(net.request(&Request::register("net")), "a network");
        let sos = Request::register("sos").contact("<sip:sos@192.0.2.1;sos>");
        priority(client.request(&sos), "an emergency registration");
        let far = super::harness::sip::Udp::from("127.0.9.1", server.sip());
        for (reply, step) in [
            (far.request(&Request::register("far")), "another network"),
            (
                client.request(&of("sip:chief@other.test")),
                "another domain's",
            ),
            (
                client.request(&of("sip:berta@sub.control.test")),
                "a domain below",
            ),
            (
                client.request(&Request::register("x").contact("<sip:x@192.0.2.1>;sos")),
                "sos outside the URI",
            ),
        ] {
            assert_eq!(reply.code, 503, "{step}");
        }
        assert_eq!(watch.gained(), Counts::new());
    });
}

#[test]
fn classes_priority_sos_0_makes_an_emergency_registration_like_any_other() {
    for_each_pair(|pair| {
        let sos = |user: &str| {
            let contact = format!("<sip:{user}@192.0.2.1;sos>");
            Request::register(user).contact(&contact)
        };
        let server = Server::registrar(pair)
            .config(|c| {
                c.module("cfg_rpc");
            })
            .start();
        server.rpc("memguard.shed", json!([60]));
        let (client, mut tcp) = (server.udp(), server.tcp());
        assert_eq!(client.request(&sos("a")).code, 200);
        server.set("priority_sos", 0);
        assert_eq!(client.request(&sos("b")).code, 503);
        assert_eq!(tcp.request(&sos("c")).code, 503);
        assert_eq!(client.request(&sos("a").next()).code, 200, "a refresh");
        server.set("priority_sos", 1);
        assert_eq!(client.request(&sos("d")).code, 200);
        until(SOON, "all are counted", || {
            server.by_class("received") == counts(&[("priority", 2), ("new", 2), ("refresh", 1)])
        });
        let off = Server::registrar(pair).param("priority_sos", 0).start();
        off.rpc("memguard.shed", json!([60]));
        assert_eq!(off.udp().request(&sos("e")).code, 503);
    });
}

#[test]
fn classes_every_register_is_counted_once_with_retransmissions_and_eight_senders() {
    const SENDERS: usize = 8;
    const EACH: usize = 250;
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .workers(4)
            .shm_mb(32)
            .param("sample_interval", 100) // the sampling process counts the table a part at a time
            .start();
        let sent: usize = std::thread::scope(|scope| {
            let senders: Vec<_> = (0..SENDERS)
                .map(|sender| {
                    let client = server.udp();
                    scope.spawn(move || {
                        let users = (0..EACH).map(|i| Request::register(&format!("u{sender}-{i}")));
                        let tally = client.flood(users, 4, |_, _, _| ());
                        assert_eq!((tally.of(200), tally.unanswered), (EACH, 0), "{tally:?}");
                        EACH + tally.resent
                    })
                })
                .collect();
            senders
                .into_iter()
                .map(|s| s.join().expect("a sender"))
                .sum()
        });
        let total = |sent: usize| {
            let all = server.registrations();
            let classes: i64 = server.by_class("received").values().sum();
            assert_eq!(number(&all, "received"), classes, "{all}");
            let workers: i64 = server
                .workers()
                .iter()
                .map(|w| number(w, "registers"))
                .sum();
            (classes == sent as i64 && workers == sent as i64).then_some(all)
        };
        let all = total(sent).unwrap_or_else(|| panic!("{sent} sent: {}", server.registrations()));
        assert_eq!(number(&all, "accepted"), sent as i64, "{all}");
        // The same bytes again, thrice: each is counted, as what it is now.
        let client = server.udp();
        let bytes = client.bytes(&Request::register("again"));
        for _ in 0..4 {
            client.send_raw(&bytes);
            assert!(client.receive_raw(Duration::from_secs(5)).is_some());
        }
        assert!(total(sent + 4).is_some(), "{}", server.registrations());
        assert_eq!(server.by_class("received").get("refresh"), Some(&3));
        until(Duration::from_secs(5), "the table is counted", || {
            number(&server.registrations(), "known_bindings") == (SENDERS * EACH + 1) as i64
        });
        assert_eq!(
            number(&server.registrations(), "known_aors"),
            (SENDERS * EACH + 1) as i64
        );
    });
}

#[test]
fn classes_usrloc_is_asked_where_the_table_has_forgotten() {
    const PHONES: usize = 6000;
    for_each_pair(|pair| {
        // usrloc's tables are found by the names of its statistics, whose separator can be set.
        let separator = if pair.manager == "qm" { "_" } else { "-" };
        // Room for a few of them: most are pushed out of the table, and usrloc knows them all.
        let server = Server::registrar(pair)
            .shm_mb(64)
            .param("bindings", 1024)
            .config(|c| {
                c.global(&format!("stats_name_separator = \"{separator}\""));
            })
            .start();
        let client = server.udp();
        let phones = || (0..PHONES).map(|i| Request::register(&format!("p{i}")));
        assert_eq!(client.flood(phones(), 16, |_, _, _| ()).of(200), PHONES);
        server.rpc("memguard.shed", json!([60]));
        let again = client.flood(phones().map(|p| p.next()), 16, |_, _, _| ());
        assert_eq!(
            again.of(200),
            PHONES,
            "nobody who is registered is refused: {again:?}"
        );
        let stranger = client.request(&Request::register("stranger"));
        assert_eq!(stranger.code, 503, "{stranger:?}");
        let elsewhere = Request::register("p7").contact("<sip:p7@192.0.2.77>");
        assert_eq!(
            client.request(&elsewhere).code,
            503,
            "known, but another contact"
        );
        until(SOON, "both are counted", || {
            server.by_class("rejected") == counts(&[("new", 1), ("returning", 1)])
        });
    });
}
