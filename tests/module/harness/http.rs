//! A client for one HTTP request per connection.
//! Forbidden here: waiting longer than the limit, keeping a connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Response {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// `GET path`; `None` when there is no whole answer within `limit`.
pub fn get(server: SocketAddr, path: &str, limit: Duration) -> Option<Response> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    exchange(server, request.as_bytes(), limit)
}

/// Sends bytes and reads until the server closes; `None` when it does not within `limit`, or answers no HTTP.
pub fn exchange(server: SocketAddr, request: &[u8], limit: Duration) -> Option<Response> {
    let mut stream = TcpStream::connect_timeout(&server, limit).ok()?;
    stream.set_write_timeout(Some(limit)).ok()?;
    stream.write_all(request).ok()?;
    response(&mut stream, limit)
}

/// Reads an answer up to the server's close.
pub fn response(stream: &mut TcpStream, limit: Duration) -> Option<Response> {
    let end = Instant::now() + limit;
    let mut bytes = Vec::new();
    let mut part = [0; 65_536];
    loop {
        let left = end.checked_duration_since(Instant::now())?;
        stream
            .set_read_timeout(Some(left.max(Duration::from_millis(1))))
            .ok()?;
        match stream.read(&mut part).ok()? {
            0 => break,
            count => bytes.extend_from_slice(&part[..count]),
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    Some(Response {
        status,
        head: head.to_owned(),
        body: body.to_owned(),
    })
}
