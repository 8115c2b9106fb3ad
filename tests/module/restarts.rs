//! Restarts without fear: draining, who came back, what is in the way, and what another frontend knew.
//! `./dev restarts` runs 2,000 phones over UDP, TCP and TLS, and these are sipp's (over TLS through stunnel, for Debian 12's
//! sipp has none); the suite runs some dozens of its own.
//! Forbidden here: addresses outside of loopback but in a network namespace that the test made.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use memguard::guard::formats::blackbox::format::Ring;
use memguard::shared::files::blackbox;
use serde_json::{Value, json};

use super::guard::{Guarded, SOON, number, rows, word};
use super::harness::builder::{Builder, Folder, free_port};
use super::harness::http::get;
use super::harness::pairs::skip;
use super::harness::sip::{Request, Tcp};
use super::harness::sipp::Sipp;
use super::harness::tls::{Certificate, Tunnel};
use super::harness::wait::holds_within;
use super::harness::{Pair, Server, for_each_pair, until};

/// OPTIONS as a dispatcher sends them.
fn ping(server: &Server) -> Request {
    Request {
        uri: format!("sip:{}", server.sip()),
        ..Request::options()
    }
}

fn drain(server: &Server, words: Value) -> Value {
    server.rpc("memguard.drain", words)
}

fn restart(server: &Server) -> Value {
    server.rpc("memguard.restart", json!([]))
}

fn blockers(server: &Server) -> Vec<String> {
    let answer = restart(server);
    let list = rows(&answer["blockers"]).iter();
    list.map(|one| one.as_str().expect("a sentence").to_owned())
        .collect()
}

#[test]
fn restarts_a_draining_server_turns_new_phones_and_dispatchers_away_and_ends_by_itself() {
    for_each_pair(|pair| {
        let metrics = free_port();
        let server = Server::registrar(pair)
            .param("drain_options", 1)
            .param("listen", metrics)
            .config(|c| {
                c.module("dialog").module("cfg_rpc");
                c.before = "append_to_reply(\"X-Draining: $memguard(draining)\\r\\n\");".into();
            })
            .start();
        let client = server.udp();
        let known = Request::register("known");
        assert_eq!(client.request(&known).code, 200);
        let idle = drain(&server, json!([]));
        assert_eq!(
            (number(&idle, "draining"), number(&idle, "seconds")),
            (0, 0)
        );
        assert_eq!(client.request(&ping(&server)).code, 200);
        assert_eq!(
            client.request(&ping(&server)).header("X-Draining"),
            Some("0")
        );

        let mut connected = server.tcp();
        assert_eq!(connected.request(&ping(&server)).code, 200);
        let left = drain(&server, json!([600]));
        assert_eq!(number(&left, "draining"), 1);
        assert!((599..=600).contains(&number(&left, "seconds")), "{left}");
        assert_eq!(word(&left, "level"), "shedding");
        assert_eq!(
            (number(&left, "connections"), number(&left, "calls")),
            (1, 0)
        );
        let refused = client.request(&ping(&server));
        assert_eq!((refused.code, refused.reason.as_str()), (503, "Draining"));
        assert!((590..=600).contains(&refused.retry_after().expect("when to ask again")));
        assert_eq!(connected.request(&ping(&server)).code, 503);
        let elsewhere = Request::options(); // to example.test, which this server is not
        assert_eq!(client.request(&elsewhere).code, 200);
        let user = Request {
            uri: format!("sip:known@{}", server.sip()),
            ..Request::options()
        };
        assert_eq!(
            client.request(&user).code,
            200,
            "a phone is asked, not the server"
        );
        let refreshed = client.request(&known.next());
        assert_eq!(refreshed.code, 200);
        let seen: u64 = refreshed
            .header("X-Draining")
            .and_then(|s| s.parse().ok())
            .unwrap_or(0);
        assert!((590..=600).contains(&seen), "{seen}");
        assert_eq!(client.request(&Request::register("stranger")).code, 503);
        let ready = get(metrics, "/ready", SOON).expect("an answer");
        assert_eq!(
            (ready.status, ready.body.as_str()),
            (503, "not ready: memguard.drain is running\n")
        );
        until(SOON, "the metric says so", || {
            let text = get(metrics, "/metrics", SOON).map_or_else(String::new, |r| r.body);
            text.contains("\nkamailio_memguard_draining 1\n")
        });
        until(SOON, "the messages are counted", || {
            let rate = drain(&server, json!([]))["messages_per_second"].as_f64();
            rate.is_some_and(|rate| rate > 0.0)
        });

        let ended = drain(&server, json!([0]));
        assert_eq!(
            (number(&ended, "draining"), word(&ended, "level")),
            (0, "normal")
        );
        assert_eq!(client.request(&ping(&server)).code, 200);
        assert_eq!(get(metrics, "/ready", SOON).map(|r| r.status), Some(200));
        drain(&server, json!([1]));
        until(SOON, "it ends by itself", || {
            client.request(&ping(&server)).code == 200
        });
        drain(&server, json!([600]));
        server.rpc("memguard.resume", json!([]));
        assert_eq!(client.request(&Request::register("another")).code, 200);
        for words in [json!([-1]), json!([86_401]), json!([1, 2])] {
            let fault = server
                .try_rpc("memguard.drain", words)
                .expect_err("refused");
            assert!(fault.text.contains("0 (end it) to"), "{fault:?}");
        }
        server.rpc("cfg.set_now_int", json!(["memguard", "drain_options", 0]));
        drain(&server, json!([600]));
        until(SOON, "the script's answer, unless 503 is wanted", || {
            client.request(&ping(&server)).code == 200
        });
    });
}

/// How a dispatcher sees its only destination: A active, I inactive, T trying; then P, it probes.
fn flags(front: &Server) -> String {
    let answer = front
        .try_rpc("dispatcher.list", json!([]))
        .unwrap_or_default();
    let text = answer.to_string();
    let after = text.split("\"FLAGS\":\"").nth(1).unwrap_or_default();
    after.split('"').next().unwrap_or_default().to_owned()
}

#[test]
fn restarts_a_dispatcher_takes_a_draining_server_out_and_in_again() {
    for_each_pair(|pair| {
        let server = Server::registrar(pair).param("drain_options", 1).start();
        let folder = Folder::of(pair, "dispatcher");
        let list = folder.file("list");
        fs::write(&list, format!("1 sip:{}\n", server.sip())).expect("ours");
        let front = Server::registrar(pair)
            .without_memguard()
            .config(|c| {
                c.module("dispatcher");
                c.param("dispatcher", "list_file", list.display());
                for (name, value) in [
                    ("ds_ping_interval", 1),
                    ("ds_probing_mode", 1),
                    ("ds_probing_threshold", 1),
                    ("ds_inactive_threshold", 1),
                ] {
                    c.param("dispatcher", name, value);
                }
                c.other = "if (!ds_select_dst(\"1\", \"4\")) { sl_send_reply(\"480\", \"Nobody\"); exit; }\n    t_relay();".into();
            })
            .start();
        let call = || front.udp().request(&Request::invite("nobody-here")).code;
        until(SOON, "the dispatcher knows the server", || {
            flags(&front) == "AP"
        });
        assert_eq!(call(), 404, "the registrar's own answer");
        drain(&server, json!([600]));
        until(SOON, "it is taken out", || flags(&front).starts_with('I'));
        assert_eq!(call(), 480);
        drain(&server, json!([0]));
        until(SOON, "it is taken in again", || flags(&front) == "AP");
        assert_eq!(call(), 404);
    });
}

/// How many phones there are, by how they reach the server, and of how many nothing will be heard again.
#[derive(Clone, Copy)]
struct Phones {
    udp: usize,
    tcp: usize,
    tls: usize,
    gone: usize,
    /// Expires of all, seconds.
    expires: u32,
    /// They are sipp's, and what sipp counted is what they say.
    are_sipps: bool,
}

/// Connections, and programs that have some: they are closed when this goes.
#[derive(Default)]
struct Open {
    own: Vec<Tcp>,
    sipps: Vec<Sipp>,
}

impl Phones {
    fn all(&self) -> usize {
        self.udp + self.tcp + self.tls
    }

    fn requests(&self) -> Vec<Request> {
        let phone = |i| Request::register(&format!("phone{i}")).expires(self.expires);
        (0..self.all()).map(phone).collect()
    }

    /// Registers phones over what each of them speaks; answers how many got 200. Connections are kept in `open`.
    fn register(
        &self,
        server: &Server,
        tunnel: &Tunnel,
        requests: &[Request],
        open: &mut Open,
        mut is_wanted: impl FnMut(usize) -> bool,
    ) -> usize {
        let wanted: Vec<bool> = (0..self.all()).map(&mut is_wanted).collect();
        if self.are_sipps {
            return self.register_by_sipp(server, tunnel, open, &wanted);
        }
        let udp = requests
            .iter()
            .take(self.udp)
            .zip(&wanted)
            .filter(|(_, w)| **w);
        let mut accepted = server
            .udp()
            .flood(udp.map(|(r, _)| r.clone()), 20, |_, _, _| ())
            .of(200);
        let streams = requests.iter().zip(&wanted).enumerate().skip(self.udp);
        for (number, (request, _)) in streams.filter(|(_, (_, w))| **w) {
            let mut client = match number < self.udp + self.tcp {
                true => server.tcp(),
                false => tunnel.client(),
            };
            accepted += usize::from(client.request(request).code == 200);
            open.own.push(client);
        }
        accepted
    }

    /// One sipp for each transport; a phone of a stream has a connection of its own, and keeps it until sipp ends.
    fn register_by_sipp(
        &self,
        server: &Server,
        tunnel: &Tunnel,
        open: &mut Open,
        wanted: &[bool],
    ) -> usize {
        let (tcp, tls) = (self.udp, self.udp + self.tcp);
        let kinds = [
            ("udp", "u1", server.sip(), 0..tcp),
            ("tcp", "tn", server.sip(), tcp..tls),
            ("tls", "tn", tunnel.address(), tls..self.all()),
        ];
        let expires = self.expires.to_string();
        let mut begun = Vec::new();
        for (name, transport, to, phones) in kinds {
            let users: Vec<String> = phones
                .filter(|&phone| wanted[phone])
                .map(|phone| format!("phone{phone}"))
                .collect();
            if users.is_empty() {
                continue;
            }
            let count = users.len().to_string();
            let sockets = (users.len() + 8).to_string(); // sipp wants the limit of open files above this
            let folder = format!("sipp-{name}-{}", open.sipps.len() + begun.len());
            let sipp = Sipp::start(
                &server.pair.kamailio.sipp,
                to,
                &server.places.folder.join(folder),
                include_str!("../sipp/restarted.xml"),
                &users,
                &[
                    "-t",
                    transport,
                    "-m",
                    &count,
                    "-l",
                    &count,
                    "-r",
                    "100",
                    "-d",
                    STAYS_MS,
                    "-max_socket",
                    &sockets,
                    "-key",
                    "expires",
                    &expires,
                ],
            );
            begun.push((name, sipp, users.len() as u64));
        }
        let mut accepted = 0;
        for (name, sipp, wanted) in begun {
            let limit = 2 * SOON + Duration::from_millis(wanted * 1000 / 100);
            let is_done = || {
                let counts = sipp.counts();
                counts.accepted + counts.failed >= wanted
            };
            let done = holds_within(limit, is_done);
            let counts = sipp.counts();
            assert!(done, "sipp over {name}: {counts:?} of {wanted}");
            println!(
                "   sipp over {name}: {} of {wanted} phones got 200",
                counts.accepted
            );
            accepted += counts.accepted;
            open.sipps.push(sipp);
        }
        usize::try_from(accepted).expect("a count")
    }
}

/// How long sipp's phones keep their connections, milliseconds: longer than a run of the test.
const STAYS_MS: &str = "600000";

fn comeback(server: &Server) -> Value {
    server.rpc("memguard.comeback", json!([]))
}

#[track_caller]
fn await_back(server: &Server, count: usize) -> Value {
    // An AoR is in another part of its table than its binding, and a look takes a part at a time.
    let is_counted = || {
        let said = comeback(server);
        ["back", "aors_back"]
            .iter()
            .all(|of| number(&said, of) == count as i64)
    };
    let came = holds_within(SOON, is_counted);
    assert!(
        came,
        "{count} are back: {} {}",
        comeback(server),
        server.registrations()
    );
    // The times of the same look are told a moment later.
    until(SOON, "half are back", || {
        comeback(server).get("t50").is_some()
    });
    comeback(server)
}

/// A registrar that keeps its bindings in memory is restarted in order: what it says of who came back is what the phones say.
fn restarted(pair: &Pair, phones: Phones) {
    let folder = Folder::of(pair, "comeback");
    let file = folder.file("known");
    let certificate = Certificate::new(&pair.kamailio);
    let metrics = free_port();
    // sipp's connections come at the same time, and the TCP processes of a 5.6.3 with OpenSSL 3 share the list of errors
    // that OpenSSL keeps for each thread (Kamailio's issues 3695 and 3791). Two of them, 600 TLS connections a run: 4 of 86
    // runs without memguard and 1 of 86 with it ended by SIGSEGV, one of them in fm_free of ERR_clear_error of tls_accept;
    // none of 80 whose processes forgot the list after the fork, none of 20 with one TCP process, none of 20 of a 6.0.1.
    let shares_errors = pair.kamailio.version.starts_with("5.6.3");
    let workers = if phones.are_sipps && shares_errors {
        1
    } else {
        2
    };
    let builder = Server::registrar(pair)
        .workers(workers)
        .shm_mb(96)
        .param("bindings_file", file.display())
        .param("blackbox", folder.file("box").display())
        .param("listen", metrics)
        .param("drain_options", 1)
        .config(|c| {
            c.param("registrar", "min_expires", 1);
            c.param("usrloc", "timer_interval", 1);
            c.global("tcp_max_connections=4096");
            c.tls(&certificate);
        });
    let first = builder.start();
    let fault = first
        .try_rpc("memguard.comeback", json!([]))
        .expect_err("a first start");
    assert!(
        fault.text.contains("no binding was carried over"),
        "{fault:?}"
    );
    let tunnel = Tunnel::to(&pair.kamailio, first.places.tls);
    let (requests, mut open) = (phones.requests(), Open::default());
    let accepted = phones.register(&first, &tunnel, &requests, &mut open, |_| true);
    assert_eq!(accepted, phones.all());
    let registered = Instant::now();
    until(SOON, "all bindings are counted", || {
        number(&first.registrations(), "known_bindings") == phones.all() as i64
    });
    let cost = restart(&first);
    assert_eq!(number(&cost, "bindings"), phones.all() as i64);
    assert_eq!(number(&cost, "bindings_lost"), 0, "the file has them");
    assert_eq!(
        number(&cost, "bindings_uncallable"),
        phones.all() as i64,
        "usrloc has not"
    );
    assert!(
        number(&cost, "connections") >= (phones.tcp + phones.tls) as i64,
        "{cost}"
    );
    assert!(
        cost.get("takes_seconds").is_none(),
        "no restart was seen: {cost}"
    );
    drain(&first, json!([60]));
    let (at, tls) = (first.sip(), first.places.tls);
    drop((open, tunnel));
    // The table knows ends by the second: a phone that comes again in its first second is not told from one that did not.
    until(SOON, "a second has passed", || {
        registered.elapsed() > Duration::from_millis(1100)
    });
    assert!(first.stop().success());

    let second = builder.clone().at(at).start();
    assert_eq!(
        number(&drain(&second, json!([])), "draining"),
        0,
        "a new start serves"
    );
    let fresh = comeback(&second);
    assert_eq!(number(&fresh, "before"), phones.all() as i64);
    assert_eq!(
        (number(&fresh, "back"), number(&fresh, "missing")),
        (0, phones.all() as i64)
    );
    assert!((1..=30).contains(&number(&restart(&second), "takes_seconds")));
    let tunnel = Tunnel::to(&pair.kamailio, second.places.tls);
    let _ = tls; // its port is another one after the start
    let again: Vec<Request> = requests.iter().map(Request::next).collect();
    let mut open = Open::default();
    let half = phones.all().div_ceil(2);
    let back = phones.register(&second, &tunnel, &again, &mut open, |i| i < half);
    assert_eq!(back, half);
    let said = await_back(&second, half);
    assert!(
        number(&said, "t50") >= 1 && said.get("t90").is_none(),
        "{said}"
    );
    // Strangers and new contacts of known phones are none of those who are waited for.
    let stranger = Request::register("stranger").expires(3600);
    assert_eq!(second.udp().request(&stranger).code, 200);
    let rest = |i: usize| i >= half && i < phones.all() - phones.gone;
    let later = phones.register(&second, &tunnel, &again, &mut open, rest);
    let all = back + later;
    assert_eq!(all, phones.all() - phones.gone);
    let said = await_back(&second, all);
    assert_eq!(number(&said, "missing"), phones.gone as i64);
    if phones.gone == 0 {
        let line = format!("of the {all} bindings of the run before are back"); // from 99 % on
        until(SOON, "the log says so", || second.log().contains(&line));
        let said = comeback(&second);
        assert!(number(&said, "t99") >= number(&said, "t50"), "{said}");
        return;
    }
    assert_eq!(number(&said, "overdue"), 0, "they have time: {said}");
    let limit = Duration::from_secs(u64::from(phones.expires)) + 2 * SOON;
    until(limit, "the last of them ends", || {
        number(&comeback(&second), "overdue") == phones.gone as i64
    });
    let over = comeback(&second);
    assert_eq!(
        (number(&over, "expired"), number(&over, "waiting_seconds")),
        (phones.gone as i64, 0)
    );
    assert_eq!(number(&over, "back"), all as i64);
    let line = format!(
        "{} of the {} AoRs that the run before knew have not come back",
        phones.gone,
        phones.all()
    );
    until(SOON, "the log says so", || second.log().contains(&line));
    until(SOON, "the metrics say so", || {
        let text = get(metrics, "/metrics", SOON).map_or_else(String::new, |r| r.body);
        text.contains(&format!(
            "\nkamailio_memguard_comeback_overdue {}\n",
            phones.gone
        )) && text.contains(&format!(
            "\nkamailio_memguard_comeback_before {}\n",
            phones.all()
        ))
    });
    let check = second.rpc("memguard.check", json!([]));
    assert!(number(&check, "code") >= 1, "{check}");
    assert!(
        word(&check, "text").contains("have not come back"),
        "{check}"
    );
}

#[test]
fn restarts_comeback_says_what_the_phones_say() {
    for_each_pair(|pair| {
        let phones = Phones {
            udp: 60,
            tcp: 12,
            tls: 8,
            gone: 0,
            expires: 3600,
            are_sipps: false,
        };
        restarted(pair, phones);
        // Two of ten do not come again.
        let phones = Phones {
            udp: 20,
            tcp: 3,
            tls: 2,
            gone: 5,
            expires: 25,
            are_sipps: false,
        };
        restarted(pair, phones);
    });
}

/// `./dev restarts`
#[test]
#[ignore = "some minutes: ./dev restarts"]
fn restarts_full_two_thousand_phones_over_udp_tcp_and_tls() {
    for_each_pair(|pair| {
        let phones = Phones {
            udp: 1200,
            tcp: 500,
            tls: 300,
            gone: 0,
            expires: 3600,
            are_sipps: true,
        };
        restarted(pair, phones);
        println!("   2000 of 2000 phones back, by sipp's count and by memguard.comeback");
        let phones = Phones {
            gone: 100,
            expires: 120,
            ..phones
        };
        restarted(pair, phones);
        println!(
            "   1900 of 2000 phones back, 100 overdue, by sipp's count and by memguard.comeback"
        );
    });
}

#[test]
fn restarts_a_backup_frontend_knows_the_phones_of_the_main_one() {
    for_each_pair(|pair| {
        let behind = Server::registrar(pair).without_memguard().start();
        let kinds: [(&str, &dyn Fn() -> Builder); 2] = [
            ("proxies", &|| Server::proxy(pair, behind.sip())),
            ("registrars with usrloc in memory", &|| {
                Server::registrar(pair)
            }),
        ];
        for (what, kind) in kinds {
            let folder = Folder::of(pair, "learn");
            let file = folder.file("of-main");
            let main = kind().param("bindings_file", file.display()).start();
            let backup = kind().start();
            let phones: Vec<Request> = (0..40)
                .map(|i| Request::register(&format!("p{i}")))
                .collect();
            let flood = |server: &Server, phones: Vec<Request>| {
                server.udp().flood(phones.into_iter(), 8, |_, _, _| ())
            };
            assert_eq!(flood(&main, phones.clone()).of(200), 40, "{what}");
            assert!(main.stop().success());
            backup.rpc("memguard.shed", json!([600])); // as at full pressure
            let first: Vec<Request> = phones.iter().take(5).map(Request::next).collect();
            assert_eq!(flood(&backup, first).of(503), 5, "{what}: strangers before");

            let path = file.display().to_string();
            let good = fs::read(&file).expect("it is there");
            let learn = |path: &str| backup.try_rpc("memguard.learn", json!([path]));
            let mut damaged = good.clone();
            damaged[good.len() / 2] ^= 1;
            fs::write(&file, damaged).expect("ours");
            let fault = learn(&path).expect_err("damaged");
            assert!(
                fault.text.contains(
                    "was not taken over: it is damaged; what was known before is known still"
                ),
                "{fault:?}"
            );
            fs::write(&file, &good).expect("ours");
            let learned = learn(&path).expect("a good file");
            assert_eq!(
                (number(&learned, "bindings"), number(&learned, "aors")),
                (40, 40),
                "{what}"
            );
            let again: Vec<Request> = phones.iter().take(30).map(|p| p.next().next()).collect();
            let refreshed = flood(&backup, again);
            assert_eq!(refreshed.of(200), 30, "{what}: {refreshed:?}");
            for stranger in [
                Request::register("stranger"),
                Request::register("p35").contact("<sip:p35@192.0.2.99:5060>"), // another phone of a known AoR
            ] {
                assert_eq!(backup.udp().request(&stranger).code, 503, "{what}");
            }

            // A bad file loses nothing of what was learned.
            fs::write(&file, &good[..good.len() - 8]).expect("ours");
            for (path, said) in [
                (path.as_str(), "it is cut off"),
                ("/nowhere/at/all", "No such file"),
                (
                    folder.path().to_str().expect("text"),
                    "it is not a regular file",
                ),
                ("relative", "accepts the whole path"),
            ] {
                let fault = learn(path).expect_err(said);
                assert!(fault.text.contains(said), "{said}: {fault:?}");
            }
            let last: Vec<Request> = phones
                .iter()
                .skip(30)
                .map(|p| p.next().next().next())
                .collect();
            let refreshed = flood(&backup, last);
            assert_eq!(refreshed.of(200), 10, "{what}: {refreshed:?}");
        }
    });
}

/// A black box of a run that ended in order a moment ago and knew a week: busy by day, quiet from 2 to 5 at night.
fn box_with_a_week(file: &Path) {
    let now_s = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let start_s = now_s - 7 * 86_400;
    let identity = json!({ "start_ms": start_s * 1000, "boot": "one" }).to_string();
    let opened = blackbox::open(file, &identity, now_s, None);
    let mut writer = opened.unwrap_or_else(|_| panic!("a new box")).writer;
    for number in now_s / 3600 - 168..now_s / 3600 {
        let rate = if (2..5).contains(&(number % 24)) {
            1_000
        } else {
            90_000
        };
        writer.put(Ring::Hours, &[number, rate]).expect("written");
    }
    let end = json!({ "time": now_s - 4, "how": "stopped" }).to_string();
    writer
        .put_text(Ring::End, now_s - 4, &end)
        .expect("written");
}

#[test]
fn restarts_the_week_and_the_length_of_restarts_are_carried_over_and_a_healthy_server_is_left_alone()
 {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "week");
        let file = folder.file("box");
        box_with_a_week(&file);
        let builder = Server::registrar(pair).param("blackbox", file.display());
        for turn in 0..2 {
            let server = builder.start();
            let said = restart(&server);
            assert_eq!(word(&said, "advice"), "none", "{said}");
            assert!(
                said.get("before").is_none() && said.get("at").is_none(),
                "{said}"
            );
            let days = said["days_seen"].as_f64().expect("a number");
            assert!((6.9..=7.0).contains(&days), "run {turn}: {said}");
            assert!((5..60).contains(&number(&said, "takes_seconds")), "{said}");
            assert_eq!(number(&said, "bindings_lost"), 0, "there are none");
            assert!(blockers(&server).is_empty(), "{said}");
            assert!(server.stop().success());
        }
    });
}

/// Runs a command in the network namespace of this thread.
#[track_caller]
fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status();
    assert!(status.is_ok_and(|s| s.success()), "ip {words}");
}

#[test]
fn restarts_what_is_in_the_way_is_named_before_and_a_forced_restart_fails_as_foretold() {
    // SAFETY: a plain call.
    if unsafe { libc::geteuid() } != 0 {
        return skip("only root makes network namespaces");
    }
    for_each_pair(|pair| {
        std::thread::scope(|scope| {
            // A namespace of this thread and of what it starts; it is gone with them.
            let run = scope.spawn(|| {
                // SAFETY: a plain call that changes this thread alone.
                if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                    return skip("network namespaces are not allowed here");
                }
                ip("link set lo up");
                ip("addr add 192.0.2.77/32 dev lo");
                blocked(pair);
            });
            run.join().unwrap_or_else(|e| std::panic::resume_unwind(e));
        });
    });
}

fn blocked(pair: &Pair) {
    let folder = Folder::of(pair, "blocked");
    let more = folder.file("more.cfg");
    fs::write(&more, "# nothing\n").expect("ours");
    let (known, metrics) = (folder.file("known"), free_port());
    let second = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77)), 5077);
    let builder = Server::registrar(pair)
        .param("bindings_file", known.display())
        .param("blackbox", folder.file("box").display())
        .param("listen", metrics)
        .config(|c| {
            c.global(&format!("listen=udp:{second}"));
            c.routes = format!("include_file \"{}\"\n", more.display());
        });
    let server = builder.start();
    assert_eq!(blockers(&server), Vec::<String>::new());
    ip("addr del 192.0.2.77/32 dev lo");
    let said = blockers(&server);
    let sentence = format!(
        "the listen address {second} (udp) is not on this machine: Kamailio would not start"
    );
    assert_eq!(said, [sentence]);
    // A forced restart: the server ends, and none comes until the address is back.
    let at = server.sip();
    assert!(server.stop().success());
    let again = builder.clone().at(at);
    let log = again.try_start().err().expect("a forced restart fails");
    let is_the_reason = |line: &str| {
        line.contains("192.0.2.77") && line.contains("Cannot assign requested address")
    };
    assert!(log.lines().any(is_the_reason), "as foretold: {log}");
    ip("addr add 192.0.2.77/32 dev lo");
    let server = again.start();
    assert!(blockers(&server).is_empty());

    // Written anew with the same text it is the same; with another text it is not.
    fs::write(&more, "# nothing\n").expect("ours");
    assert!(blockers(&server).is_empty());
    fs::write(&more, "route[MORE] {\n    return;\n}\n").expect("ours");
    let (is_good, text) = advised(&server, &more);
    assert!(is_good, "another text that parses: {text}");
    fs::write(&more, "route[BROKEN] {\n    nonsense\n}\n").expect("ours");
    let (is_good, text) = advised(&server, &more);
    assert!(!is_good, "one that does not: {text}");
    assert!(
        text.contains("syntax error") && text.contains(&format!("{}, line ", more.display())),
        "the fault is named, and where it is: {text}"
    );
    // The server that runs knows nothing of it.
    assert_eq!(
        server.udp().request(&Request::register("anybody")).code,
        200
    );
    assert_eq!(get(metrics, "/ready", SOON).map(|r| r.status), Some(200));

    // The same restart, forced again.
    assert!(server.stop().success());
    let log = again.try_start().err().expect("a forced restart fails");
    assert!(
        log.contains("syntax error") && log.contains("more.cfg, line "),
        "as foretold: {log}"
    );
    fs::write(&more, "# nothing\n").expect("ours");
    let server = again.start();
    assert!(blockers(&server).is_empty());
    assert_eq!(
        number(&comeback(&server), "before"),
        1,
        "neither the checks nor what failed took the file"
    );
    fs::remove_file(&more).expect("ours");
    let gone = |text: &String| text.contains("more.cfg is gone: Kamailio would not start");
    assert!(holds_within(SOON, || blockers(&server).iter().any(gone)));
}

/// What an operator does with the blocker of a changed file: types what it says, word for word. Whether the
/// configuration is accepted, and what was printed.
#[track_caller]
fn advised(server: &Server, changed: &Path) -> (bool, String) {
    let name = |path: &Path| {
        fs::canonicalize(path)
            .expect("it is there")
            .display()
            .to_string()
    };
    let cfg = name(&server.places.folder.join("kamailio.cfg"));
    let sentence = format!(
        "{} was changed since the start: run kamailio -c -f {cfg} before the restart",
        name(changed)
    );
    assert_eq!(blockers(server), [sentence.as_str()]);
    let words = sentence.split("run kamailio ").nth(1).unwrap_or_default();
    let words = words
        .strip_suffix(" before the restart")
        .unwrap_or_default();
    let output = Command::new(&server.pair.kamailio.program)
        .args(words.split(' '))
        .output()
        .expect("kamailio -c runs");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}
