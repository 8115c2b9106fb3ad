//! The watch at work, ten times a second: reads both sockets, lets guard decide, publishes and logs.
//! Forbidden here: blocking; more than a bounded share of what waits in one turn. Process: sampling.

use std::net::{IpAddr, Ipv4Addr};

use crate::guard::config::params::Int;
use crate::guard::net::arp::Arp;
use crate::guard::net::martians::martians;
use crate::guard::net::row::{Change, Row};
use crate::guard::net::rtnetlink::{self, Says};
use crate::guard::net::said::Said;
use crate::guard::net::terms::{Alarm, Name};
use crate::guard::net::watch::Watch;
use crate::guard::terms::warnings::Warning;
use crate::host::kamailio::{
    log::{Severity, log},
    state,
};
use crate::host::net::listening;
use crate::host::net::sockets::{self, Frames, Heard, Netlink};
use crate::shared::region::Region;

/// Datagrams of the kernel that one turn reads; each holds some ten addresses.
const DATAGRAMS: usize = 128;
/// ARP frames that one turn reads: some 0.2 ms.
const FRAMES: usize = 256;
/// A datagram of the kernel's is at most this long (NLMSG_GOODSIZE and its larger dumps).
const DATAGRAM: usize = 32 * 1024;
/// An ARP frame is 28 bytes.
const FRAME: usize = 64;
/// A listing that does not end is asked for again after this.
const LISTING_LIMIT_MS: u64 = 5_000;
/// Lines that one turn logs; one more says how many there were.
const LINES: usize = 8;
/// Everything that is not told by a message is looked at so often.
const SLOW_MS: u64 = 1_000;
/// How long the counter's hint is a warning.
const HINT_MS: u64 = 300_000;

/// Where a listing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listing {
    /// To be begun.
    Wanted,
    /// Links, then addresses, under a number since a time.
    Links(u32, u64),
    Addresses(u32, u64),
    Complete,
}

/// The watch of the sampling process; without anything to watch it does nothing.
pub struct Watcher {
    watch: Option<Watch>,
    senses: Senses,
}

/// How it learns and tells.
struct Senses {
    region: &'static Region,
    netlink: Option<Netlink>,
    frames: Option<Frames>,
    listing: Listing,
    is_interrupted: bool,
    number: u32,
    slow_ms: u64,
    martians: Option<u64>,
    hinted_ms: u64,
    buffer: Vec<u8>,
}

impl Watcher {
    /// Goes on where an earlier sampling process stopped, if there was one.
    pub fn new(region: &'static Region) -> Watcher {
        let frames = sockets::take_frames();
        let watched = listening::watched();
        let before: Vec<Row> = region.addresses.rows().collect();
        let watch = watched.map(|watched| {
            let rows: Vec<Row> = watched
                .rows
                .iter()
                .map(|row| {
                    let same = before.iter().find(|b| b.address == row.address);
                    same.copied().unwrap_or(*row)
                })
                .collect();
            region.addresses.unwatched.set(watched.unwatched as u64);
            Watch::new(&rows, watched.free_bind, !before.is_empty())
        });
        let v4: Vec<Ipv4Addr> = watch
            .iter()
            .flat_map(Watch::rows)
            .filter_map(|row| match row.address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            })
            .collect();
        let frames = frames.and_then(|fd| Frames::new(fd, &v4).ok());
        let is_blind = frames.is_none() && region.settings.get(Int::ArpWatch) == 1;
        region.warn(Warning::NoArp, watch.is_some() && is_blind);
        Watcher {
            watch,
            senses: Senses {
                region,
                netlink: None,
                frames,
                listing: Listing::Wanted,
                is_interrupted: false,
                number: 0,
                slow_ms: 0,
                martians: None,
                hinted_ms: 0,
                buffer: vec![0; DATAGRAM],
            },
        }
    }

    /// One turn: a few system calls when nothing happens.
    pub fn turn(&mut self) {
        if let Some(watch) = &mut self.watch {
            self.senses.turn(watch, state::now_ms());
        }
    }
}

impl Senses {
    fn turn(&mut self, watch: &mut Watch, now: u64) {
        let is_slow = now >= self.slow_ms + SLOW_MS;
        let mut is_news = self.hear(watch, now);
        is_news |= self.see(watch, now);
        if is_news || is_slow {
            watch.ask_promotion(promotes);
        }
        watch.settle(now);
        is_news |= self.tell(watch, now) > 0;
        if (is_news || is_slow) && watch.is_listed() {
            let addresses = &self.region.addresses;
            addresses.publish(watch.rows(), &watch.sums());
        }
        if is_slow {
            self.slow_ms = now;
            self.hint(now);
        }
    }

    /// Reads the kernel's messages; whether there were any.
    fn hear(&mut self, watch: &mut Watch, now: u64) -> bool {
        self.list(watch, now);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(DATAGRAM, 0); // a turn that was broken off did not bring it back
        let mut is_news = false;
        for _ in 0..DATAGRAMS {
            let Some(netlink) = &self.netlink else { break };
            match netlink.next(&mut buffer) {
                Heard::Messages(bytes) => {
                    is_news = true;
                    for message in rtnetlink::messages(bytes) {
                        self.is_interrupted |= message.is_interrupted;
                        watch.hear(&message.says, now);
                        if matches!(message.says, Says::Done | Says::Refused) {
                            self.listed(watch, message.dump, message.says == Says::Refused, now);
                        }
                    }
                }
                Heard::Stranger => (),
                Heard::Lost => self.listing = Listing::Wanted,
                Heard::Nothing => break,
            }
        }
        self.buffer = buffer;
        is_news
    }

    /// Begins a listing where one is wanted, or the last did not end.
    fn list(&mut self, watch: &mut Watch, now: u64) {
        let is_over = |since: u64| now > since + LISTING_LIMIT_MS;
        match self.listing {
            Listing::Links(_, since) | Listing::Addresses(_, since) if is_over(since) => {
                self.netlink = None;
            }
            Listing::Wanted => (),
            _ => return,
        }
        if self.netlink.is_none() {
            self.netlink = Netlink::open().ok();
        }
        watch.begin_listing();
        self.is_interrupted = false;
        self.ask(rtnetlink::GET_LINKS, now);
        self.region
            .warn(Warning::NoAddresses, self.netlink.is_none());
    }

    /// Asks for one kind; without a socket, again after a while.
    fn ask(&mut self, kind: u16, now: u64) {
        self.number = self.number.wrapping_add(1).max(1);
        self.listing = match kind {
            rtnetlink::GET_LINKS => Listing::Links(self.number, now),
            _ => Listing::Addresses(self.number, now),
        };
        let is_asked = self
            .netlink
            .as_ref()
            .map(|n| n.ask(kind, self.number).is_ok());
        if is_asked == Some(false) {
            self.netlink = None;
        }
    }

    /// A listing's end.
    fn listed(&mut self, watch: &mut Watch, number: u32, is_refused: bool, now: u64) {
        match self.listing {
            Listing::Links(n, _) | Listing::Addresses(n, _)
                if n == number && (is_refused || self.is_interrupted) =>
            {
                self.listing = Listing::Wanted;
            }
            Listing::Links(n, _) if n == number => self.ask(rtnetlink::GET_ADDRESSES, now),
            Listing::Addresses(n, _) if n == number => {
                watch.end_listing();
                self.listing = Listing::Complete;
            }
            _ => (),
        }
    }

    /// Reads ARP frames, after the kernel's messages: what left before a frame came is not claimed by it.
    fn see(&mut self, watch: &mut Watch, now: u64) -> bool {
        let Some(frames) = &self.frames else {
            return false;
        };
        let mut buffer = [0; FRAME];
        let mut is_news = false;
        for _ in 0..FRAMES {
            let Some(frame) = frames.next(&mut buffer) else {
                break;
            };
            if let Some(arp) = Arp::parse(frame) {
                is_news = true;
                watch.frame(&arp, now);
            }
        }
        is_news
    }

    /// Events and log lines; answers how many changes there were.
    fn tell(&self, watch: &mut Watch, now: u64) -> usize {
        let mut told = [None; LINES];
        let mut count = 0;
        for change in watch.take_changes() {
            self.region.addresses.push(&change);
            if let Some(place) = told.get_mut(count) {
                *place = Some(change);
            }
            count += 1;
        }
        for change in told.iter().flatten() {
            if let Some(row) = watch.rows().iter().find(|r| r.address == change.address) {
                say(change, row, now);
            }
        }
        if count > LINES {
            let more = count - LINES;
            log!(
                Severity::Warn,
                "{more} more addresses changed at the same time: memguard.addresses has them all"
            );
        }
        count
    }

    /// Where no ARP frame can be read: the machine's counter of packets from its own addresses.
    fn hint(&mut self, now: u64) {
        if self.frames.is_some() || self.region.settings.get(Int::ArpWatch) == 0 {
            return;
        }
        let text = std::fs::read_to_string("/proc/net/stat/rt_cache").unwrap_or_default();
        let counted = martians(&text);
        if let (Some(before), Some(after)) = (self.martians, counted) {
            let is_new = self.hinted_ms == 0 || now > self.hinted_ms + HINT_MS;
            if after > before {
                self.hinted_ms = now;
            }
            if after > before && is_new {
                log!(Severity::Warn, "{}", Warning::ForeignSender.sentence());
            }
        }
        self.martians = counted;
        let is_recent = self.hinted_ms > 0 && now <= self.hinted_ms + HINT_MS;
        self.region.warn(Warning::ForeignSender, is_recent);
    }
}

/// One change in the log.
fn say(change: &Change, row: &Row, now: u64) {
    let (address, from, to) = (change.address, change.from.alarm(), change.to.alarm());
    let severity = match to {
        Alarm::Critical => Severity::Warn,
        _ => Severity::Notice,
    };
    log!(
        severity,
        "address {address}: {from} -> {to}: {}",
        Said(row, now)
    );
}

/// Whether an interface makes a secondary address the primary one when that goes; its own setting or that of all
/// (net/ipv4/devinet.c, IN_DEV_PROMOTE_SECONDARIES).
fn promotes(interface: Name) -> bool {
    let is_on = |name: &str| {
        let path = format!("/proc/sys/net/ipv4/conf/{name}/promote_secondaries");
        std::fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
    };
    let name = interface.to_string();
    let is_plain = !name.contains('/') && name != "." && name != "..";
    is_on("all") || (is_plain && is_on(&name))
}
