//! Names of the frames of call paths, by the dynamic loader's symbol tables; and the mark of this module's own code.
//! Forbidden here: the pools; being called from a wrapper. Process: RPC processes, the sampling process.
//!
//! All processes are forked from one that has loaded everything, so an address means the same in each. What a process
//! loaded after its fork (a Python extension, say) is not known elsewhere and shows as an address (`binaries`).

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};

use crate::guard::formats::paths::Frame;
use crate::host::kamailio::sys;
use crate::host::reports::binaries;

/// Names of addresses, each looked up once.
#[derive(Default)]
pub struct Names {
    known: HashMap<u64, Frame>,
    /// Where the server's own program begins.
    core: usize,
}

fn look_up(address: usize) -> Option<libc::Dl_info> {
    // SAFETY: plain data; dladdr(3) fills it and keeps nothing.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        (libc::dladdr(address as *const c_void, &mut info) != 0).then_some(info)
    }
}

/// A C string of the loader's, which lives as long as its object is loaded.
fn text(from: *const c_char) -> String {
    if from.is_null() {
        return String::new();
    }
    // SAFETY: dladdr's strings are terminated; nothing is unloaded while the server runs.
    unsafe { CStr::from_ptr(from) }
        .to_string_lossy()
        .into_owned()
}

/// A file as reports name it: a Kamailio module without its ending, a library with it.
fn module_name(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.strip_suffix(".so").unwrap_or(file)
}

impl Names {
    /// Knows nothing yet.
    pub fn new() -> Names {
        let core = look_up(sys::run_actions as *const () as usize);
        Names {
            known: HashMap::new(),
            core: core.map_or(0, |info| info.dli_fbase as usize),
        }
    }

    /// The function that a return address leads back to.
    pub fn frame(&mut self, address: u64) -> Frame {
        self.look_up(address).clone()
    }

    /// As above; from then on [`Names::known`] has it.
    pub fn look_up(&mut self, address: u64) -> &Frame {
        let core = self.core;
        self.known
            .entry(address)
            .or_insert_with(|| named(address, core))
    }

    /// What was looked up before.
    pub fn known(&self, address: u64) -> Option<&Frame> {
        self.known.get(&address)
    }
}

/// The call itself lies before the address to which it returns, which may be another function's first.
pub fn call(address: u64) -> u64 {
    address.saturating_sub(1)
}

fn named(address: u64, core: usize) -> Frame {
    let call = call(address);
    let common = binaries::has_in_common(call);
    let Some(info) = common.then(|| look_up(call as usize)).flatten() else {
        return Frame {
            offset: call,
            ..Frame::default()
        };
    };
    let base = info.dli_fbase as usize;
    let path = text(info.dli_fname);
    Frame {
        module: if base == core {
            "core".into()
        } else {
            module_name(&path).to_owned()
        },
        function: text(info.dli_sname),
        offset: call.wrapping_sub(base as u64),
        again: 0,
    }
}
