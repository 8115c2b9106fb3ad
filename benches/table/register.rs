//! CPU time per accepted REGISTER with memguard idle in level normal over the same Kamailio without it.
//! Forbidden here: wall clock; other tenants of the machine would decide it.

use std::cell::RefCell;
use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Pair, Server, for_each_pair};
use crate::report::{Table, median, progress};

/// Server pairs that are started one after the other: where the allocator's blocks lie differs from start to start.
const STARTS: usize = 3;
/// Batches per server of each start, in turn.
const ROUNDS: usize = 200;
/// REGISTERs of one batch: refreshes and new ones.
const REFRESHES: usize = 400;
const NEW: usize = 100;
/// Users that are registered before the first batch.
const KNOWN: usize = 4000;
/// REGISTERs on their way at once.
const WINDOW: usize = 20;
const BOUND: f64 = 1.02;

pub fn measure(table: &mut Table) {
    let table = RefCell::new(table);
    for_each_pair(|pair| {
        if pair.manager == "fm" {
            on(pair, &mut table.borrow_mut());
        }
    });
}

fn on(pair: &Pair, table: &mut Table) {
    let (mut ratios, mut bare) = (vec![], vec![]);
    for start in 0..STARTS {
        progress(&format!("register: start {} of {STARTS}", start + 1));
        let builder = Server::registrar(pair).workers(1).shm_mb(256).pkg_mb(8);
        let servers = [builder.clone().without_memguard().start(), builder.start()];
        let mut loads = servers.each_ref().map(Load::on);
        loads.iter_mut().for_each(Load::fill);
        for round in 0..ROUNDS {
            let first = round % 2;
            let mut spent = [0.0; 2];
            for which in [first, 1 - first] {
                spent[which] = loads[which].batch();
            }
            ratios.push(spent[1] / spent[0]);
            bare.push(spent[0] / 1000.0 / (REFRESHES + NEW) as f64);
        }
        assert_counted(&servers[1]);
    }
    table.note(
        "accepted REGISTER without memguard (fm, UDP, usrloc)",
        median(bare),
        "us",
    );
    table.add(
        "accepted REGISTER: with memguard over without",
        median(ratios),
        "x",
        BOUND,
    );
}

/// memguard saw each REGISTER for what it was: else it would be cheap for a bad reason.
fn assert_counted(server: &Server) {
    let seen = server.rpc("memguard.registrations", json!([]));
    let count = |name: &str| seen[name].as_f64().unwrap_or(-1.0) as usize;
    let (refreshes, new) = (ROUNDS * REFRESHES, KNOWN + ROUNDS * NEW);
    let counted = ["refresh_admitted", "new_admitted", "accepted"].map(count);
    assert_eq!(counted, [refreshes, new, refreshes + new], "{seen}");
}

/// One server under load, and the only worker it has.
pub struct Load {
    worker: i32,
    socket: UdpSocket,
    /// Highest CSeq of each user.
    cseq: Vec<u32>,
    next: usize,
}

impl Load {
    pub fn on(server: &Server) -> Load {
        let worker = server
            .processes()
            .into_iter()
            .find(|(_, _, what)| what.starts_with("udp receiver"));
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
        socket.connect(server.sip()).expect("the server listens");
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .expect("a limit above zero");
        Load {
            worker: worker.expect("a UDP worker").1,
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

    /// One batch; nanoseconds of CPU that the worker spent on it.
    pub fn batch(&mut self) -> f64 {
        let mut messages: Vec<_> = (0..REFRESHES).map(|_| self.refresh()).collect();
        messages.extend((0..NEW).map(|_| self.newcomer()));
        let before = self.cpu_ns();
        self.exchange(&messages);
        (self.cpu_ns() - before) as f64
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

    /// Sends all of them and takes the same number of replies; every reply must be a 200.
    fn exchange(&self, messages: &[Vec<u8>]) {
        let mut reply = [0; 4096];
        for part in messages.chunks(WINDOW) {
            for message in part {
                self.socket
                    .send(message)
                    .expect("loopback takes a datagram");
            }
            for _ in part {
                let length = self
                    .socket
                    .recv(&mut reply)
                    .expect("each REGISTER gets its reply");
                assert!(
                    reply[..length].starts_with(b"SIP/2.0 200"),
                    "{}",
                    String::from_utf8_lossy(&reply[..length])
                );
            }
        }
    }

    /// CPU time of the worker so far: the first number of /proc/PID/schedstat (kernel: sched-stats), nanoseconds.
    fn cpu_ns(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", self.worker))
            .expect("the worker lives");
        text.split(' ')
            .next()
            .and_then(|n| n.parse().ok())
            .expect("a number comes first")
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
