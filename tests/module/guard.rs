//! memguard's answers as the tests read them: numbers by name, counts by class, pressure on demand.
//! Forbidden here: assertions about what memguard decides; those are the tests'.
#![allow(dead_code)] // a toolbox, as the harness

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::harness::wait::found;
use super::harness::{Server, until};

/// The classes of the contract, in its order.
pub const CLASSES: [&str; 7] = [
    "unregister",
    "query",
    "followup",
    "refresh",
    "priority",
    "returning",
    "new",
];

/// For what needs a sample or two of the sampling process.
pub const SOON: Duration = Duration::from_secs(8);

/// A count per class; classes with 0 are left out, so that a test names what it expects.
pub type Counts = BTreeMap<&'static str, i64>;

/// A whole number of an answer, whichever way it was written.
#[track_caller]
pub fn number(answer: &Value, field: &str) -> i64 {
    let found = answer[field].as_f64();
    found.unwrap_or_else(|| panic!("no number {field} in {answer}")) as i64
}

/// A word of an answer.
#[track_caller]
pub fn word<'a>(answer: &'a Value, field: &str) -> &'a str {
    let found = answer[field].as_str();
    found.unwrap_or_else(|| panic!("no word {field} in {answer}"))
}

/// The rows of an answer that is a list.
#[track_caller]
pub fn rows(answer: &Value) -> &Vec<Value> {
    answer
        .as_array()
        .unwrap_or_else(|| panic!("no list: {answer}"))
}

/// What an expectation about classes is written with.
pub fn counts(expected: &[(&'static str, i64)]) -> Counts {
    expected.iter().copied().collect()
}

/// All processes of a server at one moment, sorted, and which of them samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Everybody {
    pids: Vec<i32>,
    sampling: i32,
    restarts: i64,
}

/// Reads memguard in a running server.
pub trait Guarded {
    fn status(&self) -> Value;
    fn registrations(&self) -> Value;
    fn workers(&self) -> Vec<Value>;
    /// The process that samples; core.psx shows the one that supervises it.
    fn sampling_pid(&self) -> i32;
    /// All processes, once one of them samples.
    fn everybody(&self) -> Everybody;
    /// The same processes as before; only the one that samples may have been started again, which is counted.
    fn assert_nobody_died(&self, before: &Everybody);
    /// The row of `shm`, `pkg` or `os`.
    fn pool(&self, name: &str) -> Value;
    /// `what` is `received`, `admitted`, `rejected` or `rejected_observed`.
    fn by_class(&self, what: &str) -> Counts;
    /// Use of shm at this moment, percent.
    fn shm_pct(&self) -> f64;
    /// Holds shm until at least `percent` are used; needs the test module.
    fn fill_shm(&self, percent: u32);
    /// Gives back what `fill_shm` holds.
    fn release_shm(&self);
    /// Sets a numeric parameter at run time.
    fn set(&self, name: &str, value: i64);
    /// Waits until the server's level is the one given.
    fn await_level(&self, level: &str);
}

impl Guarded for Server {
    #[track_caller]
    fn status(&self) -> Value {
        self.rpc("memguard.status", json!([]))
    }

    #[track_caller]
    fn registrations(&self) -> Value {
        self.rpc("memguard.registrations", json!([]))
    }

    #[track_caller]
    fn workers(&self) -> Vec<Value> {
        rows(&self.rpc("memguard.workers", json!([]))).clone()
    }

    #[track_caller]
    fn sampling_pid(&self) -> i32 {
        found(SOON, "a process that samples", || {
            let all = self.workers();
            let pid = all.iter().find_map(|row| row["sampling_pid"].as_i64())?;
            i32::try_from(pid).ok()
        })
    }

    #[track_caller]
    fn everybody(&self) -> Everybody {
        let sampling = self.sampling_pid();
        let mut pids = self.pids();
        pids.sort_unstable();
        assert!(pids.contains(&sampling), "{sampling} of {pids:?}");
        Everybody {
            pids,
            sampling,
            restarts: number(&self.status(), "sampler_restarts"),
        }
    }

    #[track_caller]
    fn assert_nobody_died(&self, before: &Everybody) {
        let now = self.everybody();
        let mut expected = before.pids.clone();
        expected.retain(|pid| *pid != before.sampling);
        expected.push(now.sampling);
        expected.sort_unstable();
        assert_eq!(
            now.pids, expected,
            "nobody died and nobody came: {before:?} {now:?}"
        );
        assert_eq!(
            now.restarts > before.restarts,
            now.sampling != before.sampling,
            "another process samples if it was started again: {before:?} {now:?}"
        );
    }

    #[track_caller]
    fn pool(&self, name: &str) -> Value {
        let pools = self.rpc("memguard.pools", json!([]));
        let row = rows(&pools).iter().find(|row| row["name"] == name);
        row.unwrap_or_else(|| panic!("no pool {name} in {pools}"))
            .clone()
    }

    #[track_caller]
    fn by_class(&self, what: &str) -> Counts {
        let all = self.registrations();
        let of = |class: &'static str| (class, number(&all, &format!("{class}_{what}")));
        CLASSES
            .map(of)
            .into_iter()
            .filter(|(_, n)| *n != 0)
            .collect()
    }

    #[track_caller]
    fn shm_pct(&self) -> f64 {
        let shm = self.pool("shm");
        number(&shm, "real_used") as f64 * 100.0 / number(&shm, "size") as f64
    }

    #[track_caller]
    fn fill_shm(&self, percent: u32) {
        const LARGE: i64 = 8192;
        const SMALL: i64 = 512;
        for _ in 0..100 {
            let shm = self.pool("shm");
            let missing =
                number(&shm, "size") * i64::from(percent) / 100 - number(&shm, "real_used");
            if missing <= 0 {
                return;
            }
            let (size, count) = match missing / (LARGE * 2) {
                // With their headers, which the managers' differ in, they are not too many.
                0 => (SMALL, (missing / (SMALL * 3 / 2)).max(1)),
                many => (LARGE, many),
            };
            self.rpc("mgtest.hold_shm", json!([size, count]));
        }
        panic!("shm cannot be filled to {percent} %: {}", self.pool("shm"));
    }

    #[track_caller]
    fn release_shm(&self) {
        self.rpc("mgtest.release", json!([]));
    }

    #[track_caller]
    fn set(&self, name: &str, value: i64) {
        self.kamcmd(&["cfg.set_now_int", "memguard", name, &value.to_string()])
            .unwrap_or_else(|fault| panic!("{name} = {value}: {fault:?}"));
    }

    #[track_caller]
    fn await_level(&self, level: &str) {
        until(SOON, &format!("the level becomes {level}"), || {
            word(&self.status(), "level") == level
        });
    }
}
