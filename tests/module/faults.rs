//! The n-th allocation fails, for n = 1, 2, 3, … up to the last one that a message or a command makes, once and from
//! then on: nobody dies, the books stay exact, no counter is wrong, and what must be refused is never let in.
//! Forbidden here: pools that are really empty (zero.rs, transports.rs).

use std::time::Duration;

use serde_json::{Value, json};

use super::accounting::{assert_pkg_books, assert_shm_books};
use super::guard::{Everybody, Guarded, SOON, counts, number, word};
use super::harness::builder::Builder;
use super::harness::sip::{Connection, Reply, Request, Udp};
use super::harness::{Pair, Server, for_each_pair};

/// More allocations than anything here makes.
const ENOUGH: i64 = 1000;
const POOLS: [&str; 2] = ["pkg", "shm"];
const HOW: [&str; 2] = ["once", "forever"];

/// A registrar whose messages may carry `X-Fail: POOL N once|forever`; one worker per protocol.
fn faulty(pair: &Pair) -> Builder {
    Server::registrar(pair)
        .with_faults()
        .workers(1)
        .param("sample_interval", 100)
        .config(|c| {
            for (name, ms) in [("fr_timer", 300), ("fr_inv_timer", 300), ("wt_timer", 300)] {
                c.param("tm", name, ms);
            }
        })
}

fn faults(server: &Server) -> Value {
    server.rpc("mgtest.faults", json!([]))
}

/// All replies to what was sent before an OPTIONS without a fault, up to its own.
fn replies_before_options(client: &Udp) -> Vec<Reply> {
    let options = Request::options();
    client.send_raw(&client.bytes(&options));
    let mut replies = Vec::new();
    loop {
        let datagram = client.receive_raw(SOON).expect("the worker lives");
        let reply = Reply::parse(&datagram).expect("a reply");
        if reply.answers(&options) {
            assert_eq!(reply.code, 200);
            return replies;
        }
        if reply.is_final() {
            replies.push(reply);
        }
    }
}

/// Runs `one` with `X-Fail` headers for n = 1, 2, 3, … in both pools until no allocation is left that could fail; how
/// many there were in each pool.
fn each_fault(server: &Server, mut one: impl FnMut(String)) -> [i64; 2] {
    POOLS.map(|pool| {
        let allocations = HOW.map(|how| {
            let failing = |n: &i64| {
                one(format!("X-Fail: {pool} {n} {how}"));
                number(&faults(server), "failed") > 0
            };
            let count = (1..ENOUGH).take_while(failing).count() as i64;
            assert!(count < ENOUGH - 1, "{pool} {how}: no end");
            count
        });
        allocations[0]
    })
}

/// What holds whatever has failed.
#[track_caller]
fn assert_unharmed(server: &Server, all: &Everybody) {
    server.assert_nobody_died(all);
    let injected = faults(server);
    for pool in POOLS {
        assert_eq!(
            number(&server.pool(pool), "failures"),
            number(&injected, &format!("{pool}_failed")),
            "every failure is counted: {pool}"
        );
    }
    assert_shm_books(server, "after the faults");
    assert_pkg_books(server, "after the faults");
    let all = server.registrations();
    let sum = |what: &str| -> i64 { server.by_class(what).values().sum() };
    assert_eq!(number(&all, "received"), sum("received"));
    assert_eq!(
        sum("received"),
        sum("admitted") + sum("rejected"),
        "each was let in or refused: {all}"
    );
    assert_eq!(number(&server.status(), "fail_open"), 0);
    assert!(!server.log().contains("internal error"));
}

#[test]
fn faults_in_every_allocation_of_a_message_harm_nobody_and_no_counter() {
    for_each_pair(|pair| {
        let server = faulty(pair)
            .config(|c| {
                // What the gate took it for, and whether usrloc knew its contact.
                c.before = "append_to_reply(\"X-Class: $memguard(class)\\r\\n\");
    if (is_method(\"REGISTER\") && registered(\"location\", \"$tu\")) { append_to_reply(\"X-Known: 1\\r\\n\"); }"
                    .into();
            })
            .start();
        let (client, callee) = (server.udp(), server.udp());
        let callee = format!("<sip:callee@{}>", callee.local());
        let phone = Request::register("callee").contact(&callee);
        assert_eq!(client.request(&phone).code, 200);
        let everybody = server.everybody();
        let (mut user, mut ok, mut failed) = (0, 1, 0);
        type Make<'a> = &'a dyn Fn(u32) -> Request;
        let kinds: [(&str, i64, Make); 6] = [
            ("new", 15, &|user| Request::register(&format!("u{user}"))),
            ("refresh", 15, &|_| {
                Request::register("callee").contact(&callee)
            }),
            ("unregister", 15, &|_| {
                Request::register("nobody").expires(0)
            }),
            ("query", 10, &|_| Request::register("callee").no_contact()),
            ("options", 10, &|_| Request::options()),
            ("call", 30, &|_| Request::invite("callee")),
        ];
        for (kind, at_least, make) in kinds {
            let [pkg, shm] = each_fault(&server, |header| {
                user += 1;
                let request = make(user).header(&header);
                client.send_raw(&client.bytes(&request));
                // A script may answer again what the registrar has answered: it is one REGISTER.
                let first = replies_before_options(&client)
                    .into_iter()
                    .find(|reply| request.method == "REGISTER" && reply.answers(&request));
                let code = first.map(|reply| reply.code);
                ok += i64::from(code == Some(200));
                failed += i64::from(code.is_some_and(|code| code >= 300));
            });
            assert!(pkg >= at_least, "{kind}: {pkg} allocations only");
            let takes_shm = ["new", "call"].contains(&kind);
            assert_eq!(shm > 0, takes_shm, "{kind}: {shm} allocations of shm");
        }
        assert_unharmed(&server, &everybody);
        let all = server.registrations();
        assert_eq!(
            (number(&all, "accepted"), number(&all, "failed")),
            (ok, failed),
            "what was answered is counted: {all}"
        );
        // What memguard has learned of all that is what usrloc has.
        let (mut known, mut unknown) = (0, 0);
        for user in 1..=user {
            let reply = client.request(&Request::register(&format!("u{user}")));
            let is_known = reply.header("X-Known").is_some();
            assert_eq!(
                reply.header("X-Class") == Some("refresh"),
                is_known,
                "u{user}: {reply:?}"
            );
            *(if is_known { &mut known } else { &mut unknown }) += 1;
        }
        assert!(known > 0 && unknown > 0, "{known} known, {unknown} not");
    });
}

/// One message over TCP with a fault; its reply, if there was one before the worker took the next message.
fn over_tcp(server: &Server, request: &Request) -> Option<Reply> {
    let mut phone = server.tcp();
    phone.send(request).expect("it is sent");
    // A message that could not be held may cost its connection: the next one comes on a connection of its own.
    assert_eq!(server.tcp().request(&Request::options()).code, 200);
    phone.receive(Duration::from_millis(1))
}

#[track_caller]
fn assert_refused(reply: &Reply) {
    assert_eq!(reply.code, 503, "{reply:?}");
    assert!(reply.retry_after().is_some(), "{reply:?}");
}

#[test]
fn faults_never_let_in_who_must_be_refused() {
    for_each_pair(|pair| {
        for (auto, at_least) in [(1, 5), (0, 10)] {
            let server = faulty(pair)
                .param("auto", auto)
                .config(|c| {
                    if auto == 0 {
                        c.before = "if (!memguard_admit()) { memguard_reject(); exit; }".into();
                    }
                })
                .start();
            server.rpc("memguard.shed", json!([300]));
            let everybody = server.everybody();
            let (mut user, mut refused) = (0, 0);
            let [pkg, shm] = each_fault(&server, |header| {
                user += 1;
                let request = Request::register(&format!("u{user}")).header(&header);
                if let Some(reply) = over_tcp(&server, &request) {
                    assert_refused(&reply);
                    refused += 1;
                }
            });
            assert!(pkg >= at_least, "auto {auto}: {pkg} allocations only");
            assert_eq!(shm, 0, "a refusal takes no shm");
            assert!(refused > 2, "some could be read");
            assert_unharmed(&server, &everybody);
            let counted = server.by_class("rejected");
            assert_eq!(counted, counts(&[("new", refused)]), "auto {auto}");
            let received = server.by_class("received");
            assert_eq!(
                received, counted,
                "auto {auto}: whoever was read got an answer"
            );
        }
    });
}

#[test]
fn faults_of_every_allocation_do_not_touch_a_refusal_before_parsing() {
    for_each_pair(|pair| {
        let server = faulty(pair).start();
        server.rpc("memguard.shed", json!([300]));
        let udp = index_of(&server, "udp receiver");
        let client = server.udp();
        for pool in 0..2 {
            server.rpc("mgtest.fail", json!([udp, pool, 1, 1]));
            for i in 0..50 {
                assert_refused(&client.request(&Request::register(&format!("u{pool}-{i}"))));
            }
            assert_eq!(number(&faults(&server), "seen"), 0, "nothing was allocated");
        }
        server.rpc("mgtest.fail", json!([0, 0, 0, 0]));
        assert_eq!(client.request(&Request::options()).code, 200);
    });
}

/// What an operator or a monitor asks at the worst moment.
const COMMANDS: [&str; 16] = [
    "status",
    "pools",
    "workers",
    "registrations",
    "sites",
    "modules",
    "failures",
    "mark",
    "diff",
    "forecast",
    "events",
    "refusals",
    "check",
    "metrics",
    "json",
    "config",
];

/// The index of the process whose description begins like this.
#[track_caller]
fn index_of(server: &Server, desc: &str) -> i64 {
    let workers = server.workers();
    let row = workers.iter().find(|w| word(w, "desc").starts_with(desc));
    number(
        row.unwrap_or_else(|| panic!("no {desc} in {workers:?}")),
        "index",
    )
}

#[test]
fn faults_of_every_allocation_do_not_touch_memguards_commands() {
    for_each_pair(|pair| {
        let server = faulty(pair).start();
        let everybody = server.everybody();
        let [json_process, ctl] = ["JSONRPCS DATAGRAM", "ctl"].map(|desc| index_of(&server, desc));
        for pool in 0..2 {
            let arm = [
                "mgtest.fail",
                &json_process.to_string(),
                &pool.to_string(),
                "1",
                "1",
            ];
            server.kamcmd(&arm).expect("ctl's process arms the other");
            for command in COMMANDS {
                server.rpc(&format!("memguard.{command}"), json!([]));
                assert_eq!(number(&faults(&server), "seen"), 0, "{command} allocates");
            }
        }
        let held = server.rpc("mgtest.hold_shm", json!([64, 1]));
        assert_eq!(held, json!(0), "it was armed");
        server.rpc("mgtest.fail", json!([0, 0, 0, 0]));
        // ctl itself allocates for each call: one that cannot be answered harms no later one.
        let mut last = 0;
        let mut n = 0;
        while last == n {
            n += 1;
            server.rpc("mgtest.fail", json!([ctl, 0, n, 0]));
            let _ = server.kamcmd(&["memguard.status"]);
            last += number(&faults(&server), "failed");
        }
        server.kamcmd(&["memguard.status"]).expect("it answers");
        assert_unharmed(&server, &everybody);
    });
}
