//! Learning bindings: from the replies to REGISTERs that pass, and from the local usrloc's own changes.
//! Forbidden here: deciding; locks (usrloc's callbacks run under its slot lock: write the table and return).

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::net::IpAddr;

use super::arrived::bytes;
use super::entry::{GoOn, guarded};
use super::state::{self, Tables};
use super::{hooks, outside, sys};
use crate::guard::aor::{self, local};
use crate::guard::params::Int;
use crate::guard::sip::{Contact, Expires, MAX_CONTACTS, Reply, Scanned, scan};
use crate::guard::words::Class;
use crate::shared::pending::{Kind, Pending, State};
use crate::shared::region::Region;

/// A registration whose final reply takes longer than this (seconds) is forgotten (RFC 3261 Timer F is 32 s).
const IN_FLIGHT_AGE: u64 = 64;
/// Expires of a reply that names none (RFC 3261 10.3 step 7 lets the registrar choose; Kamailio's default is 3600).
const USUAL_EXPIRES: u32 = 3600;

/// A REGISTER in hand.
#[derive(Clone, Copy)]
pub struct InHand {
    pub pending: Pending,
    class: Class,
    /// Which message it is ([`sys::mg_message_t`]).
    message: u64,
    /// It stands in the table of registrations in flight already.
    is_noted: bool,
    /// The number of its record in a local usrloc that keeps bindings in memory; 0: there is none.
    pub record: u64,
    /// Numbers of the URIs of its contacts ([`local::uri_number`]; 0: none), to know them again in usrloc's callback: the
    /// script may have changed the message by then.
    pub said: [u64; MAX_CONTACTS],
    /// Where it came from.
    pub source: (IpAddr, u16),
    /// A local usrloc that keeps bindings in memory has changed one since.
    pub is_changed: bool,
}

impl InHand {
    /// The number of a binding whose contact the request names with the URI of this number.
    pub fn number_of(&self, uri: u64) -> Option<u64> {
        let place = self.said.iter().position(|said| *said == uri)?;
        self.pending.bindings().get(place).map(|binding| binding.fp)
    }

    /// Whether it names a contact with the URI of this number, or names more than are kept.
    pub fn names(&self, uri: u64) -> bool {
        self.said.contains(&uri) || self.said.last().is_some_and(|last| *last != 0)
    }

    /// The URIs that it names, by their numbers.
    pub fn named(&self) -> impl Iterator<Item = u64> {
        self.said.into_iter().filter(|said| *said != 0)
    }

    /// A local usrloc has told everything that this server's own 2xx would: what it changed, or that it had to change
    /// nothing. What it did not store for a REGISTER that asks for a binding may be stored elsewhere.
    fn is_told_by_usrloc(&self) -> bool {
        self.is_changed || self.pending.kind != Kind::Add || self.class == Class::Refresh
    }
}

/// The REGISTER that this process's main thread has in hand, for usrloc's callbacks. SIP workers are single-threaded.
struct Hand(Cell<Option<InHand>>);
// SAFETY: used by the main thread of each process only (script callbacks and usrloc callbacks run there).
unsafe impl Sync for Hand {}
static LOCAL_IN_HAND: Hand = Hand(Cell::new(None));

/// A REGISTER was admitted and goes to the script; `record`: [`InHand::record`].
pub fn begin(
    pending: Pending,
    class: Class,
    message: u64,
    record: u64,
    contacts: &[Contact<'_>],
    source: (IpAddr, u16),
) {
    let mut said = [0; MAX_CONTACTS];
    if let (Some(tables), true) = (state::tables(), state::registrar().is_some()) {
        for (said, contact) in said.iter_mut().zip(contacts) {
            *said = local::uri_number(&tables.key, contact.uri);
        }
    }
    // Without a local usrloc it is passed on, and the reply may come to another process before the script ends here.
    let is_noted = state::region().is_some_and(|r| r.control.usrloc_in_memory.get() == 0);
    if let (true, Some(tables)) = (is_noted, state::tables()) {
        tables.in_flight.note(&pending);
    }
    LOCAL_IN_HAND.0.set(Some(InHand {
        is_noted,
        said,
        source,
        pending,
        class,
        message,
        record,
        is_changed: false,
    }));
}

/// The REGISTER in hand, for usrloc's callback.
pub fn in_hand() -> Option<InHand> {
    LOCAL_IN_HAND.0.get()
}

/// What usrloc's callback noted of the REGISTER in hand.
pub fn keep_in_hand(hand: InHand) {
    LOCAL_IN_HAND.0.set(Some(hand));
}

/// Class of the REGISTER in hand.
pub fn class_in_hand() -> Option<Class> {
    LOCAL_IN_HAND.0.get().map(|hand| hand.class)
}

/// The script is through with the message in hand, or another one has come. A REGISTER that got no final reply here was
/// passed on, or waits: it is remembered until its reply passes.
pub fn end() {
    let Some(hand) = LOCAL_IN_HAND.0.take() else {
        return;
    };
    if let (false, Some(tables)) = (hand.is_noted, state::tables()) {
        tables.in_flight.note(&hand.pending);
    }
}

/// Post-script callback for requests. Process: SIP workers.
pub unsafe extern "C" fn on_script_end(
    _msg: *mut sys::sip_msg,
    _flags: c_uint,
    _param: *mut c_void,
) -> c_int {
    guarded("the end of the script", || {
        end();
        hooks::sample::message(&[]);
        outside::at_message_end();
        GoOn(1)
    })
    .0
}

/// Seconds that an Expires grants.
fn granted(contact: Expires, header: Expires) -> u32 {
    contact
        .seconds()
        .or(header.seconds())
        .unwrap_or(USUAL_EXPIRES)
}

/// One message that may be a reply to a REGISTER; `in_hand`: to this one.
fn reply_seen(text: &[u8], in_hand: Option<Pending>) {
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
            accepted(region, tables, &reply, call_id_fp, in_hand);
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
fn accepted(
    region: &Region,
    tables: &Tables,
    reply: &Reply<'_>,
    call_id_fp: u64,
    in_hand: Option<Pending>,
) {
    let now = state::coarse_ms() / 1000;
    let pending = in_hand
        .or_else(|| tables.in_flight.find(call_id_fp, now, IN_FLIGHT_AGE))
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
        let by_uri = aor::uri_fingerprints(&tables.key, aor_fp, contact.uri);
        let by_instance = aor::binding_by_instance(&tables.key, aor_fp, contact);
        tables
            .bindings
            .put(by_instance.unwrap_or(by_uri.whole), until, now, 0);
        // What a contact in other words is compared with (`Visit::is_alike`).
        let whole = by_instance.map(|_| by_uri.whole);
        let hints = [whole, Some(by_uri.base), by_uri.names];
        for number in hints.into_iter().flatten() {
            tables.hints.raise(number, until, now, 0);
        }
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

/// A reply of this server's to the REGISTER in hand: what stands in it is known without reading it. False when it
/// must be read all the same.
fn answered_here(hand: &InHand, status: c_int) -> bool {
    let (Some(region), Some(tables), Some(row)) =
        (state::region(), state::tables(), hooks::own_row())
    else {
        return false;
    };
    let pending = &hand.pending;
    match status {
        ..200 => (),
        200..300 => {
            if region.control.usrloc_in_memory.get() == 0 || !hand.is_told_by_usrloc() {
                return false;
            }
            row.sip.accepted.add(1);
            if hand.class == Class::Followup {
                tables.in_flight.forget(pending.call_id_fp); // the challenge is used up
            }
        }
        401 | 407 => {
            row.sip.challenged.add(1);
            tables.in_flight.note(&Pending {
                state: State::Challenged,
                ..*pending
            });
        }
        _ => row.sip.failed.add(1),
    }
    true
}

/// sl is about to send a reply of this server's to a REGISTER. Process: SIP workers.
pub unsafe extern "C" fn on_local_reply(
    text: *const c_char,
    length: c_int,
    status: c_int,
    message: u64,
) {
    guarded("a local reply", || {
        let hand = LOCAL_IN_HAND.0.get().filter(|h| h.message == message);
        if hand.is_none_or(|hand| !answered_here(&hand, status)) {
            // SAFETY: sl's or tm's reply buffer, alive during the callback (sl_funcs.c, t_reply.c).
            reply_seen(unsafe { bytes(text, length) }, hand.map(|h| h.pending));
        }
        if hand.is_some() && status >= 200 {
            LOCAL_IN_HAND.0.set(None); // it is answered: nothing to remember
        }
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
            reply_seen(bytes(view.text, view.length), None);
        }
        GoOn(1)
    })
    .0
}
