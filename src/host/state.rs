//! What the module's parts share within a process: the region, the tables, the keys; set before the first fork.
//! Forbidden here: logic; this is a place to find things.

use std::time::{SystemTime, UNIX_EPOCH};

use once_cell::sync::OnceCell;

use super::settings::Texts;
use crate::guard::aor::Key;
use crate::guard::aor::local::Matching;
use crate::shared::fingerprints::Fingerprints;
use crate::shared::pending::InFlight;
use crate::shared::region::Region;

static REGION: OnceCell<&'static Region> = OnceCell::new();
static TABLES: OnceCell<Tables> = OnceCell::new();
static REGISTRAR: OnceCell<Registrar> = OnceCell::new();

/// What `mod_init` makes once all parameters are known.
pub struct Tables {
    /// Known bindings: AoR + contact (or instance) → end of the binding.
    pub bindings: Fingerprints,
    /// Known AoRs → end of their last binding.
    pub aors: Fingerprints,
    /// Ways back to bindings that the local usrloc keeps under another name than their REGISTERs say (NAT, `save()` under
    /// another AoR, replication), and, without a local usrloc, what parameters known contacts have. Touched as used.
    pub hints: Fingerprints,
    /// Slots of the queue: AoR → begin of its slot.
    pub slots: Fingerprints,
    /// Registrations in flight, by Call-ID.
    pub in_flight: InFlight,
    /// Secret of this start, or of the one whose bindings were carried over: outsiders cannot aim at buckets or points.
    pub key: Key,
    /// The text parameters.
    pub texts: Texts,
}

/// The local registrar's rules, read once before the first fork (core/registrar cfg group, usrloc).
#[derive(Default)]
pub struct Registrar {
    /// usrloc parameter `use_domain`.
    pub use_domain: bool,
    /// registrar parameter `case_sensitive`.
    pub case_sensitive: bool,
    /// registrar parameter `realm_prefix`.
    pub realm_prefix: Vec<u8>,
    /// How it finds a contact again (usrloc parameter `matching_mode`).
    pub matching: Matching,
    /// registrar parameter `use_path`.
    pub use_path: bool,
    /// reg-id counts only for phones whose edge proxy says `ob` (registrar parameters `outbound_mode`, `regid_mode`).
    pub doubts_reg_id: bool,
    /// usrloc tables, as C strings.
    pub tables: Vec<std::ffi::CString>,
}

/// The shared region; `None` before `mod_register` mapped it.
pub fn region() -> Option<&'static Region> {
    REGION.get().copied()
}

/// Keeps the region.
pub fn set_region(region: &'static Region) {
    let _ = REGION.set(region); // set once; mod_register runs once per load
}

/// The tables; `None` before `mod_init`.
pub fn tables() -> Option<&'static Tables> {
    TABLES.get()
}

/// Keeps the tables; false when they were there already.
pub fn set_tables(tables: Tables) -> bool {
    TABLES.set(tables).is_ok()
}

/// The local registrar's rules; `None` before PROC_INIT and without a usrloc that can be asked.
pub fn registrar() -> Option<&'static Registrar> {
    REGISTRAR.get()
}

/// Keeps the local registrar's rules.
pub fn set_registrar(registrar: Registrar) {
    let _ = REGISTRAR.set(registrar); // set once, in PROC_INIT
}

/// Unix time in milliseconds at the kernel's last tick (1 to 10 ms ago): a fifth of the price of [`now_ms`], for what
/// every message does.
pub fn coarse_ms() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a live timespec; the clock is read in the vDSO, without a system call (vdso(7)).
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &mut time) };
    (time.tv_sec as u64)
        .wrapping_mul(1000)
        .wrapping_add(time.tv_nsec as u64 / 1_000_000)
}

/// Unix time in milliseconds.
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_millis() as u64)
}
