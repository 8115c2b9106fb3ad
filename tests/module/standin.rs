//! memguard in a stand-in for Kamailio (standin/host.c), where any allocation may fail: of pkg and shm, of a mapping, of
//! the heap, of a process; at the start, in a message of each class, in an RPC command. And the same under valgrind.
//! Forbidden here: conclusions about Kamailio itself; faults.rs has them.

use std::fs;

use serde_json::Value;

use super::guard::{SOON, number, rows, word};
use super::harness::builder::{Folder, free_port};
use super::harness::sip::Request;
use super::harness::standin::Standin;
use super::harness::wait::holds_within;
use super::harness::{for_each_pair, for_each_pair_at_once, http};

/// More allocations than anything here makes.
const ENOUGH: i64 = 3000;
/// More allocations of libc than a start makes that reads what one earlier run has left: each record takes some.
const EVERY_RECORD: i64 = 10 * ENOUGH;
const HOW: [&str; 2] = ["once", "forever"];

/// What the configuration says: all that makes memguard open or map something.
fn params(folder: &Folder) -> Vec<String> {
    let path = |name: &str| folder.file(name).display().to_string();
    vec![
        "param sample_interval 100".into(),
        "param priority_domain prio.test".into(),
        "param ballast 16384".into(),
        format!("param blackbox {}", path("blackbox")),
        format!("param bindings_file {}", path("bindings")),
        format!("param textfile {}", path("metrics.prom")),
        format!("param profile_dir {}", folder.path().display()),
    ]
}

/// As Kamailio starts a module; false as soon as a step fails.
fn started(host: &mut Standin, folder: &Folder) -> bool {
    host.step("register")
        && params(folder).iter().all(|param| host.step(param))
        && host.step("init")
        && host.step("children")
}

/// How often the fault struck; it strikes no more.
#[track_caller]
fn struck(host: &mut Standin) -> i64 {
    number(&host.ask("faults"), "failed")
}

/// Each of the first, then fewer and fewer: of libc's memory there are thousands.
const FIRST: Next = |n| if n < 40 { n + 1 } else { n + n / 6 };

/// Which n comes after one: each, or each power of two where time is short.
type Next = fn(i64) -> i64;
const EACH: Next = |n| n + 1;
const SOME: Next = |n| 2 * n;

/// Runs `one` with the n-th allocation of `kind` failing, for n = 1 and those that come next until none is left that
/// could fail; the last n that failed, about.
#[track_caller]
fn each_fault(host: &mut Standin, kind: &str, next: Next, one: impl Fn(&mut Standin)) -> i64 {
    let counts = HOW.map(|how| {
        let mut n = 1;
        loop {
            host.ask(&format!("fail {kind} {n} {how}"));
            one(host);
            if struck(host) == 0 {
                return n - 1;
            }
            // Of more than some hundred on the heap (evidence is many) one in twenty is looked at.
            let (bound, many) = match kind {
                "heap" => (EVERY_RECORD, 300),
                _ => (ENOUGH, ENOUGH),
            };
            n = next(n).max(if n > many { n + n / 20 } else { n });
            assert!(n < bound, "{kind} {how}: no end");
        }
    });
    counts[0]
}

fn pool(host: &mut Standin, name: &str) -> Option<Value> {
    let pools = host.rpc("pools");
    rows(&pools).iter().find(|row| row["name"] == name).cloned()
}

/// memguard's books of the process that answers, and of shm, against a walk over all blocks. A pool that is not
/// counted is one that memguard warns of.
#[track_caller]
fn assert_books(host: &mut Standin) {
    let truth = host.ask("books");
    let status = host.rpc("status").remove_first();
    let warns_of = |pool: &str| {
        let all = rows(&status["warnings"]).iter();
        all.filter_map(Value::as_str)
            .any(|warning| warning.contains(&format!("{pool} is not counted")))
    };
    match pool(host, "shm") {
        Some(shm) => {
            assert_eq!(number(&shm, "live"), number(&truth, "shm"), "{shm}");
            assert_eq!(number(&shm, "drift"), 0, "{shm}");
        }
        None => assert!(warns_of("shm"), "shm is not counted: {status}"),
    }
    let process = number(&truth, "process");
    let workers = host.rpc(&format!("workers index {process}"));
    let own = &rows(&workers)[0];
    match number(own, "pkg_live") {
        0 => assert!(warns_of("pkg"), "pkg is not counted: {status}"),
        live => {
            assert_eq!(live, number(&truth, "pkg"), "{own}");
            assert_eq!(number(own, "pkg_drift"), 0, "{own}");
        }
    }
}

/// Blocks that nobody but memguard can have left: beyond what Kamailio keeps for it, and the records of usrloc.
#[track_caller]
fn own_blocks(host: &mut Standin) -> [i64; 2] {
    let books = host.ask("books");
    let left = |pool: &str| {
        number(&books, &format!("{pool}_blocks")) - number(&books, &format!("{pool}_kept"))
    };
    [left("pkg"), left("shm") - number(&books, "records")]
}

trait RemoveFirst {
    fn remove_first(self) -> Value;
}

impl RemoveFirst for Value {
    #[track_caller]
    fn remove_first(mut self) -> Value {
        self.as_array_mut().expect("a list").remove(0)
    }
}

/// A module that works: it counts, it lets in, it refuses before parsing and before the script.
#[track_caller]
fn assert_works(host: &mut Standin) {
    assert!(host.step("worker"), "{}", host.log());
    let phone = Request::register("phone");
    let fate = host.datagram(&phone);
    assert_eq!(fate.reply.map(|r| r.code), Some(200));
    host.rpc("shed 300");
    for transport in [Standin::datagram, Standin::message] {
        let fate = transport(host, &Request::register("stranger"));
        let reply = fate.reply.expect("an answer");
        assert_eq!(reply.code, 503, "{}: {}", fate.came_to, host.log());
        assert!(reply.retry_after().is_some(), "{reply:?}");
        let fate = transport(host, &phone.next());
        assert_eq!(fate.reply.map(|r| r.code), Some(200), "a refresh");
    }
    assert_books(host);
    let all = host.rpc("registrations").remove_first();
    assert_eq!(number(&all, "received"), 5, "{all}");
    assert_eq!(number(&all, "accepted"), 3, "{all}");
    assert_eq!(number(&all, "new_rejected"), 2, "{all}");
    assert!(host.step("leave"));
    assert_books(host);
    assert_eq!(own_blocks(host), [0, 0], "in the main process");
}

#[test]
fn standin_start_ends_well_or_with_a_sentence_whatever_cannot_be_allocated() {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "start");
        let mut earlier = Standin::new(pair, &folder);
        assert!(started(&mut earlier, &folder) && earlier.step("destroy"));
        assert!(earlier.end().success());
        fs::copy(folder.file("blackbox"), folder.file("blackbox.earlier")).expect("it is ours");
        let most = [
            ("pkg", 30, EACH),
            ("shm", 2, EACH),
            ("map", 8, EACH),
            ("fork", 1, EACH),
            ("heap", 20, |n| if n < 15 { n + 1 } else { 2 * n }),
        ];
        for (kind, at_least, next) in most {
            for how in HOW {
                let mut n = 0;
                let (mut worked, mut refused) = (0, 0);
                loop {
                    n = next(n);
                    let what = format!("{kind} {n} {how}");
                    println!("{what}");
                    // What an earlier run has left in the files is read at the start: the same for each, so that each
                    // makes as many allocations.
                    for name in ["blackbox", "bindings"] {
                        let _ = fs::remove_file(folder.file(name));
                    }
                    if kind == "heap" {
                        fs::copy(folder.file("blackbox.earlier"), folder.file("blackbox"))
                            .expect("the run before has left it");
                    }
                    let mut host = Standin::new(pair, &folder);
                    host.ask(&format!("fail {what}"));
                    let is_started = started(&mut host, &folder);
                    let fault = struck(&mut host) > 0;
                    if is_started {
                        assert_works(&mut host);
                        assert!(host.step("destroy"), "the tables are as they were");
                        worked += i64::from(fault);
                    } else {
                        let [pkg, shm] = own_blocks(&mut host);
                        assert_eq!((pkg, shm), (0, 0), "nothing is left behind");
                        refused += 1;
                    }
                    let log = host.log();
                    assert!(host.end().success(), "{what}: {log}");
                    let errors = log.lines().filter(|line| line.contains(" ERROR: memguard"));
                    assert_eq!(
                        errors.count(),
                        usize::from(!is_started),
                        "{what}: one sentence if it does not start: {log}"
                    );
                    assert!(!log.contains("internal error"), "{what}: {log}");
                    if !fault {
                        assert!(is_started, "{what}: {log}");
                        break;
                    }
                    let bound = if kind == "heap" { EVERY_RECORD } else { ENOUGH };
                    assert!(n < bound, "{what}: no end");
                }
                println!("{kind} {how}: {worked} starts worked, {refused} did not");
                assert!(worked + refused >= at_least, "{kind}: {n} only");
                if kind == "heap" {
                    assert_eq!(refused, 0, "the reserve is enough for a start");
                }
            }
        }
    });
}

#[test]
fn standin_of_another_layout_is_served_and_left_alone_with_a_sentence_for_each_pool() {
    for_each_pair(|pair| {
        for elsewhere in ["size", "used"] {
            let folder = Folder::of(pair, "misfit");
            let mut host = Standin::of_another_build(pair, &folder, elsewhere);
            assert!(started(&mut host, &folder), "{elsewhere}: {}", host.log());
            assert_eq!(host.ask("hooked"), 0, "{elsewhere}: nothing is hooked");
            let log = host.log();
            for pool in ["pkg", "shm"] {
                let sentence = format!("{pool} is not counted");
                assert_eq!(log.matches(&sentence).count(), 1, "{elsewhere}: {log}");
            }
            assert!(log.contains("laid out differently"), "{log}");
            assert!(host.step("worker"), "{elsewhere}: {}", host.log());
            let fate = host.datagram(&Request::register("phone"));
            assert_eq!(fate.reply.map(|r| r.code), Some(200), "{elsewhere}");
            host.rpc("status");
            assert!(host.step("leave"));
            assert!(host.step("destroy"), "{elsewhere}: {}", host.log());
            assert!(host.end().success(), "{elsewhere}");
        }
    });
}

/// A stand-in that is started, with its worker listening.
#[track_caller]
fn working(mut host: Standin, folder: &Folder) -> Standin {
    assert!(started(&mut host, folder), "{}", host.log());
    assert!(host.step("worker"));
    host
}

fn of_domain(user: &str, domain: &str) -> Request {
    Request {
        aor: format!("sip:{user}@{domain}"),
        ..Request::register(user)
    }
}

/// Makes a REGISTER be of a class, whatever has to happen before.
fn of_class(host: &mut Standin, class: &str, user: &str) -> Request {
    let request = Request::register(user);
    match class {
        "unregister" => {
            host.datagram(&request);
            request.next().expires(0)
        }
        "query" => request.no_contact(),
        "followup" => {
            host.datagram(&request.clone().header("X-Challenge: 1"));
            request
                .next()
                .header("Authorization: Digest username=\"x\", realm=\"x\", nonce=\"x\", uri=\"sip:x\", response=\"x\"")
        }
        "refresh" => {
            host.datagram(&request);
            request.next()
        }
        "priority" => of_domain(user, "prio.test"),
        "returning" => {
            host.datagram(&request);
            request.next().contact("<sip:elsewhere@192.0.2.9>")
        }
        _ => request,
    }
}

const CLASSES: [&str; 7] = super::guard::CLASSES;

/// Every allocation of a REGISTER of each class fails: what was answered is what is counted.
#[track_caller]
fn sweep_registers(host: &mut Standin) {
    let before = own_blocks(host);
    let count =
        |host: &mut Standin, what: &str| number(&host.rpc("registrations").remove_first(), what);
    let mut user = 0;
    for class in CLASSES {
        for kind in ["pkg", "shm", "heap"] {
            let at_least = match (kind, class) {
                ("heap", _) => 0,
                ("pkg", _) => 3,
                (_, "unregister" | "query" | "refresh" | "returning") => 0,
                _ => 1,
            };
            let faults = HOW.map(|how| {
                for n in 1.. {
                    user += 1;
                    let request = of_class(host, class, &format!("{class}{user}"));
                    let counters = ["received", "accepted", "failed", "fail_open"];
                    let mut old = [0; 4];
                    for (old, name) in old.iter_mut().zip(counters) {
                        *old = if name == "fail_open" {
                            0
                        } else {
                            count(host, name)
                        };
                    }
                    let of_this = count(host, &format!("{class}_received"));
                    host.ask(&format!("fail {kind} {n} {how}"));
                    let fate = host.datagram(&request);
                    let fault = struck(host);
                    let code = fate.reply.map_or(0, |reply| reply.code);
                    let came = i64::from(fate.came_to != "dropped");
                    let what = format!("{kind} {n} {how}: {request:?} {code}");
                    assert_eq!(count(host, "received") - old[0], came, "{what}");
                    assert_eq!(
                        count(host, &format!("{class}_received")) - of_this,
                        came,
                        "{what}"
                    );
                    assert_eq!(
                        count(host, "accepted") - old[1],
                        i64::from(code == 200),
                        "{what}"
                    );
                    assert_eq!(
                        count(host, "failed") - old[2],
                        i64::from(code == 500),
                        "{what}"
                    );
                    if fault == 0 {
                        assert_eq!(code, 200, "{what}");
                        return n - 1;
                    }
                    assert!(n < ENOUGH, "{what}: no end");
                }
                unreachable!()
            });
            assert!(faults[0] >= at_least, "{class} {kind}: {faults:?} only");
            assert_books(host);
        }
    }
    assert_eq!(own_blocks(host), before, "nothing was left behind");
    assert_failures(host);
}

/// Each fault that struck is a failure that memguard has counted, and nothing else is.
#[track_caller]
fn assert_failures(host: &mut Standin) {
    let injected = host.ask("faults");
    for name in ["pkg", "shm"] {
        let row = pool(host, name).expect("it is counted");
        assert_eq!(number(&row, "failures"), number(&injected, name), "{row}");
    }
    assert_eq!(number(&host.rpc("status").remove_first(), "fail_open"), 0);
    assert!(!host.log().contains("internal error"), "{}", host.log());
}

/// While every allocation fails, of whichever kind, who must be refused is refused; and nothing was even tried.
#[track_caller]
fn sweep_refusals(host: &mut Standin) {
    let mut requests = Vec::new();
    for class in ["new", "returning"] {
        for i in 0..5 {
            requests.push(of_class(host, class, &format!("refused{class}{i}")));
        }
    }
    host.rpc("shed 300");
    for kind in ["pkg", "shm", "heap", "map"] {
        for request in &requests {
            host.ask(&format!("fail {kind} 1 forever"));
            let fate = host.datagram(request);
            assert_eq!(fate.came_to, "datagram", "{kind}: {request:?}");
            let reply = fate.reply.expect("an answer");
            assert_eq!(reply.code, 503);
            assert!(
                reply.retry_after().is_some() && reply.answers(request),
                "{reply:?}"
            );
            let faults = host.ask("faults");
            assert_eq!(
                number(&faults, "seen"),
                0,
                "a refusal allocates nothing: {faults}"
            );
        }
    }
    // Before the script the message has taken what it needs; memguard takes nothing of its own.
    for kind in ["heap", "map", "shm"] {
        for request in &requests {
            host.ask(&format!("fail {kind} 1 forever"));
            let fate = host.message(request);
            assert_eq!(fate.came_to, "gate", "{kind}: {request:?}");
            let faults = host.ask("faults");
            assert_eq!(number(&faults, "seen"), 0, "{kind}: {faults}");
        }
    }
    host.rpc("resume");
    assert_books(host);
}

/// What an operator or a monitor asks, and what changes nothing that the other tests need.
const COMMANDS: [&str; 28] = [
    "status",
    "pools",
    "workers",
    "registrations",
    "sites",
    "modules",
    "paths",
    "failures",
    "mark",
    "diff",
    "profile shm",
    "evidence",
    "forecast",
    "history shm_used",
    "check",
    "events",
    "refusals",
    "config",
    "metrics",
    "json",
    "mode observe",
    "mode enforce",
    "priority add domain other.test",
    "shed 0",
    "drain 0",
    "comeback",
    "restart",
    "reset peaks",
];

/// The answer is built in pkg: each piece of it fails. Whatever remains of it, nothing is lost and the next one is whole.
#[track_caller]
fn sweep_commands(host: &mut Standin, next: Next) {
    let before = own_blocks(host);
    for command in COMMANDS {
        let line = format!("rpc memguard.{command}");
        let whole = host.ask(&line);
        for kind in ["pkg", "shm"] {
            let pieces = each_fault(host, kind, next, |host| {
                host.ask(&line);
            });
            let is_answer = whole["code"] == 0 && whole["answer"] != serde_json::json!([]);
            assert_eq!(
                pieces > 0,
                kind == "pkg" && is_answer,
                "{command} {kind}: {pieces}"
            );
        }
        // It is made in libc's memory, or where there is none in the reserve.
        each_fault(host, "heap", FIRST, |host| {
            let answer = host.ask(&line);
            assert_eq!(answer["code"], whole["code"], "{command}: {answer}");
        });
        let again = host.ask(&line);
        assert_eq!(again["code"], whole["code"], "{command}: {again}");
    }
    assert_books(host);
    assert_eq!(own_blocks(host), before, "nothing was left behind");
    assert_failures(host);
}

#[test]
fn standin_registers_of_every_class_are_counted_right_whatever_cannot_be_allocated() {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "registers");
        let mut host = working(Standin::new(pair, &folder), &folder);
        sweep_registers(&mut host);
    });
}

#[test]
fn standin_refusals_allocate_nothing_of_any_kind() {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "refusals");
        let mut host = working(Standin::new(pair, &folder), &folder);
        sweep_refusals(&mut host);
    });
}

#[test]
fn standin_commands_lose_nothing_whatever_cannot_be_allocated() {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "commands");
        let mut host = working(Standin::new(pair, &folder), &folder);
        host.datagram(&Request::register("somebody"));
        sweep_commands(&mut host, EACH);
    });
}

#[test]
fn standin_commands_of_many_processes_are_answered_or_refused_without_any_memory_of_libc() {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "many");
        let mut host = working(Standin::new(pair, &folder), &folder);
        for (more, must_answer) in [(60, true), (211, false), (245, false)] {
            let count = host.ask(&format!("lines {more}"));
            let (mut answered, mut said) = (0, 0);
            for command in COMMANDS {
                let line = format!("rpc memguard.{command}");
                let usual = host.ask(&line)["code"].clone();
                host.ask("fail heap 1 forever");
                let answer = host.ask(&line);
                let refused = struck(&mut host);
                match &answer["code"] {
                    code if *code == usual => answered += 1,
                    _ => {
                        assert_eq!(answer["code"], 500, "{command}: {answer}");
                        let sentence = word(&answer, "sentence");
                        assert!(
                            sentence.contains("not enough memory"),
                            "{command}: {answer}"
                        );
                        said += 1;
                    }
                }
                let status = host.rpc("status").remove_first();
                let peak = number(&status, "memory_reserve_peak");
                println!("{count} processes, {command}: {refused} times refused, peak {peak}");
            }
            println!("{count} processes: {answered} answered, {said} refused");
            assert!(
                said == 0 || !must_answer,
                "{count} processes: {said} refused"
            );
            assert!(answered > 15);
        }
    });
}

#[test]
fn standin_sampling_process_goes_on_whatever_libc_refuses() {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "sampling");
        let mut host = Standin::new(pair, &folder);
        assert!(host.step("register"));
        let listen = free_port();
        assert!(params(&folder).iter().all(|param| host.step(param)));
        assert!(host.step(&format!("param listen {listen}")));
        assert!(host.step("init") && host.step("children") && host.step("worker"));
        let sampling = |host: &mut Standin| {
            let all = host.rpc("workers");
            let pid = rows(&all)
                .iter()
                .find_map(|row| row["sampling_pid"].as_i64());
            pid.unwrap_or(0)
        };
        assert!(holds_within(SOON, || sampling(&mut host) > 0), "it samples");
        let pid = sampling(&mut host);
        let status = |host: &mut Standin| host.rpc("status").remove_first();
        let mut n = 1;
        while n < ENOUGH {
            host.ask(&format!("fail heap {n} once {pid}"));
            for path in ["/status.json", "/metrics", "/", "/ready"] {
                let answer = http::get(listen, path, SOON).expect("it is served");
                assert_eq!(answer.status, 200, "{n} {path}: {}", answer.body);
            }
            struck(&mut host);
            n = FIRST(n);
        }
        host.ask(&format!("fail heap 1 forever {pid}"));
        let begin = number(&status(&mut host), "uptime");
        assert!(holds_within(4 * SOON, || {
            for path in ["/status.json", "/metrics", "/", "/ready"] {
                let answer = http::get(listen, path, SOON).expect("it is served");
                assert_eq!(answer.status, 200, "{path}: {}", answer.body);
            }
            number(&status(&mut host), "uptime") >= begin + 8
        }));
        let now = status(&mut host);
        assert!(number(&now, "sample_age_ms") < 2000, "{now}");
        assert!(number(&now, "memory_refused") > 100, "{now}");
        assert_eq!(number(&now, "memory_skipped"), 0, "{now}");
        assert_eq!(number(&now, "sampler_restarts"), 0, "{now}");
        assert!(
            now["warnings"].to_string().contains("libc refused memory"),
            "{now}"
        );
        assert!(struck(&mut host) > 100);
        assert_eq!(sampling(&mut host), pid, "the same process");
        assert!(host.step("leave") && host.step("destroy"));
        assert!(host.end().success());
    });
}

#[test]
fn standin_under_valgrind_shows_no_error_of_memguard() {
    for_each_pair_at_once(|pair| {
        let folder = Folder::of(pair, "valgrind");
        let Some(mut host) = Standin::under_valgrind(pair, &folder) else {
            return;
        };
        assert!(host.step("register"));
        for param in params(&folder) {
            assert!(host.step(&param));
        }
        let listen = free_port();
        assert!(host.step(&format!("param listen {listen}")));
        assert!(host.step("init") && host.step("children") && host.step("worker"));
        sweep_registers(&mut host);
        sweep_refusals(&mut host);
        sweep_commands(&mut host, SOME);
        assert!(host.step("leave"));
        let page = http::get(listen, "/metrics", 4 * SOON).expect("it is served");
        assert_eq!(page.status, 200);
        assert!(host.step("destroy"));
        assert!(host.end().success());
        let reports = fs::read_dir(folder.path()).expect("it is ours").flatten();
        let reports: Vec<String> = reports
            .filter(|file| file.file_name().to_string_lossy().starts_with("valgrind."))
            .map(|file| fs::read_to_string(file.path()).expect("valgrind wrote it"))
            .collect();
        assert_eq!(
            reports.len(),
            4,
            "main, worker, sampling process and its supervisor"
        );
        for report in &reports {
            assert!(report.contains("ERROR SUMMARY: 0 errors"), "{report}");
        }
    });
}

/// The largest block of shm that a writer takes (host.c churn()), as the pool rounds it; and of pkg, where a message is.
const LARGEST: i64 = 2112;
const LARGEST_PKG: i64 = 4096;
const WRITERS: i64 = 3;
const KILLS: i64 = 150;
/// Kills between two looks at every single process.
const LOOK_EVERY: i64 = 10;

/// Moments of one reading of the pools at which another process takes a block.
const MOMENTS: i64 = 12;

#[test]
fn standin_a_drift_is_right_whenever_another_process_allocates_in_the_middle_of_the_sum() {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "moments");
        let mut host = Standin::new(pair, &folder);
        assert!(started(&mut host, &folder), "{}", host.log());
        assert!(host.ask("partner").as_i64().is_some_and(|pid| pid > 0));
        host.ask("lines 4");
        host.ask("step -1");
        assert_eq!(
            number(&pool(&mut host, "shm").expect("counted"), "drift"),
            0
        );
        let all = host.ask("steps").as_i64().expect("a number");
        assert!(all > 10_000, "{all} instructions");
        println!("   {all} instructions");
        for moment in 0..MOMENTS {
            let before = number(&host.ask("books"), "shm_blocks");
            host.ask(&format!("step {}", 1 + moment * all / MOMENTS));
            let shm = pool(&mut host, "shm").expect("it is counted");
            // It waits until nobody is in the middle of anything, so the drift is shown, and it is none.
            assert_eq!(number(&shm, "drift"), 0, "moment {moment}: {shm}");
            let taken = number(&host.ask("books"), "shm_blocks") - before;
            assert_eq!(taken, 1, "moment {moment}: the other one was there");
        }
        assert!(host.step("destroy"));
    });
}

#[test]
fn standin_killed_writers_leave_readers_sums_that_are_bounded() {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "killed");
        let mut host = Standin::new(pair, &folder);
        assert!(started(&mut host, &folder), "{}", host.log());
        host.rpc("shed 300");
        let mut pids = Vec::new();
        let mut seen = (0, 0, 0);
        for kill in 0..KILLS + WRITERS {
            if kill < KILLS {
                let pid = host.ask(&format!("churn {kill}")).as_i64().expect("a pid");
                assert!(pid > 0, "{}", host.log());
                pids.push(pid);
            }
            if kill < WRITERS {
                continue;
            }
            let victim = pids.remove(kill as usize * 7 % pids.len());
            assert!(
                host.step(&format!("kill {victim}")),
                "it was alive: {}",
                host.log()
            );
            if kill % LOOK_EVERY != 0 {
                continue;
            }
            // At work: right or absent. A process that was killed had one operation in hand at most, and so has each that
            // lives; where the living never rest for long enough, no drift is shown.
            let dead = kill + 1 - WRITERS;
            let shm = pool(&mut host, "shm").expect("it is counted");
            let shown = shm["drift"].as_i64().unwrap_or(0);
            assert!(shown.abs() <= (dead + WRITERS) * LARGEST, "{kill}: {shm}");
            // At rest it is shown, and all of it is the dead ones'.
            host.ask(&format!("rest {}", pids.len()));
            let shm = pool(&mut host, "shm").expect("it is counted");
            assert!(
                number(&shm, "drift").abs() <= dead * LARGEST,
                "{kill}: {shm}"
            );
            host.ask("rest 0");
            // One by one: all of them would not fit into one answer.
            let count = number(&host.rpc("status").remove_first(), "workers");
            let workers: Vec<Value> = (0..count)
                .map(|index| host.rpc(&format!("workers index {index}")).remove_first())
                .collect();
            let sum = |what: &str| -> i64 { workers.iter().map(|w| number(w, what)).sum() };
            let now = (
                sum("shm_allocs"),
                sum("shm_bytes_allocated"),
                sum("registers"),
            );
            assert!(
                now.0 >= seen.0 && now.1 >= seen.1 && now.2 >= seen.2,
                "sums never fall: {seen:?} {now:?}"
            );
            seen = now;
            let is_dead = |worker: &&Value| !pids.contains(&number(worker, "pid"));
            for worker in workers.iter().filter(is_dead) {
                assert!(number(worker, "pkg_drift").abs() <= LARGEST_PKG, "{worker}");
                let (allocs, frees) = (number(worker, "pkg_allocs"), number(worker, "pkg_frees"));
                assert!((0..=allocs).contains(&frees), "{worker}");
            }
        }
        let truth = number(&host.ask("books"), "shm");
        let live = number(&pool(&mut host, "shm").expect("it is counted"), "live");
        println!("{seen:?}, {live} counted, {truth} there");
        assert!((live - truth).abs() <= KILLS * LARGEST, "{live} {truth}");
        assert!(
            seen.0 > 100 * KILLS && seen.2 > KILLS,
            "they were at work: {seen:?}"
        );
        let all = host.rpc("registrations").remove_first();
        let sum = |what: &str| -> i64 {
            CLASSES
                .iter()
                .map(|class| number(&all, &format!("{class}_{what}")))
                .sum()
        };
        let open = sum("received") - sum("admitted") - sum("rejected");
        assert!(open.abs() <= KILLS, "one message each at most: {all}");
        assert_eq!(word(&host.rpc("status").remove_first(), "mode"), "enforce");
        assert!(host.step("destroy"));
    });
}
