//! What an operator may say: parameters, priority lists, and the arguments of commands.
//! Forbidden here: using what was said.

pub mod addresses;
pub mod filters;
pub mod params;
pub mod priority;
pub mod texts;
