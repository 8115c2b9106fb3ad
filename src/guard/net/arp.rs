//! ARP frames (RFC 826) as a packet socket gives them without their Ethernet header: who speaks for which address.
//! Forbidden here: sockets, allocation, believing a length. Everything in a frame was written by a stranger.

use std::net::Ipv4Addr;

use crate::guard::net::terms::Mac;
use crate::guard::terms::words::words;

/// Ethernet and IPv4: the only kind that is read.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
/// Bytes of such a frame; Ethernet pads it.
pub const LENGTH: usize = 28;

words! {
    /// How a frame speaks for an address.
    Manner {
        /// Unasked: "this is mine" (RFC 5227 2.3).
        Announcement = "announcement",
        /// In passing: it asks for another address and names its own.
        Request = "request",
        /// As an answer.
        Reply = "reply",
        /// It asks whether the address is free (RFC 5227 2.1.1): a DHCP client that is about to take it.
        Probe = "probe",
    }
}

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// A request, not a reply.
    pub is_request: bool,
    /// Card of the sender.
    pub card: Mac,
    /// Its address; 0.0.0.0 in a probe.
    pub sender: Ipv4Addr,
    /// The address that it asks for, or whom it answers.
    pub target: Ipv4Addr,
}

impl Arp {
    /// Reads a frame; `None` for all that is not ARP of Ethernet and IPv4 from a single card.
    pub fn parse(frame: &[u8]) -> Option<Arp> {
        let frame: &[u8; LENGTH] = frame.first_chunk()?;
        let (kind, rest) = frame.split_first_chunk::<6>()?;
        let (operation, rest) = rest.split_first_chunk::<2>()?;
        let (card, rest) = rest.split_first_chunk::<6>()?;
        let (sender, rest) = rest.split_first_chunk::<4>()?;
        let target: &[u8; 4] = rest.get(6..)?.first_chunk()?;
        let card = Mac(*card);
        let is_asked_or_said = matches!(operation, [0, 1 | 2]);
        let is_read = *kind == ETHERNET_IPV4 && is_asked_or_said && card.is_one_cards();
        is_read.then_some(Arp {
            is_request: *operation == [0, 1],
            card,
            sender: Ipv4Addr::from(*sender),
            target: Ipv4Addr::from(*target),
        })
    }

    /// The address that the frame speaks for, and how.
    pub fn says(&self) -> Option<(Ipv4Addr, Manner)> {
        let (sender, target) = (self.sender, self.target);
        match (self.is_request, sender.is_unspecified()) {
            (true, true) if !target.is_unspecified() => Some((target, Manner::Probe)),
            (_, true) => None,
            _ if sender == target => Some((sender, Manner::Announcement)),
            (true, false) => Some((sender, Manner::Request)),
            (false, false) => Some((sender, Manner::Reply)),
        }
    }
}

/// A frame as it is on the wire.
#[cfg(test)]
pub(crate) fn frame(operation: u8, card: [u8; 6], sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let front = [0, 1, 8, 0, 6, 4, 0, operation];
    [&front[..], &card, &sender, &[0; 6], &target].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CARD: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn said(operation: u8, sender: [u8; 4], target: [u8; 4]) -> Option<(Ipv4Addr, Manner)> {
        Arp::parse(&frame(operation, CARD, sender, target))?.says()
    }

    #[test]
    fn each_manner_is_told_from_the_others() {
        let (ours, other, none) = ([10, 0, 0, 1], [10, 0, 0, 2], [0; 4]);
        assert_eq!(
            said(1, ours, ours),
            Some((ours.into(), Manner::Announcement))
        );
        assert_eq!(
            said(2, ours, ours),
            Some((ours.into(), Manner::Announcement))
        );
        assert_eq!(said(1, ours, other), Some((ours.into(), Manner::Request)));
        assert_eq!(said(2, ours, other), Some((ours.into(), Manner::Reply)));
        assert_eq!(said(1, none, ours), Some((ours.into(), Manner::Probe)));
        assert_eq!(said(1, none, none), None);
        assert_eq!(said(2, none, ours), None);
        assert_eq!(said(3, ours, ours), None);
    }

    #[test]
    fn what_no_single_card_sent_is_nobodys_word() {
        for card in [[0; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
            assert_eq!(Arp::parse(&frame(1, card, [1; 4], [1; 4])), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(bytes: Vec<u8>) {
            if let Some(arp) = Arp::parse(&bytes) {
                prop_assert!(bytes.len() >= LENGTH && arp.card.is_one_cards());
                prop_assert_eq!(&bytes[14..18], &arp.sender.octets()[..]);
            }
        }

        #[test]
        fn a_cut_frame_is_none(cut in 0..LENGTH, sender: [u8; 4], target: [u8; 4]) {
            let whole = frame(1, CARD, sender, target);
            prop_assert!(Arp::parse(&whole).is_some());
            prop_assert_eq!(Arp::parse(&whole[..cut]), None);
        }
    }
}
