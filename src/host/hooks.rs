//! Wrappers around the allocation and free pointers of `_pkg_root` and `_shm_root`; every process runs them on every
//! allocation. Forbidden here: locks, system calls, allocation, logging, panics; callers may hold the global shm lock.
//!
//! Counted size = the block's size in its own header, so the sums equal the manager's `used_size` to the byte.
//! pkg totals are kept in private memory (`LOCAL`) because a child's heap is its parent's heap at the fork: the copy
//! that fork makes is exactly right, while the parent's shared row may have moved on. shm totals go straight into the
//! row of `process_no`. Other threads of a process (receivers of 6.x) use the row's atomic half.
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_uint, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use super::owners::{self, Caller};
use super::{state, sys};
use crate::shared::rows::{MAX_PROCESSES, Row, ShmSum};
use crate::shared::sites::{SitePool, Sites};

type Malloc = sys::sr_malloc_f;
type Realloc = sys::sr_realloc_f;
type Free = sys::sr_free_f;

/// The manager's own functions of one pool, as they were before the wrappers.
#[derive(Clone, Copy)]
#[repr(C)]
struct Real {
    malloc: Malloc,
    free: Free,
    malloc_unsafe: Malloc,
    free_unsafe: Free,
    realloc: Realloc,
    resize: sys::sr_resize_f,
    mallocxz: Malloc,
    reallocxf: Realloc,
}

const NOTHING: Real = Real {
    malloc: None,
    mallocxz: None,
    malloc_unsafe: None,
    realloc: None,
    reallocxf: None,
    resize: None,
    free: None,
    free_unsafe: None,
};

/// What a wrapper needs to know of its pool; written once before the first fork, read-only afterwards.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct PoolView {
    /// Distance from the user pointer back to the size word.
    size_back: u8,
    /// Distance back to the free mark.
    free_back: u8,
    /// Distances back to the address of the allocating place's file name, and to its line.
    file_back: u8,
    line_back: u8,
    /// The place of a block reads back as it was given (found by trying).
    knows_places: bool,
    /// The manager does not book shrinking reallocs (found by trying, see [`install_pkg`]).
    forgets_shrinks: bool,
    /// The bits of the size word that are size.
    size_mask: u64,
    /// The bits of the free mark that say "free".
    free_mask: u64,
    /// First byte of the pool.
    start: usize,
    /// Its length in bytes.
    length: usize,
    /// The manager's own figures, in place: `used_size`, `real_used`, free fragments. Never null.
    used: *const u64,
    real_used: *const u64,
    free_fragments: *const u64,
}

/// What the header of a live block says.
#[derive(Clone, Copy)]
struct Block {
    size: u64,
    file: usize,
    line: u32,
}

/// What the figures of no pool point to.
static NOTHING_USED: u64 = 0;

const NO_POOL: PoolView = PoolView {
    size_back: 0,
    free_back: 0,
    forgets_shrinks: false,
    size_mask: 0,
    free_mask: 0,
    start: 0,
    length: 0,
    file_back: 0,
    line_back: 0,
    knows_places: false,
    used: &raw const NOTHING_USED,
    real_used: &raw const NOTHING_USED,
    free_fragments: &raw const NOTHING_USED,
};

/// Private totals of this process's pkg heap; fork copies them with the heap that they describe.
#[repr(C)]
struct PkgLocal {
    allocs: Cell<u64>,
    bytes_allocated: Cell<u64>,
    frees: Cell<u64>,
    bytes_freed: Cell<u64>,
    unbooked: Cell<u64>,
}

/// What each process has for itself (private memory, copied by fork).
///
/// Every allocation of the server comes by, with the caches full of other things: the order is that of the cache
/// lines, of which one call touches three.
#[repr(C, align(64))]
struct Local {
    pkg: PkgLocal,
    rows: Cell<*const Row>,
    /// How many rows there are; 0 until `rows` is set.
    row_count: Cell<usize>,
    /// Thread pointer of the process's main thread; equal in all children that it forks.
    main_thread: Cell<usize>,
    pkg_pool: Cell<PoolView>,
    pkg_real: Cell<Real>,
    shm_pool: Cell<PoolView>,
    shm_real: Cell<Real>,
    pkg_failures: Cell<u64>,
}
const _: () = assert!(size_of::<PoolView>() == 64 && size_of::<Real>() == 64);
const _: () = assert!(std::mem::offset_of!(Local, pkg_pool) == 64);
// SAFETY: only the process's main thread writes (installation before the first fork; the pkg totals, because pkg is
// not thread-safe in any version: internals C.5). Other threads read only what installation wrote.
unsafe impl Sync for Local {}

static LOCAL: Local = Local {
    rows: Cell::new(ptr::null()),
    row_count: Cell::new(0),
    main_thread: Cell::new(0),
    pkg_real: Cell::new(NOTHING),
    shm_real: Cell::new(NOTHING),
    pkg_pool: Cell::new(NO_POOL),
    shm_pool: Cell::new(NO_POOL),
    pkg_failures: Cell::new(0),
    pkg: PkgLocal {
        allocs: Cell::new(0),
        bytes_allocated: Cell::new(0),
        frees: Cell::new(0),
        bytes_freed: Cell::new(0),
        unbooked: Cell::new(0),
    },
};

/// Adds to a private total and returns the new value.
#[inline(always)]
fn bump(total: &Cell<u64>, n: u64) -> u64 {
    let value = total.get().wrapping_add(n);
    total.set(value);
    value
}

/// Address of the running thread's control block: one load, tells threads apart without a call.
#[inline(always)]
fn thread_pointer() -> usize {
    let pointer: usize;
    // SAFETY: on x86-64 Linux %fs:0 holds the thread control block's own address (ELF TLS ABI, variant II).
    unsafe {
        std::arch::asm!("mov {}, fs:0", out(reg) pointer, options(nostack, preserves_flags, readonly, pure));
    }
    pointer
}

/// Whether the caller runs on the process's main thread (receivers of 6.x have others).
pub fn is_main_thread() -> bool {
    thread_pointer() == LOCAL.main_thread.get()
}

/// This process's row; `None` above the number of rows.
#[inline(always)]
pub fn own_row() -> Option<&'static Row> {
    // SAFETY: process_no is a plain int of the server, set right after each fork (core/pt.c).
    let index = unsafe { sys::process_no } as usize;
    if index < LOCAL.row_count.get() {
        // SAFETY: rows points to row_count rows that live as long as the server.
        Some(unsafe { &*LOCAL.rows.get().wrapping_add(index) })
    } else {
        None
    }
}

impl PoolView {
    #[inline(always)]
    fn holds(&self, block: *mut c_void) -> bool {
        (block as usize).wrapping_sub(self.start) < self.length
    }

    /// Size of a live block as the manager keeps it.
    #[inline(always)]
    fn size_of(&self, block: *mut c_void) -> u64 {
        // SAFETY: the block came from this pool's manager, whose header lies `size_back` bytes before it
        // (layout compiled from its headers and tried at installation).
        let word = unsafe {
            *block
                .cast::<u8>()
                .wrapping_sub(usize::from(self.size_back))
                .cast::<u64>()
        };
        word & self.size_mask
    }

    /// What the header of a live block says.
    #[inline(always)]
    fn header(&self, block: *mut c_void) -> Block {
        let at = |back: usize| block.cast::<u8>().wrapping_sub(back);
        // SAFETY: as in size_of: words of the same header.
        let (file, line) = unsafe {
            (
                *at(usize::from(self.file_back)).cast::<usize>(),
                *at(usize::from(self.line_back)).cast::<u32>(),
            )
        };
        Block {
            size: self.size_of(block),
            file,
            line,
        }
    }

    /// Header of a block that is about to be freed; `None` when it is not this pool's or is free already.
    #[inline(always)]
    fn if_live(&self, block: *mut c_void) -> Option<Block> {
        if !self.holds(block) {
            return None;
        }
        // SAFETY: as in size_of; inside the pool both words are readable whatever the pointer is.
        let mark = unsafe {
            *block
                .cast::<u8>()
                .wrapping_sub(usize::from(self.free_back))
                .cast::<u64>()
        };
        if mark & self.free_mask != 0 {
            None
        } else {
            Some(self.header(block))
        }
    }

    #[inline(always)]
    fn read(word: *const u64) -> u64 {
        // SAFETY: never null; an aligned word of the manager's control block; a torn read is impossible on x86-64 and a
        // slightly old value is as good (internals B.6).
        unsafe { word.read_volatile() }
    }
}

// ------------------------------------------------------------------------------------------------ counting

/// Publishes the private pkg totals after an operation that changed them.
#[inline(always)]
fn publish_pkg(row: &Row) {
    let used = PoolView::read(LOCAL.pkg_pool.get().used);
    let real_used = PoolView::read(LOCAL.pkg_pool.get().real_used);
    row.pkg.used.set(used);
    row.pkg.real_used.set(real_used);
    if real_used > row.pkg.peak.get() {
        row.pkg.peak.set(real_used);
    }
}

#[inline(always)]
fn pkg_allocated(size: u64, caller: &Caller) {
    owners::pkg_allocated(size, caller);
    let allocs = bump(&LOCAL.pkg.allocs, 1);
    let bytes = bump(&LOCAL.pkg.bytes_allocated, size);
    if let Some(row) = own_row() {
        row.pkg.allocs.set(allocs);
        row.pkg.bytes_allocated.set(bytes);
        publish_pkg(row);
    }
}

#[inline(always)]
fn pkg_freed(block: Block) {
    let Block { size, file, line } = block;
    owners::pkg_freed(size, file, line);
    let frees = bump(&LOCAL.pkg.frees, 1);
    let bytes = bump(&LOCAL.pkg.bytes_freed, size);
    if let Some(row) = own_row() {
        row.pkg.frees.set(frees);
        row.pkg.bytes_freed.set(bytes);
        publish_pkg(row);
    }
}

#[cold]
fn pkg_failed(size: usize, caller: &Caller) {
    owners::pkg_failed(size as u64, caller, state::now_ms() / 1000);
    let failures = bump(&LOCAL.pkg_failures, 1);
    if let Some(row) = own_row() {
        row.pkg_failures.set(failures);
        publish_pkg(row);
    }
}

/// What an in-place or moving realloc did to the totals.
struct Change {
    grown: u64,
    shrunk: u64,
    unbooked: u64,
}

impl Change {
    fn of(pool: &PoolView, before: u64, after: u64, moved: bool) -> Change {
        let shrunk = before.saturating_sub(after);
        Change {
            grown: after.saturating_sub(before),
            shrunk,
            unbooked: if pool.forgets_shrinks && !moved {
                shrunk
            } else {
                0
            },
        }
    }
}

fn pkg_changed(change: Change, block: Block) {
    owners::pkg_changed(
        change.grown,
        change.shrunk,
        change.unbooked,
        block.file,
        block.line,
    );
    bump(&LOCAL.pkg.bytes_allocated, change.grown);
    bump(&LOCAL.pkg.bytes_freed, change.shrunk);
    bump(&LOCAL.pkg.unbooked, change.unbooked);
    if let Some(row) = own_row() {
        republish(row);
    }
}

/// Writes every pkg total of this process into its row (after a fork, or after a realloc).
fn republish(row: &Row) {
    let totals = &LOCAL.pkg;
    row.pkg.allocs.set(totals.allocs.get());
    row.pkg.bytes_allocated.set(totals.bytes_allocated.get());
    row.pkg.frees.set(totals.frees.get());
    row.pkg.bytes_freed.set(totals.bytes_freed.get());
    row.pkg.unbooked.set(totals.unbooked.get());
    row.pkg_failures.set(LOCAL.pkg_failures.get());
    publish_pkg(row);
}

/// Runs one of two bodies on this process's shm totals: the single-writer half for the main thread, the atomic half
/// for any other.
macro_rules! on_shm_totals {
    (|$totals:ident| $body:expr) => {
        if let Some(row) = own_row() {
            if thread_pointer() == LOCAL.main_thread.get() {
                let $totals = &row.shm;
                $body
            } else {
                let $totals = &row.shm_threads;
                $body
            }
        }
    };
}

#[inline(always)]
fn shm_allocated(size: u64, caller: &Caller) {
    owners::shm_allocated(size, caller, thread_pointer());
    on_shm_totals!(|totals| {
        totals.allocs.add(1);
        totals.bytes_allocated.add(size);
    });
}

#[inline(always)]
fn shm_freed(block: Block) {
    let Block { size, file, line } = block;
    owners::shm_freed(size, file, line, thread_pointer());
    on_shm_totals!(|totals| {
        totals.frees.add(1);
        totals.bytes_freed.add(size);
    });
}

#[cold]
fn shm_failed(size: usize, caller: &Caller) {
    owners::shm_failed(
        size as u64,
        caller,
        state::now_ms() / 1000,
        thread_pointer(),
    );
    on_shm_totals!(|totals| totals.failures.add(1));
}

fn shm_changed(change: Change, block: Block) {
    owners::shm_changed(
        change.grown,
        change.shrunk,
        change.unbooked,
        block.file,
        block.line,
        thread_pointer(),
    );
    on_shm_totals!(|totals| {
        totals.bytes_allocated.add(change.grown);
        totals.bytes_freed.add(change.shrunk);
        totals.unbooked.add(change.unbooked);
    });
}

// ------------------------------------------------------------------------------------------------ wrappers

macro_rules! wrap_malloc {
    ($name:ident, $pool:ident, $real:ident, $entry:ident, $allocated:path, $failed:path) => {
        unsafe extern "C" fn $name(
            block: *mut c_void,
            size: usize,
            file: *const c_char,
            func: *const c_char,
            line: c_uint,
            mname: *const c_char,
        ) -> *mut c_void {
            let Some(real) = LOCAL.$real.get().$entry else {
                return ptr::null_mut();
            };
            // SAFETY: the manager's own function with its own arguments.
            let got = unsafe { real(block, size, file, func, line, mname) };
            let caller = Caller {
                file,
                func,
                line,
                module: mname,
            };
            if got.is_null() {
                $failed(size, &caller);
            } else {
                let size = LOCAL.$pool.get().size_of(got);
                $allocated(size, &caller);
            }
            got
        }
    };
}

macro_rules! wrap_free {
    ($name:ident, $pool:ident, $real:ident, $entry:ident, $freed:path) => {
        unsafe extern "C" fn $name(
            block: *mut c_void,
            pointer: *mut c_void,
            file: *const c_char,
            func: *const c_char,
            line: c_uint,
            mname: *const c_char,
        ) {
            let Some(real) = LOCAL.$real.get().$entry else {
                return;
            };
            // Read before the real free: the header then names the freeing place.
            let old = LOCAL.$pool.get().if_live(pointer);
            // SAFETY: the manager's own function with its own arguments.
            unsafe { real(block, pointer, file, func, line, mname) };
            if let Some(old) = old {
                $freed(old);
            }
        }
    };
}

/// What a failed realloc leaves behind: `realloc` keeps the old block, `reallocxf` and `resize` free it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnFailure {
    Keeps,
    Frees,
}

macro_rules! wrap_realloc {
    ($name:ident, $pool:ident, $real:ident, $entry:ident, $on_failure:expr,
     $allocated:path, $freed:path, $changed:path, $failed:path) => {
        unsafe extern "C" fn $name(
            block: *mut c_void,
            pointer: *mut c_void,
            size: usize,
            file: *const c_char,
            func: *const c_char,
            line: c_uint,
            mname: *const c_char,
        ) -> *mut c_void {
            let Some(real) = LOCAL.$real.get().$entry else {
                return ptr::null_mut();
            };
            let caller = Caller {
                file,
                func,
                line,
                module: mname,
            };
            let before = LOCAL.$pool.get().if_live(pointer);
            // SAFETY: the manager's own function with its own arguments.
            let got = unsafe { real(block, pointer, size, file, func, line, mname) };
            if got.is_null() {
                if size != 0 {
                    $failed(size, &caller);
                }
                if let (Some(before), true) = (before, size == 0 || $on_failure == OnFailure::Frees)
                {
                    $freed(before);
                }
                return got;
            }
            let after = LOCAL.$pool.get().header(got);
            match before {
                // In place the block keeps the place that allocated it (fm, qm and tlsf `*_realloc`).
                Some(before)
                    if got == pointer && (before.file, before.line) == (after.file, after.line) =>
                {
                    let change = Change::of(&LOCAL.$pool.get(), before.size, after.size, false);
                    $changed(change, before);
                }
                Some(before) => {
                    $allocated(after.size, &caller);
                    $freed(before);
                }
                None => $allocated(after.size, &caller),
            }
            got
        }
    };
}

wrap_malloc!(
    pkg_malloc,
    pkg_pool,
    pkg_real,
    malloc,
    pkg_allocated,
    pkg_failed
);
wrap_malloc!(
    pkg_mallocxz,
    pkg_pool,
    pkg_real,
    mallocxz,
    pkg_allocated,
    pkg_failed
);
wrap_realloc!(
    pkg_realloc,
    pkg_pool,
    pkg_real,
    realloc,
    OnFailure::Keeps,
    pkg_allocated,
    pkg_freed,
    pkg_changed,
    pkg_failed
);
wrap_realloc!(
    pkg_reallocxf,
    pkg_pool,
    pkg_real,
    reallocxf,
    OnFailure::Frees,
    pkg_allocated,
    pkg_freed,
    pkg_changed,
    pkg_failed
);
wrap_free!(pkg_free, pkg_pool, pkg_real, free, pkg_freed);

wrap_malloc!(
    shm_malloc,
    shm_pool,
    shm_real,
    malloc,
    shm_allocated,
    shm_failed
);
wrap_malloc!(
    shm_mallocxz,
    shm_pool,
    shm_real,
    mallocxz,
    shm_allocated,
    shm_failed
);
wrap_malloc!(
    shm_malloc_unsafe,
    shm_pool,
    shm_real,
    malloc_unsafe,
    shm_allocated,
    shm_failed
);
wrap_realloc!(
    shm_realloc,
    shm_pool,
    shm_real,
    realloc,
    OnFailure::Keeps,
    shm_allocated,
    shm_freed,
    shm_changed,
    shm_failed
);
wrap_realloc!(
    shm_reallocxf,
    shm_pool,
    shm_real,
    reallocxf,
    OnFailure::Frees,
    shm_allocated,
    shm_freed,
    shm_changed,
    shm_failed
);
wrap_free!(shm_free, shm_pool, shm_real, free, shm_freed);
wrap_free!(shm_free_unsafe, shm_pool, shm_real, free_unsafe, shm_freed);

/// `shm_resize` frees first and then allocates, without copying (fm, qm and tlsf `*_shm_resize`): never in place.
unsafe extern "C" fn shm_resize(
    block: *mut c_void,
    pointer: *mut c_void,
    size: usize,
    file: *const c_char,
    func: *const c_char,
    line: c_uint,
    mname: *const c_char,
) -> *mut c_void {
    let Some(real) = LOCAL.shm_real.get().resize else {
        return ptr::null_mut();
    };
    let caller = Caller {
        file,
        func,
        line,
        module: mname,
    };
    let before = LOCAL.shm_pool.get().if_live(pointer);
    // SAFETY: the manager's own function with its own arguments.
    let got = unsafe { real(block, pointer, size, file, func, line, mname) };
    if let Some(before) = before {
        shm_freed(before);
    }
    if got.is_null() {
        shm_failed(size, &caller);
    } else {
        shm_allocated(LOCAL.shm_pool.get().size_of(got), &caller);
    }
    got
}

// ------------------------------------------------------------------------------------------------ installation

/// Why a pool is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The manager's name is none of qm, fm, tlsf.
    UnknownManager,
    /// A trial allocation did not read back as the headers say; counting would be wrong.
    LayoutDiffers,
    /// The pool does not exist yet, or a trial allocation failed.
    NotReady,
}

/// Name of a manager as Kamailio spells it in the API table: `q_malloc`, `f_malloc`, `tlsf_malloc`.
///
/// # Safety
/// `name` is null or a C string that lives on.
unsafe fn manager_name(name: *const c_char) -> &'static str {
    if name.is_null() {
        return "";
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(name) }.to_str().unwrap_or("")
}

/// tlsf's header and control block (core/mem/tlsf_malloc.c): size word 8 bytes before the user pointer with two flag
/// bits, bit 0 = free; total at 64, allocated at 72, real_used at 80, fragments at 96.
fn tlsf_layout() -> sys::mg_layout_t {
    sys::mg_layout_t {
        size_back: 8,
        size_mask: !3,
        free_back: 8,
        free_mask: 1,
        file_back: 40,
        func_back: 32,
        mname_back: 24,
        line_back: 16,
        block_size: 64,
        block_used: 72,
        block_real_used: 80,
        block_free_fragments: 96,
    }
}

/// The view of a pool from its manager's name, control block, first byte and length (core/globals.h).
fn view(
    name: &str,
    control: *mut c_void,
    start: usize,
    length: usize,
) -> Result<PoolView, Refused> {
    let layout = match name {
        // SAFETY: constants of the shim.
        "f_malloc" | "fm" => unsafe { sys::mg_layout_fm },
        // SAFETY: constants of the shim.
        "q_malloc" | "qm" => unsafe { sys::mg_layout_qm },
        "tlsf_malloc" | "tlsf" => tlsf_layout(),
        _ => return Err(Refused::UnknownManager),
    };
    if control.is_null() {
        return Err(Refused::NotReady);
    }
    let word = |offset: u32| {
        control
            .cast::<u8>()
            .wrapping_add(offset as usize)
            .cast::<u64>()
            .cast_const()
    };
    Ok(PoolView {
        size_back: u8::try_from(layout.size_back).map_err(|_| Refused::LayoutDiffers)?,
        free_back: u8::try_from(layout.free_back).map_err(|_| Refused::LayoutDiffers)?,
        size_mask: layout.size_mask,
        free_mask: layout.free_mask,
        start,
        length,
        file_back: u8::try_from(layout.file_back).map_err(|_| Refused::LayoutDiffers)?,
        line_back: u8::try_from(layout.line_back).map_err(|_| Refused::LayoutDiffers)?,
        used: word(layout.block_used),
        real_used: word(layout.block_real_used),
        free_fragments: word(layout.block_free_fragments),
        forgets_shrinks: false,
        knows_places: false,
    })
}

/// One of the server's API tables.
///
/// # Safety
/// No other reference to the table is alive; before the first fork, or at the end, there is one thread.
unsafe fn table<T>(table: *mut T) -> &'static mut T {
    // SAFETY: a global of the server, alive as long as the process; the caller promises the rest.
    unsafe { &mut *table }
}

/// A place name for the trial blocks; managers store the pointers.
const TRIAL: *const c_char = c"memguard trial".as_ptr();
/// Trial sizes: larger than any rounding, and a shrink that every manager splits.
const TRIAL_BYTES: usize = 4096;
const TRIAL_SHRUNK: usize = 256;
/// A line that no header holds by chance.
const TRIAL_LINE: u32 = 1_234_567;
/// A trial block that is larger than this is no trial block.
const TRIAL_LARGEST: u64 = 8192;

/// Tries the layout on real blocks: sizes read back, `used_size` moves by them, a freed block is marked free, and
/// whether the manager books shrinking reallocs (qm up to 5.8.7 and 6.0.5 does not: q_malloc.c qm_realloc).
fn tried(mut pool: PoolView, block: *mut c_void, real: &Real) -> Result<PoolView, Refused> {
    let (Some(malloc), Some(realloc), Some(free)) = (real.malloc, real.realloc, real.free) else {
        return Err(Refused::NotReady);
    };
    let before = PoolView::read(pool.used);
    // SAFETY: the manager's own functions, before any fork, each block freed exactly once.
    unsafe {
        let p = malloc(block, TRIAL_BYTES, TRIAL, TRIAL, TRIAL_LINE, TRIAL);
        if p.is_null() {
            return Err(Refused::NotReady);
        }
        let size = pool.size_of(p);
        let booked = PoolView::read(pool.used).wrapping_sub(before);
        let header = pool.if_live(p);
        let live = header.is_some_and(|h| h.size == size);
        pool.knows_places =
            header.is_some_and(|h| h.file == TRIAL as usize && h.line == TRIAL_LINE);
        let mut fits =
            live && booked == size && (TRIAL_BYTES as u64..TRIAL_LARGEST).contains(&size);
        if fits {
            let q = realloc(block, p, TRIAL_SHRUNK, TRIAL, TRIAL, 2, TRIAL);
            let now = PoolView::read(pool.used).wrapping_sub(before);
            let shrunk = pool.size_of(q);
            pool.forgets_shrinks = q == p && shrunk < size && now == size;
            fits = now == shrunk || pool.forgets_shrinks;
            free(block, q, TRIAL, TRIAL, 3, TRIAL);
        } else {
            free(block, p, TRIAL, TRIAL, 3, TRIAL);
        }
        if fits {
            Ok(pool)
        } else {
            Err(Refused::LayoutDiffers)
        }
    }
}

/// What a pool held when its functions were wrapped.
#[derive(Clone, Copy, Default)]
struct Older {
    blocks: u64,
    bytes: u64,
    unbooked: u64,
}

/// Counts the blocks that are older than the wrappers, by the places in their headers, as the manager lists them
/// (`xmodstats`: it walks the heap, which is small at this time). What the list does not explain is, with a manager
/// that forgets shrinks, a shrink that it did not book; else it goes to the row of older blocks.
///
/// # Safety
/// `list` and `free` are the manager's own functions for `block`; one thread runs.
unsafe fn seed(
    pool_name: SitePool,
    pool: &PoolView,
    list: sys::sr_mem_mod_get_stats_f,
    free: sys::sr_mem_mod_free_stats_f,
    block: *mut c_void,
) -> Older {
    let used = PoolView::read(pool.used);
    let mut older = Older::default();
    let mut root: *mut c_void = ptr::null_mut();
    if let (Some(list), Some(free)) = (list, free) {
        // SAFETY: the caller's promise; the list lives until it is freed, once.
        unsafe {
            list(block, &mut root);
            let mut next = root.cast::<sys::mem_counter>();
            while let Some(entry) = next.as_ref() {
                let caller = Caller {
                    file: entry.file,
                    func: entry.func,
                    line: entry.line as u32,
                    module: entry.mname,
                };
                let blocks = entry.count as u64;
                owners::seed(pool_name, Some(&caller), blocks, entry.size);
                older.blocks = older.blocks.wrapping_add(blocks);
                older.bytes = older.bytes.wrapping_add(entry.size);
                next = entry.next;
            }
            if !root.is_null() {
                free(root);
            }
        }
    }
    let rest = used.saturating_sub(older.bytes);
    if pool.forgets_shrinks && older.blocks > 0 {
        older.unbooked = rest;
        owners::seed_unbooked(pool_name, rest);
    } else {
        owners::seed(pool_name, None, u64::from(rest > 0), rest);
        older.blocks = older.blocks.wrapping_add(u64::from(rest > 0));
        older.bytes = older.bytes.wrapping_add(rest);
    }
    older
}

/// Whether the places of blocks can be read, in both pools.
pub fn knows_places() -> bool {
    LOCAL.pkg_pool.get().knows_places && LOCAL.shm_pool.get().knows_places
}

/// Remembers where the rows are.
fn keep(rows: &'static [Row]) {
    LOCAL.rows.set(rows.as_ptr());
    LOCAL.row_count.set(rows.len().min(MAX_PROCESSES));
    LOCAL.main_thread.set(thread_pointer());
}

/// Wraps the private pool's functions; called once in `mod_register`, before any fork.
///
/// Blocks that exist already count as allocated by this process (they are its heap); the trial's unbooked shrink is
/// part of that seed.
///
/// # Errors
/// Why the pool is left alone.
pub fn install_pkg(rows: &'static [Row], sites: Option<&'static Sites>) -> Result<(), Refused> {
    // SAFETY: before the first fork there is one thread; the API tables are plain globals (core/mem/pkg.c).
    unsafe {
        let api = table(&raw mut sys::_pkg_root);
        if LOCAL.pkg_real.get().malloc.is_some() {
            return Ok(());
        }
        let real = Real {
            malloc: api.xmalloc,
            mallocxz: api.xmallocxz,
            realloc: api.xrealloc,
            reallocxf: api.xreallocxf,
            free: api.xfree,
            ..NOTHING
        };
        let pool = view(
            manager_name(api.mname),
            api.mem_block,
            api.mem_pool as usize,
            sys::pkg_mem_size as usize,
        )?;
        let pool = tried(pool, api.mem_block, &real)?;
        LOCAL.pkg_pool.set(pool);
        keep(rows);
        LOCAL.pkg_real.set(real);
        if let (Some(sites), true) = (sites, pool.knows_places) {
            owners::start(sites, thread_pointer());
        }
        let older = seed(
            SitePool::Pkg,
            &pool,
            api.xmodstats,
            api.xfmodstats,
            api.mem_block,
        );
        LOCAL.pkg.allocs.set(older.blocks);
        LOCAL.pkg.bytes_allocated.set(older.bytes);
        LOCAL.pkg.unbooked.set(older.unbooked);
        api.xmalloc = Some(pkg_malloc);
        api.xmallocxz = real.mallocxz.and(Some(pkg_mallocxz));
        api.xrealloc = Some(pkg_realloc);
        api.xreallocxf = real.reallocxf.and(Some(pkg_reallocxf));
        api.xfree = Some(pkg_free);
        publish_process();
    }
    Ok(())
}

/// Wraps the shared pool's functions as soon as the pool exists: in `mod_register`, at the first parameter, or in
/// `mod_init` (`init_shm` rewrites the table, so not earlier; internals 0.3). Blocks that exist already count as
/// allocated by process 0.
///
/// # Errors
/// Why the pool is left alone; [`Refused::NotReady`] means: try again later.
pub fn install_shm(rows: &'static [Row]) -> Result<(), Refused> {
    // SAFETY: as in install_pkg.
    unsafe {
        let api = table(&raw mut sys::_shm_root);
        if LOCAL.shm_real.get().malloc.is_some() {
            return Ok(());
        }
        if api.mem_block.is_null() || api.xmalloc.is_none() {
            return Err(Refused::NotReady);
        }
        let real = Real {
            malloc: api.xmalloc,
            mallocxz: api.xmallocxz,
            malloc_unsafe: api.xmalloc_unsafe,
            realloc: api.xrealloc,
            reallocxf: api.xreallocxf,
            resize: api.xresize,
            free: api.xfree,
            free_unsafe: api.xfree_unsafe,
        };
        let pool = view(
            manager_name(api.mname),
            api.mem_block,
            api.mem_pool as usize,
            sys::shm_mem_size as usize,
        )?;
        let pool = tried(pool, api.mem_block, &real)?;
        LOCAL.shm_pool.set(pool);
        keep(rows);
        LOCAL.shm_real.set(real);
        if !pool.knows_places {
            owners::stop();
        }
        let older = seed(
            SitePool::Shm,
            &pool,
            api.xmodstats,
            api.xfmodstats,
            api.mem_block,
        );
        if let Some(row) = rows.first() {
            row.shm.allocs.add(older.blocks);
            row.shm.bytes_allocated.add(older.bytes);
            row.shm.unbooked.add(older.unbooked);
        }
        api.xmalloc = Some(shm_malloc);
        api.xmallocxz = real.mallocxz.and(Some(shm_mallocxz));
        api.xmalloc_unsafe = real.malloc_unsafe.and(Some(shm_malloc_unsafe));
        api.xrealloc = Some(shm_realloc);
        api.xreallocxf = real.reallocxf.and(Some(shm_reallocxf));
        api.xresize = real.resize.and(Some(shm_resize));
        api.xfree = Some(shm_free);
        api.xfree_unsafe = real.free_unsafe.and(Some(shm_free_unsafe));
    }
    Ok(())
}

/// Puts the managers' own functions back; called in `mod_destroy`, by the main process only. The core goes on freeing
/// through the tables afterwards (internals H.7).
pub fn restore() {
    // SAFETY: the main process's only thread at shutdown.
    unsafe {
        let (pkg_real, shm_real) = (LOCAL.pkg_real.get(), LOCAL.shm_real.get());
        let pkg = table(&raw mut sys::_pkg_root);
        if pkg_real.malloc.is_some() {
            pkg.xmalloc = pkg_real.malloc;
            pkg.xmallocxz = pkg_real.mallocxz;
            pkg.xrealloc = pkg_real.realloc;
            pkg.xreallocxf = pkg_real.reallocxf;
            pkg.xfree = pkg_real.free;
        }
        let shm = table(&raw mut sys::_shm_root);
        if shm_real.malloc.is_some() && !shm.mem_block.is_null() {
            shm.xmalloc = shm_real.malloc;
            shm.xmallocxz = shm_real.mallocxz;
            shm.xmalloc_unsafe = shm_real.malloc_unsafe;
            shm.xrealloc = shm_real.realloc;
            shm.xreallocxf = shm_real.reallocxf;
            shm.xresize = LOCAL.shm_real.get().resize;
            shm.xfree = shm_real.free;
            shm.xfree_unsafe = shm_real.free_unsafe;
        }
    }
}

/// Total size in bytes as the manager reports it.
///
/// # Safety
/// `info` is the manager's own function for `block`.
unsafe fn pool_size(info: sys::sr_mem_info_f, block: *mut c_void) -> usize {
    let Some(info) = info else { return 0 };
    // SAFETY: mem_info is plain numbers; the manager fills it.
    unsafe {
        let mut figures: sys::mem_info = std::mem::zeroed();
        info(block, &mut figures);
        figures.total_size as usize
    }
}

/// Writes this process's inherited pkg totals and pid into its row; called after every fork that is seen
/// (`child_init`), by the process itself.
pub fn publish_process() {
    owners::publish_process();
    if let Some(row) = own_row() {
        republish(row);
        // ORDERING: Relaxed; read by reports only.
        row.pid
            .store(std::process::id(), std::sync::atomic::Ordering::Relaxed);
    }
}

/// The shared pool's figures at this moment, read without a lock (internals B.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolNow {
    /// Size in bytes.
    pub size: u64,
    /// Bytes used with the manager's overhead: what runs out.
    pub real_used: u64,
    /// Sum of block sizes as the manager books it.
    pub used: u64,
    /// Free fragments.
    pub fragments: u64,
}

fn now(pool: &PoolView, size: u64) -> PoolNow {
    PoolNow {
        size,
        real_used: PoolView::read(pool.real_used),
        used: PoolView::read(pool.used),
        fragments: PoolView::read(pool.free_fragments),
    }
}

/// Figures of the shared pool; `None` while it is not hooked.
pub fn shm_now(size: u64) -> Option<PoolNow> {
    LOCAL
        .shm_real
        .get()
        .malloc
        .map(|_| steady(&LOCAL.shm_pool.get(), size))
}

/// Between two readings by one process use rises by less than this, or the reading is looked at twice.
const LEAP: u64 = 64 * 1024;
/// Readings that wait for a leap to go away: about 3 µs, several times what one fm_malloc takes.
const LEAP_TRIES: u32 = 32;
/// The last use that this process believed.
static LOCAL_BELIEVED: AtomicU64 = AtomicU64::new(0);

/// The figures without what fm books for a moment only: before it splits a free block it takes all of it for used
/// (f_malloc.c fm_extract_free), so that a large pool looks full to who reads without its lock. A leap that stays (the
/// process inside may have been preempted) is held against memguard's own count; on fm that has no drift.
fn steady(pool: &PoolView, size: u64) -> PoolNow {
    // ORDERING: Relaxed; one process's own number, any of its values is good.
    let believed = LOCAL_BELIEVED.load(Ordering::Relaxed);
    let mut figures = now(pool, size);
    for _ in 0..LEAP_TRIES {
        if figures.real_used <= believed.saturating_add(LEAP) {
            break;
        }
        std::hint::spin_loop();
        let again = now(pool, size);
        if again.real_used < figures.real_used {
            figures = again;
        }
    }
    if figures.real_used > believed.saturating_add(LEAP) && !pool.forgets_shrinks {
        let overhead = figures.real_used.saturating_sub(figures.used);
        figures.used = figures.used.min(counted_shm());
        figures.real_used = figures.real_used.min(figures.used.saturating_add(overhead));
    }
    // ORDERING: as above.
    LOCAL_BELIEVED.store(figures.real_used, Ordering::Relaxed);
    figures
}

/// How many processes the server has; 0 before the table exists. Rows beyond are untouched memory: leave them so.
pub fn processes() -> usize {
    // SAFETY: a pointer into shm, null before init_pt (core/pt.c); an aligned int that only grows.
    unsafe {
        let count = sys::process_count;
        if count.is_null() {
            0
        } else {
            usize::try_from(count.read_volatile()).unwrap_or(0)
        }
    }
}

/// memguard's own count of shm: what all processes allocated and did not free.
pub fn counted_shm() -> u64 {
    let Some(region) = super::state::region() else {
        return u64::MAX;
    };
    let rows = region.rows.iter().take(processes().max(1));
    let sum = rows.map(Row::shm_sum).fold(ShmSum::default(), ShmSum::plus);
    u64::try_from(sum.live()).unwrap_or(0)
}

/// A lower bound of the largest free block of shm, by size class: the free lists' counts are read without a lock, so a
/// block that is being split or joined may be missed or counted a moment too long. 0 when unknown.
pub fn shm_largest_free() -> u64 {
    // SAFETY: the control block lives as long as the server; only aligned words are read.
    unsafe {
        let api = &*table(&raw mut sys::_shm_root);
        match (api.mem_block.is_null(), manager_name(api.mname)) {
            (false, "f_malloc") => sys::mg_fm_largest_free(api.mem_block),
            (false, "q_malloc") => sys::mg_qm_largest_free(api.mem_block),
            (false, "tlsf_malloc") => tlsf_largest_free(api.mem_block.cast()),
            _ => 0,
        }
    }
}

/// tlsf keeps one bit per first-level class at 112 and the second-level bits after it (core/mem/tlsf_malloc.c:
/// FL_INDEX_SHIFT 8, SL_INDEX_COUNT_LOG2 5): class `fl` holds blocks from 2^(fl+7) on, in 32 steps.
///
/// # Safety
/// `control` is tlsf's control block.
unsafe fn tlsf_largest_free(control: *const u8) -> u64 {
    // SAFETY: aligned 32-bit words of the control block.
    unsafe {
        let first: u32 = control.add(112).cast::<u32>().read_volatile();
        let Some(fl) = first.checked_ilog2() else {
            return 0;
        };
        let second: u32 = control
            .add(116)
            .cast::<u32>()
            .add(fl as usize)
            .read_volatile();
        let sl = u64::from(second.checked_ilog2().unwrap_or(0));
        match fl {
            0 => sl.wrapping_mul(8),
            _ => 1u64
                .wrapping_shl(fl.wrapping_add(7))
                .wrapping_add(sl.wrapping_shl(fl.wrapping_add(2))),
        }
    }
}

/// First byte and length of the private pool: the same in every process, because fork copies it.
pub fn pkg_range() -> (usize, usize) {
    let pool = LOCAL.pkg_pool.get();
    (pool.start, pool.length)
}

/// Figures of this process's private pool; `None` while it is not hooked.
pub fn pkg_now(size: u64) -> Option<PoolNow> {
    LOCAL
        .pkg_real
        .get()
        .malloc
        .map(|_| now(&LOCAL.pkg_pool.get(), size))
}

/// Sizes of the two pools as their managers report them, and the managers' names. Before the fork only.
pub fn pool_sizes() -> [(&'static str, u64); 2] {
    // SAFETY: the tables are set before any module is loaded (pkg) or when shm exists; both checked for null inside.
    unsafe {
        let (shm, pkg) = (
            &*table(&raw mut sys::_shm_root),
            &*table(&raw mut sys::_pkg_root),
        );
        let shm_size = if shm.mem_block.is_null() {
            0
        } else {
            pool_size(shm.xinfo, shm.mem_block)
        };
        [
            (manager_name(shm.mname), shm_size as u64),
            (
                manager_name(pkg.mname),
                pool_size(pkg.xinfo, pkg.mem_block) as u64,
            ),
        ]
    }
}
