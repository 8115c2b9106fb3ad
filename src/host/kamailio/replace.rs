//! One way to write a file in one step for whoever reads it: beside it first, then renamed.
//! Forbidden here: waiting for a disk (no fsync) or for a reader of a pipe.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::host::kamailio::file_limit;

/// Readable for everybody: the collector is another user, and Kamailio's umask is not known.
const MODE: u32 = 0o644;

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
