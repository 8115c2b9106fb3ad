//! The words of addresses and links, and the two names that come with them: of an interface, of a network card.
//! Forbidden here: behaviour.

use std::fmt::{Display, Formatter, Result};

use crate::guard::terms::words::words;

words! {
    /// Where an address is.
    State {
        /// On this machine, ready for use.
        Present = "present",
        /// Not on this machine.
        Absent = "absent",
        /// Not on this machine, and need not be: it floats.
        Standby = "standby",
        /// The kernel is still asking whether another machine has it (IPv6).
        Tentative = "tentative",
        /// Another machine had it first, so the kernel does not use it (IPv6).
        Duplicate = "duplicate",
    }
}

words! {
    /// Who put an address on the machine, as far as the kernel knows.
    Origin {
        /// Nobody says.
        Unknown = "unknown",
        /// Set without an end.
        Permanent = "permanent",
        /// Has an end unless it is renewed: DHCP.
        Leased = "leased",
        /// By keepalived (it says so on kernels from 5.18 on).
        Keepalived = "keepalived",
        /// By the kernel itself.
        Kernel = "kernel",
    }
}

words! {
    /// How the interface of an address is.
    Link {
        /// Nothing is known of it: the address is on none.
        Unknown = "unknown",
        /// Frames pass.
        Up = "up",
        /// Switched on, but no signal: a cable, a port, the machine's other end.
        NoCarrier = "no carrier",
        /// Switched off.
        Down = "down",
    }
}

words! {
    /// How bad it is; the number is what monitoring compares.
    Alarm {
        /// Nothing to do.
        Ok = "ok",
        /// It works, and will not for long.
        Warning = "warning",
        /// Phones cannot reach the server there, or not for certain.
        Critical = "critical",
    }
}

words! {
    /// What is the matter with an address, the one that counts most.
    Reason {
        /// It is here.
        Here = "here",
        /// It floats and is not here.
        Standby = "standby",
        /// A secondary address, and those go with their primary here.
        Secondary = "secondary",
        /// It is leased: DHCP may give it to another machine.
        Leased = "leased",
        /// Another machine asked whether it is free.
        Probed = "probed",
        /// Its interface has no carrier.
        NoCarrier = "no carrier",
        /// Its interface is switched off.
        LinkDown = "link down",
        /// Another machine uses it too.
        Claimed = "claimed",
        /// Another machine had it first (IPv6).
        Duplicate = "duplicate",
        /// It is not here.
        Gone = "gone",
        /// It went when its primary address went.
        GoneWithPrimary = "gone with its primary",
        /// It went when its lease ended.
        LeaseEnded = "lease ended",
    }
}

impl Reason {
    /// How bad that is.
    pub const fn alarm(self) -> Alarm {
        match self {
            Reason::Here | Reason::Standby => Alarm::Ok,
            Reason::Secondary | Reason::Leased | Reason::Probed => Alarm::Warning,
            _ => Alarm::Critical,
        }
    }

    /// The address cannot be used at all: it is not here, or the kernel refuses it.
    pub const fn is_missing(self) -> bool {
        matches!(
            self,
            Reason::Gone | Reason::GoneWithPrimary | Reason::LeaseEnded | Reason::Duplicate
        )
    }
}

/// Name of an interface, as the kernel keeps it (IFNAMSIZ with its zero).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Name([u8; 16]);

impl Name {
    /// From text up to a zero; cut at 15 bytes.
    pub fn new(text: &[u8]) -> Name {
        let mut name = [0; 16];
        let text = text.split(|b| *b == 0).next().unwrap_or_default();
        for (to, from) in name.iter_mut().take(15).zip(text) {
            *to = *from;
        }
        Name(name)
    }

    /// Nothing is known.
    pub fn is_empty(&self) -> bool {
        self.0[0] == 0
    }

    /// As two words.
    pub fn to_words(self) -> [u64; 2] {
        let [a, b, c, d, e, f, g, h, rest @ ..] = self.0;
        [
            u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            u64::from_le_bytes(rest),
        ]
    }

    /// Back from [`Name::to_words`].
    pub fn from_words([front, back]: [u64; 2]) -> Name {
        let mut bytes = [0; 16];
        for (to, from) in bytes
            .iter_mut()
            .zip(front.to_le_bytes().into_iter().chain(back.to_le_bytes()))
        {
            *to = from;
        }
        Name(bytes)
    }
}

impl Display for Name {
    /// What is no plain character becomes `?`: the name goes into logs and pages.
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        if self.is_empty() {
            return f.write_str("no interface");
        }
        let letters = self.0.iter().take_while(|b| **b != 0);
        letters
            .map(|b| {
                if b.is_ascii_graphic() {
                    *b as char
                } else {
                    '?'
                }
            })
            .try_for_each(|letter| write!(f, "{letter}"))
    }
}

/// Address of a network card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// One of the addresses that VRRP's virtual routers share (RFC 9568 7.3).
    pub const fn is_vrrp(self) -> bool {
        matches!(self.0, [0, 0, 0x5e, 0, 1 | 2, _])
    }

    /// A single card's: neither all zero nor a group's.
    pub const fn is_one_cards(self) -> bool {
        !matches!(self.0, [0, 0, 0, 0, 0, 0]) && self.0[0] & 1 == 0
    }

    /// As a word, with a bit that says that there is one.
    pub fn to_word(mac: Option<Mac>) -> u64 {
        mac.map_or(0, |Mac([a, b, c, d, e, f])| {
            u64::from_be_bytes([0, 1, a, b, c, d, e, f])
        })
    }

    /// Back from [`Mac::to_word`].
    pub fn from_word(word: u64) -> Option<Mac> {
        let [_, is_there, a, b, c, d, e, f] = word.to_be_bytes();
        (is_there == 1).then_some(Mac([a, b, c, d, e, f]))
    }
}

impl Display for Mac {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn names_and_cards_survive_the_way_through_words(text: Vec<u8>, mac: Option<[u8; 6]>) {
            let name = Name::new(&text);
            prop_assert_eq!(Name::from_words(name.to_words()), name);
            prop_assert!(name.to_string().chars().all(|c| c.is_ascii_graphic() || c == ' '));
            let mac = mac.map(Mac);
            prop_assert_eq!(Mac::from_word(Mac::to_word(mac)), mac);
        }
    }

    #[test]
    fn an_interface_without_a_name_is_none() {
        assert_eq!(Name::new(b"").to_string(), "no interface");
        assert_eq!(Name::new(b"eth0\0 more").to_string(), "eth0");
    }

    #[test]
    fn vrrp_is_told_by_its_cards() {
        assert!(Mac([0, 0, 0x5e, 0, 1, 51]).is_vrrp() && Mac([0, 0, 0x5e, 0, 2, 1]).is_vrrp());
        assert!(!Mac([0, 0, 0x5e, 0, 3, 1]).is_vrrp() && !Mac([2, 0, 0x5e, 0, 1, 1]).is_vrrp());
        assert!(!Mac([0xff; 6]).is_one_cards() && !Mac([0; 6]).is_one_cards());
    }
}
