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

use super::owners::{self, Caller, Spot};
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
pub(super) fn thread_pointer() -> usize {
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
    let used = LOCAL.pkg_pool.get().used();
    let real_used = LOCAL.pkg_pool.get().real_used();
    row.pkg.used.set(used);
    row.pkg.real_used.set(real_used);
    real_used
}

/// Counts a new block of the private pool.
#[inline(always)]
fn pkg_allocated(block: *mut c_void, spot: Option<Spot>) {
    let size = LOCAL.pkg_pool.get().size_of(block);
    match spot {
        Some(spot) => {
            spot.allocated(size);
            if let Some(row) = owners::row() {
                publish_pkg(row);
            }
        }
        None => {
            bump(&LOCAL.pkg.allocs, 1);
            bump(&LOCAL.pkg.bytes_allocated, size);
            publish_totals();
            if let Some(row) = own_row() {
                publish_pkg(row);
            }
        }
    }
}

/// Counts a block of the private pool that is being freed.
#[inline(always)]
fn pkg_freed(size: u64, spot: Option<Spot>) {
    match spot {
        Some(spot) => spot.freed(size),
        None => {
            bump(&LOCAL.pkg.frees, 1);
            bump(&LOCAL.pkg.bytes_freed, size);
            publish_totals();
        }
    }
}

/// After the long way of a free.
fn pkg_after_long_free() {
    if let Some(row) = own_row() {
        publish_figures(row);
    }
}

/// After the manager has freed a block that was counted at its place: its figures have changed only now.
#[inline(always)]
fn pkg_after_free() {
    if let Some(row) = owners::row() {
        publish_figures(row);
    }
}

#[cold]
fn pkg_failed(size: usize, spot: Option<Spot>) {
    if let Some(spot) = spot {
        spot.failed(size as u64, state::now_ms() / 1000);
    }
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

fn pkg_changed(change: Change, spot: Option<Spot>) {
    match spot {
        Some(spot) => spot.changed(change.grown, change.shrunk, change.unbooked),
        None => {
            bump(&LOCAL.pkg.bytes_allocated, change.grown);
            bump(&LOCAL.pkg.bytes_freed, change.shrunk);
        }
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

/// Whether a spot's row is part of the sums that are this process's totals.
#[inline(always)]
fn is_summed(spot: Option<Spot>) -> bool {
    spot.is_some_and(|spot| spot.is_own())
}

/// Counts a new block of the shared pool.
#[inline(always)]
fn shm_allocated(block: *mut c_void, spot: Option<Spot>) {
    let size = LOCAL.shm_pool.get().size_of(block);
    if let Some(spot) = spot {
        spot.allocated(size);
    }
    if !is_summed(spot) {
        on_shm_totals!(|totals| {
            totals.allocs.add(1);
            totals.bytes_allocated.add(size);
        });
    }
}

/// Counts a block of the shared pool that is being freed.
#[inline(always)]
fn shm_freed(size: u64, spot: Option<Spot>) {
    if let Some(spot) = spot {
        spot.freed(size);
    }
    if !is_summed(spot) {
        on_shm_totals!(|totals| {
            totals.frees.add(1);
            totals.bytes_freed.add(size);
        });
    }
}

/// After the manager has freed a block: the shared pool's figures are read in place.
#[inline(always)]
fn shm_after_free() {}

/// The same.
fn shm_after_long_free() {}

#[cold]
fn shm_failed(size: usize, spot: Option<Spot>) {
    if let Some(spot) = spot {
        spot.failed(size as u64, state::now_ms() / 1000);
    }
    on_shm_totals!(|totals| totals.failures.add(1));
}

fn shm_changed(change: Change, spot: Option<Spot>) {
    let Change {
        grown,
        shrunk,
        unbooked,
    } = change;
    if let Some(spot) = spot {
        spot.changed(grown, shrunk, unbooked);
    }
    on_shm_totals!(|totals| {
        if !is_summed(spot) {
            totals.bytes_allocated.add(grown);
            totals.bytes_freed.add(shrunk);
        }
        totals.unbooked.add(unbooked);
    });
}

// ------------------------------------------------------------------------------------------------ wrappers
// Each has a short way, for places that are found at once by a process that has its table, and a long way. The short
// way is kept apart so that it needs few registers: what it costs is mostly what it saves and restores.

macro_rules! wrap_malloc {
    ($name:ident, $long:ident, $pool:expr, $real:ident, $entry:ident, $allocated:path, $failed:path) => {
        unsafe extern "C" fn $name(
            block: *mut c_void,
            size: usize,
            file: *const c_char,
            func: *const c_char,
            line: c_uint,
            mname: *const c_char,
        ) -> *mut c_void {
            let near = owners::near($pool, file as usize, line);
            let (Some(real), Some(_)) = (LOCAL.$real.get().$entry, near) else {
                // SAFETY: the same arguments.
                return unsafe { $long(block, size, file, func, line, mname) };
            };
            // SAFETY: the manager's own function with its own arguments.
            let got = unsafe { real(block, size, file, func, line, mname) };
            if got.is_null() {
                $failed(size, near);
                return got;
            }
            $allocated(got, near);
            sample::allocated($pool, got)
        }

        #[inline(never)]
        unsafe extern "C" fn $long(
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
            let spot = owners::spot_of(
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
                $failed(size, spot);
                return got;
            }
            $allocated(got, spot);
            sample::allocated($pool, got)
        }
    };
}

macro_rules! wrap_free {
    ($name:ident, $long:ident, $site_pool:expr, $pool:ident, $real:ident, $entry:ident, $freed:path, $after:path, $after_long:path) => {
        unsafe extern "C" fn $name(
            block: *mut c_void,
            pointer: *mut c_void,
            file: *const c_char,
            func: *const c_char,
            line: c_uint,
            mname: *const c_char,
        ) {
            // Before the real free: afterwards the header names the freeing place.
            let old = LOCAL.$pool.get().if_live(pointer);
            let old = old.filter(|old| !sample::is_carried(old));
            let near = old.and_then(|old| owners::near($site_pool, old.file, old.line));
            let (Some(real), Some(old), Some(_)) = (LOCAL.$real.get().$entry, old, near) else {
                // SAFETY: the same arguments.
                return unsafe { $long(block, pointer, file, func, line, mname) };
            };
            $freed(old.size, near);
            // SAFETY: the manager's own function with its own arguments.
            unsafe { real(block, pointer, file, func, line, mname) };
            $after();
        }

        #[inline(never)]
        unsafe extern "C" fn $long(
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
            if let Some(old) = LOCAL.$pool.get().if_live(pointer) {
                $freed(old.size, owners::spot_in($site_pool, old.file, old.line));
                sample::freed(&old);
            }
            // SAFETY: the manager's own function with its own arguments.
            unsafe { real(block, pointer, file, func, line, mname) };
            $after_long();
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
            let spot = owners::spot_of(
                $site_pool,
                &Caller {
                    file,
                    func,
                    line,
                    module: mname,
                },
            );
            let before = LOCAL.$pool.get().if_live(pointer);
            let of = |block: Block| owners::spot_in($site_pool, block.file, block.line);
            // SAFETY: the manager's own function with its own arguments.
            let got = unsafe { real(block, pointer, size, file, func, line, mname) };
            if got.is_null() {
                if size != 0 {
                    $failed(size, spot);
                }
                if let (Some(before), true) = (before, size == 0 || $on_failure == OnFailure::Frees)
                {
                    $freed(before.size, of(before));
                    sample::freed(&before);
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
                    $changed(change, of(before));
                    sample::resized(&before, after.size);
                    return got;
                }
                Some(before) => {
                    $allocated(got, spot);
                    $freed(before.size, of(before));
                    sample::freed(&before);
                }
                None => $allocated(got, spot),
            }
            sample::allocated($site_pool, got)
        }
    };
}

wrap_malloc!(
    pkg_malloc,
    pkg_malloc_long,
    SitePool::Pkg,
    pkg_real,
    malloc,
    pkg_allocated,
    pkg_failed
);
wrap_malloc!(
    pkg_mallocxz,
    pkg_mallocxz_long,
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
    pkg_free_long,
    SitePool::Pkg,
    pkg_pool,
    pkg_real,
    free,
    pkg_freed,
    pkg_after_free,
    pkg_after_long_free
);

wrap_malloc!(
    shm_malloc,
    shm_malloc_long,
    SitePool::Shm,
    shm_real,
    malloc,
    shm_allocated,
    shm_failed
);
wrap_malloc!(
    shm_mallocxz,
    shm_mallocxz_long,
    SitePool::Shm,
    shm_real,
    mallocxz,
    shm_allocated,
    shm_failed
);
wrap_malloc!(
    shm_malloc_unsafe,
    shm_malloc_unsafe_long,
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
    shm_free_long,
    SitePool::Shm,
    shm_pool,
    shm_real,
    free,
    shm_freed,
    shm_after_free,
    shm_after_long_free
);
wrap_free!(
    shm_free_unsafe,
    shm_free_unsafe_long,
    SitePool::Shm,
    shm_pool,
    shm_real,
    free_unsafe,
    shm_freed,
    shm_after_free,
    shm_after_long_free
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
    let spot = owners::spot_of(
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
        shm_freed(
            before.size,
            owners::spot_in(SitePool::Shm, before.file, before.line),
        );
        sample::freed(&before);
    }
    if got.is_null() {
        shm_failed(size, spot);
        return got;
    }
    shm_allocated(got, spot);
    sample::allocated(SitePool::Shm, got)
}
