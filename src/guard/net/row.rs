//! One watched address as everybody sees it, and one change of it; both as words of shared memory.
//! Forbidden here: deciding what is the matter.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::guard::net::terms::{Link, Mac, Name, Origin, Reason, State};

/// Bits of [`Row::roles`]: Kamailio listens on it.
pub const LISTENS: u8 = 1;
/// Parameter `address_expect`.
pub const EXPECTED: u8 = 2;
/// Parameter `address_floating`, or absent at a start with ip_free_bind.
pub const FLOATS: u8 = 4;

/// Bits of [`Row::sockets`], with their words.
pub const SOCKETS: [(u8, &str); 4] = [(1, "udp"), (2, "tcp"), (4, "tls"), (8, "sctp")];

/// A time that has no end.
pub const NEVER: u64 = u64::MAX;

/// One watched address. Times are milliseconds of server time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The address.
    pub address: IpAddr,
    /// Why it is watched: [`LISTENS`], [`EXPECTED`], [`FLOATS`].
    pub roles: u8,
    /// What Kamailio listens with: [`SOCKETS`].
    pub sockets: u8,
    /// Where it is.
    pub state: State,
    /// What is the matter.
    pub reason: Reason,
    /// Who set it; of an address that is not here, who had.
    pub origin: Origin,
    /// Its interface's state.
    pub link: Link,
    /// Its interface, or the last one that it was on.
    pub interface: Name,
    /// A secondary address of its subnet.
    pub is_secondary: bool,
    /// The primary address of its subnet, of a secondary.
    pub primary: Option<Ipv4Addr>,
    /// When the primary's lease ends; [`NEVER`].
    pub primary_until_ms: u64,
    /// When its own lease ends; [`NEVER`].
    pub until_ms: u64,
    /// Since when the state is what it is.
    pub since_ms: u64,
    /// How often it came or went.
    pub changes: u64,
    /// The card that claimed it last while it was here.
    pub claimed_by: Option<Mac>,
    /// When that was told first, and last.
    pub claimed_first_ms: u64,
    /// As above.
    pub claimed_last_ms: u64,
    /// Frames that claimed it while it was here.
    pub claims: u64,
    /// Frames that asked whether it is free.
    pub probes: u64,
    /// The card that uses it since it left.
    pub taken_over_by: Option<Mac>,
}

/// How many words a row takes.
pub const ROW_WORDS: usize = 16;

/// An address as two words, and whether it has 16 bytes.
fn address_words(address: IpAddr) -> ([u64; 2], bool) {
    let number = match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    };
    ([(number >> 64) as u64, number as u64], address.is_ipv6())
}

fn address_of([high, low]: [u64; 2], is_v6: bool) -> IpAddr {
    match is_v6 {
        true => Ipv6Addr::from(u128::from(high) << 64 | u128::from(low)).into(),
        false => Ipv4Addr::from(low as u32).into(),
    }
}

impl Row {
    /// An address of which nothing is known yet.
    pub fn new(address: IpAddr, roles: u8, sockets: u8) -> Row {
        Row {
            address,
            roles,
            sockets,
            state: State::Absent,
            reason: Reason::Here,
            origin: Origin::Unknown,
            link: Link::Unknown,
            interface: Name::default(),
            is_secondary: false,
            primary: None,
            primary_until_ms: NEVER,
            until_ms: NEVER,
            since_ms: 0,
            changes: 0,
            claimed_by: None,
            claimed_first_ms: 0,
            claimed_last_ms: 0,
            claims: 0,
            probes: 0,
            taken_over_by: None,
        }
    }

    /// Its absence is no alarm.
    pub const fn floats(&self) -> bool {
        self.roles & FLOATS != 0
    }

    /// Seconds until its lease ends; `None` for an address without one.
    pub fn lease_s(&self, now_ms: u64) -> Option<u64> {
        (self.until_ms != NEVER).then(|| self.until_ms.saturating_sub(now_ms) / 1000)
    }

    /// As words.
    ///
    /// ```text
    /// word 2   0..8 state, 8..16 reason, 16..24 origin, 24..32 link, 32..40 roles, 40..48 sockets, 48 secondary, 49 IPv6
    /// ```
    pub fn to_words(&self) -> [u64; ROW_WORDS] {
        let ([high, low], is_v6) = address_words(self.address);
        let kinds = self.state.index() as u64
            | (self.reason.index() as u64) << 8
            | (self.origin.index() as u64) << 16
            | (self.link.index() as u64) << 24
            | u64::from(self.roles) << 32
            | u64::from(self.sockets) << 40
            | u64::from(self.is_secondary) << 48
            | u64::from(is_v6) << 49;
        let [front, back] = self.interface.to_words();
        let primary = self
            .primary
            .map_or(0, |a| u64::from(u32::from(a)) | 1 << 32);
        [
            high,
            low,
            kinds,
            front,
            back,
            primary,
            self.primary_until_ms,
            self.until_ms,
            self.since_ms,
            self.changes,
            Mac::to_word(self.claimed_by),
            self.claimed_first_ms,
            self.claimed_last_ms,
            self.claims,
            self.probes,
            Mac::to_word(self.taken_over_by),
        ]
    }

    /// Back from [`Row::to_words`]; `None` for words that are no row.
    pub fn from_words(words: &[u64; ROW_WORDS]) -> Option<Row> {
        let [
            high,
            low,
            kinds,
            front,
            back,
            primary,
            primary_until_ms,
            until_ms,
            since_ms,
            changes,
            claimed_by,
            claimed_first_ms,
            claimed_last_ms,
            claims,
            probes,
            taken_over_by,
        ] = *words;
        let part = |shift: u32| kinds >> shift & 0xff;
        Some(Row {
            address: address_of([high, low], kinds >> 49 & 1 == 1),
            state: State::from_index(part(0))?,
            reason: Reason::from_index(part(8))?,
            origin: Origin::from_index(part(16))?,
            link: Link::from_index(part(24))?,
            roles: part(32) as u8,
            sockets: part(40) as u8,
            is_secondary: kinds >> 48 & 1 == 1,
            interface: Name::from_words([front, back]),
            primary: (primary >> 32 == 1).then(|| Ipv4Addr::from(primary as u32)),
            primary_until_ms,
            until_ms,
            since_ms,
            changes,
            claimed_by: Mac::from_word(claimed_by),
            claimed_first_ms,
            claimed_last_ms,
            claims,
            probes,
            taken_over_by: Mac::from_word(taken_over_by),
        })
    }
}

/// One change that is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// When, milliseconds of server time.
    pub time_ms: u64,
    /// Which address.
    pub address: IpAddr,
    /// What was the matter before.
    pub from: Reason,
    /// What is now.
    pub to: Reason,
    /// It left here moments ago and another machine has it now: nothing else changed.
    pub is_takeover: bool,
    /// Its interface.
    pub interface: Name,
    /// The other machine's card, where one is meant.
    pub card: Option<Mac>,
}

/// How many words a change takes.
pub const CHANGE_WORDS: usize = 7;

impl Change {
    /// As words.
    pub fn pack(&self) -> [u64; CHANGE_WORDS] {
        let ([high, low], is_v6) = address_words(self.address);
        let kinds = self.from.index() as u64
            | (self.to.index() as u64) << 8
            | u64::from(is_v6) << 16
            | u64::from(self.is_takeover) << 17;
        let [front, back] = self.interface.to_words();
        let card = Mac::to_word(self.card);
        [self.time_ms, high, low, kinds, front, back, card]
    }

    /// Back from [`Change::pack`]; `None` for words that are no change.
    pub fn unpack(
        [time_ms, high, low, kinds, front, back, card]: [u64; CHANGE_WORDS],
    ) -> Option<Change> {
        Some(Change {
            time_ms,
            address: address_of([high, low], kinds >> 16 & 1 == 1),
            from: Reason::from_index(kinds & 0xff)?,
            to: Reason::from_index(kinds >> 8 & 0xff)?,
            is_takeover: kinds >> 17 & 1 == 1,
            interface: Name::from_words([front, back]),
            card: Mac::from_word(card),
        })
    }

    /// One word for what happened.
    pub const fn word(&self) -> &'static str {
        match self.is_takeover {
            true => "taken over",
            false => self.to.word(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_and_changes_survive_the_way_through_words(
            v6: Option<[u8; 16]>, v4: [u8; 4], kinds: [u8; 6], name: Vec<u8>, numbers: [u64; 8],
            cards: [Option<[u8; 6]>; 2], primary: Option<[u8; 4]>, flag: bool,
        ) {
            let address = v6.map_or(IpAddr::from(v4), IpAddr::from);
            let pick = |n: usize, count: usize| u64::from(kinds[n]) % count as u64;
            let reason = Reason::from_index(pick(1, Reason::COUNT)).expect("in range");
            let row = Row {
                address, roles: kinds[4], sockets: kinds[5],
                state: State::from_index(pick(0, State::COUNT)).expect("in range"),
                reason,
                origin: Origin::from_index(pick(2, Origin::COUNT)).expect("in range"),
                link: Link::from_index(pick(3, Link::COUNT)).expect("in range"),
                interface: Name::new(&name), is_secondary: flag, primary: primary.map(Ipv4Addr::from),
                primary_until_ms: numbers[0], until_ms: numbers[1], since_ms: numbers[2], changes: numbers[3],
                claimed_by: cards[0].map(Mac), claimed_first_ms: numbers[4], claimed_last_ms: numbers[5],
                claims: numbers[6], probes: numbers[7], taken_over_by: cards[1].map(Mac),
            };
            prop_assert_eq!(Row::from_words(&row.to_words()), Some(row));
            let change = Change {
                time_ms: numbers[0], address, from: Reason::Gone, to: reason, is_takeover: flag,
                interface: Name::new(&name), card: cards[1].map(Mac),
            };
            prop_assert_eq!(Change::unpack(change.pack()), Some(change));
        }
    }

    #[test]
    fn words_outside_the_vocabulary_are_no_row() {
        let mut words = Row::new(Ipv4Addr::LOCALHOST.into(), 1, 1).to_words();
        words[2] |= 0xff;
        assert_eq!(Row::from_words(&words), None);
        assert_eq!(Change::unpack([0, 0, 0, 0xff, 0, 0, 0]), None);
    }
}
