//! The API tables: the managers' own functions, as they were before the wrappers; each pool and each entry as a type.
//! Forbidden here: calling them, and state.

use crate::host::kamailio::sys;
use crate::shared::counters::sites::SitePool;

/// The manager's own functions of one pool, as they were before the wrappers.
#[derive(Clone, Copy)]
pub(super) struct Real {
    pub(super) malloc: sys::sr_malloc_f,
    pub(super) mallocxz: sys::sr_malloc_f,
    pub(super) malloc_unsafe: sys::sr_malloc_f,
    pub(super) realloc: sys::sr_realloc_f,
    pub(super) reallocxf: sys::sr_realloc_f,
    pub(super) resize: sys::sr_resize_f,
    pub(super) free: sys::sr_free_f,
    pub(super) free_unsafe: sys::sr_free_f,
}

pub(super) const NOTHING: Real = Real {
    malloc: None,
    mallocxz: None,
    malloc_unsafe: None,
    realloc: None,
    reallocxf: None,
    resize: None,
    free: None,
    free_unsafe: None,
};

impl From<&sys::sr_pkg_api_t> for Real {
    fn from(api: &sys::sr_pkg_api_t) -> Real {
        Real {
            malloc: api.xmalloc,
            mallocxz: api.xmallocxz,
            realloc: api.xrealloc,
            reallocxf: api.xreallocxf,
            free: api.xfree,
            ..NOTHING
        }
    }
}

impl From<&sys::sr_shm_api_t> for Real {
    fn from(api: &sys::sr_shm_api_t) -> Real {
        Real {
            malloc: api.xmalloc,
            mallocxz: api.xmallocxz,
            malloc_unsafe: api.xmalloc_unsafe,
            realloc: api.xrealloc,
            reallocxf: api.xreallocxf,
            resize: api.xresize,
            free: api.xfree,
            free_unsafe: api.xfree_unsafe,
        }
    }
}

/// A pool, as a type. It says only which one it is: whatever the functions of a trait name, rustc takes for reachable from
/// other crates, and then the state of a process ([`crate::host::memory::hooks`]) is found by way of the table of global
/// offsets, which costs each wrapper some eight instructions.
pub(super) trait Pool: 'static {
    const SITE_POOL: SitePool;
}

pub(super) struct Pkg;

impl Pool for Pkg {
    const SITE_POOL: SitePool = SitePool::Pkg;
}

pub(super) struct Shm;

impl Pool for Shm {
    const SITE_POOL: SitePool = SitePool::Shm;
}

/// An entry that makes a block.
pub(super) trait Allocates {
    fn of(real: Real) -> sys::sr_malloc_f;
}

/// An entry that frees a block.
pub(super) trait Frees {
    fn of(real: Real) -> sys::sr_free_f;
}

/// An entry that gives a block another size.
pub(super) trait Reallocates {
    const ON_FAILURE: OnFailure;
    fn of(real: Real) -> sys::sr_realloc_f;
}

/// What a failed realloc leaves behind: `realloc` keeps the old block, `reallocxf` and `resize` free it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum OnFailure {
    Keeps,
    Frees,
}

pub(super) struct Malloc;

impl Allocates for Malloc {
    #[inline(always)]
    fn of(real: Real) -> sys::sr_malloc_f {
        real.malloc
    }
}

pub(super) struct Mallocxz;

impl Allocates for Mallocxz {
    #[inline(always)]
    fn of(real: Real) -> sys::sr_malloc_f {
        real.mallocxz
    }
}

/// Of shm only, as [`FreeUnsafe`]: the caller holds the lock.
pub(super) struct MallocUnsafe;

impl Allocates for MallocUnsafe {
    #[inline(always)]
    fn of(real: Real) -> sys::sr_malloc_f {
        real.malloc_unsafe
    }
}

pub(super) struct Realloc;

impl Reallocates for Realloc {
    const ON_FAILURE: OnFailure = OnFailure::Keeps;

    #[inline(always)]
    fn of(real: Real) -> sys::sr_realloc_f {
        real.realloc
    }
}

pub(super) struct Reallocxf;

impl Reallocates for Reallocxf {
    const ON_FAILURE: OnFailure = OnFailure::Frees;

    #[inline(always)]
    fn of(real: Real) -> sys::sr_realloc_f {
        real.reallocxf
    }
}

/// Of shm only.
pub(super) struct Resize;

impl Reallocates for Resize {
    const ON_FAILURE: OnFailure = OnFailure::Frees;

    #[inline(always)]
    fn of(real: Real) -> sys::sr_realloc_f {
        real.resize
    }
}

pub(super) struct Free;

impl Frees for Free {
    #[inline(always)]
    fn of(real: Real) -> sys::sr_free_f {
        real.free
    }
}

pub(super) struct FreeUnsafe;

impl Frees for FreeUnsafe {
    #[inline(always)]
    fn of(real: Real) -> sys::sr_free_f {
        real.free_unsafe
    }
}
