//! Known bindings, or known AoRs: a fixed-size lock-free set of fingerprints, each with the time it ends.
//! Forbidden here: how a fingerprint is made (a keyed hash, the caller's), what an entry means, and growing.
//!
//! ```text
//! entry    63                    27 26                     0      one AtomicU64; 0 is an empty one
//!          tag: 37 bits of the fp │ until: seconds after base
//!
//! bucket   0       8                56                            one cache line of 64 bytes
//!          entry 0 │ entry 1 │ … │ entry 7
//! ```
//!
//! Each fingerprint has two buckets it may live in. It goes into the first while half of that is free, else into
//! the emptier one (the "power of two choices": buckets fill evenly). So what is known is nearly always found in one
//! cache line of one page, and what is not costs two, whatever the size. When both buckets are full of live entries, the
//! one that would end first goes.
//!
//! **Room.** Filled once, the table takes random fingerprints up to a load of about 70 % before it pushes the first
//! one out; but entries come and go, which evens out less. Simulated with a million slots, in five million replacements
//! of a random entry at a constant load: none at 50 % (nor in a hundred million), some 36 at 60 %, 9,000 at 70 %, 127,000
//! at 80 %. One entry pushed out makes unknown fingerprints doubtful for as long as it would have lived: so the table
//! has two slots per entry it is sized for. Then 73 % of what is known stands in its first bucket; of a table that is a
//! third full, 93 %.
//!
//! **Kill and stop.** An entry is one word, changed by one compare-and-swap: there is no half-written state, and a
//! writer that stops anywhere holds nothing up. Two processes that insert the same fingerprint at once may leave two
//! copies: of the first bucket that has a live one a lookup answers the later end, `put` sets all copies of that bucket,
//! `remove` removes all there are, counting counts all.
//! What may be forgotten is recorded in [`Doubt`] *before* an entry is pushed out, so a kill between the two leaves
//! a doubt too many, never one too few.
//!
//! **Count.** Entries are counted as they come and go ([`Presence`]): what is known shows at once, and nobody walks
//! through the table for it. Entries that end are removed by [`Fingerprints::reap`], a part at a time and only where the
//! table was ever written: pages that were never used stay untouched.
//!
//! **Limits.** Two fingerprints look alike when 37 bits and a bucket agree: a lookup of an unknown one is wrong with
//! a probability of 16 / 2³⁷, about 1 in 10¹⁰. `until` reaches 2²⁷ seconds (4.2 years) after the base time. A later
//! end is kept as "never ends" ([`NEVER`]): a server that runs that long admits too many, it does not forget. Ends
//! before the base time are kept as the base time.

mod doubt;
mod expected;
mod presence;

use std::io;

pub use crate::shared::phones::fingerprints::doubt::Doubt;
pub use crate::shared::phones::fingerprints::expected::Expected;
#[cfg(feature = "surface")]
pub use crate::shared::phones::fingerprints::expected::Seen;
pub use crate::shared::phones::fingerprints::presence::Presence;

use crate::shared::parts::{
    mapping::{self, SharedZeroable},
    sync::{AtomicU64, BUCKET_WORDS, Ordering, WRITE_TRIES, zeroed},
};

/// Bits of an entry that hold its end.
const UNTIL_BITS: u32 = 27;
/// The largest end, in seconds after the base: stands for every later one, and never ends.
const UNTIL_MAX: u64 = (1 << UNTIL_BITS) - 1;
/// Bits of an entry that hold the fingerprint's part.
const TAG_MASK: u64 = u64::MAX >> UNTIL_BITS;
/// Slots per entry that the table is sized for: it is at most half full (why: "Room" in the file's head).
const SLOTS_PER_ENTRY: usize = 2;
/// Free words from which on the first bucket takes a new entry without a look at the second.
const ROOMY: usize = BUCKET_WORDS / 2;
/// Odd, well spread: makes the second bucket independent of the first.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What `get` answers for an end later than an entry can hold: it never ends.
pub const NEVER: u64 = u64::MAX;

/// What a write did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It was not there (or had ended), now it is.
    Inserted,
    /// It was there alive.
    Updated,
    /// It was not there, and took the place of a live entry, which is now forgotten.
    Evicted,
    /// Others changed the same buckets at every try: nothing was written, and this is counted like an eviction.
    Dropped,
}

/// One word of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u64,
    until: u64,
}

impl Entry {
    const fn pack(self) -> u64 {
        self.tag << UNTIL_BITS | self.until
    }

    const fn unpack(word: u64) -> Entry {
        Entry {
            tag: word >> UNTIL_BITS,
            until: word & UNTIL_MAX,
        }
    }

    /// Empty, or ended at least `grace` seconds ago.
    fn is_dead(self, now: u64, grace: u32) -> bool {
        self.tag == 0 || (self.until < UNTIL_MAX && self.until + u64::from(grace) <= now)
    }
}

/// The entries that one cache line holds.
#[repr(C, align(64))]
pub struct Bucket([AtomicU64; BUCKET_WORDS]);

#[cfg(not(loom))]
const _: () = assert!(size_of::<Bucket>() == 64 && align_of::<Bucket>() == 64);

// SAFETY: atomics only.
unsafe impl SharedZeroable for Bucket {}

impl Bucket {
    /// An empty bucket outside of any mapping.
    pub fn new() -> Self {
        Bucket(zeroed())
    }
}

impl Default for Bucket {
    fn default() -> Self {
        Self::new()
    }
}

/// A handle to one table; copies of it are the same table, in this process and its children.
#[derive(Clone, Copy)]
pub struct Fingerprints {
    buckets: &'static [Bucket],
    doubt: &'static Doubt,
    /// None: nothing is counted.
    presence: Option<&'static Presence>,
    base: u64,
}

/// Where a fingerprint may live: its tag and its one or two buckets.
#[derive(Clone, Copy)]
struct Place {
    tag: u64,
    first: &'static Bucket,
    second: Option<&'static Bucket>,
    numbers: [usize; 2],
}

impl Place {
    fn words(self) -> impl Iterator<Item = &'static AtomicU64> {
        let second = self.second.map(|bucket| bucket.0.iter());
        self.first.0.iter().chain(second.into_iter().flatten())
    }

    /// The copy of the fingerprint in this bucket that ends last, 0 when there is none. Looks at every word and takes no
    /// branch on what it finds: where an entry lies cannot be predicted.
    fn latest_in(self, bucket: &Bucket) -> u64 {
        bucket.0.iter().fold(0, |latest: u64, word| {
            // ORDERING: Relaxed; an entry is one word and no other data depends on it.
            let word = word.load(Ordering::Relaxed);
            let is_copy = u64::from(word >> UNTIL_BITS == self.tag);
            latest.max(word & is_copy.wrapping_neg())
        })
    }
}

impl Fingerprints {
    /// Maps a table for `capacity` entries: 16 bytes each, touched as they are used. `base_time` (server time, seconds) is
    /// the time from which ends are counted: the start of the server.
    ///
    /// # Errors
    /// As [`mapping::map_shared`]; `InvalidInput` above 2³¹ entries.
    pub fn map(capacity: usize, base_time: u64) -> io::Result<Fingerprints> {
        if capacity > 1 << 31 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let buckets = (capacity * SLOTS_PER_ENTRY).div_ceil(BUCKET_WORDS).max(1);
        let table = Self::from_parts(mapping::map_slice(buckets)?, mapping::map_one()?, base_time);
        Ok(Fingerprints {
            presence: Some(mapping::map_one()?),
            ..table
        })
    }

    /// A table of parts made elsewhere (model tests: loom's atomics cannot be mapped); it does not count its entries.
    /// No bucket: it holds nothing.
    pub fn from_parts(
        buckets: &'static [Bucket],
        doubt: &'static Doubt,
        base_time: u64,
    ) -> Fingerprints {
        Fingerprints {
            buckets,
            doubt,
            presence: None,
            base: base_time,
        }
    }

    /// Has the processor fetch what the next call about this fingerprint will read; changes and answers nothing.
    #[inline]
    pub fn prefetch(&self, fp: u64) {
        if let Some(place) = self.place(fp) {
            mapping::prefetch(place.first);
        }
    }

    /// The end of a known fingerprint, seconds of server time, or [`NEVER`]; it may lie up to `grace` seconds in the past.
    /// `None` when unknown or ended longer ago (that is `until + grace <= now`).
    pub fn get(&self, fp: u64, now: u64, grace: u32) -> Option<u64> {
        let place = self.place(fp)?;
        let now = self.relative(now);
        let known_in = |bucket| {
            let entry = Entry::unpack(place.latest_in(bucket));
            Some(entry).filter(|entry| !entry.is_dead(now, grace))
        };
        let known = known_in(place.first).or_else(|| known_in(place.second?));
        known.map(|entry| self.absolute(entry.until))
    }

    /// Sets the end of a fingerprint, inserting it when it is not there.
    pub fn put(&self, fp: u64, until: u64, now: u64, grace: u32) -> Put {
        self.write(fp, until, now, grace, |_, new| new)
    }

    /// Sets the end of a fingerprint unless it ends later already, inserting it when it is not there.
    pub fn raise(&self, fp: u64, until: u64, now: u64, grace: u32) -> Put {
        self.write(fp, until, now, grace, u64::max)
    }

    /// Forgets a fingerprint; true when it was there (dead or alive). A `put` at the same moment may survive it.
    pub fn remove(&self, fp: u64) -> bool {
        let Some(place) = self.place(fp) else {
            return false;
        };
        let mut removed = false;
        for word in place.words() {
            for _ in 0..WRITE_TRIES {
                // ORDERING: Relaxed; one word, no other data depends on it.
                let seen = word.load(Ordering::Relaxed);
                if Entry::unpack(seen).tag != place.tag {
                    break;
                }
                // ORDERING: Relaxed; as above.
                if word
                    .compare_exchange(seen, 0, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
                {
                    removed = true;
                    self.went();
                    break;
                }
            }
        }
        removed
    }

    /// Entries at this moment: those that were put and neither removed nor, after their end, reaped. 0 where they are
    /// not counted ([`Fingerprints::from_parts`]).
    pub fn entries(&self) -> u64 {
        self.presence.map_or(0, Presence::count)
    }

    /// Removes what has ended (`until + grace <= now`) from buckets on `from_bucket` on, looking at no more than
    /// `buckets` of them, and only where the table was ever written. Answers where to go on: 0 at the end of the table.
    pub fn reap(&self, now: u64, grace: u32, from_bucket: usize, buckets: usize) -> usize {
        let Some(presence) = self.presence else {
            return 0;
        };
        let now = self.relative(now);
        let shift = presence::shift(self.buckets.len());
        let mut looked = 0;
        let mut bucket = from_bucket;
        while looked < buckets {
            let part = bucket >> shift;
            let end = ((part + 1) << shift).min(self.buckets.len());
            let Some(there) = self.buckets.get(bucket..end).filter(|b| !b.is_empty()) else {
                return 0;
            };
            if presence.is_written(part) {
                looked += there.len();
                there
                    .iter()
                    .for_each(|bucket| self.reap_bucket(bucket, now, grace));
            }
            bucket = end;
        }
        if bucket < self.buckets.len() {
            bucket
        } else {
            0
        }
    }

    fn reap_bucket(&self, bucket: &Bucket, now: u64, grace: u32) {
        for word in &bucket.0 {
            // ORDERING: Relaxed throughout; one word, no other data depends on it.
            let seen = word.load(Ordering::Relaxed);
            let is_reaped = seen != 0
                && Entry::unpack(seen).is_dead(now, grace)
                && word
                    .compare_exchange(seen, 0, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok();
            if is_reaped {
                self.went();
            }
        }
    }

    /// Marks the parts that an entry may go into, before it does.
    fn mark(&self, numbers: [usize; 2]) {
        if let Some(presence) = self.presence {
            let shift = presence::shift(self.buckets.len());
            for number in numbers {
                presence.write(number >> shift);
            }
        }
    }

    fn came(&self) {
        if let Some(presence) = self.presence {
            presence.came(1);
        }
    }

    fn went(&self) {
        if let Some(presence) = self.presence {
            presence.went(1);
        }
    }

    /// Counts live entries in `buckets` buckets from `from_bucket` on, for a process that counts a part at a time.
    /// Answers the count and where to go on: 0 when the end of the table was reached.
    /// Approximate: entries move under the count, and copies (see the file's head) count twice.
    #[cfg(feature = "surface")]
    pub fn count_live(
        &self,
        now: u64,
        grace: u32,
        from_bucket: usize,
        buckets: usize,
    ) -> (u64, usize) {
        let now = self.relative(now);
        let next = from_bucket.saturating_add(buckets);
        let part = self.buckets.iter().skip(from_bucket).take(buckets);
        // ORDERING: Relaxed; each word is counted for itself.
        let live = part
            .flat_map(|bucket| &bucket.0)
            .filter(|word| !Entry::unpack(word.load(Ordering::Relaxed)).is_dead(now, grace))
            .count() as u64;
        (live, if next < self.buckets.len() { next } else { 0 })
    }

    /// The words of one bucket, for a file that carries the table over a restart. They mean something only to a
    /// table of the same number of buckets, with fingerprints of the same keyed hash.
    pub fn save_bucket(&self, bucket: usize) -> Option<[u64; BUCKET_WORDS]> {
        let bucket = self.buckets.get(bucket)?;
        let mut words = [0; BUCKET_WORDS];
        for (saved, word) in words.iter_mut().zip(&bucket.0) {
            // ORDERING: Relaxed; each word stands for itself.
            *saved = word.load(Ordering::Relaxed);
        }
        Some(words)
    }

    /// Puts back what `save_bucket` gave in a table with the base time `saved_base`, into empty words only and
    /// without the dead; answers how many live entries it put back. Before the first fork, so nobody is in the way.
    pub fn restore_bucket(
        &self,
        bucket: usize,
        words: [u64; BUCKET_WORDS],
        saved_base: u64,
        now: u64,
        grace: u32,
    ) -> usize {
        let number = bucket;
        let Some(bucket) = self.buckets.get(bucket) else {
            return 0;
        };
        if words.iter().any(|word| *word != 0) {
            self.mark([number; 2]);
        }
        let restore = |(word, saved): (&AtomicU64, u64)| {
            let saved = Entry::unpack(saved);
            let until = match saved.until {
                UNTIL_MAX => UNTIL_MAX,
                seconds => self
                    .relative(saved_base.saturating_add(seconds))
                    .min(UNTIL_MAX),
            };
            let entry = Entry { until, ..saved };
            // ORDERING: Relaxed; one word, no other data depends on it.
            let into_empty =
                |new| word.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed);
            !entry.is_dead(self.relative(now), grace) && into_empty(entry.pack()).is_ok()
        };
        let restored = bucket.0.iter().zip(words).map(restore);
        let count = restored.filter(|is_back| *is_back).count();
        if let Some(presence) = self.presence {
            presence.came(count as u64);
        }
        count
    }

    /// Forgets everything; nobody may be writing meanwhile.
    pub fn clear(&self) {
        let shift = presence::shift(self.buckets.len());
        for (number, bucket) in self.buckets.iter().enumerate() {
            let is_written = self.presence.is_none_or(|p| p.is_written(number >> shift));
            for word in bucket.0.iter().filter(|_| is_written) {
                // ORDERING: Relaxed; each word stands for itself.
                if word.load(Ordering::Relaxed) != 0 {
                    word.store(0, Ordering::Relaxed);
                    self.went();
                }
            }
        }
    }

    /// How many buckets there are (for `count_live`).
    pub fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// How many entries there is room for.
    #[cfg(feature = "surface")]
    pub fn slots(&self) -> usize {
        self.buckets.len() * BUCKET_WORDS
    }

    /// Live entries pushed out since the start ([`Doubt::evictions`]).
    pub fn evictions(&self) -> u64 {
        self.doubt.evictions()
    }

    /// Until when an unknown fingerprint may be a forgotten one ([`Doubt::forgotten_until`]).
    pub fn forgotten_until(&self) -> u64 {
        self.doubt.forgotten_until()
    }

    /// What the table of an earlier run had forgotten until then is forgotten by this one.
    pub fn inherit_doubt(&self, until: u64, now: u64) {
        if until > now {
            self.doubt.forget(until, now);
        }
    }

    fn write(
        &self,
        fp: u64,
        until: u64,
        now: u64,
        grace: u32,
        end: impl Fn(u64, u64) -> u64,
    ) -> Put {
        let Some(place) = self.place(fp) else {
            return Put::Dropped;
        };
        let relative_now = self.relative(now);
        let until = self.relative(until).min(UNTIL_MAX);
        let is_dead = |word: u64| Entry::unpack(word).is_dead(relative_now, grace);
        for _ in 0..WRITE_TRIES {
            match self.update(place, until, &is_dead, &end) {
                Update::Done(put) => return put,
                Update::Raced => continue,
                Update::Unknown => {}
            }
            let Some((word, seen)) = victim(place, &is_dead) else {
                continue;
            };
            let evicts = !is_dead(seen);
            self.mark(place.numbers);
            if evicts {
                self.doubt
                    .forget(self.absolute(Entry::unpack(seen).until), now);
            }
            let new = Entry {
                tag: place.tag,
                until,
            }
            .pack();
            // ORDERING: Relaxed; one word, no other data depends on it.
            if word
                .compare_exchange(seen, new, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
            {
                if seen == 0 {
                    self.came();
                }
                if evicts {
                    self.doubt.count();
                }
                return if evicts { Put::Evicted } else { Put::Inserted };
            }
        }
        self.doubt.forget(self.absolute(until), now);
        self.doubt.count();
        Put::Dropped
    }

    /// Writes the end into every copy of the fingerprint in the first bucket that has one.
    fn update(
        &self,
        place: Place,
        until: u64,
        is_dead: &impl Fn(u64) -> bool,
        end: &impl Fn(u64, u64) -> u64,
    ) -> Update {
        let mut known: Option<bool> = None;
        for bucket in [Some(place.first), place.second].into_iter().flatten() {
            for word in &bucket.0 {
                // ORDERING: Relaxed; one word, no other data depends on it.
                let seen = word.load(Ordering::Relaxed);
                let old = Entry::unpack(seen);
                if old.tag != place.tag {
                    continue;
                }
                let new = Entry {
                    tag: old.tag,
                    until: end(old.until, until),
                }
                .pack();
                // A word that says so already is not written: its cache line stays shared.
                // ORDERING: Relaxed; as above.
                if new != seen
                    && word
                        .compare_exchange(seen, new, Ordering::Relaxed, Ordering::Relaxed)
                        .is_err()
                {
                    return Update::Raced;
                }
                known = Some(known.unwrap_or(false) || !is_dead(seen));
            }
            if known.is_some() {
                break;
            }
        }
        match known {
            Some(true) => Update::Done(Put::Updated),
            Some(false) => Update::Done(Put::Inserted),
            None => Update::Unknown,
        }
    }

    /// The tag and the buckets of a fingerprint; `None` for a table without buckets.
    fn place(&self, fp: u64) -> Option<Place> {
        let buckets = self.buckets.len();
        let first = spread(fp, buckets);
        // Among the others: the two are never the same.
        let second = spread(
            fp.wrapping_mul(SPREAD) ^ fp.rotate_left(32),
            buckets.saturating_sub(1),
        );
        let second = second + usize::from(second >= first);
        Some(Place {
            // 0 is the empty entry's. Of the tag's bits only 5 helped to choose the first bucket.
            tag: (fp & TAG_MASK).max(1),
            first: self.buckets.get(first)?,
            second: self.buckets.get(second),
            numbers: [first, second],
        })
    }

    fn relative(&self, time: u64) -> u64 {
        time.saturating_sub(self.base)
    }

    fn absolute(&self, until: u64) -> u64 {
        if until == UNTIL_MAX {
            NEVER
        } else {
            self.base.saturating_add(until)
        }
    }
}

/// Spreads the upper half of a hash over a number of buckets, without a division (multiply and shift).
fn spread(hash: u64, buckets: usize) -> usize {
    ((hash >> 32).wrapping_mul(buckets as u64) >> 32) as usize
}

/// What `update` found.
enum Update {
    Done(Put),
    Raced,
    Unknown,
}

/// The word that a new entry goes into, and what was seen there: a dead one in the first bucket while that is roomy, else
/// in the bucket that has more of them, or else the live one that ends first.
fn victim(place: Place, is_dead: &impl Fn(u64) -> bool) -> Option<(&'static AtomicU64, u64)> {
    let look = |bucket: &'static Bucket| {
        let mut free = 0;
        let mut best: Option<(&'static AtomicU64, u64, u64)> = None;
        for word in &bucket.0 {
            // ORDERING: Relaxed; the compare-and-swap that follows checks what was seen.
            let seen = word.load(Ordering::Relaxed);
            let ends = if is_dead(seen) {
                0
            } else {
                Entry::unpack(seen).until + 1
            };
            free += usize::from(ends == 0);
            if best.is_none_or(|(_, _, soonest)| ends < soonest) {
                best = Some((word, seen, ends));
            }
        }
        (free, best)
    };
    let (free, best) = look(place.first);
    let second = place.second.filter(|_| free < ROOMY);
    let best = match second.map(look) {
        Some((second_free, second)) if second_free > free => second,
        Some((0, second)) if free == 0 => best
            .into_iter()
            .chain(second)
            .min_by_key(|(_, _, ends)| *ends),
        _ => best,
    };
    best.map(|(word, seen, _)| (word, seen))
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests;
