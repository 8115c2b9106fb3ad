//! Tells the story that a black box holds: memguard's parameter `blackbox` names its file. Needs no Kamailio.
//! Forbidden here: changing the file; what is told is `guard::blackbox`'s.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::ExitCode;

use memguard::guard::formats::blackbox::{
    format::FILE_BYTES,
    reading,
    story::{self, Scene},
};
use memguard::shared::files::blackbox::is_held;

const USAGE: &str = "usage: memguard-blackbox [--all] [--json] FILE\n\
    Tells what memguard recorded in FILE (its parameter blackbox) before the server ended, and how it ended:\n\
    level changes, use of memory, who held it, refusals. The server may be running meanwhile.\n\
    \x20 --all    tells every run of the server in full, not only the last two\n\
    \x20 --json   prints everything that was recorded as one JSON document\n\
    Exit status: 0 told; 1 nothing could be read; 2 wrong arguments.";

fn main() -> ExitCode {
    let (options, files): (Vec<String>, Vec<String>) = std::env::args()
        .skip(1)
        .partition(|word| word.starts_with('-'));
    if options.iter().any(|word| word == "--help" || word == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let is_known = |word: &String| ["--all", "--json"].contains(&word.as_str());
    let ([file], true) = (files.as_slice(), options.iter().all(is_known)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let has = |wanted: &str| options.iter().any(|word| word == wanted);
    match tell(file, has("--json"), has("--all")) {
        Ok(text) => {
            // A reader that went away (head, less) is no failure of ours.
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("memguard-blackbox: {file}: {reason}.");
            ExitCode::from(1)
        }
    }
}

fn tell(name: &str, is_json: bool, is_all: bool) -> Result<String, String> {
    let file = File::open(name).map_err(|e| e.to_string())?;
    let held = is_held(&file);
    let mut bytes = Vec::new();
    file.take(FILE_BYTES as u64)
        .read_to_end(&mut bytes)
        .map_err(|e| e.to_string())?;
    let found = reading::read(&bytes)?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    let scene = Scene {
        file: name.to_owned(),
        is_held: held,
        boot: boot.map(|text| text.trim().to_owned()),
        is_plain: !speaks_utf8(),
        is_all,
    };
    Ok(match is_json {
        true => story::json(&found, &scene).to_string() + "\n",
        false => story::tell(&found, &scene),
    })
}

/// Whether the terminal's language is written in UTF-8 (setlocale(3): the first of these that is set counts).
fn speaks_utf8() -> bool {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    set.is_some_and(|value| {
        let value = value.to_lowercase();
        value.contains("utf-8") || value.contains("utf8")
    })
}
