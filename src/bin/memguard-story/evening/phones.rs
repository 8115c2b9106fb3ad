//! The evening's phones: one socket, as many phones as the hour has; each registers, refreshes, and goes.
//! Forbidden here: traffic beyond 127.0.0.1.

use std::collections::VecDeque;
use std::net::UdpSocket;

use crate::Failure;

/// Phones at the begin.
pub const USUAL: usize = 1000;
/// Between two refreshes of a phone, seconds of the fast clock.
pub const REFRESH_S: f64 = 840.0;
/// What they ask for; one that goes is forgotten so much later.
const EXPIRES_S: u32 = 1800;
/// More than this at once would be a burst that nobody sends.
const MOST_AT_ONCE: usize = 20;

struct Phone {
    number: u32,
    sequence: u32,
    due_s: f64,
}

/// All of them.
pub struct Phones {
    socket: UdpSocket,
    port: u16,
    /// The one that is due next is in front.
    alive: VecDeque<Phone>,
    next_number: u32,
}

/// How many there are at a time since the begin: the evening's curve.
fn wanted(at_s: f64) -> usize {
    let hour = at_s / 3_600.0;
    USUAL + (150.0 * (hour / 3.0 * std::f64::consts::PI).sin().max(0.0)) as usize
}

impl Phones {
    /// Sends to the server's port.
    ///
    /// # Errors
    /// No socket.
    pub fn new(port: u16) -> Result<Phones, Failure> {
        let said = |e: std::io::Error| format!("a socket for the phones: {e}");
        let socket = UdpSocket::bind("127.0.0.1:0").map_err(said)?;
        socket.connect(("127.0.0.1", port)).map_err(said)?;
        socket.set_nonblocking(true).map_err(said)?;
        Ok(Phones {
            socket,
            port,
            alive: VecDeque::new(),
            next_number: 0,
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.alive.len()
    }

    /// Sends what is due and reads what came. An answer changes nothing: who is refused asks again at the next refresh.
    ///
    /// # Errors
    /// Nothing can be sent.
    pub fn work(&mut self, at_s: f64) -> Result<(), Failure> {
        let mut buffer = [0; 2048];
        while self.socket.recv(&mut buffer).is_ok() {}
        // At the begin they come evenly over one refresh, so that their refreshes are even.
        let ramp = (at_s / REFRESH_S).min(1.0);
        let wanted = (wanted(at_s) as f64 * ramp) as usize;
        while self.alive.len() > wanted {
            self.alive.pop_back();
        }
        let mut sent = 0;
        while self.alive.len() < wanted && sent < MOST_AT_ONCE {
            let mut phone = Phone {
                number: self.next_number,
                sequence: 0,
                due_s: at_s,
            };
            self.next_number += 1;
            self.send(&mut phone)?;
            phone.due_s = at_s + REFRESH_S;
            self.alive.push_back(phone);
            sent += 1;
        }
        while sent < MOST_AT_ONCE && self.alive.front().is_some_and(|phone| phone.due_s <= at_s) {
            let Some(mut phone) = self.alive.pop_front() else {
                break;
            };
            self.send(&mut phone)?;
            phone.due_s += REFRESH_S;
            self.alive.push_back(phone);
            sent += 1;
        }
        Ok(())
    }

    fn send(&self, phone: &mut Phone) -> Result<(), Failure> {
        phone.sequence += 1;
        let (number, sequence, server) = (phone.number, phone.sequence, self.port);
        let own = self.socket.local_addr().map_or(0, |address| address.port());
        let text = format!(
            "REGISTER sip:127.0.0.1:{server} SIP/2.0\r\n\
             Via: SIP/2.0/UDP 127.0.0.1:{own};branch=z9hG4bK{number}.{sequence}\r\n\
             From: <sip:phone{number}@127.0.0.1>;tag={number}\r\n\
             To: <sip:phone{number}@127.0.0.1>\r\n\
             Call-ID: evening-{number}@127.0.0.1\r\n\
             CSeq: {sequence} REGISTER\r\n\
             Contact: <sip:phone{number}@127.0.0.1:{own}>\r\n\
             Expires: {EXPIRES_S}\r\n\
             Max-Forwards: 70\r\n\
             User-Agent: a phone\r\n\
             Content-Length: 0\r\n\r\n"
        );
        match self.socket.send(text.as_bytes()) {
            Ok(_) => Ok(()),
            // A full buffer loses a datagram, as a network does.
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(format!("a phone cannot send: {e}")),
        }
    }
}
