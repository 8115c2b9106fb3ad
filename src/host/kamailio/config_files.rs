//! The configuration that this server was started with: which files, and whether they still say the same.
//! Forbidden here: understanding them (Kamailio's own business), and any process but RPC and sampling after the start.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use once_cell::sync::OnceCell;

use crate::guard::formats::{check::check, includes};
use crate::host::kamailio::{strings, sys};

/// More files than this are not looked at.
const MOST: usize = 64;
/// A larger file is known by its marks alone, bytes.
const LARGEST: u64 = 256 << 10;

/// What tells a file from a later one, without reading it: inode, size, time of change.
type Marks = (u64, u64, i64, i64);

/// One file of the configuration.
#[derive(Debug)]
struct ConfigFile {
    path: PathBuf,
    marks: Marks,
    contents: Option<u64>,
}

static FILES: OnceCell<Vec<ConfigFile>> = OnceCell::new();

/// Notes the files as they are; in `mod_register`, while relative paths mean what they meant to Kamailio.
pub fn remember() {
    // SAFETY: the core's own text, set before the configuration is parsed (main.c), or null.
    let name = unsafe { strings::text_at(sys::mg_cfg_file()) };
    let mut files = Vec::new();
    if let Some(path) = name.and_then(|name| fs::canonicalize(name).ok()) {
        gather(path, &mut files);
    }
    let _ = FILES.set(files); // once per start
}

fn gather(path: PathBuf, files: &mut Vec<ConfigFile>) {
    if files.len() >= MOST || files.iter().any(|file| file.path == path) {
        return;
    }
    let Some(marks) = marks_of(&path) else {
        return;
    };
    let bytes = bytes_of(&path, marks);
    let folder = path.parent().unwrap_or(Path::new("/"));
    let text = String::from_utf8_lossy(bytes.as_deref().unwrap_or_default());
    // As the core looks for it (core/cfg.lex): as it is named, then beside the file that names it.
    let found = |name| fs::canonicalize(name).or_else(|_| fs::canonicalize(folder.join(name)));
    let included: Vec<PathBuf> = includes::names(&text)
        .take(MOST)
        .filter_map(|name| found(name).ok())
        .collect();
    let contents = bytes.as_deref().map(sum);
    drop(text);
    drop(bytes);
    files.push(ConfigFile {
        path,
        marks,
        contents,
    });
    for path in included {
        gather(path, files);
    }
}

fn marks_of(path: &Path) -> Option<Marks> {
    let data = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    Some((data.ino(), data.size(), data.mtime(), data.mtime_nsec()))
}

fn bytes_of(path: &Path, marks: Marks) -> Option<Vec<u8>> {
    (marks.1 <= LARGEST).then(|| fs::read(path).ok()).flatten()
}

fn sum(bytes: &[u8]) -> u64 {
    let word = |bytes: &[u8]| {
        let mut word = [0; 8];
        word.iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
        u64::from_le_bytes(word)
    };
    let words = bytes.chunks(8).map(word);
    words.fold(bytes.len() as u64, |sum, word| check(sum, &[word]))
}

/// One sentence for each file that is not as it was when the server was started.
pub fn changes() -> Vec<String> {
    let Some(files) = FILES.get() else {
        return Vec::new();
    };
    let main = files.first().map(|file| file.path.display().to_string());
    let changed = files.iter().filter_map(|file| {
        let name = file.path.display();
        let Some(marks) = marks_of(&file.path) else {
            return Some(format!("{name} is gone: Kamailio would not start"));
        };
        let is_same = marks == file.marks
            || file.contents.is_some()
                && bytes_of(&file.path, marks).as_deref().map(sum) == file.contents;
        (!is_same).then(|| {
            format!(
                "{name} was changed since the start: run kamailio -c -f {} before the restart",
                main.as_deref().unwrap_or_default()
            )
        })
    });
    changed.collect()
}
