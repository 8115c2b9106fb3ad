//! Pure decisions: configuration, levels, classes, admission, SIP text. Time and randomness come as arguments.
//! Forbidden here: unsafe, atomics, clocks, system calls, anything of Kamailio.
#![forbid(unsafe_code)]

pub mod config;
pub mod decide;
pub mod foresee;
pub mod formats;
pub mod machine;
pub mod net;
pub mod sip;
pub mod terms;
