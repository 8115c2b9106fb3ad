//! memguard: a Kamailio module that counts every worker's memory and refuses new registrations in time.
//! Three layers, one direction: `host` may use `shared` and `guard`, `shared` may use `guard`, never back.
//!
//! `unsafe` lives in `shared` (the mapping) and in `host` (the C boundary) only; `guard` forbids it.

pub mod fit;
pub mod guard;
#[cfg(feature = "host")]
mod host;
pub mod shared;
