//! What is known of restarts: how long earlier ones took, and what the sampling process advises at this moment.
//! Forbidden here: deciding (`guard::foresee::restart`).

use crate::shared::parts::{mapping::SharedZeroable, word::Word};

/// Words that stand for themselves.
#[repr(C)]
pub struct Restart {
    /// Longest time from the end of one run to the start of the next, of the restarts that the black box knows, in
    /// milliseconds; 0: none is known. Writer: main, in `mod_init`.
    pub takes_ms: Word,
    /// Number of the advice (`guard::foresee::restart::Advice`). Writer: the sampling process.
    pub advice: Word,
}

// SAFETY: atomics only.
unsafe impl SharedZeroable for Restart {}
