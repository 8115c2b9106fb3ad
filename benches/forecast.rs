//! `./dev bench forecast`: how right the forecast is on simulated servers whose truth is known.
//! Forbidden here: choosing worlds by their outcome; every seed that runs is counted.

#[path = "../tests/simulator/mod.rs"]
mod simulator;

use simulator::minutes::{FAST, STRAIGHT, fast, straight};
use simulator::{
    Alarms, EVENING_S, HEALTHY, HIDDEN, LEAKS, Random, Shape, World, health, leak, median,
    run_evening,
};

fn number(name: &str, default: usize) -> usize {
    std::env::var(name)
        .ok()
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

fn main() {
    let runs = number("MEMGUARD_RUNS", 60);
    let days = number("MEMGUARD_DAYS", 1000);
    let verbose = std::env::var("MEMGUARD_VERBOSE").is_ok();
    let only = std::env::var("MEMGUARD_ONLY").unwrap_or_default();
    if only.is_empty() || only == "fast" {
        fast_ends(2 * runs, verbose);
    }
    if only.is_empty() || only == "straight" {
        straight_leaks(runs, verbose);
    }
    if !only.is_empty() {
        return;
    }
    evening("a busy evening", Shape::Evening);
    evening("an evening whose load falls away", Shape::Sine);
    let mut all = Vec::new();
    let (mut all_known, mut all_covered) = (0, 0);
    println!(
        "time to exhaustion, from the moment one tenth of the pool has leaked (unknown counts as wrong):"
    );
    for (f, (name, make)) in LEAKS.iter().enumerate() {
        let (mut errors, mut known, mut covered, mut announced) = (Vec::new(), 0, 0, Vec::new());
        for i in 0..runs {
            let seed = (f * 10_000 + i) as u64;
            let world = make(&mut Random(seed));
            let text = format!("{world:?}");
            let Some(mut score) = leak(world, seed) else {
                continue;
            };
            if verbose {
                let (m, k, n) = (median(&mut score.errors), score.known, score.errors.len());
                println!(
                    "    {i}: median {m:.3} known {k}/{n} announced {:.3} {text}",
                    score.announced_at
                );
            }
            known += score.known;
            covered += score.covered;
            announced.push(score.announced_at);
            errors.append(&mut score.errors);
        }
        let count = errors.len().max(1);
        println!(
            "  {name:<46} median error {:5.1} %   known {:3.0} %   truth within earliest..latest {:3.0} %   announced at {:4.1} % leaked",
            100.0 * median(&mut errors),
            100.0 * known as f64 / count as f64,
            100.0 * covered as f64 / known.max(1) as f64,
            100.0 * median(&mut announced)
        );
        all.append(&mut errors);
        all_known += known;
        all_covered += covered;
    }
    println!(
        "  {:<46} median error {:5.1} %   (must be below 15 %)   truth within earliest..latest {:3.0} % (meant: 90 %)",
        "all",
        100.0 * median(&mut all),
        100.0 * all_covered as f64 / all_known.max(1) as f64
    );
    println!("false alarms on healthy servers (any time to exhaustion at all; within a day):");
    let mut sum = Alarms::default();
    for (f, (name, make)) in HEALTHY.iter().enumerate() {
        let alarms = healthy(name, *make, f, days / HEALTHY.len(), verbose);
        sum.days += alarms.days;
        sum.any += alarms.any;
        sum.within_a_day += alarms.within_a_day;
    }
    println!(
        "  {:<46} {} and {} in {:.0} days: {:.2} and {:.2} per 1000 days   (must be below 1)",
        "all",
        sum.any,
        sum.within_a_day,
        sum.days,
        1000.0 * sum.any as f64 / sum.days,
        1000.0 * sum.within_a_day as f64 / sum.days
    );
    healthy(HIDDEN.0, HIDDEN.1, 99, days / 2, verbose);
}

/// Leaks and storms that fill what is free within ten minutes.
fn fast_ends(runs: usize, verbose: bool) {
    println!(
        "ends within minutes, from the second on in which the growth begins (unknown counts as wrong):"
    );
    for (f, (name, make)) in FAST.iter().enumerate() {
        let (mut told_at, mut errors) = (Vec::new(), Vec::new());
        let (mut known, mut covered, mut in_time, mut early) = (0, 0, 0, 0);
        for i in 0..runs {
            let seed = (3_000_000 + f * 10_000 + i) as u64;
            let world = make(&mut Random(seed));
            let mut score = fast(world.clone(), seed);
            if verbose {
                println!(
                    "    {i}: told at {:.2} error {:.2} held {}/{} {world:?}",
                    score.told_at,
                    median(&mut score.errors),
                    score.covered,
                    score.known
                );
            }
            known += score.known;
            covered += score.covered;
            in_time += usize::from(score.told_at < 0.5);
            early += usize::from(score.is_early);
            told_at.push(score.told_at);
            errors.append(&mut score.errors);
        }
        let (middle, worst) = middle_and_worst(&mut told_at);
        println!(
            "  {name:<46} told before half of the time in {in_time} of {runs} (median at {:3.0} %, one in ten later than {:3.0} %)   median error {:5.1} %   truth within earliest..latest {:3.0} %   told before it began {early}",
            100.0 * middle,
            100.0 * worst,
            100.0 * median(&mut errors),
            100.0 * covered as f64 / known.max(1) as f64
        );
    }
}

/// Straight leaks that take 3 to 48 hours.
fn straight_leaks(runs: usize, verbose: bool) {
    println!(
        "straight leaks, after 45 minutes of them (\"none\": from ten minutes on where it leaks from the start):"
    );
    for (f, (name, make)) in STRAIGHT.iter().enumerate() {
        let (mut minutes, mut all) = (Vec::new(), [0; 5]);
        let (mut never_none, mut in_time, mut ran) = (0, 0, 0);
        for i in 0..runs {
            let seed = (4_000_000 + f * 10_000 + i) as u64;
            let world = make(&mut Random(seed));
            let Some(score) = straight(world.clone(), seed) else {
                continue;
            };
            if verbose {
                println!("    {i}: {score:?} {world:?}");
            }
            ran += 1;
            never_none += usize::from(score.none == 0);
            in_time += usize::from(score.minutes <= 45.0);
            minutes.push(score.minutes);
            let own = [score.none, score.looks, score.held, score.late, score.told];
            all.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
        }
        let share = |part: usize, of: usize| 100.0 * part as f64 / of.max(1) as f64;
        let (middle, worst) = middle_and_worst(&mut minutes);
        println!(
            "  {name:<46} never \"none\" in {never_none} of {ran} ({:4.1} % of the looks)   truth held within 45 min in {in_time} of {ran} (median after {middle:.0} min, one in ten later than {worst:.0})   after that held {:3.0} %, an end foreseen {:3.0} %",
            share(all[0], all[1]),
            share(all[2], all[3]),
            share(all[4], all[3])
        );
    }
}

/// One evening in full, as `./dev evening` replays it for real.
fn evening(name: &str, shape: Shape) {
    let (tenths, announced_at, full_at) = run_evening(shape, 1);
    let clock = |time: f64| {
        let minutes = ((time + EVENING_S) / 60.0).round() as u64;
        format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60)
    };
    println!(
        "{name}: a leak with each message from 18:00 on, announced at {}, full at {}; said at each tenth leaked:",
        clock(announced_at),
        clock(full_at)
    );
    for (i, tenth) in tenths.iter().enumerate() {
        let o = tenth.outlook;
        let said = match o.valid {
            true => format!(
                "full at {} ({} .. {}), error {:4.1} %",
                clock(tenth.time + o.exhaustion_s as f64),
                clock(tenth.time + o.low_s as f64),
                clock(tenth.time + o.high_s as f64),
                100.0 * tenth.error(full_at)
            ),
            false => "unknown".to_owned(),
        };
        println!(
            "  {}/10 at {}, {:4.1} % used: {said}",
            i + 1,
            clock(tenth.time),
            100.0 * tenth.used_share
        );
    }
}

fn healthy(
    name: &str,
    make: fn(&mut Random) -> World,
    f: usize,
    days: usize,
    verbose: bool,
) -> Alarms {
    const EACH: f64 = 20.0;
    let mut sum = Alarms::default();
    let mut unknown = 0.0;
    let servers = (days as f64 / EACH).ceil() as usize;
    for i in 0..servers {
        let seed = (1_000_000 + f * 10_000 + i) as u64;
        let mut world = make(&mut Random(seed));
        world.step = if i % 2 == 0 { 1.0 } else { 10.0 };
        let alarms = health(world, seed, EACH, |run, outlook| {
            if verbose {
                let (day, used) = (run.time / 86_400.0, run.used / run.world.size);
                let o = outlook;
                println!(
                    "    {name} {i}: at day {day:.2} used {used:.2} {} growth {:.0} in {} n {} fit {:.2} load {} {:?}",
                    o.method, o.growth, o.exhaustion_s, o.samples, o.fit, o.is_load, run.world
                );
            }
        });
        sum.days += alarms.days;
        sum.any += alarms.any;
        sum.within_a_day += alarms.within_a_day;
        unknown += alarms.unknown / servers as f64;
    }
    println!(
        "  {name:<46} {} and {} in {:.0} days, without an answer {:.1} % of the time",
        sum.any,
        sum.within_a_day,
        sum.days,
        100.0 * unknown
    );
    sum
}

/// The middle and the worst tenth.
fn middle_and_worst(values: &mut [f64]) -> (f64, f64) {
    let middle = median(values);
    let worst = values.get(values.len() * 9 / 10).copied();
    (middle, worst.unwrap_or(f64::INFINITY))
}
