//! The sampling process: once per `sample_interval` it reads pools, processes and the machine, and publishes.
//! Forbidden here: Kamailio's allocators, its locks and its log while a level does not change; blocking on anything.

use std::ffi::c_int;
use std::time::Duration;

use crate::guard::config::params::{Int, Text};
use crate::guard::decide::{
    level::{self, LevelTracker, Standing, Thresholds, permyriad},
    queue,
    rates::RateMeter,
    rates::Rates,
};
use crate::guard::foresee::pace::AtThisRate;
use crate::guard::machine::osmem::{self, Missing};
use crate::guard::terms::{
    text::NONE_FORESEEN_S,
    warnings::Warning,
    words::{Class, Level, Pool},
};
use crate::host::kamailio::processes;
use crate::host::kamailio::{
    follow::Follower,
    log::{Severity, log},
    own_memory,
    panic_guard::guarded,
    state, sys,
};
use crate::host::memory::{hooks, outside::Questions};
use crate::host::net::{sockets, watcher::Watcher};
use crate::host::outputs::{
    bindings_file::Saver,
    blackbox::{self, Recorder},
    ending,
    serve::{self, Server},
    textfile::TextFile,
};
use crate::host::reports::{measures, path_reports::PathGrowths};
use crate::host::sampler::{
    comeback::Comeback,
    forecasts::Forecasts,
    growth::Growths,
    load::Load,
    machine::{self, OsReader},
    memory,
    paces::Paces,
    past::Past,
    supervise,
};
use crate::shared::counters::rows::{COMMON_ROW, MAX_PROCESSES, ROWS, Row};
use crate::shared::figures::{
    events::{Event, KEPT, Reason},
    sampled::Figures,
};
use crate::shared::parts::kept::Lease;
use crate::shared::phones::{fingerprints::Fingerprints, sources::Sources};
use crate::shared::region::Region;

/// Buckets of each table that one tick looks at for what has ended: the default tables within two ticks, when they are
/// full, at about 0.2 ms per tick and table.
const REAPED_BUCKETS: usize = 32768;

/// Forks the process that supervises the one that samples; `child_init(PROC_MAIN)` in the main process.
pub fn start() -> Result<(), String> {
    // SAFETY: the place for it (internals C.4); no child_init of other modules runs in this process.
    let pid = unsafe {
        sys::fork_process(
            sys::PROC_NOCHLDINIT,
            c"memguard sampler".as_ptr().cast_mut(),
            0,
        )
    };
    match pid {
        0 => supervise::run(),
        1.. => {
            // the sampling process serves, records and watches, nobody else
            drop((serve::take(), blackbox::take(), sockets::take_frames()));
            Ok(())
        }
        _ => Err("cannot fork the sampling process".into()),
    }
}

/// The loop; ends when it is asked to. Process: sampling, right after its fork.
pub fn run() -> ! {
    hooks::publish_process();
    if let (Some(region), Some(kept)) = (state::region(), memory::take()) {
        region.sampling.pid.set(u64::from(std::process::id()));
        let mut sampler = Sampler::new(region, kept);
        own_memory::may_end();
        let mut starved = 0;
        while !ending::is_asked() {
            guarded("the sampler", || {
                starved = match own_memory::scope(|| sampler.tick()) {
                    Ok(()) => 0,
                    Err(own_memory::Short) => starved + 1,
                }
            });
            if starved > 0 {
                sampler.figures.sample_errors += 1;
            }
            if starved >= STARVED {
                // SAFETY: ends this process at once; the next one begins with a whole reserve.
                unsafe { libc::_exit(own_memory::NO_MEMORY_STATUS) };
            }
            guarded("the text file", || {
                let _ = own_memory::scope(|| sampler.write_textfile()); // counted there
            });
            guarded("the known bindings", || {
                let _ = own_memory::scope(|| sampler.saver.tick(region, state::now_ms()));
            });
            sampler.watch();
            sampler.sleep();
        }
        guarded("the end of the sampler", || sampler.end());
    }
    // SAFETY: ends this process without running the server's exit handlers.
    unsafe { libc::_exit(0) }
}

/// Samples that may be left out in a row for want of memory.
const STARVED: u32 = 10;

/// Removes the entries of a table that have ended, a part at a time.
#[derive(Default)]
struct Reaper(usize);

impl Reaper {
    fn tick(&mut self, table: &Fingerprints, now_s: u64, grace: u32) {
        self.0 = table.reap(now_s, grace, self.0, REAPED_BUCKETS);
    }
}

/// Ticks between two looks at the pages of one process's private pool.
const PAGES_EVERY: u64 = 10;

struct Sampler {
    region: &'static Region,
    os: OsReader,
    shm: LevelTracker,
    os_level: LevelTracker,
    workers: Vec<LevelTracker>,
    /// Resident bytes of each process's private pool.
    touched: Vec<u64>,
    server: Level,
    was_shed: bool,
    rates: Lease<memory::Rates>,
    messages: RateMeter,
    load: Load,
    comeback: Comeback,
    bindings: Reaper,
    aors: Reaper,
    growths: Growths,
    path_growths: PathGrowths,
    questions: Questions,
    forecasts: Forecasts,
    paces: Paces,
    figures: Figures,
    last_ms: u64,
    past: Past,
    recorder: Recorder,
    saver: Saver,
    follower: Follower,
    http: Server,
    textfile: TextFile,
    watcher: Watcher,
}

impl Sampler {
    /// Goes on where an earlier sampling process stopped, if there was one.
    fn new(region: &'static Region, kept: memory::Leases) -> Sampler {
        let now = state::now_ms();
        let mut figures = region.figures();
        let level = |index: u64| Level::from_index(index).unwrap_or(Level::Normal);
        if region.sampling.restarts.get() > 0 {
            figures.sample_errors += 1;
        }
        let mut events = region.events.last(KEPT).map(|(_, event)| event.reason);
        let last = events.find(|reason| matches!(reason, Reason::Operator | Reason::Ended));
        let was_shed = last == Some(Reason::Operator);
        let memory = level(figures.level);
        Sampler {
            region,
            os: OsReader::discover(region.settings.get_u64(Int::OsLimit)),
            shm: LevelTracker::at(level(figures.shm_level)),
            os_level: LevelTracker::at(level(figures.os_level)),
            workers: (0..ROWS)
                .map(|index| {
                    let row = region.used_rows(hooks::processes()).get(index);
                    LevelTracker::at(row.map_or(Level::Normal, |row| row.level()))
                })
                .collect(),
            touched: vec![0; ROWS],
            server: match was_shed {
                true => memory.max(Level::Shedding),
                false => memory,
            },
            was_shed,
            rates: kept.rates,
            messages: RateMeter::new(now, 0),
            load: Load::new(messages(region)),
            comeback: Comeback::default(),
            bindings: Reaper::default(),
            aors: Reaper::default(),
            growths: Growths::new(kept.growth),
            path_growths: PathGrowths::default(),
            questions: Questions::default(),
            forecasts: Forecasts::new(kept.forecasts),
            past: Past::after(figures.time_ms / 1000),
            figures,
            paces: Paces::default(),
            last_ms: now,
            recorder: Recorder::new(region),
            saver: Saver::default(),
            follower: Follower::new(region),
            http: Server::new(),
            watcher: Watcher::new(region),
            textfile: TextFile::of(state::tables().map(|t| t.texts.get(Text::TextFile))),
        }
    }

    /// Serves until the next tick in short steps, so that a changed interval and the end count at once.
    fn sleep(&mut self) {
        const STEP: u64 = 100;
        loop {
            let interval = self.region.settings.get_u64(Int::SampleInterval).max(STEP);
            let passed = state::now_ms().saturating_sub(self.last_ms);
            if passed >= interval {
                return;
            }
            if ending::is_asked() {
                return;
            }
            let step = Duration::from_millis(STEP.min(interval - passed));
            guarded("the monitoring server", || self.http.wait(step));
            self.watch();
            guarded("the run-time parameters", || {
                self.follower.tick(self.region)
            });
        }
    }

    /// A turn of the watch over the addresses.
    fn watch(&mut self) {
        guarded("the addresses", || {
            let _ = own_memory::scope(|| self.watcher.turn()); // the next turn makes it good
        });
    }

    fn tick(&mut self) {
        state::refresh_clock(self.region);
        let now = state::now_ms();
        let elapsed = now.saturating_sub(self.last_ms).max(1);
        self.last_ms = now;
        self.figures.time_ms = now;
        self.figures.samples += 1;
        let shm = self.sample_shm(now);
        let pkg = self.sample_workers(now);
        let os = self.sample_os(now);
        self.sample_rates(now, elapsed);
        self.sample_tables(now);
        self.comeback.tick(self.region, now);
        let interval = self.region.settings.get_u64(Int::SampleInterval);
        self.questions
            .ask(self.region, hooks::processes(), now, interval);
        // With those that were pushed out: a full table accuses nobody while phones come.
        let pushed_out = state::tables().map_or(0, |tables| tables.bindings.evictions());
        let bindings = self.figures.known_bindings.saturating_add(pushed_out);
        let grown = own_memory::scope(|| {
            self.growths
                .tick(self.region, hooks::processes(), bindings, now);
            self.path_growths.tick(now);
        });
        if grown.is_err() {
            // What it has read is what takes the room.
            self.growths.shrink();
            self.path_growths = PathGrowths::default();
        }
        let memory = level::worst([self.shm.level(), self.os_level.level(), pkg.1]);
        self.figures.level = memory.index() as u64; // an operator's `shed` is added when it is read: it ends at once
        let worst = self.sample_shed(memory, now);
        if self.server != Level::Normal && worst == Level::Normal {
            self.region.control.salt.add(1); // other AoRs wait next time
        }
        self.server = worst;
        if let Some(tightest) = level::tightest([shm, Some(pkg.0), os].into_iter().flatten()) {
            self.figures.tightest = tightest.pool.index() as u64;
            self.figures.headroom = tightest.headroom_bytes();
            self.figures.headroom_permyriad = u64::from(tightest.headroom_permyriad());
        }
        let _ = own_memory::scope(|| {
            self.forecasts
                .tick(self.region, &self.figures, self.growths.leading(), now);
        }); // counted there
        self.region.published.publish(&self.figures.to_words());
        let kept = self.past.tick(self.region, &self.figures, now);
        let (region, load) = (self.region, &mut self.load);
        let hour = own_memory::scope(|| load.tick(region, messages(region), elapsed, now));
        let hour = hour.ok().flatten();
        let _ = own_memory::scope(|| self.recorder.tick(region, &kept, hour, now)); // counted there
    }

    /// The server ends, and this process with it.
    fn end(&mut self) {
        if let Some((how, died)) = ending::how(self.region) {
            self.recorder.end(self.region, how, died);
        }
    }

    /// Writes the metrics for node_exporter; a failure is counted and becomes a warning.
    fn write_textfile(&mut self) {
        if let Some(is_written) = self.textfile.write(measures::text) {
            self.region.warn(Warning::TextFile, !is_written);
            self.figures.sample_errors += u64::from(!is_written);
        }
    }

    fn thresholds(&self, pool: Pool) -> Thresholds {
        Thresholds::of(&self.region.settings.all(), pool)
    }

    /// Takes one pool's use to its tracker; a change becomes an event and a log line.
    fn track(&mut self, pool: Pool, worker: Option<usize>, used: u32, now: u64) -> Level {
        let thresholds = self.thresholds(pool);
        let gap = self.region.settings.get_u64(Int::ResumeGap) as u32;
        let dwell = self.region.settings.get_u64(Int::Dwell) as u32;
        let tracker = match (pool, worker) {
            (Pool::Shm, _) => &mut self.shm,
            (Pool::Os, _) => &mut self.os_level,
            (Pool::Pkg, worker) => match self.workers.get_mut(worker.unwrap_or(ROWS)) {
                Some(tracker) => tracker,
                None => return Level::Normal,
            },
        };
        let change = tracker.sample(used, &thresholds, gap, dwell, now);
        let level = tracker.level();
        if let Some((from, to)) = change {
            self.changed(Event {
                time_ms: now,
                from,
                to,
                pool,
                worker: worker.and_then(|w| u16::try_from(w).ok()),
                percent: (used / 100).min(255) as u8,
                reason: Reason::Memory,
            });
        }
        level
    }

    fn changed(&mut self, event: Event) {
        self.figures.level_changes += 1;
        self.region.events.push(&event);
        let worst = event.from.max(event.to);
        let severity = if worst >= Level::Shedding {
            Severity::Warn
        } else {
            Severity::Notice
        };
        let Event {
            from,
            to,
            pool,
            percent,
            reason,
            ..
        } = event;
        let full_in = self.paces.full_in(pool, event.worker.map(usize::from));
        let pace = match full_in {
            NONE_FORESEEN_S.. => String::new(),
            seconds => format!(", {}", AtThisRate(seconds)),
        };
        match event.worker {
            Some(index) => {
                log!(
                    severity,
                    "level {from} -> {to}: {pool} of worker {index} at {percent} %, cause {reason}{pace}"
                );
            }
            None => log!(
                severity,
                "level {from} -> {to}: {pool} at {percent} %, cause {reason}{pace}"
            ),
        }
    }

    fn sample_shm(&mut self, now: u64) -> Option<Standing> {
        let control = &self.region.control;
        let size = control.shm_size.get();
        let pool = hooks::shm_now(size)?;
        let is_impossible =
            level::is_impossible(size, pool.real_used, size.wrapping_sub(pool.real_used));
        self.region.warn(Warning::ImpossibleShm, is_impossible);
        let used = if is_impossible {
            // our count of the blocks, and what the manager adds to its own: a full pool is no less full
            let overhead = pool.real_used.saturating_sub(pool.used);
            hooks::counted_shm().saturating_add(overhead).min(size)
        } else {
            pool.real_used
        };
        control.shm_peak.raise(used);
        self.figures.shm_peak = control.shm_peak.get();
        self.paces.push(Pool::Shm, None, now, used, size);
        self.figures.shm_full_in = self.paces.full_in(Pool::Shm, None);
        let level = self.track(Pool::Shm, None, permyriad(used, size), now);
        self.figures.shm_level = level.index() as u64;
        Some(self.standing(Pool::Shm, size, used))
    }

    fn standing(&self, pool: Pool, total: u64, used: u64) -> Standing {
        Standing {
            pool,
            total,
            used,
            shed_pct: self.thresholds(pool).shed,
        }
    }

    /// All processes; the fullest of those that receive SIP stands for pkg.
    fn sample_workers(&mut self, now: u64) -> (Standing, Level) {
        let size = self.region.control.pkg_size.get();
        let count = hooks::processes();
        let mut worst = Level::Normal;
        let (mut fullest, mut fullest_used, mut fullest_sip) = (0, 0, 0);
        let mut unreadable = count > 0;
        let mut impossible = false;
        for (index, process) in processes::process_table().enumerate() {
            let Some(row) = self.region.rows.get(index) else {
                break;
            };
            if index == COMMON_ROW {
                // What they told since the last sample; while nobody tells anything, nothing changes.
                let told = self.region.control.common_pkg.take(|told| (0, told));
                row.pkg.real_used.set(match told {
                    0 => row.pkg.real_used.get(),
                    told => told,
                });
            }
            let mut used = row.pkg.real_used.get();
            if size > 0 && used > size {
                impossible = true;
                used = hooks::pkg_sum(index, row).live().min(size);
            }
            self.paces.push(Pool::Pkg, Some(index), now, used, size);
            let level = self.track(Pool::Pkg, Some(index), permyriad(used, size), now);
            row.set_level(level);
            if process.rank > 0 || row.sip.carries() {
                worst = worst.max(level);
                fullest_sip = fullest_sip.max(used);
            }
            if used > fullest_used {
                (fullest, fullest_used) = (index, used);
            }
            if index == COMMON_ROW {
                continue; // of memory outside the pools nothing is known of them
            }
            // Behind the line of the supervising process stands this one, too.
            let second = processes::sampling_pid(self.region, index, process.pid);
            if let Some(bytes) = machine::rss_anon_bytes(process.pid) {
                unreadable = false;
                self.look_at_pkg_pages(index, second.unwrap_or(process.pid), row);
                let touched = self.touched.get(index).copied().unwrap_or(0);
                let more = second.and_then(machine::rss_anon_bytes);
                row.rss_anon.set(bytes + more.unwrap_or(0));
                let private = |bytes| osmem::private_bytes(bytes, touched);
                row.private_bytes
                    .set(private(bytes) + more.map_or(0, private));
            }
        }
        self.region.warn(Warning::NoProcStatus, unreadable);
        self.region.warn(Warning::ImpossiblePkg, impossible);
        self.region
            .warn(Warning::TooManyProcesses, count > MAX_PROCESSES);
        self.figures.workers = count as u64;
        self.figures.pkg_full_in = self.paces.full_in(Pool::Pkg, None);
        self.figures.pkg_level = worst.index() as u64;
        self.figures.fullest_worker = fullest as u64;
        self.figures.fullest_real_used = fullest_used;
        self.figures.fullest_sip_used = fullest_sip;
        (self.standing(Pool::Pkg, size, fullest_used), worst)
    }

    /// How much of a process's private pool is resident: counted by pages, one process in ten per tick; where that is
    /// not allowed, the most that it ever used.
    fn look_at_pkg_pages(&mut self, index: usize, pid: c_int, row: &Row) {
        let Some(touched) = self.touched.get_mut(index) else {
            return;
        };
        if *touched == 0 || self.figures.samples % PAGES_EVERY == index as u64 % PAGES_EVERY {
            let (start, length) = hooks::pkg_range();
            let counted = machine::resident_bytes(pid, start, length);
            *touched = counted.unwrap_or_else(|| (*touched).max(row.pkg.peak.get()));
        }
    }

    fn sample_os(&mut self, now: u64) -> Option<Standing> {
        let sample = self.os.sample();
        let cgroup = sample
            .missing
            .iter()
            .any(|m| matches!(m, Missing::Cgroup(_)));
        let host = sample.missing.iter().any(|m| matches!(m, Missing::Host(_)));
        self.region.warn(Warning::NoCgroup, cgroup);
        self.region.warn(Warning::NoMeminfo, host);
        self.region.warn(Warning::NoOs, sample.memory.is_none());
        let control = &self.region.control;
        let Some(memory) = sample.memory else {
            self.figures.sample_errors += 1;
            control.os_time_ms.set(0);
            return None;
        };
        let used = permyriad(memory.used_bytes, memory.limit_bytes);
        control.os_permyriad.set(u64::from(used));
        control.os_time_ms.set(now);
        control.os_peak.raise(memory.used_bytes);
        self.figures.os_peak = control.os_peak.get();
        self.figures.os_limit = memory.limit_bytes;
        self.figures.os_used = memory.used_bytes;
        self.figures.os_source = memory.source as u64;
        self.paces
            .push(Pool::Os, None, now, memory.used_bytes, memory.limit_bytes);
        self.figures.os_full_in = self.paces.full_in(Pool::Os, None);
        let level = self.track(Pool::Os, None, used, now);
        self.figures.os_level = level.index() as u64;
        Some(self.standing(Pool::Os, memory.limit_bytes, memory.used_bytes))
    }

    fn sample_rates(&mut self, now: u64, elapsed: u64) {
        let region = self.region;
        let total = |f: fn(&Row) -> u64| region.sum(hooks::processes(), f);
        let new = total(|r| r.sip.received.get(Class::New));
        let refresh = total(|r| r.sip.received.get(Class::Refresh));
        let rejected = total(|r| r.sip.rejected.sum());
        let messages = self.messages.sample(now, messages(self.region));
        self.figures.message_rate = (messages.s10 * 1000.0) as u64;
        let resets = self.region.control.baseline_resets.get();
        let factor = self.region.settings.get_u64(Int::StormFactor) as u32;
        let least = self.region.settings.get_u64(Int::StormMinRate) as u32;
        let fresh = || memory::Rates::new(now, new, refresh, rejected, resets);
        let seen = self.rates.work(0, fresh, |kept| {
            let rates = kept.new.sample(now, new);
            if resets != kept.baseline_resets {
                kept.baseline_resets = resets;
                kept.baseline.reset();
            }
            let storms = kept.baseline.sample(rates.s10, elapsed, factor, least);
            let others = [
                kept.refresh.sample(now, refresh),
                kept.rejected.sample(now, rejected),
            ];
            (rates, others, storms, kept.baseline.rate())
        });
        let Some((rates, [refresh, rejected], storms, usual)) = seen else {
            return;
        };
        let f = &mut self.figures;
        [
            f.new_rate_1s,
            f.new_rate_10s,
            f.new_rate_1m,
            f.new_rate_5m,
            f.new_rate_15m,
        ] = milli(rates);
        [
            f.refresh_rate_1s,
            f.refresh_rate_10s,
            f.refresh_rate_1m,
            f.refresh_rate_5m,
            f.refresh_rate_15m,
        ] = milli(refresh);
        [
            f.rejected_rate_1s,
            f.rejected_rate_10s,
            f.rejected_rate_1m,
            f.rejected_rate_5m,
            f.rejected_rate_15m,
        ] = milli(rejected);
        f.storm = u64::from(storms);
        f.baseline = (usual * 1000.0) as u64;
    }

    fn sample_tables(&mut self, now: u64) {
        let Some(tables) = state::tables() else {
            return;
        };
        let memory =
            u32::try_from(self.region.settings.get_u64(Int::AorMemory)).unwrap_or(u32::MAX);
        self.sample_crowds(&tables.sources, now);
        self.bindings.tick(&tables.bindings, now / 1000, 0);
        self.aors.tick(&tables.aors, now / 1000, memory);
        self.figures.known_bindings = tables.bindings.entries();
        self.figures.known_aors = tables.aors.entries();
    }

    /// How many sources queue behind themselves, and how long those queues are.
    fn sample_crowds(&self, sources: &Sources, now: u64) {
        let rules = self.region.queue_rules();
        let tails: Vec<u64> = sources
            .crowds(|held, tail| queue::is_crowd(held, tail, now, &rules))
            .collect();
        let own = queue::own_rules(&rules, tails.len() as u64);
        let lengths = tails.iter().map(|tail| queue::length(*tail, now, &own));
        let control = &self.region.control;
        control.queue_crowds.set(tails.len() as u64);
        control.queue_crowd_slots.set(lengths.sum());
        control
            .queue_crowd_tail_us
            .set(tails.iter().copied().max().unwrap_or(0));
    }

    /// The server's level with an operator's `shed`, whose begin and end are events.
    fn sample_shed(&mut self, memory: Level, now: u64) -> Level {
        let is_shed = self.region.is_shed(now);
        let shed = memory.max(Level::Shedding);
        if is_shed != self.was_shed {
            self.was_shed = is_shed;
            let (from, to, reason) = match is_shed {
                true => (memory, shed, Reason::Operator),
                false => (shed, memory, Reason::Ended),
            };
            let percent = hooks::shm_now(self.region.control.shm_size.get())
                .map_or(0, |p| permyriad(p.real_used, p.size) / 100)
                .min(255) as u8;
            self.changed(Event {
                time_ms: now,
                from,
                to,
                pool: Pool::Shm,
                worker: None,
                percent,
                reason,
            });
        }
        if is_shed { shed } else { memory }
    }
}

/// SIP messages since the start.
fn messages(region: &Region) -> u64 {
    let rows = region.used_rows(hooks::processes()).iter();
    rows.map(|row| row.sip.messages.get())
        .fold(0, u64::wrapping_add)
}

fn milli(rates: Rates) -> [u64; 5] {
    [rates.s1, rates.s10, rates.m1, rates.m5, rates.m15].map(|rate| (rate * 1000.0) as u64)
}
