//! --stress: which rate the server holds, and where memory would be after an hour of it.
//! Forbidden here: traffic without an end; the rule of the verdict (one step is one measurement).

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::failure::Failure;
use crate::options::Options;
use crate::progress::Progress;
use crate::server::Server;
use crate::snapshot::{Snapshot, wait_for_quiet};
use crate::traffic::Sender;

/// Doublings at most: from 10 per second to more than any configuration holds.
const DOUBLINGS: usize = 10;
/// Halvings of the step between the last rate that held and the first that did not.
const HALVINGS: usize = 2;
/// Calls that may go wrong at a rate that holds, of a hundred.
const MAY_FAIL_PCT: u64 = 1;
/// Seconds that the last answers may come late, and programs may take to start, beside a quarter of the step's own.
const MAY_BE_LATE: f64 = 2.0;
/// Bytes per request that a step may leave, for what is alive and what is cached, and bytes in all.
const MAY_LEAVE: f64 = 8.0;
/// As above.
const MAY_LEAVE_ALL: i64 = 256 * 1024;

/// One rate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// Calls of each scenario per second.
    pub rate: u64,
    /// Calls that went as planned, and those that did not.
    pub successful: u64,
    /// As above.
    pub failed: u64,
    /// Bytes that were left after quiet, in both pools.
    pub left: i64,
    /// Messages.
    pub messages: u64,
    /// Bytes that an hour at this rate would leave.
    pub hour: f64,
    /// Whether it left more than what lives and caches explain.
    pub kept_growing: bool,
    /// Seconds from the first request to the last answer.
    pub took: f64,
    /// Whether answers failed or came late: the rate was not held.
    pub failing: bool,
}

impl Step {
    /// One sentence.
    pub fn sentence(&self) -> String {
        let all = self.failed + self.successful;
        let answers = match self.failing {
            true if self.has_failures() => format!("{} of {all} calls failed", self.failed),
            true => format!("not held, the last answer came after {:.1} s", self.took),
            false => "answered".into(),
        };
        format!(
            "{} per second: {answers}, {} bytes left; an hour would leave {}",
            self.rate,
            self.left,
            amount(self.hour)
        )
    }

    /// For --json.
    pub fn json(&self) -> Value {
        json!({
            "rate": self.rate, "successful": self.successful, "failed": self.failed, "messages": self.messages,
            "took_s": (self.took * 10.0).round() / 10.0,
            "left_bytes": self.left, "hour_bytes": self.hour.round(), "failing": self.failing, "growing": self.kept_growing,
        })
    }

    fn has_failures(&self) -> bool {
        self.failed * 100 > (self.failed + self.successful) * MAY_FAIL_PCT
    }

    fn holds(&self) -> bool {
        !self.failing && !self.kept_growing
    }
}

fn amount(bytes: f64) -> String {
    match bytes {
        b if b < 1024.0 => format!("{b:.0} bytes"),
        b if b < 1024.0 * 1024.0 => format!("{:.1} KiB", b / 1024.0),
        b => format!("{:.1} MiB", b / 1024.0 / 1024.0),
    }
}

/// Doubles the rate until it fails, then halves the step; the steps in the order they were made.
///
/// # Errors
/// The server died; the traffic could not be sent.
pub fn sweep(
    options: &Options,
    progress: Progress,
    server: &mut Server,
    sender: &mut Sender<'_>,
    rate: u64,
    seconds: u64,
) -> Result<Vec<Step>, Failure> {
    let mut steps = Vec::new();
    let (mut good, mut bad, mut next) = (0, None, rate);
    let mut halvings = 0;
    for _ in 0..DOUBLINGS + HALVINGS {
        let step = one(options, server, sender, next, seconds)?;
        progress.say(format!("stress: {}", step.sentence()));
        let held = step.holds();
        let grows = step.kept_growing && !step.failing;
        steps.push(step);
        // What grows at the first rate grows at every rate.
        if grows && good == 0 {
            break;
        }
        if held {
            good = next;
        } else {
            bad = Some(next);
        }
        next = match bad {
            None => next * 2,
            Some(bad) => {
                halvings += 1;
                if halvings > HALVINGS {
                    break;
                }
                (good + bad) / 2
            }
        };
        if next == good || next == 0 {
            break;
        }
    }
    Ok(steps)
}

fn one(
    options: &Options,
    server: &mut Server,
    sender: &mut Sender<'_>,
    rate: u64,
    seconds: u64,
) -> Result<Step, Failure> {
    let quiet = Duration::from_secs(options.quiet);
    let before = Snapshot::take(server)?;
    let began = Instant::now();
    let done = sender.round(server, rate * seconds, rate)?;
    let took = began.elapsed().as_secs_f64();
    wait_for_quiet(server, quiet)?;
    let after = Snapshot::take(server)?;
    let live = |s: &Snapshot| {
        s.shm
            .values()
            .chain(s.pkg.values())
            .map(|h| h.bytes)
            .sum::<i64>()
    };
    let (successful, failed) = done
        .iter()
        .fold((0, 0), |sum, d| (sum.0 + d.successful, sum.1 + d.failed));
    Ok(judged(
        Step {
            rate,
            successful,
            failed,
            left: live(&after) - live(&before),
            messages: after.messages().saturating_sub(before.messages()),
            hour: 0.0,
            kept_growing: false,
            took,
            failing: false,
        },
        seconds,
    ))
}

fn judged(mut step: Step, seconds: u64) -> Step {
    let per_message = step.left as f64 / step.messages.max(1) as f64;
    step.hour = step.left.max(0) as f64 / seconds.max(1) as f64 * 3600.0;
    step.kept_growing = per_message > MAY_LEAVE && step.left > MAY_LEAVE_ALL;
    let is_late = step.took > seconds as f64 * 1.25 + MAY_BE_LATE;
    step.failing = step.has_failures() || is_late;
    step
}

/// The lines of the table.
pub fn table(steps: &[Step]) -> Vec<String> {
    let mut lines: Vec<String> = steps
        .iter()
        .map(|step| format!("stress: {}", step.sentence()))
        .collect();
    if let Some(best) = steps.iter().filter(|s| s.holds()).map(|s| s.rate).max() {
        lines.push(format!("stress: {best} per second hold"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_fails_by_its_answers_or_by_what_it_leaves() {
        let step = |failed, left| {
            judged(
                Step {
                    rate: 100,
                    successful: 1000 - failed,
                    failed,
                    left,
                    messages: 5000,
                    ..Step::default()
                },
                10,
            )
        };
        assert!(step(0, 100_000).holds() && step(10, 0).holds());
        assert!(step(11, 0).failing);
        let late = |took| {
            judged(
                Step {
                    took,
                    successful: 1000,
                    ..Step::default()
                },
                10,
            )
        };
        assert!(late(14.0).holds() && late(15.0).failing);
        assert!(late(15.0).sentence().contains("after 15.0 s"));
        assert!(step(0, 2_000_000).kept_growing);
        assert_eq!(step(0, 2_000_000).hour, 720_000_000.0);
    }
}
