//! The REGISTER, or reply, that this process has in hand, for the callbacks that come while the script works on it.
//! Forbidden here: the tables but that of registrations in flight; other processes' messages.

use std::cell::Cell;
use std::net::IpAddr;

use crate::guard::sip::aor::local;
use crate::guard::sip::{Contact, MAX_CONTACTS};
use crate::guard::terms::words::Class;
use crate::host::kamailio::{state, sys};
use crate::shared::phones::pending::{Kind, Pending};

/// A REGISTER in hand.
#[derive(Clone, Copy)]
pub struct InHand {
    pub pending: Pending,
    pub class: Class,
    /// Which message it is ([`sys::mg_message_t`]).
    pub message: u64,
    /// It is a retransmission of what is in flight.
    pub is_again: bool,
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
    pub fn is_told_by_usrloc(&self) -> bool {
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

/// The last message of this process that this server answered for good: `if (!save("location")) sl_reply_error();` answers
/// twice, and only the first one counts.
struct Answered(Cell<u64>);
// SAFETY: used by the main thread of each process only, as above.
unsafe impl Sync for Answered {}
static LOCAL_ANSWERED: Answered = Answered(Cell::new(0));

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

/// The REGISTER in hand, if it is this message.
pub fn of_message(message: u64) -> Option<InHand> {
    LOCAL_IN_HAND.0.get().filter(|hand| hand.message == message)
}

/// This message has its final answer: nothing to remember.
pub fn drop_in_hand(message: u64) {
    LOCAL_IN_HAND.0.set(None);
    LOCAL_ANSWERED.0.set(message);
}

/// Whether this message has had its final answer from this server.
pub fn is_answered(message: u64) -> bool {
    LOCAL_ANSWERED.0.get() == message
}

/// A reply is in hand, or no longer.
pub fn set_in_reply(is_in_hand: bool) {
    LOCAL_IN_REPLY.0.set(is_in_hand);
}
