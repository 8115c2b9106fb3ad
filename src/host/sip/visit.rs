//! One REGISTER on its way through the gate: who it is, what is known of it, and what becomes of it.
//! Forbidden here: answering; locks (but usrloc's own, asked for unknown bindings only), allocation, logs.

use once_cell::unsync::OnceCell;
use std::net::IpAddr;

use crate::guard::config::{params::Int, priority};
use crate::guard::decide::{
    admission::{self, Curves, Decision},
    class::{self, Known},
};
use crate::guard::sip::{
    Contact, Contacts, Register,
    aor::{self, Aor, Key},
};
use crate::guard::terms::words::Class;
use crate::host::kamailio::state::{self, Tables};
use crate::host::sip::hand;
use crate::host::sip::{granted, pressure, usrloc};
use crate::shared::counters::rows::Row;
use crate::shared::phones::{
    fingerprints::Fingerprints,
    pending::{Binding, MAX_BINDINGS, Pending, State},
};
use crate::shared::region::Region;

/// A challenge is answered within this time (seconds), or the client starts anew (RFC 3261 17.1.2: 32 s timers).
const CHALLENGE_AGE: u64 = 32;
/// A registration whose final reply takes longer than this (seconds) is forgotten (RFC 3261 Timer F is 32 s).
pub const IN_FLIGHT_AGE: u64 = 64;
/// How long after its begin a slot of the queue still lets its AoR in, seconds: a client's retransmissions and the
/// second it rounds to.
pub const SLOT_WINDOW: u32 = 60;

/// One REGISTER on its way through the gate.
pub struct Visit<'a> {
    pub region: &'a Region,
    pub tables: &'static Tables,
    pub row: &'a Row,
    pub register: &'a Register<'a>,
    pub aor: Aor<'a>,
    pub aor_fp: u64,
    /// Of Call-ID and AoR: under which registrations in flight are found.
    pub leg: u64,
    pub now_ms: u64,
    /// Where it came from.
    pub source: IpAddr,
    /// As above.
    pub source_port: u16,
    /// The number of its record in the local usrloc.
    record: OnceCell<Option<u64>>,
    /// Numbers of the first contacts, made when the first is asked for.
    primaries: OnceCell<[u64; MAX_BINDINGS]>,
    /// The end of the AoR as the table knew it on arrival.
    aor_end: OnceCell<Option<u64>>,
    /// What is in flight of this Call-ID and AoR.
    earlier: OnceCell<Option<Pending>>,
    /// This REGISTER as a registration in flight.
    pending: OnceCell<Pending>,
    again: OnceCell<bool>,
}

impl<'a> Visit<'a> {
    /// Opens the visit of a REGISTER of this AoR from this address and port.
    pub fn of(
        region: &'a Region,
        tables: &'static Tables,
        row: &'a Row,
        register: &'a Register<'a>,
        aor: Aor<'a>,
        source: (IpAddr, u16),
    ) -> Visit<'a> {
        // The tables are larger than the caches: what will be looked at is fetched while the rest is computed.
        let aor_fp = aor.fingerprint(&tables.key);
        if region.control.usrloc_in_memory.get() == 0 {
            tables.aors.prefetch(aor_fp); // a local usrloc's AoRs stand there by their records
        }
        let leg = aor::leg_key(&tables.key, register.call_id, aor_fp);
        tables.in_flight.prefetch(leg);
        Visit {
            region,
            tables,
            row,
            aor_fp,
            leg,
            aor,
            register,
            now_ms: state::coarse_ms(),
            primaries: OnceCell::new(),
            aor_end: OnceCell::new(),
            earlier: OnceCell::new(),
            pending: OnceCell::new(),
            again: OnceCell::new(),
            source: source.0,
            source_port: source.1,
            record: OnceCell::new(),
        }
    }

    /// Its class.
    pub fn class(&self) -> Class {
        class::classify(
            self.register,
            || self.known(),
            self.is_followup(),
            self.region.settings.get(Int::PrioritySos) != 0,
            || self.is_priority(self.source),
        )
    }

    /// Seconds of server time.
    pub fn now_s(&self) -> u64 {
        self.now_ms / 1000
    }

    /// What the local usrloc knows, or the table where there is none.
    fn known(&self) -> Known {
        match state::registrar() {
            Some(registrar) if self.region.control.usrloc_in_memory.get() != 0 => {
                usrloc::known(self, registrar)
            }
            _ => self.known_by_rfc(),
        }
    }

    /// What the table learned from what passed.
    fn known_by_rfc(&self) -> Known {
        let now = self.now_s();
        self.primaries();
        let ended = self.aor_end();
        let is_live = |end: Option<u64>| end.is_some_and(|end| end > now);
        let ended_elsewhere = || self.aor_end_elsewhere(|key| self.aor.fingerprint(key));
        let has_live = is_live(ended) || is_live(ended_elsewhere());
        let all_bindings = has_live && self.all_adding();
        Known {
            all_bindings,
            aor: ended.is_some() || ended_elsewhere().is_some(),
            unsure: !all_bindings && self.tables.is_unsure(self.region, now),
        }
    }

    /// The number of its record in a local usrloc that keeps its bindings in memory.
    pub fn record(&self) -> Option<u64> {
        *self.record.get_or_init(|| {
            let registrar = state::registrar()?;
            (self.region.control.usrloc_in_memory.get() != 0)
                .then(|| usrloc::record_of(self.tables, registrar, &self.aor))?
        })
    }

    fn aor_end(&self) -> Option<u64> {
        *self.aor_end.get_or_init(|| {
            let memory = self.region.settings.get_u64(Int::AorMemory);
            let memory = u32::try_from(memory).unwrap_or(u32::MAX);
            self.tables.aors.get(self.aor_fp, self.now_s(), memory)
        })
    }

    /// Numbers of the contacts, as many as a registration in flight remembers.
    fn primaries(&self) -> &[u64; MAX_BINDINGS] {
        self.primaries.get_or_init(|| {
            let mut numbers = [0; MAX_BINDINGS];
            for (number, contact) in numbers.iter_mut().zip(self.register.contacts.kept()) {
                *number = self.primary(contact);
                self.tables.bindings.prefetch(*number);
            }
            numbers
        })
    }

    fn primary(&self, contact: &Contact<'_>) -> u64 {
        aor::binding_by_instance(&self.tables.key, self.aor_fp, contact)
            .unwrap_or_else(|| aor::binding_by_uri(&self.tables.key, self.aor_fp, contact))
    }

    /// Whether every contact that asks for a binding has one.
    fn all_adding(&self) -> bool {
        let register = self.register;
        let mut known = 0;
        for (place, contact) in register.every_contact().enumerate() {
            if Contacts::expires_of(&contact, register.expires).is_zero() {
                continue;
            }
            let primary = self.primaries().get(place).copied();
            let primary = primary.unwrap_or_else(|| self.primary(&contact));
            if !self.is_bound(primary)
                && !self.is_alike(&contact)
                && !self.is_known_elsewhere(&contact)
            {
                return false;
            }
            known += 1;
        }
        known == register.contacts.adding(register.expires)
    }

    fn is_bound(&self, number: u64) -> bool {
        let (bindings, now) = (&self.tables.bindings, self.now_s());
        bindings.get(number, now, 0).is_some()
    }

    /// Whether a contact without an instance has a binding whose URI differs in nothing that counts: one with an
    /// instance, or with a parameter more or less that the other does not have (RFC 3261 19.1.4).
    fn is_alike(&self, contact: &Contact<'_>) -> bool {
        self.is_alike_in(&self.tables.hints, &self.tables.key, self.aor_fp, contact)
    }

    /// The same, by these hints, which were made with this key.
    fn is_alike_in(
        &self,
        hints: &Fingerprints,
        key: &Key,
        aor: u64,
        contact: &Contact<'_>,
    ) -> bool {
        if contact.instance.is_some() {
            return false;
        }
        let numbers = aor::uri_fingerprints(key, aor, contact.uri);
        let now = self.now_s();
        let is_hinted = |number| hints.get(number, now, 0).is_some();
        is_hinted(numbers.whole) || is_hinted(numbers.base) && !numbers.names.is_some_and(is_hinted)
    }

    /// The end of the AoR as another server knew it (`memguard.learn`); `number` makes the AoR's number with that
    /// server's key.
    pub fn aor_end_elsewhere(&self, number: impl FnOnce(&Key) -> u64) -> Option<u64> {
        let learned = self.tables.learned.known()?;
        let memory = self.region.settings.get_u64(Int::AorMemory);
        let memory = u32::try_from(memory).unwrap_or(u32::MAX);
        let aor = number(&learned.key);
        learned.aors.get(aor, self.now_s(), memory)
    }

    /// Whether another server knew this contact (`memguard.learn`), as it counts them without a usrloc of its own.
    pub fn is_known_elsewhere(&self, contact: &Contact<'_>) -> bool {
        self.tables.learned.known().is_some_and(|learned| {
            let aor = self.aor.fingerprint(&learned.key);
            let number = aor::binding_by_instance(&learned.key, aor, contact)
                .unwrap_or_else(|| aor::binding_by_uri(&learned.key, aor, contact));
            learned.bindings.get(number, self.now_s(), 0).is_some()
                || self.is_alike_in(learned.hints, &learned.key, aor, contact)
        })
    }

    /// Whether a relayed reply told of this contact.
    pub fn is_learned(&self, contact: &Contact<'_>) -> bool {
        self.is_bound(self.primary(contact))
    }

    /// What is in flight of its Call-ID and AoR.
    fn earlier(&self) -> Option<&Pending> {
        let find = || {
            let in_flight = &self.tables.in_flight;
            in_flight.find(self.leg, self.now_s(), IN_FLIGHT_AGE)
        };
        self.earlier.get_or_init(find).as_ref()
    }

    /// The second leg of a registration whose first leg was admitted and challenged here: it asks for what that one
    /// asked, or for less. Credentials alone change nothing.
    fn is_followup(&self) -> bool {
        let is_asked = |first: &&Pending| {
            let this = self.pending();
            first.state == State::Challenged
                && first.aor_fp == self.aor_fp
                && self.now_s().saturating_sub(first.time_s) <= CHALLENGE_AGE
                && first.covers(this.kind, this.contents, this.bindings(), !this.has_more)
        };
        self.register.has_credentials && self.earlier().filter(is_asked).is_some()
    }

    /// A retransmission of a REGISTER that was admitted and is in flight: the client is to get that one's answer.
    pub fn is_again(&self) -> bool {
        let is_same = |earlier: &&Pending| {
            let this = self.pending();
            earlier.is_again(self.aor_fp, this.transaction, this.contents)
        };
        *self
            .again
            .get_or_init(|| self.earlier().filter(is_same).is_some())
    }

    /// What was found of this message before it was noted itself: asked again, it is no retransmission of its own.
    pub fn set_again(&self, is_again: bool) {
        let _ = self.again.set(is_again); // nobody has asked yet
    }

    /// This REGISTER as a registration in flight.
    fn pending(&self) -> &Pending {
        self.pending.get_or_init(|| {
            let register = self.register;
            let key = &self.tables.key;
            let numbers = || {
                register
                    .every_contact()
                    .enumerate()
                    .map(|(place, contact)| {
                        let known = self.primaries().get(place).copied();
                        (
                            known.unwrap_or_else(|| self.primary(&contact)),
                            Contacts::expires_of(&contact, register.expires).is_zero(),
                        )
                    })
            };
            let mut pending = Pending {
                key: self.leg,
                cseq: register.cseq_number,
                time_s: self.now_s(),
                state: State::Admitted,
                kind: granted::kind_of(register),
                aor_fp: self.aor_fp,
                transaction: aor::transaction_fingerprint(
                    key,
                    register.cseq_number,
                    register.top_via,
                ),
                contents: aor::contents_fingerprint(numbers()),
                is_by_tm: false,
                has_more: register.contacts.total > MAX_BINDINGS as u32,
                asked_s: granted::longest_asked(register),
                count: 0,
                bindings: [Binding::default(); MAX_BINDINGS],
            };
            for (slot, (fp, is_removed)) in pending.bindings.iter_mut().zip(numbers()) {
                *slot = Binding { fp, is_removed };
                pending.count += 1;
            }
            pending
        })
    }

    fn is_priority(&self, source: IpAddr) -> bool {
        let mut user = [0u8; priority::MAX_TEXT];
        let length = priority::canonical_user(self.aor.user(), &mut user).unwrap_or(0);
        let user = user.get(..length).unwrap_or_default();
        let lists = &self.region.priorities;
        lists.is_priority(user, self.aor.host(), Some(source))
    }

    /// What becomes of it at this moment. Who holds a slot of the queue that has come is let in while memory allows.
    pub fn decide(&self, class: Class) -> Decision {
        if admission::is_never_refused(class) || self.is_again() {
            return Decision::Admit;
        }
        let region = self.region;
        let point = aor::aor_point(&self.tables.key, region.control.salt.get(), self.aor_fp);
        let curves = Curves::by(|param| region.settings.get(param));
        let pressure = pressure::now(region, self.now_ms);
        let decision = admission::decide(class, point, &pressure, &curves, region.settings.mode());
        let is_full = admission::share_of(class, &pressure, &curves) >= admission::POINTS;
        if decision == Decision::Refuse
            && !is_full
            && self.slot().is_some_and(|slot| slot <= self.now_s())
        {
            return Decision::Admit;
        }
        decision
    }

    /// Counts it as received, and where the machine's memory had no say because its sample is stale, that too.
    pub fn count_received(&self, class: Class) {
        self.row.sip.received.count(class);
        let control = &self.region.control;
        let sampled = control.os_time_ms.get();
        if !admission::is_never_refused(class)
            && sampled != 0
            && self.region.is_stale(sampled, self.now_ms)
        {
            control.stale_decisions.add(1);
        }
    }

    /// When this AoR's slot in the queue begins or began, seconds of server time.
    pub fn slot(&self) -> Option<u64> {
        let (fp, now) = (self.slot_fp(), self.now_s());
        let of = |table: &Fingerprints| table.get(fp, now, SLOT_WINDOW);
        of(&self.tables.slots).or_else(|| of(&self.tables.crowd_slots))
    }

    /// Under which number the AoR's slot is remembered: another one after each `memguard.reset queue`.
    pub fn slot_fp(&self) -> u64 {
        let epoch = self.region.control.queue_epoch.get();
        self.aor_fp ^ epoch.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// Remembers an admitted registration until its final reply passes. Of a retransmission the first one's memory
    /// stays: it does not become younger, and a challenge does not become undone.
    pub fn note_admitted(&self, class: Class, message: u64) {
        let mut pending = *self.pending();
        let is_again = self.is_again();
        if let (true, Some(earlier)) = (is_again, self.earlier()) {
            pending.time_s = earlier.time_s;
        }
        let record = self.record().unwrap_or(0);
        let source = (self.source, self.source_port);
        let contacts = self.register.contacts.kept();
        hand::begin(pending, class, message, is_again, record, contacts, source);
    }
}
