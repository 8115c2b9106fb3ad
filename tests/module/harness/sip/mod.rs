//! A tiny SIP client: builds requests, sends bytes over UDP, TCP or a WebSocket, reads replies; also thousands per second.
//! Forbidden here: addresses beyond loopback; understanding more of SIP than tests need.

mod message;
mod tcp;
mod udp;
mod websocket;

use std::io::{Read, Result};
use std::net::TcpStream;
use std::time::{Duration, Instant};

pub use message::{Reply, Request, unique};
pub use tcp::Tcp;
pub use udp::{Tally, Udp};
pub use websocket::WebSocket;

/// How long one request may wait for its final reply.
pub const LIMIT: Duration = Duration::from_secs(5);

/// A client over one connection of any kind.
pub trait Connection {
    fn send(&mut self, request: &Request) -> Result<()>;

    /// The next message within `limit`; `None` also when the server closed the connection.
    fn receive(&mut self, limit: Duration) -> Option<Reply>;

    /// The final reply; `None` when there is none within the limit.
    fn try_request(&mut self, request: &Request, limit: Duration) -> Option<Reply> {
        let end = Instant::now() + limit;
        self.send(request).ok()?;
        loop {
            let reply = self.receive(end.checked_duration_since(Instant::now())?)?;
            if reply.is_final() && reply.answers(request) {
                return Some(reply);
            }
        }
    }

    #[track_caller]
    fn request(&mut self, request: &Request) -> Reply {
        self.try_request(request, LIMIT)
            .unwrap_or_else(|| panic!("no final reply to {request:?}"))
    }
}

/// Appends what arrives next; `None` at `end` and when the server closes the connection.
fn read_more(stream: &mut TcpStream, received: &mut Vec<u8>, end: Instant) -> Option<()> {
    let left = end
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())?;
    stream.set_read_timeout(Some(left)).ok()?;
    let mut buffer = [0; 4096];
    let length = stream.read(&mut buffer).ok().filter(|&length| length > 0)?;
    received.extend_from_slice(&buffer[..length]);
    Some(())
}
