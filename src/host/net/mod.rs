//! The watch over the machine's addresses: what Kamailio listens on, the sockets to the kernel, and their reading.
//! Forbidden here: deciding what is the matter (guard::net), SIP, and any process but the sampling one after the start.

pub mod listening;
pub mod sockets;
pub mod watcher;
