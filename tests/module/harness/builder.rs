//! A server before its start: what it loads, how big it is, where it listens; and the start.
//! Forbidden here: talking to the server, but for the first answer.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::config::{Config, Places};
use super::net::Namespace;
use super::pairs::Pair;
use super::server::{Server, is_running};
use super::wait::{found, holds_within};

/// From the start to the first RPC answer; generous, as machines of continuous integration are slow.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Starts again when another process took a port between asking for it and using it.
const PORT_TRIES: u32 = 3;
/// Where the folders of all servers are.
const FOLDERS: &str = env!("CARGO_TARGET_TMPDIR");
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
    with_faults: bool,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    sip: Option<SocketAddr>,
    daemon: bool,
    open_folder: bool,
    namespace: Option<i32>,
    dropped: Option<libc::c_ulong>,
    file: Option<PathBuf>,
    line: Option<Vec<String>>,
}

impl Builder {
    pub(super) fn new(pair: &Pair, config: Config) -> Builder {
        Builder {
            pair: pair.clone(),
            config,
            shm_mb: 16,
            pkg_mb: 4,
            with_memguard: true,
            with_mgtest: false,
            with_faults: false,
            arguments: Vec::new(),
            environment: Vec::new(),
            sip: None,
            daemon: false,
            open_folder: false,
            namespace: None,
            dropped: None,
            file: None,
            line: None,
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

    /// Loads this memguard.so in the place of the version's own.
    #[allow(dead_code)] // benchmarks do
    pub fn memguard(mut self, module: PathBuf) -> Builder {
        self.pair.kamailio.memguard = Some(module);
        self
    }

    /// Loads the test module of tests/module/leaky too.
    pub fn with_mgtest(mut self) -> Builder {
        self.with_mgtest = true;
        self
    }

    /// Loads the test module before memguard, with its switch for allocations that fail (leaky/faults.h).
    pub fn with_faults(mut self) -> Builder {
        self.with_faults = true;
        self.with_mgtest().environment("MGTEST_FAULTS", "1")
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

    /// A file of kamailio-cfg as it is, instead of a rendered configuration; `define` gives it values.
    pub fn file(mut self, file: &Path) -> Builder {
        self.file = Some(file.to_owned());
        self
    }

    /// A command line as a page or a systemd unit has it, without its program, instead of all that the harness would
    /// say; the test adds where it listens, where its sockets and modules are, and `FOLDER` is the server's own folder.
    pub fn line(mut self, words: &[&str]) -> Builder {
        self.line = Some(words.iter().map(|&word| word.to_owned()).collect());
        self
    }

    /// A `#!define` of the configuration, by the command line: `NAME=value`.
    pub fn define(self, define: &str) -> Builder {
        self.arguments(&["-A", define])
    }

    /// Starts as a service does: the main process becomes a daemon (and its log goes to syslog).
    pub fn daemon(mut self) -> Builder {
        self.daemon = true;
        self
    }

    /// Runs in a network namespace, which must outlive the server.
    pub fn in_namespace(mut self, namespace: &Namespace) -> Builder {
        self.namespace = Some(namespace.fd());
        self
    }

    /// Runs without one of root's capabilities.
    pub fn without_capability(mut self, number: libc::c_ulong) -> Builder {
        self.dropped = Some(number);
        self
    }

    /// Runs as the user nobody; the folder is everybody's then.
    pub fn run_by_nobody(mut self) -> Builder {
        self.open_folder = true;
        self.arguments(&["-u", "nobody", "-g", "nogroup"])
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
        let mut server = self.spawn()?;
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

    fn spawn(&self) -> Result<Server, String> {
        let places = self.places();
        if self.open_folder {
            fs::set_permissions(&places.folder, fs::Permissions::from_mode(0o777))
                .expect("the folder is ours");
        }
        let log = File::create(places.folder.join("log")).expect("the folder is writable");
        let mut command = self.command(&places);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        let (namespace, dropped) = (self.namespace, self.dropped);
        // SAFETY: setns, setpgid and prctl are async-signal-safe, and the closure touches no memory of the parent.
        unsafe {
            command.pre_exec(move || {
                if namespace.is_some_and(|fd| libc::setns(fd, libc::CLONE_NEWNET) != 0) {
                    return Err(std::io::Error::last_os_error());
                }
                if let Some(number) = dropped {
                    libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0);
                }
                libc::setpgid(0, 0);
                // SIGTERM, as the main process then stops all others; SIGKILL would orphan them.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        let mut child = command.spawn().expect("kamailio can be started");
        if !self.daemon {
            return Ok(Server::of_child(&self.pair, places, child));
        }
        let pid_file = places.folder.join("pid");
        let status = child.wait().expect("the child is ours");
        let pid = || {
            fs::read_to_string(&pid_file)
                .ok()?
                .trim()
                .parse::<i32>()
                .ok()
        };
        if !status.success() {
            return Err(fs::read_to_string(places.folder.join("log")).unwrap_or_default());
        }
        let pid = found(START_LIMIT, "the daemon writes its pid", pid);
        Ok(Server::of_daemon(&self.pair, places, pid))
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
            let at = if self.with_faults { 0 } else { first.len() };
            first.insert(at, kamailio.mgtest.clone());
        }
        let mut command = Command::new(&kamailio.program);
        if let Some(words) = &self.line {
            command.args(of_a_line(words, &self.pair, places));
            if !self.daemon {
                command.arg("-DD");
            }
            command
                .args(&self.arguments)
                .envs(self.environment.iter().map(|(n, v)| (n, v)));
            return command;
        }
        match &self.file {
            Some(file) => drop(command.arg("-f").arg(file).args(example_arguments(
                places,
                &kamailio.modules,
                &first,
            ))),
            None => {
                let file = places.folder.join("kamailio.cfg");
                fs::write(&file, self.config.render(places, &kamailio.modules, &first))
                    .expect("the folder is writable");
                command.arg("-f").arg(file);
            }
        }
        command.arg("-E");
        if self.daemon {
            command.arg("-P").arg(places.folder.join("pid"));
        } else {
            command.arg("-DD");
        }
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
            tls: free_port(),
        }
    }
}

/// A command line of others, and what keeps it within this test: its own sockets (the configuration names none), under
/// the names that the harness asks, and its own memory managers.
fn of_a_line(words: &[String], pair: &Pair, places: &Places) -> Vec<String> {
    let folder = places.folder.display().to_string();
    for (name, socket) in [
        (places.ctl(), "kamailio_ctl"),
        (places.jsonrpc(), "kamailio_rpc.sock"),
    ] {
        let _ = fs::remove_file(&name);
        std::os::unix::fs::symlink(places.folder.join(socket), name).expect("the folder is ours");
    }
    let kamailio = &pair.kamailio;
    let own = kamailio
        .memguard
        .as_ref()
        .and_then(|module| module.parent());
    let paths: Vec<String> = [Some(kamailio.modules.as_path()), own]
        .into_iter()
        .flatten()
        .map(|path| path.display().to_string())
        .collect();
    let listen = |transport: &str| format!("{transport}:{}", places.sip);
    let mut all: Vec<String> = words
        .iter()
        .map(|word| word.replace("FOLDER", &folder))
        .collect();
    for (option, value) in [
        ("-L", paths.join(":")),
        ("-l", listen("udp")),
        ("-l", listen("tcp")),
        ("-Y", folder.clone()),
        ("-w", folder.clone()),
        ("-x", pair.manager.clone()),
        ("-X", pair.manager.clone()),
    ] {
        all.extend([option.to_owned(), value]);
    }
    all.push("-E".to_owned());
    all
}

/// What the examples of kamailio-cfg leave to the command line: where modules and sockets are.
fn example_arguments(places: &Places, modules: &Path, first: &[PathBuf]) -> Vec<String> {
    let folders = first.iter().filter_map(|module| module.parent());
    let paths: Vec<String> = folders
        .chain([modules])
        .map(|path| path.display().to_string())
        .collect();
    let defines = [
        format!("SIP_ADDRESS=\"{}\"", places.sip.ip()),
        format!("SIP_PORT={}", places.sip.port()),
        "WORKERS=2".to_owned(),
        format!("CTL_SOCKET=\"unix:{}\"", places.ctl().display()),
        format!("RPC_SOCKET=\"{}\"", places.jsonrpc().display()),
    ];
    let mut words = vec!["-L".to_owned(), paths.join(":")];
    words.extend(
        defines
            .into_iter()
            .flat_map(|define| ["-A".to_owned(), define]),
    );
    words
}

/// A folder for files that outlive a server; it goes with the test, and after a killed run with the next one.
pub struct Folder(PathBuf);

impl Folder {
    pub fn of(pair: &Pair, name: &str) -> Folder {
        let folder = new_folder();
        let path = folder.with_file_name(format!(
            "{}-{name}-{}",
            folder.file_name().unwrap_or_default().to_string_lossy(),
            pair.manager
        ));
        fs::rename(&folder, &path).expect("both are ours");
        Folder(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A folder of its own; short, as it holds Unix sockets.
pub(super) fn new_folder() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    static OLD: Once = Once::new();
    OLD.call_once(remove_folders_of_killed_runs);
    // ORDERING: Relaxed; only the number itself must be unique.
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut folder = Path::new(FOLDERS).join(format!("k{}-{number}", std::process::id()));
    if folder.as_os_str().len() > LONGEST_FOLDER {
        let name = format!("memguard-k{}-{number}", std::process::id());
        folder = std::env::temp_dir().join(name);
    }
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("the folder for temporary files is writable");
    folder
}

/// A run that was killed could not remove its folders; their names hold its pid.
fn remove_folders_of_killed_runs() {
    let entries = fs::read_dir(FOLDERS).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name().into_string().unwrap_or_default();
        let pid = name
            .strip_prefix('k')
            .and_then(|rest| rest.split('-').next()?.parse().ok());
        if pid.is_some_and(|pid| !is_running(pid)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Below the ports that Linux gives to sockets which ask for none (net.ipv4.ip_local_port_range, from 32768 on unless it was
/// changed): no other program is given one of these before the server has bound it.
const PORTS: Range<u16> = 10_000..32_000;

/// A loopback port that is free for UDP and TCP now, one of [`PORTS`] by chance.
pub fn free_port() -> SocketAddr {
    for _ in 0..100 {
        let chance = RandomState::new().build_hasher().finish();
        let port = PORTS.start + (chance % PORTS.len() as u64) as u16;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let udp = UdpSocket::bind(address);
        if udp.is_ok() && TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port is free for both UDP and TCP");
}
