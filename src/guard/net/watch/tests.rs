//! What a watch tells of the kernel's messages and of the frames that it sees, in the order of their times.
//! Forbidden here: sockets and network namespaces (tests/module has those).

use crate::guard::net::arp::frame;
use crate::guard::net::said::Said;
use crate::guard::net::terms::{Alarm, Name};
use crate::guard::net::watch::*;
use proptest::prelude::*;
use std::net::Ipv6Addr;

const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
const THEIRS: Mac = Mac([2, 0, 0, 0, 0, 9]);
const ANOTHER: Mac = Mac([2, 0, 0, 0, 0, 7]);
const ROUTER: Mac = Mac([0, 0, 0x5e, 0, 1, 51]);
const PRIMARY: [u8; 4] = [10, 77, 0, 10];
const SERVICE: [u8; 4] = [10, 77, 0, 100];

fn on(address: [u8; 4], is_secondary: bool, valid_s: Option<u32>) -> rtnetlink::Address {
    rtnetlink::Address {
        index: 2,
        address: address.into(),
        prefix: 24,
        is_secondary,
        is_tentative: false,
        is_duplicate: false,
        origin: match valid_s {
            None => Origin::Permanent,
            Some(_) => Origin::Leased,
        },
        valid_s,
    }
}

/// An IPv6 address on eth0.
fn ipv6(is_tentative: bool, is_duplicate: bool, valid_s: Option<u32>) -> rtnetlink::Address {
    rtnetlink::Address {
        address: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into(),
        is_tentative,
        is_duplicate,
        ..on(SERVICE, false, valid_s)
    }
}

fn interface(index: u32, name: &str, link: Link) -> Says {
    Says::Interface(Interface {
        index,
        name: Name::new(name.as_bytes()),
        link,
        card: Some(OURS),
    })
}

fn eth0(link: Link) -> Says {
    interface(2, "eth0", link)
}

/// A machine with eth0 and these addresses, watching `SERVICE` in a role.
fn machine(roles: u8, addresses: &[rtnetlink::Address]) -> Watch {
    watching(SERVICE.into(), roles, addresses)
}

/// The same, watching any address.
fn watching(address: IpAddr, roles: u8, addresses: &[rtnetlink::Address]) -> Watch {
    let mut watch = Watch::new(&[Row::new(address, roles, 1)], false, false);
    list(&mut watch, Link::Up, addresses, 1000);
    watch.settle(1000);
    watch
}

/// A listing of eth0 and these addresses.
fn list(watch: &mut Watch, link: Link, addresses: &[rtnetlink::Address], now: u64) {
    watch.begin_listing();
    watch.hear(&eth0(link), now);
    for said in addresses {
        watch.hear(&Says::Address(*said), now);
    }
    watch.end_listing();
}

/// The machine gets more addresses than are remembered.
fn crowd(watch: &mut Watch, now: u64) {
    for n in 0..=MAX_HERE as u16 {
        let [a, b] = n.to_be_bytes();
        watch.hear(&Says::Address(on([10, 78, a, b], false, None)), now);
    }
}

fn told(watch: &mut Watch) -> Vec<&'static str> {
    watch.take_changes().map(|c| c.word()).collect()
}

fn after(watch: &mut Watch, now: u64) -> Vec<&'static str> {
    watch.settle(now);
    told(watch)
}

/// What is told, with the other machine's card.
fn told_cards(watch: &mut Watch) -> Vec<(&'static str, Option<Mac>)> {
    watch.take_changes().map(|c| (c.word(), c.card)).collect()
}

fn speaks(watch: &mut Watch, card: Mac, sender: [u8; 4], target: [u8; 4], now: u64) {
    let bytes = frame(1, card.0, sender, target);
    watch.frame(&Arp::parse(&bytes).expect("a frame"), now);
}

fn sentence(watch: &Watch, now: u64) -> String {
    Said(&watch.rows()[0], now).to_string()
}

#[test]
fn nothing_is_said_of_an_address_that_stays() {
    let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
    speaks(&mut watch, THEIRS, [10, 77, 0, 5], SERVICE, 1500);
    speaks(&mut watch, OURS, SERVICE, SERVICE, 1500);
    watch.hear(&Says::Address(on(SERVICE, false, None)), 1600);
    assert!(after(&mut watch, 2000).is_empty());
    let row = watch.rows()[0];
    assert_eq!(
        (row.state, row.reason, row.changes),
        (State::Present, Reason::Here, 0)
    );
    assert_eq!(sentence(&watch, 2000), "here on eth0");
    assert_eq!(watch.sums(), Sums::default());
}

#[test]
fn before_the_listing_is_complete_nothing_is_decided() {
    let mut watch = Watch::new(&[Row::new(SERVICE.into(), LISTENS, 1)], false, false);
    watch.begin_listing();
    speaks(&mut watch, THEIRS, SERVICE, SERVICE, 1000);
    assert!(!watch.is_listed());
    assert!(after(&mut watch, 1000).is_empty() && after(&mut watch, 9000).is_empty());
    watch.end_listing();
    assert!(watch.is_listed());
}

#[test]
fn an_absence_is_told_after_two_seconds_and_the_return_at_once() {
    let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
    watch.hear(&Says::AddressGone(on(SERVICE, false, None)), 5000);
    assert!(after(&mut watch, 5000).is_empty());
    assert_eq!(sentence(&watch, 5000), "not here for a moment");
    assert!(after(&mut watch, 6999).is_empty());
    assert_eq!(after(&mut watch, 7000), ["gone"]);
    assert_eq!(watch.sums().missing, 1);
    assert_eq!(
        sentence(&watch, 7000),
        "not on this machine, where it was on eth0: no phone reaches it here"
    );
    watch.hear(&Says::Address(on(SERVICE, false, None)), 9000);
    assert_eq!(after(&mut watch, 9000), ["here"]);
    assert_eq!((watch.rows()[0].changes, watch.sums().missing), (2, 0));
}

#[test]
fn a_short_absence_is_counted_and_not_told() {
    let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
    watch.hear(&Says::AddressGone(on(SERVICE, false, None)), 5000);
    watch.settle(5000);
    watch.hear(&Says::Address(on(SERVICE, false, None)), 6900);
    assert!(after(&mut watch, 6900).is_empty());
    watch.hear(&Says::AddressGone(on(SERVICE, false, None)), 8000);
    watch.hear(&Says::Address(on(SERVICE, false, None)), 8001);
    assert!(after(&mut watch, 12_000).is_empty());
    assert_eq!(watch.rows()[0].changes, 4);
}

#[test]
fn an_address_that_goes_and_comes_between_two_settlings_has_changed_twice() {
    let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
    watch.hear(&Says::AddressGone(on(SERVICE, false, None)), 5000);
    watch.hear(&Says::Address(on(SERVICE, false, None)), 5001);
    assert!(after(&mut watch, 5001).is_empty());
    assert_eq!(watch.rows()[0].changes, 2);
}

#[test]
fn an_address_that_leaves_takes_no_other_along() {
    let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
    let elsewhere = rtnetlink::Address {
        index: 3,
        ..on(SERVICE, false, None)
    };
    for said in [on(PRIMARY, false, None), elsewhere] {
        watch.hear(&Says::AddressGone(said), 5000);
    }
    watch.settle(5000);
    let row = watch.rows()[0];
    assert_eq!((row.state, row.changes), (State::Present, 0));
}

#[test]
fn an_interface_takes_its_own_addresses_along_and_no_others() {
    let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
    watch.hear(&interface(3, "eth1", Link::Up), 2000);
    watch.hear(&Says::InterfaceGone(3), 3000);
    watch.settle(3000);
    let row = watch.rows()[0];
    assert_eq!((row.state, row.link), (State::Present, Link::Up));
    watch.hear(&Says::InterfaceGone(2), 4000);
    watch.settle(4000);
    let row = watch.rows()[0];
    assert_eq!((row.state, row.link), (State::Absent, Link::Unknown));
}

#[test]
fn of_too_many_addresses_the_watched_one_is_known() {
    let mut watch = machine(LISTENS, &[]);
    crowd(&mut watch, 2000);
    watch.hear(&Says::Address(on(SERVICE, false, None)), 2000);
    watch.settle(2000);
    assert_eq!(watch.rows()[0].state, State::Present);
}

#[test]
fn an_address_too_many_that_is_not_watched_displaces_none() {
    let mut watch = machine(
        LISTENS,
        &[on(PRIMARY, false, None), on(SERVICE, true, None)],
    );
    crowd(&mut watch, 2000);
    watch.settle(2000);
    assert_eq!(watch.rows()[0].primary, Some(PRIMARY.into()));
}

#[test]
fn a_primary_is_of_the_same_network_on_the_same_interface() {
    let primary_among = |other: rtnetlink::Address, is_secondary| {
        let watch = machine(LISTENS, &[other, on(SERVICE, is_secondary, None)]);
        watch.rows()[0].primary
    };
    let primary = on(PRIMARY, false, None);
    assert_eq!(primary_among(primary, true), Some(PRIMARY.into()));
    assert_eq!(primary_among(primary, false), None);
    let others = [
        rtnetlink::Address {
            index: 3,
            ..primary
        },
        rtnetlink::Address {
            prefix: 26,
            ..primary
        },
        on([10, 78, 0, 10], false, None),
        on(PRIMARY, true, None),
    ];
    for other in others {
        assert_eq!(primary_among(other, true), None, "{other:?}");
    }
}

#[test]
fn a_secondary_dies_with_its_leased_primary_and_that_is_foretold() {
    let addresses = [on(PRIMARY, false, Some(600)), on(SERVICE, true, None)];
    let mut watch = machine(LISTENS, &addresses);
    assert_eq!(told(&mut watch), ["secondary"]);
    assert_eq!(
        sentence(&watch, 1000),
        "a secondary address on eth0: it goes when its primary 10.77.0.10 goes, as promote_secondaries is 0 there, \
         and that is leased for 10m 0s more"
    );
    for address in [addresses[1], addresses[0]] {
        watch.hear(&Says::AddressGone(address), 601_000);
    }
    watch.settle(601_000);
    assert_eq!(after(&mut watch, 603_000), ["gone with its primary"]);
    assert!(sentence(&watch, 603_000).contains("primary address 10.77.0.10, whose lease ended"));
    speaks(&mut watch, THEIRS, SERVICE, SERVICE, 604_000);
    assert_eq!(after(&mut watch, 604_000), ["taken over"]);
    assert!(
        sentence(&watch, 604_000)
            .ends_with("the machine with the card 02:00:00:00:00:09 uses it now")
    );
}

#[test]
fn a_secondary_that_is_promoted_is_no_matter() {
    let mut watch = Watch::new(&[Row::new(SERVICE.into(), LISTENS, 1)], false, false);
    watch.begin_listing();
    watch.hear(&eth0(Link::Up), 1000);
    for said in [on(PRIMARY, false, None), on(SERVICE, true, None)] {
        watch.hear(&Says::Address(said), 1000);
    }
    watch.end_listing();
    watch.ask_promotion(|name| name == Name::new(b"eth0"));
    assert!(after(&mut watch, 1000).is_empty());
}

#[test]
fn only_an_interface_with_a_watched_secondary_address_is_asked_whether_it_promotes() {
    let asked = |addresses: &[rtnetlink::Address]| {
        let mut watch = machine(LISTENS, addresses);
        watch.hear(&interface(3, "eth1", Link::Up), 1000);
        let mut names = Vec::new();
        watch.ask_promotion(|name| {
            names.push(name.to_string());
            false
        });
        names
    };
    assert_eq!(asked(&[on(SERVICE, true, None)]), ["eth0"]);
    assert!(asked(&[on(SERVICE, false, None), on(PRIMARY, true, None)]).is_empty());
}

#[test]
fn promotion_that_is_switched_is_seen_at_once() {
    let addresses = [on(PRIMARY, false, None), on(SERVICE, true, None)];
    let mut watch = machine(LISTENS, &addresses);
    assert_eq!(told(&mut watch), ["secondary"]);
    watch.ask_promotion(|_| true);
    assert_eq!(after(&mut watch, 2000), ["here"]);
    watch.ask_promotion(|_| false);
    assert_eq!(after(&mut watch, 3000), ["secondary"]);
}

#[test]
fn a_secondary_whose_primary_stays_is_only_gone() {
    let addresses = [on(PRIMARY, false, None), on(SERVICE, true, None)];
    let mut watch = machine(LISTENS, &addresses);
    assert_eq!(told(&mut watch), ["secondary"]);
    watch.hear(&Says::AddressGone(addresses[1]), 5000);
    watch.settle(5000);
    assert_eq!(after(&mut watch, 7000), ["gone"]);
}

#[test]
fn a_leased_address_that_is_taken_away_before_its_end_is_only_gone() {
    let mut watch = machine(LISTENS, &[on(SERVICE, false, Some(600))]);
    assert_eq!(told(&mut watch), ["leased"]);
    watch.hear(&Says::AddressGone(on(SERVICE, false, Some(600))), 5000);
    watch.settle(5000);
    assert_eq!(after(&mut watch, 7000), ["gone"]);
}

#[test]
fn a_lease_is_a_matter_only_of_an_address_that_is_needed() {
    let leased = |roles| {
        let mut watch = machine(roles, &[on(SERVICE, false, Some(600))]);
        (told(&mut watch), watch.sums().leased)
    };
    assert_eq!(leased(FLOATS), (vec![], 0));
    for roles in [LISTENS, EXPECTED, LISTENS | EXPECTED] {
        assert_eq!(leased(roles), (vec!["leased"], 1));
    }
}

#[test]
fn a_lease_is_a_warning_and_its_end_is_named() {
    let mut watch = machine(LISTENS, &[on(SERVICE, false, Some(30))]);
    assert_eq!(told(&mut watch), ["leased"]);
    assert_eq!(
        (watch.sums().leased, watch.rows()[0].lease_s(11_000)),
        (1, Some(20))
    );
    watch.hear(&Says::Address(on(SERVICE, false, Some(60))), 20_000); // renewed
    assert!(after(&mut watch, 20_000).is_empty());
    watch.hear(&Says::AddressGone(on(SERVICE, false, Some(1))), 79_500);
    watch.settle(79_500);
    assert_eq!(after(&mut watch, 81_600), ["lease ended"]);
}

#[test]
fn every_manner_of_a_foreign_claim_is_told_and_forgotten_when_it_ends() {
    for target in [SERVICE, [10, 77, 0, 1]] {
        let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
        speaks(&mut watch, THEIRS, SERVICE, target, 5000);
        assert_eq!(after(&mut watch, 5000), ["claimed"]);
        let row = watch.rows()[0];
        assert_eq!(
            (row.claimed_by, row.claims, row.claimed_first_ms),
            (Some(THEIRS), 1, 5000)
        );
        assert_eq!(
            sentence(&watch, 5000),
            "another machine uses it too (its card is 02:00:00:00:00:09), while it is on eth0 here: \
             phones reach the one or the other"
        );
        assert!(after(&mut watch, 5000 + REMEMBERED_MS - 1).is_empty());
        assert_eq!(after(&mut watch, 5000 + REMEMBERED_MS), ["here"]);
    }
}

#[test]
fn a_probe_is_a_warning() {
    let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
    speaks(&mut watch, THEIRS, [0; 4], SERVICE, 5000);
    assert_eq!(after(&mut watch, 5000), ["probed"]);
    assert_eq!(
        (watch.rows()[0].probes, watch.rows()[0].reason.alarm()),
        (1, Alarm::Warning)
    );
    assert!(after(&mut watch, 5000 + REMEMBERED_MS - 1).is_empty());
    assert_eq!(after(&mut watch, 5000 + REMEMBERED_MS), ["here"]);
}

#[test]
fn a_probe_for_an_address_that_is_not_here_takes_nothing_over() {
    let mut watch = machine(LISTENS | FLOATS, &[]);
    speaks(&mut watch, THEIRS, [0; 4], SERVICE, 5000);
    assert!(after(&mut watch, 5000).is_empty());
    assert_eq!(watch.rows()[0].taken_over_by, None);
}

#[test]
fn another_card_that_claims_is_told_after_ten_seconds() {
    let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
    let mut claims = |card, now| {
        speaks(&mut watch, card, SERVICE, SERVICE, now);
        watch.settle(now);
        told_cards(&mut watch)
    };
    assert_eq!(claims(THEIRS, 5000), [("claimed", Some(THEIRS))]);
    assert!(claims(ANOTHER, 14_999).is_empty());
    assert_eq!(claims(THEIRS, 15_000), [("claimed", Some(THEIRS))]);
    assert!(claims(THEIRS, 40_000).is_empty());
}

#[test]
fn another_card_that_takes_over_is_told_after_ten_seconds() {
    let mut watch = machine(LISTENS | FLOATS, &[on(SERVICE, false, None)]);
    watch.hear(&Says::AddressGone(on(SERVICE, false, None)), 5000);
    assert_eq!(after(&mut watch, 5000), ["standby"]);
    let mut takes = |card, now| {
        speaks(&mut watch, card, SERVICE, SERVICE, now);
        told_cards(&mut watch)
    };
    assert_eq!(takes(THEIRS, 5100), [("taken over", Some(THEIRS))]);
    assert!(takes(ANOTHER, 15_099).is_empty());
    assert_eq!(takes(ANOTHER, 15_100), [("taken over", Some(ANOTHER))]);
    assert!(takes(ANOTHER, 40_000).is_empty());
}

#[test]
fn a_card_that_spoke_before_the_address_left_is_told_with_that() {
    let mut watch = machine(LISTENS | FLOATS, &[on(SERVICE, false, None)]);
    speaks(&mut watch, THEIRS, SERVICE, SERVICE, 5000);
    watch.hear(&Says::AddressGone(on(SERVICE, false, None)), 5900);
    watch.settle(5900);
    assert_eq!(told_cards(&mut watch), [("standby", Some(THEIRS))]);
}

#[test]
fn an_absence_is_told_with_the_card_that_took_over_and_the_return_without() {
    let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
    watch.hear(&Says::AddressGone(on(SERVICE, false, None)), 5000);
    watch.settle(5000);
    speaks(&mut watch, THEIRS, SERVICE, SERVICE, 5500);
    watch.settle(7000);
    assert_eq!(
        told_cards(&mut watch),
        [("taken over", Some(THEIRS)), ("gone", Some(THEIRS))]
    );
    watch.hear(&Says::Address(on(SERVICE, false, None)), 9000);
    watch.settle(9000);
    assert_eq!(told_cards(&mut watch), [("here", None)]);
}

#[test]
fn keepaliveds_takeovers_are_no_claim_in_either_direction() {
    let mut watch = machine(LISTENS | FLOATS, &[on(SERVICE, false, None)]);
    // The other one announces a moment before this one gives up.
    speaks(&mut watch, THEIRS, SERVICE, SERVICE, 5000);
    assert!(after(&mut watch, 5100).is_empty());
    watch.hear(&Says::AddressGone(on(SERVICE, false, None)), 5900);
    assert_eq!(after(&mut watch, 5900), ["standby"]);
    speaks(&mut watch, THEIRS, SERVICE, SERVICE, 6000);
    speaks(&mut watch, ROUTER, SERVICE, SERVICE, 8000);
    after(&mut watch, 8000);
    // And back, with its last words.
    watch.hear(&Says::Address(on(SERVICE, false, None)), 20_000);
    assert_eq!(after(&mut watch, 20_000), ["here"]);
    speaks(&mut watch, THEIRS, SERVICE, SERVICE, 20_500);
    speaks(&mut watch, ROUTER, SERVICE, SERVICE, 25_000);
    assert!(after(&mut watch, 30_000).is_empty());
    let row = watch.rows()[0];
    assert_eq!(
        (row.claims, row.claimed_by, row.reason.alarm()),
        (0, None, Alarm::Ok)
    );
}

#[test]
fn a_floating_address_that_both_keep_is_claimed() {
    let mut watch = machine(LISTENS | FLOATS, &[on(SERVICE, false, None)]);
    speaks(&mut watch, THEIRS, SERVICE, SERVICE, 5000);
    assert!(after(&mut watch, 6400).is_empty());
    assert_eq!(after(&mut watch, 6500), ["claimed"]);
    assert_eq!(watch.sums().claims, 1);
}

#[test]
fn a_floating_address_that_is_here_from_the_beginning_gets_no_last_words() {
    let mut watch = machine(LISTENS | FLOATS, &[on(SERVICE, false, None)]);
    speaks(&mut watch, THEIRS, SERVICE, SERVICE, 1200);
    assert_eq!(after(&mut watch, 2700), ["claimed"]);
}

#[test]
fn last_words_end_three_seconds_after_a_floating_address_came() {
    let mut watch = machine(LISTENS | FLOATS, &[]);
    watch.hear(&Says::Address(on(SERVICE, false, None)), 20_000);
    assert_eq!(after(&mut watch, 20_000), ["here"]);
    speaks(&mut watch, THEIRS, SERVICE, SERVICE, 22_999);
    speaks(&mut watch, THEIRS, SERVICE, SERVICE, 23_000);
    assert!(after(&mut watch, 24_499).is_empty());
    assert_eq!(after(&mut watch, 24_500), ["claimed"]);
    assert_eq!(watch.sums().claims, 1);
}

#[test]
fn an_address_that_does_not_float_is_claimed_from_the_moment_it_came() {
    let mut watch = machine(LISTENS, &[]);
    watch.hear(&Says::Address(on(SERVICE, false, None)), 2000);
    assert!(after(&mut watch, 2000).is_empty());
    speaks(&mut watch, THEIRS, SERVICE, SERVICE, 2500);
    assert_eq!(after(&mut watch, 2500), ["claimed"]);
}

#[test]
fn no_carrier_and_a_link_that_is_down_are_told_after_two_seconds() {
    let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
    watch.hear(&eth0(Link::NoCarrier), 5000);
    assert!(after(&mut watch, 5000).is_empty());
    assert_eq!(after(&mut watch, 7000), ["no carrier"]);
    watch.hear(&eth0(Link::Down), 8000);
    assert_eq!(after(&mut watch, 8000), ["link down"]);
    watch.hear(&eth0(Link::Up), 9000);
    assert_eq!(after(&mut watch, 9000), ["here"]);
    watch.hear(&eth0(Link::NoCarrier), 10_000);
    watch.settle(10_000);
    watch.hear(&eth0(Link::Up), 11_000);
    assert!(
        after(&mut watch, 15_000).is_empty(),
        "a cable that is moved"
    );
    watch.hear(&eth0(Link::Down), 16_000);
    assert!(after(&mut watch, 16_000).is_empty());
    assert_eq!(after(&mut watch, 18_000), ["link down"]);
}

#[test]
fn a_return_to_a_link_without_carrier_is_told_before_that() {
    let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
    watch.hear(&Says::AddressGone(on(SERVICE, false, None)), 5000);
    watch.settle(5000);
    assert_eq!(after(&mut watch, 7000), ["gone"]);
    watch.hear(&eth0(Link::NoCarrier), 9000);
    watch.hear(&Says::Address(on(SERVICE, false, None)), 9000);
    assert_eq!(after(&mut watch, 9000), ["here"]);
    assert_eq!(after(&mut watch, 11_000), ["no carrier"]);
}

#[test]
fn an_ipv6_duplicate_is_told_at_once() {
    let tentative = ipv6(true, false, None);
    let mut watch = watching(tentative.address, LISTENS, &[tentative]);
    assert!(told(&mut watch).is_empty());
    assert_eq!(watch.rows()[0].state, State::Tentative);
    assert_eq!(sentence(&watch, 1000), "on eth0, not ready yet");
    watch.hear(&Says::Address(ipv6(true, true, None)), 2000);
    assert_eq!(after(&mut watch, 2000), ["duplicate"]);
    assert_eq!(watch.sums().missing, 1);
}

#[test]
fn an_address_that_only_tried_to_return_is_gone_for_the_same_reason() {
    let leased = ipv6(false, false, Some(30));
    let mut watch = watching(leased.address, LISTENS, &[leased]);
    assert_eq!(told(&mut watch), ["leased"]);
    watch.hear(&Says::AddressGone(leased), 31_000);
    watch.settle(31_000);
    assert_eq!(after(&mut watch, 33_000), ["lease ended"]);
    let tentative = ipv6(true, false, Some(600));
    watch.hear(&Says::Address(tentative), 40_000);
    watch.settle(40_000);
    watch.hear(&Says::AddressGone(tentative), 41_000);
    watch.settle(41_000);
    assert!(after(&mut watch, 43_000).is_empty());
    assert_eq!(watch.rows()[0].reason, Reason::LeaseEnded);
}

#[test]
fn what_is_absent_at_the_start_with_free_bind_floats() {
    let mut watch = Watch::new(&[Row::new(SERVICE.into(), LISTENS, 1)], true, false);
    watch.begin_listing();
    watch.end_listing();
    assert!(after(&mut watch, 1000).is_empty());
    assert!(after(&mut watch, 9000).is_empty());
    let row = watch.rows()[0];
    assert_eq!((row.state, row.roles), (State::Standby, LISTENS | FLOATS));
    let mut strict = machine(LISTENS, &[]);
    assert!(told(&mut strict).is_empty());
    assert_eq!(after(&mut strict, 3000), ["gone"]);
    assert_eq!(
        sentence(&strict, 3000),
        "not on this machine: no phone reaches it here"
    );
}

#[test]
fn a_lost_message_is_made_good_by_the_next_listing() {
    let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
    watch.begin_listing();
    watch.hear(&eth0(Link::Up), 5000);
    watch.end_listing();
    watch.settle(5000);
    assert_eq!(after(&mut watch, 7000), ["gone"]);
}

#[test]
fn a_new_sampling_process_goes_on_without_telling_again() {
    let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
    speaks(&mut watch, THEIRS, SERVICE, SERVICE, 5000);
    assert_eq!(after(&mut watch, 5000), ["claimed"]);
    let mut next = Watch::new(watch.rows(), false, true);
    list(&mut next, Link::Up, &[on(SERVICE, false, None)], 9000);
    assert!(after(&mut next, 9000).is_empty());
    assert_eq!((next.rows()[0].claims, next.rows()[0].changes), (1, 0));
}

#[test]
fn a_new_sampling_process_goes_on_with_a_link_that_has_no_carrier() {
    let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
    watch.hear(&eth0(Link::NoCarrier), 5000);
    watch.settle(5000);
    assert_eq!(after(&mut watch, 7000), ["no carrier"]);
    let mut next = Watch::new(watch.rows(), false, true);
    list(
        &mut next,
        Link::NoCarrier,
        &[on(SERVICE, false, None)],
        9000,
    );
    assert!(after(&mut next, 9000).is_empty());
    assert!(after(&mut next, 11_000).is_empty());
}

#[test]
fn changes_that_nobody_takes_end_with_their_room() {
    let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
    let mut now = 5000;
    for n in 0..=MAX_CHANGES {
        now += TOLD_AGAIN_MS;
        let card = [THEIRS, ANOTHER][n % 2];
        speaks(&mut watch, card, SERVICE, SERVICE, now);
        watch.settle(now);
    }
    watch.hear(&eth0(Link::Down), now);
    watch.settle(now);
    watch.settle(now + PATIENCE_MS);
    assert_eq!(watch.rows()[0].reason, Reason::LinkDown);
    assert_eq!(watch.take_changes().count(), MAX_CHANGES);
}

#[test]
fn a_storm_of_cards_is_told_rarely_and_takes_no_memory() {
    let mut watch = machine(LISTENS, &[on(SERVICE, false, None)]);
    let room = (
        watch.changes.capacity(),
        watch.here.capacity(),
        watch.links.capacity(),
    );
    let mut lines = 0;
    for n in 0..60_000u32 {
        let [_, a, b, c] = n.to_be_bytes();
        let now = 5000 + u64::from(n);
        speaks(&mut watch, Mac([2, 9, 9, a, b, c]), SERVICE, SERVICE, now);
        let address = on([10, 78, b, c], false, None);
        watch.hear(
            &Says::Address(rtnetlink::Address {
                index: n,
                ..address
            }),
            now,
        );
        watch.hear(&interface(1000 + n, "veth", Link::Up), now);
        if n % 100 == 0 {
            lines += after(&mut watch, now).len();
        }
    }
    assert!(lines <= 7, "{lines} lines in a minute");
    assert_eq!(watch.rows()[0].claims, 60_000);
    assert_eq!(
        room,
        (
            watch.changes.capacity(),
            watch.here.capacity(),
            watch.links.capacity()
        )
    );
}

proptest! {
    #[test]
    fn whatever_comes_the_rows_hold_together(
        roles in 0u8..8, steps in proptest::collection::vec((0u8..9, 0u64..4000, any::<bool>()), 1..60),
    ) {
        let mut watch = machine(roles, &[on(SERVICE, false, None)]);
        let mut now = 1000;
        for (kind, wait, flag) in steps {
            now += wait;
            match kind {
                0 => watch.hear(&Says::AddressGone(on(SERVICE, false, None)), now),
                1 => watch.hear(&Says::Address(on(SERVICE, flag, flag.then_some(3))), now),
                2 => watch.hear(&eth0(if flag { Link::Up } else { Link::NoCarrier }), now),
                3 => speaks(&mut watch, if flag { THEIRS } else { ROUTER }, SERVICE, SERVICE, now),
                4 => speaks(&mut watch, THEIRS, [0; 4], SERVICE, now),
                5 => watch.hear(&Says::InterfaceGone(2), now),
                6 => { watch.begin_listing(); watch.end_listing(); }
                _ => watch.hear(&Says::Address(on(PRIMARY, false, Some(1))), now),
            }
            watch.settle(now);
            let row = watch.rows()[0];
            let changes: Vec<_> = watch.take_changes().collect();
            prop_assert!(changes.len() <= 2);
            for change in changes {
                prop_assert!(change.from != change.to || change.is_takeover || change.to == Reason::Claimed);
                // Only an address that is here can be claimed, and only one that need not float can be gone.
                prop_assert!(change.to != Reason::Gone || roles & FLOATS == 0);
                prop_assert!(change.is_takeover || change.to != Reason::Claimed || row.state == State::Present);
            }
            prop_assert_eq!(row.state == State::Standby, roles & FLOATS != 0 && row.link == Link::Unknown && !watch.here.iter().any(|h| h.said.address == row.address));
            prop_assert!(row.state != State::Present || row.taken_over_by.is_none());
            prop_assert!(row.since_ms <= now && row.claims >= u64::from(row.reason == Reason::Claimed));
            prop_assert!(!Said(&row, now).to_string().is_empty());
        }
    }
}
