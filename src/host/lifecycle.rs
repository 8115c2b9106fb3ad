//! Order of things: mod_register, mod_init, child_init, mod_destroy, and which process runs each.
//! Forbidden here: work on SIP messages; threads; anything that must survive daemonize and is not a mapping.

use std::ffi::c_int;

use super::entry::{Init, guarded};
use super::hooks::{self, Refused};
use super::log::{Severity, log};
use super::{settings, state, sys};
use crate::guard::aor::Key;
use crate::guard::params::{self, Int};
use crate::guard::warnings::Warning;
use crate::shared::fingerprints::Fingerprints;
use crate::shared::pending::InFlight;
use crate::shared::region::Region;

/// Registrations in flight that are remembered: 16384 × 64 bytes, touched as used; 30 s of 500 per second.
const IN_FLIGHT: usize = 16384;

/// `mod_register`: maps the region and wraps pkg. Process: the one that reads the configuration.
pub fn register(exports: &mut sys::module_exports_t) -> c_int {
    guarded("mod_register", || match try_register(exports) {
        Ok(()) => Init(0),
        Err(sentence) => {
            log!(Severity::Error, "{sentence}");
            Init(-1)
        }
    })
    .0
}

fn try_register(exports: &mut sys::module_exports_t) -> Result<(), String> {
    let region = Region::map().map_err(|e| format!("cannot map memguard's shared region: {e}"))?;
    region.control.start_ms.set(state::now_ms());
    state::set_region(region);
    exports.params = settings::param_table();
    match hooks::install_pkg(&region.rows) {
        Ok(()) => (),
        Err(_) => region.warn(Warning::PkgNotCounted, true),
    }
    hook_shm();
    Ok(())
}

/// Wraps shm as soon as it exists; cheap to call again.
pub fn hook_shm() {
    if let Some(region) = state::region() {
        let refused = hooks::install_shm(&region.rows).err();
        region.warn(
            Warning::ShmNotCounted,
            refused.is_some_and(|r| r != Refused::NotReady),
        );
    }
}

/// Before the forks, in the main process; not under `-c`.
pub unsafe extern "C" fn mod_init() -> c_int {
    guarded("mod_init", || match try_init() {
        Ok(()) => Init(0),
        Err(sentence) => {
            log!(Severity::Error, "{sentence}");
            Init(-1)
        }
    })
    .0
}

fn try_init() -> Result<(), String> {
    let region = state::region().ok_or("memguard was not registered")?;
    hook_shm();
    let found = params::contradictions(&region.settings.all());
    if !found.is_empty() {
        return Err(format!(
            "the parameters contradict each other: {}",
            found.join("; ")
        ));
    }
    let [(_, shm), (_, pkg)] = hooks::pool_sizes();
    region.control.shm_size.set(shm);
    region.control.pkg_size.set(pkg);
    make_tables(region)?;
    settings::declare_cfg()?;
    // SAFETY: mod_init is the place for it (core/pt.c).
    if unsafe { sys::mg_register_process() } < 0 {
        return Err("cannot announce the sampling process".into());
    }
    Ok(())
}

fn make_tables(region: &Region) -> Result<(), String> {
    let base = region.control.start_ms.get() / 1000;
    let capacity = region.settings.get_u64(Int::Bindings) as usize;
    let mapped = |e: std::io::Error| format!("cannot map the table of known bindings: {e}");
    let texts = settings::take_texts();
    let tables = state::Tables {
        bindings: Fingerprints::map(capacity, base).map_err(mapped)?,
        aors: Fingerprints::map(capacity, base).map_err(mapped)?,
        in_flight: InFlight::map(IN_FLIGHT).map_err(mapped)?,
        key: random_key()?,
        priority: settings::priority_entries(&texts),
        texts,
        registrar: state::Registrar::default(),
    };
    state::set_tables(tables);
    Ok(())
}

fn random_key() -> Result<Key, String> {
    let mut bytes = [0u8; 16];
    // SAFETY: a buffer and its length (getrandom(2)).
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got != bytes.len() as isize {
        return Err("the system gave no random numbers".into());
    }
    let [k0, k1] = [0, 8].map(|at| u64::from_ne_bytes(std::array::from_fn(|i| bytes[at + i])));
    Ok(Key::new(k0, k1))
}

/// In every process after its fork, and in main before (PROC_INIT) and after (PROC_MAIN) the workers' forks.
pub unsafe extern "C" fn child_init(rank: c_int) -> c_int {
    guarded("child_init", || {
        let _ = rank;
        hooks::publish_process();
        Init(0)
    })
    .0
}

/// At shutdown, in the main process only.
pub unsafe extern "C" fn mod_destroy() {
    guarded("mod_destroy", hooks::restore);
}
