//! What was counted: live by memguard's RPC, at the end by sipp, held against each other, and what must be true of it.
//! Forbidden here: printing; mending a count.

use serde_json::{Value, json};

use crate::Failure;
use crate::phones::{Counts, Sipp, Traffic};
use crate::server::Server;

/// One look at a server.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Use of shared memory, percent of the pool, allocator overhead included.
    pub shm_pct: f64,
    /// memguard's level; empty without memguard.
    pub level: String,
    /// New phones that got 200, by sipp.
    pub accepted: u64,
    /// New phones that got 503, by sipp.
    pub refused: u64,
    /// Phones and calls that got 500 or anything else that is no answer to them, by sipp.
    pub failed: u64,
    /// Refreshes that got 200, by sipp.
    pub refreshed: u64,
    /// Calls that came to their end, by sipp.
    pub calls: u64,
}

/// A level change as `memguard.events` tells it.
#[derive(Clone, Debug)]
pub struct Change {
    pub from: String,
    pub to: String,
    pub pool: String,
    pub percent: u64,
}

/// What became of one kind of request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fate {
    pub sent: u64,
    pub ok: u64,
    pub refused_503: u64,
    pub with_retry_after: u64,
    pub failed_500: u64,
}

impl Fate {
    /// Neither accepted nor refused nor failed: no answer at all, or one that ended a call.
    pub fn lost(&self) -> u64 {
        self.sent
            .saturating_sub(self.ok + self.refused_503 + self.failed_500)
    }
}

/// Everything about one server.
#[derive(Debug, Default)]
pub struct Tally {
    pub before: Look,
    pub now: Look,
    pub changes: Vec<Change>,
    /// How many of `changes` have been shown.
    pub shown: usize,
    pub first: Fate,
    pub refreshes: Fate,
    pub arrivals: Fate,
    pub storm: Fate,
    pub calls: Fate,
    /// Smallest and largest Retry-After, seconds.
    pub waits: Option<(u32, u32)>,
    /// REGISTERs that sipp repeated because no answer came in half a second.
    pub repeated: u64,
    pub error_lines: u64,
    /// `memguard.registrations` at the end.
    pub registrations: Value,
}

impl Tally {
    /// Looks at the server and at sipp.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn look(&mut self, server: &mut Server, traffic: &Traffic) -> Result<(), Failure> {
        self.before = std::mem::take(&mut self.now);
        let shm = server.rpc("core.shmmem", json!([]))?;
        let number = |name: &str| shm[name].as_f64().unwrap_or(0.0);
        self.now.shm_pct = 100.0 * number("real_used") / number("total").max(1.0);
        if let Ok(status) = server.rpc("memguard.status", json!([])) {
            self.now.level = text(&status["level"]);
            self.registrations = server.rpc("memguard.registrations", json!([]))?;
            let events = server.rpc("memguard.events", json!([100]))?;
            let events = events.as_array().map_or(&[][..], Vec::as_slice);
            self.changes = events.iter().rev().map(change).collect();
        }
        self.count(traffic);
        let fates = [self.first, self.arrivals, self.storm];
        self.now.accepted = fates.iter().map(|fate| fate.ok).sum();
        self.now.refused = fates.iter().map(|fate| fate.refused_503).sum();
        self.now.refreshed = self.refreshes.ok;
        self.now.calls = self.calls.ok;
        self.now.failed =
            fates.iter().map(|fate| fate.failed_500).sum::<u64>() + self.calls.failed_500;
        Ok(())
    }

    /// The steps are those of tests/sipp/*.xml, numbered from 0 without labels.
    fn count(&mut self, traffic: &Traffic) {
        let counts = |sipp: &Option<Sipp>| sipp.as_ref().map(Sipp::counts).unwrap_or_default();
        let phones = counts(&traffic.phones);
        self.first = Fate {
            sent: phones.step("1_REGISTER_Sent"),
            ok: phones.step("4_200_Recv"),
            refused_503: phones.step("2_503_Recv"),
            failed_500: phones.step("3_500_Recv"),
            with_retry_after: 0,
        };
        self.refreshes = Fate {
            sent: phones.step("6_REGISTER_Sent"),
            ok: phones.step("7_200_Recv"),
            ..Fate::default()
        };
        let (arrivals, storm) = (counts(&traffic.arrivals), counts(&traffic.storm));
        self.arrivals = newcomers(&arrivals);
        self.storm = newcomers(&storm);
        let calls = counts(&traffic.calls);
        let unexpected = calls.of("_Unexp") + calls.of("_Timeout");
        self.calls = Fate {
            sent: calls.step("0_INVITE_Sent"),
            ok: calls.step("7_200_Recv"),
            failed_500: unexpected,
            ..Fate::default()
        };
        self.repeated = [phones, arrivals, storm]
            .iter()
            .map(|c| c.of("_REGISTER_Retrans"))
            .sum();
    }

    /// What is known at the end only.
    pub fn finish(&mut self, server: &Server, traffic: &Traffic) {
        self.count(traffic);
        self.error_lines = server.error_lines();
        for (sipp, fate) in [
            (&traffic.arrivals, &mut self.arrivals),
            (&traffic.storm, &mut self.storm),
        ] {
            let refusals = sipp.as_ref().map(Sipp::refusals).unwrap_or_default();
            for wait in refusals.iter().filter_map(|(_, wait)| *wait) {
                fate.with_retry_after += 1;
                let (low, high) = self.waits.unwrap_or((wait, wait));
                self.waits = Some((low.min(wait), high.max(wait)));
            }
        }
    }

    /// A counter of `memguard.registrations`.
    pub fn counted(&self, name: &str) -> u64 {
        self.registrations[name].as_u64().unwrap_or(0)
    }

    /// Pairs that must be equal: what, by sipp, by memguard.
    pub fn held(&self) -> [(&'static str, u64, u64); 4] {
        let new = [self.first, self.arrivals, self.storm];
        let sum = |part: fn(&Fate) -> u64| new.iter().map(part).sum::<u64>();
        let received: u64 = ["new", "returning", "refresh"]
            .iter()
            .map(|c| self.counted(&format!("{c}_received")))
            .sum();
        let sent = sum(|f| f.sent) + self.refreshes.sent + self.repeated;
        [
            ("REGISTERs sent (repeats too) / received", sent, received),
            (
                "new phones accepted / admitted",
                sum(|f| f.ok),
                self.counted("new_admitted"),
            ),
            (
                "new phones that got 503 / refused",
                sum(|f| f.refused_503),
                self.counted("new_rejected"),
            ),
            (
                "refreshes that got 200 / admitted",
                self.refreshes.ok,
                self.counted("refresh_admitted"),
            ),
        ]
    }
}

fn newcomers(counts: &Counts) -> Fate {
    Fate {
        sent: counts.step("0_REGISTER_Sent"),
        ok: counts.step("3_200_Recv"),
        refused_503: counts.step("1_503_Recv"),
        failed_500: counts.step("2_500_Recv"),
        with_retry_after: 0,
    }
}

fn change(event: &Value) -> Change {
    Change {
        from: text(&event["from"]),
        to: text(&event["to"]),
        pool: text(&event["pool"]),
        percent: event["percent"].as_u64().unwrap_or(0),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// What the story claims: whether it held, and the claim with its numbers.
pub fn assertions(with: &Tally, without: &Tally) -> Vec<(bool, String)> {
    let (refreshes, calls, storm) = (with.refreshes, with.calls, with.storm);
    let refused = with.arrivals.refused_503 + storm.refused_503;
    let marked = with.arrivals.with_retry_after + storm.with_retry_after;
    let failed = [with.first, with.arrivals, storm]
        .iter()
        .map(|f| f.failed_500 + f.lost())
        .sum::<u64>();
    let (low, high) = with.waits.unwrap_or_default();
    // An answer that took half a second is counted twice by the one who gave it, once by the one who asked.
    let agrees = |(_, sipp, memguard): &(&str, u64, u64)| sipp.abs_diff(*memguard) <= with.repeated;
    let reached = |level: &str| with.changes.iter().any(|change| change.to == level);
    let bad = without.storm.failed_500 + without.storm.lost();
    vec![
        (
            refreshes.sent > 0 && refreshes.ok == refreshes.sent,
            format!(
                "every registered phone stayed registered: {} of {} refreshes got 200",
                refreshes.ok, refreshes.sent
            ),
        ),
        (
            calls.sent > 0 && calls.ok == calls.sent,
            format!("every call went through: {} of {}", calls.ok, calls.sent),
        ),
        (
            refused > 0 && marked == refused,
            format!(
                "every refusal said when to come back: {marked} of {refused} 503s, Retry-After {low} to {high} s"
            ),
        ),
        (
            failed == 0,
            format!("nobody was left without a proper answer: {failed} failed or lost"),
        ),
        (
            reached("warning") && reached("shedding"),
            "the levels warning and shedding were told".to_owned(),
        ),
        (
            with.held().iter().all(agrees),
            format!(
                "memguard counted what sipp counted ({} repeated REGISTERs)",
                with.repeated
            ),
        ),
        (
            with.error_lines == 0,
            format!("the log stayed clean: {} ERROR lines", with.error_lines),
        ),
        (
            bad > 0 && without.storm.with_retry_after == 0 && without.error_lines > 0,
            format!(
                "without memguard: {bad} phones of the storm got 500 or nothing, {} with Retry-After; {} of {} calls failed; {} ERROR lines",
                without.storm.with_retry_after,
                without.calls.sent - without.calls.ok,
                without.calls.sent,
                without.error_lines
            ),
        ),
    ]
}
