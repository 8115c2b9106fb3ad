//! Shedding in a real registrar: new registrations are refused with a proper answer, everybody else goes on; answers
//! keep; run-time changes act at once; levels rise at once and fall late.
//! Forbidden here: proxies (proxy.rs) and private memory (levels.rs).

use std::time::Duration;

use serde_json::json;

use super::guard::{Guarded, SOON, number, rows, word};
use super::harness::sip::{Reply, Request, Udp};
use super::harness::wait::holds_within;
use super::harness::{Pair, Server, for_each_pair, until};

const ONE_REPLY: Duration = Duration::from_secs(5);

fn small(pair: &Pair) -> Server {
    Server::registrar(pair)
        .shm_mb(8)
        .with_mgtest()
        .param("sample_interval", 100)
        .param("dwell", 1)
        .config(|c| {
            c.module("cfg_rpc");
        })
        .start()
}

#[track_caller]
fn assert_refusal(reply: &Reply) {
    assert_eq!(reply.code, 503, "{reply:?}");
    let seconds = reply.retry_after();
    assert!(
        seconds.is_some_and(|s| (30..=1800).contains(&s)),
        "{reply:?}"
    );
}

#[test]
fn pressure_new_registrations_are_refused_and_everybody_else_goes_on() {
    const KNOWN: usize = 200;
    const NEW: usize = 300;
    for_each_pair(|pair| {
        let server = small(pair);
        let (client, mut tcp) = (server.udp(), server.tcp());
        let known: Vec<Request> = (0..KNOWN)
            .map(|i| Request::register(&format!("known{i}")))
            .collect();
        assert_eq!(
            client.flood(known.iter().cloned(), 8, |_, _, _| ()).of(200),
            KNOWN
        );
        server.fill_shm(98); // above emergency
        let before = server.statistic("usrloc:registered_users");

        let new = (0..NEW).map(|i| Request::register(&format!("new{i}")));
        let refused = client.flood(new, 8, |_, _, reply| assert_refusal(reply));
        assert_eq!(
            (refused.of(503), refused.unanswered),
            (NEW, 0),
            "{refused:?}"
        );
        for i in 0..20 {
            assert_refusal(&tcp.request(&Request::register(&format!("tcp{i}"))));
        }
        let moved =
            |i: usize| Request::register(&format!("known{i}")).contact("<sip:k@192.0.2.250>");
        let returning = client.flood((0..20).map(moved), 8, |_, _, reply| assert_refusal(reply));
        assert_eq!(returning.of(503), 20, "{returning:?}");

        let refreshed = client.flood(known.iter().map(Request::next), 8, |_, _, _| ());
        assert_eq!(refreshed.of(200), KNOWN, "refresh: {refreshed:?}");
        let asked = known.iter().map(|r| r.next().next().no_contact());
        assert_eq!(client.flood(asked, 8, |_, _, _| ()).of(200), KNOWN, "query");
        let options = (0..100).map(|_| Request::options());
        assert_eq!(
            client.flood(options, 8, |_, _, _| ()).of(200),
            100,
            "OPTIONS"
        );
        assert_eq!(
            tcp.request(&known[0].next().next().next()).code,
            200,
            "refresh by TCP"
        );
        assert_eq!(
            client.request(&Request::invite("nobody")).code,
            404,
            "INVITE"
        );
        let gone = known.iter().map(|r| Request {
            cseq: 9,
            ..r.next().expires(0)
        });
        assert_eq!(
            client.flood(gone, 8, |_, _, _| ()).of(200),
            KNOWN,
            "unregister"
        );

        assert_eq!(
            server.statistic("usrloc:registered_users"),
            before - KNOWN as i64
        );
        let expected = [
            ("returning", 20 + returning.resent),
            ("new", NEW + 20 + refused.resent),
        ];
        let expected = expected.map(|(class, n)| (class, n as i64)).into();
        until(SOON, "every refusal is counted", || {
            server.by_class("rejected") == expected
        });
        assert_eq!(number(&server.status(), "fail_open"), 0);
    });
}

#[test]
fn pressure_with_no_byte_of_shm_left_every_register_is_answered() {
    for_each_pair(|pair| {
        let server = small(pair);
        let client = server.udp();
        let phone = Request::register("known");
        assert_eq!(client.request(&phone).code, 200);
        server.rpc("mgtest.fill_shm", json!([16]));
        let new = (0..100).map(|i| Request::register(&format!("new{i}")));
        let refused = client.flood(new, 4, |_, _, reply| assert_refusal(reply));
        assert_eq!(refused.of(503), 100, "{refused:?}");
        assert_eq!(client.request(&phone.next()).code, 200, "refresh");
        assert_eq!(
            client.request(&phone.next().next().no_contact()).code,
            200,
            "query"
        );
        assert_eq!(client.request(&Request::options()).code, 200);
        assert_eq!(
            client.request(&phone.next().next().next().expires(0)).code,
            200
        );
        server.await_level("emergency"); // monitoring reads on
        server.release_shm();
        assert_eq!(
            client.request(&Request::register("new1")).code,
            200,
            "at once"
        );
    });
}

#[test]
fn pressure_an_aor_keeps_its_answer_while_the_share_does() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair).shm_mb(64).with_mgtest().start();
        server.fill_shm(86); // half way from shed (80) to full (92)
        let share = number(&server.status(), "shed_pct");
        assert!((48..=53).contains(&share), "{share}");
        let client = server.udp();
        let ask = |name: &str| -> Vec<u16> {
            let mut codes = vec![0; 400];
            let users = (0..400).map(|i| Request::register(&format!("{name}{i}")));
            client.flood(users, 8, |i, _, reply| codes[i] = reply.code);
            codes
        };
        let first = ask("user");
        let refused = first.iter().filter(|&&code| code == 503).count();
        // a binomial of 400 and about 0.51: beyond these bounds once in a million runs
        assert!((150..=260).contains(&refused), "{refused} of 400 refused");
        assert_eq!(
            ask("user"),
            first,
            "a second attempt of each, with a new Call-ID"
        );
        // A retransmission gets the same bytes.
        let unlucky = first
            .iter()
            .position(|&code| code == 503)
            .expect("one is refused");
        let bytes = client.bytes(&Request::register(&format!("user{unlucky}")));
        let answer = || {
            client.send_raw(&bytes);
            client.receive_raw(ONE_REPLY).expect("an answer")
        };
        assert_eq!(answer(), answer());
    });
}

#[test]
fn pressure_reply_codes_and_retry_after_change_at_once() {
    for_each_pair(|pair| {
        let server = small(pair);
        server.rpc("memguard.shed", json!([60]));
        let (client, mut tcp) = (server.udp(), server.tcp());
        let mut both = |request: &dyn Fn() -> Request, code: u16, from: u64, to: u64| {
            for reply in [client.request(&request()), tcp.request(&request())] {
                assert_eq!(reply.code, code, "{reply:?}");
                let seconds = reply.retry_after().expect("Retry-After");
                assert!(
                    (from..=to).contains(&seconds),
                    "{seconds} is not {from} to {to}"
                );
            }
        };
        let direct = || Request::register("a");
        let proxied = || Request::register("a").via("SIP/2.0/UDP 192.0.2.5;branch=z9hG4bK1");
        let comma = || {
            let header =
                "Via: SIP/2.0/UDP 192.0.2.5;branch=z9hG4bK1, SIP/2.0/UDP 192.0.2.6;branch=z9hG4bK2";
            Request::register("a").header(header)
        };
        both(&direct, 503, 30, 1800);
        both(&proxied, 500, 30, 1800);
        both(&comma, 500, 30, 1800);
        server.set("reply_code", 480);
        both(&direct, 480, 30, 1800);
        both(&proxied, 500, 30, 1800);
        server.set("proxied_reply_code", 504);
        both(&proxied, 504, 30, 1800);
        server.set("retry_after_min", 1700);
        both(&direct, 480, 1700, 1800);
        server.set("retry_after_min", 7);
        server.set("retry_after_max", 9);
        both(&direct, 480, 7, 9);
        both(&proxied, 504, 7, 9);
        assert_eq!(client.request(&direct()).reason, "Server Memory Low");
    });
}

#[test]
fn pressure_modes_decide_whether_a_refusal_happens_is_only_counted_or_is_nothing() {
    for_each_pair(|pair| {
        let server = small(pair);
        let (client, mut tcp) = (server.udp(), server.tcp());
        server.fill_shm(98);
        let mut fresh = 0;
        let mut ask = || {
            fresh += 1;
            let udp = client
                .request(&Request::register(&format!("u{fresh}")))
                .code;
            (
                udp,
                tcp.request(&Request::register(&format!("t{fresh}"))).code,
            )
        };
        let counted = |what: &str| server.by_class(what).get("new").copied().unwrap_or(0);
        assert_eq!(ask(), (503, 503));
        until(SOON, "both are counted", || counted("rejected") == 2);
        assert_eq!(
            word(&server.rpc("memguard.mode", json!(["observe"])), "mode"),
            "observe"
        );
        assert_eq!(ask(), (200, 200));
        assert_eq!((counted("rejected"), counted("rejected_observed")), (2, 2));
        server
            .kamcmd(&["memguard.mode", "off"])
            .expect("kamcmd changes it");
        assert_eq!(ask(), (200, 200));
        assert_eq!((counted("rejected"), counted("rejected_observed")), (2, 2));
        assert_eq!(counted("received"), 6, "counting goes on");
        server.rpc("memguard.mode", json!(["enforce"]));
        assert_eq!(ask(), (503, 503));
        assert_eq!(word(&server.status(), "mode"), "enforce");
        let fault = server
            .try_rpc("memguard.mode", json!(["sleep"]))
            .expect_err("no such mode");
        assert_eq!(fault.code, 400, "{fault:?}");
    });
}

#[test]
fn pressure_shed_refuses_new_and_returning_at_once_and_resume_ends_it_at_once() {
    for_each_pair(|pair| {
        let server = small(pair);
        let (client, mut tcp) = (server.udp(), server.tcp());
        let phone = Request::register("known");
        assert_eq!(client.request(&phone).code, 200);
        let moved = || Request::register("known").contact("<sip:known@192.0.2.66>");
        let answer = server.rpc("memguard.shed", json!([60]));
        assert_eq!(word(&answer, "level"), "shedding");
        assert_eq!(word(&server.status(), "level"), "shedding");
        assert_eq!(number(&server.status(), "shed_pct"), 100);
        assert_refusal(&client.request(&Request::register("new")));
        assert_refusal(&client.request(&moved()));
        assert_refusal(&tcp.request(&Request::register("new2")));
        assert_eq!(client.request(&phone.next()).code, 200, "refresh");
        until(SOON, "an event says who", || {
            let events = server.rpc("memguard.events", json!([]));
            rows(&events)
                .iter()
                .any(|e| e["reason"] == "operator" && e["to"] == "shedding")
        });
        assert_eq!(
            word(&server.rpc("memguard.resume", json!([])), "level"),
            "normal"
        );
        assert_eq!(number(&server.status(), "shed_pct"), 0);
        assert_eq!(client.request(&Request::register("new")).code, 200);
        assert_eq!(tcp.request(&moved()).code, 200);
        server
            .kamcmd(&["memguard.shed", "1"])
            .expect("kamcmd sheds");
        assert_refusal(&client.request(&Request::register("late")));
        until(SOON, "it ends by itself", || {
            client.request(&Request::register("late")).code == 200
        });
        for wrong in [
            json!([]),
            json!([0]),
            json!(["soon"]),
            json!([90000]),
            json!([-1]),
        ] {
            let fault = server
                .try_rpc("memguard.shed", wrong.clone())
                .expect_err("no duration");
            assert_eq!(fault.code, 400, "{wrong}: {fault:?}");
        }
    });
}

#[test]
fn pressure_levels_rise_at_once_and_fall_only_after_gap_and_dwell() {
    for_each_pair(|pair| {
        let server = small(pair);
        let is = |level: &str| word(&server.status(), "level") == level;
        assert!(is("normal"));
        server.fill_shm(72);
        server.await_level("warning");
        server.fill_shm(82);
        server.await_level("shedding");
        server.fill_shm(98);
        server.await_level("emergency");
        // 77 % is below shed (80), but not below it by the gap (5): shedding stays.
        server.release_shm();
        server.fill_shm(77);
        server.await_level("shedding");
        assert!(
            !holds_within(Duration::from_millis(1500), || !is("shedding")),
            "{}",
            server.status()
        );
        assert_eq!(
            number(&server.status(), "shed_pct"),
            0,
            "refusing follows live use"
        );
        assert_eq!(server.udp().request(&Request::register("a")).code, 200);
        server.release_shm();
        server.await_level("normal");
        let events = server.rpc("memguard.events", json!([]));
        let steps: Vec<(String, String)> = rows(&events)
            .iter()
            .rev()
            .map(|e| {
                assert_eq!(word(e, "pool"), "shm", "{e}");
                assert!(e.get("worker").is_none(), "shm has no worker: {e}");
                (word(e, "from").to_owned(), word(e, "to").to_owned())
            })
            .collect();
        let expected = [
            "normal",
            "warning",
            "shedding",
            "emergency",
            "shedding",
            "normal",
        ];
        let expected: Vec<(String, String)> = expected
            .windows(2)
            .map(|w| (w[0].into(), w[1].into()))
            .collect();
        assert_eq!(steps, expected, "{events}");
        let percent: Vec<i64> = rows(&events)
            .iter()
            .rev()
            .map(|e| number(e, "percent"))
            .collect();
        assert!(
            (70..75).contains(&percent[0]) && percent[2] >= 97,
            "{percent:?}"
        );
        assert!(
            server.log().contains("shedding -> emergency"),
            "a line in the log"
        );
    });
}

#[test]
fn pressure_of_registrations_alone_ends_when_they_go() {
    for_each_pair(|pair| {
        let server = small(pair);
        let client = server.udp();
        server.fill_shm(78);
        let mut admitted = Vec::new();
        let mut admitted_of_last = 100;
        for batch in 0..60 {
            let users = (0..100).map(|i| Request::register(&format!("b{batch}-{i}")));
            let before = admitted.len();
            client.flood(users, 8, |_, request, reply| match reply.code {
                200 => admitted.push(request.clone()),
                _ => assert_refusal(reply),
            });
            admitted_of_last = admitted.len() - before;
            if admitted_of_last <= 5 {
                break;
            }
        }
        // each step to full is smaller than the one before
        assert!(
            admitted_of_last <= 5,
            "{admitted_of_last} of the last hundred"
        );
        let used = server.shm_pct();
        assert!(
            (90.0..93.0).contains(&used),
            "{used} %: not beyond full (92)"
        );
        server.await_level("shedding");
        let gone = admitted.iter().map(|r| r.next().expires(0));
        assert_eq!(client.flood(gone, 8, |_, _, _| ()).of(200), admitted.len());
        assert_eq!(client.request(&Request::register("at-once")).code, 200);
        server.release_shm();
        server.await_level("normal");
    });
}

#[test]
fn pressure_refusals_are_explained() {
    for_each_pair(|pair| {
        let server = small(pair);
        server.rpc("memguard.shed", json!([60]));
        let client = Udp::from("127.0.0.3", server.sip());
        let mut tcp = server.tcp();
        let list = || server.rpc("memguard.refusals", json!([]));
        let mut replies = Vec::new();
        let mut kept = |reply: Reply| {
            replies.push(reply);
            until(SOON, "the refusal is kept", || {
                rows(&list()).len() == replies.len()
            });
        };
        kept(client.request(&Request::register("anna")));
        let proxied = Request::register("ben").via("SIP/2.0/UDP 192.0.2.5;branch=z9hG4bK1");
        kept(client.request(&proxied));
        kept(tcp.request(&Request::register("carl")));
        let list = list();
        let newest_first: Vec<_> = rows(&list).iter().rev().collect();
        let sources = [client.local(), client.local(), tcp.local()];
        let expected = [
            ("anna", "datagram"),
            ("ben", "datagram"),
            ("carl", "request"),
        ];
        for (((row, reply), source), (name, stage)) in
            newest_first.iter().zip(&replies).zip(sources).zip(expected)
        {
            assert!(word(row, "aor").contains(name), "{row}");
            assert_eq!(word(row, "source"), source.to_string(), "{row}");
            assert_eq!(
                (word(row, "class"), word(row, "stage")),
                ("new", stage),
                "{row}"
            );
            assert_eq!(number(row, "code"), i64::from(reply.code), "{row}");
            assert_eq!(
                number(row, "retry_after"),
                reply.retry_after().expect("a time") as i64
            );
        }
        let one = server.rpc("memguard.refusals", json!([1]));
        assert_eq!(rows(&one).len(), 1);
        assert!(
            word(&rows(&one)[0], "aor").contains("carl"),
            "the newest: {one}"
        );
    });
}
