//! The RPC commands as Kamailio sees them: table, arguments, and answers written through the shim.
//! Forbidden here: what the commands answer (`reports`) and do (`commands`). Process: RPC processes, or a SIP worker
//! under xhttp; never a lock, never the pools.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr;

use crate::guard::formats::report::{self, Answer, Fields, Node};
use crate::host::commands::{COMMANDS, json};
use crate::host::kamailio::strings;
use crate::host::kamailio::{follow, own_memory, panic_guard::guarded, state, sys};

/// More words than any command takes.
const MAX_WORDS: usize = 16;

/// Entry of the command number `I`.
unsafe extern "C" fn run<const I: usize>(rpc: *mut sys::rpc_t, ctx: *mut c_void) {
    guarded("an RPC command", || {
        let Some(command) = COMMANDS.get(I) else {
            return;
        };
        let answered = own_memory::scope(|| {
            // SAFETY: Kamailio passes its own table and context for the duration of the call.
            let words = unsafe { arguments(rpc, ctx) };
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            if let Some(region) = state::region() {
                follow::look(region);
            }
            // SAFETY: as above.
            unsafe {
                match (command.run)(&words) {
                    Ok(answer) => {
                        own_memory::need_in_pieces(2 * json::weight(&answer)); // from here on nothing unwinds
                        send(rpc, ctx, &answer)
                    }
                    Err(fault) => {
                        let text = c_text(&fault.sentence);
                        sys::mg_rpc_fault(rpc, ctx, fault.code, text.as_ptr());
                    }
                }
            }
        });
        if answered.is_err() {
            // SAFETY: as above; nothing was answered before: no part of sending unwinds.
            unsafe { sys::mg_rpc_fault(rpc, ctx, NO_MEMORY, NO_MEMORY_TEXT.as_ptr()) };
        }
    });
}

/// Code of the fault when memory outside the pools is short.
const NO_MEMORY: i32 = 500;
/// The same as [`own_memory::SENTENCE`] for C.
const NO_MEMORY_TEXT: &CStr = c"there is not enough memory outside Kamailio's pools for this answer (ulimit -v, LimitAS, the machine's overcommit limit); try again, and raise that limit";

/// The arguments as words; numbers are converted by Kamailio.
///
/// # Safety
/// A live RPC table and context.
unsafe fn arguments(rpc: *mut sys::rpc_t, ctx: *mut c_void) -> Vec<String> {
    let mut words = Vec::new();
    while words.len() < MAX_WORDS {
        let mut text: *mut c_char = ptr::null_mut();
        // SAFETY: the caller's promise; the text lives until the next scan.
        let word = unsafe {
            if sys::mg_rpc_argument(rpc, ctx, &mut text) == 0 || text.is_null() {
                break;
            }
            CStr::from_ptr(text).to_string_lossy().into_owned()
        };
        words.push(unwrapped(word));
    }
    words
}

/// jsonrpcs converts a negative number through an unsigned one (jsonrpcs_mod.c jsonrpc_scan): take it back.
fn unwrapped(word: String) -> String {
    match word.parse::<u64>() {
        Ok(number) if number > i64::MAX as u64 => (number as i64).to_string(),
        _ => word,
    }
}

/// Text for C; a NUL inside ends it.
fn c_text(text: &str) -> CString {
    let end = text.find('\0').unwrap_or(text.len());
    CString::new(text.get(..end).unwrap_or("")).unwrap_or_default()
}

/// # Safety
/// A live RPC table and context.
unsafe fn send(rpc: *mut sys::rpc_t, ctx: *mut c_void, answer: &Answer) {
    // SAFETY: the caller's promise; every text outlives its call.
    unsafe {
        match answer {
            Answer::Text(text) => {
                sys::mg_rpc_text(rpc, ctx, c_text(text).as_ptr());
            }
            Answer::One(fields) => send_row(rpc, ctx, fields),
            Answer::Many(rows) => {
                for row in &report::cut(rows.clone()) {
                    send_row(rpc, ctx, row);
                }
            }
        }
    }
}

/// # Safety
/// A live RPC table and context.
unsafe fn send_row(rpc: *mut sys::rpc_t, ctx: *mut c_void, fields: &Fields) {
    let mut at: *mut c_void = ptr::null_mut();
    // SAFETY: the caller's promise.
    unsafe {
        if sys::mg_rpc_struct(rpc, ctx, &mut at) >= 0 && !at.is_null() {
            fill(rpc, at, fields);
        }
    }
}

/// # Safety
/// A live RPC table and a struct of it.
unsafe fn fill(rpc: *mut sys::rpc_t, at: *mut c_void, fields: &Fields) {
    for (name, node) in fields {
        let name = c_text(name);
        let name = name.as_ptr();
        // SAFETY: the caller's promise; names and texts outlive their calls.
        unsafe {
            match node {
                Node::Text(text) => {
                    sys::mg_rpc_put_text(rpc, at, name, c_text(text).as_ptr());
                }
                Node::Int(number) => {
                    sys::mg_rpc_put_int(rpc, at, name, *number);
                }
                Node::Count(number) => {
                    sys::mg_rpc_put_count(rpc, at, name, *number);
                }
                Node::Signed(number) => {
                    sys::mg_rpc_put_signed(rpc, at, name, *number);
                }
                Node::Real(number) => {
                    sys::mg_rpc_put_float(rpc, at, name, *number);
                }
                Node::Texts(texts) => {
                    let mut list: *mut c_void = ptr::null_mut();
                    if sys::mg_rpc_put_list(rpc, at, name, &mut list) >= 0 && !list.is_null() {
                        for text in texts {
                            sys::mg_rpc_list_text(rpc, list, c_text(text).as_ptr());
                        }
                    }
                }
                Node::Counts(numbers) => {
                    let mut list: *mut c_void = ptr::null_mut();
                    if sys::mg_rpc_put_list(rpc, at, name, &mut list) >= 0 && !list.is_null() {
                        for number in numbers {
                            sys::mg_rpc_list_count(rpc, list, *number);
                        }
                    }
                }
                Node::Reals(numbers) => {
                    let mut list: *mut c_void = ptr::null_mut();
                    if sys::mg_rpc_put_list(rpc, at, name, &mut list) >= 0 && !list.is_null() {
                        for number in numbers {
                            sys::mg_rpc_list_float(rpc, list, *number);
                        }
                    }
                }
                Node::List(rows) => {
                    let mut list: *mut c_void = ptr::null_mut();
                    if sys::mg_rpc_put_list(rpc, at, name, &mut list) < 0 || list.is_null() {
                        continue;
                    }
                    for row in rows {
                        let mut inner: *mut c_void = ptr::null_mut();
                        if sys::mg_rpc_list_struct(rpc, list, &mut inner) >= 0 && !inner.is_null() {
                            fill(rpc, inner, row);
                        }
                    }
                }
            }
        }
    }
}

type Handler = unsafe extern "C" fn(*mut sys::rpc_t, *mut c_void);

macro_rules! handlers {
    ($($i:literal)*) => { [$(run::<$i> as Handler),*] };
}
const HANDLERS: [Handler; COMMANDS.len()] =
    handlers!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30);

/// The table for `exports`. Lives for ever; the core reads it in place.
pub fn table() -> *mut sys::rpc_export_t {
    // SAFETY: a constant of the shim.
    let returns_list = unsafe { sys::mg_rpc_returns_list() };
    let mut table: Vec<sys::rpc_export_t> = COMMANDS
        .iter()
        .zip(HANDLERS)
        .map(|(command, handler)| sys::rpc_export_t {
            name: strings::leak(command.name),
            function: Some(handler),
            // rpc_lookup.c reads two entries without asking.
            doc_str: vec![strings::leak(command.help).cast_const(), ptr::null()]
                .leak()
                .as_mut_ptr(),
            flags: if command.is_list { returns_list } else { 0 },
        })
        .collect();
    table.push(sys::rpc_export_t {
        name: ptr::null(),
        function: None,
        doc_str: ptr::null_mut(),
        flags: 0,
    });
    table.leak().as_mut_ptr()
}
