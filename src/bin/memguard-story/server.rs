//! A private Kamailio on loopback, and its JSON-RPC over a datagram socket.
//! Forbidden here: outliving the story, whatever ends it.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{TcpListener, UdpSocket};
use std::ops::Range;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{Failure, pause};

/// From the start to the first RPC answer.
const START_LIMIT: Duration = Duration::from_secs(30);
/// From SIGTERM to the end.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// An RPC answer takes a millisecond; a server that is out of memory may be slower.
const RPC_LIMIT: Duration = Duration::from_secs(3);
/// More than jsonrpcs sends in one datagram.
const DATAGRAM: usize = 1 << 17;
/// Private memory per process in MiB: Debian's default.
const PKG_MB: &str = "8";

/// A running Kamailio.
pub struct Server {
    child: Child,
    folder: PathBuf,
    port: u16,
    socket: UnixDatagram,
}

impl Server {
    /// Starts it in `folder` (made here) with `configuration` and waits until RPC answers.
    ///
    /// # Errors
    /// It did not come up: the end of its log.
    pub fn start(
        prepared: &Path,
        folder: &Path,
        configuration: &str,
        shm_mb: u32,
    ) -> Result<Server, Failure> {
        Server::start_with(prepared, folder, configuration, shm_mb, &[])
    }

    /// The same in an environment with these variables too.
    ///
    /// # Errors
    /// As of `start`.
    pub fn start_with(
        prepared: &Path,
        folder: &Path,
        configuration: &str,
        shm_mb: u32,
        environment: &[(&str, String)],
    ) -> Result<Server, Failure> {
        let said = |e: std::io::Error| format!("{}: {e}", folder.display());
        fs::create_dir_all(folder).map_err(said)?;
        let folder = fs::canonicalize(folder).map_err(said)?;
        fs::write(folder.join("kamailio.cfg"), configuration).map_err(said)?;
        let log = File::create(folder.join("log")).map_err(said)?;
        let port = free_port()?;
        let mut command = Command::new(prepared.join("bin/kamailio"));
        command.args([
            "-DD",
            "-E",
            "-x",
            "qm",
            "-M",
            PKG_MB,
            "-m",
            &shm_mb.to_string(),
        ]);
        command.arg("-f").arg(folder.join("kamailio.cfg"));
        command
            .arg("-L")
            .arg(format!("{0}:{0}/modules", prepared.display()));
        command.arg("-Y").arg(&folder).arg("-w").arg(&folder);
        for define in [
            "SIP_ADDRESS=\"127.0.0.1\"".to_owned(),
            format!("SIP_PORT={port}"),
            "WORKERS=2".to_owned(),
            format!("CTL_SOCKET=\"unix:{}/ctl\"", folder.display()),
            format!("RPC_SOCKET=\"{}/rpc\"", folder.display()),
        ] {
            command.arg("-A").arg(define);
        }
        command
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(said)?)
            .stderr(log);
        let child = spawn(&mut command)?;
        let own = folder.join("answers");
        let socket = UnixDatagram::bind(&own).map_err(|e| format!("{}: {e}", own.display()))?;
        socket.set_read_timeout(Some(RPC_LIMIT)).map_err(said)?;
        let mut server = Server {
            child,
            folder,
            port,
            socket,
        };
        let began = Instant::now();
        while server.rpc("core.version", json!([])).is_err() {
            let has_ended = server.child.try_wait().is_ok_and(|status| status.is_some());
            if has_ended || began.elapsed() > START_LIMIT {
                return Err(format!("Kamailio did not start:\n{}", server.log_tail()));
            }
            pause(Duration::from_millis(100))?;
        }
        Ok(server)
    }

    /// Its SIP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Calls an RPC command.
    ///
    /// # Errors
    /// No answer, or the fault's text.
    pub fn rpc(&mut self, method: &str, params: Value) -> Result<Value, Failure> {
        static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        // ORDERING: Relaxed; only the number itself must be unique.
        let id = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let said = |e: std::io::Error| format!("{method}: {e}");
        let request =
            json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": id }).to_string();
        self.socket
            .send_to(request.as_bytes(), self.folder.join("rpc"))
            .map_err(said)?;
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let length = self.socket.recv(&mut buffer).map_err(said)?;
            let answer: Value =
                serde_json::from_slice(&buffer[..length]).map_err(|e| format!("{method}: {e}"))?;
            if answer["id"] != json!(id) {
                continue; // a late answer to a call that was given up
            }
            return match answer.get("result") {
                Some(result) => Ok(result.clone()),
                None => Err(format!("{method}: {}", answer["error"]["message"])),
            };
        }
    }

    /// Lines of its log at ERROR or CRITICAL.
    pub fn error_lines(&self) -> u64 {
        let is_error = |line: &&str| line.contains(" ERROR: ") || line.contains(" CRITICAL: ");
        self.log().lines().filter(is_error).count() as u64
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.folder.join("log")).unwrap_or_default()).into_owned()
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    /// Ends it as an operator does, and by force when that does not help.
    pub fn stop(&mut self) {
        end(&mut self.child, libc::SIGTERM, STOP_LIMIT);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts a program in a process group of its own that ends with this process, however this process ends.
///
/// # Errors
/// It cannot be started.
pub fn spawn(command: &mut Command) -> Result<Child, Failure> {
    // SAFETY: setpgid and prctl are async-signal-safe, and the closure touches no memory of the parent.
    unsafe {
        command.pre_exec(|| {
            libc::setpgid(0, 0);
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
    command
        .spawn()
        .map_err(|e| format!("{}: {e}", Path::new(command.get_program()).display()))
}

/// Ends a child: `signal`, then, after `limit`, SIGKILL to its whole group. Harmless when it has ended.
pub fn end(child: &mut Child, signal: libc::c_int, limit: Duration) {
    let Ok(pid) = libc::pid_t::try_from(child.id()) else {
        return;
    };
    let began = Instant::now();
    let mut is_told = false;
    while let Ok(None) = child.try_wait() {
        if !is_told {
            is_told = true;
            // SAFETY: the child has not been waited for, so its pid is still its own.
            unsafe { libc::kill(pid, signal) };
        }
        if began.elapsed() > limit {
            // SAFETY: spawn() made the group, and its leader has not been waited for.
            unsafe { libc::kill(-pid, libc::SIGKILL) };
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Below the ports that Linux gives to sockets which ask for none (net.ipv4.ip_local_port_range, from 32768 on unless it was
/// changed): no other program is given one of these before the server has bound it.
const PORTS: Range<u16> = 10_000..32_000;

/// A loopback port that is free for UDP and TCP now, one of [`PORTS`] by chance.
///
/// # Errors
/// There is none.
pub fn free_port() -> Result<u16, Failure> {
    for _ in 0..100 {
        let chance = RandomState::new().build_hasher().finish();
        let port = PORTS.start + (chance % PORTS.len() as u64) as u16;
        let udp = UdpSocket::bind(("127.0.0.1", port));
        if udp.is_ok() && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Err("no port of 127.0.0.1 was free in a hundred tries: ss -lntu shows what holds them".into())
}
