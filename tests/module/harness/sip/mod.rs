//! A tiny SIP client: builds requests, sends bytes over UDP or TCP, reads replies; also thousands per second.
//! Forbidden here: addresses beyond loopback; understanding more of SIP than tests need.

mod message;
mod tcp;
mod udp;

use std::time::Duration;

pub use message::{Reply, Request, unique};
pub use tcp::Tcp;
pub use udp::{Tally, Udp};

/// How long one request may wait for its final reply.
pub const LIMIT: Duration = Duration::from_secs(5);
