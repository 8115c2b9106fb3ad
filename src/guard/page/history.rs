//! The last hour as the page needs it: one point per sample, at most one per second.
//! Forbidden here: clocks, and knowing where points come from.

use std::collections::VecDeque;

/// Seconds that are kept and shown.
pub const HOUR_S: u64 = 3600;

/// One sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// Unix seconds.
    pub time_s: u64,
    /// Use of shm in 1/100 percent; `None`: not known.
    pub shm: Option<u32>,
    /// The same of the fullest worker's pkg.
    pub pkg: Option<u32>,
    /// The same of the machine's memory.
    pub os: Option<u32>,
    /// New registrations in thousandths per second.
    pub new_rate: u64,
    /// Refreshes.
    pub refresh_rate: u64,
    /// Refusals.
    pub rejected_rate: u64,
}

/// The points of the last hour, oldest first; 3600 at most.
#[derive(Clone, Debug, Default)]
pub struct History {
    points: VecDeque<Point>,
}

impl History {
    /// Adds the newest point. A second one within the same second replaces the first; a clock that was set back
    /// forgets the points that are in its future.
    pub fn push(&mut self, point: Point) {
        while self.points.back().is_some_and(|p| p.time_s >= point.time_s) {
            self.points.pop_back();
        }
        let start = point.time_s.saturating_sub(HOUR_S);
        while self.points.front().is_some_and(|p| p.time_s <= start) {
            self.points.pop_front();
        }
        self.points.push_back(point);
    }

    /// All points in one piece.
    pub fn points(&mut self) -> &[Point] {
        self.points.make_contiguous()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time_s: u64) -> Point {
        Point {
            time_s,
            ..Point::default()
        }
    }

    #[test]
    fn an_hour_is_kept_with_one_point_per_second() {
        let mut history = History::default();
        for tick in 0..40_000 {
            history.push(at(1000 + tick / 10));
        }
        let points = history.points();
        assert_eq!(points.len(), 3600);
        assert_eq!((points[0].time_s, points[3599].time_s), (1400, 4999));
    }

    #[test]
    fn a_clock_that_was_set_back_leaves_times_in_order() {
        let mut history = History::default();
        for time in [100, 101, 200, 150, 151] {
            history.push(at(time));
        }
        let times: Vec<u64> = history.points().iter().map(|p| p.time_s).collect();
        assert_eq!(times, [100, 101, 150, 151]);
    }
}
