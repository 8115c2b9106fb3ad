//! How an allocation was reached, as words of a record; whose it was; and what tells contexts apart.
//! Forbidden here: atomics, addresses of this process but the path's own.

use crate::guard::foresee::sampling;

/// Return addresses of a path, at most.
pub const FRAMES: usize = if cfg!(loom) { 1 } else { 32 };
/// Bytes of the configuration's file and route that are kept.
pub const FILE_BYTES: usize = if cfg!(loom) { 8 } else { 48 };
/// As above.
pub const ROUTE_BYTES: usize = if cfg!(loom) { 8 } else { 32 };
/// Bytes of a module's name, its zero included.
pub const NAME_BYTES: usize = 32;

const META_WORDS: usize = 2;
const METHOD_WORDS: usize = 2;
/// Words of the record.
pub(super) const WORDS: usize = META_WORDS + METHOD_WORDS + (FILE_BYTES + ROUTE_BYTES) / 8 + FRAMES;

/// How an allocation was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// Index of the place in [`crate::shared::counters::sites::Sites`].
    pub site: u32,
    /// Line of the configuration; 0: none was being executed.
    pub line: u32,
    /// The line is that of the enclosing action: Kamailio does not say the inner one.
    pub is_outer: bool,
    /// Return addresses in use.
    pub depth: u8,
    /// First bytes of the message.
    pub message: [u8; METHOD_WORDS * 8],
    /// Configuration file, its end.
    pub file: [u8; FILE_BYTES],
    /// Route, its beginning.
    pub route: [u8; ROUTE_BYTES],
    /// Return addresses, innermost first.
    pub frames: [u64; FRAMES],
}

impl Context {
    /// Nothing known.
    pub const NONE: Context = Context {
        site: 0,
        line: 0,
        is_outer: false,
        depth: 0,
        message: [0; METHOD_WORDS * 8],
        file: [0; FILE_BYTES],
        route: [0; ROUTE_BYTES],
        frames: [0; FRAMES],
    };

    pub(super) fn pack(&self) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        let bytes = self.message.iter().chain(&self.file).chain(&self.route);
        let mut bytes = bytes.copied();
        let mut to = words.iter_mut();
        if let Some(word) = to.next() {
            *word = u64::from(self.site) << 32 | u64::from(self.line);
        }
        if let Some(word) = to.next() {
            *word = u64::from(self.is_outer) << 8 | u64::from(self.depth);
        }
        for word in to.by_ref().take(WORDS - META_WORDS - FRAMES) {
            let mut eight = [0; 8];
            eight
                .iter_mut()
                .zip(&mut bytes)
                .for_each(|(to, from)| *to = from);
            *word = u64::from_ne_bytes(eight);
        }
        to.zip(self.frames).for_each(|(to, frame)| *to = frame);
        words
    }

    pub(super) fn unpack(words: &[u64; WORDS]) -> Context {
        let mut context = Context::NONE;
        let [place, flags, ..] = *words;
        context.site = (place >> 32) as u32;
        context.line = place as u32;
        context.is_outer = flags >> 8 & 1 == 1;
        context.depth = flags as u8;
        let texts = words.iter().skip(META_WORDS);
        let bytes = texts
            .take(WORDS - META_WORDS - FRAMES)
            .flat_map(|w| w.to_ne_bytes());
        let to = context
            .message
            .iter_mut()
            .chain(&mut context.file)
            .chain(&mut context.route);
        to.zip(bytes).for_each(|(to, from)| *to = from);
        let frames = words.iter().skip(WORDS - FRAMES);
        context
            .frames
            .iter_mut()
            .zip(frames)
            .for_each(|(to, from)| *to = *from);
        context
    }

    /// The addresses in use, innermost first.
    pub fn path(&self) -> &[u64] {
        self.frames
            .get(..usize::from(self.depth))
            .unwrap_or(&self.frames)
    }
}

/// Whose blocks they are and how they were sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The process that allocated them.
    pub process: u16,
    /// They are of its private pool.
    pub is_pkg: bool,
    /// The rate of sampling that they stand for.
    pub rate: u32,
}

impl Owner {
    pub(super) fn pack(self) -> u64 {
        u64::from(self.rate) << 32 | u64::from(self.process) << 1 | u64::from(self.is_pkg)
    }

    pub(super) fn unpack(word: u64) -> Owner {
        Owner {
            process: (word >> 1) as u16,
            is_pkg: word & 1 == 1,
            rate: (word >> 32) as u32,
        }
    }
}

/// A context with what it holds now.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// How it was reached.
    pub context: Context,
    /// By whom.
    pub owner: Owner,
    /// Sampled blocks that live.
    pub samples: u64,
    /// Bytes that they stand for.
    pub live_bytes: u64,
    /// How these bytes grow, by the last sample: per second, and the part of it that goes on all the time.
    pub growth: (f64, f64),
}

/// What tells contexts apart; never 0.
pub(super) fn key(owner: Owner, words: &[u64; WORDS]) -> u64 {
    let mixed = words
        .iter()
        .fold(sampling::spread(owner.pack()), |key, word| {
            sampling::spread(key ^ word).wrapping_add(key.rotate_left(17))
        });
    mixed.max(1)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_context_is_what_was_packed(site: u32, line: u32, is_outer: bool, depth in 0..=FRAMES as u8,
            message: [u8; 16], route: [u8; 32], frames: [u64; 32])
        {
            let file = std::array::from_fn(|i| route[i % 32].wrapping_mul(3));
            let context = Context { site, line, is_outer, depth, message, file, route, frames };
            prop_assert_eq!(Context::unpack(&context.pack()), context);
        }

        #[test]
        fn an_owner_is_what_was_packed(process: u16, is_pkg: bool, rate: u32) {
            let owner = Owner { process, is_pkg, rate };
            prop_assert_eq!(Owner::unpack(owner.pack()), owner);
        }
    }

    #[test]
    fn one_other_word_or_owner_is_another_key() {
        let owner = Owner {
            process: 3,
            is_pkg: true,
            rate: 512,
        };
        let words = Context::NONE.pack();
        let mut keys = vec![key(owner, &words)];
        keys.push(key(
            Owner {
                process: 4,
                ..owner
            },
            &words,
        ));
        keys.push(key(
            Owner {
                is_pkg: false,
                ..owner
            },
            &words,
        ));
        keys.push(key(Owner { rate: 1, ..owner }, &words));
        for at in 0..WORDS {
            let mut other = words;
            other[at] ^= 1 << (at % 64);
            keys.push(key(owner, &other));
        }
        // the same two frames the other way round
        let [mut a, mut b] = [words, words];
        (a[WORDS - 1], a[WORDS - 2], b[WORDS - 1], b[WORDS - 2]) = (5, 6, 6, 5);
        keys.extend([key(owner, &a), key(owner, &b)]);
        let count = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }
}
