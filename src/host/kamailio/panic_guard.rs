//! The guard around every entry from C: a panic becomes a neutral answer, is counted, and is logged once per process.
//! Forbidden here: anything that can panic itself.

use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::guard::terms::warnings::Warning;
use crate::host::kamailio::{
    log::{Severity, log},
    state,
};

/// What a caller in C gets when the body panicked: the answer that changes nothing.
pub trait Fallback {
    /// The neutral answer.
    fn fallback() -> Self;
}

impl Fallback for () {
    fn fallback() {}
}

/// Answer of a script function or a pre-script callback: 1 goes on (0 would drop the message).
#[repr(transparent)]
pub struct GoOn(pub c_int);
impl Fallback for GoOn {
    fn fallback() -> GoOn {
        GoOn(1)
    }
}

/// Answer of an initialisation function: -1 stops the start.
#[repr(transparent)]
pub struct Init(pub c_int);
impl Fallback for Init {
    fn fallback() -> Init {
        Init(-1)
    }
}

/// Answer of an event callback: 0 leaves the datagram alone, below 0 consumes it.
#[repr(transparent)]
pub struct Leave(pub c_int);
impl Fallback for Leave {
    fn fallback() -> Leave {
        Leave(0)
    }
}

/// Answer of a statistic: 0.
#[repr(transparent)]
pub struct Value(pub std::ffi::c_long);
impl Fallback for Value {
    fn fallback() -> Value {
        Value(0)
    }
}

/// Runs a body that C called.
pub fn guarded<R: Fallback>(place: &'static str, body: impl FnOnce() -> R) -> R {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(answer) => answer,
        Err(_) => {
            failed(place);
            R::fallback()
        }
    }
}

static LOCAL_SAID: AtomicBool = AtomicBool::new(false);

#[cold]
fn failed(place: &'static str) {
    if let Some(region) = state::region() {
        region.control.internal_errors.add(1);
        region.warn(Warning::InternalError, true);
    }
    // ORDERING: Relaxed; a flag of this process's own.
    if !LOCAL_SAID.swap(true, Ordering::Relaxed) {
        log!(
            Severity::Error,
            "internal error in {place}: this call changed nothing; counted in internal_errors"
        );
    }
}

/// What an initialisation function answers; a failure is a sentence in the log of the start.
pub fn said(result: Result<(), String>) -> Init {
    match result {
        Ok(()) => Init(0),
        Err(sentence) => {
            log!(Severity::Error, "{sentence}");
            Init(-1)
        }
    }
}
