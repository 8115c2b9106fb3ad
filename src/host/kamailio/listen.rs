//! The addresses that Kamailio listens on, and whether they are on this machine at this moment.
//! Forbidden here: SIP workers; what follows from an address that is not here.

use std::ffi::{c_int, c_uchar, c_void};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::guard::net::row::SOCKETS;
use crate::host::kamailio::{panic_guard::guarded, sys};

/// One address of Kamailio's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where.
    pub address: SocketAddr,
    /// Number of the kind of socket, as in [`SOCKETS`].
    pub kind: u8,
    /// The core knows it as one that may be missing (a virtual one).
    pub is_virtual: bool,
}

impl Listen {
    /// udp, tcp, tls or sctp.
    pub fn transport(&self) -> &'static str {
        let kind = SOCKETS.get(usize::from(self.kind));
        kind.map_or("socket", |(_, name)| name)
    }
}

/// The addresses that Kamailio opens sockets on, but for 0.0.0.0, :: and multicast. Process: any after PROC_INIT; the lists
/// do not change from then on.
pub fn sockets() -> Vec<Listen> {
    /// # Safety
    /// The vector below; `length` readable bytes.
    unsafe extern "C" fn each(
        closure: *mut c_void,
        kind: c_int,
        address: *const c_uchar,
        length: c_int,
        port: c_int,
        is_virtual: c_int,
    ) {
        guarded("the listen addresses", || {
            // SAFETY: the caller's promise.
            let (found, bytes) = unsafe {
                (
                    &mut *closure.cast::<Vec<Listen>>(),
                    std::slice::from_raw_parts(address, length.clamp(0, 16) as usize),
                )
            };
            let ip = <[u8; 4]>::try_from(bytes)
                .map(IpAddr::from)
                .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
            let (Ok(ip), Ok(port)) = (ip, u16::try_from(port)) else {
                return;
            };
            if !ip.is_unspecified() && !ip.is_multicast() {
                found.push(Listen {
                    address: SocketAddr::new(ip, port),
                    kind: kind.clamp(0, 7) as u8,
                    is_virtual: is_virtual != 0,
                });
            }
        });
    }
    let mut found: Vec<Listen> = Vec::new();
    // SAFETY: lists that are final since the configuration was read; the closure lives for the call.
    unsafe { sys::mg_each_listening(Some(each), (&raw mut found).cast()) };
    found
}

/// Whether Kamailio could bind to this address now, tried with a socket of our own on a port of the kernel's choice,
/// which is closed at once: the kernel's answer counts routes and settings that a list of addresses does not show.
/// What cannot be tried (no socket to be had, a link-local address) counts as here.
pub fn is_here(ip: IpAddr) -> bool {
    match try_bind(ip) {
        Err(e) => e.raw_os_error() != Some(libc::EADDRNOTAVAIL),
        Ok(()) => true,
    }
}

fn try_bind(ip: IpAddr) -> io::Result<()> {
    let family = match ip {
        IpAddr::V4(_) => libc::AF_INET,
        IpAddr::V6(_) => libc::AF_INET6,
    };
    // SAFETY: a plain call.
    let number = unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if number < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    // SAFETY: an int of the core, final since the configuration was read.
    if unsafe { sys::mg_ip_free_bind() } != 0 {
        let on: c_int = 1;
        // SAFETY: a live int of that length. It fails where it is not known, and then the answer is the stricter one.
        unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                libc::IP_FREEBIND,
                (&raw const on).cast(),
                size_of::<c_int>() as libc::socklen_t,
            );
        }
    }
    // SAFETY: plain data, zeroed, then filled for the family.
    let mut place: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let length = match ip {
        IpAddr::V4(v4) => {
            // SAFETY: a sockaddr_storage is large enough and aligned for every address.
            let place = unsafe { &mut *(&raw mut place).cast::<libc::sockaddr_in>() };
            place.sin_family = libc::AF_INET as libc::sa_family_t;
            place.sin_addr.s_addr = u32::from_ne_bytes(v4.octets());
            size_of::<libc::sockaddr_in>()
        }
        IpAddr::V6(v6) => {
            // SAFETY: as above.
            let place = unsafe { &mut *(&raw mut place).cast::<libc::sockaddr_in6>() };
            place.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            place.sin6_addr.s6_addr = v6.octets();
            size_of::<libc::sockaddr_in6>()
        }
    };
    // SAFETY: a live address of that length.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const place).cast(),
            length as libc::socklen_t,
        )
    };
    match bound {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
