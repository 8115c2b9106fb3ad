//! `event_route[memguard:level-changed]` and `event_route[memguard:address-changed]`: run in Kamailio's secondary timer process, never in the sampling process.
//! Forbidden here: deciding what a level is; anything that blocks on its own account (the script may).

use std::cell::Cell;
use std::ffi::{CStr, CString, c_uint, c_void};
use std::fmt::Write;
use std::ptr;

use crate::guard::config::params::Text;
use crate::guard::net::row::Change;
use crate::host::kamailio::{
    log::{Severity, log},
    panic_guard::guarded,
    state, sys,
};
use crate::shared::figures::events::Event;
use crate::shared::parts::word as shared;
use crate::shared::region::Region;

const LEVEL: &CStr = c"memguard:level-changed";
const ADDRESS: &CStr = c"memguard:address-changed";

/// The change that a route is running for, for pseudo-variables. The timer process only.
struct Running<T>(Cell<Option<T>>);
// SAFETY: set and read by the secondary timer process's only thread.
unsafe impl<T> Sync for Running<T> {}
static LOCAL_RUNNING: Running<Event> = Running(Cell::new(None));
static LOCAL_ADDRESS: Running<AddressChange> = Running(Cell::new(None));

/// A change of an address, with its texts as scripts read them.
#[derive(Clone, Copy)]
pub struct AddressChange {
    /// What changed.
    pub change: Change,
    texts: [Word; 3],
}

/// A short text in place.
#[derive(Clone, Copy)]
struct Word {
    text: [u8; LONGEST],
    length: usize,
}

/// Of an IPv6 address (INET6_ADDRSTRLEN).
const LONGEST: usize = 46;

impl Word {
    const fn empty() -> Word {
        Word {
            text: [0; LONGEST],
            length: 0,
        }
    }
}

impl Write for Word {
    fn write_str(&mut self, part: &str) -> std::fmt::Result {
        for (to, from) in self.text.iter_mut().skip(self.length).zip(part.bytes()) {
            *to = from;
            self.length += 1;
        }
        Ok(())
    }
}

fn short(text: impl std::fmt::Display) -> Word {
    let mut word = Word::empty();
    let _ = write!(word, "{text}"); // cut where it ends
    word
}

/// Which of a change's texts.
#[derive(Clone, Copy)]
pub enum Of {
    /// The address.
    Address = 0,
    /// Its interface.
    Interface = 1,
    /// The other machine's card; empty where none is meant.
    Card = 2,
}

/// The address change whose event route is running in this process.
pub fn address() -> Option<Change> {
    LOCAL_ADDRESS.0.get().map(|running| running.change)
}

/// One of its texts: lives until the route ends.
pub fn address_text(of: Of) -> Option<&'static [u8]> {
    // SAFETY: this process's only thread writes it between two routes and reads it within one.
    let running = unsafe { (*LOCAL_ADDRESS.0.as_ptr()).as_ref()? };
    let word = running.texts.get(of as usize)?;
    word.text.get(..word.length).filter(|text| !text.is_empty())
}

/// The level change whose event route is running in this process.
pub fn running() -> Option<Event> {
    LOCAL_RUNNING.0.get()
}

/// Looks for the route and hooks the timer; in `mod_init`. Without the route nothing is hooked.
pub fn prepare() {
    // SAFETY: mod_init, after the script was parsed (internals F.4).
    unsafe {
        let exists = |route: &CStr| sys::mg_event_route_exists(route.as_ptr()) != 0;
        let is_wanted = exists(LEVEL) || exists(ADDRESS) || !callback().is_empty();
        if !is_wanted || sys::mg_event_routes_init() < 0 {
            return;
        }
        if sys::sr_wtimer_add(Some(on_tick), ptr::null_mut(), 1) < 0 {
            log!(
                Severity::Error,
                "memguard's event routes will not run: Kamailio refused the timer"
            );
        }
    }
}

/// The KEMI function that the configuration names.
fn callback() -> &'static str {
    state::tables().map_or("", |tables| tables.texts.get(Text::EventCallback))
}

/// Each second: runs the routes once for every change since the last tick, oldest first.
unsafe extern "C" fn on_tick(_ticks: c_uint, _param: *mut c_void) {
    guarded("the event route's timer", || {
        let Some(region) = state::region() else {
            return;
        };
        let callback = CString::new(callback()).unwrap_or_default();
        levels(region, &callback);
        addresses(region, &callback);
    });
}

/// How many of `pushed` changes no route has run for yet.
fn fresh(routed: &shared::Word, pushed: u64) -> usize {
    let seen = routed.get();
    routed.set(pushed.max(seen));
    usize::try_from(pushed.saturating_sub(seen)).unwrap_or(usize::MAX)
}

fn levels(region: &Region, callback: &CStr) {
    let count = fresh(&region.control.events_routed, region.events.pushed());
    let changes = region.events.last(count).map(|(_, event)| event);
    for event in oldest_first(changes) {
        LOCAL_RUNNING.0.set(Some(event));
        run(LEVEL, callback);
        LOCAL_RUNNING.0.set(None);
    }
}

fn addresses(region: &Region, callback: &CStr) {
    let count = fresh(&region.addresses.routed, region.addresses.pushed());
    for change in oldest_first(region.addresses.last(count)) {
        let card = change.card.map_or(Word::empty(), short);
        let interface = match change.interface.is_empty() {
            true => Word::empty(),
            false => short(change.interface),
        };
        LOCAL_ADDRESS.0.set(Some(AddressChange {
            change,
            texts: [short(change.address), interface, card],
        }));
        run(ADDRESS, callback);
        LOCAL_ADDRESS.0.set(None);
    }
}

fn oldest_first<T>(newest_first: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
    let all: Vec<T> = newest_first.collect();
    all.into_iter().rev()
}

fn run(route: &CStr, callback: &CStr) {
    // SAFETY: the secondary timer process's main thread; both texts are zero-terminated and live.
    unsafe {
        if sys::mg_event_route_exists(route.as_ptr()) != 0 || !callback.is_empty() {
            sys::mg_event_route_run(route.as_ptr(), callback.as_ptr());
        }
    }
}
