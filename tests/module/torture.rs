//! Messages that parsers trip over: RFC 4475's that are or could be a REGISTER, malformed REGISTERs, sizes, noise.
//! Forbidden here: sending them.

/// The head that every REGISTER of this file shares, up to its own headers.
fn register(user: &str, lines: &[&str]) -> Vec<u8> {
    let mut text = format!(
        "REGISTER sip:example.test SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;rport;branch=z9hG4bK-{user}\r\nMax-Forwards: 70\r\nFrom: <sip:{user}@example.test>;tag=1\r\nCSeq: 1 REGISTER\r\n"
    );
    lines.iter().for_each(|line| text += &format!("{line}\r\n"));
    text += "\r\n";
    text.into_bytes()
}

const TO: &str = "To: <sip:tortured@example.test>";
const CALL_ID: &str = "Call-ID: torture@127.0.0.1";
const CONTACT: &str = "Contact: <sip:tortured@192.0.2.1>";

/// Well-formed REGISTERs that add a binding and look strange (RFC 4475 3.1.1, 3.3 and RFC 3261's compact forms).
pub fn strange_registers() -> Vec<Vec<u8>> {
    let with = |lines: &[&str]| register("s", lines);
    vec![
        with(&[
            "t :\r\n <sip:strange1@example.test>",
            "I: a1",
            "m: \"Quoted \\\"\\\"\" <sip:a@192.0.2.1>;newparam=\r\n x;q=0.33",
        ]),
        with(&[
            "TO: sip:strange2@example.test",
            "call-id: a2",
            CONTACT,
            "Expires  : 0000060",
        ]),
        // 3.1.1.5: an escaped nul in the user
        with(&[
            "To: <sip:null-%00-null@example.test>",
            "Call-ID: a3",
            "Contact: <sip:%00@192.0.2.1>",
        ]),
        // 3.1.1.6: parameters of a URI without brackets
        with(&[
            "To: <sip:strange4@example.test>",
            "Call-ID: a4",
            "Contact: sip:+19725552222@192.0.2.1;unknownparam",
        ]),
        // 3.1.1.10: escaped headers in a Contact
        with(&[
            "To: <sip:strange5@example.test>",
            "Call-ID: a5",
            "Contact: <sip:user@192.0.2.1?Route=%3Csip:sip.example.com%3E>",
        ]),
        with(&[
            "To: <sip:strange6@example.test>",
            "Call-ID: a6",
            "Contact: <sip:a@192.0.2.1>, <sip:b@192.0.2.1>;expires=30",
            "Contact: <sip:c@192.0.2.1>",
        ]),
        with(&["To: <tel:+15551212>", "Call-ID: a7", CONTACT]),
        with(&[
            "To: <sips:strange8@example.test>",
            "Call-ID: a8",
            "Contact: <sips:x@[2001:db8::1]:5061;transport=tcp>",
        ]),
    ]
}

/// REGISTERs that no registrar can grant.
pub fn malformed_registers() -> Vec<Vec<u8>> {
    let with = |lines: &[&str]| register("m", lines);
    let mut all = vec![
        with(&[CALL_ID, CONTACT]),          // no To
        with(&[TO, CONTACT]),               // no Call-ID
        with(&["To:", CALL_ID, CONTACT]),   // an empty To
        with(&[TO, "Call-ID:", CONTACT]),   // an empty Call-ID
        with(&[TO, CALL_ID, "Contact: *"]), // a star without Expires 0
        with(&[TO, CALL_ID, "Contact: *, <sip:a@192.0.2.1>", "Expires: 0"]),
        with(&[TO, CALL_ID, "Contact: *", CONTACT, "Expires: 0"]),
        with(&[TO, CALL_ID, "Contact:"]),
        with(&[TO, CALL_ID, "Contact: <sip:unclosed@192.0.2.1"]),
        with(&[TO, CALL_ID, "Contact: \"unclosed <sip:a@192.0.2.1>"]), // 3.1.2.6
        with(&[TO, CALL_ID, CONTACT, "Expires: soon"]),
        with(&[TO, CALL_ID, CONTACT, "Expires: 99999999999999999999"]),
        with(&[TO, CALL_ID, CONTACT, "Expires: -1"]),
        with(&[TO, CALL_ID, CONTACT, "Content-Length: 9999"]), // 3.1.2.2
        with(&[TO, CALL_ID, CONTACT, "Content-Length: -999"]), // 3.1.2.3
        with(&["To: <sip:a@example.test", CALL_ID, CONTACT]),
        with(&[
            "To: Watson, Thomas <sip:t.watson@example.test>",
            CALL_ID,
            CONTACT,
        ]), // 3.1.2.15
        with(&["To: <unknown:something>", CALL_ID, CONTACT]), // 3.3.4
        with(&[TO, TO, CALL_ID, CALL_ID, CONTACT]),           // 3.3.8
        with(&["no colon", ":", ": :", TO, CALL_ID, CONTACT]),
        b"REGISTER sip:example.test SIP/7.0\r\n\r\n".to_vec(), // 3.1.2.16
        b"REGISTER  sip:example.test  SIP/2.0\r\nTo: x\r\n\r\n".to_vec(), // 3.1.2.9
        b"REGISTER <sip:example.test> SIP/2.0\r\nTo: x\r\n\r\n".to_vec(), // 3.1.2.7
        b"REGISTER\r\n\r\n".to_vec(),
        b"REGISTER sip:example.test SIP/2.0\r\n\r\n".to_vec(), // 3.3.1
        b"REGISTERS sip:example.test SIP/2.0\r\n\r\n".to_vec(),
        b"register sip:example.test SIP/2.0\r\n\r\n".to_vec(),
    ];
    // 3.1.2.17: the method of CSeq is another
    let other = with(&[TO, CALL_ID, CONTACT]);
    all.push(
        String::from_utf8_lossy(&other)
            .replace("1 REGISTER", "1 INVITE")
            .into_bytes(),
    );
    // 3.1.2.4: numbers beyond their fields
    all.push(
        String::from_utf8_lossy(&other)
            .replace("1 REGISTER", "36893488147419103232 REGISTER")
            .into_bytes(),
    );
    all.push(
        String::from_utf8_lossy(&other)
            .replace("\r\n", "\n")
            .into_bytes(),
    );
    all.push(
        String::from_utf8_lossy(&other)
            .replace("Via:", "Vai:")
            .into_bytes(),
    );
    all
}

/// What is no REGISTER, or no SIP at all.
pub fn others() -> Vec<Vec<u8>> {
    let of = |method: &str, lines: &str| {
        format!(
            "{method} sip:example.test SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;rport;branch=z9hG4bK-o{}\r\nMax-Forwards: 70\r\nFrom: <sip:a@example.test>;tag=1\r\nTo: <sip:b@example.test>\r\nCall-ID: {lines}\r\nCSeq: 8 {method}\r\nContent-Length: 0\r\n\r\n",
            lines.len()
        )
        .into_bytes()
    };
    let noise = |seed: u64, length: usize| {
        let mut x = seed;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 24) as u8
        };
        (0..length).map(|_| next()).collect::<Vec<u8>>()
    };
    let mut all = vec![
        of("!interesting-Method0123456789_*+`.%indeed'~", "intmeth"), // 3.1.1.2
        of("RE%47IST%45R", "esc02"),                                   // 3.1.1.4
        of("OPTIONS", "REGISTER sip:example.test SIP/2.0"),
        of("SUBSCRIBE", "x\r\nContact: *\r\nExpires: 0"),
        b"SIP/2.0 200 = 2**3 * 5**2 \xD0\xBD\xD0\xBE\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKx\r\nCall-ID: unreason\r\nCSeq: 35 REGISTER\r\nFrom: sip:a@b;tag=1\r\nTo: <sip:a@b>;tag=2\r\n\r\n".to_vec(), // 3.1.1.12
        b"SIP/2.0 4294967301 better not break\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKx\r\nCall-ID: bigcode\r\nCSeq: 1 REGISTER\r\nFrom: sip:a@b;tag=1\r\nTo: <sip:a@b>\r\n\r\n".to_vec(), // 3.1.2.19
        b"SIP/2.0 200 OK\r\nCSeq: 1 REGISTER\r\n\r\n".to_vec(),
        b"SIP/2.0".to_vec(),
        b"\r\n\r\n".to_vec(),
        vec![0],
        vec![0xff; 2000],
    ];
    for seed in 1..100 {
        let mut datagram = noise(seed, 1 + (seed as usize * 37) % 1400);
        if seed % 2 == 0 {
            datagram.splice(0..0, *b"REGISTER sip:e SIP/2.0\r\n");
        }
        all.push(datagram);
    }
    all
}

/// A REGISTER of about `bytes` bytes: one long header, many headers, many contacts, a long body.
pub fn large_registers(bytes: usize) -> Vec<Vec<u8>> {
    let long = format!("X-Long: {}", "x".repeat(bytes - 600));
    let many = vec!["X-Many: 1\r\nVia: SIP/2.0/UDP 192.0.2.5;branch=z9hG4bKl"; bytes / 64];
    let contacts = vec!["Contact: <sip:a@192.0.2.1>, <sip:b@192.0.2.2>"; bytes / 64];
    let body = format!(
        "Content-Length: {0}\r\n\r\n{1}",
        bytes - 600,
        "b".repeat(bytes - 600)
    );
    let with = |more: &[&str]| register("large", &[&[TO, CALL_ID, CONTACT], more].concat());
    vec![with(&[&long]), with(&many), with(&contacts), with(&[&body])]
}

/// Every beginning of a whole REGISTER, one byte longer each.
pub fn truncated() -> Vec<Vec<u8>> {
    let whole = register(
        "cut",
        &[TO, CALL_ID, CONTACT, "Expires: 60", "Content-Length: 0"],
    );
    (1..whole.len()).map(|end| whole[..end].to_vec()).collect()
}
