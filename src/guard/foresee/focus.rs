//! Which places are in focus: those whose low-water mark rises have the way to nearly every allocation noted.
//! Forbidden here: clocks, counters, state; what each place did comes as an argument.
//!
//! The usual sampling takes one allocation in half a megabyte: a leak of some kilobytes has no path in it. So up to
//! [`MOST`] places that rise are looked at closely, until they stop rising. A place that allocates more often than
//! [`CONTEXTS_PER_SECOND`] is thinned out by chance, one in a power of two, and each block that is noted stands for so
//! many: which blocks are noted never depends on what becomes of them, so the sums stay unbiased, also when a place
//! comes into focus or leaves it.

/// Places in focus at a time.
pub const MOST: usize = 8;
/// About so many contexts per second at most are noted for one place, by all processes together. Where a path is a known
/// one a context takes less than 1 µs (`./dev bench sampling`), so that those of eight places take less than a hundredth of
/// one core, however busy the server is. Of a leak in each of a hundred messages a second every one is noted.
pub const CONTEXTS_PER_SECOND: f64 = 150.0;
/// Thinner than one in 2^10 is nothing is won over the usual sampling.
const THINNEST: u8 = 10;
/// What is in focus keeps its place until another grows so many times faster.
const STAYS: f64 = 2.0;
/// Bytes per second below which nothing rises: a byte per minute.
const LEAST_GROWTH: f64 = 1.0 / 60.0;
/// What is not known to go on yet comes after all that is.
const NOT_STEADY: f64 = 1e-15;

/// What a place did lately.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// Its index.
    pub index: usize,
    /// Growth that goes on all the time, bytes per second (`Growth::steady`).
    pub steady: f64,
    /// Growth over the last minute, bytes per second.
    pub minute: f64,
    /// Allocations and allocated bytes per second, since it was looked at last.
    pub allocations: f64,
    /// As above.
    pub bytes: f64,
}

/// A place in focus: one in 2^`thinned` of its allocations is noted, and stands for so many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Focused {
    /// Its index.
    pub index: usize,
    /// Power of two.
    pub thinned: u8,
}

/// The places to look at closely from now on. `rate` is the usual sampling's (`sample_bytes`): 0 is off, 1 notes
/// everything anyway.
pub fn choose(
    current: &[Focused],
    seen: impl IntoIterator<Item = Seen>,
    rate: u64,
) -> Vec<Focused> {
    if rate <= 1 {
        return Vec::new();
    }
    let mut rising: Vec<(f64, Focused)> = seen
        .into_iter()
        .filter(|seen| seen.minute > LEAST_GROWTH)
        .filter_map(|seen| {
            let thinned = thinned(seen.allocations);
            // Blocks so large are found by the usual sampling as often.
            let is_denser =
                seen.bytes * f64::from(1u32 << thinned) < rate as f64 * seen.allocations.max(1.0);
            let steady = if seen.steady > LEAST_GROWTH {
                seen.steady
            } else {
                seen.minute * NOT_STEADY
            };
            let is_current = current.iter().any(|focused| focused.index == seen.index);
            let weighed = if is_current { steady * STAYS } else { steady };
            is_denser.then_some((
                weighed,
                Focused {
                    index: seen.index,
                    thinned,
                },
            ))
        })
        .collect();
    rising.sort_by(|(a, one), (b, other)| b.total_cmp(a).then(one.index.cmp(&other.index)));
    rising
        .into_iter()
        .take(MOST)
        .map(|(_, focused)| focused)
        .collect()
}

/// How thinly a place of so many allocations per second is noted.
fn thinned(allocations: f64) -> u8 {
    let mut thinned = 0;
    while thinned < THINNEST && allocations > CONTEXTS_PER_SECOND * f64::from(1u32 << thinned) {
        thinned += 1;
    }
    thinned
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(index: usize, steady: f64) -> Seen {
        Seen {
            index,
            steady,
            minute: steady.abs(),
            allocations: 100.0,
            bytes: 10_000.0,
        }
    }

    fn chosen(current: &[Focused], seen: &[Seen]) -> Vec<usize> {
        let chosen = choose(current, seen.iter().copied(), 524_288);
        chosen.into_iter().map(|focused| focused.index).collect()
    }

    #[test]
    fn what_rises_comes_into_focus_the_steadiest_first_and_leaves_when_it_stops() {
        let mut all: Vec<Seen> = (0..20).map(|i| seen(i, i as f64)).collect();
        assert_eq!(chosen(&[], &all), [19, 18, 17, 16, 15, 14, 13, 12]);
        all[19].minute = 0.0;
        assert_eq!(chosen(&[], &all)[0], 18);
        // not known to go on yet: after all that is
        let young = Seen {
            steady: 0.0,
            minute: 1e6,
            ..seen(30, 0.0)
        };
        assert_eq!(chosen(&[], &[young, seen(1, 0.1)]), [1, 30]);
        assert_eq!(chosen(&[], &[seen(1, 0.0)]), [0usize; 0]);
    }

    #[test]
    fn what_is_in_focus_stays_until_another_grows_twice_as_fast() {
        let all: Vec<Seen> = (0..9).map(|i| seen(i, 100.0 + 10.0 * i as f64)).collect();
        let current = [Focused {
            index: 0,
            thinned: 0,
        }];
        assert!(chosen(&current, &all).contains(&0));
        assert!(!chosen(&[], &all).contains(&0));
        let mut faster = all;
        faster
            .iter_mut()
            .skip(1)
            .for_each(|seen| seen.steady *= 3.0);
        assert!(!chosen(&current, &faster).contains(&0));
    }

    #[test]
    fn a_busy_place_is_thinned_out_and_one_of_large_blocks_is_left_to_the_usual_sampling() {
        let busy = |allocations, size: f64| Seen {
            allocations,
            bytes: allocations * size,
            ..seen(1, 5.0)
        };
        let of = |seen, rate| {
            choose(&[], [seen], rate)
                .first()
                .map(|focused| focused.thinned)
        };
        assert_eq!(of(busy(1.0, 100.0), 524_288), Some(0));
        assert_eq!(of(busy(150.0, 100.0), 524_288), Some(0));
        assert_eq!(of(busy(151.0, 100.0), 524_288), Some(1));
        assert_eq!(of(busy(20_000.0, 100.0), 524_288), Some(8));
        assert_eq!(of(busy(1e9, 100.0), 524_288), Some(THINNEST));
        assert_eq!(of(busy(1000.0, 65_000.0), 524_288), Some(3));
        assert_eq!(of(busy(1000.0, 66_000.0), 524_288), None);
        assert_eq!(
            (of(busy(1.0, 100.0), 0), of(busy(1.0, 100.0), 1)),
            (None, None)
        );
    }
}
