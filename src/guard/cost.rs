//! What one registration costs: learned from how use moves with the number of known bindings.
//! Forbidden here: clocks, allocation, and asking the registrar.

use super::trend::median;

/// Intervals that are kept.
const KEPT: usize = 64;
/// Least length of one, milliseconds: the count of bindings lags some seconds behind.
const LEAST_MS: u64 = 10_000;
/// A longer one is taken whatever the bindings did.
const LONGEST_MS: u64 = 60_000;
/// Bindings that must have come or gone for an interval to teach something.
const LEAST_BINDINGS: f64 = 30.0;
/// Intervals that must have taught something before an answer is given.
const LEAST_TAUGHT: usize = 3;

/// Learns bytes per binding from totals. Plain data.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CostLearner {
    /// Seconds, bindings gained, bytes gained.
    kept: [[f64; 3]; KEPT],
    len: usize,
    next: usize,
    since_ms: u64,
    bindings: f64,
    used: f64,
    cost: f64,
}

impl Default for CostLearner {
    fn default() -> Self {
        CostLearner {
            kept: [[0.0; 3]; KEPT],
            len: 0,
            next: 0,
            since_ms: 0,
            bindings: 0.0,
            used: 0.0,
            cost: 0.0,
        }
    }
}

impl CostLearner {
    /// Takes the totals as they stand; answers the cost of one binding in bytes, 0 while it is not known.
    pub fn push(&mut self, now_ms: u64, bindings: u64, used: u64) -> u64 {
        let (bindings, used) = (bindings as f64, used as f64);
        let passed = now_ms.saturating_sub(self.since_ms);
        let gained = bindings - self.bindings;
        if self.since_ms == 0 || now_ms < self.since_ms || passed > 10 * LONGEST_MS {
            (self.since_ms, self.bindings, self.used) = (now_ms, bindings, used);
            return self.cost();
        }
        let teaches = gained.abs() >= LEAST_BINDINGS.max(0.01 * self.bindings);
        if passed >= LONGEST_MS || (passed >= LEAST_MS && teaches) {
            if let Some(slot) = self.kept.get_mut(self.next) {
                *slot = [passed as f64 / 1000.0, gained, used - self.used];
            }
            self.next = (self.next + 1) % KEPT;
            self.len = (self.len + 1).min(KEPT);
            (self.since_ms, self.bindings, self.used) = (now_ms, bindings, used);
            self.learn();
        }
        self.cost()
    }

    /// Bytes per binding; 0 while it is not known.
    pub fn cost(&self) -> u64 {
        self.cost as u64
    }

    /// Huber's regression of bytes on bindings and time (a leak goes on without bindings), without a constant.
    fn learn(&mut self) {
        let kept = &self.kept[..self.len];
        if kept.iter().filter(|k| k[1].abs() >= LEAST_BINDINGS).count() < LEAST_TAUGHT {
            return;
        }
        let mut weights = [1.0; KEPT];
        let mut scratch = [0.0; KEPT];
        let (mut cost, mut ratio) = (0.0, 0.0);
        for _ in 0..6 {
            let (mut bb, mut bt, mut tt, mut bu, mut tu) = (0.0, 0.0, 0.0, 0.0, 0.0);
            for (weight, [t, b, u]) in weights.iter().zip(kept) {
                bb += weight * b * b;
                bt += weight * b * t;
                tt += weight * t * t;
                bu += weight * b * u;
                tu += weight * t * u;
            }
            let apart = bb * tt - bt * bt;
            // Bindings that come as steadily as time passes cannot be told from a leak: then all of it is theirs.
            let leak;
            (cost, leak) = match apart > 0.02 * bb * tt {
                true => ((bu * tt - tu * bt) / apart, (tu * bb - bu * bt) / apart),
                false => (bu / bb.max(1.0), 0.0),
            };
            for (slot, [t, b, u]) in scratch.iter_mut().zip(kept) {
                *slot = (u - cost * b - leak * t).abs();
            }
            let mut rests = scratch;
            let scatter = (1.48 * median(&mut rests[..kept.len()])).max(256.0);
            for (weight, rest) in weights.iter_mut().zip(&scratch) {
                *weight = (1.5 * scatter / rest.max(1.0)).min(1.0);
            }
            ratio = scatter * (kept.len() as f64).sqrt() / (bb.sqrt() * cost.abs().max(1.0));
        }
        // Less than a small string or more than 64 KiB is no registration; nor is what scatters as much as itself.
        if (64.0..65_536.0).contains(&cost) && ratio < 1.0 {
            self.cost = cost;
        }
    }
}

/// Registrations that fit below the point where every new one is refused.
pub fn registrations_left(full_bytes: u64, used: u64, cost: u64) -> u64 {
    full_bytes.saturating_sub(used) / cost.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds an hour of seconds; answers the cost.
    fn hour(bindings: impl Fn(u64) -> u64, other: impl Fn(u64) -> u64) -> u64 {
        let mut learner = CostLearner::default();
        (0..3600).fold(0, |_, s| {
            let known = bindings(s);
            learner.push(
                1_000_000 + s * 1000,
                known,
                5_000_000 + 1180 * known + other(s),
            )
        })
    }

    #[test]
    fn the_cost_is_found_under_noise_and_under_a_leak() {
        let wave = |s: u64| 20_000 + ((s as f64 / 400.0).sin() * 5_000.0) as u64;
        let noise = |s: u64| s.wrapping_mul(2_654_435_761) % 60_000;
        for (what, cost) in [
            ("plain", hour(wave, |_| 0)),
            ("noise", hour(wave, noise)),
            ("leak", hour(wave, |s| s * 3_000)),
            (
                "a reload",
                hour(wave, |s| if s > 1800 { 9_000_000 } else { 0 }),
            ),
        ] {
            assert!((1_120..1_240).contains(&cost), "{what}: {cost}");
        }
    }

    #[test]
    fn without_bindings_that_come_or_go_nothing_is_claimed() {
        assert_eq!(hour(|_| 10_000, |s| s * 5_000), 0);
        assert_eq!(registrations_left(1000, 2000, 0), 0);
        assert_eq!(registrations_left(10_000, 2000, 1000), 8);
    }
}
