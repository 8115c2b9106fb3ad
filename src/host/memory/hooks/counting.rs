//! What one operation changes in the books: at its place, or in the totals, and the manager's figures published beside.
//! Forbidden here: locks, system calls, allocation, logging, panics; callers may hold the global shm lock.
//!
//! An operation is counted at the place that allocated the block (`spot`; `None`: places are not counted), and then in what
//! its pool has beside the places: `pkg_*` and `shm_*`.
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use crate::host::memory::hooks::{entries::Pool, *};

/// Counts a new block; answers its size.
#[inline(always)]
pub(super) fn allocated<P: Pool, M: Manager>(block: *mut c_void, spot: Option<Spot>) -> u64 {
    let size = LOCAL.view(P::SITE_POOL).known::<M>().size_of(block);
    if let Some(spot) = spot {
        spot.allocated(size);
    }
    match P::SITE_POOL {
        SitePool::Pkg => pkg_allocated(size, spot),
        SitePool::Shm => shm_allocated(size, spot),
    }
    size
}

/// Counts a block that is being freed.
#[inline(always)]
pub(super) fn freed<P: Pool>(size: u64, spot: Option<Spot>) {
    if let Some(spot) = spot {
        spot.freed(size);
    }
    match P::SITE_POOL {
        SitePool::Pkg => pkg_freed(size, spot),
        SitePool::Shm => shm_freed(size, spot),
    }
}

/// After the manager has freed a block that was counted at its place: pkg's figures have changed only now. The shared
/// pool's are read in place.
#[inline(always)]
pub(super) fn after_free<P: Pool>() {
    if let (SitePool::Pkg, Some(row)) = (P::SITE_POOL, owners::row()) {
        publish_figures(row);
    }
}

/// After the long way of a free.
#[inline(always)]
pub(super) fn after_long_free<P: Pool>() {
    if let (SitePool::Pkg, Some(row)) = (P::SITE_POOL, single_row()) {
        publish_figures(row);
    }
}

/// Counts an allocation that failed.
#[cold]
pub(super) fn failed<P: Pool>(size: usize, spot: Option<Spot>) {
    if let Some(spot) = spot {
        spot.failed(size as u64, state::coarse_ms() / 1000);
    }
    match P::SITE_POOL {
        SitePool::Pkg => pkg_failed(),
        SitePool::Shm => shm_failed(),
    }
}

/// What an in-place realloc did to a block.
#[derive(Clone, Copy)]
struct Change {
    grown: u64,
    shrunk: u64,
    unbooked: u64,
}

/// Counts a block that changed its size in place.
pub(super) fn changed<P: Pool>(before: u64, after: u64, spot: Option<Spot>) {
    let shrunk = before.saturating_sub(after);
    let forgets_shrinks = LOCAL.view(P::SITE_POOL).forgets_shrinks;
    let change = Change {
        grown: after.saturating_sub(before),
        shrunk,
        unbooked: if forgets_shrinks { shrunk } else { 0 },
    };
    if let Some(spot) = spot {
        spot.changed(change.grown, change.shrunk, change.unbooked);
    }
    match P::SITE_POOL {
        SitePool::Pkg => pkg_changed(change, spot),
        SitePool::Shm => shm_changed(change, spot),
    }
}

#[inline(always)]
fn pkg_allocated(size: u64, spot: Option<Spot>) {
    let row = match spot {
        Some(_) => owners::row(),
        None => {
            bump(&LOCAL.pkg.allocs, 1);
            bump(&LOCAL.pkg.bytes_allocated, size);
            publish_totals();
            single_row()
        }
    };
    if let Some(row) = row {
        publish_pkg(row);
    }
}

#[inline(always)]
fn pkg_freed(size: u64, spot: Option<Spot>) {
    if spot.is_none() {
        bump(&LOCAL.pkg.frees, 1);
        bump(&LOCAL.pkg.bytes_freed, size);
        publish_totals();
    }
}

#[inline(always)]
fn pkg_failed() {
    let failures = bump(&LOCAL.pkg.failures, 1);
    if let Some(row) = single_row() {
        row.pkg_failures.set(failures);
        publish_pkg(row);
    }
}

#[inline(always)]
fn pkg_changed(change: Change, spot: Option<Spot>) {
    if spot.is_none() {
        bump(&LOCAL.pkg.bytes_allocated, change.grown);
        bump(&LOCAL.pkg.bytes_freed, change.shrunk);
    }
    bump(&LOCAL.pkg.unbooked, change.unbooked);
    if let Some(row) = single_row() {
        republish(row);
    }
}

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
    row.ops.finished();
    real_used
}

/// Publishes the private pkg totals while places are not counted; else they are the sums over the places.
fn publish_totals() {
    if let Some(row) = single_row() {
        let totals = &LOCAL.pkg;
        row.pkg.allocs.set(totals.allocs.get());
        row.pkg.bytes_allocated.set(totals.bytes_allocated.get());
        row.pkg.frees.set(totals.frees.get());
        row.pkg.bytes_freed.set(totals.bytes_freed.get());
    }
}

/// Writes every pkg total of this process into its row (after a fork, or after a realloc).
pub(super) fn republish(row: &Row) {
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
            if is_main_thread() && !owners::is_unnumbered() && !has_common_row() {
                let $totals = &row.shm;
                $body
            } else {
                let $totals = &row.shm_threads;
                $body
            }
        }
    };
}

#[inline(always)]
fn shm_allocated(size: u64, spot: Option<Spot>) {
    note(spot, size);
    if !is_summed(spot) {
        on_shm_totals!(|totals| {
            totals.allocs.add(1);
            totals.bytes_allocated.add(size);
        });
    }
}

#[inline(always)]
fn shm_freed(size: u64, spot: Option<Spot>) {
    note(spot, size.wrapping_neg());
    if !is_summed(spot) {
        on_shm_totals!(|totals| {
            totals.frees.add(1);
            totals.bytes_freed.add(size);
        });
    }
}

#[inline(always)]
fn shm_failed() {
    on_shm_totals!(|totals| totals.failures.add(1));
}

#[inline(always)]
fn shm_changed(change: Change, spot: Option<Spot>) {
    let Change {
        grown,
        shrunk,
        unbooked,
    } = change;
    note(spot, grown.wrapping_sub(shrunk));
    on_shm_totals!(|totals| {
        if !is_summed(spot) {
            totals.bytes_allocated.add(grown);
            totals.bytes_freed.add(shrunk);
        }
        totals.unbooked.add(unbooked);
    });
}

/// Whether a spot's row is part of the sums that are this process's totals.
#[inline(always)]
fn is_summed(spot: Option<Spot>) -> bool {
    spot.is_some_and(|spot| spot.is_own())
}

/// What the operation did to the one number that all processes tell; and that it is in the books.
#[inline(always)]
fn note(spot: Option<Spot>, bytes: u64) {
    if is_summed(spot) {
        if let Some(row) = owners::row() {
            row.ops.finished();
        }
    }
    if is_summed(spot) || (is_main_thread() && !owners::is_unnumbered()) {
        note_shm(bytes);
    } else {
        note_shm_elsewhere(bytes);
    }
}
