//! The five symbols that Kamailio's loader looks up, and the tables behind them.
//! Forbidden here: behaviour; `lifecycle` has it.

use std::cell::UnsafeCell;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::ptr;

use crate::host::kamailio::sys;
use crate::host::module::lifecycle;

/// A pointer to one of the shim's strings, as the loader's `char *` variables.
#[repr(transparent)]
pub struct Text(*const c_char);
// SAFETY: points to a constant.
unsafe impl Sync for Text {}

/// Compared with the server's own version string (core/sr_module.c ksr_version_control).
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static module_version: Text = Text((&raw const sys::mg_module_version).cast());

/// Compared with the server's own flag string.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static module_flags: Text = Text((&raw const sys::mg_module_flags).cast());

/// Looked up but never compared, in any version.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static module_interface_ver: c_uint = 1;

/// The module's exports; the core reads and keeps parts of it in place.
#[repr(transparent)]
pub struct Exports(UnsafeCell<sys::module_exports_t>);
// SAFETY: written by mod_register in the only thread, before the core reads it.
unsafe impl Sync for Exports {}

/// The exports table, completed by `mod_register` (PVs and RPCs are registered after it: internals A.2).
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static exports: Exports = Exports(UnsafeCell::new(sys::module_exports_t {
    name: c"memguard".as_ptr().cast_mut(),
    dlflags: 0,
    cmds: ptr::null_mut(),
    params: ptr::null_mut(),
    rpc_methods: ptr::null_mut(),
    pv_items: ptr::null_mut(),
    response_f: None,
    init_mod_f: Some(lifecycle::mod_init),
    init_child_f: Some(lifecycle::child_init),
    destroy_mod_f: Some(lifecycle::mod_destroy),
}));

/// First call into the module: right after dlopen, in the process that reads the configuration (also under `-c`).
///
/// # Safety
/// Called by Kamailio's loader only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mod_register(
    _path: *mut c_char,
    _dlflags: *mut c_int,
    _reserved1: *mut c_void,
    _reserved2: *mut c_void,
) -> c_int {
    // SAFETY: one thread, and the core has not read the table yet.
    lifecycle::register(unsafe { &mut *exports.0.get() })
}
