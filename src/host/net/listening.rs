//! What is to be watched: the addresses in Kamailio's lists of sockets, and those of the parameters.
//! Forbidden here: sockets of our own. Process: main, PROC_INIT; the lists do not change after the start.

use std::ffi::{c_int, c_uchar, c_void};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use once_cell::sync::OnceCell;

use crate::guard::config::addresses::parse_address;
use crate::guard::config::params::Text;
use crate::guard::config::texts::Texts;
use crate::guard::net::row::{EXPECTED, FLOATS, LISTENS, Row};
use crate::guard::net::watch::MAX_ROWS;
use crate::host::kamailio::{panic_guard::guarded, sys};

/// What the sampling process watches.
pub struct Watched {
    /// One row for each address.
    pub rows: Vec<Row>,
    /// Addresses beyond [`MAX_ROWS`].
    pub unwatched: usize,
    /// Kamailio may bind to what is not here (`ip_free_bind`).
    pub free_bind: bool,
}

static WATCHED: OnceCell<Watched> = OnceCell::new();

/// What is watched; `None` while the watch is off.
pub fn watched() -> Option<&'static Watched> {
    WATCHED.get()
}

/// Gathers it.
pub fn remember(texts: &Texts) {
    let mut rows: Vec<Row> = Vec::new();
    let mut add = |address: IpAddr, roles: u8, sockets: u8| match rows
        .iter_mut()
        .find(|row| row.address == address)
    {
        Some(row) => {
            row.roles |= roles;
            row.sockets |= sockets;
        }
        None => rows.push(Row::new(address, roles, sockets)),
    };
    for (text, role) in [
        (Text::AddressExpect, EXPECTED),
        (Text::AddressFloating, FLOATS),
    ] {
        // Every value was checked when it was read.
        let values = texts.list(text).iter();
        let addresses = values.filter_map(|value| parse_address(text.param().name, value).ok());
        addresses.for_each(|address| add(address, role, 0));
    }
    for (address, kind, is_virtual) in sockets() {
        let floats = if is_virtual { FLOATS } else { 0 };
        add(address, LISTENS | floats, 1 << kind);
    }
    let unwatched = rows.len().saturating_sub(MAX_ROWS);
    rows.truncate(MAX_ROWS);
    let _ = WATCHED.set(Watched {
        rows,
        unwatched,
        // SAFETY: a plain number of the core, set while the configuration was read.
        free_bind: unsafe { sys::mg_free_bind() } != 0,
    }); // once, in PROC_INIT
}

/// Address, number of the kind of socket ([`SOCKETS`](crate::guard::net::row::SOCKETS)), and whether the core knows it
/// as one that may be missing.
type Socket = (IpAddr, u8, bool);

/// Kamailio's sockets that name an address of one machine.
fn sockets() -> Vec<Socket> {
    /// # Safety
    /// The vector below; `length` readable bytes.
    unsafe extern "C" fn each(
        closure: *mut c_void,
        kind: c_int,
        bytes: *const c_uchar,
        length: c_int,
        is_virtual: c_int,
    ) {
        guarded("the listen addresses", || {
            // SAFETY: the caller's promise.
            let (found, bytes) = unsafe {
                let length = usize::try_from(length).unwrap_or(0);
                (
                    &mut *closure.cast::<Vec<Socket>>(),
                    std::slice::from_raw_parts(bytes, length),
                )
            };
            let address = match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
                (Ok(v4), _) => IpAddr::from(Ipv4Addr::from(v4)),
                (_, Ok(v6)) => IpAddr::from(Ipv6Addr::from(v6)),
                _ => return,
            };
            if !address.is_unspecified() && !address.is_multicast() {
                found.push((address, kind.clamp(0, 7) as u8, is_virtual != 0));
            }
        });
    }
    let mut found: Vec<Socket> = Vec::new();
    // SAFETY: the closure lives for the call; PROC_INIT: the lists are final.
    unsafe { sys::mg_each_listening(Some(each), (&raw mut found).cast()) };
    found
}
