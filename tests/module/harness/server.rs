//! A real Kamailio with its own folder, ports and sockets, that is gone when the test is.
//! Forbidden here: leaving a process, a port or a file behind, also when the test run is killed.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::builder::Builder;
use super::config::{Config, Places};
use super::pairs::Pair;
use super::rpc::{self, Fault};
use super::sip;
use super::wait::holds_within;

/// From SIGTERM to the end; an orderly end takes some 50 ms.
const STOP_LIMIT: Duration = Duration::from_secs(2);
/// How often every process is sent SIGTERM when main's did not reach all.
const TERMINATE_TRIES: u32 = 3;
/// Lines of the log that a failing test shows.
const LOG_TAIL: usize = 40;

/// A running Kamailio.
pub struct Server {
    pub pair: Pair,
    pub places: Places,
    main: Main,
    /// The process group of all its processes.
    group: i32,
    stopped: Option<ExitStatus>,
}

/// Kamailio's main process: a child, or a daemon with a watcher that stops it when the test run dies.
enum Main {
    Child(Child),
    Daemon { pid: i32, watcher: Child },
}

impl Server {
    /// A registrar with memguard, 16 MiB of shm, 4 MiB of pkg and 2 workers.
    pub fn registrar(pair: &Pair) -> Builder {
        Builder::new(pair, Config::registrar())
    }

    /// A proxy with memguard that relays everything to `upstream`.
    pub fn proxy(pair: &Pair, upstream: SocketAddr) -> Builder {
        Builder::new(pair, Config::proxy(upstream))
    }
}

impl Server {
    /// A child that leads its own process group.
    pub(super) fn of_child(pair: &Pair, places: Places, child: Child) -> Server {
        let group = pid_of(&child);
        Server {
            pair: pair.clone(),
            places,
            main: Main::Child(child),
            group,
            stopped: None,
        }
    }

    /// A process that is nobody's child.
    pub(super) fn of_daemon(pair: &Pair, places: Places, pid: i32) -> Server {
        // The end of its input is the end of the test process, however that came.
        let words = [
            "-c",
            "cat >/dev/null; kill -TERM $0 2>/dev/null",
            &pid.to_string(),
        ];
        let watcher = Command::new("sh")
            .args(words)
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh can be started");
        // SAFETY: getpgid only reads the kernel's table.
        let group = unsafe { libc::getpgid(pid) };
        assert!(group > 1, "the daemon {pid} is gone already");
        Server {
            pair: pair.clone(),
            places,
            main: Main::Daemon { pid, watcher },
            group,
            stopped: None,
        }
    }

    pub fn sip(&self) -> SocketAddr {
        self.places.sip
    }

    pub fn http(&self) -> SocketAddr {
        self.places.http
    }

    /// The main process.
    pub fn pid(&self) -> i32 {
        match &self.main {
            Main::Child(child) => pid_of(child),
            Main::Daemon { pid, .. } => *pid,
        }
    }

    /// A UDP client of this server.
    pub fn udp(&self) -> sip::Udp {
        sip::Udp::to(self.sip())
    }

    /// A TCP client of this server.
    pub fn tcp(&self) -> sip::Tcp {
        sip::Tcp::to(self.sip())
    }

    /// Calls RPC by JSON; `params` is an array or an object.
    pub fn try_rpc(&self, method: &str, params: Value) -> Result<Value, Fault> {
        rpc::call(&self.places.jsonrpc(), &self.places.folder, method, params)
    }

    #[track_caller]
    pub fn rpc(&self, method: &str, params: Value) -> Value {
        self.try_rpc(method, params)
            .unwrap_or_else(|fault| panic!("{method}: {fault:?}"))
    }

    pub fn kamcmd(&self, words: &[&str]) -> Result<String, Fault> {
        rpc::kamcmd(&self.pair.kamailio.kamcmd, &self.places.ctl(), words)
    }

    /// A statistic by its name, `usrloc:registered_users` say.
    #[track_caller]
    pub fn statistic(&self, name: &str) -> i64 {
        let answer = self.rpc("stats.fetchn", json!([name]));
        let key = name.replace(':', ".");
        answer[&key]
            .as_i64()
            .unwrap_or_else(|| panic!("no statistic {name} in {answer}"))
    }

    /// Core's table of processes: index, pid, description.
    pub fn processes(&self) -> Vec<(i64, i32, String)> {
        let rows = self.try_rpc("core.psx", json!([])).unwrap_or_default();
        let rows = rows.as_array().cloned().unwrap_or_default();
        let row = |r: &Value| {
            Some((
                r["IDX"].as_i64()?,
                i32::try_from(r["PID"].as_i64()?).ok()?,
                r["DSC"].as_str()?.to_owned(),
            ))
        };
        rows.iter().filter_map(row).collect()
    }

    /// All processes of this server, from the kernel.
    pub fn pids(&self) -> Vec<i32> {
        let entries = fs::read_dir("/proc").expect("/proc is there").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        // SAFETY: getpgid only reads the kernel's table.
        pids.filter(|&pid| unsafe { libc::getpgid(pid) } == self.group)
            .collect()
    }

    pub fn is_alive(&mut self) -> bool {
        if self.stopped.is_none() {
            self.stopped = match &mut self.main {
                Main::Child(child) => child.try_wait().expect("the child is ours"),
                Main::Daemon { pid, .. } => (!is_running(*pid)).then(|| ExitStatus::from_raw(0)),
            };
        }
        self.stopped.is_none()
    }

    /// RPC answers and the last process of the start-up (the TCP main process) is there.
    pub(super) fn is_ready(&self) -> bool {
        self.places.jsonrpc().exists()
            && self
                .processes()
                .iter()
                .any(|(_, _, name)| name.starts_with("tcp main"))
    }

    pub fn log(&self) -> String {
        let bytes = fs::read(self.places.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(super) fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }

    /// Stops as an operator does; the main process's exit status (of a daemon only: that it ended).
    #[track_caller]
    pub fn stop(mut self) -> ExitStatus {
        assert!(self.terminate(), "Kamailio stops on SIGTERM");
        self.stopped.unwrap_or_else(|| ExitStatus::from_raw(0))
    }

    /// Ends all processes at once, as the OOM killer may.
    #[track_caller]
    pub fn kill_all(mut self) {
        self.signal(-self.group, libc::SIGKILL);
        let limit = Duration::from_secs(20); // a process ends when it is scheduled, and init collects it in its own time
        let are_gone = |pids: Vec<i32>| !pids.into_iter().any(is_running);
        assert!(
            holds_within(limit, || !self.is_alive() && are_gone(self.pids())),
            "SIGKILL ends every process"
        );
    }

    /// Ends one process of this server.
    pub fn kill(&self, pid: i32) {
        assert!(self.pids().contains(&pid), "{pid} is none of this server's");
        self.signal(pid, libc::SIGKILL);
    }

    /// SIGTERM to main, as an operator does. A process that Kamailio has just forked still has main's handler and
    /// loses main's SIGTERM, and main then waits for it (up to `ser_kill_timeout`, 60 s): so a second one goes to
    /// all. A process that died with a lock leaves the others waiting for it: they are killed, and that is said.
    fn terminate(&mut self) -> bool {
        self.signal(self.pid(), libc::SIGTERM);
        for _ in 0..TERMINATE_TRIES {
            if holds_within(STOP_LIMIT, || !self.is_alive()) {
                return true;
            }
            self.pids()
                .iter()
                .for_each(|&pid| self.signal(pid, libc::SIGTERM));
        }
        println!("-- Kamailio does not stop on repeated SIGTERM; its workers are killed");
        let main = self.pid();
        let workers = self.pids().into_iter().filter(|&pid| pid != main);
        workers.for_each(|pid| self.signal(pid, libc::SIGKILL));
        holds_within(STOP_LIMIT, || !self.is_alive())
    }

    fn signal(&self, pid: i32, signal: i32) {
        if self.stopped.is_none() {
            // SAFETY: main has not been waited for, so its pid and its group's are still its own.
            unsafe { libc::kill(pid, signal) };
        }
    }
}

fn pid_of(child: &Child) -> i32 {
    i32::try_from(child.id()).expect("a pid fits")
}

/// Whether the process exists and is not only waiting to be collected.
pub fn is_running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.trim_start().chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!(
                "-- log of {}:\n{}",
                self.places.folder.display(),
                self.log_tail()
            );
        }
        if self.is_alive() {
            self.signal(-self.group, libc::SIGCONT);
            self.terminate();
        }
        // What is left of the group: workers whose main process died, or everything after a hang.
        for pid in self.pids() {
            // SAFETY: the pid was just read as a member of the group that spawn() made.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        match &mut self.main {
            Main::Child(child) if self.stopped.is_none() => drop(child.wait()),
            Main::Child(_) => (),
            Main::Daemon { watcher, .. } => {
                let _ = watcher.kill();
                let _ = watcher.wait();
            }
        }
        let _ = fs::remove_dir_all(&self.places.folder);
    }
}
