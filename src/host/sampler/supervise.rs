//! The process that Kamailio forks for memguard: it only starts the one that samples, again when that one has died, and
//! ends it with the server.
//! Forbidden here: sampling, serving, Kamailio's pools and locks; anything that could end this process before the server,
//! because Kamailio ends with each of its own processes (main.c, SIGCHLD), but not with a child of one.

use std::ffi::c_int;
use std::time::{Duration, Instant};

use crate::guard::config::params::Int;
use crate::guard::terms::warnings::Warning;
use crate::host::kamailio::{
    log::{Severity, log},
    state, sys,
};
use crate::host::memory::hooks;
use crate::host::outputs::ending;
use crate::host::sampler::ticks;
use crate::shared::region::Region;

/// Between two starts of the sampling process at least.
const RESTART_EVERY: Duration = Duration::from_secs(3);
/// How long this process sleeps at most before it looks whether main is still there.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// An orderly end of the sampling process takes some milliseconds; main waits a minute for this one.
const END_LIMIT: Duration = Duration::from_secs(10);
/// A sampling process that has taken no sample for so long, and five intervals, is stuck (a stopped process, a file system
/// that hangs, a fault of ours): it is ended, so that another one begins.
const STUCK: Duration = Duration::from_secs(20);
/// So long after a death there is something to warn of.
const WARNED: Duration = Duration::from_secs(3600);

/// What the sampling process may take of its stack: its forecasts take more than the 128 KiB that a stack begins with.
const STACK: usize = 512 << 10;

/// What this process takes with sigtimedwait(2) instead of by a handler.
const SIGNALS: [c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGCHLD];

/// Supervises until the server ends. Process: the one that Kamailio forked, from its first moment.
pub fn run() -> ! {
    // SAFETY: a plain call; the process that must outlive us.
    let main = unsafe { libc::getppid() };
    // SAFETY: our own process, right after the fork; the one that samples is a copy of it.
    unsafe { sys::cfg_child_init() };
    let before = hold_signals();
    // SAFETY: a plain call. A write beyond a limit of file sizes, of a log say, shall be an error and not the end.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    deepen_stack();
    hooks::publish_process();
    hooks::lend();
    if let Some(region) = state::region() {
        let mut supervisor = Supervisor {
            region,
            main,
            // SAFETY: a plain call.
            own: unsafe { libc::getpid() },
            before,
            child: None,
            started: None,
            died: None,
            samples: 0,
            progressed: Instant::now(),
        };
        supervisor.run();
    }
    // SAFETY: ends this process without running the server's exit handlers.
    unsafe { libc::_exit(0) }
}

/// Takes the stack's pages now, for all sampling processes to come: where address space is limited later (prlimit, ulimit -v)
/// a stack that must grow ends its process by a signal. Not where there is no room for it now: that would be this end.
fn deepen_stack() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a limit on our stack to read into; pages of our own that nobody knows, given back at once.
    let has_room = unsafe {
        let pages = libc::mmap(
            std::ptr::null_mut(),
            2 * STACK,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        let is_mapped = pages != libc::MAP_FAILED && libc::munmap(pages, 2 * STACK) == 0;
        is_mapped && libc::getrlimit(libc::RLIMIT_STACK, &mut limit) == 0
    };
    if has_room && limit.rlim_cur >= 4 * STACK as libc::rlim_t {
        touch_stack();
    }
}

#[inline(never)]
fn touch_stack() {
    std::hint::black_box(&mut [0u8; STACK]);
}

/// Holds back what is taken one by one; answers what was held back before.
fn hold_signals() -> libc::sigset_t {
    // SAFETY: plain sets on the stack; this process has one thread.
    unsafe {
        let mut before = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, &waited_for(), &mut before);
        before
    }
}

fn waited_for() -> libc::sigset_t {
    // SAFETY: a plain set on the stack.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in SIGNALS {
            libc::sigaddset(&mut set, signal);
        }
        set
    }
}

/// The next signal, if one comes in time.
fn next_signal(limit: Duration) -> Option<c_int> {
    let limit = libc::timespec {
        tv_sec: limit.as_secs() as libc::time_t,
        tv_nsec: limit.subsec_nanos().into(),
    };
    // SAFETY: a set and a time on the stack; nobody wants to know more of the signal.
    let signal = unsafe { libc::sigtimedwait(&waited_for(), std::ptr::null_mut(), &limit) };
    (signal > 0).then_some(signal)
}

struct Supervisor {
    region: &'static Region,
    main: c_int,
    own: c_int,
    /// The signals that were held back before; the sampling process begins with those.
    before: libc::sigset_t,
    child: Option<c_int>,
    /// The last start, or try to.
    started: Option<Instant>,
    died: Option<Instant>,
    /// Samples so far, and since when there are so many, on a clock that stands while the machine is suspended.
    samples: u64,
    progressed: Instant,
}

impl Supervisor {
    fn run(&mut self) {
        loop {
            let is_time = self.started.is_none_or(|at| at.elapsed() >= RESTART_EVERY);
            if self.child.is_none() && is_time {
                self.start();
            }
            if let Some(libc::SIGTERM | libc::SIGINT) = next_signal(LOOK_EVERY) {
                return self.end();
            }
            // SAFETY: a plain call.
            if unsafe { libc::getppid() } != self.main {
                ending::main_vanished(self.region);
                return self.end();
            }
            self.collect();
            self.end_who_is_stuck();
            if self.died.is_some_and(|at| at.elapsed() >= WARNED) {
                self.died = None;
                self.region.warn(Warning::SamplerDied, false);
            }
        }
    }

    fn start(&mut self) {
        let is_again = self.started.is_some();
        self.started = Some(Instant::now());
        self.progressed = Instant::now();
        // SAFETY: this process has one thread, so its copy can do whatever this one could.
        match unsafe { libc::fork() } {
            0 => self.become_sampler(),
            pid @ 1.. => {
                self.child = Some(pid);
                if is_again {
                    log!(
                        Severity::Notice,
                        "the sampling process was started again as process {pid}"
                    );
                }
            }
            _ => {
                let error = std::io::Error::last_os_error();
                self.lost(format_args!(
                    "the sampling process cannot be started: {error}"
                ));
            }
        }
    }

    /// In the copy.
    fn become_sampler(&self) -> ! {
        // SAFETY: plain calls in a process of one thread, with sets on its stack. Kamailio's handler of SIGCHLD speaks of
        // Kamailio's children.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            if libc::getppid() != self.own {
                libc::_exit(0); // it died before we asked to be told
            }
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            ending::take_over_signals();
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut());
        }
        ticks::run()
    }

    fn end_who_is_stuck(&mut self) {
        let samples = self.region.figures().samples;
        if samples != self.samples {
            (self.samples, self.progressed) = (samples, Instant::now());
        }
        let interval = Duration::from_millis(self.region.settings.get_u64(Int::SampleInterval));
        let (Some(pid), true) = (
            self.child,
            self.progressed.elapsed() >= STUCK + 5 * interval,
        ) else {
            return;
        };
        self.progressed = Instant::now();
        log!(
            Severity::Warn,
            "the sampling process {pid} has taken no sample for {} seconds: it is ended",
            (STUCK + 5 * interval).as_secs()
        );
        // SAFETY: our own child, which is not collected yet.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }

    /// Whether the sampling process has ended, and what is to be said of it.
    fn collect(&mut self) {
        let Some(pid) = self.child else { return };
        let mut status = 0;
        // SAFETY: our own child.
        if unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } != pid {
            return;
        }
        self.child = None;
        match libc::WIFSIGNALED(status) {
            true => self.lost(format_args!(
                "the sampling process {pid} was ended by signal {}",
                libc::WTERMSIG(status)
            )),
            false => self.lost(format_args!(
                "the sampling process {pid} ended with status {}",
                libc::WEXITSTATUS(status)
            )),
        }
    }

    fn lost(&mut self, what: std::fmt::Arguments<'_>) {
        self.died = Some(Instant::now());
        self.region.sampling.restarts.add(1);
        self.region.warn(Warning::SamplerDied, true);
        log!(
            Severity::Warn,
            "{what}: it is started again within {} seconds; samples are missing meanwhile, and no call is touched",
            RESTART_EVERY.as_secs()
        );
    }

    /// The server ends, and the sampling process says its last words.
    fn end(&mut self) {
        self.region.sampling.is_told.set(1);
        let Some(pid) = self.child else { return };
        // SAFETY: our own child, which is not collected yet.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        let begin = Instant::now();
        let mut status = 0;
        // SAFETY: as above.
        while unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } == 0 {
            if begin.elapsed() >= END_LIMIT {
                // SAFETY: as above.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            next_signal(Duration::from_millis(20));
        }
    }
}
