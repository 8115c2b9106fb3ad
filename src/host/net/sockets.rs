//! The two sockets of the watch: rtnetlink (anybody may) and ARP frames (CAP_NET_RAW, so opened before root is dropped).
//! Forbidden here: reading what they bring; blocking; a socket that another process keeps.

use std::ffi::c_int;
use std::io::{Error, ErrorKind, Result};
use std::mem::{size_of, zeroed};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Mutex;

use crate::guard::net::filter::{self, Instruction};
use crate::guard::net::rtnetlink;

/// RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR (linux/rtnetlink.h).
const GROUPS: u32 = 1 | 0x10 | 0x100;
/// Room for what comes while nobody looks: some 2,000 changes of addresses.
const NETLINK_ROOM: c_int = 1 << 20;
/// The same of ARP frames; a flood fills it and the rest of it is dropped.
const ARP_ROOM: c_int = 1 << 17;

/// The packet socket from `mod_init` until the sampling process takes it; every other process drops it.
static FRAMES: Mutex<Option<OwnedFd>> = Mutex::new(None);

fn open(family: c_int, kind: c_int, protocol: c_int) -> Result<OwnedFd> {
    let kind = kind | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: a plain call; a descriptor that it gives is ours.
    unsafe {
        match libc::socket(family, kind, protocol) {
            fd @ 0.. => Ok(OwnedFd::from_raw_fd(fd)),
            _ => Err(Error::last_os_error()),
        }
    }
}

fn done(answer: c_int) -> Result<()> {
    match answer {
        0.. => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

/// How much may wait in the kernel; as much as the machine allows.
fn make_room(fd: &OwnedFd, bytes: c_int) {
    let length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: a number and its length.
    unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUF,
            (&raw const bytes).cast(),
            length,
        )
    };
}

/// Opens the packet socket; nothing passes until [`attach`]. Process: main, in `mod_init`, while it may still be root.
///
/// # Errors
/// The kernel's, EPERM without CAP_NET_RAW.
pub fn open_frames() -> Result<()> {
    let fd = open(libc::AF_PACKET, libc::SOCK_DGRAM, 0)?;
    attach(&fd, &filter::NOTHING)?;
    make_room(&fd, ARP_ROOM);
    // SAFETY: all zero is an address of this family; protocol ARP on every interface.
    let address = unsafe {
        libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: (libc::ETH_P_ARP as u16).to_be(),
            ..zeroed()
        }
    };
    bind(&fd, &address)?;
    if let Ok(mut slot) = FRAMES.lock() {
        *slot = Some(fd);
    }
    Ok(())
}

/// Takes the socket out of its place; dropping it closes it in this process only.
pub fn take_frames() -> Option<OwnedFd> {
    FRAMES.lock().ok()?.take()
}

fn bind<A>(fd: &OwnedFd, address: &A) -> Result<()> {
    let length = size_of::<A>() as libc::socklen_t;
    // SAFETY: a live address of that length.
    done(unsafe { libc::bind(fd.as_raw_fd(), (&raw const *address).cast(), length) })
}

/// Lets pass what a program lets pass.
fn attach(fd: &OwnedFd, program: &[Instruction]) -> Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Error::from(ErrorKind::InvalidInput))?,
        filter: program.as_ptr().cast_mut().cast(),
    };
    let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: Instruction is laid out as sock_filter, and the kernel copies the program.
    done(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            length,
        )
    })
}

const _: () = assert!(size_of::<Instruction>() == size_of::<libc::sock_filter>());

/// ARP frames that speak for a watched address.
pub struct Frames(OwnedFd);

impl Frames {
    /// The socket that main opened, for these addresses.
    pub fn new(fd: OwnedFd, addresses: &[Ipv4Addr]) -> Result<Frames> {
        attach(&fd, &filter::program(addresses))?;
        Ok(Frames(fd))
    }

    /// The next frame that waits, if one does.
    pub fn next<'a>(&self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        // SAFETY: a buffer and its length.
        let length = unsafe {
            libc::recv(
                self.0.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_DONTWAIT,
            )
        };
        buffer.get(..usize::try_from(length).ok()?)
    }
}

/// What a look at rtnetlink brought.
pub enum Heard<'a> {
    /// Messages of the kernel.
    Messages(&'a [u8]),
    /// Nobody's word.
    Stranger,
    /// Messages were lost: everything is to be listed anew.
    Lost,
    /// Nothing waits.
    Nothing,
}

/// The kernel's messages about links and addresses.
pub struct Netlink(OwnedFd);

impl Netlink {
    /// Opens and subscribes.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open() -> Result<Netlink> {
        let kind = libc::SOCK_RAW;
        let fd = open(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE)?;
        make_room(&fd, NETLINK_ROOM);
        // SAFETY: all zero is an address of this family.
        let mut address: libc::sockaddr_nl = unsafe { zeroed() };
        address.nl_family = libc::AF_NETLINK as u16;
        address.nl_groups = GROUPS;
        bind(&fd, &address)?;
        Ok(Netlink(fd))
    }

    /// Asks for a listing under a number.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ask(&self, kind: u16, number: u32) -> Result<()> {
        let request = rtnetlink::request(kind, number);
        // SAFETY: a buffer and its length; the socket's only peer is the kernel.
        let sent = unsafe {
            libc::send(
                self.0.as_raw_fd(),
                request.as_ptr().cast(),
                request.len(),
                libc::MSG_DONTWAIT,
            )
        };
        done(sent as c_int)
    }

    /// The next datagram that waits.
    pub fn next<'a>(&self, buffer: &'a mut [u8]) -> Heard<'a> {
        // SAFETY: all zero is a sockaddr_nl.
        let mut sender: libc::sockaddr_nl = unsafe { zeroed() };
        let mut length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // SAFETY: buffers and their lengths.
        let count = unsafe {
            libc::recvfrom(
                self.0.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_DONTWAIT | libc::MSG_TRUNC,
                (&raw mut sender).cast(),
                &mut length,
            )
        };
        match usize::try_from(count) {
            Ok(_) if sender.nl_pid != 0 => Heard::Stranger,
            Ok(count) => match buffer.get(..count) {
                Some(messages) => Heard::Messages(messages),
                None => Heard::Lost, // longer than the buffer
            },
            Err(_) => match Error::last_os_error().raw_os_error() {
                Some(libc::ENOBUFS) => Heard::Lost,
                _ => Heard::Nothing,
            },
        }
    }
}
