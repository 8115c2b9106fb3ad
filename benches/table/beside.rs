//! Servers side by side: one without memguard and two with it, under the same load in turn; and CPU time of processes.
//! Forbidden here: wall clock; knowing what the load consists of.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;

use crate::harness::builder::Builder;
use crate::harness::{Pair, Server, for_each_pair};
use crate::report::{Table, progress};

/// Another memguard.so, to be measured over this one.
const OTHER: &str = "MEMGUARD_BENCH_OTHER";

/// What a trio's servers spent, nanoseconds: without memguard, with it, and with it again, which shows the noise.
pub type Spent = [f64; 3];

/// A line of such figures: one request, or one call.
pub struct Line<'a> {
    /// What is measured, "accepted REGISTER" say.
    pub what: &'a str,
    /// Where: the manager, and how many children.
    pub name: &'a str,
    /// What with may cost over without; only noted where there is none.
    pub bound: Option<f64>,
    /// How many of them each server was given.
    pub count: usize,
}

impl Line<'_> {
    pub fn into_table(self, spent: Spent, table: &mut Table) {
        let Line { what, name, .. } = self;
        let [without, with, again] = spent.map(|ns| ns / 1000.0 / self.count as f64);
        table.note(format!("{what} without memguard ({name})"), without, "us");
        if other().is_some() {
            let over = format!("{what}: {OTHER} over this module ({name})");
            return table.note(over, again / with, "x");
        }
        let noise = format!("{what}: memguard over itself, the noise ({name})");
        table.note(noise, again / with, "x");
        let ratio = (with + again) / 2.0 / without;
        let what = format!("{what}: with memguard over without ({name})");
        match self.bound {
            Some(bound) => table.add(what, ratio, "x", bound),
            None => table.note(what, ratio, "x"),
        }
    }
}

/// Runs `on` for each pair and number of children, with what the lines call both; `MEMGUARD_BENCH_PAIR` chooses.
pub fn for_each(children: &[u32], mut on: impl FnMut(&Pair, u32, &str)) {
    let on = RefCell::new(&mut on);
    let wanted = std::env::var("MEMGUARD_BENCH_PAIR").unwrap_or_default();
    for_each_pair(|pair| {
        for &children in children {
            let name = format!("{}, {children} children", pair.manager);
            if name.contains(&wanted) {
                on.borrow_mut()(pair, children, &name);
            }
        }
    });
}

/// Starts trios one after the other, as where the allocator's blocks lie differs from start to start; `run` adds what each
/// of a trio spent.
pub fn trios(
    starts: usize,
    what: &str,
    builder: &Builder,
    run: impl Fn(&[Server; 3], &mut Spent),
) -> Spent {
    let mut spent = [0.0; 3];
    for start in 0..starts {
        progress(&format!("{what}: start {} of {starts}", start + 1));
        let servers = [
            builder.clone().without_memguard().start(),
            builder.start(),
            other()
                .map_or(builder.clone(), |other| builder.clone().memguard(other))
                .start(),
        ];
        run(&servers, &mut spent);
    }
    spent
}

fn other() -> Option<PathBuf> {
    std::env::var_os(OTHER).map(PathBuf::from)
}

/// Gives each of a trio its batches, in an order that turns; `batch` is told whose turn it is.
pub fn in_turn(rounds: usize, mut batch: impl FnMut(usize)) {
    for round in 0..rounds {
        for turn in 0..3 {
            batch((round + turn) % 3);
        }
    }
}

/// Processes of a server whose CPU time counts.
pub struct Processes(Vec<i32>);

impl Processes {
    /// Its UDP workers.
    pub fn workers(server: &Server) -> Processes {
        Processes::named(server, &["udp receiver"])
    }

    /// Those that core.psx calls so; all of the names are there.
    pub fn named(server: &Server, names: &[&str]) -> Processes {
        let all = server.processes();
        for name in names {
            let is_there = all.iter().any(|(_, _, what)| what.starts_with(name));
            assert!(is_there, "no process is called {name}: {all:?}");
        }
        let is_named = |what: &str| names.iter().any(|name| what.starts_with(name));
        let named = all.into_iter().filter(|(_, _, what)| is_named(what));
        Processes(named.map(|(_, pid, _)| pid).collect())
    }

    /// CPU time of them all so far, nanoseconds.
    pub fn cpu_ns(&self) -> u64 {
        self.0.iter().copied().map(cpu_ns).sum()
    }
}

/// CPU time of a process so far: the first number of /proc/PID/schedstat (kernel: sched-stats), nanoseconds.
pub fn cpu_ns(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("the process lives");
    let first = text.split(' ').next().and_then(|n| n.parse().ok());
    first.expect("a number comes first")
}
