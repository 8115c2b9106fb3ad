//! While the server drains (`memguard.drain`) and `drain_options` is 1: OPTIONS to the server itself get 503, so that a
//! dispatcher takes it out. Forbidden here: any other request. Process: SIP workers.

use std::ffi::c_int;

use crate::guard::config::params::Int;
use crate::host::kamailio::{state, sys};
use crate::host::sip::answer;

/// What a dispatcher is told.
const CODE: c_int = 503;

/// Answers the message if it is such a request; one read while nothing drains.
///
/// # Safety
/// Kamailio's live message, in the callback before the script.
pub unsafe fn answers(msg: *mut sys::sip_msg, may_reply: bool) -> bool {
    let Some(region) = state::region() else {
        return false;
    };
    if region.control.drain_until_ms.get() == 0 {
        return false;
    }
    let left_ms = region.drains_for(state::now_ms());
    let is_wanted = may_reply && left_ms > 0 && region.settings.get(Int::DrainOptions) == 1;
    // SAFETY: the caller's promise.
    if !is_wanted || unsafe { sys::mg_is_options_to_self(msg) } == 0 {
        return false;
    }
    let mut header = [0u8; 40];
    let seconds = u32::try_from(left_ms.div_ceil(1000)).unwrap_or(u32::MAX);
    let length = answer::retry_after_text(seconds, &mut header);
    // SAFETY: the caller's promise; texts that live for the call.
    unsafe {
        sys::mg_script_reply(
            msg,
            CODE,
            c"Draining".as_ptr(),
            header.as_ptr().cast(),
            length as c_int,
        ) > 0
    }
}
