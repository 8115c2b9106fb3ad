//! Kamailio from Rust: bindings, log, the panic guard, processes, and where the shared things are.
//! Forbidden here: decisions, SIP, counting of memory; every other room stands on this one.

pub mod config_files;
pub mod file_limit;
pub mod follow;
pub mod listen;
pub mod log;
pub mod own_memory;
pub mod panic_guard;
pub mod processes;
pub mod regular_file;
pub mod replace;
pub mod state;
pub mod strings;
pub mod sys;
