//! What every process allocates and frees, and what it holds outside the pools.
//! Forbidden here: SIP and reports; in the wrappers: locks, system calls, allocation, logs.

pub mod hooks;
pub mod outside;
pub mod python;
pub mod recent_paths;
pub mod stack;
