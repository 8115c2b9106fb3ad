//! A 64-bit check of words under a name, for what is believed only whole: records in shared memory and in files.
//! Forbidden here: secrets (it is not keyed: whoever writes the words can write their check).

/// Odd constants with well spread bits: the fractions of the golden ratio and of π.
const START: u64 = 0x243f_6a88_85a3_08d3;
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

#[inline(always)]
const fn step(state: u64, word: u64) -> u64 {
    let state = (state ^ word).wrapping_mul(SPREAD);
    state ^ (state >> 32)
}

/// The check; never 0, which means empty. Each step is a bijection of the word: words that differ in one place never
/// pass for each other, words that differ in more places once in 2⁶⁴.
#[inline(always)]
pub fn check(name: u64, words: &[u64]) -> u64 {
    let mixed = words
        .iter()
        .fold(step(START, name), |state, word| step(state, *word));
    mixed.max(1)
}
