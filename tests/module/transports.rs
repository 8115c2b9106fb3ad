//! Without memory on TCP, TLS and both WebSockets: a worker without private memory, a server without shared memory, and
//! TLS, which turns phones away itself when little shared memory is left.
//! Forbidden here: UDP, but for comparison (zero.rs).

use std::time::Duration;

use serde_json::json;

use super::guard::{Guarded, SOON, number, rows, word};
use super::harness::builder::Builder;
use super::harness::sip::{Connection, Reply, Request, WebSocket};
use super::harness::tls::{Certificate, Tunnel};
use super::harness::{Pair, Server, for_each_pair, until};

/// A registrar with one worker per protocol, which a request can make give away its private memory.
fn emptiable(pair: &Pair) -> Builder {
    Server::registrar(pair)
        .with_mgtest()
        .workers(1)
        .param("sample_interval", 100)
        .config(|c| {
            c.before = "if ($hdr(X-Fill) != $null) { mgtest_fill_pkg(\"16\"); exit; }
    if ($hdr(X-Release) != $null) { mgtest_release(); }"
                .into();
        })
}

#[track_caller]
fn assert_refused(reply: &Reply) {
    assert_eq!(reply.code, 503, "{reply:?}");
    let seconds = reply.retry_after();
    assert!(
        seconds.is_some_and(|s| (30..=1800).contains(&s)),
        "{reply:?}"
    );
}

/// Private bytes that the TCP worker has left.
fn tcp_worker_free(server: &Server) -> i64 {
    let workers = server.workers();
    let row = workers
        .iter()
        .find(|w| word(w, "desc").starts_with("tcp receiver"))
        .expect("a TCP worker");
    number(row, "pkg_size") - number(row, "pkg_real_used")
}

/// What must hold on every transport that has connections.
fn zero_pkg(server: &Server, connect: &dyn Fn() -> Box<dyn Connection>) {
    let mut phone = connect();
    let known: Vec<Request> = (0..10)
        .map(|i| Request::register(&format!("known{i}")))
        .collect();
    for request in &known {
        assert_eq!(phone.request(request).code, 200);
    }
    let everybody = server.everybody();
    phone
        .send(&Request::options().header("X-Fill: 1"))
        .expect("it is sent");
    until(SOON, "the TCP worker's pkg is empty", || {
        tcp_worker_free(server) < 20_000
    });
    let again: Vec<Request> = known.iter().map(Request::next).collect();
    for request in &again {
        assert_eq!(phone.request(request).code, 200, "refresh");
    }
    for i in 0..20 {
        assert_refused(&phone.request(&Request::register(&format!("new{i}"))));
    }
    let moved = Request::register("known1").contact("<sip:known1@192.0.2.250>");
    assert_refused(&phone.request(&moved));
    assert_eq!(phone.request(&Request::options()).code, 200);
    assert_eq!(phone.request(&Request::invite("nobody")).code, 404, "calls");
    let mut second = connect();
    assert_eq!(
        second.request(&again[0].next()).code,
        200,
        "refresh on a new connection"
    );
    assert_refused(&second.request(&Request::register("late")));
    assert_eq!(phone.request(&again[9].next().expires(0)).code, 200);
    assert_eq!(
        server.udp().request(&Request::register("udp")).code,
        200,
        "pkg is each worker's own"
    );
    assert!(server.log().contains("its ballast is released"));
    let release = Request::options().header("X-Release: 1");
    assert_eq!(phone.request(&release).code, 200);
    assert_eq!(
        phone.request(&Request::register("late")).code,
        200,
        "the moment memory is back"
    );
    server.assert_nobody_died(&everybody);
}

#[test]
fn transports_zero_pkg_over_tcp_serves_who_is_registered_and_refuses_who_is_new() {
    for_each_pair(|pair| {
        let server = emptiable(pair).start();
        zero_pkg(&server, &|| Box::new(server.tcp()));
    });
}

#[test]
fn transports_zero_pkg_over_tls_serves_who_is_registered_and_refuses_who_is_new() {
    for_each_pair(|pair| {
        let certificate = Certificate::new(&pair.kamailio);
        let server = emptiable(pair)
            .shm_mb(32)
            .config(|c| {
                c.tls(&certificate);
            })
            .start();
        let tunnel = Tunnel::to(&pair.kamailio, server.places.tls);
        zero_pkg(&server, &|| Box::new(tunnel.client()));
    });
}

fn websocket(server: &Server) -> Box<dyn Connection> {
    Box::new(WebSocket::try_to(server.http()).expect("the server opens a WebSocket"))
}

#[test]
fn transports_zero_pkg_over_websocket_serves_who_is_registered_and_refuses_who_is_new() {
    for_each_pair(|pair| {
        let server = emptiable(pair)
            .config(|c| {
                c.websocket();
            })
            .start();
        zero_pkg(&server, &|| websocket(&server));
    });
}

#[test]
fn transports_zero_pkg_over_secure_websocket_serves_who_is_registered_and_refuses_who_is_new() {
    for_each_pair(|pair| {
        let certificate = Certificate::new(&pair.kamailio);
        let server = emptiable(pair)
            .shm_mb(32)
            .config(|c| {
                c.tls(&certificate).websocket();
            })
            .start();
        let tunnel = Tunnel::to(&pair.kamailio, server.places.tls);
        let open = || tunnel.try_websocket().expect("a WebSocket through TLS");
        zero_pkg(&server, &|| Box::new(open()));
    });
}

#[test]
fn transports_zero_shm_over_tcp_and_websocket_keeps_who_is_registered() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .with_mgtest()
            .param("sample_interval", 100)
            .config(|c| {
                c.websocket();
            })
            .start();
        let phones: [Box<dyn Connection>; 2] = [Box::new(server.tcp()), websocket(&server)];
        for (i, mut phone) in phones.into_iter().enumerate() {
            let known = Request::register(&format!("known{i}"));
            let new = || Request::register(&format!("new{i}"));
            assert_eq!(phone.request(&known).code, 200);
            server.rpc("mgtest.fill_shm", json!([16]));
            assert_eq!(phone.request(&known.next()).code, 200, "refresh");
            assert_refused(&phone.request(&new()));
            assert_eq!(phone.request(&Request::options()).code, 200);
            assert_eq!(phone.request(&known.next().next().expires(0)).code, 200);
            server.release_shm();
            assert_eq!(phone.request(&new()).code, 200);
            assert_eq!(phone.request(&Request::invite("nobody")).code, 404, "calls");
        }
    });
}

/// TLS turns connections away below this many bytes of free shm for each process, and I/O below half of it
/// (modules/tls/tls_init.c).
const TLS_NEEDS: i64 = 512 * 1024;

#[test]
fn transports_tls_phones_get_503_before_tls_turns_them_away_and_nothing_dies_below() {
    for_each_pair(|pair| {
        let certificate = Certificate::new(&pair.kamailio);
        let server = Server::registrar(pair)
            .shm_mb(64)
            .with_mgtest()
            .workers(1)
            .param("sample_interval", 100)
            .param("shm_shed_pct", 71)
            .param("shm_full_pct", 75)
            .config(|c| {
                c.tls(&certificate);
            })
            .start();
        let tunnel = Tunnel::to(&pair.kamailio, server.places.tls);
        let everybody = server.everybody();
        let known = Request::register("known");
        let mut phone = tunnel.client();
        assert_eq!(phone.request(&known).code, 200);

        server.fill_shm(76);
        assert_refused(&phone.request(&Request::register("new")));
        assert_refused(&tunnel.client().request(&Request::register("newer")));
        assert_eq!(tunnel.client().request(&known.next()).code, 200, "refresh");

        // Kamailio takes no new TCP connection without 17 KB of shm (core/tcp_main.c tcpconn_new): this one is older.
        let mut tcp = server.tcp();
        assert_refused(&tcp.request(&Request::register("tcp")));
        // Below tls's own thresholds nobody can answer over TLS; everything else goes on.
        server.fill_shm(98);
        let shm = server.pool("shm");
        let processes = number(&server.status(), "workers");
        let free = number(&shm, "size") - number(&shm, "real_used");
        assert!(free < TLS_NEEDS / 2 * processes, "{free} bytes free");
        let short = Duration::from_millis(500);
        let new = Request::register("none");
        let answer = || tunnel.try_client().ok()?.try_request(&new, short);
        assert!(answer().is_none(), "tls turns it away");
        assert!(phone.try_request(&known.next(), short).is_none());
        server.rpc("mgtest.fill_shm", json!([16]));
        assert!(answer().is_none(), "and so at the last byte");
        assert_refused(&tcp.request(&Request::register("tcp")));
        assert_eq!(tcp.request(&known.next()).code, 200, "refresh");
        let udp = server.udp();
        assert_refused(&udp.request(&Request::register("udp")));
        assert_eq!(udp.request(&known.next().next()).code, 200, "refresh");

        server.release_shm();
        assert_eq!(
            tunnel.client().request(&Request::register("new")).code,
            200,
            "the moment memory is back"
        );
        server.assert_nobody_died(&everybody);
    });
}

#[test]
fn transports_tls_that_would_refuse_first_is_warned_of_at_the_start() {
    for_each_pair(|pair| {
        let certificate = Certificate::new(&pair.kamailio);
        let warned = |megabytes: u32, threshold: Option<i64>| {
            let server = Server::registrar(pair)
                .workers(1)
                .shm_mb(megabytes)
                .config(|c| {
                    c.tls(&certificate);
                    if let Some(kib) = threshold {
                        c.param("tls", "low_mem_threshold1", kib);
                    }
                })
                .start();
            let status = server.status();
            let says = |text: &str| text.contains("low_mem_threshold1");
            let is_in_status = rows(&status["warnings"])
                .iter()
                .any(|w| says(w.as_str().unwrap_or_default()));
            let log = server.log();
            let is_in_log = log.lines().any(|l| l.contains("memguard") && says(l));
            assert_eq!(is_in_status, is_in_log, "{status}");
            is_in_log
        };
        // Shedding begins with 20 % free; some 12 processes of 512 KiB are 6 MiB.
        assert!(!warned(64, None), "12.8 MiB are free");
        assert!(warned(16, None), "3.2 MiB are free");
        assert!(!warned(16, Some(3000)), "a lower threshold");
        assert!(warned(64, Some(14_000)), "a higher one");
    });
}
