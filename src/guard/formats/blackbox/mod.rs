//! The black box: what its file looks like, what can be read of it after the end, and the story that it tells.
//! Forbidden here: files and clocks; the writer (`shared::blackbox`) and `memguard-blackbox` have those.

pub mod format;
#[cfg(feature = "surface")]
pub mod picture;
pub mod reading;
pub mod sentence;
#[cfg(feature = "surface")]
pub mod story;
