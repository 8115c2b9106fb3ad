//! Properties of the SIP scanner, the AoR fingerprints and the class:
//! * no bytes make the scanner panic, nor a REGISTER that was changed or cut anywhere;
//! * compact names, letter case, folds, header order and line ends do not change what is read;
//! * an AoR's fingerprint is the same however it is spelled, and differs for another user;
//! * knowing more never makes a REGISTER's class costlier.

use memguard::guard::aor::{Aor, Key, aor_fingerprint, binding_fingerprint};
use memguard::guard::class::{Known, classify};
use memguard::guard::sip::{Expires, Register, Scanned, scan};
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
        host in "[a-z][a-z0-9.-]{0,70}",
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
        prop_assert!(parsed.is_listed(user.as_bytes()));
        let entry = format!("sip:{}@{}", user, host);
        prop_assert!(parsed.is_listed(entry.as_bytes()));
        if user != other {
            let other_aor = format!("sip:{other}@{host}");
            prop_assert_ne!(plain, aor_fingerprint(&KEY, other_aor.as_bytes()));
            let entry = format!("{other}@{host}");
            prop_assert!(!parsed.is_listed(entry.as_bytes()));
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
