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

use crate::host::memory::hooks::{counting::*, *};

macro_rules! wrap_malloc {
    ($name:ident, $long:ident, $pool:expr, $real:ident, $entry:ident, $allocated:ident, $failed:path) => {
        pub(super) unsafe extern "C" fn $name<M: Manager>(
            block: *mut c_void,
            size: usize,
            file: *const c_char,
            func: *const c_char,
            line: c_uint,
            mname: *const c_char,
        ) -> *mut c_void {
            let near = owners::near($pool, file as usize, line);
            let (Some(real), Some(near)) = (LOCAL.$real.get().$entry, near) else {
                // SAFETY: the same arguments.
                return unsafe { $long(block, size, file, func, line, mname) };
            };
            // SAFETY: the manager's own function with its own arguments.
            let got = unsafe { real(block, size, file, func, line, mname) };
            if got.is_null() {
                $failed(size, Some(near.spot()));
                return got;
            }
            let size = $allocated::<M>(got, Some(near.spot()));
            sample::allocated($pool, got, size, near.spot().focus())
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
            let size = $allocated::<Any>(got, spot);
            sample::allocated($pool, got, size, focus(spot))
        }
    };
}

macro_rules! wrap_free {
    ($name:ident, $long:ident, $site_pool:expr, $pool:ident, $real:ident, $entry:ident, $freed:path, $after:path, $after_long:path) => {
        pub(super) unsafe extern "C" fn $name<M: Manager>(
            block: *mut c_void,
            pointer: *mut c_void,
            file: *const c_char,
            func: *const c_char,
            line: c_uint,
            mname: *const c_char,
        ) {
            // Before the real free: afterwards the header names the freeing place.
            let old = LOCAL.$pool.get().known::<M>().if_live(pointer);
            let old = old.filter(|old| !sample::is_carried(old));
            let near = old.and_then(|old| owners::near($site_pool, old.file, old.line));
            let (Some(real), Some(old), Some(near)) = (LOCAL.$real.get().$entry, old, near) else {
                // SAFETY: the same arguments.
                return unsafe { $long(block, pointer, file, func, line, mname) };
            };
            $freed(old.size, Some(near.spot()));
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

/// Negative while the place is in focus.
#[inline(always)]
fn focus(spot: Option<Spot>) -> i64 {
    spot.map_or(0, |spot| spot.focus())
}

/// What a failed realloc leaves behind: `realloc` keeps the old block, `reallocxf` and `resize` free it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnFailure {
    Keeps,
    Frees,
}

macro_rules! wrap_realloc {
    ($name:ident, $site_pool:expr, $pool:ident, $real:ident, $entry:ident, $on_failure:expr,
     $allocated:ident, $freed:path, $changed:path, $failed:path) => {
        pub(super) unsafe extern "C" fn $name(
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
            let size = match before {
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
                    let size = $allocated::<Any>(got, spot);
                    $freed(before.size, of(before));
                    sample::freed(&before);
                    size
                }
                None => $allocated::<Any>(got, spot),
            };
            sample::allocated($site_pool, got, size, focus(spot))
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
pub(super) unsafe extern "C" fn shm_resize(
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
    let size = shm_allocated::<Any>(got, spot);
    sample::allocated(SitePool::Shm, got, size, focus(spot))
}
