//! Network namespaces of a test: machines with names of their own, veth pairs between them, and frames from a stranger.
//! Forbidden here: names in /run/netns, and anything that outlives the test process (a namespace lives as long as its file).

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::pairs::skip;

/// One machine's network.
#[derive(Debug)]
pub struct Namespace(File);

/// Takes the calling thread, or the child before its exec, into a namespace.
fn enter(fd: i32) -> std::io::Result<()> {
    // SAFETY: a plain call, async-signal-safe.
    match unsafe { libc::setns(fd, libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

impl Namespace {
    /// A new one with its loopback up; `None`, and a skip that says why, where that is not possible.
    #[track_caller]
    pub fn new() -> Option<Namespace> {
        let made = std::thread::spawn(|| {
            // SAFETY: this thread alone moves, and ends.
            match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
                0 => File::open("/proc/thread-self/ns/net"),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
        let namespace = match made.join().expect("no panic") {
            Ok(file) => Namespace(file),
            Err(e) => {
                skip(&format!(
                    "no network namespace can be made here (root can): {e}"
                ));
                return None;
            }
        };
        if Command::new("ip").arg("-V").output().is_err() {
            skip("ip is not here: apt-get install iproute2");
            return None;
        }
        namespace.ip("link set lo up");
        Some(namespace)
    }

    pub fn fd(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// `ip WORDS` in it.
    #[track_caller]
    pub fn ip(&self, words: &str) {
        let fd = self.fd();
        let mut command = Command::new("ip");
        command.args(words.split_whitespace());
        // SAFETY: setns is async-signal-safe.
        unsafe { command.pre_exec(move || enter(fd)) };
        let output = command.output().expect("ip can be started");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {words}: {said}");
    }

    /// Many `ip` commands by one process.
    #[track_caller]
    pub fn ip_batch(&self, lines: &[String]) {
        let file =
            std::env::temp_dir().join(format!("memguard-ip-{}-{}", std::process::id(), self.fd()));
        std::fs::write(&file, lines.join("\n")).expect("writable");
        self.ip(&format!("-batch {}", file.display()));
        let _ = std::fs::remove_file(&file);
    }

    /// A pair of interfaces, one here and one there, both up.
    #[track_caller]
    pub fn join(&self, own: &str, other: &Namespace, others: &str) {
        let there = format!("/proc/{}/fd/{}", std::process::id(), other.fd());
        self.ip(&format!(
            "link add {own} type veth peer name {others} netns {there}"
        ));
        self.ip(&format!("link set {own} up"));
        other.ip(&format!("link set {others} up"));
    }

    /// Runs something in it, on a thread of its own.
    pub fn run<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        let fd = self.fd();
        let inside = || {
            enter(fd).expect("the namespace is ours");
            what()
        };
        std::thread::scope(|scope| scope.spawn(inside).join().expect("no panic"))
    }

    /// A setting below /proc/sys/net.
    #[track_caller]
    pub fn set(&self, path: &str, value: &str) {
        let path = format!("/proc/sys/net/{path}");
        self.run(|| std::fs::write(&path, value))
            .unwrap_or_else(|e| panic!("{path}: {e}"));
    }

    /// The card of an interface.
    pub fn card(&self, interface: &str) -> String {
        let fd = self.fd();
        let mut command = Command::new("ip");
        command.args(["-o", "link", "show", interface]);
        // SAFETY: setns is async-signal-safe.
        unsafe { command.pre_exec(move || enter(fd)) };
        let output = command.output().expect("ip can be started");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let rest = text.split("link/ether ").nth(1).unwrap_or_default();
        rest.split(' ').next().unwrap_or_default().to_owned()
    }
}

/// A stranger's socket on one interface of a namespace: sends ARP frames as it likes.
pub struct Stranger {
    socket: File,
    index: i32,
}

/// An ARP request (`1`) or reply (`2`), as it goes over the wire.
pub fn arp(operation: u8, card: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let front = [0, 1, 8, 0, 6, 4, 0, operation];
    let (sender, target) = (sender.octets(), target.octets());
    [&front[..], &card, &sender, &[0; 6], &target].concat()
}

impl Stranger {
    pub fn on(namespace: &Namespace, interface: &str) -> Stranger {
        let name = std::ffi::CString::new(interface).expect("a name");
        namespace.run(|| {
            // SAFETY: plain calls; the descriptor is ours.
            unsafe {
                let fd = libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
                assert!(fd >= 0, "root has packet sockets");
                let index = libc::if_nametoindex(name.as_ptr());
                Stranger {
                    socket: std::os::fd::FromRawFd::from_raw_fd(fd),
                    index: i32::try_from(index).expect("an index"),
                }
            }
        })
    }

    /// To everybody.
    pub fn send(&self, frame: &[u8]) {
        // SAFETY: an address of this family, a buffer and their lengths.
        unsafe {
            let mut to: libc::sockaddr_ll = std::mem::zeroed();
            to.sll_family = libc::AF_PACKET as u16;
            to.sll_protocol = (libc::ETH_P_ARP as u16).to_be();
            to.sll_ifindex = self.index;
            to.sll_halen = 6;
            to.sll_addr = [0xff; 8];
            let length = size_of_val(&to) as libc::socklen_t;
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                length,
            );
        }
    }
}
