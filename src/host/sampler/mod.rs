//! The sampling process: its loop, levels, rates, growth, forecasts, history, the machine's memory.
//! Forbidden here: anything that a SIP process runs.

pub mod books;
pub mod forecasts;
pub mod growth;
pub mod machine;
pub mod memory;
pub mod paces;
pub mod past;
pub mod supervise;
pub mod ticks;
