//! Replays the fuzzers' seeds and findings, and a fixed number of random mutations of them, without a fuzzer.
//! Properties: those of fuzz/bodies.rs, for every file in fuzz/seeds.

#[path = "../fuzz/bodies.rs"]
mod bodies;

use std::path::Path;

fn files(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(folder);
    let mut found: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    found.sort();
    assert!(!found.is_empty());
    found
}

/// splitmix64, seeded: the same mutations at every run.
fn random(state: &mut u64) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (x ^ (x >> 27)) as usize
}

fn replay(folder: &str, body: fn(&[u8])) {
    let seeds = files(folder);
    let mut state = 1;
    for (name, seed) in &seeds {
        println!("{name}");
        body(seed);
        for _ in 0..2000 {
            let mut bytes = seed.clone();
            for _ in 0..1 + random(&mut state) % 4 {
                let at = random(&mut state) % (bytes.len() + 1);
                match random(&mut state) % 4 {
                    0 => bytes.truncate(at),
                    1 => bytes.insert(at, b"\r\n\t ,;:<>\"\\%*@=0\0"[random(&mut state) % 17]),
                    2 if at < bytes.len() => bytes[at] = random(&mut state) as u8,
                    _ => {
                        let other = &seeds[random(&mut state) % seeds.len()].1;
                        let from = random(&mut state) % (other.len() + 1);
                        bytes.truncate(at);
                        bytes.extend_from_slice(&other[from..]);
                    }
                }
            }
            body(&bytes);
        }
    }
}

#[test]
fn messages_and_their_mutations_are_read_without_harm() {
    replay("messages", bodies::scanned);
}

#[test]
fn every_refusal_reads_back_as_a_reply_to_its_request() {
    replay("messages", bodies::replied);
}

#[test]
fn contacts_are_compared_alike_whatever_they_are() {
    replay("contacts", bodies::compared);
}

#[test]
fn the_kernels_messages_and_strangers_frames_are_taken_without_harm() {
    replay("network", bodies::watched);
}

#[test]
fn arguments_are_answered_whatever_they_are() {
    replay("arguments", bodies::argued);
}
