//! The program that the kernel runs on each ARP frame (classic BPF), so that only what speaks for a watched address
//! reaches the sampling process: a flood of anything else costs it nothing.
//! Forbidden here: sockets. The program is data; the host gives it to the kernel.

use std::net::Ipv4Addr;

/// One instruction, laid out as the kernel's `struct sock_filter`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What.
    pub code: u16,
    /// Instructions to pass over when it is so.
    pub jt: u8,
    /// Instructions to pass over when it is not.
    pub jf: u8,
    /// With which number.
    pub k: u32,
}

// linux/bpf_common.h and linux/filter.h
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const IS_EQUAL: u16 = 0x15;
const GO_ON_AT: u16 = 0x05;
const ANSWER: u16 = 0x06;
/// SKF_AD_OFF + SKF_AD_PKTTYPE: how the frame came.
const HOW_IT_CAME: u32 = 0xffff_f000 + 4;
/// PACKET_OUTGOING: it is our own.
const OWN: u32 = 4;

const fn step(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// What the kernel hands on of a frame that is wanted; more than a frame has.
const WHOLE: u32 = 64;

/// Nothing at all passes: from the opening of the socket until it is known what is watched.
pub const NOTHING: [Instruction; 1] = [step(ANSWER, 0, 0, 0)];

/// Frames of other machines that name one of the addresses as their own, or ask whether it is free.
pub fn program(addresses: &[Ipv4Addr]) -> Vec<Instruction> {
    let mut out = vec![
        step(LOAD_WORD, 0, 0, HOW_IT_CAME),
        step(IS_EQUAL, 0, 1, OWN),
        step(ANSWER, 0, 0, 0),
        step(LOAD_HALF, 0, 0, 0), // Ethernet
        step(IS_EQUAL, 1, 0, 1),
        step(ANSWER, 0, 0, 0),
        step(LOAD_HALF, 0, 0, 2), // IPv4
        step(IS_EQUAL, 1, 0, 0x0800),
        step(ANSWER, 0, 0, 0),
        step(LOAD_WORD, 0, 0, 14), // the sender's address
        step(IS_EQUAL, 0, 1, 0),
        step(GO_ON_AT, 0, 0, 2 * addresses.len() as u32 + 1), // a probe
    ];
    any_of(addresses, &mut out);
    out.push(step(LOAD_WORD, 0, 0, 24)); // the address that is asked for
    any_of(addresses, &mut out);
    out
}

/// Passes when the loaded word is one of the addresses, else ends.
fn any_of(addresses: &[Ipv4Addr], out: &mut Vec<Instruction>) {
    for address in addresses {
        out.push(step(IS_EQUAL, 0, 1, u32::from(*address)));
        out.push(step(ANSWER, 0, 0, WHOLE));
    }
    out.push(step(ANSWER, 0, 0, 0));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::net::arp::{Arp, frame};
    use proptest::prelude::*;

    /// The kernel's side, as far as the program uses it: whether a frame passes.
    fn passes(program: &[Instruction], how: u32, frame: &[u8]) -> bool {
        let (mut at, mut a) = (0usize, 0u32);
        let part = |k: u32, n: usize| frame.get(k as usize..k as usize + n);
        for _ in 0..4096 {
            let i = program[at];
            at += 1;
            match i.code {
                LOAD_WORD if i.k == HOW_IT_CAME => a = how,
                LOAD_WORD => match part(i.k, 4) {
                    Some(b) => a = u32::from_be_bytes(b.try_into().expect("four")),
                    None => return false,
                },
                LOAD_HALF => match part(i.k, 2) {
                    Some(b) => a = u32::from(u16::from_be_bytes(b.try_into().expect("two"))),
                    None => return false,
                },
                IS_EQUAL => at += usize::from(if a == i.k { i.jt } else { i.jf }),
                GO_ON_AT => at += i.k as usize,
                ANSWER => return i.k > 0,
                other => panic!("{other}"),
            }
        }
        panic!("the program does not end");
    }

    proptest! {
        #[test]
        fn what_passes_is_what_speaks_for_a_watched_address(
            watched in proptest::collection::vec(0u32..40, 0..30),
            operation in 0u8..4, sender in 0u32..42, target in 0u32..42, how in 0u32..6,
        ) {
            let of = |n: u32| if n == 0 { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::from(0x0a00_0000 + n) };
            let watched: Vec<_> = watched.into_iter().map(|n| of(n + 1)).collect();
            let bytes = frame(operation, [2, 0, 0, 0, 0, 1], of(sender).octets(), of(target).octets());
            let says = Arp::parse(&bytes).and_then(|arp| arp.says());
            let is_wanted = how != OWN && says.is_some_and(|(address, _)| watched.contains(&address));
            // An operation that does not exist, or an answer from nowhere, may pass: the parser drops it.
            let passed = passes(&program(&watched), how, &bytes);
            prop_assert!(passed || !is_wanted);
            if (1..=2).contains(&operation) && sender > 0 {
                prop_assert_eq!(passed, is_wanted);
            }
            prop_assert!(!passes(&NOTHING, how, &bytes));
        }

        #[test]
        fn short_and_other_frames_do_not_pass(bytes in proptest::collection::vec(any::<u8>(), 0..28)) {
            prop_assert!(!passes(&program(&[Ipv4Addr::new(10, 0, 0, 1)]), 0, &bytes));
        }
    }

    #[test]
    fn the_largest_table_fits_into_the_kernels_limit() {
        let all: Vec<_> = (0..256u32).map(Ipv4Addr::from).collect();
        assert!(program(&all).len() < 4096);
    }
}
