//! Wrapping and restoring the API tables, and seeding the counters with what is older than the wrappers.
//! Forbidden here: anything after the first fork but `restore` and `publish_process`.

use std::ffi::c_void;
use std::ptr;

use crossbeam_utils::CachePadded;

use crate::guard::terms::warnings::Warning;
use crate::host::kamailio::state;
use crate::host::kamailio::sys;
use crate::host::memory::hooks::{
    counting::republish,
    entries::*,
    manager::*,
    owners::{self, Caller},
    view::*,
    wrappers::*,
    *,
};

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
    let used = pool.used();
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

/// Stops counting by place: from now on totals are counted, from where the sums over the places stand. Before the
/// first fork only.
pub fn stop_places() {
    let (Some(pkg), Some(shm)) = (
        owners::total(0, SitePool::Pkg),
        owners::total(0, SitePool::Shm),
    ) else {
        return;
    };
    owners::stop();
    let totals = &LOCAL.pkg;
    totals.allocs.set(pkg.allocs);
    totals.bytes_allocated.set(pkg.bytes_allocated);
    totals.frees.set(pkg.frees);
    totals.bytes_freed.set(pkg.bytes_freed);
    if let Some(row) = single_row() {
        row.shm.allocs.add(shm.allocs);
        row.shm.bytes_allocated.add(shm.bytes_allocated);
        row.shm.frees.add(shm.frees);
        row.shm.bytes_freed.add(shm.bytes_freed);
        republish(row);
    }
}

/// Whether the places of blocks can be read, in both pools.
pub fn knows_places() -> bool {
    LOCAL.pkg_pool.get().knows_places && LOCAL.shm_pool.get().knows_places
}

/// Wraps the private pool's functions; called once in `mod_register`, before any fork.
///
/// Blocks that exist already count as allocated by this process (they are its heap); the trial's unbooked shrink is
/// part of that seed.
///
/// # Errors
/// Why the pool is left alone.
pub fn install_pkg(
    rows: &'static [CachePadded<Row>],
    sites: Option<&'static Sites>,
) -> Result<(), Refused> {
    // SAFETY: before the first fork there is one thread; the API tables are plain globals (core/mem/pkg.c).
    unsafe {
        let api = table(&raw mut sys::_pkg_root);
        if LOCAL.pkg_real.get().malloc.is_some() {
            return Ok(());
        }
        let real = Real::from(&*api);
        let manager = Which::named(manager_name(api.mname)).ok_or(Refused::UnknownManager)?;
        let pool = view(
            manager,
            api.mem_block,
            api.mem_pool as usize,
            sys::pkg_mem_size as usize,
        )?;
        let pool = tried(pool, api.mem_block, &real)?;
        LOCAL.pkg_pool.set(pool);
        LOCAL.rows.set(rows.as_ptr());
        LOCAL.main_thread.set(thread_pointer());
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
        if owners::sites().is_none() {
            LOCAL.pkg.allocs.set(older.blocks);
            LOCAL.pkg.bytes_allocated.set(older.bytes);
        }
        LOCAL.pkg.unbooked.set(older.unbooked);
        match manager {
            Which::Fm => wrap_pkg::<Fm>(api, &real),
            Which::Qm => wrap_pkg::<Qm>(api, &real),
            Which::Tlsf => wrap_pkg::<Tlsf>(api, &real),
        }
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
pub fn install_shm(rows: &'static [CachePadded<Row>]) -> Result<(), Refused> {
    // SAFETY: as in install_pkg.
    unsafe {
        let api = table(&raw mut sys::_shm_root);
        if LOCAL.shm_real.get().malloc.is_some() {
            return Ok(());
        }
        if api.mem_block.is_null() || api.xmalloc.is_none() {
            return Err(Refused::NotReady);
        }
        let real = Real::from(&*api);
        let manager = Which::named(manager_name(api.mname)).ok_or(Refused::UnknownManager)?;
        let pool = view(
            manager,
            api.mem_block,
            api.mem_pool as usize,
            sys::shm_mem_size as usize,
        )?;
        let pool = tried(pool, api.mem_block, &real)?;
        LOCAL.shm_pool.set(pool);
        LOCAL.rows.set(rows.as_ptr());
        LOCAL.main_thread.set(thread_pointer());
        LOCAL.shm_real.set(real);
        if !pool.knows_places {
            stop_places();
        }
        let older = seed(
            SitePool::Shm,
            &pool,
            api.xmodstats,
            api.xfmodstats,
            api.mem_block,
        );
        if let Some(row) = rows.first() {
            if owners::sites().is_none() {
                row.shm.allocs.add(older.blocks);
                row.shm.bytes_allocated.add(older.bytes);
            }
            row.shm.unbooked.add(older.unbooked);
        }
        note_shm_elsewhere(older.bytes);
        match manager {
            Which::Fm => wrap_shm::<Fm>(api, &real),
            Which::Qm => wrap_shm::<Qm>(api, &real),
            Which::Tlsf => wrap_shm::<Tlsf>(api, &real),
        }
    }
    Ok(())
}

fn wrap_pkg<M: Manager>(api: &mut sys::sr_pkg_api_t, real: &Real) {
    api.xmalloc = Some(malloc::<Pkg, Malloc, M>);
    api.xmallocxz = real.mallocxz.and(Some(malloc::<Pkg, Mallocxz, M>));
    api.xrealloc = Some(realloc::<Pkg, Realloc>);
    api.xreallocxf = real.reallocxf.and(Some(realloc::<Pkg, Reallocxf>));
    api.xfree = Some(free::<Pkg, Free, M>);
}

fn wrap_shm<M: Manager>(api: &mut sys::sr_shm_api_t, real: &Real) {
    api.xmalloc = Some(malloc::<Shm, Malloc, M>);
    api.xmallocxz = real.mallocxz.and(Some(malloc::<Shm, Mallocxz, M>));
    api.xmalloc_unsafe = real.malloc_unsafe.and(Some(malloc::<Shm, MallocUnsafe, M>));
    api.xrealloc = Some(realloc::<Shm, Realloc>);
    api.xreallocxf = real.reallocxf.and(Some(realloc::<Shm, Reallocxf>));
    api.xresize = real.resize.and(Some(shm_resize));
    api.xfree = Some(free::<Shm, Free, M>);
    api.xfree_unsafe = real.free_unsafe.and(Some(free::<Shm, FreeUnsafe, M>));
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
            shm.xresize = shm_real.resize;
            shm.xfree = shm_real.free;
            shm.xfree_unsafe = shm_real.free_unsafe;
        }
    }
}

/// Leaves this process's row to the child that it forks next, which publishes itself in it. Process: the one that
/// supervises the sampling process, before each of its forks nothing else may count there.
pub fn lend() {
    owners::lend();
}

/// Writes this process's inherited pkg totals and pid into its row; called after every fork that is seen
/// (`child_init`), by the process itself.
pub fn publish_process() {
    owners::publish_process();
    tell_pkg();
    if let Some(row) = single_row() {
        republish(row);
        // ORDERING: Relaxed; read by reports only.
        row.pid
            .store(std::process::id(), std::sync::atomic::Ordering::Relaxed);
    }
}

/// Wraps shm as soon as it exists, and warns where it cannot be; cheap to call again.
pub fn hook_shm() {
    if let Some(region) = state::region() {
        let refused = install_shm(&region.rows).err();
        region.warn(
            Warning::ShmNotCounted,
            refused.is_some_and(|r| r != Refused::NotReady),
        );
    }
}
