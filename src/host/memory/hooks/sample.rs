//! Sampling: which allocations get a context, and what happens to it until the free. Every process, every allocation.
//! Forbidden here: locks, system calls, allocation, logging, panics; callers may hold the global shm lock.
//!
//! The block carries its context in its header: the pointer to its module's name leads to the same name in memguard's
//! table of contexts. No memory manager and no report of Kamailio's compares that pointer (they compare file, function
//! and line; internals H.0). It is written after the allocation, as shm_setfunc() of the core does with the function,
//! so that the block's real size decides, and a failed allocation costs nothing.
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use std::cell::Cell;
use std::ffi::{c_char, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use crate::guard::config::params::Int;
use crate::guard::foresee::sampling::{self, Countdown, Pace};
use crate::guard::terms::warnings::Warning;
use crate::host::kamailio::{follow, state, sys};
use crate::host::memory::{
    hooks::{LOCAL, is_main_thread, owners, view::Block},
    stack,
};
use crate::shared::counters::{
    contexts::{Carried, Context, Contexts, FILE_BYTES, NAME_BYTES, Owner, ROUTE_BYTES},
    sites::{Entry, Key, SitePool, overflow_row},
};

/// Bytes that this process may allocate before somebody has to look; endless until [`start`]. Threads of receivers
/// count on the same word without a lock: of two that meet, one may not count.
static LOCAL_LEFT: AtomicI64 = AtomicI64::new(i64::MAX);
/// Counts the allocations of places in focus that are thinned out; two threads that meet count one.
static LOCAL_TURN: AtomicU64 = AtomicU64::new(0);
/// First byte of the table of contexts; 0: none.
static LOCAL_TABLE: AtomicUsize = AtomicUsize::new(0);
/// The same as a pointer.
static LOCAL_CONTEXTS: AtomicPtr<Contexts> = AtomicPtr::new(ptr::null_mut());
/// First bytes of the message in hand; zeros between messages.
static LOCAL_MESSAGE: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// What is behind [`LOCAL_LEFT`]. Private memory, copied by fork.
struct Drawn {
    /// A thread is in here; others do without.
    is_taken: AtomicBool,
    countdown: Cell<Countdown>,
    pace: Cell<Pace>,
    /// Counts the random numbers of this process.
    random: Cell<u64>,
    /// The process that they were drawn for.
    process: Cell<i32>,
    /// Where actions of the configuration were allocated (file literal and line); 0: there are none.
    action_file: Cell<usize>,
    action_line: Cell<u32>,
}
// SAFETY: the cells are touched by the thread that holds `is_taken` only, and by `start` before there are threads; the two
// of actions are only read after it.
unsafe impl Sync for Drawn {}

static LOCAL_DRAWN: Drawn = Drawn {
    is_taken: AtomicBool::new(false),
    countdown: Cell::new(Countdown::new()),
    pace: Cell::new(Pace::new()),
    random: Cell::new(0),
    process: Cell::new(-1),
    action_file: Cell::new(0),
    action_line: Cell::new(0),
};

/// Whether blocks can carry a context: their headers are read, and places counted.
pub fn is_possible() -> bool {
    owners::sites().is_some() && crate::host::memory::hooks::knows_places()
}

/// Starts sampling, when places are counted: `mod_init`, before the first fork.
pub fn start(contexts: &'static Contexts, seed: u64) {
    stack::warm_up();
    LOCAL_DRAWN.random.set(seed);
    // ORDERING: Relaxed throughout; one thread, before the first fork.
    LOCAL_CONTEXTS.store(ptr::from_ref(contexts).cast_mut(), Ordering::Relaxed);
    LOCAL_TABLE.store(ptr::from_ref(contexts) as usize, Ordering::Relaxed);
    LOCAL_LEFT.store(0, Ordering::Relaxed);
}

/// Learns where the actions of the native configuration were allocated: PROC_INIT, when all routes are made.
pub fn learn_actions() {
    // SAFETY: PROC_INIT: one thread, the lists of routes are complete.
    let action = unsafe { sys::mg_cfg_any_action() }
        .cast_mut()
        .cast::<c_void>();
    let pool = LOCAL.pkg_pool.get();
    if let Some(block) = pool.if_live(action) {
        LOCAL_DRAWN.action_file.set(block.file);
        LOCAL_DRAWN.action_line.set(block.line);
    }
}

/// The table of contexts; `None` while nothing is sampled.
pub fn contexts() -> Option<&'static Contexts> {
    // ORDERING: Relaxed; written before the first fork.
    // SAFETY: null, or the mapping, which is never unmapped.
    unsafe { LOCAL_CONTEXTS.load(Ordering::Relaxed).as_ref() }
}

/// A message begins, or (no bytes) is over. Its method is read when somebody asks.
pub fn message(text: &[u8]) {
    let word = |at: usize| {
        let bytes = text.get(at..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
    };
    // ORDERING: Relaxed; for this process's own samples.
    for (to, at) in LOCAL_MESSAGE.iter().zip([0, 8]) {
        to.store(word(at), Ordering::Relaxed);
    }
}

/// A block of `size` bytes was allocated and counted; answers it, so that a wrapper can end with this call. `focus` is
/// negative when its place is in focus. The usual path: a subtraction and a branch.
#[inline(always)]
pub(super) fn allocated(pool: SitePool, block: *mut c_void, size: u64, focus: i64) -> *mut c_void {
    // ORDERING: Relaxed; a number of this process's own, see LOCAL_LEFT.
    let left = LOCAL_LEFT.load(Ordering::Relaxed).wrapping_sub(size as i64);
    LOCAL_LEFT.store(left, Ordering::Relaxed);
    if left | focus < 0 {
        return noticed(pool, block, focus);
    }
    block
}

/// A block was freed: what its header said before.
#[inline(always)]
pub(super) fn freed(old: &Block) {
    if is_carried(old) {
        given(old.module, old.size);
    }
}

/// A block changed its size in place.
#[inline(always)]
pub(super) fn resized(before: &Block, after: u64) {
    if is_carried(before) {
        changed(before.module, before.size, after);
    }
}

/// Whether a block's header leads to a context.
#[inline(always)]
pub(super) fn is_carried(block: &Block) -> bool {
    // ORDERING: Relaxed; written before the first fork.
    block
        .module
        .wrapping_sub(LOCAL_TABLE.load(Ordering::Relaxed))
        < Contexts::RANGE
}

/// This process's number.
fn process() -> i32 {
    // SAFETY: a plain int of the server, set right after each fork (core/pt.c).
    unsafe { sys::process_no }
}

/// Whether a private block is this process's own, and not one that a child without a number inherited.
fn is_own(process_of_block: u16) -> bool {
    i32::from(process_of_block) == process() && !owners::is_unnumbered()
}

/// The context that a header's pointer leads to, if this process may count its block off.
fn carried(module: usize) -> Option<(&'static Contexts, Carried)> {
    let contexts = contexts()?;
    let carried = contexts.carried(module)?;
    let owner = contexts.owner(carried)?;
    (!owner.is_pkg || is_own(owner.process)).then_some((contexts, carried))
}

#[cold]
#[inline(never)]
fn given(module: usize, size: u64) {
    if let Some((contexts, carried)) = carried(module) {
        contexts.give(carried, size);
    }
}

#[cold]
#[inline(never)]
fn changed(module: usize, before: u64, after: u64) {
    if let Some((contexts, carried)) = carried(module) {
        contexts.resized(carried, before, after);
    }
}

/// The block's place is in focus, or the countdown fell below 0: the block is sampled, or it is only time to look at the
/// rate. In focus a block is noted by its turn alone, so that what it stands for is known; a point that lies on it is
/// used up.
#[cold]
#[inline(never)]
fn noticed(pool: SitePool, block: *mut c_void, focus: i64) -> *mut c_void {
    // Most of a busy place in focus ends here: neither its turn, nor time to look.
    let thinned = Entry::thinned(focus).filter(|thinned| is_its_turn(*thinned));
    // ORDERING: Relaxed; see LOCAL_LEFT.
    let is_over = LOCAL_LEFT.load(Ordering::Relaxed) < 0;
    if thinned.is_none() && !is_over {
        return block;
    }
    let (Some(contexts), Some(region)) = (contexts(), state::region()) else {
        // ORDERING: Relaxed; see LOCAL_LEFT.
        LOCAL_LEFT.store(i64::MAX, Ordering::Relaxed);
        return block;
    };
    if is_over {
        follow::look(region); // a process may handle neither messages nor commands of memguard
    }
    let rate = region.settings.get_u64(Int::SampleBytes);
    let is_in_focus = focus < 0 && rate > 1;
    // ORDERING: Acquire; pairs with the Release in drawn.
    let drawn = match is_over && !LOCAL_DRAWN.is_taken.swap(true, Ordering::Acquire) {
        true => drawn(rate),
        false => None,
    };
    match (thinned, drawn) {
        (Some(thinned), _) if is_in_focus => carry(contexts, (1, thinned), pool, block),
        (_, Some(rate)) if !is_in_focus => carry(contexts, (rate, 0), pool, block),
        _ => (),
    }
    block
}

/// One allocation in 2^`thinned`, by chance.
fn is_its_turn(thinned: u8) -> bool {
    let mask = (1u64 << (thinned % 32)).wrapping_sub(1);
    mask == 0 || {
        // ORDERING: Relaxed; a number of this process's own.
        let turn = LOCAL_TURN.load(Ordering::Relaxed).wrapping_add(1);
        LOCAL_TURN.store(turn, Ordering::Relaxed);
        let own = (process() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        sampling::spread(turn ^ own) & mask == 0
    }
}

/// The rate at which this block is sampled, if it is; draws the next point. By the one thread that took `LOCAL_DRAWN`.
fn drawn(asked: u64) -> Option<u64> {
    let drawn = &LOCAL_DRAWN;
    if drawn.process.get() != process() {
        // A new process: other numbers than its parent's and its siblings'.
        drawn.process.set(process());
        let own = sampling::spread(process() as u64);
        drawn.random.set(drawn.random.get() ^ own);
        drawn.countdown.set(Countdown::new());
        drawn.pace.set(Pace::new());
    }
    let mut pace = drawn.pace.get();
    let rate = pace.rate(asked);
    let random = drawn.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    drawn.random.set(random);
    let mut countdown = drawn.countdown.get();
    // ORDERING: Relaxed; see LOCAL_LEFT.
    countdown.left = LOCAL_LEFT.load(Ordering::Relaxed);
    let is_hit = countdown.expired(rate, sampling::spread(random));
    LOCAL_LEFT.store(countdown.left, Ordering::Relaxed);
    drawn.countdown.set(countdown);
    pace.look(is_hit, state::coarse_ms());
    drawn.pace.set(pace);
    // ORDERING: Release; pairs with the Acquire in noticed.
    drawn.is_taken.store(false, Ordering::Release);
    is_hit.then_some(rate)
}

/// Finds out how the block was reached and has its header carry it. It was sampled at `rate`, and of those one in
/// 2^`thinned`.
fn carry(
    contexts: &'static Contexts,
    (rate, thinned): (u64, u8),
    pool: SitePool,
    block: *mut c_void,
) {
    let (process, is_pkg) = (process(), pool == SitePool::Pkg);
    // Main's private blocks are its children's too: their contexts would be freed many times.
    if is_pkg && (process == 0 || !is_main_thread() || owners::is_unnumbered()) {
        return;
    }
    let view = LOCAL.view(pool);
    let caller = view.caller(block);
    let key = Key {
        pool,
        file: caller.file as usize,
        line: caller.line,
    };
    let site = owners::sites().and_then(|sites| sites.find(key));
    let mut context = Context {
        site: site.unwrap_or(overflow_row(key.pool)) as u32,
        ..Context::NONE
    };
    reached(&mut context);
    let owner = Owner {
        process: process as u16,
        is_pkg,
        rate: rate as u32,
        thinned,
    };
    // SAFETY: the header's module is the C string that the caller passed (core/mem/src_loc.h).
    let module = unsafe { text(caller.module, NAME_BYTES) };
    match contexts.take(owner, &context, module, view.size_of(block)) {
        Some(carried) => view.set_module(block, contexts.address(carried)),
        None => {
            if let Some(region) = state::region() {
                region.warn(Warning::PathsFull, true);
            }
        }
    }
}

/// The path, the configuration's line and the message in hand.
fn reached(context: &mut Context) {
    // SAFETY: reads a static pointer of the core (core/action.c).
    let action = unsafe { sys::mg_cfg_action() };
    // ORDERING: Relaxed; as in message. Without a message no script is run, but for timers.
    let [first, _] = &LOCAL_MESSAGE;
    let has_message = first.load(Ordering::Relaxed) != 0;
    let seek = action.is_null() && has_message && LOCAL_DRAWN.action_file.get() != 0;
    let (depth, outer) = stack::walk(
        &mut context.frames,
        seek.then_some(is_action as fn(usize) -> bool),
    );
    context.depth = depth as u8;
    context.is_outer = action.is_null() && outer != 0;
    let action = if context.is_outer {
        outer as *const c_void
    } else {
        action
    };
    if !action.is_null() {
        let (mut file, mut route) = (ptr::null(), ptr::null());
        // SAFETY: an action that is being run; its texts live as long as the configuration.
        unsafe {
            context.line = sys::mg_cfg_place(action, &mut file, &mut route).max(0) as u32;
            let file = text(file, LONGEST_FILE);
            let end = file.get(file.len().saturating_sub(FILE_BYTES)..);
            copy(&mut context.file, end.unwrap_or_default());
            copy(&mut context.route, text(route, ROUTE_BYTES));
        }
    }
    let words = LOCAL_MESSAGE.iter().flat_map(|word| {
        // ORDERING: Relaxed; as in message.
        word.load(Ordering::Relaxed).to_ne_bytes()
    });
    let method = context.message.iter_mut().zip(words);
    // The first word only: what comes after it would tell one message from another.
    for (to, byte) in method.take_while(|(_, byte)| byte.is_ascii_uppercase()) {
        *to = byte;
    }
}

/// More than any path of a configuration's file is long.
const LONGEST_FILE: usize = 512;

/// More than any manager's header is long: before the first block there is the manager's control block.
const LARGEST_HEADER: usize = 128;

fn copy(to: &mut [u8], from: &[u8]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
}

/// Whether a word is the address of an action: a live block of pkg that was allocated where actions are.
fn is_action(word: usize) -> bool {
    let pool = LOCAL.pkg_pool.get();
    let block = word as *mut c_void;
    word % 8 == 0
        && pool.holds(word.wrapping_sub(LARGEST_HEADER) as *mut c_void)
        && pool.if_live(block).is_some_and(|block| {
            block.file == LOCAL_DRAWN.action_file.get()
                && block.line == LOCAL_DRAWN.action_line.get()
        })
}

/// A C string's bytes, at most `limit`.
///
/// # Safety
/// Null, or a C string that lives as long as the answer.
unsafe fn text<'a>(from: *const c_char, limit: usize) -> &'a [u8] {
    // SAFETY: the caller's promise.
    unsafe { owners::text(from, limit) }
}
