//! memguard in a proxy without a location table, in front of a second Kamailio: bindings are learned from the replies
//! that are relayed, doubt moves one class up, and a refusal further back arrives whole.
//! Forbidden here: usrloc in the proxy.

use serde_json::json;

use super::guard::{Guarded, SOON, counts, number, rows};
use super::harness::sip::{Reply, Request};
use super::harness::{Pair, Received, Server, Upstream, for_each_pair, until};

/// A registrar without memguard, and a proxy with it.
fn chain(pair: &Pair, script: &str) -> (Server, Server) {
    let registrar = Server::registrar(pair).without_memguard().start();
    let proxy = Server::proxy(pair, registrar.sip())
        .config(|c| {
            c.module("nathelper");
            c.register = format!("{script}\n    {}", c.register);
        })
        .start();
    (registrar, proxy)
}

#[track_caller]
fn assert_refused(reply: &Reply, code: u16) {
    assert_eq!(reply.code, code, "{reply:?}");
    let seconds = reply.retry_after();
    assert!(
        seconds.is_some_and(|s| (30..=1800).contains(&s)),
        "{reply:?}"
    );
}

#[test]
fn proxy_learns_bindings_from_relayed_replies_and_sheds_the_unknown_only() {
    const PHONES: usize = 50;
    for_each_pair(|pair| {
        let (registrar, proxy) = chain(pair, "");
        let (client, mut tcp) = (proxy.udp(), proxy.tcp());
        let phones: Vec<Request> = (0..PHONES)
            .map(|i| Request::register(&format!("p{i}")))
            .collect();
        assert_eq!(
            client
                .flood(phones.iter().cloned(), 4, |_, _, _| ())
                .of(200),
            PHONES
        );
        let by_tcp = Request::register("tcp");
        assert_eq!(tcp.request(&by_tcp).code, 200);
        let all = proxy.registrations();
        assert_eq!(number(&all, "table_unsure"), 1, "the first hour: {all}");
        assert_eq!(number(&all, "accepted"), PHONES as i64 + 1);
        // What is unknown may only be unknown here.
        let learned = counts(&[("returning", PHONES as i64 + 1)]);
        assert_eq!(proxy.by_class("received"), learned);

        proxy.rpc("memguard.shed", json!([60]));
        let again = client.flood(phones.iter().map(Request::next), 4, |_, _, _| ());
        assert_eq!(again.of(200), PHONES, "{again:?}");
        assert_eq!(tcp.request(&by_tcp.next()).code, 200);
        assert_eq!(
            client.request(&phones[0].next().next().no_contact()).code,
            200,
            "query"
        );
        let unknown = (0..PHONES).map(|i| Request::register(&format!("u{i}")));
        let refused = client.flood(unknown, 4, |_, _, reply| assert_refused(reply, 503));
        assert_eq!(refused.of(503), PHONES, "{refused:?}");
        assert_refused(&tcp.request(&Request::register("u-tcp")), 503);
        let gone = Request {
            cseq: 7,
            ..phones[1].next().expires(0)
        };
        assert_eq!(client.request(&gone).code, 200, "unregister");
        assert_refused(&client.request(&Request::register("p1")), 503);
        assert_eq!(
            registrar.statistic("usrloc:registered_users"),
            PHONES as i64
        );
        let expected = counts(&[("returning", PHONES as i64 + 2 + refused.resent as i64)]);
        until(SOON, "all refusals are counted", || {
            proxy.by_class("rejected") == expected
        });
        proxy.rpc("memguard.resume", json!([]));
        assert_eq!(client.request(&Request::register("p1")).code, 200);
        assert_eq!(
            registrar.statistic("usrloc:registered_users"),
            PHONES as i64 + 1
        );
    });
}

#[test]
fn proxy_knows_a_binding_whose_contact_it_rewrites() {
    for_each_pair(|pair| {
        let rewrites = [
            "add_contact_alias();",
            "subst(\"/^(Contact:.*)192\\.0\\.2\\.1:5060/\\1nat.test:4444/i\");",
        ];
        for script in rewrites {
            let (_registrar, proxy) = chain(pair, script);
            let (client, mut tcp) = (proxy.udp(), proxy.tcp());
            let (phone, by_tcp) = (Request::register("alice"), Request::register("bob"));
            let reply = client.request(&phone);
            assert_eq!(
                (reply.code, tcp.request(&by_tcp).code),
                (200, 200),
                "{reply:?}"
            );
            let contact = reply.header("Contact").unwrap_or_default();
            let is_rewritten = contact.contains("alias=") || contact.contains("@nat.test");
            assert!(is_rewritten, "{script}: {contact}");
            proxy.rpc("memguard.shed", json!([60]));
            assert_eq!(client.request(&phone.next()).code, 200, "{script}");
            assert_eq!(tcp.request(&by_tcp.next()).code, 200, "{script}");
            assert_eq!(
                proxy.by_class("received").get("refresh"),
                Some(&2),
                "{script}"
            );
        }
    });
}

#[test]
fn proxy_says_that_it_has_no_location_table() {
    for_each_pair(|pair| {
        let (_registrar, proxy) = chain(pair, "");
        let status = proxy.status();
        let mut warnings = rows(&status["warnings"]).iter().filter_map(|w| w.as_str());
        assert!(
            warnings.any(|w| w.contains("usrloc is not loaded")),
            "{status}"
        );
    });
}

#[test]
fn proxy_relays_a_refusal_of_the_registrar_as_one_that_keeps_calls_going() {
    for_each_pair(|pair| {
        let registrar = Server::registrar(pair).start();
        let proxy = Server::proxy(pair, registrar.sip()).start();
        registrar.rpc("memguard.shed", json!([60]));
        assert_refused(&proxy.udp().request(&Request::register("new")), 500);
        assert_refused(&proxy.tcp().request(&Request::register("new2")), 500);
        let all = proxy.registrations();
        assert_eq!(
            (number(&all, "failed"), number(&all, "accepted")),
            (2, 0),
            "{all}"
        );
        assert_eq!(proxy.by_class("rejected"), counts(&[]));
    });
}

#[test]
fn proxy_warns_when_tm_would_eat_the_retry_after_of_a_relayed_503() {
    for_each_pair(|pair| {
        // A server behind the proxy that answers 503 also through proxies, as many do that have no memguard.
        let registrar = Server::registrar(pair)
            .param("proxied_reply_code", 503)
            .start();
        registrar.rpc("memguard.shed", json!([60]));
        let warnings = |server: &Server| {
            let status = server.status();
            let texts = rows(&status["warnings"]).iter().filter_map(|w| w.as_str());
            texts.filter(|w| w.contains("remap_503_500")).count()
        };
        let lines = |server: &Server| {
            let log = server.log();
            log.lines().filter(|l| l.contains("remap_503_500")).count()
        };
        for (remap, code, expected) in [(None, 500, 1), (Some(1), 500, 1), (Some(0), 503, 0)] {
            let mut builder = Server::proxy(pair, registrar.sip());
            if let Some(remap) = remap {
                builder = builder.config(|c| {
                    c.param("tm", "remap_503_500", remap);
                });
            }
            let proxy = builder.start();
            let reply = proxy.udp().request(&Request::register("new"));
            assert_eq!(reply.code, code, "{remap:?}: {reply:?}");
            assert_eq!(reply.retry_after().is_some(), expected == 0, "{reply:?}");
            assert_eq!(
                (warnings(&proxy), lines(&proxy)),
                (expected, expected),
                "remap_503_500 {remap:?}; tm's own default is 1"
            );
        }
        assert_eq!(warnings(&registrar), 0, "a registrar relays no REGISTER");
    });
}

/// The Contact lines of a registrar's 200.
type Listing = fn(&Received) -> Vec<String>;

/// A contact without the parameters of its header.
fn bare(contact: &str) -> &str {
    contact.find('>').map_or(contact, |end| &contact[..=end])
}

/// The contacts that stay, as a registrar that keeps one binding of each AoR lists them.
fn staying(request: &Received) -> Vec<&str> {
    let all = request.all("Contact");
    all.into_iter()
        .filter(|c| !c.contains("expires=0"))
        .collect()
}

const LISTINGS: [(&str, Listing); 5] = [
    ("what it was given", |request| {
        let lines = staying(request);
        lines
            .iter()
            .map(|c| format!("Contact: {c};expires=600"))
            .collect()
    }),
    ("without the instance", |request| {
        let lines = staying(request);
        lines
            .iter()
            .map(|c| format!("Contact: {};expires=600", bare(c)))
            .collect()
    }),
    ("another address", |request| {
        let line = |contact: &&str| {
            format!(
                "Contact: {};expires=600",
                bare(contact).replace("192.0.2.", "198.51.100.")
            )
        };
        staying(request).iter().map(line).collect()
    }),
    ("others as well", |request| {
        let lines = staying(request);
        let own = lines.iter().map(|c| format!("Contact: {c};expires=600"));
        own.chain(["Contact: <sip:other@192.0.2.200>;expires=30".into()])
            .collect()
    }),
    ("no Contact at all", |_| Vec::new()),
];

#[test]
fn proxy_knows_what_a_registrar_granted_however_it_lists_it() {
    const INSTANCE: &str = ";+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-000A95A0E128>\"";
    for_each_pair(|pair| {
        for relay in ["t_relay();", "forward();"] {
            for (what, listing) in LISTINGS {
                let registrar =
                    Upstream::start(move |request| vec![request.reply(200, &listing(request))]);
                let script = format!("$du = \"sip:{}\"; {relay}", registrar.address());
                let proxy = Server::proxy(pair, registrar.address())
                    .config(|c| c.register = script)
                    .start();
                let client = proxy.udp();
                let plain = Request::register("plain");
                let many = Request {
                    contacts: (0..7)
                        .map(|i| format!("<sip:many@192.0.2.1:{}>", 6000 + i))
                        .collect(),
                    ..Request::register("many")
                };
                let instance = |port: u16| format!("<sip:inst@192.0.2.1:{port}>{INSTANCE}");
                let device = Request::register("inst").contact(&instance(5060));
                for request in [&plain, &many, &device] {
                    assert_eq!(client.request(request).code, 200, "{what}");
                }
                // A phone that has moved: the new contact and the end of the old one, both of one instance.
                let moved = Request {
                    contacts: vec![instance(5070), format!("{};expires=0", instance(5060))],
                    ..device.next()
                };
                assert_eq!(client.request(&moved).code, 200, "{what}");
                proxy.rpc("memguard.shed", json!([60]));
                let after = device.next().next().contact(&instance(5070));
                let known = match relay {
                    "t_relay();" => vec![plain.next(), many.next(), after],
                    // Without a transaction only what fits into memguard's own note of the request is granted.
                    _ => vec![plain.next(), after],
                };
                for request in &known {
                    let reply = client.request(request);
                    assert_eq!(reply.code, 200, "{relay} {what}: {request:?}");
                }
                let stranger = client.request(&Request::register("stranger"));
                assert_refused(&stranger, 503);
                let elsewhere = plain.clone().contact("<sip:plain@192.0.2.99:5060>");
                let elsewhere = Request {
                    call_id: Request::register("x").call_id,
                    ..elsewhere
                };
                assert_refused(&client.request(&elsewhere), 503);
            }
        }
    });
}

#[test]
fn proxy_keeps_the_shorter_expires_of_a_phone_that_asked_for_less() {
    for_each_pair(|pair| {
        let registrar = Upstream::start(|request| {
            let expires = request.header("Expires");
            vec![request.reply(
                200,
                &[format!(
                    "Contact: {};expires={expires}",
                    request.header("Contact")
                )],
            )]
        });
        let proxy = Server::proxy(pair, registrar.address()).start();
        let client = proxy.udp();
        let phone = Request::register("short");
        assert_eq!(client.request(&phone).code, 200);
        assert_eq!(client.request(&phone.next().expires(1)).code, 200);
        proxy.rpc("memguard.shed", json!([60]));
        until(SOON, "its binding has ended", || {
            client.request(&Request::register("short").expires(1)).code == 503
        });
    });
}

/// A REGISTER with these lines instead of the usual ones.
fn odd(
    client: &super::harness::sip::Udp,
    number: usize,
    to: &str,
    contact: &str,
    cseq: &str,
) -> Vec<u8> {
    let local = client.local();
    let id = format!("odd{number}-{}", local.port());
    format!(
        "REGISTER sip:example.test SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bK{id};rport\r\nMax-Forwards: 70\r\n\
         From: <sip:x@example.test>;tag=1\r\nTo: {to}\r\nCall-ID: {id}\r\nCSeq: {cseq}\r\nContact: {contact}\r\n\
         Expires: 600\r\nContent-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

#[test]
fn proxy_holds_back_forms_that_only_kamailio_reads() {
    const TO: &str = "<sip:x@example.test>";
    const CONTACT: &str = "<sip:x@192.0.2.1>";
    for_each_pair(|pair| {
        let (_registrar, proxy) = chain(pair, "");
        let long = format!("\"{}\" <sip:x@example.test>", "x".repeat(8300));
        proxy.rpc("memguard.shed", json!([60]));
        for (number, (to, contact, cseq)) in [
            (TO, CONTACT, "1 REGISTER"),
            ("<sip:user@dom@host>", CONTACT, "1 REGISTER"),
            ("<sip:u@>", CONTACT, "1 REGISTER"),
            ("<sip:@h>", CONTACT, "1 REGISTER"),
            ("<sip:u@h:port>", CONTACT, "1 REGISTER"),
            ("<im:u@h>", CONTACT, "1 REGISTER"),
            ("<urn:service:sos>", CONTACT, "1 REGISTER"),
            (TO, "<>", "1 REGISTER"),
            (TO, "<sip:x@192.0.2.1", "1 REGISTER"),
            (TO, "\"x <sip:x@192.0.2.1>", "1 REGISTER"),
            (TO, "<sip:x @192.0.2.1>", "1 REGISTER"),
            (TO, CONTACT, "4294967296 REGISTER"),
            (TO, CONTACT, "1 OPTIONS"),
            (&long, CONTACT, "1 REGISTER"),
        ]
        .into_iter()
        .enumerate()
        {
            let client = proxy.udp();
            client.send_raw(&odd(&client, number, to, contact, cseq));
            let what = format!("{:.60} {contact} {cseq}", to);
            let bytes = client
                .receive_raw(SOON)
                .unwrap_or_else(|| panic!("no answer: {what}"));
            let reply = Reply::parse(&bytes).unwrap_or_else(|| panic!("no reply: {what}"));
            assert_refused(&reply, 503);
        }
        // Kamailio serves these, too: a version that only begins as SIP's, and a Call-ID that is empty.
        for (place, (from, to)) in [
            ("SIP/2.0\r\n", "SIP/2.00\r\n"),
            ("Call-ID: odd9", "Call-ID: \r\nX: odd9"),
        ]
        .into_iter()
        .enumerate()
        {
            let client = proxy.udp();
            let usual = odd(&client, 90 + place, TO, CONTACT, "1 REGISTER");
            let text = String::from_utf8(usual)
                .expect("text")
                .replacen(from, to, 1);
            client.send_raw(text.as_bytes());
            let reply = found_final(&client).unwrap_or_else(|| panic!("no answer: {text}"));
            assert_refused(&reply, 503);
        }
    });
}

/// The next final reply.
fn found_final(client: &super::harness::sip::Udp) -> Option<Reply> {
    loop {
        let reply = Reply::parse(&client.receive_raw(SOON)?)?;
        if reply.is_final() {
            return Some(reply);
        }
    }
}

#[test]
fn proxy_learns_from_a_reply_whose_contacts_only_kamailio_reads() {
    const TO: &str = "<sip:x@example.test>";
    for_each_pair(|pair| {
        // What the phone says, what the registrar lists, and what the phone says next.
        let cases = [
            (
                "<sip:x@192.0.2.1>",
                "<sip:x@192.0.2.1> expires=60",
                "<sip:x@192.0.2.1>",
            ),
            (
                "<sip:x@192.0.2.2>",
                "<sip:x@192.0.2.2>;expires=600, Bob \"b\" <sip:y@192.0.2.3>",
                "<sip:y@192.0.2.3>",
            ),
            (
                "<sip:x @192.0.2.4>",
                "<sip:x @192.0.2.4>;expires=600",
                "<sip:x @192.0.2.4>",
            ),
        ];
        let listed = cases.map(|(said, listed, _)| (said.to_owned(), listed.to_owned()));
        let registrar = Upstream::start(move |request| {
            let said = request.header("Contact").to_owned();
            let line = listed.iter().find(|(of, _)| *of == said);
            let line = line.map(|(_, line)| format!("Contact: {line}"));
            vec![request.reply(200, &Vec::from_iter(line))]
        });
        for (place, (said, _, next)) in cases.into_iter().enumerate() {
            let proxy = Server::proxy(pair, registrar.address()).start();
            let client = proxy.udp();
            let ask = |number: usize, contact: &str| {
                client.send_raw(&odd(&client, number, TO, contact, "1 REGISTER"));
                let reply = found_final(&client);
                reply.unwrap_or_else(|| panic!("no answer: {contact}")).code
            };
            let number = 1000 * (place + 1);
            assert_eq!(ask(number, said), 200, "{said}");
            proxy.rpc("memguard.shed", json!([60]));
            assert_eq!(ask(number + 1, next), 200, "{said}, then {next}");
            assert_eq!(
                proxy.by_class("received").get("refresh"),
                Some(&1),
                "{said}"
            );
            assert_eq!(ask(number + 2, "<sip:x@192.0.2.77>"), 503, "{said}");
            assert_eq!(ask(number + 3, "<sip:x @192.0.2.77>"), 503, "{said}");
        }
    });
}

#[test]
fn proxy_compares_contacts_as_the_rfcs_say() {
    const I: &str = ";+sip.instance=\"<urn:uuid:1>\"";
    const J: &str = ";+sip.instance=\"<urn:uuid:2>\"";
    let rows: [(String, String, &str); 19] = [
        (
            "<sip:@h.test:5060>".into(),
            "<sip:@H.test:5060>".into(),
            "refresh",
        ),
        (
            "<sip:@h.test:5060>".into(),
            "<sip:@h.test:5062>".into(),
            "returning",
        ),
        (
            "<sip:@h.test>".into(),
            "<sip:@h.test:5060>".into(),
            "returning",
        ),
        (
            "<sip:@h.test;rinstance=1>".into(),
            "<sip:@h.test;rinstance=2>".into(),
            "returning",
        ),
        (
            "<sip:@h.test;a=1;b=2>".into(),
            "<sip:@h.test;b=2;A=1>".into(),
            "refresh",
        ),
        ("<sip:@h.test>".into(), "<sip:@h.test;ob>".into(), "refresh"),
        (
            "<sip:@h.test;line=1>".into(),
            "<sip:@h.test>".into(),
            "refresh",
        ),
        (
            "<sip:@h.test>".into(),
            "<sip:@h.test;transport=udp>".into(),
            "returning",
        ),
        (
            "<sip:@h.test;transport=tcp>".into(),
            "<sip:@h.test;transport=TCP>".into(),
            "refresh",
        ),
        (
            "<sip:@h.test;transport=tcp>".into(),
            "<sip:@h.test;transport=udp>".into(),
            "returning",
        ),
        ("<sip:@h.test>".into(), "<sips:@h.test>".into(), "returning"),
        (
            "<sip:@h.test;pn-prid=a>".into(),
            "<sip:@h.test;pn-prid=b>".into(),
            "returning",
        ),
        (
            format!("<sip:@h.test>{I}"),
            format!("<sip:@i.test;x=y>{I}"),
            "refresh",
        ),
        (
            format!("<sip:@h.test>{I}"),
            format!("<sip:@h.test>{J}"),
            "returning",
        ),
        (
            "<sip:@h.test>".into(),
            format!("<sip:@h.test>{I}"),
            "returning",
        ),
        (
            format!("<sip:@h.test>{I};reg-id=1"),
            format!("<sip:@h.test>{I};reg-id=2"),
            "returning",
        ),
        (
            format!("<sip:@h.test>{I}"),
            format!("<sip:@h.test>{I};reg-id=1"),
            "returning",
        ),
        (
            format!("<sip:@h.test>{I};reg-id=1"),
            format!("<sip:@z.test>{I};reg-id=1"),
            "refresh",
        ),
        (
            "<sip:@h.test?a=b>".into(),
            "<sip:@h.test?a=c>".into(),
            "returning",
        ),
    ];
    // As it is; with this contact only and without its instance; with a contact that is not the phone's.
    let answers = [
        "if (!save(\"location\")) { sl_reply_error(); }",
        "append_to_reply(\"Contact: <$(ct{nameaddr.uri})>;expires=600\\r\\n\"); sl_send_reply(\"200\", \"OK\");",
        "append_to_reply(\"Contact: <sip:other@192.0.2.99:4444>;expires=600\\r\\n\"); sl_send_reply(\"200\", \"OK\");",
    ];
    for_each_pair(|pair| {
        for (which, answer) in answers.iter().enumerate() {
            let registrar = Server::registrar(pair)
                .without_memguard()
                .config(|c| c.register = (*answer).into())
                .start();
            let proxy = Server::proxy(pair, registrar.sip()).start();
            let client = proxy.udp();
            for (row, (first, second, class)) in rows.iter().enumerate() {
                let user = format!("r{row}");
                let with = |contact: &str| {
                    Request::register(&user).contact(&contact.replace(":@", &format!(":{user}@")))
                };
                assert_eq!(client.request(&with(first)).code, 200, "{first}");
                let again = proxy.by_class("received");
                assert_eq!(client.request(&with(first)).code, 200, "{first}");
                let refreshed = proxy.by_class("received");
                assert_eq!(
                    refreshed.get("refresh").unwrap_or(&0) - again.get("refresh").unwrap_or(&0),
                    1,
                    "{which}: {first} again"
                );
                // What only the reply's contact tells is not to be had when it is another's.
                let has_more_or_less = !first.contains("+sip") && first.len() != second.len();
                if which == 2 && *class == "refresh" && has_more_or_less {
                    continue;
                }
                assert_eq!(client.request(&with(second)).code, 200, "{second}");
                let after = proxy.by_class("received");
                let gained = ["refresh", "returning", "new"].into_iter().find(|class| {
                    after.get(class).unwrap_or(&0) > refreshed.get(class).unwrap_or(&0)
                });
                assert_eq!(gained, Some(*class), "{which}: {first} then {second}");
            }
        }
    });
}
