//! One REGISTER on its way through the gate: who it is, what is known of it, and what becomes of it.
//! Forbidden here: answering; locks (but usrloc's own, asked for unknown bindings only), allocation, logs.

use std::cell::OnceCell;
use std::ffi::{c_int, c_long, c_void};
use std::net::IpAddr;

use super::arrived::bytes;
use super::state::{self, Tables};
use super::{granted, learn, pressure, sys};
use crate::guard::admission::{self, Curves, Decision};
use crate::guard::aor::{self, Aor, RegistrarRules};
use crate::guard::class::{self, Known};
use crate::guard::params::Int;
use crate::guard::priority;
use crate::guard::sip::{Contact, Contacts, Register};
use crate::guard::words::Class;
use crate::shared::fingerprints::Fingerprints;
use crate::shared::pending::{Binding, MAX_BINDINGS, Pending, State};
use crate::shared::region::Region;
use crate::shared::rows::Row;

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
    /// Opens the visit of a REGISTER; `None` when its AoR cannot be read.
    pub fn of(
        region: &'a Region,
        tables: &'static Tables,
        row: &'a Row,
        register: &'a Register<'a>,
    ) -> Option<Visit<'a>> {
        let aor = Aor::parse(register.to_uri)?;
        // The tables are larger than the caches: what will be looked at is fetched while the rest is computed.
        let aor_fp = aor.fingerprint(&tables.key);
        tables.aors.prefetch(aor_fp);
        let leg = aor::leg_key(&tables.key, register.call_id, aor_fp);
        tables.in_flight.prefetch(leg);
        Some(Visit {
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
        })
    }

    /// Its class.
    pub fn class(&self, source: IpAddr) -> Class {
        class::classify(
            self.register,
            || self.known(),
            self.is_followup(),
            self.region.settings.get(Int::PrioritySos) != 0,
            || self.is_priority(source),
        )
    }

    /// Seconds of server time.
    pub fn now_s(&self) -> u64 {
        self.now_ms / 1000
    }

    /// What the table knows, and the local usrloc where the table does not.
    fn known(&self) -> Known {
        let now = self.now_s();
        self.primaries();
        let ended = self.aor_end();
        let has_live = ended.is_some_and(|end| end > now);
        let mut known = Known {
            all_bindings: has_live
                && self.all_adding(|key| self.tables.bindings.get(key, now, 0).is_some()),
            aor: ended.is_some(),
            unsure: false,
        };
        if known.all_bindings {
            return known;
        }
        if self.region.control.usrloc_in_memory.get() != 0 {
            let local = self.ask_usrloc();
            known.all_bindings |= local.all_bindings;
            known.aor |= local.aor;
        } else {
            known.unsure = is_unsure(self.region, self.tables, now);
        }
        known
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
            .unwrap_or_else(|| self.by_uri(contact))
    }

    /// Whether every contact that asks for a binding has a fingerprint that passes.
    fn all_adding(&self, is_known: impl Fn(u64) -> bool) -> bool {
        let register = self.register;
        let mut contacts = register.contacts.kept().iter().enumerate();
        contacts.all(|(place, contact)| {
            if Contacts::expires_of(contact, register.expires).is_zero() {
                return true;
            }
            let primary = self.primaries().get(place).copied();
            is_known(primary.unwrap_or_else(|| self.primary(contact)))
                || contact.instance.is_some() && is_known(self.by_uri(contact))
        })
    }

    /// Looks the AoR up in the local usrloc, contact by contact.
    fn ask_usrloc(&self) -> Known {
        let Some(registrar) = state::registrar() else {
            return Known::default();
        };
        let rules = RegistrarRules {
            use_domain: registrar.use_domain,
            case_sensitive: registrar.case_sensitive,
            realm_prefix: &registrar.realm_prefix,
        };
        let mut buffer = [0u8; 512];
        let mut question = Question {
            visit: self,
            now: self.now_s(),
            matched: 0,
            has_live: false,
        };
        if let Some(text) = self.aor.registrar_text(&rules, &mut buffer) {
            for table in &registrar.tables {
                // SAFETY: both texts and the closure live for the call; usrloc calls back before it returns.
                unsafe {
                    sys::mg_usrloc_contacts(
                        table.as_ptr(),
                        text.as_ptr().cast(),
                        text.len() as c_int,
                        Some(on_contact),
                        (&raw mut question).cast(),
                    );
                }
            }
        }
        let wanted = self
            .register
            .contacts
            .kept_adding(self.register.expires)
            .count();
        let all = wanted < 64 && question.matched.count_ones() as usize == wanted;
        Known {
            all_bindings: all && question.has_live,
            aor: question.has_live,
            unsure: false,
        }
    }

    /// The number of a binding by its contact URI alone.
    fn by_uri(&self, contact: &Contact<'_>) -> u64 {
        aor::binding_by_uri(&self.tables.key, self.aor_fp, contact)
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
                && self.register.contacts.are_all_kept()
        };
        self.register.has_credentials && self.earlier().filter(is_asked).is_some()
    }

    /// A retransmission of a REGISTER that was admitted and is in flight: the client is to get that one's answer.
    pub fn is_again(&self) -> bool {
        let is_same = |earlier: &&Pending| {
            let this = self.pending();
            earlier.is_again(self.aor_fp, this.transaction, this.contents)
                && self.register.contacts.are_all_kept()
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
            let is_removed = |contact| Contacts::expires_of(contact, register.expires).is_zero();
            let contacts = register.contacts.kept();
            let numbers = contacts.iter().enumerate().map(|(place, contact)| {
                let known = self.primaries().get(place).copied();
                (
                    known.unwrap_or_else(|| self.primary(contact)),
                    is_removed(contact),
                )
            });
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
                contents: aor::contents_fingerprint(numbers.clone()),
                is_by_tm: false,
                has_more: register.contacts.total > MAX_BINDINGS as u32,
                asked_s: granted::longest_asked(register),
                count: 0,
                bindings: [Binding::default(); MAX_BINDINGS],
            };
            for (slot, (fp, is_removed)) in pending.bindings.iter_mut().zip(numbers) {
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
        let is_full = admission::share_of(class, &pressure, &curves).0 >= admission::POINTS;
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
            && pressure::is_stale(self.region, sampled, self.now_ms)
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
        let names_all = self.register.contacts.total == u32::from(pending.count);
        let aor_end = match names_all {
            true => self.aor_end().unwrap_or(0),
            false => learn::NOT_COMPARABLE,
        };
        let contacts = self.register.contacts.kept();
        learn::begin(pending, class, message, aor_end, is_again, contacts);
    }
}

/// While the table may have forgotten: entries were pushed out, or bindings may be alive that were granted before it
/// knew of all (the start, where no earlier table was carried over): one longest Expires from then.
pub fn is_unsure(region: &Region, tables: &Tables, now_s: u64) -> bool {
    let control = &region.control;
    now_s
        < control
            .knows_since_s
            .get()
            .saturating_add(control.longest_expires.get())
        || tables.bindings.forgotten_until() > now_s
        || tables.aors.forgotten_until() > now_s
}

/// A question to usrloc on its way through the callback.
struct Question<'a> {
    visit: &'a Visit<'a>,
    now: u64,
    /// Bit per adding contact of the REGISTER that has a live binding.
    matched: u64,
    has_live: bool,
}

/// One contact of the record that was asked for; runs under usrloc's lock: compares and returns.
unsafe extern "C" fn on_contact(
    closure: *mut c_void,
    uri: *const std::ffi::c_char,
    uri_length: c_int,
    instance: *const std::ffi::c_char,
    instance_length: c_int,
    expires: c_long,
) -> c_int {
    // SAFETY: the Question of ask_usrloc, alive during the call.
    let question = unsafe { &mut *closure.cast::<Question<'_>>() };
    // usrloc: 0 is permanent (ucontact.h VALID_CONTACT)
    if state::until(expires as u64) <= question.now {
        return 1;
    }
    question.has_live = true;
    // SAFETY: strings of the record, under its lock.
    let (uri, instance) = unsafe { (bytes(uri, uri_length), bytes(instance, instance_length)) };
    let register = question.visit.register;
    for (index, contact) in register.contacts.kept_adding(register.expires).enumerate() {
        let same_instance = contact
            .instance
            .is_some_and(|i| !i.is_empty() && same_instance(i, instance));
        let same_uri =
            || question.visit.by_uri(contact) == question.visit.by_uri(&Contact::of_uri(uri));
        if index < 64 && (same_instance || same_uri()) {
            question.matched |= 1 << index;
        }
    }
    1
}

/// usrloc keeps the instance with or without quotes by version; compare what is inside.
fn same_instance(ours: &[u8], theirs: &[u8]) -> bool {
    let inner = |text: &[u8]| -> (usize, usize) {
        let quoted = text.len() >= 2 && text.starts_with(b"\"") && text.ends_with(b"\"");
        if quoted {
            (1, text.len() - 1)
        } else {
            (0, text.len())
        }
    };
    let ((a, b), (c, d)) = (inner(ours), inner(theirs));
    !theirs.is_empty() && ours.get(a..b) == theirs.get(c..d)
}
