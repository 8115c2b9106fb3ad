//! Runs sipp with a scenario and reads what it counted.
//! Forbidden here: traffic beyond loopback.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::wait::{holds_within, until};

/// From SIGTERM (or the last call) to the end.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A running sipp.
pub struct Sipp {
    child: Child,
    folder: PathBuf,
}

/// What sipp counted from its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub created: u64,
    pub successful: u64,
    pub failed: u64,
    /// By the scenario's counter of that name, of calls that go on, too.
    pub accepted: u64,
    pub retransmissions: u64,
}

impl Sipp {
    /// Starts `program` on `scenario` (XML) with the rows of `users` ("SEQUENTIAL" and one line per call) in
    /// `folder`, which must be new; `arguments` say how much and how fast (`-m 100 -r 50`).
    pub fn start(
        program: &Path,
        server: SocketAddr,
        folder: &Path,
        scenario: &str,
        users: &[String],
        arguments: &[&str],
    ) -> Sipp {
        assert!(server.ip().is_loopback(), "tests talk to loopback only");
        fs::create_dir_all(folder).expect("the folder is writable");
        fs::write(folder.join("scenario.xml"), scenario).expect("the folder is writable");
        fs::write(
            folder.join("users.csv"),
            format!("SEQUENTIAL\n{}\n", users.join("\n")),
        )
        .expect("the folder is writable");
        let output = fs::File::create(folder.join("screen")).expect("the folder is writable");
        let mut command = Command::new(program);
        command.arg(server.to_string()).args([
            "-sf",
            "scenario.xml",
            "-inf",
            "users.csv",
            "-i",
            "127.0.0.1",
        ]);
        command.args(["-nostdin", "-trace_stat", "-stf", "counts.csv", "-fd", "1"]);
        command.args(arguments).current_dir(folder);
        command
            .stdin(Stdio::null())
            .stderr(output.try_clone().expect("a second handle"))
            .stdout(output);
        let child = command.spawn().expect("sipp can be started");
        Sipp {
            child,
            folder: folder.to_owned(),
        }
    }

    /// Waits for the end of all calls.
    #[track_caller]
    pub fn finish(mut self, limit: Duration) -> Counts {
        until(limit, "sipp makes all its calls", || !self.is_running());
        self.counts()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the child is ours").is_none()
    }

    /// What sipp wrote last; it writes once per second and at its end.
    pub fn counts(&self) -> Counts {
        let text = fs::read_to_string(self.folder.join("counts.csv")).unwrap_or_default();
        let mut lines = text.lines();
        let names: Vec<&str> = lines.next().unwrap_or_default().split(';').collect();
        let values: Vec<&str> = lines.last().unwrap_or_default().split(';').collect();
        let value = |wanted: &str| {
            let column = names.iter().position(|&name| name == wanted)?;
            values.get(column)?.parse::<u64>().ok()
        };
        Counts {
            created: value("TotalCallCreated").unwrap_or(0),
            successful: value("SuccessfulCall(C)").unwrap_or(0),
            failed: value("FailedCall(C)").unwrap_or(0),
            accepted: value("accepted(C)").unwrap_or(0),
            retransmissions: value("Retransmissions(C)").unwrap_or(0),
        }
    }
}

impl Drop for Sipp {
    fn drop(&mut self) {
        if self.is_running() {
            // SAFETY: the child has not been waited for, so its pid is still its own.
            unsafe {
                libc::kill(
                    i32::try_from(self.child.id()).expect("a pid fits"),
                    libc::SIGTERM,
                )
            };
            if !holds_within(STOP_LIMIT, || !self.is_running()) {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
    }
}
