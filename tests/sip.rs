//! Facts about the SIP scanner, message by message; RFC 4475's cases that begin like a REGISTER are among them.
//! Forbidden here: sockets, Kamailio.

use memguard::guard::sip::aor::local::{Matching, Stored, is_same};
use memguard::guard::sip::{Contact, Expires, Found, Register, Reply, Scanned, Why, scan};

const PHONE: &str = "REGISTER sip:example.com SIP/2.0\r\n\
    Via: SIP/2.0/UDP 192.0.2.7:5060;branch=z9hG4bK776asdhds;rport\r\n\
    Max-Forwards: 70\r\n\
    To: \"Alice, <the> \\\"first\\\"\" <sip:alice@example.com>\r\n\
    From: Alice <sip:alice@example.com>;tag=456248\r\n\
    Call-ID: 843817637684230@998sdasdh09\r\n\
    CSeq: 1826 REGISTER\r\n\
    Contact: <sip:alice@192.0.2.7:5060;transport=udp>;expires=600;+sip.instance=\"<urn:uuid:1>\";reg-id=1\r\n\
    Expires: 7200\r\n\
    Content-Length: 0\r\n\r\n";

fn register(message: &str) -> Register<'_> {
    match scan(message.as_bytes()) {
        Scanned::Register(register) => register,
        other => panic!("{other:?}"),
    }
}

fn reply(message: &str) -> Reply<'_> {
    match scan(message.as_bytes()) {
        Scanned::Reply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

fn not_understood(message: &str) -> Option<Why> {
    match scan(message.as_bytes()) {
        Scanned::NotUnderstood(why) => Some(why),
        _ => None,
    }
}

fn with_contact(contact: &str) -> String {
    let (head, tail) = PHONE.split_once("Contact: ").unwrap();
    let (_, tail) = tail.split_once("\r\n").unwrap();
    format!("{head}Contact: {contact}\r\n{tail}")
}

#[test]
fn everything_a_decision_and_a_reply_need_is_read() {
    let r = register(PHONE);
    assert_eq!(r.ruri, b"sip:example.com");
    assert_eq!(r.via_count, 1);
    assert!(r.top_via.ends_with(b";rport"));
    assert_eq!(r.to_uri, b"sip:alice@example.com");
    assert!(!r.to_has_tag);
    assert_eq!(r.from, b"Alice <sip:alice@example.com>;tag=456248");
    assert_eq!(r.from_uri(), Some(&b"sip:alice@example.com"[..]));
    assert_eq!(r.call_id, b"843817637684230@998sdasdh09");
    assert_eq!((r.cseq, r.cseq_number), (&b"1826 REGISTER"[..], 1826));
    assert_eq!(r.expires, Expires::Seconds(7200));
    assert!(!r.has_credentials);
    let [contact] = r.contacts.kept() else {
        panic!("{:?}", r.contacts)
    };
    assert_eq!(contact.uri, b"sip:alice@192.0.2.7:5060;transport=udp");
    assert_eq!(contact.expires, Expires::Seconds(600));
    assert_eq!(contact.instance, Some(&b"<urn:uuid:1>"[..]));
    assert_eq!(contact.reg_id, Some(1));
    assert!(!contact.sos);
}

/// RFC 4475 3.1.1.1 in the shape of a REGISTER: folds everywhere, odd cases, blanks before colons, unknown headers.
#[test]
fn a_short_tortuous_register_is_understood() {
    let r = register(
        "\r\n\r\nREGISTER sip:example.com;unknownparam SIP/2.0\r\n\
         TO :\r\n sip:vivekg@example.com ;   tag    = 1918181833n\r\n\
         from   : \"J Rosenberg \\\\\\\"\"       <sip:jdrosen@example.com>\r\n  ;\r\n  tag = 98asjd8\r\n\
         MaX-fOrWaRdS: 0068\r\n\
         Call-ID: wsinv.ndaksdj@192.0.2.1\r\n\
         cseq: 0009\r\n  REGISTER\r\n\
         Via  : SIP  /   2.0\r\n /UDP\r\n    192.0.2.2;branch=390skdjuw\r\n\
         s :\r\n\
         NewFangledHeader:   newfangled value\r\n continued newfangled value\r\n\
         UnknownHeaderWithUnusualValue: ;;,,;;,;\r\n\
         v:  SIP  / 2.0  / TCP     spindle.example.com   ;\r\n  branch  =   z9hG4bK9ikj8  ,\r\n SIP  /    2.0   / UDP  192.168.255.111   ; branch=\r\n z9hG4bK30239\r\n\
         m:\"Quoted string \\\"\\\"\" <sip:jdrosen@example.com> ; newparam =\r\n      newvalue ;\r\n  secondparam ; q = 0.33\r\n\r\n",
    );
    assert_eq!(r.to_uri, b"sip:vivekg@example.com");
    assert!(r.to_has_tag);
    assert_eq!(
        r.from_uri(),
        None,
        "such a name is left to Kamailio's parser"
    );
    assert_eq!(r.cseq_number, 9);
    assert_eq!(r.via_count, 3);
    assert_eq!(r.via_headers().count(), 2);
    assert_eq!(r.contacts.kept()[0].uri, b"sip:jdrosen@example.com");
}

/// RFC 4475 3.1.1.6: a parameter behind brackets is the header's, inside them the URI's.
#[test]
fn contact_parameters_outside_brackets_are_the_headers() {
    let inside = with_contact("<sip:+19725552222@192.0.2.2;sos;expires=5>");
    let outside = with_contact("sip:+19725552222@192.0.2.2;sos;expires=5");
    let (inside, outside) = (register(&inside), register(&outside));
    assert!(inside.contacts.kept()[0].sos && !outside.contacts.kept()[0].sos);
    assert_eq!(inside.contacts.kept()[0].expires, Expires::Absent);
    assert_eq!(outside.contacts.kept()[0].expires, Expires::Seconds(5));
}

#[test]
fn sos_counts_only_as_a_parameter_of_the_uri() {
    for (uri, sos) in [
        ("sip:a@h;ob;SOS", true),
        ("sip:a@h;sos=1?x=y", true),
        ("sip:a;sos@h", false),
        ("sip:a@h?sos", false),
        ("sip:a@h;sosx", false),
        ("sip:sos@sos", false),
    ] {
        let message = with_contact(&format!("<{uri}>"));
        assert_eq!(register(&message).contacts.kept()[0].sos, sos, "{uri}");
    }
}

#[test]
fn commas_in_quotes_and_brackets_separate_nothing() {
    let message =
        with_contact("\"a,b\\\",\" <sip:a,b@h>;x=\",\", sip:c@h;expires=0 ,\r\n <sip:d@h>");
    let r = register(&message);
    let uris: Vec<_> = r.contacts.kept().iter().map(|c| c.uri).collect();
    assert_eq!(uris, [&b"sip:a,b@h"[..], b"sip:c@h", b"sip:d@h"]);
    assert_eq!(r.contacts.adding(r.expires), 2);
    assert_eq!(r.contacts.adding(Expires::Seconds(0)), 0);
}

#[test]
fn contacts_beyond_those_kept_are_counted_with_their_expiry() {
    let message = with_contact(&["<sip:a@h>;expires=0"; 9].join(","));
    let r = register(&message);
    assert_eq!((r.contacts.total, r.contacts.kept().len()), (9, 8));
    assert!(!r.contacts.are_all_kept());
    assert_eq!(r.contacts.adding(Expires::Absent), 0);
}

#[test]
fn a_star_is_reported_with_whatever_stands_beside_it() {
    let (alone, beside) = (with_contact("*"), with_contact("<sip:a@h>, *"));
    assert!(register(&alone).contacts.star);
    let beside = register(&beside);
    assert!(beside.contacts.star);
    assert_eq!(beside.contacts.total, 1);
}

/// RFC 4475 3.1.2.4 and RFC 3261 20.19: large numbers clamp; Kamailio takes no header of more than ten digits.
#[test]
fn expires_values_clamp_and_garbage_is_not_zero() {
    for (text, want) in [
        ("3600", Expires::Seconds(3600)),
        ("0", Expires::Seconds(0)),
        ("0 ;x", Expires::Seconds(0)),
        ("0000000600", Expires::Seconds(600)),
        ("4294967296", Expires::Seconds(u32::MAX)),
        ("100000000000000000000", Expires::Seconds(u32::MAX)),
        ("00000000000", Expires::Seconds(u32::MAX)),
        ("-1", Expires::Garbage),
        ("", Expires::Garbage),
        ("Thu, 01 Dec 1994 16:00:00 GMT", Expires::Garbage),
    ] {
        let message = PHONE.replace("Expires: 7200", &format!("Expires: {text}"));
        assert_eq!(register(&message).expires, want, "{text:?}");
    }
    for (param, want) in [
        ("expires=", Expires::Absent),
        ("expires=\"0\"", Expires::Seconds(0)),
        ("expires=+0", Expires::Seconds(0)),
        ("expires=1;EXPIRES=0", Expires::Seconds(0)),
        ("expires=never", Expires::Garbage),
        ("expires=60=0", Expires::Garbage),
        ("methods=0", Expires::Absent),
        ("expires=1000000000000", Expires::Seconds(u32::MAX)),
    ] {
        let message = with_contact(&format!("<sip:a@h>;{param}"));
        assert_eq!(
            register(&message).contacts.kept()[0].expires,
            want,
            "{param}"
        );
    }
}

#[test]
fn what_kamailio_tolerates_is_tolerated() {
    register(&PHONE.replace("\r\n", "\n"));
    register(&PHONE.replace("REGISTER", "Register"));
    register(&PHONE.replace("SIP/2.0\r\n", "  sip/2.0 \r\n"));
    register(
        PHONE
            .trim_end_matches("\r\n\r\n")
            .rsplit_once("Content")
            .unwrap()
            .0,
    );
    register(&format!("\0\r\n \t{PHONE}"));
    register(&PHONE.replace("\r\n\r\n", "\r\n\r\nTo: body, not a header"));
}

#[test]
fn what_is_broken_is_left_to_kamailio_with_a_reason() {
    for (from, to, why) in [
        (
            "REGISTER sip:example.com",
            "REGISTER  sip:example.com",
            Why::StartLine,
        ),
        (
            "example.com SIP/2.0\r\n",
            "example.com SIP/3.0\r\n",
            Why::StartLine,
        ),
        ("example.com SIP/2.0\r\n", "example.com\r\n", Why::StartLine),
        ("Max-Forwards: 70", "Max-Forwards 70", Why::HeaderLine),
        ("Max-Forwards", "Max Forwards", Why::HeaderLine),
        (
            "Content-Length: 0\r\n\r\n",
            "Content-Length: 0",
            Why::CutOff,
        ),
        (
            "Call-ID: 843817637684230@998sdasdh09",
            "Call-ID:",
            Why::Missing,
        ),
        ("Via:", "Vja:", Why::Missing),
        ("To:", "T0:", Why::Missing),
        ("Max-Forwards: 70", "t: <sip:b@h>", Why::Duplicate),
        ("Max-Forwards: 70", "i: x", Why::Duplicate),
        ("Via: SIP/2.0", "Via: HTTP/2.0", Why::Via),
        (
            "<sip:alice@example.com>\r\n",
            "<sip:alice@example.com\r\n",
            Why::Address,
        ),
        ("\\\"first\\\"\"", "\\\"first\\\"", Why::Address),
        (
            "<sip:alice@example.com>\r\n",
            "<sip:ali ce@h>\r\n",
            Why::Address,
        ),
        ("1826 REGISTER", "1826 INVITE", Why::CSeq),
        ("1826 REGISTER", "36893488147419103232 REGISTER", Why::CSeq),
        ("1826 REGISTER", "1826", Why::CSeq),
        ("Contact: <sip", "Contact: \"<sip", Why::Contact),
        ("reg-id=1", "reg-id=1,\"", Why::Contact),
        // What stands in the way twice is no less in the way.
        ("sip:alice@192", "sip:alice  @192", Why::Contact),
        ("sip:alice@192", "sip:alice\"\"@192", Why::Contact),
        // An unquoted name with a colon, and marks that Kamailio takes otherwise.
        ("Contact: <", "Contact: sip:a <", Why::Contact),
        ("reg-id=1", "x=<y>", Why::Contact),
        ("reg-id=1", "x='y'", Why::Contact),
        ("reg-id=1", "x=\"y\\\"z\"", Why::Contact),
        ("reg-id=1", "x=\"y\"z", Why::Contact),
    ] {
        let message = PHONE.replacen(from, to, 1);
        assert_ne!(message, PHONE, "{from}");
        assert_eq!(not_understood(&message), Some(why), "{to}");
    }
}

#[test]
fn other_traffic_is_dismissed() {
    for message in [
        "",
        "\r\n\r\n",
        "\0\0\0\0",
        "OPTIONS sip:x SIP/2.0\r\nVia: SIP/2.0/UDP h\r\n\r\n",
        "REGISTERED sip:x SIP/2.0\r\n",
        "REFER sip:x SIP/2.0\r\n",
        "SUBSCRIBE sip:x SIP/2.0\r\n",
        "\u{1}\u{2}garbage",
        "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h\r\nCSeq: 1 INVITE\r\nthis line is never reached\r\n",
    ] {
        assert!(
            matches!(scan(message.as_bytes()), Scanned::Other),
            "{message:?}"
        );
    }
}

#[test]
fn a_reply_tells_what_was_granted() {
    let r = reply(
        "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP a;branch=1, SIP/2.0/UDP b;branch=2\r\n\
         From: <sip:alice@example.com>;tag=1\r\nTo: <sip:alice@example.com>;tag=2\r\n\
         Call-ID: abc\r\nCSeq: 7 REGISTER\r\n\
         Contact: <sip:alice@192.0.2.7:5060>;expires=120, <sip:alice@192.0.2.8>;q=0.5;expires=60;reg-id=0\r\n\r\n",
    );
    assert_eq!((r.status, r.via_count, r.cseq_number), (200, 2, 7));
    assert_eq!(
        (r.call_id, r.to_uri),
        (&b"abc"[..], &b"sip:alice@example.com"[..])
    );
    let granted: Vec<_> = r
        .contacts
        .kept()
        .iter()
        .map(|c| c.expires.seconds())
        .collect();
    assert_eq!(granted, [Some(120), Some(60)]);
    assert_eq!(r.contacts.kept()[1].reg_id, None);
}

#[test]
fn via_headers_come_back_whole_and_in_order() {
    let message = PHONE.replace(
        "Max-Forwards: 70",
        "v: SIP/2.0/TCP a;branch=1,\r\n SIP/2.0/UDP b;branch=2\r\nMax-Forwards: 70\r\nVIA : SIP/2.0/UDP c",
    );
    let r = register(&message);
    assert_eq!(r.via_count, 4);
    let vias: Vec<_> = r.via_headers().collect();
    assert_eq!(vias.len(), 3);
    assert_eq!(vias[0], r.top_via);
    assert_eq!(
        vias[1],
        b"SIP/2.0/TCP a;branch=1,\r\n SIP/2.0/UDP b;branch=2"
    );
    assert_eq!(vias[2], b"SIP/2.0/UDP c");
}

#[test]
fn credentials_of_either_kind_are_seen() {
    for name in ["Authorization", "PROXY-authorization"] {
        let message = PHONE.replace(
            "Max-Forwards: 70",
            &format!("{name}: Digest username=\"a\""),
        );
        assert!(register(&message).has_credentials);
    }
}

#[test]
fn a_reply_has_the_via_of_the_request_below_the_top_one() {
    let of = |vias: &str| {
        format!(
            "SIP/2.0 200 OK\r\n{vias}From: <sip:a@h>;tag=1\r\nTo: <sip:a@h>;tag=2\r\nCall-ID: 1\r\n\
             CSeq: 1 REGISTER\r\n\r\n"
        )
    };
    let second = |vias: &str| match scan(of(vias).as_bytes()) {
        Scanned::Reply(reply) => String::from_utf8_lossy(reply.second_via).into_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(second("Via: SIP/2.0/UDP a\r\n"), "");
    assert_eq!(
        second("Via: SIP/2.0/UDP a\r\nv: SIP/2.0/TCP b;branch=c\r\nVia: SIP/2.0/UDP d\r\n"),
        "SIP/2.0/TCP b;branch=c"
    );
    assert_eq!(
        second("Via: SIP/2.0/UDP a , SIP/2.0/UDP b;x,SIP/2.0/UDP c\r\n"),
        "SIP/2.0/UDP b;x"
    );
}

#[test]
fn contacts_come_in_the_order_in_which_kamailios_registrar_takes_them() {
    let turn = |contacts: &str| -> Vec<String> {
        let message = with_contact(contacts);
        let found = register(&message);
        let in_turn: Vec<_> = found.contacts_in_turn(true).collect();
        let mut sorted = in_turn.clone();
        sorted.sort_by_key(|contact| contact.uri.as_ptr());
        let plain: Vec<_> = found.contacts_in_turn(false).collect();
        assert_eq!(plain, sorted, "without it: as they stand");
        let uris = in_turn.into_iter().map(|contact| contact.uri.to_vec());
        uris.map(|uri| String::from_utf8(uri).unwrap()).collect()
    };
    assert_eq!(turn("<sip:a@h>"), ["sip:a@h"]);
    assert_eq!(turn("<sip:a@h>, <sip:b@h>"), ["sip:b@h", "sip:a@h"]);
    assert_eq!(
        turn("<sip:a@h>,<sip:b@h>\r\nX: y\r\nm: <sip:c@h>, sip:d@h;q=1\r\nContact: <sip:e@h>"),
        ["sip:b@h", "sip:a@h", "sip:d@h", "sip:c@h", "sip:e@h"]
    );
    // Of more than are kept: as they stand.
    let many: Vec<String> = (0..12).map(|place| format!("sip:u{place}@h")).collect();
    let lines: Vec<String> = many.iter().map(|uri| format!("<{uri}>")).collect();
    assert_eq!(turn(&lines.join(",")), many);
}

#[test]
fn only_the_first_edge_says_ob() {
    for (path, says) in [
        ("", false),
        ("Path: <sip:e.test;lr>\r\n", false),
        ("Path: <sip:e.test;lr;ob>\r\n", true),
        ("Path: <sip:ob@e.test;lr>\r\n", false),
        ("Path: <sip:e.test;OB;lr>, <sip:f.test;lr>\r\n", true),
        ("Path: <sip:f.test;lr>, <sip:e.test;lr;ob>\r\n", false),
        (
            "Path: <sip:f.test;lr>\r\nPath: <sip:e.test;lr;ob>\r\n",
            false,
        ),
        ("Path: <sip:f.test;lr>;ob\r\n", false),
    ] {
        let message = PHONE.replace("Expires:", &format!("{path}Expires:"));
        assert_eq!(register(&message).edge_says_ob(), says, "{path}");
    }
}

#[test]
fn what_another_parser_found_is_counted_and_kept() {
    let headers = "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1 , SIP/2.0/UDP 192.0.2.2\r\n\
        To: <sip:a@h>\r\nv: SIP/2.0/TCP 192.0.2.3\r\n\r\n";
    let found = Found {
        from_first_via: headers.as_bytes(),
        cseq: b"4711 REGISTER",
        ..Found::default()
    };
    let mut register = Register::found(&found).expect("it has a Via");
    assert_eq!((register.via_count, register.cseq_number), (3, 4711));
    assert_eq!(register.top_via, b"SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1");
    assert_eq!(register.via_headers().count(), 2);
    assert!(format!("{register:?}").contains("2 Via headers"));
    assert_eq!(Reply::found(&found).cseq_number, 4711);
    for odd in ["", "REGISTER", "4294967296 REGISTER"] {
        let found = Found {
            cseq: odd.as_bytes(),
            ..found
        };
        assert_eq!(Reply::found(&found).cseq_number, 0, "{odd}");
    }
    let uris: Vec<String> = (0..40).map(|i| format!("sip:a@192.0.2.{i}")).collect();
    for uri in &uris {
        register.contacts.add_found(uri.as_bytes(), b"", b"", b"");
    }
    let kept = register.contacts.kept().len();
    assert!(kept < uris.len() && register.contacts.total == 40);
    assert_eq!(
        register.every_contact().count(),
        kept,
        "the rest stands in no header that memguard reads"
    );
}

#[test]
fn contacts_that_another_parser_found_read_like_the_scanners() {
    let mut found = Reply::found(&Found::default()).contacts;
    found.add_found(b"sip:a@h", b"60", b"<urn:uuid:1>", b"2");
    found.add_found(b"sip:b@h", b"", b"", b"0");
    found.add_found(b"*", b"", b"", b"");
    assert!(found.star);
    let of = |contact: &Contact<'_>| (contact.expires, contact.instance.is_some(), contact.reg_id);
    let kept: Vec<_> = found.kept().iter().map(of).collect();
    assert_eq!(
        kept,
        [
            (Expires::Seconds(60), true, Some(2)),
            (Expires::Absent, false, None)
        ]
    );
}

#[test]
fn each_matching_mode_compares_what_it_names_and_nothing_else() {
    let of = |is_same: bool| Stored {
        uri: if is_same { b"sip:a@h" } else { b"sip:b@h" },
        call_id: b"1",
        instance: b"",
        reg_id: 0,
    };
    for bits in 0..8 {
        let [uri, call_id, path] = [1, 2, 4].map(|bit| bits & bit != 0);
        let asked = Stored {
            call_id: if call_id { b"1" } else { b"2" },
            ..of(uri)
        };
        let found = [0, 1, 2, 3].map(|mode| {
            let matching = Matching::from_number(mode).unwrap();
            is_same(matching, &asked, &of(true), || path)
        });
        let expected = [uri, uri && call_id, uri && path, call_id];
        assert_eq!(found, expected, "{uri} {call_id} {path}");
    }
}

#[test]
fn parameters_and_headers_of_the_same_length_are_others() {
    let message = with_contact("<sip:a@h>;string=7;+sip.extender=x;methods=0");
    let contact = register(&message).contacts.kept()[0];
    assert_eq!((contact.reg_id, contact.instance), (None, None));
    for header in ["X-Device-Name", "P-Preferred-Service"] {
        let message = PHONE.replace("Max-Forwards", header);
        assert!(!register(&message).has_credentials, "{header}");
    }
}

#[test]
fn the_first_of_two_expires_headers_counts() {
    let message = PHONE.replace("Expires: 7200", "Expires: 7200\r\nExpires: 0");
    assert_eq!(register(&message).expires, Expires::Seconds(7200));
}

#[test]
fn the_values_of_all_paths_are_joined_as_the_registrar_stores_them() {
    for (path, joined) in [
        ("", ""),
        ("Path: <sip:e.test;lr>\r\n", "<sip:e.test;lr>"),
        (
            "Path: <sip:f.test;lr>\r\nSupported: path\r\npath:  <sip:e.test;lr> , <sip:g.test>\r\n",
            "<sip:f.test;lr>,<sip:e.test;lr> , <sip:g.test>",
        ),
    ] {
        let message = PHONE.replace("Expires:", &format!("{path}Expires:"));
        let register = register(&message);
        assert_eq!(register.has_path(), !path.is_empty());
        // A form that the scanner leaves to Kamailio's parser is read in another way.
        let parsed = Register::found(&Found {
            ruri: register.ruri,
            from_first_via: &message.as_bytes()[message.find("Via:").expect("a Via")..],
            from: register.from,
            to: register.to,
            to_uri: register.to_uri,
            to_has_tag: register.to_has_tag,
            call_id: register.call_id,
            cseq: register.cseq,
            expires: None,
            has_credentials: false,
        })
        .expect("it has a Via");
        assert_eq!(parsed.has_path(), !path.is_empty());
        for register in [register, parsed] {
            let bytes: Vec<u8> = register.path_bytes().collect();
            assert_eq!(String::from_utf8(bytes).as_deref(), Ok(joined));
        }
    }
}
