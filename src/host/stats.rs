//! Statistics of group `memguard`, named like the Prometheus metrics of the contract (§8): one C callback for all.
//! Forbidden here: locks and allocation in the callback; values are read from memguard's own region.

use std::ffi::{c_int, c_long, c_void};
use std::ptr;

use super::entry::{Value, guarded};
use super::{hooks, reports, settings, state, sys};
use crate::guard::words::{Class, Mode};
use crate::shared::region::Region;
use crate::shared::rows::Row;

/// One statistic.
pub struct Statistic {
    /// Its name in the group.
    pub name: &'static str,
    /// One line of help (`cnt.help`).
    pub help: &'static str,
    read: fn(&Region) -> u64,
}

/// Sum over all rows.
fn sum(region: &Region, f: impl Fn(&Row) -> u64) -> u64 {
    let rows = region.used_rows(hooks::processes());
    rows.iter().map(f).fold(0, u64::wrapping_add)
}

macro_rules! by_class {
    ($field:ident, $class:ident) => {
        |region| sum(region, |row| row.sip.$field.get(Class::$class))
    };
}

macro_rules! statistics {
    ($($name:literal $help:literal $read:expr;)+) => {
        /// Every statistic; the README's table is checked against it.
        pub const STATISTICS: &[Statistic] = &[$(Statistic { name: $name, help: $help, read: $read }),+];
    };
}

statistics! {
    "level" "how close memory is to its end: 0 normal, 1 warning, 2 shedding, 3 emergency"
        |r| reports::level_now(r).index() as u64;
    "enforcing" "1 while refusals are carried out (mode enforce)"
        |r| u64::from(r.settings.mode() == Mode::Enforce);
    "level_changes_total" "level changes since the start" |r| r.events.pushed();
    "shm_size_bytes" "size of the shared memory pool" |r| r.control.shm_size.get();
    "shm_used_bytes" "shared memory used, overhead included (real_used)"
        |r| hooks::shm_now(r.control.shm_size.get()).map_or(0, |p| p.real_used);
    "shm_peak_bytes" "largest use of shared memory that was sampled" |r| reports::shm_peak(r);
    "shm_drift_bytes" "shared memory that the manager books as used and memguard's count does not know; 0 when the books are right"
        |r| hooks::shm_now(r.control.shm_size.get()).map_or(0, |p| p.used.saturating_sub(hooks::counted_shm()));
    "shm_failures_total" "allocations of shared memory that failed" |r| reports::failures_since_start(r).0;
    "pkg_size_bytes" "size of each process's private memory pool" |r| r.control.pkg_size.get();
    "pkg_used_max_bytes" "private memory used by the fullest process, overhead included" |r| r.figures().fullest_real_used;
    "pkg_failures_total" "allocations of private memory that failed" |r| reports::failures_since_start(r).1;
    "os_limit_bytes" "limit of the machine's or container's memory that decides; 0 when unknown" |r| r.figures().os_limit;
    "os_used_bytes" "use against that limit" |r| r.figures().os_used;
    "headroom_bytes" "bytes left before the tightest pool or limit is full" |r| reports::tightest_now(r).map_or(0, |t| t.headroom_bytes());
    "registers_unregister_total" "REGISTERs that end bindings" by_class!(received, Unregister);
    "registers_query_total" "REGISTERs without Contact" by_class!(received, Query);
    "registers_followup_total" "authenticated second legs of admitted REGISTERs" by_class!(received, Followup);
    "registers_refresh_total" "REGISTERs of known bindings" by_class!(received, Refresh);
    "registers_priority_total" "REGISTERs on the priority list or for emergencies" by_class!(received, Priority);
    "registers_returning_total" "REGISTERs of known AoRs from a new contact" by_class!(received, Returning);
    "registers_new_total" "REGISTERs that add a binding for an unknown AoR" by_class!(received, New);
    "rejected_unregister_total" "always 0: they are never refused while a message can be parsed" by_class!(rejected, Unregister);
    "rejected_query_total" "always 0: they are never refused while a message can be parsed" by_class!(rejected, Query);
    "rejected_followup_total" "always 0: they are never refused while a message can be parsed" by_class!(rejected, Followup);
    "rejected_refresh_total" "always 0: they are never refused while a message can be parsed" by_class!(rejected, Refresh);
    "rejected_priority_total" "refused REGISTERs of class priority" by_class!(rejected, Priority);
    "rejected_returning_total" "refused REGISTERs of class returning" by_class!(rejected, Returning);
    "rejected_new_total" "refused REGISTERs of class new" by_class!(rejected, New);
    "rejected_observed_priority_total" "REGISTERs of class priority that mode enforce would have refused" by_class!(observed, Priority);
    "rejected_observed_returning_total" "REGISTERs of class returning that mode enforce would have refused" by_class!(observed, Returning);
    "rejected_observed_new_total" "REGISTERs of class new that mode enforce would have refused" by_class!(observed, New);
    "fail_open_total" "REGISTERs admitted because no decision or answer could be made" |r| sum(r, |row| row.sip.fail_open.get());
    "known_bindings" "bindings that are known and alive" |r| r.figures().known_bindings;
    "storm" "1 while new registrations come far above their usual rate" |r| r.figures().storm;
    "workers" "processes of the server" |_| hooks::processes() as u64;
    "last_sample_timestamp_seconds" "Unix time of the last sample" |r| r.figures().time_ms / 1000;
    "sample_errors_total" "samples in which the machine's memory could not be read" |r| r.figures().sample_errors;
}

/// Kamailio asks for one statistic: the parameter is its number in the table.
unsafe extern "C" fn read(_handle: sys::counter_handle_t, number: *mut c_void) -> c_long {
    guarded("a statistic", || {
        let statistic = STATISTICS.get(number as usize);
        let value = statistic
            .zip(state::region())
            .map_or(0, |(s, region)| (s.read)(region));
        Value(c_long::try_from(value).unwrap_or(c_long::MAX))
    })
    .0
}

/// Registers all of them; in `mod_init` (later is too late: core/counters.c).
pub fn register() -> Result<(), String> {
    let group = settings::leak("memguard");
    for (number, statistic) in STATISTICS.iter().enumerate() {
        // SAFETY: texts live for ever; the callback reads the table only.
        let registered = unsafe {
            sys::counter_register(
                ptr::null_mut(),
                group,
                settings::leak(statistic.name),
                sys::CNT_F_NO_RESET as c_int,
                Some(read),
                ptr::without_provenance_mut(number),
                settings::leak(statistic.help),
                0,
            )
        };
        if registered < 0 {
            return Err(format!("Kamailio refused the statistic {}", statistic.name));
        }
    }
    Ok(())
}
