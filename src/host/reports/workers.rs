//! `memguard.workers`: one row per process.
//! Forbidden here: changing anything; shm locks. Process: RPC processes.

use crate::guard::config::filters;
use crate::guard::foresee::growth::Leak;
use crate::guard::formats::report::Answer;
use crate::guard::formats::report::Fault;
use crate::guard::formats::report::Fields;
use crate::guard::formats::report::Node;
use crate::guard::formats::report::int;
use crate::guard::formats::report::real;
use crate::guard::formats::report::word;
use crate::host::kamailio::processes;
use crate::host::memory::hooks;
use crate::host::reports::bytes;
use crate::host::reports::region;
use crate::shared::counters::rows::Row;
use crate::shared::counters::rows::{COMMON_ROW, MAX_PROCESSES};
use crate::shared::region::Region;

/// `memguard.workers [pid N or rank N or index N or leaking or top N]`
pub fn workers(words: &[&str]) -> Result<Answer, Fault> {
    let region = region()?;
    let filter = filters::workers(words).map_err(Fault::bad)?;
    let mut found: Vec<(u64, Fields)> = processes::counted_processes()
        .enumerate()
        .filter(|(index, process)| match filter {
            filters::Workers::All | filters::Workers::Top(_) => true,
            filters::Workers::Pid(pid) => process.pid == pid,
            filters::Workers::Rank(rank) => process.rank == rank,
            filters::Workers::Index(wanted) => *index == wanted as usize,
            filters::Workers::Leaking => region
                .rows
                .get(*index)
                .is_some_and(|r| r.leak() != Leak::None),
        })
        .filter_map(|(index, process)| {
            let row = region.rows.get(index)?;
            Some((
                row.pkg.real_used.get(),
                worker_row(region, index, &process, row),
            ))
        })
        .collect();
    match filter {
        filters::Workers::Top(n) => {
            found.sort_by_key(|(used, _)| std::cmp::Reverse(*used));
            found.truncate(n as usize);
        }
        filters::Workers::All | filters::Workers::Leaking => (),
        _ if found.is_empty() => {
            return Err(Fault::unknown(format!(
                "there is no worker with {}; see core.psx",
                words.join(" ")
            )));
        }
        _ => (),
    }
    Ok(Answer::Many(
        found.into_iter().map(|(_, fields)| fields).collect(),
    ))
}

fn worker_row(region: &Region, index: usize, process: &processes::Process, row: &Row) -> Fields {
    let shm = hooks::shm_sum(index, row);
    let pkg = hooks::pkg_sum(index, row);
    let (growth, growth_per_message) = row.growth();
    let mut fields = vec![
        ("index", int(index as u64)),
        ("pid", Node::Int(process.pid)),
        ("rank", Node::Int(process.rank)),
        ("desc", word(&process.description)),
        ("pkg_size", bytes(region.control.pkg_size.get())),
        ("pkg_real_used", bytes(row.pkg.real_used.get())),
        ("pkg_live", bytes(pkg.live())),
        ("pkg_peak", bytes(row.pkg.peak.get())),
        (
            "pkg_drift",
            Node::Signed(match (index, row.pkg.used.get()) {
                (COMMON_ROW, _) => 0, // of several managers there is no figure to hold it against
                (_, 0) => 0,          // nor is there of one that was killed before it told any
                (_, used) => used.wrapping_sub(pkg.live()) as i64,
            }),
        ),
        ("pkg_unbooked", bytes(row.pkg.unbooked.get())),
        ("pkg_allocs", Node::Count(pkg.allocs)),
        ("pkg_frees", Node::Count(pkg.frees)),
        ("pkg_bytes_allocated", bytes(pkg.bytes_allocated)),
        ("pkg_bytes_freed", bytes(pkg.bytes_freed)),
        ("shm_allocs", Node::Count(shm.allocs)),
        ("shm_frees", Node::Count(shm.frees)),
        ("shm_bytes_allocated", bytes(shm.bytes_allocated)),
        ("shm_bytes_freed", bytes(shm.bytes_freed)),
        (
            "failures",
            Node::Count(row.pkg_failures.get().wrapping_add(shm.failures)),
        ),
        ("private", bytes(row.private_bytes.get())),
    ];
    fields.extend(outside_fields(region, index));
    if index == COMMON_ROW {
        let beyond = hooks::processes().saturating_sub(MAX_PROCESSES);
        fields.push(("processes", int(beyond as u64)));
    }
    fields.extend([
        ("messages", Node::Count(row.sip.messages.get())),
        ("registers", Node::Count(row.sip.received.sum())),
        ("growth", real(growth)),
        ("growth_per_message", real(growth_per_message)),
        ("leak", word(row.leak())),
        ("level", word(row.level())),
    ]);
    fields.extend(
        processes::sampling_pid(region, index, process.pid)
            .map(|pid| ("sampling_pid", Node::Int(pid))),
    );
    if let Some(outside) = region.outside.get(index) {
        if row.leak() != Leak::None {
            fields.push(("leak_in", word(outside.leak_in())));
        }
        if let Some((pool, seconds)) = outside.exhaustion() {
            fields.push(("exhaustion_seconds", Node::Count(seconds)));
            fields.push(("exhaustion_pool", word(pool)));
        }
    }
    fields
}

/// What the process told of its memory outside the pools; what it never told is left out.
fn outside_fields(region: &Region, index: usize) -> Fields {
    let outside = region.outside.get(index);
    let Some((row, told)) = outside.and_then(|row| Some((row, row.told()?))) else {
        return Fields::new();
    };
    let mut fields = vec![
        ("private_growth", real(row.growth().0)),
        ("heap", bytes(told.heap)),
        ("heap_free", bytes(told.heap_free)),
    ];
    fields.extend(
        told.python_blocks
            .map(|blocks| ("python_blocks", Node::Count(blocks))),
    );
    fields
}
