//! One round of traffic: a command, a scenario for sipp, or the built-in scenarios.
//! Forbidden here: judging; traffic to anybody but the server under test.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::failure::{Failure, not_run};
use crate::options::{Options, Traffic};
use crate::process::{end, pause, spawn};
use crate::server::{Server, Target, free_port};

/// Names of the built-in scenarios.
pub const BUILT_IN: [&str; 3] = ["options", "register", "call"];

const OPTIONS: &str = include_str!("scenarios/options.xml");
const REGISTER: &str = include_str!("scenarios/register.xml");
const CALL: &str = include_str!("scenarios/call.xml");
const CALLEE: &str = include_str!("scenarios/callee.xml");
const ONE: &str = include_str!("scenarios/one.xml");

/// A round may take this much longer than its requests at their rate.
const ROUND_LIMIT: Duration = Duration::from_secs(300);
/// sipp gives a call up when nothing came for so many milliseconds.
const ANSWER_LIMIT_MS: &str = "20000";
/// From SIGTERM to SIGKILL.
const STOP_LIMIT: Duration = Duration::from_secs(3);
/// Lines of the output that a failure shows.
const TOLD_LINES: usize = 15;

/// What one round of a scenario did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Done {
    /// Its name.
    pub scenario: String,
    /// Calls that went as planned, and those that did not.
    pub successful: u64,
    /// As above.
    pub failed: u64,
    /// The first answer that was not planned.
    pub other_answer: Option<String>,
}

/// Sends rounds of traffic.
pub struct Sender<'a> {
    options: &'a Options,
    folder: PathBuf,
    target: Target,
    own_address: String,
    count: u64,
}

impl<'a> Sender<'a> {
    /// A sender whose files are in `folder`.
    ///
    /// # Errors
    /// sipp is needed and not there.
    pub fn new(
        options: &'a Options,
        folder: &Path,
        target: &Target,
    ) -> Result<Sender<'a>, Failure> {
        if !matches!(options.traffic, Traffic::Command(_)) {
            is_there(&options.sipp)?;
        }
        let own_address = UdpSocket::bind("0.0.0.0:0")
            .and_then(|socket| {
                socket.connect(target.address())?;
                socket.local_addr()
            })
            .map_or("127.0.0.1".to_owned(), |address| address.ip().to_string());
        Ok(Sender {
            options,
            folder: folder.to_owned(),
            target: target.clone(),
            own_address,
            count: 0,
        })
    }

    /// One round: `requests` of each scenario, `rate` of them per second.
    ///
    /// # Errors
    /// The traffic could not be sent or failed; the server died under it.
    pub fn round(
        &mut self,
        server: &mut Server,
        requests: u64,
        rate: u64,
    ) -> Result<Vec<Done>, Failure> {
        self.count += 1;
        let limit = ROUND_LIMIT + Duration::from_secs(requests / rate.max(1));
        match &self.options.traffic {
            Traffic::Command(line) => self.command(server, line, requests, rate, limit),
            Traffic::Sipp(file) => {
                let text = fs::read_to_string(file)
                    .map_err(|e| Failure::Usage(format!("{}: {e}", file.display())))?;
                let mut all = [self.sipp("own", &text, requests, rate, &[])?];
                wait(server, &mut all, limit)?;
                Ok(all.iter().map(Sipp::done).collect())
            }
            Traffic::BuiltIn => self.built_in(server, requests, rate, limit),
        }
    }

    fn command(
        &self,
        server: &mut Server,
        line: &str,
        requests: u64,
        rate: u64,
        limit: Duration,
    ) -> Result<Vec<Done>, Failure> {
        let output = self.folder.join(format!("traffic-{}.log", self.count));
        let (out, err) = files(&output)?;
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(line)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err);
        for (name, value) in [
            ("TARGET", self.target.address()),
            ("HOST", self.target.host.clone()),
            ("PORT", self.target.port.to_string()),
            ("TRANSPORT", self.target.transport.clone()),
            ("REQUESTS", requests.to_string()),
            ("RATE", rate.to_string()),
            ("ROUND", self.count.to_string()),
            ("PID", server.pid().to_string()),
        ] {
            command.env(format!("MEMGUARD_GATE_{name}"), value);
        }
        let mut child = spawn(&mut command)?;
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().map_err(|e| not_run(e.to_string()))? {
                break status;
            }
            let stop = match server.lives("under traffic") {
                Ok(()) if began.elapsed() > limit => Err(not_run(format!(
                    "the traffic did not end within {} s: {line}",
                    limit.as_secs()
                ))),
                other => other,
            };
            if let Err(failure) = stop.and_then(|()| pause(Duration::from_millis(50))) {
                end(&mut child, STOP_LIMIT);
                return Err(failure);
            }
        };
        server.lives("under traffic")?;
        if !status.success() {
            return Err(not_run(format!(
                "the traffic failed in round {} ({status}), so there is no verdict: {line}\n{}",
                self.count,
                tail(&output)
            )));
        }
        Ok(vec![Done {
            scenario: "command".into(),
            successful: 1,
            ..Done::default()
        }])
    }

    fn built_in(
        &self,
        server: &mut Server,
        requests: u64,
        rate: u64,
        limit: Duration,
    ) -> Result<Vec<Done>, Failure> {
        let wanted = |name: &str| {
            self.options.scenarios.is_empty() || self.options.scenarios.iter().any(|s| s == name)
        };
        let mut callee = None;
        let callee_port = free_port()?.to_string();
        if wanted("call") {
            let port = callee_port.as_str();
            callee = Some(self.sipp("callee", CALLEE, u64::MAX, 0, &["-p", port])?);
            let mut one = [self.register_callee(port, "600")?];
            wait(server, &mut one, limit)?;
        }
        let mut running = Vec::new();
        for (name, text) in [("options", OPTIONS), ("register", REGISTER), ("call", CALL)] {
            if wanted(name) {
                running.push(self.sipp(name, &self.filled(text), requests, rate, &[])?);
            }
        }
        wait(server, &mut running, limit)?;
        if callee.is_some() {
            let mut one = [self.register_callee(&callee_port, "0")?];
            wait(server, &mut one, limit)?;
        }
        drop(callee);
        Ok(running.iter().map(Sipp::done).collect())
    }

    fn register_callee(&self, port: &str, expires: &str) -> Result<Sipp, Failure> {
        let (user, callee) = self.users();
        let text = self
            .filled(&ONE.replace(
                "{USER}",
                if self.options.auth.is_some() {
                    &user
                } else {
                    &callee
                },
            ))
            .replace("{EXPIRES}", expires)
            .replace("{PORT}", port);
        self.sipp(
            if expires == "0" { "goes" } else { "comes" },
            &text,
            1,
            1,
            &[],
        )
    }

    /// Who calls and who is called; with credentials the same user.
    fn users(&self) -> (String, String) {
        match &self.options.auth {
            Some((user, _)) => (user.clone(), user.clone()),
            None => ("gate[call_number]".into(), "gatecallee".into()),
        }
    }

    fn filled(&self, text: &str) -> String {
        let (user, callee) = self.users();
        let (name, password) = self
            .options
            .auth
            .clone()
            .unwrap_or(("gate".into(), "gate".into()));
        text.replace("{USER}", &user)
            .replace("{CALLEE}", &callee)
            .replace(
                "{CREDENTIALS}",
                &format!("[authentication username={name} password={password}]"),
            )
    }

    fn sipp(
        &self,
        name: &str,
        scenario: &str,
        requests: u64,
        rate: u64,
        more: &[&str],
    ) -> Result<Sipp, Failure> {
        let folder = self.folder.join(format!("sipp-{}-{name}", self.count));
        let said = |e: std::io::Error| not_run(format!("{}: {e}", folder.display()));
        fs::create_dir_all(&folder).map_err(said)?;
        fs::write(folder.join("scenario.xml"), scenario).map_err(said)?;
        let (out, err) = files(&folder.join("screen"))?;
        let program = match self.options.sipp.components().count() > 1 {
            true => fs::canonicalize(&self.options.sipp).map_err(said)?,
            false => self.options.sipp.clone(),
        };
        let mut command = Command::new(program);
        command.arg(self.target.address()).args([
            "-sf",
            "scenario.xml",
            "-nostdin",
            "-i",
            &self.own_address,
        ]);
        command.args([
            "-t",
            if self.target.transport == "tcp" {
                "t1"
            } else {
                "u1"
            },
        ]);
        command.args([
            "-trace_stat",
            "-stf",
            "counts.csv",
            "-fd",
            "1",
            "-trace_err",
            "-error_file",
            "errors",
        ]);
        if requests < u64::MAX {
            command.args(["-m", &requests.to_string(), "-r", &rate.to_string()]);
            command.args(["-recv_timeout", ANSWER_LIMIT_MS]);
        }
        command.args(more).current_dir(&folder);
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        Ok(Sipp {
            child: spawn(&mut command)?,
            folder,
            name: name.to_owned(),
        })
    }
}

fn files(path: &Path) -> Result<(File, File), Failure> {
    let said = |e: std::io::Error| not_run(format!("{}: {e}", path.display()));
    let file = File::create(path).map_err(said)?;
    let second = file.try_clone().map_err(said)?;
    Ok((file, second))
}

fn tail(path: &Path) -> String {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TOLD_LINES)..].join("\n")
}

fn is_there(sipp: &Path) -> Result<(), Failure> {
    let tried = Command::new(sipp)
        .arg("-v")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    match tried {
        Ok(_) => Ok(()),
        Err(_) => Err(not_run(format!(
            "{} is missing: apt-get install sip-tester (Debian, Ubuntu) or dnf install sipp (Fedora, RHEL with EPEL), or \
             name it with --sipp-program, or bring traffic of your own with --traffic",
            sipp.display()
        ))),
    }
}

/// Waits for the end of all, and watches the server meanwhile.
fn wait(server: &mut Server, all: &mut [Sipp], limit: Duration) -> Result<(), Failure> {
    let began = Instant::now();
    while all.iter_mut().any(Sipp::is_running) {
        server.lives("under traffic")?;
        if began.elapsed() > limit {
            return Err(not_run(format!(
                "sipp did not end within {} s",
                limit.as_secs()
            )));
        }
        pause(Duration::from_millis(50))?;
    }
    server.lives("under traffic")
}

/// A running sipp, ended when dropped.
struct Sipp {
    child: Child,
    folder: PathBuf,
    name: String,
}

impl Sipp {
    fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it counted.
    fn done(&self) -> Done {
        let text = fs::read_to_string(self.folder.join("counts.csv")).unwrap_or_default();
        let mut lines = text.lines();
        let names: Vec<&str> = lines.next().unwrap_or_default().split(';').collect();
        let values: Vec<&str> = lines.last().unwrap_or_default().split(';').collect();
        let value = |wanted: &str| {
            let column = names.iter().position(|&name| name == wanted)?;
            values.get(column)?.parse::<u64>().ok()
        };
        let errors = fs::read_to_string(self.folder.join("errors")).unwrap_or_default();
        let answer = errors
            .split("SIP/2.0 ")
            .skip(1)
            .map(|rest| rest.lines().next().unwrap_or_default().trim())
            .find(|line| line.starts_with(|c: char| ('3'..='6').contains(&c)));
        Done {
            scenario: self.name.clone(),
            successful: value("SuccessfulCall(C)").unwrap_or(0),
            failed: value("FailedCall(C)").unwrap_or(0),
            other_answer: answer.map(str::to_owned),
        }
    }
}

impl Drop for Sipp {
    fn drop(&mut self) {
        end(&mut self.child, STOP_LIMIT);
    }
}
