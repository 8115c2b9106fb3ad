//! How the server ends: what main says about it at shutdown, and the sampling process's own SIGTERM, which lets it finish.
//! Forbidden here: a signal handler in any other process; waiting for another process for longer than told.

use std::cell::Cell;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::guard::formats::blackbox::reading::Fate;
use crate::host::kamailio::processes;
use crate::host::kamailio::{panic_guard::guarded, state, sys};
use crate::shared::region::Region;

/// Main has not said anything.
const NOTHING: u64 = 0;
/// Main was told to stop.
const TOLD: u64 = 1;
/// Main is gone without a word; the supervising process has seen it.
const VANISHED: u64 = u64::MAX;
/// This and more: the process with this index, less [`DIED`], was gone before main stopped the others.
const DIED: u64 = 2;

/// How long main's word is waited for: it says it before it signals; the system may have signalled all at once.
const WORD_LIMIT: Duration = Duration::from_millis(200);
/// The same while not even the supervising process has been told to end: whoever stops a service may signal this one
/// first, and main comes to its word when it is scheduled.
const NOBODY_TOLD_LIMIT: Duration = Duration::from_secs(3);

/// What `app_shutdown` was before it was ours.
struct Before(Cell<sys::sr_corecb_void_f>);
// SAFETY: written in PROC_INIT before any fork, read by main's own thread.
unsafe impl Sync for Before {}
static LOCAL_BEFORE: Before = Before(Cell::new(None));

/// SIGTERM has come; of this process.
static LOCAL_ASKED: AtomicBool = AtomicBool::new(false);

/// Has main call us when it begins to stop (core/events.h, one place for all modules: who was there is called, too).
/// Process: main, PROC_INIT.
pub fn watch() {
    // SAFETY: the core's own structure, which lives for ever; nobody else runs before the forks.
    unsafe {
        let callbacks = sys::sr_corecb_get();
        if callbacks.is_null() {
            return;
        }
        LOCAL_BEFORE.0.set((*callbacks).app_shutdown);
        (*callbacks).app_shutdown = Some(on_shutdown);
    }
}

/// Main stops its children next (main.c shutdown_children). One that died by itself has been collected by then; those
/// that main will stop are all there.
unsafe extern "C" fn on_shutdown() {
    guarded("the shutdown", || {
        if let Some(region) = state::region() {
            let dead = processes::process_table()
                .skip(1)
                .position(|p| is_gone(p.pid));
            let word = dead.map_or(TOLD, |index| DIED + index as u64 + 1);
            region.control.ending.set(word);
        }
    });
    if let Some(before) = LOCAL_BEFORE.0.get() {
        // SAFETY: another module's callback, called as the core would.
        unsafe { before() };
    }
}

/// Not there at all: a process that ended and was not collected yet is there.
fn is_gone(pid: c_int) -> bool {
    // SAFETY: signal 0 only asks.
    pid > 0
        && unsafe { libc::kill(pid, 0) } != 0
        && std::io::Error::last_os_error().raw_os_error() == Some(libc::ESRCH)
}

extern "C" fn on_signal(_signal: c_int) {
    // ORDERING: Relaxed; one flag, read by the same process.
    LOCAL_ASKED.store(true, Ordering::Relaxed);
}

/// Replaces the core's handlers of SIGTERM and SIGINT, which would end this process at once. Process: sampling.
pub fn take_over_signals() {
    // SAFETY: a handler that only stores to an atomic; all zero is an empty mask and no flags.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as extern "C" fn(c_int) as usize;
        for signal in [libc::SIGTERM, libc::SIGINT] {
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

/// Whether this process shall end.
pub fn is_asked() -> bool {
    // ORDERING: Relaxed; see on_signal.
    LOCAL_ASKED.load(Ordering::Relaxed)
}

/// How the server ends, and which process it was if one died; `None`: it does not end, somebody wants this process
/// gone. Process: sampling, at its own end.
pub fn how(region: &Region) -> Option<(Fate, Option<usize>)> {
    let begin = Instant::now();
    let is_silent = || region.control.ending.get() == NOTHING;
    let is_told = || region.sampling.is_told.get() != 0;
    while is_silent() && begin.elapsed() < NOBODY_TOLD_LIMIT {
        if is_told() && begin.elapsed() >= WORD_LIMIT {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    (is_told() || !is_silent()).then(|| said(Fate::Stopped))
}

/// Main has vanished. Process: the one that supervises the sampling process.
pub fn main_vanished(region: &Region) {
    if region.control.ending.get() == NOTHING {
        region.control.ending.set(VANISHED);
    }
}

/// What main has said, or else this.
pub fn said(otherwise: Fate) -> (Fate, Option<usize>) {
    match state::region().map_or(NOTHING, |region| region.control.ending.get()) {
        NOTHING => (otherwise, None),
        TOLD => (Fate::Stopped, None),
        VANISHED => (Fate::MainVanished, None),
        died => (Fate::ProcessDied, usize::try_from(died - DIED).ok()),
    }
}
