//! The queue of refused registrations in real Kamailio: slots in order, early comers gain nothing, a slot lets in.
//! Forbidden here: the queue's arithmetic (tests/queue.rs).

use std::time::Duration;

use super::guard::{Guarded, SOON, number};
use super::harness::sip::Request;
use super::harness::{Server, for_each_pair, until};

#[test]
fn queue_slots_follow_each_other_and_coming_early_moves_nothing() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .workers(1)
            .param("retry_rate", 10)
            .start();
        server.rpc("memguard.shed", serde_json::json!([120]));
        let client = server.udp();
        let phones: Vec<Request> = (0..200)
            .map(|i| Request::register(&format!("phone{i}")))
            .collect();
        let told: Vec<u64> = phones
            .iter()
            .map(|p| client.request(p).retry_after().expect("Retry-After"))
            .collect();
        assert!(
            told.windows(2).all(|pair| pair[0] <= pair[1] + 1),
            "in the order of arrival: {told:?}"
        );
        assert!(
            told[0] <= 31 && (48..=52).contains(&told[199]),
            "30 s + 200 at 10 per second: {told:?}"
        );
        let queued = number(&server.registrations(), "queue_length");
        assert!((150..=200).contains(&queued), "{queued}");
        // Early, and retransmitted: the same slot, nobody moves.
        let before = number(&server.registrations(), "queue_seconds");
        for (phone, first) in phones.iter().zip(&told).step_by(20) {
            let again = client
                .request(&phone.next())
                .retry_after()
                .expect("Retry-After");
            assert!(
                again <= *first + 1 && again + 5 >= *first,
                "{again} after {first}"
            );
        }
        assert!(number(&server.registrations(), "queue_seconds") <= before);
    });
}

#[test]
fn queue_a_slot_that_has_come_lets_its_phone_in_while_memory_allows() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .with_mgtest()
            .param("retry_after_min", 1)
            .param("shm_shed_pct", 40)
            .param("shm_warning_pct", 30)
            .start();
        server.fill_shm(85); // shed 40, full 92: most of class new is refused, not all
        let client = server.udp();
        let mut refused = (0..400).map(|i| Request::register(&format!("phone{i}")));
        let phone = refused
            .find(|p| client.request(p).code == 503)
            .expect("somebody is refused at 85 %");
        let mut asked = 0;
        let mut next = phone;
        until(
            SOON + Duration::from_secs(10),
            "its slot comes and lets it in",
            || {
                next = next.next();
                asked += 1;
                client.request(&next).code == 200
            },
        );
        assert!(asked > 1, "not before its slot");
    });
}
