//! What outlives a sampling process: who it is, how often it was started again, and how far it had come.
//! Forbidden here: deciding; figures of a sample (those are `figures`).

use crate::guard::formats::blackbox::format::Ring;
use crate::shared::parts::word::Word;

/// Written by the sampling process and by the one that supervises it; read by every process.
#[repr(C)]
pub struct Sampling {
    /// Process id of the one that samples; it has no line of its own in core.psx.
    pub pid: Word,
    /// How often it had died and was started again.
    pub restarts: Word,
    /// 1: the supervising process was told to end, and the one that samples may say its last words.
    pub is_told: Word,
    /// Records that went into each ring of the black box.
    pub boxed: [Word; Ring::COUNT],
    /// Level changes that went into the black box.
    pub boxed_events: Word,
    /// How often libc refused memory, in any process of the server.
    pub memory_refused: Word,
    /// Samples, answers and files that were left out because there was not enough memory.
    pub memory_skipped: Word,
    /// Most bytes of the reserve that one process had in use.
    pub reserve_peak: Word,
}
