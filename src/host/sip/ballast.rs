//! The ballast: private memory that each SIP worker keeps, to give away when one more message would not fit.
//! Forbidden here: more than two comparisons while there is room; threads other than the process's main one.
//!
//! Kamailio drops a message silently when it cannot allocate it (core/receive.c). With the ballast given away the
//! message fits, the client gets its answer, and until the ballast is taken back this worker refuses `new` and
//! `returning` registrations.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use crate::guard::config::params::Int;
use crate::guard::decide::level::headroom_bytes;
use crate::host::kamailio::{
    log::{Severity, log},
    panic_guard::{Leave, guarded},
    state, sys,
};
use crate::host::memory::hooks;
use crate::host::sip::arrived;

/// With less than this much pkg Kamailio cannot even parse a message (sip_msg alone takes 2 KB); measured like the next.
pub const LEAST: u64 = 8 * 1024;
/// What one message takes of pkg at most in usual scripts: sip_msg (2 KB), headers, lumps, reply. Measured by the
/// test of an empty pool; larger messages add their own length several times.
const MESSAGE_NEED: u64 = 16 * 1024;

/// Written by the main thread of each process only; receiver threads of 6.x read whether it is released.
struct Held {
    block: AtomicPtr<c_void>,
    /// Wanted, and given away.
    is_released: AtomicBool,
    /// The first taking was tried.
    is_tried: AtomicBool,
}
static LOCAL_HELD: Held = Held {
    block: AtomicPtr::new(ptr::null_mut()),
    is_released: AtomicBool::new(false),
    is_tried: AtomicBool::new(false),
};

impl Held {
    // ORDERING: Relaxed throughout; one writer per process, each word stands for itself.
    fn block(&self) -> *mut c_void {
        self.block.load(Ordering::Relaxed)
    }

    fn keep(&self, block: *mut c_void) {
        self.block.store(block, Ordering::Relaxed);
        self.is_released.store(block.is_null(), Ordering::Relaxed);
    }
}

/// Whether this worker has given its ballast away.
pub fn is_released() -> bool {
    // ORDERING: Relaxed; a flag of its own.
    LOCAL_HELD.is_released.load(Ordering::Relaxed)
}

/// Takes the ballast for the first time, in a process that receives SIP; cheap to call again.
pub fn take_first() {
    // ORDERING: Relaxed; a flag that only this process's main thread writes.
    if LOCAL_HELD.is_tried.load(Ordering::Relaxed) {
        return;
    }
    // ORDERING: Relaxed; as above.
    LOCAL_HELD.is_tried.store(true, Ordering::Relaxed);
    let size = wanted();
    if size > 0 {
        // SAFETY: the process's main thread.
        LOCAL_HELD.keep(unsafe { sys::mg_pkg_take(size as usize) });
    }
}

fn wanted() -> u64 {
    state::region().map_or(0, |region| region.settings.get_u64(Int::Ballast))
}

/// SREV_NET_DATA_IN: a message has arrived and nothing is allocated for it yet (core/receive.c).
///
/// # Safety
/// Called by Kamailio with its event.
pub unsafe extern "C" fn on_data(event: *mut sys::sr_event_param_t) -> c_int {
    guarded("the ballast", || {
        // SAFETY: the event carries the received bytes as a live `str` (core/receive.c).
        let text = unsafe {
            let text = (*event).data.cast::<sys::str_>();
            arrived::bytes((*text).s, (*text).len)
        };
        hooks::sample::message(text);
        make_room();
        Leave(0)
    })
    .0
}

/// Gives the ballast away when the next message would not fit, takes it back when there is room for both. The process's
/// main thread, before Kamailio allocates anything for a message.
pub fn make_room() {
    if LOCAL_HELD.block().is_null() && !is_released() {
        return; // none is kept in this process
    }
    let size = state::region().map_or(0, |region| region.control.pkg_size.get());
    let Some(pkg) = hooks::pkg_now(size) else {
        return;
    };
    let free = headroom_bytes(pkg.size, pkg.real_used);
    if free < MESSAGE_NEED && !is_released() {
        release(free);
    } else if is_released() && free > wanted().saturating_add(2 * MESSAGE_NEED) {
        take_back();
    }
}

#[cold]
fn release(free: u64) {
    // SAFETY: the block is ours and given back once; the process's main thread.
    unsafe { sys::mg_pkg_give(LOCAL_HELD.block()) };
    LOCAL_HELD.keep(ptr::null_mut());
    log!(
        Severity::Warn,
        "pkg of this worker has {free} bytes left: its ballast is released, new and returning registrations are refused here"
    );
}

#[cold]
fn take_back() {
    // SAFETY: the process's main thread.
    let block = unsafe { sys::mg_pkg_take(wanted() as usize) };
    if !block.is_null() {
        LOCAL_HELD.keep(block);
        log!(
            Severity::Notice,
            "pkg of this worker has room again: its ballast is back"
        );
    }
}
