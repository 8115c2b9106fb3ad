//! HTTP of the sampling process in real Kamailio: the four paths; alive at zero bytes, where Kamailio's own HTTP is dead;
//! hostile clients change nothing; the port; the text file.
//! Forbidden here: connections beyond loopback.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::guard::Guarded;
use super::harness::builder::{Builder, Folder, free_port};
use super::harness::http::{self, Response};
use super::harness::prometheus::{program, promtool};
use super::harness::sip::Request;
use super::harness::{Pair, Server, for_each_pair, until};

/// An answer within this time is prompt, on a slow machine too.
const PROMPT: Duration = Duration::from_secs(2);

fn listening(pair: &Pair) -> (Builder, SocketAddr) {
    let address = free_port();
    let builder = Server::registrar(pair)
        .workers(1)
        .param("listen", address)
        .param("sample_interval", 100);
    (builder, address)
}

#[track_caller]
fn get(address: SocketAddr, path: &str) -> Response {
    http::get(address, path, PROMPT).unwrap_or_else(|| panic!("{path} is answered promptly"))
}

/// The value of a series without labels.
fn metric(text: &str, name: &str) -> Option<u64> {
    let name = format!("kamailio_memguard_{name} ");
    text.lines()
        .find_map(|line| line.strip_prefix(&name)?.parse().ok())
}

/// The pid of the process that supervises the sampling process.
#[track_caller]
fn supervisor(server: &Server) -> i32 {
    let found = server
        .processes()
        .into_iter()
        .find(|(_, _, name)| name.contains("memguard"));
    found.expect("core.psx shows it").1
}

/// Connections to this address that a process holds: its descriptors among the kernel's sockets (proc(5), /proc/net/tcp).
/// What else it opens is its own affair.
fn connections(pid: i32, address: SocketAddr) -> usize {
    const LISTENS: &str = "0A";
    let held: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .map(|link| link.display().to_string())
        .collect();
    let port = format!(":{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").expect("the kernel lists its sockets");
    let is_held = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, _, state, _, _, _, _, _, inode, ..] = fields[..] else {
            return false;
        };
        local.ends_with(&port) && state != LISTENS && held.contains(&format!("socket:[{inode}]"))
    };
    table.lines().filter(is_held).count()
}

#[test]
fn http_serves_its_four_paths_and_nothing_else() {
    for_each_pair(|pair| {
        let (builder, address) = listening(pair);
        let server = builder.start();
        let metrics = get(address, "/metrics");
        assert_eq!(metrics.status, 200);
        assert_eq!(
            metrics.header("Content-Type"),
            Some("text/plain; version=0.0.4; charset=utf-8")
        );
        let size = metric(&metrics.body, "shm_size_bytes").expect("a size");
        assert!((16 << 20) - size < 4096, "{size}"); // tlsf keeps some for itself
        let workers = server.processes().len() as u64;
        assert_eq!(metric(&metrics.body, "workers"), Some(workers));
        let series = metrics.body.lines().filter(|l| !l.starts_with('#')).count();
        assert!(series as u64 <= 60 + 6 * workers, "{series} series");

        let status: Value =
            serde_json::from_str(&get(address, "/status.json").body).expect("/status.json is JSON");
        let said = server.rpc("memguard.json", json!([]));
        let rpc: Value = serde_json::from_str(said.as_str().expect("a string")).expect("JSON");
        let keys = |v: &Value| -> Vec<String> {
            v.as_object().expect("an object").keys().cloned().collect()
        };
        assert_eq!(keys(&status), keys(&rpc));
        assert_eq!(status["status"]["level"], json!("normal"));

        let ready = get(address, "/ready");
        assert_eq!((ready.status, ready.body.as_str()), (200, "ready\n"));
        let page = get(address, "/");
        assert_eq!(
            page.header("Content-Type"),
            Some("text/html; charset=utf-8")
        );
        assert!(
            page.body.contains("● normal</h1>") && page.body.contains("udp receiver"),
            "{}",
            page.body
        );
        assert!(page.body.len() < 60 * 1024);

        let head =
            http::exchange(address, b"HEAD /metrics HTTP/1.0\r\n\r\n", PROMPT).expect("an answer");
        assert_eq!((head.status, head.body.as_str()), (200, ""));
        let length: usize = head
            .header("Content-Length")
            .and_then(|l| l.parse().ok())
            .expect("a length");
        assert!(length.abs_diff(metrics.body.len()) < 200, "{length}");
        for (request, status) in [
            ("GET /nothing HTTP/1.0\r\n\r\n", 404),
            ("POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc", 405),
            ("nonsense\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n\r\n", 400),
        ] {
            let answer = http::exchange(address, request.as_bytes(), PROMPT).expect(request);
            assert_eq!(answer.status, status, "{request}");
        }
        // What is not read of a request must not cost the client its answer.
        let long = [&b"POST / HTTP/1.0\r\n\r\n"[..], &[b'x'; 60_000]].concat();
        for _ in 0..20 {
            let answer =
                http::exchange(address, &long, PROMPT).expect("an answer in spite of the rest");
            assert_eq!(answer.status, 405);
        }
        server.stop();
        TcpListener::bind(address).expect("the port is free again");
    });
}

#[test]
fn http_ready_is_refused_during_an_operators_shed_only() {
    for_each_pair(|pair| {
        let (builder, address) = listening(pair);
        let server = builder.start();
        assert_eq!(get(address, "/ready").status, 200);
        server.rpc("memguard.shed", json!([60]));
        let refused = get(address, "/ready");
        assert_eq!(refused.status, 503);
        assert!(refused.body.contains("memguard.shed"), "{}", refused.body);
        until(PROMPT, "the page says so", || {
            get(address, "/")
                .body
                .contains("An operator's memguard.shed is running")
        });
        server.rpc("memguard.resume", json!([]));
        assert_eq!(get(address, "/ready").status, 200);
    });
}

#[test]
fn http_of_memguard_lives_with_no_byte_of_shm_and_pkg_left_where_kamailios_own_is_dead() {
    for_each_pair(|pair| {
        let (builder, address) = listening(pair);
        let fill =
            "if ($hdr(X-Fill) != $null) { mgtest_fill_shm(\"16\"); mgtest_fill_pkg(\"16\"); }";
        let server = builder
            .with_mgtest()
            .config(|c| {
                c.before = fill.into();
                c.http = "xhttp_reply(\"200\", \"OK\", \"text/plain\", \"alive\");".into();
            })
            .start();
        // xhttp does not close by itself: an answer is seen only by its bytes.
        let answers = |limit: Duration| {
            let mut stream = TcpStream::connect(server.http()).expect("Kamailio listens");
            stream.set_read_timeout(Some(limit)).expect("a limit");
            let _ = stream
                .write_all(b"GET /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
            let mut bytes = [0; 16];
            stream
                .read(&mut bytes)
                .is_ok_and(|count| bytes[..count].starts_with(b"HTTP/"))
        };
        assert!(
            answers(PROMPT),
            "Kamailio's own HTTP answers while there is memory"
        );

        let udp = server.udp();
        udp.send_raw(&udp.bytes(&Request::options().header("X-Fill: 1")));
        until(
            Duration::from_secs(10),
            "memguard sees that memory is gone",
            || {
                let text = get(address, "/metrics").body;
                let value = |name| metric(&text, name).expect(name);
                value("level") == 3
                    && value("shm_failures_total") * value("pkg_failures_total") > 0
                    && value("shm_size_bytes") < value("shm_used_bytes") + 65_536
                    && value("pkg_size_bytes") < value("pkg_used_max_bytes") + 65_536
            },
        );
        for _ in 0..50 {
            let ready = get(address, "/ready");
            assert_eq!(ready.status, 503);
            assert!(ready.body.contains("emergency"));
            assert!(get(address, "/").body.contains("✖ emergency</h1>"));
            assert!(get(address, "/status.json").body.contains("\"emergency\""));
        }
        let before = metric(
            &get(address, "/metrics").body,
            "last_sample_timestamp_seconds",
        );
        // What earlier connections gave back is taken again, or it would answer once more.
        until(
            Duration::from_secs(20),
            "Kamailio's own HTTP is dead",
            || {
                let _ = server.try_rpc("mgtest.fill_shm", json!([16]));
                !answers(PROMPT)
            },
        );
        until(PROMPT, "sampling goes on", || {
            metric(
                &get(address, "/metrics").body,
                "last_sample_timestamp_seconds",
            ) > before
        });
    });
}

#[test]
fn http_of_hostile_clients_changes_nothing_for_anybody_else() {
    for_each_pair(|pair| {
        let (builder, address) = listening(pair);
        let server = builder.start();
        let pid = server.sampling_pid();
        let connect = || TcpStream::connect(address).expect("the port is open");
        // 200 that say nothing, 40 that say half, 40 that ask and do not read, 20 huge, some noise.
        let mut clients: Vec<TcpStream> = (0..200).map(|_| connect()).collect();
        for request in [
            &b"GET /metrics HTTP/1.1\r\nHo"[..],
            b"GET /status.json HTTP/1.0\r\n\r\n",
        ] {
            for _ in 0..40 {
                let mut stream = connect();
                let _ = stream.write_all(request);
                clients.push(stream);
            }
        }
        for _ in 0..20 {
            let mut stream = connect();
            stream.set_write_timeout(Some(PROMPT)).expect("a limit");
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nA: ");
            let _ = stream.write_all(&vec![b'a'; 300_000]);
            clients.push(stream);
        }
        for noise in [
            &b"\x16\x03\x01\x00\xa5\x01"[..],
            b"\0\0\0\0",
            b"\r\n\r\n\r\n",
            &[0xff; 9000],
        ] {
            let _ = connect().write_all(noise);
        }
        // Awaited: one that takes another's place holds both for a moment.
        until(PROMPT, "at most 32 of them are held", || {
            (1..=32).contains(&connections(pid, address))
        });

        let start = Instant::now();
        let udp = server.udp();
        for _ in 0..20 {
            assert_eq!(get(address, "/metrics").status, 200);
            assert_eq!(udp.request(&Request::options()).code, 200);
            let age = server.rpc("memguard.status", json!([]))["sample_age_ms"].as_u64();
            assert!(age.is_some_and(|age| age < 1500), "{age:?}");
        }
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{:?}",
            start.elapsed()
        );

        // Two requests at once: the first is answered, the second is not, and the connection ends.
        let both =
            b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\nGET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let answer = http::exchange(address, both, PROMPT).expect("an answer");
        assert_eq!((answer.status, answer.body.as_str()), (200, "ready\n"));
        // One byte at a time is slow, but no crime.
        let mut slow = connect();
        for byte in b"GET /ready HTTP/1.0\r\n\r\n" {
            slow.write_all(&[*byte]).expect("the server waits");
        }
        assert_eq!(
            http::response(&mut slow, PROMPT).map(|r| r.status),
            Some(200)
        );

        drop(clients);
        until(
            Duration::from_secs(10),
            "every connection is given up",
            || connections(pid, address) == 0,
        );
    });
}

#[test]
fn http_gives_a_silent_client_five_seconds() {
    for_each_pair(|pair| {
        let (builder, address) = listening(pair);
        let server = builder.start();
        let mut stream = TcpStream::connect(address).expect("the port is open");
        stream.write_all(b"GET / HTTP/1.1\r\n").expect("written");
        stream
            .set_read_timeout(Some(Duration::from_secs(15)))
            .expect("a limit");
        let start = Instant::now();
        let end = stream.read(&mut [0; 16]);
        let took = start.elapsed();
        assert!(
            matches!(end, Ok(0))
                || end.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset)
        );
        assert!((4..8).contains(&took.as_secs()), "{took:?}");
        drop(server);
    });
}

#[test]
fn http_answers_a_flood_and_samples_meanwhile() {
    for_each_pair(|pair| {
        let (builder, address) = listening(pair);
        let server = builder.start();
        let end = Instant::now() + Duration::from_secs(2);
        let answered: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(move || {
                        let mut count = 0;
                        while Instant::now() < end {
                            count += usize::from(
                                http::get(address, "/", PROMPT).is_some_and(|r| r.status == 200),
                            );
                        }
                        count
                    })
                })
                .collect();
            while Instant::now() < end {
                let age = server.rpc("memguard.status", json!([]))["sample_age_ms"].as_u64();
                assert!(age.is_some_and(|age| age < 1500), "{age:?}");
            }
            threads
                .into_iter()
                .map(|t| t.join().expect("a client"))
                .sum()
        });
        assert!(answered > 100, "{answered}");
    });
}

#[test]
fn http_port_in_use_or_a_bad_address_stops_the_start_with_a_sentence() {
    for_each_pair(|pair| {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("an address");
        let log = Server::registrar(pair)
            .param("listen", address)
            .try_start()
            .err()
            .expect("it does not start");
        let sentence = format!("parameter listen: cannot listen on {address}");
        assert!(log.contains(&sentence) && log.contains("in use"), "{log}");
        let (accepted, text) = Server::registrar(pair)
            .param("listen", "localhost:1")
            .check();
        assert!(
            !accepted && text.contains("parameter listen is \"localhost:1\", but accepts"),
            "{text}"
        );
    });
}

#[test]
fn http_socket_is_held_by_the_sampling_process_alone() {
    for_each_pair(|pair| {
        let (builder, address) = listening(pair);
        let server = builder.start();
        let table = fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
        let port = format!("0100007F:{:04X}", address.port());
        let inode = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|w| w.get(1) == Some(&port.as_str()) && w.get(3) == Some(&"0A"))
            .map(|w| format!("socket:[{}]", w[9]))
            .expect("the port is listened on");
        let holds = |pid: &i32| {
            let entries = fs::read_dir(format!("/proc/{pid}/fd"))
                .into_iter()
                .flatten()
                .flatten();
            entries
                .filter_map(|e| fs::read_link(e.path()).ok())
                .any(|link| link == Path::new(&inode))
        };
        let mut holders: Vec<i32> = server.pids().into_iter().filter(holds).collect();
        holders.sort_unstable();
        let mut expected = [supervisor(&server), server.sampling_pid()];
        expected.sort_unstable();
        assert_eq!(holders, expected, "{:?}", server.processes());
    });
}

#[test]
fn http_serves_ipv6_too() {
    if TcpListener::bind("[::1]:0").is_err() {
        return super::harness::pairs::skip("no IPv6 on loopback here");
    }
    for_each_pair(|pair| {
        let port = TcpListener::bind("[::1]:0")
            .and_then(|l| l.local_addr())
            .expect("a free port");
        let _server = Server::registrar(pair).param("listen", port).start();
        assert_eq!(get(port, "/ready").status, 200);
    });
}

#[test]
fn textfile_is_whole_whenever_it_is_read_and_the_same_metrics_as_http() {
    for_each_pair(|pair| {
        let (builder, address) = listening(pair);
        let kept = Folder::of(pair, "prom");
        let folder = kept.file("textfile");
        fs::create_dir(&folder).expect("the folder is writable");
        let file = folder.join("memguard.prom");
        let server = builder.param("textfile", file.display()).start();
        until(PROMPT, "the file appears", || file.exists());
        let names = |text: &str| -> Vec<String> {
            assert!(text.ends_with('\n') && text.contains("worker_leaking{worker=\"1\"} "));
            let lines = text
                .lines()
                .filter(|l| !l.starts_with('#') && !l.contains("worker="));
            lines
                .filter_map(|l| Some(l.rsplit_once(' ')?.0.to_owned()))
                .collect()
        };
        let wanted = names(&get(address, "/metrics").body);
        let (mut seen, end) = (0, Instant::now() + PROMPT);
        let mut times = std::collections::BTreeSet::new();
        while Instant::now() < end {
            let text = fs::read_to_string(&file).expect("it is always there");
            assert_eq!(names(&text), wanted);
            times.insert(metric(&text, "last_sample_timestamp_seconds"));
            seen += 1;
        }
        assert!(seen > 20 && times.len() > 1, "{seen} {times:?}");
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(&file).expect("it is there").permissions(),
        );
        assert_eq!(mode & 0o777, 0o644);

        // Its folder goes away: said and counted, nothing else changes; it comes back: written again.
        let away = folder.with_extension("away");
        fs::rename(&folder, &away).expect("ours");
        let status = || server.rpc("memguard.status", json!([]))["warnings"].to_string();
        until(PROMPT, "the warning comes", || {
            status().contains("textfile")
        });
        until(PROMPT, "the failure is counted", || {
            metric(&get(address, "/metrics").body, "sample_errors_total") > Some(0)
        });
        assert_eq!(server.udp().request(&Request::options()).code, 200);
        fs::rename(&away, &folder).expect("ours");
        fs::remove_file(&file).expect("the old one");
        until(PROMPT, "the warning goes", || {
            !status().contains("textfile")
        });
        until(PROMPT, "the file appears again", || file.exists());
        // Somebody's pipe in the place of the temporary file must not block the sampling process.
        let pipe = folder.join("memguard.prom.tmp");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.is_ok_and(|s| s.success()));
        until(PROMPT, "samples go on", || {
            server.rpc("memguard.status", json!([]))["sample_age_ms"].as_u64() < Some(500)
        });
        let log = server.log();
        assert_eq!(log.matches("is written again").count().min(1), 1, "{log}");
        server.stop();
    });
}

#[test]
fn metrics_are_what_promtool_calls_good_in_every_state() {
    let Some(promtool_path) = program("promtool") else {
        return;
    };
    for_each_pair(|pair| {
        let (builder, address) = listening(pair);
        let server = builder.start();
        let check = |text: &str| promtool(&promtool_path, &["check", "metrics"], text);
        assert_eq!(check(&get(address, "/metrics").body), (true, String::new()));
        let text = server.rpc("memguard.metrics", json!([]));
        assert_eq!(
            check(text.as_str().expect("a string")),
            (true, String::new())
        );
        // promtool is not content with everything.
        assert!(!check("# TYPE a counter\na 1\n").1.is_empty());
    });
}

#[test]
fn statistics_and_xhttp_prom_show_the_same_names() {
    for_each_pair(|pair| {
        let (builder, address) = listening(pair);
        let server = builder
            .config(|c| {
                c.module("xhttp_prom")
                    .param("xhttp_prom", "xhttp_prom_stats", "memguard:");
                c.param("xhttp_prom", "xhttp_prom_buf_size", 16_384);
                c.http = "if (!prom_dispatch()) { jsonrpc_dispatch(); }".into();
            })
            .start();
        let mut stream = TcpStream::connect(server.http()).expect("Kamailio listens");
        stream.set_read_timeout(Some(PROMPT)).expect("a limit");
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
            .expect("written");
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes); // ends by the limit: xhttp keeps the connection
        let text = String::from_utf8_lossy(&bytes);
        let shown: std::collections::BTreeSet<&str> = text
            .lines()
            .filter(|l| l.starts_with("kamailio_memguard_"))
            .filter_map(|l| l.split([' ', '{']).next())
            .collect();
        let own = get(address, "/metrics").body;
        let served: std::collections::BTreeSet<String> = own
            .lines()
            .filter(|l| !l.starts_with('#') && !l.contains("worker="))
            .filter_map(|l| {
                let series = l.rsplit_once(' ')?.0;
                match series.split_once("{class=\"") {
                    Some((name, class)) => Some(format!(
                        "{}_{}_total",
                        name.strip_suffix("_total")?,
                        class.trim_end_matches("\"}")
                    )),
                    None => Some(series.split('{').next()?.to_owned()),
                }
            })
            .collect();
        let served: std::collections::BTreeSet<&str> = served.iter().map(String::as_str).collect();
        assert_eq!(shown, served);
        let size = server.statistic("memguard:shm_size_bytes");
        assert_eq!(metric(&own, "shm_size_bytes"), u64::try_from(size).ok());
        assert_eq!(server.statistic("memguard:build_info"), 1);
    });
}

#[test]
fn http_on_loopback_no_foreign_name_reads_anything() {
    for_each_pair(|pair| {
        let (builder, address) = listening(pair);
        let _server = builder.start();
        let ask = |host: &str| {
            let request = format!("GET /status.json HTTP/1.1\r\nHost: {host}\r\n\r\n");
            http::exchange(address, request.as_bytes(), PROMPT).expect("an answer")
        };
        for host in [
            "rebound.example",
            "rebound.example:9494",
            "127.0.0.1.nip.example",
        ] {
            let answer = ask(host);
            assert_eq!(answer.status, 421, "{host}");
            assert!(
                answer.body.contains("localhost") && !answer.body.contains('{'),
                "{}",
                answer.body
            );
        }
        for host in [address.to_string(), "localhost".into(), "[::1]:80".into()] {
            assert_eq!(ask(&host).status, 200, "{host}");
        }
        let old = http::exchange(address, b"GET /ready HTTP/1.0\r\n\r\n", PROMPT);
        assert_eq!(old.map(|r| r.status), Some(200));
    });
}
