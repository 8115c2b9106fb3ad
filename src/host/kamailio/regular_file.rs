//! One way to open a file that somebody named: it is a regular one, whatever happens to its path meanwhile.
//! Forbidden here: reading it, and following a link or waiting for a pipe.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens the file, once: what is checked of this descriptor holds for what is read from it. `None`: something else
/// stands there (a link is not followed, a pipe not waited for).
pub fn open(path: &Path) -> io::Result<Option<File>> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    match opened {
        Ok(file) => Ok(file.metadata()?.is_file().then_some(file)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) => Ok(None),
        Err(e) => Err(e),
    }
}
