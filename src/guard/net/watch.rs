//! The watch over the addresses: takes what the kernel and ARP frames say, with the time, and says what is the matter.
//! Forbidden here: sockets, clocks, and allocation but in `new` (a flood of messages must not take memory).
//!
//! ```text
//! messages of rtnetlink → here, links (what the machine has) ┐
//! ARP frames            → claims, probes, takeovers          ├→ settle(now) → each row's state and reason → changes
//! time                                                       ┘
//! ```

use std::net::{IpAddr, Ipv4Addr};

use crate::guard::net::arp::{Arp, Manner};
use crate::guard::net::row::{Change, EXPECTED, FLOATS, LISTENS, NEVER, Row};
use crate::guard::net::rtnetlink::{self, Interface, Says};
use crate::guard::net::terms::{Link, Mac, Name, Origin, Reason, State};

/// Watched addresses; more are counted and said.
pub const MAX_ROWS: usize = 256;
/// Addresses of the machine that are remembered, to find a secondary's primary and a second interface.
const MAX_HERE: usize = 2048;
/// Interfaces that are remembered.
const MAX_LINKS: usize = 1024;
/// Changes that wait to be told; there is one per address and settling at most.
const MAX_CHANGES: usize = 2 * MAX_ROWS;

/// What is missing, or has no carrier, for less than this is not told: a renewed lease, a cable that is moved.
pub const PATIENCE_MS: u64 = 2_000;
/// A claim of a floating address counts once it is still here after this: the machine that takes over announces it a
/// moment before this one has given it up.
const HANDING_OVER_MS: u64 = 1_500;
/// After a floating address came here, the machine that had it may have some last words.
const LAST_WORDS_MS: u64 = 3_000;
/// A claim or a probe is the matter for this long after the last frame: machines that use an address ask for their
/// router's about once a minute.
pub const REMEMBERED_MS: u64 = 300_000;
/// The same claim by other cards is told again after this at the earliest.
const TOLD_AGAIN_MS: u64 = 10_000;
/// A lease that ends within this of an address's leaving ended it: the kernel looks about once a second.
const LEASE_END_MS: u64 = 1_500;

/// An address that the machine has.
#[derive(Clone, Copy, Debug)]
struct Here {
    said: rtnetlink::Address,
    until_ms: u64,
    /// The listing that it was seen in, or later.
    listing: u32,
}

impl Here {
    fn is_primary_of(&self, index: u32, address: Ipv4Addr) -> bool {
        let IpAddr::V4(own) = self.said.address else {
            return false;
        };
        let bits = 32 - u32::from(self.said.prefix.min(32));
        let mask = u32::MAX.checked_shl(bits).unwrap_or(0);
        let is_same_net = (u32::from(own) ^ u32::from(address)) & mask == 0;
        self.said.index == index && !self.said.is_secondary && is_same_net
    }
}

/// An interface that the machine has.
#[derive(Clone, Copy, Debug)]
struct Known {
    said: Interface,
    /// A secondary address becomes the primary one when that goes.
    is_promoted: bool,
}

/// What a row needs besides what is shown.
#[derive(Clone, Copy, Debug, Default)]
struct Hidden {
    /// It went and came within one settling.
    flickered: bool,
    /// When it came; 0: it was here from the beginning.
    came_ms: u64,
    /// How it went.
    went: Option<Reason>,
    /// Since when its link is not up; 0: it is.
    link_bad_ms: u64,
    /// A claim that is the matter until then.
    claimed_until_ms: u64,
    /// A probe, the same.
    probed_until_ms: u64,
    /// A claim that waits whether the address goes.
    doubtful: Option<(u64, Mac, u64)>,
    /// When a card was told last.
    told_ms: u64,
    /// Its first settling is done.
    is_known: bool,
    /// promote_secondaries is on for its interface.
    is_promoted: bool,
}

/// What holds for all addresses together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Needed addresses that cannot be used.
    pub missing: u64,
    /// Needed addresses that are leased.
    pub leased: u64,
    /// Frames of other machines that claimed one.
    pub claims: u64,
    /// Number of the worst [`Alarm`](crate::guard::net::terms::Alarm).
    pub alarm: u64,
}

/// The watch.
pub struct Watch {
    rows: Vec<Row>,
    hidden: Vec<Hidden>,
    here: Vec<Here>,
    links: Vec<Known>,
    listing: u32,
    is_listed: bool,
    /// Something was heard since the last settling.
    is_news: bool,
    changes: Vec<Change>,
    /// With ip_free_bind, what is absent at the start floats.
    free_bind: bool,
}

impl Watch {
    /// Watches these rows: as they are new, or as an earlier sampling process left them (`is_again`).
    pub fn new(rows: &[Row], free_bind: bool, is_again: bool) -> Watch {
        let rows = rows.get(..MAX_ROWS).unwrap_or(rows);
        let hidden = Hidden {
            is_known: is_again,
            ..Hidden::default()
        };
        let mut watch = Watch {
            rows: rows.to_vec(),
            hidden: vec![hidden; rows.len()],
            here: Vec::with_capacity(MAX_HERE),
            links: Vec::with_capacity(MAX_LINKS),
            listing: 0,
            is_listed: false,
            is_news: true,
            changes: Vec::with_capacity(MAX_CHANGES),
            free_bind,
        };
        for (row, hidden) in watch.rows.iter().zip(&mut watch.hidden) {
            if row.reason == Reason::Claimed {
                hidden.claimed_until_ms = row.claimed_last_ms + REMEMBERED_MS;
            }
            hidden.went = row.reason.is_missing().then_some(row.reason);
        }
        watch
    }

    /// The rows as they stand.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The machine's addresses are listed: until then nothing is decided.
    pub fn is_listed(&self) -> bool {
        self.is_listed
    }

    /// A new listing of everything begins.
    pub fn begin_listing(&mut self) {
        self.listing = self.listing.wrapping_add(1);
    }

    /// One message of the kernel; `now` in milliseconds of server time.
    pub fn hear(&mut self, says: &Says, now: u64) {
        self.is_news = true;
        match says {
            Says::Address(said) => self.address(said, now),
            Says::AddressGone(said) => self.address_gone(said),
            Says::Interface(said) => self.interface(said),
            Says::InterfaceGone(index) => {
                self.links.retain(|link| link.said.index != *index);
                self.here.retain(|here| here.said.index != *index);
            }
            Says::Done | Says::Refused => (),
        }
    }

    /// The listing of the addresses is complete: what was not in it is not here.
    pub fn end_listing(&mut self) {
        let listing = self.listing;
        self.here.retain(|here| here.listing == listing);
        (self.is_listed, self.is_news) = (true, true);
    }

    fn address(&mut self, said: &rtnetlink::Address, now: u64) {
        let until = |seconds: u32| now.saturating_add(u64::from(seconds) * 1000);
        let here = Here {
            said: *said,
            until_ms: said.valid_s.map_or(NEVER, until),
            listing: self.listing,
        };
        let is_it = |h: &Here| h.said.index == said.index && h.said.address == said.address;
        let place = match self.here.iter().position(is_it) {
            Some(known) => Some(known),
            None if self.here.len() < MAX_HERE => {
                self.here.push(here);
                None
            }
            // Whoever has so many: the watched ones are kept.
            None if self.is_watched(said.address) => {
                let is_other = |h: &Here| !self.is_watched(h.said.address);
                self.here.iter().position(is_other)
            }
            None => None,
        };
        if let Some(place) = place.and_then(|at| self.here.get_mut(at)) {
            *place = here;
        }
    }

    fn is_watched(&self, address: IpAddr) -> bool {
        self.rows.iter().any(|row| row.address == address)
    }

    fn address_gone(&mut self, said: &rtnetlink::Address) {
        let count = self.here.len();
        let is_it = |h: &Here| h.said.index == said.index && h.said.address == said.address;
        self.here.retain(|here| !is_it(here));
        if self.here.len() < count {
            let rows = self.rows.iter().zip(&mut self.hidden);
            for (_, hidden) in rows.filter(|(row, _)| row.address == said.address) {
                hidden.flickered = true;
            }
        }
    }

    fn interface(&mut self, said: &Interface) {
        let place = self.links.iter().position(|l| l.said.index == said.index);
        if let Some(known) = place.and_then(|at| self.links.get_mut(at)) {
            known.said = *said;
        } else if self.links.len() < MAX_LINKS {
            self.links.push(Known {
                said: *said,
                is_promoted: false,
            });
        }
    }

    /// Asks for each interface that holds a watched secondary address whether it promotes those (its own
    /// `promote_secondaries`, or `all`'s).
    pub fn ask_promotion(&mut self, mut promotes: impl FnMut(Name) -> bool) {
        let (here, rows) = (&self.here, &self.rows);
        for link in &mut self.links {
            let is_asked = here.iter().any(|h| {
                h.said.index == link.said.index
                    && h.said.is_secondary
                    && rows.iter().any(|row| row.address == h.said.address)
            });
            if is_asked {
                let is_promoted = promotes(link.said.name);
                self.is_news |= is_promoted != link.is_promoted;
                link.is_promoted = is_promoted;
            }
        }
    }

    /// One ARP frame of another machine; after the kernel's messages that came before it.
    pub fn frame(&mut self, arp: &Arp, now: u64) {
        let is_own = self
            .links
            .iter()
            .any(|link| link.said.card == Some(arp.card));
        let Some((address, manner)) = arp.says().filter(|_| !is_own) else {
            return;
        };
        let rows = self.rows.iter_mut().zip(&mut self.hidden);
        for (row, hidden) in rows.filter(|(row, _)| row.address == IpAddr::V4(address)) {
            match (row.state, manner) {
                (State::Present, Manner::Probe) => {
                    row.probes += 1;
                    hidden.probed_until_ms = now + REMEMBERED_MS;
                }
                (_, Manner::Probe) => (),
                (State::Present, _) if !arp.card.is_vrrp() => {
                    claimed(row, hidden, arp.card, now, &mut self.changes);
                }
                (State::Absent | State::Standby, _) if hidden.is_known => {
                    taken_over(row, hidden, arp.card, now, &mut self.changes);
                }
                _ => (),
            }
        }
    }

    /// Takes everything together; afterwards [`Watch::take_changes`] has what is to be told.
    pub fn settle(&mut self, now: u64) {
        if !self.is_listed {
            return;
        }
        let is_news = std::mem::take(&mut self.is_news);
        for index in 0..self.rows.len() {
            let (Some(row), Some(hidden)) = (self.rows.get_mut(index), self.hidden.get_mut(index))
            else {
                return;
            };
            if is_news {
                look(row, hidden, &self.here, &self.links, now);
            }
            if !hidden.is_known && row.state == State::Absent && self.free_bind {
                row.roles |= FLOATS;
                row.state = State::Standby;
            }
            let reason = reason(row, hidden, now);
            let is_first = !std::mem::replace(&mut hidden.is_known, true);
            let is_quiet = is_first && reason == Reason::Standby;
            if reason != row.reason && !is_quiet && self.changes.len() < MAX_CHANGES {
                self.changes.push(Change {
                    time_ms: now,
                    address: row.address,
                    from: row.reason,
                    to: reason,
                    is_takeover: false,
                    interface: row.interface,
                    card: match reason {
                        Reason::Claimed => row.claimed_by,
                        _ => row.taken_over_by, // none while it is here
                    },
                });
            }
            row.reason = reason;
        }
    }

    /// What is to be told since the last time, oldest first.
    pub fn take_changes(&mut self) -> impl Iterator<Item = Change> + '_ {
        self.changes.drain(..)
    }

    /// What holds for all.
    pub fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for row in &self.rows {
            let is_needed = row.roles & (LISTENS | EXPECTED) != 0;
            sums.missing += u64::from(row.reason.is_missing());
            sums.leased += u64::from(is_needed && is_leased(row));
            sums.claims += row.claims;
            sums.alarm = sums.alarm.max(row.reason.alarm().index() as u64);
        }
        sums
    }
}

fn is_leased(row: &Row) -> bool {
    row.origin == Origin::Leased && row.state == State::Present
}

/// Where the machine has an address; of several interfaces the one where it can be used.
fn best(here: &[Here], address: IpAddr) -> Option<Here> {
    let all = here.iter().filter(|h| h.said.address == address);
    all.min_by_key(|h| (h.said.is_duplicate, h.said.is_tentative))
        .copied()
}

/// Brings state, interface, link, lease and primary up to what the machine has.
fn look(row: &mut Row, hidden: &mut Hidden, here: &[Here], links: &[Known], now: u64) {
    let found = best(here, row.address);
    let state = match found {
        None if row.floats() => State::Standby,
        None => State::Absent,
        Some(h) if h.said.is_duplicate => State::Duplicate,
        Some(h) if h.said.is_tentative => State::Tentative,
        Some(_) => State::Present,
    };
    let was_here = row.state == State::Present && hidden.is_known;
    let flickered = std::mem::take(&mut hidden.flickered);
    if state != row.state || row.since_ms == 0 {
        row.changes += u64::from(hidden.is_known);
        row.since_ms = now;
        if state == State::Present {
            hidden.came_ms = if hidden.is_known { now } else { 0 };
            hidden.went = None;
            row.taken_over_by = None;
        } else if was_here {
            went(row, hidden, here, now);
        }
        row.state = state;
    } else if flickered && state == State::Present {
        row.changes += 2;
        hidden.came_ms = now;
    }
    let Some(found) = found else {
        row.link = Link::Unknown;
        hidden.link_bad_ms = 0;
        return;
    };
    let link = links.iter().find(|l| l.said.index == found.said.index);
    row.link = link.map_or(Link::Unknown, |link| link.said.link);
    row.interface = link.map_or(row.interface, |link| link.said.name);
    hidden.is_promoted = link.is_some_and(|link| link.is_promoted);
    row.origin = found.said.origin;
    row.until_ms = found.until_ms;
    row.is_secondary = found.said.is_secondary;
    let primary = match row.address {
        IpAddr::V4(address) if row.is_secondary => here
            .iter()
            .find(|h| h.is_primary_of(found.said.index, address)),
        _ => None,
    };
    (row.primary, row.primary_until_ms) = match primary.map(|h| (h.said.address, h.until_ms)) {
        Some((IpAddr::V4(address), until)) => (Some(address), until),
        _ => (None, NEVER),
    };
    hidden.link_bad_ms = match row.link {
        Link::NoCarrier | Link::Down if hidden.link_bad_ms == 0 => now.max(1),
        Link::NoCarrier | Link::Down => hidden.link_bad_ms,
        Link::Up | Link::Unknown => 0,
    };
}

/// The address has just left: how, and what others said of it meanwhile is a takeover.
fn went(row: &mut Row, hidden: &mut Hidden, here: &[Here], now: u64) {
    let has_ended = |until: u64| until <= now.saturating_add(LEASE_END_MS);
    let primary = row.primary.map(IpAddr::V4);
    let is_primary_here = primary.is_some_and(|p| best(here, p).is_some());
    hidden.went = Some(match () {
        () if row.is_secondary && primary.is_some() && !is_primary_here => Reason::GoneWithPrimary,
        () if row.origin == Origin::Leased && has_ended(row.until_ms) => Reason::LeaseEnded,
        () => Reason::Gone,
    });
    if !has_ended(row.primary_until_ms) {
        row.primary_until_ms = NEVER; // it was taken away, not over
    }
    row.until_ms = NEVER;
    row.taken_over_by = hidden.doubtful.take().map(|(_, card, _)| card);
    (
        hidden.claimed_until_ms,
        hidden.probed_until_ms,
        hidden.told_ms,
    ) = (0, 0, 0);
}

/// Another card speaks for an address that is here.
fn claimed(row: &mut Row, hidden: &mut Hidden, card: Mac, now: u64, changes: &mut Vec<Change>) {
    let moves = row.floats() || row.origin == Origin::Keepalived;
    if moves && hidden.came_ms > 0 && now < hidden.came_ms + LAST_WORDS_MS {
        return;
    }
    if moves && hidden.claimed_until_ms <= now {
        let (since, _, frames) = hidden.doubtful.unwrap_or((now, card, 0));
        hidden.doubtful = Some((since, card, frames + 1));
        return;
    }
    is_claimed(row, hidden, card, 1, now);
    let is_news = row.reason == Reason::Claimed && hidden.told_ms + TOLD_AGAIN_MS <= now;
    let is_other = row.claimed_by != Some(card);
    row.claimed_by = Some(card);
    if is_news && is_other && changes.len() < MAX_CHANGES {
        hidden.told_ms = now;
        changes.push(Change {
            time_ms: now,
            address: row.address,
            from: Reason::Claimed,
            to: Reason::Claimed,
            is_takeover: false,
            interface: row.interface,
            card: Some(card),
        });
    }
}

/// The claim counts.
fn is_claimed(row: &mut Row, hidden: &mut Hidden, card: Mac, frames: u64, now: u64) {
    if hidden.claimed_until_ms <= now {
        row.claimed_first_ms = now;
        row.claimed_by = Some(card);
        hidden.told_ms = now;
    }
    row.claims += frames;
    row.claimed_last_ms = now;
    hidden.claimed_until_ms = now + REMEMBERED_MS;
}

/// Another card speaks for an address that is not here: it has it now.
fn taken_over(row: &mut Row, hidden: &mut Hidden, card: Mac, now: u64, changes: &mut Vec<Change>) {
    let is_early = hidden.told_ms > 0 && now < hidden.told_ms + TOLD_AGAIN_MS;
    if row.taken_over_by == Some(card) || is_early || changes.len() >= MAX_CHANGES {
        return;
    }
    row.taken_over_by = Some(card);
    hidden.told_ms = now;
    changes.push(Change {
        time_ms: now,
        address: row.address,
        from: row.reason,
        to: row.reason,
        is_takeover: true,
        interface: row.interface,
        card: Some(card),
    });
}

/// What is the matter now. What may be over in a moment leaves what was the matter before.
fn reason(row: &mut Row, hidden: &mut Hidden, now: u64) -> Reason {
    let has_lasted = |since: u64| now.saturating_sub(since) >= PATIENCE_MS;
    match row.state {
        State::Duplicate => return Reason::Duplicate,
        State::Standby => return Reason::Standby,
        State::Absent if has_lasted(row.since_ms) => return hidden.went.unwrap_or(Reason::Gone),
        State::Absent | State::Tentative => return row.reason,
        State::Present => (),
    }
    if let Some((since, card, frames)) = hidden.doubtful {
        if now.saturating_sub(since) >= HANDING_OVER_MS {
            hidden.doubtful = None;
            is_claimed(row, hidden, card, frames, now);
        }
    }
    let is_needed = row.roles & (LISTENS | EXPECTED) != 0;
    match row.link {
        Link::Down if has_lasted(hidden.link_bad_ms) => Reason::LinkDown,
        Link::NoCarrier if has_lasted(hidden.link_bad_ms) => Reason::NoCarrier,
        _ if hidden.claimed_until_ms > now => Reason::Claimed,
        Link::Down | Link::NoCarrier
            if matches!(row.reason, Reason::LinkDown | Reason::NoCarrier) =>
        {
            row.reason
        }
        _ if hidden.probed_until_ms > now => Reason::Probed,
        _ if is_needed && is_leased(row) => Reason::Leased,
        _ if row.is_secondary && !hidden.is_promoted => Reason::Secondary,
        _ => Reason::Here,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::net::arp::frame;
    use crate::guard::net::said::Said;
    use crate::guard::net::terms::{Alarm, Name};
    use proptest::prelude::*;
    use std::net::Ipv6Addr;

    const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const THEIRS: Mac = Mac([2, 0, 0, 0, 0, 9]);
    const ANOTHER: Mac = Mac([2, 0, 0, 0, 0, 7]);
    const ROUTER: Mac = Mac([0, 0, 0x5e, 0, 1, 51]);
    const PRIMARY: [u8; 4] = [10, 77, 0, 10];
    const SERVICE: [u8; 4] = [10, 77, 0, 100];

    fn on(address: [u8; 4], is_secondary: bool, valid_s: Option<u32>) -> rtnetlink::Address {
        rtnetlink::Address {
            index: 2,
            address: address.into(),
            prefix: 24,
            is_secondary,
            is_tentative: false,
            is_duplicate: false,
            origin: match valid_s {
                None => Origin::Permanent,
                Some(_) => Origin::Leased,
            },
            valid_s,
        }
    }

    /// An IPv6 address on eth0.
    fn ipv6(is_tentative: bool, is_duplicate: bool, valid_s: Option<u32>) -> rtnetlink::Address {
        rtnetlink::Address {
            address: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into(),
            is_tentative,
            is_duplicate,
            ..on(SERVICE, false, valid_s)
        }
    }

    fn interface(index: u32, name: &str, link: Link) -> Says {
        Says::Interface(Interface {
            index,
            name: Name::new(name.as_bytes()),
            link,
            card: Some(OURS),
        })
    }

    fn eth0(link: Link) -> Says {
        interface(2, "eth0", link)
    }

    /// A machine with eth0 and these addresses, watching `SERVICE` in a role.
    fn machine(roles: u8, addresses: &[rtnetlink::Address]) -> Watch {
        watching(SERVICE.into(), roles, addresses)
    }

    /// The same, watching any address.
    fn watching(address: IpAddr, roles: u8, addresses: &[rtnetlink::Address]) -> Watch {
        let mut watch = Watch::new(&[Row::new(address, roles, 1)], false, false);
        list(&mut watch, Link::Up, addresses, 1000);
        watch.settle(1000);
        watch
    }

    /// A listing of eth0 and these addresses.
    fn list(watch: &mut Watch, link: Link, addresses: &[rtnetlink::Address], now: u64) {
        watch.begin_listing();
        watch.hear(&eth0(link), now);
        for said in addresses {
            watch.hear(&Says::Address(*said), now);
        }
        watch.end_listing();
    }

    /// The machine gets more addresses than are remembered.
    fn crowd(watch: &mut Watch, now: u64) {
        for n in 0..=MAX_HERE as u16 {
            let [a, b] = n.to_be_bytes();
            watch.hear(&Says::Address(on([10, 78, a, b], false, None)), now);
        }
    }

    fn told(watch: &mut Watch) -> Vec<&'static str> {
        watch.take_changes().map(|c| c.word()).collect()
    }

    fn after(watch: &mut Watch, now: u64) -> Vec<&'static str> {
        watch.settle(now);
        told(watch)
    }

    /// What is told, with the other machine's card.
    fn told_cards(watch: &mut Watch) -> Vec<(&'static str, Option<Mac>)> {
        watch.take_changes().map(|c| (c.word(), c.card)).collect()
    }

    fn speaks(watch: &mut Watch, card: Mac, sender: [u8; 4], target: [u8; 4], now: u64) {
        let bytes = frame(1, card.0, sender, target);
        watch.frame(&Arp::parse(&bytes).expect("a frame"), now);
    }

    fn sentence(watch: &Watch, now: u64) -> String {
        Said(&watch.rows()[0], now).to_string()
    }

    #[test]
    fn nothing_is_said_of_an_address_that_stays() {
        let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
        speaks(&mut watch, THEIRS, [10, 77, 0, 5], SERVICE, 1500);
        speaks(&mut watch, OURS, SERVICE, SERVICE, 1500);
        watch.hear(&Says::Address(on(SERVICE, false, None)), 1600);
        assert!(after(&mut watch, 2000).is_empty());
        let row = watch.rows()[0];
        assert_eq!(
            (row.state, row.reason, row.changes),
            (State::Present, Reason::Here, 0)
        );
        assert_eq!(sentence(&watch, 2000), "here on eth0");
        assert_eq!(watch.sums(), Sums::default());
    }

    #[test]
    fn before_the_listing_is_complete_nothing_is_decided() {
        let mut watch = Watch::new(&[Row::new(SERVICE.into(), LISTENS, 1)], false, false);
        watch.begin_listing();
        speaks(&mut watch, THEIRS, SERVICE, SERVICE, 1000);
        assert!(!watch.is_listed());
        assert!(after(&mut watch, 1000).is_empty() && after(&mut watch, 9000).is_empty());
        watch.end_listing();
        assert!(watch.is_listed());
    }

    #[test]
    fn an_absence_is_told_after_two_seconds_and_the_return_at_once() {
        let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
        watch.hear(&Says::AddressGone(on(SERVICE, false, None)), 5000);
        assert!(after(&mut watch, 5000).is_empty());
        assert_eq!(sentence(&watch, 5000), "not here for a moment");
        assert!(after(&mut watch, 6999).is_empty());
        assert_eq!(after(&mut watch, 7000), ["gone"]);
        assert_eq!(watch.sums().missing, 1);
        assert_eq!(
            sentence(&watch, 7000),
            "not on this machine, where it was on eth0: no phone reaches it here"
        );
        watch.hear(&Says::Address(on(SERVICE, false, None)), 9000);
        assert_eq!(after(&mut watch, 9000), ["here"]);
        assert_eq!((watch.rows()[0].changes, watch.sums().missing), (2, 0));
    }

    #[test]
    fn a_short_absence_is_counted_and_not_told() {
        let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
        watch.hear(&Says::AddressGone(on(SERVICE, false, None)), 5000);
        watch.settle(5000);
        watch.hear(&Says::Address(on(SERVICE, false, None)), 6900);
        assert!(after(&mut watch, 6900).is_empty());
        watch.hear(&Says::AddressGone(on(SERVICE, false, None)), 8000);
        watch.hear(&Says::Address(on(SERVICE, false, None)), 8001);
        assert!(after(&mut watch, 12_000).is_empty());
        assert_eq!(watch.rows()[0].changes, 4);
    }

    #[test]
    fn an_address_that_goes_and_comes_between_two_settlings_has_changed_twice() {
        let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
        watch.hear(&Says::AddressGone(on(SERVICE, false, None)), 5000);
        watch.hear(&Says::Address(on(SERVICE, false, None)), 5001);
        assert!(after(&mut watch, 5001).is_empty());
        assert_eq!(watch.rows()[0].changes, 2);
    }

    #[test]
    fn an_address_that_leaves_takes_no_other_along() {
        let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
        let elsewhere = rtnetlink::Address {
            index: 3,
            ..on(SERVICE, false, None)
        };
        for said in [on(PRIMARY, false, None), elsewhere] {
            watch.hear(&Says::AddressGone(said), 5000);
        }
        watch.settle(5000);
        let row = watch.rows()[0];
        assert_eq!((row.state, row.changes), (State::Present, 0));
    }

    #[test]
    fn an_interface_takes_its_own_addresses_along_and_no_others() {
        let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
        watch.hear(&interface(3, "eth1", Link::Up), 2000);
        watch.hear(&Says::InterfaceGone(3), 3000);
        watch.settle(3000);
        let row = watch.rows()[0];
        assert_eq!((row.state, row.link), (State::Present, Link::Up));
        watch.hear(&Says::InterfaceGone(2), 4000);
        watch.settle(4000);
        let row = watch.rows()[0];
        assert_eq!((row.state, row.link), (State::Absent, Link::Unknown));
    }

    #[test]
    fn of_too_many_addresses_the_watched_one_is_known() {
        let mut watch = machine(LISTENS, &[]);
        crowd(&mut watch, 2000);
        watch.hear(&Says::Address(on(SERVICE, false, None)), 2000);
        watch.settle(2000);
        assert_eq!(watch.rows()[0].state, State::Present);
    }

    #[test]
    fn an_address_too_many_that_is_not_watched_displaces_none() {
        let mut watch = machine(
            LISTENS,
            &[on(PRIMARY, false, None), on(SERVICE, true, None)],
        );
        crowd(&mut watch, 2000);
        watch.settle(2000);
        assert_eq!(watch.rows()[0].primary, Some(PRIMARY.into()));
    }

    #[test]
    fn a_primary_is_of_the_same_network_on_the_same_interface() {
        let primary_among = |other: rtnetlink::Address, is_secondary| {
            let watch = machine(LISTENS, &[other, on(SERVICE, is_secondary, None)]);
            watch.rows()[0].primary
        };
        let primary = on(PRIMARY, false, None);
        assert_eq!(primary_among(primary, true), Some(PRIMARY.into()));
        assert_eq!(primary_among(primary, false), None);
        let others = [
            rtnetlink::Address {
                index: 3,
                ..primary
            },
            rtnetlink::Address {
                prefix: 26,
                ..primary
            },
            on([10, 78, 0, 10], false, None),
            on(PRIMARY, true, None),
        ];
        for other in others {
            assert_eq!(primary_among(other, true), None, "{other:?}");
        }
    }

    #[test]
    fn a_secondary_dies_with_its_leased_primary_and_that_is_foretold() {
        let addresses = [on(PRIMARY, false, Some(600)), on(SERVICE, true, None)];
        let mut watch = machine(LISTENS, &addresses);
        assert_eq!(told(&mut watch), ["secondary"]);
        assert_eq!(
            sentence(&watch, 1000),
            "a secondary address on eth0: it goes when its primary 10.77.0.10 goes, as promote_secondaries is 0 there, \
             and that is leased for 10m 0s more"
        );
        for address in [addresses[1], addresses[0]] {
            watch.hear(&Says::AddressGone(address), 601_000);
        }
        watch.settle(601_000);
        assert_eq!(after(&mut watch, 603_000), ["gone with its primary"]);
        assert!(
            sentence(&watch, 603_000).contains("primary address 10.77.0.10, whose lease ended")
        );
        speaks(&mut watch, THEIRS, SERVICE, SERVICE, 604_000);
        assert_eq!(after(&mut watch, 604_000), ["taken over"]);
        assert!(
            sentence(&watch, 604_000)
                .ends_with("the machine with the card 02:00:00:00:00:09 uses it now")
        );
    }

    #[test]
    fn a_secondary_that_is_promoted_is_no_matter() {
        let mut watch = Watch::new(&[Row::new(SERVICE.into(), LISTENS, 1)], false, false);
        watch.begin_listing();
        watch.hear(&eth0(Link::Up), 1000);
        for said in [on(PRIMARY, false, None), on(SERVICE, true, None)] {
            watch.hear(&Says::Address(said), 1000);
        }
        watch.end_listing();
        watch.ask_promotion(|name| name == Name::new(b"eth0"));
        assert!(after(&mut watch, 1000).is_empty());
    }

    #[test]
    fn only_an_interface_with_a_watched_secondary_address_is_asked_whether_it_promotes() {
        let asked = |addresses: &[rtnetlink::Address]| {
            let mut watch = machine(LISTENS, addresses);
            watch.hear(&interface(3, "eth1", Link::Up), 1000);
            let mut names = Vec::new();
            watch.ask_promotion(|name| {
                names.push(name.to_string());
                false
            });
            names
        };
        assert_eq!(asked(&[on(SERVICE, true, None)]), ["eth0"]);
        assert!(asked(&[on(SERVICE, false, None), on(PRIMARY, true, None)]).is_empty());
    }

    #[test]
    fn promotion_that_is_switched_is_seen_at_once() {
        let addresses = [on(PRIMARY, false, None), on(SERVICE, true, None)];
        let mut watch = machine(LISTENS, &addresses);
        assert_eq!(told(&mut watch), ["secondary"]);
        watch.ask_promotion(|_| true);
        assert_eq!(after(&mut watch, 2000), ["here"]);
        watch.ask_promotion(|_| false);
        assert_eq!(after(&mut watch, 3000), ["secondary"]);
    }

    #[test]
    fn a_secondary_whose_primary_stays_is_only_gone() {
        let addresses = [on(PRIMARY, false, None), on(SERVICE, true, None)];
        let mut watch = machine(LISTENS, &addresses);
        assert_eq!(told(&mut watch), ["secondary"]);
        watch.hear(&Says::AddressGone(addresses[1]), 5000);
        watch.settle(5000);
        assert_eq!(after(&mut watch, 7000), ["gone"]);
    }

    #[test]
    fn a_leased_address_that_is_taken_away_before_its_end_is_only_gone() {
        let mut watch = machine(LISTENS, &[on(SERVICE, false, Some(600))]);
        assert_eq!(told(&mut watch), ["leased"]);
        watch.hear(&Says::AddressGone(on(SERVICE, false, Some(600))), 5000);
        watch.settle(5000);
        assert_eq!(after(&mut watch, 7000), ["gone"]);
    }

    #[test]
    fn a_lease_is_a_matter_only_of_an_address_that_is_needed() {
        let leased = |roles| {
            let mut watch = machine(roles, &[on(SERVICE, false, Some(600))]);
            (told(&mut watch), watch.sums().leased)
        };
        assert_eq!(leased(FLOATS), (vec![], 0));
        for roles in [LISTENS, EXPECTED, LISTENS | EXPECTED] {
            assert_eq!(leased(roles), (vec!["leased"], 1));
        }
    }

    #[test]
    fn a_lease_is_a_warning_and_its_end_is_named() {
        let mut watch = machine(LISTENS, &[on(SERVICE, false, Some(30))]);
        assert_eq!(told(&mut watch), ["leased"]);
        assert_eq!(
            (watch.sums().leased, watch.rows()[0].lease_s(11_000)),
            (1, Some(20))
        );
        watch.hear(&Says::Address(on(SERVICE, false, Some(60))), 20_000); // renewed
        assert!(after(&mut watch, 20_000).is_empty());
        watch.hear(&Says::AddressGone(on(SERVICE, false, Some(1))), 79_500);
        watch.settle(79_500);
        assert_eq!(after(&mut watch, 81_600), ["lease ended"]);
    }

    #[test]
    fn every_manner_of_a_foreign_claim_is_told_and_forgotten_when_it_ends() {
        for target in [SERVICE, [10, 77, 0, 1]] {
            let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
            speaks(&mut watch, THEIRS, SERVICE, target, 5000);
            assert_eq!(after(&mut watch, 5000), ["claimed"]);
            let row = watch.rows()[0];
            assert_eq!(
                (row.claimed_by, row.claims, row.claimed_first_ms),
                (Some(THEIRS), 1, 5000)
            );
            assert_eq!(
                sentence(&watch, 5000),
                "another machine uses it too (its card is 02:00:00:00:00:09), while it is on eth0 here: \
                 phones reach the one or the other"
            );
            assert!(after(&mut watch, 5000 + REMEMBERED_MS - 1).is_empty());
            assert_eq!(after(&mut watch, 5000 + REMEMBERED_MS), ["here"]);
        }
    }

    #[test]
    fn a_probe_is_a_warning() {
        let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
        speaks(&mut watch, THEIRS, [0; 4], SERVICE, 5000);
        assert_eq!(after(&mut watch, 5000), ["probed"]);
        assert_eq!(
            (watch.rows()[0].probes, watch.rows()[0].reason.alarm()),
            (1, Alarm::Warning)
        );
        assert!(after(&mut watch, 5000 + REMEMBERED_MS - 1).is_empty());
        assert_eq!(after(&mut watch, 5000 + REMEMBERED_MS), ["here"]);
    }

    #[test]
    fn a_probe_for_an_address_that_is_not_here_takes_nothing_over() {
        let mut watch = machine(LISTENS | FLOATS, &[]);
        speaks(&mut watch, THEIRS, [0; 4], SERVICE, 5000);
        assert!(after(&mut watch, 5000).is_empty());
        assert_eq!(watch.rows()[0].taken_over_by, None);
    }

    #[test]
    fn another_card_that_claims_is_told_after_ten_seconds() {
        let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
        let mut claims = |card, now| {
            speaks(&mut watch, card, SERVICE, SERVICE, now);
            watch.settle(now);
            told_cards(&mut watch)
        };
        assert_eq!(claims(THEIRS, 5000), [("claimed", Some(THEIRS))]);
        assert!(claims(ANOTHER, 14_999).is_empty());
        assert_eq!(claims(THEIRS, 15_000), [("claimed", Some(THEIRS))]);
        assert!(claims(THEIRS, 40_000).is_empty());
    }

    #[test]
    fn another_card_that_takes_over_is_told_after_ten_seconds() {
        let mut watch = machine(LISTENS | FLOATS, &[on(SERVICE, false, None)]);
        watch.hear(&Says::AddressGone(on(SERVICE, false, None)), 5000);
        assert_eq!(after(&mut watch, 5000), ["standby"]);
        let mut takes = |card, now| {
            speaks(&mut watch, card, SERVICE, SERVICE, now);
            told_cards(&mut watch)
        };
        assert_eq!(takes(THEIRS, 5100), [("taken over", Some(THEIRS))]);
        assert!(takes(ANOTHER, 15_099).is_empty());
        assert_eq!(takes(ANOTHER, 15_100), [("taken over", Some(ANOTHER))]);
        assert!(takes(ANOTHER, 40_000).is_empty());
    }

    #[test]
    fn a_card_that_spoke_before_the_address_left_is_told_with_that() {
        let mut watch = machine(LISTENS | FLOATS, &[on(SERVICE, false, None)]);
        speaks(&mut watch, THEIRS, SERVICE, SERVICE, 5000);
        watch.hear(&Says::AddressGone(on(SERVICE, false, None)), 5900);
        watch.settle(5900);
        assert_eq!(told_cards(&mut watch), [("standby", Some(THEIRS))]);
    }

    #[test]
    fn an_absence_is_told_with_the_card_that_took_over_and_the_return_without() {
        let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
        watch.hear(&Says::AddressGone(on(SERVICE, false, None)), 5000);
        watch.settle(5000);
        speaks(&mut watch, THEIRS, SERVICE, SERVICE, 5500);
        watch.settle(7000);
        assert_eq!(
            told_cards(&mut watch),
            [("taken over", Some(THEIRS)), ("gone", Some(THEIRS))]
        );
        watch.hear(&Says::Address(on(SERVICE, false, None)), 9000);
        watch.settle(9000);
        assert_eq!(told_cards(&mut watch), [("here", None)]);
    }

    #[test]
    fn keepaliveds_takeovers_are_no_claim_in_either_direction() {
        let mut watch = machine(LISTENS | FLOATS, &[on(SERVICE, false, None)]);
        // The other one announces a moment before this one gives up.
        speaks(&mut watch, THEIRS, SERVICE, SERVICE, 5000);
        assert!(after(&mut watch, 5100).is_empty());
        watch.hear(&Says::AddressGone(on(SERVICE, false, None)), 5900);
        assert_eq!(after(&mut watch, 5900), ["standby"]);
        speaks(&mut watch, THEIRS, SERVICE, SERVICE, 6000);
        speaks(&mut watch, ROUTER, SERVICE, SERVICE, 8000);
        after(&mut watch, 8000);
        // And back, with its last words.
        watch.hear(&Says::Address(on(SERVICE, false, None)), 20_000);
        assert_eq!(after(&mut watch, 20_000), ["here"]);
        speaks(&mut watch, THEIRS, SERVICE, SERVICE, 20_500);
        speaks(&mut watch, ROUTER, SERVICE, SERVICE, 25_000);
        assert!(after(&mut watch, 30_000).is_empty());
        let row = watch.rows()[0];
        assert_eq!(
            (row.claims, row.claimed_by, row.reason.alarm()),
            (0, None, Alarm::Ok)
        );
    }

    #[test]
    fn a_floating_address_that_both_keep_is_claimed() {
        let mut watch = machine(LISTENS | FLOATS, &[on(SERVICE, false, None)]);
        speaks(&mut watch, THEIRS, SERVICE, SERVICE, 5000);
        assert!(after(&mut watch, 6400).is_empty());
        assert_eq!(after(&mut watch, 6500), ["claimed"]);
        assert_eq!(watch.sums().claims, 1);
    }

    #[test]
    fn a_floating_address_that_is_here_from_the_beginning_gets_no_last_words() {
        let mut watch = machine(LISTENS | FLOATS, &[on(SERVICE, false, None)]);
        speaks(&mut watch, THEIRS, SERVICE, SERVICE, 1200);
        assert_eq!(after(&mut watch, 2700), ["claimed"]);
    }

    #[test]
    fn last_words_end_three_seconds_after_a_floating_address_came() {
        let mut watch = machine(LISTENS | FLOATS, &[]);
        watch.hear(&Says::Address(on(SERVICE, false, None)), 20_000);
        assert_eq!(after(&mut watch, 20_000), ["here"]);
        speaks(&mut watch, THEIRS, SERVICE, SERVICE, 22_999);
        speaks(&mut watch, THEIRS, SERVICE, SERVICE, 23_000);
        assert!(after(&mut watch, 24_499).is_empty());
        assert_eq!(after(&mut watch, 24_500), ["claimed"]);
        assert_eq!(watch.sums().claims, 1);
    }

    #[test]
    fn an_address_that_does_not_float_is_claimed_from_the_moment_it_came() {
        let mut watch = machine(LISTENS, &[]);
        watch.hear(&Says::Address(on(SERVICE, false, None)), 2000);
        assert!(after(&mut watch, 2000).is_empty());
        speaks(&mut watch, THEIRS, SERVICE, SERVICE, 2500);
        assert_eq!(after(&mut watch, 2500), ["claimed"]);
    }

    #[test]
    fn no_carrier_and_a_link_that_is_down_are_told_after_two_seconds() {
        let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
        watch.hear(&eth0(Link::NoCarrier), 5000);
        assert!(after(&mut watch, 5000).is_empty());
        assert_eq!(after(&mut watch, 7000), ["no carrier"]);
        watch.hear(&eth0(Link::Down), 8000);
        assert_eq!(after(&mut watch, 8000), ["link down"]);
        watch.hear(&eth0(Link::Up), 9000);
        assert_eq!(after(&mut watch, 9000), ["here"]);
        watch.hear(&eth0(Link::NoCarrier), 10_000);
        watch.settle(10_000);
        watch.hear(&eth0(Link::Up), 11_000);
        assert!(
            after(&mut watch, 15_000).is_empty(),
            "a cable that is moved"
        );
        watch.hear(&eth0(Link::Down), 16_000);
        assert!(after(&mut watch, 16_000).is_empty());
        assert_eq!(after(&mut watch, 18_000), ["link down"]);
    }

    #[test]
    fn a_return_to_a_link_without_carrier_is_told_before_that() {
        let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
        watch.hear(&Says::AddressGone(on(SERVICE, false, None)), 5000);
        watch.settle(5000);
        assert_eq!(after(&mut watch, 7000), ["gone"]);
        watch.hear(&eth0(Link::NoCarrier), 9000);
        watch.hear(&Says::Address(on(SERVICE, false, None)), 9000);
        assert_eq!(after(&mut watch, 9000), ["here"]);
        assert_eq!(after(&mut watch, 11_000), ["no carrier"]);
    }

    #[test]
    fn an_ipv6_duplicate_is_told_at_once() {
        let tentative = ipv6(true, false, None);
        let mut watch = watching(tentative.address, LISTENS, &[tentative]);
        assert!(told(&mut watch).is_empty());
        assert_eq!(watch.rows()[0].state, State::Tentative);
        assert_eq!(sentence(&watch, 1000), "on eth0, not ready yet");
        watch.hear(&Says::Address(ipv6(true, true, None)), 2000);
        assert_eq!(after(&mut watch, 2000), ["duplicate"]);
        assert_eq!(watch.sums().missing, 1);
    }

    #[test]
    fn an_address_that_only_tried_to_return_is_gone_for_the_same_reason() {
        let leased = ipv6(false, false, Some(30));
        let mut watch = watching(leased.address, LISTENS, &[leased]);
        assert_eq!(told(&mut watch), ["leased"]);
        watch.hear(&Says::AddressGone(leased), 31_000);
        watch.settle(31_000);
        assert_eq!(after(&mut watch, 33_000), ["lease ended"]);
        let tentative = ipv6(true, false, Some(600));
        watch.hear(&Says::Address(tentative), 40_000);
        watch.settle(40_000);
        watch.hear(&Says::AddressGone(tentative), 41_000);
        watch.settle(41_000);
        assert!(after(&mut watch, 43_000).is_empty());
        assert_eq!(watch.rows()[0].reason, Reason::LeaseEnded);
    }

    #[test]
    fn what_is_absent_at_the_start_with_free_bind_floats() {
        let mut watch = Watch::new(&[Row::new(SERVICE.into(), LISTENS, 1)], true, false);
        watch.begin_listing();
        watch.end_listing();
        assert!(after(&mut watch, 1000).is_empty());
        assert!(after(&mut watch, 9000).is_empty());
        let row = watch.rows()[0];
        assert_eq!((row.state, row.roles), (State::Standby, LISTENS | FLOATS));
        let mut strict = machine(LISTENS, &[]);
        assert!(told(&mut strict).is_empty());
        assert_eq!(after(&mut strict, 3000), ["gone"]);
        assert_eq!(
            sentence(&strict, 3000),
            "not on this machine: no phone reaches it here"
        );
    }

    #[test]
    fn a_lost_message_is_made_good_by_the_next_listing() {
        let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
        watch.begin_listing();
        watch.hear(&eth0(Link::Up), 5000);
        watch.end_listing();
        watch.settle(5000);
        assert_eq!(after(&mut watch, 7000), ["gone"]);
    }

    #[test]
    fn a_new_sampling_process_goes_on_without_telling_again() {
        let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
        speaks(&mut watch, THEIRS, SERVICE, SERVICE, 5000);
        assert_eq!(after(&mut watch, 5000), ["claimed"]);
        let mut next = Watch::new(watch.rows(), false, true);
        list(&mut next, Link::Up, &[on(SERVICE, false, None)], 9000);
        assert!(after(&mut next, 9000).is_empty());
        assert_eq!((next.rows()[0].claims, next.rows()[0].changes), (1, 0));
    }

    #[test]
    fn a_new_sampling_process_goes_on_with_a_link_that_has_no_carrier() {
        let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
        watch.hear(&eth0(Link::NoCarrier), 5000);
        watch.settle(5000);
        assert_eq!(after(&mut watch, 7000), ["no carrier"]);
        let mut next = Watch::new(watch.rows(), false, true);
        list(
            &mut next,
            Link::NoCarrier,
            &[on(SERVICE, false, None)],
            9000,
        );
        assert!(after(&mut next, 9000).is_empty());
        assert!(after(&mut next, 11_000).is_empty());
    }

    #[test]
    fn changes_that_nobody_takes_end_with_their_room() {
        let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
        let mut now = 5000;
        for n in 0..=MAX_CHANGES {
            now += TOLD_AGAIN_MS;
            let card = [THEIRS, ANOTHER][n % 2];
            speaks(&mut watch, card, SERVICE, SERVICE, now);
            watch.settle(now);
        }
        watch.hear(&eth0(Link::Down), now);
        watch.settle(now);
        watch.settle(now + PATIENCE_MS);
        assert_eq!(watch.rows()[0].reason, Reason::LinkDown);
        assert_eq!(watch.take_changes().count(), MAX_CHANGES);
    }

    #[test]
    fn a_storm_of_cards_is_told_rarely_and_takes_no_memory() {
        let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
        let room = (
            watch.changes.capacity(),
            watch.here.capacity(),
            watch.links.capacity(),
        );
        let mut lines = 0;
        for n in 0..60_000u32 {
            let [_, a, b, c] = n.to_be_bytes();
            let now = 5000 + u64::from(n);
            speaks(&mut watch, Mac([2, 9, 9, a, b, c]), SERVICE, SERVICE, now);
            let address = on([10, 78, b, c], false, None);
            watch.hear(
                &Says::Address(rtnetlink::Address {
                    index: n,
                    ..address
                }),
                now,
            );
            watch.hear(&interface(1000 + n, "veth", Link::Up), now);
            if n % 100 == 0 {
                lines += after(&mut watch, now).len();
            }
        }
        assert!(lines <= 7, "{lines} lines in a minute");
        assert_eq!(watch.rows()[0].claims, 60_000);
        assert_eq!(
            room,
            (
                watch.changes.capacity(),
                watch.here.capacity(),
                watch.links.capacity()
            )
        );
    }

    proptest! {
        #[test]
        fn whatever_comes_the_rows_hold_together(
            roles in 0u8..8, steps in proptest::collection::vec((0u8..9, 0u64..4000, any::<bool>()), 1..60),
        ) {
            let mut watch = machine(roles, &[on(SERVICE, false, None)]);
            let mut now = 1000;
            for (kind, wait, flag) in steps {
                now += wait;
                match kind {
                    0 => watch.hear(&Says::AddressGone(on(SERVICE, false, None)), now),
                    1 => watch.hear(&Says::Address(on(SERVICE, flag, flag.then_some(3))), now),
                    2 => watch.hear(&eth0(if flag { Link::Up } else { Link::NoCarrier }), now),
                    3 => speaks(&mut watch, if flag { THEIRS } else { ROUTER }, SERVICE, SERVICE, now),
                    4 => speaks(&mut watch, THEIRS, [0; 4], SERVICE, now),
                    5 => watch.hear(&Says::InterfaceGone(2), now),
                    6 => { watch.begin_listing(); watch.end_listing(); }
                    _ => watch.hear(&Says::Address(on(PRIMARY, false, Some(1))), now),
                }
                watch.settle(now);
                let row = watch.rows()[0];
                let changes: Vec<_> = watch.take_changes().collect();
                prop_assert!(changes.len() <= 2);
                for change in changes {
                    prop_assert!(change.from != change.to || change.is_takeover || change.to == Reason::Claimed);
                    // Only an address that is here can be claimed, and only one that need not float can be gone.
                    prop_assert!(change.to != Reason::Gone || roles & FLOATS == 0);
                    prop_assert!(change.is_takeover || change.to != Reason::Claimed || row.state == State::Present);
                }
                prop_assert_eq!(row.state == State::Standby, roles & FLOATS != 0 && row.link == Link::Unknown && !watch.here.iter().any(|h| h.said.address == row.address));
                prop_assert!(row.state != State::Present || row.taken_over_by.is_none());
                prop_assert!(row.since_ms <= now && row.claims >= u64::from(row.reason == Reason::Claimed));
                prop_assert!(!Said(&row, now).to_string().is_empty());
            }
        }
    }
}
