//! The ends that come within minutes, and the straight leaks of hours and days: how soon and how well they are told.
//! Forbidden here: knowing how the forecast works.

use super::{Family, Random, Run, World};
use memguard::guard::foresee::forecast::Outlook;

/// Whether an end is foreseen.
pub fn is_told(outlook: &Outlook) -> bool {
    outlook.valid && outlook.exhaustion_s < 2_592_000
}

/// What holds the end between two times, foreseen or only feared.
pub fn is_within(outlook: &Outlook, left: f64) -> bool {
    outlook.low_s < 2_592_000 && outlook.low_s as f64 <= left && left <= outlook.high_s as f64
}

/// How one fast end was told.
#[derive(Clone, Debug, Default)]
pub struct Fast {
    /// Share of the time that was gone when it was told first; infinite when it never was.
    pub told_at: f64,
    /// Relative errors, once a second from half of the time on; "unknown" counts as infinite.
    pub errors: Vec<f64>,
    /// Seconds from the telling on in which something was foreseen.
    pub known: usize,
    /// Of these, those in which the truth lay between earliest and latest.
    pub covered: usize,
    /// It was told before it began.
    pub is_early: bool,
}

/// Runs a world to its end, a look at each second since its leak began.
pub fn fast(world: World, seed: u64) -> Fast {
    let from = world.leak_from;
    let mut run = Run::new(world, seed);
    let mut score = Fast {
        told_at: f64::INFINITY,
        ..Fast::default()
    };
    let mut seen = Vec::new();
    while run.step() {
        let outlook = run.outlook();
        if run.time < from {
            score.is_early |= is_told(&outlook);
        } else {
            seen.push((run.time, outlook));
        }
    }
    let whole = run.time - from;
    for (time, outlook) in seen {
        let (gone, left) = ((time - from) / whole, run.time - time);
        if is_told(&outlook) {
            score.told_at = score.told_at.min(gone);
            score.known += 1;
            // seconds are whole: what is told in one is true within it
            score.covered +=
                usize::from(outlook.low_s as f64 <= left && left < outlook.high_s as f64 + 1.0);
        }
        if (0.5..0.97).contains(&gone) {
            score.errors.push(match is_told(&outlook) {
                true => (outlook.exhaustion_s as f64 - left).abs() / left,
                false => f64::INFINITY,
            });
        }
    }
    score
}

/// How one straight leak was told.
#[derive(Clone, Debug, Default)]
pub struct Straight {
    /// Looks, one each half minute, at which "none foreseen" was said after the first ten minutes.
    pub none: usize,
    /// Looks in all after the first ten minutes.
    pub looks: usize,
    /// Looks after 45 minutes, and of these, those that held the truth between earliest and latest.
    pub late: usize,
    pub held: usize,
    /// Of these, those that foresaw an end.
    pub told: usize,
    /// Minutes until the truth lay between earliest and latest first.
    pub minutes: f64,
}

/// Runs a leak to its end; `None` when it does not end.
pub fn straight(world: World, seed: u64) -> Option<Straight> {
    let from = world.leak_from;
    let mut run = Run::new(world, seed);
    let mut seen = Vec::new();
    let mut next = from;
    while run.step() {
        if run.time > 20.0 * 86_400.0 {
            return None;
        }
        if run.time >= next {
            next += 30.0;
            seen.push((run.time, run.outlook()));
        }
    }
    let mut score = Straight {
        minutes: f64::INFINITY,
        ..Straight::default()
    };
    for (time, outlook) in seen {
        let (gone, left) = (time - from, run.time - time);
        let holds = is_within(&outlook, left);
        if holds {
            score.minutes = score.minutes.min(gone / 60.0);
        }
        let is_late = gone >= 45.0 * 60.0;
        if gone >= 600.0 && (is_late || from == 0.0) {
            score.looks += 1;
            score.none += usize::from(outlook.valid && !is_told(&outlook));
        }
        if is_late && left > 60.0 {
            score.late += 1;
            score.held += usize::from(holds);
            score.told += usize::from(is_told(&outlook));
        }
    }
    Some(score)
}

/// A share of the pool that is free when it begins, and in how many seconds it is filled.
fn fills(world: &mut World, random: &mut Random, seconds: f64) {
    world.leak_from = random.between(60.0, 5_400.0).round();
    world.leak = (0.97 - world.base - world.registrations * 0.8) / seconds;
}

/// Every family that ends within minutes.
pub const FAST: [Family; 4] = [
    ("leak of 30 s to 10 min", |r| {
        let mut world = World {
            base: r.between(0.1, 0.85),
            noise: r.decades(0.0005, 0.005),
            ..World::quiet()
        };
        let seconds = r.decades(30.0, 600.0);
        fills(&mut world, r, seconds);
        world
    }),
    ("the same, with phones and calls", |r| {
        let mut world = World {
            base: r.between(0.1, 0.4),
            registrations: r.between(0.05, 0.3),
            calls: r.between(0.0, 0.1),
            noise: r.decades(0.0005, 0.005),
            ..World::quiet()
        };
        let seconds = r.decades(30.0, 600.0);
        fills(&mut world, r, seconds);
        world
    }),
    ("storm of new phones, 30 s to 10 min", |r| {
        let mut world = World {
            base: r.between(0.1, 0.4),
            registrations: r.between(0.05, 0.4),
            calls: r.between(0.0, 0.1),
            noise: r.decades(0.0005, 0.005),
            floods: true,
            ..World::quiet()
        };
        let seconds = r.decades(30.0, 600.0);
        fills(&mut world, r, seconds);
        world
    }),
    ("storm that fills the last tenth or two", |r| {
        let mut world = World {
            base: r.between(0.6, 0.75),
            registrations: 0.1,
            noise: r.decades(0.0005, 0.005),
            floods: true,
            ..World::quiet()
        };
        let seconds = r.decades(30.0, 600.0);
        fills(&mut world, r, seconds);
        world
    }),
];

/// Time in which all that is free leaks: 3 to 48 hours.
fn slow(world: &mut World, random: &mut Random) {
    let seconds = random.decades(3.0 * 3_600.0, 48.0 * 3_600.0);
    let load = world.registrations + world.calls;
    world.leak = (1.0 - world.base - 0.8 * load) / seconds;
}

/// Every family of straight leaks.
pub const STRAIGHT: [Family; 4] = [
    ("straight leak of 3 to 48 h, no load", |r| {
        let mut world = World {
            base: r.between(0.1, 0.5),
            noise: r.decades(0.0001, 0.005),
            ..World::quiet()
        };
        slow(&mut world, r);
        world
    }),
    ("the same, under an even load", |r| {
        let mut world = World {
            base: r.between(0.1, 0.3),
            registrations: r.between(0.05, 0.2),
            calls: r.between(0.0, 0.2),
            noise: r.decades(0.0005, 0.005),
            ..World::quiet()
        };
        slow(&mut world, r);
        world
    }),
    ("the same, under a daily load", |r| {
        let mut world = World {
            storms_per_day: 0.0,
            reloads_per_day: 0.0,
            restarts_per_day: 0.0,
            ..World::healthy(r)
        };
        slow(&mut world, r);
        world
    }),
    ("the same, after a healthy day", |r| {
        let mut world = World {
            storms_per_day: 0.0,
            reloads_per_day: 0.0,
            restarts_per_day: 0.0,
            ..World::healthy(r)
        };
        slow(&mut world, r);
        world.leak_from = r.between(1.0, 2.0) * 86_400.0;
        world
    }),
];
