//! What happens to a SIP message: callbacks, the gate, the answer, and what is learned from it.
//! Forbidden here: reports and commands; locks (but usrloc's own), allocation, logs.

pub mod answer;
pub mod arrived;
pub mod ballast;
pub mod gate;
pub mod granted;
pub mod hand;
pub mod learn;
pub mod loaded;
pub mod pressure;
pub mod reading;
pub mod usrloc;
pub mod visit;
