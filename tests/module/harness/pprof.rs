//! A real pprof, as `./dev` unpacked it.
//! Forbidden here: traffic but its own to a server of the test, and looking into profiles; pprof does that.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::pairs;

/// The program; where it is missing that is said as a skip.
#[track_caller]
pub fn program() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var("MEMGUARD_PPROF").unwrap_or_default());
    if path.is_file() {
        return Some(path);
    }
    pairs::skip("pprof is not here: run ./dev test module");
    None
}

/// What pprof prints for these words; panics when it does not accept the profile.
#[track_caller]
pub fn pprof(program: &Path, words: &[&str], profile: &Path) -> String {
    run(program, words, profile.as_os_str(), profile)
}

/// The same of a profile that it fetches, by its address; what it keeps of it goes into `folder`.
#[track_caller]
pub fn fetched(program: &Path, words: &[&str], url: &str, folder: &Path) -> String {
    run(program, words, OsStr::new(url), &folder.join("x"))
}

#[track_caller]
fn run(program: &Path, words: &[&str], source: &OsStr, profile: &Path) -> String {
    let output = Command::new(program)
        .args(words)
        .arg(source)
        // Neither binaries nor symbols are looked for, and its own folder is the profile's.
        .env("PPROF_TMPDIR", profile.parent().unwrap_or(Path::new(".")))
        .env("PPROF_BINARY_PATH", "/nonexistent")
        .output()
        .expect("pprof can be started");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {said}{text}");
    text
}
