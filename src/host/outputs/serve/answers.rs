//! What each path answers, made when it is asked for; a flood of requests gets answers that are up to a second old.
//! Forbidden here: sockets; Kamailio's pools, locks and log.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::guard::formats::{
    http::{Method, Parsed, Status, Target},
    metrics, page,
};
use crate::guard::terms::words::Level;
use crate::host::commands::json;
use crate::host::kamailio::{own_memory, state};
use crate::host::outputs::serve::connection::Answer;
use crate::host::reports::{self, measures, overview};

/// Bodies that are made anew within one second, of all paths together; some 1 ms of CPU each.
const FRESH_PER_SECOND: u32 = 20;
const SECOND: Duration = Duration::from_secs(1);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json; charset=utf-8";

/// The last body of each path that costs something.
#[derive(Default)]
pub struct Answers {
    kept: [Option<Rc<[u8]>>; 3],
    /// Start of the second that is counted in, and bodies made since then.
    second: Option<Instant>,
    made: u32,
}

impl Answers {
    /// The answer to what was asked.
    pub fn to(&mut self, parsed: Parsed) -> Answer {
        own_memory::scope(|| self.made(parsed)).unwrap_or_else(|own_memory::Short| {
            self.kept = [const { None }; 3];
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
                let body = self.body(0, measures::text);
                Answer::new(Status::Ok, metrics::CONTENT_TYPE, body)
            }
            Target::Status => Answer::new(Status::Ok, JSON, self.body(1, status)),
            Target::Page => {
                let body = self.body(2, || {
                    state::region().map_or_else(String::new, |region| {
                        overview::page(region, &overview::points(region)).html()
                    })
                });
                Answer::new(Status::Ok, page::CONTENT_TYPE, body)
            }
        };
        match method {
            Method::Get => answer,
            Method::Head => answer.without_body(),
        }
    }

    fn body(&mut self, place: usize, make: impl FnOnce() -> String) -> Rc<[u8]> {
        let now = Instant::now();
        if self.second.is_none_or(|start| now - start >= SECOND) {
            (self.second, self.made, self.kept) = (Some(now), 0, [const { None }; 3]);
        }
        let kept = self.kept.get(place).cloned().flatten();
        if let (true, Some(kept)) = (self.made >= FRESH_PER_SECOND, kept) {
            return kept;
        }
        self.made += 1;
        let text = make();
        own_memory::need(text.len() + 64); // it is copied to where it is shared
        let body: Rc<[u8]> = text.into_bytes().into();
        if let Some(slot) = self.kept.get_mut(place) {
            *slot = Some(body.clone());
        }
        body
    }
}

/// 200, or 503 at emergency, during an operator's `shed` (design §8), and while a needed address is gone (§15).
fn ready() -> Answer {
    let text = |status, text: &str| Answer::new(status, TEXT, text.as_bytes().into());
    let Some(region) = state::region() else {
        return Answer::of(Status::ServiceUnavailable);
    };
    if region.control.shed_until_ms.get() > state::now_ms() {
        text(
            Status::ServiceUnavailable,
            "not ready: memguard.shed is running\n",
        )
    } else if reports::level_now(region) == Level::Emergency {
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
