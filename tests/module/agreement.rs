//! The gate reads a REGISTER as Kamailio does: generated messages in every spelling get the same class before parsing
//! (UDP), after parsing (TCP) and by what the registrar makes of them.
//! Forbidden here: messages that no phone could send (torture.rs).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::guard::{Counts, Guarded, SOON, rows, word};
use super::harness::sip::{Connection, Reply, Request, Udp};
use super::harness::wait::found;
use super::harness::{Server, for_each_pair};

/// Shapes of messages that are tried; the seed is the number.
const SHAPES: u64 = 150;

/// splitmix64: the same choices for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % sides
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.roll(choices.len() as u64) as usize]
    }
}

/// One header line in some spelling; folds outside of quotes only, as Kamailio drops what is folded inside.
fn line(dice: &mut Dice, eol: &str, names: [&str; 2], value: &str) -> String {
    let mut name: String = names[dice.roll(2) as usize].into();
    match dice.roll(4) {
        0 => name.make_ascii_uppercase(),
        1 => name.make_ascii_lowercase(),
        _ => (),
    }
    let fold = format!("{eol} ");
    let colon = [":", ": ", " : ", ":\t", &format!(":{fold}")][dice.roll(5) as usize].to_owned();
    let value = match dice.roll(4) {
        0 => value
            .replace(" <", &format!("{fold}<"))
            .replace(" ;", &format!("{fold};")),
        _ => value.to_owned(),
    };
    format!("{name}{colon}{value}{eol}")
}

/// Contact URIs of one message, none twice: of the binding that a known user has, or of new ones.
fn contact_uris(dice: &mut Dice, user: &str) -> Vec<String> {
    let known = dice.roll(4);
    let uri = |place| match place == known {
        true => format!("sip:{user}@192.0.2.1:5060"),
        false => format!("sip:{user}@198.51.100.{place};transport=udp"),
    };
    (0..dice.roll(4)).map(uri).collect()
}

/// A Contact value.
fn contact(dice: &mut Dice, uri: &str) -> String {
    let form = dice.pick(&[
        "<@>",
        "\"Doe,<J> \\\"x\\\"\" <@>",
        "Jane Doe <@>",
        "<@> ;q=0.7",
    ]);
    let params = [
        "",
        "",
        ";expires=0",
        " ;expires=60",
        ";EXPIRES = 1800",
        ";expires=abc;x=\"a,b\"",
    ];
    form.replace('@', uri) + dice.pick(&params)
}

/// The REGISTER of a shape for one user; all users get the same choices.
fn message(shape: u64, user: &str, transport: &str, local: SocketAddr, call_id: &str) -> Vec<u8> {
    let mut dice = Dice(shape);
    let eol = if dice.roll(8) == 0 { "\n" } else { "\r\n" };
    let mut text = format!("REGISTER sip:example.test SIP/2.0{eol}");
    let via = format!("SIP/2.0/{transport} {local};branch=z9hG4bK{call_id};rport");
    text += &line(&mut dice, eol, ["Via", "v"], &via);
    let aor = dice.pick(&[
        "sip:@example.test",
        "sip:@EXAMPLE.test",
        "sip:@example.test;user=phone",
    ]);
    let aor = aor.replace('@', &format!("{user}@"));
    let escaped = aor.replacen("sip:u", "sip:%75", 1);
    let to = match dice.roll(4) {
        0 => format!("<{aor}>"),
        1 => format!("\"A, \\\"B\\\"<sip:x@y>\" <{escaped}> ;x=y"),
        2 => format!("Anna B <{aor}>"),
        _ => format!("sip:{user}@example.test"),
    };
    let mut lines = vec![
        line(&mut dice, eol, ["To", "t"], &to),
        line(
            &mut dice,
            eol,
            ["From", "f"],
            &format!("<{aor}>;tag={call_id}"),
        ),
        line(&mut dice, eol, ["Call-ID", "i"], call_id),
        line(&mut dice, eol, ["CSeq", "CSeq"], "1 REGISTER"),
        line(&mut dice, eol, ["Max-Forwards", "Max-Forwards"], "70"),
        line(&mut dice, eol, ["Content-Length", "l"], "0"),
        line(
            &mut dice,
            eol,
            ["X-Contact", "Contacts"],
            "<sip:no@192.0.2.9>",
        ),
    ];
    let is_star = dice.roll(10) == 0;
    let uris = contact_uris(&mut dice, user);
    if is_star {
        lines.push(line(&mut dice, eol, ["Contact", "m"], "*"));
    } else if dice.roll(2) == 0 {
        for uri in &uris {
            let value = contact(&mut dice, uri);
            lines.push(line(&mut dice, eol, ["Contact", "m"], &value));
        }
    } else if !uris.is_empty() {
        let values: Vec<String> = uris.iter().map(|uri| contact(&mut dice, uri)).collect();
        let value = values.join(dice.pick(&[",", " , ", ", "]));
        lines.push(line(&mut dice, eol, ["Contact", "m"], &value));
    }
    let expires = match is_star {
        true => dice.pick(&["0", "0", "0", "60"]),
        false => dice.pick(&["", "3600", "3600", "0", "soon"]),
    };
    if !expires.is_empty() {
        lines.push(line(&mut dice, eol, ["Expires", "expires"], expires));
    }
    for place in (1..lines.len()).rev() {
        lines.swap(place, dice.roll(place as u64 + 1) as usize);
    }
    write!(text, "{}{eol}", lines.concat()).expect("writing to a string");
    text.into_bytes()
}

/// What the registrar has of a user.
fn bindings(server: &Server, user: &str) -> BTreeSet<String> {
    let record = server.try_rpc("ul.lookup", json!(["location", user]));
    let record = record.unwrap_or_default();
    let contacts = record["Contacts"].as_array().into_iter().flatten();
    let address = |contact: &Value| contact["Contact"]["Address"].as_str().map(str::to_owned);
    contacts.filter_map(address).collect()
}

/// The classes that fit to what the registrar did.
fn classes_for(
    did: i64,
    before: &BTreeSet<String>,
    after: &BTreeSet<String>,
    text: &str,
) -> Vec<&'static str> {
    let is_asked = after.iter().any(|uri| text.contains(uri.as_str()));
    if did < 0 {
        vec!["new", "returning", "refresh", "unregister", "query"] // it refused: anything goes
    } else if did == 4 {
        vec!["query"]
    } else if !after.is_subset(before) {
        vec![if before.is_empty() {
            "new"
        } else {
            "returning"
        }]
    } else {
        vec![if is_asked { "refresh" } else { "unregister" }]
    }
}

/// The class that one more REGISTER was counted in.
fn class_of(server: &Server, before: &Counts, what: &str) -> &'static str {
    found(SOON, what, || {
        let now = server.by_class("received");
        let gained = |class: &&str| now.get(class).unwrap_or(&0) > before.get(class).unwrap_or(&0);
        now.keys().copied().find(gained)
    })
}

/// The final reply with this Call-ID.
fn reply_to(client: &Udp, call_id: &str, to: &str) -> Reply {
    found(SOON, to, || {
        // Kamailio sends headers back as they were written: names may be short, lines may end in LF.
        let text = String::from_utf8_lossy(&client.receive_raw(SOON)?).into_owned();
        let lines = text.replace("\r\n", "\n").replace('\n', "\r\n");
        Reply::parse(lines.as_bytes()).filter(|reply| text.contains(call_id) && reply.is_final())
    })
}

#[test]
fn agreement_of_both_stages_and_the_registrar_on_generated_messages() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .config(|c| {
                // What save() did: 1 inserted, 2 updated, 3 removed, 4 listed; below 0: it refused.
                c.register = "$var(class) = $memguard(class);
        $var(did) = save(\"location\", \"0x02\");
        append_to_reply(\"X-Did: $var(did)\\r\\nX-Class: $var(class)\\r\\n\");
        sl_send_reply(\"200\", \"OK\");"
                    .into();
            })
            .start();
        let (client, mut tcp) = (server.udp(), server.tcp());
        let users = |shape: u64| ["a", "b", "c"].map(|which| format!("u{shape}{which}"));
        // Two of three users are known before.
        for shape in (0..SHAPES).filter(|shape| shape % 3 != 0) {
            for user in users(shape) {
                assert_eq!(client.request(&Request::register(&user)).code, 200);
            }
        }
        server.rpc("memguard.shed", json!([600]));
        let mut classes = Vec::new();
        for shape in 0..SHAPES {
            let [by_udp, by_tcp, _] = users(shape);
            let id = |what: &str| format!("{what}{shape}-{}", client.local().port());
            let bytes = message(shape, &by_udp, "UDP", client.local(), &id("u"));
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let before = server.by_class("received");
            client.send_raw(&bytes);
            let reply = reply_to(&client, &id("u"), &text);
            let class = class_of(&server, &before, &text);
            if reply.code == 503 {
                let refusals = server.rpc("memguard.refusals", json!([1]));
                let last = &rows(&refusals)[0];
                assert_eq!(word(last, "stage"), "datagram", "{text}");
                let aor = word(last, "aor").to_ascii_lowercase();
                assert!(
                    aor.contains(&format!("{by_udp}@example.test")),
                    "{aor}: {text}"
                );
            }
            let before = server.by_class("received");
            let local = tcp.local();
            tcp.send_raw(&message(shape, &by_tcp, "TCP", local, &id("t")))
                .expect("it is sent");
            let second = tcp
                .receive(SOON)
                .unwrap_or_else(|| panic!("no reply: {text}"));
            assert_eq!(second.code, reply.code, "{text}");
            assert_eq!(class_of(&server, &before, &text), class, "{text}");
            classes.push((class, reply.code));
        }
        server.rpc("memguard.resume", json!([]));
        let mut seen = BTreeMap::new();
        for (shape, (class, code)) in (0..SHAPES).zip(classes) {
            let [_, _, user] = users(shape);
            let id = format!("r{shape}-{}", client.local().port());
            let bytes = message(shape, &user, "UDP", client.local(), &id);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let before = bindings(&server, &user);
            client.send_raw(&bytes);
            let reply = reply_to(&client, &id, &text);
            assert_eq!(reply.header("X-Class"), Some(class), "{text}");
            let is_refused = ["new", "returning"].contains(&class);
            assert_eq!(code == 503, is_refused, "{class}: {text}");
            let did = reply.header("X-Did").and_then(|did| did.parse().ok());
            let did = did.unwrap_or_else(|| panic!("{reply:?}"));
            let after = bindings(&server, &user);
            let fitting = classes_for(did, &before, &after, &text);
            assert!(
                fitting.contains(&class),
                "{class}, but save() did {did}, from {before:?} to {after:?}: {text}"
            );
            *seen.entry(class).or_insert(0) += i32::from(did > 0);
        }
        for class in ["new", "returning", "refresh", "unregister", "query"] {
            assert!(seen.get(class) > Some(&4), "too few of {class}: {seen:?}");
        }
    });
}
