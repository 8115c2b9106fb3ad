//! A server's memory with known truth: daily load, storms, reloads, restarts, and a leak of any rate. Seeded.
//! Forbidden here: real clocks and real servers; knowing how the forecast works.

pub mod minutes;

use memguard::guard::foresee::{
    forecast::{
        Forecaster, Outlook,
        place::{self, Place},
    },
    growth::Trail,
};

/// A small generator with a seed (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform between 0 and 1.
    pub fn share(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.share()
    }

    /// Log-uniform.
    pub fn decades(&mut self, low: f64, high: f64) -> f64 {
        (self.between(low.ln(), high.ln())).exp()
    }

    /// About normal, sigma 1.
    pub fn normal(&mut self) -> f64 {
        (0..4).map(|_| self.share()).sum::<f64>() * 1.732 - 3.464
    }
}

/// The shape of a day.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    Flat,
    Sine,
    /// As `Sine`, at its height at 19:30.
    Evening,
    /// Steep between 7:30 and 9:00, and again in the evening.
    Office,
    /// As `Office`, with two quiet days each week.
    Weekly,
}

/// What one simulated server is like. Shares are of the pool.
#[derive(Clone, Debug)]
pub struct World {
    pub size: f64,
    pub base: f64,
    pub shape: Shape,
    /// What registrations hold at full load.
    pub registrations: f64,
    /// What calls hold at full load; seen in the rate of messages only.
    pub calls: f64,
    /// What other things hold at full load, which no signal shows.
    pub hidden: f64,
    /// Scatter of what is there from moment to moment.
    pub noise: f64,
    /// How much one day differs from another.
    pub day_to_day: f64,
    pub storms_per_day: f64,
    pub reloads_per_day: f64,
    /// A day (from the begin) on which nobody works.
    pub holiday: Option<i64>,
    /// Whole restarts, per day: everything starts anew, the forecast too.
    pub restarts_per_day: f64,
    /// Time of day at the start, seconds.
    pub begins_at: f64,
    /// Share of the pool that leaks per second; 0 for a healthy server.
    pub leak: f64,
    /// The leak follows the load instead of the clock.
    pub leaks_per_message: bool,
    /// It is no leak but new phones: the known bindings rise with it.
    pub floods: bool,
    /// When it starts, seconds.
    pub leak_from: f64,
    /// Places in the code are counted: registrations', calls', and the one that leaks.
    pub places: bool,
    /// What the leaking place also holds for calls, as a share of what these hold.
    pub place_calls: f64,
    /// Seconds between two samples.
    pub step: f64,
}

impl World {
    /// A quiet server of 512 MiB.
    pub fn quiet() -> World {
        World {
            size: 512.0 * 1_048_576.0,
            base: 0.15,
            shape: Shape::Flat,
            registrations: 0.0,
            calls: 0.0,
            hidden: 0.0,
            noise: 0.003,
            day_to_day: 0.0,
            storms_per_day: 0.0,
            reloads_per_day: 0.0,
            holiday: None,
            restarts_per_day: 0.0,
            begins_at: 0.0,
            leak: 0.0,
            leaks_per_message: false,
            floods: false,
            leak_from: 0.0,
            places: true,
            place_calls: 0.2,
            step: 1.0,
        }
    }

    /// Any healthy server: its highest use stays below 85 %.
    pub fn healthy(random: &mut Random) -> World {
        let shapes = [
            Shape::Flat,
            Shape::Sine,
            Shape::Sine,
            Shape::Office,
            Shape::Weekly,
        ];
        let peak = random.between(0.1, 0.5);
        let share = random.share();
        World {
            base: random.between(0.08, 0.25),
            shape: shapes[(random.bits() % 5) as usize],
            registrations: peak * share,
            calls: peak * (1.0 - share),
            noise: random.decades(0.0005, 0.01),
            day_to_day: random.between(0.0, 0.08),
            storms_per_day: random.between(0.0, 2.0),
            reloads_per_day: random.between(0.0, 1.0),
            restarts_per_day: random.between(0.0, 0.1),
            begins_at: random.between(0.0, 86_400.0),
            ..World::quiet()
        }
    }
}

/// A world that runs.
pub struct Run {
    pub world: World,
    pub random: Random,
    pub forecaster: Forecaster,
    /// Seconds since the begin.
    pub time: f64,
    /// Bytes that leaked since the last start.
    pub leaked: f64,
    pub used: f64,
    started: f64,
    bindings: f64,
    storm: f64,
    storm_until: f64,
    reloaded: f64,
    reload_until: f64,
    today: f64,
    yesterday: f64,
    day: i64,
    messages: f64,
    trails: [Trail; 3],
    place: Place,
}

/// Unix time of the begin, a Monday at midnight.
pub const BEGIN_S: f64 = 1_700_438_400.0;

impl Run {
    /// A server that has been running for a while.
    pub fn new(world: World, seed: u64) -> Run {
        let mut run = Run {
            world,
            random: Random(seed),
            forecaster: Forecaster::new(),
            time: 0.0,
            leaked: 0.0,
            used: 0.0,
            started: 0.0,
            bindings: 0.0,
            storm: 0.0,
            storm_until: 0.0,
            reloaded: 0.0,
            reload_until: 0.0,
            today: 1.0,
            yesterday: 1.0,
            day: -1,
            messages: 0.0,
            trails: Default::default(),
            place: Place::new(),
        };
        run.bindings = run.load();
        run.messages = run.bindings;
        run
    }

    /// The load now, 0 to about 1.
    fn load(&mut self) -> f64 {
        let clock = self.time + self.world.begins_at;
        let day = (clock / 86_400.0) as i64;
        if day != self.day {
            self.day = day;
            self.yesterday = self.today;
            self.today = 1.0 + self.world.day_to_day * self.random.normal();
        }
        // Days differ smoothly: no jump at midnight.
        let blend = ((clock % 86_400.0) / 3_600.0 / 6.0).min(1.0);
        let usual = match self.world.holiday == Some(day) {
            true => 0.3 * self.usual(self.time),
            false => self.usual(self.time),
        };
        usual * (self.yesterday + (self.today - self.yesterday) * blend)
    }

    /// The load that is usual at a time, without what makes one day differ from another.
    pub fn usual(&self, time: f64) -> f64 {
        let clock = time + self.world.begins_at;
        let day = (clock / 86_400.0) as i64;
        let hour = (clock % 86_400.0) / 3_600.0;
        let rise = |at: f64, width: f64| 1.0 / (1.0 + (-(hour - at) / width).exp());
        match self.world.shape {
            Shape::Flat => 0.8,
            Shape::Sine => 0.55 - 0.45 * ((hour - 3.0) / 24.0 * std::f64::consts::TAU).cos(),
            Shape::Evening => 0.55 - 0.45 * ((hour - 7.5) / 24.0 * std::f64::consts::TAU).cos(),
            Shape::Office | Shape::Weekly => {
                let worked = 0.1 + 0.9 * (rise(8.2, 0.25) - rise(18.0, 0.8));
                if self.world.shape == Shape::Weekly && day % 7 >= 5 {
                    0.1 + 0.3 * (worked - 0.1)
                } else {
                    worked
                }
            }
        }
    }

    /// Messages per second.
    #[allow(dead_code)] // for tests/restart_truth.rs alone
    pub fn rate(&self) -> f64 {
        self.messages * 500.0
    }

    fn happens(&mut self, per_day: f64) -> bool {
        per_day > 0.0 && self.random.share() < per_day * self.world.step / 86_400.0
    }

    /// One sample later; `false` when the pool is full.
    pub fn step(&mut self) -> bool {
        let step = self.world.step;
        self.time += step;
        let load = self.load();
        if self.happens(self.world.restarts_per_day) {
            self.forecaster = Forecaster::new();
            self.place = Place::new();
            self.trails = Default::default();
            (self.leaked, self.reloaded, self.bindings) = (0.0, 0.0, 0.0);
            self.started = self.time;
        }
        // Clients come and go within some twenty minutes.
        self.bindings += (load - self.bindings) * (step / 1_200.0).min(1.0);
        if self.happens(self.world.storms_per_day) {
            self.storm_until = self.time + self.random.between(30.0, 600.0);
        }
        let storms = self.time < self.storm_until;
        let target = if storms { 0.25 } else { 0.0 };
        let speed = if storms { 120.0 } else { 1_800.0 };
        self.storm += (target - self.storm) * (step / speed).min(1.0);
        if self.happens(self.world.reloads_per_day) {
            // The new data lie next to the old for a minute; they are a little smaller or larger.
            self.reload_until = self.time + 60.0;
            self.reloaded = self.random.between(0.0, 0.04);
        }
        if self.time >= self.world.leak_from {
            let pace = if self.world.leaks_per_message {
                0.2 + 1.4 * load
            } else {
                1.0
            };
            self.leaked += self.world.leak * pace * self.world.size * step;
        }
        let loading = if self.time < self.reload_until {
            0.05
        } else {
            0.0
        };
        let w = &self.world;
        let transactions = w.noise * (1.0 + self.random.normal()).abs() * (0.3 + load);
        let known = self.bindings + self.storm;
        let share = w.base
            + w.registrations * known
            + (w.calls + w.hidden) * load
            + transactions
            + self.reloaded
            + loading;
        self.used = share * w.size + self.leaked;
        if self.used >= w.size {
            return false;
        }
        let is_flooded = w.floods && self.leaked > 0.0;
        let arriving = load * (1.0 + 0.05 * self.random.normal())
            + if storms || is_flooded { 2.0 } else { 0.0 };
        self.messages += (arriving - self.messages) * (step / 60.0).min(1.0);
        let new = match is_flooded {
            true => self.leaked / (self.world.registrations * self.world.size),
            false => 0.0,
        };
        let signals = [
            ((known + new) * 100_000.0) as f32,
            (self.messages * 500.0) as f32,
        ];
        let now_ms = ((BEGIN_S + self.time) * 1000.0) as u64;
        self.forecaster
            .push(now_ms, self.used as u64, self.world.size as u64, signals);
        if self.world.places {
            let w = &self.world;
            let calls = w.calls * load * w.size;
            let (flooded, leaked) = match w.floods {
                true => (self.leaked, 0.0),
                false => (0.0, self.leaked),
            };
            let live = [
                w.registrations * known * w.size + flooded,
                (1.0 - w.place_calls) * calls + transactions * w.size,
                w.place_calls * calls + leaked,
            ];
            self.count_places(now_ms, live, signals[1]);
        }
        true
    }

    /// As the sampling process does it: the place that grows most steadily is followed.
    fn count_places(&mut self, now_ms: u64, live: [f64; 3], messages: f32) {
        for (trail, live) in self.trails.iter_mut().zip(live) {
            trail.feed(now_ms, live as i64);
        }
        let used = self.forecaster.levelled();
        let steady = self.trails.iter().map(|trail| trail.growth().steady);
        if let Some(number) = place::choose(self.place.number(), steady.enumerate()) {
            self.place
                .push(now_ms, number, live[number] as i64, used, messages);
        }
    }

    pub fn outlook(&self) -> Outlook {
        self.forecaster
            .outlook_of(self.world.size as u64, Some(&self.place))
    }
}

/// How well one leak was foretold.
#[derive(Clone, Debug, Default)]
pub struct Score {
    /// Relative errors at evenly spread moments from the first tenth on; "unknown" counts as infinite.
    pub errors: Vec<f64>,
    /// Of these moments, how many had a forecast.
    pub known: usize,
    /// Moments at which the truth lay between earliest and latest.
    pub covered: usize,
    /// Share of the pool that had leaked when it was announced first.
    pub announced_at: f64,
}

/// Runs a leak to its end; `None` when it does not end within 60 days.
pub fn leak(world: World, seed: u64) -> Option<Score> {
    const MOMENTS: f64 = 60.0;
    let size = world.size;
    let mut run = Run::new(world, seed);
    let mut seen: Vec<(f64, Outlook)> = Vec::new();
    let trace = std::env::var("MEMGUARD_TRACE").is_ok_and(|v| v == seed.to_string());
    let mut announced_at = f64::INFINITY;
    let about = 0.8 / run.world.leak;
    let every = (about / 400.0).max(run.world.step);
    let mut next = 0.0;
    while run.step() {
        if run.time > 60.0 * 86_400.0 {
            return None;
        }
        if run.time < next {
            continue;
        }
        next = run.time + every;
        let leaked = run.leaked / size;
        let outlook = run.outlook();
        if trace {
            println!(
                "TRACE {:.3} {:.3} {:.3} {} {} {:.0} {} {}",
                run.time / 86_400.0,
                run.used / size,
                leaked,
                outlook.valid,
                outlook.method,
                outlook.growth / run.world.leak / size * 100.0,
                outlook.exhaustion_s,
                outlook.samples
            );
        }
        if announced_at.is_infinite() && outlook.valid && outlook.exhaustion_s < 2_592_000 {
            announced_at = leaked;
        }
        if leaked >= 0.1 {
            seen.push((run.time, outlook));
        }
    }
    let end = run.time;
    let mut score = Score {
        announced_at,
        ..Score::default()
    };
    let first = seen.first()?.0;
    let mut wanted = 0.0;
    for (time, outlook) in seen {
        let progress = (time - first) / (end - first);
        if progress < wanted / MOMENTS || progress > 0.97 || end - time > 29.0 * 86_400.0 {
            continue;
        }
        wanted = (progress * MOMENTS).floor() + 1.0;
        let left = end - time;
        if outlook.valid && outlook.exhaustion_s < 2_592_000 {
            score.known += 1;
            score.covered +=
                usize::from(outlook.low_s as f64 <= left && left <= outlook.high_s as f64);
            score
                .errors
                .push((outlook.exhaustion_s as f64 - left).abs() / left);
        } else {
            score.errors.push(f64::INFINITY);
        }
    }
    Some(score)
}

/// The evening that `./dev evening` replays for real, here after a whole healthy day: from 18:00 on the script forgets
/// something of each message. `Shape::Evening` is a busy evening; with `Shape::Sine` the load falls away meanwhile.
pub fn evening(shape: Shape) -> World {
    World {
        shape,
        registrations: 0.2,
        calls: 0.05,
        noise: 0.003,
        day_to_day: 0.03,
        begins_at: EVENING_S,
        leak: 0.7 / (4.0 * 3_600.0),
        leaks_per_message: true,
        leak_from: 86_400.0,
        ..World::quiet()
    }
}

/// 18:00, in seconds of the day.
pub const EVENING_S: f64 = 18.0 * 3_600.0;

/// What was foretold when another tenth of the pool had leaked.
#[derive(Clone, Copy, Debug)]
pub struct Tenth {
    /// Seconds since the begin.
    pub time: f64,
    pub used_share: f64,
    pub outlook: Outlook,
}

impl Tenth {
    /// As a share of the time that was left; infinite when nothing was foretold.
    pub fn error(&self, full_at: f64) -> f64 {
        let left = full_at - self.time;
        match self.outlook.valid {
            true => (self.outlook.exhaustion_s as f64 - left).abs() / left,
            false => f64::INFINITY,
        }
    }
}

/// Runs the evening: each tenth, when an end was foretold first, and when the pool was full.
pub fn run_evening(shape: Shape, seed: u64) -> (Vec<Tenth>, f64, f64) {
    let mut run = Run::new(evening(shape), seed);
    let (mut tenths, mut announced_at, mut next) = (Vec::new(), f64::INFINITY, 0.0);
    while run.step() {
        if run.time < next {
            continue;
        }
        next = run.time + 30.0;
        let outlook = run.outlook();
        if outlook.valid && outlook.exhaustion_s < 2_592_000 {
            announced_at = announced_at.min(run.time);
        }
        if run.leaked / run.world.size >= (tenths.len() + 1) as f64 / 10.0 {
            tenths.push(Tenth {
                time: run.time,
                used_share: run.used / run.world.size,
                outlook,
            });
        }
    }
    (tenths, announced_at, run.time)
}

/// How many times, in how many days, a healthy server was said to run full; within a day, and at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alarms {
    pub days: f64,
    pub any: usize,
    pub within_a_day: usize,
    /// Share of the time without an answer.
    pub unknown: f64,
}

/// Runs a healthy server for some days.
pub fn health(world: World, seed: u64, days: f64, mut tell: impl FnMut(&Run, &Outlook)) -> Alarms {
    let mut run = Run::new(world, seed);
    let mut alarms = Alarms {
        days,
        ..Alarms::default()
    };
    let (mut any, mut soon) = (false, false);
    let (mut looks, mut unknown) = (0.0, 0.0);
    let mut next = 0.0;
    while run.time < days * 86_400.0 {
        assert!(
            run.step(),
            "a healthy server does not run full: {:?}",
            run.world
        );
        if run.time < next {
            continue;
        }
        next = run.time + 30.0;
        let outlook = run.outlook();
        let now = outlook.valid && outlook.exhaustion_s < 2_592_000;
        let now_soon = outlook.valid && outlook.exhaustion_s < 86_400;
        if now && !any {
            alarms.any += 1;
            tell(&run, &outlook);
        }
        alarms.within_a_day += usize::from(now_soon && !soon);
        (any, soon) = (now, now_soon);
        looks += 1.0;
        unknown += f64::from(u8::from(!outlook.valid));
    }
    alarms.unknown = unknown / looks;
    alarms
}

/// The middle of a list; infinite when it is empty.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values
        .get(values.len() / 2)
        .copied()
        .unwrap_or(f64::INFINITY)
}

/// A family of leaking servers.
pub type Family = (&'static str, fn(&mut Random) -> World);

/// Time in which the whole pool would leak: ten minutes to forty days.
fn any_leak(random: &mut Random) -> f64 {
    1.0 / random.decades(600.0, 40.0 * 86_400.0)
}

fn paced(mut world: World) -> World {
    world.step = if 1.0 / world.leak > 43_200.0 {
        10.0
    } else {
        1.0
    };
    world
}

/// The load is at its height when the leak begins, after a healthy day or two, and falls away while memory fills.
fn falling(random: &mut Random) -> World {
    let mut world = World::healthy(random);
    (
        world.storms_per_day,
        world.reloads_per_day,
        world.restarts_per_day,
    ) = (0.0, 0.0, 0.0);
    world.shape = Shape::Sine;
    world.begins_at = random.between(15.0, 19.0) * 3_600.0;
    world.leak_from = 86_400.0 * (1.0 + (random.share() * 2.0).floor());
    world.leak = 1.0 / random.decades(2.0 * 3_600.0, 12.0 * 3_600.0);
    world.leaks_per_message = random.share() < 0.5;
    world.step = 1.0;
    world
}

/// Every family that leaks.
pub const LEAKS: [Family; 8] = [
    ("steady leak from the start", |r| {
        paced(World {
            leak: any_leak(r),
            noise: r.decades(0.0005, 0.01),
            ..World::quiet()
        })
    }),
    ("leak under a daily load, from the start", |r| {
        let mut world = World::healthy(r);
        (
            world.storms_per_day,
            world.reloads_per_day,
            world.restarts_per_day,
        ) = (0.0, 0.0, 0.0);
        world.leak = any_leak(r);
        paced(world)
    }),
    ("leak that begins after healthy days", |r| {
        let mut world = World::healthy(r);
        (
            world.storms_per_day,
            world.reloads_per_day,
            world.restarts_per_day,
        ) = (0.0, 0.0, 0.0);
        world.leak = any_leak(r);
        world.leak_from = r.between(1.0, 6.0) * 86_400.0;
        paced(world)
    }),
    ("leak with each message", |r| {
        let mut world = World::healthy(r);
        (
            world.storms_per_day,
            world.reloads_per_day,
            world.restarts_per_day,
        ) = (0.0, 0.0, 0.0);
        world.leak = any_leak(r);
        world.leaks_per_message = true;
        paced(world)
    }),
    ("leak with reloads", |r| {
        paced(World {
            leak: any_leak(r),
            reloads_per_day: r.between(0.5, 6.0),
            ..World::quiet()
        })
    }),
    ("mixture: leak, daily load, storms, reloads", |r| {
        let mut world = World::healthy(r);
        world.restarts_per_day = 0.0;
        world.leak = any_leak(r);
        paced(world)
    }),
    ("leak of hours while the load falls away", falling),
    ("the same, places in the code not counted", |r| World {
        places: false,
        ..falling(r)
    }),
];

/// Every family that is healthy.
pub const HEALTHY: [Family; 5] = [
    ("daily curves of every shape", |r| World {
        storms_per_day: 0.0,
        reloads_per_day: 0.0,
        restarts_per_day: 0.0,
        ..World::healthy(r)
    }),
    ("with storms", |r| World {
        storms_per_day: 3.0,
        reloads_per_day: 0.0,
        restarts_per_day: 0.0,
        ..World::healthy(r)
    }),
    ("with reloads", |r| World {
        storms_per_day: 0.0,
        reloads_per_day: 2.0,
        restarts_per_day: 0.0,
        ..World::healthy(r)
    }),
    ("with restarts", |r| World {
        storms_per_day: 0.0,
        reloads_per_day: 0.0,
        restarts_per_day: 0.15,
        ..World::healthy(r)
    }),
    ("all of it", World::healthy),
];

/// Load that no signal shows: a pool about which nothing but its use is known.
pub const HIDDEN: Family = ("load that no signal shows", |r| {
    let mut world = World::healthy(r);
    world.hidden = world.registrations + world.calls;
    (world.registrations, world.calls) = (0.0, 0.0);
    world
});
