//! What grows, why, and when it ends.
//! Forbidden here: refusing; a forecast decides about no REGISTER.

pub mod cause;
pub mod cost;
pub mod focus;
pub mod forecast;
pub mod growth;
pub mod pace;
pub mod restart;
pub mod sampling;
pub mod told;
pub mod trend;
pub mod week;
