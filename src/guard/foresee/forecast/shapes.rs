//! Shapes of a series of marks: ranges, rises, what was given back, day against day.
//! Forbidden here: what they mean for a forecast.

use crate::guard::foresee::trend::{MOST_POINTS, median, spread};

/// Range of the middle nine tenths: a storm does not count.
pub(super) fn usual_range(values: &[f64]) -> f64 {
    let mut sorted = [0.0; MOST_POINTS];
    let count = values.len();
    sorted[..count].copy_from_slice(values);
    let sorted = &mut sorted[..count];
    sorted.sort_unstable_by(f64::total_cmp);
    let skipped = count / 20;
    sorted[count - 1 - skipped] - sorted[skipped]
}

/// From the first points of a window to its last ones.
pub(super) fn rise_of(values: &[f64]) -> f64 {
    let few = (values.len() / 8).clamp(1, 9);
    let mut first = [0.0; 9];
    let mut last = [0.0; 9];
    first[..few].copy_from_slice(&values[..few]);
    last[..few].copy_from_slice(&values[values.len() - few..]);
    let between = (values.len() - few) as f64;
    // the middles of both groups are that far apart; the window is a little longer
    (median(&mut last[..few]) - median(&mut first[..few])) * values.len() as f64 / between
}

/// The largest rise over a lag that was given back later.
pub(super) fn given_back(values: &[f64], lag: usize) -> f64 {
    let mut lowest = f64::MAX;
    let mut largest = 0.0f64;
    for late in (lag..values.len()).rev() {
        if lowest < f64::MAX {
            let rise = values[late] - values[late - lag];
            largest = largest.max(rise.min(values[late] - lowest));
        }
        lowest = lowest.min(values[late]);
    }
    largest
}

/// Differences over a lag into `into`; answers how many.
pub(super) fn differences(values: &[f64], lag: usize, into: &mut [f64; MOST_POINTS]) -> usize {
    let mut count = 0;
    for (early, late) in values.iter().zip(values.get(lag..).unwrap_or_default()) {
        into[count] = late - early;
        count += 1;
    }
    count
}

/// Median and robust standard deviation; destroys the values.
pub(super) fn deviation(values: &mut [f64]) -> (f64, f64) {
    let middle = median(values);
    if spread(values) == 0.0 {
        return (middle, 0.0);
    }
    for value in values.iter_mut() {
        *value = (*value - middle).abs();
    }
    (middle, 1.48 * median(values))
}

/// No two of its steps make more than the share `most` of its rise: that would be a step, and no growth.
pub fn is_even(lows: &[f64], rise: f64, most: f64) -> bool {
    let (mut largest, mut second) = (0.0f64, 0.0f64);
    for pair in lows.windows(2) {
        let step = pair[1] - pair[0];
        if step > largest {
            (largest, second) = (step, largest);
        } else {
            second = second.max(step);
        }
    }
    largest + second < most * rise.max(f64::MIN_POSITIVE)
}
