//! The last hour by second and the last day by minute of the figures that people look back at.
//! Forbidden here: a second writer (the sampling process), and taking samples.

pub use crate::guard::decide::track::{Track, Values};
use crate::shared::parts::{
    mapping::SharedZeroable,
    series::Series,
    sync::{AtomicU64, Ordering},
};

/// Seconds that can be read back.
pub const SECONDS: usize = 3600;
/// Minutes that can be read back.
pub const MINUTES: usize = 1440;

/// One remembered figure.
#[repr(C)]
struct Both {
    seconds: Series<{ SECONDS + 1 }>,
    minutes: Series<{ MINUTES + 1 }>,
}

/// All of them: about 400 KB. A longer sample interval repeats the last value, so a step is always a second.
///
/// ```text
/// offset   0            8
///          newest second │ track 0: seconds, minutes │ track 1 │ …
/// ```
#[repr(C)]
pub struct History {
    newest_s: AtomicU64,
    tracks: [Both; Track::COUNT],
}

// SAFETY: atomics only.
unsafe impl SharedZeroable for History {}

/// Values at a step, oldest first; the last one belongs to the newest step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// Seconds between two values.
    pub step_s: u64,
    /// The values.
    pub values: Vec<u64>,
}

impl History {
    /// Adds the values of the second `time_s` (server time), and those of the minute that ends with it. Writer: the sampling
    /// process.
    pub fn push(&self, time_s: u64, values: &Values, minute: Option<&Values>) {
        for (both, value) in self.tracks.iter().zip(values) {
            both.seconds.push(*value);
        }
        for (both, value) in self.tracks.iter().zip(minute.into_iter().flatten()) {
            both.minutes.push(*value);
        }
        // ORDERING: Relaxed; a reader may take it for the second before or after, which moves a picture by one second.
        self.newest_s.store(time_s, Ordering::Relaxed);
    }

    /// The second that the newest values belong to, server time; 0 before the first.
    pub fn newest_s(&self) -> u64 {
        // ORDERING: Relaxed; see push.
        self.newest_s.load(Ordering::Relaxed)
    }

    /// The last `points` values at about `step_s`: steps below a minute come from the hour, others from the day.
    pub fn last(&self, track: Track, points: usize, step_s: u64) -> Past {
        let Some(both) = self.tracks.get(track.index()) else {
            return Past {
                step_s,
                values: Vec::new(),
            };
        };
        let step_s = step_s.max(1);
        let by_second = step_s < 60;
        let stride = if by_second { step_s } else { step_s / 60 } as usize;
        let value = |back: usize| match by_second {
            true => both.seconds.back(back),
            false => both.minutes.back(back),
        };
        let mut values: Vec<u64> = (0..points).map_while(|i| value(i * stride)).collect();
        values.reverse();
        let step_s = if by_second {
            step_s
        } else {
            stride as u64 * 60
        };
        Past { step_s, values }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::shared::parts::mapping;

    #[test]
    fn the_hour_and_the_day_are_read_back_at_a_step() {
        let history = mapping::map_one::<History>().expect("some memory");
        for second in 1..=7200u64 {
            let values = [second; Track::COUNT];
            history.push(second, &values, (second % 60 == 0).then_some(&values));
        }
        assert_eq!(history.newest_s(), 7200);
        assert_eq!(history.last(Track::Level, 3, 1).values, [7198, 7199, 7200]);
        assert_eq!(history.last(Track::Level, 3, 10).values, [7180, 7190, 7200]);
        assert_eq!(history.last(Track::Level, 9999, 1).values.len(), SECONDS);
        let past = history.last(Track::ShmUsed, 2, 600);
        assert_eq!((past.step_s, past.values), (600, vec![6600, 7200]));
    }
}
