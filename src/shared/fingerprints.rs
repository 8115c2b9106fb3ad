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
//! Each fingerprint has two buckets it may live in, and goes into the emptier one when it is inserted (the "power of
//! two choices": buckets fill evenly). So a lookup reads two cache lines, whatever the size and the load. When both
//! buckets are full of live entries, the one that would end first goes.
//!
//! **Room.** Filled once, the table takes random fingerprints up to a load of about 70 % before it pushes the first
//! one out; but entries come and go, which evens out less. Measured with tables of 10⁴ to 10⁶ slots, in five million
//! replacements of a random entry at a constant load: none at 50 %, some 25 at 60 %, 9,000 at 70 %, 140,000 at
//! 80 %. One entry pushed out makes unknown fingerprints doubtful for as long as it would have lived: so the table
//! has [`SLOTS_PER_ENTRY`] 2.
//!
//! **Kill and stop.** An entry is one word, changed by one compare-and-swap: there is no half-written state, and a
//! writer that stops anywhere holds nothing up. Two processes that insert the same fingerprint at once may leave two
//! copies: a lookup answers the later end, `put` sets and `remove` removes all copies, counting counts both.
//! What may be forgotten is recorded in [`Doubt`] *before* an entry is pushed out, so a kill between the two leaves
//! a doubt too many, never one too few.
//!
//! **Limits.** Two fingerprints look alike when 37 bits and a bucket agree: a lookup of an unknown one is wrong with
//! a probability of 16 / 2³⁷, about 1 in 10¹⁰. `until` reaches 2²⁷ seconds (4.2 years) after the base time. A later
//! end is kept as "never ends" ([`NEVER`]): a server that runs that long admits too many, it does not forget. Ends
//! before the base time are kept as the base time.

use std::io;

use super::mapping::{self, SharedZeroable};
use super::sync::{AtomicU64, BUCKET_WORDS, Ordering, WRITE_TRIES, zeroed};

/// Bits of an entry that hold its end.
const UNTIL_BITS: u32 = 27;
/// The largest end, in seconds after the base: stands for every later one, and never ends.
const UNTIL_MAX: u64 = (1 << UNTIL_BITS) - 1;
/// Bits of an entry that hold the fingerprint's part.
const TAG_MASK: u64 = u64::MAX >> UNTIL_BITS;
/// Slots per entry that the table is sized for: it is at most half full (why: "Room" in the file's head).
const SLOTS_PER_ENTRY: usize = 2;
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

/// What the table may have forgotten. Times are Unix seconds, 0 for "never".
///
/// ```text
/// offset   0           8                16              24                 32…63
///          evictions │ first eviction │ last eviction │ forgotten until │ (unused)
/// ```
#[repr(C, align(64))]
pub struct Doubt {
    evictions: AtomicU64,
    first: AtomicU64,
    last: AtomicU64,
    forgotten_until: AtomicU64,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Doubt>() == 64);

// SAFETY: atomics only.
unsafe impl SharedZeroable for Doubt {}

impl Doubt {
    /// No doubt, outside of any mapping.
    pub fn new() -> Self {
        let [evictions, first, last, forgotten_until] = zeroed();
        Doubt {
            evictions,
            first,
            last,
            forgotten_until,
        }
    }

    /// Records, before it happens, that a live entry with this end is forgotten.
    fn forget(&self, until: u64, now: u64) {
        // ORDERING: Relaxed throughout; each figure stands for itself and only grows (or is set once).
        self.forgotten_until.fetch_max(until, Ordering::Relaxed);
        self.last.fetch_max(now, Ordering::Relaxed);
        if self.first.load(Ordering::Relaxed) == 0 {
            // Another process may have been first: then its time stays.
            let _ = self
                .first
                .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

impl Default for Doubt {
    fn default() -> Self {
        Self::new()
    }
}

/// A handle to one table; copies of it are the same table, in this process and its children.
#[derive(Clone, Copy)]
pub struct Fingerprints {
    buckets: &'static [Bucket],
    doubt: &'static Doubt,
    base: u64,
}

/// Where a fingerprint may live: its tag and its one or two buckets.
#[derive(Clone, Copy)]
struct Place {
    tag: u64,
    first: &'static Bucket,
    second: Option<&'static Bucket>,
}

impl Place {
    fn words(self) -> impl Iterator<Item = &'static AtomicU64> {
        let second = self.second.map(|bucket| bucket.0.iter());
        self.first.0.iter().chain(second.into_iter().flatten())
    }

    /// The copy of the fingerprint that ends last, 0 when there is none. Looks at every word of both buckets and
    /// takes no branch on what it finds: where an entry lies cannot be predicted, and both lines load at once.
    fn latest(self) -> u64 {
        let latest_of = |bucket: &Bucket| {
            bucket.0.iter().fold(0, |latest: u64, word| {
                // ORDERING: Relaxed; an entry is one word and no other data depends on it.
                let word = word.load(Ordering::Relaxed);
                let is_copy = u64::from(word >> UNTIL_BITS == self.tag);
                latest.max(word & is_copy.wrapping_neg())
            })
        };
        latest_of(self.first).max(self.second.map_or(0, latest_of))
    }
}

impl Fingerprints {
    /// Maps a table for `capacity` entries: 16 bytes each, touched as they are used. `base_time` (Unix seconds) is
    /// the time from which ends are counted: the start of the server.
    ///
    /// # Errors
    /// As [`mapping::map_shared`]; `InvalidInput` above 2³¹ entries.
    pub fn map(capacity: usize, base_time: u64) -> io::Result<Fingerprints> {
        if capacity > 1 << 31 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let buckets = (capacity * SLOTS_PER_ENTRY).div_ceil(BUCKET_WORDS).max(1);
        Ok(Self::from_parts(
            mapping::map_slice(buckets)?,
            mapping::map_one()?,
            base_time,
        ))
    }

    /// A table of parts made elsewhere (model tests: loom's atomics cannot be mapped). No bucket: it holds nothing.
    pub fn from_parts(
        buckets: &'static [Bucket],
        doubt: &'static Doubt,
        base_time: u64,
    ) -> Fingerprints {
        Fingerprints {
            buckets,
            doubt,
            base: base_time,
        }
    }

    /// The end of a known fingerprint, Unix seconds, or [`NEVER`]; it may lie up to `grace` seconds in the past.
    /// `None` when unknown or ended longer ago (that is `until + grace <= now`).
    pub fn get(&self, fp: u64, now: u64, grace: u32) -> Option<u64> {
        let place = self.place(fp)?;
        let entry = Entry::unpack(place.latest());
        let is_known = !entry.is_dead(self.relative(now), grace);
        is_known.then(|| self.absolute(entry.until))
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
                    break;
                }
            }
        }
        removed
    }

    /// Counts live entries in `buckets` buckets from `from_bucket` on, for a process that counts a part at a time.
    /// Answers the count and where to go on: 0 when the end of the table was reached.
    /// Approximate: entries move under the count, and copies (see the file's head) count twice.
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
        let Some(bucket) = self.buckets.get(bucket) else {
            return 0;
        };
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
        bucket
            .0
            .iter()
            .zip(words)
            .map(restore)
            .filter(|is_back| *is_back)
            .count()
    }

    /// How many buckets there are (for `count_live`).
    pub fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// How many entries there is room for.
    pub fn slots(&self) -> usize {
        self.buckets.len() * BUCKET_WORDS
    }

    /// How many live entries were pushed out (or not taken in, [`Put::Dropped`]) since the start.
    pub fn evictions(&self) -> u64 {
        // ORDERING: Relaxed; a counter, no data depends on it.
        self.doubt.evictions.load(Ordering::Relaxed)
    }

    /// When a live entry was pushed out for the first time.
    pub fn first_eviction(&self) -> Option<u64> {
        // ORDERING: Relaxed; one figure.
        Some(self.doubt.first.load(Ordering::Relaxed)).filter(|time| *time > 0)
    }

    /// When a live entry was pushed out for the last time.
    pub fn last_eviction(&self) -> Option<u64> {
        // ORDERING: Relaxed; one figure.
        Some(self.doubt.last.load(Ordering::Relaxed)).filter(|time| *time > 0)
    }

    /// The latest end among all entries that were pushed out (0: none was): while `now` is before it (plus the
    /// grace), an unknown fingerprint may be a forgotten one; after it the table is sure again.
    pub fn forgotten_until(&self) -> u64 {
        // ORDERING: Relaxed; one figure.
        self.doubt.forgotten_until.load(Ordering::Relaxed)
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
                if evicts {
                    // ORDERING: Relaxed; a counter.
                    self.doubt.evictions.fetch_add(1, Ordering::Relaxed);
                }
                return if evicts { Put::Evicted } else { Put::Inserted };
            }
        }
        self.doubt.forget(self.absolute(until), now);
        // ORDERING: Relaxed; a counter.
        self.doubt.evictions.fetch_add(1, Ordering::Relaxed);
        Put::Dropped
    }

    /// Writes the end into every copy of the fingerprint that is there.
    fn update(
        &self,
        place: Place,
        until: u64,
        is_dead: &impl Fn(u64) -> bool,
        end: &impl Fn(u64, u64) -> u64,
    ) -> Update {
        let mut known: Option<bool> = None;
        for word in place.words() {
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

/// The word that a new entry goes into, and what was seen there: a dead one in the bucket that has more of them,
/// or else the live one that ends first.
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
    let best = match place.second.map(look) {
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
mod tests {
    use super::*;

    const BASE: u64 = 1_700_000_000;

    fn table(buckets: usize) -> Fingerprints {
        Fingerprints::from_parts(
            mapping::map_slice(buckets).unwrap(),
            mapping::map_one().unwrap(),
            BASE,
        )
    }

    #[test]
    fn an_entry_is_known_until_its_end_and_its_grace() {
        let known = table(4);
        assert_eq!(known.get(5, BASE, 0), None);
        assert_eq!(known.put(5, BASE + 100, BASE, 0), Put::Inserted);
        assert_eq!(known.get(5, BASE + 99, 0), Some(BASE + 100));
        assert_eq!(known.get(5, BASE + 100, 0), None);
        assert_eq!(known.get(5, BASE + 159, 60), Some(BASE + 100));
        assert_eq!(known.get(5, BASE + 160, 60), None);
    }

    #[test]
    fn put_sets_and_raise_only_lengthens() {
        let known = table(4);
        known.put(5, BASE + 100, BASE, 0);
        assert_eq!(known.raise(5, BASE + 50, BASE, 0), Put::Updated);
        assert_eq!(known.get(5, BASE, 0), Some(BASE + 100));
        assert_eq!(known.raise(5, BASE + 150, BASE, 0), Put::Updated);
        assert_eq!(known.get(5, BASE, 0), Some(BASE + 150));
        assert_eq!(known.put(5, BASE + 20, BASE, 0), Put::Updated);
        assert_eq!(known.get(5, BASE, 0), Some(BASE + 20));
        assert_eq!(
            known.put(5, BASE + 90, BASE + 30, 0),
            Put::Inserted,
            "it had ended"
        );
    }

    #[test]
    fn copies_left_by_a_race_are_one_to_every_caller() {
        let known = table(1);
        for (word, until) in known.buckets[0].0.iter().zip([40, 70]) {
            word.store(Entry { tag: 9, until }.pack(), Ordering::Relaxed);
        }
        assert_eq!(known.get(9, BASE, 0), Some(BASE + 70));
        known.put(9, BASE + 10, BASE, 0);
        assert_eq!(known.get(9, BASE, 0), Some(BASE + 10));
        assert!(known.remove(9));
        assert_eq!(known.get(9, BASE, 0), None);
        assert!(!known.remove(9));
    }

    #[test]
    fn a_full_table_pushes_out_the_entry_that_ends_first_and_says_so() {
        let known = table(1);
        for fp in 1..=8 {
            assert_eq!(known.put(fp, BASE + 100 + fp, BASE, 0), Put::Inserted);
        }
        assert_eq!(
            (
                known.evictions(),
                known.first_eviction(),
                known.forgotten_until()
            ),
            (0, None, 0)
        );
        assert_eq!(known.put(9, BASE + 300, BASE + 7, 0), Put::Evicted);
        assert_eq!(known.get(1, BASE, 0), None);
        assert!((2..=9).all(|fp| known.get(fp, BASE, 0).is_some()));
        assert_eq!(known.put(10, BASE + 300, BASE + 8, 0), Put::Evicted);
        assert_eq!(
            (
                known.evictions(),
                known.first_eviction(),
                known.last_eviction()
            ),
            (2, Some(BASE + 7), Some(BASE + 8))
        );
        assert_eq!(known.forgotten_until(), BASE + 102);
        assert_eq!(
            known.put(11, BASE + 300, BASE + 103, 0),
            Put::Inserted,
            "entry 3 has ended"
        );
    }

    #[test]
    fn times_that_an_entry_cannot_hold_are_cut_towards_knowing() {
        let known = table(1);
        known.put(1, u64::MAX, BASE, 0);
        known.put(2, BASE - 5, BASE, 0);
        assert_eq!(known.get(1, u64::MAX, 0), Some(NEVER));
        assert_eq!(known.get(2, BASE, 0), None);
        assert_eq!(known.get(2, BASE, 1), Some(BASE));
    }

    #[test]
    fn the_fingerprint_zero_is_one_like_any_other() {
        let known = table(2);
        assert_eq!(known.get(0, BASE, 0), None);
        known.put(0, BASE + 9, BASE, 0);
        assert_eq!(known.get(0, BASE, 0), Some(BASE + 9));
        assert!(known.remove(0));
        assert_eq!(known.count_live(BASE, 0, 0, 2), (0, 0));
    }

    #[test]
    fn live_entries_are_counted_in_parts() {
        let known = Fingerprints::map(100, BASE).unwrap();
        assert_eq!((known.slots(), known.buckets()), (200, 25));
        for fp in 0..60u64 {
            known.put(fp.wrapping_mul(SPREAD), BASE + 10 + fp % 2, BASE, 0);
        }
        let (mut live, mut from) = (0, 0);
        loop {
            let (part, next) = known.count_live(BASE + 10, 0, from, 5);
            live += part;
            from = next;
            if next == 0 {
                break;
            }
        }
        assert_eq!(live, 30);
        assert_eq!(known.count_live(BASE, 0, 0, usize::MAX), (60, 0));
        assert_eq!(known.count_live(BASE, 0, 99, 5), (0, 0));
    }

    #[test]
    fn a_saved_table_comes_back_under_a_later_base_without_its_dead() {
        let (old, later) = (table(5), BASE + 1000);
        let ends = [later - 1, later + 7, later + 8, u64::MAX];
        for (fp, until) in (0..).map(|n: u64| n.wrapping_mul(SPREAD)).zip(ends) {
            old.put(fp, until, BASE, 0);
        }
        let new = Fingerprints {
            base: later,
            ..table(5)
        };
        let put_back: usize = (0..9)
            .filter_map(|bucket| {
                Some(new.restore_bucket(bucket, old.save_bucket(bucket)?, BASE, later, 0))
            })
            .sum();
        assert_eq!(put_back, 3);
        let read = [0, 1, 2, 3].map(|n: u64| new.get(n.wrapping_mul(SPREAD), later, 0));
        assert_eq!(read, [None, Some(later + 7), Some(later + 8), Some(NEVER)]);
    }

    #[test]
    fn a_table_of_no_entries_and_one_too_large_are_answered() {
        assert_eq!(Fingerprints::map(0, BASE).unwrap().slots(), BUCKET_WORDS);
        assert!(Fingerprints::map(usize::MAX, BASE).is_err());
        let nothing = Fingerprints::from_parts(&[], mapping::map_one().unwrap(), BASE);
        assert_eq!(
            (nothing.put(1, BASE + 1, BASE, 0), nothing.get(1, BASE, 0)),
            (Put::Dropped, None)
        );
    }
}
