//! Words that all share: classes, levels, pools, modes, events, warnings, and small text helpers.
//! Forbidden here: decisions, and anything of another folder of guard.

pub mod clock;
pub mod event;
pub mod text;
pub mod warnings;
pub mod words;
