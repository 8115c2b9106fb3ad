//! The call path of the running thread, by the unwinder of the C runtime (libgcc), which reads unwind tables and stack only.
//! Forbidden here: allocation, locks, logs, panics; the caller may hold the global shm lock. Any process, any thread.
//!
//! From glibc 2.35 on (`_dl_find_object`) libgcc finds the tables of an address without a lock; what it sets up once it
//! sets up in [`warm_up`], before the first fork. A path that the process took lately is not unwound again.
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
use crate::host::memory::recent_paths::{Path, RecentPaths};
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
    fn _Unwind_GetCFA(context: *mut c_void) -> usize;
    fn _Unwind_GetRegionStart(context: *mut c_void) -> usize;
    fn _Unwind_GetGR(context: *mut c_void, register: c_int) -> usize;
}

/// memguard's own code: first byte and length. Its frames are left out.
static OWN_START: AtomicUsize = AtomicUsize::new(0);
static OWN_LENGTH: AtomicUsize = AtomicUsize::new(0);

static LOCAL_RECENT: RecentPaths = RecentPaths::new();

/// What a walk found.
struct Walk<'a> {
    /// Return addresses, innermost first.
    frames: &'a mut [u64; FRAMES],
    depth: usize,
    steps: usize,
    /// Whether a word is an action of the configuration; `None`: nobody asks.
    is_action: Option<fn(usize) -> bool>,
    action: usize,
    path: Path,
    /// It was left off before the outermost frame.
    is_cut: bool,
}

/// Walks the stack of this thread into `frames`; answers how many there are, and the innermost action of the native
/// configuration that is being run (0: none, or nobody asked).
///
/// `run_actions` (core/action.c) keeps the action that it runs in a register over the call, so the frame of a run that is
/// under way has it, also while Kamailio itself does not tell which it is.
pub fn walk(frames: &mut [u64; FRAMES], is_action: Option<fn(usize) -> bool>) -> (usize, usize) {
    walk_knowing(&LOCAL_RECENT, frames, is_action)
}

/// [`walk`], by somebody who knows these paths. Never inlined: its frame is where paths begin.
#[inline(never)]
fn walk_knowing(
    recent: &RecentPaths,
    frames: &mut [u64; FRAMES],
    is_action: Option<fn(usize) -> bool>,
) -> (usize, usize) {
    let here = 0usize;
    let at = std::hint::black_box(&raw const here).expose_provenance();
    // SAFETY: `here` is a variable of this frame.
    let known = unsafe {
        recent.find(at, |path| {
            (is_action.is_none() || !path.may_run_actions).then(|| told(frames, path.addresses()))
        })
    };
    if let Some(Some(depth)) = known {
        return (depth, 0);
    }
    let mut walk = Walk::new(frames, is_action, at);
    walk.go();
    // What was not looked at may run actions.
    walk.path.may_run_actions |= walk.is_cut;
    if known.is_none() {
        recent.keep(&walk.path);
    }
    (walk.depth, walk.action)
}

/// Writes down the frames of a path that are not memguard's own; answers how many.
fn told(frames: &mut [u64; FRAMES], addresses: &[usize]) -> usize {
    let addresses = addresses.iter().filter(|address| !is_own(**address));
    let told = frames.iter_mut().zip(addresses);
    told.map(|(frame, address)| *frame = *address as u64)
        .count()
}

/// Whether code of memguard itself stands there.
fn is_own(address: usize) -> bool {
    // ORDERING: Relaxed; written once, before the first fork.
    let from_own = address.wrapping_sub(OWN_START.load(Ordering::Relaxed));
    from_own < OWN_LENGTH.load(Ordering::Relaxed)
}

impl<'a> Walk<'a> {
    fn new(
        frames: &'a mut [u64; FRAMES],
        is_action: Option<fn(usize) -> bool>,
        at: usize,
    ) -> Walk<'a> {
        Walk {
            frames,
            depth: 0,
            steps: 0,
            is_action,
            action: 0,
            path: Path::new(at),
            is_cut: false,
        }
    }

    fn go(&mut self) {
        // SAFETY: the callback gets back the pointer to this walk, which outlives the call.
        unsafe { _Unwind_Backtrace(step, std::ptr::from_mut(self).cast()) };
    }
}

unsafe extern "C" fn step(context: *mut c_void, walk: *mut c_void) -> c_int {
    // SAFETY: `go` passed its own pointer; the context is alive during the callback.
    let (walk, address) = unsafe { (&mut *walk.cast::<Walk<'_>>(), _Unwind_GetIP(context)) };
    walk.steps = walk.steps.wrapping_add(1);
    if address == 0 || walk.steps > MOST_STEPS {
        walk.is_cut = address != 0;
        return STOP;
    }
    if walk.depth < FRAMES {
        // SAFETY: the context is alive; its frame is one of this thread.
        unsafe { walk.path.add(address, _Unwind_GetCFA(context)) };
    }
    if is_own(address) {
        return GO_ON;
    }
    // SAFETY: the context is alive; these registers are always known (_Unwind_Backtrace saves them first).
    unsafe {
        if _Unwind_GetRegionStart(context) == sys::run_actions as *const () as usize {
            walk.path.may_run_actions = true;
            if let Some(is_action) = walk.is_action.filter(|_| walk.action == 0) {
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
    walk.is_cut = is_full && !seeks;
    if walk.is_cut { STOP } else { GO_ON }
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
    let (here, mut frames) = (0usize, [0; FRAMES]);
    let mut walk = Walk::new(&mut frames, None, (&raw const here).expose_provenance());
    walk.go();
    LOCAL_RECENT.start(walk.path.end());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls itself and its sisters by the digits of `turns`; at the end somebody walks, twice and by two ways.
    macro_rules! sisters {
        ($($name:ident: $room:literal),+) => {
            $(#[inline(never)]
            fn $name(recent: &RecentPaths, turns: &[u8], walks: &mut dyn FnMut(&RecentPaths)) -> usize {
                let room = std::hint::black_box([turns.len(); $room]);
                go(recent, turns, walks).wrapping_add(std::hint::black_box(&room).len())
            })+

            fn go(recent: &RecentPaths, turns: &[u8], walks: &mut dyn FnMut(&RecentPaths)) -> usize {
                const SISTERS: &[fn(&RecentPaths, &[u8], &mut dyn FnMut(&RecentPaths)) -> usize] = &[$($name),+];
                match turns {
                    [] => { walks(recent); 0 }
                    [turn, rest @ ..] => SISTERS[usize::from(*turn) % SISTERS.len()](recent, rest, walks),
                }
            }
        };
    }
    sisters!(anna: 1, berta: 2, clara: 3, dora: 1, emma: 40);

    /// The path from here on as it is known, and as it is.
    #[inline(never)]
    fn asked(recent: &RecentPaths) -> (Option<Vec<u64>>, Vec<u64>) {
        let here = 0usize;
        let at = std::hint::black_box(&raw const here).expose_provenance();
        let [mut known, mut frames] = [[0; FRAMES]; 2];
        // SAFETY: `here` is a variable of this frame.
        let depth = unsafe { recent.find(at, |path| told(&mut known, path.addresses())) };
        let mut walk = Walk::new(&mut frames, None, at);
        walk.go();
        recent.keep(&walk.path);
        let depth_of_truth = walk.depth;
        let known = depth.map(|depth| known[..depth].to_vec());
        (known, frames[..depth_of_truth].to_vec())
    }

    fn top() -> usize {
        let (here, mut frames) = (0usize, [0; FRAMES]);
        let mut walk = Walk::new(&mut frames, None, (&raw const here).expose_provenance());
        walk.go();
        walk.path.end()
    }

    #[test]
    fn a_path_that_is_known_again_is_the_one_that_unwinding_finds() {
        let recent = RecentPaths::new();
        recent.start(top());
        let (mut asks, mut known, mut paths) = (0, 0, std::collections::HashSet::new());
        let mut random = 1u64;
        for _ in 0..20_000 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let count = 1 + (random >> 60) as usize % 6;
            let turns: Vec<u8> = (0..count)
                .map(|i| (random >> (20 + 4 * i)) as u8 % 5)
                .collect();
            go(&recent, &turns, &mut |recent| {
                let (path, truth) = asked(recent);
                if let Some(path) = path {
                    known += 1;
                    // Without the frames below the one that asks.
                    assert!(truth.ends_with(&path), "{turns:?}: {path:?}, {truth:?}");
                    assert!(truth.len() <= path.len() + 2, "{path:?}, {truth:?}");
                }
                paths.insert(truth);
                asks += 1;
            });
        }
        assert!(paths.len() > 1000, "{} paths", paths.len());
        assert!(known > asks / 10, "{known} of {asks} were known");
    }

    #[test]
    fn only_paths_of_the_stack_that_it_was_told_of_are_kept() {
        let maps = std::fs::read_to_string("/proc/self/maps").expect("proc is there");
        let line = maps.lines().find(|line| line.ends_with("[stack]"));
        let range = line.and_then(|line| line.split(['-', ' ']).nth(1));
        let of_main = usize::from_str_radix(range.expect("main has a stack"), 16).expect("hex");
        let known = |end: fn(usize) -> usize| {
            let asks = move || {
                let recent = RecentPaths::new();
                recent.start(end(of_main));
                (0..3)
                    .map(|_| asked(&recent).0.is_some())
                    .collect::<Vec<bool>>()
            };
            std::thread::spawn(asks)
                .join()
                .expect("a walk does not panic")
        };
        assert_eq!(known(|_| top()), [false, true, true]);
        assert_eq!(known(|of_main| of_main), [false; 3]);
        assert_eq!(known(|_| 0), [false; 3]);
    }
}
