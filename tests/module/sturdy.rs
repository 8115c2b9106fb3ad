//! Ends of processes: which of them end the server (Kamailio's own rule: each that it forked itself), and that the one
//! that samples is none of those: it is started again, and nobody loses a call.
//! Forbidden here: memory that fails (short_of_memory.rs), files (too_large.rs).

use std::time::Duration;

use serde_json::{Value, json};

use super::guard::{Guarded, SOON, number, rows, word};
use super::harness::builder::{Folder, free_port};
use super::harness::server::is_running;
use super::harness::sip::Request;
use super::harness::{Server, for_each_pair, for_each_pair_at_once, http, until};

/// A start every three seconds at most, and a machine that has other things to do.
const AGAIN: Duration = Duration::from_secs(20);

fn says(server: &Server, what: &str) -> bool {
    let status = server.status();
    let mut texts = rows(&status["warnings"]).iter();
    texts.any(|w| w.as_str().is_some_and(|w| w.contains(what)))
}

fn restarts(server: &Server) -> i64 {
    number(&server.status(), "sampler_restarts")
}

/// The row of memguard's process in memguard.workers.
#[track_caller]
fn own_row(server: &Server) -> Value {
    let all = server.workers();
    let own = all
        .iter()
        .find(|row| word(row, "desc") == "memguard sampler");
    own.expect("core.psx has it, so memguard.workers has it")
        .clone()
}

#[test]
fn sturdy_sampling_process_that_is_killed_or_aborts_costs_samples_and_no_call() {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "sampler");
        let listen = free_port();
        let server = Server::registrar(pair)
            .with_mgtest()
            .param("sample_interval", 100)
            .param("dwell", 1)
            .param("listen", listen)
            .param("blackbox", folder.file("box").display())
            .param("bindings_file", folder.file("known").display())
            .param("textfile", folder.file("metrics.prom").display())
            .start();
        server.fill_shm(75);
        server.await_level("warning");
        let changes = || rows(&server.rpc("memguard.events", json!([]))).len();
        assert_eq!(changes(), 1);
        let pids = server.processes();
        let supervisor = own_row(&server);
        let client = server.udp();
        let mut sampling = server.sampling_pid();
        let mut asked = 0;
        for (round, signal) in [libc::SIGKILL, libc::SIGABRT, libc::SIGSEGV]
            .into_iter()
            .enumerate()
        {
            assert!(is_running(sampling));
            assert_ne!(i64::from(sampling), number(&supervisor, "pid"));
            // SAFETY: a process of the server that this test started.
            assert_eq!(unsafe { libc::kill(sampling, signal) }, 0);
            let is_back = || restarts(&server) > round as i64 && server.sampling_pid() != sampling;
            // Calls go on all the while.
            until(AGAIN, "another process samples", || {
                asked += 1;
                let user = Request::register(&format!("u{}", asked % 300));
                assert_eq!(client.request(&user).code, 200);
                is_back()
            });
            until(AGAIN, "it samples", || {
                number(&server.status(), "sample_age_ms") < 1000
            });
            sampling = server.sampling_pid();
            assert!(says(&server, "the sampling process died"));
            assert_eq!(word(&server.status(), "level"), "warning");
            assert_eq!(changes(), 1, "it goes on at the level that was");
            let ready = http::get(listen, "/ready", SOON).expect("the socket is the supervisor's");
            assert_eq!(ready.status, 200);
            let page = http::get(listen, "/", SOON).expect("the page");
            assert!(
                page.body.contains("the sampling process died"),
                "told on the page"
            );
            assert_eq!(restarts(&server), round as i64 + 1, "once for each end");
        }
        assert_eq!(server.processes(), pids, "Kamailio has the same processes");
        let metrics = http::get(listen, "/metrics", SOON).expect("metrics").body;
        assert!(
            metrics.contains("kamailio_memguard_sample_errors_total 3"),
            "{metrics}"
        );
        let own = own_row(&server);
        // What 5.6's qm forgets to book when a block shrinks is no error of ours.
        let forgotten = number(&own, "pkg_unbooked");
        assert_eq!(number(&own, "pkg_drift"), forgotten, "{own}");
        assert!(number(&own, "private") > 0, "{own}");
        let sum = |field: &str| -> i64 { server.workers().iter().map(|w| number(w, field)).sum() };
        until(SOON, "the books are right to the byte", || {
            let used = number(&server.rpc("core.shmmem", json!([])), "used");
            let unbooked = number(&server.pool("shm"), "unbooked");
            sum("shm_bytes_allocated") - sum("shm_bytes_freed") + unbooked == used
        });
        let log = server.log();
        for signal in [libc::SIGKILL, libc::SIGABRT, libc::SIGSEGV] {
            let said = format!("was ended by signal {signal}");
            assert_eq!(log.matches(&said).count(), 1, "{log}");
        }
        server.release_shm();
        server.await_level("normal");
        assert_eq!(changes(), 2);
        let all = server.pids();
        assert!(server.stop().success());
        until(SOON, "nothing of ours is left", || {
            !all.iter().any(|pid| is_running(*pid))
        });
    });
}

#[test]
fn sturdy_sampling_process_that_dies_all_the_time_is_started_every_few_seconds_only() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .param("sample_interval", 100)
            .start();
        let begin = std::time::Instant::now();
        while begin.elapsed() < Duration::from_secs(7) {
            for row in server.workers() {
                if let Some(pid) = row["sampling_pid"].as_i64() {
                    // SAFETY: a process of the server that this test started, or nobody any more.
                    unsafe { libc::kill(pid as i32, libc::SIGKILL) };
                }
            }
            assert_eq!(server.udp().request(&Request::options()).code, 200);
        }
        let count = restarts(&server);
        assert!((1..=4).contains(&count), "{count} in 7 s");
        until(AGAIN, "it samples in the end", || {
            number(&server.status(), "sample_age_ms") < 1000
        });
        assert!(server.stop().success());
    });
}

#[test]
fn sturdy_sampling_process_that_is_only_terminated_is_started_again_and_writes_no_end() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .param("sample_interval", 100)
            .start();
        let first = server.sampling_pid();
        // SAFETY: a process of the server that this test started.
        assert_eq!(unsafe { libc::kill(first, libc::SIGTERM) }, 0);
        until(AGAIN, "another one samples", || {
            server.sampling_pid() != first && number(&server.status(), "sample_age_ms") < 1000
        });
        assert_eq!(server.udp().request(&Request::options()).code, 200);
        assert!(server.stop().success());
    });
}

#[test]
fn sturdy_sampling_process_that_stands_still_is_ended_and_another_one_samples() {
    for_each_pair_at_once(|pair| {
        let server = Server::registrar(pair)
            .param("sample_interval", 100)
            .start();
        let first = server.sampling_pid();
        until(SOON, "it samples", || {
            number(&server.status(), "sample_age_ms") < 1000
                && number(&server.status(), "uptime") >= 1
        });
        // SAFETY: a process of the server that this test started.
        assert_eq!(unsafe { libc::kill(first, libc::SIGSTOP) }, 0);
        until(3 * AGAIN, "another one samples", || {
            assert_eq!(server.udp().request(&Request::options()).code, 200);
            server.sampling_pid() != first && number(&server.status(), "sample_age_ms") < 1000
        });
        let log = server.log();
        assert!(
            log.contains(&format!("{first} has taken no sample for 20 seconds")),
            "{log}"
        );
        assert_eq!(restarts(&server), 1);
        assert!(server.stop().success());
    });
}

/// A limit of a process's file descriptors.
fn limit_files(pid: i32, count: u64) {
    let limit = libc::rlimit {
        rlim_cur: count,
        rlim_max: 4096,
    };
    // SAFETY: a process of the server that this test started, a limit on the stack.
    let done = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut()) };
    assert_eq!(done, 0, "{pid}");
}

/// Ticks of processor time that a process has used.
fn ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let rest = stat.rsplit_once(") ").expect("a line of stat").1;
    let field = |n: usize| rest.split(' ').nth(n).and_then(|f| f.parse::<u64>().ok());
    field(11)
        .zip(field(12))
        .map_or(0, |(user, system)| user + system)
}

#[test]
fn sturdy_sampling_process_without_a_file_descriptor_waits_says_it_and_goes_on() {
    for_each_pair(|pair| {
        let listen = free_port();
        let server = Server::registrar(pair)
            .param("sample_interval", 100)
            .param("listen", listen)
            .start();
        let pid = server.sampling_pid();
        until(SOON, "it samples", || {
            number(&server.status(), "uptime") >= 2
        });
        let errors = || number(&server.status(), "sample_age_ms");
        let before = (server.log().len(), ticks(pid), std::time::Instant::now());
        limit_files(pid, 3);
        // Its socket calls all the while, and every file that it reads is refused.
        let caller = std::thread::spawn(move || http::get(listen, "/ready", SOON));
        until(SOON, "what cannot be read is said", || {
            server.status()["warnings"] != json!([])
        });
        until(SOON, "three seconds pass", || {
            assert_eq!(server.udp().request(&Request::options()).code, 200);
            before.2.elapsed() > Duration::from_secs(3)
        });
        assert!(errors() < 2_000, "it samples what it can");
        let used = (ticks(pid) - before.1) as f64 / 100.0;
        let passed = before.2.elapsed().as_secs_f64();
        assert!(used < 0.5 * passed, "{used} s of {passed} s: it spins");
        assert!(server.log().len() < before.0 + 4_000, "{}", server.log());
        limit_files(pid, 1024);
        let answer = caller
            .join()
            .expect("no panic")
            .expect("answered in the end");
        assert_eq!(answer.status, 200);
        until(SOON, "nothing is to be said any more", || {
            server.status()["warnings"] == json!([])
        });
        assert_eq!(restarts(&server), 0);
        assert!(server.stop().success());
    });
}

/// Whether the server ends with one of its processes, and nothing remains.
#[track_caller]
fn ends_with(mut server: Server, victim: &str) {
    let all = server.pids();
    let processes = server.processes();
    let found = processes.iter().find(|(_, _, name)| name.contains(victim));
    let (_, pid, _) = found.unwrap_or_else(|| panic!("no {victim} in {processes:?}"));
    server.kill(*pid);
    until(AGAIN, &format!("the server ends with its {victim}"), || {
        !server.is_alive()
    });
    until(AGAIN, "nothing of it is left", || {
        !all.iter().any(|pid| is_running(*pid))
    });
}

#[test]
fn sturdy_death_of_a_process_that_kamailio_forked_ends_the_server_with_and_without_memguard() {
    for_each_pair(|pair| {
        for victim in ["udp receiver", "timer"] {
            ends_with(Server::registrar(pair).without_memguard().start(), victim);
            ends_with(Server::registrar(pair).start(), victim);
        }
        // memguard's own process in core.psx is one of those, and takes the one that samples along.
        ends_with(Server::registrar(pair).start(), "memguard sampler");
    });
}

#[test]
fn sturdy_death_of_main_leaves_no_process_of_memguard() {
    for_each_pair(|pair| {
        let mut server = Server::registrar(pair).start();
        let own = [
            number(&own_row(&server), "pid") as i32,
            server.sampling_pid(),
        ];
        server.kill(server.pid());
        until(AGAIN, "main is gone", || !server.is_alive());
        until(AGAIN, "memguard's processes are gone", || {
            !own.iter().any(|pid| is_running(*pid))
        });
    });
}
