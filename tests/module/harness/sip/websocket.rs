//! A SIP client over one WebSocket (RFC 7118): the handshake, and text frames that are whole messages.
//! Forbidden here: addresses beyond loopback; fragments, and control frames beyond skipping them.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{Connection, LIMIT, Reply, Request, read_more};

/// A client over one WebSocket.
pub struct WebSocket {
    stream: TcpStream,
    received: Vec<u8>,
    /// The transport that its Via names.
    via: &'static str,
}

impl WebSocket {
    /// Opens one; an error also when the server does not switch protocols.
    pub fn try_to(server: SocketAddr) -> Result<WebSocket> {
        WebSocket::open(server, "WS")
    }

    /// As `try_to`, where `server` is the near end of a tunnel through TLS.
    pub fn try_through(tunnel: SocketAddr) -> Result<WebSocket> {
        WebSocket::open(tunnel, "WSS")
    }

    fn open(server: SocketAddr, via: &'static str) -> Result<WebSocket> {
        assert!(server.ip().is_loopback(), "tests talk to loopback only");
        let stream = TcpStream::connect_timeout(&server, LIMIT)?;
        stream.set_nodelay(true)?;
        let mut socket = WebSocket {
            stream,
            received: Vec::new(),
            via,
        };
        // The key is RFC 6455's own example; nobody caches here, so it may always be the same.
        let hello = format!(
            "GET / HTTP/1.1\r\nHost: {server}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: sip\r\n\
             Sec-WebSocket-Version: 13\r\nOrigin: http://example.test\r\nContent-Length: 0\r\n\r\n"
        );
        socket.stream.write_all(hello.as_bytes())?;
        let end = Instant::now() + LIMIT;
        let head = loop {
            if let Some(at) = socket.received.windows(4).position(|w| w == b"\r\n\r\n") {
                break socket.received.drain(..at + 4).collect::<Vec<u8>>();
            }
            read_more(&mut socket.stream, &mut socket.received, end)
                .ok_or_else(|| Error::from(ErrorKind::ConnectionAborted))?;
        };
        match head.starts_with(b"HTTP/1.1 101 ") {
            true => Ok(socket),
            false => Err(Error::other(String::from_utf8_lossy(&head).into_owned())),
        }
    }

    /// The payload of the next text or binary frame that is here as a whole.
    fn next_message(&mut self) -> Option<Vec<u8>> {
        loop {
            let (opcode, start, length) = frame(&self.received)?;
            let frame: Vec<u8> = self.received.drain(..start + length).collect();
            if opcode == 1 || opcode == 2 {
                return Some(frame[start..].to_vec());
            }
        }
    }
}

/// Opcode, begin and length of the payload of the first frame, when it is here as a whole (RFC 6455 5.2; a server
/// does not mask).
fn frame(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (start, length) = match second & 0x7f {
        126 => (
            4,
            usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?])),
        ),
        127 => return None, // no SIP reply is that long
        short => (2, usize::from(short)),
    };
    (bytes.len() >= start + length).then_some((first & 0x0f, start, length))
}

impl Connection for WebSocket {
    fn send(&mut self, request: &Request) -> Result<()> {
        const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
        let local = self.stream.local_addr()?;
        let payload = request.bytes(self.via, local);
        let length = u16::try_from(payload.len()).expect("a small message");
        let mut frame = vec![0x81, 0x80 | 126];
        frame.extend(length.to_be_bytes());
        frame.extend(MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(b, m)| b ^ m));
        self.stream.write_all(&frame)
    }

    fn receive(&mut self, limit: Duration) -> Option<Reply> {
        let end = Instant::now() + limit;
        loop {
            if let Some(message) = self.next_message() {
                return Reply::parse(&message);
            }
            read_more(&mut self.stream, &mut self.received, end)?;
        }
    }
}
