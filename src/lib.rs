//! memguard: a Kamailio module that counts every worker's memory and refuses new registrations in time.
//! Three layers, one direction: `host` may use `shared` and `guard`, `shared` may use `guard`, never back.
//!
//! `unsafe` lives in `shared` (the mapping) and in `host` (the C boundary) only; `guard` forbids it.
//!
//! The module is built without the feature `surface`: nothing is public then, and the compiler reports what nobody uses.

#[cfg(feature = "surface")]
pub mod fit;
#[cfg(not(feature = "surface"))]
#[cfg_attr(mutants, mutants::skip)] // the same files as below: once is enough for ./dev mutants
mod guard;
#[cfg(feature = "surface")]
pub mod guard;
#[cfg(feature = "host")]
mod host;
#[cfg(not(feature = "surface"))]
#[cfg_attr(mutants, mutants::skip)]
mod shared;
#[cfg(feature = "surface")]
pub mod shared;
