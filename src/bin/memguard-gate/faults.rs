//! --faults: each allocation of one request of each scenario fails in turn, in one worker.
//! Forbidden here: deciding which allocation fails (the module does); a sweep without an end.
//!
//! After each: the server is alive, the next request is served, and the worker's private memory is what it was (asked
//! twice, as a first time may fill a cache). After all: shared memory is what it was. A server that dies is told with
//! allocation, place, line and signal, and the sweep goes on with a new one.

use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::failure::{Failure, not_run};
use crate::options::Options;
use crate::process::pause;
use crate::progress::Progress;
use crate::server::Server;
use crate::snapshot::{Snapshot, wait_for_quiet};

/// Methods of which one request is sent.
const METHODS: [&str; 3] = ["OPTIONS", "REGISTER", "INVITE"];
/// No request makes more allocations than this; a sweep ends here.
const MOST: u64 = 3000;
/// Deaths after which a method is left: the point is made.
const MOST_DEATHS: usize = 10;
/// A request without an answer is given up after this; with a failed allocation many have none.
const ANSWER: Duration = Duration::from_millis(400);
/// A request that must be served is sent again until then.
const SERVED: Duration = Duration::from_secs(5);
/// A server that serves nothing any more may be dying: a core is written first, and a busy machine takes its time.
const DYING: Duration = Duration::from_secs(20);

/// What did not hold when an allocation failed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fault {
    /// Method of the request.
    pub scenario: String,
    /// Which allocation of the request, from 1; 0: all of them together.
    pub number: u64,
    /// The place that asked for it.
    pub place: String,
    /// The line of the configuration; empty: none.
    pub cfg: String,
    /// What happened.
    pub what: String,
}

impl Fault {
    /// One sentence.
    pub fn sentence(&self) -> String {
        if self.number == 0 {
            return format!(
                "{}: when each allocation has failed once, {}",
                self.scenario, self.what
            );
        }
        let from = if self.cfg.is_empty() {
            String::new()
        } else {
            format!(", from {}", self.cfg)
        };
        format!(
            "{}: when allocation {} fails ({}{from}), {}",
            self.scenario, self.number, self.place, self.what
        )
    }

    /// For --json.
    pub fn json(&self) -> Value {
        json!({ "scenario": self.scenario, "allocation": self.number, "place": self.place, "cfg": self.cfg, "what": self.what })
    }
}

/// Fails them all; what was found, and how many were failed.
///
/// # Errors
/// It cannot be run.
pub fn sweep(
    options: &Options,
    progress: Progress,
    folder: &Path,
) -> Result<(Vec<Fault>, u64), Failure> {
    let (mut found, mut count) = (Vec::new(), 0);
    for method in METHODS {
        let mut next = 1;
        let mut deaths = 0;
        while let Some(from) = Some(next).filter(|_| deaths < MOST_DEATHS) {
            let mut bench = Bench::new(options, folder, method)?;
            match bench.sweep(from, options, &mut found, &mut count) {
                Ok(()) => break,
                Err(Failure::Died(story)) => {
                    let mut fault = bench.last.clone();
                    fault.what = format!("the server dies ({})", signal(&story));
                    next = fault.number + 1;
                    found.push(fault);
                    deaths += 1;
                }
                Err(failure) => return Err(failure),
            }
        }
        progress.say(format!(
            "faults: {method}: {count} allocations failed so far, {} faults",
            found.len()
        ));
    }
    Ok((found, count))
}

/// "signal 11" out of a story.
fn signal(story: &str) -> String {
    let rest = story.split("exited by a signal").nth(1).unwrap_or_default();
    let number: String = rest
        .chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    match number.is_empty() {
        true => "how, its log does not say".into(),
        false => format!("signal {number}"),
    }
}

/// A server with one worker, and a socket that talks to it.
struct Bench {
    server: Server,
    socket: UdpSocket,
    method: &'static str,
    worker: u64,
    sent: u64,
    /// The allocation that was armed last.
    last: Fault,
}

impl Bench {
    fn new(options: &Options, folder: &Path, method: &'static str) -> Result<Bench, Failure> {
        let mut server = Server::start(options, folder, true)?;
        if server.target.transport != "udp" {
            return Err(not_run(
                "--faults sends its requests over UDP: give the configuration a UDP socket",
            ));
        }
        let said = |e: std::io::Error| not_run(e.to_string());
        let socket = UdpSocket::bind((server.target.host.as_str(), 0)).map_err(said)?;
        socket.connect(server.target.address()).map_err(said)?;
        let worker = udp_worker(&mut server)?;
        let mut bench = Bench {
            server,
            socket,
            method,
            worker,
            sent: 0,
            last: Fault::default(),
        };
        for _ in 0..4 {
            bench.is_served(method)?; // caches of the first requests
        }
        Ok(bench)
    }

    fn sweep(
        &mut self,
        from: u64,
        options: &Options,
        found: &mut Vec<Fault>,
        count: &mut u64,
    ) -> Result<(), Failure> {
        let quiet = Duration::from_secs(options.quiet);
        wait_for_quiet(&mut self.server, quiet)?;
        let before = Snapshot::take(&mut self.server)?;
        let mut is_cut = true;
        for n in from..MOST {
            if !self.fail(n)? {
                is_cut = false;
                break;
            }
            *count += 1;
            self.must_be_served(found)?;
            let held = self.pkg()?;
            self.fail(n)?;
            self.must_be_served(found)?;
            let kept = self.pkg()? - held;
            if kept > 0 && self.keeps_again(n)? {
                let mut fault = self.last.clone();
                fault.what = format!("{kept} bytes of the worker's private memory are kept");
                found.push(fault);
            }
        }
        wait_for_quiet(&mut self.server, quiet)?;
        let after = Snapshot::take(&mut self.server)?;
        for (place, held) in &after.shm {
            let grown = held.blocks - before.shm.get(place).map_or(0, |h| h.blocks);
            // One block may be a cache; bindings that the requests left are alive for a reason.
            if grown > 3 && !before.alive.contains_key(place.module.as_str()) {
                found.push(Fault {
                    scenario: self.method.into(),
                    what: format!(
                        "{grown} blocks of shared memory are kept by {} {} ({}:{})",
                        place.module, place.function, place.file, place.line
                    ),
                    ..Fault::default()
                });
            }
        }
        match is_cut {
            true => Err(not_run(format!(
                "one {} makes more than {MOST} allocations",
                self.method
            ))),
            false => Ok(()),
        }
    }

    /// Whether the same failure keeps something a third time; fm's blocks have other sizes each time.
    fn keeps_again(&mut self, n: u64) -> Result<bool, Failure> {
        let before = self.pkg()?;
        self.fail(n)?;
        self.is_served(self.method)?;
        Ok(self.pkg()? > before)
    }

    /// Sends one request whose allocation `n` fails; false when it made fewer.
    fn fail(&mut self, n: u64) -> Result<bool, Failure> {
        self.drain();
        self.server
            .call("memguard.fault", &[json!(self.worker), json!(n)])?;
        self.last = Fault {
            scenario: self.method.into(),
            number: n,
            ..Fault::default()
        };
        self.send(self.method)?;
        let began = Instant::now();
        let mut outcome;
        loop {
            let answered = self.answer(Duration::from_millis(20));
            outcome = self
                .server
                .try_call("memguard.fault", &[])
                .unwrap_or(Value::Null);
            if let Some(function) = outcome["function"].as_str().filter(|f| !f.is_empty()) {
                let file = outcome["file"].as_str().unwrap_or_default();
                self.last.place = format!("{function}, {file}:{}", outcome["line"]);
                self.last.cfg = outcome["cfg"].as_str().unwrap_or_default().into();
            }
            if answered || outcome["failed"] == 1 || began.elapsed() > ANSWER {
                break;
            }
        }
        // A crash is seen when the main process has seen it.
        if outcome["failed"] == 1 {
            self.answer(Duration::from_millis(30));
        }
        self.server.lives("when an allocation failed")?;
        self.server
            .call("memguard.fault", &[json!(self.worker), json!(0)])?;
        Ok(outcome["failed"] == 1)
    }

    fn must_be_served(&mut self, found: &mut Vec<Fault>) -> Result<(), Failure> {
        if !self.is_served(self.method)? {
            let began = Instant::now();
            while began.elapsed() < DYING {
                self.server.lives("after an allocation had failed")?;
                pause(Duration::from_millis(100))?;
            }
            let mut fault = self.last.clone();
            fault.what = "the next request gets no answer".into();
            found.push(fault);
        }
        Ok(())
    }

    /// Sends a request until it is answered.
    fn is_served(&mut self, method: &'static str) -> Result<bool, Failure> {
        self.drain();
        let began = Instant::now();
        while began.elapsed() < SERVED {
            self.send(method)?;
            if self.answer(ANSWER) {
                return Ok(true);
            }
            self.server.lives("after an allocation had failed")?;
        }
        Ok(false)
    }

    fn send(&mut self, method: &str) -> Result<(), Failure> {
        self.sent += 1;
        let to = self.server.target.address();
        let own = self
            .socket
            .local_addr()
            .map_or(String::new(), |a| a.to_string());
        let id = format!("f{}-{}", std::process::id(), self.sent);
        let (user, more) = match method {
            "OPTIONS" => (String::new(), String::new()),
            "REGISTER" => ("gatefault@".to_owned(), "Expires: 600\r\n".to_owned()),
            _ => ("gatefault@".to_owned(), String::new()),
        };
        let uri = if method == "REGISTER" {
            format!("sip:{to}")
        } else {
            format!("sip:{user}{to}")
        };
        let text = format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {own};rport;branch=z9hG4bK{id}\r\nMax-Forwards: 70\r\n\
             From: <sip:gatefault@{to}>;tag={id}\r\nTo: <sip:{user}{to}>\r\nCall-ID: {id}\r\nCSeq: 1 {method}\r\n\
             Contact: <sip:gatefault@127.0.0.1:9>\r\n{more}User-Agent: memguard-gate\r\nContent-Length: 0\r\n\r\n"
        );
        self.socket
            .send(text.as_bytes())
            .map_err(|e| not_run(e.to_string()))?;
        Ok(())
    }

    /// Whether something final arrives within this time; an INVITE's final answer is acknowledged.
    fn answer(&mut self, within: Duration) -> bool {
        let began = Instant::now();
        let mut buffer = [0; 4096];
        while began.elapsed() < within {
            let _ = self
                .socket
                .set_read_timeout(Some(within.max(Duration::from_millis(1))));
            let Ok(length) = self.socket.recv(&mut buffer) else {
                return false;
            };
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.starts_with("SIP/2.0 1") || !text.starts_with("SIP/2.0 ") {
                continue;
            }
            if self.method == "INVITE" {
                self.acknowledge(&text);
            }
            return true;
        }
        false
    }

    fn acknowledge(&self, reply: &str) {
        let header = |name: &str| {
            reply
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap_or_default()
        };
        let to = self.server.target.address();
        let text = format!(
            "ACK sip:gatefault@{to} SIP/2.0\r\n{}\r\nMax-Forwards: 70\r\n{}\r\n{}\r\n{}\r\nCSeq: 1 ACK\r\nContent-Length: 0\r\n\r\n",
            header("Via:"),
            header("From:"),
            header("To:"),
            header("Call-ID:")
        );
        let _ = self.socket.send(text.as_bytes());
    }

    fn drain(&mut self) {
        let _ = self.socket.set_read_timeout(Some(Duration::from_millis(1)));
        while self.socket.recv(&mut [0; 4096]).is_ok() {}
    }

    /// Private memory of the worker, when it stands still.
    fn pkg(&mut self) -> Result<i64, Failure> {
        let mut before = -1;
        for _ in 0..20 {
            let answer = self
                .server
                .call("memguard.workers", &[json!("index"), json!(self.worker)])?;
            let row = answer.get(0).unwrap_or(&answer);
            let live = row["pkg_live"].as_f64().unwrap_or(0.0) as i64;
            if live == before {
                break;
            }
            before = live;
            pause(Duration::from_millis(2))?;
        }
        Ok(before)
    }
}

/// The one process that receives UDP.
fn udp_worker(server: &mut Server) -> Result<u64, Failure> {
    let now = Snapshot::take(server)?;
    let mut all = now
        .workers
        .iter()
        .filter(|w| w.name.starts_with("udp receiver"));
    let port = format!(":{}", server.target.port);
    let best = all
        .clone()
        .find(|w| w.name.contains(&port))
        .or_else(|| all.next());
    best.map(|w| w.index)
        .ok_or_else(|| not_run("no process receives UDP, so no request can be followed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signal_is_read_out_of_the_story() {
        let story = "0(1) ALERT: <core> [main.c:774]: handle_sigs(): child process 12 exited by a signal 11";
        assert_eq!(signal(story), "signal 11");
        assert_eq!(signal("nothing"), "how, its log does not say");
    }
}
