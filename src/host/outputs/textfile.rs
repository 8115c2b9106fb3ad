//! The metrics as a file for node_exporter (parameter `textfile`): written beside it and renamed, so that no reader sees half.
//! Forbidden here: waiting for a disk (no fsync) or for a reader of a pipe; Kamailio's log while nothing changes.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::host::kamailio::log::{Severity, log};
use crate::host::kamailio::replace::replace;

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
