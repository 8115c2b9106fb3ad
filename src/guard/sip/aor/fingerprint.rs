//! Numbers for AoRs, bindings and Call-IDs: keyed SipHash, so that clients, who choose the texts, cannot aim at a slot.
//! Forbidden here: allocation, panics, a hash without the key.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::guard::sip::{
    Contact,
    aor::{Aor, Unescaped, aor_fingerprint, cut_at, local},
    swar,
};

/// The secret of all fingerprints, drawn at every server start.
#[derive(Clone, Copy)]
pub struct Key {
    k0: u64,
    k1: u64,
}

impl Key {
    /// A key of two random words.
    pub const fn new(k0: u64, k1: u64) -> Key {
        Key { k0, k1 }
    }

    /// The two words, to carry them over a restart.
    pub const fn words(&self) -> [u64; 2] {
        [self.k0, self.k1]
    }

    /// A number made of this key and of texts that are always the same: it differs where fingerprints are made in
    /// another way, so that numbers which another version made are not taken for ours.
    pub fn probe(&self) -> u64 {
        let aor = aor_fingerprint(self, b"sip:A%6cice@Example.ORG:5070").unwrap_or(0);
        let uri = Contact::of_uri(b"sip:alice@192.0.2.1:5062;transport=tcp");
        let instance = Contact {
            instance: Some(b"<urn:uuid:0>"),
            reg_id: Some(1),
            ..Contact::of_uri(b"sip:alice@192.0.2.1")
        };
        let mut hashed = self.hash(Kind::Point);
        hashed.put(local::probe(self));
        [uri, instance].iter().for_each(|contact| {
            let numbers = binding_fingerprint(self, aor, contact);
            hashed.put(numbers.primary);
            hashed.put(numbers.by_uri);
        });
        hashed.put(aor);
        hashed.finish()
    }

    /// What is hashed begins with what it is, so that an AoR never equals a Call-ID.
    #[inline]
    pub(super) fn hash(&self, kind: Kind) -> Hashed {
        self.hash_with(kind, 0)
    }

    /// As [`Key::hash`], with a number of at most 56 bits beside the kind.
    #[inline]
    pub(super) fn hash_with(&self, kind: Kind, number: u64) -> Hashed {
        let mut hashed = Hashed(SipHasher13::new_with_keys(self.k0, self.k1));
        hashed.put(number << 8 | kind as u64);
        hashed
    }
}

#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Kind {
    Aor = b'a',
    Uri = b'u',
    OpaqueUri = b'o',
    Instance = b'i',
    CallId = b'c',
    Point = b'p',
    Transaction = b't',
    Param = b';',
    Record = b'r',
    Stored = b's',
    Flow = b'f',
    Dialog = b'd',
}

/// The numbers that stand for one binding, where bindings are compared as the RFCs say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindingFingerprints {
    /// By instance and reg-id where the contact has an instance (RFC 5626 6), else the same as `by_uri`.
    pub primary: u64,
    /// By contact URI.
    pub by_uri: u64,
}

/// The numbers of a contact URI (RFC 3261 19.1.4).
///
/// Two URIs are the same binding when `whole` is the same. They may also be when only `base` is, and their parameters
/// have other *names*: one that only one of them has is ignored. With the same `base` and `names` but another `whole`
/// a parameter that both have differs: another binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UriFingerprints {
    /// Everything that counts.
    pub whole: u64,
    /// What must be the same in both: scheme, user, host, port (a missing one is not 5060), headers, and the parameters
    /// `user`, `ttl`, `method`, `maddr` and `transport`.
    pub base: u64,
    /// `base` and the names of all other parameters; `None` when there are none, and then `whole` is `base`.
    pub names: Option<u64>,
}

/// The numbers of a binding of the AoR with this fingerprint.
pub fn binding_fingerprint(key: &Key, aor: u64, contact: &Contact<'_>) -> BindingFingerprints {
    let by_uri = binding_by_uri(key, aor, contact);
    BindingFingerprints {
        primary: binding_by_instance(key, aor, contact).unwrap_or(by_uri),
        by_uri,
    }
}

/// [`BindingFingerprints::by_uri`] alone: [`UriFingerprints::whole`].
pub fn binding_by_uri(key: &Key, aor: u64, contact: &Contact<'_>) -> u64 {
    uri_numbers::<false>(key, aor, contact.uri).whole
}

/// All numbers of a contact URI of the AoR with this fingerprint. A text that is no URI counts byte by byte.
pub fn uri_fingerprints(key: &Key, aor: u64, uri: &[u8]) -> UriFingerprints {
    uri_numbers::<true>(key, aor, uri)
}

/// The same; `names` only where they are asked for.
fn uri_numbers<const WITH_NAMES: bool>(key: &Key, aor: u64, uri: &[u8]) -> UriFingerprints {
    let Some(parts) = Aor::parse(uri) else {
        let mut hashed = key.hash(Kind::OpaqueUri);
        hashed.put(aor);
        hashed.put_text(uri);
        let whole = hashed.finish();
        return UriFingerprints {
            whole,
            base: whole,
            names: None,
        };
    };
    let port = parts.port.iter().fold(0u64, |port, digit| {
        port.wrapping_mul(10)
            .wrapping_add(u64::from(digit.wrapping_sub(b'0')))
    });
    // Order does not count, so the numbers of the single parameters are added up.
    let (mut always, mut names, mut values) = (0u64, 0u64, 0u64);
    let mut has_others = false;
    let mut rest = parts.params;
    while !rest.is_empty() {
        let (param, after) = cut_at(rest, b';');
        rest = after;
        let (name, value) = cut_at(param, b'=');
        if name.is_empty() || is_proxys_own(name) {
            continue;
        }
        let number = param_number(key, name, Some(value));
        if counts_always(name) {
            always = always.wrapping_add(number);
        } else {
            has_others = true;
            values = values.wrapping_add(number);
            if WITH_NAMES {
                names = names.wrapping_add(param_number(key, name, None));
            }
        }
    }
    if !parts.headers.is_empty() {
        let mut hashed = key.hash_with(Kind::Param, 2);
        hashed.put_text(parts.headers);
        always = always.wrapping_add(hashed.finish());
    }
    let mut hashed = key.hash_with(Kind::Uri, port);
    hashed.put(aor);
    hashed.put(always ^ parts.scheme as u64);
    parts.put_host_and_user(&mut hashed);
    let base = hashed.finish();
    let with = |sum: u64, number: u64| {
        let mut hashed = key.hash_with(Kind::Param, number);
        hashed.put(base);
        hashed.put(sum);
        hashed.finish()
    };
    UriFingerprints {
        whole: if has_others { with(values, 3) } else { base },
        base,
        names: (WITH_NAMES && has_others).then(|| with(names, 4)),
    }
}

/// Parameters that must be the same in both URIs, or in neither (RFC 3261 19.1.4).
fn counts_always(name: &[u8]) -> bool {
    let named = |wanted| swar::is_word(name, wanted);
    match name.len() {
        3 => named(b"ttl"),
        4 => named(b"user"),
        5 => named(b"maddr"),
        6 => named(b"method"),
        9 => named(b"transport"),
        _ => false,
    }
}

/// Parameters that proxies put into other people's contacts, to find the way back through a NAT.
fn is_proxys_own(name: &[u8]) -> bool {
    let named = |wanted| swar::is_word(name, wanted);
    match name.len() {
        5 => named(b"alias"),
        8 => named(b"received"),
        _ => false,
    }
}

/// The number of one parameter, in any case and unescaped; without `value` of its name.
fn param_number(key: &Key, name: &[u8], value: Option<&[u8]>) -> u64 {
    let mut hashed = key.hash_with(Kind::Param, u64::from(value.is_some()));
    for text in [Some(name), value].into_iter().flatten() {
        match swar::find(text, [b'%']) {
            None => hashed.put_lower_case(text),
            Some(_) => {
                hashed.put_bytes(Unescaped { rest: text }.map(|byte| byte.to_ascii_lowercase()))
            }
        }
    }
    hashed.finish()
}

/// [`BindingFingerprints::primary`] of a contact that has an instance.
#[inline]
pub fn binding_by_instance(key: &Key, aor: u64, contact: &Contact<'_>) -> Option<u64> {
    let instance = contact.instance?;
    let mut hashed = key.hash_with(Kind::Instance, u64::from(contact.reg_id.unwrap_or(0)));
    hashed.put(aor);
    hashed.put_text(instance);
    Some(hashed.finish())
}

/// The number of a Call-ID, byte by byte (RFC 3261 20.8: case-sensitive).
#[inline]
pub fn call_id_fingerprint(key: &Key, call_id: &[u8]) -> u64 {
    let mut hashed = key.hash(Kind::CallId);
    hashed.put_text(call_id);
    hashed.finish()
}

/// How many points there are: a share in hundredths of a percent.
pub const POINTS: u32 = 10_000;

/// An AoR's point, 0 to 9999, uniform: it is refused while the share in force (in the same unit) is above its point.
///
/// `salt` changes when the level returns to normal, so that it is not always the same AoRs that wait.
pub fn aor_point(key: &Key, salt: u64, aor: u64) -> u32 {
    let mut hashed = key.hash(Kind::Point);
    hashed.put(salt);
    hashed.put(aor);
    // Below POINTS: what is shifted out is all of the number.
    ((u128::from(hashed.finish()) * u128::from(POINTS)) >> 64) as u32
}

/// Texts and numbers on their way into the hash, a word of eight bytes at a time.
pub(super) struct Hashed(SipHasher13);

impl Hashed {
    #[inline(always)]
    pub(super) fn put(&mut self, word: u64) {
        self.0.write_u64(word);
    }

    /// A text ends in a word of its last bytes, below its length: no two lists of texts (shorter than 256 bytes) make
    /// the same words.
    #[inline(always)]
    fn put_words(&mut self, text: &[u8], change: impl Fn(u64) -> u64) {
        swar::each_word(text, |word| self.put(change(word)));
        self.put(end_word(change(swar::last_word(text)), text.len()));
    }

    #[inline(always)]
    pub(super) fn put_text(&mut self, text: &[u8]) {
        self.put_words(text, |word| word);
    }

    #[inline(always)]
    pub(super) fn put_lower_case(&mut self, text: &[u8]) {
        self.put_words(text, swar::lower_case);
    }

    /// The same as [`Hashed::put_text`] of these bytes.
    pub(super) fn put_bytes(&mut self, bytes: impl Iterator<Item = u8>) {
        let (mut word, mut len) = (0, 0);
        for byte in bytes {
            word |= u64::from(byte) << (8 * (len % 8));
            len += 1;
            if len % 8 == 0 {
                self.put(word);
                word = 0;
            }
        }
        self.put(end_word(word, len));
    }

    #[inline(always)]
    pub(super) fn finish(self) -> u64 {
        self.0.finish()
    }
}

/// At most seven bytes and the length (its lowest eight bits decide which word of the text this is).
#[inline(always)]
fn end_word(last: u64, length: usize) -> u64 {
    last | (length as u64) << 56
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_has_one_number_whether_it_comes_whole_or_byte_by_byte() {
        let key = Key::new(3, 4);
        let texts: Vec<Vec<u8>> = (0..300u16)
            .map(|length| (0..length).map(|at| at as u8).collect())
            .collect();
        let mut seen = std::collections::BTreeSet::new();
        for text in &texts {
            let (mut whole, mut pieces) = (key.hash(Kind::Aor), key.hash(Kind::Aor));
            whole.put_text(text);
            pieces.put_bytes(text.iter().copied());
            let number = whole.finish();
            assert_eq!(number, pieces.finish(), "{} bytes", text.len());
            assert!(seen.insert(number), "{} bytes", text.len());
        }
    }

    #[test]
    fn the_probe_is_the_same_for_a_key_and_differs_between_keys() {
        assert_eq!(Key::new(3, 4).words(), [3, 4]);
        assert_eq!(Key::new(3, 4).probe(), Key::new(3, 4).probe());
        assert_ne!(Key::new(3, 4).probe(), Key::new(4, 3).probe());
        // A change of this number says that fingerprints are made differently: files of known bindings get lost.
        assert_eq!(Key::new(3, 4).probe(), 13_224_807_958_601_305_514);
    }

    #[test]
    fn bytes_that_move_from_one_text_to_the_next_make_another_number() {
        let key = Key::new(3, 4);
        let text = b"registrar.example.org\0alice\0\0";
        let number = |at: usize| {
            let mut hashed = key.hash(Kind::Uri);
            hashed.put_text(&text[..at]);
            hashed.put_text(&text[at..]);
            hashed.finish()
        };
        let numbers: std::collections::BTreeSet<u64> = (0..text.len()).map(number).collect();
        assert_eq!(numbers.len(), text.len());
    }
}
