//! Who holds the memory: counts every operation at the place that allocated the block. Called by `hooks` on every one.
//! Forbidden here: locks, system calls, allocation, logging, panics; callers may hold the global shm lock.
//!
//! A process writes the rows of its own shared table and no other. What a child inherits with its heap is copied by the
//! parent just before the fork (`before_fork`), because the parent's rows may have moved on when the child looks; the
//! child makes the copy its own rows when it gets its process number (`adopt`). A child that never gets one (a fork
//! that runs a command) counts its heap in the copy, and shm as other threads do: by atomic adds to one common table.
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

use crate::host::kamailio::sys;
use crate::host::memory::hooks;
use crate::shared::counters::{
    rows::{COMMON_ROW, Row},
    sites::{
        Counts, FILE_BYTES, FUNC_BYTES, Key, MODULE_BYTES, SITES, SitePool, Sites, Table, Tally,
        Texts, Writer, before_row,
    },
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
    /// The table that this process writes; null before it has one, and while only totals are counted.
    table: Cell<*const Table>,
    /// This process's row of totals, which comes and goes with the table.
    row: Cell<*const Row>,
    /// Thread pointer of the thread that is the only writer of the table; 0 while there is none.
    writer: Cell<usize>,
    /// Thread pointer of the main thread, which children keep.
    main_thread: Cell<usize>,
    /// Whether this process counts in the tables that several share, as there is none of its own.
    is_common: Cell<bool>,
    /// In a child: the process number of its parent, until it has one of its own; else [`NOBODY`].
    parent: Cell<i32>,
}
// SAFETY: written by the main thread of a process only: before the first fork, around each fork, and when a new process
// counts first. Other threads read `sites` and `writer`, which do not change while there are any.
unsafe impl Sync for Local {}

/// No process has this number.
const NOBODY: i32 = -1;

static LOCAL: Local = Local {
    sites: Cell::new(ptr::null()),
    table: Cell::new(ptr::null()),
    row: Cell::new(ptr::null()),
    writer: Cell::new(0),
    main_thread: Cell::new(0),
    is_common: Cell::new(false),
    parent: Cell::new(NOBODY),
};

/// The private pool's counters as they were at the fork that made this process; the counters themselves where it has no
/// table.
static AT_FORK: Table = [const { Counts::new() }; SITES];

/// Starts counting by place. Before the first fork.
pub fn start(sites: &'static Sites, main_thread: usize) {
    LOCAL.main_thread.set(main_thread);
    LOCAL.writer.set(main_thread);
    LOCAL.sites.set(sites);
    // SAFETY: two functions that only copy private and shared words, in the process that forks and in its child.
    let refused = unsafe { libc::pthread_atfork(Some(before_fork), None, Some(in_child)) };
    if refused != 0 {
        stop(); // out of memory at start: totals need no handler
    }
}

/// Stops counting by place: for good, and before the first fork only.
pub fn stop() {
    LOCAL.sites.set(ptr::null());
    LOCAL.table.set(ptr::null());
}

/// Runs in a process that is about to fork: its child's heap is this one, at this moment.
unsafe extern "C" fn before_fork() {
    let Some(sites) = sites() else { return };
    // SAFETY: null, or a table of the mapping.
    let Some(table) = (unsafe { LOCAL.table.get().as_ref() }) else {
        return;
    };
    let is_pkg = |index: &usize| sites.pool(*index) == Some(SitePool::Pkg);
    for index in (0..sites.count()).filter(is_pkg) {
        if let (Some(copy), Some(own)) = (AT_FORK.get(index), table.get(index)) {
            copy.copy_from(own);
        }
    }
}

/// Runs in a new process before anything else: it has no table yet.
unsafe extern "C" fn in_child() {
    // SAFETY: a plain int of the server, still the parent's.
    LOCAL.parent.set(unsafe { sys::process_no });
    LOCAL.table.set(ptr::null());
    LOCAL.row.set(ptr::null());
    LOCAL.writer.set(0);
    LOCAL.is_common.set(false);
    hooks::forget_untold();
}

/// Leaves this process's rows to a child that it is about to fork, which counts in them from now on; what this one
/// allocates itself is counted in a copy of its own.
pub fn lend() {
    // SAFETY: what a fork calls, in a process of one thread.
    unsafe {
        before_fork();
        in_child();
    }
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

/// The table that this process counts its private pool in. A number changes in a new process only (core/pt.c), so there
/// is no need to look at it each time.
#[inline(always)]
fn own_table() -> &'static Table {
    // SAFETY: null, or a table of the mapping.
    match unsafe { LOCAL.table.get().as_ref() } {
        Some(table) => table,
        None => adopt(),
    }
}

/// This process's row of totals; `None` before it has a table, and while only totals are counted.
#[inline(always)]
pub fn row() -> Option<&'static Row> {
    // SAFETY: null, or a row of the mapping, of this process.
    unsafe { LOCAL.row.get().as_ref() }
}

/// The first operation of a process that has got its number: what it inherited becomes its own.
#[cold]
#[inline(never)]
fn adopt() -> &'static Table {
    // SAFETY: a plain int of the server, set right after each fork (core/pt.c).
    let process = unsafe { sys::process_no };
    if process == LOCAL.parent.get() {
        return &AT_FORK; // a child without a number of its own, or not yet
    }
    let index = usize::try_from(process).unwrap_or(usize::MAX);
    let own = sites().and_then(|sites| Some((sites.table(index.min(COMMON_ROW))?, sites.count())));
    let (Some((table, count)), Some(row)) = (own, hooks::own_row()) else {
        return &AT_FORK;
    };
    if hooks::has_common_row() {
        for (shared, inherited) in table.iter().zip(&AT_FORK).take(count) {
            if !inherited.is_unused() {
                shared.join(inherited);
            }
        }
        LOCAL.parent.set(NOBODY);
        LOCAL.is_common.set(true);
        return table;
    }
    // Whoever is killed before it has published its own pool's figures has none, instead of an earlier process's.
    row.pkg.used.set(0);
    for (index, (shared, inherited)) in table.iter().zip(&AT_FORK).take(count).enumerate() {
        // An earlier process of this number may have left its private pool's counts; shm's are history, and stay.
        let is_pkg = || sites().is_some_and(|sites| sites.pool(index) == Some(SitePool::Pkg));
        if !inherited.is_unused() || (!shared.is_unused() && is_pkg()) {
            shared.copy_from(inherited);
        }
    }
    LOCAL.parent.set(NOBODY);
    LOCAL.writer.set(LOCAL.main_thread.get());
    LOCAL.row.set(row);
    LOCAL.table.set(table);
    table
}

/// Whether this is a child that has no process number of its own: it may not write as if it were alone.
pub fn is_unnumbered() -> bool {
    LOCAL.parent.get() != NOBODY
}

/// Publishes what this process inherited; called by a process that has its number. (The server's first fork, into the
/// background, leaves the number as it was, so that only the caller knows.)
pub fn publish_process() {
    if sites().is_some() {
        LOCAL.parent.set(NOBODY);
        own_table();
    }
}

/// The length of a C string, at most `limit`.
///
/// # Safety
/// Null, or a C string.
pub(in crate::host) unsafe fn text<'a>(from: *const c_char, limit: usize) -> &'a [u8] {
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

/// Where an operation is counted: the row of its place, and how this thread may write it.
#[derive(Clone, Copy)]
pub struct Spot {
    counts: &'static Counts,
    writer: Writer,
    focus: i64,
}

impl Spot {
    /// Whether the row is this process's own, so that its totals are the sums over its places.
    #[inline(always)]
    pub fn is_own(&self) -> bool {
        self.writer == Writer::Only
    }

    /// Negative while the place is in focus (`Entry::focus`).
    #[inline(always)]
    pub fn focus(&self) -> i64 {
        self.focus
    }

    /// A block was allocated.
    #[inline(always)]
    pub fn allocated(&self, size: u64) {
        match self.writer {
            Writer::Only => self.counts.allocated(size),
            writer => self.counts.add(writer, (1, size), (0, 0), 0),
        }
    }

    /// A block was freed, or is about to be.
    #[inline(always)]
    pub fn freed(&self, size: u64) {
        match self.writer {
            Writer::Only => self.counts.freed(size),
            writer => self.counts.add(writer, (0, 0), (1, size), 0),
        }
    }

    /// A block changed its size in place; `unbooked` bytes of that the manager forgot.
    pub fn changed(&self, grown: u64, shrunk: u64, unbooked: u64) {
        self.counts
            .add(self.writer, (0, grown), (0, shrunk), unbooked);
    }

    /// An allocation failed.
    #[cold]
    pub fn failed(&self, size: u64, now_s: u64) {
        self.counts.failed(size, now_s);
    }
}

/// A row of this process's own, of which this thread is the only writer.
#[derive(Clone, Copy)]
pub struct Near {
    counts: &'static Counts,
    focus: i64,
}

impl Near {
    /// The spot.
    #[inline(always)]
    pub fn spot(self) -> Spot {
        Spot {
            counts: self.counts,
            writer: Writer::Only,
            focus: self.focus,
        }
    }
}

/// The row of a place if that takes no search and no adoption: nine operations in ten. `None` says nothing.
#[inline(always)]
pub fn near(pool: SitePool, file: usize, line: u32) -> Option<Near> {
    if pool == SitePool::Shm && hooks::thread_pointer() != LOCAL.writer.get() {
        return None;
    }
    // SAFETY: null, or a table of the mapping; who has one has `sites`, too.
    let (table, sites) = unsafe { (LOCAL.table.get().as_ref()?, &*LOCAL.sites.get()) };
    let entry = sites.find_at_once(Key { pool, file, line })?;
    let counts = table.get(entry.index() % SITES)?; // a power of two, and never above: this spares the look
    let focus = entry.focus();
    Some(Near { counts, focus })
}

/// The spot of a row of this thread; `None`: places are not counted.
#[inline(always)]
fn spot(pool: SitePool, index: usize) -> Option<Spot> {
    let sites = sites()?;
    let is_own = pool == SitePool::Pkg || hooks::thread_pointer() == LOCAL.writer.get();
    let (table, writer) = if is_own && !LOCAL.is_common.get() {
        let table = own_table();
        match LOCAL.is_common.get() {
            true => (table, Writer::OneOfMany), // it has just got its number
            false => (table, Writer::Only),
        }
    } else if is_own {
        (sites.table(COMMON_ROW)?, Writer::OneOfMany)
    } else {
        (sites.threads(), Writer::OneOfMany)
    };
    let counts = table.get(index)?;
    let focus = 0;
    Some(Spot {
        counts,
        writer,
        focus,
    })
}

/// The spot of a call that allocates; its place is made known if it was not. `None`: places are not counted.
pub fn spot_of(pool: SitePool, caller: &Caller) -> Option<Spot> {
    let sites = sites()?;
    let key = Key {
        pool,
        file: caller.file as usize,
        line: caller.line,
    };
    let Some(entry) = sites.entry(key) else {
        return spot(pool, insert(sites, key, caller));
    };
    let spot = spot(pool, entry.index())?;
    let focus = entry.focus();
    Some(Spot { focus, ..spot })
}

/// The spot of the place in the header of a block. `None`: places are not counted.
pub fn spot_in(pool: SitePool, file: usize, line: u32) -> Option<Spot> {
    let sites = sites()?;
    let index = sites
        .find(Key { pool, file, line })
        .unwrap_or_else(|| sites.unknown(pool));
    spot(pool, index)
}

/// Blocks that are older than the wrappers: counts them at their place (`Some`) or at the row of unnamed ones.
/// Before the first fork, by the main thread.
pub fn seed(pool: SitePool, caller: Option<&Caller>, blocks: u64, bytes: u64) {
    let spot = match caller {
        Some(caller) => spot_of(pool, caller),
        None => spot(pool, before_row(pool)),
    };
    if let Some(Spot { counts, writer, .. }) = spot {
        counts.add(writer, (blocks, bytes), (0, 0), 0);
    }
}

/// Bytes that were forgotten by a shrinking realloc before the wrappers, at the row of older blocks.
pub fn seed_unbooked(pool: SitePool, bytes: u64) {
    if let Some(spot) = spot(pool, before_row(pool)) {
        spot.changed(0, 0, bytes);
    }
}
