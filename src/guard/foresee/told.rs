//! A pool's future and its reason, and which of the three is told where only one is.
//! Forbidden here: foreseeing; words for people.

use crate::guard::foresee::{
    cause::{Cause, Confidence, Evidence},
    forecast::Outlook,
    growth::Leak,
};
use crate::guard::terms::{text::NONE_FORESEEN_S, words::Pool};

/// One pool's future and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// When.
    pub outlook: Outlook,
    /// Why.
    pub cause: Cause,
    /// How sure.
    pub confidence: Confidence,
    /// What that was concluded from.
    pub evidence: Evidence,
    /// Which process, for pkg.
    pub worker: Option<u16>,
}

impl Default for Forecast {
    fn default() -> Forecast {
        Forecast {
            outlook: Outlook::default(),
            cause: Cause::Unknown,
            confidence: Confidence::None,
            evidence: Evidence::default(),
            worker: None,
        }
    }
}

impl Forecast {
    /// Seconds until it ends; [`NONE_FORESEEN_S`] also where that is not known.
    pub fn ends_in(&self) -> u64 {
        if self.outlook.valid {
            self.outlook.exhaustion_s.min(NONE_FORESEEN_S)
        } else {
            NONE_FORESEEN_S
        }
    }

    /// To be told although no pool ends: a process that leaks outside the pools, free memory that fell to pieces.
    fn stands_alone(&self) -> bool {
        self.evidence.leak != Leak::None
            || (self.cause == Cause::Fragmentation && self.confidence >= Confidence::Medium)
    }

    /// It grows. What else runs on the machine comes and goes.
    fn grows(&self, pool: Pool) -> bool {
        let is_told = pool != Pool::Os && self.cause != Cause::None && self.evidence.size > 0;
        self.evidence.is_rising || is_told
    }
}

/// The pool that is told: the one that ends first; where none ends as far as can be seen, one whose trouble stands alone,
/// then one that grows, else the tightest. `of` is a forecast per pool, by [`Pool::index`].
pub fn first(tightest: Pool, of: &[Forecast; Pool::COUNT]) -> (Pool, Forecast) {
    let each = |pool: Pool| (pool, of.get(pool.index()).copied().unwrap_or_default());
    let others = [Pool::Shm, Pool::Pkg, Pool::Os].into_iter();
    let in_order = || std::iter::once(tightest).chain(others.clone().filter(|p| *p != tightest));
    let soonest = in_order().map(each).min_by_key(|(_, f)| f.ends_in());
    if let Some(found) = soonest.filter(|(_, f)| f.ends_in() < NONE_FORESEEN_S) {
        return found;
    }
    let mut alone = [Pool::Os, Pool::Shm].into_iter().map(each);
    let grows = || in_order().map(each).find(|(pool, f)| f.grows(*pool));
    alone
        .find(|(_, f)| f.stands_alone())
        .or_else(grows)
        .unwrap_or_else(|| each(tightest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(exhaustion_s: u64) -> Forecast {
        let outlook = Outlook {
            valid: true,
            exhaustion_s,
            ..Outlook::default()
        };
        Forecast {
            outlook,
            cause: Cause::None,
            ..Forecast::default()
        }
    }

    /// Forecasts of shm, pkg and os.
    fn of(shm: Forecast, pkg: Forecast, os: Forecast) -> [Forecast; Pool::COUNT] {
        let mut all = [Forecast::default(); Pool::COUNT];
        for (pool, forecast) in [(Pool::Shm, shm), (Pool::Pkg, pkg), (Pool::Os, os)] {
            all[pool.index()] = forecast;
        }
        all
    }

    const NEVER: u64 = NONE_FORESEEN_S;

    #[test]
    fn what_ends_first_is_told_and_of_equals_the_tightest() {
        let pool = |tightest, all| first(tightest, &all).0;
        assert_eq!(pool(Pool::Shm, of(ends(50), ends(20), ends(90))), Pool::Pkg);
        assert_eq!(pool(Pool::Os, of(ends(20), ends(20), ends(20))), Pool::Os);
        assert_eq!(
            pool(Pool::Pkg, of(ends(20), ends(NEVER), ends(20))),
            Pool::Shm
        );
    }

    #[test]
    fn what_is_not_valid_ends_never() {
        let mut guess = ends(3);
        guess.outlook.valid = false;
        assert_eq!(guess.ends_in(), NEVER);
        let all = of(guess, ends(70), ends(NEVER));
        assert_eq!(first(Pool::Shm, &all).0, Pool::Pkg);
    }

    #[test]
    fn where_nothing_ends_a_leak_outside_comes_before_what_grows_and_that_before_the_tightest() {
        let calm = ends(NEVER);
        assert_eq!(first(Pool::Pkg, &of(calm, calm, calm)).0, Pool::Pkg);
        let mut rising = calm;
        rising.evidence.is_rising = true;
        assert_eq!(first(Pool::Pkg, &of(rising, calm, calm)).0, Pool::Shm);
        let mut leaking = calm;
        leaking.evidence.leak = Leak::Suspected;
        assert_eq!(first(Pool::Pkg, &of(rising, calm, leaking)).0, Pool::Os);
        // a worker's own leak is told by its row: pkg is not asked here
        assert_eq!(first(Pool::Shm, &of(calm, leaking, calm)).0, Pool::Shm);
    }

    #[test]
    fn fragments_are_told_when_that_is_sure_enough() {
        let calm = ends(NEVER);
        let mut pieces = calm;
        pieces.cause = Cause::Fragmentation;
        pieces.confidence = Confidence::Medium;
        assert_eq!(first(Pool::Pkg, &of(pieces, calm, calm)).0, Pool::Shm);
        pieces.confidence = Confidence::Low;
        assert_eq!(first(Pool::Pkg, &of(pieces, calm, calm)).0, Pool::Pkg);
    }

    #[test]
    fn a_known_cause_is_told_of_a_pool_of_ours_and_not_of_the_machine() {
        let calm = ends(NEVER);
        let mut grows = calm;
        grows.cause = Cause::Registrations;
        grows.evidence.size = 1;
        assert_eq!(first(Pool::Shm, &of(calm, grows, calm)).0, Pool::Pkg);
        assert_eq!(first(Pool::Shm, &of(calm, calm, grows)).0, Pool::Shm);
        grows.evidence.size = 0;
        assert_eq!(first(Pool::Shm, &of(calm, grows, calm)).0, Pool::Shm);
    }
}
