//! One client: its request until it is whole, its answer until it is sent, then the end.
//! Forbidden here: blocking; more than MAX_REQUEST bytes kept of a request; a client that stays longer than its time.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::guard::formats::http::{self, Hosts, MAX_REQUEST, Parsed, Status};
use crate::host::outputs::serve::answers::Answers;

/// Time for the request, and again for the answer.
const LIMIT: Duration = Duration::from_secs(5);
/// Time to read the rest of what a client sent: closing before would let the kernel throw the answer away.
const LINGER: Duration = Duration::from_secs(1);
/// Bytes of that rest that are read.
const MAX_REST: usize = 65_536;
/// Bytes that are read or written in one turn.
const PART: usize = 65_536;

/// An accepted connection.
pub struct Connection {
    stream: TcpStream,
    state: State,
    deadline: Instant,
    hosts: Hosts,
}

enum State {
    Reading(Vec<u8>),
    Writing(Answer),
    Ending { room: usize },
}

/// An answer on its way. Bodies are shared by the clients that get the same one.
pub struct Answer {
    head: Vec<u8>,
    body: Rc<[u8]>,
    sent: usize,
}

impl Answer {
    /// With a body.
    pub fn new(status: Status, content_type: &str, body: Rc<[u8]>) -> Answer {
        Answer {
            head: http::head(status, content_type, body.len()).into_bytes(),
            body,
            sent: 0,
        }
    }

    /// A refusal that says its own name.
    pub fn of(status: Status) -> Answer {
        let body = match status {
            Status::MisdirectedRequest => format!(
                "{} {}: on a loopback address memguard answers to localhost and to IP addresses only; ask for one of \
                 them (the Host field)\n",
                status as u16,
                status.reason()
            ),
            _ => format!("{} {}\n", status as u16, status.reason()),
        };
        Answer::new(
            status,
            "text/plain; charset=utf-8",
            body.into_bytes().into(),
        )
    }

    /// A refusal with a sentence.
    pub fn saying(status: Status, sentence: &str) -> Answer {
        Answer::new(
            status,
            "text/plain; charset=utf-8",
            format!("{sentence}\n").into_bytes().into(),
        )
    }

    /// The same head without the body (RFC 9110 section 9.3.2).
    pub fn without_body(mut self) -> Answer {
        self.body = Rc::new([]);
        self
    }

    fn rest(&self) -> &[u8] {
        let rest = match self.sent.checked_sub(self.head.len()) {
            None => self.head.get(self.sent..),
            Some(sent) => self.body.get(sent..),
        };
        let rest = rest.unwrap_or_default();
        rest.get(..PART).unwrap_or(rest)
    }
}

impl Connection {
    /// Of a socket just accepted, and the names of this server that it may use.
    ///
    /// # Errors
    /// Where the socket cannot be set up.
    pub fn new(stream: TcpStream, hosts: Hosts) -> std::io::Result<Connection> {
        stream.set_nonblocking(true)?;
        // The end of an answer must not wait for the acknowledgement of its beginning.
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            state: State::Reading(Vec::new()),
            deadline: Instant::now() + LIMIT,
            hosts,
        })
    }

    /// For poll.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// What it waits for.
    pub fn wants_to_write(&self) -> bool {
        matches!(self.state, State::Writing(_))
    }

    /// Whether its time is over.
    pub fn is_over(&self, now: Instant) -> bool {
        now >= self.deadline
    }

    /// Goes on as far as it can without waiting; false when it is done.
    pub fn turn(&mut self, answers: &mut Answers) -> bool {
        loop {
            let next = match &mut self.state {
                State::Reading(request) => read(&mut self.stream, request, self.hosts)
                    .map(|parsed| parsed.map(|p| (State::Writing(answers.to(p)), LIMIT))),
                State::Writing(answer) => write(&mut self.stream, answer).map(|done| {
                    done.then_some((State::Ending { room: MAX_REST }, LINGER))
                        .filter(|_| self.stream.shutdown(Shutdown::Write).is_ok())
                }),
                State::Ending { room } => {
                    return discard(&mut self.stream, room).is_some();
                }
            };
            match next {
                None => return false,
                Some(None) => return true,
                Some(Some((state, limit))) => {
                    self.state = state;
                    self.deadline = Instant::now() + limit;
                }
            }
        }
    }
}

/// Reads on: `None` when the client is gone, `Some(None)` when it has to be waited for.
fn read(stream: &mut TcpStream, request: &mut Vec<u8>, hosts: Hosts) -> Option<Option<Parsed>> {
    let mut part = [0; MAX_REQUEST];
    loop {
        let room = part.get_mut(..MAX_REQUEST.saturating_sub(request.len()))?;
        match stream.read(room) {
            Ok(0) => return None,
            Ok(count) => {
                request.extend_from_slice(room.get(..count).unwrap_or_default());
                match http::parse(request, hosts) {
                    Parsed::Incomplete => (),
                    whole => return Some(Some(whole)),
                }
            }
            Err(e) => return waits(e.kind()).then_some(None),
        }
    }
}

/// Writes on: `None` when the client is gone, else whether all is sent.
fn write(stream: &mut TcpStream, answer: &mut Answer) -> Option<bool> {
    while !answer.rest().is_empty() {
        match stream.write(answer.rest()) {
            Ok(0) => return None,
            Ok(count) => answer.sent += count,
            Err(e) => return waits(e.kind()).then_some(false),
        }
    }
    Some(true)
}

/// Reads and forgets: `None` when the client has closed, too, or sends without an end.
fn discard(stream: &mut TcpStream, room: &mut usize) -> Option<()> {
    let mut part = [0; MAX_REQUEST];
    loop {
        match stream.read(&mut part) {
            Ok(0) => return None,
            Ok(count) => *room = room.checked_sub(count)?,
            Err(e) => return waits(e.kind()).then_some(()),
        }
    }
}

fn waits(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
