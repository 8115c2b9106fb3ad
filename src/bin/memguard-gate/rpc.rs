//! JSON-RPC of the server under test, over jsonrpcs' datagram socket: it answers when shared memory is full.
//! Forbidden here: knowing what the answers mean; waiting longer than one answer may take.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

/// An answer takes milliseconds; a machine under load is slower.
const LIMIT: Duration = Duration::from_secs(5);
/// More than jsonrpcs sends in one datagram.
const DATAGRAM: usize = 1 << 18;

/// A client with a socket of its own.
#[derive(Debug)]
pub struct Rpc {
    socket: UnixDatagram,
    own: PathBuf,
    server: PathBuf,
    count: u64,
    buffer: Vec<u8>,
}

impl Rpc {
    /// A client in `folder`, of the server's socket there.
    ///
    /// # Errors
    /// The socket cannot be made: the sentence of the system.
    pub fn new(folder: &Path, server: PathBuf) -> Result<Rpc, String> {
        let own = folder.join("gate");
        let said = |e: std::io::Error| format!("{}: {e}", own.display());
        let socket = UnixDatagram::bind(&own).map_err(said)?;
        socket.set_read_timeout(Some(LIMIT)).map_err(said)?;
        Ok(Rpc {
            socket,
            own,
            server,
            count: 0,
            buffer: vec![0; DATAGRAM],
        })
    }

    /// Calls a command.
    ///
    /// # Errors
    /// No answer, or the fault's text.
    pub fn call(&mut self, method: &str, params: &[Value]) -> Result<Value, String> {
        let said = |e: std::io::Error| format!("{method}: {e}");
        self.count += 1;
        let id = self.count;
        let request = json!({ "jsonrpc": "2.0", "method": method, "params": params, "id": id });
        self.socket
            .send_to(request.to_string().as_bytes(), &self.server)
            .map_err(said)?;
        loop {
            let length = self.socket.recv(&mut self.buffer).map_err(said)?;
            let answer: Value = serde_json::from_slice(&self.buffer[..length])
                .map_err(|e| format!("{method}: {e}"))?;
            if answer["id"] != json!(id) {
                continue; // a late answer to a call that was given up
            }
            return match answer.get("result") {
                Some(result) => Ok(result.clone()),
                None => Err(format!("{method}: {}", answer["error"]["message"])),
            };
        }
    }

    /// All rows of a command that shows only some at a time.
    ///
    /// # Errors
    /// As of [`Rpc::call`].
    pub fn rows(&mut self, method: &str, words: &[Value]) -> Result<Vec<Value>, String> {
        let mut all = Vec::new();
        loop {
            let from = all.len();
            let mut params = words.to_vec();
            params.extend([json!("top"), json!(1_000_000), json!("from"), json!(from)]);
            let answer = self.call(method, &params)?;
            let rows = match answer {
                Value::Array(rows) => rows,
                Value::Null => Vec::new(),
                one => vec![one],
            };
            let is_cut = |row: &Value| row.get("truncated").is_some();
            let is_more = rows.last().is_some_and(is_cut);
            all.extend(rows.into_iter().filter(|row| !is_cut(row)));
            if !is_more || all.len() == from {
                return Ok(all);
            }
        }
    }
}

impl Drop for Rpc {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.own);
    }
}
