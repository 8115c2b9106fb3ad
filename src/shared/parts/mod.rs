//! The parts that shared things are made of: the mapping, atomics, records, rings, published words.
//! Forbidden here: what they mean.

pub mod clock;
pub mod kept;
pub mod mapping;
pub mod published;
pub mod record;
pub mod ring;
pub mod series;
pub mod slots;
pub mod sync;
pub mod word;
