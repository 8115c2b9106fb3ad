//! Low-water marks of one figure at several resolutions, and the robust trend of a window of them.
//! Forbidden here: clocks, allocation, and what a trend means for the server (see `forecast`).

/// How many load signals go with each sample (for shm: known bindings, messages per second).
pub const SIGNALS: usize = 2;
/// Most points of one window: the largest ring.
pub const MOST_POINTS: usize = 720;

/// The low-water mark of one bucket of time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct Point {
    /// Smallest use in the bucket, bytes.
    pub low: f64,
    /// How far use rose above it within the bucket, bytes.
    pub swing: f32,
    /// The load signals at the moment of the smallest use.
    pub load: [f32; SIGNALS],
}

/// The last `N` buckets of one length. Plain data; `Ring::new` is all there is to set up.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Ring<const N: usize> {
    step_ms: u64,
    /// Number of the bucket that is being filled (time divided by its length); 0: none yet.
    open_number: u64,
    open: Point,
    next: usize,
    len: usize,
    points: [Point; N],
}

impl<const N: usize> Ring<N> {
    /// An empty ring of buckets of `step_ms`.
    pub const fn new(step_ms: u64) -> Ring<N> {
        let zero = Point {
            low: 0.0,
            swing: 0.0,
            load: [0.0; SIGNALS],
        };
        Ring {
            step_ms,
            open_number: 0,
            open: zero,
            next: 0,
            len: 0,
            points: [zero; N],
        }
    }

    /// Length of a bucket in seconds.
    pub fn step_s(&self) -> f64 {
        self.step_ms as f64 / 1000.0
    }

    /// How many buckets are complete and kept.
    pub fn complete(&self) -> usize {
        self.len
    }

    /// Takes a sample; answers whether that completed a bucket.
    ///
    /// A short gap repeats the last bucket; a long one (or a clock that was set back) empties the ring.
    pub fn push(&mut self, time_ms: u64, used: f64, load: [f32; SIGNALS]) -> bool {
        const LONGEST_GAP: u64 = 3; // buckets
        let number = time_ms / self.step_ms.max(1);
        let sample = Point {
            low: used,
            swing: 0.0,
            load,
        };
        if number == self.open_number {
            let high = self.open.low + f64::from(self.open.swing);
            if used < self.open.low {
                self.open = sample;
            }
            self.open.swing = (high.max(used) - self.open.low) as f32;
            return false;
        }
        let gap = number.wrapping_sub(self.open_number);
        let closes = self.open_number != 0 && gap <= LONGEST_GAP;
        if closes {
            for _ in 0..gap {
                self.keep(self.open);
            }
        } else {
            self.len = 0;
        }
        self.open_number = number;
        self.open = sample;
        closes
    }

    fn keep(&mut self, point: Point) {
        if let Some(slot) = self.points.get_mut(self.next) {
            *slot = point;
        }
        self.next = (self.next + 1) % N;
        self.len = (self.len + 1).min(N);
    }

    /// The point `back` buckets before the newest complete one.
    pub fn back(&self, back: usize) -> Option<&Point> {
        if back >= self.len {
            return None;
        }
        self.points.get((self.next + 2 * N - 1 - back) % N)
    }

    /// The last `count` points, oldest first.
    pub fn last(&self, count: usize) -> impl Iterator<Item = &Point> {
        (0..count.min(self.len))
            .rev()
            .filter_map(|back| self.back(back))
    }
}

/// The trend of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trend {
    /// Growth that the load does not explain, bytes per second.
    pub slope: f64,
    /// Its standard error, with the noise's own memory allowed for.
    pub error: f64,
    /// Growth of the low-water mark as it is, bytes per second.
    pub raw_slope: f64,
    /// Scatter around the trend, bytes.
    pub scatter: f64,
    /// Bytes per unit of each load signal.
    pub cost: [f64; SIGNALS],
    /// Share of the window's variation that trend and load explain, 0 to 1.
    pub fit: f64,
    /// Length of the window in seconds.
    pub span_s: f64,
    /// Points in it.
    pub points: usize,
}

impl Trend {
    /// Its error as a share of its slope.
    pub fn doubt(&self) -> f64 {
        self.error / self.slope.max(f64::MIN_POSITIVE)
    }
}

/// Scratch of one window: columns of numbers, steps taken out.
#[derive(Clone, Copy)]
pub struct Window {
    /// Points in use.
    pub len: usize,
    /// Seconds between two points.
    pub step_s: f64,
    /// Low-water marks, bytes.
    pub low: [f64; MOST_POINTS],
    /// Load signals.
    pub load: [[f64; MOST_POINTS]; SIGNALS],
}

impl Window {
    /// The last `count` points of a ring; steps in them are taken out.
    ///
    /// `least_step` is the smallest jump in bytes that can be a step (a reload, a restarted neighbour).
    pub fn of<const N: usize>(ring: &Ring<N>, count: usize, least_step: f64) -> Window {
        let mut window = Window {
            len: 0,
            step_s: ring.step_s(),
            low: [0.0; MOST_POINTS],
            load: [[0.0; MOST_POINTS]; SIGNALS],
        };
        for (i, point) in ring.last(count.min(MOST_POINTS)).enumerate() {
            window.low[i] = point.low;
            for (column, value) in window.load.iter_mut().zip(point.load) {
                column[i] = f64::from(value);
            }
            window.len = i + 1;
        }
        window.level_steps(least_step);
        window
    }

    /// Use, oldest first.
    pub fn lows(&self) -> &[f64] {
        &self.low[..self.len]
    }

    /// Takes out jumps up between two neighbours: what stands alone among the increments is a step, not a trend. A jump
    /// down is taken out only as far as it takes one of these back: memory that was given back is no growth.
    fn level_steps(&mut self, least_step: f64) {
        if self.len < 8 {
            return;
        }
        let count = self.len - 1;
        let mut increments = [0.0; MOST_POINTS];
        for (slot, pair) in increments.iter_mut().zip(self.lows().windows(2)) {
            *slot = pair[1] - pair[0];
        }
        let mut scratch = increments;
        let usual = median(&mut scratch[..count]);
        for value in &mut scratch[..count] {
            *value = (*value - usual).abs();
        }
        let scatter = 1.48 * median(&mut scratch[..count]);
        let least = least_step
            .max(8.0 * scatter)
            .max(0.25 * spread(self.lows()));
        let mut taken = 0.0;
        for at in 1..self.len {
            let jump = increments[at - 1] - usual;
            if jump >= least {
                taken += jump;
            } else if jump <= -least {
                taken = f64::max(taken + jump, 0.0);
            }
            self.low[at] -= taken;
        }
    }

    /// The trend of the points from `from` to `to`; `None` below 8 points.
    pub fn trend(&self, from: usize, to: usize) -> Option<Trend> {
        let len = to.checked_sub(from).filter(|len| *len >= 8)?;
        let low = self.low.get(from..to)?;
        let mut uses = [false; SIGNALS];
        for (used, column) in uses.iter_mut().zip(&self.load) {
            let column = column.get(from..to)?;
            let mean = column.iter().sum::<f64>() / len as f64;
            *used = spread(column) > 0.03 * mean.abs() && spread(column) > 0.0;
        }
        // A load that would free memory when it rises explains nothing: leave it out and look again. But what could
        // not be told apart with it cannot be told apart without it either: the larger error stays.
        let mut error = 0.0f64;
        for _ in 0..=SIGNALS {
            let columns = [
                uses[0].then_some(&self.load[0][from..to]),
                uses[1].then_some(&self.load[1][from..to]),
            ];
            let mut fit = regress(low, columns, self.step_s)?;
            error = error.max(fit.error);
            fit.error = error;
            match fit.cost.iter().position(|cost| *cost < 0.0) {
                Some(bad) => uses[bad] = false,
                None => return Some(fit),
            }
        }
        None
    }
}

/// Largest less smallest.
pub fn spread(values: &[f64]) -> f64 {
    let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(low, high), v| {
        (low.min(*v), high.max(*v))
    });
    (high - low).max(0.0)
}

/// The middle value; reorders. 0 for none.
pub fn median(values: &mut [f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

/// Theil's slope from pairs a third, a half and two thirds of the window apart (nearly as sharp as all pairs, and
/// linear in time), per step.
pub fn theil(values: &[f64]) -> f64 {
    let len = values.len();
    let mut slopes = [0.0; 2 * MOST_POINTS];
    let mut count = 0;
    for lag in [len / 3, len / 2, 2 * len / 3] {
        if lag == 0 {
            continue;
        }
        for (early, late) in values.iter().zip(&values[lag..]) {
            if let Some(slot) = slopes.get_mut(count) {
                *slot = (late - early) / lag as f64;
                count += 1;
            }
        }
    }
    median(&mut slopes[..count])
}

/// Most columns of the regression: one, time, loads.
const COLUMNS: usize = 2 + SIGNALS;

/// Huber's regression of the low-water mark on time and the loads that vary; the slope is Theil's of what is left
/// after the loads' part.
fn regress(low: &[f64], loads: [Option<&[f64]>; SIGNALS], step_s: f64) -> Option<Trend> {
    let len = low.len();
    let middle = (len as f64 - 1.0) / 2.0;
    // Columns are centred and scaled, or the normal equations would be ill-conditioned by their units.
    let mut mean = [0.0; SIGNALS];
    let mut scale = [1.0; SIGNALS];
    for (i, load) in loads.iter().enumerate() {
        if let Some(load) = load {
            mean[i] = load.iter().sum::<f64>() / len as f64;
            scale[i] = spread(load).max(f64::MIN_POSITIVE);
        }
    }
    let row = |i: usize| {
        let mut row = [0.0; COLUMNS];
        row[0] = 1.0;
        row[1] = (i as f64 - middle) / len as f64;
        for (k, load) in loads.iter().enumerate() {
            if let Some(value) = load.and_then(|load| load.get(i)) {
                row[2 + k] = (value - mean[k]) / scale[k];
            }
        }
        row
    };
    let mut weights = [1.0; MOST_POINTS];
    let mut rest = [0.0; MOST_POINTS];
    let mut scratch = [0.0; MOST_POINTS];
    let mut found = [0.0; COLUMNS];
    let mut inverse = [[0.0; COLUMNS]; COLUMNS];
    let mut scatter = 0.0;
    for _ in 0..4 {
        let mut matrix = [[0.0; COLUMNS]; COLUMNS];
        let mut right = [0.0; COLUMNS];
        for i in 0..len {
            let row = row(i);
            for a in 0..COLUMNS {
                right[a] += weights[i] * row[a] * low[i];
                for b in 0..COLUMNS {
                    matrix[a][b] += weights[i] * row[a] * row[b];
                }
            }
        }
        for (k, load) in loads.iter().enumerate() {
            if load.is_none() {
                matrix[2 + k][2 + k] = 1.0;
            }
        }
        inverse = invert(matrix)?;
        for a in 0..COLUMNS {
            found[a] = (0..COLUMNS).map(|b| inverse[a][b] * right[b]).sum();
        }
        for i in 0..len {
            let row = row(i);
            rest[i] = low[i] - (0..COLUMNS).map(|a| row[a] * found[a]).sum::<f64>();
            scratch[i] = rest[i].abs();
        }
        scatter = (1.48 * median(&mut scratch[..len])).max(1.0);
        for (weight, rest) in weights.iter_mut().zip(&rest[..len]) {
            *weight = (1.5 * scatter / rest.abs().max(1.0)).min(1.0);
        }
    }
    let cost: [f64; SIGNALS] = std::array::from_fn(|k| match loads[k] {
        Some(_) => found[2 + k] / scale[k],
        None => 0.0,
    });
    for i in 0..len {
        let explained: f64 = (0..SIGNALS)
            .map(|k| {
                loads[k]
                    .and_then(|l| l.get(i))
                    .map_or(0.0, |v| cost[k] * (v - mean[k]))
            })
            .sum();
        scratch[i] = low[i] - explained;
    }
    let slope = theil(&scratch[..len]);
    let by_least_squares = found[1] / len as f64;
    // Noise with a memory carries less news than its number of points says.
    let (mut both, mut own) = (0.0, f64::MIN_POSITIVE);
    for pair in rest[..len].windows(2) {
        both += pair[0] * pair[1];
        own += pair[0] * pair[0];
    }
    let memory = (both / own).clamp(0.0, 0.95);
    let variance = scatter * scatter * inverse[1][1].max(0.0) * (1.0 + memory) / (1.0 - memory);
    let error = variance.sqrt() / len as f64 + 0.5 * (slope - by_least_squares).abs();
    let mean_low = low.iter().sum::<f64>() / len as f64;
    let total: f64 = low.iter().map(|v| (v - mean_low).powi(2)).sum();
    let left: f64 = rest[..len].iter().map(|v| v * v).sum();
    Some(Trend {
        slope: slope / step_s,
        error: error / step_s,
        raw_slope: theil(low) / step_s,
        scatter,
        cost,
        fit: if total > 0.0 {
            (1.0 - left / total).clamp(0.0, 1.0)
        } else {
            0.0
        },
        span_s: len as f64 * step_s,
        points: len,
    })
}

/// Gauss-Jordan with pivots; `None` when the columns are not independent.
fn invert(mut matrix: [[f64; COLUMNS]; COLUMNS]) -> Option<[[f64; COLUMNS]; COLUMNS]> {
    let mut inverse = [[0.0; COLUMNS]; COLUMNS];
    for (i, row) in inverse.iter_mut().enumerate() {
        row[i] = 1.0;
    }
    for at in 0..COLUMNS {
        let pivot =
            (at..COLUMNS).max_by(|a, b| matrix[*a][at].abs().total_cmp(&matrix[*b][at].abs()))?;
        matrix.swap(at, pivot);
        inverse.swap(at, pivot);
        let divisor = matrix[at][at];
        if divisor.abs() < 1e-9 {
            return None;
        }
        for column in 0..COLUMNS {
            matrix[at][column] /= divisor;
            inverse[at][column] /= divisor;
        }
        for row in 0..COLUMNS {
            let factor = matrix[row][at];
            if row == at || factor == 0.0 {
                continue;
            }
            for column in 0..COLUMNS {
                matrix[row][column] -= factor * matrix[at][column];
                inverse[row][column] -= factor * inverse[at][column];
            }
        }
    }
    Some(inverse)
}
