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
pub mod faults;
mod figures;
mod install;
mod manager;
pub mod sample;
mod view;
mod wrappers;

pub use figures::*;
pub use install::*;
use manager::{Any, Manager};
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
