//! SIP requests as text and replies as far as tests read them.
//! Forbidden here: sockets.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

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

    /// Whether it belongs to this request and no earlier one.
    pub fn answers(&self, request: &Request) -> bool {
        let cseq = format!("{} {}", request.cseq, request.method);
        self.header("Call-ID") == Some(&request.call_id) && self.header("CSeq") == Some(&cseq)
    }
}
