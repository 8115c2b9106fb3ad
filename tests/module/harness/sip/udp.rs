//! A SIP client over UDP: one request, or a mass with a window of unanswered ones.
//! Forbidden here: addresses beyond loopback.

use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::{LIMIT, Reply, Request};

/// T1 of RFC 3261 17.1.1.1: when a request over UDP is sent again.
const RESEND: Duration = Duration::from_millis(500);
/// The largest UDP datagram.
const DATAGRAM: usize = 65_535;

/// What a mass of requests got.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Final replies by status.
    pub codes: BTreeMap<u16, usize>,
    /// Requests without a final reply within the limit.
    pub unanswered: usize,
    /// Requests that were sent again after half a second.
    pub resent: usize,
    pub elapsed: Duration,
}

impl Tally {
    pub fn of(&self, code: u16) -> usize {
        self.codes.get(&code).copied().unwrap_or(0)
    }
}

/// A client over UDP.
pub struct Udp {
    socket: UdpSocket,
    server: SocketAddr,
}

impl Udp {
    pub fn to(server: SocketAddr) -> Udp {
        Udp::from("127.0.0.1", server)
    }

    /// A client with another loopback address as its source.
    pub fn from(source: &str, server: SocketAddr) -> Udp {
        assert!(server.ip().is_loopback(), "tests talk to loopback only");
        let socket = UdpSocket::bind((source, 0)).expect("loopback has a free port");
        Udp { socket, server }
    }

    pub fn local(&self) -> SocketAddr {
        self.socket
            .local_addr()
            .expect("a bound socket has an address")
    }

    /// The bytes of a request of this client.
    pub fn bytes(&self, request: &Request) -> Vec<u8> {
        request.bytes("UDP", self.local())
    }

    pub fn send_raw(&self, bytes: &[u8]) {
        self.socket
            .send_to(bytes, self.server)
            .expect("loopback takes a datagram");
    }

    /// The next datagram within `limit`.
    pub fn receive_raw(&self, limit: Duration) -> Option<Vec<u8>> {
        let mut buffer = vec![0; DATAGRAM];
        self.socket
            .set_read_timeout(Some(limit.max(Duration::from_millis(1))))
            .expect("a limit above zero");
        let length = self.socket.recv(&mut buffer).ok()?;
        buffer.truncate(length);
        Some(buffer)
    }

    /// The final reply, sending again as UDP clients do; `None` when there is none within the limit.
    pub fn try_request(&self, request: &Request, limit: Duration) -> Option<Reply> {
        let bytes = self.bytes(request);
        let end = Instant::now() + limit;
        while Instant::now() < end {
            self.send_raw(&bytes);
            let pause = (Instant::now() + RESEND).min(end);
            while let Some(left) = pause.checked_duration_since(Instant::now()) {
                let Some(datagram) = self.receive_raw(left) else {
                    break;
                };
                let reply = Reply::parse(&datagram).filter(|r| r.is_final() && r.answers(request));
                if reply.is_some() {
                    return reply;
                }
            }
        }
        None
    }

    #[track_caller]
    pub fn request(&self, request: &Request) -> Reply {
        self.try_request(request, LIMIT)
            .unwrap_or_else(|| panic!("no final reply to {request:?}"))
    }

    /// Sends every request of `requests`, at most `window` unanswered at a time; `seen` gets each final reply with
    /// the number of its request.
    pub fn flood(
        &self,
        requests: impl Iterator<Item = Request>,
        window: usize,
        mut seen: impl FnMut(usize, &Request, &Reply),
    ) -> Tally {
        let start = Instant::now();
        let mut tally = Tally::default();
        let mut open: HashMap<String, Open> = HashMap::with_capacity(window);
        let mut requests = requests.enumerate().peekable();
        let mut looked = start;
        while requests.peek().is_some() || !open.is_empty() {
            while open.len() < window {
                let Some((number, request)) = requests.next() else {
                    break;
                };
                self.send_raw(&self.bytes(&request));
                let now = Instant::now();
                open.insert(
                    request.call_id.clone(),
                    Open {
                        number,
                        request,
                        first: now,
                        last: now,
                    },
                );
            }
            let reply = self
                .receive_raw(Duration::from_millis(100))
                .and_then(|d| Reply::parse(&d));
            if let Some(reply) = reply.filter(Reply::is_final) {
                let call_id = reply.header("Call-ID").unwrap_or_default().to_owned();
                if open
                    .get(&call_id)
                    .is_some_and(|o| reply.answers(&o.request))
                {
                    let done = open.remove(&call_id).expect("it was just there");
                    *tally.codes.entry(reply.code).or_default() += 1;
                    seen(done.number, &done.request, &reply);
                }
            }
            if looked.elapsed() >= RESEND / 5 {
                looked = Instant::now();
                self.resend(&mut open, &mut tally);
            }
        }
        tally.elapsed = start.elapsed();
        tally
    }

    fn resend(&self, open: &mut HashMap<String, Open>, tally: &mut Tally) {
        let before = open.len();
        open.retain(|_, o| o.first.elapsed() < LIMIT);
        tally.unanswered += before - open.len();
        for o in open.values_mut().filter(|o| o.last.elapsed() >= RESEND) {
            self.send_raw(&self.bytes(&o.request));
            o.last = Instant::now();
            tally.resent += 1;
        }
    }
}

/// A request that waits for its final reply.
struct Open {
    number: usize,
    request: Request,
    first: Instant,
    last: Instant,
}
