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
