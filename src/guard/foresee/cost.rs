//! What one registration costs: learned from how use moves with the number of known bindings and of connections.
//! Forbidden here: clocks, allocation, and asking the registrar.
//!
//! A phone on TCP, TLS or WebSocket brings a connection, which holds many times what its binding holds. While all phones
//! come alike, a binding and what comes with it are one figure. As soon as bindings and connections move differently
//! the two are told apart, and the next registration costs what a binding costs and as much of a connection as the
//! last ones brought.

use crate::guard::foresee::trend::median;

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

/// Quiet and busy intervals that must have been seen before what comes with time is told from what comes with bindings:
/// one idle minute in which the server was still starting would make every binding too cheap.
const LEAST_EACH: usize = 3;
/// Bindings come or go at less than this share of the fastest rate: a quiet interval.
const QUIET: f64 = 0.7;
/// A cost is shown when its standard error is below this share of it, and two looks in a row agree so well.
const LEAST_SURE: f64 = 0.075;
const AGREE: f64 = 0.12;

/// Learns bytes per binding from totals. Plain data.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct CostLearner {
    /// Seconds, bindings gained, connections gained, bytes gained.
    kept: [[f64; 4]; KEPT],
    len: usize,
    next: usize,
    since_ms: u64,
    bindings: f64,
    connections: f64,
    used: f64,
    cost: f64,
    /// What the last look found, shown or not.
    candidate: f64,
    /// What a binding and a connection cost, once they are told apart.
    parts: Option<(f64, f64)>,
}

impl Default for CostLearner {
    fn default() -> Self {
        CostLearner {
            kept: [[0.0; 4]; KEPT],
            len: 0,
            next: 0,
            since_ms: 0,
            bindings: 0.0,
            connections: 0.0,
            used: 0.0,
            cost: 0.0,
            candidate: 0.0,
            parts: None,
        }
    }
}

impl CostLearner {
    /// Takes the totals as they stand; answers the cost of one binding in bytes, 0 while it is not known.
    pub fn push(&mut self, now_ms: u64, bindings: u64, connections: u64, used: u64) -> u64 {
        let (bindings, connections, used) = (bindings as f64, connections as f64, used as f64);
        let passed = now_ms.saturating_sub(self.since_ms);
        let gained = [
            passed as f64 / 1000.0,
            bindings - self.bindings,
            connections - self.connections,
            used - self.used,
        ];
        let is_first = self.since_ms == 0 || now_ms < self.since_ms || passed > 10 * LONGEST_MS;
        let teaches = |gained: f64, of: f64| gained.abs() >= LEAST_BINDINGS.max(0.01 * of);
        let taught = teaches(gained[1], self.bindings) || teaches(gained[2], self.connections);
        let is_over = passed >= LONGEST_MS || (passed >= LEAST_MS && taught);
        if is_first || is_over {
            self.since_ms = now_ms;
            (self.bindings, self.connections, self.used) = (bindings, connections, used);
        }
        if is_over && !is_first {
            if let Some(slot) = self.kept.get_mut(self.next) {
                *slot = gained;
            }
            self.next = (self.next + 1) % KEPT;
            self.len = (self.len + 1).min(KEPT);
            self.learn();
        }
        self.cost()
    }

    /// Bytes per binding, with what of a connection comes with it; 0 while it is not known.
    pub fn cost(&self) -> u64 {
        self.cost as u64
    }

    /// Bytes of a binding and of a connection, once they are told apart.
    pub fn parts(&self) -> Option<(u64, u64)> {
        self.parts
            .map(|(binding, connection)| (binding as u64, connection as u64))
    }

    /// Huber's regression of bytes on bindings, connections and time (a leak goes on without bindings), without a
    /// constant.
    fn learn(&mut self) {
        let kept = &self.kept[..self.len];
        if kept.iter().filter(|k| k[1].abs() >= LEAST_BINDINGS).count() < LEAST_TAUGHT {
            return;
        }
        // Connections that come exactly with the bindings, or not at all, cannot be told from them.
        let sum = |i: usize, j: usize| kept.iter().map(|k| k[i] * k[j]).sum::<f64>();
        let (bb, bn, nn) = (sum(1, 1), sum(1, 2), sum(2, 2));
        let has_connections = nn >= LEAST_BINDINGS * LEAST_BINDINGS;
        let are_apart = has_connections && bb * nn - bn * bn > APART * bb * nn;
        let rate = |k: &[f64; 4]| k[1].abs() / k[0].max(1.0);
        let most = kept.iter().map(rate).fold(0.0, f64::max);
        let quiet = kept.iter().filter(|k| rate(k) < QUIET * most).count();
        let has_time = quiet >= LEAST_EACH && kept.len() - quiet >= LEAST_EACH;
        let mut weights = [1.0; KEPT];
        let mut scratch = [0.0; KEPT];
        let (mut costs, mut ratio) = ([0.0; 3], 0.0);
        for _ in 0..6 {
            costs = fitted(kept, &weights, are_apart, has_time);
            for (slot, [t, b, n, u]) in scratch.iter_mut().zip(kept) {
                *slot = (u - costs[0] * b - costs[1] * n - costs[2] * t).abs();
            }
            let mut rests = scratch;
            let scatter = (1.48 * median(&mut rests[..kept.len()])).max(256.0);
            for (weight, rest) in weights.iter_mut().zip(&scratch) {
                *weight = (1.5 * scatter / rest.max(1.0)).min(1.0);
            }
            let moved = (costs[0] * costs[0] * bb + costs[1] * costs[1] * nn).sqrt();
            ratio = scatter / moved.max(1.0);
        }
        let cost = costs[0] + costs[1] * self.connections_per_binding();
        // Less than a small string or more than 256 KiB (TLS: up to 130 KiB) is no registration; nor is what is not
        // sure, or was not found twice.
        let is_plausible = (64.0..262_144.0).contains(&cost) && costs[0] >= 0.0 && costs[1] >= 0.0;
        let is_found_twice = (cost - self.candidate).abs() <= AGREE * cost;
        self.candidate = if is_plausible { cost } else { 0.0 };
        if is_plausible && ratio < LEAST_SURE && is_found_twice {
            self.cost = cost;
            if are_apart {
                self.parts = Some((costs[0], costs[1]));
            }
        }
    }

    /// Connections that came with each binding lately, 0 to 1.
    fn connections_per_binding(&self) -> f64 {
        let (mut bindings, mut connections, mut intervals) = (0.0, 0.0, 0);
        for back in 1..=self.len {
            let at = (self.next + KEPT - back) % KEPT;
            if let Some([_, b, n, _]) = self.kept.get(at).filter(|k| k[1] >= LEAST_BINDINGS) {
                bindings += b;
                connections += n;
                intervals += 1;
            }
            if intervals == LATELY {
                break;
            }
        }
        if bindings > 0.0 {
            (connections / bindings).clamp(0.0, 1.0)
        } else {
            0.0
        }
    }
}

/// Two series are told apart when this part of them is not the other's.
const APART: f64 = 0.02;
/// Intervals with new bindings that say how phones come lately.
const LATELY: usize = 3;

/// Bytes per binding, per connection (0 when they are not told apart) and per second.
fn fitted(kept: &[[f64; 4]], weights: &[f64; KEPT], are_apart: bool, has_time: bool) -> [f64; 3] {
    let sum = |i: usize, j: usize| {
        let weighed = weights.iter().zip(kept).map(|(w, k)| w * k[i] * k[j]);
        weighed.sum::<f64>()
    };
    let (tt, bb, nn) = (sum(0, 0), sum(1, 1), sum(2, 2));
    let (bt, nt, bn) = (sum(1, 0), sum(2, 0), sum(1, 2));
    let (bu, nu, tu) = (sum(1, 3), sum(2, 3), sum(0, 3));
    if are_apart {
        let det3 = |m: [[f64; 3]; 3]| {
            m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1])
                - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
                + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
        };
        let whole = det3([[bb, bn, bt], [bn, nn, nt], [bt, nt, tt]]);
        // What comes as steadily as time passes cannot be told from a leak: then all of it is theirs.
        if has_time && whole > APART * APART * bb * nn * tt {
            return [
                det3([[bu, bn, bt], [nu, nn, nt], [tu, nt, tt]]) / whole,
                det3([[bb, bu, bt], [bn, nu, nt], [bt, tu, tt]]) / whole,
                det3([[bb, bn, bu], [bn, nn, nu], [bt, nt, tu]]) / whole,
            ];
        }
        let apart = (bb * nn - bn * bn).max(f64::MIN_POSITIVE);
        return [
            (bu * nn - nu * bn) / apart,
            (nu * bb - bu * bn) / apart,
            0.0,
        ];
    }
    let apart = bb * tt - bt * bt;
    match has_time && apart > APART * bb * tt {
        true => [
            (bu * tt - tu * bt) / apart,
            0.0,
            (tu * bb - bu * bt) / apart,
        ],
        false => [bu / bb.max(1.0), 0.0, 0.0],
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
                0,
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

    /// An hour in which so many phones register per second: over UDP, then (from `tcp_from` on) over TCP.
    fn evening(tcp_from: u64, leak: u64) -> CostLearner {
        let mut learner = CostLearner::default();
        let (mut udp, mut tcp) = (0, 0);
        for s in 0..3_600u64 {
            let coming = 2 + (s / 300) % 4;
            if s < tcp_from {
                udp += coming;
            } else {
                tcp += coming;
            }
            let used = 5_000_000 + 1_180 * (udp + tcp) + 17_600 * tcp + leak * s;
            learner.push(1_000_000 + s * 1000, udp + tcp, tcp, used);
        }
        learner
    }

    #[test]
    fn a_registration_costs_what_its_transport_costs() {
        let within = |cost: u64, truth: u64| cost.abs_diff(truth) * 50 < truth;
        let udp = evening(u64::MAX, 0);
        assert!(
            within(udp.cost(), 1_180) && udp.parts().is_none(),
            "{}",
            udp.cost()
        );
        let tcp = evening(0, 0);
        assert!(
            within(tcp.cost(), 18_780) && tcp.parts().is_none(),
            "{}",
            tcp.cost()
        );
        for leak in [0, 2_000] {
            let both = evening(1_800, leak);
            let (binding, connection) = both.parts().expect("told apart");
            assert!(
                within(connection, 17_600) && binding.abs_diff(1_180) < 120,
                "{binding} {connection}"
            );
            assert!(
                within(both.cost(), 18_780),
                "the last ones came over TCP: {}",
                both.cost()
            );
        }
    }

    #[test]
    fn connections_that_end_while_bindings_stay_do_not_make_a_binding_cheaper() {
        let mut learner = CostLearner::default();
        let (mut known, mut open) = (0u64, 0u64);
        for s in 0..3_600u64 {
            known += 3;
            open += 3;
            if s % 600 == 599 {
                open -= 1_200;
            }
            let used = 5_000_000 + 1_180 * known + 17_600 * open;
            learner.push(1_000_000 + s * 1000, known, open, used);
        }
        let (binding, connection) = learner.parts().expect("told apart");
        assert!(
            binding.abs_diff(1_180) < 120 && connection.abs_diff(17_600) < 400,
            "{binding} {connection}"
        );
    }

    #[test]
    fn a_cost_is_absent_until_it_is_right_on_a_steady_stream() {
        // idle seconds before the stream, what the server still takes meanwhile, phones per second, bytes of noise
        for (idle, starting, rate, noise) in [
            (0, 0, 60, 0),
            (60, 1_000_000, 60, 0),
            (75, 1_500_000, 98, 60_000),
            (200, 1_000_000, 40, 20_000),
            (600, 2_000_000, 10, 5_000),
        ] {
            let mut learner = CostLearner::default();
            let mut shown = Vec::new();
            for s in 0..1_500u64 {
                let came = s.saturating_sub(idle) * rate;
                // the table is counted in two parts: the older half is a tick behind
                let known = came - (s.saturating_sub(idle).min(1)) * rate / 2;
                let scatter = s.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                let used =
                    5_000_000 + 928 * came + starting * s.min(40) / 40 + scatter % (noise + 1);
                let cost = learner.push(1_000_000 + s * 1000, known, 0, used);
                if cost > 0 {
                    shown.push((s, cost));
                }
            }
            let case = (idle, starting, rate, noise);
            let (first, _) = shown.first().unwrap_or_else(|| panic!("never: {case:?}"));
            assert!(*first < idle + 150, "{case:?}: {first}");
            for (s, cost) in &shown {
                assert!(
                    cost.abs_diff(928) * 100 <= 15 * 928,
                    "{case:?}: {cost} at {s}"
                );
            }
        }
    }

    #[test]
    fn without_bindings_that_come_or_go_nothing_is_claimed() {
        assert_eq!(hour(|_| 10_000, |s| s * 5_000), 0);
        assert_eq!(registrations_left(1000, 2000, 0), 0);
        assert_eq!(registrations_left(10_000, 2000, 1000), 8);
    }
}
