//! What the module's parts share within a process: the region, the tables, the keys; set before the first fork.
//! Forbidden here: logic; this is a place to find things.

use once_cell::sync::OnceCell;

use crate::guard::config::priority;
use crate::guard::config::texts::Texts;
use crate::guard::sip::aor::{Key, local::Matching};
use crate::guard::terms::clock;
use crate::shared::phones::{fingerprints::Fingerprints, pending::InFlight, sources::Sources};
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
    /// The same of AoRs whose source queues behind itself: a flood pushes out only these.
    pub crowd_slots: Fingerprints,
    /// What each source has moved the queue by.
    pub sources: Sources,
    /// Networks that are answered by the script only (parameter `silent_source`).
    pub silent: Vec<priority::Entry>,
    /// Registrations in flight, by Call-ID.
    pub in_flight: InFlight,
    /// Secret of this start, or of the one whose bindings were carried over: outsiders cannot aim at buckets or points.
    pub key: Key,
    /// The text parameters.
    pub texts: Texts,
}

impl Tables {
    /// While a table may have forgotten: entries were pushed out, or bindings may be alive that were granted before it
    /// knew of all (the start, where no earlier table was carried over): one longest Expires from then.
    pub fn is_unsure(&self, region: &Region, now_s: u64) -> bool {
        let control = &region.control;
        now_s
            < control
                .knows_since_s
                .get()
                .saturating_add(control.longest_expires.get())
            || self.bindings.forgotten_until() > now_s
            || self.aors.forgotten_until() > now_s
    }
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
    /// Behind another proxy reg-id counts only where that says `ob` (registrar parameters `outbound_mode`, `regid_mode`).
    pub reg_id_needs_ob: bool,
    /// Of several contacts in one header it takes the last one first.
    pub is_last_first: bool,
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

// ------------------------------------------------------------------------------------------------------------ time

/// Milliseconds of one of the kernel's clocks.
fn clock_ms(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: a live timespec; the clocks used here are read in the vDSO, without a system call (vdso(7)).
    unsafe { libc::clock_gettime(clock, &mut time) };
    (time.tv_sec as u64)
        .wrapping_mul(1000)
        .wrapping_add(time.tv_nsec as u64 / 1_000_000)
}

/// Starts server time; in `mod_register`, before any of it is asked for.
pub fn start_clock(region: &Region) {
    let boot = clock_ms(libc::CLOCK_BOOTTIME);
    let monotonic = clock_ms(libc::CLOCK_MONOTONIC);
    region.clock.start(wall_ms(), boot, monotonic);
}

/// Counts what the machine was suspended. Process: sampling, each tick.
pub fn refresh_clock(region: &Region) {
    let boot = clock_ms(libc::CLOCK_BOOTTIME);
    region
        .clock
        .suspended(boot, clock_ms(libc::CLOCK_MONOTONIC));
}

/// Server time ([`clock`]) in milliseconds at the kernel's last tick (1 to 10 ms ago): a fifth of the price of
/// [`now_ms`], for what every message does. Every duration is measured in server time.
pub fn coarse_ms() -> u64 {
    let monotonic = clock_ms(libc::CLOCK_MONOTONIC_COARSE);
    region().map_or(0, |region| region.clock.of_monotonic(monotonic))
}

/// Server time in milliseconds.
pub fn now_ms() -> u64 {
    let boot = clock_ms(libc::CLOCK_BOOTTIME);
    region().map_or(0, |region| region.clock.of_boot(boot))
}

/// The wall clock, Unix milliseconds: for what is shown or written down, never for a duration.
pub fn wall_ms() -> u64 {
    clock_ms(libc::CLOCK_REALTIME)
}

/// Seconds by which the wall clock is ahead of server time at this moment: 0 until somebody sets it.
pub fn lead_s() -> i64 {
    clock::lead_s(clock_ms(libc::CLOCK_REALTIME_COARSE), coarse_ms())
}

/// The date of a moment of server time, both in seconds; 0 stays 0.
pub fn date(server_s: u64) -> u64 {
    clock::date_s(server_s, lead_s())
}

/// The moment of server time of a date that usrloc gives (Unix seconds of the wall clock; 0: for ever, `u64::MAX`).
pub fn until(expires_wall_s: u64) -> u64 {
    clock::until_s(expires_wall_s, lead_s())
}

/// The clocks as they stand, to be written down; `boot` is a number of this start of the machine.
pub fn saved() -> clock::Saved {
    clock::Saved {
        wall_s: wall_ms() / 1000,
        boot_s: clock_ms(libc::CLOCK_BOOTTIME) / 1000,
        boot: boot_number(),
    }
}

/// A number that is another after each start of the machine; 0 where that is not told.
fn boot_number() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text
        .chars()
        .filter(char::is_ascii_hexdigit)
        .take(16)
        .collect();
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}

/// The run before in one sentence, where it did not end well.
static BEFORE: OnceCell<String> = OnceCell::new();

/// The run before in one sentence; `None` where it ended in order, or is not known.
pub fn before() -> Option<&'static str> {
    BEFORE.get().map(String::as_str)
}

/// Keeps it.
pub fn set_before(sentence: String) {
    let _ = BEFORE.set(sentence); // once, in mod_init
}
