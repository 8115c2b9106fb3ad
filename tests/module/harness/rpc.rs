//! Kamailio's RPC from outside: JSON-RPC over the datagram socket, and the packaged kamcmd over binrpc.
//! Forbidden here: retrying; a call is answered within its limit or is a fault.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

/// An error answer: Kamailio's code and text; code 0 when there was no answer at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub code: i64,
    pub text: String,
}

fn no_answer(why: impl std::fmt::Display) -> Fault {
    Fault {
        code: 0,
        text: why.to_string(),
    }
}

/// How long a call may take.
const LIMIT: Duration = Duration::from_secs(5);
/// More than jsonrpcs ever sends in one datagram.
const DATAGRAM: usize = 1 << 17;

/// Calls `method` through the jsonrpcs datagram socket; `folder` takes the socket for the answer meanwhile.
pub fn call(socket: &Path, folder: &Path, method: &str, params: Value) -> Result<Value, Fault> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // ORDERING: Relaxed; only the number itself must be unique.
    let id = COUNT.fetch_add(1, Ordering::Relaxed);
    let own = OwnSocket::bind(folder.join(format!("r{id}"))).map_err(no_answer)?;
    let request = json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": id });
    own.socket
        .send_to(request.to_string().as_bytes(), socket)
        .map_err(no_answer)?;
    let mut buffer = vec![0; DATAGRAM];
    let length = own.socket.recv(&mut buffer).map_err(no_answer)?;
    let answer: Value = serde_json::from_slice(&buffer[..length]).map_err(|e| {
        no_answer(format!(
            "{e} in {}",
            String::from_utf8_lossy(&buffer[..length])
        ))
    })?;
    match (answer.get("result"), answer.get("error")) {
        (Some(result), _) => Ok(result.clone()),
        (None, Some(error)) => Err(Fault {
            code: error["code"].as_i64().unwrap_or(0),
            text: error["message"].as_str().unwrap_or_default().to_owned(),
        }),
        (None, None) => Err(no_answer(answer)),
    }
}

/// A datagram socket with a name, which goes with it.
struct OwnSocket {
    socket: UnixDatagram,
    path: PathBuf,
}

impl OwnSocket {
    fn bind(path: PathBuf) -> std::io::Result<OwnSocket> {
        let socket = UnixDatagram::bind(&path)?;
        // a server that runs as another user answers too
        std::fs::set_permissions(&path, Permissions::from_mode(0o777))?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.set_write_timeout(Some(LIMIT))?;
        Ok(OwnSocket { socket, path })
    }
}

impl Drop for OwnSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Calls kamcmd as an operator does; its output, or as fault what it printed instead.
pub fn kamcmd(program: &Path, ctl: &Path, words: &[&str]) -> Result<String, Fault> {
    let output = Command::new(program)
        .arg("-s")
        .arg(format!("unix:{}", ctl.display()))
        .args(words)
        .output()
        .map_err(no_answer)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    // kamcmd prints "error: 400 - sentence" and still exits with 0 on some versions.
    let complaint = text
        .lines()
        .chain(errors.lines())
        .find_map(|line| line.strip_prefix("error: "));
    if let Some((code, text)) = complaint.and_then(|line| line.split_once(" - ")) {
        return Err(Fault {
            code: code.trim().parse().unwrap_or(0),
            text: text.to_owned(),
        });
    }
    if output.status.success() {
        Ok(text)
    } else {
        Err(no_answer(errors))
    }
}
