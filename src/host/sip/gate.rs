//! The gate: every REGISTER that arrives is classified, counted, and admitted or answered, before the script and, under
//! pressure, before parsing. Forbidden here: locks (but usrloc's own, asked for unknown bindings only), allocation, logs.

use std::ffi::{c_int, c_uint, c_void};
use std::ptr;

use crate::guard::decide::admission::Decision;
use crate::guard::terms::words::{Class, Mode};
use crate::host::kamailio::processes;
use crate::host::kamailio::{
    follow,
    panic_guard::{GoOn, Leave, guarded},
    state::{self, Tables},
    sys,
};
use crate::host::memory::hooks;
use crate::host::sip::hand;
use crate::host::sip::{
    answer,
    arrived::Arrived,
    ballast, drain, pressure,
    reading::{self, Reading},
    visit::Visit,
};
use crate::shared::phones::refusals::Stage;
use crate::shared::region::Region;

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It was answered and ends here.
    Answered,
}

/// Classifies, decides, counts and, if it must be, answers.
///
/// # Safety
/// `msg`: as for [`reading::read`].
unsafe fn consider(arrived: &Arrived<'_>, msg: *mut sys::sip_msg, stage: Stage) -> Verdict {
    let (Some(region), Some(tables), Some(row)) =
        (state::region(), state::tables(), hooks::own_row())
    else {
        return Verdict::Pass;
    };
    let not_understood = || {
        row.sip.not_understood.add(u64::from(
            stage == Stage::Request && is_register(arrived.text),
        ));
        Verdict::Pass
    };
    // SAFETY: the caller's promise.
    let (register, aor) = match unsafe { reading::read(arrived.text, msg) } {
        Reading::Register(register, aor) => (register, aor),
        Reading::NotUnderstood => return not_understood(),
        Reading::Other => return Verdict::Pass,
    };
    let source = (arrived.source, arrived.source_port);
    let visit = Visit::of(region, tables, row, &register, aor, source);
    if stage == Stage::Datagram {
        tables.slots.prefetch(visit.slot_fp()); // under pressure it is looked up soon
    }
    let class = visit.class();
    let decision = match arrived.may_reply && !is_silent(tables, arrived) {
        // Of one that is in flight the answer is on its way: even where it cannot be parsed it gets no other one.
        true if stage == Stage::Datagram && !can_parse(region) && !visit.is_again() => {
            Decision::Refuse
        }
        true if pressure::is_far(region, visit.now_ms) => Decision::Admit,
        true => visit.decide(class),
        false => Decision::Admit,
    };
    if decision == Decision::Refuse && refuse(&visit, arrived, msg, class, stage) {
        visit.count_received(class);
        visit.row.sip.rejected.count(class);
        return Verdict::Answered;
    }
    if stage == Stage::Request {
        visit.count_received(class);
        if decision == Decision::Observe {
            visit.row.sip.observed.count(class);
        }
        if decision == Decision::Refuse {
            visit.row.sip.fail_open.add(1); // no answer could be built or sent: it goes on
        }
        visit.note_admitted(class, arrived.message);
    }
    Verdict::Pass
}

/// Whether this worker has the pkg that Kamailio needs to parse one more message; otherwise it would drop it silently.
fn can_parse(region: &Region) -> bool {
    let pkg = hooks::pkg_now(region.control.pkg_size.get());
    pkg.is_none_or(|pkg| pkg.size.saturating_sub(pkg.real_used) >= ballast::LEAST)
}

/// Whether the message begins like a REGISTER, for the count of what was not understood.
fn is_register(text: &[u8]) -> bool {
    text.trim_ascii_start().starts_with(b"REGISTER ")
}

/// Whether the operator wants this source to be answered by the script only (`silent_source`).
fn is_silent(tables: &Tables, arrived: &Arrived<'_>) -> bool {
    let silent = &tables.silent;
    !silent.is_empty()
        && silent
            .iter()
            .any(|net| net.matches(b"", b"", Some(arrived.source)))
}

fn refuse(
    visit: &Visit<'_>,
    arrived: &Arrived<'_>,
    msg: *mut sys::sip_msg,
    class: Class,
    stage: Stage,
) -> bool {
    let told = answer::tell(visit, arrived.source, class);
    // What is too long for our own buffer is Kamailio's to answer.
    // SAFETY: null or the live message in hand.
    let sent = answer::send(visit, arrived, &told)
        || !msg.is_null() && unsafe { answer::send_by_kamailio(visit, msg, &told) } > 0;
    if sent {
        answer::note(visit, arrived, &told, class, stage);
    }
    sent
}

/// Pre-script callback for requests (core/script_cb.h): 0 ends the message, 1 goes on. Process: SIP workers.
pub unsafe extern "C" fn on_request(
    msg: *mut sys::sip_msg,
    _flags: c_uint,
    _param: *mut c_void,
) -> c_int {
    guarded("the gate", || {
        hand::end();
        // SAFETY: plain data, filled by the shim.
        let mut view: sys::mg_message_t = unsafe { std::mem::zeroed() };
        // SAFETY: Kamailio passes a live message for the duration of the call.
        let arrived = unsafe {
            sys::mg_message_view(msg, &mut view);
            Arrived::of(&view)
        };
        if !arrived.is_real {
            return GoOn(1);
        }
        count_message();
        if let Some(region) = state::region() {
            follow::look(region);
        }
        // SAFETY: as above.
        if unsafe { drain::answers(msg, arrived.may_reply) } {
            return GoOn(0);
        }
        // SAFETY: as above.
        match unsafe { consider(&arrived, msg, Stage::Request) } {
            Verdict::Pass => GoOn(1),
            Verdict::Answered => GoOn(0),
        }
    })
    .0
}

/// One more message from the network: whoever gets it keeps a ballast from now on.
fn count_message() {
    ballast::take_first();
    if let Some(row) = hooks::own_row() {
        row.sip.messages.add(1);
    }
    hooks::tell_pkg();
}

/// The same callback where the script calls memguard itself (`auto` 0). Process: SIP workers.
pub unsafe extern "C" fn on_request_counted(
    msg: *mut sys::sip_msg,
    _flags: c_uint,
    _param: *mut c_void,
) -> c_int {
    guarded("the count of requests", || {
        // SAFETY: plain data, filled by the shim.
        let mut view: sys::mg_message_t = unsafe { std::mem::zeroed() };
        // SAFETY: Kamailio passes a live message for the duration of the call.
        unsafe { sys::mg_message_view(msg, &mut view) };
        if view.is_real != 0 {
            count_message();
        }
        if let Some(region) = state::region() {
            follow::look(region);
        }
        // SAFETY: as above.
        let is_answered = view.is_real != 0 && unsafe { drain::answers(msg, view.may_reply != 0) };
        GoOn(c_int::from(!is_answered))
    })
    .0
}

/// Pre-script callback of failure routes, which tm also uses when a suspended transaction goes on (tm/t_suspend.c): in
/// an async worker that is the only word of the request. Such a worker lives by its pkg as a SIP worker does.
pub unsafe extern "C" fn on_going_on(
    _msg: *mut sys::sip_msg,
    _flags: c_uint,
    _param: *mut c_void,
) -> c_int {
    guarded("a transaction that goes on", || {
        if processes::is_async_worker() {
            ballast::take_first();
            ballast::make_room();
            let totals = hooks::own_row().map(|row| &row.sip.goes_on);
            if let Some(goes_on) = totals.filter(|goes_on| goes_on.get() == 0) {
                goes_on.set(1);
            }
        }
        GoOn(1)
    })
    .0
}

/// SREV_NET_DGRAM_IN: below 0 consumes the datagram. Process: UDP receivers; threads of them from 6.0 on.
pub unsafe extern "C" fn on_datagram(event: *mut sys::sr_event_param_t) -> c_int {
    guarded("the datagram gate", || {
        let Some(region) = state::region() else {
            return Leave(0);
        };
        follow::look(region);
        // usrloc's lock is recursive by pid, so two threads of one process would both hold it: a receiver's thread
        // cannot ask usrloc, and leaves the datagram to the stage after parsing.
        let may_ask = hooks::is_main_thread() || region.control.usrloc_in_memory.get() == 0;
        let is_idle = region.settings.mode() != Mode::Enforce || !may_ask;
        if is_idle {
            return Leave(0);
        }
        let now = state::coarse_ms();
        if pressure::is_far(region, now) || !pressure::is_felt(region, now) {
            return Leave(0);
        }
        if hooks::is_main_thread() {
            ballast::make_room();
        }
        // SAFETY: plain data, filled by the shim; the event carries the receiver's buffer (core/udp_server.c).
        let mut view: sys::mg_message_t = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let arrived = unsafe {
            sys::mg_datagram_view((*event).data, &mut view);
            Arrived::of(&view)
        };
        // SAFETY: nothing is parsed yet.
        match unsafe { consider(&arrived, ptr::null_mut(), Stage::Datagram) } {
            Verdict::Pass => Leave(0),
            Verdict::Answered => Leave(-1),
        }
    })
    .0
}
