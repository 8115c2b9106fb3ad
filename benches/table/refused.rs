//! CPU time per refused REGISTER over UDP: a bare loop that sends the same reply, memguard at both stages, and what
//! Kamailio's own means cost. Forbidden here: wall clock; other tenants of the machine would decide it.

use std::cell::RefCell;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::time::Duration;

use memguard::guard::sip::{
    Scanned,
    reply::{self, Refusal},
    scan,
};
use serde_json::json;

use crate::beside::cpu_ns;
use crate::harness::{Pair, Server, for_each_pair};
use crate::register::register;
use crate::report::{Table, progress};

/// Rounds; in each, every way is given one batch, in an order that turns.
const ROUNDS: usize = 200;
/// REGISTERs of one batch, each of a phone that was never there before, as in a storm.
const BATCH: usize = 400;
/// REGISTERs on their way at once: a storm, in which the worker always finds the next one.
const WINDOW: usize = 100;
const BOUND: f64 = 1.3;
/// Tells this program to be the bare loop.
const FLOOR: &str = "MEMGUARD_BENCH_FLOOR";

/// A way of refusing: how it is called, and its server.
struct Way {
    name: &'static str,
    bound: Option<f64>,
    builder: fn(&Pair) -> Server,
    /// It answers every REGISTER (with 503).
    answers: bool,
}

const WAYS: [Way; 5] = [
    Way {
        name: "memguard before parsing",
        bound: Some(BOUND),
        builder: |pair| shedding(pair, 0),
        answers: true,
    },
    Way {
        name: "memguard before the script",
        bound: None,
        builder: |pair| shedding(pair, 1),
        answers: true,
    },
    Way {
        name: "script: sl_send_reply(\"503\")",
        bound: None,
        builder: |pair| {
            scripted(
                pair,
                "append_to_reply(\"Retry-After: 30\\r\\n\"); sl_send_reply(\"503\", \"Server Memory Low\");",
                &[],
            )
        },
        answers: true,
    },
    Way {
        name: "pipelimit: pl_drop (503)",
        bound: None,
        builder: |pair| {
            let script =
                "if (!pl_check(\"register\", \"TAILDROP\", \"0\")) { pl_drop(\"30\", \"60\"); }";
            scripted(pair, script, &[("pipelimit", "timer_interval", 10)])
        },
        answers: true,
    },
    Way {
        name: "pike: blocked (no reply at all)",
        bound: None,
        builder: |pair| {
            let limits = [
                ("pike", "sampling_time_unit", 2),
                ("pike", "reqs_density_per_unit", 1),
            ];
            scripted(
                pair,
                "if (!pike_check_req()) { exit; } sl_send_reply(\"200\", \"OK\");",
                &limits,
            )
        },
        answers: false,
    },
];

/// memguard refuses all new phones; `taken` is 1 when another module holds the hook for datagrams.
fn shedding(pair: &Pair, taken: i64) -> Server {
    let server = Server::registrar(pair)
        .with_mgtest()
        .workers(1)
        .config(|c| {
            c.param("mgtest", "take_datagrams", taken);
        });
    let server = server.start();
    server.rpc("memguard.shed", json!([3600]));
    server
}

/// Kamailio without memguard; a REGISTER runs `script` first of all.
fn scripted(pair: &Pair, script: &str, params: &[(&str, &str, i64)]) -> Server {
    let server = Server::registrar(pair)
        .without_memguard()
        .workers(1)
        .config(|c| {
            c.before = format!("if (is_method(\"REGISTER\")) {{ {script} exit; }}");
            if let Some((module, ..)) = params.first() {
                c.module(module);
            }
            for (module, name, value) in params {
                c.param(module, name, value);
            }
        });
    server.start()
}

pub fn measure(table: &mut Table) {
    let table = RefCell::new(table);
    for_each_pair(|pair| {
        if pair.manager != "tlsf" {
            on(pair, &mut table.borrow_mut());
        }
    });
}

fn on(pair: &Pair, table: &mut Table) {
    progress(&format!(
        "refused: {} {}",
        pair.kamailio.version, pair.manager
    ));
    let floor = Floor::start();
    let servers: Vec<Server> = WAYS.iter().map(|way| (way.builder)(pair)).collect();
    let mut loads = vec![Load::on(floor.address, floor.child.id() as i32, true)];
    for (server, way) in servers.iter().zip(&WAYS) {
        let processes = server.processes();
        let worker = processes
            .iter()
            .find(|(_, _, what)| what.starts_with("udp receiver"));
        loads.push(Load::on(
            server.sip(),
            worker.expect("a UDP worker").1,
            way.answers,
        ));
    }
    for load in &mut loads {
        load.batch(); // a first one, that nothing is new
    }
    // Sums over all rounds: the kernel books a process's time when it goes to sleep, or at a tick, so that one batch
    // may show nothing and the next one the time of both.
    let mut spent = vec![0.0; loads.len()];
    for round in 0..ROUNDS {
        for turn in 0..loads.len() {
            let which = (round + turn) % loads.len();
            spent[which] += loads[which].batch();
        }
    }
    assert_counted(&servers);
    let manager = &pair.manager;
    let bare = spent[0];
    let mut ratios = spent.into_iter().skip(1).map(|spent| spent / bare);
    table.note(
        format!("refused REGISTER, bare loop (beside {manager})"),
        bare / ROUNDS as f64 / 1000.0,
        "us",
    );
    for way in &WAYS {
        let what = format!("refused REGISTER, {manager}: {} over bare loop", way.name);
        let ratio = ratios.next().unwrap_or_default();
        match way.bound {
            Some(bound) => table.add(what, ratio, "x", bound),
            None => table.note(what, ratio, "x"),
        }
    }
}

/// Each stage answered what it was meant to answer: else it would be cheap for a bad reason.
fn assert_counted(servers: &[Server]) {
    let sent = (ROUNDS + 1) * BATCH;
    for (server, stage) in servers.iter().zip(["datagram", "request"]) {
        let seen = server.rpc("memguard.registrations", json!([]));
        let rejected = seen["new_rejected"].as_f64().unwrap_or(-1.0) as usize;
        assert_eq!(rejected, sent, "{stage}: {seen}");
        let refusals = server.rpc("memguard.refusals", json!([1]));
        assert_eq!(refusals[0]["stage"], stage, "{refusals}");
    }
}

/// The bare loop in a process of its own, gone when this is dropped.
struct Floor {
    child: Child,
    address: SocketAddr,
}

impl Floor {
    fn start() -> Floor {
        let own = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = own.local_addr().expect("a bound socket has an address");
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command.env(FLOOR, "1");
        let socket = std::os::fd::AsRawFd::as_raw_fd(&own);
        // SAFETY: dup2 and prctl are async-signal-safe, and the closure touches no memory of the parent.
        unsafe {
            command.pre_exec(move || {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                match libc::dup2(socket, 0) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        let child = command.spawn().expect("this program can be started again");
        Floor { child, address }
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// When this process was started as the bare loop: receives on its standard input, answers every REGISTER, for ever.
pub fn be_the_floor_if_asked() {
    if std::env::var_os(FLOOR).is_none() {
        return;
    }
    // SAFETY: the socket that Floor::start put there; nobody else uses it.
    let socket: UdpSocket = unsafe { std::os::fd::FromRawFd::from_raw_fd(0) };
    let mut datagram = [0u8; 65536];
    let mut buffer = [0u8; reply::MAX_REPLY];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut datagram) else {
            continue;
        };
        let Scanned::Register(register) = scan(&datagram[..length]) else {
            continue;
        };
        let refusal = Refusal {
            code: 503,
            reason: "Server Memory Low",
            retry_after: 30,
            tag: u64::from(register.cseq_number),
            source: "127.0.0.1",
            source_port: from.port(),
        };
        if let Some(length) = reply::build(&register, &refusal, &mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}

/// One server under load, and the only worker it has.
struct Load {
    worker: i32,
    socket: UdpSocket,
    answers: bool,
    next: usize,
}

impl Load {
    fn on(server: SocketAddr, worker: i32, answers: bool) -> Load {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
        socket.connect(server).expect("the server listens");
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .expect("a limit above zero");
        Load {
            worker,
            socket,
            answers,
            next: 0,
        }
    }

    /// One batch; nanoseconds of CPU that the worker spent per REGISTER.
    fn batch(&mut self) -> f64 {
        let messages: Vec<_> = (0..BATCH).map(|i| register(self.next + i, 1)).collect();
        self.next += BATCH;
        let before = cpu_ns(self.worker);
        for part in messages.chunks(WINDOW) {
            for message in part {
                self.socket
                    .send(message)
                    .expect("loopback takes a datagram");
            }
            match self.answers {
                true => part.iter().for_each(|_| self.receive(b"SIP/2.0 503")),
                // Nobody answers: an OPTIONS behind them does (its cost counts, a twentieth per REGISTER).
                false => {
                    self.socket
                        .send(OPTIONS)
                        .expect("loopback takes a datagram");
                    self.receive(b"SIP/2.0 200");
                }
            }
        }
        (cpu_ns(self.worker) - before) as f64 / BATCH as f64
    }

    fn receive(&self, begin: &[u8]) {
        let mut reply = [0; 4096];
        let length = self
            .socket
            .recv(&mut reply)
            .expect("each REGISTER gets its reply");
        let text = String::from_utf8_lossy(&reply[..length]);
        assert!(reply[..length].starts_with(begin), "{text}");
    }
}

const OPTIONS: &[u8] = b"OPTIONS sip:registrar.example.org SIP/2.0\r\n\
    Via: SIP/2.0/UDP 192.0.2.17:5060;branch=z9hG4bK-ping;rport\r\nMax-Forwards: 70\r\n\
    From: <sip:ping@registrar.example.org>;tag=p\r\nTo: <sip:registrar.example.org>\r\n\
    Call-ID: ping@192.0.2.17\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n";
