//! Kamailio's process table: who is there, by index; and what this process was forked as.
//! Forbidden here: counting, and anything that changes the table.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::host::kamailio::{own_memory, sys};
use crate::shared::counters::rows::{COMMON_ROW, MAX_PROCESSES, ROWS};
use crate::shared::region::Region;

/// One line of Kamailio's process table.
pub struct Process {
    /// Process id.
    pub pid: c_int,
    /// Rank given to child_init (core/sr_module.h).
    pub rank: c_int,
    /// What `core.psx` says of it.
    pub description: String,
}

/// The server's processes, by index.
pub fn process_table() -> impl Iterator<Item = Process> {
    (0..processes()).map_while(|index| {
        own_memory::checkpoint();
        // SAFETY: the table has at least `process_count` lines and lives in shm (core/pt.c).
        unsafe {
            let table = sys::pt;
            if table.is_null() {
                return None;
            }
            let line = &*table.add(index);
            let text = line.desc.map(|c| c as u8);
            let text = text.split(|b| *b == 0).next().unwrap_or_default();
            Some(Process {
                pid: line.pid,
                rank: line.rank,
                description: String::from_utf8_lossy(text).into_owned(),
            })
        }
    })
}

/// How many processes the server has; 0 before the table exists. Rows beyond are untouched memory: leave them so.
pub fn processes() -> usize {
    // SAFETY: a pointer into shm, null before init_pt (core/pt.c); an aligned int that only grows.
    unsafe {
        let count = sys::process_count;
        if count.is_null() {
            0
        } else {
            usize::try_from(count.read_volatile()).unwrap_or(0)
        }
    }
}

/// The rows that reports show: a process each, and one line for all that share the last row.
pub fn counted_processes() -> impl Iterator<Item = Process> {
    let beyond = processes().saturating_sub(MAX_PROCESSES);
    process_table()
        .take(ROWS)
        .enumerate()
        .map(move |(index, process)| match index {
            COMMON_ROW => Process {
                pid: 0,
                rank: 0,
                description: format!(
                    "the {beyond} processes from index {MAX_PROCESSES} on, together"
                ),
            },
            _ => process,
        })
}

/// The process that samples, where this line of the process table is that of its supervisor.
pub fn sampling_pid(region: &Region, index: usize, pid: c_int) -> Option<c_int> {
    // ORDERING: Relaxed; a number for reports.
    let of_row = region.rows.get(index)?.pid.load(Ordering::Relaxed);
    let sampling = region.sampling.pid.get();
    let own = c_int::try_from(sampling).ok()?;
    (sampling != 0 && u64::from(of_row) == sampling && own != pid).then_some(own)
}

/// Whether this process was forked as PROC_RPC: an async worker, or one that answers RPC and runs no script.
static LOCAL_IS_ASYNC: AtomicBool = AtomicBool::new(false);

/// Remembers what this process was forked as; after its fork.
pub fn forked_as(rank: c_int) {
    // ORDERING: Relaxed; one process's own flag.
    LOCAL_IS_ASYNC.store(rank == sys::PROC_RPC, Ordering::Relaxed);
}

/// Whether this process may be an async worker, which has no rank of its own (core/async_task.c).
pub fn is_async_worker() -> bool {
    // ORDERING: Relaxed; one process's own flag.
    LOCAL_IS_ASYNC.load(Ordering::Relaxed)
}
