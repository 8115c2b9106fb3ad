//! The insides of header values: comma lists, name-addr, parameters, CSeq, Expires.
//! Forbidden here: allocation, panics, indexing that can fail, anything that is not linear in the value's length.

use memchr::{memchr, memchr2, memchr3};

use crate::guard::sip::{
    Expires,
    lines::{is_lws, trim, trim_start},
};

/// Cuts the first element off a comma list; commas in quotes and angle brackets do not count.
///
/// `None` for a quote or bracket that is never closed. Elements are trimmed and may be empty.
#[inline]
pub(super) fn split_list(value: &[u8]) -> Option<(&[u8], &[u8])> {
    if memchr(b',', value).is_none() {
        return Some((value, &[]));
    }
    let mut at = 0;
    while let Some(found) = memchr3(b',', b'"', b'<', value.get(at..)?) {
        at += found;
        let (_, after) = value.split_at_checked(at + 1)?;
        match value.get(at) {
            Some(b',') => return Some((trim(value.get(..at)?), trim_start(after))),
            Some(b'"') => at += 1 + quoted_len(after)?,
            _ => at += 2 + memchr(b'>', after)?,
        }
    }
    Some((value, &[]))
}

/// Length of a quoted string from after its opening quote to behind its closing one.
fn quoted_len(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr2(b'"', b'\\', text.get(at..)?)?;
        if text.get(at) == Some(&b'"') {
            return Some(at + 1);
        }
        at += 2; // the backslash and what it escapes (RFC 3261 25.1 quoted-pair)
    }
}

/// `name-addr / addr-spec` with the header parameters behind it (RFC 3261 20, 25.1).
pub(super) struct Address<'a> {
    pub uri: &'a [u8],
    /// The header's parameters: those behind the brackets, or all when there are none (RFC 3261 20.10).
    pub params: Params<'a>,
}

/// Reads one From, To or Contact element (trimmed). `None` when it is not one.
#[inline]
pub(super) fn address(value: &[u8]) -> Option<Address<'_>> {
    let after_name = match value.strip_prefix(b"\"") {
        Some(quoted) => {
            let (name, after) = quoted.split_at_checked(quoted_len(quoted)?)?;
            let after = trim_start(after);
            // A quote behind two backslashes ends the name here, and does not in Kamailio (contact.c skip_name).
            if after.first() != Some(&b'<') || has_pair(name, b'\\') {
                return None;
            }
            after
        }
        None => value,
    };
    let (uri, params) = match memchr3(b'<', b'"', b';', after_name) {
        None => (after_name, &[][..]),
        Some(at) => match after_name.split_at_checked(at)? {
            (uri, params @ [b';', ..]) => (trim(uri), params),
            // A name with a colon is the URI's begin to Kamailio (as above).
            (name, [b'<', inside @ ..]) if memchr(b':', name).is_none() => {
                let (uri, params) = inside.split_at_checked(memchr(b'>', inside)?)?;
                (trim(uri), trim_start(params.get(1..)?))
            }
            _ => return None,
        },
    };
    if !is_uri_text(uri) || !matches!(params.first(), None | Some(b';')) {
        return None;
    }
    Some(Address {
        uri,
        params: Params {
            rest: params,
            is_odd: false,
        },
    })
}

/// Whether the text has this byte twice in a row.
fn has_pair(text: &[u8], byte: u8) -> bool {
    memchr(byte, text).is_some() && text.windows(2).any(|pair| pair == [byte; 2])
}

/// Not empty, and free of blanks, control bytes, quotes and brackets, none of which a URI may hold unescaped.
#[inline]
fn is_uri_text(uri: &[u8]) -> bool {
    let bad = uri.iter().fold(false, |bad, b| {
        bad | (*b <= b' ') | matches!(*b, 0x7f | b'<' | b'"')
    });
    !bad && !uri.is_empty()
}

/// The `;name=value` parameters of a header.
#[derive(Clone, Copy)]
pub(super) struct Params<'a> {
    rest: &'a [u8],
    /// One that was passed has quotes or brackets that Kamailio takes otherwise (core/parser/parse_param.c: a value may also
    /// stand in `'`, a quote within one is a byte like others, and none is escaped): where the next one begins is not sure.
    pub is_odd: bool,
}

impl<'a> Iterator for Params<'a> {
    /// Name, and value without quotes; an absent value is empty.
    type Item = (&'a [u8], &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let start = self.rest.iter().position(|b| *b != b';' && !is_lws(*b))?;
        self.rest = self.rest.get(start..)?;
        // Parameters are short: one walk is quicker than one search per mark.
        let (mut end, mut equals, mut quotes) = (0, None, 0);
        while let Some(byte) = self.rest.get(end) {
            match byte {
                b';' => break,
                b'=' if equals.is_none() => equals = Some(end),
                b'"' => {
                    let inside = self.rest.get(end + 1..).unwrap_or_default();
                    let length = memchr2(b'"', b'\\', inside);
                    self.is_odd |= length.is_none_or(|at| inside.get(at) != Some(&b'"'));
                    quotes += 1;
                    end += length.unwrap_or(inside.len()) + 1;
                }
                b'<' | b'>' => self.is_odd = true,
                _ => (),
            }
            end += 1;
        }
        let (param, rest) = self.rest.split_at_checked(end.min(self.rest.len()))?;
        self.rest = rest;
        let (name, value) = match equals {
            Some(at) => (param.get(..at)?, param.get(at + 1..)?),
            None => (param, &[][..]),
        };
        let value = trim(value);
        self.is_odd |= match value {
            [b'"', .., b'"'] => quotes != 1,
            [b'\'', ..] => true,
            _ => quotes != 0,
        };
        Some((trim(name), unquote(value)))
    }
}

fn unquote(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inside @ .., b'"'] => inside,
        _ => value,
    }
}

/// Whether a URI has this parameter (lower-case name), by RFC 3261 19.1.1: after the host, before the headers.
pub(super) fn has_uri_param(uri: &[u8], wanted: &[u8]) -> bool {
    let after_user = match memchr(b'@', uri) {
        Some(at) => uri.get(at..).unwrap_or_default(),
        None => uri,
    };
    let Some(params) = memchr(b';', after_user).and_then(|at| after_user.get(at + 1..)) else {
        return false;
    };
    params
        .split(|b| *b == b'?')
        .next()
        .unwrap_or_default()
        .split(|b| *b == b';')
        .filter_map(|param| param.split(|b| *b == b'=').next())
        .any(|name| name.eq_ignore_ascii_case(wanted))
}

/// Number and method of a CSeq value. `None` unless the number is one of 32 bits.
pub(super) fn cseq(value: &[u8]) -> Option<(u32, &[u8])> {
    let blank = value.iter().position(|b| is_lws(*b))?;
    let (number, method) = value.split_at_checked(blank)?;
    Some((decimal(number)?, trim(method)))
}

/// A decimal number of at most 32 bits, digits only.
pub(super) fn decimal(text: &[u8]) -> Option<u32> {
    let mut number = 0u32;
    for byte in text {
        let digit = byte.checked_sub(b'0').filter(|d| *d <= 9)?;
        number = number.checked_mul(10)?.checked_add(u32::from(digit))?;
    }
    (!text.is_empty()).then_some(number)
}

/// An Expires header: delta-seconds, then nothing or a blank and anything.
///
/// More than ten digits are the largest value even when they spell 0: Kamailio's parse_expires.c does not take them, so
/// such a REGISTER adds a binding.
pub(super) fn expires_header(value: &[u8]) -> Expires {
    let number = value.split(|b| is_lws(*b)).next().unwrap_or_default();
    match delta_seconds(number) {
        Expires::Seconds(_) if number.len() > 10 => Expires::Seconds(u32::MAX),
        expires => expires,
    }
}

/// A Contact's expires parameter; an empty one counts as absent (registrar/sip_msg.c), a `+` may precede (core/ut.h).
pub(super) fn expires_param(value: &[u8]) -> Expires {
    match value {
        [] => Expires::Absent,
        [b'+', digits @ ..] => delta_seconds(digits),
        digits => delta_seconds(digits),
    }
}

/// Clamped at 2^32-1, the largest delta-seconds (RFC 3261 20.19).
fn delta_seconds(digits: &[u8]) -> Expires {
    let mut seconds = 0u32;
    for byte in digits {
        let Some(digit) = byte.checked_sub(b'0').filter(|d| *d <= 9) else {
            return Expires::Garbage;
        };
        seconds = seconds.saturating_mul(10).saturating_add(u32::from(digit));
    }
    if digits.is_empty() {
        return Expires::Garbage;
    }
    Expires::Seconds(seconds)
}
