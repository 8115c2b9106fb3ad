//! What the sampling process found: figures, forecasts, history, events.
//! Forbidden here: writers other than the sampling process.

pub mod addresses;
pub mod comeback;
pub mod events;
pub mod forecasts;
pub mod history;
pub mod hours;
pub mod restart;
pub mod sampled;
pub mod sampling;
