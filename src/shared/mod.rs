//! What lives in memguard's own shared mapping: rows per process, tables, rings, published figures.
//! Forbidden here: anything of Kamailio, locks, and states that a killed process could leave unreadable.

pub mod rows;
