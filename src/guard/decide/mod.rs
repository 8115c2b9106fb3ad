//! Who is admitted, who is refused and when to come back, and which level that is.
//! Forbidden here: SIP text and the future.

pub mod admission;
pub mod class;
pub mod level;
pub mod queue;
pub mod rates;
pub mod track;
