//! The local usrloc: what it changes is learned, and where the table does not know, it is asked, by its own matching.
//! Forbidden here: deciding; locks but usrloc's own (its callbacks run under its slot lock: write the table and return).

use std::ffi::{c_int, c_void};
use std::io::Write;
use std::net::IpAddr;

use crate::guard::config::params::Int;
use crate::guard::decide::class::Known;
use crate::guard::sip::{
    Contact, Contacts,
    aor::{
        self, Aor, RegistrarRules,
        local::{self, Stored},
    },
    swar,
};
use crate::host::kamailio::{
    panic_guard::guarded,
    state::{self, Registrar, Tables},
    sys,
};
use crate::host::memory::hooks;
use crate::host::sip::hand;
use crate::host::sip::{arrived::text, granted, hand::InHand, visit::Visit};
use crate::shared::region::Region;

/// usrloc's events (ul_callback.h).
const INSERTED: c_int = 1;
const UPDATED: c_int = 2;
const DELETED: c_int = 4;
const EXPIRED: c_int = 8;

/// More contacts of one REGISTER than these are looked up in the table only, never in usrloc.
const MAX_ASKED: usize = 64;

/// usrloc changed a contact. Process: whoever runs save(), an RPC, DMQ or a timer; under the slot's lock.
pub unsafe extern "C" fn on_binding(event: c_int, contact: *const sys::mg_stored_t) {
    guarded("a usrloc change", || {
        let (Some(region), Some(tables)) = (state::region(), state::tables()) else {
            return;
        };
        // SAFETY: the shim's view of a contact, alive under its record's lock.
        let Some(contact) = (unsafe { contact.as_ref() }) else {
            return;
        };
        let in_hand = hand::in_hand();
        if event == INSERTED && !hand::is_from_here() {
            if let Some(row) = hooks::own_row() {
                row.sip.replicated.add(1);
            }
        }
        match state::registrar() {
            Some(registrar) if region.control.usrloc_in_memory.get() != 0 => {
                Change::of(region, tables, registrar, contact).learn(event, in_hand);
            }
            _ => learn_by_rfc(region, tables, event, contact, in_hand),
        }
    });
}

/// A change of a contact that usrloc holds in memory.
struct Change<'a> {
    region: &'a Region,
    tables: &'static Tables,
    registrar: &'static Registrar,
    contact: &'a sys::mg_stored_t,
    record: u64,
    stored: Stored<'a>,
}

impl<'a> Change<'a> {
    fn of(
        region: &'a Region,
        tables: &'static Tables,
        registrar: &'static Registrar,
        contact: &'a sys::mg_stored_t,
    ) -> Change<'a> {
        // SAFETY: the shim's view of a contact under its record's lock.
        let (aor, stored) = unsafe { (text(&contact.aor), stored_of(contact)) };
        Change {
            region,
            tables,
            registrar,
            contact,
            record: local::record_number(&tables.key, aor),
            stored,
        }
    }

    fn number_in(&self, record: u64) -> u64 {
        local::stored_number(
            &self.tables.key,
            self.registrar.matching,
            record,
            &self.stored,
        )
    }

    fn learn(&self, event: c_int, in_hand: Option<InHand>) {
        let now = state::coarse_ms() / 1000;
        let tables = self.tables;
        let number = self.number_in(self.record);
        let dialog = || local::dialog_number(&tables.key, self.stored.uri, self.stored.call_id);
        let anywhere = || local::uri_number(&tables.key, self.stored.uri);
        match event {
            INSERTED | UPDATED => {
                let until = end_of(self.contact);
                let memory = memory_of(self.region);
                tables.bindings.put(number, until, now, 0);
                tables.aors.raise(self.record, until, now, memory);
                if until != u64::MAX {
                    let seconds = until.saturating_sub(now);
                    granted::raise_longest_expires(self.region, seconds);
                }
                match &in_hand {
                    Some(hand) => self.learn_names(hand, until, now),
                    // It came by replication or RPC: its phone may know it under another AoR.
                    None => {
                        tables.hints.put(dialog(), until, now, 0);
                        tables.hints.put(anywhere(), until, now, 0);
                    }
                }
            }
            DELETED | EXPIRED => {
                tables.bindings.remove(number);
                tables.hints.remove(dialog());
                tables.hints.remove(anywhere());
                if self.contact.is_alone != 0 {
                    tables
                        .aors
                        .put(self.record, now, now, memory_of(self.region));
                }
            }
            _ => return,
        }
        if let Some(mut hand) = in_hand {
            hand.is_changed = true;
            hand::keep_in_hand(hand);
        }
    }

    /// Remembers what the request in hand calls this contact, where that is something else.
    fn learn_names(&self, hand: &InHand, until: u64, now: u64) {
        let (tables, control) = (self.tables, &self.region.control);
        if hand.record != 0 && hand.record != self.record {
            control.saves_elsewhere.set(1);
            let number = self.number_in(hand.record);
            tables.hints.put(number, until, now, 0);
        }
        let key = &tables.key;
        // What nathelper writes depends on where the packet came from, and is told by that.
        let (source, port) = hand.source;
        if self.stored.instance.is_empty()
            && !hand.names(local::uri_number(key, self.stored.uri))
            && !is_nathelpers(self.stored.uri, source, port)
        {
            control.rewrites_contacts.set(1);
            for said in hand.named() {
                let number = local::rewriting_number(key, hand.record, said, self.stored.uri);
                tables.hints.put(number, until, now, 0);
            }
        }
    }
}

/// Without bindings in memory (db_mode 3): compared as the RFCs say, as on a proxy.
fn learn_by_rfc(
    region: &Region,
    tables: &'static Tables,
    event: c_int,
    contact: &sys::mg_stored_t,
    in_hand: Option<InHand>,
) {
    // SAFETY: the shim's view of a contact, alive during the callback.
    let (aor_text, uri, instance) = unsafe {
        (
            text(&contact.aor),
            text(&contact.uri),
            text(&contact.instance),
        )
    };
    let Some(aor_fp) = in_hand
        .map(|hand| hand.pending.aor_fp)
        .or_else(|| fingerprint_of(tables, aor_text))
    else {
        return;
    };
    let stored = Contact {
        instance: (!instance.is_empty()).then_some(instance),
        reg_id: (contact.reg_id != 0).then_some(contact.reg_id),
        ..Contact::of_uri(uri)
    };
    let fp = in_hand
        .and_then(|hand| hand.number_of(local::uri_number(&tables.key, uri)))
        .unwrap_or_else(|| aor::binding_fingerprint(&tables.key, aor_fp, &stored).primary);
    let now = state::coarse_ms() / 1000;
    match event {
        INSERTED | UPDATED => {
            let until = end_of(contact);
            tables.bindings.put(fp, until, now, 0);
            tables.aors.raise(aor_fp, until, now, memory_of(region));
        }
        DELETED => drop(tables.bindings.remove(fp)),
        _ => (), // expired: the table's own clock has ended it
    }
}

/// When a contact ends, in server time; usrloc: 0 is permanent (ucontact.h VALID_CONTACT).
pub fn end_of(contact: &sys::mg_stored_t) -> u64 {
    state::until(u64::try_from(contact.expires).unwrap_or(1))
}

fn memory_of(region: &Region) -> u32 {
    u32::try_from(region.settings.get_u64(Int::AorMemory)).unwrap_or(u32::MAX)
}

/// Fingerprint of an AoR as usrloc spells it; without a domain it cannot be told.
fn fingerprint_of(tables: &Tables, text: &[u8]) -> Option<u64> {
    let mut uri = [0u8; 512];
    let length = 4 + text.len();
    uri.get_mut(..4)?.copy_from_slice(b"sip:");
    uri.get_mut(4..length)?.copy_from_slice(text);
    let aor = Aor::parse(uri.get(..length)?)?;
    text.contains(&b'@').then(|| aor.fingerprint(&tables.key))
}

/// # Safety
/// The shim's view of a contact, alive as long as the answer.
unsafe fn stored_of(contact: &sys::mg_stored_t) -> Stored<'_> {
    // SAFETY: the caller's promise.
    unsafe {
        Stored {
            uri: text(&contact.uri),
            call_id: text(&contact.call_id),
            instance: text(&contact.instance),
            reg_id: contact.reg_id,
        }
    }
}

/// The number of the record that the registrar would keep this AoR in; `None` where it refuses the AoR.
pub fn record_of(tables: &Tables, registrar: &Registrar, aor: &Aor<'_>) -> Option<u64> {
    let mut buffer = [0u8; 512];
    let text = record_text(registrar, aor, &mut buffer)?;
    Some(local::record_number(&tables.key, text))
}

fn record_text<'b>(
    registrar: &Registrar,
    aor: &Aor<'_>,
    buffer: &'b mut [u8; 512],
) -> Option<&'b [u8]> {
    let rules = RegistrarRules {
        use_domain: registrar.use_domain,
        case_sensitive: registrar.case_sensitive,
        realm_prefix: &registrar.realm_prefix,
    };
    aor.registrar_text(&rules, buffer)
}

/// Which contacts of a REGISTER are known, by their place among those that ask for a binding.
#[derive(Default)]
struct Marks([u64; 16]);

impl Marks {
    fn set(&mut self, place: usize) {
        if let Some(word) = self.0.get_mut(place / 64) {
            *word |= 1 << (place % 64);
        }
    }

    fn has(&self, place: usize) -> bool {
        let word = self.0.get(place / 64).copied().unwrap_or(0);
        word >> (place % 64) & 1 == 1
    }

    fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }
}

/// The contacts of a REGISTER that ask for a binding, as registrar/save.c would look for them: a contact with an
/// instance but no reg-id inherits the one before it (pack_ci keeps its structure from contact to contact), and reg-id
/// may count only for what an edge proxy that says `ob` sends on (save).
fn asked<'v>(
    visit: &'v Visit<'_>,
    registrar: &Registrar,
) -> impl Iterator<Item = (Stored<'v>, Contact<'v>)> {
    let register = visit.register;
    let has_reg_ids =
        !registrar.reg_id_needs_ob || register.via_count < 2 || register.edge_says_ob();
    let mut reg_id = 0;
    let contacts = register.contacts_in_turn(registrar.is_last_first);
    contacts.filter_map(move |contact| {
        if let (Some(_), Some(own), true) = (contact.instance, contact.reg_id, has_reg_ids) {
            reg_id = own;
        }
        let stored = Stored {
            uri: contact.uri,
            call_id: register.call_id,
            instance: contact.instance.unwrap_or_default(),
            reg_id: if contact.instance.is_some() {
                reg_id
            } else {
                0
            },
        };
        let is_asked = !Contacts::expires_of(&contact, register.expires).is_zero();
        is_asked.then_some((stored, contact))
    })
}

/// What is known of a REGISTER where usrloc keeps its bindings in memory: the table is a cache of them, and where it does
/// not know, usrloc is asked. Knows the record's number, too.
pub fn known(visit: &Visit<'_>, registrar: &'static Registrar) -> Known {
    let tables = visit.tables;
    let mut buffer = [0u8; 512];
    let Some(text) = record_text(registrar, &visit.aor, &mut buffer) else {
        return Known::default();
    };
    let record = visit.record().unwrap_or(0);
    let now = visit.now_s();
    let mut marks = Marks::default();
    let matching = registrar.matching;
    let number = |stored: &Stored<'_>| local::stored_number(&tables.key, matching, record, stored);
    let has_path = registrar.use_path && visit.register.has_path();
    let wanted = visit.register.contacts.adding(visit.register.expires) as usize;
    for (place, (stored, _)) in asked(visit, registrar).enumerate() {
        if matching.is_told_by_number(&stored, has_path)
            && tables.bindings.get(number(&stored), now, 0).is_some()
        {
            marks.set(place);
        }
    }
    let is_here = Known {
        all_bindings: true,
        aor: true,
        unsure: false,
    };
    if marks.count() == wanted {
        return is_here;
    }
    let mut question = Question {
        visit,
        registrar,
        record,
        marks,
        last: usize::MAX,
        is_found: false,
    };
    if wanted <= MAX_ASKED {
        question.ask(text);
    }
    if !question.is_found {
        // Stored under another AoR, or by another registrar behind this server. Where this server stores under other
        // AoRs, a contact of that very URI that came past the gate is doubt, and doubt favours the registered.
        let saves_elsewhere = visit.region.control.saves_elsewhere.get() != 0;
        for (place, (stored, contact)) in asked(visit, registrar).enumerate() {
            let is_hinted = |number| tables.hints.get(number, now, 0).is_some();
            if !question.marks.has(place)
                && (is_hinted(number(&stored))
                    || is_hinted(local::dialog_number(
                        &tables.key,
                        stored.uri,
                        stored.call_id,
                    ))
                    || saves_elsewhere && is_hinted(local::uri_number(&tables.key, stored.uri))
                    || visit.is_learned(&contact))
            {
                question.marks.set(place);
            }
        }
    }
    let control = &visit.region.control;
    let memory = memory_of(visit.region);
    let ended = |number| tables.aors.get(number, now, memory).is_some();
    Known {
        all_bindings: question.are_all(wanted),
        aor: question.is_found || ended(record) || ended(visit.aor_fp),
        unsure: control.saves_elsewhere.get() != 0 && visit.tables.is_unsure(visit.region, now),
    }
}

/// A question to usrloc on its way through the callback.
struct Question<'a> {
    visit: &'a Visit<'a>,
    registrar: &'static Registrar,
    record: u64,
    /// The contacts of the REGISTER that are found.
    marks: Marks,
    /// The last contact that the registrar looks at: after an instance that comes with a new Call-ID it stops
    /// (registrar/save.c update_contacts).
    last: usize,
    /// The AoR has a record.
    is_found: bool,
}

impl Question<'_> {
    fn ask(&mut self, text: &[u8]) {
        for table in &self.registrar.tables {
            // SAFETY: both texts and the closure live for the call; usrloc calls back before it returns.
            unsafe {
                sys::mg_usrloc_contacts(
                    table.as_ptr(),
                    text.as_ptr().cast(),
                    text.len() as c_int,
                    Some(on_contact),
                    (&raw mut *self).cast(),
                );
            }
        }
    }

    /// Whether every contact that the registrar looks at is found.
    fn are_all(&self, wanted: usize) -> bool {
        (0..wanted.min(self.last.saturating_add(1))).all(|place| self.marks.has(place))
    }

    /// Whether the registrar will update `stored` for what is asked.
    fn is_same(&self, asked: &Stored<'_>, stored: &Stored<'_>, path: &[u8]) -> bool {
        let register = self.visit.register;
        let matching = self.registrar.matching;
        let same_path = || {
            !self.registrar.use_path
                || !register.has_path()
                || register.path_bytes().eq(path.iter().copied())
        };
        if local::is_same(matching, asked, stored, same_path) {
            return true;
        }
        if !asked.instance.is_empty() {
            return false;
        }
        // What the script makes of a contact behind a NAT is seen after this; its matching then sees the result.
        let rewritten = Stored {
            uri: stored.uri,
            ..*asked
        };
        self.is_rewritten(asked, stored) && local::is_same(matching, &rewritten, stored, same_path)
    }

    /// Whether the script of this server turns the contact that is asked for into the stored one.
    fn is_rewritten(&self, asked: &Stored<'_>, stored: &Stored<'_>) -> bool {
        let visit = self.visit;
        if is_nated(asked.uri, stored.uri, visit.source, visit.source_port) {
            return true;
        }
        if visit.region.control.rewrites_contacts.get() == 0 {
            return false;
        }
        let key = &visit.tables.key;
        let said = local::uri_number(key, asked.uri);
        let number = local::rewriting_number(key, self.record, said, stored.uri);
        // The same Call-ID is the same phone (RFC 3261 10.2.4); whether it moved or was rewritten otherwise is in doubt.
        visit.tables.hints.get(number, visit.now_s(), 0).is_some()
            || asked.call_id == stored.call_id && !is_same_place(asked.uri, stored.uri)
    }
}

/// One contact of the record that was asked for; runs under usrloc's lock: compares and returns.
unsafe extern "C" fn on_contact(closure: *mut c_void, contact: *const sys::mg_stored_t) -> c_int {
    // SAFETY: the Question of `ask`, alive during the call, and the shim's view.
    let (question, contact) = unsafe { (&mut *closure.cast::<Question<'_>>(), &*contact) };
    question.is_found = true;
    // SAFETY: texts of the record, under its lock.
    let (stored, path) = unsafe { (stored_of(contact), text(&contact.path)) };
    let visit = question.visit;
    for (place, (asked, _)) in asked(visit, question.registrar).enumerate() {
        if question.is_same(&asked, &stored, path) {
            question.marks.set(place);
            if !asked.instance.is_empty() && asked.call_id != stored.call_id {
                question.last = question.last.min(place);
            }
        }
    }
    1
}

/// Whether `stored` is `asked` as nathelper writes it: with the packet's source as its host and port
/// (fix_nated_contact), or with an alias of it at its end (add_contact_alias, set_contact_alias).
fn is_nated(asked: &[u8], stored: &[u8], source: IpAddr, port: u16) -> bool {
    let mut buffer = [0u8; 64];
    if let Some(end) = stored.strip_prefix(asked) {
        return is_alias(end, source, port);
    }
    let Some((before, after)) = around_host(asked) else {
        return false;
    };
    let middle = stored
        .strip_prefix(before)
        .and_then(|rest| rest.strip_suffix(after));
    middle == Some(place_text(source, port, &mut buffer))
}

/// Whether a stored URI has that host and port, or ends in that alias.
fn is_nathelpers(stored: &[u8], source: IpAddr, port: u16) -> bool {
    let mut buffer = [0u8; 64];
    let place = around_host(stored)
        .and_then(|(before, after)| stored.get(before.len()..stored.len() - after.len()));
    let alias = stored.iter().rposition(|byte| *byte == b';');
    place == Some(place_text(source, port, &mut buffer))
        || alias
            .and_then(|at| stored.get(at..))
            .is_some_and(|end| is_alias(end, source, port))
}

/// `;alias=address~port~protocol`.
fn is_alias(end: &[u8], source: IpAddr, port: u16) -> bool {
    let mut buffer = [0u8; 64];
    let alias = written(&mut buffer, |rest| write!(rest, ";alias={source}~{port}~"));
    matches!(end.strip_prefix(alias), Some([protocol]) if protocol.is_ascii_digit())
}

/// An address and a port as they stand in a URI.
fn place_text(source: IpAddr, port: u16, buffer: &mut [u8; 64]) -> &[u8] {
    written(buffer, |rest| match source {
        IpAddr::V4(address) => write!(rest, "{address}:{port}"),
        IpAddr::V6(address) => write!(rest, "[{address}]:{port}"),
    })
}

/// What was written into the buffer; 64 bytes hold every address.
fn written(
    buffer: &mut [u8; 64],
    write: impl FnOnce(&mut &mut [u8]) -> std::io::Result<()>,
) -> &[u8] {
    let mut rest: &mut [u8] = buffer;
    let room = rest.len();
    let length = write(&mut rest).map_or(0, |()| room - rest.len());
    buffer.get(..length).unwrap_or_default()
}

/// What stands before host and port in a SIP URI, and what behind.
fn around_host(uri: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = match swar::find(uri, [b'@']) {
        Some(at) => at + 1,
        None => swar::find(uri, [b':'])? + 1,
    };
    let (before, rest) = uri.split_at_checked(start)?;
    let end = swar::find(rest, [b';', b'?']).unwrap_or(rest.len());
    Some((before, rest.get(end..)?))
}

/// Whether both URIs have the same host and port.
fn is_same_place(one: &[u8], other: &[u8]) -> bool {
    let place = |uri: &[u8]| {
        let (before, after) = around_host(uri)?;
        Some((before.len(), uri.len() - after.len()))
    };
    match (place(one), place(other)) {
        (Some((a, b)), Some((c, d))) => one.get(a..b) == other.get(c..d),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nathelper_writes_is_known_again_and_nothing_else() {
        let source = IpAddr::from([203, 0, 113, 9]);
        let is =
            |asked: &str, stored: &str| is_nated(asked.as_bytes(), stored.as_bytes(), source, 4444);
        assert!(is("sip:a@10.0.0.1:5060;x=1", "sip:a@203.0.113.9:4444;x=1"));
        assert!(is("sip:a@10.0.0.1", "sip:a@203.0.113.9:4444"));
        assert!(is("sip:10.0.0.1;ob", "sip:203.0.113.9:4444;ob"));
        assert!(is(
            "sip:a@10.0.0.1;ob",
            "sip:a@10.0.0.1;ob;alias=203.0.113.9~4444~1"
        ));
        for (asked, stored) in [
            ("sip:a@10.0.0.1;x=1", "sip:a@203.0.113.9:4444;x=2"),
            ("sip:a@10.0.0.1", "sip:b@203.0.113.9:4444"),
            ("sip:a@10.0.0.1", "sip:a@203.0.113.9:4445"),
            ("sip:a@10.0.0.1", "sip:a@10.0.0.1;alias=203.0.113.9~4445~1"),
            ("sip:a@10.0.0.1", "sip:a@10.0.0.1;ob"),
            ("nonsense", "sip:a@203.0.113.9:4444"),
        ] {
            assert!(!is(asked, stored), "{asked} {stored}");
        }
        assert!(is_same_place(b"sip:a@h:1;x", b"sip:b@h:1"));
        assert!(!is_same_place(b"sip:a@h:1", b"sip:a@h:2"));
    }
}
