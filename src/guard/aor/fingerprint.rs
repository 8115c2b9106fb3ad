//! Numbers for AoRs, bindings and Call-IDs: keyed SipHash, so that clients, who choose the texts, cannot aim at a slot.
//! Forbidden here: allocation, panics, a hash without the key.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::Aor;
use crate::guard::sip::Contact;

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

    /// What is hashed begins with what it is, so that an AoR never equals a Call-ID.
    pub(super) fn hasher(&self, kind: Kind) -> SipHasher13 {
        let mut hasher = SipHasher13::new_with_keys(self.k0, self.k1);
        hasher.write(&[kind as u8]);
        hasher
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
}

/// The numbers that stand for one binding: it is known when either is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindingFingerprints {
    /// By instance and reg-id where the contact has an instance (RFC 5626 6), else the same as `by_uri`.
    pub primary: u64,
    /// By contact URI.
    pub by_uri: u64,
}

/// The numbers of a binding of the AoR with this fingerprint.
///
/// The URI counts by user, host and port. Scheme, transport and all other URI parameters do not: proxies add and change
/// them (`alias=`, `rport`, `received=`) between request and reply. A missing port is not 5060 (RFC 3261 19.1.4).
pub fn binding_fingerprint(key: &Key, aor: u64, contact: &Contact<'_>) -> BindingFingerprints {
    let by_uri = match Aor::parse(contact.uri) {
        Some(uri) => {
            let mut text = Hashed::new(key.hasher(Kind::Uri));
            text.put_number(aor);
            let port = uri.port.iter().fold(0u64, |port, digit| {
                port.wrapping_mul(10)
                    .wrapping_add(u64::from(digit.wrapping_sub(b'0')))
            });
            text.put_number(port);
            uri.put_host_and_user(&mut text);
            text.finish()
        }
        None => {
            let mut hasher = key.hasher(Kind::OpaqueUri);
            hasher.write(&aor.to_le_bytes());
            hasher.write(contact.uri);
            hasher.finish()
        }
    };
    let by_instance = contact.instance.map(|instance| {
        let mut hasher = key.hasher(Kind::Instance);
        hasher.write(&aor.to_le_bytes());
        hasher.write(&contact.reg_id.unwrap_or(0).to_le_bytes());
        hasher.write(instance);
        hasher.finish()
    });
    BindingFingerprints {
        primary: by_instance.unwrap_or(by_uri),
        by_uri,
    }
}

/// The number of a Call-ID, byte by byte (RFC 3261 20.8: case-sensitive).
pub fn call_id_fingerprint(key: &Key, call_id: &[u8]) -> u64 {
    let mut hasher = key.hasher(Kind::CallId);
    hasher.write(call_id);
    hasher.finish()
}

/// How many points there are: a share in hundredths of a percent.
pub const POINTS: u32 = 10_000;

/// An AoR's point, 0 to 9999, uniform: it is refused while the share in force (in the same unit) is above its point.
///
/// `salt` changes when the level returns to normal, so that it is not always the same AoRs that wait.
pub fn aor_point(key: &Key, salt: u64, aor: u64) -> u32 {
    let mut hasher = key.hasher(Kind::Point);
    hasher.write(&salt.to_le_bytes());
    hasher.write(&aor.to_le_bytes());
    let scaled = (u128::from(hasher.finish()) * u128::from(POINTS)) >> 64;
    u32::try_from(scaled).unwrap_or(POINTS - 1)
}

/// Bytes on their way into the hash, in pieces large enough for it to be quick.
pub(super) struct Hashed {
    hasher: SipHasher13,
    piece: [u8; PIECE],
    len: usize,
}

const PIECE: usize = 64; // holds nearly every AoR

impl Hashed {
    pub(super) fn new(hasher: SipHasher13) -> Self {
        Hashed {
            hasher,
            piece: [0; PIECE],
            len: 0,
        }
    }

    #[inline]
    pub(super) fn put(&mut self, byte: u8) {
        if self.len == PIECE {
            self.hasher.write(&self.piece);
            self.len = 0;
        }
        if let Some(place) = self.piece.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
    }

    #[inline]
    pub(super) fn put_all(&mut self, text: &[u8]) {
        match self.piece.get_mut(self.len..self.len + text.len()) {
            Some(place) => {
                place.copy_from_slice(text);
                self.len += text.len();
            }
            None => text.iter().for_each(|byte| self.put(*byte)),
        }
    }

    #[inline]
    pub(super) fn put_lower_case(&mut self, text: &[u8]) {
        match self.piece.get_mut(self.len..self.len + text.len()) {
            Some(place) => {
                place.copy_from_slice(text);
                place.make_ascii_lowercase();
                self.len += text.len();
            }
            None => text
                .iter()
                .for_each(|byte| self.put(byte.to_ascii_lowercase())),
        }
    }

    pub(super) fn put_number(&mut self, number: u64) {
        self.put_all(&number.to_le_bytes());
    }

    pub(super) fn finish(mut self) -> u64 {
        self.hasher
            .write(self.piece.get(..self.len).unwrap_or_default());
        self.hasher.finish()
    }
}
