//! A real pprof, as `./dev` unpacked it.
//! Forbidden here: traffic, and looking into profiles; pprof does that.

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
    let output = Command::new(program)
        .args(words)
        .arg(profile)
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
