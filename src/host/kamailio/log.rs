//! Kamailio's log from Rust: level first, then a stack buffer; nothing is allocated.
//! Forbidden here: use on a hot path, and user text as a format.

use std::ffi::c_int;
use std::fmt::{self, Write};

use crate::host::kamailio::sys;

/// Kamailio's log levels (core/dprint.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Severity {
    /// L_ERR
    Error = -1,
    /// L_WARN
    Warn = 0,
    /// L_NOTICE
    Notice = 1,
}

/// Longest line; the rest is cut.
const LINE: usize = 1024;

/// A line that is being written, on the stack.
pub struct Line {
    text: [u8; LINE],
    length: usize,
}

impl Write for Line {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = self.text.get_mut(self.length..).unwrap_or_default();
        let count = part.len().min(room.len());
        if let (Some(to), Some(from)) = (room.get_mut(..count), part.as_bytes().get(..count)) {
            to.copy_from_slice(from);
            self.length += count;
        }
        Ok(())
    }
}

/// Writes one line with the module's prefix if that level is logged.
pub fn write(severity: Severity, text: fmt::Arguments<'_>) {
    // SAFETY: reads the server's log settings.
    if unsafe { sys::mg_log_wanted(severity as c_int) } == 0 {
        return;
    }
    let mut line = Line {
        text: [0; LINE],
        length: 0,
    };
    // Writing into the buffer cannot fail; a failing Display leaves what came before it.
    let _ = line.write_fmt(text);
    // SAFETY: pointer and length of an initialised buffer; the shim prints it with "%.*s".
    unsafe {
        sys::mg_log(
            severity as c_int,
            line.text.as_ptr().cast(),
            line.length as c_int,
        )
    };
}

macro_rules! log {
    ($severity:expr, $($arg:tt)+) => { $crate::host::kamailio::log::write($severity, format_args!($($arg)+)) };
}
pub(crate) use log;
