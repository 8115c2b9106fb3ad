//! A received message as the gate sees it, and Kamailio's strings as bytes.
//! Forbidden here: copying the text, and reading it.

use std::ffi::c_int;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::host::kamailio::sys;

/// A received message, as the shim shows it.
pub struct Arrived<'a> {
    pub text: &'a [u8],
    pub source: IpAddr,
    pub source_port: u16,
    pub is_udp: bool,
    pub may_reply: bool,
    /// It came in on a socket; else a module made it up to run a route, and it is no SIP.
    pub is_real: bool,
    pub received: *mut sys::receive_info,
    /// Which message it is, to know it again.
    pub message: u64,
}

impl Arrived<'_> {
    /// # Safety
    /// The view was filled by the shim for a message that lives as long as the answer.
    pub unsafe fn of(view: &sys::mg_message_t) -> Arrived<'_> {
        let length = usize::try_from(view.length).unwrap_or(0);
        let text = if view.text.is_null() {
            &[][..]
        } else {
            // SAFETY: the server's receive buffer, `length` bytes (core/receive.c).
            unsafe { std::slice::from_raw_parts(view.text.cast(), length) }
        };
        let source = if view.source_length == 16 {
            IpAddr::V6(Ipv6Addr::from(view.source))
        } else {
            let [a, b, c, d, ..] = view.source;
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        };
        Arrived {
            text,
            source,
            source_port: view.source_port,
            is_udp: view.is_udp != 0,
            may_reply: view.may_reply != 0,
            is_real: view.is_real != 0,
            received: view.received,
            message: view.message,
        }
    }
}

/// Bytes of a Kamailio string.
///
/// # Safety
/// `length` bytes are readable at `start`, or it is null.
pub unsafe fn bytes<'a>(start: *const std::ffi::c_char, length: c_int) -> &'a [u8] {
    match usize::try_from(length) {
        // SAFETY: the caller's promise.
        Ok(length) if !start.is_null() => unsafe {
            std::slice::from_raw_parts(start.cast(), length)
        },
        _ => &[],
    }
}

/// Bytes of a Kamailio `str`.
///
/// # Safety
/// Its bytes are readable as long as the answer, or it is empty.
pub unsafe fn text<'a>(text: &sys::str_) -> &'a [u8] {
    // SAFETY: the caller's promise.
    unsafe { bytes(text.s, text.len) }
}
