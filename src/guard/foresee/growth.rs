//! Growth by low-water marks, and the rule that calls it a leak: a leak raises the minima, load does not.
//! Forbidden here: clocks (time and samples come as arguments), and answers that are NaN or infinite.

use crate::guard::terms::text::finite;

/// The minima of the last complete windows of equal length, oldest first. `N` is at least 3.
#[derive(Clone, Copy, Debug)]
pub struct Minima<const N: usize> {
    /// Length of a window in the unit of `at`.
    span: u64,
    /// Minima of complete windows; the first `len` are valid, oldest first.
    done: [i64; N],
    len: usize,
    /// When the window that is being filled began.
    since: Option<u64>,
    least: i64,
}

impl<const N: usize> Minima<N> {
    /// Windows of `span`, none of them complete.
    pub fn new(span: u64) -> Minima<N> {
        Minima {
            span: span.max(1),
            done: [0; N],
            len: 0,
            since: None,
            least: i64::MAX,
        }
    }

    /// Takes a value at a time (or sample number) that never falls; says whether a window was completed by it.
    pub fn feed(&mut self, at: u64, value: i64) -> bool {
        let since = *self.since.get_or_insert(at);
        let is_over = at.saturating_sub(since) >= self.span || at < since;
        if is_over {
            self.complete();
            self.since = Some(at);
            self.least = value;
        } else {
            self.least = self.least.min(value);
        }
        is_over
    }

    fn complete(&mut self) {
        if self.len == N {
            self.done.rotate_left(1);
            self.len -= 1;
        }
        if let Some(place) = self.done.get_mut(self.len) {
            *place = self.least;
            self.len += 1;
        }
    }

    /// Minima of the complete windows, oldest first.
    pub fn complete_ones(&self) -> &[i64] {
        self.done.get(..self.len).unwrap_or_default()
    }

    /// Rise from the oldest to the newest complete window per unit of `at`; `None` before the second one.
    pub fn slope(&self) -> Option<f64> {
        slope(self.complete_ones(), self.span)
    }

    /// The smallest slope of the older, the middle and the newer third: what goes on all the time. A step or a
    /// beginning that levels off has little of it. `None` before the fourth window.
    pub fn steady(&self) -> Option<f64> {
        let all = self.complete_ones();
        let third = all.len().checked_sub(1)? / 3;
        if third == 0 {
            return None;
        }
        let last = all.len() - 1;
        let ends = [(0, third), (third, last - third), (last - third, last)];
        ends.iter()
            .filter_map(|&(from, to)| slope(all.get(from..=to)?, self.span))
            .reduce(f64::min)
    }
}

/// Of the increments between minima, so many neighbours can hold one step: it may lie across a window's end.
const STEP_WINDOWS: usize = 2;
/// They are a step when they hold this share of the rise.
const STEP_SHARE: f64 = 0.75;
/// Windows in a row without a rise that say: it has ended.
const STILL: usize = 3;
/// Less than this share of the mean rise is no rise.
const STILL_SHARE: f64 = 0.05;

impl<const N: usize> Minima<N> {
    /// Growth per unit of `at` that goes on, and what came before it in one step or has ended since. `None` before the
    /// second window.
    pub fn settled(&self) -> Option<(f64, i64)> {
        let all = self.complete_ones();
        let rise = all.last()? - all.first()?;
        let whole = self.slope()?;
        let windows = all.len() - 1;
        if rise <= 0 || windows <= STILL {
            return Some((whole, 0));
        }
        let recent = all.get(windows - STILL..)?;
        let late = recent.last()? - recent.first()?;
        if (late as f64) < STILL_SHARE * (rise * STILL as i64) as f64 / windows as f64 {
            return Some((slope(recent, self.span)?, rise - late));
        }
        let step = all
            .windows(STEP_WINDOWS + 1)
            .map(|w| w[STEP_WINDOWS] - w[0]);
        let step = step.max().unwrap_or(0);
        let others = windows - STEP_WINDOWS;
        if others < STILL || (step as f64) < STEP_SHARE * rise as f64 {
            return Some((whole, 0));
        }
        let per_unit = 1.0 / (others as u64 * self.span) as f64;
        Some((finite((rise - step) as f64 * per_unit), step))
    }
}

fn slope(minima: &[i64], span: u64) -> Option<f64> {
    let (first, last) = (minima.first()?, minima.last()?);
    let steps = u64::try_from(minima.len())
        .ok()?
        .checked_sub(1)
        .filter(|n| *n > 0)?;
    Some(finite((last - first) as f64 / (steps * span) as f64))
}

/// What a site's or a pool's trail says, in bytes per second, all of low-water marks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Growth {
    /// Over the last 10 minutes, or since the trail began while it is shorter.
    pub now: f64,
    /// The part of it that goes on all the time ([`Minima::steady`]): what reports rank by.
    pub steady: f64,
    /// Over the last minute.
    pub m1: f64,
    /// Over the last 10 minutes; 0 while not known.
    pub m10: f64,
    /// Over the last 60 minutes; 0 while not known.
    pub m60: f64,
}

impl Growth {
    /// How many numbers it is.
    pub const WORDS: usize = 5;

    /// Of what is followed for a minute only, as one worker's share of a site.
    pub fn of_minute(m1: f64) -> Growth {
        Growth {
            now: m1,
            steady: m1,
            m1,
            ..Growth::default()
        }
    }

    /// As numbers in the order of the fields.
    pub fn to_array(self) -> [f64; Self::WORDS] {
        [self.now, self.steady, self.m1, self.m10, self.m60]
    }

    /// Back from [`Growth::to_array`].
    pub fn from_array([now, steady, m1, m10, m60]: [f64; Self::WORDS]) -> Growth {
        Growth {
            now,
            steady,
            m1,
            m10,
            m60,
        }
    }

    /// Of two sites that are one in reports.
    pub fn plus(self, o: Growth) -> Growth {
        let (a, b) = (self.to_array(), o.to_array());
        let mut sum = [0.0; Self::WORDS];
        for (to, (x, y)) in sum.iter_mut().zip(a.iter().zip(b)) {
            *to = x + y;
        }
        Growth::from_array(sum)
    }
}

const MS: u64 = 1000;

/// The short history of one amount of live bytes: minima of 5 s, 60 s and 5 min.
#[derive(Clone, Copy, Debug)]
pub struct Trail {
    fine: Minima<13>,
    middle: Minima<11>,
    coarse: Minima<13>,
}

impl Default for Trail {
    fn default() -> Trail {
        Trail {
            fine: Minima::new(5 * MS),
            middle: Minima::new(60 * MS),
            coarse: Minima::new(300 * MS),
        }
    }
}

impl Trail {
    /// Takes the live bytes at a time in milliseconds.
    pub fn feed(&mut self, now_ms: u64, live: i64) {
        self.fine.feed(now_ms, live);
        self.middle.feed(now_ms, live);
        self.coarse.feed(now_ms, live);
    }

    /// What it says.
    pub fn growth(&self) -> Growth {
        let per_second = |slope: Option<f64>| slope.map_or(0.0, |s| s * MS as f64);
        let (m1, m10) = (
            per_second(self.fine.slope()),
            per_second(self.middle.slope()),
        );
        // From four whole minutes on, minutes say more than seconds.
        let has_minutes = self.middle.complete_ones().len() >= 4;
        let steady = if has_minutes {
            self.middle.steady()
        } else {
            self.fine.steady()
        };
        Growth {
            now: if has_minutes { m10 } else { m1 },
            steady: per_second(steady),
            m1,
            m10,
            m60: per_second(self.coarse.slope()),
        }
    }
}

impl Trail {
    /// As [`Growth::now`], without what came in one step or has ended; and how many bytes that was.
    pub fn settled(&self) -> (f64, u64) {
        let found = match self.middle.complete_ones().len() >= 4 {
            true => self.middle.settled(),
            false => self.fine.settled(),
        };
        let (slope, step) = found.unwrap_or_default();
        (slope * MS as f64, u64::try_from(step).unwrap_or(0))
    }
}

/// The last minute of one amount that most often never changes: 16 bytes until it does for the first time.
#[derive(Clone, Debug, Default)]
pub struct MinuteTrail {
    first: Option<i64>,
    minima: Option<Box<Minima<13>>>,
}

impl MinuteTrail {
    /// Takes the amount at a time in milliseconds; its growth per second, once it has changed for the first time.
    pub fn feed(&mut self, now_ms: u64, live: i64) -> Option<f64> {
        let first = *self.first.get_or_insert(live);
        if self.minima.is_none() && live == first {
            return None;
        }
        let minima = self
            .minima
            .get_or_insert_with(|| Box::new(Minima::new(5 * MS)));
        minima.feed(now_ms, live);
        Some(minima.slope().map_or(0.0, |slope| slope * MS as f64))
    }
}

/// Whether something is called a leak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u64)]
pub enum Leak {
    /// No.
    #[default]
    None = 0,
    /// Its low-water mark rose without a pause through the short rule's windows.
    Suspected = 1,
    /// And through the long rule's.
    Confirmed = 2,
}

impl Leak {
    /// Back from the number.
    pub fn from_index(index: u64) -> Leak {
        match index {
            1 => Leak::Suspected,
            2 => Leak::Confirmed,
            _ => Leak::None,
        }
    }
}

impl std::fmt::Display for Leak {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Leak::None => "none",
            Leak::Suspected => "suspected",
            Leak::Confirmed => "confirmed",
        })
    }
}

/// Windows that must all have risen.
const WINDOWS: usize = 11;
/// Windows without a rise that end a leak.
const QUIET: usize = 3;
/// Less than this, over all windows, is no leak (bytes).
const LEAST_RISE: i64 = 1024;

/// The rule: the low-water mark of each of the last 11 windows lies above that of the window before, together by 1 KiB
/// or more, and it does not level off: the last third rose at least half as fast as the first. It ends when the last
/// 3 windows did not rise.
#[derive(Clone, Copy, Debug)]
pub struct LeakWatch {
    short: Minima<WINDOWS>,
    long: Minima<WINDOWS>,
    state: Leak,
}

impl LeakWatch {
    /// Windows of so many samples for the suspicion and for the confirmation.
    pub fn new(short: u64, long: u64) -> LeakWatch {
        LeakWatch {
            short: Minima::new(short),
            long: Minima::new(long),
            state: Leak::None,
        }
    }

    /// For a private pool: 60 and 300 samples (10 minutes, an hour). What a worker keeps for itself has no reason to
    /// rise that long.
    pub fn pkg() -> LeakWatch {
        LeakWatch::new(60, 300)
    }

    /// For shm and memory outside the pools: 720 and 2,160 samples (2 hours, 6 hours): tables, caches and dialogs that
    /// fill rise for as long as their entries live.
    pub fn slow() -> LeakWatch {
        LeakWatch::new(720, 2160)
    }

    /// Takes the live bytes at a sample number.
    pub fn feed(&mut self, sample: u64, live: i64) -> Leak {
        let is_new = self.short.feed(sample, live) | self.long.feed(sample, live);
        if is_new {
            let (short, long) = (self.short.complete_ones(), self.long.complete_ones());
            let has_ended =
                short.len() > QUIET && short.windows(2).rev().take(QUIET).all(|w| w[1] <= w[0]);
            self.state = match self.state {
                _ if has_ended => Leak::None,
                _ if goes_on(long) => Leak::Confirmed,
                Leak::None if goes_on(short) => Leak::Suspected,
                state => state,
            };
        }
        self.state
    }

    /// As by the last sample.
    pub fn state(&self) -> Leak {
        self.state
    }
}

fn goes_on(minima: &[i64]) -> bool {
    let (Some(first), Some(last)) = (minima.first(), minima.last()) else {
        return false;
    };
    let third = WINDOWS / 3;
    let rise = |from: usize| match (minima.get(from), minima.get(from + third)) {
        (Some(a), Some(b)) => b - a,
        _ => 0,
    };
    minima.len() == WINDOWS
        && minima.windows(2).all(|w| w[1] > w[0])
        && last - first >= LEAST_RISE
        && 2 * rise(WINDOWS - 1 - third) >= rise(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trail(minutes: u64, live: impl Fn(u64) -> i64) -> Growth {
        let mut trail = Trail::default();
        for second in 0..=minutes * 60 {
            trail.feed(1_700_000_000_000 + second * 1000, live(second));
        }
        trail.growth()
    }

    #[test]
    fn a_steady_leak_shows_its_rate_on_every_horizon() {
        for minutes in [1, 3, 12, 70] {
            let growth = trail(minutes, |s| 5000 + 700 * s as i64);
            assert!(
                (growth.now - 700.0).abs() < 1.0 && (growth.steady - 700.0).abs() < 1.0,
                "{minutes}: {growth:?}"
            );
        }
        let growth = trail(70, |s| 700 * s as i64);
        assert!(
            [growth.m1, growth.m10, growth.m60]
                .iter()
                .all(|g| (g - 700.0).abs() < 1.0),
            "{growth:?}"
        );
    }

    #[test]
    fn load_that_comes_and_goes_is_no_growth() {
        // each second the bytes in use jump about, and fall back to the base in every window
        let growth = trail(20, |s| {
            1_000_000
                + if s % 4 == 0 {
                    0
                } else {
                    (s as i64 * 7919) % 500_000
                }
        });
        assert_eq!(growth, Growth::default());
    }

    #[test]
    fn a_share_of_a_site_is_followed_from_its_first_change_on() {
        let mut trail = MinuteTrail::default();
        let mut said = Vec::new();
        for second in 0..90u64 {
            let live = 1000 + 50 * second.saturating_sub(30) as i64;
            said.push(trail.feed(second * 1000, live));
        }
        assert!(said[..=30].iter().all(Option::is_none), "{said:?}");
        assert_eq!(said[31], Some(0.0), "two windows make a slope");
        assert_eq!(said[89], Some(50.0));
    }

    #[test]
    fn a_step_is_growth_but_no_steady_growth() {
        let growth = trail(1, |s| if s < 20 { 0 } else { 1_000_000 });
        assert!(growth.now > 10_000.0 && growth.steady == 0.0, "{growth:?}");
        let growth = trail(12, |s| 1_000_000 * (s as i64).min(120) / 120);
        assert_eq!(growth.steady, 0.0, "filled within two minutes, then quiet");
    }

    #[test]
    fn a_leak_on_a_sawtooth_is_seen_at_its_own_rate() {
        let growth = trail(10, |s| 50 * s as i64 + if s % 3 == 0 { 0 } else { 80_000 });
        assert!((growth.steady - 50.0).abs() < 3.0, "{growth:?}");
    }

    #[test]
    fn a_step_is_a_step_and_not_growth_from_the_moment_it_is_seen() {
        let said = |until: u64, live: &dyn Fn(u64) -> i64| {
            let mut trail = Trail::default();
            (0..=until).for_each(|s| trail.feed(1_000_000 + 1000 * s, live(s)));
            trail.settled()
        };
        let step = |at: u64| move |s: u64| if s < at { 5 << 20 } else { 20 << 20 };
        for (until, at) in [(50, 30), (60, 33), (90, 75), (400, 200), (900, 650)] {
            let (growth, bytes) = said(until, &step(at));
            assert_eq!(
                (growth, bytes),
                (0.0, 15 << 20),
                "step at {at}, seen at {until}"
            );
        }
        // a table that takes ten seconds to load, fifteen and more seconds later
        let load = |s: u64| (s.clamp(20, 30) as i64) << 20;
        assert_eq!(said(52, &load), (0.0, 10 << 20));
        // what goes on is growth, with a step in it too
        let (growth, bytes) = said(60, &|s| 1_000 * s as i64 + if s < 30 { 0 } else { 1 << 20 });
        assert!(
            (growth - 1_000.0).abs() < 150.0 && bytes > 1 << 20,
            "{growth} {bytes}"
        );
        for until in [40, 70, 250, 800] {
            let (growth, bytes) = said(until, &|s| 1_000 * s as i64);
            assert!(
                (growth - 1_000.0).abs() < 1.0 && bytes == 0,
                "{growth} {bytes}"
            );
        }
    }

    fn watched(samples: u64, live: impl Fn(u64) -> i64) -> Vec<Leak> {
        let mut watch = LeakWatch::pkg();
        (0..samples)
            .map(|sample| watch.feed(sample, live(sample)))
            .collect()
    }

    #[test]
    fn a_leak_is_suspected_after_eleven_windows_and_confirmed_after_eleven_long_ones() {
        let states = watched(4000, |s| 64 * s as i64 + (s % 7) as i64 * 1000);
        let first = |leak| states.iter().position(|s| *s == leak);
        assert_eq!(first(Leak::Suspected), Some(660));
        assert_eq!(first(Leak::Confirmed), Some(3300));
    }

    #[test]
    fn what_levels_off_is_no_leak() {
        let warm_up = |s: u64| (1_000_000.0 * (1.0 - (-(s as f64) / 200.0).exp())) as i64;
        assert!(watched(4000, warm_up).iter().all(|s| *s == Leak::None));
        assert!(
            watched(4000, |s| (s as i64).min(540) * 1000)
                .iter()
                .all(|s| *s == Leak::None),
            "fills in 9 minutes"
        );
        let tide = |s: u64| (1_000_000.0 * (1.0 + (s as f64 / 150.0).sin())) as i64;
        assert!(watched(8000, tide).iter().all(|s| *s == Leak::None));
    }

    #[test]
    fn a_leak_that_stopped_is_none_three_windows_later() {
        let states = watched(2000, |s| 64 * (s as i64).min(1000));
        assert_eq!(states[1000], Leak::Suspected);
        assert_eq!(states[1300], Leak::None);
    }

    #[test]
    fn a_clock_that_is_set_back_does_not_stop_the_trail() {
        let mut trail = Trail::default();
        for second in 0..200u64 {
            let now = if second < 100 {
                1_000_000 + second * 1000
            } else {
                second * 1000
            };
            trail.feed(now, 10 * second as i64);
        }
        assert!(
            (trail.growth().m1 - 10.0).abs() < 1.0,
            "{:?}",
            trail.growth()
        );
    }
}
