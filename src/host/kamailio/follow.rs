//! Run-time changes of parameters: Kamailio's cfg framework holds them, and the region follows what is in force there.
//! Forbidden here: reading a cfg handle (a process's own view, which a worker that refuses everything never renews);
//! locks, allocation and logs in `look`, which SIP workers call, and allocations under Kamailio's locks.
//!
//! A change is only checked when it is asked for (`on_change`, which Kamailio calls for `cfg.set_now_int` and for
//! `cfg.set_delayed_int` alike); it counts when it stands in the shared configuration: at once, or with the commit.
//! Whoever handles a message or a command, or has allocated some KiB, looks there when something was asked for a moment
//! ago or when the configuration was replaced; the sampling process looks ten times a second whatever happens.
//!
//! `cfg.reset` skips every parameter that has a check (core/cfg/cfg_ctx.c), so one more stands in the group that has
//! none: [`RESTORE`] rests at 0 and its default is 1. Who sets it, or resets the group, gets all values of the start.

use std::ffi::{c_char, c_int, c_void};
use std::sync::Mutex;

use crate::guard::config::params::{self, Int};
use crate::host::kamailio::panic_guard::said;
use crate::host::kamailio::strings;
use crate::host::kamailio::{
    log::{Severity, log},
    panic_guard::guarded,
    state, sys,
};
use crate::shared::region::Region;

/// Name of the parameter that puts all others back.
pub const RESTORE: &str = "restore";
const RESTORE_DOC: &str =
    "1 puts all parameters of this group back to their values of the start, as cfg.reset does";
/// For so long after a change was asked for every message looks whether it has come, milliseconds of server time.
const ASKED_MS: u64 = 1000;

/// All numbers by parameter.
type Numbers = [i64; Int::COUNT];
/// The group: the run-time parameters in their order, then [`RESTORE`].
type Group = [c_int; Int::COUNT + 1];

/// The values of the start, which the framework takes its defaults from; one thread, before any fork.
static AT_START: Mutex<Group> = Mutex::new([0; Int::COUNT + 1]);

/// The numeric parameters that may change at run time, in the order of the cfg group. `mode` is not among them:
/// `memguard.mode` sets it, and there must be one place that tells it.
fn runtime_ints() -> impl Iterator<Item = Int> {
    let all = Int::ALL.iter().copied();
    all.filter(|p| p.param().runtime && *p != Int::Mode)
}

/// Declares the cfg group `memguard` with the values in force; in `mod_init`.
pub fn declare() -> Result<(), String> {
    let region = state::region().ok_or("no shared region")?;
    let mut defs: Vec<sys::cfg_def_t> = Vec::new();
    let mut values = AT_START.lock().map_err(|_| "internal error")?;
    for (slot, param) in values.iter_mut().zip(runtime_ints()) {
        *slot = c_int::try_from(region.settings.get(param)).unwrap_or(c_int::MAX);
        let (min, max) = param.bounds();
        defs.push(definition(
            (param.param().name, param.param().doc),
            (min, max),
            Some(on_change),
        ));
    }
    if let Some(restore) = values.get_mut(defs.len()) {
        *restore = 1;
    }
    defs.push(definition((RESTORE, RESTORE_DOC), (0, 1), None));
    let count = defs.len();
    // SAFETY: cfg_def_t is plain data; all zero ends the table.
    defs.push(unsafe { std::mem::zeroed() });
    static HANDLE: CfgHandle = CfgHandle(std::cell::UnsafeCell::new(std::ptr::null_mut()));
    // SAFETY: table and values live for ever; the core moves the handle, we never read it.
    let declared = unsafe {
        sys::cfg_declare(
            strings::leak("memguard"),
            defs.leak().as_mut_ptr(),
            values.as_mut_ptr().cast(),
            (count * size_of::<c_int>()) as c_int,
            HANDLE.0.get(),
        )
    };
    if declared < 0 {
        Err("the configuration framework refused the group memguard".into())
    } else {
        Ok(())
    }
}

fn definition(
    (name, doc): (&str, &str),
    (min, max): (i64, i64),
    on_change_cb: sys::cfg_on_change,
) -> sys::cfg_def_t {
    sys::cfg_def_t {
        name: strings::leak(name),
        type_: sys::CFG_VAR_INT | (sys::CFG_VAR_INT << 3) | CFG_ATOMIC,
        min: c_int::try_from(min).unwrap_or(0),
        max: c_int::try_from(max).unwrap_or(c_int::MAX),
        on_change_cb,
        on_set_child_cb: None,
        descr: strings::leak(doc),
    }
}

/// CFG_ATOMIC of core/cfg/cfg.h: `1U << (2*CFG_INPUT_SHIFT)`.
const CFG_ATOMIC: std::ffi::c_uint = 1 << 6;

struct CfgHandle(std::cell::UnsafeCell<*mut c_void>);
// SAFETY: only the core writes it, before the first fork and in its own cfg_update.
unsafe impl Sync for CfgHandle {}

/// Checks one change, with those that wait for their commit; whether and when it comes is Kamailio's. Process: RPC.
unsafe extern "C" fn on_change(
    handle: *mut c_void,
    _group: *mut sys::str_,
    name: *mut sys::str_,
    value: *mut *mut c_void,
) -> c_int {
    guarded("a change of a parameter", || {
        // SAFETY: Kamailio passes its own name, a slot that holds the integer, and the group's values as they would be
        // without this change (core/cfg/cfg_ctx.c).
        let (name, value, with) = unsafe {
            let count = runtime_ints().count(); // behind them lies the group's end
            let at = |i: usize| match i < count {
                true => handle.cast::<c_int>().add(i).read(),
                false => 0,
            };
            let with: Option<Group> = (!handle.is_null()).then(|| std::array::from_fn(at));
            (strings::text_of(name), *value as isize as c_int, with)
        };
        said(check(&name, i64::from(value), with))
    })
    .0
}

fn check(name: &str, value: i64, with: Option<Group>) -> Result<(), String> {
    let region = state::region().ok_or("no shared region")?;
    let param = Int::by_name(name).ok_or_else(|| format!("there is no parameter {name}"))?;
    let value = params::check_int(param, value)?;
    let mut values = match with {
        Some(group) => numbers(region, &group),
        None => region.settings.all(),
    };
    values[param as usize] = value;
    let found = params::contradictions(&values);
    if !found.is_empty() {
        return Err(format!(
            "{name} was not changed to {value}: {}",
            found.join("; ")
        ));
    }
    region.control.cfg_asked_ms.set(state::coarse_ms().max(1));
    Ok(())
}

/// All parameters, those of the group as it says.
fn numbers(region: &Region, group: &Group) -> Numbers {
    let mut values = region.settings.all();
    for (param, value) in runtime_ints().zip(group) {
        if let Some(slot) = values.get_mut(param as usize) {
            *slot = i64::from(*value);
        }
    }
    values
}

/// Takes over what has changed, where something may have: two words to compare while nothing has. Process: any that
/// handles messages or commands, or allocates.
#[inline]
pub fn look(region: &Region) {
    let control = &region.control;
    // SAFETY: reads a pointer of the core's.
    let block = unsafe { sys::mg_cfg_block() };
    if control.cfg_asked_ms.get() != 0 || block != control.cfg_block.get() {
        look_closely(region, block);
    }
}

#[cold]
fn look_closely(region: &Region, block: u64) {
    let asked = region.control.cfg_asked_ms.get();
    if state::coarse_ms().saturating_sub(asked) > ASKED_MS {
        region.control.cfg_asked_ms.set(0); // who asks at this moment is served by the sampling process
    }
    if let Some(group) = read() {
        let _ = take_over(region, &numbers(region, &group)); // the sampling process tells a refusal
        region.control.cfg_block.set(block);
    }
}

/// The group as it stands in the shared configuration; `None` before there is one, or while it is being replaced.
fn read() -> Option<Group> {
    let mut group: Group = [0; Int::COUNT + 1];
    let count = runtime_ints().count() + 1;
    // SAFETY: `count` integers are written, which the array holds.
    let is_read = unsafe { sys::mg_cfg_read(group.as_mut_ptr(), count as c_int) != 0 };
    is_read.then_some(group)
}

/// Puts the values into force; false where they contradict each other, which a commit can make of changes that were
/// checked one by one.
fn take_over(region: &Region, wanted: &Numbers) -> bool {
    let now = region.settings.all();
    if now == *wanted {
        return true;
    }
    if !params::is_consistent(wanted) {
        return false;
    }
    for param in runtime_ints() {
        let at = param as usize;
        if let (Some(old), Some(new)) = (now.get(at), wanted.get(at)) {
            if old != new {
                region.settings.set(param, *new);
            }
        }
    }
    true
}

/// The sampling process's part: looks whatever happens, restores, and tells what has changed.
pub struct Follower {
    told: Numbers,
    refused: Option<Group>,
}

impl Follower {
    /// From the values in force.
    pub fn new(region: &Region) -> Follower {
        write(runtime_ints().count(), 0); // rests: the framework began with its default
        Follower {
            told: region.settings.all(),
            refused: None,
        }
    }

    /// One look. Process: sampling.
    pub fn tick(&mut self, region: &Region) {
        let Some(mut group) = read() else {
            return;
        };
        let restore = runtime_ints().count();
        if group.get(restore) == Some(&1) {
            group = restored();
            log!(
                Severity::Notice,
                "all parameters are back to their values of the start (cfg.reset)"
            );
        }
        let wanted = numbers(region, &group);
        if take_over(region, &wanted) {
            self.refused = None;
        } else if self.refused != Some(group) {
            self.refused = Some(group);
            log!(
                Severity::Error,
                "the changed configuration is not in force: {}; memguard.config shows what is",
                params::contradictions(&wanted).join("; ")
            );
        }
        let now = region.settings.all();
        for param in runtime_ints() {
            let (old, new) = (self.told[param as usize], now[param as usize]);
            if old != new {
                log!(Severity::Notice, "{} is {new} now", param.param().name);
            }
        }
        self.told = now;
    }
}

/// Puts the values of the start into the shared configuration, the request for it last: who replaces the configuration
/// meanwhile takes the request along, and it is done again.
fn restored() -> Group {
    let start = AT_START
        .lock()
        .map(|group| *group)
        .unwrap_or([0; Int::COUNT + 1]);
    let count = runtime_ints().count();
    for (at, value) in start.iter().take(count).enumerate() {
        write(at, *value);
    }
    write(count, 0);
    start
}

fn write(at: usize, value: c_int) {
    // SAFETY: one of the group's integers, in place, as the core does for those that are declared atomic.
    unsafe { sys::mg_cfg_write(at as c_int, value) };
}

/// Finds the group in the framework: PROC_INIT, when its table is final.
pub fn prepare() {
    let name: *const c_char = c"memguard".as_ptr();
    // SAFETY: a constant name; the main process.
    unsafe { sys::mg_cfg_find(name) };
}
