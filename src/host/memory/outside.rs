//! Memory outside the pools, asked in the process itself: libc's heap and the Python interpreter.
//! Forbidden here: anything but one load while nothing is asked; Kamailio's pools; logging.
//!
//! Nobody can read another process's heap, so the sampling process asks by a word in the process's row, and the
//! process answers at the end of its next message. An answer walks the heap's free lists (mallinfo(3)) and Python's
//! arenas: microseconds to some milliseconds. Therefore a process is asked at most once in ten samples, and never so
//! often that answering takes a thousandth of its time.

use std::cell::Cell;
use std::time::Instant;

use crate::guard::config::params::Int;
use crate::guard::machine::outside;
use crate::host::kamailio::{state, sys};
use crate::host::memory::{hooks, python};
use crate::shared::counters::outside::{Outside, Told};
use crate::shared::region::Region;

/// The process number for which child_init has run; −1 before. A process that is forked later inherits its parent's
/// number and does not count as ready: nobody has told the interpreter in it of the fork.
struct Ready(Cell<i32>);
// SAFETY: used by the main thread of each process only.
unsafe impl Sync for Ready {}
static LOCAL_READY: Ready = Ready(Cell::new(-1));

/// Looks for an interpreter, unless the parameter `python` is 0. Process: main, in PROC_INIT.
pub fn prepare(region: &Region) {
    let is_asked = region.settings.get(Int::Python) == 1 && python::find();
    region.control.python.set(u64::from(is_asked));
}

/// This process has run child_init of all modules before its first message. Process: each that does.
pub fn child_started() {
    // SAFETY: a plain int of the server, set right after each fork (core/pt.c).
    LOCAL_READY.0.set(unsafe { sys::process_no });
}

/// The end of a message: answers if asked. Process: those that run the script.
#[inline]
pub fn at_message_end() {
    // SAFETY: as in child_started.
    let process = unsafe { sys::process_no };
    let row = usize::try_from(process)
        .ok()
        .zip(state::region())
        .and_then(|(index, region)| region.outside.get(index));
    if let Some(row) = row.filter(|row| row.is_asked()) {
        answer(row, process);
    }
}

#[cold]
fn answer(row: &Outside, process: i32) {
    if !hooks::is_main_thread() {
        return;
    }
    let begin = Instant::now();
    // SAFETY: glibc 2.33 and later; it takes malloc's own locks for a moment.
    let heap = unsafe { libc::mallinfo2() };
    let is_python = state::region().is_some_and(|r| r.control.python.get() == 1);
    let python_blocks = match is_python && LOCAL_READY.0.get() == process {
        true => python::blocks(),
        false => None,
    };
    row.answer(&Told {
        heap: (heap.uordblks + heap.hblkhd) as u64,
        heap_free: heap.fordblks as u64,
        python_blocks,
        took_us: begin.elapsed().as_micros() as u64,
    });
}

/// When each process was asked last, milliseconds. In the sampling process.
#[derive(Default)]
pub struct Questions(Vec<u64>);

impl Questions {
    /// Asks whoever it is time for. `interval_ms`: between two samples.
    pub fn ask(&mut self, region: &Region, processes: usize, now_ms: u64, interval_ms: u64) {
        let rows = region.used_outside(processes);
        self.0.resize(rows.len(), 0);
        for (asked_ms, row) in self.0.iter_mut().zip(rows) {
            let took_us = row.told().map_or(0, |told| told.took_us);
            let since = now_ms.saturating_sub(*asked_ms);
            if since >= outside::rest_ms(interval_ms, took_us) || now_ms < *asked_ms {
                *asked_ms = now_ms;
                row.ask();
            }
        }
    }
}
