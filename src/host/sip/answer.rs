//! The refusal of a REGISTER: its place in the queue, its reply, its line in `memguard.refusals`.
//! Forbidden here: allocation (but in what Kamailio sends), locks, logs: it works when every pool is empty.

use std::ffi::{CString, c_int};
use std::net::IpAddr;

use crate::guard::config::params::{Int, Text};
use crate::guard::decide::{admission, queue};
use crate::guard::sip::reply;
use crate::guard::terms::words::Class;
use crate::host::kamailio::{state::Tables, sys};
use crate::host::sip::{
    arrived::Arrived,
    visit::{SLOT_WINDOW, Visit},
};
use crate::shared::phones::refusals::{AorText, Refusal, Stage};

/// Retry-After of a REGISTER that is refused only because nothing can be parsed: its binding must not expire meanwhile.
const SOON: u32 = 5;

/// What a refusal tells its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Status code.
    pub code: u16,
    /// Seconds.
    pub retry_after: u32,
    /// Place in the queue; 0 without one.
    pub position: u32,
}

/// Decides what a refusal says. `new` and `returning` get a slot of the queue, or are reminded of the one they hold.
pub fn tell(visit: &Visit<'_>, source: IpAddr, class: Class) -> Told {
    let region = visit.region;
    let value = |param| u32::try_from(region.settings.get_u64(param)).unwrap_or(u32::MAX);
    let code = admission::reply_code(
        visit.register.via_count,
        value(Int::ReplyCode),
        value(Int::ProxiedReplyCode),
    );
    let (retry_after, position) = match class {
        Class::New | Class::Returning => queued(visit, source),
        _ => (SOON, 0),
    };
    Told {
        code: code as u16,
        retry_after,
        position,
    }
}

fn queued(visit: &Visit<'_>, source: IpAddr) -> (u32, u32) {
    let rules = visit.region.queue_rules();
    let now_ms = visit.now_ms;
    if let Some(slot) = visit.slot().filter(|slot| *slot > visit.now_s()) {
        let slot_ms = slot.saturating_mul(1000);
        let position = queue::length(slot_ms.saturating_mul(1000), now_ms, &rules);
        return (
            queue::early(slot_ms, now_ms, &rules),
            u32::try_from(position).unwrap_or(u32::MAX),
        );
    }
    let random = mixed(visit.aor_fp ^ now_ms);
    let (tables, control) = (visit.tables, &visit.region.control);
    let account = tables
        .sources
        .account(source_number(tables, source), now_ms.saturating_mul(1000));
    let crowd = account.filter(|account| {
        let tail_us = account.tail_us();
        !account.charge(|held| queue::charge(held, tail_us, now_ms, &rules))
    });
    let (ticket, table) = match crowd {
        Some(own) => {
            let rules = queue::own_rules(&rules, control.queue_crowds.get());
            let ticket = own.queue(|tail| queue::take(tail, now_ms, &rules, random));
            (ticket, &tables.crowd_slots)
        }
        None => {
            let (ticket, end_us) = control.queue_tail_us.take(|tail| {
                let (next, ticket) = queue::take(tail, now_ms, &rules, random);
                (next, (ticket, next))
            });
            if let Some(account) = account {
                account.got(end_us);
            }
            (ticket, &tables.slots)
        }
    };
    let slot_s = ticket.slot_ms.div_ceil(1000);
    table.put(visit.slot_fp(), slot_s, visit.now_s(), SLOT_WINDOW);
    (ticket.retry_after, ticket.position)
}

/// What stands for a source: an IPv4 address or an IPv6 /64, which one subscriber has. The key keeps others from aiming
/// at an account.
fn source_number(tables: &Tables, source: IpAddr) -> u64 {
    let bits = match source.to_canonical() {
        IpAddr::V4(v4) => u64::from(u32::from(v4)),
        IpAddr::V6(v6) => (u128::from(v6) >> 64) as u64 | 1 << 63,
    };
    let [k0, k1] = tables.key.words();
    mixed(mixed(bits ^ k0) ^ k1)
}

/// Builds and sends the refusal from a buffer on the stack; false when either could not be done.
pub fn send(visit: &Visit<'_>, arrived: &Arrived<'_>, told: &Told) -> bool {
    let mut source = [0u8; 48];
    let refusal = reply::Refusal {
        code: told.code,
        reason: visit.tables.texts.get(Text::ReplyReason),
        retry_after: told.retry_after,
        // The same for a retransmission.
        tag: mixed(visit.leg ^ u64::from(visit.register.cseq_number).rotate_left(32)),
        source: address_text(arrived.source, &mut source),
        source_port: arrived.source_port,
    };
    // The reply repeats a part of the request: a small buffer is enough for nearly all, and is zeroed sooner.
    match arrived.text.len() {
        ..=1500 => send_from::<2048>(visit, arrived, &refusal),
        _ => send_from::<{ reply::MAX_REPLY }>(visit, arrived, &refusal),
    }
}

fn send_from<const ROOM: usize>(
    visit: &Visit<'_>,
    arrived: &Arrived<'_>,
    refusal: &reply::Refusal<'_>,
) -> bool {
    let mut buffer = [0u8; ROOM];
    let Some(length) = reply::build(visit.register, refusal, &mut buffer) else {
        return false;
    };
    let port = match arrived.is_udp {
        true => reply::via_port(visit.register.top_via, refusal.source).unwrap_or(0),
        false => 0,
    };
    // SAFETY: the receive info of the message in hand; the buffer holds `length` bytes.
    let sent = unsafe {
        sys::mg_send_reply(
            arrived.received,
            c_int::from(port),
            buffer.as_mut_ptr().cast(),
            length as c_int,
        )
    };
    if sent < 0 {
        visit.row.sip.reply_errors.add(1);
    }
    sent >= 0
}

/// Has Kamailio's sl build and send the refusal (through the transaction where there is one); 0 or below: it did not.
///
/// # Safety
/// A live message.
pub unsafe fn send_by_kamailio(visit: &Visit<'_>, msg: *mut sys::sip_msg, told: &Told) -> c_int {
    let mut header = [0u8; 40];
    let length = retry_after_header(told, &mut header);
    let reason = CString::new(visit.tables.texts.get(Text::ReplyReason)).unwrap_or_default();
    // SAFETY: a live message; texts that live for the call.
    unsafe {
        sys::mg_script_reply(
            msg,
            c_int::from(told.code),
            reason.as_ptr(),
            header.as_ptr().cast(),
            length as c_int,
        )
    }
}

/// Text of the header that tells a client when to come back, for replies that other modules build.
pub fn retry_after_header(told: &Told, buffer: &mut [u8; 40]) -> usize {
    use std::io::Write;
    let mut rest: &mut [u8] = buffer;
    let room = rest.len();
    let _ = write!(rest, "Retry-After: {}\r\n", told.retry_after); // 25 bytes at most
    room - rest.len()
}

/// Writes the refusal down for `memguard.refusals`.
pub fn note(visit: &Visit<'_>, arrived: &Arrived<'_>, told: &Told, class: Class, stage: Stage) {
    let mut aor_text = [0u8; 64];
    let source_ip = match arrived.source {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    visit.region.refusals.push(&Refusal {
        time_ms: visit.now_ms,
        aor: AorText::new(visit.aor.display(&mut aor_text).as_bytes()),
        source_ip,
        source_port: arrived.source_port,
        class,
        stage,
        code: told.code,
        retry_after: told.retry_after,
        position: told.position,
    });
}

/// splitmix64's finaliser: every bit of the answer depends on every bit of the number.
fn mixed(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// An address as text in a buffer of ours.
fn address_text(address: IpAddr, buffer: &mut [u8; 48]) -> &str {
    let length = match address {
        // IPv4 by hand: `write!` takes longer than all the rest of the reply.
        IpAddr::V4(v4) => dotted(v4.octets(), buffer),
        IpAddr::V6(_) => {
            use std::io::Write;
            let mut rest: &mut [u8] = buffer;
            let room = rest.len();
            let _ = write!(rest, "{address}"); // 45 bytes at most
            room - rest.len()
        }
    };
    buffer
        .get(..length)
        .and_then(|text| std::str::from_utf8(text).ok())
        .unwrap_or("")
}

/// Writes four numbers with dots between them; answers the length, 15 at most.
fn dotted(octets: [u8; 4], buffer: &mut [u8; 48]) -> usize {
    let mut length = 0;
    let mut put = |byte: u8| {
        if let Some(place) = buffer.get_mut(length) {
            *place = byte;
            length += 1;
        }
    };
    for (place, octet) in octets.into_iter().enumerate() {
        if place > 0 {
            put(b'.');
        }
        if octet >= 100 {
            put(b'0' + octet / 100);
        }
        if octet >= 10 {
            put(b'0' + octet / 10 % 10);
        }
        put(b'0' + octet % 10);
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_everybody_writes_them() {
        let mut buffer = [0; 48];
        for address in [
            "0.0.0.0",
            "9.10.99.100",
            "255.255.255.255",
            "192.0.2.7",
            "2001:db8::1",
        ] {
            let parsed: IpAddr = address.parse().unwrap();
            assert_eq!(address_text(parsed, &mut buffer), address);
        }
    }
}
