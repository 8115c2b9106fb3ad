//! The pseudo-variable `$memguard(key)`: state of the guard for scripts, and the change in an event route.
//! Forbidden here: values that do not live for ever; allocation. Process: SIP workers, and the secondary timer.

use std::ffi::{c_char, c_int, c_ulong};

use crate::guard::config::params::Int;
use crate::guard::net::row::Change;
use crate::guard::terms::event::Event;
use crate::guard::terms::words::Pool;
use crate::host::kamailio::{
    panic_guard::{Fallback, guarded},
    state,
};
use crate::host::module::event_routes::Of;
use crate::host::module::{event_routes, functions};
use crate::host::reports::{self, Now};
use crate::host::sip::arrived::bytes;
use crate::host::sip::hand;
use crate::shared::region::Region;

/// A value of a key.
enum Value {
    Number(u64),
    Word(&'static str),
    Text(&'static [u8]),
    Nothing,
}

/// One key.
pub struct Key {
    /// Its name between the parentheses.
    pub name: &'static str,
    /// What it is; the README says the same.
    #[allow(dead_code)] // the documentation of a key belongs to its line
    pub help: &'static str,
    read: fn(&Region) -> Value,
}

macro_rules! keys {
    ($($name:literal $help:literal $read:expr;)+) => {
        /// Every key; the README's table is checked against it.
        pub const KEYS: &[Key] = &[$(Key { name: $name, help: $help, read: $read }),+];
    };
}

keys! {
    "level" "normal, warning, shedding or emergency" |r| Value::Word(Now::of(r).level().word());
    "mode" "enforce, observe or off" |r| Value::Word(r.settings.mode().word());
    "draining" "seconds until memguard.drain ends; 0 while nothing is drained" |r| Value::Number(r.drains_for(state::now_ms()).div_ceil(1000));
    "tightest" "shm, pkg or os" |r| Value::Word(Now::of(r).tightest().map_or(Pool::Shm, |t| t.pool).word());
    "headroom" "bytes left before the tightest is full" |r| Value::Number(Now::of(r).headroom());
    "headroom_pct" "the same in whole percent" |r| Value::Number(u64::from(Now::of(r).tightest().map_or(0, |t| t.headroom_permyriad()) / 100));
    "shed_pct" "share of class new that is being refused, in percent" |r| Value::Number(Now::of(r).shed_pct());
    "class" "class of the REGISTER being handled; empty for anything else" |_| hand::class_in_hand().map_or(Value::Nothing, |c| Value::Word(c.word()));
    "retry_after" "Retry-After that memguard_reject() will send or has sent; empty until memguard_admit() has refused" |_| {
        functions::told().map_or(Value::Nothing, |told| Value::Number(u64::from(told.retry_after)))
    };
    "retry_after_min" "smallest Retry-After of a refusal, seconds" |r| Value::Number(r.settings.get_u64(Int::RetryAfterMin));
    "from" "in event_route[memguard:level-changed]: the level before; in memguard:address-changed: ok, warning or critical" |_| change(|e| e.from.word(), |c| c.from.alarm().word());
    "to" "in the event route: what it is now" |_| change(|e| e.to.word(), |c| c.to.alarm().word());
    "pool" "in the event route: shm, pkg or os" |_| event_routes::running().map_or(Value::Nothing, |e| Value::Word(e.pool.word()));
    "worker" "in the event route: index of the worker whose pkg it is; empty for shm and os" |_| {
        event_routes::running().and_then(|e| e.worker).map_or(Value::Nothing, |w| Value::Number(u64::from(w)))
    };
    "percent" "in the event route: use in percent" |_| event_routes::running().map_or(Value::Nothing, |e| Value::Number(u64::from(e.percent)));
    "reason" "in the event route: memory, operator or ended; for an address: gone, claimed, here and so on" |_| change(|e| e.reason.word(), |c| c.word());
    "addresses" "the worst of the watched addresses: ok, warning, critical, or off" |r| Value::Word(reports::addresses::in_a_word(r));
    "address" "in event_route[memguard:address-changed]: the address" |_| text(Of::Address);
    "interface" "in that route: its interface" |_| text(Of::Interface);
    "card" "in that route: the card (MAC) of the other machine; empty where there is none" |_| text(Of::Card);
}

/// A word of the change that a route is running for: of a level, or of an address.
fn change(level: fn(Event) -> &'static str, address: fn(Change) -> &'static str) -> Value {
    match (event_routes::running(), event_routes::address()) {
        (Some(event), _) => Value::Word(level(event)),
        (None, Some(change)) => Value::Word(address(change)),
        (None, None) => Value::Nothing,
    }
}

fn text(of: Of) -> Value {
    event_routes::address_text(of).map_or(Value::Nothing, Value::Text)
}

/// Answer of the two callbacks.
struct Answer(c_int);
impl Fallback for Answer {
    fn fallback() -> Answer {
        Answer(0)
    }
}

/// Number of a key; runs when the script is parsed.
///
/// # Safety
/// `length` bytes are readable at `name`.
pub unsafe extern "C" fn key_of(name: *const c_char, length: c_int) -> c_int {
    // SAFETY: the caller's promise.
    let name = unsafe { bytes(name, length) };
    let found = KEYS.iter().position(|key| key.name.as_bytes() == name);
    found.and_then(|i| c_int::try_from(i).ok()).unwrap_or(-1)
}

/// Value of a key: 1 a number, 2 a text, 0 none (`$null`).
///
/// # Safety
/// The three places are writable.
pub unsafe extern "C" fn value_of(
    key: c_int,
    number: *mut c_ulong,
    text: *mut *const c_char,
    length: *mut c_int,
) -> c_int {
    guarded("a pseudo-variable", || {
        let key = usize::try_from(key).ok().and_then(|i| KEYS.get(i));
        let Some((key, region)) = key.zip(state::region()) else {
            return Answer(0);
        };
        // SAFETY: the caller's promise.
        unsafe {
            match (key.read)(region) {
                Value::Number(n) => {
                    *number = n;
                    Answer(1)
                }
                Value::Word(word) => {
                    *text = word.as_ptr().cast();
                    *length = word.len() as c_int;
                    Answer(2)
                }
                Value::Text(bytes) => {
                    *text = bytes.as_ptr().cast();
                    *length = bytes.len() as c_int;
                    Answer(2)
                }
                Value::Nothing => Answer(0),
            }
        }
    })
    .0
}
