//! memguard's books against Kamailio's own: what every process allocated and freed is what the managers say is used,
//! to the byte, after registrations, un-registrations and expiries; on qm plus the shrinks that it does not book.
//! Forbidden here: tolerances. A quiet moment is awaited instead.

use std::time::Duration;

use serde_json::{Value, json};

use super::guard::{Guarded, SOON, number, rows};
use super::harness::sip::{Reply, Request};
use super::harness::wait::found;
use super::harness::{Pair, Server, for_each_pair, until};

/// Whether the manager forgets to book the bytes that a shrinking realloc gives back: qm up to 5.8.7 and 6.0.5.
fn forgets_shrinks(pair: &Pair) -> bool {
    let is_before = match pair.kamailio.release() {
        (5, 8, patch) => patch <= 7,
        (6, 0, patch) => patch <= 5,
        (major, minor, _) => (major, minor) < (5, 8),
    };
    pair.manager == "qm" && is_before
}

/// The sum of all processes' shm, what is not booked, and core's own figure.
fn shm_books(server: &Server) -> (i64, i64, i64) {
    let sum = |field: &str| -> i64 { server.workers().iter().map(|w| number(w, field)).sum() };
    let unbooked = number(&server.pool("shm"), "unbooked");
    let live = sum("shm_bytes_allocated") - sum("shm_bytes_freed");
    let used = number(&server.rpc("core.shmmem", json!([])), "used");
    (live, unbooked, used)
}

#[track_caller]
pub fn assert_shm_books(server: &Server, when: &str) {
    let mut last = (0, 0, 0);
    let balanced = super::harness::wait::holds_within(SOON, || {
        last = shm_books(server);
        last.0 + last.1 == last.2
    });
    let (live, unbooked, used) = last;
    assert!(
        balanced,
        "{when}: counted {live} + not booked {unbooked} is not the manager's {used}, off by {}",
        used - live - unbooked
    );
    if !forgets_shrinks(&server.pair) {
        assert_eq!(unbooked, 0, "only qm forgets");
    }
    let shm = server.pool("shm");
    assert_eq!(number(&shm, "drift"), number(&shm, "unbooked"), "{shm}");
}

/// Every process's pkg against its own manager's figure.
#[track_caller]
pub fn assert_pkg_books(server: &Server, when: &str) {
    // A process may just have been forked, or be at work.
    let mut odd = Vec::new();
    let all_even = super::harness::wait::holds_within(SOON, || {
        odd = server.workers();
        odd.retain(|worker| {
            number(worker, "pkg_drift") != number(worker, "pkg_unbooked")
                || number(worker, "pkg_live") == 0
        });
        odd.is_empty()
    });
    assert!(all_even, "{when}: {odd:?}");
    if server.pair.manager != "qm" {
        return; // tlsf tells kex nothing, and fm tells it of a free before the free (f_malloc.c fm_free)
    }
    let mut compared = 0;
    let mut wrong = Vec::new();
    until(
        SOON,
        &format!("{when}: pkg.stats agrees with memguard"),
        || {
            let (ours, theirs) = (server.workers(), server.rpc("pkg.stats", json!([])));
            let pair = |row: &Value| {
                let own = ours
                    .iter()
                    .find(|w| number(w, "pid") == number(row, "pid"))?;
                let booked = number(own, "pkg_live") + number(own, "pkg_unbooked");
                // The RPC process is at work while it answers.
                let is_quiet = !word_of(own, "desc").contains("JSON");
                (number(row, "used") > 0 && is_quiet)
                    .then(|| (booked, number(row, "used"), own.clone()))
            };
            let pairs: Vec<_> = rows(&theirs).iter().filter_map(pair).collect();
            compared = pairs.len();
            wrong = pairs.into_iter().filter(|(a, b, _)| a != b).collect();
            wrong.is_empty()
        },
    );
    assert!(
        compared >= 4,
        "{when}: only {compared} processes to compare"
    );
}

fn word_of<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field].as_str().unwrap_or_default()
}

/// The row of one process when it rests: a worker frees its message only after the reply is out.
fn settled(server: &Server, pid: i64) -> Value {
    let look = || rows(&server.rpc("memguard.workers", json!(["pid", pid])))[0].clone();
    let sleeps = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('S'))
    };
    let mut last = look();
    found(SOON, "the process rests", || {
        // Asleep first, then the figures: the other way round, what is read may be of a
        // message that was still being freed.
        let asleep = sleeps();
        let next = look();
        let rests = asleep
            && ["pkg_allocs", "pkg_frees", "shm_allocs", "shm_frees"]
                .iter()
                .all(|field| next[field] == last[field]);
        last = next.clone();
        rests.then_some(next)
    })
}

/// Users whose registrations pass through every change that a location table knows.
pub fn churn(server: &Server) {
    let client = server.udp();
    let name = |i: usize| format!("user{i}");
    let users: Vec<Request> = (0..1500).map(|i| Request::register(&name(i))).collect();
    let all = client.flood(users.iter().cloned(), 16, |_, _, _| ());
    assert_eq!(all.of(200), 1500, "{all:?}");
    // refreshed, moved to another contact, un-registered singly and by star, short-lived
    let next = users.iter().enumerate().map(|(i, user)| {
        let again = user.next();
        match i % 5 {
            0 => again,
            1 => again.contact(&format!(
                "<sip:{}@198.51.100.7:5070;transport=udp>",
                name(i)
            )),
            2 => again.expires(0),
            3 => Request {
                contacts: vec!["*".into()],
                ..again
            }
            .expires(0),
            _ => again.expires(1),
        }
    });
    let all = client.flood(next, 16, |_, _, _| ());
    assert_eq!(all.of(200), 1500, "{all:?}");
    let mut tcp = server.tcp();
    for i in 0..300 {
        let user = Request::register(&format!("tcp{i}"));
        assert_eq!(tcp.request(&user).code, 200);
        if i % 2 == 0 {
            assert_eq!(
                tcp.request(&user.next().expires(if i % 4 == 0 { 0 } else { 1 }))
                    .code,
                200
            );
        }
    }
}

#[test]
fn accounting_books_equal_the_managers_after_registrations_removals_and_expiries() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .shm_mb(32)
            .config(|c| {
                c.param("usrloc", "timer_interval", 1)
                    .param("registrar", "min_expires", 1);
            })
            .start();
        assert_shm_books(&server, "after the start");
        assert_pkg_books(&server, "after the start");
        churn(&server);
        assert_shm_books(&server, "after the churn");
        // 300 of 1500 un-registered and 300 starred; 300 of UDP and 75 of TCP expire; 75 of TCP un-registered
        until(
            Duration::from_secs(15),
            "short registrations expire",
            || server.statistic("usrloc:registered_users") == 600 + 150,
        );
        assert_shm_books(&server, "after the expiries");
        assert_pkg_books(&server, "after the expiries");
    });
}

#[test]
fn accounting_a_worker_at_work_is_counted_to_the_byte_with_what_it_leaks() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .with_mgtest()
            .workers(1)
            .config(|c| {
                c.module("cfgutils").before =
                    "if ($hdr(X-Pkg) != $null) { mgtest_leak_pkg(\"$(hdr(X-Pkg){s.int})\"); }
    if ($hdr(X-Shm) != $null) { mgtest_leak_shm(\"$(hdr(X-Shm){s.int})\"); }
    $var(pid) = $mgtest(pid);
    $var(used) = $mgtest(pkg_used);
    usleep(\"300000\");
    append_to_reply(\"X-Pkg-Used: $var(used)\\r\\nX-Pid: $var(pid)\\r\\n\");"
                        .into();
            })
            .start();
        let client = server.udp();
        let pid = number_of(&client.request(&Request::options()), "X-Pid");
        // While the worker sleeps in the script, after it has asked its manager: its row.
        let row_in_script = |header: &str| -> Value {
            let messages = number(&settled(&server, pid), "messages");
            let request = Request::options().header(header);
            client.send_raw(&client.bytes(&request));
            until(SOON, "the worker has the message", || {
                number(&settled(&server, pid), "messages") > messages
            });
            let row = settled(&server, pid);
            let reply = client.receive_raw(SOON).and_then(|d| Reply::parse(&d));
            let used = number_of(&reply.expect("an answer"), "X-Pkg-Used");
            let booked = number(&row, "pkg_live") + number(&row, "pkg_unbooked");
            assert_eq!(booked, used, "{header}: {row}");
            row
        };
        let before = row_in_script("X-Nix: 00000");
        let leaked = row_in_script("X-Pkg: 54321");
        let after = row_in_script("X-Shm: 65432");
        let grown = |a: &Value, b: &Value, field: &str| number(b, field) - number(a, field);
        let pkg = grown(&before, &leaked, "pkg_live");
        assert!((53_000..56_000).contains(&pkg), "{pkg} after 54321 leaked");
        let shm = grown(&leaked, &after, "shm_bytes_allocated")
            - grown(&leaked, &after, "shm_bytes_freed");
        assert!((65_432..65_600).contains(&shm), "{shm} after 65432 leaked");
        assert_shm_books(&server, "with a leak");
    });
}

#[track_caller]
fn number_of(reply: &Reply, header: &str) -> i64 {
    let value = reply.header(header).and_then(|v| v.parse().ok());
    value.unwrap_or_else(|| panic!("no number {header} in {reply:?}"))
}

#[test]
fn accounting_shrinking_reallocs_are_the_managers_drift_and_not_memguards() {
    const TIMES: i64 = 100;
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .with_mgtest()
            .workers(1)
            .config(|c| {
                c.before = "if ($hdr(X-Shrink) != $null) { mgtest_shrink_pkg(\"9000\", \"100\"); mgtest_shrink_shm(\"9000\", \"100\"); }
    append_to_reply(\"X-Pid: $mgtest(pid)\\r\\n\");"
                    .into();
            })
            .start();
        let client = server.udp();
        let shrink = || client.request(&Request::options().header("X-Shrink: 1"));
        let pid = number_of(&shrink(), "X-Pid"); // the first makes what stays
        let pkg = || settled(&server, pid);
        let (pkg_before, shm_before) = (pkg(), server.pool("shm"));
        for _ in 0..TIMES {
            shrink();
        }
        let (pkg_after, shm_after) = (pkg(), server.pool("shm"));
        let grown = |field: &str, before, after| number(after, field) - number(before, field);
        let pkg_forgotten = grown("pkg_unbooked", &pkg_before, &pkg_after);
        let shm_forgotten = grown("unbooked", &shm_before, &shm_after);
        if forgets_shrinks(pair) {
            // what the shrunk block gives back, each time
            assert!(
                (TIMES * 8800..=TIMES * 8900).contains(&pkg_forgotten),
                "{pkg_forgotten}"
            );
            assert!(
                (TIMES * 8800..=TIMES * 8900).contains(&shm_forgotten),
                "{shm_forgotten}"
            );
        } else {
            assert_eq!((pkg_forgotten, shm_forgotten), (0, 0));
        }
        assert_eq!(grown("pkg_drift", &pkg_before, &pkg_after), pkg_forgotten);
        assert_eq!(
            grown("pkg_live", &pkg_before, &pkg_after),
            0,
            "nothing leaks"
        );
        assert_shm_books(&server, "after shrinking");
        assert_pkg_books(&server, "after shrinking");
    });
}

#[test]
fn accounting_a_child_that_a_script_forks_changes_no_books_but_by_what_it_leaks_in_shm() {
    const BYTES: i64 = 20_000;
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .with_mgtest()
            .workers(1)
            .config(|c| {
                c.before = "if ($hdr(X-Fork) != $null) { mgtest_fork(\"20000\"); }
    append_to_reply(\"X-Pid: $mgtest(pid)\\r\\n\");"
                    .into();
            })
            .start();
        let client = server.udp();
        let fork = || client.request(&Request::options().header("X-Fork: 1"));
        let pid = number_of(&fork(), "X-Pid"); // the first makes what stays
        let (pkg, shm) = (settled(&server, pid), server.pool("shm"));
        for _ in 0..5 {
            fork();
        }
        let pkg_now = settled(&server, pid);
        for field in ["pkg_live", "pkg_unbooked"] {
            assert_eq!(number(&pkg_now, field), number(&pkg, field), "{field}");
        }
        let leaked = number(&server.pool("shm"), "live") - number(&shm, "live");
        assert!(
            (5 * BYTES..5 * BYTES + 1000).contains(&leaked),
            "{leaked} in shm"
        );
        assert_shm_books(&server, "after forks");
        assert_pkg_books(&server, "after forks");
    });
}

#[test]
fn accounting_goes_on_to_the_byte_in_a_server_that_became_a_daemon() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair).with_mgtest().daemon().start();
        let client = server.udp();
        for user in 0..50 {
            let reply = client.request(&Request::register(&format!("user{user}")));
            assert_eq!(reply.code, 200);
        }
        assert_shm_books(&server, "in a daemon");
        assert_pkg_books(&server, "in a daemon");
    });
}

#[test]
fn accounting_failed_allocations_are_counted_where_they_failed() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair).with_mgtest().start();
        let asked = server.rpc("mgtest.shm_info", json!([]));
        let failures = |row: &Value| number(row, "failures");
        let of_process = || {
            let row = server.rpc("memguard.workers", json!(["pid", number(&asked, "pid")]));
            failures(&rows(&row)[0])
        };
        assert_eq!((failures(&server.pool("shm")), of_process()), (0, 0));
        // Pieces from 16 MiB down to 1 KiB, each until it fails: 15 failures.
        server.rpc("mgtest.fill_shm", json!([1024]));
        assert_eq!((failures(&server.pool("shm")), of_process()), (15, 15));
        server.release_shm();
        server.rpc("memguard.reset", json!(["failures"]));
        assert_eq!(failures(&server.pool("shm")), 0);
        let books = found(SOON, "the books agree", || {
            let (live, unbooked, used) = shm_books(&server);
            (live + unbooked == used).then_some(live)
        });
        assert!(books > 0);
    });
}
