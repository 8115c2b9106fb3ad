//! Who holds the memory: counts every operation at the place that allocated the block. Called by `hooks` on every one.
//! Forbidden here: locks, system calls, allocation, logging, panics; callers may hold the global shm lock.
//!
//! As with the totals, what concerns this process's private pool is kept in private memory (`PKG`), which a fork copies
//! exactly with the heap that it describes, and is published into the process's shared table operation by operation.
//! shm counts go straight into the shared table. Threads other than the main one share one table, by atomic adds.
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use std::cell::Cell;
use std::ffi::c_char;
use std::ptr;

use super::{hooks, sys};
use crate::shared::rows::Row;
use crate::shared::sites::{
    Counts, FILE_BYTES, FUNC_BYTES, Key, MODULE_BYTES, SITES, SitePool, Sites, Table, Tally, Texts,
    Writer, before_row, overflow_row,
};

/// The place arguments of an allocation call (core/mem/memapi.h, DBG_SR_MEMORY).
#[derive(Clone, Copy)]
pub struct Caller {
    /// File literal.
    pub file: *const c_char,
    /// Function literal.
    pub func: *const c_char,
    /// Line.
    pub line: u32,
    /// Module literal.
    pub module: *const c_char,
}

/// What each process has for itself (private memory, copied by fork).
struct Local {
    /// Null: only totals are counted.
    sites: Cell<*const Sites>,
    /// This process's table and the process number that it belongs to.
    table: Cell<*const Table>,
    process: Cell<i32>,
    /// This process's row of totals, which comes and goes with the table.
    row: Cell<*const Row>,
    /// Thread pointer of the main thread.
    main_thread: Cell<usize>,
}
// SAFETY: written by the main thread of a process only: before the first fork, and when a new process counts first.
// Other threads read `sites` and `main_thread`, which never change after installation but for being switched off.
unsafe impl Sync for Local {}

static LOCAL: Local = Local {
    sites: Cell::new(ptr::null()),
    table: Cell::new(ptr::null()),
    process: Cell::new(-1),
    row: Cell::new(ptr::null()),
    main_thread: Cell::new(0),
};

/// Counters of this process's private pool by site.
static PKG: Table = [const { Counts::new() }; SITES];

/// Starts counting by place. Before the first fork.
pub fn start(sites: &'static Sites, main_thread: usize) {
    LOCAL.main_thread.set(main_thread);
    LOCAL.sites.set(sites);
}

/// Stops counting by place: for good, and before the first fork only.
pub fn stop() {
    LOCAL.sites.set(ptr::null());
}

/// The main thread's totals of a process in a pool, summed over the places; `None` while places are not counted.
pub fn total(process: usize, pool: SitePool) -> Option<Tally> {
    sites().map(|sites| sites.total(process, pool))
}

/// The dictionary; `None` while only totals are counted.
#[inline(always)]
pub fn sites() -> Option<&'static Sites> {
    // SAFETY: null, or the mapping, which is never unmapped.
    unsafe { LOCAL.sites.get().as_ref() }
}

/// This process's shared table.
#[inline(always)]
fn own_table(sites: &'static Sites) -> Option<&'static Table> {
    // SAFETY: a plain int of the server, set right after each fork (core/pt.c).
    let process = unsafe { sys::process_no };
    if process == LOCAL.process.get() {
        // SAFETY: null, or a table of the mapping.
        unsafe { LOCAL.table.get().as_ref() }
    } else {
        adopt(sites, process)
    }
}

/// This process's row of totals; only after an operation of the main thread was counted by place.
#[inline(always)]
pub fn row() -> Option<&'static Row> {
    // SAFETY: null, or a row of the mapping, of this process since the last call of own_table.
    unsafe { LOCAL.row.get().as_ref() }
}

/// The first operation of a new process: what it inherited becomes its own.
#[cold]
#[inline(never)]
fn adopt(sites: &'static Sites, process: i32) -> Option<&'static Table> {
    let table = usize::try_from(process)
        .ok()
        .and_then(|process| sites.table(process));
    LOCAL.process.set(process);
    LOCAL.table.set(table.map_or(ptr::null(), ptr::from_ref));
    LOCAL
        .row
        .set(hooks::own_row().map_or(ptr::null(), ptr::from_ref));
    if let Some(table) = table {
        for (shared, own) in table.iter().zip(&PKG).take(sites.count()) {
            if !own.is_unused() {
                publish(shared, own);
            }
        }
    }
    table
}

/// Only sites of the private pool are ever used in `PKG`, so a row with something in it is wholly this process's.
fn publish(shared: &Counts, own: &Counts) {
    shared.copy_from(own);
}

/// Publishes what this process inherited; called after a fork, by the process itself.
pub fn publish_process() {
    if let Some(sites) = sites() {
        own_table(sites);
    }
}

/// The length of a C string, at most `limit`.
///
/// # Safety
/// Null, or a C string.
pub(super) unsafe fn text<'a>(from: *const c_char, limit: usize) -> &'a [u8] {
    if from.is_null() {
        return &[];
    }
    let mut length = 0usize;
    // SAFETY: the caller's promise: readable up to its NUL.
    while length < limit && unsafe { *from.wrapping_add(length) } != 0 {
        length = length.wrapping_add(1);
    }
    // SAFETY: `length` readable bytes.
    unsafe { std::slice::from_raw_parts(from.cast::<u8>(), length) }
}

/// More than any file name of Kamailio's build is long.
const LONGEST_FILE: usize = 512;

#[cold]
#[inline(never)]
fn insert(sites: &'static Sites, key: Key, caller: &Caller) -> usize {
    // SAFETY: the caller of an allocation passes C strings that are valid during the call (core/mem/src_loc.h); a
    // block's header keeps them.
    let (file, func, module) = unsafe {
        (
            text(caller.file, LONGEST_FILE),
            text(caller.func, FUNC_BYTES),
            text(caller.module, MODULE_BYTES),
        )
    };
    let file = file
        .get(file.len().saturating_sub(FILE_BYTES)..)
        .unwrap_or(file);
    sites.insert(key, Texts { file, func, module })
}

/// Index of a place whose texts are at hand.
fn index_of(sites: &'static Sites, pool: SitePool, caller: &Caller) -> usize {
    let key = Key {
        pool,
        file: caller.file as usize,
        line: caller.line,
    };
    match sites.find(key) {
        Some(index) => index,
        None => insert(sites, key, caller),
    }
}

#[inline(always)]
fn index_of_block(sites: &'static Sites, pool: SitePool, file: usize, line: u32) -> usize {
    sites
        .find(Key { pool, file, line })
        .unwrap_or_else(|| sites.unknown(pool))
}

/// What became of an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// It is counted by place.
    Yes,
    /// The place was never seen: [`learn`] it and count again.
    Unseen,
    /// Places are not counted.
    Off,
}

/// Makes a place known.
#[cold]
#[inline(never)]
pub fn learn(pool: SitePool, caller: &Caller) {
    if let Some(sites) = sites() {
        index_of(sites, pool, caller);
    }
}

/// What an allocation at a place that could not be learned counts as.
#[cold]
#[inline(never)]
pub fn overflowed(pool: SitePool, size: u64, thread: usize) {
    let Some(sites) = sites() else { return };
    match pool {
        SitePool::Pkg => pkg_allocated_at(sites, overflow_row(pool), size),
        SitePool::Shm => shm_allocated_at(sites, overflow_row(pool), size, thread),
    }
}

#[inline(always)]
fn pkg_allocated_at(sites: &'static Sites, index: usize, size: u64) {
    let Some(own) = PKG.get(index) else { return };
    let totals = own.allocated(size);
    if let Some(shared) = own_table(sites).and_then(|table| table.get(index)) {
        shared.set_allocated(totals);
    }
}

#[inline(always)]
fn shm_allocated_at(sites: &'static Sites, index: usize, size: u64, thread: usize) {
    match shm_row(sites, index, thread) {
        Some((row, Writer::Only)) => {
            row.allocated(size);
        }
        Some((row, writer)) => row.add(writer, (1, size), (0, 0), 0),
        None => (),
    }
}

/// A block of the private pool was allocated.
#[inline(always)]
pub fn pkg_allocated(size: u64, file: usize, line: u32) -> Counted {
    let Some(sites) = sites() else {
        return Counted::Off;
    };
    let Some(index) = sites.find(Key {
        pool: SitePool::Pkg,
        file,
        line,
    }) else {
        return Counted::Unseen;
    };
    pkg_allocated_at(sites, index, size);
    Counted::Yes
}

/// A block of the private pool that was allocated at `file`, `line` was freed.
#[inline(always)]
pub fn pkg_freed(size: u64, file: usize, line: u32) -> Counted {
    let Some(sites) = sites() else {
        return Counted::Off;
    };
    let index = index_of_block(sites, SitePool::Pkg, file, line);
    if let Some(own) = PKG.get(index) {
        let totals = own.freed(size);
        if let Some(shared) = own_table(sites).and_then(|table| table.get(index)) {
            shared.set_freed(totals);
        }
    }
    Counted::Yes
}

/// A block of the private pool changed its size in place.
pub fn pkg_changed(grown: u64, shrunk: u64, unbooked: u64, file: usize, line: u32) {
    let Some(sites) = sites() else { return };
    let index = index_of_block(sites, SitePool::Pkg, file, line);
    let Some(own) = PKG.get(index) else { return };
    own.add(Writer::Only, (0, grown), (0, shrunk), unbooked);
    if let Some(shared) = own_table(sites).and_then(|table| table.get(index)) {
        publish(shared, own);
    }
}

/// An allocation from the private pool failed.
#[cold]
pub fn pkg_failed(size: u64, caller: &Caller, now_s: u64) {
    let Some(sites) = sites() else { return };
    let index = index_of(sites, SitePool::Pkg, caller);
    let Some(own) = PKG.get(index) else { return };
    own.failed(size, now_s);
    if let Some(shared) = own_table(sites).and_then(|table| table.get(index)) {
        publish(shared, own);
    }
}

/// The row that this thread counts shm in, and how.
#[inline(always)]
fn shm_row(
    sites: &'static Sites,
    index: usize,
    thread: usize,
) -> Option<(&'static Counts, Writer)> {
    if thread == LOCAL.main_thread.get() {
        Some((own_table(sites)?.get(index)?, Writer::Only))
    } else {
        Some((sites.threads().get(index)?, Writer::OneOfMany))
    }
}

/// A block of the shared pool was allocated by this thread.
#[inline(always)]
pub fn shm_allocated(size: u64, file: usize, line: u32, thread: usize) -> Counted {
    let Some(sites) = sites() else {
        return Counted::Off;
    };
    let Some(index) = sites.find(Key {
        pool: SitePool::Shm,
        file,
        line,
    }) else {
        return Counted::Unseen;
    };
    shm_allocated_at(sites, index, size, thread);
    Counted::Yes
}

/// A block of the shared pool that was allocated at `file`, `line` was freed by this thread.
#[inline(always)]
pub fn shm_freed(size: u64, file: usize, line: u32, thread: usize) -> Counted {
    let Some(sites) = sites() else {
        return Counted::Off;
    };
    let index = index_of_block(sites, SitePool::Shm, file, line);
    match shm_row(sites, index, thread) {
        Some((row, Writer::Only)) => {
            row.freed(size);
        }
        Some((row, writer)) => row.add(writer, (0, 0), (1, size), 0),
        None => (),
    }
    Counted::Yes
}

/// A block of the shared pool changed its size in place.
pub fn shm_changed(grown: u64, shrunk: u64, unbooked: u64, file: usize, line: u32, thread: usize) {
    let Some(sites) = sites() else { return };
    let index = index_of_block(sites, SitePool::Shm, file, line);
    if let Some((row, writer)) = shm_row(sites, index, thread) {
        row.add(writer, (0, grown), (0, shrunk), unbooked);
    }
}

/// An allocation from the shared pool failed.
#[cold]
pub fn shm_failed(size: u64, caller: &Caller, now_s: u64, thread: usize) {
    let Some(sites) = sites() else { return };
    let index = index_of(sites, SitePool::Shm, caller);
    if let Some((row, _)) = shm_row(sites, index, thread) {
        row.failed(size, now_s);
    }
}

/// Blocks that are older than the wrappers: counts them at their place (`Some`) or at the row of unnamed ones.
/// Before the first fork, by the main thread.
pub fn seed(pool: SitePool, caller: Option<&Caller>, blocks: u64, bytes: u64) {
    let Some(sites) = sites() else { return };
    let index = caller.map_or(before_row(pool), |caller| index_of(sites, pool, caller));
    let allocated = (blocks, bytes);
    match pool {
        SitePool::Pkg => {
            if let Some(own) = PKG.get(index) {
                own.add(Writer::Only, allocated, (0, 0), 0);
                if let Some(shared) = own_table(sites).and_then(|table| table.get(index)) {
                    publish(shared, own);
                }
            }
        }
        SitePool::Shm => {
            if let Some(shared) = own_table(sites).and_then(|table| table.get(index)) {
                shared.add(Writer::Only, allocated, (0, 0), 0);
            }
        }
    }
}

/// Bytes of shm before they were unbooked by a shrinking realloc, at the row of older blocks.
pub fn seed_unbooked(pool: SitePool, bytes: u64) {
    let Some(sites) = sites() else { return };
    let row = before_row(pool);
    if let Some(own) = PKG.get(row).filter(|_| pool == SitePool::Pkg) {
        own.add(Writer::Only, (0, 0), (0, 0), bytes);
    }
    if let Some(shared) = own_table(sites).and_then(|table| table.get(row)) {
        shared.add(Writer::Only, (0, 0), (0, 0), bytes);
    }
}
