//! Pure decisions: configuration, levels, classes, admission, SIP text. Time and randomness come as arguments.
//! Forbidden here: unsafe, atomics, clocks, system calls, anything of Kamailio.
#![forbid(unsafe_code)]

pub mod admission;
<<<<<<< HEAD
pub mod aor;
pub mod class;
=======
pub mod cgroup;
>>>>>>> w/decide
pub mod filters;
pub mod level;
pub mod osmem;
pub mod params;
pub mod priority;
pub mod rates;
pub mod reply;
pub mod sip;
pub mod text;
pub mod warnings;
pub mod words;
