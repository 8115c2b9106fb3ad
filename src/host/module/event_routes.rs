//! `event_route[memguard:level-changed]`: run in Kamailio's secondary timer process, never in the sampling process.
//! Forbidden here: deciding what a level is; anything that blocks on its own account (the script may).

use std::cell::Cell;
use std::ffi::{CString, c_uint, c_void};
use std::ptr;

use crate::guard::config::params::Text;
use crate::host::kamailio::{
    log::{Severity, log},
    panic_guard::guarded,
    state, sys,
};
use crate::shared::figures::events::Event;

const ROUTE: &std::ffi::CStr = c"memguard:level-changed";

/// The change that the route is running for, for pseudo-variables. The timer process only.
struct Running(Cell<Option<Event>>);
// SAFETY: set and read by the secondary timer process's only thread.
unsafe impl Sync for Running {}
static LOCAL_RUNNING: Running = Running(Cell::new(None));

/// The level change whose event route is running in this process.
pub fn running() -> Option<Event> {
    LOCAL_RUNNING.0.get()
}

/// Looks for the route and hooks the timer; in `mod_init`. Without the route nothing is hooked.
pub fn prepare() {
    // SAFETY: mod_init, after the script was parsed (internals F.4).
    unsafe {
        let is_wanted = sys::mg_event_route_exists(ROUTE.as_ptr()) != 0 || !callback().is_empty();
        if !is_wanted || sys::mg_event_routes_init() < 0 {
            return;
        }
        if sys::sr_wtimer_add(Some(on_tick), ptr::null_mut(), 1) < 0 {
            log!(
                Severity::Error,
                "event_route[memguard:level-changed] will not run: Kamailio refused the timer"
            );
        }
    }
}

/// The KEMI function that the configuration names.
fn callback() -> &'static str {
    state::tables().map_or("", |tables| tables.texts.get(Text::EventCallback))
}

/// Each second: runs the route once for every change since the last tick, oldest first.
unsafe extern "C" fn on_tick(_ticks: c_uint, _param: *mut c_void) {
    guarded("the event route's timer", || {
        let Some(region) = state::region() else {
            return;
        };
        let (seen, pushed) = (region.control.events_routed.get(), region.events.pushed());
        if seen >= pushed {
            return;
        }
        region.control.events_routed.set(pushed);
        let mut fresh: Vec<Event> = region
            .events
            .last((pushed - seen) as usize)
            .map(|(_, event)| event)
            .collect();
        fresh.reverse();
        let callback = CString::new(callback()).unwrap_or_default();
        for event in fresh {
            LOCAL_RUNNING.0.set(Some(event));
            // SAFETY: the secondary timer process's main thread; the name is a constant.
            unsafe { sys::mg_event_route_run(ROUTE.as_ptr(), callback.as_ptr()) };
            LOCAL_RUNNING.0.set(None);
        }
    });
}
