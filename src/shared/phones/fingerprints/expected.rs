//! What a table held when it was carried over a restart, until each entry of it was heard of again or has ended.
//! Forbidden here: changing the table. One process looks: the sampling process, a part of the table at a time.
//!
//! An entry is back when its end in the table is another one than it was, or when it was taken out before its end: both
//! are done only by what its phone sends. An entry that had to make room for another one counts as back, too.
//! **Kill.** An entry is crossed off before it is counted: a kill between the two counts one too few.

use std::io;

use crate::shared::parts::{mapping, sync::Ordering};
use crate::shared::phones::fingerprints::{Bucket, Entry, Fingerprints, presence};

/// See the file's head. Copies of a handle are the same list.
#[derive(Clone, Copy)]
pub struct Expected {
    buckets: &'static [Bucket],
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    /// How many entries.
    pub count: u64,
    /// When the last of them ends; [`NEVER`](crate::shared::phones::fingerprints::NEVER) where one does not.
    pub end: u64,
}

/// What one look found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Entries that were heard of.
    pub back: u64,
    /// Entries that ended unheard.
    pub expired: u64,
}

impl Expected {
    /// Notes what lives in a table. Before the first fork.
    ///
    /// # Errors
    /// As [`mapping::map_shared`].
    pub fn of(table: &Fingerprints, now: u64) -> io::Result<(Expected, Noted)> {
        let buckets: &'static [Bucket] = mapping::map_slice(table.buckets.len())?;
        let now = table.relative(now);
        let (mut count, mut end) = (0, 0);
        for (from, to) in table.buckets.iter().zip(buckets) {
            for (from, to) in from.0.iter().zip(&to.0) {
                // ORDERING: Relaxed; nobody else is there yet.
                let word = from.load(Ordering::Relaxed);
                let entry = Entry::unpack(word);
                if !entry.is_dead(now, 0) {
                    to.store(word, Ordering::Relaxed);
                    count += 1;
                    end = entry.until.max(end);
                }
            }
        }
        let end = table.absolute(end);
        Ok((Expected { buckets }, Noted { count, end }))
    }

    /// Looks what became of the entries in `buckets` buckets from `from` on, only where the table was ever written.
    /// Answers where to go on: 0 at the end of the table.
    pub fn look(
        &self,
        table: &Fingerprints,
        now: u64,
        from: usize,
        buckets: usize,
    ) -> (Seen, usize) {
        let now = table.relative(now);
        let shift = presence::shift(self.buckets.len());
        let is_written = |part: usize| {
            table
                .presence
                .is_none_or(|presence| presence.is_written(part))
        };
        let (mut seen, mut looked, mut bucket) = (Seen::default(), 0, from);
        while looked < buckets {
            let part = bucket >> shift;
            let end = ((part + 1) << shift).min(self.buckets.len());
            let (Some(expected), Some(there)) = (
                self.buckets.get(bucket..end),
                table.buckets.get(bucket..end),
            ) else {
                return (seen, 0);
            };
            if expected.is_empty() {
                return (seen, 0);
            }
            if is_written(part) {
                looked += expected.len();
                for (expected, there) in expected.iter().zip(there) {
                    look_at(expected, there, now, &mut seen);
                }
            }
            bucket = end;
        }
        (
            seen,
            if bucket < self.buckets.len() {
                bucket
            } else {
                0
            },
        )
    }

    /// Gives the list's memory back: nobody is expected any more.
    pub fn forget(&self) {
        mapping::give_back(self.buckets);
    }
}

fn look_at(expected: &Bucket, there: &Bucket, now: u64, seen: &mut Seen) {
    for word in &expected.0 {
        // ORDERING: Relaxed throughout; each word stands for itself.
        let was = word.load(Ordering::Relaxed);
        if was == 0 {
            continue;
        }
        let entry = Entry::unpack(was);
        let is = there
            .0
            .iter()
            .map(|word| Entry::unpack(word.load(Ordering::Relaxed)))
            .find(|other| other.tag == entry.tag);
        let is_back = match is {
            Some(other) => other.until != entry.until,
            None => !entry.is_dead(now, 0),
        };
        if !is_back && !entry.is_dead(now, 0) {
            continue;
        }
        word.store(0, Ordering::Relaxed);
        match is_back {
            true => seen.back += 1,
            false => seen.expired += 1,
        }
    }
}

#[cfg(all(test, not(loom), not(miri)))]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn numbers() -> impl Iterator<Item = u64> {
        (1..=1000u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn look(expected: &Expected, table: &Fingerprints, now: u64) -> Seen {
        let mut sum = Seen::default();
        let mut at = 0;
        loop {
            let (seen, next) = expected.look(table, now, at, 64);
            sum.back += seen.back;
            sum.expired += seen.expired;
            at = next;
            if at == 0 {
                return sum;
            }
        }
    }

    #[test]
    fn each_entry_is_told_once_when_it_is_renewed_or_taken_out_and_when_it_ends_unheard() {
        let table = Fingerprints::map(2000, NOW - 100).expect("some memory");
        for fp in numbers() {
            table.put(fp, NOW + 600, NOW, 0);
        }
        table.put(7, NOW - 1, NOW - 50, 0); // it had ended before
        let (expected, noted) = Expected::of(&table, NOW).expect("some memory");
        let all = Noted {
            count: 1000,
            end: NOW + 600,
        };
        assert_eq!(noted, all);
        assert_eq!(look(&expected, &table, NOW + 1), Seen::default());
        let last = table.buckets() - 448;
        let went_on_at = |(from, count)| expected.look(&table, NOW + 1, from, count).1;
        let parts = [(0, 64), (64, 64), (448, 64), (448, last)];
        assert_eq!(parts.map(went_on_at), [64, 128, 0, 0], "a part a time");
        for (i, fp) in numbers().enumerate() {
            match i {
                0..400 => _ = table.put(fp, NOW + 605, NOW + 5, 0),
                400..500 => _ = table.remove(fp),
                500..510 => _ = table.put(fp, NOW + 60, NOW + 5, 0), // granted for a shorter time
                510..520 => _ = table.put(fp, NOW + 600, NOW + 5, 0), // nothing new
                _ => (),
            }
        }
        let back = Seen {
            back: 510,
            expired: 0,
        };
        assert_eq!(look(&expected, &table, NOW + 6), back);
        assert_eq!(look(&expected, &table, NOW + 7), Seen::default(), "once");
        let others = (1..=500u64).map(|n| n.wrapping_mul(0xd6e8_feb8_6659_fd93));
        others.for_each(|fp| {
            table.put(fp, NOW + 900, NOW + 8, 0);
        });
        assert_eq!(
            look(&expected, &table, NOW + 9),
            Seen::default(),
            "strangers"
        );
        let late = numbers().nth(600).expect("one of them");
        table.put(late, NOW + 1300, NOW + 700, 0); // after its end
        table.reap(NOW + 700, 0, 0, usize::MAX);
        let rest = Seen {
            back: 1,
            expired: 489,
        };
        assert_eq!(look(&expected, &table, NOW + 700), rest);
        expected.forget();
        assert_eq!(look(&expected, &table, NOW + 701), Seen::default());
    }
}
