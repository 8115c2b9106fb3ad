//! The figures that are remembered second by second, and what a minute tells of its seconds.
//! Forbidden here: taking samples, keeping more than one minute.

use crate::guard::terms::words::words;

words! {
    /// What is remembered. Rates are in thousandths per second.
    Track {
        /// Bytes used of shm.
        ShmUsed = "shm_used",
        /// Bytes used of the fullest private pool.
        PkgUsed = "pkg_used",
        /// Bytes used of the machine's or container's memory.
        OsUsed = "os_used",
        /// Bytes left before the tightest is full.
        Headroom = "headroom",
        /// New registrations.
        NewRate = "new_rate",
        /// Refreshes.
        RefreshRate = "refresh_rate",
        /// Refusals.
        RejectedRate = "rejected_rate",
        /// Refusals since the start.
        Rejected = "rejected",
        /// Known bindings.
        Bindings = "bindings",
        /// Number of the level.
        Level = "level",
    }
}

/// One second's, or one minute's, value of every track.
pub type Values = [u64; Track::COUNT];

/// What a minute tells of its seconds.
enum Fold {
    /// The largest: what came near the end must not be lost.
    Largest,
    /// The smallest, of what must not run out.
    Smallest,
    /// The mean, of rates.
    Mean,
    /// The last one, of totals.
    Last,
}

impl Track {
    /// Whether it is a rate, in thousandths per second.
    pub const fn is_rate(self) -> bool {
        matches!(self.fold(), Fold::Mean)
    }

    const fn fold(self) -> Fold {
        match self {
            Track::ShmUsed | Track::PkgUsed | Track::OsUsed | Track::Level => Fold::Largest,
            Track::Headroom => Fold::Smallest,
            Track::NewRate | Track::RefreshRate | Track::RejectedRate => Fold::Mean,
            Track::Rejected | Track::Bindings => Fold::Last,
        }
    }
}

/// Gathers the seconds of a minute. The sampling process's own.
#[derive(Clone, Debug, Default)]
pub struct Minute {
    seconds: u64,
    values: Values,
}

impl Minute {
    /// Adds a second.
    pub fn add(&mut self, values: &Values) {
        let is_first = self.seconds == 0;
        for (track, (kept, value)) in Track::ALL.iter().zip(self.values.iter_mut().zip(values)) {
            *kept = match track.fold() {
                Fold::Mean => kept.saturating_add(*value),
                _ if is_first => *value,
                Fold::Largest => (*kept).max(*value),
                Fold::Smallest => (*kept).min(*value),
                Fold::Last => *value,
            };
        }
        self.seconds += 1;
    }

    /// The minute's values, and a new one begins; `None` when it has no second.
    pub fn take(&mut self) -> Option<Values> {
        let Minute {
            seconds,
            mut values,
        } = std::mem::take(self);
        for (track, value) in Track::ALL.iter().zip(&mut values) {
            if track.is_rate() {
                *value = value.checked_div(seconds)?;
            }
        }
        Some(values)
    }
}

/// What was remembered in a tick.
pub struct Kept {
    /// The second, server time.
    pub time_s: u64,
    /// The second began with this tick; else this is what became of it since.
    pub is_new: bool,
    /// Its values.
    pub values: Values,
    /// The newest minute that is over since the tick before, by its last second.
    pub minute: Option<(u64, Values)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_keeps_the_worst_of_its_seconds_and_the_mean_of_rates() {
        let mut minute = Minute::default();
        assert_eq!(minute.take(), None);
        for seconds in [
            [10u64; Track::COUNT],
            [70; Track::COUNT],
            [40; Track::COUNT],
        ] {
            minute.add(&seconds);
        }
        let values = minute.take().expect("three seconds");
        let of = |track: Track| values[track.index()];
        assert_eq!((of(Track::ShmUsed), of(Track::Level)), (70, 70));
        assert_eq!((of(Track::Headroom), of(Track::NewRate)), (10, 40));
        assert_eq!((of(Track::Rejected), of(Track::Bindings)), (40, 40));
        minute.add(&[5; Track::COUNT]);
        assert_eq!(minute.take(), Some([5; Track::COUNT]), "it begins anew");
    }
}
