//! Facts about AoRs, binding fingerprints, refusal points and classes.
//! Forbidden here: sockets, Kamailio.

use memguard::guard::decide::class::{Known, classify};
use memguard::guard::sip::{Contact, Expires, Scanned, aor::*, scan};
use memguard::guard::terms::words::Class;

const KEY: Key = Key::new(7, 11);

fn aor(uri: &str) -> Option<u64> {
    aor_fingerprint(&KEY, uri.as_bytes())
}

#[test]
fn aors_differ_by_scheme_user_case_and_host_only() {
    let alice = aor("sip:alice@example.com");
    for other in [
        "sips:alice@example.com",
        "sip:Alice@example.com",
        "sip:alice@example.org",
        "sip:example.com",
        "sip:alic@eexample.com",
        "tel:alice",
    ] {
        assert!(aor(other).is_some());
        assert_ne!(aor(other), alice, "{other}");
    }
    assert_eq!(aor("tel:+1-201-555.0123;x=y"), aor("TEL:+1(201)5550123"));
    assert_eq!(aor("sip:a%3Bb@h"), aor("sip:a;b@h"));
    assert_ne!(
        aor_fingerprint(&Key::new(7, 12), b"sip:alice@example.com"),
        alice
    );
}

#[test]
fn an_aor_that_another_parser_cut_is_the_same_one() {
    let cut = Aor::of_parts(b"alice", b"example.com");
    let whole = aor("sip:alice@example.com");
    assert_eq!(Some(cut.fingerprint(&KEY)), whole);
}

#[test]
fn what_is_no_aor_has_no_fingerprint() {
    for uri in [
        "",
        ":",
        "sip:",
        "sip",
        "sip:@h",
        "sip:a@",
        "sip:a@b@c",
        "sip:a@h:x",
        "sip:a@[::1",
        "sip:a@[::1]x",
        "http://h",
        "urn:service:sos",
        "tel:",
    ] {
        assert_eq!(aor(uri), None, "{uri}");
    }
    assert!(aor("sip:a@[2001:DB8::1]:5060;x").is_some());
}

#[test]
fn display_is_printable_and_says_when_it_was_cut() {
    let mut buffer = [0; 16];
    let mut show = |uri: &str| {
        Aor::parse(uri.as_bytes())
            .unwrap()
            .display(&mut buffer)
            .to_string()
    };
    assert_eq!(show("sip:a%6cice@Example.COM"), "alice@example.c~");
    assert_eq!(show("sip:%00\u{e9}%0a@h"), "????@h");
    assert_eq!(show("sip:H"), "h");
    assert_eq!(
        show("sip:abcdefgh@1234567"),
        "abcdefgh@1234567",
        "just fits"
    );
    assert_eq!(show("tel:+1-2"), "+12");
    assert_eq!(Aor::parse(b"sip:a@h").unwrap().display(&mut []), "");
}

#[test]
fn the_registrars_aor_follows_its_parameters() {
    let text = |uri: &str, rules: RegistrarRules<'_>| {
        let mut buffer = [0; 512];
        let aor = Aor::parse(uri.as_bytes())?;
        let text = aor.registrar_text(&rules, &mut buffer)?;
        Some(String::from_utf8(text.to_vec()).unwrap())
    };
    let plain = RegistrarRules::default();
    let domain = RegistrarRules {
        use_domain: true,
        realm_prefix: b"sip.",
        ..plain
    };
    let exact = RegistrarRules {
        case_sensitive: true,
        ..domain
    };
    let uri = "sip:Al%69ce:pw@sip.Example.com:5060;x=y";
    assert_eq!(text(uri, plain).as_deref(), Some("alice"));
    assert_eq!(text(uri, domain).as_deref(), Some("alice@example.com"));
    assert_eq!(text(uri, exact).as_deref(), Some("Alice@example.com"));
    assert_eq!(text("sip:SIP.", domain).as_deref(), Some("sip."));
    assert_eq!(
        text("sip:+1;ext=2@h;user=phone", plain).as_deref(),
        Some("+1")
    );
    for no_phone in ["user=dialog", "method=phone"] {
        let uri = format!("sip:+1;ext=2@h;{no_phone}");
        assert_eq!(text(&uri, plain).as_deref(), Some("+1;ext=2"));
    }
    assert_eq!(text("sip:a@sip.", domain).as_deref(), Some("a@sip."));
    for (user, host, is_taken) in [(248, 248, true), (249, 9, false), (9, 249, false)] {
        let uri = format!("sip:{}@{}", "a".repeat(user), "h".repeat(host));
        assert_eq!(text(&uri, domain).is_some(), is_taken, "{user} {host}");
    }
    for refused in ["sip:a%@h", "sip:a%zz@h", "sip:a%0a@h"] {
        assert_eq!(text(refused, plain), None, "{refused}");
    }
    assert_eq!(text(&format!("sip:{}@h", "a".repeat(249)), plain), None);
}

#[test]
fn contact_uris_are_compared_as_the_rfc_says() {
    let contact = |uri: &'static str| Contact {
        uri: uri.as_bytes(),
        expires: Expires::Absent,
        instance: None,
        reg_id: None,
        sos: false,
    };
    let print = |contact: &Contact<'_>| binding_fingerprint(&KEY, 1, contact);
    let base = print(&contact("sip:a@H:5060"));
    assert_eq!(base.primary, base.by_uri);
    assert_eq!(
        base,
        print(&contact(
            "sip:%61@h:5060;alias=1~2~1;received=sip:1.2.3.4:5"
        ))
    );
    for other in [
        "sip:a@h",
        "sip:a@h:5061",
        "sip:b@h:5060",
        "sips:a@h:5060",
        "mailto:a@h:5060",
        "sip:a@h:5060;transport=tcp",
        "sip:a@h:5060;user=phone",
        "sip:a@h:5060;maddr=1.2.3.4",
        "sip:a@h:5060;ttl=1",
        "sip:a@h:5060;method=REGISTER",
        "sip:a@h:5060?subject=x",
    ] {
        let numbers = uri_fingerprints(&KEY, 1, other.as_bytes());
        assert_ne!(base.by_uri, numbers.whole, "{other}");
        assert_ne!(base.by_uri, numbers.base, "{other}");
    }
    let of = |uri: &str| uri_fingerprints(&KEY, 1, uri.as_bytes());
    let with = of("sip:a@h;transport=udp;line=a;ob");
    assert_eq!(with, of("SIP:a@H;OB;transport=UDP;LINE=A"));
    assert_eq!(with, of("sip:a@h;ob;%6cine=%61;transport=udp"));
    let changed = of("sip:a@h;ob;line=b;transport=udp");
    assert_eq!(
        (with.base, with.names),
        (changed.base, changed.names),
        "the same parameters, another value"
    );
    assert_ne!(with.whole, changed.whole);
    let more = of("sip:a@h;ob;line=a;transport=udp;x=1");
    assert_eq!(with.base, more.base);
    assert!(with.names != more.names && with.whole != more.whole);
    assert_ne!(base, binding_fingerprint(&KEY, 2, &contact("sip:a@h:5060")));
    let moved = |uri, reg_id| Contact {
        instance: Some(b"<urn:uuid:1>"),
        reg_id,
        ..contact(uri)
    };
    let (here, there) = (
        print(&moved("sip:a@h", Some(1))),
        print(&moved("sip:a@i", Some(1))),
    );
    assert_eq!(here.primary, there.primary);
    assert_ne!(here.by_uri, there.by_uri);
    assert_ne!(here.primary, print(&moved("sip:a@h", Some(2))).primary);
}

#[test]
fn a_call_id_is_told_from_others_byte_by_byte() {
    let of = |text: &str| call_id_fingerprint(&KEY, text.as_bytes());
    let ids = ["a@h", "A@h", "a@H", "b@h", "a@h ", ""];
    let numbers: std::collections::BTreeSet<u64> = ids.map(of).into();
    assert_eq!(numbers.len(), ids.len());
    assert_eq!(of("a@h"), of("a@h"));
    let other = call_id_fingerprint(&Key::new(7, 12), b"a@h");
    assert_ne!(of("a@h"), other, "another key");
}

#[test]
fn only_a_path_in_mode_2_is_beyond_the_number_and_an_instance_tells_without_it() {
    use local::{Matching::*, Stored};
    let plain = Stored::default();
    let flow = Stored {
        instance: b"<urn:uuid:1>",
        ..plain
    };
    for matching in [Contact, ContactAndCallId, ContactAndPath, CallId] {
        let told = [(plain, false), (plain, true), (flow, false), (flow, true)]
            .map(|(contact, has_path)| matching.is_told_by_number(&contact, has_path));
        assert_eq!(told, [true, matching != ContactAndPath, true, true]);
    }
}

#[test]
fn usrlocs_matching_modes_are_known_by_their_numbers() {
    use local::Matching::{self, *};
    let known = [-1, 0, 1, 2, 3, 4].map(Matching::from_number);
    let modes = [Contact, ContactAndCallId, ContactAndPath, CallId].map(Some);
    assert_eq!(known[1..5], modes);
    assert_eq!((known[0], known[5]), (None, None));
}

#[test]
fn the_numbers_of_a_contact_move_with_all_that_is_in_them() {
    use local::{dialog_number, rewriting_number, uri_number};
    let (uri, other) = (b"sip:a@192.0.2.1", b"sip:a@192.0.2.2");
    let numbers = [
        dialog_number(&KEY, uri, b"1@h"),
        dialog_number(&KEY, uri, b"2@h"),
        dialog_number(&KEY, other, b"1@h"),
        uri_number(&KEY, uri),
        uri_number(&KEY, other),
        rewriting_number(&KEY, 1, 2, uri),
        rewriting_number(&KEY, 2, 2, uri),
        rewriting_number(&KEY, 1, 1, uri),
        rewriting_number(&KEY, 1, 2, other),
        dialog_number(&Key::new(7, 12), uri, b"1@h"),
    ];
    let different = std::collections::BTreeSet::from(numbers);
    assert_eq!(different.len(), numbers.len(), "{numbers:?}");
    assert!(
        numbers.iter().all(|n| *n > 1),
        "no number of nothing: {numbers:?}"
    );
    assert_eq!(numbers[0], dialog_number(&KEY, uri, b"1@h"));
}

#[test]
fn points_are_uniform_and_move_with_the_salt() {
    let mut tenths = [0u32; 10];
    for aor in 0..10_000 {
        let point = aor_point(&KEY, 1, aor);
        assert_eq!(point, aor_point(&KEY, 1, aor));
        tenths[usize::try_from(point / 1000).unwrap()] += 1;
    }
    assert!(tenths.iter().all(|n| (850..1150).contains(n)), "{tenths:?}");
    let moved = (0..100).filter(|a| aor_point(&KEY, 1, *a) != aor_point(&KEY, 2, *a));
    assert!(moved.count() > 90);
}

#[test]
fn sos_is_an_emergency_only_while_it_counts() {
    let message = b"REGISTER sip:h SIP/2.0\r\nVia: SIP/2.0/UDP h\r\nFrom: <sip:a@h>;tag=1\r\nTo: <sip:a@h>\r\n\
        Call-ID: 1\r\nCSeq: 1 REGISTER\r\nContact: <sip:a@h;sos>\r\n\r\n";
    let Scanned::Register(register) = scan(message) else {
        panic!("a REGISTER");
    };
    let class = |counts, listed| classify(&register, Known::default, false, counts, || listed);
    assert_eq!(class(true, false), Class::Priority);
    assert_eq!(class(false, false), Class::New);
    assert_eq!(class(false, true), Class::Priority);
}

#[test]
fn the_class_follows_the_contracts_order() {
    let class = |contact: &str, expires: &str, known: Known, followup, priority| {
        let message = format!(
            "REGISTER sip:h SIP/2.0\r\nVia: SIP/2.0/UDP h\r\nFrom: <sip:a@h>;tag=1\r\nTo: <sip:a@h>\r\n\
             Call-ID: 1\r\nCSeq: 1 REGISTER\r\n{contact}{expires}\r\n"
        );
        match scan(message.as_bytes()) {
            Scanned::Register(r) => classify(&r, || known, followup, true, || priority),
            other => panic!("{other:?}"),
        }
    };
    let nothing = Known::default();
    let all = Known {
        all_bindings: true,
        aor: true,
        unsure: true,
    };
    let aor = Known {
        aor: true,
        ..nothing
    };
    let unsure = Known {
        unsure: true,
        ..nothing
    };
    let (one, zero, sos) = ("m: <sip:a@h>\r\n", "Expires: 0\r\n", "m: <sip:a@h;sos>\r\n");
    let nine = format!("m: {}\r\n", ["<sip:a@h>"; 9].join(","));
    for (contact, expires, known, followup, priority, want) in [
        (one, zero, nothing, false, false, Class::Unregister),
        ("m: *\r\n", zero, nothing, false, false, Class::Unregister),
        ("m: *\r\n", "", nothing, true, true, Class::Unregister),
        (
            "m: <sip:a@h>, *\r\n",
            "",
            nothing,
            false,
            false,
            Class::Unregister,
        ),
        (
            "m: <sip:a@h>;expires=0\r\n",
            "Expires: 9\r\n",
            nothing,
            false,
            false,
            Class::Unregister,
        ),
        (
            "m: <sip:a@h>;expires=9\r\n",
            zero,
            nothing,
            false,
            false,
            Class::New,
        ),
        (
            "m: <sip:a@h>;expires=x\r\n",
            zero,
            nothing,
            false,
            false,
            Class::New,
        ),
        (
            "m: <sip:a@h>;expires=0,<sip:b@h>\r\n",
            "",
            nothing,
            false,
            false,
            Class::New,
        ),
        ("", zero, nothing, true, true, Class::Query),
        (one, "", all, true, true, Class::Followup),
        (one, "", all, false, true, Class::Refresh),
        (&nine, "", all, false, false, Class::Refresh),
        (one, "", aor, false, true, Class::Priority),
        (sos, "", nothing, false, false, Class::Priority),
        (
            "m: <sip:a@h;sos>;expires=0,<sip:b@h>\r\n",
            "",
            nothing,
            false,
            false,
            Class::New,
        ),
        (one, "", aor, false, false, Class::Returning),
        (one, "", unsure, false, false, Class::Returning),
        (one, "", nothing, false, false, Class::New),
    ] {
        let got = class(contact, expires, known, followup, priority);
        assert_eq!(got, want, "{contact:?} {expires:?} {known:?}");
    }
}
