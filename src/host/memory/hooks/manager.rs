//! Kamailio's memory managers as a compiler sees them: which there are, and where the headers of their blocks keep what.
//! Forbidden here: reading memory (`view` does), state, and guessing: the numbers are those of the headers built with.

use crate::host::kamailio::sys::layout;

/// Where the header of a manager's block keeps what: offsets from the user pointer (all of them wrap around below it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// The size word, and the bits of it that are size.
    pub size: usize,
    /// As above.
    pub size_mask: u64,
    /// The free mark, and the bits of it that say "free".
    pub free: usize,
    /// As above.
    pub free_mask: u64,
    /// Addresses of the allocating place's texts, and its line.
    pub file: usize,
    /// As above.
    pub line: usize,
    /// As above.
    pub func: usize,
    /// As above.
    pub module: usize,
}

impl Offsets {
    pub const NONE: Offsets = Offsets {
        size: 0,
        size_mask: 0,
        free: 0,
        free_mask: 0,
        file: 0,
        line: 0,
        func: 0,
        module: 0,
    };
}

const fn back(bytes: u32) -> usize {
    (bytes as usize).wrapping_neg()
}

/// How a manager's blocks look. A wrapper is compiled for each, so that its short way finds the offsets in its own
/// instructions and not in memory.
pub(super) trait Manager: 'static {
    /// Its headers; `None`: whatever the pool's view says.
    const AT: Option<Offsets>;
}

/// f_malloc (c_shim/layout_fm.h).
pub(super) struct Fm;

impl Manager for Fm {
    const AT: Option<Offsets> = Some(Offsets {
        size: back(layout::MG_FM_SIZE_BACK),
        size_mask: u64::MAX,
        free: back(layout::MG_FM_FREE_BACK),
        free_mask: 0xffff_ffff, // `is_free` is an int
        file: back(layout::MG_FM_FILE_BACK),
        line: back(layout::MG_FM_LINE_BACK),
        func: back(layout::MG_FM_FUNC_BACK),
        module: back(layout::MG_FM_MNAME_BACK),
    });
}

/// q_malloc (c_shim/layout_qm.h).
pub(super) struct Qm;

impl Manager for Qm {
    const AT: Option<Offsets> = Some(Offsets {
        size: back(layout::MG_QM_SIZE_BACK),
        size_mask: u64::MAX,
        free: back(layout::MG_QM_FREE_BACK),
        free_mask: u64::MAX, // a pointer, or a long
        file: back(layout::MG_QM_FILE_BACK),
        line: back(layout::MG_QM_LINE_BACK),
        func: back(layout::MG_QM_FUNC_BACK),
        module: back(layout::MG_QM_MNAME_BACK),
    });
}

/// tlsf's header (core/mem/tlsf_malloc.c): the size word is 8 bytes before the user pointer and has two flag bits, bit 0
/// is "free".
pub(super) struct Tlsf;

impl Manager for Tlsf {
    const AT: Option<Offsets> = Some(Offsets {
        size: back(8),
        size_mask: !3,
        free: back(8),
        free_mask: 1,
        file: back(40),
        line: back(16),
        func: back(32),
        module: back(24),
    });
}

/// Whichever manager the pool has: for the long ways.
pub(super) struct Any;

impl Manager for Any {
    const AT: Option<Offsets> = None;
}

/// The managers that are known, as they call themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Fm,
    Qm,
    Tlsf,
}

impl Which {
    pub(super) fn named(name: &str) -> Option<Which> {
        match name {
            "f_malloc" | "fm" => Some(Which::Fm),
            "q_malloc" | "qm" => Some(Which::Qm),
            "tlsf_malloc" | "tlsf" => Some(Which::Tlsf),
            _ => None,
        }
    }
}
