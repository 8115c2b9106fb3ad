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

    /// `ip addr add ADDRESS/32 dev INTERFACE proto PROTO`, which Debian 12's iproute2 cannot do yet: who says that he set it
    /// (IFA_PROTO, from Linux 5.18 on).
    #[track_caller]
    pub fn add_address_by(&self, address: Ipv4Addr, interface: &str, proto: u8) {
        let name = std::ffi::CString::new(interface).expect("a name");
        let code = self.run(|| {
            // SAFETY: a plain call with a text that lives for it.
            let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
            new_address(&address_message(address, index, proto))
        });
        assert_eq!(code, 0, "{address} by {proto} on {interface}: errno {code}");
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

/// RTM_NEWADDR: struct nlmsghdr, struct ifaddrmsg, then IFA_LOCAL, IFA_ADDRESS and IFA_PROTO.
fn address_message(address: Ipv4Addr, index: u32, proto: u8) -> Vec<u8> {
    let attribute = |kind: u16, value: &[u8]| {
        let length = 4 + value.len() as u16;
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    let body = [
        vec![libc::AF_INET as u8, 32, 0, 0],
        index.to_ne_bytes().to_vec(),
        attribute(libc::IFA_LOCAL, &address.octets()),
        attribute(libc::IFA_ADDRESS, &address.octets()),
        attribute(11, &[proto]), // IFA_PROTO
    ]
    .concat();
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE) as u16;
    [
        &(16 + body.len() as u32).to_ne_bytes()[..],
        &libc::RTM_NEWADDR.to_ne_bytes(),
        &flags.to_ne_bytes(),
        &[0; 8],
        &body,
    ]
    .concat()
}

/// Hands the kernel of this thread's namespace a message; the errno of its acknowledgement, 0 when it is done.
fn new_address(message: &[u8]) -> i32 {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: plain calls; the descriptor is ours, the buffers live for the calls.
    unsafe {
        let fd = libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE);
        assert!(fd >= 0, "everybody has netlink sockets");
        let socket: File = std::os::fd::FromRawFd::from_raw_fd(fd);
        let fd = socket.as_raw_fd();
        assert!(libc::send(fd, message.as_ptr().cast(), message.len(), 0) > 0);
        let mut answer = [0u8; 512];
        let length = libc::recv(fd, answer.as_mut_ptr().cast(), answer.len(), 0);
        assert!(length >= 20, "an acknowledgement");
        // struct nlmsgerr: a negative errno behind the header.
        -i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]])
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
