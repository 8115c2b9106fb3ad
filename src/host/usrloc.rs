//! The local usrloc: what it changes is learned, and where the table does not know, it is asked.
//! Forbidden here: deciding; locks but usrloc's own (its callbacks run under its slot lock: write the table and return).

use std::ffi::{c_char, c_int, c_long, c_void};

use super::arrived::bytes;
use super::entry::guarded;
use super::state::{self, Tables};
use super::visit::Visit;
use super::{hooks, learn, sys};
use crate::guard::aor::{self, Aor, RegistrarRules};
use crate::guard::class::Known;
use crate::guard::params::Int;
use crate::guard::sip::Contact;

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
        let in_hand = learn::in_hand();
        if in_hand.is_none() && event == INSERTED {
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
                let until = if expires == 0 {
                    u64::MAX
                } else {
                    expires as u64
                };
                let memory =
                    u32::try_from(region.settings.get_u64(Int::AorMemory)).unwrap_or(u32::MAX);
                tables.bindings.put(fp, until, now, 0);
                tables.aors.raise(aor_fp, until, now, memory);
                if let Some(mut hand) = in_hand {
                    hand.note_stored(fp, until);
                    learn::keep_in_hand(hand);
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

/// Looks the AoR up in the local usrloc, contact by contact.
pub fn ask(visit: &Visit<'_>) -> Known {
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
        visit,
        now: visit.now_s(),
        matched: 0,
        has_live: false,
    };
    if let Some(text) = visit.aor.registrar_text(&rules, &mut buffer) {
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
    let register = visit.register;
    let wanted = register.contacts.kept_adding(register.expires).count();
    let all = wanted < 64 && question.matched.count_ones() as usize == wanted;
    Known {
        all_bindings: all && question.has_live,
        aor: question.has_live,
        unsure: false,
    }
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
    if expires != 0 && expires as u64 <= question.now {
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
