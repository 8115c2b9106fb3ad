//! A run: start, warm-up, measured rounds, verdict; then faults and stress where they are asked for.
//! Forbidden here: output, but for progress.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::allow;
use crate::culprit::Ways;
use crate::failure::{Failure, not_run};
use crate::faults;
use crate::options::{Options, Traffic};
use crate::process::pause;
use crate::progress::Progress;
use crate::report::{Report, Row};
use crate::server::{Server, read_cfg};
use crate::snapshot::{Snapshot, wait_for_quiet};
use crate::stress;
use crate::traffic::{Done, Sender};
use crate::verdict::{self, Limits, Where};

/// So long a place that rose unevenly may take to fall: timers that clean up run every 10 to 30 s, mostly.
const EXPIRY_LIMIT: Duration = Duration::from_secs(45);
const LOOK_AGAIN_EVERY: Duration = Duration::from_secs(2);

/// The run folder: everything that is written goes there. A new one is gone at the end.
pub struct Folder {
    path: PathBuf,
    is_kept: bool,
}

impl Folder {
    /// # Errors
    /// It cannot be made.
    pub fn new(options: &Options) -> Result<Folder, Failure> {
        let is_kept = options.keep.is_some();
        let path = options.keep.clone().unwrap_or_else(|| {
            // Short: it holds Unix sockets.
            std::env::temp_dir().join(format!("memguard-gate-{}", std::process::id()))
        });
        let said = |e: std::io::Error| not_run(format!("{}: {e}", path.display()));
        fs::create_dir_all(&path).map_err(said)?;
        let path = fs::canonicalize(&path).map_err(said)?;
        if path.as_os_str().len() > 90 {
            return Err(Failure::Usage(format!(
                "{} is too long a path for Unix sockets: choose another with --keep",
                path.display()
            )));
        }
        Ok(Folder { path, is_kept })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for name in ["rpc", "gate", "gate.cfg"] {
            let _ = fs::remove_file(self.path.join(name));
        }
        if !self.is_kept {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Runs it all.
///
/// # Errors
/// There is no verdict.
pub fn run(options: &Options, progress: Progress) -> Result<Report, Failure> {
    read_cfg(options)?;
    let mut known = match &options.allow {
        Some(path) => allow::read(path)?,
        None => Vec::new(),
    };
    let folder = Folder::new(options)?;
    let mut server = Server::start(options, folder.path(), false)?;
    progress.say(format!(
        "Kamailio {} answers on {} {}",
        server.version,
        server.target.transport,
        server.target.address()
    ));
    let mut sender = Sender::new(options, folder.path(), &server.target.clone())?;
    let mut report = Report {
        cfg: options.cfg.display().to_string(),
        version: server.version.clone(),
        began_ms: progress.began_ms(),
        rounds: options.rounds,
        ..Report::default()
    };
    measure(options, progress, &mut server, &mut sender, &mut report)?;
    (report.leaks, report.allowed) = allow::sort_out(std::mem::take(&mut report.leaks), &mut known);
    report.known = known;
    if let Some((rate, seconds)) = options.stress {
        report.stress = stress::sweep(options, progress, &mut server, &mut sender, rate, seconds)?;
    }
    drop(server);
    if options.faults {
        let (found, count) = faults::sweep(options, progress, folder.path())?;
        report.faults = found;
        report.failed_allocations = Some(count);
    }
    report.seconds = progress.seconds();
    Ok(report)
}

fn measure(
    options: &Options,
    progress: Progress,
    server: &mut Server,
    sender: &mut Sender<'_>,
    report: &mut Report,
) -> Result<(), Failure> {
    let quiet = Duration::from_secs(options.quiet);
    let all = options.warmup + options.rounds;
    wait_for_quiet(server, quiet)?;
    let mut snapshots = vec![Snapshot::take(server)?];
    let mut before = Ways::default();
    let mut unended = 0;
    for n in 1..=all {
        if n == options.warmup + 1 {
            before = Ways::take(server)?;
        }
        report.done = sender.round(server, options.requests, options.rate)?;
        let end = wait_for_quiet(server, quiet)?;
        let now = Snapshot::take(server)?;
        let last = &snapshots[snapshots.len() - 1];
        if now.is_untouched_since(last) {
            return Err(not_run(format!(
                "the traffic of round {n} sent nothing to {}, so there is no verdict",
                server.target.address()
            )));
        }
        unended += usize::from(n > options.warmup && end.transactions > last.transactions);
        let live = |s: &Snapshot| {
            s.shm.values().map(|h| h.bytes).sum::<i64>()
                + s.pkg.values().map(|h| h.bytes).sum::<i64>()
        };
        let kind = if n <= options.warmup {
            "warm-up"
        } else {
            "round"
        };
        let number = if n <= options.warmup {
            n
        } else {
            n - options.warmup
        };
        let still = if end.still { "" } else { ", never still" };
        progress.say(format!(
            "{kind} {number}: {} messages, {:+} bytes{}{still}",
            now.messages() - last.messages(),
            live(&now) - live(last),
            calls(&report.done),
        ));
        if n == 1 {
            report.notes.extend(unplanned(options, &report.done));
        }
        snapshots.push(now);
    }
    if unended == options.rounds {
        let left = snapshots[snapshots.len() - 1].transactions;
        return Err(not_run(format!(
            "{left} transactions had not ended {} s after the last round, and more after every round: their memory cannot be \
             told from a leak. Let the traffic end its calls, or give --quiet more seconds",
            options.quiet
        )));
    }
    let limits = Limits {
        pools: options.limit,
        private: options.private_limit,
    };
    let mut found = verdict::judge(&snapshots, options.warmup, limits);
    if found.has_uneven() {
        progress.say(format!(
            "a place rose unevenly: looking for up to {} s whether it expires",
            EXPIRY_LIMIT.as_secs()
        ));
    }
    let end = Instant::now() + EXPIRY_LIMIT;
    while found.has_uneven() && Instant::now() < end {
        pause(LOOK_AGAIN_EVERY)?;
        found.look_again(&snapshots[snapshots.len() - 1], &Snapshot::take(server)?);
    }
    let after = Ways::take(server)?;
    let (first, last) = (&snapshots[options.warmup], &snapshots[snapshots.len() - 1]);
    let requests = verdict::requests(first, last);
    let count = |method: &str| match method {
        "" => requests,
        _ => {
            let of = |s: &Snapshot| s.requests.get(method).copied().unwrap_or(0);
            of(last).saturating_sub(of(first))
        }
    };
    let row = |rise: &verdict::Rise| {
        let ways = match &rise.at {
            Where::Pool(place) => after.gained(&before, place),
            Where::Outside { .. } => Vec::new(),
        };
        let mut row = Row::new(rise, &ways, count);
        if let Where::Outside { part: "python", .. } = rise.at {
            row.cfg = script_line(options);
        }
        row
    };
    report.leaks = found.leaks.iter().map(row).collect();
    report.filling = found.filling.iter().map(row).collect();
    report.expiring = found.expiring.iter().map(row).collect();
    report.requests = requests;
    report.unbooked = last.unbooked.saturating_sub(first.unbooked);
    Ok(())
}

/// The line that loads the Python script: the place in the configuration for what the script keeps.
fn script_line(options: &Options) -> String {
    let text = read_cfg(options).unwrap_or_default();
    let name = options
        .cfg
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let loads = |line: &str| {
        line.contains("modparam") && line.contains("app_python") && line.contains("load")
    };
    match text.lines().position(loads) {
        Some(at) => format!("{name}:{}", at + 1),
        None => String::new(),
    }
}

/// How the calls went, where some did not as planned.
fn calls(done: &[Done]) -> String {
    let failed: Vec<String> = done
        .iter()
        .filter(|d| d.failed > 0)
        .map(|d| format!("{} of {} {}", d.failed, d.failed + d.successful, d.scenario))
        .collect();
    match failed.is_empty() {
        true => String::new(),
        false => format!(" (not as planned: {})", failed.join(", ")),
    }
}

/// What to know of scenarios of which no call went as planned: the verdict holds for what was answered.
fn unplanned(options: &Options, done: &[Done]) -> Vec<String> {
    done.iter()
        .filter(|d| d.successful == 0 && options.traffic != Traffic::Command(String::new()))
        .map(|d| {
            let answer = d.other_answer.as_deref().unwrap_or("none in time");
            let asks = answer.starts_with("401") || answer.starts_with("407");
            let hint = if asks {
                "; give --auth USER:PASSWORD"
            } else {
                ""
            };
            format!(
                "no call of the scenario {} went as planned; the answer was: {answer}{hint}",
                d.scenario
            )
        })
        .collect()
}
