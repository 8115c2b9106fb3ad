//! The refusal as it goes on the wire, built into a fixed buffer from the request's own bytes, and where it goes.
//! Forbidden here: allocation, panics, sending; it must work when every pool is empty.

use crate::guard::sip::Register;

/// Room for any refusal whose request fits a UDP datagram of the usual size several times over. A request whose copied
/// headers do not fit goes on to Kamailio.
pub const MAX_REPLY: usize = 8192;

/// What a refusal says.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    /// Status code, 400 to 699.
    pub code: u16,
    /// Reason phrase.
    pub reason: &'a str,
    /// Retry-After in seconds.
    pub retry_after: u32,
    /// Number that the To tag is made of; the same for retransmissions.
    pub tag: u64,
    /// Source address of the request as text, IPv6 without brackets.
    pub source: &'a str,
    /// Source port.
    pub source_port: u16,
}

/// Text going into a fixed buffer; `None` from the first byte that does not fit.
struct Out<'b> {
    buffer: &'b mut [u8],
    length: usize,
}

impl Out<'_> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.length.checked_add(bytes.len())?;
        self.buffer
            .get_mut(self.length..end)?
            .copy_from_slice(bytes);
        self.length = end;
        Some(())
    }

    fn put_all(&mut self, parts: &[&[u8]]) -> Option<()> {
        parts.iter().try_for_each(|part| self.put(part))
    }

    fn put_number(&mut self, number: u32) -> Option<()> {
        let mut digits = [0u8; 10];
        let (mut left, mut at) = (number, digits.len());
        loop {
            at = at.checked_sub(1)?;
            *digits.get_mut(at)? = b'0' + (left % 10) as u8;
            left /= 10;
            if left == 0 {
                return self.put(digits.get(at..)?);
            }
        }
    }

    fn put_hex(&mut self, number: u64) -> Option<()> {
        let digits: [u8; 16] = std::array::from_fn(|place| {
            let digit = (number >> (60 - place * 4)) as u8 & 15;
            digit + if digit < 10 { b'0' } else { b'a' - 10 }
        });
        self.put(&digits)
    }
}

/// Writes the reply (RFC 3261 8.2.6) and returns its length; `None` when it does not fit.
///
/// The topmost Via gets `received` and, when it asked with `rport`, the source port (RFC 3261 18.2.1, RFC 3581 4).
pub fn build(request: &Register<'_>, refusal: &Refusal<'_>, buffer: &mut [u8]) -> Option<usize> {
    let mut out = Out { buffer, length: 0 };
    out.put(b"SIP/2.0 ")?;
    out.put_number(u32::from(refusal.code))?;
    out.put_all(&[b" ", refusal.reason.as_bytes(), b"\r\n"])?;
    // A Via header may hold no value: the first value is that of the first header that has one.
    let vias = request
        .via_headers()
        .filter(|value| !value.iter().all(is_separator));
    for (index, value) in vias.enumerate() {
        out.put(b"Via: ")?;
        if index == 0 {
            put_top_via(&mut out, request.top_via, refusal)?;
            out.put(after_first(value, request.top_via)?)?;
        } else {
            out.put(value)?;
        }
        out.put(b"\r\n")?;
    }
    out.put_all(&[b"From: ", request.from, b"\r\nTo: ", request.to])?;
    if !request.to_has_tag {
        out.put(b";tag=")?;
        out.put_hex(refusal.tag)?;
    }
    out.put_all(&[
        b"\r\nCall-ID: ",
        request.call_id,
        b"\r\nCSeq: ",
        request.cseq,
        b"\r\nRetry-After: ",
    ])?;
    out.put_number(refusal.retry_after)?;
    out.put(b"\r\nContent-Length: 0\r\n\r\n")?;
    Some(out.length)
}

/// What lies between values, or before the first.
fn is_separator(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b',')
}

/// What follows the first of several values in one header, its comma included.
fn after_first<'a>(header: &'a [u8], first: &[u8]) -> Option<&'a [u8]> {
    let start = header.iter().position(|byte| !is_separator(byte))?;
    header.get(start.checked_add(first.len())?..)
}

fn put_top_via(out: &mut Out<'_>, via: &[u8], refusal: &Refusal<'_>) -> Option<()> {
    let mut has_rport = false;
    let mut parts = via.split(|b| *b == b';');
    out.put(parts.next()?)?;
    for part in parts {
        let name = part
            .split(|b| *b == b'=')
            .next()
            .unwrap_or_default()
            .trim_ascii();
        if name.eq_ignore_ascii_case(b"received") {
            continue; // ours is the true one
        }
        if name.eq_ignore_ascii_case(b"rport") {
            has_rport = true;
            out.put(b";rport=")?;
            out.put_number(u32::from(refusal.source_port))?;
        } else {
            out.put_all(&[b";", part])?;
        }
    }
    if has_rport || !is_host(via, refusal.source) {
        out.put_all(&[b";received=", refusal.source.as_bytes()])?;
    }
    Some(())
}

/// Where a reply over UDP goes: the source address always, and this port. `None`: the source port.
///
/// With `rport` it is the source port (RFC 3581 4). Without, it is the port in the Via (RFC 3261 18.2.2) if the Via
/// names the source address; a Via with another address is a client behind a NAT, which hears only on its source port.
pub fn via_port(top_via: &[u8], source: &str) -> Option<u16> {
    let asks_rport = top_via.split(|b| *b == b';').skip(1).any(|part| {
        let name = part.split(|b| *b == b'=').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"rport")
    });
    if asks_rport || !is_host(top_via, source) {
        return None;
    }
    let (_, port) = sent_by(top_via)?;
    Some(port.unwrap_or(5060))
}

/// Whether the Via's sent-by names this address.
fn is_host(via: &[u8], source: &str) -> bool {
    sent_by(via).is_some_and(|(host, _)| host.eq_ignore_ascii_case(source.as_bytes()))
}

/// Host (IPv6 without brackets) and port of a Via value: `SIP/2.0/UDP host:port;…`.
fn sent_by(via: &[u8]) -> Option<(&[u8], Option<u16>)> {
    let head = via.split(|b| *b == b';').next()?.trim_ascii_end();
    let at = head
        .iter()
        .rposition(|b| b.is_ascii_whitespace())
        .map_or(0, |i| i + 1);
    let text = head.get(at..)?;
    let (host, rest) = match text.strip_prefix(b"[") {
        Some(inner) => {
            let end = inner.iter().position(|b| *b == b']')?;
            (inner.get(..end)?, inner.get(end + 1..)?)
        }
        None => {
            let end = text.iter().position(|b| *b == b':').unwrap_or(text.len());
            (text.get(..end)?, text.get(end..)?)
        }
    };
    let port = rest
        .strip_prefix(b":")
        .and_then(|p| std::str::from_utf8(p).ok()?.parse().ok());
    Some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::sip::{Scanned, scan};

    const REQUEST: &str = "REGISTER sip:example.org SIP/2.0\r\n\
        Via: SIP/2.0/UDP 192.0.2.1:5070;branch=z9hG4bKa;rport, SIP/2.0/UDP 198.51.100.1;branch=z9hG4bKb\r\n\
        v: SIP/2.0/TCP third.example\r\n\
        From: <sip:bob@example.org>;tag=f\r\nTo: Bob <sip:bob@example.org>\r\n\
        Call-ID: c1\r\nCSeq: 7 REGISTER\r\nContact: <sip:bob@192.0.2.1>\r\n\r\n";

    fn built(request: &str, size: usize) -> Option<String> {
        let Scanned::Register(register) = scan(request.as_bytes()) else {
            panic!("not a REGISTER")
        };
        let refusal = Refusal {
            code: 503,
            reason: "Server Memory Low",
            retry_after: 77,
            tag: 0xabc,
            source: "203.0.113.9",
            source_port: 40000,
        };
        let mut buffer = vec![0; size];
        let length = build(&register, &refusal, &mut buffer)?;
        buffer.truncate(length);
        String::from_utf8(buffer).ok()
    }

    #[test]
    fn a_refusal_copies_what_rfc_3261_8_2_6_demands() {
        assert_eq!(
            built(REQUEST, MAX_REPLY).unwrap(),
            "SIP/2.0 503 Server Memory Low\r\n\
             Via: SIP/2.0/UDP 192.0.2.1:5070;branch=z9hG4bKa;rport=40000;received=203.0.113.9, \
             SIP/2.0/UDP 198.51.100.1;branch=z9hG4bKb\r\n\
             Via: SIP/2.0/TCP third.example\r\n\
             From: <sip:bob@example.org>;tag=f\r\nTo: Bob <sip:bob@example.org>;tag=0000000000000abc\r\n\
             Call-ID: c1\r\nCSeq: 7 REGISTER\r\nRetry-After: 77\r\nContent-Length: 0\r\n\r\n"
        );
    }

    #[test]
    fn received_is_added_for_rport_and_where_the_via_names_another_address() {
        let via = |text: &str| {
            let request = REQUEST.replace("192.0.2.1:5070;branch=z9hG4bKa;rport", text);
            let reply = built(&request, MAX_REPLY).unwrap();
            let (_, top) = reply.split_once("Via: SIP/2.0/UDP ").unwrap();
            top.split_once(", ").unwrap().0.to_string()
        };
        assert_eq!(via("203.0.113.9;branch=z"), "203.0.113.9;branch=z");
        assert_eq!(
            via("192.0.2.1;branch=z"),
            "192.0.2.1;branch=z;received=203.0.113.9"
        );
        assert_eq!(
            via("203.0.113.9;rport;received=10.0.0.1"),
            "203.0.113.9;rport=40000;received=203.0.113.9",
            "a client's own received is not believed"
        );
    }

    #[test]
    fn a_to_tag_is_copied_not_added() {
        let request = REQUEST.replace(
            "To: Bob <sip:bob@example.org>",
            "To: <sip:bob@example.org>;tag=old",
        );
        let reply = built(&request, MAX_REPLY).unwrap();
        assert!(reply.contains("To: <sip:bob@example.org>;tag=old\r\n"));
    }

    #[test]
    fn a_buffer_that_is_too_small_gives_nothing_at_every_size() {
        let whole = built(REQUEST, MAX_REPLY).unwrap().len();
        for size in 0..whole {
            assert_eq!(built(REQUEST, size), None, "{size}");
        }
        assert!(built(REQUEST, whole).is_some());
    }

    #[test]
    fn the_port_follows_rport_nat_and_via_in_this_order() {
        let source = "192.0.2.1";
        assert_eq!(
            via_port(b"SIP/2.0/UDP 192.0.2.1:5070;rport;branch=x", source),
            None
        );
        assert_eq!(
            via_port(b"SIP/2.0/UDP 10.0.0.1:5070;branch=x", source),
            None
        );
        assert_eq!(
            via_port(b"SIP/2.0/UDP 192.0.2.1:5070;branch=x", source),
            Some(5070)
        );
        assert_eq!(
            via_port(b"SIP/2.0/UDP 192.0.2.1;branch=x", source),
            Some(5060)
        );
        assert_eq!(
            via_port(b"SIP/2.0/UDP [2001:db8::1]:5099", "2001:db8::1"),
            Some(5099)
        );
    }
}
