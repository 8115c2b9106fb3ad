//! What a SIP path asks of libc and the kernel with memguard: what it asks without, in level normal. REGISTERs of every
//! class, challenged, granted here and relayed; OPTIONS; calls. Forbidden here: times (benches/table holds those).

use std::fs;
use std::path::Path;
use std::process::Command;

use super::guard::{Guarded, SOON};
use super::harness::builder::{Builder, Folder};
use super::harness::calls::{self, Calls};
use super::harness::sip::{Request, Udp};
use super::harness::traced::{self, Counts};
use super::harness::{Pair, Server, Upstream, for_each_pair, until};

/// A registrar that challenges, relays some REGISTERs to another one, with tm (`far…`) and without (`farther…`), and relays
/// calls. `read`: what the script reads of memguard.
fn server(pair: &Pair, far: &Upstream, read: &str) -> Builder {
    calls::proxy(pair).shm_mb(128).config(|c| {
        for module in ["usrloc", "registrar", "auth"] {
            c.module(module);
        }
        let calls = c.script.take().unwrap_or_default();
        c.script = Some(format!(
            r#"
    if (is_method("OPTIONS")) {{ {read} sl_send_reply("200", "OK"); exit; }}
    if (is_method("REGISTER")) {{
        if ($tU =~ "^far") {{
            $du = "sip:{far}";
            if ($tU =~ "^farther") {{ forward(); }} else {{ t_relay(); }}
            exit;
        }}
        if ($hdr(Authorization) == $null) {{ www_challenge("example.test", "0"); exit; }}
        if (!save("location")) {{ sl_reply_error(); }}
        exit;
    }}
    {calls}"#,
            far = far.address()
        ));
    })
}

/// Grants everything.
fn far() -> Upstream {
    Upstream::start(|request| {
        let contact = format!("Contact: {};expires=600", request.header("Contact"));
        vec![request.reply(200, &[contact])]
    })
}

/// An answer to a challenge, right or not: the script looks only whether it is there.
const AUTHORIZATION: &str = "Authorization: Digest username=\"a\", realm=\"example.test\", nonce=\"n\", \
    uri=\"sip:example.test\", response=\"00000000000000000000000000000000\"";

/// One kind of requests: what it is called, how it is answered, and the requests.
type Kind = (&'static str, u16, Vec<Request>);

/// REGISTERs of every class but priority, in the order in which phones send them, and OPTIONS.
fn kinds(phones: usize) -> Vec<Kind> {
    let of = |name: &'static str, change: fn(Request) -> Request| -> Vec<Request> {
        let phone = |i| change(Request::register(&format!("{name}{i}")));
        (0..phones).map(phone).collect()
    };
    let new = of("q", |r| r);
    let answered = of("q", |r| r).into_iter().zip(&new);
    let answered: Vec<_> = answered
        .map(|(_, new)| new.next().header(AUTHORIZATION))
        .collect();
    let then = |change: fn(Request) -> Request| -> Vec<Request> {
        answered.iter().map(|r| change(r.next())).collect()
    };
    let refreshes = then(|r| r);
    let queries = then(|r| r.next().no_contact());
    let gone = then(|r| r.next().next().expires(0));
    let back = then(|r| r.next().next().next());
    let all_gone = then(|r| r.next().next().next().next().contact("*").expires(0));
    let far = of("far", |r| r);
    let far_again = far.iter().map(Request::next).collect();
    vec![
        ("new, challenged", 401, new),
        ("new, with credentials", 200, answered),
        ("refreshes", 200, refreshes),
        ("queries", 200, queries),
        ("unregistering", 200, gone),
        ("returning", 200, back),
        ("unregistering all", 200, all_gone),
        ("relayed by tm", 200, far),
        ("refreshes relayed by tm", 200, far_again),
        ("relayed without tm", 200, of("farther", |r| r)),
        (
            "OPTIONS",
            200,
            (0..phones).map(|_| Request::options()).collect(),
        ),
    ]
}

/// Sends them all and holds them to their answer; how many came more than once.
fn send(client: &Udp, window: usize, (what, code, requests): Kind) -> usize {
    let count = requests.len();
    let got = client.flood(requests.into_iter(), window, |_, _, _| ());
    assert_eq!(got.of(code), count, "{what}: {got:?}");
    got.resent
}

/// What a process has asked for so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Asked {
    /// memguard, of libc's heap.
    heap: u64,
    /// memguard, of the kernel.
    system: u64,
    /// Anybody, of libc's heap.
    any_heap: u64,
}

/// A library that counts what memguard.so asks of libc (leaky/calls.c), and where it counts.
struct Counter {
    folder: Folder,
}

impl Counter {
    /// Processes that the library has places for, and kinds of calls.
    const PROCESSES: usize = 32768;
    const KINDS: usize = 3;

    fn of(pair: &Pair) -> Counter {
        let folder = Folder::of(pair, "calls");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/module/leaky/calls.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-fno-builtin", "-w", "-o"])
            .arg(folder.file("calls.so"))
            .arg(source)
            .arg("-ldl")
            .status();
        assert!(
            built.is_ok_and(|status| status.success()),
            "cc builds calls.so"
        );
        let bytes = vec![0; Counter::PROCESSES * Counter::KINDS * 8];
        fs::write(folder.file("counts"), bytes).expect("the folder is writable");
        Counter { folder }
    }

    fn with(&self, builder: Builder) -> Builder {
        let path = |name: &str| self.folder.file(name).display().to_string();
        builder
            .environment("LD_PRELOAD", &path("calls.so"))
            .environment("MEMGUARD_CALLS", &path("counts"))
    }

    fn of_process(&self, pid: i32) -> Asked {
        let bytes = fs::read(self.folder.file("counts")).expect("the file is there");
        let first = pid as usize % Counter::PROCESSES * Counter::KINDS * 8;
        let [heap, system, any_heap] = std::array::from_fn(|kind| {
            let at = first + kind * 8;
            u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
        });
        Asked {
            heap,
            system,
            any_heap,
        }
    }

    fn of_all(&self, pids: &[i32]) -> Vec<Asked> {
        pids.iter().map(|pid| self.of_process(*pid)).collect()
    }
}

/// Processes of a server that core.psx calls so.
fn named(server: &Server, name: &str) -> Vec<i32> {
    let all = server.processes().into_iter();
    let named = all.filter(|(_, _, what)| what.contains(name));
    named.map(|(_, pid, _)| pid).collect()
}

#[test]
fn asks_libc_for_nothing_and_the_kernel_for_nothing_on_any_sip_path() {
    const PHONES: usize = 600;
    for_each_pair(|pair| {
        let (counter, far) = (Counter::of(pair), far());
        let read = "$var(l) = $memguard(level); $var(h) = $memguard(headroom); $var(s) = $stat(memguard:level);";
        let server = counter.with(server(pair, &far, read).workers(24)).start();
        let workers = named(&server, "receiver");
        assert_eq!(workers.len(), 48, "UDP and TCP");
        let sampler = named(&server, "memguard");
        until(SOON, "the sampling process counts", || {
            counter
                .of_all(&sampler)
                .iter()
                .any(|asked| asked.system > 0)
        });
        let before = counter.of_all(&workers);

        // Each worker sees shm rise by more than it did itself.
        let client = server.udp();
        for kind in kinds(PHONES) {
            send(&client, 32, kind);
        }
        let mut tcp: Vec<_> = (0..24).map(|_| server.tcp()).collect();
        for (i, connection) in tcp.iter_mut().enumerate() {
            for n in 0..20 {
                let new = Request::register(&format!("t{i}-{n}")).header(AUTHORIZATION);
                for request in [new.clone(), new.next()] {
                    assert_eq!(connection.request(&request).code, 200);
                }
            }
        }
        let mut calls = Calls::through(server.sip());
        calls.make(PHONES, 32);

        let status = server.status();
        assert_eq!(status["level"], "normal", "{status}");
        for class in [
            "unregister",
            "query",
            "followup",
            "refresh",
            "returning",
            "new",
        ] {
            let received = server.by_class("received");
            assert!(received.contains_key(class), "no {class}: {received:?}");
        }
        let after = counter.of_all(&workers);
        for ((pid, before), after) in workers.iter().zip(before).zip(after) {
            let of_memguard = |asked: Asked| (asked.heap, asked.system);
            assert_eq!(
                of_memguard(after),
                of_memguard(before),
                "heap and system calls of {pid}"
            );
        }
    });
}

/// Waiting for a lock of Kamailio's: what memguard asks of these comes by libc, where the test above counts it.
const WAITING: [i64; 2] = [libc::SYS_futex, libc::SYS_sched_yield];

/// System calls of the only UDP worker, and heap calls of whoever, for each kind of traffic.
fn asked(pair: &Pair, with_memguard: bool) -> Vec<(&'static str, Counts, u64)> {
    const REQUESTS: usize = 25;
    let (counter, far) = (Counter::of(pair), far());
    let builder = counter.with(server(pair, &far, "").workers(1));
    let server = match with_memguard {
        true => builder.start(),
        false => builder.without_memguard().start(),
    };
    let worker = named(&server, "udp receiver")[0];
    let client = server.udp();
    // Whatever is done once in a process.
    let first = |kind: Kind| (kind.0, kind.1, kind.2.into_iter().take(2).collect());
    for kind in kinds(2).into_iter().map(first) {
        send(&client, 1, kind);
    }
    let mut calls = Calls::through(server.sip());
    calls.make(2, 1);
    let mut all = Vec::new();
    let mut measured = |what: &'static str, work: &mut (dyn FnMut() -> usize + Send)| {
        let heap = counter.of_process(worker).any_heap;
        let mut repeated = 0;
        let mut counts = traced::while_running(worker, || repeated = work());
        assert_eq!(
            repeated, 0,
            "{what}: messages came twice: is the machine that busy?"
        );
        counts.retain(|number, _| !WAITING.contains(&(*number as i64)));
        all.push((what, counts, counter.of_process(worker).any_heap - heap));
    };
    for (what, code, requests) in kinds(REQUESTS) {
        let mut requests = Some(requests);
        measured(what, &mut || {
            send(
                &client,
                1,
                (what, code, requests.take().unwrap_or_default()),
            )
        });
    }
    measured("calls", &mut || {
        let before = calls.repeated();
        calls.make(REQUESTS, 1);
        calls.repeated() - before
    });
    all
}

#[test]
fn asks_the_kernel_and_the_heap_for_what_kamailio_asks_alone() {
    for_each_pair(|pair| {
        let [without, with] = [false, true].map(|with_memguard| asked(pair, with_memguard));
        for (what, counts, _) in &without {
            let total: u64 = counts.values().sum();
            assert!(
                total >= 50,
                "{what}: each message is received and answered: {counts:?}"
            );
        }
        assert_eq!(with, without, "kind, system calls by number, heap calls");
    });
}

/// What memguard.so takes from libc that neither allocates nor asks the kernel, at least not on its way.
const HARMLESS: [&str; 26] = [
    "__cxa_finalize",
    "__errno_location",
    "__tls_get_addr",
    "__xpg_strerror_r",
    "_exit",
    "abort",
    "bcmp",
    "clock_gettime", // in the process (vdso); the kernel's part is counted by the test above
    "dlsym",         // where Python is loaded, when the sampling process asks
    "environ",
    "exp",
    "expm1",
    "getenv",
    "log",
    "mallinfo2", // when the sampling process asks, after a message: malloc's own lock, that no other thread wants
    "memchr",
    "memcmp",
    "memcpy",
    "memmove",
    "memset",
    "sigaddset",
    "sigemptyset",
    "sigismember",
    "stderr",
    "strcmp",
    "strlen",
];

#[test]
fn asks_libc_for_nothing_that_the_counting_library_does_not_count() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/module/leaky/calls.c");
    let source = fs::read_to_string(source).expect("it is there");
    for_each_pair(|pair| {
        let module = pair
            .kamailio
            .memguard
            .as_ref()
            .expect("memguard.so was built");
        let output = Command::new("nm")
            .args(["-D", "--undefined-only"])
            .arg(module)
            .output();
        let output = output.expect("nm comes with cc");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let symbols = text
            .split_whitespace()
            .filter(|word| word.contains("@GLIBC"));
        let names: Vec<&str> = symbols.filter_map(|word| word.split('@').next()).collect();
        assert!(names.contains(&"malloc"), "{text}");
        let is_counted = |name: &&str| {
            let forms = [
                format!("PASS({name})"),
                format!(" {name}("),
                format!("*{name}("),
            ];
            let mut lines = source.lines().filter(|line| !line.starts_with(['\t', ' ']));
            lines.any(|line| forms.iter().any(|form| line.contains(form)) && !line.ends_with(';'))
        };
        let others = names.into_iter().filter(|name| !HARMLESS.contains(name));
        let missing: Vec<&str> = others.filter(|name| !is_counted(name)).collect();
        assert!(
            missing.is_empty(),
            "memguard.so takes {missing:?} from libc: count them in leaky/calls.c, or say why they are harmless"
        );
    });
}
