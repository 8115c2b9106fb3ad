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
mod tests;
