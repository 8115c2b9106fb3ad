//! The machine's addresses: what the kernel and other machines say of them, and what follows for the server.
//! Forbidden here: sockets, and allocation while anything is read or decided (`Watch::new` makes all its room).

pub mod arp;
pub mod filter;
pub mod martians;
pub mod row;
pub mod rtnetlink;
pub mod said;
pub mod terms;
pub mod watch;
