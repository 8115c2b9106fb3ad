//! The lines of a SIP message: start line, header names and values with their folds. Every worker, every datagram.
//! Forbidden here: allocation, panics, indexing that can fail, anything that is not linear in the message's length.

use memchr::{memchr, memchr3};

use crate::guard::sip::{
    Why,
    swar::{self, is_word},
};

/// What the first line says.
pub(super) enum Start<'a> {
    /// A REGISTER; `rest` begins at its first header line.
    Register { ruri: &'a [u8], rest: &'a [u8] },
    /// A reply; `rest` begins at its first header line.
    Reply { status: u16, rest: &'a [u8] },
    /// Another method, a keep-alive, or no SIP at all.
    Other,
    /// Begins like a REGISTER or a reply but goes on otherwise.
    Bad,
}

/// Reads the first line.
///
/// As Kamailio does (core/parser/msg_parser.c, parse_fline.c): leading blanks, line ends and NULs are skipped, and known
/// method names match in any case although RFC 3261 7.1 makes them case-sensitive: a "register" would otherwise pass
/// the gate and still be served.
pub(super) fn start(message: &[u8]) -> Start<'_> {
    let skipped = message.iter().position(|b| !is_lws(*b) && *b != 0);
    let message = skipped.and_then(|at| message.get(at..)).unwrap_or_default();
    match message.first() {
        Some(b'R' | b'r') => match strip_word(message, b"register ") {
            Some(line) => register_line(line).unwrap_or(Start::Bad),
            None => Start::Other,
        },
        Some(b'S' | b's') => match strip_word(message, b"sip/2.0 ") {
            Some(line) => status_line(line).unwrap_or(Start::Bad),
            None => Start::Other,
        },
        _ => Start::Other,
    }
}

/// `Request-URI SP SIP/2.0`, several blanks before and after the version allowed as in Kamailio.
fn register_line(line: &[u8]) -> Option<Start<'_>> {
    let (ruri, rest) = line.split_at_checked(memchr3(b' ', b'\t', b'\n', line)?)?;
    let rest = strip_word(skip_blanks(rest), b"sip/2.0")?;
    let rest = skip_blanks(rest);
    let rest = rest.strip_prefix(b"\r").unwrap_or(rest);
    let rest = rest.strip_prefix(b"\n")?;
    (!ruri.is_empty()).then_some(Start::Register { ruri, rest })
}

/// `3DIGIT SP anything`.
fn status_line(line: &[u8]) -> Option<Start<'_>> {
    let (digits, rest) = line.split_at_checked(3)?;
    let mut status = 0u16;
    for digit in digits {
        status = status * 10 + u16::from(digit.checked_sub(b'0').filter(|d| *d <= 9)?);
    }
    if !matches!(rest.first(), Some(b' ' | b'\t')) {
        return None;
    }
    let rest = rest.get(memchr(b'\n', rest)? + 1..)?;
    Some(Start::Reply { status, rest })
}

/// The headers that memguard reads; all others are `Other`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Via,
    From,
    To,
    CallId,
    CSeq,
    Contact,
    Path,
    Expires,
    Credentials,
    Other,
}

impl Kind {
    /// Long and compact names in any case (RFC 3261 7.3.1, 7.3.3).
    #[inline]
    fn of(name: &[u8]) -> Kind {
        match name.len() {
            1..8 => Kind::short(swar::lower_case(swar::last_word(name))),
            13 if is_word(name, b"authorization") => Kind::Credentials,
            19 if is_word(name, b"proxy-authorization") => Kind::Credentials,
            _ => Kind::Other,
        }
    }

    /// A name of at most seven bytes, as [`swar::short_word`] gives it.
    #[inline(always)]
    fn short(name: u64) -> Kind {
        const V: u64 = swar::short(b"v");
        const VIA: u64 = swar::short(b"via");
        const F: u64 = swar::short(b"f");
        const FROM: u64 = swar::short(b"from");
        const T: u64 = swar::short(b"t");
        const TO: u64 = swar::short(b"to");
        const I: u64 = swar::short(b"i");
        const CALL_ID: u64 = swar::short(b"call-id");
        const CSEQ: u64 = swar::short(b"cseq");
        const M: u64 = swar::short(b"m");
        const CONTACT: u64 = swar::short(b"contact");
        const PATH: u64 = swar::short(b"path");
        const EXPIRES: u64 = swar::short(b"expires");
        match name {
            V | VIA => Kind::Via,
            F | FROM => Kind::From,
            T | TO => Kind::To,
            I | CALL_ID => Kind::CallId,
            CSEQ => Kind::CSeq,
            M | CONTACT => Kind::Contact,
            PATH => Kind::Path,
            EXPIRES => Kind::Expires,
            _ => Kind::Other,
        }
    }
}

/// One header line.
pub(super) struct Header<'a> {
    pub kind: Kind,
    /// Without blanks and line ends around it; folds inside stay. Empty for `Kind::Other`, which nobody reads.
    pub value: &'a [u8],
    /// The message from this line on.
    pub from_here: &'a [u8],
}

/// The header lines of a message, up to the empty line or the message's end (a missing empty line is tolerated, as in
/// Kamailio's parse_headers).
#[derive(Clone, Copy)]
pub(super) struct Headers<'a> {
    rest: &'a [u8],
}

impl<'a> Headers<'a> {
    pub const fn new(rest: &'a [u8]) -> Self {
        Headers { rest }
    }

    /// The next line; `Ok(None)` at the end.
    ///
    /// # Errors
    /// `Why::HeaderLine` for a line without name and colon, `Why::CutOff` for one without a line end.
    #[inline]
    pub fn next(&mut self) -> Result<Option<Header<'a>>, Why> {
        let line = self.rest;
        if matches!(line.first(), None | Some(b'\r' | b'\n')) {
            return Ok(None);
        }
        let (kind, value) = match known_name(line) {
            Some(known) => known,
            None => any_name(line).ok_or(Why::HeaderLine)?,
        };
        let mut end = 0;
        loop {
            let tail = value.get(end..).unwrap_or_default();
            end += swar::find(tail, [b'\n']).ok_or(Why::CutOff)? + 1;
            if !matches!(value.get(end), Some(b' ' | b'\t')) {
                break;
            }
        }
        let (value, rest) = value.split_at_checked(end).ok_or(Why::CutOff)?;
        self.rest = rest;
        Ok(Some(Header {
            kind,
            value: if kind == Kind::Other {
                &[]
            } else {
                trim(value)
            },
            from_here: line,
        }))
    }
}

/// The kind of a header with a name of at most seven bytes right before its colon, and what follows the colon: nearly
/// all that are read. `None`: another name, or none.
#[inline]
fn known_name(line: &[u8]) -> Option<(Kind, &[u8])> {
    let (name, len) = swar::short_word(line, b':')?;
    let kind = Kind::short(name);
    if kind == Kind::Other {
        return None;
    }
    Some((kind, line.get(len + 1..)?))
}

/// The same of any header, blanks before the colon allowed. `None` when this is no header.
#[inline]
fn any_name(line: &[u8]) -> Option<(Kind, &[u8])> {
    let (name, after) = line.split_at_checked(line.iter().position(|b| !is_name_byte(*b))?)?;
    let value = match after {
        [b':', value @ ..] => value,
        blanks => skip_blanks(blanks).strip_prefix(b":")?,
    };
    (!name.is_empty()).then(|| (Kind::of(name), value))
}

/// Bytes that Kamailio accepts in a header name (core/parser/parse_hname2.c; RFC 3261's token less a few marks).
const NAME_BYTES: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        allowed[byte] = b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'+' | b'~');
        byte += 1;
    }
    allowed
};

#[inline]
fn is_name_byte(byte: u8) -> bool {
    NAME_BYTES.get(usize::from(byte)).is_some_and(|name| *name)
}

/// A blank or a line end: linear whitespace once lines are cut out.
#[inline]
pub(super) fn is_lws(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Without linear whitespace before it.
#[inline]
pub(super) fn trim_start(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|b| !is_lws(*b)).unwrap_or(text.len());
    text.get(start..).unwrap_or_default()
}

/// Without linear whitespace around it.
#[inline]
pub(super) fn trim(text: &[u8]) -> &[u8] {
    // One blank before and one line end behind, or nothing at all, is what nearly everybody writes.
    let usual = text.strip_prefix(b" ").unwrap_or(text);
    let usual = usual.strip_suffix(b"\r\n").unwrap_or(usual);
    match usual {
        [first, .., last] if !is_lws(*first) && !is_lws(*last) => usual,
        _ => trim_any(text),
    }
}

fn trim_any(text: &[u8]) -> &[u8] {
    let end = text
        .iter()
        .rposition(|b| !is_lws(*b))
        .map_or(0, |at| at + 1);
    trim_start(text.get(..end).unwrap_or_default())
}

#[inline]
fn skip_blanks(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    text
}

/// What follows `word` (in lower case; any case in the text) at the start of `text`.
#[inline]
fn strip_word<'a>(text: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = text.split_at_checked(word.len())?;
    is_word(head, word).then_some(rest)
}
