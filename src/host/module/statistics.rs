//! Statistics of group `memguard`, named like the Prometheus metrics of the contract (§8): one C callback for all.
//! Forbidden here: locks and allocation in the callback; what they are (guard::metrics) and where they come from.

use std::ffi::{c_int, c_long, c_void};
use std::ptr;

use crate::guard::formats::{
    metrics::{self, Measures},
    snapshot::Snapshot,
};
use crate::host::kamailio::strings;
use crate::host::kamailio::{
    panic_guard::{Value, guarded},
    state, sys,
};
use crate::host::memory::hooks;
use crate::host::reports::measures;
use crate::shared::region::Region;

/// A scrape reads some fifty statistics one after the other, and each is a part of the same figures.
struct Local(Snapshot<Measures>);
// SAFETY: used by the main thread of each process only.
unsafe impl Sync for Local {}

static LOCAL: Local = Local(Snapshot::new());

/// The server's figures, at most one tick of the kernel's clock (1 to 10 ms) old.
fn figures(region: &Region) -> Measures {
    match hooks::is_main_thread() {
        true => LOCAL.0.at(state::coarse_ms(), || measures::server(region)),
        false => measures::server(region),
    }
}

/// Kamailio asks for one statistic: the parameter is its number in the table.
unsafe extern "C" fn read(_handle: sys::counter_handle_t, number: *mut c_void) -> c_long {
    guarded("a statistic", || {
        let value = state::region().map_or(0, |region| {
            metrics::statistic_value(&figures(region), number.addr())
        });
        Value(c_long::try_from(value).unwrap_or(c_long::MAX))
    })
    .0
}

/// Registers all of them; in `mod_init` (later is too late: core/counters.c).
pub fn register() -> Result<(), String> {
    let group = strings::leak("memguard");
    for (number, statistic) in metrics::statistics().into_iter().enumerate() {
        // SAFETY: texts live for ever; the callback reads the table only.
        let registered = unsafe {
            sys::counter_register(
                ptr::null_mut(),
                group,
                strings::leak(&statistic.name),
                sys::CNT_F_NO_RESET as c_int,
                Some(read),
                ptr::without_provenance_mut(number),
                strings::leak(&statistic.help),
                0,
            )
        };
        if registered < 0 {
            return Err(format!("Kamailio refused the statistic {}", statistic.name));
        }
    }
    Ok(())
}
