//! Addresses of record: what counts as the same one, as a number, for people, and as Kamailio's registrar writes it.
//! Forbidden here: allocation, panics.

mod fingerprint;
mod leg;
pub mod local;

#[cfg(feature = "surface")]
pub use crate::guard::sip::aor::fingerprint::{
    BindingFingerprints, POINTS, UriFingerprints, call_id_fingerprint,
};
pub use crate::guard::sip::aor::fingerprint::{
    Key, aor_point, binding_by_instance, binding_by_uri, binding_fingerprint, uri_fingerprints,
};
pub use crate::guard::sip::aor::leg::{contents_fingerprint, leg_key, transaction_fingerprint};

use crate::guard::sip::{
    aor::fingerprint::{Hashed, Kind},
    swar,
};
use memchr::memchr;

/// The scheme of an AoR. `sip:` and `sips:` are never the same (RFC 3261 19.1.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Scheme {
    /// sip:
    Sip = b's',
    /// sips:
    Sips = b'S',
    /// tel: (RFC 3966)
    Tel = b't',
    /// Another one, or no URI at all: the whole text stands for itself.
    Opaque = b'?',
}

/// A SIP, SIPS or TEL URI, cut into the parts that name somebody. Escapes are still in it.
#[derive(Clone, Copy, Debug)]
pub struct Aor<'a> {
    scheme: Scheme,
    /// Without password; empty when there is none. Of a tel URI: the number.
    user: &'a [u8],
    /// Empty in a tel URI.
    host: &'a [u8],
    /// Digits, or empty.
    port: &'a [u8],
    /// After the host, without the leading `;`, without headers.
    params: &'a [u8],
    /// After the `?`, or empty.
    headers: &'a [u8],
}

impl<'a> Aor<'a> {
    /// Cuts a URI. `None` for another scheme, no host, a user that is empty though there is an `@`, two `@`, or a port
    /// that is no number: Kamailio's parse_uri refuses those, too.
    pub fn parse(uri: &'a [u8]) -> Option<Aor<'a>> {
        let (scheme, rest) = match uri {
            [b's' | b'S', b'i' | b'I', b'p' | b'P', b':', rest @ ..] => (Scheme::Sip, rest),
            [
                b's' | b'S',
                b'i' | b'I',
                b'p' | b'P',
                b's' | b'S',
                b':',
                rest @ ..,
            ] => (Scheme::Sips, rest),
            [b't' | b'T', b'e' | b'E', b'l' | b'L', b':', rest @ ..] => (Scheme::Tel, rest),
            _ => return None,
        };
        if scheme == Scheme::Tel {
            let (user, params) = cut_at(rest, b';');
            return (!user.is_empty()).then_some(Aor {
                scheme,
                user,
                host: &[],
                port: &[],
                params,
                headers: &[],
            });
        }
        let (user, rest) = match swar::find(rest, [b'@']) {
            Some(at) => {
                let user = cut_at(rest.get(..at)?, b':').0;
                let rest = rest.get(at + 1..)?;
                if user.is_empty() {
                    return None;
                }
                (user, rest)
            }
            None => (&[][..], rest),
        };
        let host_len = match rest.first()? {
            b'[' => memchr(b']', rest)? + 1,
            _ => swar::find(rest, [b':', b';', b'?', b'@']).unwrap_or(rest.len()),
        };
        let (host, rest) = rest.split_at_checked(host_len)?;
        if swar::find(rest, [b'@']).is_some() {
            return None;
        }
        let (rest, headers) = cut_at(rest, b'?');
        let (port, params) = match rest.first() {
            None => (&[][..], &[][..]),
            Some(b':') => cut_at(rest.get(1..)?, b';'),
            Some(b';') => (&[][..], rest.get(1..)?),
            Some(_) => return None,
        };
        if host.is_empty() || !port.iter().all(u8::is_ascii_digit) {
            return None;
        }
        Some(Aor {
            scheme,
            user,
            host,
            port,
            params,
            headers,
        })
    }

    /// What stands where an AoR should, when it cannot be cut: it equals only itself.
    pub fn opaque(text: &'a [u8]) -> Aor<'a> {
        Aor {
            scheme: Scheme::Opaque,
            user: text,
            host: &[],
            port: &[],
            params: &[],
            headers: &[],
        }
    }

    /// An AoR of which another parser found the user and the host.
    pub fn of_parts(user: &'a [u8], host: &'a [u8]) -> Aor<'a> {
        Aor {
            scheme: Scheme::Sip,
            host,
            ..Aor::opaque(user)
        }
    }

    /// User part as it stands, without the password; empty when there is none.
    pub fn user(&self) -> &'a [u8] {
        self.user
    }

    /// Host as it stands; empty in a tel URI.
    pub fn host(&self) -> &'a [u8] {
        self.host
    }

    /// The number that stands for this AoR.
    ///
    /// Equal for equal AoRs by RFC 3261 19.1.4 and 10.3 step 5: the user case-sensitive after unescaping, the host in any
    /// case; password, port, parameters and headers do not count. A tel number counts without its visual separators
    /// (RFC 3966 3); its phone-context does not count.
    pub fn fingerprint(&self, key: &Key) -> u64 {
        let mut hashed = key.hash_with(Kind::Aor, self.scheme as u64);
        self.put_host_and_user(&mut hashed);
        hashed.finish()
    }

    #[inline(always)]
    fn put_host_and_user(&self, hashed: &mut Hashed) {
        hashed.put_lower_case(self.host);
        if self.scheme != Scheme::Tel && swar::find(self.user, [b'%']).is_none() {
            hashed.put_text(self.user);
        } else {
            hashed.put_bytes(self.user_bytes());
        }
    }

    fn user_bytes(&self) -> impl Iterator<Item = u8> {
        let is_tel = self.scheme == Scheme::Tel;
        Unescaped { rest: self.user }
            .filter(move |b| !is_tel || !matches!(b, b'-' | b'.' | b'(' | b')'))
            .map(move |b| if is_tel { b.to_ascii_lowercase() } else { b })
    }

    /// Canonical text: `user@host`, `host` or a tel number; unescaped, host in lower case.
    fn canonical(&self) -> impl Iterator<Item = u8> {
        let at = !self.user.is_empty() && !self.host.is_empty();
        self.user_bytes()
            .chain(at.then_some(b'@'))
            .chain(self.host.iter().map(u8::to_ascii_lowercase))
    }

    /// Writes the AoR for people: canonical text; what is not printable ASCII becomes `?`, what does not fit is cut and
    /// ends in `~`. Never compare this text.
    pub fn display<'b>(&self, buffer: &'b mut [u8]) -> &'b str {
        let mut len = 0;
        for (place, byte) in buffer.iter_mut().zip(self.canonical()) {
            *place = if matches!(byte, 0x21..=0x7e) {
                byte
            } else {
                b'?'
            };
            len += 1;
        }
        if len == buffer.len() && self.canonical().nth(len).is_some() {
            buffer.last_mut().into_iter().for_each(|last| *last = b'~');
        }
        let written = buffer.get(..len).unwrap_or_default();
        std::str::from_utf8(written).unwrap_or_default()
    }

    /// The AoR under which Kamailio's registrar keeps the bindings in usrloc, written into `buffer`.
    ///
    /// As registrar/common.c extract_aor of 5.6 and 6.0, the core's phone2tel (on by default) included. `None` where it
    /// refuses: an escape that is no printable ASCII, a user or host above 248 bytes, or a buffer that is too small
    /// (512 bytes hold every AoR).
    pub fn registrar_text<'b>(
        &self,
        rules: &RegistrarRules<'_>,
        buffer: &'b mut [u8],
    ) -> Option<&'b [u8]> {
        if self.scheme == Scheme::Opaque {
            return None;
        }
        const LONGEST_PART: usize = 248; // USERNAME_MAX_SIZE and DOMAIN_MAX_SIZE of registrar.h
        let is_phone = self.params.split(|b| *b == b';').any(|param| {
            let (name, value) = cut_at(param, b'=');
            name.eq_ignore_ascii_case(b"user") && value == b"phone"
        });
        let user = if is_phone {
            cut_at(self.user, b';').0
        } else {
            self.user
        };
        if user.len() > LONGEST_PART || self.host.len() > LONGEST_PART {
            return None;
        }
        let mut len = 0;
        let mut put = |byte: u8| {
            *buffer.get_mut(len)? = byte;
            len += 1;
            Some(())
        };
        let mut escaped = Unescaped { rest: user };
        while let Some(byte) = escaped.next_strict()? {
            put(if rules.case_sensitive {
                byte
            } else {
                byte.to_ascii_lowercase()
            })?;
        }
        if rules.use_domain {
            if !user.is_empty() {
                put(b'@')?;
            }
            let host = match self.host.strip_prefix(rules.realm_prefix) {
                Some(stripped) if !stripped.is_empty() => stripped,
                _ => self.host,
            };
            for byte in host {
                put(byte.to_ascii_lowercase())?;
            }
        }
        buffer.get(..len)
    }
}

/// How the registrar module makes an AoR of a URI (its parameters of the same names).
#[derive(Clone, Copy, Debug, Default)]
pub struct RegistrarRules<'a> {
    /// `use_domain`
    pub use_domain: bool,
    /// `case_sensitive`
    pub case_sensitive: bool,
    /// `realm_prefix`; empty: none
    pub realm_prefix: &'a [u8],
}

/// The number of an AoR's URI; `None` for what is no SIP, SIPS or TEL URI. See [`Aor::fingerprint`].
pub fn aor_fingerprint(key: &Key, uri: &[u8]) -> Option<u64> {
    Some(Aor::parse(uri)?.fingerprint(key))
}

/// `text` up to the first `mark`, and what follows it.
fn cut_at(text: &[u8], mark: u8) -> (&[u8], &[u8]) {
    let at = swar::find(text, [mark]);
    match at.and_then(|at| Some((text.get(..at)?, text.get(at + 1..)?))) {
        Some(parts) => parts,
        None => (text, &[]),
    }
}

/// The bytes of a user part without their `%HH` escapes; a `%` that begins none stays as it is.
struct Unescaped<'a> {
    rest: &'a [u8],
}

impl Unescaped<'_> {
    /// As Kamailio's un_escape (core/ut.h): the outer `None` for an escape that is cut off, no hex, or not printable.
    fn next_strict(&mut self) -> Option<Option<u8>> {
        let escaped = self.rest.first() == Some(&b'%');
        let before = self.rest.len();
        let byte = self.next();
        match byte {
            Some(byte) if escaped => {
                (before - self.rest.len() == 3 && matches!(byte, 32..=126)).then_some(Some(byte))
            }
            byte => Some(byte),
        }
    }
}

impl Iterator for Unescaped<'_> {
    type Item = u8;

    #[inline]
    fn next(&mut self) -> Option<u8> {
        let (byte, rest) = match self.rest {
            [b'%', high, low, rest @ ..] => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, rest),
                _ => (b'%', self.rest.get(1..)?),
            },
            [byte, rest @ ..] => (*byte, rest),
            [] => return None,
        };
        self.rest = rest;
        Some(byte)
    }
}

fn hex(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}
