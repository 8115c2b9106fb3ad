//! What each path answers, made when it is asked for; a flood of requests gets answers that are up to a second old.
//! Forbidden here: sockets; Kamailio's pools, locks and log.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::guard::config::params::Int;
use crate::guard::formats::{
    http::{Method, Parsed, Status, Target},
    metrics, page,
    profile::flame,
};
use crate::guard::terms::words::Level;
use crate::host::commands::json;
use crate::host::kamailio::{own_memory, state};
use crate::host::outputs::serve::connection::Answer;
use crate::host::reports::{
    self, Now, measures, overview,
    profile::{self, Served},
};

/// Bodies that are made anew within one second, of all paths together; some 1 ms of CPU each.
const FRESH_PER_SECOND: u32 = 20;
const SECOND: Duration = Duration::from_secs(1);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json; charset=utf-8";
/// A profile for a program.
const BYTES: &str = "application/octet-stream";
/// What is said where `pprof` is 0.
const NO_PPROF: &str =
    "404 Not Found: profiles are served with modparam(\"memguard\", \"pprof\", 1)";

/// Paths whose bodies are kept for a second.
const KEPT: usize = 7;

/// The last body of each path that costs something.
#[derive(Default)]
pub struct Answers {
    kept: [Option<Rc<[u8]>>; KEPT],
    /// Start of the second that is counted in, and bodies made since then.
    second: Option<Instant>,
    made: u32,
}

impl Answers {
    /// The answer to what was asked.
    pub fn to(&mut self, parsed: Parsed) -> Answer {
        own_memory::scope(|| self.made(parsed)).unwrap_or_else(|own_memory::Short| {
            self.kept = [const { None }; KEPT];
            Answer::saying(Status::ServiceUnavailable, own_memory::SENTENCE)
        })
    }

    fn made(&mut self, parsed: Parsed) -> Answer {
        let (method, target) = match parsed {
            Parsed::Request(method, target) => (method, target),
            Parsed::Refused(status) => return Answer::of(status),
            Parsed::Incomplete => return Answer::of(Status::BadRequest),
        };
        let answer = match target {
            Target::Ready => ready(),
            Target::Metrics => {
                let body = self.text(0, measures::text);
                Answer::new(Status::Ok, metrics::CONTENT_TYPE, body)
            }
            Target::Status => Answer::new(Status::Ok, JSON, self.text(1, status)),
            Target::Page => {
                let body = self.text(2, || {
                    state::region().map_or_else(String::new, |region| {
                        overview::page(region, &overview::points(region)).html()
                    })
                });
                Answer::new(Status::Ok, page::CONTENT_TYPE, body)
            }
            Target::Paths => {
                let body = self.text(3, profile::picture);
                Answer::new(Status::Ok, flame::CONTENT_TYPE, body)
            }
            Target::Heap => self.profile(4, Served::Heap),
            Target::Allocs => self.profile(5, Served::Allocs),
            Target::HeapPaths => self.profile(6, Served::Paths),
        };
        match method {
            Method::Get => answer,
            Method::Head => answer.without_body(),
        }
    }

    /// What a program for profiles reads, if the operator wants it served.
    fn profile(&mut self, place: usize, which: Served) -> Answer {
        let pprof = state::region().map_or(0, |region| region.settings.get(Int::Pprof));
        match pprof {
            1 => Answer::new(
                Status::Ok,
                BYTES,
                self.body(place, || profile::served(which)),
            ),
            _ => Answer::saying(Status::NotFound, NO_PPROF),
        }
    }

    fn text(&mut self, place: usize, make: impl FnOnce() -> String) -> Rc<[u8]> {
        self.body(place, || make().into_bytes())
    }

    fn body(&mut self, place: usize, make: impl FnOnce() -> Vec<u8>) -> Rc<[u8]> {
        let now = Instant::now();
        if self.second.is_none_or(|start| now - start >= SECOND) {
            (self.second, self.made, self.kept) = (Some(now), 0, [const { None }; KEPT]);
        }
        let kept = self.kept.get(place).cloned().flatten();
        if let (true, Some(kept)) = (self.made >= FRESH_PER_SECOND, kept) {
            return kept;
        }
        self.made += 1;
        let bytes = make();
        own_memory::need(bytes.len() + 64); // it is copied to where it is shared
        let body: Rc<[u8]> = bytes.into();
        if let Some(slot) = self.kept.get_mut(place) {
            *slot = Some(body.clone());
        }
        body
    }
}

/// 200, or 503 at emergency, during an operator's `shed` or `drain` (design §8), and while a needed address is gone (§15).
fn ready() -> Answer {
    let text = |status, text: &str| Answer::new(status, TEXT, text.as_bytes().into());
    let Some(region) = state::region() else {
        return Answer::of(Status::ServiceUnavailable);
    };
    let now_ms = state::now_ms();
    if region.drains_for(now_ms) > 0 {
        text(
            Status::ServiceUnavailable,
            "not ready: memguard.drain is running\n",
        )
    } else if region.is_shed(now_ms) {
        text(
            Status::ServiceUnavailable,
            "not ready: memguard.shed is running\n",
        )
    } else if Now::of(region).level() == Level::Emergency {
        text(
            Status::ServiceUnavailable,
            "not ready: memory is at level emergency\n",
        )
    } else if let Some(address) = reports::addresses::missing(region) {
        text(
            Status::ServiceUnavailable,
            &format!(
                "not ready: the address {address} is not on this machine, or not usable there\n"
            ),
        )
    } else {
        text(Status::Ok, "ready\n")
    }
}

fn status() -> String {
    json::whole_json() + "\n"
}
