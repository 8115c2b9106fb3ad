//! Learning bindings, from what this server itself did: usrloc's changes, the replies that sl and tm send, and those that tm
//! relays. A message that merely looks like a reply teaches nothing.
//! Forbidden here: deciding; locks (usrloc's callbacks run under its slot lock: write the table and return).

use std::ffi::{c_int, c_uint, c_void};

use crate::guard::sip::{Register, Reply, Scanned, aor, scan};
use crate::host::kamailio::{
    panic_guard::{GoOn, guarded},
    state, sys,
};
use crate::host::memory::{hooks, outside};
use crate::host::sip::hand;
use crate::host::sip::{
    arrived::bytes,
    granted::{self, Asked, Voucher},
    reading::{self, Reading},
    visit::IN_FLIGHT_AGE,
};
use crate::shared::phones::pending::{Pending, State};

/// Post-script callback for requests. Process: SIP workers.
pub unsafe extern "C" fn on_script_end(
    _msg: *mut sys::sip_msg,
    _flags: c_uint,
    _param: *mut c_void,
) -> c_int {
    guarded("the end of the script", || {
        hand::end();
        hooks::sample::message(&[]);
        outside::at_message_end();
        GoOn(1)
    })
    .0
}

/// A reply of this server's to the REGISTER in hand: what stands in it is known without reading it. False when it
/// must be read all the same.
fn answered_here(hand: &hand::InHand, status: c_int) -> bool {
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
    view: &'a sys::mg_answer_t,
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
        // SAFETY: the messages of both texts; the request may be tm's clone, which the shim only looks at.
        let (asked, reply) = unsafe {
            (
                reading::read(self.request, self.view.asked),
                reading::read_reply(self.reply, self.view.received),
            )
        };
        let (Reading::Register(register, aor), Some(reply)) = (asked, reply) else {
            return;
        };
        if is_answer(&register, &reply) {
            let asked = Asked::of_register(tables, &register, &aor);
            let status = u16::try_from(self.view.status).unwrap_or(0);
            granted::settle(region, tables, row, &asked, (status, &reply), self.voucher);
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
                view,
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
        let is_own = answer.voucher == Voucher::Own;
        if is_own && hand::is_answered(view.message) {
            return;
        }
        let hand = hand::of_message(view.message).filter(|_| is_own);
        if hand.is_none_or(|hand| !answered_here(&hand, view.status)) {
            answer.learn();
        }
        if hand.is_some() && view.status >= 200 {
            hand::drop_in_hand(view.message); // nothing to remember
        }
    });
}

/// tm has made a transaction of a REGISTER: its replies are tm's to tell. Process: SIP workers.
pub unsafe extern "C" fn on_transaction(message: u64) {
    guarded("the transaction of a REGISTER", || has_transaction(message));
}

/// As [`on_transaction`].
pub fn has_transaction(message: u64) {
    let hand = hand::of_message(message);
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
        hand::end();
        hand::set_in_reply(true);
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
    hand::set_in_reply(false);
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
        let answer = (reply.status, &reply);
        granted::settle(region, tables, row, &asked, answer, Voucher::Claimed);
    }
}
