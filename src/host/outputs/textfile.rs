//! The metrics as a file for node_exporter (parameter `textfile`): written beside it and renamed, so that no reader sees half.
//! Forbidden here: waiting for a disk (no fsync) or for a reader of a pipe; Kamailio's log while nothing changes.

use std::ffi::OsString;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::host::kamailio::{
    file_limit,
    log::{Severity, log},
};

/// Readable for everybody: the collector is another user, and Kamailio's umask is not known.
const MODE: u32 = 0o644;

/// The file of the parameter, if it is set.
pub struct TextFile {
    /// The file and what is written first; the collector reads `*.prom` only, so the name must end differently.
    paths: Option<(PathBuf, PathBuf)>,
    has_failed: bool,
}

impl TextFile {
    /// Of the parameter's value.
    pub fn of(path: Option<&str>) -> TextFile {
        let paths = path.filter(|path| !path.is_empty()).map(|path| {
            let mut beside = OsString::from(path);
            beside.push(".tmp");
            (PathBuf::from(path), PathBuf::from(beside))
        });
        TextFile {
            paths,
            has_failed: false,
        }
    }

    /// Writes the text: whether it could; `None` without a file. Each change is logged once.
    pub fn write(&mut self, text: impl FnOnce() -> String) -> Option<bool> {
        let (path, beside) = self.paths.as_ref()?;
        let result = replace(path, beside, text().as_bytes());
        match &result {
            Err(e) if !self.has_failed => {
                log!(Severity::Warn, "textfile {}: {e}", path.display());
            }
            Ok(()) if self.has_failed => {
                log!(
                    Severity::Notice,
                    "textfile {} is written again",
                    path.display()
                );
            }
            _ => (),
        }
        self.has_failed = result.is_err();
        Some(result.is_ok())
    }
}

/// Writes a file in one step for whoever reads it: beside it first (never through a link), then renamed.
pub fn replace(path: &Path, beside: &Path, text: &[u8]) -> io::Result<()> {
    let result = file_limit::as_an_error(|| {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(MODE)
            // Neither through a link nor waiting for the reader of a pipe that somebody put there.
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(beside)
            .and_then(|mut file| {
                file.write_all(text)?;
                file.set_permissions(Permissions::from_mode(MODE))
            })
            .and_then(|()| fs::rename(beside, path))
    });
    if result.is_err() {
        let _ = fs::remove_file(beside); // half a file must not stay
    }
    result
}
