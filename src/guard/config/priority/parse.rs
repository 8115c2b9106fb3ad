//! Reads values of the priority lists and the arguments of `memguard.priority`.
//! Forbidden here: keeping or matching entries.

use std::net::{IpAddr, Ipv6Addr};

use crate::guard::config::priority::{
    Entry, Kind, List, MAX_TEXT, bits, canonical_user, hex, masked_v4, masked_v6,
};

/// What `memguard.priority` is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing: show all lists, or one.
    Show(Option<List>),
    /// Put an entry in force.
    Add(Entry),
    /// Take an entry out of force.
    Remove(Entry),
}

/// `memguard.priority [list, add or remove] [aor, domain or source] [VALUE]`
///
/// # Errors
/// The sentence of fault 400: what the command, or the list, accepts.
pub fn parse_change(words: &[&str]) -> Result<Change, String> {
    let wrong = || {
        String::from(
            // jsonrpcs cuts a sentence after 127 bytes
            "memguard.priority accepts list, add or remove; then aor, domain or source; to add or remove, then VALUE",
        )
    };
    let list = |word: &str| List::parse(word).ok_or_else(wrong);
    match words {
        [] | ["list"] => Ok(Change::Show(None)),
        ["list", name] => Ok(Change::Show(Some(list(name)?))),
        ["add", name, value] => Ok(Change::Add(list(name)?.entry(value)?)),
        ["remove", name, value] => Ok(Change::Remove(list(name)?.entry(value)?)),
        _ => Err(wrong()),
    }
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
