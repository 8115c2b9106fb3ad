//! CPU time per accepted REGISTER with memguard idle in level normal over the same Kamailio without it; with 2 and with
//! 128 children, on every manager; and the same module against itself, which is the noise of the figures.
//! Forbidden here: wall clock; other tenants of the machine would decide it.

use std::net::UdpSocket;
use std::time::Duration;

use serde_json::json;

use crate::beside::{self, Line, Processes, Spent};
use crate::harness::Server;
use crate::report::Table;

/// Server trios that are started one after the other.
const STARTS: usize = 3;
/// Batches per server of each start, in turn.
const ROUNDS: usize = 60;
/// REGISTERs of one batch: refreshes and new ones.
const REFRESHES: usize = 800;
const NEW: usize = 200;
/// Users that are registered before the first batch.
const KNOWN: usize = 4000;
/// REGISTERs on their way at once: the receive queue is never empty, and never full.
const WINDOW: usize = 64;
const BOUND: f64 = 1.10;
/// UDP children.
const CHILDREN: [u32; 2] = [2, 128];

pub fn measure(table: &mut Table) {
    beside::for_each(&CHILDREN, |pair, children, name| {
        let builder = Server::registrar(pair)
            .workers(children)
            .shm_mb(256)
            .pkg_mb(4)
            .config(|c| {
                c.global("tcp_children=1");
            });
        let spent = beside::trios(STARTS, &format!("register: {name}"), &builder, run);
        let line = Line {
            what: "accepted REGISTER",
            name,
            bound: (pair.manager == "fm").then_some(BOUND),
            count: STARTS * ROUNDS * (REFRESHES + NEW),
        };
        line.into_table(spent, table);
    });
}

/// One start of the three servers, in turn under load; adds what each spent.
fn run(servers: &[Server; 3], spent: &mut Spent) {
    let mut loads = servers.each_ref().map(Load::on);
    loads.iter_mut().for_each(Load::fill);
    beside::in_turn(ROUNDS, |which| spent[which] += loads[which].batch());
    servers[1..].iter().for_each(assert_counted);
}

/// memguard saw each REGISTER for what it was: else it would be cheap for a bad reason.
fn assert_counted(server: &Server) {
    let seen = server.rpc("memguard.registrations", json!([]));
    let count = |name: &str| seen[name].as_f64().unwrap_or(-1.0) as usize;
    let (refreshes, new) = (ROUNDS * REFRESHES, KNOWN + ROUNDS * NEW);
    let counted = ["refresh_admitted", "new_admitted", "accepted"].map(count);
    assert_eq!(counted, [refreshes, new, refreshes + new], "{seen}");
}

/// One server under load, and its UDP workers.
pub struct Load {
    workers: Processes,
    socket: UdpSocket,
    /// Highest CSeq of each user.
    cseq: Vec<u32>,
    next: usize,
}

impl Load {
    pub fn on(server: &Server) -> Load {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
        socket.connect(server.sip()).expect("the server listens");
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .expect("a limit above zero");
        Load {
            workers: Processes::workers(server),
            socket,
            cseq: Vec::new(),
            next: 0,
        }
    }

    /// Registers the users that the batches refresh.
    pub fn fill(&mut self) {
        let messages: Vec<_> = (0..KNOWN).map(|_| self.newcomer()).collect();
        self.exchange(&messages);
    }

    /// One batch; nanoseconds of CPU that the workers spent on it.
    pub fn batch(&mut self) -> f64 {
        let mut messages = Vec::with_capacity(REFRESHES + NEW);
        for n in 0..REFRESHES + NEW {
            let is_new = n % (REFRESHES + NEW) % 5 == 4;
            messages.push(if is_new {
                self.newcomer()
            } else {
                self.refresh()
            });
        }
        let before = self.workers.cpu_ns();
        self.exchange(&messages);
        (self.workers.cpu_ns() - before) as f64
    }

    fn newcomer(&mut self) -> Vec<u8> {
        self.cseq.push(1);
        register(self.cseq.len() - 1, 1)
    }

    fn refresh(&mut self) -> Vec<u8> {
        let user = self.next % KNOWN;
        self.next += 1;
        self.cseq[user] += 1;
        register(user, self.cseq[user])
    }

    /// Sends all of them, always [`WINDOW`] on their way, and takes the same number of replies; every reply must be a
    /// 200.
    fn exchange(&self, messages: &[Vec<u8>]) {
        let mut reply = [0; 4096];
        let send = |message: &Vec<u8>| {
            self.socket
                .send(message)
                .expect("loopback takes a datagram");
        };
        let (first, rest) = messages.split_at(messages.len().min(WINDOW));
        first.iter().for_each(send);
        let mut rest = rest.iter();
        for _ in messages {
            let length = self
                .socket
                .recv(&mut reply)
                .expect("each REGISTER gets its reply");
            assert!(
                reply[..length].starts_with(b"SIP/2.0 200"),
                "{}",
                String::from_utf8_lossy(&reply[..length])
            );
            rest.next().into_iter().for_each(send);
        }
    }
}

/// A REGISTER as a desk phone sends it, 569 bytes for usual numbers.
pub fn register(user: usize, cseq: u32) -> Vec<u8> {
    format!(
        "REGISTER sip:registrar.example.org SIP/2.0\r\n\
         Via: SIP/2.0/UDP 192.0.2.17:5060;branch=z9hG4bK-{user:07}-{cseq:05};rport\r\n\
         Max-Forwards: 70\r\n\
         From: \"Extension {user:07}\" <sip:u{user:07}@registrar.example.org>;tag=ft-{user:07}\r\n\
         To: \"Extension {user:07}\" <sip:u{user:07}@registrar.example.org>\r\n\
         Call-ID: 3c26700857a1-{user:07}@192.0.2.17\r\n\
         CSeq: {cseq} REGISTER\r\n\
         Contact: <sip:u{user:07}@192.0.2.17:5060;line=ab12cd>;reg-id=1\r\n\
         User-Agent: deskphone/10.1.2.3\r\n\
         Supported: path, gruu, outbound\r\n\
         Allow: INVITE, ACK, CANCEL, BYE, OPTIONS\r\n\
         Expires: 3600\r\n\
         Content-Length: 0\r\n\r\n"
    )
    .into_bytes()
}
