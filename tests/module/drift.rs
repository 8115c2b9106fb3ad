//! The books as `memguard.pools` shows them while everything moves: a drift that it shows is one.
//! Forbidden here: books at rest (accounting.rs, agreement.rs).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::guard::{number, rows};
use super::harness::sip::Request;
use super::harness::{Server, for_each_pair};

/// How long the pools are looked at.
const TIME: Duration = Duration::from_secs(4);

#[test]
fn drift_read_in_the_middle_of_traffic_is_right_or_absent() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair).workers(4).shm_mb(64).start();
        let is_over = AtomicBool::new(false);
        let (wrong, shown, looks) = std::thread::scope(|scope| {
            for thread in 0..2 {
                let (server, is_over) = (&server, &is_over);
                scope.spawn(move || {
                    let client = server.udp();
                    for round in 0.. {
                        // ORDERING: Relaxed; a flag.
                        if is_over.load(Ordering::Relaxed) {
                            return;
                        }
                        let phones = (0..200).map(|i| {
                            Request::register(&format!("p{thread}-{}", (round * 200 + i) % 5000))
                        });
                        client.flood(phones, 32, |_, _, _| ());
                    }
                });
            }
            let (mut wrong, mut shown, mut looks) = (Vec::new(), 0, 0);
            let end = Instant::now() + TIME;
            while Instant::now() < end {
                looks += 1;
                let Ok(pools) = server.try_rpc("memguard.pools", json!([])) else {
                    continue;
                };
                let shm = &rows(&pools)[0];
                if shm["drift"].is_null() {
                    continue;
                }
                shown += 1;
                // qm books shrinking reallocs late; the ledger explains that.
                if number(shm, "drift") != number(shm, "unbooked") {
                    wrong.push(shm.to_string());
                }
            }
            is_over.store(true, Ordering::Relaxed); // ORDERING: as above.
            (wrong, shown, looks)
        });
        assert!(wrong.is_empty(), "{} of {shown}: {}", wrong.len(), wrong[0]);
        let at_rest = server.rpc("memguard.pools", json!([]));
        let shm = &rows(&at_rest)[0];
        assert_eq!(number(shm, "drift"), number(shm, "unbooked"), "{shm}");
        println!("   shown in {shown} of {looks} looks");
    });
}
