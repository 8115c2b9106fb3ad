//! A limit of file sizes (RLIMIT_FSIZE; ulimit -f, LimitFSIZE): a write beyond it is an error like a full disk, not the end
//! of the process that writes.
//! Forbidden here: another process's signals; changing what a signal does where other code than memguard's writes, too.

/// Writes files with SIGXFSZ held back in this thread, and takes back the one that came of it. The sampling process
/// ignores that signal and needs none of this.
pub fn as_an_error<R>(write: impl FnOnce() -> R) -> R {
    /// Puts the mask back, also when a panic passes.
    struct Held(libc::sigset_t);
    impl Drop for Held {
        fn drop(&mut self) {
            let none = libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            // SAFETY: plain sets on the stack; this thread's own mask.
            unsafe {
                if libc::sigismember(&self.0, libc::SIGXFSZ) == 0 {
                    while libc::sigtimedwait(&only(), std::ptr::null_mut(), &none) > 0 {}
                }
                libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut());
            }
        }
    }
    // SAFETY: as above.
    let _held = unsafe {
        let mut before = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, &only(), &mut before);
        Held(before)
    };
    write()
}

fn only() -> libc::sigset_t {
    // SAFETY: a plain set on the stack.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGXFSZ);
        set
    }
}
