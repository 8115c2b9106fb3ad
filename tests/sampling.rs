//! The estimate from samples against the truth, on streams of blocks whose sizes are known.
//!
//! * It is unbiased for small, large and mixed blocks, at small and large rates, and over a change of the rate.
//! * What is left after frees is estimated as well as what was allocated.
//! * At rate 1 it is exact, at rate 0 there is none; both from the next look at the rate on.
//!
//! Seeds are fixed: a run that fails fails again.

use memguard::guard::foresee::sampling::{Countdown, spread, weight};

/// One process's stream.
struct Stream {
    countdown: Countdown,
    counter: u64,
}

impl Stream {
    fn new(seed: u64) -> Stream {
        Stream {
            countdown: Countdown::new(),
            counter: spread(seed),
        }
    }

    fn random(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        spread(self.counter)
    }

    /// As the wrapper does: whether the block is sampled.
    fn allocate(&mut self, size: u64, rate: u64) -> bool {
        self.countdown.left -= size as i64;
        let random = self.random();
        self.countdown.left < 0 && self.countdown.expired(rate, random)
    }
}

/// Mean and standard deviation of the sum of weights over blocks of these sizes (each is sampled for itself with
/// probability size ÷ weight).
fn expected(sizes: &[u64], rate: u64) -> (f64, f64) {
    let sum: u64 = sizes.iter().sum();
    let variance: f64 = sizes
        .iter()
        .map(|&size| {
            let p = size as f64 / weight(size, rate) as f64;
            (size as f64).powi(2) * (1.0 - p) / p
        })
        .sum();
    (sum as f64, variance.sqrt())
}

/// Blocks of one kind of load.
fn sizes(kind: usize, count: usize, stream: &mut Stream) -> Vec<u64> {
    (0..count)
        .map(|_| {
            let random = stream.random();
            match kind {
                0 => 64,
                1 => 8 + random % 400,
                2 => 20_000 + random % 10_000,
                _ => 8 << (random % 14),
            }
        })
        .collect()
}

#[test]
fn the_estimate_is_unbiased_whatever_the_sizes_and_the_rate() {
    const STREAMS: u64 = 300;
    for rate in [2, 100, 4096, 65_536, 524_288] {
        for kind in 0..4 {
            // some fifty samples per stream, or all blocks
            let count = (50 * rate / [64, 200, 25_000, 1_000][kind]).clamp(200, 30_000) as usize;
            let (mut estimate, mut truth, mut variance) = (0.0, 0.0, 0.0);
            for seed in 0..STREAMS {
                let mut stream = Stream::new(seed * 100 + kind as u64);
                let blocks = sizes(kind, count, &mut stream);
                // the first look at the rate
                stream.allocate(Countdown::LOOK_EVERY as u64, rate);
                let hits = blocks.iter().filter(|&&size| stream.allocate(size, rate));
                estimate += hits.map(|&size| weight(size, rate) as f64).sum::<f64>();
                let (mean, deviation) = expected(&blocks, rate);
                truth += mean;
                variance += deviation * deviation;
            }
            let off = (estimate - truth) / variance.sqrt().max(truth * 1e-6);
            assert!(
                off.abs() < 4.0,
                "rate {rate}, kind {kind}: {estimate} for {truth}, {off:.1} standard deviations"
            );
            let width = variance.sqrt() / truth;
            assert!(
                width < 0.04,
                "rate {rate}, kind {kind}: the test could see {width}"
            );
        }
    }
}

#[test]
fn what_lives_is_estimated_over_frees_and_a_change_of_the_rate() {
    let (mut estimate, mut truth, mut variance) = (0.0, 0.0, 0.0);
    for seed in 0..300 {
        let mut stream = Stream::new(7 + seed);
        let blocks = sizes(1, 20_000, &mut stream);
        for (at, &size) in blocks.iter().enumerate() {
            let rate = if at < 10_000 { 50_000 } else { 2_000 };
            let is_hit = stream.allocate(size, rate);
            // every third block lives on; a sampled one that is freed takes its weight with it
            if at % 3 == 0 && at > 200 && !(10_000..10_200).contains(&at) {
                let (mean, deviation) = expected(&[size], rate);
                truth += mean;
                variance += deviation * deviation;
                estimate += if is_hit {
                    weight(size, rate) as f64
                } else {
                    0.0
                };
            }
        }
    }
    let off = (estimate - truth) / f64::sqrt(variance);
    assert!(
        off.abs() < 4.0,
        "{estimate} for {truth}: {off:.1} standard deviations"
    );
    assert!(f64::sqrt(variance) / truth < 0.02);
}

#[test]
fn rate_1_samples_every_block_and_rate_0_none_from_the_next_look_on() {
    let mut stream = Stream::new(1);
    for rate in [0, 1, 524_288, 1, 0] {
        let mut until = 0;
        let mut hits = 0;
        for block in 0..2_000u64 {
            let is_hit = stream.allocate(64, rate);
            hits += u64::from(is_hit);
            if is_hit == (rate == 1) || rate > 1 {
                continue;
            }
            until = block + 1;
        }
        assert!(
            until * 64 <= Countdown::LOOK_EVERY as u64 + 64,
            "rate {rate}: the old one counted for {until} blocks"
        );
        match rate {
            0 => assert!(hits <= until),
            1 => assert_eq!(hits, 2_000 - until),
            _ => assert!(hits < 10, "{hits} samples in 128,000 bytes"),
        }
    }
}
