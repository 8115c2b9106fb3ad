//! What usrloc does beyond the ordinary: bindings in the database only (db_mode 3), and contacts that come in past the
//! gate, by RPC and from another Kamailio by DMQ.
//! Forbidden here: what passes the gate with bindings in memory (classes.rs).

use std::net::SocketAddr;
use std::path::Path;

use serde_json::json;

use super::guard::{Counts, Guarded, SOON, counts, number, word};
use super::harness::builder::{Builder, Folder, free_port};
use super::harness::sip::Request;
use super::harness::wait::holds_within;
use super::harness::{Pair, Server, for_each_pair, until};

fn url(file: &Path) -> String {
    format!("sqlite:///{}", file.display())
}

/// Makes the tables of the package's own schema, with Kamailio's own modules.
fn make_tables(pair: &Pair, file: &Path) {
    let share = pair.kamailio.modules.ancestors().find_map(|folder| {
        let share = folder.join("root/usr/share/kamailio/db_sqlite");
        share.is_dir().then_some(share)
    });
    let share = share.unwrap_or_else(|| "/usr/share/kamailio/db_sqlite".into());
    let mut script = String::new();
    for name in ["standard", "usrloc"] {
        let name = share.join(format!("{name}-create.sql"));
        let text = std::fs::read_to_string(&name).unwrap_or_else(|e| panic!("{name:?}: {e}"));
        for statement in text.split(';').map(str::trim).filter(|s| !s.is_empty()) {
            let one_line = statement.split_whitespace().collect::<Vec<_>>().join(" ");
            script += &format!("sql_query(\"db\", \"{one_line}\");\n");
        }
    }
    let maker = Server::registrar(pair)
        .without_memguard()
        .config(|c| {
            c.modules.insert(0, "db_sqlite".into());
            c.module("sqlops");
            c.param("sqlops", "sqlcon", format!("db=>{}", url(file)));
            c.before = script;
        })
        .start();
    assert_eq!(maker.udp().request(&Request::options()).code, 200);
    maker.stop();
}

#[test]
fn usrloc_with_bindings_in_the_database_only_keeps_known_phones_and_refuses_the_others() {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "database");
        let file = folder.file("location.sqlite");
        make_tables(pair, &file);
        let registrar = Server::registrar(pair)
            .param("sample_interval", 100)
            .config(|c| {
                c.modules.insert(0, "db_sqlite".into());
                c.param("usrloc", "db_mode", 3);
                c.param("usrloc", "db_url", url(&file));
            });
        let server = registrar.start();
        let warnings = server.rpc("memguard.status", json!([]))["warnings"].to_string();
        assert!(warnings.contains("db_mode 3"), "{warnings}");
        let client = server.udp();
        let phones: Vec<Request> = (0..10)
            .map(|i| Request::register(&format!("p{i}")))
            .collect();
        for phone in &phones {
            assert_eq!(client.request(phone).code, 200);
        }
        until(SOON, "the bindings were learned from what passed", || {
            number(&server.registrations(), "known_bindings") == 10
        });
        server.rpc("memguard.shed", json!([60]));
        for (i, phone) in phones.iter().enumerate() {
            assert_eq!(client.request(&phone.next()).code, 200, "a refresh");
            let reply = client.request(&Request::register(&format!("new{i}")));
            assert_eq!(reply.code, 503);
            assert!(reply.retry_after().is_some(), "{reply:?}");
        }
        // At first it cannot be told that a phone was not here before.
        let seen = || (server.by_class("admitted"), server.by_class("rejected"));
        let holds = |(admitted, rejected): &(Counts, Counts)| {
            admitted.get("refresh") == Some(&10) && rejected.get("returning") == Some(&10)
        };
        holds_within(SOON, || holds(&seen()));
        assert!(holds(&seen()), "{:?}", seen());
        // The bindings are in the database; memguard does not ask for them after a restart.
        server.stop();
        let server = registrar.start();
        server.rpc("memguard.shed", json!([60]));
        assert_ne!(server.udp().request(&phones[0].next().next()).code, 200);
        until(SOON, "nothing was known of it", || {
            server.by_class("rejected") == counts(&[("returning", 1)])
        });
        assert_eq!(
            word(&server.rpc("memguard.status", json!([])), "level"),
            "shedding"
        );
    });
}

#[test]
fn usrloc_a_contact_that_is_added_by_rpc_is_replicated_and_known() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .config(|c| {
                c.param("usrloc", "preload", "location");
            })
            .start();
        let client = server.udp();
        assert_eq!(client.request(&Request::register("passes")).code, 200);
        let contact = "sip:added@192.0.2.1:5060"; // as Request::register's
        let added = [
            "ul.add", "location", "added", contact, "600", "1.0", "x", "0", "0", "6016",
        ];
        server.kamcmd(&added).expect("usrloc takes it");
        until(SOON, "it came in past the gate, the other did not", || {
            number(&server.registrations(), "replicated") == 1
        });
        server.rpc("memguard.shed", json!([60]));
        let refresh = client.request(&Request::register("added"));
        assert_eq!(refresh.code, 200, "{refresh:?}");
        assert_eq!(client.request(&Request::register("unknown")).code, 503);
    });
}

/// A registrar that tells another of its contacts.
fn replicating(pair: &Pair, at: SocketAddr, other: SocketAddr) -> Builder {
    Server::registrar(pair).at(at).config(|c| {
        c.module("dmq").module("dmq_usrloc");
        c.param("dmq", "server_address", format!("sip:{at}"));
        c.param("dmq", "notification_address", format!("sip:{other}"));
        c.param("dmq", "ping_interval", 60);
        c.param("dmq_usrloc", "enable", 1);
        c.param("usrloc", "preload", "location");
        c.before = "if ($rm == \"KDMQ\") { dmq_handle_message(); exit; }".into();
    })
}

#[test]
fn usrloc_a_contact_that_comes_by_dmq_is_replicated_and_known() {
    for_each_pair(|pair| {
        let (here, there) = (free_port(), free_port());
        let first = replicating(pair, here, there).start();
        let second = replicating(pair, there, here).start();
        until(SOON, "both know each other", || {
            [&first, &second].iter().all(|server| {
                let nodes = server.rpc("dmq.list_nodes", json!([])).to_string();
                nodes.matches("active").count() >= 2
            })
        });
        let client = first.udp();
        let phone = Request::register("roaming");
        assert_eq!(client.request(&phone).code, 200);
        until(SOON, "the other one has it, past its gate", || {
            number(&second.registrations(), "replicated") == 1
        });
        assert_eq!(number(&first.registrations(), "replicated"), 0);
        second.rpc("memguard.shed", json!([60]));
        let other = second.udp();
        assert_eq!(other.request(&Request::register("stranger")).code, 503);
        assert_eq!(
            other.request(&phone.next()).code,
            200,
            "it is a refresh there"
        );
    });
}

#[test]
fn usrloc_bindings_that_end_before_their_time_are_forgotten() {
    const PHONES: usize = 50;
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .param("sample_interval", 100)
            .config(|c| {
                c.param("usrloc", "handle_lost_tcp", 1);
                c.param("usrloc", "timer_interval", 1);
            })
            .start();
        let known = || number(&server.registrations(), "known_bindings");
        let phone = |i: usize| Request::register(&format!("t{i}"));
        let connections: Vec<_> = (0..PHONES)
            .map(|i| {
                let mut tcp = server.tcp();
                assert_eq!(tcp.request(&phone(i)).code, 200);
                tcp
            })
            .collect();
        until(SOON, "all are known", || known() == PHONES as i64);
        drop(connections);
        until(SOON, "usrloc has ended them with their connections", || {
            server.statistic("usrloc:registered_users") == 0
        });
        until(SOON, "so has the table", || known() == 0);
        let client = server.udp();
        assert_eq!(client.request(&phone(0)).code, 200);
        assert_eq!(server.by_class("received").get("refresh"), None);
        assert_eq!(server.by_class("received").get("returning"), Some(&1));
        // By hand, and without a domain in the AoR (use_domain 0).
        for (i, method, params) in [
            (0, "ul.rm", json!(["location", "t0"])),
            (
                1,
                "ul.rm_contact",
                json!(["location", "t1", "sip:t1@192.0.2.1:5060"]),
            ),
        ] {
            assert_eq!(client.request(&phone(i)).code, 200);
            server.rpc(method, params);
            let before = server.by_class("received").get("refresh").copied();
            assert_eq!(client.request(&phone(i)).code, 200);
            assert_eq!(
                server.by_class("received").get("refresh").copied(),
                before,
                "{method}"
            );
        }
    });
}

/// A contact that usrloc had before: stands for one that was loaded or replicated.
fn add(server: &Server, aor: &str, contact: &str) {
    let added = [
        "ul.add", "location", aor, contact, "600", "1.0", "x", "0", "0", "6016",
    ];
    server.kamcmd(&added).expect("usrloc takes it");
}

#[test]
fn usrloc_phones_behind_a_nat_are_known_after_a_takeover() {
    for_each_pair(|pair| {
        for (script, is_alias) in [
            ("fix_nated_contact();", false),
            ("set_contact_alias();", true),
        ] {
            let server = Server::registrar(pair)
                .config(|c| {
                    c.module("nathelper");
                    c.register = format!("{script}\n    {}", c.register);
                    c.param("usrloc", "preload", "location");
                })
                .start();
            let client = server.udp();
            let (ip, port) = (client.local().ip(), client.local().port());
            let stored = |user: &str, params: &str| match is_alias {
                true => format!("sip:{user}@10.0.0.1:5060{params};alias={ip}~{port}~1"),
                false => format!("sip:{user}@{ip}:{port}{params}"),
            };
            let says = |user: &str, params: &str| {
                Request::register(user).contact(&format!("<sip:{user}@10.0.0.1:5060{params}>"))
            };
            add(&server, "nat", &stored("nat", ";line=1"));
            server.rpc("memguard.shed", json!([60]));
            let reply = client.request(&says("nat", ";line=1"));
            assert_eq!(reply.code, 200, "{script} {reply:?}");
            let contacts =
                server.rpc("ul.lookup", json!(["location", "nat"]))["Contacts"].to_string();
            assert_eq!(
                contacts.matches("\"Address\"").count(),
                1,
                "it was updated: {contacts}"
            );
            assert_eq!(
                client.request(&says("nat", ";line=2")).code,
                503,
                "another binding"
            );
            assert_eq!(client.request(&says("stranger", "")).code, 503);
            let elsewhere = super::harness::sip::Udp::from("127.0.0.7", server.sip());
            assert_eq!(
                elsewhere.request(&says("nat", ";line=1")).code,
                503,
                "from another place"
            );
        }
    });
}

#[test]
fn usrloc_a_contact_that_the_script_rewrites_or_stores_under_another_aor_is_a_refresh() {
    for_each_pair(|pair| {
        let rewrites = "subst(\"/^(Contact:.*)10\\.0\\.0\\.1:5060/\\1nat.test:4444/i\");\n    msg_apply_changes();\n    if (!save(\"location\")) { sl_reply_error(); }";
        let elsewhere =
            "if (!save(\"location\", \"0\", \"sip:alias-$tU@example.test\")) { sl_reply_error(); }";
        for script in [rewrites, elsewhere] {
            let server = Server::registrar(pair)
                .config(|c| {
                    c.register = script.into();
                    c.module("textopsx");
                    c.param("usrloc", "preload", "location");
                })
                .start();
            let client = server.udp();
            let says = |user: &str, line: u32| {
                Request::register(user).contact(&format!("<sip:{user}@10.0.0.1:5060;line={line}>"))
            };
            assert_eq!(client.request(&says("ann", 1)).code, 200);
            if script == elsewhere {
                add(&server, "alias-bob", "sip:bob@10.0.0.1:5060;line=1"); // loaded, say
            }
            server.rpc("memguard.shed", json!([60]));
            assert_eq!(client.request(&says("ann", 1)).code, 200, "{script}");
            assert_eq!(client.request(&says("ann", 2)).code, 503, "{script}");
            if script == elsewhere {
                assert_eq!(client.request(&says("bob", 1)).code, 200, "{script}");
            }
            assert_eq!(client.request(&says("carl", 1)).code, 503, "{script}");
        }
    });
}

#[test]
fn usrloc_phones_that_it_loads_under_another_aor_are_known() {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "aliases");
        let file = folder.file("location.sqlite");
        make_tables(pair, &file);
        let registrar = Server::registrar(pair).config(|c| {
            c.modules.insert(0, "db_sqlite".into());
            c.param("usrloc", "db_mode", 1);
            c.param("usrloc", "db_url", url(&file));
            c.register =
                "if (!save(\"location\", \"0\", \"sip:alias-$tU@example.test\")) { sl_reply_error(); }"
                    .into();
        });
        let server = registrar.start();
        let client = server.udp();
        let mut ann = Request::register("ann");
        assert_eq!(client.request(&ann).code, 200);
        assert!(server.stop().success());
        // Nothing is known of what happened before; the first worker loads it, and no callback tells.
        let server = registrar.start();
        server.rpc("memguard.shed", json!([60]));
        let client = server.udp();
        until(SOON, "what was loaded is known", || {
            ann = ann.next();
            client.request(&ann).code == 200
        });
        assert_eq!(server.statistic("usrloc:registered_users"), 1);
        let contacts = server.rpc("ul.lookup", json!(["location", "alias-ann"]));
        assert_eq!(
            contacts["Contacts"]
                .to_string()
                .matches("\"Address\"")
                .count(),
            1
        );
        let moved = Request::register("ben").contact("<sip:ben@192.0.2.99:5060>");
        assert_eq!(client.request(&moved).code, 503, "a stranger");
        let moved = ann.next().contact("<sip:ann@192.0.2.99:5060>");
        assert_eq!(client.request(&moved).code, 503, "another binding");
    });
}

#[test]
fn usrloc_a_binding_that_has_ended_but_is_still_there_is_refreshed() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .config(|c| {
                c.param("registrar", "min_expires", 1);
                c.param("usrloc", "timer_interval", 600);
            })
            .start();
        let client = server.udp();
        let phone = Request::register("late");
        assert_eq!(client.request(&phone.clone().expires(1)).code, 200);
        // 6.0 has "no contacts" for who has none that live; 5.6 says of each whether it does.
        let contacts = || server.try_rpc("ul.lookup", json!(["location", "late"]));
        until(SOON, "it has ended", || match contacts() {
            Ok(record) => record.to_string().contains("expired"),
            Err(fault) => fault.text.contains("no contacts"),
        });
        let stored = || {
            let dump = server.rpc("ul.dump", json!([])).to_string();
            dump.matches("\"Address\"").count()
        };
        assert_eq!(stored(), 1, "usrloc has not cleaned up");
        server.rpc("memguard.shed", json!([60]));
        assert_eq!(client.request(&phone.next()).code, 200);
        assert_eq!(server.by_class("received").get("refresh"), Some(&1));
        let record = contacts().expect("it lives").to_string();
        assert_eq!((record.matches("\"Address\"").count(), stored()), (1, 1));
    });
}
