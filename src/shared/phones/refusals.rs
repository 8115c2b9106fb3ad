//! The last refusals, for `memguard.refusals`: written by every worker, read by the RPC process.
//! Forbidden here: deciding, formatting addresses, and counting (rows count).

use std::net::{Ipv6Addr, SocketAddrV6};

use crate::guard::terms::words::{Class, words};
use crate::shared::parts::{mapping::SharedZeroable, ring::Ring};

words! {
    /// Where a REGISTER was refused.
    Stage {
        /// From the raw datagram, before Kamailio parsed it.
        Datagram = "datagram",
        /// After parsing, before the script.
        Request = "request",
        /// By a function that the script called.
        Script = "script",
    }
}

/// Longest AoR that is kept, bytes.
pub const AOR_BYTES: usize = 64;

/// The beginning of an AoR, as it came (any bytes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AorText {
    len: u8,
    bytes: [u8; AOR_BYTES],
}

impl AorText {
    /// Keeps the first [`AOR_BYTES`] bytes.
    pub fn new(text: &[u8]) -> Self {
        let mut bytes = [0; AOR_BYTES];
        let len = text.len().min(AOR_BYTES);
        if let (Some(kept), Some(text)) = (bytes.get_mut(..len), text.get(..len)) {
            kept.copy_from_slice(text);
        }
        AorText {
            len: len as u8,
            bytes,
        }
    }

    /// The bytes that were kept.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes
            .get(..usize::from(self.len))
            .unwrap_or(&self.bytes)
    }
}

/// One refusal.
///
/// ```text
/// word 0      time_ms
/// word 1..9   the AoR's bytes
/// word 9, 10  the source's address (IPv4 as ::ffff:a.b.c.d)
/// word 11     0..16 port, 16..32 code, 32..40 class, 40..48 stage, 48..56 length of the AoR
/// word 12     0..32 retry_after, 32..64 position
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// When, milliseconds of server time.
    pub time_ms: u64,
    /// Whose registration.
    pub aor: AorText,
    /// Address it came from; IPv4 as `::ffff:a.b.c.d` ([`Ipv6Addr::to_ipv4_mapped`] brings it back).
    pub source_ip: [u8; 16],
    /// Port it came from.
    pub source_port: u16,
    /// Its class.
    pub class: Class,
    /// Where it was refused.
    pub stage: Stage,
    /// Status code of the reply.
    pub code: u16,
    /// Seconds of the reply's Retry-After.
    pub retry_after: u32,
    /// Position in the virtual queue; 0 when it took none.
    pub position: u32,
}

const WORDS: usize = 13;
/// How many refusals are kept: 28 KiB, some answers' worth.
pub const KEPT: usize = 256;

impl Refusal {
    /// The source as a socket address; an IPv4 address is shown mapped.
    pub fn source(&self) -> SocketAddrV6 {
        SocketAddrV6::new(Ipv6Addr::from(self.source_ip), self.source_port, 0, 0)
    }

    fn pack(&self) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        let [time, texts @ .., small, queue] = &mut words;
        let aor = self.aor.bytes.chunks_exact(8);
        let eights = aor.chain(self.source_ip.chunks_exact(8));
        for (word, bytes) in texts.iter_mut().zip(eights) {
            *word = bytes.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
        }
        *time = self.time_ms;
        *small = u64::from(self.source_port)
            | u64::from(self.code) << 16
            | (self.class.index() as u64) << 32
            | (self.stage.index() as u64) << 40
            | u64::from(self.aor.len) << 48;
        *queue = u64::from(self.retry_after) | u64::from(self.position) << 32;
        words
    }

    fn unpack(words: [u64; WORDS]) -> Option<Refusal> {
        let [time_ms, text @ .., ip_low, ip_high, small, queue] = words;
        let text: [u64; AOR_BYTES / 8] = text;
        let mut bytes = [0; AOR_BYTES];
        for (kept, byte) in bytes
            .iter_mut()
            .zip(text.into_iter().flat_map(u64::to_le_bytes))
        {
            *kept = byte;
        }
        let ip = u128::from(ip_low) | u128::from(ip_high) << 64;
        Some(Refusal {
            time_ms,
            aor: AorText {
                len: (small >> 48) as u8,
                bytes,
            },
            source_ip: ip.to_le_bytes(),
            source_port: small as u16,
            class: Class::from_index(small >> 32 & 0xff)?,
            stage: Stage::from_index(small >> 40 & 0xff)?,
            code: (small >> 16) as u16,
            retry_after: queue as u32,
            position: (queue >> 32) as u32,
        })
    }
}

/// The ring of refusals: about 28 KiB.
#[repr(transparent)]
#[derive(Default)]
pub struct Refusals(Ring<KEPT, WORDS>);

#[cfg(not(loom))]
const _: () = assert!(size_of::<Refusals>() == 128 + KEPT * 112);

// SAFETY: atomics only.
unsafe impl SharedZeroable for Refusals {}

impl Refusals {
    /// Adds a refusal; returns its ticket.
    pub fn push(&self, refusal: &Refusal) -> u64 {
        self.0.push(refusal.pack())
    }

    /// The last `count` refusals that can be read, newest first, each with its ticket.
    pub fn last(&self, count: usize) -> impl Iterator<Item = (u64, Refusal)> + '_ {
        self.0
            .last(KEPT)
            .filter_map(|(ticket, words)| Some((ticket, Refusal::unpack(words)?)))
            .take(count)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_refusal_survives_the_ring(
            time_ms: u64, aor in proptest::collection::vec(any::<u8>(), 0..80), source_ip: [u8; 16], source_port: u16,
            class in 0..Class::COUNT, stage in 0..Stage::COUNT, code: u16, retry_after: u32, position: u32,
        ) {
            let refusal = Refusal {
                time_ms, aor: AorText::new(&aor), source_ip, source_port, class: Class::ALL[class], stage: Stage::ALL[stage],
                code, retry_after, position,
            };
            let refusals = Refusals::default();
            refusals.push(&refusal);
            let (_, read) = refusals.last(1).next().unwrap();
            prop_assert_eq!(read, refusal);
            prop_assert_eq!(read.aor.as_bytes(), &aor[..aor.len().min(AOR_BYTES)]);
        }
    }

    #[test]
    fn a_mapped_source_comes_back_as_ipv4() {
        let source_ip = std::net::Ipv4Addr::new(192, 0, 2, 7)
            .to_ipv6_mapped()
            .octets();
        let class = Class::New;
        let refusal = Refusal {
            time_ms: 1,
            aor: AorText::new(b"sip:a@b"),
            source_ip,
            source_port: 5060,
            class,
            stage: Stage::Datagram,
            code: 503,
            retry_after: 30,
            position: 0,
        };
        assert_eq!(
            refusal.source().ip().to_ipv4_mapped(),
            Some(std::net::Ipv4Addr::new(192, 0, 2, 7))
        );
        assert_eq!(refusal.source().port(), 5060);
    }
}
