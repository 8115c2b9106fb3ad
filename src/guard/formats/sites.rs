//! Sites as reports show them: equal text merged, filtered, ranked, summed by module; and what changed since a mark.
//! Forbidden here: reading counters; knowing where they come from.

use std::collections::HashMap;

use crate::guard::config::filters::{By, Sites as Filter};
use crate::guard::foresee::growth::Growth;
use crate::guard::terms::words::Pool;

/// One place that allocates.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// shm or pkg.
    pub pool: Pool,
    /// Module, "core" for the core and its libraries.
    pub module: String,
    /// File, without the module's name before it.
    pub file: String,
    /// Line.
    pub line: u32,
    /// Function.
    pub function: String,
    /// Bytes and blocks allocated and not freed.
    pub live_bytes: i64,
    /// As above.
    pub live_blocks: i64,
    /// Bytes and blocks allocated since the start.
    pub allocated_bytes: u64,
    /// As above.
    pub allocations: u64,
    /// Growth; `None` where it is not known (one worker's).
    pub growth: Option<Growth>,
    /// Failed allocations.
    pub failures: u64,
    /// Bytes that the manager did not book off when blocks of this place shrank.
    pub unbooked: u64,
    /// In focus: the way to one in so many of its allocations is noted.
    pub focus: Option<u64>,
}

/// Kamailio's file literal is "module: path" (core/mem/src_loc.h), cut from its beginning when long.
pub fn file_name(literal: &str) -> &str {
    literal.split_once(": ").map_or(literal, |(_, file)| file)
}

/// Sites of equal text are one, whatever their addresses; sites that never did anything are left out.
pub fn merged(sites: impl IntoIterator<Item = Site>) -> Vec<Site> {
    let mut found: Vec<Site> = Vec::new();
    let mut index: HashMap<(usize, String, u32, String, String), usize> = HashMap::new();
    for site in sites {
        if site.allocations == 0 && site.live_bytes == 0 && site.failures == 0 && site.unbooked == 0
        {
            continue;
        }
        let key = (
            site.pool.index(),
            site.file.clone(),
            site.line,
            site.function.clone(),
            site.module.clone(),
        );
        match index.get(&key).and_then(|at| found.get_mut(*at)) {
            Some(known) => {
                known.live_bytes += site.live_bytes;
                known.live_blocks += site.live_blocks;
                known.allocated_bytes = known.allocated_bytes.wrapping_add(site.allocated_bytes);
                known.allocations = known.allocations.wrapping_add(site.allocations);
                known.failures += site.failures;
                known.unbooked += site.unbooked;
                known.focus = known.focus.max(site.focus);
                known.growth = known.growth.zip(site.growth).map(|(a, b)| a.plus(b));
            }
            None => {
                index.insert(key, found.len());
                found.push(site);
            }
        }
    }
    found
}

/// Bytes per second below which growth does not decide the order: a byte per minute.
const LEAST_GROWTH: f64 = 1.0 / 60.0;

/// What the default order looks at first: growth that goes on.
fn rising(site: &Site) -> f64 {
    site.growth.map_or(0.0, |g| g.steady.min(g.now)).max(0.0)
}

/// Whether a place rises all the time.
pub fn is_rising(site: &Site) -> bool {
    rising(site) >= LEAST_GROWTH
}

/// The order an engineer wants: what rises all the time first, then what is large; or by live bytes,
/// growth, failures, or what the manager forgot to book off.
pub fn rank(sites: &mut [Site], by: Option<By>) {
    let live = |s: &Site| std::cmp::Reverse(s.live_bytes);
    let down = |a: f64, b: f64| b.total_cmp(&a);
    match by {
        None => sites.sort_by(|a, b| {
            let significant = |s: &Site| if is_rising(s) { rising(s) } else { 0.0 };
            down(significant(a), significant(b)).then(live(a).cmp(&live(b)))
        }),
        Some(By::Live) => sites.sort_by_key(live),
        Some(By::Growth) => sites.sort_by(|a, b| {
            let now = |s: &Site| s.growth.map_or(0.0, |g| g.now);
            down(now(a), now(b)).then(live(a).cmp(&live(b)))
        }),
        Some(By::Failures) => sites.sort_by_key(|s| (std::cmp::Reverse(s.failures), live(s))),
        Some(By::Drift) => sites.sort_by_key(|s| (std::cmp::Reverse(s.unbooked), live(s))),
    }
}

/// Whether a filter lets a site pass (the worker is the caller's to choose).
pub fn passes(site: &Site, filter: &Filter) -> bool {
    filter.pool.is_none_or(|pool| pool == site.pool)
        && filter.module.is_none_or(|module| module == site.module)
}

/// What one module holds in one pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// shm or pkg.
    pub pool: Pool,
    /// Its name.
    pub module: String,
    /// Bytes and blocks allocated and not freed.
    pub live_bytes: i64,
    /// As above.
    pub live_blocks: i64,
    /// Growth; `None` where it is not known.
    pub growth: Option<Growth>,
}

/// Sums by pool and module, the largest first.
pub fn by_module(sites: &[Site]) -> Vec<Module> {
    let mut found: Vec<Module> = Vec::new();
    for site in sites {
        match found
            .iter_mut()
            .find(|m| m.pool == site.pool && m.module == site.module)
        {
            Some(module) => {
                module.live_bytes += site.live_bytes;
                module.live_blocks += site.live_blocks;
                module.growth = module.growth.zip(site.growth).map(|(a, b)| a.plus(b));
            }
            None => found.push(Module {
                pool: site.pool,
                module: site.module.clone(),
                live_bytes: site.live_bytes,
                live_blocks: site.live_blocks,
                growth: site.growth,
            }),
        }
    }
    found.sort_by_key(|m| std::cmp::Reverse(m.live_bytes));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(file: &str, line: u32, live: i64, steady: f64) -> Site {
        Site {
            pool: Pool::Pkg,
            module: "m".into(),
            file: file.into(),
            line,
            function: "f".into(),
            live_bytes: live,
            live_blocks: 1,
            allocated_bytes: live.unsigned_abs(),
            allocations: 1,
            growth: Some(Growth {
                now: steady,
                steady,
                ..Growth::default()
            }),
            failures: 0,
            unbooked: 0,
            focus: None,
        }
    }

    #[test]
    fn equal_text_is_one_site_and_other_text_is_not() {
        let mut other_pool = site("a.c", 1, 7, 0.0);
        other_pool.pool = Pool::Shm;
        let all = merged([
            site("a.c", 1, 10, 1.0),
            site("a.c", 2, 20, 0.0),
            site("a.c", 1, 5, 2.0),
            other_pool,
        ]);
        let seen: Vec<_> = all
            .iter()
            .map(|s| (s.line, s.live_bytes, s.live_blocks))
            .collect();
        assert_eq!(seen, [(1, 15, 2), (2, 20, 1), (1, 7, 1)]);
        assert_eq!(all[0].growth.map(|g| g.steady), Some(3.0));
    }

    #[test]
    fn what_rises_all_the_time_comes_before_what_is_large() {
        let mut all = vec![
            site("large", 1, 1_000_000, 0.001),
            site("leak", 1, 500, 12.0),
            site("small", 1, 3, -5.0),
        ];
        rank(&mut all, None);
        let order: Vec<_> = all.iter().map(|s| s.file.as_str()).collect();
        assert_eq!(order, ["leak", "large", "small"]);
        rank(&mut all, Some(By::Live));
        assert_eq!(all[0].file, "large");
    }

    #[test]
    fn a_site_that_never_allocated_is_not_shown() {
        let mut empty = site("a.c", 1, 0, 0.0);
        empty.allocations = 0;
        assert!(merged([empty.clone()]).is_empty());
        empty.failures = 1;
        assert_eq!(merged([empty]).len(), 1);
    }

    #[test]
    fn failures_and_drift_of_equal_sites_are_added() {
        let with = |failures, unbooked| Site {
            failures,
            unbooked,
            ..site("a.c", 1, 10, 0.0)
        };
        let all = merged([with(2, 100), with(3, 20)]);
        assert_eq!((all[0].failures, all[0].unbooked), (5, 120));
    }

    #[test]
    fn less_than_a_byte_per_minute_is_no_rise() {
        assert!(is_rising(&site("a.c", 1, 1, 0.02)));
        assert!(!is_rising(&site("a.c", 1, 1, 0.01)) && !is_rising(&site("a.c", 1, 1, -1.0)));
    }

    #[test]
    fn a_site_passes_by_pool_and_by_module_and_must_by_both() {
        let filter = |pool, module| Filter {
            pool,
            module,
            ..Filter::default()
        };
        let known = site("a.c", 1, 1, 0.0);
        for (pool, module) in [
            (None, None),
            (Some(Pool::Pkg), None),
            (None, Some("m")),
            (Some(Pool::Pkg), Some("m")),
        ] {
            assert!(passes(&known, &filter(pool, module)), "{pool:?} {module:?}");
        }
        for (pool, module) in [
            (Some(Pool::Shm), None),
            (None, Some("tm")),
            (Some(Pool::Shm), Some("m")),
            (Some(Pool::Pkg), Some("tm")),
        ] {
            assert!(
                !passes(&known, &filter(pool, module)),
                "{pool:?} {module:?}"
            );
        }
    }

    #[test]
    fn a_module_is_summed_apart_in_each_pool_and_from_other_modules() {
        let of = |pool, module: &str, live| Site {
            pool,
            module: module.into(),
            ..site("a.c", 1, live, 0.0)
        };
        let modules = by_module(&[
            of(Pool::Pkg, "m", 30),
            of(Pool::Shm, "m", 20),
            of(Pool::Pkg, "tm", 10),
        ]);
        let seen: Vec<_> = modules.iter().map(|m| m.live_bytes).collect();
        assert_eq!(seen, [30, 20, 10]);
    }

    #[test]
    fn modules_are_sums_of_their_sites() {
        let modules = by_module(&[site("a.c", 1, 10, 1.0), site("b.c", 1, 20, 2.0)]);
        assert_eq!(
            (modules.len(), modules[0].live_bytes, modules[0].live_blocks),
            (1, 30, 2)
        );
        assert_eq!(modules[0].growth.map(|g| g.steady), Some(3.0));
    }

    #[test]
    fn the_module_before_the_file_is_not_shown_twice() {
        assert_eq!(
            file_name("core: core/parser/msg_parser.c"),
            "core/parser/msg_parser.c"
        );
        assert_eq!(file_name("htable.c"), "htable.c");
    }
}
