//! Learning bindings, from what this server itself did: usrloc's changes, the replies that sl and tm send, and those that tm
//! relays. A message that merely looks like a reply teaches nothing.
//! Forbidden here: deciding; locks (usrloc's callbacks run under its slot lock: write the table and return).

use std::cell::Cell;
use std::ffi::{c_char, c_int, c_long, c_uint, c_void};
use std::ptr;

use super::arrived::bytes;
use super::entry::{GoOn, guarded};
use super::granted::{self, Asked, Voucher};
use super::state::{self, Tables};
use super::visit::IN_FLIGHT_AGE;
use super::{hooks, outside, sys};
use crate::guard::aor::{self, Aor};
use crate::guard::params::Int;
use crate::guard::sip::{Contact, Register, Reply, Scanned, scan};
use crate::guard::words::Class;
use crate::shared::pending::{Kind, MAX_BINDINGS, Pending, State};

/// A REGISTER in hand.
#[derive(Clone, Copy)]
struct InHand {
    pending: Pending,
    class: Class,
    /// Which message it is ([`sys::mg_message_t`]).
    message: u64,
    /// It is a retransmission of what is in flight.
    is_again: bool,
    /// The end of its AoR on arrival; 0 when unknown, [`NOT_COMPARABLE`].
    aor_end: u64,
    /// Where the contacts of its bindings lie in the message, to know them again in usrloc's callback.
    contacts: [Uri; MAX_BINDINGS],
    /// Bit per binding of `pending` that the local usrloc has stored since.
    stored: u8,
    /// The latest end of those.
    latest: u64,
}

/// A contact's URI within the message in hand: compared, never kept beyond it.
#[derive(Clone, Copy)]
struct Uri {
    start: *const u8,
    length: usize,
}

impl Uri {
    const NONE: Uri = Uri {
        start: ptr::null(),
        length: 0,
    };

    fn of(text: &[u8]) -> Uri {
        Uri {
            start: text.as_ptr(),
            length: text.len(),
        }
    }

    /// # Safety
    /// The message that it points into is still in hand.
    unsafe fn is(&self, text: &[u8]) -> bool {
        // SAFETY: the caller's promise; `start` is null only with length 0, which equals no URI.
        self.length == text.len()
            && self.length > 0
            && unsafe { std::slice::from_raw_parts(self.start, self.length) } == text
    }
}

/// Stands for an AoR's end that is later than all others: its reply must be read.
pub const NOT_COMPARABLE: u64 = u64::MAX;

impl InHand {
    /// The number of a binding whose contact the request names with the same bytes.
    fn number_of(&self, uri: &[u8]) -> Option<u64> {
        // SAFETY: while it is in hand its message is being worked on (core/receive.c), so its buffer is alive.
        let place = self
            .contacts
            .iter()
            .position(|contact| unsafe { contact.is(uri) })?;
        self.pending.bindings().get(place).map(|binding| binding.fp)
    }

    /// The local usrloc has stored a binding while this REGISTER was in hand.
    fn note_stored(&mut self, fp: u64, until: u64) {
        for (place, binding) in self.pending.bindings().iter().enumerate() {
            if binding.fp == fp {
                self.stored |= 1 << place;
            }
        }
        self.latest = self.latest.max(until);
    }

    /// usrloc has told everything that a 2xx would: every binding of the request is stored, and none of the AoR's
    /// others ends later.
    fn is_told_by_usrloc(&self) -> bool {
        let bindings = self.pending.bindings();
        let all = (1u8 << bindings.len()).wrapping_sub(1);
        self.pending.kind == Kind::Add
            && !bindings.is_empty()
            && !bindings.iter().any(|binding| binding.is_removed)
            && self.stored == all
            && (self.aor_end..NOT_COMPARABLE).contains(&self.latest)
    }
}

/// The REGISTER that this process's main thread has in hand, for usrloc's callbacks. SIP workers are single-threaded.
struct Hand(Cell<Option<InHand>>);
// SAFETY: used by the main thread of each process only (script callbacks and usrloc callbacks run there).
unsafe impl Sync for Hand {}
static LOCAL_IN_HAND: Hand = Hand(Cell::new(None));

/// A reply is in hand: what usrloc stores meanwhile is stored by the script that handles it.
struct InReply(Cell<bool>);
// SAFETY: used by the main thread of each process only, as above.
unsafe impl Sync for InReply {}
static LOCAL_IN_REPLY: InReply = InReply(Cell::new(false));

/// A REGISTER was admitted and goes to the script; `aor_end` is the end of its AoR until now, 0 when it is unknown and
/// [`NOT_COMPARABLE`] when `pending` does not name all its bindings. `is_again`: the first one of its transaction is
/// remembered already.
pub fn begin(
    pending: Pending,
    class: Class,
    message: u64,
    aor_end: u64,
    is_again: bool,
    contacts: &[Contact<'_>],
) {
    let mut uris = [Uri::NONE; MAX_BINDINGS];
    for (uri, contact) in uris.iter_mut().zip(contacts) {
        *uri = Uri::of(contact.uri);
    }
    // At once: the reply, or a retransmission, may come to another process before the script ends here.
    if let (false, Some(tables)) = (is_again, state::tables()) {
        tables.in_flight.note(&pending);
    }
    LOCAL_IN_HAND.0.set(Some(InHand {
        contacts: uris,
        pending,
        class,
        message,
        is_again,
        aor_end,
        stored: 0,
        latest: 0,
    }));
}

/// Class of the REGISTER in hand.
pub fn class_in_hand() -> Option<Class> {
    LOCAL_IN_HAND.0.get().map(|hand| hand.class)
}

/// Whether the message in hand is a retransmission; `None` when this one is not in hand.
pub fn is_again_in_hand(message: u64) -> Option<bool> {
    let hand = LOCAL_IN_HAND.0.get().filter(|h| h.message == message);
    hand.map(|hand| hand.is_again)
}

/// The script is through with the message in hand, or another one has come. A REGISTER that got no final reply here was
/// passed on, or waits: it stays among those in flight.
pub fn end() {
    LOCAL_IN_REPLY.0.set(false);
    LOCAL_IN_HAND.0.set(None);
}

/// Whether what usrloc stores at this moment belongs to a REGISTER that came through here: to the one in hand, to a
/// reply in hand, or to a transaction (a suspended one that goes on in another process, a reply or failure route of tm's).
fn is_from_here() -> bool {
    // SAFETY: looks at tm's transaction of this process.
    let is_transaction = || unsafe { sys::mg_tm_in_register() != 0 };
    LOCAL_IN_HAND.0.get().is_some() || LOCAL_IN_REPLY.0.get() || is_transaction()
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
        ..200 => return true,
        200..300 => {
            // A usrloc that keeps nothing in memory may know bindings of the AoR that only the reply tells. A longer
            // Expires than any before is read from the reply, too: here it could be a second off.
            let now = state::coarse_ms() / 1000;
            let granted = hand.latest.saturating_sub(now).saturating_sub(1);
            let is_usual = granted::is_usual_expires(region, granted);
            let is_in_memory = region.control.usrloc_in_memory.get() != 0;
            if !is_in_memory || !is_usual || !hand.is_told_by_usrloc() {
                return false;
            }
            row.sip.accepted.add(1);
        }
        401 | 407 => {
            row.sip.challenged.add(1);
            tables.in_flight.note(&Pending {
                state: State::Challenged,
                ..*pending
            });
            return true;
        }
        _ => row.sip.failed.add(1),
    }
    tables.in_flight.forget(pending.key, pending.cseq);
    true
}

/// An answer that sl or tm has about a REGISTER, as the shim shows it.
struct Answer<'a> {
    reply: &'a [u8],
    request: &'a [u8],
    voucher: Voucher,
}

impl Answer<'_> {
    /// Reads both and learns from them. A reply of another CSeq or Call-ID than its request is none of its, whatever its
    /// branch says.
    fn learn(&self) {
        let (Some(region), Some(tables), Some(row)) =
            (state::region(), state::tables(), hooks::own_row())
        else {
            return;
        };
        let (Scanned::Register(register), Scanned::Reply(reply)) =
            (scan(self.request), scan(self.reply))
        else {
            return;
        };
        if !is_answer(&register, &reply) {
            return;
        }
        if let Some(asked) = Asked::of_register(tables, &register) {
            granted::settle(region, tables, row, &asked, &reply, self.voucher);
        }
    }
}

fn is_answer(register: &Register<'_>, reply: &Reply<'_>) -> bool {
    (register.call_id, register.cseq_number) == (reply.call_id, reply.cseq_number)
}

/// sl or tm is about to send a reply to a REGISTER: one of this server's, or one that came for its transaction. Process:
/// SIP workers, async workers, tm's timer.
pub unsafe extern "C" fn on_answer(answer: *const sys::mg_answer_t) {
    guarded("the reply to a REGISTER", || {
        // SAFETY: the shim's struct; its texts are sl's and tm's buffers and the request's, alive during the callback.
        let (view, answer) = unsafe {
            let view = &*answer;
            let answer = Answer {
                reply: bytes(view.reply, view.reply_length),
                request: bytes(view.request, view.request_length),
                voucher: match view.voucher {
                    sys::mg_voucher_MG_OWN => Voucher::Own,
                    sys::mg_voucher_MG_REGISTRAR => Voucher::Registrar,
                    _ => Voucher::Claimed,
                },
            };
            (view, answer)
        };
        let hand = LOCAL_IN_HAND
            .0
            .get()
            .filter(|hand| hand.message == view.message && answer.voucher == Voucher::Own);
        if hand.is_none_or(|hand| !answered_here(&hand, view.status)) {
            answer.learn();
        }
        if hand.is_some() && view.status >= 200 {
            LOCAL_IN_HAND.0.set(None); // it is answered: nothing to remember
        }
    });
}

/// tm has made a transaction of a REGISTER: its replies are tm's to tell. Process: SIP workers.
pub unsafe extern "C" fn on_transaction(message: u64) {
    guarded("the transaction of a REGISTER", || has_transaction(message));
}

/// As [`on_transaction`].
pub fn has_transaction(message: u64) {
    let hand = LOCAL_IN_HAND.0.get().filter(|h| h.message == message);
    if let (Some(hand), Some(tables)) = (hand, state::tables()) {
        let pending = &hand.pending;
        tables
            .in_flight
            .mark_by_tm(pending.key, pending.transaction);
    }
}

/// Pre-script callback for replies. Whatever parses as a reply comes here, before anybody has looked whose it is: it counts
/// for a REGISTER only that was admitted, was relayed without a transaction, and was sent by the client whose Via stands
/// below this server's own (RFC 3261 16.11); everything else is tm's to tell. Process: SIP workers.
pub unsafe extern "C" fn on_reply(
    msg: *mut sys::sip_msg,
    _flags: c_uint,
    _param: *mut c_void,
) -> c_int {
    guarded("a relayed reply", || {
        end();
        LOCAL_IN_REPLY.0.set(true);
        if let Some(row) = hooks::own_row() {
            row.sip.messages.add(1);
        }
        // SAFETY: plain data, filled by the shim.
        let mut view: sys::mg_message_t = unsafe { std::mem::zeroed() };
        // SAFETY: a live message for the duration of the call.
        let text = unsafe {
            sys::mg_message_view(msg, &mut view);
            bytes(view.text, view.length)
        };
        relayed_without_transaction(text);
        GoOn(1)
    })
    .0
}

/// Post-script callback for replies. Process: SIP workers.
pub unsafe extern "C" fn on_reply_end(
    _msg: *mut sys::sip_msg,
    _flags: c_uint,
    _param: *mut c_void,
) -> c_int {
    LOCAL_IN_REPLY.0.set(false);
    1
}

fn relayed_without_transaction(text: &[u8]) {
    let (Some(region), Some(tables), Some(row)) =
        (state::region(), state::tables(), hooks::own_row())
    else {
        return;
    };
    let Scanned::Reply(reply) = scan(text) else {
        return;
    };
    let Some(aor_fp) = aor::aor_fingerprint(&tables.key, reply.to_uri) else {
        return;
    };
    let key = &tables.key;
    let leg = aor::leg_key(key, reply.call_id, aor_fp);
    let transaction = aor::transaction_fingerprint(key, reply.cseq_number, reply.second_via);
    let now = state::coarse_ms() / 1000;
    let is_its = |pending: &Pending| {
        pending.state == State::Admitted
            && !pending.is_by_tm
            && !reply.second_via.is_empty()
            && (pending.aor_fp, pending.cseq, pending.transaction)
                == (aor_fp, reply.cseq_number, transaction)
    };
    let found = tables.in_flight.find(leg, now, IN_FLIGHT_AGE);
    if let Some(pending) = found.filter(is_its) {
        let asked = Asked::of_pending(&pending);
        granted::settle(region, tables, row, &asked, &reply, Voucher::Claimed);
    }
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
        let in_hand = LOCAL_IN_HAND.0.get();
        if event == INSERTED && !is_from_here() {
            if let Some(row) = hooks::own_row() {
                row.sip.replicated.add(1);
            }
        }
        let Some(aor_fp) = in_hand
            .map(|hand| hand.pending.aor_fp)
            .or_else(|| fingerprint_of(tables, text))
        else {
            return;
        };
        let fp = in_hand
            .and_then(|hand| hand.number_of(uri))
            .unwrap_or_else(|| {
                let stored = Contact {
                    instance: (!instance.is_empty()).then_some(instance),
                    ..Contact::of_uri(uri)
                };
                aor::binding_by_instance(&tables.key, aor_fp, &stored)
                    .unwrap_or_else(|| aor::binding_by_uri(&tables.key, aor_fp, &stored))
            });
        let now = state::coarse_ms() / 1000;
        match event {
            INSERTED | UPDATED => {
                let until = state::until(expires as u64);
                let memory =
                    u32::try_from(region.settings.get_u64(Int::AorMemory)).unwrap_or(u32::MAX);
                tables.bindings.put(fp, until, now, 0);
                tables.aors.raise(aor_fp, until, now, memory);
                if let Some(mut hand) = in_hand {
                    hand.note_stored(fp, until);
                    LOCAL_IN_HAND.0.set(Some(hand));
                }
            }
            DELETED => {
                tables.bindings.remove(fp);
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
