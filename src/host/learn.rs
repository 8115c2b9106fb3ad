//! Learning bindings: from the replies to REGISTERs that pass, and from the local usrloc's own changes.
//! Forbidden here: deciding; locks (usrloc's callbacks run under its slot lock: write the table and return).

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_long, c_uint, c_void};

use super::entry::{GoOn, guarded};
use super::gate::bytes;
use super::state::{self, Tables};
use super::{hooks, sys};
use crate::guard::aor::{self, Aor};
use crate::guard::params::Int;
use crate::guard::sip::{Contact, Expires, Reply, Scanned, scan};
use crate::guard::words::Class;
use crate::shared::pending::{Kind, Pending};
use crate::shared::region::Region;

/// A registration whose final reply takes longer than this (seconds) is forgotten (RFC 3261 Timer F is 32 s).
const IN_FLIGHT_AGE: u64 = 64;
/// Expires of a reply that names none (RFC 3261 10.3 step 7 lets the registrar choose; Kamailio's default is 3600).
const USUAL_EXPIRES: u32 = 3600;

/// The REGISTER that this process's main thread has in hand, for usrloc's callbacks. SIP workers are single-threaded.
struct InHand(Cell<Option<(Pending, Class)>>);
// SAFETY: used by the main thread of each process only (script callbacks and usrloc callbacks run there).
unsafe impl Sync for InHand {}
static LOCAL_IN_HAND: InHand = InHand(Cell::new(None));

/// A REGISTER was admitted and goes to the script.
pub fn begin(pending: &Pending, class: Class) {
    LOCAL_IN_HAND.0.set(Some((*pending, class)));
}

/// Class of the REGISTER in hand.
pub fn class_in_hand() -> Option<Class> {
    LOCAL_IN_HAND.0.get().map(|(_, class)| class)
}

/// The registration in hand.
fn in_hand() -> Option<Pending> {
    LOCAL_IN_HAND.0.get().map(|(pending, _)| pending)
}

/// Another message is in hand.
pub fn end() {
    LOCAL_IN_HAND.0.set(None);
}

/// Seconds that an Expires grants.
fn granted(contact: Expires, header: Expires) -> u32 {
    contact
        .seconds()
        .or(header.seconds())
        .unwrap_or(USUAL_EXPIRES)
}

/// One message that may be a reply to a REGISTER; `is_ours`: this server made it.
fn reply_seen(text: &[u8]) {
    let (Some(region), Some(tables), Some(row)) =
        (state::region(), state::tables(), hooks::own_row())
    else {
        return;
    };
    let Scanned::Reply(reply) = scan(text) else {
        return;
    };
    let call_id_fp = aor::call_id_fingerprint(&tables.key, reply.call_id);
    match reply.status {
        ..200 => (),
        200..300 => {
            row.sip.accepted.add(1);
            accepted(region, tables, &reply, call_id_fp);
        }
        401 | 407 => {
            row.sip.challenged.add(1);
            tables
                .in_flight
                .mark_challenged(call_id_fp, reply.cseq_number);
        }
        _ => row.sip.failed.add(1),
    }
}

/// A 2xx: what it grants is known from now on, what its request removed is not.
fn accepted(region: &Region, tables: &Tables, reply: &Reply<'_>, call_id_fp: u64) {
    let now = state::now_ms() / 1000;
    let pending = tables
        .in_flight
        .find(call_id_fp, now, IN_FLIGHT_AGE)
        .filter(|p| p.cseq == reply.cseq_number);
    let aor_fp = match pending
        .map(|p| p.aor_fp)
        .or_else(|| aor::aor_fingerprint(&tables.key, reply.to_uri))
    {
        Some(fp) => fp,
        None => return,
    };
    let mut latest = 0;
    for contact in reply.contacts.kept() {
        let seconds = granted(contact.expires, reply.expires);
        if seconds == 0 {
            continue;
        }
        region.control.longest_expires.raise(u64::from(seconds));
        let until = now.saturating_add(u64::from(seconds));
        latest = latest.max(until);
        let fp = aor::binding_fingerprint(&tables.key, aor_fp, contact);
        tables.bindings.put(fp.primary, until, now, 0);
    }
    if let Some(pending) = pending {
        for binding in pending.bindings() {
            if binding.is_removed || pending.kind != Kind::Add {
                tables.bindings.remove(binding.fp);
            } else if latest > now && tables.bindings.get(binding.fp, now, 0).is_none() {
                // A proxy on the way rewrote the contact (NAT): ours is granted all the same.
                tables.bindings.put(binding.fp, latest, now, 0);
            }
        }
        tables.in_flight.forget(call_id_fp);
    }
    let is_removal = pending.is_some_and(|p| p.kind != Kind::Add);
    // All bindings of the AoR stand in the reply (RFC 3261 10.3 step 8); none: the AoR has ended now.
    if latest > 0 || is_removal {
        let memory = u32::try_from(region.settings.get_u64(Int::AorMemory)).unwrap_or(u32::MAX);
        tables.aors.put(aor_fp, latest.max(now), now, memory);
    }
}

/// sl is about to send a reply of this server's. Process: SIP workers.
pub unsafe extern "C" fn on_local_reply(text: *const c_char, length: c_int) {
    guarded("a local reply", || {
        // SAFETY: sl's reply buffer, alive during the callback (sl_funcs.c).
        reply_seen(unsafe { bytes(text, length) });
    });
}

/// Pre-script callback for replies: those that a registrar behind this server sends. Process: SIP workers.
pub unsafe extern "C" fn on_reply(
    msg: *mut sys::sip_msg,
    _flags: c_uint,
    _param: *mut c_void,
) -> c_int {
    guarded("a relayed reply", || {
        end();
        if let Some(row) = hooks::own_row() {
            row.sip.messages.add(1);
        }
        // SAFETY: plain data, filled by the shim.
        let mut view: sys::mg_message_t = unsafe { std::mem::zeroed() };
        // SAFETY: a live message for the duration of the call.
        unsafe {
            sys::mg_message_view(msg, &mut view);
            reply_seen(bytes(view.text, view.length));
        }
        GoOn(1)
    })
    .0
}

/// usrloc's events (ul_callback.h).
const INSERTED: c_int = 1;
const UPDATED: c_int = 2;
const DELETED: c_int = 4;

/// usrloc changed a contact. Process: whoever runs save(), an RPC, DMQ or a timer; under the slot's lock.
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C" fn on_binding(
    event: c_int,
    aor_text: *const c_char,
    aor_length: c_int,
    contact: *const c_char,
    contact_length: c_int,
    instance: *const c_char,
    instance_length: c_int,
    expires: c_long,
) {
    guarded("a usrloc change", || {
        // SAFETY: strings of the record, alive under its lock.
        let (text, uri, instance) = unsafe {
            (
                bytes(aor_text, aor_length),
                bytes(contact, contact_length),
                bytes(instance, instance_length),
            )
        };
        let (Some(region), Some(tables)) = (state::region(), state::tables()) else {
            return;
        };
        let in_hand = in_hand();
        if in_hand.is_none() && event == INSERTED {
            if let Some(row) = hooks::own_row() {
                row.sip.replicated.add(1);
            }
        }
        let Some(aor_fp) = in_hand
            .map(|p| p.aor_fp)
            .or_else(|| fingerprint_of(tables, text))
        else {
            return;
        };
        let stored = Contact {
            instance: (!instance.is_empty()).then_some(instance),
            ..Contact::of_uri(uri)
        };
        let fp = aor::binding_fingerprint(&tables.key, aor_fp, &stored);
        let now = state::now_ms() / 1000;
        match event {
            INSERTED | UPDATED => {
                let until = if expires == 0 {
                    u64::MAX
                } else {
                    expires as u64
                };
                let memory =
                    u32::try_from(region.settings.get_u64(Int::AorMemory)).unwrap_or(u32::MAX);
                tables.bindings.put(fp.primary, until, now, 0);
                tables.aors.raise(aor_fp, until, now, memory);
            }
            DELETED => {
                tables.bindings.remove(fp.primary);
            }
            _ => (), // expired: the table's own clock has ended it
        }
    });
}

/// Fingerprint of an AoR as usrloc spells it; without a domain it cannot be told, and usrloc is asked instead.
fn fingerprint_of(tables: &Tables, text: &[u8]) -> Option<u64> {
    let mut uri = [0u8; 512];
    let length = 4 + text.len();
    uri.get_mut(..4)?.copy_from_slice(b"sip:");
    uri.get_mut(4..length)?.copy_from_slice(text);
    let aor = Aor::parse(uri.get(..length)?)?;
    text.contains(&b'@').then(|| aor.fingerprint(&tables.key))
}
