//! What is to be watched: the addresses in Kamailio's lists of sockets, and those of the parameters.
//! Forbidden here: sockets of our own. Process: main, PROC_INIT; the lists do not change after the start.

use std::net::IpAddr;

use once_cell::sync::OnceCell;

use crate::guard::config::addresses::parse_address;
use crate::guard::config::params::Text;
use crate::guard::config::texts::Texts;
use crate::guard::net::row::{EXPECTED, FLOATS, LISTENS, Row};
use crate::guard::net::watch::MAX_ROWS;
use crate::host::kamailio::{listen, sys};

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
    for listen in listen::sockets() {
        let floats = if listen.is_virtual { FLOATS } else { 0 };
        add(listen.address.ip(), LISTENS | floats, 1 << listen.kind);
    }
    let unwatched = rows.len().saturating_sub(MAX_ROWS);
    rows.truncate(MAX_ROWS);
    let _ = WATCHED.set(Watched {
        rows,
        unwatched,
        // SAFETY: a plain number of the core, set while the configuration was read.
        free_bind: unsafe { sys::mg_ip_free_bind() } != 0,
    }); // once, in PROC_INIT
}
