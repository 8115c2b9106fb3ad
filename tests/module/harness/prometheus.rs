//! A real Prometheus and promtool, as `./dev` unpacked them.
//! Forbidden here: traffic beyond loopback, a process or a folder that outlives the test.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::builder::free_port;
use super::{http, pairs, until};

const LIMIT: Duration = Duration::from_secs(10);

/// One of the two programs; where it is missing that is said as a skip.
#[track_caller]
pub fn program(name: &str) -> Option<PathBuf> {
    let folder = std::env::var("MEMGUARD_PROMETHEUS").unwrap_or_default();
    let path = Path::new(&folder).join(name);
    if path.is_file() {
        return Some(path);
    }
    pairs::skip(&format!("{name} is not here: run ./dev test module"));
    None
}

/// What promtool prints, and whether it was content; `input` is its standard input.
pub fn promtool(program: &Path, words: &[&str], input: &str) -> (bool, String) {
    use std::io::Write;
    let mut child = Command::new(program)
        .args(words)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool can be started");
    let mut pipe = child.stdin.take().expect("a pipe");
    // A test that reads no input may have closed it.
    let _ = pipe.write_all(input.as_bytes());
    drop(pipe);
    let output = child.wait_with_output().expect("promtool ends");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// A running Prometheus.
pub struct Prometheus {
    child: Child,
    address: SocketAddr,
}

impl Prometheus {
    /// Scrapes `target` each second as job `memguard`, with the rule files; `folder` must be new.
    pub fn start(program: &Path, folder: &Path, target: SocketAddr, rules: &[&Path]) -> Prometheus {
        fs::create_dir_all(folder).expect("the folder is writable");
        let rules: String = rules
            .iter()
            .map(|path| format!("  - {}\n", path.display()))
            .collect();
        let config = format!(
            "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\n  evaluation_interval: 1s\nrule_files:\n{rules}\
             scrape_configs:\n  - job_name: memguard\n    static_configs:\n      - targets: ['{target}']\n"
        );
        let file = folder.join("prometheus.yml");
        fs::write(&file, config).expect("the folder is writable");
        let address = free_port();
        let log = fs::File::create(folder.join("log")).expect("the folder is writable");
        let mut command = Command::new(program);
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        // SAFETY: prctl is async-signal-safe and touches no memory of the parent.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let child = command.spawn().expect("prometheus can be started");
        let prometheus = Prometheus { child, address };
        until(Duration::from_secs(30), "Prometheus is ready", || {
            http::get(address, "/-/ready", LIMIT).is_some_and(|r| r.status == 200)
        });
        prometheus
    }

    /// A call of its API: what is under `data`, or its complaint.
    pub fn api(&self, path: &str) -> Result<Value, String> {
        let answer =
            http::get(self.address, &format!("/api/v1/{path}"), LIMIT).ok_or("no answer")?;
        let value: Value = serde_json::from_str(&unchunked(&answer)).map_err(|e| e.to_string())?;
        match value["status"].as_str() {
            Some("success") => Ok(value["data"].clone()),
            _ => Err(value.to_string()),
        }
    }

    /// The result of an instant query: labels and value of each series.
    pub fn query(&self, expression: &str) -> Result<Vec<(Value, f64)>, String> {
        let encoded: String = expression.bytes().map(|b| format!("%{b:02X}")).collect();
        let data = self.api(&format!("query?query={encoded}"))?;
        let rows = data["result"].as_array().cloned().unwrap_or_default();
        Ok(rows
            .iter()
            .map(|row| {
                let value = row["value"][1].as_str().and_then(|v| v.parse().ok());
                (row["metric"].clone(), value.unwrap_or(f64::NAN))
            })
            .collect())
    }
}

/// The body without the sizes of HTTP's chunks (RFC 9112 section 7.1).
fn unchunked(answer: &http::Response) -> String {
    if answer.header("Transfer-Encoding") != Some("chunked") {
        return answer.body.clone();
    }
    let mut text = String::new();
    let mut rest = answer.body.as_str();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        match (size, after.get(..size), after.get(size + 2..)) {
            (1.., Some(chunk), Some(next)) => {
                text.push_str(chunk);
                rest = next;
            }
            _ => break,
        }
    }
    text
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
