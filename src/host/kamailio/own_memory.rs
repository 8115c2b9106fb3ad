//! The module's own memory: libc's, and a reserve of each process for when libc has none left. Rust ends a process whose
//! allocation fails, and Kamailio ends with any of its processes; so nothing here ever says no to what cannot be told no.
//! Forbidden here: Kamailio's pools; logging and allocating inside the allocator; unwinding out of it (undefined).
//!
//! What keeps it from coming to that, in this order:
//! 1. [`scope`] runs a command, an answer or a part of a sample only while the reserve is nearly whole.
//! 2. [`checkpoint`] and [`need`] stand wherever something grows with the number of processes or places. Where memory is
//!    short they unwind to the scope, as a panic does: everything is given back, and the caller says one sentence.
//! 3. What allocates between two of them takes less than [`STEP`], and that much the last one has found free.
//! 4. Should it not be so, the process waits until libc gives; the one that samples ends instead, and is started again.
//!
//! The reserve lies in the module's zeroed data: it is there before the first fork, costs no page until it is used, and
//! each process has its own by copy-on-write, so that a process may be killed in the midst of using it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

use crate::guard::machine::buddy::{Buddy, LEAF, block_bytes, tree_bytes};
use crate::guard::terms::warnings::Warning;
use crate::host::kamailio::{
    log::{Severity, log},
    state,
};

/// Leaves of the reserve, as a power of two.
const ORDER: u32 = 16;
/// Bytes of the reserve: 4 MiB.
const SIZE: usize = LEAF << ORDER;
/// What must be free for a scope to begin.
const ENOUGH: usize = SIZE / 2;
/// What is free after a checkpoint, in one piece.
const STEP: usize = 1 << 20;
/// Alignment that every block has; nothing asks for more than a page.
const PAGE: usize = 4096;
/// With so much used at the most, its pages are kept for the next time.
const KEPT: usize = 256 << 10;
/// How the sampling process ends when there is no memory at all.
pub const NO_MEMORY_STATUS: libc::c_int = 112;
/// Tries to get the reserve from another thread.
const TRIES: u32 = 10_000;

/// The sentence for whoever asked.
pub const SENTENCE: &str = "there is not enough memory outside Kamailio's pools for this answer (ulimit -v, LimitAS, the machine's overcommit limit); try again, and raise that limit";

/// Why a scope did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short;

#[repr(C, align(4096))]
struct Reserve {
    memory: UnsafeCell<[u8; SIZE]>,
    tree: UnsafeCell<[u8; tree_bytes(ORDER)]>,
    /// The process id of who has it; 0: nobody.
    holder: AtomicI32,
    /// Bytes in blocks that are taken, and the most of them since the last time that there were none.
    in_use: AtomicUsize,
    peak: AtomicUsize,
}
// SAFETY: the tree is touched by the holder only, a byte of the memory by whoever was given its block only.
unsafe impl Sync for Reserve {}

/// Of this process (private memory, copied by fork).
static LOCAL: Reserve = Reserve {
    memory: UnsafeCell::new([0; SIZE]),
    tree: UnsafeCell::new([0; tree_bytes(ORDER)]),
    holder: AtomicI32::new(0),
    in_use: AtomicUsize::new(0),
    peak: AtomicUsize::new(0),
};
/// This process may end when there is no memory at all.
static LOCAL_MAY_END: AtomicBool = AtomicBool::new(false);
/// How many scopes this process is in.
static LOCAL_SCOPES: AtomicUsize = AtomicUsize::new(0);
/// This process has logged it.
static LOCAL_SAID: AtomicBool = AtomicBool::new(false);

impl Reserve {
    /// Does something with the tree; `None`: another thread does not let go, or the process was forked off one in which
    /// a thread was at it, so that its copy of the tree may be half written.
    fn with<R>(&self, work: impl FnOnce(&mut Buddy<'_>) -> R) -> Option<R> {
        // SAFETY: a plain call.
        let own = unsafe { libc::getpid() };
        for _ in 0..TRIES {
            // ORDERING: Acquire and Release around the tree, which the holder alone touches.
            match self
                .holder
                .compare_exchange(0, own, Ordering::Acquire, Ordering::Relaxed)
            {
                Ok(_) => {
                    // SAFETY: we are the holder.
                    let tree = unsafe { &mut *self.tree.get() };
                    let done = work(&mut Buddy::new(tree, ORDER));
                    // ORDERING: as above.
                    self.holder.store(0, Ordering::Release);
                    return Some(done);
                }
                Err(other) if other != own => return None,
                // SAFETY: a plain call.
                Err(_) => unsafe { libc::sched_yield() },
            };
        }
        None
    }

    fn start(&self) -> *mut u8 {
        self.memory.get().cast()
    }

    /// Where in the reserve a pointer points to.
    #[inline(always)]
    fn place(&self, pointer: *mut u8) -> Option<usize> {
        let at = (pointer as usize).wrapping_sub(self.start() as usize);
        (at < SIZE).then_some(at)
    }

    fn take(&self, layout: Layout) -> Option<*mut u8> {
        let bytes = wanted(layout)?;
        let at = self.with(|buddy| buddy.take(bytes)).flatten()?;
        let block = block_bytes(bytes).unwrap_or(0);
        // ORDERING: Relaxed; figures.
        let in_use = self.in_use.fetch_add(block, Ordering::Relaxed) + block;
        // ORDERING: Relaxed; figures.
        self.peak.fetch_max(in_use, Ordering::Relaxed);
        // SAFETY: a block inside of the memory.
        Some(unsafe { self.start().add(at) })
    }

    fn give(&self, at: usize, layout: Layout) {
        let Some(bytes) = wanted(layout) else { return };
        let is_given = self.with(|buddy| buddy.give(at, bytes)).is_some();
        let block = block_bytes(bytes).unwrap_or(0);
        // ORDERING: Relaxed; figures. What could not be given back stays in use.
        if is_given && self.in_use.fetch_sub(block, Ordering::Relaxed) == block {
            self.rest();
        }
    }

    /// Nothing is in use: the pages go back to the kernel, which gives zeroed ones the next time.
    fn rest(&self) {
        // ORDERING: Relaxed; a figure.
        if self.peak.swap(0, Ordering::Relaxed) > KEPT {
            self.with(|buddy| {
                if buddy.largest() == SIZE {
                    // SAFETY: whole pages of our own, in which nothing lives, and nobody else can take any meanwhile.
                    unsafe { libc::madvise(self.start().cast(), SIZE, libc::MADV_DONTNEED) };
                }
            });
        }
    }

    fn largest(&self) -> usize {
        self.with(|buddy| buddy.largest()).unwrap_or(0)
    }
}

/// The size whose block fits and is aligned.
fn wanted(layout: Layout) -> Option<usize> {
    (layout.align() <= PAGE).then(|| layout.size().max(layout.align()))
}

/// What libc refused, from the reserve; waits where that is empty, too.
#[cold]
fn refused(layout: Layout) -> *mut u8 {
    if let Some(region) = state::region() {
        region.sampling.memory_refused.add(1);
        region.warn(Warning::MemoryRefused, true);
    }
    loop {
        if let Some(pointer) = LOCAL.take(layout) {
            if let Some(region) = state::region() {
                // ORDERING: Relaxed; a figure.
                let peak = LOCAL.peak.load(Ordering::Relaxed);
                region.sampling.reserve_peak.raise(peak as u64);
            }
            return pointer;
        }
        // ORDERING: Relaxed; a flag of this process's own.
        if LOCAL_MAY_END.load(Ordering::Relaxed) {
            // SAFETY: ends this process at once; its supervisor starts another one.
            unsafe { libc::_exit(NO_MEMORY_STATUS) };
        }
        let pause = libc::timespec {
            tv_sec: 0,
            tv_nsec: 10_000_000,
        };
        // SAFETY: a plain call; then libc with the caller's own layout.
        let pointer = unsafe {
            libc::nanosleep(&pause, std::ptr::null_mut());
            System.alloc(layout)
        };
        if !pointer.is_null() {
            return pointer;
        }
    }
}

/// Rust's allocator in this module.
struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

// SAFETY: blocks come from libc or from the reserve, and go back to where their address says that they came from. It never
// unwinds; the reserve's blocks are large enough and aligned, and belong to one owner at a time.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let pointer = unsafe { System.alloc(layout) };
        match pointer.is_null() {
            false => pointer,
            true => refused(layout),
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let pointer = unsafe { System.alloc_zeroed(layout) };
        if !pointer.is_null() {
            return pointer;
        }
        let pointer = refused(layout);
        // SAFETY: a block of that size.
        unsafe { pointer.write_bytes(0, layout.size()) };
        pointer
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        match LOCAL.place(pointer) {
            // SAFETY: the caller's promise.
            None => unsafe { System.dealloc(pointer, layout) },
            Some(at) => LOCAL.give(at, layout),
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let place = LOCAL.place(pointer);
        // SAFETY: the caller's promise: a size that is none too large for this alignment.
        let new_layout = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        let new = match place {
            None => {
                // SAFETY: the caller's promise.
                let new = unsafe { System.realloc(pointer, layout, size) };
                if !new.is_null() {
                    return new;
                }
                refused(new_layout)
            }
            Some(_) => {
                let block = |layout| wanted(layout).and_then(block_bytes);
                if block(layout) == block(new_layout) {
                    return pointer;
                }
                // SAFETY: as the caller promised for the old layout.
                unsafe { self.alloc(new_layout) }
            }
        };
        // SAFETY: two blocks that do not overlap, of at least so many bytes each; the old one goes.
        unsafe {
            std::ptr::copy_nonoverlapping(pointer, new, layout.size().min(size));
            self.dealloc(pointer, layout);
        }
        new
    }
}

/// Makes what a process needs before it is short of memory: libc allocates a library's thread-local variables when a
/// thread first touches one, and ends the process if it cannot (elf/dl-tls.c); children inherit those of the main thread.
/// Run by the loader as part of loading the module, which itself fails in an orderly way where libc has nothing left.
extern "C" fn prepare() {
    let _ = std::hash::RandomState::new(); // its keys are the first such variable
    // SAFETY: our own pages: a huge one would be resident whole for a few bytes.
    unsafe { libc::madvise(LOCAL.start().cast(), SIZE, libc::MADV_NOHUGEPAGE) };
}

#[used]
#[unsafe(link_section = ".init_array")]
static PREPARE: extern "C" fn() = prepare;

/// This process is started again when it ends. Process: sampling.
pub fn may_end() {
    // ORDERING: Relaxed; a flag of this process's own.
    LOCAL_MAY_END.store(true, Ordering::Relaxed);
}

/// Runs something that allocates as it needs to, and gives all of it back where there is not enough.
///
/// # Errors
/// It was not begun, or not ended: there is not enough memory.
pub fn scope<R>(body: impl FnOnce() -> R) -> Result<R, Short> {
    if LOCAL.largest() < ENOUGH {
        skipped();
        return Err(Short);
    }
    // ORDERING: Relaxed; of the thread that answers and samples.
    LOCAL_SCOPES.fetch_add(1, Ordering::Relaxed);
    let result = catch_unwind(AssertUnwindSafe(body));
    // ORDERING: as above.
    LOCAL_SCOPES.fetch_sub(1, Ordering::Relaxed);
    match result {
        Ok(done) => Ok(done),
        Err(payload) if payload.is::<Short>() => {
            skipped();
            Err(Short)
        }
        Err(panic) => resume_unwind(panic), // the guard's business (entry.rs)
    }
}

#[cold]
fn skipped() {
    let Some(region) = state::region() else {
        return;
    };
    region.sampling.memory_skipped.add(1);
    region.warn(Warning::MemoryRefused, true);
    // ORDERING: Relaxed; a flag of this process's own.
    if !LOCAL_SAID.swap(true, Ordering::Relaxed) {
        log!(
            Severity::Warn,
            "there is not enough memory outside Kamailio's pools (ulimit -v, LimitAS, the machine's overcommit limit): a sample or an answer is left out; counted in memory_skipped, said once"
        );
    }
}

/// Back to the scope; outside of one there is nowhere to go back to, and what is small is allowed there.
#[cold]
fn unwind() {
    // ORDERING: Relaxed; see scope.
    if LOCAL_SCOPES.load(Ordering::Relaxed) != 0 {
        resume_unwind(Box::new(Short))
    }
}

/// Between the parts of something that grows: goes on while [`STEP`] is free. Inside a [`scope`].
#[inline]
pub fn checkpoint() {
    // ORDERING: Relaxed; a figure of this process's own.
    if LOCAL.in_use.load(Ordering::Relaxed) != 0 && LOCAL.largest() < STEP {
        unwind();
    }
}

/// Before something large: goes on if so many bytes can be had in one piece. Inside a [`scope`].
pub fn need(bytes: usize) {
    if !libc_has(bytes) && LOCAL.largest() < block_bytes(bytes).unwrap_or(usize::MAX) {
        unwind();
    }
}

/// Before many small pieces: goes on if so many bytes can be had. Inside a [`scope`].
pub fn need_in_pieces(bytes: usize) {
    // ORDERING: Relaxed; a figure of this process's own.
    let free = SIZE.saturating_sub(LOCAL.in_use.load(Ordering::Relaxed));
    // A block is up to twice as large as what is in it.
    if !libc_has(bytes) && free / 2 < bytes.saturating_add(STEP / 2) {
        unwind();
    }
}

fn libc_has(bytes: usize) -> bool {
    let Ok(layout) = Layout::from_size_align(bytes.max(1), 16) else {
        return false;
    };
    // SAFETY: a size that is not 0; given back as it was taken.
    unsafe {
        // What is taken and given back unseen the compiler leaves out, and takes for given: then libc would have everything.
        let pointer = std::hint::black_box(System.alloc(layout));
        if !pointer.is_null() {
            System.dealloc(pointer, layout);
        }
        !pointer.is_null()
    }
}

/// Before another element of a list that may become large. Inside a [`scope`].
#[inline]
pub fn room_in<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        need(list.capacity().max(4).saturating_mul(2 * size_of::<T>()));
        list.reserve(1);
    }
    checkpoint();
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test: the reserve is the process's own, and tests are its threads.
    #[test]
    fn reserve_gives_grows_moves_and_takes_back() {
        let layout = Layout::from_size_align(100, 8).expect("a layout");
        // SAFETY: blocks are used within their size, and given back once.
        unsafe {
            let first = refused(layout);
            assert!(LOCAL.place(first).is_some());
            first.write_bytes(7, 100);
            let same = ALLOCATOR.realloc(first, layout, 128);
            assert_eq!(same, first, "there was room");
            let larger = Layout::from_size_align(128, 8).expect("a layout");
            let moved = ALLOCATOR.realloc(same, larger, 5000);
            assert!(LOCAL.place(moved).is_none(), "libc has some again");
            assert!((0..100).all(|i| *moved.add(i) == 7));
            ALLOCATOR.dealloc(moved, Layout::from_size_align(5000, 8).expect("a layout"));
            let aligned = refused(Layout::from_size_align(10, 4096).expect("a layout"));
            assert_eq!(aligned as usize % 4096, 0);
            ALLOCATOR.dealloc(
                aligned,
                Layout::from_size_align(10, 4096).expect("a layout"),
            );
        }
        assert_eq!(LOCAL.largest(), SIZE);

        let half = Layout::from_size_align(SIZE / 2 + 1, 8).expect("a layout");
        let most = refused(half);
        assert_eq!(scope(|| ()), Err(Short), "it does not begin");
        // SAFETY: as above.
        unsafe { ALLOCATOR.dealloc(most, half) };
        let dropped = std::rc::Rc::new(());
        let inner = dropped.clone();
        let left = scope(move || {
            let _held = inner;
            need(usize::MAX / 4);
        });
        assert_eq!(left, Err(Short));
        assert_eq!(std::rc::Rc::strong_count(&dropped), 1, "all was dropped");
        assert_eq!(scope(|| 5), Ok(5));
        let panic = catch_unwind(|| scope(|| std::panic::panic_any("another")));
        assert!(panic.is_err_and(|p| p.is::<&str>()), "panics stay panics");
    }
}
