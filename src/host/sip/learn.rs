//! Learning bindings, from what this server itself did: usrloc's changes, the replies that sl and tm send, and those that tm
//! relays. A message that merely looks like a reply teaches nothing.
//! Forbidden here: deciding; locks (usrloc's callbacks run under its slot lock: write the table and return).

use std::cell::Cell;
use std::ffi::{c_int, c_uint, c_void};
use std::net::IpAddr;

use crate::guard::sip::{
    Contact, MAX_CONTACTS, Register, Reply, Scanned,
    aor::{self, local},
    scan,
};
use crate::guard::terms::words::Class;
use crate::host::kamailio::{
    panic_guard::{GoOn, guarded},
    state, sys,
};
use crate::host::memory::{hooks, outside};
use crate::host::sip::{
    arrived::bytes,
    granted::{self, Asked, Voucher},
    visit::IN_FLIGHT_AGE,
};
use crate::shared::phones::pending::{Kind, Pending, State};

/// A REGISTER in hand.
#[derive(Clone, Copy)]
pub struct InHand {
    pub pending: Pending,
    class: Class,
    /// Which message it is ([`sys::mg_message_t`]).
    message: u64,
    /// It is a retransmission of what is in flight.
    is_again: bool,
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

/// A reply is in hand: what usrloc stores meanwhile is stored by the script that handles it.
struct InReply(Cell<bool>);
// SAFETY: used by the main thread of each process only, as above.
unsafe impl Sync for InReply {}
static LOCAL_IN_REPLY: InReply = InReply(Cell::new(false));

/// A REGISTER was admitted and goes to the script; `record`: [`InHand::record`]. `is_again`: the first one of its
/// transaction is remembered already.
pub fn begin(
    pending: Pending,
    class: Class,
    message: u64,
    is_again: bool,
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
    // At once: the reply, or a retransmission, may come to another process before the script ends here.
    if let (false, Some(tables)) = (is_again, state::tables()) {
        tables.in_flight.note(&pending);
    }
    LOCAL_IN_HAND.0.set(Some(InHand {
        is_again,
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
pub fn is_from_here() -> bool {
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
            if region.control.usrloc_in_memory.get() == 0 || !hand.is_told_by_usrloc() {
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
