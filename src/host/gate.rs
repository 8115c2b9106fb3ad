//! The gate: every REGISTER that arrives is classified, counted, and admitted or answered, before the script and, under
//! pressure, before parsing. Forbidden here: locks (but usrloc's own, asked for unknown bindings only), allocation, logs.

use std::ffi::{c_int, c_long, c_uint, c_void};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use std::cell::OnceCell;

use super::entry::{GoOn, Leave, guarded};
use super::state::{self, Tables};
use super::{ballast, learn};
use super::{hooks, sys};
use crate::guard::admission::{self, Curves, Decision, Pressure};
use crate::guard::aor::{self, Aor, RegistrarRules};
use crate::guard::class::{self, Known};
use crate::guard::level::{headroom_bytes, permyriad};
use crate::guard::params::{Int, Text};
use crate::guard::priority;
use crate::guard::reply;
use crate::guard::sip::{Contact, Contacts, Register, Scanned, scan};
use crate::guard::words::{Class, Mode};
use crate::shared::pending::{Binding, Kind, MAX_BINDINGS, Pending, State};
use crate::shared::refusals::{AorText, Refusal, Stage};
use crate::shared::region::Region;
use crate::shared::rows::Row;

/// A challenge is answered within this time (seconds), or the client starts anew (RFC 3261 17.1.2: 32 s timers).
const CHALLENGE_AGE: u64 = 32;
/// A sample of the machine's memory older than this many intervals (plus a second) does not decide any more.
const STALE_INTERVALS: u64 = 3;

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It was answered and ends here.
    Answered,
}

/// A received message, as the shim shows it.
struct Arrived<'a> {
    text: &'a [u8],
    source: IpAddr,
    source_port: u16,
    is_udp: bool,
    may_reply: bool,
    received: *mut sys::receive_info,
    /// Which message it is, to know it again.
    message: u64,
}

impl Arrived<'_> {
    /// # Safety
    /// The view was filled by the shim for a message that lives as long as the answer.
    unsafe fn of(view: &sys::mg_message_t) -> Arrived<'_> {
        let length = usize::try_from(view.length).unwrap_or(0);
        let text = if view.text.is_null() {
            &[][..]
        } else {
            // SAFETY: the server's receive buffer, `length` bytes (core/receive.c).
            unsafe { std::slice::from_raw_parts(view.text.cast(), length) }
        };
        let source = if view.source_length == 16 {
            IpAddr::V6(Ipv6Addr::from(view.source))
        } else {
            let [a, b, c, d, ..] = view.source;
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        };
        Arrived {
            text,
            source,
            source_port: view.source_port,
            is_udp: view.is_udp != 0,
            may_reply: view.may_reply != 0,
            received: view.received,
            message: view.message,
        }
    }
}

/// Memory as it stands for this worker at this moment.
fn pressure(region: &Region, now_ms: u64) -> Pressure {
    let control = &region.control;
    let shm = hooks::shm_now(control.shm_size.get()).unwrap_or_default();
    let pkg = hooks::pkg_now(control.pkg_size.get()).unwrap_or_default();
    let interval = region.settings.get_u64(Int::SampleInterval);
    let sampled = control.os_time_ms.get();
    let is_fresh = now_ms.saturating_sub(sampled)
        <= interval
            .saturating_mul(STALE_INTERVALS)
            .saturating_add(1000);
    if sampled != 0 && !is_fresh {
        control.stale_decisions.add(1);
    }
    Pressure {
        shm_permyriad: permyriad(shm.real_used, shm.size),
        pkg_permyriad: permyriad(pkg.real_used, pkg.size),
        os_permyriad: (sampled != 0 && is_fresh).then(|| control.os_permyriad.get() as u32),
        shm_free_bytes: headroom_bytes(shm.size, shm.real_used),
        pkg_free_bytes: headroom_bytes(pkg.size, pkg.real_used),
        registration_cost_bytes: control.registration_cost.get(),
        message_need_bytes: 0,
        operator_shed: control.shed_until_ms.get() > now_ms,
        ballast_released: ballast::is_released(),
    }
}

/// Whether class `new` or `returning` could be refused at this moment; the datagram stage is idle while not.
fn is_pressed(region: &Region, now_ms: u64) -> bool {
    let curves = Curves::by(|param| region.settings.get(param));
    admission::share_of(Class::New, &pressure(region, now_ms), &curves).0 > 0
}

/// One REGISTER on its way through the gate.
struct Visit<'a> {
    region: &'a Region,
    tables: &'static Tables,
    row: &'a Row,
    register: &'a Register<'a>,
    aor: Aor<'a>,
    aor_fp: u64,
    call_id_fp: u64,
    now_ms: u64,
    /// Numbers of the first contacts, made when the first is asked for.
    primaries: OnceCell<[u64; MAX_BINDINGS]>,
    /// The end of the AoR as the table knew it on arrival.
    aor_end: OnceCell<Option<u64>>,
}

impl Visit<'_> {
    fn now_s(&self) -> u64 {
        self.now_ms / 1000
    }

    /// What the table knows, and the local usrloc where the table does not.
    fn known(&self) -> Known {
        let now = self.now_s();
        self.primaries();
        let ended = self.aor_end();
        let has_live = ended.is_some_and(|end| end > now);
        let mut known = Known {
            all_bindings: has_live
                && self.all_adding(|key| self.tables.bindings.get(key, now, 0).is_some()),
            aor: ended.is_some(),
            unsure: false,
        };
        if known.all_bindings {
            return known;
        }
        if self.region.control.usrloc_in_memory.get() != 0 {
            let local = self.ask_usrloc();
            known.all_bindings |= local.all_bindings;
            known.aor |= local.aor;
        } else {
            known.unsure = is_unsure(self.region, self.tables, now);
        }
        known
    }

    fn aor_end(&self) -> Option<u64> {
        *self.aor_end.get_or_init(|| {
            let memory = self.region.settings.get_u64(Int::AorMemory);
            let memory = u32::try_from(memory).unwrap_or(u32::MAX);
            self.tables.aors.get(self.aor_fp, self.now_s(), memory)
        })
    }

    /// Numbers of the contacts, as many as a registration in flight remembers.
    fn primaries(&self) -> &[u64; MAX_BINDINGS] {
        self.primaries.get_or_init(|| {
            let mut numbers = [0; MAX_BINDINGS];
            for (number, contact) in numbers.iter_mut().zip(self.register.contacts.kept()) {
                *number = self.primary(contact);
                self.tables.bindings.prefetch(*number);
            }
            numbers
        })
    }

    fn primary(&self, contact: &Contact<'_>) -> u64 {
        aor::binding_by_instance(&self.tables.key, self.aor_fp, contact)
            .unwrap_or_else(|| self.by_uri(contact))
    }

    /// Whether every contact that asks for a binding has a fingerprint that passes.
    fn all_adding(&self, is_known: impl Fn(u64) -> bool) -> bool {
        let register = self.register;
        let mut contacts = register.contacts.kept().iter().enumerate();
        contacts.all(|(place, contact)| {
            if Contacts::expires_of(contact, register.expires).is_zero() {
                return true;
            }
            let primary = self.primaries().get(place).copied();
            is_known(primary.unwrap_or_else(|| self.primary(contact)))
                || contact.instance.is_some() && is_known(self.by_uri(contact))
        })
    }

    /// Looks the AoR up in the local usrloc, contact by contact.
    fn ask_usrloc(&self) -> Known {
        let Some(registrar) = state::registrar() else {
            return Known::default();
        };
        let rules = RegistrarRules {
            use_domain: registrar.use_domain,
            case_sensitive: registrar.case_sensitive,
            realm_prefix: &registrar.realm_prefix,
        };
        let mut buffer = [0u8; 512];
        let mut question = Question {
            visit: self,
            now: self.now_s(),
            matched: 0,
            has_live: false,
        };
        if let Some(text) = self.aor.registrar_text(&rules, &mut buffer) {
            for table in &registrar.tables {
                // SAFETY: both texts and the closure live for the call; usrloc calls back before it returns.
                unsafe {
                    sys::mg_usrloc_contacts(
                        table.as_ptr(),
                        text.as_ptr().cast(),
                        text.len() as c_int,
                        Some(on_contact),
                        (&raw mut question).cast(),
                    );
                }
            }
        }
        let wanted = self
            .register
            .contacts
            .kept_adding(self.register.expires)
            .count();
        let all = wanted < 64 && question.matched.count_ones() as usize == wanted;
        Known {
            all_bindings: all && question.has_live,
            aor: question.has_live,
            unsure: false,
        }
    }

    /// The number of a binding by its contact URI alone.
    fn by_uri(&self, contact: &Contact<'_>) -> u64 {
        aor::binding_by_uri(&self.tables.key, self.aor_fp, contact)
    }

    fn is_followup(&self) -> bool {
        self.register.has_credentials
            && self
                .tables
                .in_flight
                .find(self.call_id_fp, self.now_s(), CHALLENGE_AGE)
                .is_some_and(|p| p.state == State::Challenged && p.aor_fp == self.aor_fp)
    }

    fn is_priority(&self, source: IpAddr) -> bool {
        let mut user = [0u8; priority::MAX_TEXT];
        let length = priority::canonical_user(self.aor.user(), &mut user).unwrap_or(0);
        let user = user.get(..length).unwrap_or_default();
        priority::is_priority(&self.tables.priority, user, self.aor.host(), Some(source))
    }

    fn decide(&self, class: Class) -> Decision {
        if admission::is_never_refused(class) {
            return Decision::Admit;
        }
        let region = self.region;
        let point = aor::aor_point(&self.tables.key, region.control.salt.get(), self.aor_fp);
        let curves = Curves::by(|param| region.settings.get(param));
        let pressure = pressure(region, self.now_ms);
        admission::decide(class, point, &pressure, &curves, region.settings.mode())
    }

    /// Remembers an admitted registration until its final reply passes.
    fn note_admitted(&self, class: Class, message: u64) {
        let register = self.register;
        let mut pending = Pending {
            call_id_fp: self.call_id_fp,
            cseq: register.cseq_number,
            time_s: self.now_s(),
            state: State::Admitted,
            kind: match class::request(register) {
                class::Request::Bind => Kind::Add,
                class::Request::Remove if register.contacts.star => Kind::RemoveAll,
                _ => Kind::Remove,
            },
            aor_fp: self.aor_fp,
            count: 0,
            bindings: [Binding::default(); MAX_BINDINGS],
        };
        let contacts = register.contacts.kept();
        let places = pending.bindings.iter_mut().zip(self.primaries());
        for ((slot, fp), contact) in places.zip(contacts) {
            let is_removed = Contacts::expires_of(contact, register.expires).is_zero();
            *slot = Binding {
                fp: *fp,
                is_removed,
            };
            pending.count += 1;
        }
        self.tables.in_flight.note(&pending);
        let names_all = register.contacts.total == u32::from(pending.count);
        let aor_end = match names_all {
            true => self.aor_end().unwrap_or(0),
            false => learn::NOT_COMPARABLE,
        };
        learn::begin(pending, class, message, aor_end);
    }
}

/// While the table may have forgotten: entries were pushed out, or the start is less than one longest Expires ago.
pub fn is_unsure(region: &Region, tables: &Tables, now_s: u64) -> bool {
    let start = region.control.start_ms.get() / 1000;
    now_s < start.saturating_add(region.control.longest_expires.get())
        || tables.bindings.forgotten_until() > now_s
        || tables.aors.forgotten_until() > now_s
}

/// A question to usrloc on its way through the callback.
struct Question<'a> {
    visit: &'a Visit<'a>,
    now: u64,
    /// Bit per adding contact of the REGISTER that has a live binding.
    matched: u64,
    has_live: bool,
}

/// One contact of the record that was asked for; runs under usrloc's lock: compares and returns.
unsafe extern "C" fn on_contact(
    closure: *mut c_void,
    uri: *const std::ffi::c_char,
    uri_length: c_int,
    instance: *const std::ffi::c_char,
    instance_length: c_int,
    expires: c_long,
) -> c_int {
    // SAFETY: the Question of ask_usrloc, alive during the call.
    let question = unsafe { &mut *closure.cast::<Question<'_>>() };
    // usrloc: 0 is permanent (ucontact.h VALID_CONTACT)
    if expires != 0 && expires as u64 <= question.now {
        return 1;
    }
    question.has_live = true;
    // SAFETY: strings of the record, under its lock.
    let (uri, instance) = unsafe { (bytes(uri, uri_length), bytes(instance, instance_length)) };
    let register = question.visit.register;
    for (index, contact) in register.contacts.kept_adding(register.expires).enumerate() {
        let same_instance = contact
            .instance
            .is_some_and(|i| !i.is_empty() && same_instance(i, instance));
        let same_uri =
            || question.visit.by_uri(contact) == question.visit.by_uri(&Contact::of_uri(uri));
        if index < 64 && (same_instance || same_uri()) {
            question.matched |= 1 << index;
        }
    }
    1
}

/// usrloc keeps the instance with or without quotes by version; compare what is inside.
fn same_instance(ours: &[u8], theirs: &[u8]) -> bool {
    let inner = |text: &[u8]| -> (usize, usize) {
        let quoted = text.len() >= 2 && text.starts_with(b"\"") && text.ends_with(b"\"");
        if quoted {
            (1, text.len() - 1)
        } else {
            (0, text.len())
        }
    };
    let ((a, b), (c, d)) = (inner(ours), inner(theirs));
    !theirs.is_empty() && ours.get(a..b) == theirs.get(c..d)
}

/// Bytes of a Kamailio string.
///
/// # Safety
/// `length` bytes are readable at `start`, or it is null.
pub unsafe fn bytes<'a>(start: *const std::ffi::c_char, length: c_int) -> &'a [u8] {
    match usize::try_from(length) {
        // SAFETY: the caller's promise.
        Ok(length) if !start.is_null() => unsafe {
            std::slice::from_raw_parts(start.cast(), length)
        },
        _ => &[],
    }
}

/// Classifies, decides, counts and, if it must be, answers.
fn consider(arrived: &Arrived<'_>, stage: Stage) -> Verdict {
    let Some(region) = state::region() else {
        return Verdict::Pass;
    };
    let (Some(tables), Some(row)) = (state::tables(), hooks::own_row()) else {
        return Verdict::Pass;
    };
    let register = match scan(arrived.text) {
        Scanned::Register(register) => register,
        Scanned::NotUnderstood(_) if stage == Stage::Request => {
            row.sip
                .not_understood
                .add(u64::from(is_register(arrived.text)));
            return Verdict::Pass;
        }
        _ => return Verdict::Pass,
    };
    let Some(aor) = Aor::parse(register.to_uri) else {
        row.sip
            .not_understood
            .add(u64::from(stage == Stage::Request));
        return Verdict::Pass;
    };
    // The tables are larger than the caches: what will be looked at is fetched while the rest is computed.
    let aor_fp = aor.fingerprint(&tables.key);
    tables.aors.prefetch(aor_fp);
    let call_id_fp = aor::call_id_fingerprint(&tables.key, register.call_id);
    if stage == Stage::Request {
        tables.in_flight.prefetch(call_id_fp);
    }
    let visit = Visit {
        region,
        tables,
        row,
        aor_fp,
        call_id_fp,
        aor,
        register: &register,
        now_ms: state::coarse_ms(),
        primaries: OnceCell::new(),
        aor_end: OnceCell::new(),
    };
    let class = class::classify(
        &register,
        || visit.known(),
        visit.is_followup(),
        || visit.is_priority(arrived.source),
    );
    let decision = if arrived.may_reply {
        visit.decide(class)
    } else {
        Decision::Admit
    };
    if decision == Decision::Refuse && refuse(&visit, arrived, class, stage) {
        visit.row.sip.received.count(class);
        visit.row.sip.rejected.count(class);
        return Verdict::Answered;
    }
    if stage == Stage::Request {
        visit.row.sip.received.count(class);
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

/// Whether the message begins like a REGISTER, for the count of what was not understood.
fn is_register(text: &[u8]) -> bool {
    text.trim_ascii_start().starts_with(b"REGISTER ")
}

/// Builds and sends the refusal; false when either could not be done.
fn refuse(visit: &Visit<'_>, arrived: &Arrived<'_>, class: Class, stage: Stage) -> bool {
    let settings = &visit.region.settings;
    let value = |param| u32::try_from(settings.get_u64(param)).unwrap_or(u32::MAX);
    let code = admission::reply_code(
        visit.register.via_count,
        value(Int::ReplyCode),
        value(Int::ProxiedReplyCode),
    );
    // The same for a retransmission, another for the next attempt.
    let random = mixed(visit.call_id_fp ^ u64::from(visit.register.cseq_number).rotate_left(32));
    let retry_after =
        admission::retry_after(random, value(Int::RetryAfterMin), value(Int::RetryAfterMax));
    let mut source = [0u8; 48];
    let refusal = reply::Refusal {
        code: code as u16,
        reason: visit.tables.texts.get(Text::ReplyReason),
        retry_after,
        tag: mixed(random),
        source: address_text(arrived.source, &mut source),
        source_port: arrived.source_port,
    };
    let mut buffer = [0u8; reply::MAX_REPLY];
    let Some(length) = reply::build(visit.register, &refusal, &mut buffer) else {
        return false;
    };
    let port = match arrived.is_udp {
        true => reply::via_port(visit.register.top_via, refusal.source).unwrap_or(0),
        false => 0,
    };
    // SAFETY: the receive info of the message in hand; the buffer holds `length` bytes.
    let sent = unsafe {
        sys::mg_send_reply(
            arrived.received,
            c_int::from(port),
            buffer.as_mut_ptr().cast(),
            length as c_int,
        )
    };
    if sent < 0 {
        visit.row.sip.reply_errors.add(1);
        return false;
    }
    let mut aor_text = [0u8; 64];
    let source_ip = match arrived.source {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    visit.region.refusals.push(&Refusal {
        time_ms: visit.now_ms,
        aor: AorText::new(visit.aor.display(&mut aor_text).as_bytes()),
        source_ip,
        source_port: arrived.source_port,
        class,
        stage,
        code: code as u16,
        retry_after,
        position: 0,
    });
    true
}

/// splitmix64's finaliser: every bit of the answer depends on every bit of the number.
fn mixed(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// An address as text in a buffer of ours.
fn address_text(address: IpAddr, buffer: &mut [u8; 48]) -> &str {
    use std::io::Write;
    let length = {
        let mut rest: &mut [u8] = buffer;
        let room = rest.len();
        let _ = write!(rest, "{address}"); // 45 bytes at most
        room - rest.len()
    };
    buffer
        .get(..length)
        .and_then(|text| std::str::from_utf8(text).ok())
        .unwrap_or("")
}

/// Pre-script callback for requests (core/script_cb.h): 0 ends the message, 1 goes on. Process: SIP workers.
pub unsafe extern "C" fn on_request(
    msg: *mut sys::sip_msg,
    _flags: c_uint,
    _param: *mut c_void,
) -> c_int {
    guarded("the gate", || {
        learn::end();
        ballast::take_first();
        if let Some(row) = hooks::own_row() {
            row.sip.messages.add(1);
        }
        // SAFETY: plain data, filled by the shim.
        let mut view: sys::mg_message_t = unsafe { std::mem::zeroed() };
        // SAFETY: Kamailio passes a live message for the duration of the call.
        let arrived = unsafe {
            sys::mg_message_view(msg, &mut view);
            Arrived::of(&view)
        };
        match consider(&arrived, Stage::Request) {
            Verdict::Pass => GoOn(1),
            Verdict::Answered => GoOn(0),
        }
    })
    .0
}

/// SREV_NET_DGRAM_IN: below 0 consumes the datagram. Process: UDP receivers; threads of them from 6.0 on.
pub unsafe extern "C" fn on_datagram(event: *mut sys::sr_event_param_t) -> c_int {
    guarded("the datagram gate", || {
        let Some(region) = state::region() else {
            return Leave(0);
        };
        if region.settings.mode() != Mode::Enforce || !is_pressed(region, state::coarse_ms()) {
            return Leave(0);
        }
        // SAFETY: plain data, filled by the shim; the event carries the receiver's buffer (core/udp_server.c).
        let mut view: sys::mg_message_t = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let arrived = unsafe {
            sys::mg_datagram_view((*event).data, &mut view);
            Arrived::of(&view)
        };
        match consider(&arrived, Stage::Datagram) {
            Verdict::Pass => Leave(0),
            Verdict::Answered => Leave(-1),
        }
    })
    .0
}
