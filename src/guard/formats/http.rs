//! The little of HTTP that serving a few read-only texts takes: one request's head in (RFC 9112), one answer's head out.
//! Forbidden here: sockets, clocks, panics on any input, and keeping a connection open for a second request.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// Most bytes of a request's head; more is answered 431. Prometheus sends some 300.
pub const MAX_REQUEST: usize = 8192;

/// What is served to, and nothing else is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// With a body.
    Get,
    /// The same head, no body.
    Head,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// `/`: the page for people.
    Page,
    /// `/metrics`: the Prometheus text.
    Metrics,
    /// `/status.json`: everything as one JSON document.
    Status,
    /// `/ready`: whether the server should get new phones.
    Ready,
    /// `/paths.svg`: a flame graph of what is held.
    Paths,
    /// `/debug/pprof/heap`: the live heap, for programs that read pprof's format.
    Heap,
    /// `/debug/pprof/allocs`: the same, of all that was ever allocated.
    Allocs,
    /// `/debug/pprof/paths`: what is held by sampled call path.
    HeapPaths,
}

impl Target {
    fn of(path: &[u8]) -> Option<Target> {
        match path {
            b"/" | b"/index.html" => Some(Target::Page),
            b"/metrics" => Some(Target::Metrics),
            b"/status.json" => Some(Target::Status),
            b"/ready" => Some(Target::Ready),
            b"/paths.svg" => Some(Target::Paths),
            b"/debug/pprof/heap" => Some(Target::Heap),
            b"/debug/pprof/allocs" => Some(Target::Allocs),
            b"/debug/pprof/paths" => Some(Target::HeapPaths),
            _ => None,
        }
    }
}

/// Status codes that are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
#[allow(missing_docs)] // the standard's names (RFC 9110 section 15, RFC 6585)
pub enum Status {
    Ok = 200,
    BadRequest = 400,
    NotFound = 404,
    MethodNotAllowed = 405,
    MisdirectedRequest = 421,
    HeaderFieldsTooLarge = 431,
    ServiceUnavailable = 503,
    VersionNotSupported = 505,
}

impl Status {
    /// The reason phrase.
    pub const fn reason(self) -> &'static str {
        match self {
            Status::Ok => "OK",
            Status::BadRequest => "Bad Request",
            Status::NotFound => "Not Found",
            Status::MethodNotAllowed => "Method Not Allowed",
            Status::MisdirectedRequest => "Misdirected Request",
            Status::HeaderFieldsTooLarge => "Request Header Fields Too Large",
            Status::ServiceUnavailable => "Service Unavailable",
            Status::VersionNotSupported => "HTTP Version Not Supported",
        }
    }
}

/// What the bytes that have come so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The head has not ended.
    Incomplete,
    /// A request that can be answered.
    Request(Method, Target),
    /// Something else, and what it is answered.
    Refused(Status),
}

/// Which names of this server a request may use (Host, or the target's own).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// All: the server is reached by its name.
    Any,
    /// Addresses and localhost. On loopback another name can only be somebody's whose name server answers 127.0.0.1 so
    /// that a page in a browser on this machine reads what it may not (DNS rebinding).
    Local,
}

impl Hosts {
    /// Of the parameter `listen`.
    pub fn of(listen: SocketAddr) -> Hosts {
        match listen.ip().to_canonical().is_loopback() {
            true => Hosts::Local,
            false => Hosts::Any,
        }
    }

    fn accept(self, host: &[u8]) -> bool {
        self == Hosts::Any || is_local(host)
    }
}

/// An IP address or localhost, with or without a port (RFC 3986 section 3.2.2).
fn is_local(host: &[u8]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let v6 = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<Ipv4Addr>().is_ok()
        || v6.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
}

/// Reads the first request in `bytes`; what follows it (a body, a pipelined request) is not looked at.
pub fn parse(bytes: &[u8], accepted: Hosts) -> Parsed {
    // A server should ignore empty lines before the request (RFC 9112 section 2.2); at most one is.
    let bytes = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    // What TLS, or noise on the wrong port, begins with is told at once.
    if bytes.first().is_some_and(|b| !b.is_ascii_uppercase()) && bytes != b"\r" {
        return Parsed::Refused(Status::BadRequest);
    }
    let mut lines = Lines(bytes.get(..MAX_REQUEST).unwrap_or(bytes));
    let Some(first) = lines.next() else {
        return unfinished(bytes);
    };
    let (method, target, has_host_rule, own_host) = match request_line(first) {
        Ok(parts) => parts,
        Err(status) => return Parsed::Refused(status),
    };
    let mut hosts = 0;
    let mut is_ours = own_host.is_none_or(|host| accepted.accept(host));
    for line in lines.by_ref() {
        if line.is_empty() {
            return match (method, target) {
                _ if has_host_rule && hosts != 1 => Parsed::Refused(Status::BadRequest),
                _ if !is_ours => Parsed::Refused(Status::MisdirectedRequest),
                (None, _) => Parsed::Refused(Status::MethodNotAllowed),
                (Some(_), None) => Parsed::Refused(Status::NotFound),
                (Some(method), Some(target)) => Parsed::Request(method, target),
            };
        }
        match field(line) {
            Some((name, value)) if name.eq_ignore_ascii_case(b"host") => {
                hosts += 1;
                is_ours &= accepted.accept(value.trim_ascii());
            }
            Some(_) => (),
            None => return Parsed::Refused(Status::BadRequest),
        }
    }
    unfinished(bytes)
}

fn unfinished(bytes: &[u8]) -> Parsed {
    if bytes.len() >= MAX_REQUEST {
        Parsed::Refused(Status::HeaderFieldsTooLarge)
    } else {
        Parsed::Incomplete
    }
}

/// Whole lines without their ends (LF, with or without CR before it: RFC 9112 section 2.2).
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = memchr::memchr(b'\n', self.0)?;
        let line = self.0.get(..end)?;
        self.0 = self.0.get(end + 1..)?;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

/// What a request line says.
type RequestLine<'a> = (Option<Method>, Option<Target>, bool, Option<&'a [u8]>);

/// Method, target, whether a Host field must be there (from HTTP/1.1 on), and the host of a target in absolute form.
/// `None` where it is not one of ours.
fn request_line(line: &[u8]) -> Result<RequestLine<'_>, Status> {
    let mut words = line.split(|b| *b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Status::BadRequest);
    };
    if method.is_empty() || !method.iter().all(is_token) || !target.iter().all(u8::is_ascii_graphic)
    {
        return Err(Status::BadRequest);
    }
    let has_host_rule = match version {
        b"HTTP/1.0" => false,
        b"HTTP/1.1" => true,
        _ if version.starts_with(b"HTTP/") => return Err(Status::VersionNotSupported),
        _ => return Err(Status::BadRequest),
    };
    let method = match method {
        b"GET" => Some(Method::Get),
        b"HEAD" => Some(Method::Head),
        _ => None,
    };
    let (host, target) = parts_of(target);
    Ok((method, Target::of(target), has_host_rule, host))
}

/// The host of a target in absolute form, and the path of one in origin or absolute form (RFC 9112 section 3.2) without
/// its query.
fn parts_of(target: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let (host, target) = match target.strip_prefix(b"http://") {
        Some(rest) => {
            let end = memchr::memchr(b'/', rest).unwrap_or(rest.len());
            let (host, path) = rest.split_at(end);
            (Some(host), if path.is_empty() { b"/" } else { path })
        }
        None => (None, target),
    };
    (host, target.split(|b| *b == b'?').next().unwrap_or(target))
}

/// Name and value of a header field; `None` for what is none (folded lines are obsolete: RFC 9112 section 5.2).
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, rest) = line.split_at_checked(memchr::memchr(b':', line)?)?;
    let value = rest.strip_prefix(b":")?;
    let is_value = |b: &u8| *b == b'\t' || (*b >= b' ' && *b != 127);
    (!name.is_empty() && name.iter().all(is_token) && value.iter().all(is_value))
        .then_some((name, value))
}

/// A character of a token (RFC 9110 section 5.6.2).
fn is_token(b: &u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b)
}

/// The head of an answer with a body of `length` bytes; the connection ends with it.
pub fn head(status: Status, content_type: &str, length: usize) -> String {
    let mut out = String::with_capacity(384);
    let (code, reason) = (status as u16, status.reason());
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "HTTP/1.1 {code} {reason}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\
         Connection: close\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n"
    );
    out.push_str(match status {
        Status::MethodNotAllowed => "Allow: GET, HEAD\r\n",
        Status::ServiceUnavailable => "Retry-After: 10\r\n",
        // The page needs its own style and nothing else; nothing may be loaded, framed or sent anywhere.
        _ if content_type.starts_with("text/html") || content_type.starts_with("image/svg") => {
            "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; \
             base-uri 'none'; form-action 'none'\r\nReferrer-Policy: no-referrer\r\n"
        }
        _ => "",
    });
    out.push_str("\r\n");
    out
}

/// Reads the parameter `listen`; empty is off.
///
/// # Errors
/// A whole sentence for the operator.
pub fn parse_listen(text: &str) -> Result<Option<SocketAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() > 0 => Ok(Some(address)),
        _ => Err(format!(
            "parameter listen is \"{text}\", but accepts ADDRESS:PORT with a number for each, IPv6 in brackets: \
             127.0.0.1:9494, [::1]:9494"
        )),
    }
}
