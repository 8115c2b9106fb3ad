//! What is known of phones: bindings, AoRs, registrations in flight, refusals, priority lists.
//! Forbidden here: names in clear but where an operator asked for them.

pub mod fingerprints;
pub mod learned;
pub mod pending;
pub mod priorities;
pub mod refusals;
pub mod sources;
