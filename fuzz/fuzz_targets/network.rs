//! rtnetlink messages and ARP frames, on bytes that the fuzzer makes.
//! Forbidden here: assertions; they are in ../bodies.rs, which the replay shares.
#![no_main]
#[allow(dead_code)]
#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|data: &[u8]| bodies::watched(data));
