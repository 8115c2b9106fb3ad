//! The functions that stand in the API tables instead of the managers' own; every process runs them on every allocation.
//! Forbidden here: locks, system calls, allocation, logging, panics; callers may hold the global shm lock.
//!
//! Each has a short way, for places that are found at once by a process that has its table, and a long way. The short
//! way is kept apart so that it needs few registers: what it costs is mostly what it saves and restores.
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use crate::host::memory::hooks::{counting, entries::*, *};

pub(super) unsafe extern "C" fn malloc<P: Pool, E: Allocates, M: Manager>(
    block: *mut c_void,
    size: usize,
    file: *const c_char,
    func: *const c_char,
    line: c_uint,
    mname: *const c_char,
) -> *mut c_void {
    let near = owners::near(P::SITE_POOL, file as usize, line);
    let (Some(real), Some(near)) = (E::of(LOCAL.real(P::SITE_POOL)), near) else {
        // SAFETY: the same arguments.
        return unsafe { malloc_long::<P, E>(block, size, file, func, line, mname) };
    };
    // SAFETY: the manager's own function with its own arguments.
    let got = unsafe { real(block, size, file, func, line, mname) };
    if got.is_null() {
        counting::failed::<P>(size, Some(near.spot()));
        return got;
    }
    let size = counting::allocated::<P, M>(got, Some(near.spot()));
    sample::allocated(P::SITE_POOL, got, size, near.spot().focus())
}

#[inline(never)]
unsafe extern "C" fn malloc_long<P: Pool, E: Allocates>(
    block: *mut c_void,
    size: usize,
    file: *const c_char,
    func: *const c_char,
    line: c_uint,
    module: *const c_char,
) -> *mut c_void {
    let Some(real) = E::of(LOCAL.real(P::SITE_POOL)) else {
        return ptr::null_mut();
    };
    let caller = Caller {
        file,
        func,
        line,
        module,
    };
    let spot = owners::spot_of(P::SITE_POOL, &caller);
    // SAFETY: the manager's own function with its own arguments.
    let got = unsafe { real(block, size, file, func, line, module) };
    answered::<P>(got, size, spot)
}

/// Counts what the manager answered to who wants `size` bytes for one block more, and hands it on.
#[inline(always)]
fn answered<P: Pool>(got: *mut c_void, size: usize, spot: Option<Spot>) -> *mut c_void {
    if got.is_null() {
        counting::failed::<P>(size, spot);
        return got;
    }
    let size = counting::allocated::<P, Any>(got, spot);
    sample::allocated(P::SITE_POOL, got, size, focus(spot))
}

/// Negative while the place is in focus.
#[inline(always)]
fn focus(spot: Option<Spot>) -> i64 {
    spot.map_or(0, |spot| spot.focus())
}

pub(super) unsafe extern "C" fn free<P: Pool, E: Frees, M: Manager>(
    block: *mut c_void,
    pointer: *mut c_void,
    file: *const c_char,
    func: *const c_char,
    line: c_uint,
    mname: *const c_char,
) {
    // Before the real free: afterwards the header names the freeing place.
    let old = LOCAL.view(P::SITE_POOL).known::<M>().if_live(pointer);
    let old = old.filter(|old| !sample::is_carried(old));
    let near = old.and_then(|old| owners::near(P::SITE_POOL, old.file, old.line));
    let (Some(real), Some(old), Some(near)) = (E::of(LOCAL.real(P::SITE_POOL)), old, near) else {
        // SAFETY: the same arguments.
        return unsafe { free_long::<P, E>(block, pointer, file, func, line, mname) };
    };
    counting::freed::<P>(old.size, Some(near.spot()));
    // SAFETY: the manager's own function with its own arguments.
    unsafe { real(block, pointer, file, func, line, mname) };
    counting::after_free::<P>();
}

#[inline(never)]
unsafe extern "C" fn free_long<P: Pool, E: Frees>(
    block: *mut c_void,
    pointer: *mut c_void,
    file: *const c_char,
    func: *const c_char,
    line: c_uint,
    mname: *const c_char,
) {
    let Some(real) = E::of(LOCAL.real(P::SITE_POOL)) else {
        return;
    };
    if let Some(old) = LOCAL.view(P::SITE_POOL).if_live(pointer) {
        gone::<P>(&old);
    }
    // SAFETY: the manager's own function with its own arguments.
    unsafe { real(block, pointer, file, func, line, mname) };
    counting::after_long_free::<P>();
}

/// Counts a block off where its header says that it was allocated.
#[inline(always)]
fn gone<P: Pool>(old: &Block) {
    counting::freed::<P>(old.size, owners::spot_in(P::SITE_POOL, old.file, old.line));
    sample::freed(old);
}

pub(super) unsafe extern "C" fn realloc<P: Pool, E: Reallocates>(
    block: *mut c_void,
    pointer: *mut c_void,
    size: usize,
    file: *const c_char,
    func: *const c_char,
    line: c_uint,
    module: *const c_char,
) -> *mut c_void {
    let Some(real) = E::of(LOCAL.real(P::SITE_POOL)) else {
        return ptr::null_mut();
    };
    let caller = Caller {
        file,
        func,
        line,
        module,
    };
    let spot = owners::spot_of(P::SITE_POOL, &caller);
    let before = LOCAL.view(P::SITE_POOL).if_live(pointer);
    // SAFETY: the manager's own function with its own arguments.
    let got = unsafe { real(block, pointer, size, file, func, line, module) };
    if got.is_null() {
        if size != 0 {
            counting::failed::<P>(size, spot);
        }
        if let (Some(before), true) = (before, size == 0 || E::ON_FAILURE == OnFailure::Frees) {
            gone::<P>(&before);
        }
        return got;
    }
    let after = LOCAL.view(P::SITE_POOL).header(got);
    match before {
        // In place the block keeps the place that allocated it (fm, qm and tlsf `*_realloc`).
        Some(before)
            if got == pointer && (before.file, before.line) == (after.file, after.line) =>
        {
            let spot = owners::spot_in(P::SITE_POOL, before.file, before.line);
            counting::changed::<P>(before.size, after.size, spot);
            sample::resized(&before, after.size);
            got
        }
        before => {
            let size = counting::allocated::<P, Any>(got, spot);
            if let Some(before) = before {
                gone::<P>(&before);
            }
            sample::allocated(P::SITE_POOL, got, size, focus(spot))
        }
    }
}

/// `shm_resize` frees first and then allocates, without copying (fm, qm and tlsf `*_shm_resize`): never in place.
pub(super) unsafe extern "C" fn shm_resize(
    block: *mut c_void,
    pointer: *mut c_void,
    size: usize,
    file: *const c_char,
    func: *const c_char,
    line: c_uint,
    module: *const c_char,
) -> *mut c_void {
    let Some(real) = Resize::of(LOCAL.real(Shm::SITE_POOL)) else {
        return ptr::null_mut();
    };
    let caller = Caller {
        file,
        func,
        line,
        module,
    };
    let spot = owners::spot_of(Shm::SITE_POOL, &caller);
    let before = LOCAL.view(Shm::SITE_POOL).if_live(pointer);
    // SAFETY: the manager's own function with its own arguments.
    let got = unsafe { real(block, pointer, size, file, func, line, module) };
    if let Some(before) = before {
        gone::<Shm>(&before);
    }
    answered::<Shm>(got, size, spot)
}
