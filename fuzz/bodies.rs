//! What every fuzz target asserts, as plain functions: cargo-fuzz calls them, and so does the replay in `cargo test`.
//! Forbidden here: anything that depends on the fuzzer.

use memguard::guard::config::{
    filters,
    params::{Int, check_int, parse_int},
    priority,
};
use memguard::guard::decide::class::{Known, classify};
use memguard::guard::sip::{
    Register, Scanned,
    aor::{
        Aor, Key, RegistrarRules, aor_point, binding_fingerprint,
        local::{Matching, Stored, is_same, stored_number},
        uri_fingerprints,
    },
    reply::{MAX_REPLY, Refusal, build, via_port},
    scan,
};

const KEY: Key = Key::new(7, 11);

fn lies_within(part: &[u8], whole: &[u8]) {
    if !part.is_empty() {
        let (from, to) = (whole.as_ptr_range(), part.as_ptr_range());
        assert!(
            from.start <= to.start && to.end <= from.end,
            "text that is not the message's"
        );
    }
}

/// The scanner: any bytes, no panic, and everything it shows is part of the message.
pub fn scanned(message: &[u8]) {
    match scan(message) {
        Scanned::Register(register) => {
            for part in [
                register.to_uri,
                register.call_id,
                register.cseq,
                register.top_via,
                register.from,
                register.to,
            ] {
                lies_within(part, message);
            }
            assert!(register.via_count >= 1 && !register.call_id.is_empty());
            assert!(register.contacts.kept().len() <= register.contacts.total as usize);
            for contact in register.contacts.kept() {
                lies_within(contact.uri, message);
                lies_within(contact.instance.unwrap_or_default(), message);
            }
            decided(&register);
        }
        Scanned::Reply(reply) => {
            lies_within(reply.call_id, message);
            lies_within(reply.to_uri, message);
            assert!(reply.status < 1000);
        }
        Scanned::Other | Scanned::NotUnderstood(_) => (),
    }
}

/// The class: knowing more never makes it costlier.
fn decided(register: &Register<'_>) {
    let class = |all_bindings, aor, unsure, followup, listed| {
        classify(
            register,
            || Known {
                all_bindings,
                aor,
                unsure,
            },
            followup,
            true,
            || listed,
        )
    };
    let stranger = class(false, false, false, false, false);
    assert!(class(false, false, true, false, false) <= stranger);
    assert!(class(false, true, false, false, false) <= stranger);
    assert!(class(true, true, false, false, false) <= class(false, true, false, false, false));
    assert!(class(false, false, false, false, true) <= stranger);
    assert!(
        class(false, false, false, true, false)
            <= class(true, true, false, false, false).max(stranger)
    );
    let Some(aor) = Aor::parse(register.to_uri) else {
        return;
    };
    let fp = aor.fingerprint(&KEY);
    assert!(aor_point(&KEY, 3, fp) < 10_000);
    let mut text = [0u8; 512];
    aor.registrar_text(
        &RegistrarRules {
            use_domain: true,
            ..RegistrarRules::default()
        },
        &mut text,
    );
    assert!(aor.display(&mut text[..64]).len() <= 64);
    for contact in register.contacts.kept() {
        let numbers = binding_fingerprint(&KEY, fp, contact);
        assert_eq!(numbers, binding_fingerprint(&KEY, fp, contact));
    }
}

/// The comparison of contacts: of two texts (cut at the first LF), by the RFC and as a local usrloc compares them.
pub fn compared(bytes: &[u8]) {
    let cut = bytes
        .iter()
        .position(|b| *b == b'\n')
        .unwrap_or(bytes.len());
    let (one, two) = (&bytes[..cut], bytes.get(cut + 1..).unwrap_or_default());
    let numbers = |uri: &[u8]| uri_fingerprints(&KEY, 3, uri);
    let (a, b) = (numbers(one), numbers(two));
    assert_eq!(a, numbers(one));
    assert_eq!(a.names.is_none(), a.whole == a.base);
    if a.whole == b.whole {
        assert_eq!(a, b, "what is equal is equal in every part");
    }
    // Unless a quote or an escape is cut apart, one parameter more leaves what must be the same.
    if Aor::parse(one).is_some() && !one.contains(&b'?') {
        let more = numbers(&[one, b";zzzzzz=1"].concat());
        assert_eq!(more.base, a.base);
        assert_ne!(more.whole, a.whole);
        let other = numbers(&[one, b";zzzzzz=2"].concat());
        assert_eq!((other.base, other.names), (more.base, more.names));
        assert_ne!(other.whole, more.whole);
    }
    for mode in 0..4 {
        let matching = Matching::from_number(mode).expect("one of four");
        for (instance, others) in [(&b""[..], &b""[..]), (one, two)] {
            let stored = |text| {
                move |instance| Stored {
                    uri: text,
                    call_id: text,
                    instance,
                    reg_id: 0,
                }
            };
            let (x, y) = (stored(one)(instance), stored(two)(others));
            let number = |c: &Stored<'_>| stored_number(&KEY, matching, 1, c);
            if x.instance.is_empty() == y.instance.is_empty() {
                assert_eq!(is_same(matching, &x, &y, || true), number(&x) == number(&y));
            }
        }
    }
}

/// The reply: whatever REGISTER was understood, its refusal is a reply that our own scanner reads back.
pub fn replied(message: &[u8]) {
    let Scanned::Register(register) = scan(message) else {
        return;
    };
    let refusal = Refusal {
        code: 503,
        reason: "Server Memory Low",
        retry_after: 1800,
        tag: u64::MAX,
        source: "2001:db8::1",
        source_port: 65535,
    };
    via_port(register.top_via, "192.0.2.1");
    let mut buffer = vec![0u8; MAX_REPLY];
    let Some(length) = build(&register, &refusal, &mut buffer) else {
        assert!(
            message.len() * 2 > MAX_REPLY,
            "a small request got no reply: {}",
            String::from_utf8_lossy(message)
        );
        return;
    };
    match scan(&buffer[..length]) {
        Scanned::Reply(reply) => {
            assert_eq!(
                (reply.status, reply.call_id, reply.cseq_number),
                (503, register.call_id, register.cseq_number)
            );
            assert_eq!(reply.via_count, register.via_count);
        }
        other => panic!("the refusal reads back as {other:?}"),
    }
}

/// What the kernel says by rtnetlink, and frames of other machines: any bytes, in any order, to one watch.
pub fn watched(bytes: &[u8]) {
    use memguard::guard::net::{arp::Arp, row::Row, rtnetlink::messages, said::Said, watch::Watch};
    let row = |address: [u8; 4], roles| Row::new(address.into(), roles, 1);
    let mut watch = Watch::new(&[row([10, 0, 0, 1], 1), row([10, 0, 0, 2], 6)], true, false);
    watch.begin_listing();
    watch.end_listing();
    let mut now = 1000;
    // A piece in front of each half: as a datagram of the kernel, and as a frame.
    for piece in bytes.chunks(bytes.len() / 2 + 1).chain([bytes]) {
        for message in messages(piece) {
            watch.hear(&message.says, now);
        }
        if let Some(arp) = Arp::parse(piece) {
            watch.frame(&arp, now);
        }
        now += 1500;
        watch.settle(now);
        assert!(watch.take_changes().count() <= 8);
        for row in watch.rows() {
            assert_eq!(Row::from_words(&row.to_words()), Some(*row));
            let said = Said(row, now).to_string();
            assert!(!said.is_empty() && said.chars().all(|c| !c.is_control()));
        }
        assert!(watch.sums().missing <= 2);
    }
}

/// Arguments of commands and values of parameters, as an operator or a script may type them.
pub fn argued(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let words: Vec<&str> = text.split_whitespace().collect();
    let _ = filters::workers(&words);
    let _ = filters::sites(&words);
    let _ = priority::parse_change(&words);
    let _ = filters::events(&words);
    let _ = filters::refusals(&words);
    let _ = filters::mode(&words);
    let _ = filters::shed(&words);
    let _ = filters::reset(&words);
    let _ = filters::history(&words);
    let _ = filters::check(&words);
    let _ = filters::diff(&words);
    for word in &words {
        let _ = memguard::guard::config::addresses::parse_address("address_expect", word);
    }
    for param in Int::ALL {
        if let Ok(value) = parse_int(*param, &text) {
            assert_eq!(check_int(*param, value), Ok(value));
        }
    }
    let entries = [
        priority::parse_aor(&text),
        priority::parse_domain(&text),
        priority::parse_source(&text),
    ];
    for entry in entries.into_iter().flatten() {
        assert_eq!(priority::Entry::from_words(&entry.to_words()), entry);
    }
}
