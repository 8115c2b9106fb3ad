//! What is counted: rows per process, places, sampled contexts, marks, memory outside.
//! Forbidden here: SIP.

pub mod contexts;
pub mod marks;
pub mod outside;
pub mod rows;
pub mod sites;
