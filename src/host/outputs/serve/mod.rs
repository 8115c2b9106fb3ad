//! HTTP of the sampling process (parameter `listen`): the listening socket, and a loop of poll(2) in the sampler's pauses.
//! Forbidden here: Kamailio's pools, locks and log; threads; blocking on a client; a socket that another process keeps.

mod answers;
mod connection;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::guard::formats::http::Hosts;
use crate::host::outputs::serve::{answers::Answers, connection::Connection};

/// Clients at the same time; a further one takes the place of the one that came first.
const MAX_CONNECTIONS: usize = 32;
/// Clients that are accepted before those that are there get their turn.
const ACCEPTED_AT_ONCE: usize = 8;
/// No accepting for this long after it failed (no file descriptors left): the socket stays readable meanwhile.
const PAUSE: Duration = Duration::from_millis(200);

/// The socket from `mod_init` until the sampling process takes it; every other process drops it.
static LISTENER: Mutex<Option<TcpListener>> = Mutex::new(None);

/// Opens the socket; before any fork, so that a port in use stops the start. It is closed on exec.
///
/// # Errors
/// A whole sentence for the operator.
pub fn open(address: SocketAddr) -> Result<(), String> {
    let listener = TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|e| format!("parameter listen: cannot listen on {address}: {e}"))?;
    if let Ok(mut slot) = LISTENER.lock() {
        *slot = Some(listener);
    }
    Ok(())
}

/// Takes the socket out of its place; dropping it closes it in this process only.
pub fn take() -> Option<TcpListener> {
    LISTENER.lock().ok()?.take()
}

/// The sampling process's server; without a socket it only waits.
pub struct Server {
    listener: Option<TcpListener>,
    hosts: Hosts,
    paused_until: Option<Instant>,
    connections: Vec<Connection>,
    answers: Answers,
    polled: Vec<libc::pollfd>,
    /// A panic came in between: what it left is not touched again.
    is_inside: bool,
}

impl Server {
    /// Serves on the socket that `open` opened, if it did.
    pub fn new() -> Server {
        let listener = take();
        let address = listener.as_ref().and_then(|l| l.local_addr().ok());
        Server {
            listener,
            hosts: address.map_or(Hosts::Local, Hosts::of),
            paused_until: None,
            connections: Vec::new(),
            answers: Answers::default(),
            polled: Vec::new(),
            is_inside: false,
        }
    }

    /// Serves for `length`, and returns then whatever clients do; earlier when a signal comes.
    pub fn wait(&mut self, length: Duration) {
        let start = Instant::now();
        if std::mem::replace(&mut self.is_inside, true) {
            self.connections.clear();
        }
        self.serve(start, length);
        self.is_inside = false;
    }

    fn serve(&mut self, start: Instant, length: Duration) {
        loop {
            let now = Instant::now();
            let passed = now.duration_since(start);
            if passed >= length {
                return;
            }
            self.connections.retain(|c| !c.is_over(now));
            match self.poll(length - passed, now) {
                Ok(()) => self.turn(),
                Err(e) if e.kind() == ErrorKind::Interrupted => return,
                Err(_) => return std::thread::sleep(length.saturating_sub(start.elapsed())),
            }
        }
    }

    /// Waits for the clients.
    fn poll(&mut self, timeout: Duration, now: Instant) -> std::io::Result<()> {
        self.polled.clear();
        self.paused_until = self.paused_until.filter(|end| *end > now);
        for listener in self.listener.iter().filter(|_| self.paused_until.is_none()) {
            self.polled.push(interest(listener, libc::POLLIN));
        }
        for connection in &self.connections {
            let events = if connection.wants_to_write() {
                libc::POLLOUT
            } else {
                libc::POLLIN
            };
            self.polled.push(interest(connection.stream(), events));
        }
        let milliseconds = timeout.as_millis().max(1).try_into().unwrap_or(1000);
        let count = self.polled.len() as libc::nfds_t;
        // SAFETY: pointer and length of our own vector.
        let ready = unsafe { libc::poll(self.polled.as_mut_ptr(), count, milliseconds) };
        if ready < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(())
    }

    /// One turn for everybody who is ready. Connections are polled in their order, after the listening socket.
    fn turn(&mut self) {
        let mut polled = self.polled.iter().map(|p| p.revents != 0);
        let is_calling = self.paused_until.is_none() && polled.next() == Some(true);
        let answers = &mut self.answers;
        self.connections
            .retain_mut(|connection| match polled.next() {
                Some(true) => connection.turn(answers),
                _ => true,
            });
        if is_calling {
            self.accept();
        }
    }

    fn accept(&mut self) {
        for _ in 0..ACCEPTED_AT_ONCE {
            let Some(listener) = &self.listener else {
                return;
            };
            match listener.accept() {
                Ok((stream, _)) => {
                    if self.connections.len() >= MAX_CONNECTIONS {
                        self.connections.remove(0);
                    }
                    // Most requests come with the connection: they are answered before anybody can take the place.
                    if let Ok(mut connection) = Connection::new(stream, self.hosts) {
                        if connection.turn(&mut self.answers) {
                            self.connections.push(connection);
                        }
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                // The client went away again.
                Err(e) if e.kind() == ErrorKind::ConnectionAborted => (),
                Err(_) => {
                    self.paused_until = Some(Instant::now() + PAUSE);
                    return;
                }
            }
        }
    }
}

fn interest(socket: &impl AsRawFd, events: libc::c_short) -> libc::pollfd {
    libc::pollfd {
        fd: socket.as_raw_fd(),
        events,
        revents: 0,
    }
}
