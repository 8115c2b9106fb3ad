//! The incident, replayed: two real Kamailios side by side, one with memguard, the same phones, the same leak, told live.
//! Forbidden here: traffic beyond loopback; leaving a process behind; a verdict that does not come from counting.

mod evening;
mod phones;
mod screen;
mod server;
mod tally;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use phones::Traffic;
use screen::Screen;
use server::Server;
use tally::Tally;

const USAGE: &str = "usage: memguard-story PREPARED FOLDER   (./dev run calls it)\n\
    \x20      memguard-story evening PREPARED FOLDER [PICTURE.svg]   (./dev evening calls it)\n\
    PREPARED: build/VERSION of ./dev build; FOLDER: a new one, for sockets and logs. Run it in the project's root.";

/// Shared memory of each server in MiB: small, so that an evening takes a minute.
const SHM_MB: u32 = 16;
/// The leak is stopped at this use: memguard buys time, it does not plug leaks, and a replay has to end.
const LEAK_UNTIL_PCT: f64 = 93.0;
/// The leak gets there in about half of this time; after it something is wrong.
const LEAK_LIMIT: Duration = Duration::from_secs(60);
/// From the end of the storm to the last answer of the last phone.
const END_LIMIT: Duration = Duration::from_secs(60);
/// The incident's cause, one line added to the script: it remembers every message (three times, for our patience) and forgets none.
const LEAK: &str = "    if ($shv(leak) == 1) { $sht(seen=>$ci::$cs::$rm) = $mb + $mb + $mb; }\n";
const LEAK_TABLE: &str = "modparam(\"htable\", \"htable\", \"seen=>size=10;\")\n\n";

/// Set by SIGINT and SIGTERM.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_: libc::c_int) {
    // ORDERING: Relaxed; a lone flag that is looked at a few times per second.
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// What went wrong, as a sentence.
pub type Failure = String;

const INTERRUPT: &str = "interrupted";

/// Waits in small steps; an interrupt ends the story.
///
/// # Errors
/// The interrupt.
pub fn pause(time: Duration) -> Result<(), Failure> {
    let end = Instant::now() + time;
    loop {
        // ORDERING: Relaxed; as in on_signal.
        if INTERRUPTED.load(Ordering::Relaxed) {
            return Err(INTERRUPT.into());
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

fn main() -> ExitCode {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let is_evening = args
        .first()
        .is_some_and(|word| word.as_os_str() == "evening");
    let (prepared, folder, picture) = match &args[usize::from(is_evening)..] {
        [prepared, folder] => (prepared, folder, None),
        [prepared, folder, picture] if is_evening => (prepared, folder, Some(picture.as_path())),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { libc::signal(signal, on_signal as *const () as libc::sighandler_t) };
    }
    let told = fs::canonicalize(prepared)
        .map_err(|e| format!("{}: {e}", prepared.display()))
        .and_then(|prepared| match is_evening {
            true => evening::tell(&prepared, folder, picture),
            false => tell(&prepared, folder),
        });
    match told {
        Ok(true) => {
            let _ = fs::remove_dir_all(folder);
            ExitCode::SUCCESS
        }
        Ok(false) => {
            eprintln!(
                "the story did not hold; the logs are in {}",
                folder.display()
            );
            ExitCode::FAILURE
        }
        Err(sentence) if sentence == INTERRUPT => {
            let _ = fs::remove_dir_all(folder);
            eprintln!("interrupted; everything is ended and removed");
            ExitCode::from(130) // as shells say it
        }
        Err(sentence) => {
            eprintln!(
                "memguard-story: {sentence}; logs are in {}",
                folder.display()
            );
            ExitCode::FAILURE
        }
    }
}

/// One server with its traffic.
struct Side {
    server: Server,
    traffic: Traffic,
    tally: Tally,
    is_leaking: bool,
}

impl Side {
    fn start(prepared: &Path, folder: &Path, configuration: &str) -> Result<Side, Failure> {
        let server = Server::start(prepared, folder, configuration, SHM_MB)?;
        let traffic = Traffic::new(prepared, folder, server.port())?;
        Ok(Side {
            server,
            traffic,
            tally: Tally::default(),
            is_leaking: false,
        })
    }

    fn look(&mut self) -> Result<(), Failure> {
        self.tally.look(&mut self.server, &self.traffic)?;
        if self.is_leaking && self.tally.now.shm_pct >= LEAK_UNTIL_PCT {
            self.leak(false)?;
        }
        Ok(())
    }

    fn leak(&mut self, is_on: bool) -> Result<(), Failure> {
        self.is_leaking = is_on;
        self.server
            .rpc(
                "pv.shvSet",
                serde_json::json!(["leak", "int", i32::from(is_on)]),
            )
            .map(drop)
    }
}

/// The registrar of kamailio-cfg with the leak in it; without memguard it is the same without it.
fn configuration(example: &str, with_memguard: bool) -> Result<String, Failure> {
    let (check, routing, loading) = (
        "    route(CHECK);\n",
        "request_route {\n",
        "loadmodule \"memguard.so\"\n",
    );
    for part in [check, routing, loading] {
        if example.matches(part).count() != 1 {
            return Err(format!(
                "kamailio-cfg/registrar.cfg does not hold {part:?} exactly once"
            ));
        }
    }
    let text = example
        .replace(check, &format!("{check}{LEAK}"))
        .replace(routing, &format!("{LEAK_TABLE}{routing}"));
    if with_memguard {
        return Ok(text);
    }
    let is_ours = |line: &str| line == loading || line.starts_with("modparam(\"memguard\"");
    Ok(text
        .split_inclusive('\n')
        .filter(|line| !is_ours(line))
        .collect())
}

fn tell(prepared: &Path, folder: &Path) -> Result<bool, Failure> {
    let example = fs::read_to_string("kamailio-cfg/registrar.cfg")
        .map_err(|e| format!("kamailio-cfg: {e}"))?;
    let start = |name: &str, guarded| {
        Side::start(
            prepared,
            &folder.join(name),
            &configuration(&example, guarded)?,
        )
    };
    let mut sides = [start("a", true)?, start("b", false)?];
    let mut screen = Screen::new();
    screen.opening(SHM_MB);

    screen.chapter(&format!(
        "1. An ordinary evening: {} phones register and refresh every 5 s, {} calls per second go through.",
        phones::PHONES,
        phones::CALLS_PER_SECOND
    ));
    each(&mut sides, |side| side.traffic.evening())?;
    watch(
        &mut sides,
        &mut screen,
        Duration::from_secs(phones::BEFORE_CALLS_S),
        |_| false,
    )?;
    each(&mut sides, |side| side.traffic.calls())?;
    watch(
        &mut sides,
        &mut screen,
        Duration::from_secs(phones::SETTLING_S),
        |_| false,
    )?;

    screen.chapter(
        "2. One line of the script leaks: it remembers every message and forgets none. New phones keep arriving.",
    );
    each(&mut sides, |side| side.traffic.arrivals())?;
    each(&mut sides, |side| side.leak(true))?;
    let began = Instant::now();
    watch(&mut sides, &mut screen, LEAK_LIMIT, |sides| {
        sides.iter().all(|side| !side.is_leaking)
    })?;
    if began.elapsed() >= LEAK_LIMIT {
        return Err("the leak did not fill the pools in time".into());
    }

    screen.chapter(&format!(
        "3. The leak is stopped at {LEAK_UNTIL_PCT} % (memguard buys time, it plugs no leak). Now a storm: {} new phones, {} per second.",
        phones::STORM,
        phones::STORM_PER_SECOND
    ));
    each(&mut sides, |side| side.traffic.storm())?;
    watch(
        &mut sides,
        &mut screen,
        Duration::from_secs(phones::STORM_S),
        |_| false,
    )?;

    screen.chapter("4. The storm is over; the last refreshes and calls come to their end.");
    let ended = |sides: &mut [Side; 2]| sides.iter_mut().all(|side| side.traffic.has_ended());
    watch(&mut sides, &mut screen, END_LIMIT, ended)?;
    pause(Duration::from_millis(1500))?; // memguard's last sample
    each(&mut sides, Side::look)?;
    for side in &mut sides {
        side.traffic.stop();
        side.tally.finish(&side.server, &side.traffic);
        side.server.stop();
    }
    let [with, without] = &sides;
    screen.table(&with.tally, &without.tally);
    Ok(screen.verdict(&tally::assertions(&with.tally, &without.tally)))
}

fn each(
    sides: &mut [Side; 2],
    mut act: impl FnMut(&mut Side) -> Result<(), Failure>,
) -> Result<(), Failure> {
    sides.iter_mut().try_for_each(&mut act)
}

/// Looks at both servers once per second and shows a line, until `is_over` or the time has passed.
fn watch(
    sides: &mut [Side; 2],
    screen: &mut Screen,
    limit: Duration,
    mut is_over: impl FnMut(&mut [Side; 2]) -> bool,
) -> Result<(), Failure> {
    let end = Instant::now() + limit;
    while Instant::now() < end && !is_over(sides) {
        screen.until_next_second()?;
        each(sides, Side::look)?;
        let [with, without] = sides;
        screen.line(&with.tally, &without.tally);
        with.tally.shown = with.tally.changes.len();
    }
    Ok(())
}
