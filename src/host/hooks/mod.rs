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
use std::ffi::{c_char, c_uint, c_void};
use std::ptr;

mod figures;
mod install;
pub mod sample;
mod view;

pub use figures::*;
pub use install::*;
pub use view::Refused;
use view::*;

use super::owners::{self, Caller, Counted, Place};
use super::{state, sys};
use crate::shared::region::Region;
use crate::shared::rows::{MAX_PROCESSES, Row, ShmSum};
use crate::shared::sites::{SitePool, Sites};

/// Private totals of this process's pkg heap; fork copies them with the heap that they describe.
struct PkgLocal {
    allocs: Cell<u64>,
    bytes_allocated: Cell<u64>,
    frees: Cell<u64>,
    bytes_freed: Cell<u64>,
    unbooked: Cell<u64>,
    failures: Cell<u64>,
}

/// What each process has for itself (private memory, copied by fork).
struct Local {
    rows: Cell<*const Row>,
    /// Thread pointer of the process's main thread; equal in all children that it forks.
    main_thread: Cell<usize>,
    pkg_real: Cell<Real>,
    shm_real: Cell<Real>,
    pkg_pool: Cell<PoolView>,
    shm_pool: Cell<PoolView>,
    pkg: PkgLocal,
}
// SAFETY: only the process's main thread writes (installation before the first fork; the pkg totals, because pkg is
// not thread-safe in any version: internals C.5). Other threads read only what installation wrote.
unsafe impl Sync for Local {}

static LOCAL: Local = Local {
    rows: Cell::new(ptr::null()),
    main_thread: Cell::new(0),
    pkg_real: Cell::new(NOTHING),
    shm_real: Cell::new(NOTHING),
    pkg_pool: Cell::new(NO_POOL),
    shm_pool: Cell::new(NO_POOL),
    pkg: PkgLocal {
        allocs: Cell::new(0),
        bytes_allocated: Cell::new(0),
        frees: Cell::new(0),
        bytes_freed: Cell::new(0),
        unbooked: Cell::new(0),
        failures: Cell::new(0),
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
    let rows = LOCAL.rows.get();
    if index < MAX_PROCESSES && !rows.is_null() {
        // SAFETY: rows points to MAX_PROCESSES rows that live as long as the server.
        Some(unsafe { &*rows.wrapping_add(index) })
    } else {
        None
    }
}

// ------------------------------------------------------------------------------------------------ counting

/// Publishes the private pkg totals after an operation that changed them.
#[inline(always)]
fn publish_pkg(row: &Row) {
    let real_used = publish_figures(row);
    if real_used > row.pkg.peak.get() {
        row.pkg.peak.set(real_used);
    }
}

/// The manager's figures after an operation that cannot have raised the peak; answers `real_used`.
#[inline(always)]
fn publish_figures(row: &Row) -> u64 {
    let used = PoolView::read(LOCAL.pkg_pool.get().used);
    let real_used = PoolView::read(LOCAL.pkg_pool.get().real_used);
    row.pkg.used.set(used);
    row.pkg.real_used.set(real_used);
    real_used
}

#[inline(always)]
fn pkg_allocated(block: *mut c_void, place: Place) {
    let size = LOCAL.pkg_pool.get().size_of(block);
    if owners::pkg_allocated(place, size) == Counted::Off {
        bump(&LOCAL.pkg.allocs, 1);
        bump(&LOCAL.pkg.bytes_allocated, size);
        publish_totals();
        if let Some(row) = own_row() {
            publish_pkg(row);
        }
    } else if let Some(row) = owners::row() {
        publish_pkg(row);
    }
}

/// Counts a block that is being freed.
#[inline(always)]
fn pkg_freed(block: Block) {
    let place = owners::place_in(SitePool::Pkg, block.file, block.line);
    if owners::pkg_freed(place, block.size) == Counted::Off {
        bump(&LOCAL.pkg.frees, 1);
        bump(&LOCAL.pkg.bytes_freed, block.size);
        publish_totals();
    }
}

/// After the manager has freed a block.
#[inline(always)]
fn pkg_after_free() {
    let row = match owners::sites() {
        Some(_) => owners::row(),
        None => own_row(),
    };
    if let Some(row) = row {
        publish_figures(row);
    }
}

#[cold]
fn pkg_failed(size: usize, place: Place) {
    owners::pkg_failed(place, size as u64, state::now_ms() / 1000);
    let failures = bump(&LOCAL.pkg.failures, 1);
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
    let place = owners::place_in(SitePool::Pkg, block.file, block.line);
    owners::pkg_changed(place, change.grown, change.shrunk, change.unbooked);
    if owners::sites().is_none() {
        bump(&LOCAL.pkg.bytes_allocated, change.grown);
        bump(&LOCAL.pkg.bytes_freed, change.shrunk);
    }
    bump(&LOCAL.pkg.unbooked, change.unbooked);
    if let Some(row) = own_row() {
        republish(row);
    }
}

/// Publishes the private pkg totals while places are not counted; else they are the sums over the places.
fn publish_totals() {
    if let Some(row) = own_row() {
        let totals = &LOCAL.pkg;
        row.pkg.allocs.set(totals.allocs.get());
        row.pkg.bytes_allocated.set(totals.bytes_allocated.get());
        row.pkg.frees.set(totals.frees.get());
        row.pkg.bytes_freed.set(totals.bytes_freed.get());
    }
}

/// Writes every pkg total of this process into its row (after a fork, or after a realloc).
fn republish(row: &Row) {
    let totals = &LOCAL.pkg;
    publish_totals();
    row.pkg.unbooked.set(totals.unbooked.get());
    row.pkg_failures.set(totals.failures.get());
    publish_pkg(row);
}

/// Runs one of two bodies on this process's shm totals: the single-writer half for the main thread, the atomic half
/// for any other.
macro_rules! on_shm_totals {
    (|$totals:ident| $body:expr) => {
        if let Some(row) = own_row() {
            if is_main_thread() && !owners::is_unnumbered() {
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
fn shm_allocated(block: *mut c_void, place: Place) {
    let size = LOCAL.shm_pool.get().size_of(block);
    if owners::shm_allocated(place, size, thread_pointer()) != Counted::Own {
        on_shm_totals!(|totals| {
            totals.allocs.add(1);
            totals.bytes_allocated.add(size);
        });
    }
}

/// Counts a block that is being freed.
#[inline(always)]
fn shm_freed(block: Block) {
    let place = owners::place_in(SitePool::Shm, block.file, block.line);
    if owners::shm_freed(place, block.size, thread_pointer()) != Counted::Own {
        on_shm_totals!(|totals| {
            totals.frees.add(1);
            totals.bytes_freed.add(block.size);
        });
    }
}

/// After the manager has freed a block: shm figures are read in place.
#[inline(always)]
fn shm_after_free() {}

#[cold]
fn shm_failed(size: usize, place: Place) {
    let now_s = state::now_ms() / 1000;
    owners::shm_failed(place, size as u64, now_s, thread_pointer());
    on_shm_totals!(|totals| totals.failures.add(1));
}

fn shm_changed(change: Change, block: Block) {
    let place = owners::place_in(SitePool::Shm, block.file, block.line);
    let (grown, shrunk, unbooked) = (change.grown, change.shrunk, change.unbooked);
    let counted = owners::shm_changed(place, grown, shrunk, unbooked, thread_pointer());
    on_shm_totals!(|totals| {
        if counted != Counted::Own {
            totals.bytes_allocated.add(grown);
            totals.bytes_freed.add(shrunk);
        }
        totals.unbooked.add(unbooked);
    });
}

// ------------------------------------------------------------------------------------------------ wrappers

macro_rules! wrap_malloc {
    ($name:ident, $pool:expr, $real:ident, $entry:ident, $allocated:path, $failed:path) => {
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
            let place = owners::place_of(
                $pool,
                &Caller {
                    file,
                    func,
                    line,
                    module: mname,
                },
            );
            // SAFETY: the manager's own function with its own arguments.
            let got = unsafe { real(block, size, file, func, line, mname) };
            if got.is_null() {
                $failed(size, place);
            } else {
                $allocated(got, place);
                sample::allocated($pool, got);
            }
            got
        }
    };
}

macro_rules! wrap_free {
    ($name:ident, $pool:ident, $real:ident, $entry:ident, $freed:path, $after:path) => {
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
            // Before the real free: afterwards the header names the freeing place.
            if let Some(old) = LOCAL.$pool.get().if_live(pointer) {
                $freed(old);
                sample::freed(old);
            }
            // SAFETY: the manager's own function with its own arguments.
            unsafe { real(block, pointer, file, func, line, mname) };
            $after();
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
    ($name:ident, $site_pool:expr, $pool:ident, $real:ident, $entry:ident, $on_failure:expr,
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
            let place = owners::place_of(
                $site_pool,
                &Caller {
                    file,
                    func,
                    line,
                    module: mname,
                },
            );
            let before = LOCAL.$pool.get().if_live(pointer);
            // SAFETY: the manager's own function with its own arguments.
            let got = unsafe { real(block, pointer, size, file, func, line, mname) };
            if got.is_null() {
                if size != 0 {
                    $failed(size, place);
                }
                if let (Some(before), true) = (before, size == 0 || $on_failure == OnFailure::Frees)
                {
                    $freed(before);
                    sample::freed(before);
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
                    sample::resized(before, after.size);
                }
                before => {
                    $allocated(got, place);
                    sample::allocated($site_pool, got);
                    if let Some(before) = before {
                        $freed(before);
                        sample::freed(before);
                    }
                }
            }
            got
        }
    };
}

wrap_malloc!(
    pkg_malloc,
    SitePool::Pkg,
    pkg_real,
    malloc,
    pkg_allocated,
    pkg_failed
);
wrap_malloc!(
    pkg_mallocxz,
    SitePool::Pkg,
    pkg_real,
    mallocxz,
    pkg_allocated,
    pkg_failed
);
wrap_realloc!(
    pkg_realloc,
    SitePool::Pkg,
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
    SitePool::Pkg,
    pkg_pool,
    pkg_real,
    reallocxf,
    OnFailure::Frees,
    pkg_allocated,
    pkg_freed,
    pkg_changed,
    pkg_failed
);
wrap_free!(
    pkg_free,
    pkg_pool,
    pkg_real,
    free,
    pkg_freed,
    pkg_after_free
);

wrap_malloc!(
    shm_malloc,
    SitePool::Shm,
    shm_real,
    malloc,
    shm_allocated,
    shm_failed
);
wrap_malloc!(
    shm_mallocxz,
    SitePool::Shm,
    shm_real,
    mallocxz,
    shm_allocated,
    shm_failed
);
wrap_malloc!(
    shm_malloc_unsafe,
    SitePool::Shm,
    shm_real,
    malloc_unsafe,
    shm_allocated,
    shm_failed
);
wrap_realloc!(
    shm_realloc,
    SitePool::Shm,
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
    SitePool::Shm,
    shm_pool,
    shm_real,
    reallocxf,
    OnFailure::Frees,
    shm_allocated,
    shm_freed,
    shm_changed,
    shm_failed
);
wrap_free!(
    shm_free,
    shm_pool,
    shm_real,
    free,
    shm_freed,
    shm_after_free
);
wrap_free!(
    shm_free_unsafe,
    shm_pool,
    shm_real,
    free_unsafe,
    shm_freed,
    shm_after_free
);

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
    let place = owners::place_of(
        SitePool::Shm,
        &Caller {
            file,
            func,
            line,
            module: mname,
        },
    );
    let before = LOCAL.shm_pool.get().if_live(pointer);
    // SAFETY: the manager's own function with its own arguments.
    let got = unsafe { real(block, pointer, size, file, func, line, mname) };
    if let Some(before) = before {
        shm_freed(before);
        sample::freed(before);
    }
    if got.is_null() {
        shm_failed(size, place);
    } else {
        shm_allocated(got, place);
        sample::allocated(SitePool::Shm, got);
    }
    got
}
