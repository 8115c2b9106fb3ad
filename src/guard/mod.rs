//! Pure decisions: configuration, levels, classes, admission, SIP text. Time and randomness come as arguments.
//! Forbidden here: unsafe, atomics, clocks, system calls, anything of Kamailio.
#![forbid(unsafe_code)]

pub mod aor;
pub mod class;
pub mod params;
pub mod sip;
pub mod words;
