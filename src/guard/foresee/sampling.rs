//! Which allocations are sampled, and what one sampled block stands for: a Poisson process on the stream of bytes.
//! Forbidden here: state, clocks, randomness of its own (it comes as an argument).
//!
//! Points lie on the stream of allocated bytes at distances that are exponential with mean `rate`; a block is sampled
//! when one lies within it. So a block of `size` bytes is sampled with probability `1 − exp(−size ÷ rate)` whatever
//! came before it, and it stands for `size ÷ probability` bytes: the sum over the sampled blocks that live is an
//! unbiased estimate of the bytes that live (tcmalloc and jemalloc do the same).

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
