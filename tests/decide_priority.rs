//! Facts about the priority list.
//!
//! * An entry matches what an operator would expect of its spelling, and nothing else.
//! * Users are compared as RFC 3261 §19.1.4 says: escapes, case; hosts without case.
//! * Packing loses nothing; any words in shared memory are safe to match.

use std::net::IpAddr;

use memguard::guard::config::priority::{
    Change, Entry, List, MAX_TEXT, canonical_user, parse_aor, parse_change, parse_domain,
    parse_source,
};
use proptest::prelude::*;

fn matches(entry: &Entry, user: &str, host: &str) -> bool {
    entry.matches(user.as_bytes(), host.as_bytes(), None)
}

fn covers(net: &str, address: &str) -> bool {
    let address: IpAddr = address.parse().unwrap();
    parse_source(net).unwrap().matches(b"", b"", Some(address))
}

fn canonical(user: &str) -> String {
    let mut out = [0; 64];
    let len = canonical_user(user.as_bytes(), &mut out).unwrap();
    String::from_utf8(out[..len].to_vec()).unwrap()
}

#[test]
fn a_user_alone_matches_in_every_domain() {
    let entry = parse_aor("sip:fire-brigade").unwrap();
    assert!(
        matches(&entry, "fire-brigade", "a.example")
            && matches(&entry, "fire-brigade", "b.example")
    );
    assert!(
        !matches(&entry, "Fire-brigade", "a.example"),
        "users have case"
    );
    assert!(!matches(&entry, "fire-brigade2", "a.example") && !matches(&entry, "", ""));
}

#[test]
fn an_aor_matches_its_user_in_its_domain_only() {
    for spelling in [
        "alice@Example.com",
        "sip:alice@example.com",
        "SIPS:%61lice@example.COM.",
        " alice@example.com ",
    ] {
        let entry = parse_aor(spelling).unwrap();
        assert!(matches(&entry, "alice", "example.com"), "{spelling}");
        assert!(matches(&entry, "alice", "EXAMPLE.com"), "{spelling}");
        assert!(!matches(&entry, "alice", "example.org") && !matches(&entry, "bob", "example.com"));
        assert!(
            !matches(&entry, "alic", "eexample.com"),
            "the border is kept"
        );
    }
}

#[test]
fn a_domain_matches_all_its_users_and_no_subdomain() {
    let entry = parse_domain("sip:Police.example").unwrap();
    assert!(matches(&entry, "x", "police.example") && matches(&entry, "y", "POLICE.EXAMPLE"));
    assert!(!matches(&entry, "x", "a.police.example"));
    assert!(matches(
        &parse_domain("[2001:DB8::1]").unwrap(),
        "x",
        "[2001:db8::1]"
    ));
}

#[test]
fn networks_cover_their_addresses_in_both_families() {
    assert!(covers("192.0.2.0/24", "192.0.2.255") && !covers("192.0.2.0/24", "192.0.3.0"));
    assert!(covers("192.0.2.7", "192.0.2.7") && !covers("192.0.2.7", "192.0.2.6"));
    assert!(
        covers("10.1.2.3/8", "10.200.0.1"),
        "bits behind the prefix do not count"
    );
    assert!(covers("0.0.0.0/0", "255.255.255.255") && !covers("0.0.0.0/0", "2001:db8::1"));
    assert!(covers("2001:db8::/32", "2001:db8:ffff::1") && !covers("2001:db8::/32", "2001:db9::"));
    assert!(covers("[2001:db8::1]", "2001:db8::1") && covers("::/0", "fe80::1"));
}

#[test]
fn ipv4_over_an_ipv6_socket_is_ipv4() {
    assert!(covers("192.0.2.0/24", "::ffff:192.0.2.9"));
    assert!(
        covers("::ffff:192.0.2.0/120", "192.0.2.9") && !covers("::ffff:192.0.2.0/120", "192.0.3.9")
    );
    assert_eq!(
        parse_source("::ffff:192.0.2.1").unwrap().to_string(),
        "192.0.2.1"
    );
}

#[test]
fn what_is_no_entry_gets_a_sentence_with_what_is_accepted() {
    for bad in [
        "",
        "sip:",
        "@example.com",
        "alice@",
        "a lice",
        "alice@exa mple",
        "alice@x:5060",
        "alice@x;transport=tcp",
        "<sip:alice@x>",
        "alice@b@c",
        "al%cx",
        "al%2",
        "al:pw@x",
        "ålice",
        "a@[::1",
        "a@..",
        "%",
    ] {
        let said = parse_aor(bad).unwrap_err();
        assert!(
            said.contains(&format!("\"{bad}\"")) && said.contains("user or user@domain"),
            "{said}"
        );
    }
    for bad in [
        "",
        "a@b",
        "x:5060",
        "x..y",
        "[1.2.3.4]",
        "2001:db8::1",
        "x/y",
    ] {
        assert!(
            parse_domain(bad)
                .unwrap_err()
                .contains("host name or an address"),
            "{bad}"
        );
    }
    for bad in [
        "",
        "192.0.2",
        "192.0.2.0/33",
        "2001:db8::/129",
        "1.2.3.4/",
        "1.2.3.4/+8",
        "1.2.3.4/-1",
        "[::1",
        "x",
        "1.2.3.4/8/8",
        "01.2.3.4",
        "1.2.3.4:5060",
    ] {
        assert!(
            parse_source(bad)
                .unwrap_err()
                .contains("192.0.2.0/24 or 2001:db8::/32"),
            "{bad}"
        );
    }
}

#[test]
fn an_entry_that_does_not_fit_is_refused_not_cut() {
    let longest = format!("{}@{}", "u".repeat(40), "h".repeat(MAX_TEXT - 40));
    assert!(matches(
        &parse_aor(&longest).unwrap(),
        &"u".repeat(40),
        &"h".repeat(MAX_TEXT - 40)
    ));
    assert!(
        parse_aor(&format!("{longest}h"))
            .unwrap_err()
            .contains("too long")
    );
    assert!(
        parse_domain(&"d".repeat(300))
            .unwrap_err()
            .contains("too long")
    );
    assert!(
        parse_aor(&"u".repeat(70_000))
            .unwrap_err()
            .contains("too long")
    );
}

#[test]
fn escapes_are_compared_as_rfc_3261_says() {
    assert_eq!(canonical("%61lice"), "alice");
    assert_eq!(
        canonical("a%2Bb"),
        "a%2Bb",
        "reserved characters are not equal to their escapes"
    );
    assert_eq!(
        canonical("a%2bb"),
        "a%2Bb",
        "but the case of an escape does not matter"
    );
    assert_eq!(
        canonical("%2541"),
        "%2541",
        "an escaped percent does not begin an escape"
    );
    assert_eq!(canonical("%00%e4%20"), "%00%E4%20");
    assert_eq!(
        canonical("100%"),
        "100%25",
        "a percent that begins no escape means itself"
    );
    assert_eq!(canonical("%zz%4"), "%25zz%254");
    assert_eq!(canonical_user(b"alice", &mut [0; 4]), None);
    assert_eq!(canonical_user(b"%e4", &mut [0; 2]), None);
}

#[test]
fn entries_are_shown_as_an_operator_writes_them() {
    let shown = |entry: Result<Entry, String>| {
        let entry = entry.unwrap();
        (entry.list().unwrap().word(), entry.to_string())
    };
    assert_eq!(
        shown(parse_aor("sip:Bob@Ex.com")),
        ("aor", "Bob@ex.com".into())
    );
    assert_eq!(shown(parse_aor("+4930")), ("aor", "+4930".into()));
    assert_eq!(shown(parse_domain("EX.com.")), ("domain", "ex.com".into()));
    assert_eq!(
        shown(parse_source("10.1.2.3/8")),
        ("source", "10.0.0.0/8".into())
    );
    assert_eq!(
        shown(parse_source("[2001:db8::1]")),
        ("source", "2001:db8::1".into())
    );
}

#[test]
fn arguments_of_memguard_priority_say_what_to_do_or_why_not() {
    assert_eq!(parse_change(&[]), Ok(Change::Show(None)));
    assert_eq!(parse_change(&["list"]), Ok(Change::Show(None)));
    assert_eq!(
        parse_change(&["list", "domain"]),
        Ok(Change::Show(Some(List::Domain)))
    );
    let chief = parse_aor("chief@example.org").unwrap();
    assert_eq!(
        parse_change(&["add", "aor", "sip:chief@EXAMPLE.org"]),
        Ok(Change::Add(chief))
    );
    assert_eq!(
        parse_change(&["remove", "aor", "chief@example.org"]),
        Ok(Change::Remove(chief))
    );
    for wrong in [
        &["add"][..],
        &["add", "aor"],
        &["add", "user", "chief"],
        &["list", "aor", "chief"],
        &["add", "aor", "chief", "thief"],
        &["show"],
    ] {
        let sentence = parse_change(wrong).unwrap_err();
        assert!(
            sentence.starts_with("memguard.priority accepts"),
            "{sentence}"
        );
    }
    let sentence = parse_change(&["add", "source", "10.0.0.0/33"]).unwrap_err();
    assert!(sentence.contains("10.0.0.0/33"), "{sentence}");
}

#[test]
fn an_empty_place_matches_nothing_not_even_nothing() {
    assert!(!matches(&Entry::EMPTY, "", ""));
    let list = [
        Entry::EMPTY,
        parse_aor("alice").unwrap(),
        parse_source("10.0.0.0/8").unwrap(),
    ];
    let is_priority = |user: &[u8], host: &[u8], source| {
        list.iter().any(|entry| entry.matches(user, host, source))
    };
    assert!(is_priority(b"alice", b"x", None));
    assert!(is_priority(b"bob", b"x", Some("10.9.9.9".parse().unwrap())));
    assert!(!is_priority(
        b"bob",
        b"x",
        Some("11.9.9.9".parse().unwrap())
    ));
}

#[test]
fn words_that_no_list_wrote_fit_nothing() {
    const ROOM: u8 = 92; // of twelve words, without the four bytes in front
    let source = Some("10.1.2.3".parse().unwrap());
    for kind in 0..=u8::MAX {
        let of = |length| {
            let mut words = [0u64; 12];
            words[0] = u64::from_ne_bytes([kind, length, 0, 0, 0, 0, 0, 0]);
            Entry::from_words(&words)
        };
        let is_known = (1..=4).contains(&kind);
        assert_eq!(of(ROOM).list().is_some(), is_known, "{kind}");
        for entry in [of(ROOM + 1), of(u8::MAX)] {
            assert_eq!(entry.list(), None, "{kind}");
            assert!(!entry.matches(b"", b"", source), "{kind}");
        }
    }
    let empty = Entry::from_words(&[0; 12]);
    assert_eq!(format!("{empty:?}"), "no entry ");
    assert!(!Entry::may_match(0, b"", b"", source));
}

#[test]
fn an_aor_of_another_length_is_passed_over_by_its_first_word() {
    let first = parse_aor("alice@example.com").unwrap().to_words()[0];
    for (user, host, may) in [
        ("alice", "example.com", true),
        ("alice", "example.org", true),
        ("alice", "example.co", false),
        ("alic", "eexample.com", false),
        ("bobby", "example.com", false),
    ] {
        let found = Entry::may_match(first, user.as_bytes(), host.as_bytes(), None);
        assert_eq!(found, may, "{user} {host}");
    }
}

#[test]
fn an_entry_shows_its_list_in_front() {
    for (entry, shown) in [
        (parse_aor("alice"), "aor alice"),
        (parse_domain("example.com"), "domain example.com"),
        (parse_source("192.0.2.0/24"), "source 192.0.2.0/24"),
    ] {
        assert_eq!(format!("{:?}", entry.unwrap()), shown);
    }
}

proptest! {
    #[test]
    fn packing_into_words_loses_nothing(user in "[a-zA-Z0-9+._-]{1,30}", host in "[a-z0-9-]{1,20}(\\.[a-z]{1,9})?") {
        let entry = parse_aor(&format!("{user}@{host}")).unwrap();
        let back = Entry::from_words(&entry.to_words());
        prop_assert_eq!(back, entry);
        prop_assert!(matches(&back, &user, &host));
        let entries = [entry, parse_aor(&user).unwrap(), parse_domain(&host).unwrap(), parse_source("10.0.0.0/9").unwrap(),
            parse_source("2001:db8::/32").unwrap()];
        let sources = [None, Some("10.1.2.3".parse().unwrap()), Some("::ffff:10.1.2.3".parse().unwrap()),
            Some("2001:db8::9".parse().unwrap())];
        for entry in entries {
            let (first, shouted) = (entry.to_words()[0], host.to_uppercase());
            for source in sources {
                let (user, host) = (user.as_bytes(), shouted.as_bytes());
                prop_assert!(!entry.matches(user, host, source) || Entry::may_match(first, user, host, source), "{entry:?}");
                let other = Entry::may_match(first, b"", b"", source);
                prop_assert!(!other || source.is_some(), "another length is passed over");
            }
        }
        prop_assert_eq!(parse_aor(&entry.to_string()), Ok(entry), "what is shown can be typed");
    }

    #[test]
    fn any_words_can_be_matched_and_shown(words: [u64; 12], user: Vec<u8>, host: Vec<u8>, source: u128, v4: u32) {
        let entry = Entry::from_words(&words);
        let v6 = IpAddr::from(source.to_be_bytes());
        for source in [None, Some(v6), Some(IpAddr::from(v4.to_be_bytes()))] {
            if entry.matches(&user, &host, source) {
                prop_assert!(Entry::may_match(words[0], &user, &host, source));
            }
        }
        let mut kinds = words;
        for kind in 0..6u64 {
            kinds[0] = (words[0] & !0xff) | kind;
            let _ = Entry::from_words(&kinds).to_string();
            Entry::from_words(&kinds).matches(&user, &host, Some(v6));
        }
    }

    #[test]
    fn no_text_makes_a_parser_panic(text in "\\PC{0,120}", user: Vec<u8>, room in 0usize..100) {
        for parsed in [parse_aor(&text), parse_domain(&text), parse_source(&text)] {
            prop_assert!(parsed.is_ok() || !parsed.unwrap_err().is_empty());
        }
        canonical_user(&user, &mut vec![0; room]);
    }

    #[test]
    fn a_network_covers_exactly_the_addresses_with_its_prefix(net: u32, other: u32, prefix in 0u32..=32) {
        let text = format!("{}/{prefix}", std::net::Ipv4Addr::from_bits(net));
        let expected = (u64::from(net) >> (32 - prefix)) == (u64::from(other) >> (32 - prefix));
        prop_assert_eq!(covers(&text, &std::net::Ipv4Addr::from_bits(other).to_string()), expected);
    }

    #[test]
    fn the_canonical_user_is_canonical(user in "([a-zA-Z0-9]|%[0-9a-fA-F]{2}|%){0,20}") {
        prop_assert_eq!(canonical(&canonical(&user)), canonical(&user));
    }
}
