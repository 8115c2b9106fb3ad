//! What a site is called: its pool, its line and the texts, copied when it was first seen.
//! Forbidden here: following a pointer of another process; searching (`dictionary`).

use crate::shared::parts::sync::{AtomicU64, Ordering, TEXT_WORDS};

/// Longest texts that are kept, in bytes.
pub const FILE_BYTES: usize = TEXT_WORDS[0] * 8;
/// As above.
pub const FUNC_BYTES: usize = TEXT_WORDS[1] * 8;
/// As above.
pub const MODULE_BYTES: usize = TEXT_WORDS[2] * 8;

/// Which pool a site allocates from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u64)]
pub enum SitePool {
    /// The shared pool.
    Shm = 0,
    /// A private pool.
    Pkg = 1,
}

/// Line and pool as one word; bits 0 to 30 are left to what belongs to it.
#[inline(always)]
fn tag(line: u32, pool: SitePool) -> u64 {
    (u64::from(line) << 32) | ((pool as u64) << 31)
}

/// Texts to be copied, already cut to what they may hold.
#[derive(Clone, Copy, Debug)]
pub struct Texts<'a> {
    /// File.
    pub file: &'a [u8],
    /// Function.
    pub func: &'a [u8],
    /// Module.
    pub module: &'a [u8],
}

/// A site as reports show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The pool.
    pub pool: SitePool,
    /// Line.
    pub line: u32,
    /// File as Kamailio's literal has it ("core: core/parser/…"); a long one without its beginning.
    pub file: String,
    /// Function.
    pub func: String,
    /// Module, "core" for the core and its libraries.
    pub module: String,
}

/// Texts of a site as they were when it was first seen; longer ones keep their end.
#[repr(C)]
pub(super) struct Place {
    /// Line and pool as in [`tag`], with bit 0 set: 0 is "nothing here".
    tag: AtomicU64,
    file: [AtomicU64; TEXT_WORDS[0]],
    func: [AtomicU64; TEXT_WORDS[1]],
    module: [AtomicU64; TEXT_WORDS[2]],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Place>() == 160);

impl Place {
    /// Describes it. Writer: the process that was given the index; once.
    pub fn describe(&self, line: u32, pool: SitePool, texts: Texts) {
        write_text(&self.file, texts.file);
        write_text(&self.func, texts.func);
        write_text(&self.module, texts.module);
        // ORDERING: Release; pairs with the Acquire in named: who sees the tag sees the texts.
        self.tag.store(tag(line, pool) | 1, Ordering::Release);
    }

    /// As reports show it; `None` before it is described.
    pub fn named(&self) -> Option<Named> {
        // ORDERING: Acquire; pairs with the Release in describe.
        let tag = self.tag.load(Ordering::Acquire);
        pool_of(tag).map(|pool| Named {
            pool,
            line: (tag >> 32) as u32,
            file: read_text(&self.file),
            func: read_text(&self.func),
            module: read_text(&self.module),
        })
    }

    /// Its pool; `None` before it is described.
    pub fn pool(&self) -> Option<SitePool> {
        // ORDERING: Relaxed; one word.
        pool_of(self.tag.load(Ordering::Relaxed))
    }
}

#[cfg(loom)]
impl Place {
    /// Nothing described, outside of any mapping.
    pub fn new() -> Place {
        use crate::shared::parts::sync::zeroed;
        Place {
            tag: AtomicU64::new(0),
            file: zeroed(),
            func: zeroed(),
            module: zeroed(),
        }
    }
}

fn pool_of(tag: u64) -> Option<SitePool> {
    let is_pkg = tag >> 31 & 1 == 1;
    (tag != 0).then_some(if is_pkg { SitePool::Pkg } else { SitePool::Shm })
}

fn write_text(words: &[AtomicU64], text: &[u8]) {
    let mut rest = text
        .get(text.len().saturating_sub(words.len() * 8)..)
        .unwrap_or_default();
    for word in words {
        let (now, later) = rest.split_at(rest.len().min(8));
        let mut bytes = [0u8; 8];
        for (to, from) in bytes.iter_mut().zip(now) {
            *to = *from;
        }
        // ORDERING: Relaxed; published by the Release of the tag.
        word.store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
        rest = later;
    }
}

fn read_text(words: &[AtomicU64]) -> String {
    // ORDERING: Relaxed; read after the Acquire of the tag.
    let bytes: Vec<u8> = words
        .iter()
        .flat_map(|w| w.load(Ordering::Relaxed).to_ne_bytes())
        .collect();
    let text = bytes.split(|b| *b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}
