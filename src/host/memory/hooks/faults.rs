//! Allocations that fail on purpose, for `memguard-gate --faults`: with `faults` 1 these stand above the counting wrappers.
//! Forbidden here: anything while `faults` is 0 (nothing is installed then); locks, system calls, allocation, logging.
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::host::memory::hooks::{entries::*, *};
use crate::shared::parts::mapping::{self, SharedZeroable};

/// What is armed, and what became of it; shared by all processes, armed by one RPC process at a time.
#[repr(C)]
struct Armed {
    /// core.psx index of the process whose allocations count, and 1; 0: none.
    process: AtomicU64,
    /// Which allocation fails, from 1.
    nth: AtomicU64,
    /// Allocations since it was armed.
    seen: AtomicU64,
    /// 1 when it failed.
    failed: AtomicU64,
    /// Where: addresses of literals, which are the same in all processes (dlopen before the fork), and a line.
    file: AtomicU64,
    function: AtomicU64,
    line: AtomicU64,
    /// The line of the configuration: its texts were made before the fork and live as long as the server.
    cfg_file: AtomicU64,
    cfg_route: AtomicU64,
    cfg_line: AtomicU64,
}
// SAFETY: plain words; all zero is "nothing armed".
unsafe impl SharedZeroable for Armed {}

/// The mapping; null while `faults` is 0.
static ARMED: AtomicPtr<Armed> = AtomicPtr::new(std::ptr::null_mut());

/// What stands below these wrappers.
struct Below {
    pkg: Cell<Real>,
    shm: Cell<Real>,
}
// SAFETY: written before the first fork while there is one thread; only read after that.
unsafe impl Sync for Below {}

impl Below {
    fn of(&self, pool: SitePool) -> Real {
        match pool {
            SitePool::Pkg => self.pkg.get(),
            SitePool::Shm => self.shm.get(),
        }
    }
}

static LOCAL_BELOW: Below = Below {
    pkg: Cell::new(NOTHING),
    shm: Cell::new(NOTHING),
};

fn armed() -> Option<&'static Armed> {
    // ORDERING: Relaxed; written before the first fork.
    // SAFETY: null, or a mapping that is never unmapped.
    unsafe { ARMED.load(Ordering::Relaxed).as_ref() }
}

/// Whether this allocation is the one that fails; then its place is written down.
fn must_fail(file: *const c_char, func: *const c_char, line: c_uint) -> bool {
    let Some(armed) = armed() else {
        return false;
    };
    // SAFETY: process_no is a plain int of the server.
    let own = (unsafe { sys::process_no } as u64).wrapping_add(1);
    // ORDERING: Relaxed throughout; one process is armed at a time, and the others only read.
    if armed.process.load(Ordering::Relaxed) != own {
        return false;
    }
    let seen = armed.seen.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    if seen != armed.nth.load(Ordering::Relaxed) {
        return false;
    }
    // SAFETY: reads a static pointer of the core, and an action that is being run.
    let (cfg_line, cfg_file, route) = unsafe {
        let (mut file, mut route) = (ptr::null(), ptr::null());
        let action = sys::mg_cfg_action();
        let line = if action.is_null() {
            0
        } else {
            sys::mg_cfg_place(action, &mut file, &mut route)
        };
        (line, file, route)
    };
    for (word, value) in [
        (&armed.file, file as u64),
        (&armed.function, func as u64),
        (&armed.line, u64::from(line)),
        (&armed.cfg_file, cfg_file as u64),
        (&armed.cfg_route, route as u64),
        (&armed.cfg_line, cfg_line.max(0) as u64),
        (&armed.failed, 1),
    ] {
        word.store(value, Ordering::Relaxed); // ORDERING: Relaxed; as above.
    }
    true
}

unsafe extern "C" fn malloc<P: Pool, E: Allocates>(
    block: *mut c_void,
    size: usize,
    file: *const c_char,
    func: *const c_char,
    line: c_uint,
    mname: *const c_char,
) -> *mut c_void {
    match E::of(LOCAL_BELOW.of(P::SITE_POOL)) {
        // SAFETY: the wrapper below with its own arguments.
        Some(below) if !must_fail(file, func, line) => unsafe {
            below(block, size, file, func, line, mname)
        },
        _ => ptr::null_mut(),
    }
}

unsafe extern "C" fn realloc<P: Pool, E: Reallocates>(
    block: *mut c_void,
    pointer: *mut c_void,
    size: usize,
    file: *const c_char,
    func: *const c_char,
    line: c_uint,
    mname: *const c_char,
) -> *mut c_void {
    let below = LOCAL_BELOW.of(P::SITE_POOL);
    let Some(real) = E::of(below) else {
        return ptr::null_mut();
    };
    if size == 0 || !must_fail(file, func, line) {
        // SAFETY: the wrapper below with its own arguments.
        return unsafe { real(block, pointer, size, file, func, line, mname) };
    }
    // As the managers' own do (internals B.5).
    let frees = E::ON_FAILURE == OnFailure::Frees && !pointer.is_null();
    if let (true, Some(free)) = (frees, below.free) {
        // SAFETY: as above.
        unsafe { free(block, pointer, file, func, line, mname) };
    }
    ptr::null_mut()
}

/// Puts these above the counting wrappers: `mod_init`, before the first fork, with `faults` 1.
///
/// # Errors
/// No memory for the shared words.
pub fn install() -> std::io::Result<()> {
    let shared = mapping::map_one::<Armed>()?;
    // ORDERING: Relaxed; before the first fork.
    ARMED.store(ptr::from_ref(shared).cast_mut(), Ordering::Relaxed);
    // SAFETY: before the first fork there is one thread; the tables are plain globals (core/mem).
    unsafe {
        let (pkg, shm) = (
            table(&raw mut sys::_pkg_root),
            table(&raw mut sys::_shm_root),
        );
        LOCAL_BELOW.pkg.set(Real::from(&*pkg));
        LOCAL_BELOW.shm.set(Real::from(&*shm));
        pkg.xmalloc = Some(malloc::<Pkg, Malloc>);
        pkg.xmallocxz = pkg.xmallocxz.and(Some(malloc::<Pkg, Mallocxz>));
        pkg.xrealloc = Some(realloc::<Pkg, Realloc>);
        pkg.xreallocxf = pkg.xreallocxf.and(Some(realloc::<Pkg, Reallocxf>));
        shm.xmalloc = Some(malloc::<Shm, Malloc>);
        shm.xmallocxz = shm.xmallocxz.and(Some(malloc::<Shm, Mallocxz>));
        shm.xmalloc_unsafe = shm.xmalloc_unsafe.and(Some(malloc::<Shm, MallocUnsafe>));
        shm.xrealloc = Some(realloc::<Shm, Realloc>);
        shm.xreallocxf = shm.xreallocxf.and(Some(realloc::<Shm, Reallocxf>));
        shm.xresize = shm.xresize.and(Some(realloc::<Shm, Resize>));
    }
    Ok(())
}

/// What became of what was armed.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Allocations of the process since.
    pub seen: u64,
    /// Whether the one that was armed came and failed.
    pub failed: bool,
    /// Its place: file, line, function.
    pub place: (String, u32, String),
    /// File, line and route of the configuration; empty and 0: none.
    pub cfg: (String, u32, String),
}

/// From now on the `nth` allocation of this process fails, once; 0: none does. False while `faults` is 0.
pub fn arm(process: u64, nth: u64) -> bool {
    let Some(armed) = armed() else {
        return false;
    };
    // ORDERING: SeqCst; a process that sees the new index must see the numbers that belong to it. No hot path.
    armed.process.store(0, Ordering::SeqCst);
    for word in [
        &armed.seen,
        &armed.failed,
        &armed.cfg_line,
        &armed.file,
        &armed.function,
    ] {
        word.store(0, Ordering::SeqCst);
    }
    armed.nth.store(nth, Ordering::SeqCst);
    let index = if nth == 0 { 0 } else { process.wrapping_add(1) };
    armed.process.store(index, Ordering::SeqCst);
    true
}

/// What became of it; `None` while `faults` is 0.
pub fn outcome() -> Option<Outcome> {
    let armed = armed()?;
    // ORDERING: Relaxed; read when the process is idle again.
    let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
    let text = |of: &AtomicU64| match word(of) as usize as *const c_char {
        pointer if pointer.is_null() => String::new(),
        // SAFETY: a literal, or a text of the configuration; both end with a zero and live as long as the server.
        pointer => unsafe { CStr::from_ptr(pointer) }
            .to_string_lossy()
            .into_owned(),
    };
    let failed = word(&armed.failed) == 1;
    let cfg_line = u32::try_from(word(&armed.cfg_line)).unwrap_or(0);
    let mut outcome = Outcome {
        seen: word(&armed.seen),
        failed,
        ..Outcome::default()
    };
    if failed {
        let line = u32::try_from(word(&armed.line)).unwrap_or(0);
        outcome.place = (text(&armed.file), line, text(&armed.function));
        if cfg_line > 0 {
            outcome.cfg = (text(&armed.cfg_file), cfg_line, text(&armed.cfg_route));
        }
    }
    Some(outcome)
}
