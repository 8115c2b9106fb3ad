//! Mixed traffic for as long as MEMGUARD_SOAK_SECONDS says (`./dev soak`): the books stay right to the byte at every
//! quiet moment, and memguard itself does not grow. Forbidden here: tolerances on the books.

use std::time::{Duration, Instant};

use serde_json::json;

use super::accounting::{assert_pkg_books, assert_shm_books, churn};
use super::guard::{Guarded, number, word};
use super::harness::{Server, for_each_pair};

/// Seconds per pair; the quick test goes round a few times.
fn seconds() -> u64 {
    let given = std::env::var("MEMGUARD_SOAK_SECONDS").ok();
    given.map_or(4, |s| {
        s.parse()
            .expect("MEMGUARD_SOAK_SECONDS is a number of seconds")
    })
}

/// Bytes between two sampled allocations (MEMGUARD_SOAK_SAMPLE_BYTES; 1: every one); else the default.
fn sample_bytes() -> Option<u64> {
    let given = std::env::var("MEMGUARD_SOAK_SAMPLE_BYTES").ok();
    given.map(|s| {
        s.parse()
            .expect("MEMGUARD_SOAK_SAMPLE_BYTES is a number of bytes")
    })
}

/// Every path that memory was reached by is still told apart, and its books are no larger than the pool's.
fn assert_paths(server: &Server, when: &str) {
    let warnings = server.status()["warnings"].to_string();
    assert!(!warnings.contains("sample_bytes"), "{when}: {warnings}");
    let paths = server.rpc("memguard.paths", json!(["pool", "shm", "top", 1000]));
    let paths = paths.as_array().expect("a list of paths").iter();
    // A long answer is cut, and its last row says so.
    let rows = paths.filter(|row| row.get("truncated").is_none());
    let held: i64 = rows.map(|path| number(path, "live_bytes")).sum();
    let live = number(&server.pool("shm"), "live");
    assert!(
        (1..=live).contains(&held),
        "{when}: {held} of {live} bytes of shm were sampled"
    );
}

/// Rounds after which the sampling process has seen every place that allocates and every worker.
const WARM_ROUNDS: u32 = 30;
/// More than this it never holds with a dozen workers.
const LARGEST: i64 = 8 << 20;

/// libc memory of the sampling process: all of memguard's own that could grow.
fn sampler_private(server: &Server) -> i64 {
    let workers = server.workers();
    let sampler = workers
        .iter()
        .find(|w| word(w, "desc") == "memguard sampler");
    number(sampler.expect("the sampling process"), "private")
}

#[test]
fn soak_books_stay_right_and_memguard_does_not_grow() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .shm_mb(64)
            .config(|c| {
                c.param("usrloc", "timer_interval", 1)
                    .param("registrar", "min_expires", 1);
                if let Some(bytes) = sample_bytes() {
                    c.param("memguard", "sample_bytes", bytes);
                }
            })
            .start();
        let mut warm = 0;
        let end = Instant::now() + Duration::from_secs(seconds());
        let mut rounds = 0;
        while Instant::now() < end {
            churn(&server);
            rounds += 1;
            assert_shm_books(&server, &format!("round {rounds}"));
            if rounds == WARM_ROUNDS {
                warm = sampler_private(&server);
            }
            if rounds % 10 == 0 {
                assert_pkg_books(&server, &format!("round {rounds}"));
                if sample_bytes() == Some(1) {
                    assert_paths(&server, &format!("round {rounds}"));
                }
                println!(
                    "{} {}: round {rounds}, books right, sampler {} bytes",
                    pair.kamailio.version,
                    pair.manager,
                    sampler_private(&server)
                );
            }
        }
        assert_pkg_books(&server, "at the end");
        let private = sampler_private(&server);
        assert!(
            private < LARGEST,
            "the sampling process holds {private} bytes of its own"
        );
        if rounds > 2 * WARM_ROUNDS {
            let grown = private - warm;
            assert!(
                grown < 256 * 1024,
                "the sampling process grew by {grown} bytes in {rounds} rounds"
            );
        }
        assert_eq!(number(&server.status(), "fail_open"), 0);
    });
}
