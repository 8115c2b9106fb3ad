//! The queue of refused registrations in real Kamailio: slots in order, early comers gain nothing, a slot lets in.
//! Forbidden here: the queue's arithmetic (tests/queue.rs).

use std::time::Duration;

use super::guard::{Guarded, SOON, number};
use super::harness::sip::{Request, Udp};
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
        until(SOON, "all slots are counted", || {
            (150..=200).contains(&number(&server.registrations(), "queue_length"))
        });
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

/// What a phone is told; it is refused.
#[track_caller]
fn told(client: &Udp, phone: &Request) -> u64 {
    let reply = client.request(phone);
    assert_eq!(reply.code, 503, "{reply:?}");
    reply.retry_after().expect("Retry-After")
}

#[test]
fn queue_a_flood_from_one_source_leaves_the_others_where_they_were() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .workers(2)
            .param("retry_rate", 10)
            .start();
        server.rpc("memguard.shed", serde_json::json!([600]));
        let honest = Udp::from("127.0.0.3", server.sip());
        let early = Request::register("early");
        assert!(told(&honest, &early) <= 31);
        let flood = Udp::from("127.0.0.2", server.sip());
        let invented = (0..4_000).map(|i| Request::register(&format!("nobody{i}")));
        let mut last = 0;
        let all = flood.flood(invented, 64, |_, _, reply| {
            last = last.max(reply.retry_after().expect("Retry-After"));
        });
        assert_eq!(all.of(503), 4_000, "{all:?}");
        assert!(last > 300, "{last}: they queue behind themselves");
        let late = told(&honest, &Request::register("late"));
        assert!(
            (30..=36).contains(&late),
            "{late} s, of 400 s that were invented"
        );
        assert!(told(&honest, &early.next()) <= 31, "its slot is remembered");
        assert_eq!(
            server
                .kamcmd(&["memguard.reset", "queue"])
                .map(|s| s.trim().to_owned())
                .ok(),
            Some("ok".to_owned())
        );
        until(SOON, "the queue is empty", || {
            number(&server.registrations(), "queue_length") == 0
        });
        let again = told(&flood, &Request::register("nobody3999"));
        assert!(again <= 31, "{again}: what was told before is forgotten");
    });
}

#[test]
fn queue_a_silent_source_is_left_to_the_script_and_all_others_are_answered() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .param("silent_source", "127.0.0.9")
            .param("silent_source", "127.0.9.0/24")
            .config(|c| c.before = "if ($si =~ \"^127.0.(0.9|9)\") { drop; }".into())
            .start();
        server.rpc("memguard.shed", serde_json::json!([600]));
        let phone = Request::register("phone");
        assert_eq!(server.udp().request(&phone).code, 503);
        for source in ["127.0.0.9", "127.0.9.77"] {
            let blocked = Udp::from(source, server.sip());
            let answer = blocked.try_request(&phone.next(), Duration::from_secs(1));
            assert!(answer.is_none(), "{answer:?}");
        }
        assert_eq!(server.udp().request(&phone.next()).code, 503);
    });
}
