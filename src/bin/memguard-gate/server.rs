//! The Kamailio under test: started on the user's file, asked, stopped; and its story when it died.
//! Forbidden here: writing to the user's configuration; leaving a process behind.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::failure::{Failure, not_run};
use crate::options::Options;
use crate::process::{end, pause, spawn};
use crate::rpc::Rpc;

/// From the start to the first RPC answer.
const START_LIMIT: Duration = Duration::from_secs(60);
/// From SIGTERM to the end.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Lines of the log that a failure shows.
const TOLD_LINES: usize = 12;
/// Where the traffic goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// An address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// udp or tcp.
    pub transport: String,
}

impl Target {
    /// As in an URI; brackets around an IPv6 address.
    pub fn address(&self) -> String {
        match self.host.contains(':') && !self.host.starts_with('[') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// A running Kamailio.
pub struct Server {
    child: Child,
    log: PathBuf,
    rpc: Rpc,
    /// Where it listens.
    pub target: Target,
    /// Its version, "5.6.3".
    pub version: String,
}

impl Server {
    /// Starts it in `folder` and waits until it answers.
    ///
    /// # Errors
    /// It did not come up: the end of its log.
    pub fn start(options: &Options, folder: &Path, faults: bool) -> Result<Server, Failure> {
        leaves_others_alone(options)?;
        let cfg = wrapper(options, folder, faults)?;
        let log = folder.join("kamailio.log");
        let mut command = command(options, folder, &cfg)?;
        let file = File::create(&log).map_err(|e| not_run(format!("{}: {e}", log.display())))?;
        let second = file.try_clone().map_err(|e| not_run(e.to_string()))?;
        command.stdin(Stdio::null()).stdout(second).stderr(file);
        let child = spawn(&mut command)?;
        let rpc = Rpc::new(folder, folder.join("rpc")).map_err(not_run);
        let mut server = match rpc {
            Ok(rpc) => Server {
                child,
                log,
                rpc,
                target: Target {
                    host: String::new(),
                    port: 0,
                    transport: String::new(),
                },
                version: String::new(),
            },
            Err(failure) => {
                let mut child = child;
                end(&mut child, STOP_LIMIT);
                return Err(failure);
            }
        };
        server.wait_until_it_answers()?;
        Ok(server)
    }

    fn wait_until_it_answers(&mut self) -> Result<(), Failure> {
        let began = Instant::now();
        let mut processes = 0;
        loop {
            if let Some(status) = self.ended() {
                let hint = self.hint();
                let log = self.log_tail();
                return Err(not_run(format!(
                    "Kamailio did not start ({status}){hint}; the end of its log:\n{log}"
                )));
            }
            if let Ok(version) = self.rpc.call("core.version", &[]) {
                // All processes are there when their number stands still and memguard knows them.
                let count = self
                    .rpc
                    .call("memguard.status", &[])
                    .ok()
                    .and_then(|status| status["workers"].as_u64())
                    .unwrap_or(0);
                if count > 0 && count == processes {
                    let text = version.as_str().unwrap_or_default();
                    let words = text.split_whitespace();
                    let number = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
                    self.version = words.clone().find(number).unwrap_or(text).to_owned();
                    break;
                }
                processes = count;
            }
            if began.elapsed() > START_LIMIT {
                let log = self.log_tail();
                return Err(not_run(format!(
                    "Kamailio did not answer within {} s; the end of its log:\n{log}",
                    START_LIMIT.as_secs()
                )));
            }
            pause(Duration::from_millis(250))?;
        }
        // The file may say another mode: nobody is refused here.
        self.call("memguard.mode", &[Value::from("observe")])?;
        self.target = self.socket()?;
        self.is_alone()?;
        self.answers_a_ping()
    }

    /// The first UDP socket, loopback first; else the first TCP one.
    fn socket(&mut self) -> Result<Target, Failure> {
        let list = self.call("core.sockets_list", &[])?;
        let sockets: Vec<Target> = list
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|row| {
                let socket = row.get("socket").unwrap_or(row);
                Some(Target {
                    host: socket["address"].as_str()?.to_owned(),
                    port: socket["port"].as_str()?.parse().ok()?,
                    transport: socket["proto"].as_str()?.to_owned(),
                })
            })
            .collect();
        let rank = |t: &&Target| (t.transport != "udp", !t.host.starts_with("127."));
        let best = sockets
            .iter()
            .filter(|t| ["udp", "tcp"].contains(&t.transport.as_str()));
        best.min_by_key(rank).cloned().ok_or_else(|| {
            not_run("this Kamailio listens on neither UDP nor TCP: name a socket with --listen udp:127.0.0.1:5060")
        })
    }

    /// What a listen line in words may hide: another socket at the same place. The system shows each socket once.
    fn is_alone(&self) -> Result<(), Failure> {
        let (Ok(IpAddr::V4(host)), "udp") =
            (self.target.host.parse(), self.target.transport.as_str())
        else {
            return Ok(());
        };
        // proc(5): address in the host's byte order, port, both in hexadecimal.
        let place = format!(
            "{:08X}:{:04X}",
            u32::from_ne_bytes(host.octets()),
            self.target.port
        );
        let table = fs::read_to_string("/proc/net/udp").unwrap_or_default();
        let sockets = table
            .lines()
            .filter(|line| line.split_whitespace().nth(1) == Some(&place));
        match sockets.count() > 1 {
            true => Err(taken((host, self.target.port).into())),
            false => Ok(()),
        }
    }

    /// Waits for an answer to OPTIONS; a configuration may answer none, so silence is no failure.
    fn answers_a_ping(&mut self) -> Result<(), Failure> {
        let Ok(socket) = UdpSocket::bind((self.target.host.as_str(), 0)) else {
            return Ok(());
        };
        if self.target.transport != "udp" {
            return Ok(());
        }
        let _ = socket.set_read_timeout(Some(Duration::from_millis(300)));
        let own = socket
            .local_addr()
            .map(|a| a.to_string())
            .unwrap_or_default();
        let to = self.target.address();
        for n in 0..5 {
            let ping = format!(
                "OPTIONS sip:{to} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bKgate{n}\r\nMax-Forwards: 70\r\n\
                 From: <sip:gate@{to}>;tag=gate\r\nTo: <sip:{to}>\r\nCall-ID: gate{n}-{}\r\nCSeq: {n} OPTIONS\r\n\
                 Content-Length: 0\r\n\r\n",
                std::process::id()
            );
            let _ = socket.send_to(ping.as_bytes(), &to);
            if socket.recv(&mut [0; 2048]).is_ok() {
                return Ok(());
            }
            self.lives("at its start")?;
            pause(Duration::ZERO)?;
        }
        Ok(())
    }

    /// Calls an RPC command.
    ///
    /// # Errors
    /// The server died, or does not answer, or says why not.
    pub fn call(&mut self, method: &str, params: &[Value]) -> Result<Value, Failure> {
        let answer = self.rpc.call(method, params);
        self.judged(answer)
    }

    /// All rows of a command.
    ///
    /// # Errors
    /// As of [`Server::call`].
    pub fn rows(&mut self, method: &str, words: &[Value]) -> Result<Vec<Value>, Failure> {
        let answer = self.rpc.rows(method, words);
        self.judged(answer)
    }

    /// A command that this configuration may not have: `None` then.
    pub fn try_call(&mut self, method: &str, params: &[Value]) -> Option<Value> {
        self.rpc.call(method, params).ok()
    }

    fn judged<T>(&mut self, answer: Result<T, String>) -> Result<T, Failure> {
        answer.map_err(|text| match self.ended() {
            Some(_) => self
                .lives("while it was asked")
                .err()
                .unwrap_or(not_run(text)),
            None => not_run(format!("Kamailio lives but does not answer: {text}")),
        })
    }

    /// Its main process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// # Errors
    /// The server died: its story.
    pub fn lives(&mut self, when: &str) -> Result<(), Failure> {
        // A child that died takes the main process with it, a moment later.
        if !self.has_a_dead_child() && self.ended().is_none() {
            return Ok(());
        }
        let began = Instant::now();
        while self.ended().is_none() && began.elapsed() < STOP_LIMIT {
            pause(Duration::from_millis(50))?;
        }
        let status = self
            .ended()
            .map_or("still ending".to_owned(), |s| s.to_string());
        Err(Failure::Died(format!(
            "the server died {when} ({status}); its story:\n{}",
            self.story()
        )))
    }

    fn has_a_dead_child(&self) -> bool {
        self.text().contains("exited by a signal")
    }

    /// What the log says of a death: the signal, and what was critical.
    pub fn story(&self) -> String {
        let text = self.text();
        let is_told = |line: &&str| {
            line.contains("exited by a signal")
                || line.contains("CRITICAL")
                || line.contains("core was")
        };
        let told: Vec<&str> = text.lines().filter(is_told).take(TOLD_LINES).collect();
        match told.is_empty() {
            true => self.log_tail(),
            false => told.join("\n"),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of the log; errors of the start stand before what its end says.
    fn log_tail(&self) -> String {
        let text = self.text();
        let is_bad = |line: &&str| {
            [" ERROR: ", " CRITICAL: ", "ERROR:", "error"]
                .iter()
                .any(|w| line.contains(w))
        };
        let bad: Vec<&str> = text.lines().filter(is_bad).take(TOLD_LINES).collect();
        if !bad.is_empty() {
            return bad.join("\n");
        }
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TOLD_LINES)..].join("\n")
    }

    /// What to do, where the log makes it plain.
    fn hint(&self) -> String {
        let text = self.text();
        let says = |word: &str| text.contains(word);
        if says("memguard.so: cannot open")
            || says("could not open module <memguard")
            || says("failed to load module: memguard")
        {
            return "; memguard.so was not found: give its path with --memguard".into();
        }
        if says("Address already in use") || says("Cannot assign requested address") {
            return "; it cannot listen where the file says: choose other sockets with --listen udp:127.0.0.1:PORT".into();
        }
        if says("module version mismatch") || says("module compile flags mismatch") {
            return "; memguard.so was built for another Kamailio".into();
        }
        String::new()
    }

    /// Ends it.
    pub fn stop(&mut self) {
        end(&mut self.child, STOP_LIMIT);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A configuration of a few lines around the user's: what the gate must know stands behind it, where it wins.
fn wrapper(options: &Options, folder: &Path, faults: bool) -> Result<PathBuf, Failure> {
    let file = match options.listen.is_empty() {
        true => name_of(options)?,
        false => without_listen(options, folder)?,
    };
    let text = format!(
        "#!KAMAILIO\n\
         include_file \"{file}\"\n\
         #!ifndef MOD_jsonrpcs\n\
         loadmodule \"jsonrpcs.so\"\n\
         #!endif\n\
         #!ifndef MOD_kex\n\
         loadmodule \"kex.so\"\n\
         #!endif\n\
         modparam(\"jsonrpcs\", \"transport\", 4)\n\
         modparam(\"jsonrpcs\", \"dgram_socket\", \"{}/rpc\")\n\
         modparam(\"memguard\", \"mode\", \"observe\")\n\
         modparam(\"memguard\", \"sample_bytes\", 1)\n\
         modparam(\"memguard\", \"sample_interval\", 100)\n\
         {}",
        folder.display(),
        if faults {
            // One worker, so that the next request is its own too. While its core is written, the place can be asked for.
            "modparam(\"memguard\", \"faults\", 1)\nchildren=1\ntcp_children=1\n"
        } else if options.keep.is_none() {
            "disable_core_dump=yes\n" // nobody would find it
        } else {
            ""
        },
    );
    let path = folder.join("gate.cfg");
    fs::write(&path, text).map_err(|e| not_run(format!("{}: {e}", path.display())))?;
    Ok(path)
}

/// The file's name: Kamailio is started in its folder, as an included name may have 125 bytes only.
fn name_of(options: &Options) -> Result<String, Failure> {
    let name = options
        .cfg
        .file_name()
        .map(|n| n.to_string_lossy().into_owned());
    name.filter(|name| !name.contains(['"', '\\']))
        .ok_or_else(|| {
            Failure::Usage(format!(
                "{} is no usable name of a configuration",
                options.cfg.display()
            ))
        })
}

/// A copy of the user's file, line for line, whose listen lines are comments.
fn without_listen(options: &Options, folder: &Path) -> Result<String, Failure> {
    let text = read_cfg(options)?;
    let copy: String = text
        .lines()
        .map(|line| match is_listen(line) {
            true => format!("# {line}\n"),
            false => format!("{line}\n"),
        })
        .collect();
    let path = folder.join(name_of(options)?);
    fs::write(&path, copy).map_err(|e| not_run(format!("{}: {e}", path.display())))?;
    Ok(path.display().to_string())
}

/// Kamailio takes what another server of this machine has: its module ctl the place of a Unix socket that is there,
/// and its UDP sockets (SO_REUSEADDR) every datagram that was for the other.
fn leaves_others_alone(options: &Options) -> Result<(), Failure> {
    let text = read_cfg(options)?;
    let answers = |path: &str| {
        let is_datagrams = || {
            UnixDatagram::unbound()
                .and_then(|s| s.connect(path))
                .is_ok()
        };
        UnixStream::connect(path).is_ok() || is_datagrams()
    };
    if let Some(path) = unix_sockets(&text, &options.defines).find(|path| answers(path)) {
        return Err(not_run(format!(
            "another program serves {path}, which the configuration would take from it: stop that program, or give the \
             configuration another path with --define"
        )));
    }
    let is_taken = |address: &SocketAddr| {
        let tried = UdpSocket::bind(address);
        tried.is_err_and(|e| e.kind() == std::io::ErrorKind::AddrInUse)
    };
    let own = text.lines().filter(|line| is_listen(line));
    let wanted: Vec<&str> = match options.listen.is_empty() {
        true => own.filter_map(|line| line.split('=').nth(1)).collect(),
        false => options.listen.iter().map(String::as_str).collect(),
    };
    let mut addresses = wanted.into_iter().filter_map(udp_address);
    addresses
        .find(is_taken)
        .map_or(Ok(()), |address| Err(taken(address)))
}

fn taken(address: SocketAddr) -> Failure {
    not_run(format!(
        "another program listens on udp:{address}: stop it, or choose other sockets with --listen udp:127.0.0.1:PORT"
    ))
}

/// The address in "udp:1.2.3.4:5060 advertise ...", where it is one of UDP and written in numbers.
fn udp_address(listen: &str) -> Option<SocketAddr> {
    let word = listen.split_whitespace().next()?.trim_matches(['"', ';']);
    let word = word.strip_prefix("udp:").unwrap_or(word);
    let alone = || Some((word.parse::<IpAddr>().ok()?, 5060).into());
    word.parse().ok().or_else(alone)
}

/// Paths that the configuration gives ctl's sockets; not those of a definition that the command line makes.
fn unix_sockets<'a>(text: &'a str, defines: &'a [String]) -> impl Iterator<Item = &'a str> {
    let is_replaced = |line: &str| {
        let mut words = line.split_whitespace();
        let is_define = words
            .next()
            .is_some_and(|w| ["#!define", "!!define"].contains(&w));
        let name = words.next().unwrap_or_default();
        let own = |define: &String| define.split('=').next() == Some(name);
        is_define && defines.iter().any(own)
    };
    let is_code = |line: &&str| {
        let line = line.trim_start();
        !line.starts_with("//") && (!line.starts_with('#') || line.starts_with("#!"))
    };
    let lines = text.lines().filter(is_code);
    lines
        .filter(move |line| !is_replaced(line))
        .flat_map(|line| {
            let quoted = line.split('"').skip(1).step_by(2);
            quoted.filter_map(|word| {
                let (kind, path) = word.split_once(':')?;
                (kind.starts_with("unix") && path.starts_with('/')).then_some(path)
            })
        })
}

fn is_listen(line: &str) -> bool {
    let word = line.trim_start();
    ["listen", "port"].iter().any(|name| {
        word.strip_prefix(name)
            .is_some_and(|rest| rest.trim_start().starts_with('='))
    })
}

/// The user's configuration as text.
///
/// # Errors
/// Usage: it cannot be read.
pub fn read_cfg(options: &Options) -> Result<String, Failure> {
    let bytes = fs::read(&options.cfg)
        .map_err(|e| Failure::Usage(format!("{}: {e}", options.cfg.display())))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn command(options: &Options, folder: &Path, cfg: &Path) -> Result<Command, Failure> {
    let home = options.cfg.parent().filter(|p| !p.as_os_str().is_empty());
    let home = fs::canonicalize(home.unwrap_or(Path::new(".")))
        .map_err(|e| Failure::Usage(format!("{}: {e}", options.cfg.display())))?;
    let mut command = Command::new(absolute(&options.kamailio));
    command.current_dir(home);
    if let Some(modules) = &options.modules {
        command.arg("-L").arg(modules);
    }
    // Kamailio takes a module twice for an error.
    if !read_cfg(options)?.lines().any(loads_memguard) {
        command.arg("--loadmodule").arg(absolute(&options.memguard));
        command.args(["--modparam", "memguard:mode:s:observe"]);
    }
    command.arg("-f").arg(cfg).args(["-DD", "-E"]);
    command.arg("-Y").arg(folder).arg("-w").arg(folder);
    if let Some(manager) = &options.manager {
        command.args(["-x", manager, "-X", manager]);
    }
    for define in &options.defines {
        command.arg("-A").arg(define);
    }
    if options.listen.is_empty()
        && !read_cfg(options)?.lines().any(is_listen)
        && !sets_listen(&options.arguments)
    {
        let port = free_port()?;
        for proto in ["udp", "tcp"] {
            command.arg("-l").arg(format!("{proto}:127.0.0.1:{port}"));
        }
    }
    for socket in &options.listen {
        command.arg("-l").arg(socket);
    }
    command.args(&options.arguments);
    Ok(command)
}

fn loads_memguard(line: &str) -> bool {
    let line = line.trim_start();
    let quoted = line
        .strip_prefix("loadmodule")
        .and_then(|rest| rest.split('"').nth(1));
    quoted.is_some_and(|path| path.trim_end_matches(".so").ends_with("memguard"))
}

fn sets_listen(arguments: &[String]) -> bool {
    arguments.iter().any(|word| word.starts_with("-l"))
}

/// A path with a folder in it must hold in another working directory; a bare name is searched.
fn absolute(path: &Path) -> PathBuf {
    match path.components().count() > 1 {
        true => fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()),
        false => path.to_owned(),
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
    Err(not_run(format!(
        "no port of 127.0.0.1 from {} to {} was free in a hundred tries (ss -lntu shows what holds them): choose one with \
         --listen udp:127.0.0.1:PORT",
        PORTS.start, PORTS.end
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_for_the_server_is_one_that_no_other_socket_is_given_by_chance() {
        let ports: Vec<u16> = (0..50).filter_map(|_| free_port().ok()).collect();
        assert_eq!(ports.len(), 50);
        assert!(ports.iter().all(|port| PORTS.contains(port)), "{ports:?}");
        let different = std::collections::BTreeSet::from_iter(&ports);
        assert!(different.len() > 25, "two gates at once: {ports:?}");
    }

    #[test]
    fn listen_lines_are_known_and_nothing_else() {
        for line in [
            "listen=udp:1.2.3.4:5060",
            "  listen = tcp:eth0",
            "port=5060",
        ] {
            assert!(is_listen(line), "{line}");
        }
        for line in [
            "# listen=udp:1.2.3.4",
            "listen_backlog=5",
            "tcp_listen=1",
            "modparam(\"a\", \"listen\", 1)",
        ] {
            assert!(!is_listen(line), "{line}");
        }
    }

    #[test]
    fn a_file_that_loads_memguard_itself_is_known() {
        for line in ["loadmodule \"memguard.so\"", " loadmodule(\"/a/memguard\")"] {
            assert!(loads_memguard(line), "{line}");
        }
        for line in [
            "# loadmodule \"memguard.so\"",
            "loadmodule \"tm.so\"",
            "modparam(\"memguard\", \"mode\", \"off\")",
        ] {
            assert!(!loads_memguard(line), "{line}");
        }
    }

    #[test]
    fn an_address_of_udp_is_read_out_of_a_listen_line() {
        let told = |word| udp_address(word).map(|address| address.to_string());
        for word in [
            "udp:127.0.0.1:5060",
            " 127.0.0.1 ",
            "\"127.0.0.1:5060\" advertise 1.2.3.4:5060",
        ] {
            assert_eq!(told(word).as_deref(), Some("127.0.0.1:5060"), "{word}");
        }
        for word in ["tcp:127.0.0.1:5060", "eth0", "MY_ADDRESS", ""] {
            assert_eq!(told(word), None, "{word}");
        }
    }

    #[test]
    fn sockets_of_ctl_are_known_and_those_that_are_defined_anew_are_not() {
        let text = "#!define CTL \"unix:/run/a\"\nmodparam(\"ctl\", \"binrpc\", \"unixs:/run/b\")\n\
                    # modparam(\"ctl\", \"binrpc\", \"unix:/run/c\")\nmodparam(\"ctl\", \"binrpc\", \"tcp:127.0.0.1:1\")\n";
        let of = |defines: &[String]| unix_sockets(text, defines).collect::<Vec<_>>().join(" ");
        assert_eq!(of(&[]), "/run/a /run/b");
        assert_eq!(of(&["CTL=\"unix:/tmp/x\"".to_owned()]), "/run/b");
    }

    #[test]
    fn an_ipv6_address_is_written_in_brackets() {
        let target = |host: &str| Target {
            host: host.into(),
            port: 5060,
            transport: "udp".into(),
        };
        assert_eq!(target("::1").address(), "[::1]:5060");
        assert_eq!(target("127.0.0.1").address(), "127.0.0.1:5060");
    }
}
