//! rtnetlink messages as the kernel sends them: addresses and links, from a dump or as they change.
//! Forbidden here: sockets, allocation, believing a length.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::guard::net::terms::{Link, Mac, Name, Origin};

// linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h, linux/if_link.h, linux/if.h
const ERROR: u16 = 2;
const DONE: u16 = 3;
const NEW_LINK: u16 = 16;
const GONE_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const GONE_ADDRESS: u16 = 21;
/// Asks for all links.
pub const GET_LINKS: u16 = 18;
/// Asks for all addresses.
pub const GET_ADDRESSES: u16 = 22;
const IS_REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const DUMP_INTERRUPTED: u16 = 0x10;
const HEADER: usize = 16;

const SECONDARY: u32 = 0x01;
const DAD_FAILED: u32 = 0x08;
const OPTIMISTIC: u32 = 0x04;
const TENTATIVE: u32 = 0x40;
const PERMANENT: u32 = 0x80;
/// A lifetime without an end.
const FOREVER: u32 = u32::MAX;
/// IFA_PROTO: who set the address. Numbers below are the kernel's own three; keepalived's is in its vrrp_ipaddress.
const BY_KERNEL: std::ops::RangeInclusive<u8> = 1..=3;
const BY_KEEPALIVED: u8 = 18;

const FLAG_UP: u32 = 1;
const FLAG_LOWER_UP: u32 = 0x1_0000;
/// IF_OPER_NOTPRESENT, IF_OPER_DOWN, IF_OPER_LOWERLAYERDOWN.
const NOT_OPERATING: std::ops::RangeInclusive<u8> = 1..=3;

/// An address on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Number of the interface.
    pub index: u32,
    /// The address of this machine.
    pub address: IpAddr,
    /// Length of its network's prefix.
    pub prefix: u8,
    /// A secondary address of its subnet (IPv4).
    pub is_secondary: bool,
    /// Still being asked for (IPv6).
    pub is_tentative: bool,
    /// Another machine has it (IPv6).
    pub is_duplicate: bool,
    /// Who set it.
    pub origin: Origin,
    /// Seconds that it is valid for; `None`: for ever.
    pub valid_s: Option<u32>,
}

/// An interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: Name,
    /// Whether frames pass.
    pub link: Link,
    /// Its card; `None` for those without one of six bytes.
    pub card: Option<Mac>,
}

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// The address is there, or has changed.
    Address(Address),
    /// The address is not there any more.
    AddressGone(Address),
    /// The interface is there, or has changed.
    Interface(Interface),
    /// The interface is not there any more.
    InterfaceGone(u32),
    /// The dump is complete.
    Done,
    /// The dump was refused, or failed on its way.
    Refused,
}

/// One message that is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Number of the dump that it belongs to; 0: a change.
    pub dump: u32,
    /// Things changed while the kernel was listing them: ask again.
    pub is_interrupted: bool,
    /// What it says.
    pub says: Says,
}

/// The messages of one datagram; what is not understood is passed over, and what is cut ends it.
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = Message> + '_ {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        loop {
            let (message, after) = next(rest)?;
            rest = after;
            if message.is_some() {
                return message;
            }
        }
    })
}

/// The request for a dump of links or addresses, under a number.
pub fn request(kind: u16, dump: u32) -> [u8; HEADER + 16] {
    let mut out = [0; HEADER + 16];
    let parts = (out.len() as u32)
        .to_ne_bytes()
        .into_iter()
        .chain(kind.to_ne_bytes())
        .chain((IS_REQUEST | DUMP).to_ne_bytes())
        .chain(dump.to_ne_bytes());
    out.iter_mut().zip(parts).for_each(|(to, from)| *to = from); // the family stays 0: all
    out
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Lengths are rounded up to four.
fn padded(length: usize) -> usize {
    length.saturating_add(3) & !3
}

/// The first message and what follows it; `None` at the end, or where the length is impossible.
fn next(bytes: &[u8]) -> Option<(Option<Message>, &[u8])> {
    let length = word(bytes, 0)? as usize;
    let whole = bytes.get(..length).filter(|_| length >= HEADER)?;
    let after = bytes.get(padded(length)..).unwrap_or_default();
    let (kind, flags, dump) = (half(whole, 4)?, half(whole, 6)?, word(whole, 8)?);
    let body = whole.get(HEADER..)?;
    let says = match kind {
        // The error with which a dump failed half-way stands in its end (net/netlink/af_netlink.c netlink_dump).
        DONE if word(body, 0).is_some_and(|error| (error as i32) < 0) => Some(Says::Refused),
        DONE => Some(Says::Done),
        ERROR => (word(body, 0) != Some(0)).then_some(Says::Refused),
        NEW_ADDRESS => address(body).map(Says::Address),
        GONE_ADDRESS => address(body).map(Says::AddressGone),
        NEW_LINK => interface(body).map(Says::Interface),
        GONE_LINK => word(body, 4).map(Says::InterfaceGone),
        _ => None,
    };
    let message = says.map(|says| Message {
        dump,
        is_interrupted: flags & DUMP_INTERRUPTED != 0,
        says,
    });
    Some((message, after))
}

/// Attributes: kind and value.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = half(rest, 0)? as usize;
        let value = rest.get(4..length)?;
        let kind = half(rest, 2)? & 0x3fff; // without the two flags
        rest = rest.get(padded(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn ip(family: u8, value: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        AF_INET => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
        AF_INET6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
        _ => None,
    }
}

const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;

/// struct ifaddrmsg: family, prefix, flags, scope, index; then attributes.
fn address(body: &[u8]) -> Option<Address> {
    let [family, prefix, low_flags, _scope] = *body.first_chunk()?;
    let index = word(body, 4)?;
    let (mut local, mut peer, mut flags) = (None, None, u32::from(low_flags));
    let (mut valid, mut by) = (FOREVER, 0);
    for (kind, value) in attributes(body.get(8..)?) {
        match kind {
            1 => peer = ip(family, value), // IFA_ADDRESS: the other end of a tunnel, else as below
            2 => local = ip(family, value), // IFA_LOCAL
            6 => valid = word(value, 4)?,  // IFA_CACHEINFO: preferred, valid, …
            8 => flags = word(value, 0)?,  // IFA_FLAGS
            11 => by = value.first().copied()?, // IFA_PROTO
            _ => (),
        }
    }
    let is_permanent = flags & PERMANENT != 0;
    let origin = match by {
        BY_KEEPALIVED => Origin::Keepalived,
        by if BY_KERNEL.contains(&by) => Origin::Kernel,
        _ if is_permanent => Origin::Permanent,
        _ if valid != FOREVER => Origin::Leased,
        _ => Origin::Unknown,
    };
    Some(Address {
        index,
        address: local.or(peer)?,
        prefix,
        is_secondary: i32::from(family) == AF_INET && flags & SECONDARY != 0,
        is_tentative: flags & TENTATIVE != 0 && flags & OPTIMISTIC == 0,
        is_duplicate: flags & DAD_FAILED != 0,
        origin,
        valid_s: (!is_permanent && valid != FOREVER).then_some(valid),
    })
}

/// struct ifinfomsg: family, type, index, flags, change; then attributes.
fn interface(body: &[u8]) -> Option<Interface> {
    let (index, flags) = (word(body, 4)?, word(body, 8)?);
    let (mut name, mut card) = (Name::default(), None);
    let (mut operates, mut has_carrier) = (true, flags & FLAG_LOWER_UP != 0);
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            1 => card = <[u8; 6]>::try_from(value).ok().map(Mac), // IFLA_ADDRESS
            3 => name = Name::new(value),                         // IFLA_IFNAME
            16 => operates = !NOT_OPERATING.contains(value.first()?), // IFLA_OPERSTATE
            33 => has_carrier &= value.first() != Some(&0),       // IFLA_CARRIER
            _ => (),
        }
    }
    let link = match (flags & FLAG_UP != 0, has_carrier && operates) {
        (false, _) => Link::Down,
        (true, false) => Link::NoCarrier,
        (true, true) => Link::Up,
    };
    Some(Interface {
        index,
        name,
        link,
        card: card.filter(|card| card.is_one_cards()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut out = (value.len() as u16 + 4).to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend(value);
        out.resize(padded(out.len()), 0);
        out
    }

    fn message(kind: u16, dump: u32, body: &[u8]) -> Vec<u8> {
        let mut out = (HEADER as u32 + body.len() as u32).to_ne_bytes().to_vec();
        out.extend(kind.to_ne_bytes());
        out.extend(0u16.to_ne_bytes());
        out.extend(dump.to_ne_bytes());
        out.extend([0; 4]);
        out.extend(body);
        out.resize(padded(out.len()), 0);
        out
    }

    fn address_body(flags: u32, valid: u32, by: u8) -> Vec<u8> {
        let mut body = vec![AF_INET as u8, 24, flags as u8, 0];
        body.extend(7u32.to_ne_bytes());
        body.extend(attribute(1, &[10, 0, 0, 2]));
        body.extend(attribute(2, &[10, 0, 0, 1]));
        body.extend(attribute(3, b"eth0:1\0"));
        let lifetimes = [1, valid, 0, 0].map(u32::to_ne_bytes).concat();
        body.extend(attribute(6, &lifetimes));
        body.extend(attribute(8, &flags.to_ne_bytes()));
        body.extend(attribute(11, &[by]));
        body
    }

    fn read(bytes: &[u8]) -> Vec<Says> {
        messages(bytes).map(|m| m.says).collect()
    }

    #[test]
    fn an_address_is_read_with_its_lease_and_origin() {
        let leased = Address {
            index: 7,
            address: Ipv4Addr::new(10, 0, 0, 1).into(),
            prefix: 24,
            is_secondary: false,
            is_tentative: false,
            is_duplicate: false,
            origin: Origin::Leased,
            valid_s: Some(3600),
        };
        let bytes = message(NEW_ADDRESS, 5, &address_body(0, 3600, 0));
        assert_eq!(read(&bytes), [Says::Address(leased)]);
        let origin = |flags, valid, by| match read(&message(
            NEW_ADDRESS,
            0,
            &address_body(flags, valid, by),
        ))[..]
        {
            [Says::Address(a)] => (a.origin, a.valid_s, a.is_secondary),
            _ => panic!("no address"),
        };
        assert_eq!(origin(0x80, FOREVER, 0), (Origin::Permanent, None, false));
        assert_eq!(origin(0x81, FOREVER, 18), (Origin::Keepalived, None, true));
        assert_eq!(origin(0x80, FOREVER, 1), (Origin::Kernel, None, false));
        assert_eq!(origin(0, FOREVER, 0), (Origin::Unknown, None, false));
    }

    #[test]
    fn a_links_state_is_read_from_flags_carrier_and_operation() {
        let state = |flags: u32, operates: u8, carrier: u8| {
            let mut body = vec![0; 4];
            body.extend(3u32.to_ne_bytes());
            body.extend(flags.to_ne_bytes());
            body.extend([0; 4]);
            body.extend(attribute(3, b"eth0\0"));
            body.extend(attribute(1, &[2, 0, 0, 0, 0, 1]));
            body.extend(attribute(16, &[operates]));
            body.extend(attribute(33, &[carrier]));
            match read(&message(NEW_LINK, 0, &body))[..] {
                [Says::Interface(i)] => {
                    assert_eq!((i.index, i.name), (3, Name::new(b"eth0")));
                    assert_eq!(i.card, Some(Mac([2, 0, 0, 0, 0, 1])));
                    i.link
                }
                _ => panic!("no link"),
            }
        };
        assert_eq!(state(FLAG_UP | FLAG_LOWER_UP, 6, 1), Link::Up);
        assert_eq!(state(FLAG_UP | FLAG_LOWER_UP, 0, 1), Link::Up); // loopback: unknown
        assert_eq!(state(FLAG_UP, 3, 0), Link::NoCarrier);
        assert_eq!(state(FLAG_UP | FLAG_LOWER_UP, 2, 1), Link::NoCarrier);
        assert_eq!(state(FLAG_UP | FLAG_LOWER_UP, 6, 0), Link::NoCarrier);
        assert_eq!(state(FLAG_UP, 6, 1), Link::NoCarrier);
        assert_eq!(state(0, 2, 0), Link::Down);
    }

    /// An IPv6 address as the kernel sends it: without IFA_LOCAL.
    fn v6_body(low_flags: u8) -> Vec<u8> {
        let mut body = vec![AF_INET6 as u8, 64, low_flags, 0];
        body.extend(7u32.to_ne_bytes());
        body.extend(attribute(1, &Ipv6Addr::LOCALHOST.octets()));
        body
    }

    fn only_address(body: &[u8]) -> Address {
        match read(&message(NEW_ADDRESS, 0, body))[..] {
            [Says::Address(address)] => address,
            _ => panic!("no address"),
        }
    }

    #[test]
    fn an_ipv6_address_stands_in_the_attribute_of_the_other_end() {
        let address = only_address(&v6_body(PERMANENT as u8));
        assert_eq!(address.address, Ipv6Addr::LOCALHOST);
        assert_eq!((address.prefix, address.valid_s), (64, None));
    }

    #[test]
    fn an_ipv6_address_is_tentative_unless_it_is_used_meanwhile() {
        let state = |flags: u32| {
            let address = only_address(&v6_body(flags as u8));
            (address.is_tentative, address.is_duplicate)
        };
        assert_eq!(state(0), (false, false));
        assert_eq!(state(TENTATIVE), (true, false));
        assert_eq!(state(TENTATIVE | OPTIMISTIC), (false, false));
        assert_eq!(state(TENTATIVE | DAD_FAILED), (true, true));
        assert!(
            !only_address(&v6_body(SECONDARY as u8)).is_secondary,
            "a temporary address, in IPv6"
        );
    }

    #[test]
    fn the_attribute_of_flags_counts_more_than_the_byte_in_front() {
        let mut body = v6_body(PERMANENT as u8);
        body.extend(attribute(8, &TENTATIVE.to_ne_bytes()));
        let address = only_address(&body);
        assert_eq!(
            (address.is_tentative, address.origin),
            (true, Origin::Unknown)
        );
    }

    #[test]
    fn an_interface_goes_by_its_number() {
        let body = [[0; 4], 3u32.to_ne_bytes(), [0; 4], [0; 4]].concat();
        assert_eq!(
            read(&message(GONE_LINK, 0, &body)),
            [Says::InterfaceGone(3)]
        );
    }

    #[test]
    fn an_error_is_a_refusal_and_an_acknowledgement_is_nothing() {
        let answer = |error: i32| read(&message(ERROR, 1, &error.to_ne_bytes()));
        assert_eq!(answer(-16), [Says::Refused]); // EBUSY
        assert!(answer(0).is_empty());
    }

    #[test]
    fn a_dump_that_failed_half_way_is_not_complete() {
        let end = |error: i32| read(&message(DONE, 1, &error.to_ne_bytes()));
        assert_eq!(end(0), [Says::Done]);
        assert_eq!(end(-105), [Says::Refused]); // ENOBUFS
        assert_eq!(read(&message(DONE, 1, &[])), [Says::Done]);
    }

    #[test]
    fn a_dump_is_interrupted_where_the_kernel_says_so() {
        let is_interrupted = |flags: u16| {
            let mut bytes = message(DONE, 1, &[0; 4]);
            bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
            messages(&bytes).all(|m| m.is_interrupted)
        };
        const PART_OF_MANY: u16 = 2;
        assert!(!is_interrupted(0) && !is_interrupted(PART_OF_MANY));
        assert!(is_interrupted(DUMP_INTERRUPTED | PART_OF_MANY));
        assert!(is_interrupted(DUMP_INTERRUPTED));
    }

    #[test]
    fn what_is_not_understood_is_passed_over() {
        let mut bytes = message(99, 0, &[1, 2, 3]);
        bytes.extend(message(GONE_ADDRESS, 0, &address_body(0, 1, 0)));
        bytes.extend(message(NEW_ADDRESS, 0, &[AF_INET as u8, 24])); // cut
        bytes.extend(message(ERROR, 0, &0u32.to_ne_bytes())); // an acknowledgement
        bytes.extend(message(DONE, 9, &[0; 4]));
        let all: Vec<_> = messages(&bytes).collect();
        assert!(matches!(all[0].says, Says::AddressGone(_)));
        assert_eq!((all[1].dump, all[1].says, all.len()), (9, Says::Done, 2));
    }

    #[test]
    fn our_request_is_a_netlink_message() {
        let bytes = request(GET_ADDRESSES, 77);
        assert_eq!(word(&bytes, 0), Some(32));
        assert_eq!(
            (half(&bytes, 4), half(&bytes, 6), word(&bytes, 8)),
            (Some(22), Some(0x301), Some(77))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes: Vec<u8>) {
            prop_assert!(messages(&bytes).count() <= bytes.len() / HEADER);
        }

        #[test]
        fn a_cut_message_is_no_other_one(cut in 0usize..120, flags: u32, valid: u32, by: u8) {
            let whole = message(NEW_ADDRESS, 1, &address_body(flags, valid, by));
            let expected = read(&whole);
            prop_assert_eq!(expected.len(), 1);
            let cut = cut.min(whole.len());
            let said = read(&whole[..cut]);
            prop_assert!(said.is_empty() || said == expected);
        }
    }
}
