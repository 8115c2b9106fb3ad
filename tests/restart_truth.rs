//! What is advised about a restart, on simulated weeks with known truth: daily and weekly load, a holiday, leaks that end
//! in hours, in days and in weeks, a new server, a clock that was set.
//! Facts: the hour lies within the quietest tenth of those that are left, the date before the truth, and a healthy server
//! is advised nothing. Forbidden here: knowing how the forecast or the profile works.

#[allow(dead_code)] // a toolbox, also of tests/forecast_truth.rs
mod simulator;

use std::collections::VecDeque;

use memguard::guard::foresee::{
    cause::Cause,
    restart::{Advice, LastDay, Plan, Situation, before_peaks, plan},
    week::{Counting, FORGET, Hour, Week, counting},
};
use memguard::guard::terms::{text::NONE_FORESEEN_S, words::Level};
use simulator::{BEGIN_S, Random, Run, Shape, World};

const DAY: f64 = 86_400.0;
/// Between two looks at the advice, seconds.
const LOOK: f64 = 1_200.0;

/// A server, and what its sampling process remembers of the load.
struct Watched {
    run: Run,
    counting: Counting,
    hours: Vec<Hour>,
    /// Most that was used within each ten minutes of the last day.
    used: VecDeque<u64>,
    /// What the wall clock shows besides the truth, seconds.
    ahead_s: u64,
}

impl Watched {
    fn new(world: World, seed: u64) -> Watched {
        Watched {
            run: Run::new(world, seed),
            counting: Counting::default(),
            hours: Vec::new(),
            used: VecDeque::new(),
            ahead_s: 0,
        }
    }

    fn now_s(&self) -> u64 {
        (BEGIN_S + self.run.time) as u64 + self.ahead_s
    }

    /// One sample; false when the pool is full.
    fn step(&mut self) -> bool {
        if !self.run.step() {
            return false;
        }
        let step = self.run.world.step;
        let messages = (self.run.rate() * step) as u64;
        let (now, place) = (self.run.used as u64, self.run.time as u64 / 600);
        match (self.run.time - step) as u64 / 600 == place {
            true => self
                .used
                .back_mut()
                .map_or((), |used| *used = now.max(*used)),
            false => self.used.push_back(now),
        }
        if self.used.len() > 144 {
            self.used.pop_front();
        }
        let over = self
            .counting
            .add(self.now_s(), messages, (step * 1000.0) as u64);
        self.hours.extend(over);
        true
    }

    fn week(&self) -> Week {
        Week::of(counting(&self.hours), self.now_s() / 3600)
    }

    fn advice(&self) -> Plan {
        let outlook = self.run.outlook();
        let is_foreseen = outlook.valid && outlook.exhaustion_s < NONE_FORESEEN_S;
        let (week, now) = (self.week(), self.now_s() / 3600);
        let mut used: Vec<u64> = self.used.iter().copied().collect();
        if let Some(last) = used.last_mut() {
            *last = self.run.used as u64;
        }
        let day = LastDay {
            used: &used,
            step_s: 600,
            size: self.run.world.size as u64,
            growth: outlook.growth,
            busier: week.busier(now, now + outlook.low_s / 3600),
        };
        let situation = Situation {
            now_s: self.now_s(),
            low_s: is_foreseen.then(|| before_peaks(outlook.low_s, &day)),
            has_seen_day: self.used.len() >= 144,
            cause: if is_foreseen {
                Cause::Leak
            } else {
                Cause::None
            },
            level: Level::Normal,
            takes_s: Some(30),
            is_busy: false,
            is_blocked: false,
        };
        plan(&situation, &week)
    }

    /// Of the hours between now and the date: the share that is quieter than the advised one by more than a twentieth.
    fn quieter(&self, advised: &Plan) -> f64 {
        let (Some(at), Some(before)) = (advised.at_s, advised.before_s) else {
            return 0.0;
        };
        let usual = |start: u64| {
            let begin = (start / 3600 * 3600 - self.ahead_s) as f64 - BEGIN_S;
            (0..4)
                .map(|q| self.run.usual(begin + 450.0 + 900.0 * f64::from(q)))
                .sum::<f64>()
        };
        let hours: Vec<u64> = (self.now_s() / 3600 + 1..=before / 3600)
            .map(|n| n * 3600)
            .collect();
        let own = usual(at);
        let quieter = hours
            .iter()
            .filter(|start| usual(**start) < own * 0.95)
            .count();
        quieter as f64 / hours.len().max(1) as f64
    }
}

/// A leak after healthy days, without what restarts the simulated server by itself.
fn leaking(random: &mut Random, shape: Shape, days_before: f64, lasts_s: f64) -> World {
    let mut world = World::healthy(random);
    (
        world.restarts_per_day,
        world.storms_per_day,
        world.reloads_per_day,
    ) = (0.0, 0.0, 0.0);
    world.shape = shape;
    world.leak_from = days_before * DAY;
    world.leak = 1.0 / lasts_s;
    world.step = 20.0;
    world
}

#[test]
fn the_hour_is_of_the_quietest_tenth_and_the_date_before_the_truth() {
    type Make = fn(&mut Random) -> World;
    let families: [(&str, Make); 6] = [
        ("a leak of hours", |r| {
            let lasts = r.between(14.0, 24.0) * 3600.0;
            leaking(r, Shape::Sine, 7.5, lasts)
        }),
        ("a leak of days, office hours", |r| {
            let lasts = r.between(3.0, 6.0) * DAY;
            leaking(r, Shape::Office, 8.0, lasts)
        }),
        ("a leak of days with each message, quiet weekends", |r| {
            let lasts = r.between(3.0, 6.0) * DAY;
            World {
                leaks_per_message: true,
                ..leaking(r, Shape::Weekly, 9.0, lasts)
            }
        }),
        ("a leak of weeks from the start", |r| {
            let lasts = r.between(12.0, 20.0) * DAY;
            leaking(r, Shape::Weekly, 0.0, lasts)
        }),
        ("the same, with a holiday", |r| {
            let lasts = r.between(12.0, 20.0) * DAY;
            World {
                holiday: Some(3),
                ..leaking(r, Shape::Weekly, 0.0, lasts)
            }
        }),
        ("a new server", |r| {
            let lasts = r.between(14.0, 24.0) * 3600.0;
            leaking(r, Shape::Sine, 0.0, lasts)
        }),
    ];
    for (family, (name, make)) in families.iter().enumerate() {
        for i in 0..2 {
            let seed = (9_000_000 + family * 1_000 + i) as u64;
            let mut watched = Watched::new(make(&mut Random(seed)), seed);
            let (mut next, mut seen) = (0.0, Vec::new());
            while watched.step() {
                assert!(watched.run.time < 40.0 * DAY, "{name} {i}: it ends");
                if watched.run.time < next {
                    continue;
                }
                next = watched.run.time + LOOK;
                let advised = watched.advice();
                if advised.advice == Advice::None {
                    continue;
                }
                let (time, from) = (watched.run.time, watched.run.world.leak_from);
                assert!(time > from, "{name} {i}: nothing leaks yet: {advised:?}");
                let is_new = watched.week().days() < 1.0;
                assert!(!is_new || advised.at_s.is_none(), "{name} {i}: {advised:?}");
                let quieter = watched.quieter(&advised);
                assert!(
                    quieter <= 0.1,
                    "{name} {i}: {quieter} of the hours are quieter at day {:.2}: {advised:?}",
                    time / DAY
                );
                seen.push((time, advised));
            }
            let end = watched.now_s();
            assert!(!seen.is_empty(), "{name} {i}: it was never advised");
            let dates = seen
                .iter()
                .filter_map(|(time, plan)| Some((time, plan.before_s?)));
            for (time, before) in dates {
                assert!(
                    before <= end,
                    "{name} {i}: at day {:.2} it was to be before {} s after the end",
                    time / DAY,
                    before - end
                );
            }
            let with_hour = seen.iter().filter(|(_, plan)| plan.at_s.is_some()).count();
            println!(
                "{name} {i}: advised {} times, {with_hour} with an hour",
                seen.len()
            );
        }
    }
}

#[test]
fn a_healthy_server_is_advised_nothing_whatever_its_week_is_like() {
    for i in 0..4 {
        let seed = 9_500_000 + i;
        let mut world = World::healthy(&mut Random(seed));
        (world.step, world.holiday) = (60.0, Some(2));
        let mut watched = Watched::new(world, seed);
        let mut next = 0.0;
        while watched.run.time < 9.0 * DAY {
            assert!(watched.step());
            if watched.run.time >= next {
                next = watched.run.time + LOOK;
                let advised = watched.advice();
                assert_eq!(
                    advised.advice,
                    Advice::None,
                    "{i} at {}: {advised:?}",
                    watched.run.time
                );
            }
        }
        assert!(watched.week().days() > 8.0);
    }
}

#[test]
fn what_a_wrong_clock_saw_is_forgotten_when_it_is_set() {
    let mut world = leaking(&mut Random(7), Shape::Sine, 60.0, DAY);
    (world.step, world.day_to_day) = (60.0, 0.0);
    let mut watched = Watched::new(world, 7);
    watched.ahead_s = 7 * 3600;
    while watched.run.time < 3.0 * DAY {
        assert!(watched.step());
    }
    assert!(watched.week().days() > 2.9);
    // Somebody sets it; the sampling process notices (host: sampler/load.rs) and says so in the row of hours.
    watched.ahead_s = 0;
    watched.counting = Counting::default();
    watched.hours.push(FORGET);
    assert_eq!(watched.week().days(), 0.0);
    while watched.run.time < 4.5 * DAY {
        assert!(watched.step());
    }
    let situation = Situation {
        now_s: watched.now_s(),
        low_s: Some(2 * 86_400),
        has_seen_day: true,
        cause: Cause::Leak,
        level: Level::Normal,
        takes_s: None,
        is_busy: false,
        is_blocked: false,
    };
    let advised = plan(&situation, &watched.week());
    assert!(advised.at_s.is_some(), "{advised:?}");
    assert!(watched.quieter(&advised) <= 0.1, "{advised:?}");
}
