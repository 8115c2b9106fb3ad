//! Child processes that end with this one, whatever ends it; and waiting that an interrupt ends.
//! Forbidden here: knowing what the children are.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::failure::{Failure, not_run};

/// Set by SIGINT and SIGTERM.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_: libc::c_int) {
    // ORDERING: Relaxed; a lone flag that is looked at a few times per second.
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on SIGINT and SIGTERM end the run in an orderly way.
pub fn catch_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores into an atomic.
        unsafe {
            libc::signal(
                signal,
                on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t,
            )
        };
    }
}

/// # Errors
/// The run was interrupted.
pub fn go_on() -> Result<(), Failure> {
    // ORDERING: Relaxed; as in on_signal.
    match INTERRUPTED.load(Ordering::Relaxed) {
        true => Err(not_run("interrupted")),
        false => Ok(()),
    }
}

/// Waits in small steps.
///
/// # Errors
/// The run was interrupted.
pub fn pause(time: Duration) -> Result<(), Failure> {
    let end = Instant::now() + time;
    loop {
        go_on()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

/// Starts a program in a process group of its own that gets SIGTERM when this process ends.
///
/// # Errors
/// It cannot be started.
pub fn spawn(command: &mut Command) -> Result<Child, Failure> {
    // SAFETY: setpgid and prctl are async-signal-safe, and the closure touches no memory of the parent.
    unsafe {
        command.pre_exec(|| {
            libc::setpgid(0, 0);
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
    command.spawn().map_err(|e| {
        let program = Path::new(command.get_program()).display();
        not_run(format!("{program} cannot be started: {e}"))
    })
}

/// Ends a child: SIGTERM, then, after `limit`, SIGKILL; its whole group goes with it. Harmless when it has ended.
pub fn end(child: &mut Child, limit: Duration) {
    let Ok(pid) = libc::pid_t::try_from(child.id()) else {
        return;
    };
    let began = Instant::now();
    let mut is_told = false;
    while let Ok(None) = child.try_wait() {
        if !is_told {
            is_told = true;
            // SAFETY: the child has not been waited for, so its pid is still its own.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
        if began.elapsed() > limit {
            // SAFETY: spawn() made the group, and its leader has not been waited for.
            unsafe { libc::kill(-pid, libc::SIGKILL) };
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // SAFETY: a group that spawn() made; what is left of it is the dead leader's.
    unsafe { libc::kill(-pid, libc::SIGKILL) };
}
