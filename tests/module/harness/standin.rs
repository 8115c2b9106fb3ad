//! The stand-in for Kamailio (tests/module/standin) as a process that is told what to do, line by line.
//! Forbidden here: knowing what memguard should answer.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use serde_json::Value;

use super::builder::Folder;
use super::pairs::{self, Pair};
use super::sip::{Reply, Request};

/// Small, so that walks over it are quick.
const SHM_KIB: &str = "1024";

/// What became of a message.
#[derive(Debug)]
pub struct Fate {
    /// `datagram` and `gate`: answered there; `script`: it got as far; `dropped`: it could not be held.
    pub came_to: String,
    pub reply: Option<Reply>,
}

/// A running stand-in; it and its children end with this.
pub struct Standin {
    child: Child,
    /// `None` once it has been told that there is nothing more.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    log: PathBuf,
}

impl Standin {
    /// Starts it with memguard.so loaded, and not yet registered.
    #[track_caller]
    pub fn new(pair: &Pair, folder: &Folder) -> Standin {
        Standin::start(pair, folder, None, None)
    }

    /// As `new`, in a server of another build: the `size` of each block, or what is `used` of each pool, lies elsewhere
    /// than the headers say that memguard was built with.
    #[track_caller]
    pub fn of_another_build(pair: &Pair, folder: &Folder, elsewhere: &str) -> Standin {
        Standin::start(pair, folder, None, Some(elsewhere))
    }

    /// As `new`, under valgrind, which writes what it finds into the files `valgrind.PID` of the folder. `None` where
    /// valgrind is missing, and says so as a skip.
    #[track_caller]
    pub fn under_valgrind(pair: &Pair, folder: &Folder) -> Option<Standin> {
        let program = std::env::var("MEMGUARD_VALGRIND").unwrap_or_default();
        let works = |program: &String| {
            let probe = Command::new(program).args(["-q", "true"]).status();
            probe.is_ok_and(|status| status.success())
        };
        let found = Some(program).filter(works);
        if found.is_none() {
            pairs::skip("valgrind is not here: run ./dev test module");
        }
        Some(Standin::start(pair, folder, Some(&found?), None))
    }

    #[track_caller]
    fn start(
        pair: &Pair,
        folder: &Folder,
        valgrind: Option<&str>,
        elsewhere: Option<&str>,
    ) -> Standin {
        let log = folder.file("log");
        let program = pair.kamailio.mgtest.with_file_name("standin");
        let mut command = match valgrind {
            None => Command::new(&program),
            Some(valgrind) => {
                let mut command = Command::new(valgrind);
                let reports = folder.file("valgrind.%p");
                command
                    // The host replaces malloc(): valgrind must, too.
                    .arg("--soname-synonyms=somalloc=NONE")
                    .args(["--leak-check=full", "--errors-for-leak-kinds=definite"])
                    .arg("--num-callers=40")
                    .arg(format!("--log-file={}", reports.display()))
                    .arg(&program);
                command
            }
        };
        let memguard = pair.kamailio.memguard.as_ref();
        command
            .arg(memguard.expect("memguard.so was built for this version"))
            .args([&pair.manager, SHM_KIB])
            .args(elsewhere)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).expect("the folder is writable"));
        // SAFETY: setpgid and prctl are async-signal-safe, and the closure touches no memory of the parent.
        unsafe {
            command.pre_exec(|| {
                libc::setpgid(0, 0);
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut child = command.spawn().expect("the stand-in can be started");
        Standin {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().expect("it is piped")),
            child,
            log,
        }
    }

    /// What it answers to a line; `None` when it is gone.
    pub fn try_ask(&mut self, line: &str) -> Option<Value> {
        let line = line.replace('\r', "\\r").replace('\n', "\\n");
        writeln!(self.input.as_mut()?, "{line}").ok()?;
        let mut answer = String::new();
        self.output.read_line(&mut answer).ok()?;
        serde_json::from_str(&answer).ok()
    }

    #[track_caller]
    pub fn ask(&mut self, line: &str) -> Value {
        match self.try_ask(line) {
            Some(answer) => answer,
            None => panic!("the stand-in died of {line:?}:\n{}", self.log()),
        }
    }

    /// A step that Kamailio would end for if it failed: whether it did not.
    #[track_caller]
    pub fn step(&mut self, line: &str) -> bool {
        self.ask(line).as_i64().expect("a number") >= 0
    }

    /// The first row, or the only text, of what an RPC command answers.
    #[track_caller]
    pub fn rpc(&mut self, command: &str) -> Value {
        let mut whole = self.ask(&format!("rpc memguard.{command}"));
        assert_eq!(whole["code"], 0, "{command}: {whole}");
        whole["answer"].take()
    }

    /// A message over UDP.
    #[track_caller]
    pub fn datagram(&mut self, request: &Request) -> Fate {
        self.send("datagram", request)
    }

    /// A message over a transport where nothing comes before parsing.
    #[track_caller]
    pub fn message(&mut self, request: &Request) -> Fate {
        self.send("message", request)
    }

    #[track_caller]
    fn send(&mut self, how: &str, request: &Request) -> Fate {
        let local = "127.0.0.1:5070".parse().expect("an address");
        let text = String::from_utf8(request.bytes("UDP", local)).expect("a test writes ASCII");
        let answer = self.ask(&format!("{how} {text}"));
        Fate {
            came_to: answer["came_to"].as_str().unwrap_or_default().to_owned(),
            reply: Reply::parse(answer["reply"].as_str().unwrap_or_default().as_bytes()),
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its end by itself, when there is nothing more to read.
    pub fn end(mut self) -> ExitStatus {
        drop(self.input.take());
        self.child.wait().expect("it is ours")
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        if self.input.is_none() {
            return; // reaped; its children die with it
        }
        // SAFETY: a plain call; the group is the stand-in's own, and it exists as long as the child is not reaped.
        unsafe { libc::kill(-(self.child.id() as i32), libc::SIGKILL) };
        let _ = self.child.wait();
    }
}
