//! The watched addresses and what happened to them: written by the sampling process, read by everybody.
//! Forbidden here: deciding what is the matter with one.

use crate::guard::net::row::{CHANGE_WORDS, Change, ROW_WORDS, Row};
use crate::guard::net::watch::{MAX_ROWS, Sums};
use crate::shared::parts::{mapping::SharedZeroable, record::Record, ring::Ring, word::Word};

/// Changes that are kept: all addresses going and coming back.
pub const KEPT: usize = 512;

/// One record for each address: each is whole, and another one may be of a moment later. About 70 KiB, touched as used.
#[repr(C)]
pub struct Addresses {
    /// How many are watched; 0 before the first look, and while the watch is off.
    pub watched: Word,
    /// Addresses of Kamailio's beyond the table.
    pub unwatched: Word,
    /// Needed addresses that cannot be used.
    pub missing: Word,
    /// Needed addresses that are leased.
    pub leased: Word,
    /// Frames of other machines that claimed one.
    pub claims: Word,
    /// Number of the worst `Alarm`.
    pub alarm: Word,
    /// Changes that the event route has been run for.
    pub routed: Word,
    rows: [Record<ROW_WORDS>; MAX_ROWS],
    changes: Ring<KEPT, CHANGE_WORDS>,
}

// SAFETY: atomics only.
unsafe impl SharedZeroable for Addresses {}

impl Addresses {
    /// Writes the rows and what holds for all. Writer: the sampling process only.
    pub fn publish(&self, rows: &[Row], sums: &Sums) {
        for (record, row) in self.rows.iter().zip(rows) {
            record.store(&row.to_words());
        }
        self.missing.set(sums.missing);
        self.leased.set(sums.leased);
        self.claims.set(sums.claims);
        self.alarm.set(sums.alarm);
        self.watched.set(rows.len().min(MAX_ROWS) as u64);
    }

    /// The rows that can be read; one that a killed writer left torn is absent until the next look.
    pub fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        let watched = usize::try_from(self.watched.get()).unwrap_or(MAX_ROWS);
        let records = self.rows.iter().take(watched);
        records.filter_map(|record| Row::from_words(&record.load()?))
    }

    /// Adds a change. Writer: the sampling process.
    pub fn push(&self, change: &Change) {
        self.changes.push(change.pack());
    }

    /// The last `count` changes that can be read, newest first.
    pub fn last(&self, count: usize) -> impl Iterator<Item = Change> + '_ {
        let all = self.changes.last(KEPT);
        all.filter_map(|(_, words)| Change::unpack(words))
            .take(count)
    }

    /// How many changes there were since the start.
    pub fn pushed(&self) -> u64 {
        self.changes.pushed()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::shared::parts::mapping::map_one;

    #[test]
    fn what_was_published_is_read_and_what_is_torn_is_left_out() {
        let table = map_one::<Addresses>().expect("memory");
        assert_eq!(table.rows().count(), 0);
        let rows: Vec<Row> = (1..=3u8)
            .map(|n| Row::new([10, 0, 0, n].into(), 1, 1))
            .collect();
        let sums = Sums {
            missing: 2,
            ..Sums::default()
        };
        table.publish(&rows, &sums);
        assert_eq!(table.rows().collect::<Vec<_>>(), rows);
        assert_eq!(table.missing.get(), 2);
        table.rows[1].clear(); // killed in the midst of it
        assert_eq!(table.rows().count(), 2);
    }
}
