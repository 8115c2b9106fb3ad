//! A tiny SIP client: builds requests, sends bytes over UDP or TCP, reads replies; also thousands per second.
//! Forbidden here: addresses beyond loopback; understanding more of SIP than tests need.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long one request may wait for its final reply.
pub const LIMIT: Duration = Duration::from_secs(5);
/// T1 of RFC 3261 17.1.1.1: when a request over UDP is sent again.
const RESEND: Duration = Duration::from_millis(500);
/// The largest UDP datagram.
const DATAGRAM: usize = 65_535;

/// A number no other request of this process has.
pub fn unique() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    // ORDERING: Relaxed; only the number itself must be unique.
    COUNT.fetch_add(1, Ordering::Relaxed)
}

/// A request; the fields that a test does not set have usual values.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub uri: String,
    /// The address of record, in To and From.
    pub aor: String,
    /// Values of Contact, without the header name; empty: no Contact header.
    pub contacts: Vec<String>,
    /// The Expires header; `None`: no such header.
    pub expires: Option<u32>,
    pub call_id: String,
    pub cseq: u32,
    /// Branch of the own Via; a retransmission keeps it.
    pub branch: String,
    /// Via values below the own one, as if proxies had passed the request.
    pub vias: Vec<String>,
    /// Further header lines without line end.
    pub headers: Vec<String>,
    pub body: String,
}

impl Request {
    pub fn new(method: &str, user: &str) -> Request {
        let number = unique();
        Request {
            method: method.into(),
            uri: "sip:example.test".into(),
            aor: format!("sip:{user}@example.test"),
            contacts: Vec::new(),
            expires: None,
            call_id: format!("{number}-{}@client.test", std::process::id()),
            cseq: 1,
            branch: format!("z9hG4bK{number}p{}", std::process::id()),
            vias: Vec::new(),
            headers: Vec::new(),
            body: String::new(),
        }
    }

    /// A REGISTER of `user@example.test` for an hour, with one contact at a documentation address.
    pub fn register(user: &str) -> Request {
        let contact = format!("<sip:{user}@192.0.2.1:5060>");
        Request {
            contacts: vec![contact],
            expires: Some(3600),
            ..Request::new("REGISTER", user)
        }
    }

    pub fn options() -> Request {
        Request::new("OPTIONS", "prober")
    }

    /// An INVITE to `user@example.test`.
    pub fn invite(user: &str) -> Request {
        let contact = "<sip:caller@192.0.2.2:5060>".to_owned();
        Request {
            uri: format!("sip:{user}@example.test"),
            contacts: vec![contact],
            ..Request::new("INVITE", user)
        }
    }

    pub fn expires(mut self, seconds: u32) -> Request {
        self.expires = Some(seconds);
        self
    }

    pub fn contact(mut self, value: &str) -> Request {
        self.contacts = vec![value.into()];
        self
    }

    pub fn no_contact(mut self) -> Request {
        self.contacts.clear();
        self
    }

    pub fn header(mut self, line: &str) -> Request {
        self.headers.push(line.into());
        self
    }

    pub fn via(mut self, value: &str) -> Request {
        self.vias.push(value.into());
        self
    }

    /// The same dialogue's next request: next CSeq, new branch, same Call-ID.
    pub fn next(&self) -> Request {
        let branch = format!("z9hG4bK{}p{}", unique(), std::process::id());
        Request {
            cseq: self.cseq + 1,
            branch,
            ..self.clone()
        }
    }

    /// The bytes on the wire; `transport` is UDP or TCP, `local` the address to answer to.
    pub fn bytes(&self, transport: &str, local: SocketAddr) -> Vec<u8> {
        let mut text = String::with_capacity(512);
        let mut line =
            |l: std::fmt::Arguments| write!(text, "{l}\r\n").expect("writing to a string");
        line(format_args!("{} {} SIP/2.0", self.method, self.uri));
        line(format_args!(
            "Via: SIP/2.0/{transport} {local};branch={};rport",
            self.branch
        ));
        self.vias
            .iter()
            .for_each(|via| line(format_args!("Via: {via}")));
        line(format_args!("Max-Forwards: 70"));
        line(format_args!(
            "From: <{}>;tag=t{}",
            self.aor,
            self.call_id.split('@').next().unwrap_or("1")
        ));
        line(format_args!("To: <{}>", self.aor));
        line(format_args!("Call-ID: {}", self.call_id));
        line(format_args!("CSeq: {} {}", self.cseq, self.method));
        self.contacts
            .iter()
            .for_each(|contact| line(format_args!("Contact: {contact}")));
        if let Some(seconds) = self.expires {
            line(format_args!("Expires: {seconds}"));
        }
        self.headers
            .iter()
            .for_each(|header| line(format_args!("{header}")));
        line(format_args!("Content-Length: {}", self.body.len()));
        line(format_args!(""));
        text.push_str(&self.body);
        text.into_bytes()
    }
}

/// A reply: its status and its headers in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    pub reason: String,
    pub headers: Vec<(String, String)>,
    pub bytes: usize,
}

impl Reply {
    /// `None` for anything that is not a SIP reply.
    pub fn parse(bytes: &[u8]) -> Option<Reply> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split("\r\n");
        let status = lines.next()?.strip_prefix("SIP/2.0 ")?;
        let (code, reason) = status.split_once(' ')?;
        let headers = lines
            .take_while(|l| !l.is_empty())
            .filter_map(|l| l.split_once(':'));
        let headers =
            headers.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
        Some(Reply {
            code: code.parse().ok()?,
            reason: reason.into(),
            headers: headers.collect(),
            bytes: bytes.len(),
        })
    }

    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// The values of all headers of this name, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let same = self
            .headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name));
        same.map(|(_, value)| value.as_str()).collect()
    }

    pub fn retry_after(&self) -> Option<u64> {
        self.header("Retry-After")?
            .split([' ', ';', '('])
            .next()?
            .parse()
            .ok()
    }

    pub fn is_final(&self) -> bool {
        self.code >= 200
    }

    fn answers(&self, request: &Request) -> bool {
        let cseq = format!("{} {}", request.cseq, request.method);
        self.header("Call-ID") == Some(&request.call_id) && self.header("CSeq") == Some(&cseq)
    }
}

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

/// A client over one TCP connection.
pub struct Tcp {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Tcp {
    #[track_caller]
    pub fn to(server: SocketAddr) -> Tcp {
        Tcp::try_to(server).expect("the server takes a TCP connection")
    }

    pub fn try_to(server: SocketAddr) -> std::io::Result<Tcp> {
        assert!(server.ip().is_loopback(), "tests talk to loopback only");
        let stream = TcpStream::connect_timeout(&server, LIMIT)?;
        stream.set_nodelay(true)?;
        Ok(Tcp {
            stream,
            received: Vec::new(),
        })
    }

    pub fn local(&self) -> SocketAddr {
        self.stream
            .local_addr()
            .expect("a connected socket has an address")
    }

    pub fn send_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next message within `limit`; `None` also when the server closed the connection.
    pub fn receive(&mut self, limit: Duration) -> Option<Reply> {
        let end = Instant::now() + limit;
        loop {
            if let Some(length) = whole_message(&self.received) {
                let message: Vec<u8> = self.received.drain(..length).collect();
                return Reply::parse(&message);
            }
            let left = end
                .checked_duration_since(Instant::now())
                .filter(|left| !left.is_zero())?;
            self.stream.set_read_timeout(Some(left)).ok()?;
            let mut buffer = [0; 4096];
            let length = self
                .stream
                .read(&mut buffer)
                .ok()
                .filter(|&length| length > 0)?;
            self.received.extend_from_slice(&buffer[..length]);
        }
    }

    pub fn try_request(&mut self, request: &Request, limit: Duration) -> Option<Reply> {
        let end = Instant::now() + limit;
        self.send_raw(&request.bytes("TCP", self.local())).ok()?;
        loop {
            let reply = self.receive(end.checked_duration_since(Instant::now())?)?;
            if reply.is_final() && reply.answers(request) {
                return Some(reply);
            }
        }
    }

    #[track_caller]
    pub fn request(&mut self, request: &Request) -> Reply {
        self.try_request(request, LIMIT)
            .unwrap_or_else(|| panic!("no final reply to {request:?}"))
    }
}

/// The length of the first whole message: head, and body by its Content-Length.
fn whole_message(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let body = text
        .lines()
        .find_map(|l| {
            l.strip_prefix("content-length:")?
                .trim()
                .parse::<usize>()
                .ok()
        })
        .unwrap_or(0);
    Some(head + body).filter(|&whole| whole <= bytes.len())
}
