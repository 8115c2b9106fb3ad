//! Script functions `memguard_admit([class])` and `memguard_reject()`, and the same for KEMI. Process: SIP workers.
//! Forbidden here: answering 0, which would end the script; deciding anything that the gate decides otherwise.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;

use crate::guard::config::params::Int;
use crate::guard::decide::admission::Decision;
use crate::guard::terms::words::Class;
use crate::host::kamailio::strings;
use crate::host::kamailio::{
    log::{Severity, log},
    panic_guard::{GoOn, guarded},
    state, sys,
};
use crate::host::memory::hooks;
use crate::host::sip::hand;
use crate::host::sip::{
    answer::{self, Told},
    arrived::Arrived,
    learn,
    reading::{self, Reading},
    visit::Visit,
};
use crate::shared::phones::refusals::Stage;

/// The script goes on with true.
const YES: c_int = 1;
/// The script goes on with false.
const NO: c_int = -1;

/// What `memguard_admit` refused last, for `memguard_reject` and `$memguard(retry_after)`: message, class, answer.
struct Refused(Cell<Option<(u64, Class, Told)>>);
// SAFETY: used by the main thread of each process only; SIP workers are single-threaded.
unsafe impl Sync for Refused {}
static LOCAL_REFUSED: Refused = Refused(Cell::new(None));

/// What the refused client is told.
pub fn told() -> Option<Told> {
    LOCAL_REFUSED.0.get().map(|(_, _, told)| told)
}

/// Runs a body on the REGISTER in a message; `other` is the answer for everything else.
///
/// # Safety
/// A live message.
unsafe fn on_register(
    msg: *mut sys::sip_msg,
    other: c_int,
    body: impl FnOnce(&Arrived<'_>, &Visit<'_>) -> c_int,
) -> c_int {
    // SAFETY: plain data, filled by the shim.
    let mut view: sys::mg_message_t = unsafe { std::mem::zeroed() };
    // SAFETY: the caller's promise.
    let arrived = unsafe {
        sys::mg_message_view(msg, &mut view);
        Arrived::of(&view)
    };
    let (Some(region), Some(tables), Some(row)) =
        (state::region(), state::tables(), hooks::own_row())
    else {
        return other;
    };
    // SAFETY: the caller's promise.
    match unsafe { reading::read(arrived.text, msg) } {
        Reading::Register(register, aor) => {
            let source = (arrived.source, arrived.source_port);
            body(
                &arrived,
                &Visit::of(region, tables, row, &register, aor, source),
            )
        }
        _ => other,
    }
}

/// True: the REGISTER may go on (as may anything that is no REGISTER); false: `memguard_reject()` should answer it.
/// `class` replaces the class that memguard finds. With `auto` 1 the gate has decided already, unless a class is given.
///
/// # Safety
/// A live message.
unsafe fn admit(msg: *mut sys::sip_msg, class: Option<Class>) -> c_int {
    LOCAL_REFUSED.0.set(None);
    // SAFETY: the caller's promise.
    unsafe {
        on_register(msg, YES, |arrived, visit| {
            let is_auto = visit.region.settings.get(Int::Auto) == 1;
            if is_auto && class.is_none() {
                return YES;
            }
            // What the gate let in stands among those in flight, and is no retransmission by that.
            match hand::is_again_in_hand(arrived.message) {
                Some(is_again) => visit.set_again(is_again),
                None if sys::mg_is_received_here(msg) == 0 => visit.set_again(false),
                None => (),
            }
            let class = class.unwrap_or_else(|| visit.class());
            let decision = if arrived.may_reply {
                visit.decide(class)
            } else {
                Decision::Admit
            };
            if !is_auto {
                visit.count_received(class);
            }
            match decision {
                Decision::Refuse => {
                    let told = answer::tell(visit, arrived.source, class);
                    LOCAL_REFUSED.0.set(Some((arrived.message, class, told)));
                    return NO;
                }
                Decision::Observe => visit.row.sip.observed.count(class),
                Decision::Admit => (),
            }
            if !is_auto {
                visit.note_admitted(class, arrived.message);
                if sys::mg_tm_has(msg) != 0 {
                    learn::has_transaction(arrived.message);
                }
                if sys::mg_is_received_here(msg) == 0 {
                    hand::end(); // an async worker's: no script's end comes for it
                }
            }
            YES
        })
    }
}

/// Answers the REGISTER in hand as the gate would: through `sl` (so through its transaction, where one exists), or from
/// memguard's own buffer where `sl` is missing or fails. True when the answer is out.
///
/// # Safety
/// A live message.
unsafe fn reject(msg: *mut sys::sip_msg) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        on_register(msg, NO, |arrived, visit| {
            let refused = LOCAL_REFUSED
                .0
                .get()
                .filter(|(message, ..)| *message == arrived.message);
            let (class, told) = match refused {
                Some((_, class, told)) => (class, told),
                None => {
                    let class = visit.class();
                    (class, answer::tell(visit, arrived.source, class))
                }
            };
            let sent = match answer::send_by_kamailio(visit, msg, &told) {
                1.. => true,
                // No sl, or it has no memory for its reply: ours needs none.
                _ => arrived.may_reply && answer::send(visit, arrived, &told),
            };
            if !sent {
                return NO;
            }
            visit.row.sip.rejected.count(class);
            answer::note(visit, arrived, &told, class, Stage::Script);
            YES
        })
    }
}

/// The class a script names; a wrong name is said once per call and leaves memguard's own.
fn class_of(name: &str) -> Option<Class> {
    let class = Class::parse(name);
    if class.is_none() {
        let words: Vec<&str> = Class::ALL.iter().map(|c| c.word()).collect();
        log!(
            Severity::Error,
            "memguard_admit(\"{name}\"): there is no such class; it accepts {}",
            words.join(", ")
        );
    }
    class
}

unsafe extern "C" fn w_admit(msg: *mut sys::sip_msg, _: *mut c_char, _: *mut c_char) -> c_int {
    // SAFETY: Kamailio passes a live message.
    guarded("memguard_admit", || GoOn(unsafe { admit(msg, None) })).0
}

unsafe extern "C" fn w_admit_class(
    msg: *mut sys::sip_msg,
    class: *mut c_char,
    _: *mut c_char,
) -> c_int {
    guarded("memguard_admit", || {
        // SAFETY: Kamailio passes a live message and the parameter's text (no fixup: as written).
        unsafe {
            let class = if class.is_null() {
                None
            } else {
                class_of(&CStr::from_ptr(class).to_string_lossy())
            };
            GoOn(admit(msg, class))
        }
    })
    .0
}

unsafe extern "C" fn w_reject(msg: *mut sys::sip_msg, _: *mut c_char, _: *mut c_char) -> c_int {
    // SAFETY: Kamailio passes a live message.
    guarded("memguard_reject", || GoOn(unsafe { reject(msg) })).0
}

unsafe extern "C" fn ki_admit(msg: *mut sys::sip_msg) -> c_int {
    // SAFETY: Kamailio passes a live message.
    guarded("KSR.memguard.admit", || GoOn(unsafe { admit(msg, None) })).0
}

unsafe extern "C" fn ki_admit_class(msg: *mut sys::sip_msg, class: *mut sys::str_) -> c_int {
    // SAFETY: Kamailio passes a live message and a live str.
    guarded("KSR.memguard.admit_class", || unsafe {
        let class = class_of(&strings::text_of(class));
        GoOn(admit(msg, class))
    })
    .0
}

unsafe extern "C" fn ki_reject(msg: *mut sys::sip_msg) -> c_int {
    // SAFETY: Kamailio passes a live message.
    guarded("KSR.memguard.reject", || GoOn(unsafe { reject(msg) })).0
}

/// The table of script functions for `exports`; the core copies it.
pub fn commands() -> *mut sys::cmd_export_t {
    type Function = unsafe extern "C" fn(*mut sys::sip_msg, *mut c_char, *mut c_char) -> c_int;
    let line = |name: &str, function: Function, param_no: c_int| sys::cmd_export_t {
        name: strings::leak(name),
        function: Some(function),
        param_no,
        fixup: None,
        free_fixup: None,
        flags: sys::REQUEST_ROUTE,
    };
    let mut table = vec![
        line("memguard_admit", w_admit, 0),
        line("memguard_admit", w_admit_class, 1),
        line("memguard_reject", w_reject, 0),
    ];
    // SAFETY: plain data; all zero ends the table.
    table.push(unsafe { std::mem::zeroed() });
    table.leak().as_mut_ptr()
}

/// The table of KEMI functions; read in place, lives for ever.
pub fn kemi() -> *mut sys::sr_kemi_t {
    let text = |text: &str| sys::str_ {
        s: strings::leak(text),
        len: text.len() as c_int,
    };
    let line = |name: &str, function: *mut c_void, first: c_uint| sys::sr_kemi_t {
        mname: text("memguard"),
        fname: text(name),
        rtype: sys::SR_KEMIP_INT as c_int,
        func: function,
        ptypes: [first as c_int, 0, 0, 0, 0, 0],
    };
    let mut table = vec![
        line("admit", ki_admit as *mut c_void, sys::SR_KEMIP_NONE),
        line(
            "admit_class",
            ki_admit_class as *mut c_void,
            sys::SR_KEMIP_STR,
        ),
        line("reject", ki_reject as *mut c_void, sys::SR_KEMIP_NONE),
    ];
    let none = sys::str_ {
        s: ptr::null_mut(),
        len: 0,
    };
    table.push(sys::sr_kemi_t {
        mname: none,
        fname: none,
        rtype: 0,
        func: ptr::null_mut(),
        ptypes: [0; 6],
    });
    table.leak().as_mut_ptr()
}
