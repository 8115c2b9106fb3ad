//! At zero bytes: a worker without private memory, a server without shared memory. Every REGISTER over UDP still gets a
//! final reply, who is registered stays, and the server serves on the moment memory returns.
//! Forbidden here: half-empty pools (pressure.rs, levels.rs).

use serde_json::json;

use super::guard::{Guarded, SOON, number, rows, word};
use super::harness::sip::{Reply, Request};
use super::harness::{Pair, Server, for_each_pair, until};

/// One worker whose pkg an OPTIONS with X-Fill takes to the last byte; X-Release gives it back.
fn with_emptiable_pkg(pair: &Pair, ballast: i64) -> Server {
    Server::registrar(pair)
        .with_mgtest()
        .workers(1)
        .param("sample_interval", 100)
        .param("ballast", ballast)
        .config(|c| {
            c.before = "if ($hdr(X-Fill) != $null) { mgtest_fill_pkg(\"16\"); exit; }
    if ($hdr(X-Release) != $null) { mgtest_release(); }
    if ($tU == \"slow\") { exit; } # its answer takes its time"
                .into();
        })
        .start()
}

/// pkg of the UDP worker.
fn worker(server: &Server) -> serde_json::Value {
    let workers = server.workers();
    let udp = workers
        .iter()
        .find(|w| word(w, "desc").starts_with("udp receiver"));
    udp.expect("a UDP worker").clone()
}

fn empty_pkg(server: &Server) {
    let client = server.udp();
    client.send_raw(&client.bytes(&Request::options().header("X-Fill: 1")));
    until(SOON, "the worker's pkg is empty", || {
        let row = worker(server);
        let free = number(&row, "pkg_size") - number(&row, "pkg_real_used");
        free < 20_000
    });
}

#[track_caller]
fn assert_refused(reply: &Reply) {
    assert_eq!(reply.code, 503, "{reply:?}");
    assert!(reply.retry_after().is_some(), "{reply:?}");
}

#[test]
fn zero_pkg_with_ballast_serves_who_is_registered_and_refuses_who_is_new() {
    for_each_pair(|pair| {
        let server = with_emptiable_pkg(pair, 65536);
        let (client, mut tcp) = (server.udp(), server.tcp());
        let known: Vec<Request> = (0..50)
            .map(|i| Request::register(&format!("known{i}")))
            .collect();
        assert_eq!(
            client.flood(known.iter().cloned(), 1, |_, _, _| ()).of(200),
            50
        );
        let everybody = server.everybody();
        empty_pkg(&server);
        let again = client.flood(known.iter().map(Request::next), 1, |_, _, _| ());
        assert_eq!(again.of(200), 50, "refreshes at zero pkg: {again:?}");
        let new = (0..100).map(|i| Request::register(&format!("new{i}")));
        let refused = client.flood(new, 4, |_, _, reply| assert_refused(reply));
        assert_eq!(
            (refused.of(503), refused.unanswered),
            (100, 0),
            "{refused:?}"
        );
        assert_eq!(client.request(&Request::options()).code, 200, "calls go on");
        assert_eq!(
            tcp.request(&Request::register("other-worker")).code,
            200,
            "pkg is each worker's own"
        );
        let _ = client.try_request(&Request::options().header("X-Release: 1"), SOON);
        until(SOON, "new registrations get in again", || {
            client.request(&Request::register("late")).code == 200
        });
        server.assert_nobody_died(&everybody);
    });
}

#[test]
fn zero_pkg_without_ballast_answers_every_register_over_udp() {
    for_each_pair(|pair| {
        let server = with_emptiable_pkg(pair, 0);
        let client = server.udp();
        let known: Vec<Request> = (0..20)
            .map(|i| Request::register(&format!("known{i}")))
            .collect();
        assert_eq!(
            client.flood(known.iter().cloned(), 1, |_, _, _| ()).of(200),
            20
        );
        let in_flight = Request::register("slow");
        client.send_raw(&client.bytes(&in_flight));
        until(SOON, "it is in flight", || {
            number(&server.registrations(), "received") == 21
        });
        empty_pkg(&server);
        let again = client.flood(known.iter().map(Request::next), 1, |_, _, reply| {
            assert_refused(reply);
            assert_eq!(
                reply.retry_after(),
                Some(5),
                "its binding must not expire meanwhile"
            );
        });
        assert_eq!((again.of(503), again.unanswered), (20, 0), "{again:?}");
        let gone = known.iter().map(|r| r.next().next().expires(0));
        assert_eq!(
            client
                .flood(gone, 1, |_, _, reply| assert_refused(reply))
                .of(503),
            20
        );
        let refusals = server.rpc("memguard.refusals", json!([1]));
        assert_eq!(word(&rows(&refusals)[0], "class"), "unregister");
        assert_eq!(word(&rows(&refusals)[0], "stage"), "datagram");
        // A retransmission of what was admitted waits for that one's answer: the first reply is the next phone's.
        let (fresh, other) = (Request::register("fresh"), in_flight.next());
        for request in [&in_flight, &in_flight, &fresh, &in_flight, &other] {
            client.send_raw(&client.bytes(request));
        }
        for request in [fresh, other] {
            let reply = client.receive_raw(SOON).expect("a refusal");
            let reply = Reply::parse(&reply).expect("a reply");
            assert!(reply.answers(&request), "{reply:?}");
            assert_refused(&reply);
        }
    });
}

#[test]
fn zero_shm_refuses_who_is_new_and_keeps_who_is_registered_on_udp_and_tcp() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .shm_mb(16)
            .with_mgtest()
            .param("sample_interval", 100)
            .start();
        let (client, mut tcp) = (server.udp(), server.tcp());
        let known: Vec<Request> = (0..100)
            .map(|i| Request::register(&format!("known{i}")))
            .collect();
        assert_eq!(
            client.flood(known.iter().cloned(), 8, |_, _, _| ()).of(200),
            100
        );
        assert_eq!(tcp.request(&Request::options()).code, 200);
        let everybody = server.everybody();
        server.rpc("mgtest.fill_shm", json!([16]));
        let new = (0..200).map(|i| Request::register(&format!("new{i}")));
        let refused = client.flood(new, 8, |_, _, reply| assert_refused(reply));
        assert_eq!(
            (refused.of(503), refused.unanswered),
            (200, 0),
            "{refused:?}"
        );
        let again = client.flood(known.iter().map(Request::next), 8, |_, _, _| ());
        assert_eq!(
            (again.of(200), again.unanswered),
            (100, 0),
            "refreshes at zero shm: {again:?}"
        );
        assert_refused(&tcp.request(&Request::register("new-tcp")));
        server.await_level("emergency"); // monitoring still answers
        server.rpc("mgtest.release", json!([]));
        assert_eq!(client.request(&Request::register("late")).code, 200);
        assert_eq!(tcp.request(&Request::options()).code, 200);
        server.assert_nobody_died(&everybody);
    });
}

#[test]
fn zero_pkg_and_zero_shm_at_once_every_register_over_udp_is_answered() {
    for_each_pair(|pair| {
        for ballast in [65536, 0] {
            let server = with_emptiable_pkg(pair, ballast);
            let client = server.udp();
            let known: Vec<Request> = (0..20)
                .map(|i| Request::register(&format!("known{i}")))
                .collect();
            assert_eq!(
                client.flood(known.iter().cloned(), 1, |_, _, _| ()).of(200),
                20
            );
            let everybody = server.everybody();
            server.rpc("mgtest.fill_shm", json!([16]));
            empty_pkg(&server);
            // With ballast the worker can parse: who is registered is served. Without, all are told to come back soon.
            let code = if ballast > 0 { 200 } else { 503 };
            let of_all_kinds = known.iter().flat_map(|phone| {
                let next = phone.next();
                [
                    next.clone(),
                    next.next().no_contact(),
                    next.next().next().expires(0),
                ]
            });
            let replies = client.flood(of_all_kinds, 1, |_, request, reply| {
                assert_eq!(reply.code, code, "{request:?}: {reply:?}");
                let soon = (ballast == 0).then_some(5);
                assert_eq!(reply.retry_after(), soon, "its binding must not expire");
            });
            assert_eq!((replies.of(code), replies.unanswered), (60, 0));
            let new = (0..100).map(|i| Request::register(&format!("new{i}")));
            let refused = client.flood(new, 4, |_, _, reply| {
                assert_refused(reply);
                assert!(reply.retry_after() >= Some(30), "a slot of the queue");
            });
            assert_eq!((refused.of(503), refused.unanswered), (100, 0));
            server.rpc("mgtest.release", json!([]));
            if ballast > 0 {
                // The worker gives its pool back when it is told to, so it can only be told while it can parse.
                let release = Request::options().header("X-Release: 1");
                assert_eq!(client.request(&release).code, 200);
                let late = client.request(&Request::register("late"));
                assert_eq!(late.code, 200, "the moment memory returns: {late:?}");
            }
            server.assert_nobody_died(&everybody);
        }
    });
}
