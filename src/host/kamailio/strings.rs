//! Kamailio's strings from Rust, and ours for its tables.
//! Forbidden here: anything on a SIP path; these allocate.

use std::ffi::{CStr, CString, c_char};

use crate::host::kamailio::sys;

/// A C string that lives for ever, for Kamailio's tables.
pub fn leak(text: &str) -> *mut c_char {
    CString::new(text).unwrap_or_default().into_raw()
}

/// A C string as text; `None` for null.
///
/// # Safety
/// Null, or zero-terminated and alive.
pub unsafe fn text_at(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    Some(text.to_string_lossy().into_owned())
}

/// A `str` of Kamailio's as text.
///
/// # Safety
/// Null, or a live `str`.
pub unsafe fn text_of(text: *const sys::str_) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: a live str has `len` readable bytes at `s`.
    unsafe {
        let (start, length) = ((*text).s, usize::try_from((*text).len).unwrap_or(0));
        if start.is_null() {
            return String::new();
        }
        String::from_utf8_lossy(std::slice::from_raw_parts(start.cast(), length)).into_owned()
    }
}
