//! What a run found, ready to be written: rows with their culprits, the worst first.
//! Forbidden here: files and sockets.

use serde_json::{Value, json};

use crate::allow::Known;
use crate::culprit::Way;
use crate::faults::Fault;
use crate::stress::Step;
use crate::traffic::Done;
use crate::verdict::{Rise, Where};

/// A leak, as people read it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// "shm", "pkg" or "outside".
    pub pool: String,
    /// Module, file, line and function of the place; of memory outside the pools "python" or "libc" is the module.
    pub module: String,
    /// As above.
    pub file: String,
    /// As above.
    pub line: u64,
    /// As above.
    pub function: String,
    /// Bytes per request of its method, where that is known and counted; else per request.
    pub per_request: f64,
    /// What `per_request` counts: "REGISTER", or "request".
    pub of: String,
    /// Bytes in each measured round.
    pub rounds: Vec<i64>,
    /// The line of the configuration; empty: none.
    pub cfg: String,
    /// Calls that led there, outermost first.
    pub path: Vec<String>,
    /// core.psx indexes of the processes whose own memory rose, the most first.
    pub workers: Vec<u64>,
    /// Further lines of the configuration that led there.
    pub others: Vec<String>,
}

impl Row {
    /// Of a rise, with the ways that gained there; `count` says how many requests of a method there were.
    pub fn new(rise: &Rise, ways: &[(Way, i64)], count: impl Fn(&str) -> u64) -> Row {
        let mut row = Row {
            rounds: rise.rounds.clone(),
            workers: rise.workers.clone(),
            of: "request".into(),
            ..Row::default()
        };
        match &rise.at {
            Where::Pool(place) => {
                row.pool = place.pool.clone();
                row.module = place.module.clone();
                row.file = place.file.clone();
                row.line = place.line;
                row.function = place.function.clone();
            }
            Where::Outside { name, part, .. } => {
                row.pool = "outside".into();
                row.module = (*part).into();
                row.function = name.clone();
            }
        }
        let mut requests = count("");
        if let Some((way, _)) = ways.first() {
            row.cfg = way.cfg.clone();
            row.path = way.path.clone();
            let is_one = ways.iter().all(|(w, _)| w.method == way.method);
            let own = count(&way.method.to_lowercase());
            if is_one && !way.method.is_empty() && own > 0 {
                row.of = way.method.clone();
                requests = own;
            }
            let mut others: Vec<String> = ways
                .iter()
                .map(|(w, _)| w.cfg.clone())
                .filter(|c| !c.is_empty() && *c != row.cfg)
                .collect();
            others.dedup();
            others.truncate(5);
            row.others = others;
        }
        row.per_request = rise.bytes() as f64 / requests.max(1) as f64;
        row
    }

    /// "htable ht_cell_new (ht_api.c:123)", or "python in worker 3 and 1 other (udp receiver child=1)".
    pub fn place(&self) -> String {
        match self.pool.as_str() {
            "outside" => {
                let all = workers(&self.workers);
                format!("{} in {all} ({})", self.module, self.function)
            }
            _ => format!(
                "{} {} ({}:{})",
                self.module, self.function, self.file, self.line
            ),
        }
    }

    /// One sentence.
    pub fn sentence(&self) -> String {
        let pool = match self.pool.as_str() {
            "shm" => "shared memory".into(),
            "pkg" => format!("private memory of {}", workers(&self.workers)),
            _ => "memory outside Kamailio's pools".into(),
        };
        let at = if self.cfg.is_empty() {
            String::new()
        } else {
            format!(", from {}", self.cfg)
        };
        format!(
            "{} keeps {:.1} bytes per {} in {pool}{at}",
            self.place(),
            self.per_request,
            self.of
        )
    }

    fn json(&self) -> Value {
        json!({
            "pool": self.pool, "module": self.module, "file": self.file, "line": self.line,
            "function": self.function, "bytes_per_request": round(self.per_request), "per": self.of,
            "rounds": self.rounds, "cfg": self.cfg, "other_cfg": self.others, "path": self.path, "workers": self.workers,
        })
    }
}

fn round(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// "worker 3", "worker 3 and 4 others".
fn workers(all: &[u64]) -> String {
    match all {
        [] => "a worker".into(),
        [one] => format!("worker {one}"),
        [first, _] => format!("worker {first} and 1 other"),
        [first, rest @ ..] => format!("worker {first} and {} others", rest.len()),
    }
}

/// Everything that a run found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The configuration's path as it was given.
    pub cfg: String,
    /// Kamailio's version.
    pub version: String,
    /// When it began, in Unix milliseconds.
    pub began_ms: u64,
    /// Seconds that it took.
    pub seconds: f64,
    /// Measured rounds, and requests in them.
    pub rounds: usize,
    /// As above.
    pub requests: u64,
    /// Leaks that are not allowed.
    pub leaks: Vec<Row>,
    /// Leaks that are, with the reason.
    pub allowed: Vec<(Row, String)>,
    /// Caches that still fill.
    pub filling: Vec<Row>,
    /// What rose, and expired when nothing came any more.
    pub expiring: Vec<Row>,
    /// Lines of the allow file.
    pub known: Vec<Known>,
    /// What --faults found.
    pub faults: Vec<Fault>,
    /// How many allocations it failed; `None`: not asked.
    pub failed_allocations: Option<u64>,
    /// What --stress found; empty: not asked.
    pub stress: Vec<Step>,
    /// What the scenarios did in the last round.
    pub done: Vec<Done>,
    /// Bytes that the manager's books lost while measuring.
    pub unbooked: u64,
    /// Sentences about the run itself.
    pub notes: Vec<String>,
}

impl Report {
    /// Whether nothing leaks and nothing failed.
    pub fn held(&self) -> bool {
        self.leaks.is_empty()
            && self.faults.is_empty()
            && !self.stress.iter().any(|step| step.kept_growing)
    }

    /// Lines of the allow file that nothing needed.
    pub fn unused(&self) -> impl Iterator<Item = &Known> {
        self.known.iter().filter(|line| !line.used)
    }

    /// The document of --json.
    pub fn json(&self) -> Value {
        json!({
            "memguard_gate": env!("CARGO_PKG_VERSION"), "held": self.held(), "configuration": self.cfg,
            "kamailio": self.version, "seconds": round(self.seconds), "rounds": self.rounds, "requests": self.requests,
            "leaks": self.leaks.iter().map(Row::json).collect::<Vec<_>>(),
            "allowed": self.allowed.iter().map(|(row, reason)| {
                let mut row = row.json();
                row["reason"] = json!(reason);
                row
            }).collect::<Vec<_>>(),
            "filling": self.filling.iter().map(Row::json).collect::<Vec<_>>(),
            "expiring": self.expiring.iter().map(Row::json).collect::<Vec<_>>(),
            "unused_allow_lines": self.unused().map(|line| line.line).collect::<Vec<_>>(),
            "faults": self.faults.iter().map(Fault::json).collect::<Vec<_>>(),
            "failed_allocations": self.failed_allocations,
            "stress": self.stress.iter().map(Step::json).collect::<Vec<_>>(),
            "traffic": self.done.iter().map(|done| json!({
                "scenario": done.scenario, "successful": done.successful, "failed": done.failed,
                "other_answer": done.other_answer,
            })).collect::<Vec<_>>(),
            "unbooked_bytes": self.unbooked, "notes": self.notes,
        })
    }

    /// What a person reads at the end.
    pub fn text(&self) -> String {
        let mut lines = Vec::new();
        for note in &self.notes {
            lines.push(format!("note: {note}"));
        }
        for (row, reason) in &self.allowed {
            lines.push(format!("allowed: {} ({reason})", row.sentence()));
        }
        for row in &self.filling {
            lines.push(format!(
                "filling: {}, but less in every round: a cache, most likely",
                row.sentence()
            ));
        }
        for row in &self.expiring {
            lines.push(format!(
                "expiring: {}, but it fell when nothing arrived any more",
                row.sentence()
            ));
        }
        for line in self.unused() {
            lines.push(format!(
                "unused: line {} of the allow file ({}) allowed nothing: it can go",
                line.line, line.reason
            ));
        }
        if self.unbooked > 0 {
            lines.push(format!(
                "note: qm's own books lost {} bytes (a known fault of Kamailio up to 5.8.7 and 6.0.5); they are in use no more",
                self.unbooked
            ));
        }
        if !self.leaks.is_empty() {
            lines.push(String::new());
            lines.extend(table(&self.leaks));
            lines.push(String::new());
        }
        for fault in &self.faults {
            lines.push(format!("fault: {}", fault.sentence()));
        }
        lines.extend(crate::stress::table(&self.stress));
        lines.push(self.verdict());
        lines.join("\n")
    }

    /// The last line.
    fn verdict(&self) -> String {
        let measured = format!(
            "{} requests in {} rounds, {:.0} s",
            self.requests, self.rounds, self.seconds
        );
        let faults = match self.failed_allocations {
            Some(n) => format!(", {n} allocations failed on purpose"),
            None => String::new(),
        };
        match (self.held(), self.leaks.len(), self.faults.len()) {
            (true, ..) => format!(
                "HELD: {} keeps no memory of what it served ({measured}{faults})",
                self.cfg
            ),
            (false, 0, 0) => {
                format!("GROWS: memory grows without end under stress ({measured}{faults})")
            }
            (false, leaks, faults_found) => {
                let many =
                    |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
                let mut found = Vec::new();
                if leaks > 0 {
                    found.push(many(leaks, "leak"));
                }
                if faults_found > 0 {
                    found.push(many(faults_found, "fault"));
                }
                format!(
                    "FOUND: {} in {} ({measured}{faults})",
                    found.join(" and "),
                    self.cfg
                )
            }
        }
    }
}

/// The worst first, three lines each: what and how much, where from, by which way.
fn table(rows: &[Row]) -> Vec<String> {
    let mut lines = vec![
        format!("{:>12}  {:<9} {:<8} {}", "bytes per", "", "", "place"),
        format!(
            "{:>12}  {:<9} {:<8} {}",
            "request", "method", "pool", "configuration, path, processes"
        ),
    ];
    for row in rows {
        let method = if row.of == "request" { "-" } else { &row.of };
        lines.push(format!(
            "{:>12.1}  {method:<9} {:<8} {}",
            row.per_request,
            row.pool,
            row.place()
        ));
        let mut under = |text: String| lines.push(format!("{:33}{text}", ""));
        if !row.cfg.is_empty() {
            under(row.cfg.clone());
        }
        if !row.path.is_empty() {
            under(short(&row.path));
        }
        match row.pool.as_str() {
            "pkg" => under(workers(&row.workers)),
            "outside" => {
                under("in none of Kamailio's pools: taken by a script, or a library that a module uses".into());
            }
            _ => {}
        }
    }
    lines
}

/// The last calls of a path: what is before them is the same for every request.
fn short(path: &[String]) -> String {
    const SHOWN: usize = 6;
    let from = path.len().saturating_sub(SHOWN);
    let mark = if from > 0 { "… > " } else { "" };
    format!("{mark}{}", path[from..].join(" > "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            pool: "pkg".into(),
            module: "mgtest".into(),
            file: "mgtest.c".into(),
            line: 12,
            function: "w_leak_pkg".into(),
            per_request: 100.04,
            of: "REGISTER".into(),
            cfg: "kamailio.cfg:7 route[A]".into(),
            workers: vec![2, 3],
            ..Row::default()
        }
    }

    #[test]
    fn a_row_is_a_sentence() {
        assert_eq!(
            row().sentence(),
            "mgtest w_leak_pkg (mgtest.c:12) keeps 100.0 bytes per REGISTER in private memory of worker 2 and 1 other, \
             from kamailio.cfg:7 route[A]"
        );
    }

    #[test]
    fn the_last_line_says_the_verdict() {
        let mut report = Report {
            cfg: "a.cfg".into(),
            ..Report::default()
        };
        assert!(
            report
                .text()
                .lines()
                .last()
                .is_some_and(|l| l.starts_with("HELD: a.cfg"))
        );
        report.leaks.push(row());
        assert!(
            report
                .text()
                .lines()
                .last()
                .is_some_and(|l| l.starts_with("FOUND: 1 leak in a.cfg"))
        );
        assert!(!report.held());
    }
}
