//! The shared structures between real processes, which are killed and stopped at any instruction.
//!
//! * Stopped after each single instruction of an operation (ptrace), a writer leaves everything readable: records
//!   whole or absent, other entries and older records there, published figures never absent.
//! * Entries of a set that are not being changed are there at each of those instructions.
//! * At each of those instructions another process can write the same structure and reads back what it wrote.
//! * A context is never shown half written, and whoever comes after a killed process gets one.
//! * Four writers, one of them killed at a random moment again and again: nothing that is read is ever torn, figures
//!   never go back, and with all of them dead everything works at once.
//! * What one process keeps for the next is whole after a kill at any moment, or begins anew, and no other value does.
//! * A stopped sampler leaves its last figures readable for as long as it is stopped.
//!
//! A program of its own (`harness = false`): it forks, so there must be no other thread.
#![cfg_attr(loom, allow(unused))]

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use memguard::shared::counters::contexts::{Context, Contexts, Owner};
use memguard::shared::parts::{
    kept::{Kept, Plain},
    mapping,
    published::DoubleBuffer,
    record::Record,
    ring::Ring,
    slots::Places,
    sync::{AtomicU64, Ordering},
};
use memguard::shared::phones::fingerprints::{Fingerprints, Put};

const BASE: u64 = 1_700_000_000;
/// How often a writer is killed at a random moment.
const KILLS: usize = 300;
/// Seconds after which a child ends by itself, whatever happened to its parent.
const CHILD_LIFE: u32 = 120;

/// A child process; it is dead and reaped when this is dropped, however the test ends.
struct Child {
    /// Its number; 0 once it is reaped (the number may then be another's).
    pid: Cell<libc::pid_t>,
}

impl Child {
    /// Runs `work` in a new process, which ends with it, or with its panic.
    fn start(work: impl FnOnce()) -> Child {
        // SAFETY: this program has one thread, so the child may do whatever the parent may.
        match unsafe { libc::fork() } {
            -1 => panic!("fork: {}", std::io::Error::last_os_error()),
            0 => {
                // SAFETY: plain system calls.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    libc::alarm(CHILD_LIFE);
                }
                let end = catch_unwind(AssertUnwindSafe(work));
                // SAFETY: ends the child without running the parent's guards, which it has copies of.
                unsafe { libc::_exit(if end.is_ok() { 0 } else { 101 }) }
            }
            pid => Child {
                pid: Cell::new(pid),
            },
        }
    }

    fn signal(&self, signal: libc::c_int) {
        assert_ne!(self.pid.get(), 0, "it is reaped");
        // SAFETY: the process is ours and not reaped yet, so its number is not another's.
        assert_eq!(unsafe { libc::kill(self.pid.get(), signal) }, 0);
    }

    /// Waits for a change of state that waitpid(2) reports.
    fn wait(&self) -> libc::c_int {
        let (pid, mut status) = (self.pid.get(), 0);
        // SAFETY: the pointer is valid for the call.
        let changed = unsafe { libc::waitpid(pid, &mut status, libc::WUNTRACED) };
        assert_eq!(changed, pid);
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            self.pid.set(0);
        }
        status
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.pid.get() != 0 {
            // SAFETY: as in signal and wait; errors do not matter here.
            unsafe {
                libc::kill(self.pid.get(), libc::SIGKILL);
                libc::waitpid(self.pid.get(), std::ptr::null_mut(), 0);
            }
        }
    }
}

/// Words that only belong together: each follows from the first and its place.
fn words<const N: usize>(value: u64) -> [u64; N] {
    std::array::from_fn(|place| value.wrapping_add(place as u64 * 0x0101_0101))
}

fn assert_whole<const N: usize>(read: [u64; N]) -> u64 {
    assert_eq!(read, words(read[0]), "torn");
    read[0]
}

/// The end of a fingerprint follows from it.
fn until(fp: u64) -> u64 {
    BASE + 100 + fp % 1000
}

/// Places of the set of entries: a writer that is killed while it adds costs one.
const PLACES: usize = 4 + KILLS;

/// A small generator of well-spread numbers (xorshift64*), so that runs differ by their seed only.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Runs `work` in a child one instruction at a time; `look` runs in the parent while the child stands still after
/// each. Answers the number of instructions, `None` when this machine does not let us trace.
fn step_through(work: impl FnOnce(), mut look: impl FnMut()) -> Option<usize> {
    let child = Child::start(|| {
        // SAFETY: asks to be traced by the parent, then stops until the parent goes on.
        let traced = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
        if traced != 0 {
            return;
        }
        // SAFETY: stops this process.
        unsafe { libc::raise(libc::SIGSTOP) };
        work();
        // SAFETY: the second stop says that the work is done.
        unsafe { libc::raise(libc::SIGUSR1) };
    });
    if !libc::WIFSTOPPED(child.wait()) {
        return None;
    }
    for steps in 0..1_000_000 {
        look();
        // SAFETY: the child is ours, traced and stopped.
        if unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, child.pid.get(), 0, 0) } != 0 {
            return None;
        }
        let status = child.wait();
        assert!(libc::WIFSTOPPED(status), "the child ended: {status:#x}");
        if libc::WSTOPSIG(status) == libc::SIGUSR1 {
            return Some(steps);
        }
        assert_eq!(libc::WSTOPSIG(status), libc::SIGTRAP);
    }
    panic!("an operation of a million instructions")
}

fn a_record_is_whole_or_absent_at_every_instruction() -> Option<usize> {
    let record: &Record<8> = mapping::map_one().unwrap();
    record.store(&words(1));
    let (mut old, mut new, mut absent) = (0, 0, 0);
    let steps = step_through(
        || record.store(&words(2)),
        || match record.load().map(assert_whole) {
            Some(1) => old += 1,
            Some(2) => new += 1,
            None => absent += 1,
            Some(other) => panic!("{other} was never stored"),
        },
    )?;
    assert!(
        old > 0 && new > 0 && absent > 0,
        "{old} {new} {absent}: the steps saw the store happen"
    );

    step_through(
        || record.store(&words(3)),
        || {
            record.store(&words(4));
            assert_eq!(record.load(), Some(words(4)), "a new writer works at once");
        },
    )?;
    Some(steps)
}

fn a_ring_loses_one_slot_at_most_at_every_instruction() -> Option<usize> {
    let ring: &Ring<4, 3> = mapping::map_one().unwrap();
    (0..6).for_each(|value| assert_eq!(ring.push(words(value)), value));
    let steps = step_through(
        || {
            ring.push(words(6));
        },
        || {
            let seen: Vec<_> = ring
                .last(9)
                .map(|(ticket, read)| (ticket, assert_whole(read)))
                .collect();
            assert!(seen.iter().all(|(ticket, value)| ticket == value));
            assert!(
                seen.iter()
                    .filter(|(ticket, _)| (3..6).contains(ticket))
                    .count()
                    == 3,
                "{seen:?}"
            );
        },
    )?;
    assert_eq!(ring.last(1).next(), Some((6, words(6))));

    step_through(
        || {
            ring.push(words(7));
        },
        || {
            let ticket = ring.push(words(900));
            assert_eq!(
                ring.last(1).next(),
                Some((ticket, words(900))),
                "a new writer works at once"
            );
        },
    )?;
    Some(steps)
}

fn figures_are_never_absent_at_every_instruction() -> Option<usize> {
    let figures: &DoubleBuffer<16> = mapping::map_one().unwrap();
    figures.publish(&words(1));
    let mut newest = 1;
    step_through(
        || (2..=4).for_each(|value| figures.publish(&words(value))),
        || {
            let read = assert_whole(figures.read().expect("the last figures stay readable"));
            assert!(read >= newest);
            newest = read;
        },
    )
}

fn fingerprints_stay_known_at_every_instruction() -> Option<usize> {
    // One bucket of eight: the ninth pushes out the one that ends first.
    let known = Fingerprints::map(4, BASE).unwrap();
    assert_eq!(known.slots(), 8);
    (1..=8).for_each(|fp| assert_eq!(known.put(fp, until(fp), BASE, 0), Put::Inserted));
    let all_known = |fps: std::ops::RangeInclusive<u64>| {
        fps.into_iter()
            .for_each(|fp| assert_eq!(known.get(fp, BASE, 0), Some(until(fp)), "{fp}"));
    };
    let steps = step_through(
        || {
            known.put(9, until(9), BASE, 0);
        },
        || {
            all_known(2..=8);
            let (forgotten, new) = (known.get(1, BASE, 0).is_none(), known.get(9, BASE, 0));
            assert_eq!(new, forgotten.then(|| until(9)));
            assert!(
                !forgotten || known.forgotten_until() == until(1),
                "the doubt comes before the loss"
            );
        },
    )?;
    assert_eq!(known.evictions(), 1);

    // A second one changes the same bucket between any two instructions; it ends last, so it is never pushed out.
    let mut other = 0;
    step_through(
        || {
            known.remove(2);
            known.raise(9, until(9) + 1, BASE, 0);
        },
        || {
            other += 1;
            assert_ne!(
                known.put(77, BASE + 5000 + other, BASE, 0),
                Put::Dropped,
                "a new writer works at once"
            );
            assert_eq!(known.get(77, BASE, 0), Some(BASE + 5000 + other));
            all_known(4..=8);
        },
    )?;
    assert_eq!(known.get(2, BASE, 0), None);
    Some(steps)
}

/// An entry is there whole from the moment it is added; a killed writer costs one place and is in nobody's way.
fn entries_stay_whole_at_every_instruction() -> Option<usize> {
    let places: &Places<64, 13> = mapping::map_one().unwrap();
    assert!(places.add(&words(1)) && places.add(&words(2)));
    let change = || {
        assert_eq!(places.remove(|read| read[0] == 2), 1);
        assert!(places.add(&words(3)));
    };
    let mut newest = 3;
    step_through(change, || {
        let shown: Vec<u64> = places
            .entries()
            .map(|(_, read)| assert_whole(read))
            .collect();
        assert!(
            shown.contains(&1),
            "another entry is not touched: {shown:?}"
        );
        assert!(shown.iter().all(|value| *value <= newest), "{shown:?}");
        assert!(!(shown.contains(&2) && shown.contains(&3)), "{shown:?}");
        newest += 1;
        assert!(places.add(&words(newest)));
        assert_eq!(places.remove(|read| read[0] == newest), 1);
    })
}

/// A context whose parts only belong together.
fn context(line: u32) -> Context {
    Context {
        site: line,
        line,
        depth: 32,
        frames: std::array::from_fn(|at| u64::from(line) << 8 | at as u64),
        ..Context::NONE
    }
}

const OWNER: Owner = Owner {
    process: 1,
    is_pkg: false,
    rate: 1,
};

fn contexts_are_whole_or_absent_at_every_instruction() -> Option<usize> {
    let contexts = Contexts::map().unwrap();
    let kept = contexts.take(OWNER, &context(1), b"tm", 100).unwrap();
    let given = contexts.take(OWNER, &context(2), b"sl", 10).unwrap();
    contexts.give(given, 10); // the slot is claimed again by what is stepped through
    let (mut seen, mut other) = (0, 100);
    let steps = step_through(
        || {
            let carried = contexts.take(OWNER, &context(3), b"usrloc", 50);
            contexts.take(OWNER, &context(3), b"usrloc", 50);
            carried.into_iter().for_each(|c| contexts.give(c, 50));
        },
        || {
            let held = (0..contexts.used()).filter_map(|slot| contexts.held(slot));
            for held in held {
                let line = held.context.line;
                assert_eq!(held.context, context(line), "torn");
                assert!(line == 1 || line == 3, "{line}");
                assert!(held.samples <= 2 && held.live_bytes <= 100, "{held:?}");
                seen += u32::from(line == 3);
            }
            // a process that comes here now, the other one being dead
            other += 1;
            let own = contexts
                .take(OWNER, &context(other), b"core", 8)
                .expect("there is room");
            let slot = contexts.carried(contexts.address(own)).map(|c| c == own);
            assert_eq!(slot, Some(true));
            let mut all = (0..contexts.used()).filter_map(|slot| contexts.held(slot));
            assert!(
                all.any(|held| held.context == context(other)),
                "it is there at once"
            );
            contexts.give(own, 8);
        },
    )?;
    assert!(seen > 0, "the steps saw it come");
    contexts.give(kept, 100);
    Some(steps)
}

/// What the writers of the killing test share.
#[derive(Clone, Copy)]
struct Region {
    record: &'static Record<8>,
    ring: &'static Ring<16, 4>,
    known: Fingerprints,
    figures: &'static DoubleBuffer<32>,
    entries: &'static Places<PLACES, 13>,
    /// Turns of all writers.
    turns: &'static AtomicU64,
}

impl Region {
    fn map() -> Region {
        Region {
            record: mapping::map_one().unwrap(),
            ring: mapping::map_one().unwrap(),
            known: Fingerprints::map(100, BASE).unwrap(),
            figures: mapping::map_one().unwrap(),
            entries: mapping::map_one().unwrap(),
            turns: mapping::map_one().unwrap(),
        }
    }

    /// Hammers everything; the writer number 0 also publishes.
    fn write_forever(self, writer: usize, seed: u64) {
        let mut numbers = Numbers(seed);
        loop {
            let value = numbers.next();
            self.record.store(&words(value));
            self.ring.push(words(value));
            let fp = (value >> 8 & 0xff).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            if value % 4 == 0 {
                self.known.remove(fp);
            } else {
                self.known.put(fp, until(fp), BASE, 0);
            }
            self.entries.remove(|read| read[0] % 4 == writer as u64);
            self.entries.add(&words(value - value % 4 + writer as u64));
            if writer == 0 {
                self.figures
                    .publish(&words(self.figures.publications() + 1));
            }
            self.turns.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Reads everything once and checks that nothing is mixed.
    fn read(&self) {
        self.record.load().map(assert_whole);
        assert!(self.ring.last(99).all(|(_, read)| read == words(read[0])));
        for small in 0..256u64 {
            let fp = small.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            assert!(
                self.known
                    .get(fp, BASE, 0)
                    .is_none_or(|read| read == until(fp)),
                "another's end"
            );
        }
        let (live, _) = self.known.count_live(BASE, 0, 0, usize::MAX);
        assert!(live <= self.known.slots() as u64);
        self.figures.read().map(assert_whole);
        assert!(
            self.entries
                .entries()
                .all(|(_, read)| read == words(read[0]))
        );
    }

    /// With no other writer alive, everything that is written is read back.
    fn works_at_once(&self) {
        self.record.store(&words(1));
        assert_eq!(self.record.load(), Some(words(1)));
        let ticket = self.ring.push(words(2));
        assert_eq!(self.ring.last(1).next(), Some((ticket, words(2))));
        let fp = 0x1234_5678_9abc_def0;
        self.known.put(fp, BASE + 9999, BASE, 0);
        assert_eq!(self.known.get(fp, BASE, 0), Some(BASE + 9999));
        assert!(self.known.remove(fp));
        self.entries.remove(|_| true);
        assert_eq!(self.entries.entries().count(), 0);
        assert!(self.entries.add(&words(3)));
        assert!(
            self.entries
                .any(|first| first == 3, |read| *read == words(3))
        );
        let next = self.figures.publications() + 1;
        self.figures.publish(&words(next));
        assert_eq!(self.figures.read(), Some(words(next)));
    }
}

fn killed_writers_tear_nothing() {
    let region = Region::map();
    let mut numbers = Numbers(std::process::id().into());
    println!("  seed {}", numbers.0);
    let mut start = |writer: usize| {
        let seed = numbers.next() | 1;
        Child::start(|| region.write_forever(writer, seed))
    };
    let mut writers: Vec<Child> = (0..4).map(&mut start).collect();
    let mut newest = 0;
    for kill in 0..KILLS {
        let turns = region.turns.load(Ordering::Relaxed);
        await_that("writers go on", || {
            region.read();
            region.turns.load(Ordering::Relaxed) > turns + (kill as u64 * 37) % 500
        });
        let dying = kill % 4;
        writers[dying].signal(libc::SIGKILL);
        assert!(libc::WIFSIGNALED(writers[dying].wait()));
        if dying == 0 && region.figures.publications() > 0 {
            let read = assert_whole(
                region
                    .figures
                    .read()
                    .expect("a dead sampler's figures stay"),
            );
            assert!(read >= newest, "figures went back");
            newest = read;
        }
        if kill % 25 == 0 {
            writers.clear();
            region.works_at_once();
            newest = region.figures.publications();
            writers = (0..4).map(&mut start).collect();
        } else {
            writers[dying] = start(dying);
        }
    }
}

/// A value that one process leaves to the next.
#[derive(Clone, Copy)]
struct Left([u64; 40]);
// SAFETY: numbers.
unsafe impl Plain for Left {}

/// How many of the values were gone on with, and how many began anew.
fn what_is_kept_is_whole_or_begins_anew() -> (usize, usize) {
    const VALUES: usize = 3;
    const FRESH: u64 = u64::MAX / 2;
    let kept = Kept::<Left>::map(VALUES).expect("some memory");
    let fresh = || Left(words(FRESH));
    let (mut gone_on, mut anew) = (0, 0);
    for kill in 0..KILLS {
        // SAFETY: whoever had it has been waited for.
        let mut lease = unsafe { kept.lease() };
        let found: Vec<u64> = (0..VALUES)
            .map(|value| {
                let whole = lease.work(value, fresh, |left| assert_whole(left.0));
                whole.expect("there is such a value")
            })
            .collect();
        let were_lost = found.iter().filter(|value| **value == FRESH).count();
        assert!(
            were_lost <= 1 || kill == 0,
            "at most the one in hand: {found:?}"
        );
        anew += were_lost;
        gone_on += VALUES - were_lost;
        let turns = mapping::map_one::<AtomicU64>().expect("some memory");
        let worker = Child::start(|| {
            // SAFETY: the parent does nothing with its own until this one is dead.
            let mut lease = unsafe { kept.lease() };
            for turn in 1.. {
                for value in 0..VALUES {
                    lease.work(value, fresh, |left| {
                        for (place, word) in left.0.iter_mut().enumerate() {
                            *word = words::<40>(turn)[place];
                        }
                    });
                }
                turns.store(turn, Ordering::Relaxed);
            }
        });
        await_that("the worker works", || {
            turns.load(Ordering::Relaxed) > (kill as u64 * 37) % 500
        });
        worker.signal(libc::SIGKILL);
        assert!(libc::WIFSIGNALED(worker.wait()));
    }
    (gone_on, anew)
}

fn a_stopped_sampler_leaves_its_figures() {
    let region = Region::map();
    let sampler = Child::start(|| region.write_forever(0, 1));
    for _ in 0..50 {
        let publications = region.figures.publications();
        await_that("figures are published", || {
            region.figures.publications() > publications + 10
        });
        sampler.signal(libc::SIGSTOP);
        assert!(libc::WIFSTOPPED(sampler.wait()));
        let read = region.figures.read().expect("stopped at any instruction");
        assert_eq!(assert_whole(read), region.figures.publications());
        assert_eq!(region.figures.read(), Some(read));
        sampler.signal(libc::SIGCONT);
    }
}

/// Runs `is_so` until it says yes, for at most 20 seconds.
fn await_that(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// A test that is stepped through; answers the number of instructions.
type Stepped = fn() -> Option<usize>;

#[cfg(loom)]
fn main() {} // loom's atomics cannot be shared between processes

#[cfg(not(loom))]
fn main() {
    let stepped: [(&str, Stepped); 6] = [
        (
            "contexts_are_whole_or_absent_at_every_instruction",
            contexts_are_whole_or_absent_at_every_instruction,
        ),
        (
            "a_record_is_whole_or_absent_at_every_instruction",
            a_record_is_whole_or_absent_at_every_instruction,
        ),
        (
            "a_ring_loses_one_slot_at_most_at_every_instruction",
            a_ring_loses_one_slot_at_most_at_every_instruction,
        ),
        (
            "figures_are_never_absent_at_every_instruction",
            figures_are_never_absent_at_every_instruction,
        ),
        (
            "fingerprints_stay_known_at_every_instruction",
            fingerprints_stay_known_at_every_instruction,
        ),
        (
            "entries_stay_whole_at_every_instruction",
            entries_stay_whole_at_every_instruction,
        ),
    ];
    for (name, test) in stepped {
        match test() {
            Some(steps) => println!("{name}: ok ({steps} instructions)"),
            None if std::env::var_os("MEMGUARD_REQUIRE").is_some() => {
                panic!("{name}: cannot trace a child")
            }
            None => println!("{name}: SKIP: this machine does not let us trace a child"),
        }
    }
    killed_writers_tear_nothing();
    println!("killed_writers_tear_nothing: ok ({KILLS} kills)");
    let (gone_on, anew) = what_is_kept_is_whole_or_begins_anew();
    assert!(
        gone_on > 2 * KILLS - KILLS / 2 && anew > 3,
        "{gone_on} {anew}"
    );
    println!("what_is_kept_is_whole_or_begins_anew: ok ({gone_on} gone on with, {anew} anew)");
    a_stopped_sampler_leaves_its_figures();
    println!("a_stopped_sampler_leaves_its_figures: ok");
}
