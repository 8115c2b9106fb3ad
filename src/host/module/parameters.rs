//! Parameters: modparam setters (at parse time) and text values; changes at run time are `follow`'s.
//! Forbidden here: bounds and sentences (those are guard::params'); reading a cfg handle on any SIP path.

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::ptr;
use std::sync::Mutex;

use crate::guard::config::texts::Texts;
use crate::guard::config::{
    addresses::parse_address,
    params::{self, INT_PARAMS, Int, Kind, Text},
    priority::{self, List},
};
use crate::guard::formats::http;
use crate::host::kamailio::panic_guard::said;
use crate::host::kamailio::strings;
use crate::host::kamailio::{panic_guard::guarded, state, sys};
use crate::host::memory::hooks;
use crate::host::reports::profile;

/// Values gathered while the configuration is parsed; moved out in `mod_init`. One thread, before any fork.
static GATHERED: Mutex<Option<Texts>> = Mutex::new(None);

/// Takes the gathered text values, once.
pub fn take_texts() -> Texts {
    GATHERED
        .lock()
        .ok()
        .and_then(|mut g| g.take())
        .unwrap_or_default()
}

/// The value of a modparam call as text: numbers come as numbers in the pointer, words as C strings.
///
/// # Safety
/// `value` is what Kamailio passes for `kind` (core/modparam.c set_mod_param_regex).
unsafe fn as_text(kind: c_uint, value: *mut c_void) -> String {
    if kind & sys::PARAM_INT != 0 {
        return (value as isize as c_int).to_string();
    }
    if value.is_null() {
        return String::new();
    }
    // SAFETY: a zero-terminated string for PARAM_STRING.
    unsafe { CStr::from_ptr(value.cast()) }
        .to_string_lossy()
        .into_owned()
}

/// Setter of the numeric parameter number `I`. Runs at its line of the configuration; -1 makes the parser name it.
unsafe extern "C" fn set_int<const I: usize>(kind: c_uint, value: *mut c_void) -> c_int {
    guarded("a parameter", || {
        // SAFETY: as Kamailio calls it.
        let text = unsafe { as_text(kind, value) };
        hooks::hook_shm(); // the first modparam has made shm (core/cfg.y)
        said(apply_int(I, &text))
    })
    .0
}

fn apply_int(index: usize, text: &str) -> Result<(), String> {
    let param = *Int::ALL.get(index).ok_or("unknown parameter")?;
    let value = params::parse_int(param, text)?;
    if let Some(region) = state::region() {
        region.settings.set(param, value);
    }
    Ok(())
}

/// Setter of the text parameter number `I`.
unsafe extern "C" fn set_text<const I: usize>(kind: c_uint, value: *mut c_void) -> c_int {
    guarded("a parameter", || {
        // SAFETY: as Kamailio calls it.
        let text = unsafe { as_text(kind, value) };
        hooks::hook_shm();
        said(apply_text(I, text))
    })
    .0
}

fn apply_text(index: usize, value: String) -> Result<(), String> {
    let text = *Text::ALL.get(index).ok_or("unknown parameter")?;
    let name = text.param().name;
    match text.param().kind {
        Kind::Text { max_len, .. } if value.len() > max_len => {
            return Err(format!(
                "parameter {name} is {} bytes long, but accepts at most {max_len}",
                value.len()
            ));
        }
        Kind::Text { .. } if value.chars().any(char::is_control) => {
            return Err(format!(
                "parameter {name} contains control characters, which it does not accept"
            ));
        }
        _ => (),
    }
    match text {
        Text::PriorityAor => priority::parse_aor(&value).map(|_| ())?,
        Text::PriorityDomain => priority::parse_domain(&value).map(|_| ())?,
        Text::PrioritySource => priority::parse_source(&value).map(|_| ())?,
        Text::SilentSource => silent(&value).map(|_| ())?,
        Text::Listen => http::parse_listen(&value).map(|_| ())?,
        Text::AddressExpect | Text::AddressFloating => parse_address(name, &value).map(|_| ())?,
        Text::ProfileDir => profile::check_folder(&value)?,
        _ => (),
    }
    let mut gathered = GATHERED
        .lock()
        .map_err(|_| "internal error while reading parameters")?;
    let values = gathered
        .get_or_insert_default()
        .given(index)
        .ok_or("unknown parameter")?;
    match text.param().kind {
        Kind::List { max_items } if values.len() >= max_items => {
            return Err(format!(
                "parameter {name} is given more than {max_items} times"
            ));
        }
        _ => values.push(value),
    }
    Ok(())
}

/// The entries of the three priority lists. Every value was checked when it was read.
pub fn priority_entries(texts: &Texts) -> Vec<priority::Entry> {
    let lists = [
        (List::Aor, Text::PriorityAor),
        (List::Domain, Text::PriorityDomain),
        (List::Source, Text::PrioritySource),
    ];
    let values = lists.into_iter().flat_map(|(list, text)| {
        let values = texts.list(text).iter();
        values.filter_map(move |value| list.entry(value).ok())
    });
    values.collect()
}

/// The networks of `silent_source`. Every value was checked when it was read.
pub fn silent_entries(texts: &Texts) -> Vec<priority::Entry> {
    let values = texts.list(Text::SilentSource).iter();
    values.filter_map(|value| silent(value).ok()).collect()
}

fn silent(value: &str) -> Result<priority::Entry, String> {
    priority::parse_source(value).map_err(|e| e.replace("priority_source", "silent_source"))
}

/// A setter for each index, chosen at compile time: Kamailio does not tell a setter which parameter it is for.
macro_rules! setters {
    ($set:ident: $($i:literal)*) => { [$($set::<$i> as unsafe extern "C" fn(c_uint, *mut c_void) -> c_int),*] };
}

const INT_SETTERS: [unsafe extern "C" fn(c_uint, *mut c_void) -> c_int; Int::COUNT] = setters!(set_int: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36);
const TEXT_SETTERS: [unsafe extern "C" fn(c_uint, *mut c_void) -> c_int; Text::COUNT] =
    setters!(set_text: 0 1 2 3 4 5 6 7 8 9 10 11 12);

/// The table of parameters for `exports`; each name twice, for numbers and for words. Lives for ever.
pub fn param_table() -> *mut sys::param_export_t {
    let mut table = Vec::new();
    let ints = INT_PARAMS.iter().zip(INT_SETTERS);
    let texts = params::TEXT_PARAMS.iter().zip(TEXT_SETTERS);
    for (param, setter) in ints.chain(texts) {
        let name = strings::leak(param.name);
        for kind in [sys::PARAM_INT, sys::PARAM_STRING] {
            table.push(sys::param_export_t {
                name,
                type_: kind | USE_FUNC,
                param_pointer: setter as *mut c_void,
            });
        }
    }
    table.push(sys::param_export_t {
        name: ptr::null_mut(),
        type_: 0,
        param_pointer: ptr::null_mut(),
    });
    table.leak().as_mut_ptr()
}

/// PARAM_USE_FUNC is `1U << (8*sizeof(int)-1)` (core/sr_module.h), which bindgen does not evaluate.
const USE_FUNC: c_uint = 1 << 31;
