//! The call path of the running thread, by the unwinder of the C runtime (libgcc), which reads unwind tables and stack only.
//! Forbidden here: allocation, locks, logs, panics; the caller may hold the global shm lock. Any process, any thread.
//!
//! From glibc 2.35 on (`_dl_find_object`) libgcc finds the tables of an address without a lock; what it sets up once it
//! sets up in [`warm_up`], before the first fork.
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::host::kamailio::sys;
use crate::shared::counters::contexts::FRAMES;

/// Frames that are looked at for the action, recorded or not.
const MOST_STEPS: usize = 64;

/// x86-64's registers that a function keeps for its caller (System V ABI, DWARF numbers): rbx, rbp, r12 to r15.
const KEPT: [c_int; 6] = [3, 6, 12, 13, 14, 15];

/// `_Unwind_Reason_Code`: go on, and any other one: stop.
const GO_ON: c_int = 0;
const STOP: c_int = 5;

type Step = unsafe extern "C" fn(context: *mut c_void, walk: *mut c_void) -> c_int;

// The language-independent exception handling interface of the Itanium C++ ABI; std links the library that has it.
unsafe extern "C" {
    fn _Unwind_Backtrace(step: Step, walk: *mut c_void) -> c_int;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
    fn _Unwind_GetRegionStart(context: *mut c_void) -> usize;
    fn _Unwind_GetGR(context: *mut c_void, register: c_int) -> usize;
}

/// memguard's own code: first byte and length. Its frames are left out.
static OWN_START: AtomicUsize = AtomicUsize::new(0);
static OWN_LENGTH: AtomicUsize = AtomicUsize::new(0);

/// What a walk found.
pub struct Walk<'a> {
    /// Return addresses, innermost first.
    frames: &'a mut [u64; FRAMES],
    depth: usize,
    steps: usize,
    /// Whether a word is an action of the configuration; `None`: nobody asks.
    is_action: Option<fn(usize) -> bool>,
    action: usize,
}

/// Walks the stack of this thread into `frames`; answers how many there are, and the innermost action of the native
/// configuration that is being run (0: none, or nobody asked).
///
/// `run_actions` (core/action.c) keeps the action that it runs in a register over the call, so the frame of a run that is
/// under way has it, also while Kamailio itself does not tell which it is.
pub fn walk(frames: &mut [u64; FRAMES], is_action: Option<fn(usize) -> bool>) -> (usize, usize) {
    let mut walk = Walk {
        frames,
        depth: 0,
        steps: 0,
        is_action,
        action: 0,
    };
    // SAFETY: the callback gets back the pointer to `walk`, which outlives the call.
    unsafe { _Unwind_Backtrace(step, (&raw mut walk).cast()) };
    (walk.depth, walk.action)
}

unsafe extern "C" fn step(context: *mut c_void, walk: *mut c_void) -> c_int {
    // SAFETY: `walk` passed its own pointer; the context is alive during the callback.
    let (walk, address) = unsafe { (&mut *walk.cast::<Walk<'_>>(), _Unwind_GetIP(context)) };
    walk.steps = walk.steps.wrapping_add(1);
    if address == 0 || walk.steps > MOST_STEPS {
        return STOP;
    }
    // ORDERING: Relaxed; written once, before the first fork.
    let from_own = address.wrapping_sub(OWN_START.load(Ordering::Relaxed));
    if from_own < OWN_LENGTH.load(Ordering::Relaxed) {
        return GO_ON;
    }
    if let Some(is_action) = walk.is_action.filter(|_| walk.action == 0) {
        // SAFETY: the context is alive; these registers are always known (_Unwind_Backtrace saves them first).
        unsafe {
            if _Unwind_GetRegionStart(context) == sys::run_actions as *const () as usize {
                let mut kept = KEPT.into_iter().map(|r| _Unwind_GetGR(context, r));
                walk.action = kept.find(|word| is_action(*word)).unwrap_or(0);
            }
        }
    }
    if let Some(frame) = walk.frames.get_mut(walk.depth) {
        *frame = address as u64;
        walk.depth = walk.depth.wrapping_add(1);
    }
    let is_full = walk.depth >= FRAMES;
    let seeks = walk.is_action.is_some() && walk.action == 0;
    if is_full && !seeks { STOP } else { GO_ON }
}

/// Learns where memguard's own code lies, and has the unwinder set up what it sets up once. Before the first fork.
pub fn warm_up() {
    unsafe extern "C" fn each(
        info: *mut libc::dl_phdr_info,
        _size: libc::size_t,
        _closure: *mut c_void,
    ) -> c_int {
        // SAFETY: the loader's own description, alive during the callback; `dlpi_phnum` headers.
        let (base, headers) = unsafe {
            let info = &*info;
            let headers = std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum));
            (info.dlpi_addr as usize, headers)
        };
        let own = warm_up as *const () as usize;
        for header in headers.iter().filter(|h| h.p_type == libc::PT_LOAD) {
            let (start, length) = (
                base.wrapping_add(header.p_vaddr as usize),
                header.p_memsz as usize,
            );
            if own.wrapping_sub(start) < length {
                // ORDERING: Relaxed; before the first fork, one thread.
                OWN_START.store(start, Ordering::Relaxed);
                OWN_LENGTH.store(length, Ordering::Relaxed);
                return 1;
            }
        }
        0
    }
    // SAFETY: the callback is safe to call during the iteration.
    unsafe { libc::dl_iterate_phdr(Some(each), std::ptr::null_mut()) };
    walk(&mut [0; FRAMES], None);
}
