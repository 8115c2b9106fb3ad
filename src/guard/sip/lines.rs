//! The lines of a SIP message: start line, header names and values with their folds. Every worker, every datagram.
//! Forbidden here: allocation, panics, indexing that can fail, anything that is not linear in the message's length.

use memchr::{memchr, memchr3};

use super::Why;

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
        Some(b'R' | b'r') => match strip_word(message, b"REGISTER ") {
            Some(line) => register_line(line).unwrap_or(Start::Bad),
            None => Start::Other,
        },
        Some(b'S' | b's') => match strip_word(message, b"SIP/2.0 ") {
            Some(line) => status_line(line).unwrap_or(Start::Bad),
            None => Start::Other,
        },
        _ => Start::Other,
    }
}

/// `Request-URI SP SIP/2.0`, several blanks before and after the version allowed as in Kamailio.
fn register_line(line: &[u8]) -> Option<Start<'_>> {
    let (ruri, rest) = line.split_at_checked(memchr3(b' ', b'\t', b'\n', line)?)?;
    let rest = strip_word(skip_blanks(rest), b"SIP/2.0")?;
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
    Expires,
    Credentials,
    Other,
}

impl Kind {
    /// Long and compact names in any case (RFC 3261 7.3.1, 7.3.3); `tail` is [`tail_word`] of the name.
    #[inline]
    fn of(name: &[u8], tail: u64) -> Kind {
        const V: u64 = tail_word(b"v");
        const VIA: u64 = tail_word(b"via");
        const F: u64 = tail_word(b"f");
        const FROM: u64 = tail_word(b"from");
        const T: u64 = tail_word(b"t");
        const TO: u64 = tail_word(b"to");
        const I: u64 = tail_word(b"i");
        const CALL_ID: u64 = tail_word(b"call-id");
        const CSEQ: u64 = tail_word(b"cseq");
        const M: u64 = tail_word(b"m");
        const CONTACT: u64 = tail_word(b"contact");
        const EXPIRES: u64 = tail_word(b"expires");
        const AUTHORIZATION: u64 = tail_word(b"authorization");
        let kind = match tail {
            V | VIA => Kind::Via,
            F | FROM => Kind::From,
            T | TO => Kind::To,
            I | CALL_ID => Kind::CallId,
            CSEQ => Kind::CSeq,
            M | CONTACT => Kind::Contact,
            EXPIRES => Kind::Expires,
            AUTHORIZATION
                if is_word(name, b"Authorization") || is_word(name, b"Proxy-Authorization") =>
            {
                return Kind::Credentials;
            }
            _ => return Kind::Other,
        };
        // A longer name may end like a shorter one, but not shorter than its tail.
        if name.len() < 8 { kind } else { Kind::Other }
    }
}

/// The last eight bytes of a name, letters in lower case; exact for names of up to seven name bytes.
const fn tail_word(name: &[u8]) -> u64 {
    let mut tail = 0;
    let mut at = 0;
    while at < name.len() {
        tail = push_byte(tail, name[at]);
        at += 1;
    }
    tail
}

#[inline]
const fn push_byte(tail: u64, byte: u8) -> u64 {
    tail << 8 | (byte | 0x20) as u64 // no two name bytes but the cases of a letter meet this way
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
    pub fn new(rest: &'a [u8]) -> Self {
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
        let (mut tail, mut name_len) = (0, 0);
        for byte in line {
            if !is_name_byte(*byte) {
                break;
            }
            tail = push_byte(tail, *byte);
            name_len += 1;
        }
        let (name, after) = line.split_at_checked(name_len).ok_or(Why::HeaderLine)?;
        let value = skip_blanks(after)
            .strip_prefix(b":")
            .filter(|_| !name.is_empty())
            .ok_or(Why::HeaderLine)?;
        let mut end = 0;
        loop {
            let tail = value.get(end..).unwrap_or_default();
            end += find_line_end(tail).ok_or(Why::CutOff)? + 1;
            if !matches!(value.get(end), Some(b' ' | b'\t')) {
                break;
            }
        }
        let (value, rest) = value.split_at_checked(end).ok_or(Why::CutOff)?;
        self.rest = rest;
        let kind = Kind::of(name, tail);
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

/// Where the next line feed is.
///
/// Eight bytes a step: header lines are short, and most of a vector search's time would be its call (measured: a scan
/// takes a fifth less).
#[inline]
fn find_line_end(text: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    let mut chunks = text.chunks_exact(8);
    let mut at = 0;
    for chunk in &mut chunks {
        let word = <[u8; 8]>::try_from(chunk).map_or(0, u64::from_le_bytes);
        let zero_at_feed = word ^ (ONES * b'\n' as u64);
        // The lowest marked byte is exact; a borrow can only mark bytes above it.
        let feeds = zero_at_feed.wrapping_sub(ONES) & !zero_at_feed & (ONES << 7);
        if feeds != 0 {
            return Some(at + feeds.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    Some(at + chunks.remainder().iter().position(|b| *b == b'\n')?)
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

/// What follows `word` (any case) at the start of `text`.
#[inline]
fn strip_word<'a>(text: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = text.split_at_checked(word.len())?;
    is_word(head, word).then_some(rest)
}

/// Whether the text is this word in any case; the usual case is one comparison.
#[inline]
pub(super) fn is_word(text: &[u8], word: &[u8]) -> bool {
    text == word || text.eq_ignore_ascii_case(word)
}
