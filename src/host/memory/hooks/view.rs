//! What a memory manager's blocks and control block look like, compiled from its headers and tried before it is believed.
//! Forbidden here: counting, and state.

use std::ffi::{CStr, c_char, c_void};

use crate::host::kamailio::sys::layout;
use crate::host::memory::hooks::{entries::Real, manager::*, owners::Caller};

/// What a wrapper needs to know of its pool; written once before the first fork, read-only afterwards.
#[derive(Clone, Copy)]
pub struct PoolView {
    /// First byte of the pool.
    pub(super) start: usize,
    /// Its length in bytes.
    pub(super) length: usize,
    /// Where a block's header keeps what.
    pub(super) at: Offsets,
    /// The manager's own figures, in place: `used_size` and after it `real_used`; free fragments.
    pub(super) used: *const [u64; 2],
    pub(super) free_fragments: *const u64,
    /// The manager does not book shrinking reallocs (found by trying, see [`install_pkg`]).
    pub(super) forgets_shrinks: bool,
    /// The place of a block reads back as it was given (found by trying).
    pub(super) knows_places: bool,
}

/// What the header of a live block says.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) size: u64,
    pub(super) file: usize,
    pub(super) line: u32,
    /// Address of the module's name: where a sampled block carries its context.
    pub(super) module: usize,
}

/// What the views of unknown pools read.
pub(super) static NOTHING_USED: [u64; 2] = [0; 2];

pub(super) const NO_POOL: PoolView = PoolView {
    start: 0,
    length: 0,
    at: Offsets::NONE,
    used: &raw const NOTHING_USED,
    free_fragments: (&raw const NOTHING_USED).cast(),
    forgets_shrinks: false,
    knows_places: false,
};

impl PoolView {
    /// The same pool, with what is known at compile time of its manager in place of what was found at the start.
    #[inline(always)]
    pub(super) fn known<M: Manager>(self) -> PoolView {
        PoolView {
            at: M::AT.unwrap_or(self.at),
            ..self
        }
    }

    #[inline(always)]
    pub(super) fn holds(&self, block: *mut c_void) -> bool {
        (block as usize).wrapping_sub(self.start) < self.length
    }

    /// Size of a live block as the manager keeps it.
    #[inline(always)]
    pub(super) fn size_of(&self, block: *mut c_void) -> u64 {
        // SAFETY: the block came from this pool's manager, whose header lies before it
        // (layout compiled from its headers and tried at installation).
        let word = unsafe { *block.cast::<u8>().wrapping_add(self.at.size).cast::<u64>() };
        word & self.at.size_mask
    }

    /// What the header of a live block says.
    #[inline(always)]
    pub(super) fn header(&self, block: *mut c_void) -> Block {
        let at = |offset: usize| block.cast::<u8>().wrapping_add(offset);
        // SAFETY: as in size_of: words of the same header.
        let (file, line, module) = unsafe {
            (
                *at(self.at.file).cast::<usize>(),
                *at(self.at.line).cast::<u32>(),
                *at(self.at.module).cast::<usize>(),
            )
        };
        Block {
            size: self.size_of(block),
            file,
            line,
            module,
        }
    }

    /// Has the header of a block, which its owner has not got yet, name its module at another address. Equal text: the
    /// managers and Kamailio's reports do not compare the pointer.
    pub(super) fn set_module(&self, block: *mut c_void, name: usize) {
        let at = block.cast::<u8>().wrapping_add(self.at.module);
        // SAFETY: as in header; an aligned word, which readers of the pool see old or new.
        unsafe { at.cast::<usize>().write_volatile(name) };
    }

    /// The place that allocated a block, with its texts.
    pub(super) fn caller(&self, block: *mut c_void) -> Caller {
        let Block { file, line, .. } = self.header(block);
        let at = |offset: usize| {
            block
                .cast::<u8>()
                .wrapping_add(offset)
                .cast::<*const c_char>()
        };
        // SAFETY: as in header.
        let (func, module) = unsafe { (*at(self.at.func), *at(self.at.module)) };
        Caller {
            file: file as *const c_char,
            func,
            line,
            module,
        }
    }

    /// Header of a block that is about to be freed; `None` when it is not this pool's or is free already.
    #[inline(always)]
    pub(super) fn if_live(&self, block: *mut c_void) -> Option<Block> {
        if !self.holds(block) {
            return None;
        }
        // SAFETY: as in size_of; inside the pool both words are readable whatever the pointer is.
        let mark = unsafe { *block.cast::<u8>().wrapping_add(self.at.free).cast::<u64>() };
        if mark & self.at.free_mask != 0 {
            None
        } else {
            Some(self.header(block))
        }
    }

    /// `used_size` at this moment.
    #[inline(always)]
    pub(super) fn used(&self) -> u64 {
        Self::read(self.used.cast())
    }

    /// `real_used` at this moment.
    #[inline(always)]
    pub(super) fn real_used(&self) -> u64 {
        Self::read(self.used.cast::<u64>().wrapping_add(1))
    }

    #[inline(always)]
    pub(super) fn read(word: *const u64) -> u64 {
        // SAFETY: NOTHING_USED or an aligned word of the manager's control block; a torn read is impossible on x86-64 and a
        // slightly old value is as good (internals B.6).
        unsafe { word.read_volatile() }
    }
}

/// Why a pool is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The manager's name is none of qm, fm, tlsf.
    UnknownManager,
    /// A trial allocation did not read back as the headers say; counting would be wrong.
    LayoutDiffers,
    /// The pool does not exist yet, or a trial allocation failed.
    NotReady,
}

/// Name of a manager as Kamailio spells it in the API table: `q_malloc`, `f_malloc`, `tlsf_malloc`.
///
/// # Safety
/// `name` is null or a C string that lives on.
pub(super) unsafe fn manager_name(name: *const c_char) -> &'static str {
    if name.is_null() {
        return "";
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(name) }.to_str().unwrap_or("")
}

/// The view of a pool from its manager, control block, first byte and length (core/globals.h).
pub(super) fn view(
    manager: Which,
    control: *mut c_void,
    start: usize,
    length: usize,
) -> Result<PoolView, Refused> {
    // Offsets in the control block: used_size, real_used right after it, free fragments. tlsf's are those of the
    // control_t of core/mem/tlsf_malloc.c, which no header shows.
    let (at, used, real_used, free_fragments) = match manager {
        Which::Fm => (
            Fm::AT,
            layout::MG_FM_BLOCK_USED,
            layout::MG_FM_BLOCK_REAL_USED,
            layout::MG_FM_BLOCK_FREE_FRAGMENTS,
        ),
        Which::Qm => (
            Qm::AT,
            layout::MG_QM_BLOCK_USED,
            layout::MG_QM_BLOCK_REAL_USED,
            layout::MG_QM_BLOCK_FREE_FRAGMENTS,
        ),
        Which::Tlsf => (Tlsf::AT, 72, 80, 96),
    };
    if control.is_null() {
        return Err(Refused::NotReady);
    }
    let (Some(at), true) = (at, real_used == used.wrapping_add(8)) else {
        return Err(Refused::LayoutDiffers);
    };
    let word = |offset: u32| {
        control
            .cast::<u8>()
            .wrapping_add(offset as usize)
            .cast::<u64>()
            .cast_const()
    };
    Ok(PoolView {
        start,
        length,
        at,
        used: word(used).cast(),
        free_fragments: word(free_fragments),
        forgets_shrinks: false,
        knows_places: false,
    })
}

/// One of the server's API tables.
///
/// # Safety
/// No other reference to the table is alive; before the first fork, or at the end, there is one thread.
pub(super) unsafe fn table<T>(table: *mut T) -> &'static mut T {
    // SAFETY: a global of the server, alive as long as the process; the caller promises the rest.
    unsafe { &mut *table }
}

/// A place name for the trial blocks; managers store the pointers.
pub(super) const TRIAL: *const c_char = c"memguard trial".as_ptr();

/// Trial sizes: larger than any rounding, and a shrink that every manager splits.
pub(super) const TRIAL_BYTES: usize = 4096;

pub(super) const TRIAL_SHRUNK: usize = 256;

/// A line that no header holds by chance.
pub(super) const TRIAL_LINE: u32 = 1_234_567;

pub(super) const TRIAL_FUNC: *const c_char = c"memguard trial function".as_ptr();

pub(super) const TRIAL_MODULE: *const c_char = c"memguard trial module".as_ptr();

/// A trial block that is larger than this is no trial block.
pub(super) const TRIAL_LARGEST: u64 = 8192;

/// Tries the layout on real blocks: sizes read back, `used_size` moves by them, a live block is not marked free, and
/// whether the manager books shrinking reallocs (qm up to 5.8.7 and 6.0.5 does not: q_malloc.c qm_realloc).
pub(super) fn tried(
    mut pool: PoolView,
    block: *mut c_void,
    real: &Real,
) -> Result<PoolView, Refused> {
    let (Some(malloc), Some(realloc), Some(free)) = (real.malloc, real.realloc, real.free) else {
        return Err(Refused::NotReady);
    };
    let before = pool.used();
    // SAFETY: the manager's own functions, before any fork, each block freed exactly once.
    unsafe {
        let (file, func, module) = (TRIAL, TRIAL_FUNC, TRIAL_MODULE);
        let p = malloc(block, TRIAL_BYTES, file, func, TRIAL_LINE, module);
        if p.is_null() {
            return Err(Refused::NotReady);
        }
        let size = pool.size_of(p);
        let booked = pool.used().wrapping_sub(before);
        let header = pool.if_live(p);
        let live = header.is_some_and(|h| h.size == size);
        pool.knows_places = header.is_some_and(|h| h.file == file as usize && h.line == TRIAL_LINE)
            && {
                let caller = pool.caller(p);
                (caller.func, caller.module) == (func, module)
            };
        let mut fits =
            live && booked == size && (TRIAL_BYTES as u64..TRIAL_LARGEST).contains(&size);
        let mut last = p;
        if fits {
            let q = realloc(block, p, TRIAL_SHRUNK, TRIAL, TRIAL, 2, TRIAL);
            if q.is_null() {
                free(block, p, TRIAL, TRIAL, 3, TRIAL); // a failed realloc keeps its block
                return Err(Refused::NotReady);
            }
            let now = pool.used().wrapping_sub(before);
            let shrunk = pool.size_of(q);
            pool.forgets_shrinks = q == p && shrunk < size && now == size;
            fits = now == shrunk || pool.forgets_shrinks;
            last = q;
        }
        free(block, last, TRIAL, TRIAL, 3, TRIAL);
        if fits {
            Ok(pool)
        } else {
            Err(Refused::LayoutDiffers)
        }
    }
}
