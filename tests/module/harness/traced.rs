//! The system calls of a process while something runs, counted where the kernel takes them (ptrace), by number.
//! Forbidden here: processes that this test did not start; leaving one stopped.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// System calls by number.
pub type Counts = BTreeMap<u64, u64>;

/// A stop on the way into a system call (struct ptrace_syscall_info).
const ENTRY: u64 = libc::PTRACE_SYSCALL_INFO_ENTRY as u64;

/// Runs `work`, and counts the system calls that the process makes
/// meanwhile, until it waits for its next message again.
#[track_caller]
pub fn while_running(pid: i32, work: impl FnOnce() + Send) -> Counts {
    let (is_traced, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // All of ptrace is the business of one thread, and `work` the other one's.
        let tracer = scope.spawn(|| trace(pid, &is_traced, &is_over));
        let over = Over(pid, &is_over);
        let settle = |is_settled: &dyn Fn() -> bool| {
            // ORDERING: Acquire, with the tracer's Release.
            while !is_over.load(Ordering::Acquire) && !is_settled() {
                std::thread::yield_now();
            }
        };
        settle(&|| is_traced.load(Ordering::Acquire) && is_asleep(pid));
        work();
        settle(&|| is_asleep(pid));
        drop(over);
        tracer.join().expect("the process can be traced")
    })
}

/// Says that it is over, also when the work fails: by a signal, which only the tracer sees.
struct Over<'a>(i32, &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        // ORDERING: Release, with the tracer's Acquire after the signal.
        self.1.store(true, Ordering::Release);
        // SAFETY: a plain call; SIGURG does nothing where it arrives.
        unsafe { libc::kill(self.0, libc::SIGURG) };
    }
}

/// In a system call, not at its begin or end, where the tracer has it.
fn is_asleep(pid: i32) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = text.rsplit(')').next().map(str::trim_start);
    state.is_some_and(|state| state.starts_with('S'))
}

fn trace(pid: i32, is_traced: &AtomicBool, is_over: &AtomicBool) -> Counts {
    let mut counts = Counts::new();
    if let Err(e) = ptrace(
        libc::PTRACE_SEIZE,
        pid,
        0,
        libc::PTRACE_O_TRACESYSGOOD as usize,
    ) {
        is_over.store(true, Ordering::Release); // nobody need wait for it
        panic!("{pid} cannot be traced: {e}");
    }
    ptrace(libc::PTRACE_INTERRUPT, pid, 0, 0).expect("it is traced");
    loop {
        let mut status = 0;
        // SAFETY: a status of ours; nobody else waits for this process, whose parent is Kamailio's main process.
        let stopped = unsafe { libc::waitpid(pid, &mut status, libc::__WALL) };
        assert_eq!(stopped, pid, "{}", std::io::Error::last_os_error());
        assert!(libc::WIFSTOPPED(status), "{pid} has ended: {status:#x}");
        let mut signal = 0;
        match libc::WSTOPSIG(status) {
            stop if stop == libc::SIGTRAP | 0x80 => {
                let mut info = [0u64; 11];
                let to = (&raw mut info) as usize;
                ptrace(libc::PTRACE_GET_SYSCALL_INFO, pid, size_of_val(&info), to)
                    .expect("it is at a system call");
                if info[0] & 0xff == ENTRY {
                    *counts.entry(info[3]).or_default() += 1;
                }
            }
            libc::SIGURG if is_over.load(Ordering::Acquire) => {
                ptrace(libc::PTRACE_DETACH, pid, 0, 0).expect("it is stopped");
                return counts;
            }
            _ if status >> 16 != 0 => {} // the stop that we asked for
            other => signal = other as usize,
        }
        ptrace(libc::PTRACE_SYSCALL, pid, 0, signal).expect("it is stopped");
        is_traced.store(true, Ordering::Release);
    }
}

fn ptrace(request: libc::c_uint, pid: i32, address: usize, data: usize) -> std::io::Result<()> {
    let address = address as *mut libc::c_void;
    // SAFETY: numbers, but for PTRACE_GET_SYSCALL_INFO, whose buffer is as long as `address` says and lives for the call.
    match unsafe { libc::ptrace(request, pid, address, data) } {
        -1 => Err(std::io::Error::last_os_error()),
        _ => Ok(()),
    }
}
