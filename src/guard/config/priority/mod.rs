//! The priority list: users, AoRs, domains and networks that are admitted to the last; packed and matched.
//! Forbidden here: keeping the list (it lives in the shared region); allocation while matching.
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

mod parse;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use crate::guard::config::priority::parse::{
    Change, parse_aor, parse_change, parse_domain, parse_source,
};

/// Bytes of a packed entry.
pub const ENTRY_BYTES: usize = 96;
/// Words of a packed entry, for a place in shared memory that is read and written by words.
pub const ENTRY_WORDS: usize = ENTRY_BYTES / 8;
/// Longest text of an entry: of a domain, or of user and domain together.
pub const MAX_TEXT: usize = ENTRY_BYTES - HEAD;
const HEAD: usize = 4;

/// What an entry holds, and so what it is matched with. 0 is an empty place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    /// `text` is the user.
    User = 1,
    /// `text` is the user, then the host.
    Aor = 2,
    /// `text` is the host.
    Domain = 3,
    /// `text` is 4 or 16 bytes of a network address.
    Net = 4,
}

/// The lists of the configuration and of `memguard.priority`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum List {
    /// `priority_aor`
    Aor,
    /// `priority_domain`
    Domain,
    /// `priority_source`
    Source,
}

impl List {
    /// Every list in the order of the contract.
    pub const ALL: [List; 3] = [List::Aor, List::Domain, List::Source];

    /// Its word: "aor", "domain", "source".
    pub const fn word(self) -> &'static str {
        match self {
            List::Aor => "aor",
            List::Domain => "domain",
            List::Source => "source",
        }
    }

    /// Back from [`List::word`].
    pub fn parse(word: &str) -> Option<List> {
        List::ALL.into_iter().find(|list| list.word() == word)
    }

    /// Reads one value of this list.
    ///
    /// # Errors
    /// A sentence for the operator: what was given and what is accepted.
    pub fn entry(self, text: &str) -> Result<Entry, String> {
        match self {
            List::Aor => parse_aor(text),
            List::Domain => parse_domain(text),
            List::Source => parse_source(text),
        }
    }
}

/// One entry of the priority list. Plain data; all zero is an empty place.
///
/// ```text
/// 0     1          2               3          4
/// kind  len(text)  len(user) of    prefix     text: user, host or network address, zero padded
///                  kind Aor        of Net
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Entry {
    bytes: [u8; ENTRY_BYTES],
}

const _: () = assert!(size_of::<Entry>() == ENTRY_BYTES && ENTRY_WORDS * 8 == ENTRY_BYTES);

impl Entry {
    /// An empty place; matches nothing.
    pub const EMPTY: Entry = Entry {
        bytes: [0; ENTRY_BYTES],
    };

    fn new(kind: Kind, user_len: usize, prefix: u8, parts: [&[u8]; 2]) -> Option<Entry> {
        let mut entry = Entry::EMPTY;
        let [first, second] = parts;
        let len = first.len() + second.len();
        let (head, text) = entry.bytes.split_at_mut(HEAD);
        head.copy_from_slice(&[
            kind as u8,
            u8::try_from(len).ok()?,
            u8::try_from(user_len).ok()?,
            prefix,
        ]);
        text.get_mut(..first.len())?.copy_from_slice(first);
        text.get_mut(first.len()..len)?.copy_from_slice(second);
        Some(entry)
    }

    /// The entry as words (native order), for shared memory.
    pub fn to_words(&self) -> [u64; ENTRY_WORDS] {
        let mut words = [0; ENTRY_WORDS];
        for (word, bytes) in words.iter_mut().zip(self.bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
        }
        words
    }

    /// The entry of words that [`Entry::to_words`] made. Any words are safe to give: what is no entry matches nothing.
    pub fn from_words(words: &[u64; ENTRY_WORDS]) -> Entry {
        let mut entry = Entry::EMPTY;
        for (bytes, word) in entry.bytes.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        entry
    }

    /// `None` also for words that no list wrote: a text longer than an entry has room for.
    fn kind(&self) -> Option<Kind> {
        let [kind, len, ..] = self.bytes;
        [Kind::User, Kind::Aor, Kind::Domain, Kind::Net]
            .into_iter()
            .find(|k| *k as u8 == kind && HEAD + usize::from(len) <= self.bytes.len())
    }

    fn text(&self) -> &[u8] {
        let [_, len, ..] = self.bytes;
        let end = HEAD + usize::from(len);
        self.bytes.get(HEAD..end).unwrap_or_default()
    }

    /// User and host of an entry of kind Aor.
    fn halves(&self) -> Option<(&[u8], &[u8])> {
        let [_, _, user_len, ..] = self.bytes;
        self.text().split_at_checked(usize::from(user_len))
    }

    /// The network of an entry of kind Net, and its prefix length.
    fn net(&self) -> Option<(IpAddr, u8)> {
        let [_, _, _, prefix, ..] = self.bytes;
        let address = match self.text().len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(self.text()).ok()?),
            16 => IpAddr::from(<[u8; 16]>::try_from(self.text()).ok()?),
            _ => return None,
        };
        Some((address, prefix))
    }

    /// Whether it fits a REGISTER: the AoR's canonical user ([`canonical_user`]) and its host (case does not matter),
    /// and the address that the request came from.
    pub fn matches(&self, user: &[u8], host: &[u8], source: Option<IpAddr>) -> bool {
        match self.kind() {
            None => false,
            Some(Kind::User) => self.text() == user,
            Some(Kind::Aor) => self
                .halves()
                .is_some_and(|(u, h)| u == user && h.eq_ignore_ascii_case(host)),
            Some(Kind::Domain) => self.text().eq_ignore_ascii_case(host),
            Some(Kind::Net) => match (self.net(), source) {
                (Some((net, prefix)), Some(source)) => is_in(net, prefix, source),
                _ => false,
            },
        }
    }

    /// Whether an entry whose first word ([`Entry::to_words`]) is `first` may fit; false is certain, true is not.
    /// A list of hundreds is passed over by one word of each entry.
    pub fn may_match(first: u64, user: &[u8], host: &[u8], source: Option<IpAddr>) -> bool {
        let [kind, len, user_len, _, text @ ..] = first.to_ne_bytes();
        let (len, user_len) = (usize::from(len), usize::from(user_len));
        let begins = |sought: &[u8]| {
            let mut pairs = text.iter().zip(sought);
            pairs.all(|(ours, theirs)| ours.eq_ignore_ascii_case(theirs))
        };
        match kind {
            k if k == Kind::User as u8 => len == user.len() && begins(user),
            k if k == Kind::Aor as u8 => {
                user_len == user.len() && len == user.len() + host.len() && begins(user)
            }
            k if k == Kind::Domain as u8 => len == host.len() && begins(host),
            k if k == Kind::Net as u8 => {
                source.is_some_and(|source| source.to_canonical().is_ipv4() == (len == 4))
            }
            _ => false,
        }
    }

    /// The list that the entry belongs to; `None` for an empty place.
    pub fn list(&self) -> Option<List> {
        Some(match self.kind()? {
            Kind::User | Kind::Aor => List::Aor,
            Kind::Domain => List::Domain,
            Kind::Net => List::Source,
        })
    }
}

impl std::fmt::Display for Entry {
    /// As an operator would write it: `alice`, `alice@example.com`, `example.com`, `192.0.2.0/24`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lossy = |bytes| String::from_utf8_lossy(bytes).into_owned();
        match (self.kind(), self.halves(), self.net()) {
            (Some(Kind::User | Kind::Domain), ..) => write!(f, "{}", lossy(self.text())),
            (Some(Kind::Aor), Some((user, host)), _) => {
                write!(f, "{}@{}", lossy(user), lossy(host))
            }
            (Some(Kind::Net), _, Some((net, prefix))) if prefix == bits(net) => write!(f, "{net}"),
            (Some(Kind::Net), _, Some((net, prefix))) => write!(f, "{net}/{prefix}"),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for Entry {
    /// With its list before it, as `memguard.priority` takes it: `aor alice`, `source 192.0.2.0/24`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {self}", self.list().map_or("no entry", List::word))
    }
}

const fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// An IPv4 address that came in over an IPv6 socket (`::ffff:192.0.2.1`) is that IPv4 address.
fn is_in(net: IpAddr, prefix: u8, source: IpAddr) -> bool {
    match (net, source.to_canonical()) {
        (IpAddr::V4(net), IpAddr::V4(source)) => {
            masked_v4(net, prefix) == masked_v4(source, prefix)
        }
        (IpAddr::V6(net), IpAddr::V6(source)) => {
            masked_v6(net, prefix) == masked_v6(source, prefix)
        }
        _ => false,
    }
}

fn masked_v4(address: Ipv4Addr, prefix: u8) -> u32 {
    let host_bits = 32u32.saturating_sub(u32::from(prefix));
    address.to_bits() & u32::MAX.checked_shl(host_bits).unwrap_or(0)
}

fn masked_v6(address: Ipv6Addr, prefix: u8) -> u128 {
    let host_bits = 128u32.saturating_sub(u32::from(prefix));
    address.to_bits() & u128::MAX.checked_shl(host_bits).unwrap_or(0)
}

/// Writes the canonical form of a URI's user part into `out` and answers its length; `None` when `out` is too small.
///
/// An escape (`%61`) becomes its character, unless that is reserved (RFC 3261 §25.1), `%`, or no visible ASCII: then
/// it stays an escape, in upper case; a `%` that begins none becomes `%25`. So two users are equal as §19.1.4 says exactly when their canonical bytes are.
pub fn canonical_user(user: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut len = 0;
    let mut rest = user;
    while let Some((&first, tail)) = rest.split_first() {
        let escaped = match (first, tail) {
            (b'%', [high, low, after @ ..]) => hex(*high)
                .zip(hex(*low))
                .map(|(high, low)| (high << 4 | low, after)),
            _ => None,
        };
        let (byte, after) = escaped.unwrap_or((first, tail));
        let is_plain = byte.is_ascii_graphic() && !b";/?:@&=+$,%".contains(&byte);
        if is_plain || (escaped.is_none() && byte != b'%') {
            *out.get_mut(len)? = byte;
            len += 1;
        } else {
            let digit = |nibble: u8| nibble + if nibble < 10 { b'0' } else { b'A' - 10 };
            let escape = [b'%', digit(byte >> 4), digit(byte & 15)];
            out.get_mut(len..len + 3)?.copy_from_slice(&escape);
            len += 3;
        }
        rest = after;
    }
    Some(len)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}
