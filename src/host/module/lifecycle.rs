//! Order of things: mod_register, mod_init, child_init, mod_destroy, and which process runs each.
//! Forbidden here: work on SIP messages; threads; anything that must survive daemonize and is not a mapping.

use std::ffi::{CString, c_int, c_uint, c_void};
use std::ptr;

use crate::guard::config::params::{self, Int, Text};
use crate::guard::formats::http;
use crate::guard::sip::aor::{Key, local::Matching};
use crate::guard::terms::warnings::{self, Warning};
use crate::host::kamailio::panic_guard::said;
use crate::host::kamailio::processes;
use crate::host::kamailio::strings;
use crate::host::kamailio::{
    config_files, follow,
    log::{Severity, log},
    own_memory,
    panic_guard::{Init, guarded},
    state, sys,
};
use crate::host::memory::{hooks, outside};
use crate::host::module::{event_routes, functions, parameters, rpc, statistics, variables};
use crate::host::net::{listening, sockets};
use crate::host::outputs::{bindings_file, blackbox, ending, serve};
use crate::host::reports::{binaries, profile};
use crate::host::sampler::{memory, ticks};
use crate::host::sip::{ballast, gate, learn, loaded, usrloc};
use crate::shared::counters::{contexts::Contexts, sites::Sites};
use crate::shared::phones::{
    fingerprints::Fingerprints, learned::Learned, pending::InFlight, sources::Sources,
};
use crate::shared::region::Region;

/// Registrations in flight that are remembered: 16384 × 64 bytes, touched as used; 30 s of 500 per second.
const IN_FLIGHT: usize = 16384;

/// AoRs whose slot in the queue is remembered; when there are more, those whose slot comes first are forgotten and
/// queue anew if they come early. 16 bytes each, touched as used.
const SLOTS: usize = 131072;

/// Longest Expires assumed until a longer one is granted, seconds: Kamailio's and most phones' default.
const FIRST_EXPIRES: u64 = 3600;

/// `mod_register`: maps the region and wraps pkg. Process: the one that reads the configuration.
pub fn register(exports: &mut sys::module_exports_t) -> c_int {
    guarded("mod_register", || said(try_register(exports))).0
}

fn try_register(exports: &mut sys::module_exports_t) -> Result<(), String> {
    let region = Region::map().map_err(|e| format!("cannot map memguard's shared region: {e}"))?;
    state::start_clock(region);
    state::set_region(region);
    region.control.start_ms.set(state::now_ms());
    exports.params = parameters::param_table();
    exports.rpc_methods = rpc::table();
    exports.cmds = functions::commands();
    // SAFETY: a table that lives for ever; mod_register is the place (core/kemi.c).
    if unsafe { sys::sr_kemi_modules_add(functions::kemi()) } < 0 {
        return Err("Kamailio refused the KEMI functions".into());
    }
    // SAFETY: callbacks that live as long as the module.
    exports.pv_items =
        unsafe { sys::mg_pv_table(Some(variables::key_of), Some(variables::value_of)) };
    // SAFETY: reads the list of modules; we are not on it yet.
    region.warn(
        Warning::LoadedLate,
        unsafe { sys::mg_any_module_loaded() } != 0,
    );
    // Without it a change of the configuration is not noticed, and that is all.
    let _ = own_memory::scope(config_files::remember);
    let sites = Sites::map().map_err(|e| format!("cannot map memguard's tables of places: {e}"))?;
    let refused = hooks::install_pkg(&region.rows, Some(sites)).is_err();
    region.warn(Warning::PkgNotCounted, refused);
    hooks::hook_shm();
    Ok(())
}

/// Before the forks, in the main process; not under `-c`.
pub unsafe extern "C" fn mod_init() -> c_int {
    guarded("mod_init", || said(try_init())).0
}

fn try_init() -> Result<(), String> {
    let region = state::region().ok_or("memguard was not registered")?;
    hooks::publish_process(); // the server may have become a daemon: another process with the same number
    // The last time: a pool that has no room for a trial block even now is not counted.
    let refused = hooks::install_shm(&region.rows).is_err();
    region.warn(Warning::ShmNotCounted, refused);
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
    region.control.longest_expires.set(FIRST_EXPIRES);
    if region.settings.get(Int::Attribution) == 0 {
        hooks::stop_places();
    }
    region.warn(Warning::NoPlaces, !hooks::knows_places());
    make_tables(region)?;
    if hooks::sample::is_possible() {
        let contexts =
            Contexts::map().map_err(|e| format!("cannot map the table of contexts: {e}"))?;
        hooks::sample::start(contexts, random_word()?);
    }
    if region.settings.get(Int::Faults) == 1 {
        hooks::faults::install()
            .map_err(|e| format!("cannot map the words of memguard.fault: {e}"))?;
    }
    if let Some(tables) = state::tables() {
        if let Some(address) = http::parse_listen(tables.texts.get(Text::Listen))? {
            serve::open(address)?;
        }
    }
    blackbox::open(region)?;
    open_frames(region);
    follow::declare()?;
    statistics::register()?;
    event_routes::prepare();
    // SAFETY: mod_init is the place for it (core/pt.c).
    if unsafe { sys::mg_register_process() } < 0 {
        return Err("cannot announce the sampling process".into());
    }
    Ok(())
}

fn make_tables(region: &Region) -> Result<(), String> {
    let base = region.control.start_ms.get() / 1000;
    let capacity = region.settings.get_u64(Int::Bindings) as usize;
    memory::map().map_err(|e| format!("cannot map the sampling process's memory: {e}"))?;
    let mapped = |e: std::io::Error| format!("cannot map the table of known bindings: {e}");
    let texts = parameters::take_texts();
    let bindings = Fingerprints::map(capacity, base).map_err(mapped)?;
    let aors = Fingerprints::map(capacity, base).map_err(mapped)?;
    let hints = Fingerprints::map(capacity, base).map_err(mapped)?;
    let key = match bindings_file::restore(region, &texts, [&bindings, &aors, &hints])? {
        Some(key) => key,
        None => random_key()?,
    };
    let expected = bindings_file::expect(region, [&bindings, &aors]);
    let tables = state::Tables {
        expected,
        learned: Learned::map(capacity, base).map_err(mapped)?,
        bindings,
        aors,
        hints,
        slots: Fingerprints::map(SLOTS, base).map_err(mapped)?,
        crowd_slots: Fingerprints::map(SLOTS, base).map_err(mapped)?,
        sources: Sources::map().map_err(mapped)?,
        silent: parameters::silent_entries(&texts),
        in_flight: InFlight::map(IN_FLIGHT).map_err(mapped)?,
        key,
        texts,
    };
    for entry in parameters::priority_entries(&tables.texts) {
        region.priorities.add(&entry, 0); // there is room for all that a configuration can hold
    }
    state::set_tables(tables);
    bindings_file::begin(region);
    Ok(())
}

fn random_key() -> Result<Key, String> {
    Ok(Key::new(random_word()?, random_word()?))
}

fn random_word() -> Result<u64, String> {
    let mut bytes = [0u8; 8];
    // SAFETY: a buffer and its length (getrandom(2)).
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got != bytes.len() as isize {
        return Err("the system gave no random numbers".into());
    }
    Ok(u64::from_ne_bytes(bytes))
}

/// In every process after its fork, and in main before (PROC_INIT) and after (PROC_MAIN) the workers' forks.
pub unsafe extern "C" fn child_init(rank: c_int) -> c_int {
    guarded("child_init", || {
        hooks::publish_process();
        if rank != sys::PROC_INIT && rank != PROC_MAIN {
            // Only the sampling process serves, records and watches, which main forks in PROC_MAIN.
            drop((serve::take(), blackbox::take(), sockets::take_frames()));
        }
        if rank != sys::PROC_INIT {
            outside::child_started();
        }
        processes::forked_as(rank);
        match rank {
            sys::PROC_INIT => return said(bind_all()),
            PROC_MAIN => return said(ticks::start()),
            1.. => ballast::take_first(), // SIP workers
            _ => (),
        }
        Init(0)
    })
    .0
}

/// `sys::PROC_MAIN` is unsigned because it is 0 (core/sr_module.h).
const PROC_MAIN: c_int = sys::PROC_MAIN as c_int;

/// PROC_INIT: every module is initialised and nothing is forked: the place to bind to others although we were loaded
/// first, and to run before them in the pre-script list (last registered runs first: internals D.1).
fn bind_all() -> Result<(), String> {
    let region = state::region().ok_or("memguard was not registered")?;
    hooks::sample::learn_actions();
    binaries::remember();
    ending::watch();
    follow::prepare();
    bind_usrloc(region)?;
    outside::prepare(region);
    watch_addresses(region);
    region.warn(Warning::TlsThreshold, tls_refuses_first(region));
    region.warn(Warning::Remap503, tm_remaps_refusals());
    region.warn(Warning::ProfileDir, !profile::is_writable());
    // SAFETY: function pointers that live as long as the module (linked with nodelete); before any fork.
    unsafe {
        region.warn(Warning::NoSl, sys::mg_sl_watch(Some(learn::on_answer)) == 0);
        if sys::mg_tm_watch(Some(learn::on_answer), Some(learn::on_transaction)) < 0 {
            return Err("tm refused the callback for its replies".into());
        }
        if region.settings.get(Int::Auto) == 1 {
            watch_script(Some(gate::on_request), PRE_SCRIPT, REQUESTS)?;
            let taken =
                sys::sr_event_register_cb(sys::SREV_NET_DGRAM_IN as c_int, Some(gate::on_datagram))
                    < 0;
            region.warn(Warning::DatagramSlotTaken, taken);
        } else {
            watch_script(Some(gate::on_request_counted), PRE_SCRIPT, REQUESTS)?;
        }
        let taken =
            sys::sr_event_register_cb(sys::SREV_NET_DATA_IN as c_int, Some(ballast::on_data)) < 0;
        region.warn(Warning::DataSlotTaken, taken);
    }
    watch_script(Some(gate::on_going_on), PRE_SCRIPT, FAILURES)?;
    watch_script(Some(learn::on_script_end), POST_SCRIPT, REQUESTS)?;
    watch_script(Some(learn::on_reply), PRE_SCRIPT, REPLIES)?;
    watch_script(Some(learn::on_reply_end), POST_SCRIPT, REPLIES)?;
    say_warnings(region);
    Ok(())
}

/// The socket for ARP frames, while this process may still be root; without it the watch goes on by rtnetlink alone.
fn open_frames(region: &Region) {
    let is_wanted = [Int::AddressGuard, Int::ArpWatch].map(|p| region.settings.get(p)) == [1, 1];
    region.warn(Warning::NoArp, is_wanted && sockets::open_frames().is_err());
}

/// Remembers which addresses are watched: Kamailio's lists of sockets are final.
fn watch_addresses(region: &Region) {
    if region.settings.get(Int::AddressGuard) == 0 {
        return;
    }
    if let Some(tables) = state::tables() {
        listening::remember(&tables.texts);
    }
    let unwatched = listening::watched().map_or(0, |watched| watched.unwatched);
    region.warn(Warning::TooManyAddresses, unwatched > 0);
}

const PRE_SCRIPT: c_uint = sys::PRE_SCRIPT_CB;
const POST_SCRIPT: c_uint = sys::POST_SCRIPT_CB;
const REQUESTS: c_uint = sys::script_cb_flag_REQUEST_CB;
const FAILURES: c_uint = sys::script_cb_flag_FAILURE_CB;
const REPLIES: c_uint = sys::script_cb_flag_ONREPLY_CB;

/// Has the script call us; Kamailio keeps that in pkg (core/script_cb.c).
fn watch_script(function: sys::cb_function, when: c_uint, what: c_uint) -> Result<(), String> {
    // SAFETY: a function that lives as long as the module; before any fork.
    match unsafe { sys::register_script_cb(function, when | what, ptr::null_mut()) } {
        0.. => Ok(()),
        _ => Err("Kamailio refused a callback around the script".into()),
    }
}

/// Whether tls turns connections away before memguard turns registrations away: it does so below `low_mem_threshold1`
/// of free shm. Its start, which comes before ours (core/main.c init_tls), has turned the parameter's KiB, or its default
/// of 512 KiB per process, into bytes (modules/tls/tls_init.c); -1 stands there while tls is not enabled.
fn tls_refuses_first(region: &Region) -> bool {
    // SAFETY: PROC_INIT: configuration and process count are final.
    let threshold = unsafe {
        if sys::mg_has_module(c"tls".as_ptr()) == 0 {
            return false;
        }
        sys::mg_cfg_int(c"tls".as_ptr(), c"low_mem_threshold1".as_ptr(), -1)
    };
    let free_at_shed = region.control.shm_size.get() / 100
        * (100 - region.settings.get_u64(Int::ShmShed).min(100));
    u64::try_from(threshold).is_ok_and(|bytes| bytes > free_at_shed)
}

/// Whether this server relays REGISTERs (it has tm and no registrar) and tm answers a relayed 503 with a 500 of its
/// own, which has no Retry-After. `remap_503_500` is 1 unless it is set (modules/tm/tm.c).
fn tm_remaps_refusals() -> bool {
    // SAFETY: PROC_INIT: all modules are loaded, parameters are final.
    unsafe {
        sys::mg_has_module(c"registrar".as_ptr()) == 0
            && sys::mg_module_int(c"tm".as_ptr(), c"remap_503_500".as_ptr(), 0) != 0
    }
}

/// What does not work as it could, in the log of the start.
fn say_warnings(region: &Region) {
    for sentence in warnings::sentences(region.control.warnings.get()) {
        log!(Severity::Warn, "{sentence}");
    }
}

/// usrloc's db_mode 0: bindings live in memory only (usrloc.h).
const NO_DB: c_int = 0;
/// 3: in the database only.
const DB_ONLY: c_int = 3;

fn bind_usrloc(region: &Region) -> Result<(), String> {
    // SAFETY: PROC_INIT: usrloc's mod_init has run, which its binding function demands (usrloc.c).
    let (is_bound, db_mode) = unsafe { (sys::mg_usrloc_bind() != 0, sys::mg_usrloc_db_mode()) };
    region.warn(Warning::NoUsrloc, !is_bound);
    region.warn(Warning::UsrlocDbOnly, is_bound && db_mode == DB_ONLY);
    if !is_bound {
        return Ok(());
    }
    // SAFETY: as above; the names are constants.
    unsafe {
        if sys::mg_usrloc_watch(Some(usrloc::on_binding)) == 0 {
            return Err("usrloc refused the callback for its contacts".into());
        }
        let mut prefix = [0u8; 256];
        let (group, name) = (c"registrar".as_ptr(), c"realm_prefix".as_ptr());
        let length = sys::mg_cfg_text(
            group,
            name,
            prefix.as_mut_ptr().cast(),
            prefix.len() as c_int,
        );
        state::set_registrar(state::Registrar {
            use_domain: sys::mg_usrloc_use_domain() != 0,
            case_sensitive: sys::mg_cfg_int(group, c"case_sensitive".as_ptr(), 1) != 0,
            realm_prefix: prefix
                .get(..length.max(0) as usize)
                .unwrap_or_default()
                .to_vec(),
            matching: Matching::from_number(sys::mg_module_int(
                c"usrloc".as_ptr(),
                c"matching_mode".as_ptr(),
                0,
            ))
            .unwrap_or_default(),
            use_path: sys::mg_module_int(group, c"use_path".as_ptr(), 0) != 0,
            // registrar/registrar.h: REG_OUTBOUND_NONE and REG_REGID_OUTBOUND are 0
            reg_id_needs_ob: sys::mg_module_int(group, c"outbound_mode".as_ptr(), 0) != 0
                && sys::mg_module_int(group, c"regid_mode".as_ptr(), 0) == 0,
            is_last_first: sys::mg_is_last_contact_first() != 0,
            tables: usrloc_tables(),
        });
    }
    if ![NO_DB, DB_ONLY].contains(&db_mode) {
        loaded::prepare();
    }
    region
        .control
        .usrloc_in_memory
        .set(u64::from(db_mode != DB_ONLY));
    Ok(())
}

/// Names of usrloc's tables, from its statistics "<table>_contacts" (usrloc/udomain.c new_udomain); the separator is
/// one character that the core parameter `stats_name_separator` sets.
fn usrloc_tables() -> Vec<CString> {
    unsafe extern "C" fn each(closure: *mut c_void, name: *mut sys::str_) {
        guarded("usrloc's tables", || {
            // SAFETY: the vector below; a live name.
            let (names, name) =
                unsafe { (&mut *closure.cast::<Vec<CString>>(), strings::text_of(name)) };
            let table = name.strip_suffix("contacts").and_then(|front| {
                let (at, _separator) = front.char_indices().next_back()?;
                front.get(..at)
            });
            names.extend(table.and_then(|table| CString::new(table).ok()));
        });
    }
    let mut names: Vec<CString> = Vec::new();
    // SAFETY: the closure lives for the call.
    unsafe { sys::mg_each_counter(c"usrloc".as_ptr(), Some(each), (&raw mut names).cast()) };
    names
}

/// At shutdown, in the main process only.
pub unsafe extern "C" fn mod_destroy() {
    guarded("mod_destroy", || {
        blackbox::close();
        bindings_file::close();
        hooks::restore();
    });
}
