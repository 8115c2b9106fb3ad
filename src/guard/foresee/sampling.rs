//! Which allocations are sampled, and what one sampled block stands for: a Poisson process on the stream of bytes.
//! Forbidden here: state, clocks, randomness of its own (it comes as an argument).
//!
//! Points lie on the stream of allocated bytes at distances that are exponential with mean `rate`; a block is sampled
//! when one lies within it. So a block of `size` bytes is sampled with probability `1 − exp(−size ÷ rate)` whatever
//! came before it, and it stands for `size ÷ probability` bytes: the sum over the sampled blocks that live is an
//! unbiased estimate of the bytes that live (tcmalloc and jemalloc do the same).

use crate::guard::config::params::Int;

/// No gap is longer: what is more than this never comes in a process's life.
const LONGEST: f64 = (1u64 << 62) as f64;

/// A well-spread number from a counter (the finaliser of splitmix64; a bijection).
pub const fn spread(counter: u64) -> u64 {
    let mixed = (counter ^ (counter >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Bytes until the next point, from a random number. `rate` 0 (nothing is sampled) and 1 (everything is) have none:
/// 0 bytes.
pub fn gap(rate: u64, random: u64) -> i64 {
    if rate <= 1 {
        return 0;
    }
    // (0, 1]: 53 bits, and never 0.
    let uniform = ((random >> 11) + 1) as f64 / (1u64 << 53) as f64;
    (-uniform.ln() * rate as f64).min(LONGEST) as i64
}

/// Bytes that a sampled block stands for. `rate` 1 or 0: itself.
pub fn weight(size: u64, rate: u64) -> u64 {
    if rate <= 1 || size == 0 {
        return size;
    }
    let ratio = size as f64 / rate as f64;
    // exp_m1 keeps its digits where the ratio is small.
    (size as f64 / -(-ratio).exp_m1()).round() as u64
}

/// Where one process is on the stream of bytes that it allocates. The wrapper subtracts every block from `left` and asks
/// [`Countdown::expired`] when it falls below 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Countdown {
    /// Bytes until somebody has to look again.
    pub left: i64,
    /// Bytes from there to the next point.
    rest: i64,
    /// The rate that the point was drawn for.
    rate: u64,
}

impl Countdown {
    /// At least once per so many bytes the rate is looked at, so that a change counts within a message or two.
    pub const LOOK_EVERY: i64 = 16 * 1024;

    /// Nothing drawn yet.
    pub const fn new() -> Countdown {
        Countdown {
            left: 0,
            rest: 0,
            rate: 0,
        }
    }

    /// Whether the block that took `left` below 0 is sampled at the rate in force; draws the next point if so.
    pub fn expired(&mut self, rate: u64, random: u64) -> bool {
        let total = self.left.saturating_add(self.rest);
        let is_hit = if rate == self.rate {
            rate != 0 && total < 0
        } else {
            rate == 1 // an exponential gap has no memory: the new rate counts from the next byte on
        };
        let next = match rate {
            0 => i64::MAX,
            _ if is_hit || rate != self.rate => gap(rate, random),
            _ => total,
        };
        self.rate = rate;
        self.left = next.clamp(0, Self::LOOK_EVERY);
        self.rest = next.saturating_sub(self.left);
        is_hit
    }
}

/// How thinly one process samples: a busy one more thinly than asked for, as a context costs 1 to 20 µs and says no more
/// in the thousandth block than in the hundredth. Who asks for more than usual gets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// The rate in force is the one asked for times 2 to this.
    thinned: u8,
    /// Samples of this window.
    hits: u32,
    /// When the window began, milliseconds of server time.
    since_ms: u64,
}

impl Pace {
    /// The usual rate (the default of `sample_bytes`); a smaller one is never thinned.
    pub const USUAL: u64 = Int::SampleBytes.default_value() as u64;
    /// Length of a window in milliseconds, and the samples that it may have: 64 contexts a second.
    const WINDOW_MS: u64 = 500;
    const MOST: u32 = 32;
    /// 2^8 times more thinly at most: one block in 128 MiB.
    const THINNEST: u8 = 8;

    /// Nothing sampled yet.
    pub const fn new() -> Pace {
        Pace {
            thinned: 0,
            hits: 0,
            since_ms: 0,
        }
    }

    /// The rate in force; what is sampled under it stands for as much more.
    pub fn rate(&self, asked: u64) -> u64 {
        let thinned = asked.saturating_mul(1 << self.thinned.min(Self::THINNEST));
        match asked {
            ..Self::USUAL => asked,
            _ => thinned.min(u64::from(u32::MAX)),
        }
    }

    /// After each look at the countdown: whether it was a hit decides the rate of what comes, never of what was.
    pub fn look(&mut self, is_hit: bool, now_ms: u64) {
        self.hits = self.hits.saturating_add(u32::from(is_hit));
        let took = now_ms.checked_sub(self.since_ms);
        let windows = took.map_or(1, |took| took / Self::WINDOW_MS);
        if self.hits < Self::MOST && windows == 0 {
            return;
        }
        if self.hits >= Self::MOST && windows == 0 {
            self.thinned = self.thinned.saturating_add(1).min(Self::THINNEST);
        } else if u64::from(self.hits) < windows.saturating_mul(u64::from(Self::MOST) / 4) {
            // Each quiet window halves the rate.
            let quiet = u8::try_from(windows).unwrap_or(u8::MAX);
            self.thinned = self.thinned.saturating_sub(quiet);
        }
        self.hits = 0;
        self.since_ms = now_ms;
    }
}

/// The SIP method of a message from its first word, zeros behind it: the request's, `reply`, or nothing.
pub fn method(first: &[u8]) -> &str {
    let word = first.split(|b| *b == 0).next().unwrap_or_default();
    match std::str::from_utf8(word) {
        Ok("SIP") => "reply",
        Ok(word) if word.bytes().all(|b| b.is_ascii_uppercase()) => word,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_stands_for_itself_at_rate_1_and_the_smallest_for_about_the_rate() {
        assert_eq!((weight(48, 1), weight(0, 1), weight(7, 0)), (48, 0, 7));
        assert_eq!(weight(1, 524_288), 524_289);
        assert_eq!(weight(64, 524_288), 524_320);
        let large = 100 << 20;
        assert_eq!(weight(large, 524_288), large, "sampled for certain");
    }

    #[test]
    fn gaps_are_exponential_and_never_endless() {
        let gaps = (0..100_000u64).map(|n| gap(1000, spread(n)));
        let (mut sum, mut beyond) = (0i64, 0);
        for gap in gaps {
            assert!((0..60_000).contains(&gap), "{gap}");
            sum += gap;
            beyond += i64::from(gap > 1000);
        }
        let mean = sum / 100_000;
        assert!((980..1020).contains(&mean), "mean {mean}");
        assert!(
            (36_000..37_500).contains(&beyond),
            "1/e lie beyond: {beyond}"
        );
        assert_eq!(
            gap(1 << 30, 0) as f64,
            (53.0 * 2f64.ln() * (1u64 << 30) as f64).trunc()
        );
        assert_eq!((gap(0, 7), gap(1, 7)), (0, 0));
    }

    /// Seconds of a process that allocates so many bytes a second at the usual rate; answers its samples of the last one.
    fn last_second(pace: &mut Pace, now_ms: &mut u64, seconds: u64, bytes: u64) -> f64 {
        let mut owed = 0.0;
        let mut hits = 0.0;
        for ms in 0..seconds * 1000 {
            *now_ms += 1;
            owed += bytes as f64 / 1000.0 / pace.rate(Pace::USUAL) as f64;
            let count = owed as u64;
            owed -= count as f64;
            (0..count).for_each(|_| pace.look(true, *now_ms));
            pace.look(false, *now_ms);
            if ms >= (seconds - 1) * 1000 {
                hits += count as f64;
            }
        }
        hits
    }

    #[test]
    fn a_busy_process_is_thinned_out_and_a_calm_one_samples_as_it_was_asked() {
        let (mut pace, mut now) = (Pace::new(), 5_000);
        let mut second = |bytes| last_second(&mut pace, &mut now, 10, bytes);
        // 10 MB a second: 19 samples, as asked for
        assert!((18.0..21.0).contains(&second(10_000_000)));
        // 500 MB a second would be 954
        let busy = second(500_000_000);
        assert!((16.0..=64.0).contains(&busy), "{busy}");
        // calm again
        assert!((18.0..21.0).contains(&second(10_000_000)));
        assert_eq!(pace.rate(Pace::USUAL), Pace::USUAL);
    }

    #[test]
    fn the_rate_does_not_swing_under_a_steady_load() {
        for megabytes in [20, 50, 100, 300, 1000, 5000] {
            let (mut pace, mut now) = (Pace::new(), 0);
            last_second(&mut pace, &mut now, 20, megabytes * 1_000_000);
            let settled = pace.rate(Pace::USUAL);
            for _ in 0..20 {
                last_second(&mut pace, &mut now, 1, megabytes * 1_000_000);
                assert_eq!(pace.rate(Pace::USUAL), settled, "{megabytes} MB/s");
            }
        }
    }

    #[test]
    fn who_asks_for_more_than_usual_gets_it_and_no_rate_outgrows_its_place() {
        let mut pace = Pace::new();
        (0..10_000).for_each(|_| pace.look(true, 7));
        assert_eq!(pace.rate(Pace::USUAL), Pace::USUAL << 8);
        assert_eq!(pace.rate(1 << 30), u64::from(u32::MAX));
        for asked in [0, 1, 2, 16_384, Pace::USUAL - 1] {
            assert_eq!(pace.rate(asked), asked);
        }
    }

    #[test]
    fn a_clock_that_is_set_back_thins_nothing_out_for_long() {
        let (mut pace, mut now) = (Pace::new(), 1_000_000);
        last_second(&mut pace, &mut now, 10, 10_000_000);
        now = 10;
        last_second(&mut pace, &mut now, 10, 10_000_000);
        assert_eq!(pace.rate(Pace::USUAL), Pace::USUAL);
    }

    #[test]
    fn the_method_is_the_first_word_of_a_request() {
        assert_eq!(method(b"REGISTER\0\0"), "REGISTER");
        assert_eq!(method(b"SUBSCRIBE"), "SUBSCRIBE");
        assert_eq!(method(b"SIP\0"), "reply");
        for none in [&b""[..], b"\0\0", b"register\0", b"\xff\xfe"] {
            assert_eq!(method(none), "", "{none:?}");
        }
    }
}
