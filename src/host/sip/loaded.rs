//! What the local usrloc loaded from its database: no callback tells of it, so the ways back to it are learned once, when
//! all processes have started. Forbidden here: deciding; SIP workers; more than one slot under usrloc's lock at a time.

use std::cell::Cell;
use std::ffi::{c_int, c_uint, c_void};
use std::ptr;

use crate::guard::sip::aor::local;
use crate::host::kamailio::{
    log::{Severity, log},
    panic_guard::guarded,
    state, sys,
};
use crate::host::sip::{arrived::text, usrloc::end_of};

/// Whether it was learned already.
struct Learned(Cell<bool>);
// SAFETY: used by the secondary timer process's only thread.
unsafe impl Sync for Learned {}
static LOCAL_LEARNED: Learned = Learned(Cell::new(false));

/// Hooks the timer; where usrloc has a database and memory. Process: main, in PROC_INIT.
pub fn prepare() {
    // SAFETY: before any fork; a function that lives as long as the module.
    if unsafe { sys::sr_wtimer_add(Some(on_tick), ptr::null_mut(), 1) } < 0 {
        log!(
            Severity::Warn,
            "phones that usrloc loads under another AoR than they register are not known at first: Kamailio refused the timer"
        );
    }
}

/// Each second, until all processes have started: the first worker loads in its `child_init` (usrloc_mod.c). Process:
/// secondary timer.
unsafe extern "C" fn on_tick(_ticks: c_uint, _param: *mut c_void) {
    guarded("what usrloc loaded", || {
        // SAFETY: reads Kamailio's table of processes.
        if LOCAL_LEARNED.0.get() || unsafe { sys::sr_instance_ready() } == 0 {
            return;
        }
        LOCAL_LEARNED.0.set(true);
        let Some(registrar) = state::registrar() else {
            return;
        };
        for table in &registrar.tables {
            // SAFETY: the name lives for the call; usrloc calls back before it returns.
            let has_slot = |slot| unsafe {
                sys::mg_usrloc_slot(table.as_ptr(), slot, Some(on_contact), ptr::null_mut()) == 0
            };
            let _slots = (0..c_int::MAX).take_while(|slot| has_slot(*slot)).count();
        }
    });
}

/// One contact, under its slot's lock. Under which AoR its phone knows it is not told; its URI and Call-ID stay the same.
unsafe extern "C" fn on_contact(_closure: *mut c_void, contact: *const sys::mg_stored_t) -> c_int {
    guarded("a contact that usrloc loaded", || {
        // SAFETY: the shim's view of a contact under its record's lock.
        let (contact, uri, call_id) = unsafe {
            let contact = &*contact;
            (contact, text(&contact.uri), text(&contact.call_id))
        };
        if let Some(tables) = state::tables() {
            let (until, now) = (end_of(contact), state::coarse_ms() / 1000);
            for number in [
                local::dialog_number(&tables.key, uri, call_id),
                local::uri_number(&tables.key, uri),
            ] {
                tables.hints.raise(number, until, now, 0);
            }
        }
    });
    1
}
