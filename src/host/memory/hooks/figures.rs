//! The pools' figures at this moment, read without a lock, and memguard's own sums beside them.
//! Forbidden here: the shm lock; writing.

use std::ffi::c_void;

pub use crate::host::kamailio::processes::processes;
use crate::host::kamailio::sys;
use crate::host::memory::hooks::{owners, view::*, *};

/// Total size in bytes as the manager reports it.
///
/// # Safety
/// `info` is the manager's own function for `block`.
unsafe fn pool_size(info: sys::sr_mem_info_f, block: *mut c_void) -> usize {
    let Some(info) = info else { return 0 };
    // SAFETY: mem_info is plain numbers; the manager fills it.
    unsafe {
        let mut figures: sys::mem_info = std::mem::zeroed();
        info(block, &mut figures);
        figures.total_size as usize
    }
}

/// The shared pool's figures at this moment, read without a lock (internals B.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolNow {
    /// Size in bytes.
    pub size: u64,
    /// Bytes used with the manager's overhead: what runs out.
    pub real_used: u64,
    /// Sum of block sizes as the manager books it.
    pub used: u64,
    /// Free fragments.
    pub fragments: u64,
}

fn now(pool: &PoolView, size: u64) -> PoolNow {
    PoolNow {
        size,
        real_used: pool.real_used(),
        used: pool.used(),
        fragments: PoolView::read(pool.free_fragments),
    }
}

/// Figures of the shared pool; `None` while it is not hooked.
pub fn shm_now(size: u64) -> Option<PoolNow> {
    LOCAL
        .shm_real
        .get()
        .malloc
        .map(|_| steady(&LOCAL.shm_pool.get(), size))
}

/// Use that lies by more than this above memguard's own count is looked at again.
const LEAP: u64 = 64 * 1024;

/// Readings that wait for a leap to go away: about 3 µs, several times what one fm_malloc takes.
const LEAP_TRIES: u32 = 32;

/// The figures without what fm books for a moment only: before it splits a free block it takes all of it for used
/// (f_malloc.c fm_extract_free), so that a large pool looks full to who reads without its lock. What lies far above
/// the one number that all processes tell is such a leap; if it stays (the process inside may have been preempted),
/// that number counts: on fm it has no drift. qm books after the split, and its books drift: it is believed.
fn steady(pool: &PoolView, size: u64) -> PoolNow {
    let mut figures = lower(|| now(pool, size));
    if pool.forgets_shrinks {
        return figures;
    }
    let Some(region) = crate::host::memory::hooks::state::region() else {
        return figures;
    };
    // What processes have not told yet: half of what they may keep to themselves.
    let untold = (processes() as u64).saturating_mul(TELL_FROM / 2);
    let leap = LEAP.saturating_add(untold);
    let is_leap = |used: u64| used > region.control.shm_counted.get().saturating_add(leap);
    for _ in 0..LEAP_TRIES {
        if !is_leap(figures.used) {
            return figures;
        }
        std::hint::spin_loop();
        let again = lower(|| now(pool, size));
        if again.real_used < figures.real_used {
            figures = again;
        }
    }
    if is_leap(figures.used) {
        let overhead = figures.real_used.saturating_sub(figures.used);
        figures.used = figures.used.min(region.control.shm_counted.get());
        figures.real_used = figures.real_used.min(figures.used.saturating_add(overhead));
    }
    figures
}

/// Of two readings the one that says less. The words are read one after the other: of a leap that ends between them
/// `real_used` alone may have it, so that nothing seems amiss in one reading.
fn lower(mut read: impl FnMut() -> PoolNow) -> PoolNow {
    let (first, again) = (read(), read());
    match again.real_used < first.real_used {
        true => again,
        false => first,
    }
}

/// memguard's own count of shm: what all processes allocated and did not free.
pub fn counted_shm() -> u64 {
    let Some(region) = crate::host::memory::hooks::state::region() else {
        return u64::MAX;
    };
    let sum = shm_sum_of_all(region);
    u64::try_from(sum.live()).unwrap_or(0)
}

/// A lower bound of the largest free block of shm, by size class: the free lists' counts are read without a lock, so a
/// block that is being split or joined may be missed or counted a moment too long. 0 when unknown.
pub fn shm_largest_free() -> u64 {
    // SAFETY: the control block lives as long as the server; only aligned words are read.
    unsafe {
        let api = &*table(&raw mut sys::_shm_root);
        match (api.mem_block.is_null(), manager_name(api.mname)) {
            (false, "f_malloc") => sys::mg_fm_largest_free(api.mem_block),
            (false, "q_malloc") => sys::mg_qm_largest_free(api.mem_block),
            (false, "tlsf_malloc") => tlsf_largest_free(api.mem_block.cast()),
            _ => 0,
        }
    }
}

/// tlsf keeps one bit per first-level class at 112 and the second-level bits after it (core/mem/tlsf_malloc.c:
/// FL_INDEX_SHIFT 8, SL_INDEX_COUNT_LOG2 5): class `fl` holds blocks from 2^(fl+7) on, in 32 steps.
///
/// # Safety
/// `control` is tlsf's control block.
unsafe fn tlsf_largest_free(control: *const u8) -> u64 {
    // SAFETY: aligned 32-bit words of the control block.
    unsafe {
        let first: u32 = control.add(112).cast::<u32>().read_volatile();
        let Some(fl) = first.checked_ilog2() else {
            return 0;
        };
        let second: u32 = control
            .add(116)
            .cast::<u32>()
            .add(fl as usize)
            .read_volatile();
        let sl = u64::from(second.checked_ilog2().unwrap_or(0));
        match fl {
            0 => sl.wrapping_mul(8),
            _ => 1u64
                .wrapping_shl(fl.wrapping_add(7))
                .wrapping_add(sl.wrapping_shl(fl.wrapping_add(2))),
        }
    }
}

/// First byte and length of the private pool: the same in every process, because fork copies it.
pub fn pkg_range() -> (usize, usize) {
    let pool = LOCAL.pkg_pool.get();
    (pool.start, pool.length)
}

/// What the managers book as used at this moment, of shm and of this process's pkg: two words read in place. Of shm it may
/// be too much for a moment (see [`shm_now`]), never too little.
#[inline(always)]
pub fn booked_now() -> (u64, u64) {
    (
        LOCAL.shm_pool.get().real_used(),
        LOCAL.pkg_pool.get().real_used(),
    )
}

/// Figures of this process's private pool; `None` while it is not hooked.
pub fn pkg_now(size: u64) -> Option<PoolNow> {
    LOCAL
        .pkg_real
        .get()
        .malloc
        .map(|_| now(&LOCAL.pkg_pool.get(), size))
}

/// The managers' names of shm and pkg, as Kamailio spells them.
pub fn manager_names() -> [&'static str; 2] {
    // SAFETY: plain globals that do not change after the start; names are literals.
    unsafe {
        [
            manager_name(table(&raw mut sys::_shm_root).mname),
            manager_name(table(&raw mut sys::_pkg_root).mname),
        ]
    }
}

/// Sizes of the two pools as their managers report them, and the managers' names. Before the fork only.
pub fn pool_sizes() -> [(&'static str, u64); 2] {
    // SAFETY: the tables are set before any module is loaded (pkg) or when shm exists; both checked for null inside.
    unsafe {
        let (shm, pkg) = (
            &*table(&raw mut sys::_shm_root),
            &*table(&raw mut sys::_pkg_root),
        );
        let shm_size = if shm.mem_block.is_null() {
            0
        } else {
            pool_size(shm.xinfo, shm.mem_block)
        };
        [
            (manager_name(shm.mname), shm_size as u64),
            (
                manager_name(pkg.mname),
                pool_size(pkg.xinfo, pkg.mem_block) as u64,
            ),
        ]
    }
}

/// Totals of a process's private pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PkgSum {
    /// Blocks allocated.
    pub allocs: u64,
    /// Bytes allocated.
    pub bytes_allocated: u64,
    /// Blocks freed.
    pub frees: u64,
    /// Bytes freed.
    pub bytes_freed: u64,
}

impl PkgSum {
    /// Bytes allocated and not freed.
    pub fn live(self) -> u64 {
        self.bytes_allocated.wrapping_sub(self.bytes_freed)
    }
}

/// What the process number `index`, whose row this is, did with its private pool.
pub fn pkg_sum(index: usize, row: &Row) -> PkgSum {
    match owners::total(index, SitePool::Pkg) {
        Some(t) => PkgSum {
            allocs: t.allocs,
            bytes_allocated: t.bytes_allocated,
            frees: t.frees,
            bytes_freed: t.bytes_freed,
        },
        None => {
            let (frees, bytes_freed) = (row.pkg.frees.get(), row.pkg.bytes_freed.get());
            PkgSum {
                allocs: row.pkg.allocs.get(),
                bytes_allocated: row.pkg.bytes_allocated.get(),
                frees,
                bytes_freed,
            }
        }
    }
}

/// What the process number `index`, whose row this is, did with the shared pool.
pub fn shm_sum(index: usize, row: &Row) -> ShmSum {
    let own = row.shm_sum();
    match owners::total(index, SitePool::Shm) {
        Some(t) => own.plus(ShmSum {
            allocs: t.allocs,
            bytes_allocated: t.bytes_allocated,
            frees: t.frees,
            bytes_freed: t.bytes_freed,
            ..ShmSum::default()
        }),
        None => own,
    }
}

/// What all processes did with the shared pool.
pub fn shm_sum_of_all(region: &Region) -> ShmSum {
    let rows = region.used_rows(processes());
    let sum = rows
        .iter()
        .map(|row| row.shm_sum())
        .fold(ShmSum::default(), ShmSum::plus);
    let Some(sites) = owners::sites() else {
        return sum;
    };
    let places = sites.sum_of(processes(), SitePool::Shm);
    ShmSum {
        allocs: places.allocs,
        bytes_allocated: places.bytes_allocated,
        frees: places.frees,
        bytes_freed: places.bytes_freed,
        ..sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leap_that_ends_between_two_words_is_not_believed() {
        let figures = |real_used, used| PoolNow {
            size: 1000,
            real_used,
            used,
            fragments: 1,
        };
        let (torn, calm) = (figures(1000, 10), figures(20, 10));
        for order in [[torn, calm], [calm, torn], [calm, calm]] {
            let mut readings = order.into_iter();
            assert_eq!(lower(|| readings.next().unwrap_or(torn)), calm);
        }
    }
}
