//! What nobody outside can paint: replies that are nobody's, this server's own outbound registrations, and contacts that
//! were saved elsewhere than in a REGISTER's own script change no class and no counter.
//! Forbidden here: replies of a registrar that was asked (proxy.rs).

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::guard::{Guarded, SOON, number};
use super::harness::sip::{Request, Tcp, Udp, unique};
use super::harness::{Pair, Received, Server, Upstream, for_each_pair, until};

/// A registrar that grants what is asked for.
fn granting() -> Upstream {
    Upstream::start(|request| vec![grant(request)])
}

fn grant(request: &Received) -> String {
    let contacts = request.all("Contact");
    let listed: Vec<String> = contacts
        .iter()
        .map(|contact| format!("Contact: {contact};expires=3600"))
        .collect();
    request.reply(200, &listed)
}

/// A proxy that relays with or without transactions.
fn relaying(pair: &Pair, to: SocketAddr, relay: &str) -> Server {
    let script = format!("$du = \"sip:{to}\"; {relay}");
    Server::proxy(pair, to)
        .param("bindings", 1024)
        .param("sample_interval", 100)
        .config(|c| c.register = script)
        .start()
}

/// What is not to change.
fn picture(server: &Server) -> Vec<(String, Value)> {
    let all = server.registrations();
    let fields = [
        "accepted",
        "challenged",
        "failed",
        "known_bindings",
        "known_aors",
        "replicated",
        "received",
    ];
    fields
        .map(|field| (field.to_owned(), all[field].clone()))
        .into()
}

fn messages(server: &Server) -> i64 {
    server.workers().iter().map(|w| number(w, "messages")).sum()
}

/// A reply that nobody asked for.
#[derive(Clone)]
struct Forged {
    code: u16,
    call_id: String,
    cseq: u32,
    aor: String,
    contact: String,
    expires: u32,
    /// Below the Via that names the server.
    vias: Vec<String>,
}

impl Forged {
    fn bytes(&self, server: SocketAddr, transport: &str) -> Vec<u8> {
        let number = unique();
        let own = format!("Via: SIP/2.0/{transport} {server};branch=z9hG4bK{number}.0\r\n");
        let below: String = self
            .vias
            .iter()
            .map(|via| format!("Via: {via}\r\n"))
            .collect();
        format!(
            "SIP/2.0 {} OK\r\n{own}{below}From: <{1}>;tag=f\r\nTo: <{1}>;tag=t{number}\r\nCall-ID: {2}\r\n\
             CSeq: {3} REGISTER\r\nContact: {4};expires={5}\r\nExpires: {5}\r\nContent-Length: 0\r\n\r\n",
            self.code, self.aor, self.call_id, self.cseq, self.contact, self.expires
        )
        .into_bytes()
    }
}

/// Every kind that the last request of a phone could be answered with by somebody who did not see it.
fn kinds(of: &Request, here: SocketAddr) -> Vec<Forged> {
    let mut all = Vec::new();
    let nobody = format!("SIP/2.0/UDP {here};branch=z9hG4bKnone;rport");
    for code in [200, 202, 401, 407, 403, 503] {
        for (call_id, cseq) in [
            (of.call_id.clone(), of.cseq),
            (of.call_id.clone(), of.cseq + 1),
            (of.call_id.clone(), of.cseq.saturating_sub(1)),
            (format!("forged{}", unique()), 1),
        ] {
            for expires in [0, 1, 3600, u32::MAX] {
                for contact in [of.contacts[0].clone(), "<sip:mallory@192.0.2.66>".into()] {
                    for vias in [vec![], vec![nobody.clone()]] {
                        all.push(Forged {
                            code,
                            call_id: call_id.clone(),
                            cseq,
                            aor: of.aor.clone(),
                            contact: contact.clone(),
                            expires,
                            vias,
                        });
                    }
                }
            }
        }
    }
    all
}

/// Sends all of them over UDP and TCP, and waits until they were read.
fn send_all(server: &Server, forged: &[Forged]) {
    let before = messages(server);
    let udp = Udp::to(server.sip());
    let mut tcp = Tcp::to(server.sip());
    for (number, reply) in forged.iter().enumerate() {
        udp.send_raw(&reply.bytes(server.sip(), "UDP"));
        tcp.send_raw(&reply.bytes(server.sip(), "TCP"))
            .expect("the server reads");
        if number % 40 == 39 {
            // no faster than it is read
            until(SOON, "they are read", || {
                messages(server) >= before + 2 * (number as i64 + 1)
            });
        }
    }
    let all = before + 2 * forged.len() as i64;
    until(SOON, "all are read", || messages(server) >= all);
}

const RELAYS: [&str; 2] = ["t_relay();", "forward();"];

#[test]
fn forged_replies_leave_every_counter_and_every_class_as_it_was() {
    for_each_pair(|pair| {
        for relay in RELAYS {
            let registrar = granting();
            let server = relaying(pair, registrar.address(), relay);
            let client = server.udp();
            let phones: Vec<Request> = (0..40)
                .map(|i| Request::register(&format!("p{i}")))
                .collect();
            assert_eq!(
                client
                    .flood(phones.iter().cloned(), 4, |_, _, _| ())
                    .of(200),
                40
            );
            until(SOON, "all are counted", || {
                let all = server.registrations();
                ["known_bindings", "known_aors"].map(|field| number(&all, field)) == [40, 40]
            });
            let before = picture(&server);
            // After the real one: of a phone that is registered, and of a stranger.
            let stranger = Request::register("mallory");
            let mut forged = kinds(&phones[0], client.local());
            forged.extend(kinds(&stranger, client.local()));
            send_all(&server, &forged);
            assert_eq!(picture(&server), before, "{relay}");
            // Twelve hundred bindings against a table of 1,024.
            let many: Vec<Forged> = (0..1200)
                .map(|i| Forged {
                    code: 200,
                    call_id: format!("many{i}"),
                    cseq: 1,
                    aor: format!("sip:many{i}@example.test"),
                    contact: format!("<sip:many{i}@192.0.2.1>"),
                    expires: u32::MAX,
                    vias: vec![],
                })
                .collect();
            send_all(&server, &many);
            server.rpc("memguard.shed", json!([60]));
            let client = server.udp(); // Kamailio relayed forged replies to the other one
            for phone in &phones {
                assert_eq!(
                    client.request(&phone.next()).code,
                    200,
                    "{relay}: {}",
                    phone.aor
                );
            }
            assert_eq!(
                server.by_class("received").get("refresh"),
                Some(&40),
                "{relay}"
            );
            assert_eq!(client.request(&stranger).code, 503);
            assert_eq!(client.request(&Request::register("many7")).code, 503);
            // Counted once the answer is on its way.
            until(SOON, "as at any proxy in its first hour", || {
                server.by_class("rejected").get("returning") == Some(&2)
            });
            until(SOON, "the same number", || {
                number(&server.registrations(), "known_bindings") == 40
            });
        }
    });
}

#[test]
fn forged_replies_before_the_real_one_open_no_second_leg_and_grant_nothing() {
    for_each_pair(|pair| {
        for relay in RELAYS {
            let registrar = Upstream::start(|_| Vec::new());
            let server = relaying(pair, registrar.address(), relay);
            let client = server.udp();
            let first = Request::register("carol");
            client.send_raw(&client.bytes(&first));
            until(SOON, "it is with the registrar", || {
                !registrar.received().is_empty()
            });
            let before = picture(&server);
            let mut forged = kinds(&first, client.local());
            // The right Via of the client's, and the branch of this server's: all but the CSeq is right.
            let request = registrar.received()[0].clone();
            let own: Vec<String> = request.all("Via")[1..]
                .iter()
                .map(|v| (*v).to_owned())
                .collect();
            for code in [200, 401, 407] {
                forged.push(Forged {
                    code,
                    call_id: first.call_id.clone(),
                    cseq: 2,
                    aor: first.aor.clone(),
                    contact: "<sip:carol@192.0.2.66>".into(),
                    expires: 3600,
                    vias: own.clone(),
                });
            }
            send_all(&server, &forged);
            assert_eq!(picture(&server), before, "{relay}");
            server.rpc("memguard.shed", json!([60]));
            let client = server.udp(); // Kamailio relayed forged replies to the other one
            let second = first.next().header(super::classes::CREDENTIALS);
            assert_eq!(
                client.request(&second).code,
                503,
                "{relay}: nobody challenged it"
            );
            registrar.send(request.from, &grant(&request));
            until(SOON, "the real one counts", || {
                number(&server.registrations(), "accepted") == 1
            });
            let contact = |contact: &str| Request::register("carol").contact(contact);
            assert_eq!(
                client.request(&contact("<sip:carol@192.0.2.66>")).code,
                503,
                "{relay}"
            );
            let again = contact(&first.contacts[0]);
            client.send_raw(&client.bytes(&again));
            until(SOON, "a refresh", || {
                server.by_class("received").get("refresh") == Some(&1)
            });
        }
    });
}

#[test]
fn forged_reply_in_the_transaction_but_from_elsewhere_takes_nothing_away() {
    for_each_pair(|pair| {
        let registrar = Upstream::start(|request| {
            // The phone's own REGISTERs are answered; what the attacker sends is not.
            let is_attack = request.header("Call-ID").starts_with("attack");
            if is_attack {
                vec![]
            } else {
                vec![grant(request)]
            }
        });
        for relay in RELAYS {
            let server = relaying(pair, registrar.address(), relay);
            let client = server.udp();
            let phone = Request::register("victim");
            assert_eq!(client.request(&phone).code, 200);
            let attacks = [
                phone.clone().expires(0),
                phone.clone().contact("*").expires(0),
                phone
                    .clone()
                    .contact("<sip:victim@192.0.2.1:5060>;expires=1"),
            ];
            for attack in attacks {
                let attack = Request {
                    call_id: format!("attack{}", unique()),
                    ..attack.next()
                };
                let seen = registrar.received().len();
                let attacker = server.udp();
                attacker.send_raw(&attacker.bytes(&attack));
                until(SOON, "it is with the registrar", || {
                    registrar.received().len() > seen
                });
                let request = registrar.received()[seen].clone();
                let vias = request.all("Via");
                let reply = request.reply_by(
                    200,
                    &vias,
                    &["Contact: <sip:victim@192.0.2.1:5060>;expires=1".into()],
                );
                let before = messages(&server);
                Udp::to(server.sip()).send_raw(reply.as_bytes());
                until(SOON, "it is read", || messages(&server) > before);
            }
            std::thread::sleep(Duration::from_millis(2100)); // the end that the replies name is over
            server.rpc("memguard.shed", json!([60]));
            assert_eq!(client.request(&phone.next()).code, 200, "{relay}");
            assert_eq!(
                server.by_class("received").get("refresh"),
                Some(&2), // the last attack names the binding, too
                "{relay}"
            );
        }
    });
}

#[test]
fn forged_or_real_an_expires_of_136_years_makes_no_doubt_that_lasts() {
    use memguard::shared::files::bindings_file::{TABLES, load};
    for_each_pair(|pair| {
        let folder = super::harness::builder::Folder::of(pair, "expires");
        let file = folder.file("known");
        let registrar = Upstream::start(|request| {
            let contact = format!("Contact: {};expires=4294967295", request.header("Contact"));
            vec![request.reply(200, &[contact])]
        });
        let server = Server::proxy(pair, registrar.address())
            .param("bindings", 1024)
            .param("bindings_file", file.display())
            .shm_mb(128)
            .start();
        // More than the table has room for: many are pushed out, alive for ever.
        let phones = (0..4000).map(|i| Request::register(&format!("p{i}")));
        assert_eq!(server.udp().flood(phones, 8, |_, _, _| ()).of(200), 4000);
        assert!(server.stop().success());
        let bytes = std::fs::read(&file).expect("it was written at the end");
        let buckets = [1024 * 2 / 8; TABLES];
        let head = load(&mut bytes.as_slice(), buckets, |_, _, _| ()).expect("a whole file");
        assert_eq!(head.longest_expires_s, 86_400);
        let doubt = head.forgotten_until_s.saturating_sub(head.saved_s);
        assert!((1..=86_400).contains(&doubt), "{doubt} s");
    });
}

#[test]
fn forged_or_not_the_servers_own_registrations_are_no_phones() {
    for_each_pair(|pair| {
        let registrar = granting();
        let to = registrar.address();
        let send = format!(
            "if (is_method(\"OPTIONS\")) {{
                $uac_req(method) = \"REGISTER\";
                $uac_req(ruri) = \"sip:{to}\";
                $uac_req(turi) = \"sip:trunk@example.test\";
                $uac_req(furi) = \"sip:trunk@example.test\";
                $uac_req(hdrs) = \"Contact: <sip:trunk@192.0.2.1:5060>\\r\\nExpires: 3600\\r\\n\";
                uac_req_send();
            }}"
        );
        let server = Server::proxy(pair, to)
            .param("sample_interval", 100)
            .config(|c| {
                c.module("uac");
                c.before = send;
            })
            .start();
        let client = server.udp();
        for _ in 0..20 {
            assert_eq!(client.request(&Request::options()).code, 200);
        }
        until(SOON, "the registrar has all", || {
            registrar.received().len() >= 20
        });
        assert_eq!(client.request(&Request::register("phone")).code, 200);
        until(SOON, "the phone counts", || {
            let all = server.registrations();
            ["known_bindings", "known_aors"].map(|field| number(&all, field)) == [1, 1]
        });
        let all = server.registrations();
        for field in ["accepted", "received", "known_aors"] {
            assert_eq!(number(&all, field), 1, "{field}: {all}");
        }
        server.rpc("memguard.shed", json!([60]));
        assert_eq!(client.request(&Request::register("trunk")).code, 503);
    });
}

#[test]
fn forged_or_not_what_is_saved_in_async_workers_and_reply_routes_is_not_replicated() {
    const PHONES: usize = 30;
    for_each_pair(|pair| {
        let registrar = granting();
        let relay = format!("$du = \"sip:{}\"; ", registrar.address());
        let suspended = "async_task_route(\"SAVE\");";
        let saving = "if (!save(\"location\")) { sl_reply_error(); }";
        let cases = [
            (suspended.to_owned(), format!("route[SAVE] {{ {saving} }}")),
            (
                format!("{relay} t_on_reply(\"SAVE\"); t_relay();"),
                "onreply_route[SAVE] { if ($rs == 200) save(\"location\"); }".to_owned(),
            ),
            (
                format!("{relay} forward();"),
                "onreply_route { if ($rs == 200) save(\"location\"); }".to_owned(),
            ),
            (
                format!("{relay} t_on_failure(\"SAVE\"); t_relay();"),
                "failure_route[SAVE] { save(\"location\"); }".to_owned(),
            ),
        ];
        for (number_of, (script, routes)) in cases.into_iter().enumerate() {
            let refusing = Upstream::start(|request| vec![request.reply(404, &[])]);
            let script = match number_of {
                3 => script.replace(
                    &registrar.address().to_string(),
                    &refusing.address().to_string(),
                ),
                _ => script,
            };
            let server = Server::registrar(pair)
                .config(|c| {
                    c.module("async");
                    c.global("async_workers=2");
                    c.register = script.clone();
                    c.routes = routes.clone();
                })
                .start();
            let client = server.udp();
            let phones = (0..PHONES).map(|i| Request::register(&format!("p{i}")));
            let got = client.flood(phones, 4, |_, _, _| ());
            assert_eq!(got.of(200), PHONES, "{script}: {got:?}");
            assert_eq!(
                server.statistic("usrloc:registered_users"),
                PHONES as i64,
                "{script}"
            );
            let all = server.registrations();
            assert_eq!(number(&all, "replicated"), 0, "{script}: {all}");
            let resent = got.resent as i64;
            let accepted = number(&all, "accepted");
            assert!(
                (PHONES as i64..=PHONES as i64 + resent).contains(&accepted),
                "{script}: {all}"
            );
        }
    });
}
