//! A REGISTER, or the reply to one, out of a message: by memguard's own reader, or, where that does not read a form that
//! Kamailio serves, by Kamailio's parser. Forbidden here: deciding; Kamailio's parser before Kamailio itself has parsed the message.

use std::ffi::{c_int, c_void};

use crate::guard::sip::{Contacts, Found, Register, Reply, Scanned, aor::Aor, scan};
use crate::host::kamailio::{panic_guard::guarded, sys};
use crate::host::sip::arrived::text;

/// What a message is; it lives on the stack of one call.
#[allow(clippy::large_enum_variant)] // boxing it would be an allocation for every REGISTER
pub enum Reading<'a> {
    /// A REGISTER of this AoR.
    Register(Register<'a>, Aor<'a>),
    /// One that nobody reads.
    NotUnderstood,
    /// Something else.
    Other,
}

/// Reads a message; `msg` is null before Kamailio has parsed it: then what only Kamailio reads is not understood.
///
/// # Safety
/// `msg` is null or the live message that `message` is the buffer of.
pub unsafe fn read(message: &[u8], msg: *mut sys::sip_msg) -> Reading<'_> {
    match scan(message) {
        Scanned::Register(register) => {
            if let Some(aor) = Aor::parse(register.to_uri) {
                return Reading::Register(register, aor);
            }
        }
        Scanned::NotUnderstood(_) => (),
        _ => return Reading::Other,
    }
    if msg.is_null() {
        return Reading::NotUnderstood;
    }
    // SAFETY: the caller's promise.
    match unsafe { parsed(msg) } {
        Some((register, aor)) => Reading::Register(register, aor),
        None => Reading::NotUnderstood,
    }
}

/// # Safety
/// A live message; what is answered lives as long as it does.
unsafe fn parsed<'a>(msg: *mut sys::sip_msg) -> Option<(Register<'a>, Aor<'a>)> {
    // SAFETY: plain data, filled by the shim.
    let mut view: sys::mg_register_t = unsafe { std::mem::zeroed() };
    // SAFETY: a live message; the parts point into it.
    let (found, user, host) = unsafe {
        if sys::mg_register_view(msg, &mut view) == 0 {
            return None;
        }
        let found = Found {
            ruri: text(&view.ruri),
            from_first_via: text(&view.first_via),
            from: text(&view.from),
            to: text(&view.to),
            to_uri: text(&view.to_uri),
            to_has_tag: view.to_tag.len > 0,
            call_id: text(&view.call_id),
            cseq: text(&view.cseq),
            expires: (view.has_expires != 0).then(|| text(&view.expires)),
            has_credentials: view.has_credentials != 0,
        };
        (found, text(&view.to_user), text(&view.to_host))
    };
    let mut register = Register::found(&found)?;
    let contacts = (&raw mut register.contacts).cast::<c_void>();
    // SAFETY: the register lives for the call, and its parts as long as the message.
    let are_read = unsafe { sys::mg_contacts(msg, Some(each), contacts) };
    if are_read as c_int == 0 {
        register.contacts.add_found(b"?", b"", b"", b""); // what it is, nobody can know
    }
    let aor = match (user, host) {
        ([], []) if found.to_uri.is_empty() => Aor::opaque(found.to),
        ([], []) => Aor::opaque(found.to_uri),
        _ => Aor::of_parts(user, host),
    };
    Some((register, aor))
}

/// Reads the reply to a REGISTER; `msg` is null where there is only the text. `None`: it is none, or nobody reads it.
///
/// # Safety
/// `msg` is null or a live message of this process, the reply that `text` was made of.
pub unsafe fn read_reply(message: &[u8], msg: *mut sys::sip_msg) -> Option<Reply<'_>> {
    match scan(message) {
        Scanned::Reply(reply) => return Some(reply),
        Scanned::NotUnderstood(_) if !msg.is_null() => (),
        _ => return None,
    }
    // SAFETY: plain data, filled by the shim.
    let mut view: sys::mg_register_t = unsafe { std::mem::zeroed() };
    // SAFETY: the caller's promise; the parts point into the message.
    let found = unsafe {
        if sys::mg_reply_view(msg, &mut view) == 0 {
            return None;
        }
        Found {
            call_id: text(&view.call_id),
            cseq: text(&view.cseq),
            expires: (view.has_expires != 0).then(|| text(&view.expires)),
            ..Found::default()
        }
    };
    let mut reply = Reply::found(&found);
    let contacts = (&raw mut reply.contacts).cast::<c_void>();
    // SAFETY: the reply lives for the call, and its parts as long as the message. What cannot be read is not listed.
    unsafe { sys::mg_contacts(msg, Some(each), contacts) };
    Some(reply)
}

/// One contact, as Kamailio's parser sees it.
unsafe extern "C" fn each(
    closure: *mut c_void,
    uri: *const sys::str_,
    expires: *const sys::str_,
    instance: *const sys::str_,
    reg_id: *const sys::str_,
) {
    guarded("a contact", || {
        // SAFETY: the contacts of who asked, and texts that live as long as the message.
        unsafe {
            (*closure.cast::<Contacts<'_>>()).add_found(
                text(&*uri),
                text(&*expires),
                text(&*instance),
                text(&*reg_id),
            );
        }
    });
}
