//! Call paths that this process walked lately: known again by their return addresses, which stand where they stood.
//! Forbidden here: allocation, locks, logs, panics; reading the stack below the asking frame or above what was once walked.
//!
//! A path that is taken once is taken again and again. To unwind it costs 5 µs, and more in a busy process, whose caches
//! hold other things than unwind tables; to look whether it is the one of before costs a word of the stack per frame. What
//! speaks for it: the asking frame begins at the same address, and a return address decides which function goes on and so
//! how large its frame is, unless it takes room by need (`alloca`); from one match follows where the next has to stand.
//! A frame of the latter kind is found out too, unless all that stood above it still stands there, word for word.
//!
//! Nothing here knows where a processor keeps return addresses. A path is kept only if each stood in the word right below
//! the frame that it returns to, as on x86-64; where that is never so, every path is walked.
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::shared::counters::contexts::FRAMES;

/// Frames of a path, with memguard's own.
const MOST: usize = FRAMES + 8;
/// Paths that begin at the same address, and such addresses.
const WAYS: usize = 4;
const SETS: usize = 16;
/// No main thread's stack is larger: the kernel maps nothing else so near to it (arch/x86/mm/mmap.c, the smallest gap).
const LARGEST_STACK: usize = 128 << 20;
const WORD: usize = size_of::<usize>();

/// A path, the innermost frame first.
#[derive(Clone, Copy)]
pub struct Path {
    /// Where the asking frame stands; 0: no path.
    at: usize,
    /// Return addresses, and how far from `at` each stands.
    addresses: [usize; MOST],
    distances: [u32; MOST],
    count: usize,
    /// A run of the configuration's actions is part of it, or may be: who seeks the action has to walk.
    pub may_run_actions: bool,
    /// Something was not as it has to be: not to be kept.
    is_odd: bool,
}

impl Path {
    /// No frame yet; `at` is an address in the asking frame.
    pub const fn new(at: usize) -> Path {
        Path {
            at,
            addresses: [0; MOST],
            distances: [0; MOST],
            count: 0,
            may_run_actions: false,
            is_odd: false,
        }
    }

    /// One frame more: `address` is where it goes on when the one before returns, which ends at `end` (its CFA).
    ///
    /// # Safety
    /// `end` is what the unwinder says of a frame of this thread.
    pub unsafe fn add(&mut self, address: usize, end: usize) {
        let stands = end.wrapping_sub(WORD);
        let distance = stands.wrapping_sub(self.at);
        if stands < self.at {
            // At first it is a call that the asking frame itself makes, to have the path unwound; later another stack.
            self.is_odd |= self.count > 0;
            return;
        }
        // SAFETY: the caller's promise: a word of this thread's stack, above the asking frame.
        let is_there = stands % WORD == 0 && unsafe { read(stands) } == address;
        match (
            self.addresses.get_mut(self.count),
            self.distances.get_mut(self.count),
        ) {
            (Some(to), Some(place)) if is_there && distance < LARGEST_STACK => {
                (*to, *place) = (address, distance as u32);
                self.count = self.count.wrapping_add(1);
            }
            _ => self.is_odd = true,
        }
    }

    /// Its return addresses.
    pub fn addresses(&self) -> &[usize] {
        self.addresses.get(..self.count).unwrap_or_default()
    }

    /// The highest address that belongs to it; 0: none does.
    pub fn end(&self) -> usize {
        let last = self.distances.get(self.count.wrapping_sub(1));
        last.map_or(0, |distance| self.at.wrapping_add(*distance as usize))
    }

    /// Whether the stack has it again.
    ///
    /// # Safety
    /// `self.at` stands in a frame of this thread that has not returned, and [`Path::end`] is not above the stack.
    unsafe fn stands(&self) -> bool {
        let mut steps = self.addresses().iter().zip(&self.distances);
        steps.all(|(address, distance)| {
            // SAFETY: the caller's promise.
            unsafe { read(self.at.wrapping_add(*distance as usize)) == *address }
        })
    }
}

/// A word of the stack.
///
/// # Safety
/// It lies in the stack of this thread.
unsafe fn read(address: usize) -> usize {
    // SAFETY: the caller's promise; volatile, since no variable of this program is meant.
    unsafe { std::ptr::with_exposed_provenance::<usize>(address).read_volatile() }
}

/// The paths of the main thread of a process. Private memory, copied by fork, which leaves the stack where it is.
pub struct RecentPaths {
    /// Somebody is in here; a signal's handler does without.
    is_taken: AtomicBool,
    /// The highest address of the main thread's stack that was walked; 0: not known yet, and nothing is kept.
    top: AtomicUsize,
    sets: UnsafeCell<[[Path; WAYS]; SETS]>,
}

// SAFETY: the paths are touched by who holds `is_taken` only.
unsafe impl Sync for RecentPaths {}

impl RecentPaths {
    pub const fn new() -> RecentPaths {
        RecentPaths {
            is_taken: AtomicBool::new(false),
            top: AtomicUsize::new(0),
            sets: UnsafeCell::new([const { [const { Path::new(0) }; WAYS] }; SETS]),
        }
    }

    /// Keeps paths from now on, of the stack that ends at `top`. Before the first fork.
    pub fn start(&self, top: usize) {
        // ORDERING: Relaxed; one thread, before the first fork.
        self.top.store(top, Ordering::Relaxed);
    }

    /// Hands on the path that begins in the frame at `at`, if it is a known one.
    ///
    /// # Safety
    /// `at` stands in the caller's frame.
    pub unsafe fn find<T>(&self, at: usize, then: impl FnOnce(&Path) -> T) -> Option<T> {
        self.set(at, |set| {
            let mut begun = set.iter().filter(|path| path.at == at);
            // SAFETY: the caller's promise; what is kept ends within this stack (keep).
            begun.find(|path| unsafe { path.stands() }).map(then)
        })?
    }

    /// Keeps a path that was walked just now.
    pub fn keep(&self, path: &Path) {
        if path.is_odd || path.count == 0 {
            return;
        }
        self.set(path.at, |set| {
            // ORDERING: Relaxed; written before the first fork.
            if path.end() <= self.top.load(Ordering::Relaxed) {
                set.rotate_right(1);
                set.first_mut().into_iter().for_each(|first| *first = *path);
            }
        });
    }

    /// The paths that begin at `at` stand in this set, if it is an address of the main thread's stack.
    fn set<T>(&self, at: usize, then: impl FnOnce(&mut [Path; WAYS]) -> T) -> Option<T> {
        // ORDERING: Relaxed; written before the first fork.
        let depth = self.top.load(Ordering::Relaxed).wrapping_sub(at);
        // ORDERING: Acquire; pairs with the Release below.
        if depth >= LARGEST_STACK || self.is_taken.swap(true, Ordering::Acquire) {
            return None;
        }
        // SAFETY: `is_taken` is ours.
        let sets = unsafe { &mut *self.sets.get() };
        let answer = sets.get_mut(at / 16 % SETS).map(then);
        // ORDERING: Release; pairs with the Acquire above.
        self.is_taken.store(false, Ordering::Release);
        answer
    }
}
