//! Numbers for what a local usrloc keeps, equal exactly where usrloc itself finds a contact again (its matching modes; of a
//! contact with a Path in mode 2 the number tells too little, see [`Matching::is_told_by_number`]).
//! Forbidden here: allocation, panics, the RFCs' rules of comparison (those are `fingerprint`'s).

use crate::guard::sip::aor::fingerprint::{Key, Kind};

/// usrloc's parameter `matching_mode` (usrloc/urecord.c get_ucontact of 5.6 and 6.0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Matching {
    /// 0: the contact's URI, byte by byte.
    #[default]
    Contact,
    /// 1: the URI and the Call-ID.
    ContactAndCallId,
    /// 2: the URI and the Path, where the request has one; else the URI.
    ContactAndPath,
    /// 3: the Call-ID, whatever the URI.
    CallId,
}

impl Matching {
    /// `None` for a number that usrloc does not know.
    pub fn from_number(mode: i64) -> Option<Matching> {
        match mode {
            0 => Some(Matching::Contact),
            1 => Some(Matching::ContactAndCallId),
            2 => Some(Matching::ContactAndPath),
            3 => Some(Matching::CallId),
            _ => None,
        }
    }

    /// Whether a number that is known tells that usrloc finds the contact again. In mode 2 an update takes the Path of its
    /// request over, or loses it, and usrloc does not tell which one it had (usrloc/ucontact.c mem_update_ucontact): a
    /// Path is no part of the number, and of a request that has one only usrloc itself can tell.
    pub fn is_told_by_number(self, contact: &Stored<'_>, has_path: bool) -> bool {
        self != Matching::ContactAndPath || !has_path || !contact.instance.is_empty()
    }
}

/// One contact, as a request asks for it or as usrloc has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stored<'a> {
    /// URI without brackets.
    pub uri: &'a [u8],
    /// Call-ID of the request, or of the last one that updated it.
    pub call_id: &'a [u8],
    /// `+sip.instance` without quotes; empty: none.
    pub instance: &'a [u8],
    /// 0: none.
    pub reg_id: u32,
}

/// The number of the record with this AoR, as usrloc spells it ([`crate::guard::sip::aor::Aor::registrar_text`]).
#[inline]
pub fn record_number(key: &Key, aor: &[u8]) -> u64 {
    let mut hashed = key.hash(Kind::Record);
    hashed.put_text(aor);
    hashed.finish()
}

/// The number of a contact of a record. A contact with an instance is found by instance and reg-id alone
/// (get_ucontact_by_instance), any other by the mode.
#[inline]
pub fn stored_number(key: &Key, matching: Matching, record: u64, contact: &Stored<'_>) -> u64 {
    if !contact.instance.is_empty() {
        let mut hashed = key.hash_with(Kind::Flow, u64::from(contact.reg_id));
        hashed.put(record);
        hashed.put_text(inner(contact.instance));
        return hashed.finish();
    }
    let mut hashed = key.hash(Kind::Stored);
    hashed.put(record);
    match matching {
        Matching::Contact | Matching::ContactAndPath => hashed.put_text(contact.uri),
        Matching::ContactAndCallId => {
            hashed.put_text(contact.uri);
            hashed.put_text(contact.call_id);
        }
        Matching::CallId => hashed.put_text(contact.call_id),
    }
    hashed.finish()
}

/// Whether usrloc finds `stored` for `asked`, byte by byte; `path`: the request's, compared only in mode 2 where the
/// request has one.
pub fn is_same(
    matching: Matching,
    asked: &Stored<'_>,
    stored: &Stored<'_>,
    same_path: impl FnOnce() -> bool,
) -> bool {
    if !asked.instance.is_empty() {
        return !stored.instance.is_empty()
            && asked.reg_id == stored.reg_id
            && inner(asked.instance) == inner(stored.instance);
    }
    match matching {
        Matching::Contact => asked.uri == stored.uri,
        Matching::ContactAndCallId => asked.uri == stored.uri && asked.call_id == stored.call_id,
        Matching::ContactAndPath => asked.uri == stored.uri && same_path(),
        Matching::CallId => asked.call_id == stored.call_id,
    }
}

/// The number of a contact by what stays the same under whatever AoR it was stored: URI and Call-ID.
pub fn dialog_number(key: &Key, uri: &[u8], call_id: &[u8]) -> u64 {
    let mut hashed = key.hash(Kind::Dialog);
    hashed.put_text(uri);
    hashed.put_text(call_id);
    hashed.finish()
}

/// The number of a URI, byte by byte.
pub fn uri_number(key: &Key, uri: &[u8]) -> u64 {
    dialog_number(key, uri, b"")
}

/// The number of the fact that this server stored `stored` for a request that said the URI with the number `said`.
pub fn rewriting_number(key: &Key, record: u64, said: u64, stored: &[u8]) -> u64 {
    let mut hashed = key.hash_with(Kind::Dialog, 1);
    hashed.put(record);
    hashed.put(said);
    hashed.put_text(stored);
    hashed.finish()
}

/// An instance counts without its angle brackets.
fn inner(instance: &[u8]) -> &[u8] {
    match instance {
        [b'<', inside @ .., b'>'] => inside,
        _ => instance,
    }
}

/// A number of texts that are always the same ([`Key::probe`]).
pub(super) fn probe(key: &Key) -> u64 {
    let plain = Stored {
        uri: b"sip:alice@192.0.2.1:5062;line=1",
        ..Stored::default()
    };
    let flow = Stored {
        instance: b"<urn:uuid:0>",
        reg_id: 1,
        ..plain
    };
    let record = record_number(key, b"alice");
    let mut hashed = key.hash(Kind::Stored);
    hashed.put(record);
    hashed.put_text(plain.uri);
    hashed.put_text(b"<sip:p;lr>");
    hashed.finish() ^ stored_number(key, Matching::Contact, record, &flow)
}
