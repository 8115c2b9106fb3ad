//! The binaries that all processes have in common: those that were loaded before the first fork, at the same addresses.
//! Forbidden here: names of functions (`frames`). Process: main in PROC_INIT, RPC processes.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use once_cell::sync::OnceCell;

use crate::guard::formats::profile::{self, Mapping};

/// Where they lie; not set when /proc cannot be read.
static COMMON: OnceCell<Vec<(u64, u64)>> = OnceCell::new();

/// Remembers what is loaded. Process: main, in PROC_INIT: every module is initialised and nothing is forked.
pub fn remember() {
    let common: Vec<_> = own().iter().map(|m| (m.start, m.limit)).collect();
    if !common.is_empty() {
        let _ = COMMON.set(common); // once
    }
}

/// Whether an address means the same in every process. What a process loads after its fork (a Python extension, a
/// library for names) may lie where another process has loaded something else.
pub fn has_in_common(address: u64) -> bool {
    let common = COMMON.get();
    common.is_none_or(|all| all.iter().any(|(from, to)| (*from..*to).contains(&address)))
}

/// What was loaded before the first fork, the main binary first, with build ids.
pub fn common() -> Vec<Mapping> {
    let mut all = own();
    if let Some(common) = COMMON.get() {
        all.retain(|m| common.contains(&(m.start, m.limit)));
    }
    for mapping in &mut all {
        mapping.build_id = build_id(&mapping.file).unwrap_or_default();
    }
    all
}

fn own() -> Vec<Mapping> {
    profile::mappings(&fs::read_to_string("/proc/self/maps").unwrap_or_default())
}

/// `None` also when the file was replaced since it was loaded: its name then ends in " (deleted)".
fn build_id(path: &str) -> Option<String> {
    let file = File::open(path).ok()?;
    profile::build_id(|from, count| {
        let mut bytes = vec![0; count];
        file.read_exact_at(&mut bytes, from).ok()?;
        Some(bytes)
    })
}
