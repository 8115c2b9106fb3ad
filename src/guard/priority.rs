//! The priority list: users, AoRs, domains and networks that are admitted to the last; parsed, packed and matched.
//! Forbidden here: keeping the list (it lives in the shared region); allocation while matching.
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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

    /// Whether the place is free.
    pub fn is_empty(&self) -> bool {
        self.kind().is_none()
    }

    fn kind(&self) -> Option<Kind> {
        let [kind, ..] = self.bytes;
        [Kind::User, Kind::Aor, Kind::Domain, Kind::Net]
            .into_iter()
            .find(|k| *k as u8 == kind)
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

    /// The list that the entry belongs to: "aor", "domain", "source"; empty for an empty place.
    pub fn list(&self) -> &'static str {
        match self.kind() {
            None => "",
            Some(Kind::User | Kind::Aor) => "aor",
            Some(Kind::Domain) => "domain",
            Some(Kind::Net) => "source",
        }
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
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Entry({} {self})", self.list())
    }
}

/// Whether any entry fits; see [`Entry::matches`].
pub fn is_priority<'a>(
    entries: impl IntoIterator<Item = &'a Entry>,
    user: &[u8],
    host: &[u8],
    source: Option<IpAddr>,
) -> bool {
    entries
        .into_iter()
        .any(|entry| entry.matches(user, host, source))
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

fn without_scheme(text: &str) -> &str {
    let scheme = |name: &str| {
        let (front, rest) = text.split_at_checked(name.len())?;
        front.eq_ignore_ascii_case(name).then_some(rest)
    };
    scheme("sip:").or_else(|| scheme("sips:")).unwrap_or(text)
}

/// Lower-case host without its final dot; `None` when it is none. A literal IPv6 address keeps its brackets.
fn host_of(text: &str) -> Option<String> {
    let is_v6 = |inner: &str| inner.parse::<Ipv6Addr>().is_ok();
    if let Some(inner) = text.strip_prefix('[') {
        return is_v6(inner.strip_suffix(']')?).then(|| text.to_ascii_lowercase());
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.split('.')
        .all(is_label)
        .then(|| name.to_ascii_lowercase())
}

/// `None` unless every byte may stand in a URI's user part and every `%` begins an escape (RFC 3261 §25.1).
fn user_of(text: &str) -> Option<Vec<u8>> {
    let is_user = |b: u8| b.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/%#".contains(&b);
    let is_escape = |after: &str| after.bytes().take(2).filter(|b| hex(*b).is_some()).count() == 2;
    let are_escapes = text.split('%').skip(1).all(is_escape);
    if text.is_empty() || !text.bytes().all(is_user) || !are_escapes {
        return None;
    }
    let mut out = vec![0; text.len()]; // the canonical form is never longer
    let len = canonical_user(text.as_bytes(), &mut out)?;
    out.truncate(len);
    Some(out)
}

fn too_long(parameter: &str, text: &str) -> String {
    format!(
        "{parameter} \"{text}\" is too long: user and domain may have {MAX_TEXT} bytes together"
    )
}

/// Reads one `priority_aor`: `user` or `user@domain`, with or without `sip:` or `sips:`.
///
/// # Errors
/// A sentence for the operator: what was given and what is accepted.
pub fn parse_aor(text: &str) -> Result<Entry, String> {
    let wrong = || {
        format!(
            "priority_aor \"{text}\" is no AoR: accepts user or user@domain, with or without sip:, without port, \
             parameters and angle brackets"
        )
    };
    let uri = without_scheme(text.trim());
    let entry = match uri.split_once('@') {
        None => {
            let user = user_of(uri).ok_or_else(wrong)?;
            Entry::new(Kind::User, user.len(), 0, [&user, &[]])
        }
        Some((user, host)) => {
            let user = user_of(user).ok_or_else(wrong)?;
            let host = host_of(host).ok_or_else(wrong)?;
            Entry::new(Kind::Aor, user.len(), 0, [&user, host.as_bytes()])
        }
    };
    entry.ok_or_else(|| too_long("priority_aor", text))
}

/// Reads one `priority_domain`: a host name or address, with or without `sip:` or `sips:`.
///
/// # Errors
/// A sentence for the operator: what was given and what is accepted.
pub fn parse_domain(text: &str) -> Result<Entry, String> {
    let host = host_of(without_scheme(text.trim())).ok_or_else(|| {
        format!(
            "priority_domain \"{text}\" is no domain: accepts a host name or an address ([…] around IPv6), without user, \
             port and parameters"
        )
    })?;
    Entry::new(Kind::Domain, 0, 0, [host.as_bytes(), &[]])
        .ok_or_else(|| too_long("priority_domain", text))
}

/// Reads one `priority_source`: an address, or a network as address/prefix, IPv4 or IPv6 (with or without brackets).
///
/// Bits of the address behind the prefix do not count.
///
/// # Errors
/// A sentence for the operator: what was given and what is accepted.
pub fn parse_source(text: &str) -> Result<Entry, String> {
    let wrong = || {
        format!(
            "priority_source \"{text}\" is no address or network: accepts IPv4 or IPv6, alone or with a prefix length, \
             as in 192.0.2.0/24 or 2001:db8::/32"
        )
    };
    let (address, prefix) = match text.trim().split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text.trim(), None),
    };
    let bare = match address.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').ok_or_else(wrong)?,
        None => address,
    };
    let given: IpAddr = bare.parse().map_err(|_| wrong())?;
    let given_prefix = match prefix {
        None => bits(given),
        Some(prefix) if prefix.bytes().all(|b| b.is_ascii_digit()) => {
            prefix.parse().map_err(|_| wrong())?
        }
        Some(_) => return Err(wrong()),
    };
    if given_prefix > bits(given) {
        return Err(wrong());
    }
    // ::ffff:192.0.2.0/120 is 192.0.2.0/24; a prefix that is shorter than the mapping stays IPv6
    let mapped = given_prefix.checked_sub(96);
    let (net, prefix) = match (given.to_canonical(), mapped) {
        (IpAddr::V4(v4), Some(prefix)) => (IpAddr::V4(v4), prefix),
        (IpAddr::V4(v4), None) if given.is_ipv4() => (IpAddr::V4(v4), given_prefix),
        _ => (given, given_prefix),
    };
    let entry = match net {
        IpAddr::V4(v4) => {
            let masked = masked_v4(v4, prefix).to_be_bytes();
            Entry::new(Kind::Net, 0, prefix, [&masked, &[]])
        }
        IpAddr::V6(v6) => {
            let masked = masked_v6(v6, prefix).to_be_bytes();
            Entry::new(Kind::Net, 0, prefix, [&masked, &[]])
        }
    };
    entry.ok_or_else(wrong)
}
