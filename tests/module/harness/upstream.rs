//! A registrar of the test's own: a UDP socket that answers as a test says, where a real one cannot answer that way.
//! Forbidden here: addresses beyond loopback; a socket or thread that outlives the test.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::sip::unique;

/// How often the socket looks whether the test is over.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A request as it came through the proxy.
#[derive(Clone, Debug)]
pub struct Received {
    pub text: String,
    pub from: SocketAddr,
}

impl Received {
    /// The values of all headers of this name, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let lines = self
            .text
            .split("\r\n")
            .skip(1)
            .take_while(|l| !l.is_empty());
        let headers = lines.filter_map(|line| line.split_once(':'));
        let same = headers.filter(|(n, _)| n.trim().eq_ignore_ascii_case(name));
        same.map(|(_, value)| value.trim()).collect()
    }

    pub fn header(&self, name: &str) -> &str {
        self.all(name).first().copied().unwrap_or_default()
    }

    /// A reply to it (RFC 3261 8.2.6) with further header lines.
    pub fn reply(&self, code: u16, headers: &[String]) -> String {
        reply_text(code, &self.all("Via"), self, headers)
    }

    /// As [`Received::reply`], with other Via values.
    pub fn reply_by(&self, code: u16, vias: &[&str], headers: &[String]) -> String {
        reply_text(code, vias, self, headers)
    }
}

fn reply_text(code: u16, vias: &[&str], of: &Received, headers: &[String]) -> String {
    let mut text = format!("SIP/2.0 {code} Answer\r\n");
    let mut line = |name: &str, value: &str| text += &format!("{name}: {value}\r\n");
    vias.iter().for_each(|via| line("Via", via));
    line("From", of.header("From"));
    let to = of.header("To");
    let tag = if to.contains(";tag=") {
        String::new()
    } else {
        format!(";tag=u{}", unique())
    };
    line("To", &format!("{to}{tag}"));
    line("Call-ID", of.header("Call-ID"));
    line("CSeq", of.header("CSeq"));
    for header in headers {
        text += &format!("{header}\r\n");
    }
    text + "Content-Length: 0\r\n\r\n"
}

/// The running registrar.
pub struct Upstream {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    socket: UdpSocket,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    /// `answer` gives the replies to each request, in order; none: it stays unanswered (until [`Upstream::send`]).
    pub fn start(mut answer: impl FnMut(&Received) -> Vec<String> + Send + 'static) -> Upstream {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
        socket
            .set_read_timeout(Some(LOOK_EVERY))
            .expect("a limit above zero");
        let received = Arc::new(Mutex::new(Vec::new()));
        let is_over = Arc::new(AtomicBool::new(false));
        let (own, list, over) = (
            socket.try_clone().expect("a second handle"),
            Arc::clone(&received),
            Arc::clone(&is_over),
        );
        let work = move || {
            let mut buffer = [0; 65_535];
            // ORDERING: Relaxed; nothing else is told by it.
            while !over.load(Ordering::Relaxed) {
                let Ok((length, from)) = own.recv_from(&mut buffer) else {
                    continue;
                };
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if !text.starts_with("REGISTER ") {
                    continue;
                }
                let request = Received { text, from };
                let replies = answer(&request);
                list.lock().expect("nobody panics with it").push(request);
                for reply in replies {
                    let _ = own.send_to(reply.as_bytes(), from);
                }
            }
        };
        Upstream {
            address: socket.local_addr().expect("a bound socket has an address"),
            received,
            socket,
            is_over,
            thread: Some(std::thread::spawn(work)),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// All requests that came until now.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().expect("nobody panics with it").clone()
    }

    /// Sends from the registrar's own socket.
    pub fn send(&self, to: SocketAddr, text: &str) {
        self.socket
            .send_to(text.as_bytes(), to)
            .expect("loopback takes a datagram");
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        // ORDERING: Relaxed; the join below orders everything.
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
