//! A real Kamailio with its own folder, ports and sockets, that is gone when the test is.
//! Forbidden here: leaving a process, a port or a file behind, also when the test run is killed.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use super::config::{Config, Places};
use super::pairs::Pair;
use super::rpc::{self, Fault};
use super::sip;
use super::wait::{holds_within, until};

/// From the start to the first RPC answer; generous, as machines of continuous integration are slow.
const START_LIMIT: Duration = Duration::from_secs(30);
/// From SIGTERM to the end.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// Starts again when another process took a port between asking for it and using it.
const PORT_TRIES: u32 = 3;
/// Lines of the log that a failing test shows.
const LOG_TAIL: usize = 40;
/// The longest path of a Unix socket (sockaddr_un), less the name in the folder.
const LONGEST_FOLDER: usize = 90;

/// A server that is being described.
#[derive(Clone, Debug)]
pub struct Builder {
    pair: Pair,
    config: Config,
    shm_mb: u32,
    pkg_mb: u32,
    with_memguard: bool,
    with_mgtest: bool,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    sip: Option<SocketAddr>,
}

/// A running Kamailio.
pub struct Server {
    pub pair: Pair,
    pub places: Places,
    child: Child,
    /// Every process seen at the last look, so that the end can be checked.
    stopped: Option<ExitStatus>,
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

impl Builder {
    fn new(pair: &Pair, config: Config) -> Builder {
        Builder {
            pair: pair.clone(),
            config,
            shm_mb: 16,
            pkg_mb: 4,
            with_memguard: true,
            with_mgtest: false,
            arguments: Vec::new(),
            environment: Vec::new(),
            sip: None,
        }
    }

    pub fn shm_mb(mut self, megabytes: u32) -> Builder {
        self.shm_mb = megabytes;
        self
    }

    pub fn pkg_mb(mut self, megabytes: u32) -> Builder {
        self.pkg_mb = megabytes;
        self
    }

    pub fn workers(mut self, count: u32) -> Builder {
        self.config.workers = count;
        self
    }

    /// Plain Kamailio.
    pub fn without_memguard(mut self) -> Builder {
        self.with_memguard = false;
        self
    }

    /// Loads the test module of tests/module/leaky too.
    pub fn with_mgtest(mut self) -> Builder {
        self.with_mgtest = true;
        self
    }

    /// A parameter of memguard.
    pub fn param(mut self, name: &str, value: impl ToString) -> Builder {
        self.config.param("memguard", name, value);
        self
    }

    /// Any change of the configuration.
    pub fn config(mut self, change: impl FnOnce(&mut Config)) -> Builder {
        change(&mut self.config);
        self
    }

    /// Further command line arguments.
    pub fn arguments(mut self, words: &[&str]) -> Builder {
        self.arguments
            .extend(words.iter().map(|&word| word.to_owned()));
        self
    }

    pub fn environment(mut self, name: &str, value: &str) -> Builder {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The address of another server's SIP socket, to come back after a restart.
    pub fn at(mut self, sip: SocketAddr) -> Builder {
        self.sip = Some(sip);
        self
    }

    /// Starts, and waits until RPC answers and all processes are there.
    #[track_caller]
    pub fn start(&self) -> Server {
        for _ in 1..PORT_TRIES {
            match self.try_start() {
                Ok(server) => return server,
                Err(log) if self.sip.is_none() && log.contains("Address already in use") => (),
                Err(log) => panic!("Kamailio did not start:\n{log}"),
            }
        }
        self.try_start()
            .unwrap_or_else(|log| panic!("Kamailio did not start:\n{log}"))
    }

    /// As `start`, but a server that does not come up is the end of its log.
    pub fn try_start(&self) -> Result<Server, String> {
        let mut server = self.spawn();
        let up = holds_within(START_LIMIT, || !server.is_alive() || server.is_ready());
        if up && server.is_alive() {
            return Ok(server);
        }
        let log = server.log_tail();
        drop(server);
        Err(log)
    }

    /// Runs `kamailio -c` on the configuration: whether it is accepted, and what was printed.
    pub fn check(&self) -> (bool, String) {
        let places = self.places();
        let output = self
            .command(&places)
            .arg("-c")
            .output()
            .expect("kamailio -c runs");
        let _ = fs::remove_dir_all(&places.folder);
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    fn spawn(&self) -> Server {
        let places = self.places();
        let log = File::create(places.folder.join("log")).expect("the folder is writable");
        let mut command = self.command(&places);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        // SAFETY: setpgid and prctl are async-signal-safe, and the closure touches no memory of the parent.
        unsafe {
            command.pre_exec(|| {
                libc::setpgid(0, 0);
                // SIGTERM, as the main process then stops all others; SIGKILL would orphan them.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        let child = command.spawn().expect("kamailio can be started");
        Server {
            pair: self.pair.clone(),
            places,
            child,
            stopped: None,
        }
    }

    fn command(&self, places: &Places) -> Command {
        let kamailio = &self.pair.kamailio;
        let mut first = Vec::new();
        if self.with_memguard {
            first.push(
                kamailio
                    .memguard
                    .clone()
                    .expect("memguard.so was built for this version"),
            );
        }
        if self.with_mgtest {
            first.push(kamailio.mgtest.clone());
        }
        let file = places.folder.join("kamailio.cfg");
        fs::write(&file, self.config.render(places, &kamailio.modules, &first))
            .expect("the folder is writable");
        let mut command = Command::new(&kamailio.program);
        command.arg("-f").arg(file).args(["-DD", "-E"]);
        command.args([
            "-m",
            &self.shm_mb.to_string(),
            "-M",
            &self.pkg_mb.to_string(),
        ]);
        command.args(["-x", &self.pair.manager, "-X", &self.pair.manager]);
        command
            .arg("-Y")
            .arg(&places.folder)
            .arg("-w")
            .arg(&places.folder);
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(n, v)| (n, v)));
        command
    }

    fn places(&self) -> Places {
        Places {
            folder: new_folder(),
            sip: self.sip.unwrap_or_else(free_port),
            http: free_port(),
        }
    }
}

/// A folder of its own; short, as it holds Unix sockets.
fn new_folder() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // ORDERING: Relaxed; only the number itself must be unique.
    let name = format!(
        "k{}-{}",
        std::process::id(),
        COUNT.fetch_add(1, Ordering::Relaxed)
    );
    let mut folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&name);
    if folder.as_os_str().len() > LONGEST_FOLDER {
        folder = std::env::temp_dir().join(format!("memguard-{name}"));
    }
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("the folder for temporary files is writable");
    folder
}

/// A loopback port that is free for UDP and TCP now.
pub fn free_port() -> SocketAddr {
    for _ in 0..100 {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = udp.local_addr().expect("a bound socket has an address");
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port is free for both UDP and TCP");
}

impl Server {
    pub fn sip(&self) -> SocketAddr {
        self.places.sip
    }

    pub fn http(&self) -> SocketAddr {
        self.places.http
    }

    /// The main process.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid fits")
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
        let group = self.pid();
        let entries = fs::read_dir("/proc").expect("/proc is there").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        // SAFETY: getpgid only reads the kernel's table.
        pids.filter(|&pid| unsafe { libc::getpgid(pid) } == group)
            .collect()
    }

    pub fn is_alive(&mut self) -> bool {
        if self.stopped.is_none() {
            self.stopped = self.child.try_wait().expect("the child is ours");
        }
        self.stopped.is_none()
    }

    /// RPC answers and the last process of the start-up (the TCP main process) is there.
    fn is_ready(&self) -> bool {
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

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }

    /// Stops as an operator does; the main process's exit status.
    #[track_caller]
    pub fn stop(mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        until(STOP_LIMIT, "Kamailio stops on SIGTERM", || !self.is_alive());
        self.stopped.unwrap_or_else(|| ExitStatus::from_raw(0))
    }

    fn signal(&self, signal: i32) {
        if self.stopped.is_none() {
            // SAFETY: the child has not been waited for, so its pid is still its own.
            unsafe { libc::kill(self.pid(), signal) };
        }
    }
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
            self.signal(libc::SIGCONT);
            self.signal(libc::SIGTERM);
            holds_within(STOP_LIMIT, || !self.is_alive());
        }
        // What is left of the group: workers whose main process died, or everything after a hang.
        for pid in self.pids() {
            // SAFETY: the pid was just read as a member of the group that spawn() made.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        if self.stopped.is_none() {
            let _ = self.child.wait();
        }
        let _ = fs::remove_dir_all(&self.places.folder);
    }
}
