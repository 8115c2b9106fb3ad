//! The hooks around Kamailio's memory managers: what their rooms share, the state of one process and its row.
//! Forbidden here: locks, system calls, allocation, logging, panics; callers may hold the global shm lock.
//!
//! Counted size = the block's size in its own header, so the sums equal the manager's `used_size` to the byte. Where
//! an operation is counted is `owners`' business; while places are not counted, pkg totals are kept in private memory
//! (`LOCAL`), because a child's heap is its parent's heap at the fork: the copy that fork makes is exactly right, while
//! the parent's shared row may have moved on. Other threads of a process (receivers of 6.x) use the row's atomic half.
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

mod counting;
mod entries;
pub mod faults;
mod figures;
mod install;
mod manager;
pub mod sample;
mod view;
mod wrappers;

use crossbeam_utils::CachePadded;

use crate::host::kamailio::{state, sys};
pub use crate::host::memory::hooks::figures::*;
pub use crate::host::memory::hooks::install::*;
use crate::host::memory::hooks::{
    entries::{NOTHING, Real},
    manager::{Any, Manager},
    owners::{Caller, Spot},
    view::*,
};
use crate::shared::counters::{
    rows::{COMMON_ROW, Row, ShmSum},
    sites::{SitePool, Sites},
};
use crate::shared::region::Region;

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
    rows: Cell<*const CachePadded<Row>>,
    /// Thread pointer of the process's main thread; equal in all children that it forks.
    main_thread: Cell<usize>,
    pkg_real: Cell<Real>,
    shm_real: Cell<Real>,
    pkg_pool: Cell<PoolView>,
    shm_pool: Cell<PoolView>,
    pkg: PkgLocal,
    /// Bytes of shm, allocated less freed, that are not in the region's `shm_counted` yet (two's complement).
    shm_untold: Cell<u64>,
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
    shm_untold: Cell::new(0),
};

impl Local {
    /// The manager's own functions of a pool.
    #[inline(always)]
    fn real(&self, pool: SitePool) -> Real {
        match pool {
            SitePool::Pkg => self.pkg_real.get(),
            SitePool::Shm => self.shm_real.get(),
        }
    }

    /// How the blocks of a pool are read.
    #[inline(always)]
    fn view(&self, pool: SitePool) -> PoolView {
        match pool {
            SitePool::Pkg => self.pkg_pool.get(),
            SitePool::Shm => self.shm_pool.get(),
        }
    }
}

/// Adds to a private total and returns the new value.
#[inline(always)]
fn bump(total: &Cell<u64>, n: u64) -> u64 {
    let value = total.get().wrapping_add(n);
    total.set(value);
    value
}

/// Address of the running thread's control block: one load, tells threads apart without a call.
#[inline(always)]
pub(in crate::host) fn thread_pointer() -> usize {
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

/// Index of the row that this process counts in: its own, or the one that all processes beyond the last row share.
#[inline(always)]
fn row_index() -> usize {
    // SAFETY: process_no is a plain int of the server, set right after each fork (core/pt.c).
    (unsafe { sys::process_no } as usize).min(COMMON_ROW)
}

/// Whether this process shares its row with others: then only atomic counters may be written.
#[inline(always)]
pub fn has_common_row() -> bool {
    row_index() == COMMON_ROW
}

/// The row that this process counts SIP in; `None` before there are rows.
#[inline(always)]
pub fn own_row() -> Option<&'static Row> {
    let rows = LOCAL.rows.get();
    if rows.is_null() {
        return None;
    }
    // SAFETY: rows points to ROWS rows that live as long as the server, and the index is below that.
    Some(unsafe { &**rows.wrapping_add(row_index()) })
}

/// The row of this process alone, for figures with one writer; `None` for processes beyond the last row.
#[inline(always)]
fn single_row() -> Option<&'static Row> {
    own_row().filter(|_| !has_common_row())
}

/// Tells how full this process's pkg is where several processes share a row: the fullest since the last sample counts.
pub fn tell_pkg() {
    if !has_common_row() {
        return;
    }
    let used = LOCAL.pkg_pool.get().real_used();
    if let (Some(row), Some(region)) = (own_row(), state::region()) {
        region.control.common_pkg.raise(used);
        row.pkg.peak.raise(used);
    }
}

/// Bytes of shm that a process keeps to itself before it tells them all.
const TELL_FROM: u64 = 2048;

/// Notes bytes of shm that this process's main thread allocated (or freed: their two's complement).
#[inline(always)]
fn note_shm(bytes: u64) {
    let untold = LOCAL.shm_untold.get().wrapping_add(bytes);
    LOCAL.shm_untold.set(untold);
    if untold.wrapping_add(TELL_FROM) > 2 * TELL_FROM {
        tell_shm();
    }
}

/// Adds what this process has not told yet to what all have.
#[cold]
#[inline(never)]
fn tell_shm() {
    if let Some(region) = state::region() {
        region.control.shm_counted.add(LOCAL.shm_untold.replace(0));
    }
}

/// Notes bytes of shm on a thread that is not its process's main one, or in a child without a number.
#[cold]
#[inline(never)]
fn note_shm_elsewhere(bytes: u64) {
    if let Some(region) = state::region() {
        region.control.shm_counted.add(bytes);
    }
}

/// A new process has told nothing and owes nothing: what its parent had not told, its parent will tell.
pub fn forget_untold() {
    LOCAL.shm_untold.set(0);
}
pub mod owners;
