//! A SIP client over one TCP connection.
//! Forbidden here: addresses beyond loopback.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{Connection, LIMIT, Reply, Request, read_more};

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

    pub fn try_request(&mut self, request: &Request, limit: Duration) -> Option<Reply> {
        Connection::try_request(self, request, limit)
    }

    #[track_caller]
    pub fn request(&mut self, request: &Request) -> Reply {
        Connection::request(self, request)
    }
}

impl Connection for Tcp {
    fn send(&mut self, request: &Request) -> std::io::Result<()> {
        self.send_raw(&request.bytes("TCP", self.local()))
    }

    fn receive(&mut self, limit: Duration) -> Option<Reply> {
        let end = Instant::now() + limit;
        loop {
            if let Some(length) = whole_message(&self.received) {
                let message: Vec<u8> = self.received.drain(..length).collect();
                return Reply::parse(&message);
            }
            read_more(&mut self.stream, &mut self.received, end)?;
        }
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
