//! The commands that change something, and the table of all.
//! Forbidden here: Kamailio's RPC interface (module/rpc.rs adapts it), and SIP.

pub mod changing;
