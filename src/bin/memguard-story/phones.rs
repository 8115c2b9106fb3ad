//! The phones: sipp with the scenarios of tests/sipp, and what sipp counted, message by message.
//! Forbidden here: traffic beyond 127.0.0.1; counting for sipp.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::Failure;
use crate::server::{end, free_port, spawn};

/// Phones that are there from the beginning; each refreshes every 5 s, 14 times (tests/sipp/phones.xml).
pub const PHONES: u32 = 1000;
const PHONES_PER_SECOND: u32 = 100;
/// Until the first can be called.
pub const BEFORE_CALLS_S: u64 = 3;
/// Until all have registered, and some seconds of ordinary life.
pub const SETTLING_S: u64 = 11;
/// Calls go on until the phones' last refresh.
pub const CALLS_PER_SECOND: u32 = 10;
const CALLS: u32 = 690;
/// New phones that arrive while memory leaks.
const ARRIVALS_PER_SECOND: u32 = 30;
const ARRIVALS: u32 = 1000;
/// The storm.
pub const STORM: u32 = 3000;
pub const STORM_PER_SECOND: u32 = 150;
pub const STORM_S: u64 = (STORM / STORM_PER_SECOND) as u64;

/// sipp repeats an unanswered request 4 times (0.5, 1, 2, 4 s), then the phone counts as lost.
const RETRANSMISSIONS: &str = "4";
/// From SIGTERM to the end.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// All phones of one server.
pub struct Traffic {
    sipp: PathBuf,
    scenarios: PathBuf,
    folder: PathBuf,
    server_port: u16,
    callee_port: u16,
    callee: Option<Sipp>,
    /// phones.xml
    pub phones: Option<Sipp>,
    /// calls.xml
    pub calls: Option<Sipp>,
    /// newcomers.xml, while memory leaks
    pub arrivals: Option<Sipp>,
    /// newcomers.xml, at full pressure
    pub storm: Option<Sipp>,
}

/// How much one sipp does, and how fast.
struct Load {
    scenario: &'static str,
    /// Prefix of its users; as many as calls, unless given.
    users: &'static str,
    calls: u32,
    per_second: u32,
}

impl Traffic {
    /// Prepares traffic to `server_port`; only what answers calls is started.
    ///
    /// # Errors
    /// sipp cannot be started.
    pub fn new(prepared: &Path, folder: &Path, server_port: u16) -> Result<Traffic, Failure> {
        let mut traffic = Traffic {
            sipp: prepared.join("bin/sipp"),
            scenarios: fs::canonicalize("tests/sipp").map_err(|e| format!("tests/sipp: {e}"))?,
            folder: folder.to_owned(),
            server_port,
            callee_port: free_port()?,
            callee: None,
            phones: None,
            calls: None,
            arrivals: None,
            storm: None,
        };
        let port = traffic.callee_port.to_string();
        traffic.callee = Some(traffic.start("callee", "callee", &["-p", &port])?);
        Ok(traffic)
    }

    /// Phones that register and refresh.
    ///
    /// # Errors
    /// sipp cannot be started.
    pub fn evening(&mut self) -> Result<(), Failure> {
        let phones = Load {
            scenario: "phones",
            users: "phone",
            calls: PHONES,
            per_second: PHONES_PER_SECOND,
        };
        self.phones = Some(self.load("phones", &phones)?);
        Ok(())
    }

    /// New phones at an ordinary rate.
    ///
    /// # Errors
    /// sipp cannot be started.
    pub fn arrivals(&mut self) -> Result<(), Failure> {
        let load = Load {
            scenario: "newcomers",
            users: "guest",
            calls: ARRIVALS,
            per_second: ARRIVALS_PER_SECOND,
        };
        self.arrivals = Some(self.load("arrivals", &load)?);
        Ok(())
    }

    /// Calls to the phones that registered first.
    ///
    /// # Errors
    /// sipp cannot be started.
    pub fn calls(&mut self) -> Result<(), Failure> {
        let load = Load {
            scenario: "calls",
            users: "phone",
            calls: CALLS,
            per_second: CALLS_PER_SECOND,
        };
        self.calls = Some(self.load("calls", &load)?);
        Ok(())
    }

    /// Many new phones at once.
    ///
    /// # Errors
    /// sipp cannot be started.
    pub fn storm(&mut self) -> Result<(), Failure> {
        let load = Load {
            scenario: "newcomers",
            users: "storm",
            calls: STORM,
            per_second: STORM_PER_SECOND,
        };
        self.storm = Some(self.load("storm", &load)?);
        Ok(())
    }

    fn load(&self, name: &str, load: &Load) -> Result<Sipp, Failure> {
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let users: String = (0..load.calls)
            .map(|i| format!("{}{i}\n", load.users))
            .collect();
        fs::write(folder.join("users.csv"), format!("SEQUENTIAL\n{users}"))
            .map_err(|e| format!("users.csv: {e}"))?;
        let (calls, rate, port) = (
            load.calls.to_string(),
            load.per_second.to_string(),
            self.callee_port.to_string(),
        );
        let arguments = [
            "-inf",
            "users.csv",
            "-m",
            &calls,
            "-r",
            &rate,
            "-key",
            "callee_port",
            &port,
        ];
        self.start(name, load.scenario, &arguments)
    }

    fn start(&self, name: &str, scenario: &str, arguments: &[&str]) -> Result<Sipp, Failure> {
        let folder = self.folder.join(name);
        let said = |e: std::io::Error| format!("{}: {e}", folder.display());
        fs::create_dir_all(&folder).map_err(said)?;
        let screen = File::create(folder.join("screen")).map_err(said)?;
        let mut command = Command::new(&self.sipp);
        command
            .arg(format!("127.0.0.1:{}", self.server_port))
            .args(["-i", "127.0.0.1", "-nostdin"]);
        command
            .arg("-sf")
            .arg(self.scenarios.join(format!("{scenario}.xml")));
        command.args([
            "-trace_counts",
            "-trace_logs",
            "-trace_err",
            "-fd",
            "0.2",
            "-max_retrans",
            RETRANSMISSIONS,
        ]);
        command.args(arguments).current_dir(&folder);
        command
            .stdin(Stdio::null())
            .stdout(screen.try_clone().map_err(said)?)
            .stderr(screen);
        let child = spawn(&mut command)?;
        Ok(Sipp {
            prefix: format!("{scenario}_{}", child.id()),
            child,
            folder,
        })
    }

    /// Whether every phone and every call has come to its end.
    pub fn has_ended(&mut self) -> bool {
        let all = [
            &mut self.phones,
            &mut self.calls,
            &mut self.arrivals,
            &mut self.storm,
        ];
        all.into_iter().flatten().all(Sipp::has_ended)
    }

    /// Ends every sipp.
    pub fn stop(&mut self) {
        let all = [
            &mut self.callee,
            &mut self.phones,
            &mut self.calls,
            &mut self.arrivals,
            &mut self.storm,
        ];
        all.into_iter().flatten().for_each(Sipp::stop);
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A running sipp.
pub struct Sipp {
    child: Child,
    folder: PathBuf,
    prefix: String,
}

/// sipp's table of messages: one column per step and event of the scenario, "1_503_Recv" say.
#[derive(Clone, Debug, Default)]
pub struct Counts(Vec<(String, u64)>);

impl Counts {
    /// Sum of the columns that end like this: all steps with that message.
    pub fn of(&self, ending: &str) -> u64 {
        self.0
            .iter()
            .filter(|(name, _)| name.ends_with(ending))
            .map(|(_, count)| count)
            .sum()
    }

    /// The column of this step.
    pub fn step(&self, name: &str) -> u64 {
        self.0
            .iter()
            .find(|(column, _)| column == name)
            .map_or(0, |(_, count)| *count)
    }
}

impl Sipp {
    /// What it wrote last; it writes five times per second and at its end.
    pub fn counts(&self) -> Counts {
        let path = self.folder.join(format!("{}_counts.csv", self.prefix));
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut lines = text.lines();
        let names = lines.next().unwrap_or_default().split(';');
        // The last line may be half written.
        let row = text
            .lines()
            .skip(1)
            .filter(|line| line.ends_with(';'))
            .last()
            .unwrap_or_default();
        let values = row.split(';').map(|value| value.parse().unwrap_or(0));
        Counts(names.map(str::to_owned).zip(values).collect())
    }

    /// Seconds of Retry-After of every refusal, by status code; `None` for one without.
    pub fn refusals(&self) -> Vec<(u16, Option<u32>)> {
        let path = self.folder.join(format!("{}_logs.log", self.prefix));
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = |line: &str| {
            let (code, wait) = line.split_once(' ')?;
            Some((
                code.parse().ok()?,
                wait.trim().trim_matches(['[', ']']).parse().ok(),
            ))
        };
        text.lines().filter_map(line).collect()
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    fn stop(&mut self) {
        end(&mut self.child, libc::SIGTERM, STOP_LIMIT);
    }
}
