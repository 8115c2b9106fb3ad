//! Properties of the SIP scanner, the AoR fingerprints and the class:
//! * no bytes make the scanner panic, nor a REGISTER that was changed or cut anywhere;
//! * compact names, letter case, folds, header order and line ends do not change what is read;
//! * an AoR's fingerprint is the same however it is spelled, and differs for another user;
//! * a contact URI's numbers do not change with the order or the case of its parameters; another value changes `whole` only,
//!   another parameter leaves `base`;
//! * a local usrloc's numbers are equal exactly where it would find the contact again;
//! * knowing more never makes a REGISTER's class costlier.

use memguard::guard::config::priority::{canonical_user, parse_aor};
use memguard::guard::decide::class::{Known, classify};
use memguard::guard::sip::{
    Expires, Register, Scanned,
    aor::{
        Aor, Key, aor_fingerprint, binding_fingerprint,
        local::{Matching, Stored, is_same, stored_number},
        uri_fingerprints,
    },
    scan,
};
use proptest::prelude::*;

const KEY: Key = Key::new(1, 2);

/// Long and compact names with one value each; Vias keep their order.
const HEADERS: [(&str, &str, &str); 8] = [
    ("Via", "v", "SIP/2.0/UDP a;branch=1, SIP/2.0/UDP b"),
    ("From", "f", "\"A, B\" <sip:alice@example.com>;tag=1"),
    ("To", "t", "A B <sip:alice@example.com>"),
    ("Call-ID", "i", "1@h"),
    ("CSeq", "cSeq", "1 REGISTER"),
    (
        "Contact",
        "m",
        "\"x;,\" <sip:a@h:1;ob> ; expires=5 , <sip:b@h> ;reg-id=2",
    ),
    ("Expires", "expires", "60"),
    ("Authorization", "authorization", "Digest username=\"a\""),
];

/// What does not depend on spelling.
fn meaning(message: &[u8]) -> String {
    let Scanned::Register(r) = scan(message) else {
        panic!("{:?}", String::from_utf8_lossy(message))
    };
    let contacts = r.contacts.kept();
    format!(
        "{:?}",
        (
            (r.via_count, r.to_uri, r.from_uri(), r.to_has_tag, r.call_id),
            (r.cseq_number, r.expires, contacts, r.has_credentials),
        )
    )
}

fn written(order: &[usize], style: &[(bool, bool, bool)], eol: &str) -> String {
    let mut text = format!("REGISTER sip:example.com SIP/2.0{eol}");
    for at in order {
        let (long, compact, value) = HEADERS[*at];
        let (use_compact, upper, folded) = style[*at];
        let name = if use_compact { compact } else { long };
        let name = if upper {
            name.to_uppercase()
        } else {
            name.to_string()
        };
        let value = if folded {
            value.replace(' ', &format!("{eol} \t"))
        } else {
            value.to_string()
        };
        text += &format!("{name}: {value}{eol}");
    }
    text + eol
}

fn touch_everything(message: &[u8]) {
    if let Scanned::Register(r) = scan(message) {
        assert_eq!(r.via_headers().count() > 0, r.via_count > 0);
        let aor = aor_fingerprint(&KEY, r.to_uri).unwrap_or(0);
        for contact in r.contacts.kept() {
            binding_fingerprint(&KEY, aor, contact);
        }
        assert!(r.contacts.adding(r.expires) <= r.contacts.total);
        classify(&r, Known::default, false, true, || false);
    }
}

fn plain() -> String {
    written(
        &[0, 1, 2, 3, 4, 5, 6, 7],
        &[(false, false, false); 8],
        "\r\n",
    )
}

fn register(message: &str) -> Register<'_> {
    match scan(message.as_bytes()) {
        Scanned::Register(register) => register,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_uri_keeps_its_numbers_in_another_order_and_case(
        mut params in prop::collection::btree_map("[a-h][a-z]{0,3}", "[a-z0-9]{0,9}", 0..6), turn in 0..6usize, value in "[A-Z]{10}",
    ) {
        params.retain(|name, _| !["user", "ttl"].contains(&name.as_str()));
        let written = |params: &[(String, String)]| -> String {
            params.iter().map(|(name, value)| format!(";{name}={value}")).collect()
        };
        let mut list: Vec<(String, String)> = params.into_iter().collect();
        let of = |uri: String| uri_fingerprints(&KEY, 5, uri.as_bytes());
        let first = of(format!("sip:u@h.test:5060{}", written(&list)));
        prop_assert_eq!(first.names.is_some(), !list.is_empty());
        let turn = turn % list.len().max(1);
        list.rotate_left(turn);
        prop_assert_eq!(first, of(format!("sip:u@H.TEST:5060{}", written(&list).to_uppercase())));
        if let Some(last) = list.last_mut() {
            last.1 = value;
            let changed = of(format!("sip:u@h.test:5060{}", written(&list)));
            prop_assert_eq!((first.base, first.names), (changed.base, changed.names));
            prop_assert_ne!(first.whole, changed.whole);
        }
        list.push(("zzz".into(), "1".into()));
        let more = of(format!("sip:u@h.test:5060{}", written(&list)));
        prop_assert_eq!(first.base, more.base);
        prop_assert!(first.names != more.names && first.whole != more.whole);
    }

    #[test]
    fn usrlocs_numbers_are_equal_where_usrloc_finds_the_contact(
        mode in 0..4i64,
        texts in prop::collection::vec("[ab<>]{0,2}", 4),
        more in prop::collection::vec("[ab<>]{0,2}", 4),
        reg_ids in (0..2u32, 0..2u32),
    ) {
        let of = |texts: &'_ [String], reg_id| {
            let [uri, call_id, instance, path] = texts else { unreachable!() };
            (uri.clone(), call_id.clone(), instance.clone(), path.clone(), reg_id)
        };
        let (one, two) = (of(&texts, reg_ids.0), of(&more, reg_ids.1));
        let matching = Matching::from_number(mode).unwrap();
        let stored = |c: &'static (String, String, String, String, u32)| Stored {
            uri: c.0.as_bytes(), call_id: c.1.as_bytes(), instance: c.2.as_bytes(), reg_id: c.4,
        };
        let (one, two): (&'static _, &'static _) = (Box::leak(Box::new(one)), Box::leak(Box::new(two)));
        let number = |c: &'static (String, String, String, String, u32)| {
            stored_number(&KEY, matching, 9, &stored(c))
        };
        // A request without an instance, or both with one: usrloc keeps each under one number.
        if one.2.is_empty() == two.2.is_empty() {
            let found = is_same(matching, &stored(one), &stored(two), || one.3.is_empty() || one.3 == two.3);
            prop_assert!(!found || number(one) == number(two));
            if matching.is_told_by_number(&stored(one), !one.3.is_empty()) {
                prop_assert_eq!(found, number(one) == number(two));
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(start in "(REGISTER sip:a SIP/2.0\r\n|SIP/2.0 200 OK\r\n)?", bytes: Vec<u8>) {
        touch_everything(&[start.as_bytes(), &bytes].concat());
        aor_fingerprint(&KEY, &bytes);
    }

    #[test]
    fn no_change_or_cut_makes_it_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(b"\0\r\n\t \"\\<>;,:=@*%0a\xff".to_vec())), 0..6),
        cut: prop::sample::Index,
    ) {
        let mut message = plain().into_bytes();
        for (at, byte) in changes {
            let at = at.index(message.len());
            message[at] = byte;
        }
        touch_everything(&message);
        touch_everything(&message[..cut.index(message.len())]);
    }

    #[test]
    fn spelling_does_not_change_the_meaning(
        order in Just([0, 1, 2, 3, 4, 5, 6, 7]).prop_shuffle(),
        style in prop::array::uniform8(any::<(bool, bool, bool)>()),
        lf: bool,
    ) {
        let message = written(&order, &style, if lf { "\n" } else { "\r\n" });
        prop_assert_eq!(meaning(message.as_bytes()), meaning(plain().as_bytes()));
    }

    #[test]
    fn an_aor_is_the_same_however_it_is_spelled(
        user in "[a-zA-Z0-9_.!~*']{1,80}",
        other in "[a-zA-Z0-9_.!~*']{1,80}",
        host in "[a-z]([a-z0-9.-]{0,69}[a-z0-9])?",
        escape in prop::collection::vec(any::<bool>(), 80),
        tail in "(:5061)?(;user=phone|;lr|;a=b)?(\\?x=y)?",
        password in "(:pw)?",
    ) {
        let escaped: String = user.chars().zip(&escape).map(|(c, e)| {
            if *e { format!("%{:02x}", c as u32) } else { c.to_string() }
        }).collect();
        let plain = aor_fingerprint(&KEY, format!("sip:{user}@{host}").as_bytes());
        let odd = format!("SIP:{escaped}{password}@{}{tail}", host.to_uppercase());
        prop_assert!(plain.is_some());
        prop_assert_eq!(plain, aor_fingerprint(&KEY, odd.as_bytes()));
        let parsed = Aor::parse(odd.as_bytes()).unwrap();
        let is_listed = |entry: &str| {
            let mut canonical = [0; 256];
            let len = canonical_user(parsed.user(), &mut canonical).unwrap();
            let entry = parse_aor(entry).ok(); // not every host is one of a list
            entry.map(|entry| entry.matches(&canonical[..len], parsed.host(), None))
        };
        prop_assert_ne!(is_listed(&user), Some(false));
        let entry = format!("sip:{}@{}", user, host);
        prop_assert_ne!(is_listed(&entry), Some(false));
        if user != other {
            let other_aor = format!("sip:{other}@{host}");
            prop_assert_ne!(plain, aor_fingerprint(&KEY, other_aor.as_bytes()));
            let entry = format!("{other}@{host}");
            prop_assert_ne!(is_listed(&entry), Some(true));
        }
    }

    #[test]
    fn knowing_more_never_costs_more(
        contact in prop::sample::select(vec!["*", "<sip:a@h>", "<sip:a@h;sos>", "<sip:a@h>;expires=0", "<sip:a@h>;expires=0,<sip:b@h>"]),
        expires in prop::sample::select(vec!["0", "60", "x"]),
        less in any::<[bool; 5]>(),
        more in any::<[bool; 5]>(),
    ) {
        let message = plain().replace(HEADERS[5].2, contact).replace("Expires: 60", &format!("Expires: {expires}"));
        let r = register(&message);
        let class = |bits: [bool; 5]| {
            let [all_bindings, aor, unsure, followup, priority] = bits;
            classify(&r, || Known { all_bindings, aor, unsure }, followup, true, || priority)
        };
        let more: [bool; 5] = std::array::from_fn(|at| less[at] || more[at]);
        prop_assert!(class(more) <= class(less));
        if r.contacts.adding(Expires::Seconds(60)) == 0 || contact == "*" {
            prop_assert!(class([false; 5]).word() == "unregister");
        }
    }
}
