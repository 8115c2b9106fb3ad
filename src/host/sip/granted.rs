//! What the final reply to a REGISTER grants, and what the tables learn of it: never more than who vouches for it.
//! Forbidden here: deciding; replies that nobody vouches for; locks, allocation, logs.

use crate::guard::config::params::Int;
use crate::guard::decide::class;
use crate::guard::sip::{
    self, Contact, Contacts, Expires, MAX_CONTACTS, Register, Reply,
    aor::{self, Aor},
};
use crate::host::kamailio::state::{self, Tables};
use crate::shared::counters::rows::Row;
use crate::shared::phones::pending::{Kind, Pending};
use crate::shared::region::Region;

/// Expires of a reply that names none (RFC 3261 10.3 step 7 lets the registrar choose; Kamailio's default is 3600).
const USUAL_EXPIRES: u32 = 3600;
/// The longest Expires that counts for how long the table may be unsure: a day, whatever a reply says.
const LONGEST_EXPIRES: u64 = 86_400;

/// Who vouches that a reply answers the REGISTER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voucher {
    /// This server made it.
    Own,
    /// tm: it is of the request's transaction, and came from where the request was sent.
    Registrar,
    /// It names the request's transaction, and that is all: it came from elsewhere, or no transaction was kept. It grants
    /// what its request asked for, and takes nothing away.
    Claimed,
}

/// The numbers of one contact: its binding's, and what a contact in other words is compared with (`Visit::is_alike`).
#[derive(Clone, Copy, Default)]
struct Numbers {
    fp: u64,
    hints: [Option<u64>; 3],
}

impl Numbers {
    fn of(key: &aor::Key, aor_fp: u64, contact: &Contact<'_>) -> Numbers {
        let by_uri = aor::uri_fingerprints(key, aor_fp, contact.uri);
        let by_instance = aor::binding_by_instance(key, aor_fp, contact);
        Numbers {
            fp: by_instance.unwrap_or(by_uri.whole),
            hints: [
                by_instance.map(|_| by_uri.whole),
                Some(by_uri.base),
                by_uri.names,
            ],
        }
    }

    /// Sets the ends of its hints, or raises them where others may know better.
    fn hint(&self, tables: &Tables, until: u64, now: u64, is_exact: bool) {
        for number in self.hints.into_iter().flatten() {
            match is_exact {
                true => tables.hints.put(number, until, now, 0),
                false => tables.hints.raise(number, until, now, 0),
            };
        }
    }

    /// The binding has ended. Another one of nearly the same URI loses its hints with it: it is known by its own number.
    fn forget(&self, tables: &Tables) {
        tables.bindings.remove(self.fp);
        for number in self.hints.into_iter().flatten() {
            tables.hints.remove(number);
        }
    }
}

/// One binding that a REGISTER names.
#[derive(Clone, Copy, Default)]
struct Wish {
    fp: u64,
    numbers: Numbers,
    /// Seconds asked for; 0 removes.
    seconds: u32,
}

/// What a REGISTER asked for.
pub struct Asked {
    leg: u64,
    cseq: u32,
    transaction: u32,
    aor_fp: u64,
    kind: Kind,
    wishes: [Wish; MAX_CONTACTS],
    count: usize,
}

impl Asked {
    /// Of the request itself, and its AoR.
    pub fn of_register(tables: &Tables, register: &Register<'_>, aor: &Aor<'_>) -> Asked {
        let key = &tables.key;
        let aor_fp = aor.fingerprint(key);
        let mut asked = Asked {
            leg: aor::leg_key(key, register.call_id, aor_fp),
            cseq: register.cseq_number,
            transaction: aor::transaction_fingerprint(key, register.cseq_number, register.top_via),
            aor_fp,
            kind: kind_of(register),
            wishes: [Wish::default(); MAX_CONTACTS],
            count: 0,
        };
        for (wish, contact) in asked.wishes.iter_mut().zip(register.contacts.kept()) {
            let numbers = Numbers::of(key, aor_fp, contact);
            *wish = Wish {
                fp: numbers.fp,
                numbers,
                seconds: asked_seconds(contact, register.expires),
            };
            asked.count += 1;
        }
        asked
    }

    /// Of what is remembered of it; contacts beyond those that are remembered do not count.
    pub fn of_pending(pending: &Pending) -> Asked {
        let mut asked = Asked {
            leg: pending.key,
            cseq: pending.cseq,
            transaction: pending.transaction,
            aor_fp: pending.aor_fp,
            kind: pending.kind,
            wishes: [Wish::default(); MAX_CONTACTS],
            count: 0,
        };
        for (wish, binding) in asked.wishes.iter_mut().zip(pending.bindings()) {
            *wish = Wish {
                fp: binding.fp,
                numbers: Numbers {
                    fp: binding.fp,
                    hints: [None; 3],
                },
                seconds: if binding.is_removed {
                    0
                } else {
                    pending.asked_s
                },
            };
            asked.count += 1;
        }
        asked
    }

    fn wishes(&self) -> &[Wish] {
        self.wishes.get(..self.count).unwrap_or_default()
    }

    fn adds(&self, fp: u64) -> Option<&Wish> {
        self.wishes()
            .iter()
            .find(|wish| wish.fp == fp && wish.seconds > 0)
    }
}

/// What a REGISTER asks for, as registrations in flight keep it.
pub fn kind_of(register: &Register<'_>) -> Kind {
    match class::request(register) {
        class::Request::Bind => Kind::Add,
        class::Request::List => Kind::Query,
        class::Request::Remove if register.contacts.star => Kind::RemoveAll,
        class::Request::Remove => Kind::Remove,
    }
}

/// The longest Expires that a REGISTER asks for, seconds.
pub fn longest_asked(register: &Register<'_>) -> u32 {
    let contacts = register.contacts.kept().iter();
    let seconds = contacts.map(|contact| asked_seconds(contact, register.expires));
    seconds.max().unwrap_or(0)
}

fn asked_seconds(contact: &Contact<'_>, header: Expires) -> u32 {
    let asked = Contacts::expires_of(contact, header);
    asked.seconds().unwrap_or(USUAL_EXPIRES)
}

/// Counts the final reply, of this status, to a REGISTER that came through here, and learns what its voucher allows.
pub fn settle(
    region: &Region,
    tables: &Tables,
    row: &Row,
    asked: &Asked,
    (status, reply): (u16, &sip::Reply<'_>),
    voucher: Voucher,
) {
    match status {
        ..200 => (),
        200..300 => {
            row.sip.accepted.add(1);
            accepted(region, tables, asked, reply, voucher);
            tables.in_flight.forget(asked.leg, asked.cseq);
        }
        401 | 407 => {
            row.sip.challenged.add(1);
            tables
                .in_flight
                .mark_challenged(asked.leg, asked.transaction);
        }
        _ => {
            row.sip.failed.add(1);
            // tm answers retransmissions while it keeps the transaction; they pass meanwhile.
            if voucher != Voucher::Registrar {
                tables.in_flight.forget(asked.leg, asked.cseq);
            }
        }
    }
}

/// A 2xx. What it lists is known; what its request names and it does not list in the same words was stored in other words
/// (a proxy on the way rewrote the contact), or the registrar lists nothing (against RFC 3261 10.3 step 8): both grant
/// what was asked for. Ends are raised, but for the bindings that the request itself names, and those only by who
/// answers for the registrar.
fn accepted(region: &Region, tables: &Tables, asked: &Asked, reply: &Reply<'_>, voucher: Voucher) {
    let now = state::coarse_ms() / 1000;
    let may_take_away = voucher != Voucher::Claimed;
    if may_take_away {
        let gone = asked.wishes().iter().filter(|wish| wish.seconds == 0);
        gone.filter(|wish| asked.adds(wish.fp).is_none())
            .for_each(|wish| wish.numbers.forget(tables));
    }
    let mut latest = 0;
    let mut listed = 0u32; // bit per wish
    for contact in reply.contacts.kept() {
        let seconds = contact
            .expires
            .seconds()
            .or(reply.expires.seconds())
            .unwrap_or(USUAL_EXPIRES);
        if seconds == 0 {
            continue;
        }
        let numbers = Numbers::of(&tables.key, asked.aor_fp, contact);
        let fp = numbers.fp;
        let place = asked
            .wishes()
            .iter()
            .position(|wish| wish.fp == fp && wish.seconds > 0);
        let Some(wish) = place.and_then(|place| asked.wishes().get(place)) else {
            if may_take_away {
                latest = latest.max(learn(region, tables, &numbers, seconds, now, false));
            }
            continue;
        };
        listed |= place.map_or(0, |place| 1 << place);
        let (seconds, is_exact) = match may_take_away {
            true => (seconds, true),
            false => (seconds.min(wish.seconds), false),
        };
        latest = latest.max(learn(region, tables, &numbers, seconds, now, is_exact));
    }
    // Where usrloc keeps bindings in memory it has told of all that this server stored.
    let is_told = voucher == Voucher::Own && region.control.usrloc_in_memory.get() != 0;
    let is_listing = latest > 0;
    let wishes = asked.wishes().iter().enumerate();
    for (_, wish) in wishes.filter(|(place, wish)| listed >> place & 1 == 0 && wish.seconds > 0) {
        if is_listing {
            tables.bindings.raise(wish.fp, latest, now, 0);
            wish.numbers.hint(tables, latest, now, false);
        } else if !is_told {
            latest = latest.max(learn(
                region,
                tables,
                &wish.numbers,
                wish.seconds,
                now,
                false,
            ));
        }
    }
    let memory = u32::try_from(region.settings.get_u64(Int::AorMemory)).unwrap_or(u32::MAX);
    let ends_all = match asked.kind {
        Kind::RemoveAll => may_take_away,
        // The server's own list is whole; another registrar's may leave out all.
        Kind::Remove => voucher == Voucher::Own,
        Kind::Add | Kind::Query => false,
    };
    if ends_all {
        tables.aors.put(asked.aor_fp, latest.max(now), now, memory);
    } else if latest > 0 {
        tables.aors.raise(asked.aor_fp, latest, now, memory);
    }
}

/// Learns one binding; answers its end.
fn learn(
    region: &Region,
    tables: &Tables,
    numbers: &Numbers,
    seconds: u32,
    now: u64,
    is_exact: bool,
) -> u64 {
    let seconds = u64::from(seconds);
    raise_longest_expires(region, seconds);
    let until = now.saturating_add(seconds);
    match is_exact {
        true => tables.bindings.put(numbers.fp, until, now, 0),
        false => tables.bindings.raise(numbers.fp, until, now, 0),
    };
    numbers.hint(tables, until, now, is_exact);
    until
}

/// Remembers the longest Expires that was granted, but not what nobody grants.
pub fn raise_longest_expires(region: &Region, seconds: u64) {
    let longest = &region.control.longest_expires;
    longest.raise(seconds.min(LONGEST_EXPIRES));
}
