//! Numbers that know one REGISTER again: its retransmission, its second leg after a challenge, its reply.
//! Forbidden here: allocation, panics, a number that an outsider could compute.

use crate::guard::sip::{
    aor::{
        Key, cut_at,
        fingerprint::{Kind, call_id_fingerprint},
    },
    swar::is_word,
};

/// What is kept of a number that only has to tell one registration in flight from another: 24 bits.
const SHORT: u64 = 0x00ff_ffff;

/// Under what a registration in flight is found: its Call-ID and its AoR. Phones with several lines, and gateways, use
/// one Call-ID for all their registrations (RFC 3261 10.2).
#[inline]
pub fn leg_key(key: &Key, call_id: &[u8], aor: u64) -> u64 {
    call_id_fingerprint(key, call_id) ^ aor.rotate_left(17)
}

/// The transaction of a REGISTER: its CSeq, and who sent it by the branch of its top Via, which its reply carries
/// below this server's own (RFC 3261 16.6 step 8, 8.2.6.2). Without a branch (RFC 2543) the sent-by counts: what a server
/// on the way may add to a Via (received, rport) is neither. 24 bits.
#[inline]
pub fn transaction_fingerprint(key: &Key, cseq: u32, via: &[u8]) -> u32 {
    let mut hashed = key.hash_with(Kind::Transaction, u64::from(cseq));
    hashed.put_text(branch(via).unwrap_or_else(|| sent_by(via)));
    (hashed.finish() & SHORT) as u32
}

/// What a REGISTER names, of the fingerprints of its contacts in their order and whether each is to go. Keyed already, so
/// mixing is enough. 24 bits.
#[inline]
pub fn contents_fingerprint(contacts: impl Iterator<Item = (u64, bool)>) -> u32 {
    let mixed = contacts.fold(0u64, |mixed, (fp, is_removed)| {
        let word = mixed.rotate_left(23) ^ fp ^ u64::from(is_removed);
        word.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    });
    (mixed >> 40) as u32
}

/// The value of the parameter `branch`; quotes do not occur in it (RFC 3261 25.1 token).
fn branch(via: &[u8]) -> Option<&[u8]> {
    let (_, mut rest) = cut_at(via, b';');
    while !rest.is_empty() {
        let (part, after) = cut_at(rest, b';');
        let (name, value) = cut_at(part, b'=');
        let value = value.trim_ascii();
        if is_word(name.trim_ascii(), b"branch") && !value.is_empty() {
            return Some(value);
        }
        rest = after;
    }
    None
}

fn sent_by(via: &[u8]) -> &[u8] {
    cut_at(via, b';').0.trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key::new(3, 4);

    #[test]
    fn a_transaction_is_known_by_cseq_and_branch_whatever_a_server_adds_to_the_via() {
        let number = |cseq, via: &[u8]| transaction_fingerprint(&KEY, cseq, via);
        let first = number(1, b"SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKa;rport");
        let replied = b"SIP/2.0/UDP 10.0.0.1:5060;rport=5060;received=192.0.2.1; branch = z9hG4bKa";
        assert_eq!(first, number(1, replied));
        assert_ne!(first, number(2, replied));
        assert_ne!(
            first,
            number(1, b"SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKb")
        );
        assert_ne!(first, number(1, b""));
        assert_eq!(
            number(1, b"SIP/2.0/UDP 10.0.0.1;x"),
            number(1, b"SIP/2.0/UDP 10.0.0.1 ;received=192.0.2.1")
        );
        assert_ne!(
            number(1, b"SIP/2.0/UDP 10.0.0.1;x"),
            number(1, b"SIP/2.0/UDP 10.0.0.2;x")
        );
        assert!((0..64).all(|cseq| number(cseq, replied) < 1 << 24));
    }

    #[test]
    fn contents_differ_by_contact_order_number_and_removal() {
        let all: [&[(u64, bool)]; 6] = [
            &[],
            &[(5, false)],
            &[(5, true)],
            &[(5, false), (6, false)],
            &[(6, false), (5, false)],
            &[(5, false), (6, false), (6, false)],
        ];
        let numbers = all.map(|contacts| contents_fingerprint(contacts.iter().copied()));
        let different: std::collections::BTreeSet<u32> = numbers.into_iter().collect();
        assert_eq!(different.len(), all.len());
        let second = (0..64).map(|bit| [(5, false), (1 << bit, false)]);
        let numbers = second.map(|contacts| contents_fingerprint(contacts.into_iter()));
        let different: std::collections::BTreeSet<u32> = numbers.collect();
        assert_eq!(
            different.len(),
            64,
            "every bit of a contact's number counts"
        );
    }

    #[test]
    fn one_call_id_is_another_leg_for_every_aor() {
        assert_ne!(leg_key(&KEY, b"c", 1), leg_key(&KEY, b"c", 2));
        assert_ne!(leg_key(&KEY, b"c", 1), leg_key(&KEY, b"d", 1));
        let aors = (0..64).map(|bit| leg_key(&KEY, b"c", 1 << bit));
        let keys: std::collections::BTreeSet<u64> = aors.collect();
        assert_eq!(keys.len(), 64, "every bit of the AoR's number counts");
    }
}
