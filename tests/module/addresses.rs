//! The addresses that the server lives on: two machines in network namespaces, and everything that happens to an address.
//! Forbidden here: the machine's own network; waiting for more than a bounded time.
//!
//! `front` is the machine with Kamailio, `other` another one on the same wire (a veth pair).

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::harness::net::{Namespace, Stranger, arp};
use super::harness::server::Server;
use super::harness::wait::{found, holds_within};
use super::harness::{Pair, for_each_pair_at_once, http, until};
use super::monitoring::plugin;

/// What the contract allows between a change and its being told.
const TOLD_WITHIN: Duration = Duration::from_secs(3);
/// The same for what a slow machine of continuous integration may add.
const SLACK: Duration = Duration::from_millis(1500);
const SOON: Duration = Duration::from_secs(10);
const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 0x99];
const STRANGERS: &str = "02:00:00:00:00:99";
const ROUTER: [u8; 6] = [0, 0, 0x5e, 0, 1, 51];
/// CAP_NET_RAW.
const NET_RAW: libc::c_ulong = 13;

/// The two machines; `None` where that is not possible (and a skip says why).
fn machines() -> Option<(Namespace, Namespace)> {
    let (front, other) = (Namespace::new()?, Namespace::new()?);
    front.join("eth0", &other, "eth0");
    for machine in [&front, &other] {
        machine.set("ipv6/conf/eth0/accept_ra", "0");
        machine.set("ipv4/conf/all/promote_secondaries", "0");
        machine.set("ipv4/conf/eth0/promote_secondaries", "0");
    }
    // The other one announces its addresses when its interface comes up, as DHCP clients do.
    other.set("ipv4/conf/eth0/arp_notify", "1");
    Some((front, other))
}

/// The other machine announces its addresses: its kernel does (arp_notify).
fn announces(other: &Namespace) {
    other.ip("link set eth0 down");
    other.ip("link set eth0 up");
}

/// One address's row; null before the sampling process has looked at it for the first time.
fn row(server: &Server, address: &str) -> Value {
    let rows = server.try_rpc("memguard.addresses", json!([address]));
    rows.map_or(Value::Null, |rows| rows[0].clone())
}

/// What is the matter with an address, now.
fn reason(server: &Server, address: &str) -> String {
    let row = row(server, address);
    row["reason"].as_str().unwrap_or_default().to_owned()
}

/// Waits until this is the matter, in the time that the contract gives; answers the row.
#[track_caller]
fn told(server: &Server, address: &str, wanted: &str) -> Value {
    let since = Instant::now();
    let is_told = holds_within(TOLD_WITHIN + SLACK, || reason(server, address) == wanted);
    let row = row(server, address);
    assert!(
        is_told,
        "{address} is not {wanted} within {TOLD_WITHIN:?}: {row}"
    );
    println!("   {address} {wanted}: {} ms", since.elapsed().as_millis());
    row
}

#[track_caller]
fn says(row: &Value, words: &str) {
    let text = row["text"].as_str().unwrap_or_default();
    assert!(text.contains(words), "{row} does not say \"{words}\"");
}

fn logged(server: &Server, words: &str) -> usize {
    let log = server.log();
    log.lines().filter(|line| line.contains(words)).count()
}

/// The status of /ready, asked from within the machine.
fn ready(front: &Namespace, monitoring: SocketAddr) -> u16 {
    let answer = front.run(|| http::get(monitoring, "/ready", SOON));
    answer.map_or(0, |answer| answer.status)
}

fn metric(front: &Namespace, monitoring: SocketAddr, name: &str) -> u64 {
    let answer = front
        .run(|| http::get(monitoring, "/metrics", SOON))
        .expect("metrics");
    let prefix = format!("kamailio_memguard_{name} ");
    let line = answer
        .body
        .lines()
        .find_map(|line| line.strip_prefix(&prefix));
    line.and_then(|value| value.parse().ok())
        .expect("the metric")
}

/// The page, asked for from within the machine; made once a second.
fn page(front: &Namespace, monitoring: SocketAddr) -> String {
    let answer = front.run(|| http::get(monitoring, "/", SOON));
    answer.map_or_else(String::new, |answer| answer.body)
}

/// Waits until the page says each of these; they are what it says above the charts, and rows of its table.
#[track_caller]
fn page_says(front: &Namespace, monitoring: SocketAddr, wanted: &[&str]) -> String {
    let is_said = |page: &String| wanted.iter().all(|words| page.contains(words));
    let said = holds_within(SOON, || is_said(&page(front, monitoring)));
    let page = page(front, monitoring);
    assert!(said, "the page does not say {wanted:?}: {page}");
    page
}

/// What monitoring/check_memguard, as Nagios runs it, makes of this server: exit status and output.
fn nagios(pair: &Pair, server: &Server) -> (i32, String) {
    let kamcmd = pair.kamailio.kamcmd.display().to_string();
    let socket = format!("unix:{}", server.places.ctl().display());
    plugin(&["-k", &kamcmd, "-s", &socket])
}

fn check(server: &Server) -> (i64, String) {
    let answer = server.rpc("memguard.check", json!([]));
    let text = answer["text"].as_str().unwrap_or_default().to_owned();
    (answer["code"].as_i64().unwrap_or(-1), text)
}

/// A server in `front`, whose monitoring listens at the address that comes with it.
fn server(
    pair: &Pair,
    front: &Namespace,
    listens: &[&str],
    params: &[(&str, &str)],
) -> (Server, SocketAddr) {
    let monitoring: SocketAddr = "127.0.0.1:9494".parse().expect("an address");
    let mut builder = Server::registrar(pair)
        .in_namespace(front)
        .workers(1)
        .param("listen", monitoring)
        .config(|config| {
            for address in listens {
                config.global(&format!("listen=udp:{address}:5060"));
            }
            config.routes = "event_route[memguard:address-changed] {
                xlog(\"L_NOTICE\", \"ROUTE $memguard(address) $memguard(from) $memguard(to) $memguard(reason) on $memguard(interface) by $memguard(card)\\n\");
            }"
            .into();
        });
    for (name, value) in params {
        builder = builder.param(name, value);
    }
    (builder.start(), monitoring)
}

#[test]
fn the_second_story_is_told_from_end_to_end() {
    for_each_pair_at_once(|pair| {
        let Some((front, other)) = machines() else {
            return;
        };
        // The server's own address is leased, the service's lives on it as a secondary one.
        front.ip("addr add 10.77.0.10/24 dev eth0 valid_lft 12 preferred_lft 12");
        front.ip("addr add 10.77.0.100/24 dev eth0");
        other.ip("addr add 10.77.0.20/24 dev eth0");
        let (server, monitoring) = server(
            pair,
            &front,
            &["10.77.0.100"],
            &[("address_expect", "10.77.0.10")],
        );

        // Before: both traps are named.
        let service = told(&server, "10.77.0.100", "secondary");
        says(&service, "it goes when its primary 10.77.0.10 goes");
        says(&service, "and that is leased for");
        assert_eq!(
            (
                &service["alarm"],
                &service["state"],
                &service["sockets"],
                &service["interface"]
            ),
            (
                &json!("warning"),
                &json!("present"),
                &json!("udp"),
                &json!("eth0")
            )
        );
        assert_eq!(
            (&service["primary"], &service["secondary"]),
            (&json!("10.77.0.10"), &json!(1))
        );
        let primary = told(&server, "10.77.0.10", "leased");
        assert!(
            primary["lease_seconds"].as_u64().is_some_and(|s| s <= 12),
            "{primary}"
        );
        assert_eq!(
            (
                ready(&front, monitoring),
                metric(&front, monitoring, "address_leased")
            ),
            (200, 1)
        );
        assert_eq!(check(&server).0, 1);
        let (code, text) = nagios(pair, &server);
        assert!(
            code == 1 && text.starts_with("MEMGUARD WARNING - address 10.77.0.1"),
            "{code} {text}"
        );
        assert_eq!(metric(&front, monitoring, "address_alarm"), 1);
        page_says(
            &front,
            monitoring,
            &[
                "<h2>Addresses that need you</h2>",
                "<b>10.77.0.100</b> warning: a secondary address on eth0: it goes when its primary 10.77.0.10 goes",
                "<b>10.77.0.10</b> warning: leased on eth0 for ",
            ],
        );

        // The lease ends: the kernel takes the primary, and the service with it.
        until(Duration::from_secs(20), "the lease ends", || {
            row(&server, "10.77.0.100")["state"] == "absent"
        });
        let service = told(&server, "10.77.0.100", "gone with its primary");
        says(
            &service,
            "together with its primary address 10.77.0.10, whose lease ended",
        );
        assert_eq!(
            told(&server, "10.77.0.10", "lease ended")["alarm"],
            "critical"
        );
        until(SOON, "/ready turns the traffic away", || {
            ready(&front, monitoring) == 503
        });
        assert_eq!(metric(&front, monitoring, "address_missing"), 2);
        let (code, text) = check(&server);
        assert!(code == 2 && text.contains("address 10.77.0."), "{text}");
        let (code, text) = nagios(pair, &server);
        assert!(
            code == 2 && text.starts_with("MEMGUARD CRITICAL - address 10.77.0.1"),
            "{code} {text}"
        );
        assert!(text.contains("gone from eth0"), "{text}");
        assert_eq!(metric(&front, monitoring, "address_alarm"), 2);
        let shown = page_says(
            &front,
            monitoring,
            &[
                "<b>10.77.0.100</b> critical: gone from eth0 together with its primary address 10.77.0.10, whose lease ended",
                "<b>10.77.0.10</b> critical: gone from eth0: its lease ended and was not renewed",
            ],
        );
        let table = shown.split("<h2>Addresses</h2>").nth(1).unwrap_or_default();
        let table = table.split("</table>").next().unwrap_or_default();
        for address in ["10.77.0.100", "10.77.0.10"] {
            let mut rows = table.split("<tr>");
            let row = rows.find(|row| row.contains(&format!(">{address} <")));
            let row = row.unwrap_or_else(|| panic!("no row for {address}: {table}"));
            assert!(row.contains(" absent</td>"), "{row}");
        }
        assert_eq!(
            server.rpc("memguard.status", json!([]))["addresses"],
            "critical"
        );
        assert_eq!(
            server.rpc("memguard.status", json!([]))["level"],
            "normal",
            "memory is no matter"
        );
        let logs = "address 10.77.0.100: warning -> critical: gone from eth0 together with its primary address 10.77.0.10";
        assert_eq!(logged(&server, logs), 1, "{}", server.log());

        // DHCP gives the service's address to the other machine, as its primary one.
        other.ip("addr flush dev eth0 scope global");
        other.ip("addr add 10.77.0.100/24 dev eth0 valid_lft 600 preferred_lft 600");
        announces(&other);
        let card = other.card("eth0");
        let service = found(TOLD_WITHIN + SLACK, "the other machine is named", || {
            Some(row(&server, "10.77.0.100")).filter(|row| row["taken_over_by"] == json!(card))
        });
        says(
            &service,
            &format!("the machine with the card {card} uses it now"),
        );
        let events = server.rpc("memguard.events", json!([]));
        let events: Vec<&Value> = events.as_array().expect("rows").iter().collect();
        assert!(
            events.iter().any(|e| e["address"] == "10.77.0.100"
                && e["reason"] == "taken over"
                && e["card"] == json!(card)),
            "{events:?}"
        );
        until(SOON, "the event route has it", || {
            logged(
                &server,
                &format!("ROUTE 10.77.0.100 critical critical taken over on eth0 by {card}"),
            ) == 1
        });

        // Somebody puts it back here, permanently, and the other machine still has it: both answer.
        front.ip("addr add 10.77.0.10/24 dev eth0");
        front.ip("addr add 10.77.0.100/32 dev eth0");
        told(&server, "10.77.0.100", "here");
        until(SOON, "/ready is back", || ready(&front, monitoring) == 200);
        announces(&other);
        let service = told(&server, "10.77.0.100", "claimed");
        assert_eq!(service["claimed_by"], json!(card));
        assert!(metric(&front, monitoring, "address_claims_total") >= 1);
        let claimed = format!("another machine uses it too (its card is {card})");
        let (code, text) = check(&server);
        assert!(code == 2 && text.contains(&claimed), "{text}");
        let (code, text) = nagios(pair, &server);
        assert!(
            code == 2 && text.contains(&format!("address 10.77.0.100: {claimed}")),
            "{text}"
        );
        let sentence = format!("<b>10.77.0.100</b> critical: {claimed}, while it is on eth0 here");
        let shown = page_says(&front, monitoring, &[&sentence]);
        assert!(
            !shown.contains("<b>10.77.0.10</b>"),
            "nothing is the matter with the other one"
        );
    });
}

#[test]
fn every_change_is_told_within_three_seconds_and_a_takeover_is_no_alarm() {
    for_each_pair_at_once(|pair| {
        let Some((front, other)) = machines() else {
            return;
        };
        front.join("eth1", &other, "eth1");
        let all: Vec<String> = (1..=9).map(|n| format!("10.77.1.{n}")).collect();
        for address in &all {
            front.ip(&format!("addr add {address}/32 dev eth0"));
        }
        front.ip("addr add 10.77.3.1/32 dev eth1");
        front.ip("addr add 10.77.2.1/24 dev eth0");
        front.ip("addr add 10.77.2.2/24 dev eth0");
        other.ip("addr add 10.77.1.99/24 dev eth0");
        other.ip("addr add fd77::5/64 dev eth0 nodad");
        let (server, _) = server(
            pair,
            &front,
            &["10.77.1.1", "10.77.1.2", "10.77.1.3"],
            &[
                ("address_expect", "10.77.1.4"),
                ("address_expect", "10.77.1.5"),
                ("address_expect", "10.77.1.8"),
                ("address_expect", "10.77.1.9"),
                ("address_expect", "10.77.3.1"),
                ("address_expect", "10.77.2.2"),
                ("address_floating", "10.77.1.6"),
                ("address_floating", "10.77.1.7"),
                ("address_floating", "[fd77::5]"),
            ],
        );
        told(&server, "10.77.2.2", "secondary");
        for address in &all {
            told(&server, address, "here");
        }
        let stranger = Stranger::on(&other, "eth0");
        let ip = |text: &str| text.parse::<Ipv4Addr>().expect("an address");
        let announce = |card, address: &str| stranger.send(&arp(1, card, ip(address), ip(address)));

        // Removed, and returned.
        front.ip("addr del 10.77.1.1/32 dev eth0");
        let gone = told(&server, "10.77.1.1", "gone");
        assert_eq!(
            (&gone["state"], &gone["alarm"]),
            (&json!("absent"), &json!("critical"))
        );
        says(&gone, "not on this machine, where it was on eth0");
        front.ip("addr add 10.77.1.1/32 dev eth0");
        assert_eq!(told(&server, "10.77.1.1", "here")["changes"], 2);

        // Leased, and the lease's end.
        front.ip("addr change 10.77.1.2/32 dev eth0 valid_lft 3 preferred_lft 3");
        let leased = told(&server, "10.77.1.2", "leased");
        assert_eq!(
            (&leased["origin"], &leased["alarm"]),
            (&json!("leased"), &json!("warning"))
        );
        until(SOON, "the lease ends", || {
            row(&server, "10.77.1.2")["state"] == "absent"
        });
        says(
            &told(&server, "10.77.1.2", "lease ended"),
            "its lease ended and was not renewed",
        );

        // Claimed: announced, in passing by the other machine's own kernel, and asked for by a DHCP client.
        announce(STRANGER, "10.77.1.3");
        let claimed = told(&server, "10.77.1.3", "claimed");
        assert_eq!(
            (&claimed["claimed_by"], &claimed["claims"]),
            (&json!(STRANGERS), &json!(1))
        );
        says(
            &claimed,
            "another machine uses it too (its card is 02:00:00:00:00:99), while it is on eth0 here",
        );
        other.set("ipv4/conf/eth0/arp_notify", "0");
        other.ip("addr add 10.77.1.4/32 dev eth0");
        other.run(|| {
            let socket = UdpSocket::bind("10.77.1.4:0").expect("its own address");
            let _ = socket.send_to(b"x", "10.77.1.200:9"); // nobody's: the kernel asks for it
        });
        assert_eq!(
            told(&server, "10.77.1.4", "claimed")["claimed_by"],
            json!(other.card("eth0"))
        );
        stranger.send(&arp(1, STRANGER, Ipv4Addr::UNSPECIFIED, ip("10.77.1.5")));
        let probed = told(&server, "10.77.1.5", "probed");
        assert_eq!(
            (&probed["alarm"], &probed["probes"]),
            (&json!("warning"), &json!(1))
        );

        // keepalived's ways: the other one announces a moment before this one gives up, and back; VRRP's own cards.
        announce(STRANGER, "10.77.1.6");
        front.ip("addr del 10.77.1.6/32 dev eth0");
        let standby = told(&server, "10.77.1.6", "standby");
        assert_eq!(
            (&standby["state"], &standby["alarm"]),
            (&json!("standby"), &json!("ok"))
        );
        announce(ROUTER, "10.77.1.6");
        announce(ROUTER, "10.77.1.7");
        front.ip("addr add 10.77.1.6/32 dev eth0");
        announce(STRANGER, "10.77.1.6");
        told(&server, "10.77.1.6", "here");

        // A secondary goes with its primary, which nobody watches.
        front.ip("addr del 10.77.2.1/24 dev eth0");
        says(
            &told(&server, "10.77.2.2", "gone with its primary"),
            "primary address 10.77.2.1",
        );

        // IPv6: the other machine had it first.
        front.ip("addr add fd77::5/64 dev eth0");
        let duplicate = told(&server, "fd77::5", "duplicate");
        assert_eq!(
            (&duplicate["state"], &duplicate["alarm"]),
            (&json!("duplicate"), &json!("critical"))
        );

        // The wire is cut, the interface is switched off.
        other.ip("link set eth1 down");
        let cut = told(&server, "10.77.3.1", "no carrier");
        assert_eq!(
            (&cut["link"], &cut["state"]),
            (&json!("no carrier"), &json!("present"))
        );
        front.ip("link set eth1 down");
        assert_eq!(told(&server, "10.77.3.1", "link down")["alarm"], "critical");
        front.ip("link set eth1 up");
        other.ip("link set eth1 up");
        told(&server, "10.77.3.1", "here");

        // The sampling process dies: the next one has the socket that only root could open, and tells nothing twice.
        let claims = logged(&server, "address 10.77.1.3: ok -> critical");
        let workers = server.rpc("memguard.workers", json!([]));
        let pid = workers
            .as_array()
            .expect("rows")
            .iter()
            .find_map(|row| row["sampling_pid"].as_i64());
        server.kill(i32::try_from(pid.expect("the sampling process")).expect("a pid"));
        until(SOON, "it is started again", || {
            server.rpc("memguard.status", json!([]))["sampler_restarts"] == 1
                && logged(&server, "the sampling process was started again") == 1
        });
        until(SOON, "the new one sees frames", || {
            announce(STRANGER, "10.77.1.8");
            reason(&server, "10.77.1.8") == "claimed"
        });
        assert_eq!(reason(&server, "10.77.1.3"), "claimed", "it is remembered");
        assert_eq!(
            (claims, logged(&server, "address 10.77.1.3: ok -> critical")),
            (1, 1)
        );

        // Nothing was ever the matter with these.
        for quiet in ["10.77.1.7", "10.77.1.9"] {
            assert_eq!(logged(&server, &format!("address {quiet}:")), 0);
        }
        let quiet = row(&server, "10.77.1.6");
        assert_eq!(
            (&quiet["claims"], &quiet["alarm"]),
            (&json!(0), &json!("ok")),
            "{quiet}"
        );
        assert_eq!(
            logged(&server, "-> critical: another machine uses it too"),
            3
        );
    });
}

/// IFA_PROTO of keepalived (RTPROT_KEEPALIVED).
const KEEPALIVED: u8 = 18;

/// Of two machines with keepalived this one is the backup, takes over, and gives back; with and without VRRP's own card.
#[test]
fn keepaliveds_takeovers_between_two_machines_are_told_and_alarm_nobody() {
    for_each_pair_at_once(|pair| {
        let Some((front, other)) = machines() else {
            return;
        };
        let service = Ipv4Addr::new(10, 80, 0, 100);
        front.ip("addr add 10.80.0.10/24 dev eth0");
        other.ip("addr add 10.80.0.20/24 dev eth0");
        front.set("ipv4/ip_nonlocal_bind", "1"); // as keepalived's backups have it, so that Kamailio starts
        let (server, monitoring) = server(
            pair,
            &front,
            &["10.80.0.10", "10.80.0.100"],
            &[("address_floating", "10.80.0.100")],
        );
        let row = || row(&server, "10.80.0.100");
        told(&server, "10.80.0.100", "standby");
        let peer = Stranger::on(&other, "eth0");
        let announce = |card: [u8; 6]| {
            for operation in [1, 2, 1, 2, 1] {
                peer.send(&arp(operation, card, service, service)); // keepalived's garp_master_repeat is 5
            }
        };
        // Nobody is alarmed, by none of the ways in which memguard speaks.
        let is_calm = |when: &str| {
            assert_eq!(check(&server).0, 0, "{when}: {:?}", check(&server));
            let (code, text) = nagios(pair, &server);
            assert_eq!(code, 0, "{when}: {text}");
            assert_eq!(ready(&front, monitoring), 200, "{when}");
            for name in ["address_alarm", "address_missing", "address_claims_total"] {
                assert_eq!(metric(&front, monitoring, name), 0, "{when}: {name}");
            }
            let page = page(&front, monitoring);
            assert!(
                page.contains("10.80.0.100") && !page.contains("need you"),
                "{when}: {page}"
            );
            assert_eq!(logged(&server, "critical"), 0, "{when}: {}", server.log());
        };
        is_calm("at the start");
        let mut changes = 0;
        for (what, card) in [("its own card", STRANGER), ("VRRP's card", ROUTER)] {
            // The other one is the master, and says so.
            announce(card);
            // It dies, and this one takes over: sets the address, and announces it (not heard by itself).
            front.add_address_by(service, "eth0", KEEPALIVED);
            let here = told(&server, "10.80.0.100", "here");
            assert_eq!(
                (&here["origin"], &here["state"], &here["alarm"]),
                (&json!("keepalived"), &json!("present"), &json!("ok")),
                "{what}: {here}"
            );
            // The dead one's last words, while this one has it.
            announce(card);
            is_calm(what);
            // The other one comes back with the higher priority: it announces, and this one gives up a moment later.
            until(SOON, "the takeover is over", || {
                let since = row()["since"].as_u64().unwrap_or(u64::MAX);
                now_s() > since + 4 // three seconds after it came the words of the other one are none of a takeover's
            });
            announce(card);
            front.ip("addr del 10.80.0.100/32 dev eth0");
            let standby = told(&server, "10.80.0.100", "standby");
            assert_eq!(
                (&standby["state"], &standby["alarm"]),
                (&json!("standby"), &json!("ok")),
                "{what}: {standby}"
            );
            announce(card);
            changes += 2;
            until(SOON, "both changes are counted", || {
                row()["changes"] == changes
            });
            is_calm(what);
        }
        // 1.5 seconds later it would have been a claim: what came was judged, and not merely not yet.
        until(SOON, "the time for a claim has passed", || {
            now_s() > row()["since"].as_u64().unwrap_or(u64::MAX) + 3
        });
        is_calm("at the end");
        let events = server.rpc("memguard.events", json!([100]));
        let changed: Vec<&Value> = events
            .as_array()
            .expect("rows")
            .iter()
            .filter(|event| event["address"] == "10.80.0.100")
            .collect();
        assert!(
            changed.len() >= 4 && changed.iter().all(|event| event["to"] == "ok"),
            "{events}"
        );
        // Who keeps it, and lets the other one speak, has two masters: that is no takeover.
        front.add_address_by(service, "eth0", KEEPALIVED);
        told(&server, "10.80.0.100", "here");
        until(SOON, "the takeover is over", || {
            now_s() > row()["since"].as_u64().unwrap_or(u64::MAX) + 4
        });
        announce(STRANGER);
        assert_eq!(
            told(&server, "10.80.0.100", "claimed")["claimed_by"],
            json!(STRANGERS)
        );
    });
}

fn now_s() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").as_secs()
}

/// CPU that a process has used.
fn cpu_ms(pid: i64) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|n| n.parse::<u64>().ok())
        .sum();
    ticks * 10 // USER_HZ is 100
}

fn sampling_pid(server: &Server) -> i64 {
    let workers = server.rpc("memguard.workers", json!([]));
    let pid = workers
        .as_array()
        .expect("rows")
        .iter()
        .find_map(|row| row["sampling_pid"].as_i64());
    pid.expect("the sampling process")
}

#[test]
fn ordinary_noise_tells_nothing_a_flood_costs_little_and_200_addresses_are_watched() {
    for_each_pair_at_once(|pair| {
        let Some((front, other)) = machines() else {
            return;
        };
        let addresses: Vec<String> = (1..=200).map(|n| format!("10.78.0.{n}")).collect();
        front.ip_batch(
            &addresses
                .iter()
                .map(|a| format!("addr add {a}/32 dev eth0"))
                .collect::<Vec<_>>(),
        );
        let server = Server::registrar(pair)
            .in_namespace(&front)
            .workers(1)
            .config(|config| {
                for address in &addresses {
                    config.global(&format!("listen=tcp:{address}:5060"));
                }
            })
            .start();
        let rows = || server.rpc("memguard.addresses", json!([]));
        until(SOON, "all are listed", || {
            reason(&server, "10.78.0.200") == "here"
        });
        until(SOON, "and published", || {
            row(&server, "10.78.0.200")["state"] == "present"
        });
        let truncated = rows()
            .as_array()
            .and_then(|rows| rows.last()?["truncated"].as_i64());
        assert!(
            truncated.is_some_and(|n| n > 50),
            "a long answer says that it is cut"
        );
        let status = || server.rpc("memguard.status", json!([]));
        assert_eq!(status()["addresses"], "ok");

        // Ordinary noise: others ask for each other and for us, and answer.
        let stranger = Stranger::on(&other, "eth0");
        let changes = |server: &Server| {
            let events = server.rpc("memguard.events", json!([100]));
            let rows = events.as_array().expect("rows").iter();
            rows.filter(|row| row.get("address").is_some()).count()
        };
        let pid = sampling_pid(&server);
        let seconds: u64 = std::env::var("MEMGUARD_NOISE_S")
            .ok()
            .and_then(|s| s.parse().ok())
            .unwrap_or(3);
        let (begin, before) = (Instant::now(), cpu_ms(pid));
        let mut sent = 0u32;
        while begin.elapsed() < Duration::from_secs(seconds) {
            for n in 0..40u32 {
                let sender = Ipv4Addr::from(0x0a4e_0100 + (sent + n) % 250);
                let target = Ipv4Addr::from(0x0a4e_0000 + (sent * 7 + n) % 250);
                stranger.send(&arp(1 + (n % 2) as u8, STRANGER, sender, target));
            }
            sent += 40;
            std::thread::sleep(Duration::from_millis(20)); // some 2,000 frames a second, the noise of a large network
        }
        println!(
            "   {sent} ordinary frames in {seconds} s: {} ms of CPU",
            cpu_ms(pid) - before
        );
        assert_eq!(
            (changes(&server), status()["addresses"].as_str()),
            (0, Some("ok"))
        );
        assert_eq!(metric_of(&server, "address_claims_total"), 0);

        // A flood of claims by as many cards as there are frames.
        let before = cpu_ms(pid);
        let begin = Instant::now();
        for n in 0..100_000u32 {
            let [_, a, b, c] = n.to_be_bytes();
            let address = Ipv4Addr::from(0x0a4e_0001 + n % 3);
            stranger.send(&arp(1, [2, 9, 9, a, b, c], address, address));
        }
        let flood = begin.elapsed();
        until(SOON, "the claims are told", || {
            reason(&server, "10.78.0.1") == "claimed"
        });
        until(SOON, "all three", || {
            reason(&server, "10.78.0.3") == "claimed"
        });
        let used = cpu_ms(pid) - before;
        println!(
            "   100,000 claims in {} ms: {used} ms of CPU",
            flood.as_millis()
        );
        assert!(used < 1500, "{used} ms of CPU");
        assert!(
            logged(&server, "address 10.78.0.") <= 12,
            "a flood does not fill the log"
        );

        // All go at once: each is known, the log is not flooded, and they come back.
        front.ip("addr flush dev eth0 scope global");
        until(TOLD_WITHIN + SLACK + SLACK, "all are missing", || {
            metric_of(&server, "address_missing") == 200
        });
        assert!(logged(&server, "more addresses changed at the same time") >= 1);
        assert!(logged(&server, "address 10.78.0.") <= 40);
    });
}

fn metric_of(server: &Server, name: &str) -> u64 {
    let text = server.rpc("memguard.metrics", json!([]));
    let prefix = format!("kamailio_memguard_{name} ");
    let text = text.as_str().unwrap_or_default().to_owned();
    let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
    line.and_then(|value| value.parse().ok())
        .expect("the metric")
}

#[test]
fn without_cap_net_raw_one_warning_says_so_and_the_rest_goes_on() {
    for_each_pair_at_once(|pair| {
        let Some((front, other)) = machines() else {
            return;
        };
        front.ip("addr add 10.79.0.1/24 dev eth0");
        let built = |front: &Namespace| {
            Server::registrar(pair)
                .in_namespace(front)
                .workers(1)
                .param("address_floating", "10.79.0.50")
                .config(|config| {
                    config.global("listen=udp:10.79.0.1:5060");
                })
        };
        let blind = built(&front).without_capability(NET_RAW).start();
        let warned = |server: &Server, words: &str| {
            let warnings = server.rpc("memguard.status", json!([]))["warnings"].to_string();
            warnings.contains(words)
        };
        told(&blind, "10.79.0.1", "here");
        assert_eq!(
            row(&blind, "10.79.0.50")["state"],
            "standby",
            "absent from the start, and no alarm"
        );
        assert!(warned(&blind, "ARP frames cannot be read"));
        assert_eq!(logged(&blind, "ARP frames cannot be read"), 1);
        // The hint: the counter of packets with our own address as their sender.
        let stranger = Stranger::on(&other, "eth0");
        let address = Ipv4Addr::new(10, 79, 0, 1);
        until(SOON, "the hint is a warning", || {
            stranger.send(&arp(1, STRANGER, address, address));
            warned(&blind, "in_martian_src")
        });
        assert_eq!(
            reason(&blind, "10.79.0.1"),
            "here",
            "which address it is cannot be known"
        );
        front.ip("addr del 10.79.0.1/24 dev eth0");
        told(&blind, "10.79.0.1", "gone");
        blind.stop();

        // Dropping root later does not matter; and with address_guard 0 there is nothing at all.
        front.ip("addr add 10.79.0.1/24 dev eth0");
        let user = built(&front).run_by_nobody().start();
        told(&user, "10.79.0.1", "here");
        stranger.send(&arp(1, STRANGER, address, address));
        assert_eq!(
            told(&user, "10.79.0.1", "claimed")["claimed_by"],
            json!(STRANGERS)
        );
        user.stop();
        let off = built(&front).param("address_guard", 0).start();
        let fault = off
            .try_rpc("memguard.addresses", json!([]))
            .expect_err("it is off");
        assert!(fault.text.contains("address_guard is 0"), "{fault:?}");
        assert_eq!(off.rpc("memguard.status", json!([]))["addresses"], "off");
        assert!(!warned(&off, "ARP frames"));
    });
}

#[test]
fn with_free_bind_what_is_absent_at_the_start_stands_by() {
    for_each_pair_at_once(|pair| {
        let Some((front, _other)) = machines() else {
            return;
        };
        let server = Server::registrar(pair)
            .in_namespace(&front)
            .workers(1)
            .config(|config| {
                config.global("ip_free_bind=1");
                config.global("listen=udp:10.79.1.1:5060");
            })
            .start();
        let standby = found(SOON, "it stands by", || {
            Some(row(&server, "10.79.1.1")).filter(|row| row["state"] == "standby")
        });
        assert_eq!(
            (&standby["alarm"], &standby["watched_as"]),
            (&json!("ok"), &json!("listen floating"))
        );
        front.ip("addr add 10.79.1.1/32 dev eth0");
        told(&server, "10.79.1.1", "here");
        assert_eq!(
            logged(&server, "address 10.79.1.1: ok -> ok: here on eth0"),
            1
        );
        for bad in [json!(["eth0"]), json!(["10.79.1.1", "x"])] {
            let fault = server.try_rpc("memguard.addresses", bad).expect_err("bad");
            assert!(fault.text.contains("accepts nothing, or one"), "{fault:?}");
        }
        let fault = server
            .try_rpc("memguard.addresses", json!(["192.0.2.1"]))
            .expect_err("unknown");
        assert_eq!(fault.code, 404, "{fault:?}");
    });
    for_each_pair_at_once(|pair| {
        for (name, value) in [("address_expect", "eth0"), ("address_floating", "0.0.0.0")] {
            let (is_accepted, text) = Server::registrar(pair).param(name, value).check();
            let sentence =
                format!("parameter {name} is \"{value}\", but accepts one IPv4 or IPv6 address");
            assert!(!is_accepted && text.contains(&sentence), "{text}");
        }
    });
}
