//! An evening of a slow leak, sixty times faster: what memguard says about it at each moment, and what then happened.
//! Forbidden here: traffic beyond loopback; a verdict that does not come from the clock.

mod phones;
mod picture;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::Server;
use crate::{Failure, pause};
use phones::Phones;

/// The server's clock, and with it everything that it does by time, runs this many times faster.
pub const SPEED: f64 = 60.0;
/// Shared memory in MiB: small, so that an evening's leak fills it.
const SHM_MB: u32 = 16;
/// Time of day at the begin, seconds; what follows is in seconds of that day.
const BEGIN_S: f64 = 18.0 * 3_600.0;
/// From the begin to the moment at which the script begins to leak.
const LEAK_AFTER_S: f64 = 1_200.0;
/// It is full long before; after this something is wrong.
const LIMIT_S: f64 = 3.2 * 3_600.0;
/// Between two looks.
const LOOK_S: f64 = 30.0;
/// Between two lines on the screen.
const LINE_S: f64 = 300.0;
/// What is foretold when another tenth of the pool has leaked may be wrong by this share of the time left.
const MOST_ERROR: f64 = 0.2;
/// The same in the middle of all looks from the first tenth on.
const MOST_MEDIAN_ERROR: f64 = 0.15;
/// Less time left than this is not judged by its share: a look every half minute is too coarse.
const LEAST_LEFT_S: f64 = 300.0;

/// What memguard said at one moment.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Seconds since the begin.
    pub at_s: f64,
    pub used: f64,
    pub size: f64,
    /// Bytes that the leaking table holds, by memguard's own count.
    pub leaked: f64,
    pub failures: f64,
    pub phones: usize,
    /// Earliest, likely and latest end, seconds since the begin; `None` while none is foretold.
    pub ends_s: Option<[f64; 3]>,
    pub cause: String,
    pub confidence: String,
    /// The place that grows most steadily.
    pub site: String,
    pub level: String,
}

impl Look {
    fn is_full(&self) -> bool {
        self.failures > 0.0 || self.used >= self.size
    }

    pub fn used_share(&self) -> f64 {
        self.used / self.size
    }
}

/// Time of day.
pub fn clock(since_begin_s: f64) -> String {
    let minutes = ((BEGIN_S + since_begin_s) / 60.0).round() as u64;
    format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60)
}

/// Runs it; whether what was foretold came true.
///
/// # Errors
/// Something did not run.
pub fn tell(prepared: &Path, folder: &Path, picture: Option<&Path>) -> Result<bool, Failure> {
    let example = fs::read_to_string("kamailio-cfg/registrar.cfg")
        .map_err(|e| format!("kamailio-cfg: {e}"))?;
    // What memguard writes at the end outlives the evening.
    let kept = folder.with_extension("evidence");
    fs::create_dir_all(&kept).map_err(|e| format!("{}: {e}", kept.display()))?;
    // The machine around is not sixty times faster: its memory is left out.
    let configuration = crate::configuration(&example, true)?.replace(
        "request_route {\n",
        &format!(
            "modparam(\"memguard\", \"os_limit\", 1000000)\n\
             modparam(\"memguard\", \"profile_dir\", \"{}\")\n\nrequest_route {{\n",
            kept.display()
        ),
    );
    let clock_library = prepared.join("fastclock.so");
    let environment = [
        ("LD_PRELOAD", clock_library.display().to_string()),
        ("FASTCLOCK", format!("{SPEED}")),
    ];
    let mut server = Server::start_with(
        prepared,
        &folder.join("evening"),
        &configuration,
        SHM_MB,
        &environment,
    )?;
    println!(
        "An evening from {}, {SPEED} times faster: {SHM_MB} MiB of shared memory, some {} phones that come and go and\n\
         refresh every {} minutes. At {} one line of the script begins to leak: it remembers every message.",
        clock(0.0),
        phones::USUAL,
        phones::REFRESH_S / 60.0,
        clock(LEAK_AFTER_S)
    );
    let looks = watch(&mut server)?;
    // There is no byte of shared memory left now.
    let evidence = server.rpc("memguard.evidence", json!([]))?;
    server.stop();
    let Some(full) = looks.last().filter(|look| look.is_full()) else {
        return Err("the leak did not fill the pool in time".into());
    };
    let holds = judge(&looks, full.at_s);
    println!(
        "evidence: {}",
        evidence["report"].as_str().unwrap_or_default()
    );
    if let Some(path) = picture {
        fs::write(path, picture::svg(&looks)).map_err(|e| format!("{}: {e}", path.display()))?;
        println!("picture: {}", path.display());
    }
    Ok(holds)
}

/// Traffic and looks until the pool is full.
fn watch(server: &mut Server) -> Result<Vec<Look>, Failure> {
    let mut phones = Phones::new(server.port())?;
    let began = Instant::now();
    let now = || began.elapsed().as_secs_f64() * SPEED;
    let mut looks: Vec<Look> = Vec::new();
    let (mut is_leaking, mut next_look, mut next_line) = (false, 0.0, 0.0);
    while now() < LIMIT_S {
        phones.work(now())?;
        if !is_leaking && now() >= LEAK_AFTER_S {
            server.rpc("pv.shvSet", json!(["leak", "int", 1]))?;
            is_leaking = true;
        }
        if now() >= next_look {
            next_look = now() + LOOK_S;
            let seen = look(server, now(), phones.count())?;
            if now() >= next_line || seen.is_full() {
                next_line += LINE_S;
                line(&seen);
            }
            let is_full = seen.is_full();
            looks.push(seen);
            if is_full {
                break;
            }
        }
        pause(Duration::from_millis(4))?;
    }
    Ok(looks)
}

fn look(server: &mut Server, at_s: f64, phones: usize) -> Result<Look, Failure> {
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let forecast = server.rpc("memguard.forecast", json!(["shm"]))?[0].clone();
    let pool = server.rpc("memguard.pools", json!([]))?[0].clone();
    let modules = server.rpc("memguard.modules", json!(["pool", "shm"]))?;
    let sites = server.rpc(
        "memguard.sites",
        json!(["pool", "shm", "by", "growth", "top", "1"]),
    )?;
    let leaking = modules
        .as_array()
        .into_iter()
        .flatten()
        .find(|row| row["module"] == "htable");
    let is_foretold =
        number(&forecast["valid"]) == 1.0 && forecast["exhaustion"] != "none foreseen";
    let end = |field: &str| at_s + number(&forecast[field]);
    let site = &sites[0];
    Ok(Look {
        at_s,
        used: number(&pool["real_used"]),
        size: number(&pool["size"]),
        leaked: leaking.map_or(0.0, |row| number(&row["live_bytes"])),
        failures: number(&pool["failures"]),
        phones,
        ends_s: is_foretold.then(|| ["low_seconds", "exhaustion_seconds", "high_seconds"].map(end)),
        cause: word(&forecast["cause"]),
        confidence: word(&forecast["confidence"]),
        site: format!(
            "{} {}:{} {}",
            word(&site["module"]),
            word(&site["file"]),
            number(&site["line"]),
            word(&site["function"])
        ),
        level: word(&pool["level"]),
    })
}

fn line(look: &Look) {
    const CELLS: usize = 24;
    let cells = (look.used_share() * CELLS as f64) as usize;
    let said = match look.ends_s {
        Some([low, likely, high]) => {
            format!(
                "full at {} ({} to {}): {}",
                clock(likely),
                clock(low),
                clock(high),
                look.cause
            )
        }
        None => format!("no end foretold: {}", look.cause),
    };
    println!(
        " {} {:<9} [{}{}] {:4.1} %  {:4} phones  {said}",
        clock(look.at_s),
        look.level,
        "#".repeat(cells.min(CELLS)),
        ".".repeat(CELLS - cells.min(CELLS)),
        100.0 * look.used_share(),
        look.phones
    );
}

/// The error of what was foretold, as a share of the time that was left; infinite when nothing was.
fn error(look: &Look, full_s: f64) -> f64 {
    let left = full_s - look.at_s;
    look.ends_s.map_or(f64::INFINITY, |[_, likely, _]| {
        (likely - full_s).abs() / left
    })
}

/// Prints what was said at each tenth, and judges all moments from the first tenth on.
fn judge(looks: &[Look], full_s: f64) -> bool {
    println!(
        "\nMemory was full at {}. What had been said of it, each time that another tenth of the pool had leaked:",
        clock(full_s)
    );
    println!(
        " leaked   at     used    foretold  (from .. to)       error   cause, and the place that grows"
    );
    let tenths = looks
        .last()
        .map_or(0.0, |last| 10.0 * last.leaked / last.size) as u32;
    let at_tenth = |tenth: u32| {
        looks
            .iter()
            .find(|look| look.leaked >= f64::from(tenth) / 10.0 * look.size)
    };
    let mut most = 0.0f64;
    for tenth in 1..=tenths {
        let Some(look) = at_tenth(tenth) else {
            continue;
        };
        most = most.max(error(look, full_s));
        let said = look.ends_s.map_or("none".into(), |[low, likely, high]| {
            format!("{}     ({} .. {})", clock(likely), clock(low), clock(high))
        });
        println!(
            "  {tenth}/10    {}   {:4.1} %  {said:<26} {:5.1} %  {} ({}); {}",
            clock(look.at_s),
            100.0 * look.used_share(),
            100.0 * error(look, full_s),
            look.cause,
            look.confidence,
            look.site
        );
    }
    let Some(from) = at_tenth(1).map(|look| look.at_s) else {
        return false;
    };
    let judged: Vec<&Look> = looks
        .iter()
        .filter(|look| look.at_s >= from && full_s - look.at_s >= LEAST_LEFT_S)
        .collect();
    let mut errors: Vec<f64> = judged.iter().map(|look| error(look, full_s)).collect();
    errors.sort_unstable_by(f64::total_cmp);
    let median = errors
        .get(errors.len() / 2)
        .copied()
        .unwrap_or(f64::INFINITY);
    let worst = judged
        .iter()
        .max_by(|a, b| error(a, full_s).total_cmp(&error(b, full_s)));
    let covered = judged
        .iter()
        .filter(|look| {
            look.ends_s
                .is_some_and(|[low, _, high]| (low..=high).contains(&full_s))
        })
        .count();
    let wrong = judged
        .iter()
        .find(|look| look.cause != "leak" || !look.site.starts_with("htable "));
    let first = looks.iter().find(|look| look.ends_s.is_some());
    let healthy = looks
        .iter()
        .find(|look| look.at_s < LEAK_AFTER_S && look.ends_s.is_some());
    println!("\nThe evening");
    let mut holds = true;
    let mut say = |is_true: bool, text: String| {
        holds &= is_true;
        println!("  {} {text}", if is_true { "yes" } else { "NO " });
    };
    say(
        healthy.is_none(),
        "before the leak no end was foretold".into(),
    );
    say(
        first.is_some(),
        first.map_or("never announced".into(), |look| {
            format!(
                "announced at {}, {:.0} minutes before memory was full, at {:.0} % use",
                clock(look.at_s),
                (full_s - look.at_s) / 60.0,
                100.0 * look.used_share()
            )
        }),
    );
    say(
        wrong.is_none(),
        match wrong {
            None => format!(
                "cause and place were right at each of {} looks from the first tenth on",
                judged.len()
            ),
            Some(look) => format!(
                "at {} the cause was said to be {}, the place {}",
                clock(look.at_s),
                look.cause,
                look.site
            ),
        },
    );
    say(
        most <= MOST_ERROR && median <= MOST_MEDIAN_ERROR,
        format!(
            "the time came true: error {:.1} % in the middle of all looks, {:.1} % at most at a tenth (allowed: {:.0} and {:.0} %)",
            100.0 * median,
            100.0 * most,
            100.0 * MOST_MEDIAN_ERROR,
            100.0 * MOST_ERROR
        ),
    );
    if let Some(worst) = worst {
        println!(
            "      furthest off: {:.1} % of the time left, at {}",
            100.0 * error(worst, full_s),
            clock(worst.at_s)
        );
    }
    println!(
        "      the truth lay between earliest and latest at {covered} of {} looks",
        judged.len()
    );
    println!(
        "{}",
        if holds {
            "It held."
        } else {
            "It did NOT hold."
        }
    );
    holds
}
