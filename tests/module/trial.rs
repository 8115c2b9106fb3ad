//! A trial on a server as it is: Debian's own kamailio.cfg, its features switched on, and memguard loaded in mode observe by
//! the command line alone, as the pages and the systemd drop-in have it. Phones are answered as they are without memguard.
//! Forbidden here: a configuration of our own; systemd itself (its files are read, and their command line is run).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::guard::{Guarded, SOON, number, word};
use super::harness::builder::{Folder, free_port};
use super::harness::config::{Config, Places};
use super::harness::server::is_running;
use super::harness::sip::{Reply, Request};
use super::harness::tls::Certificate;
use super::harness::{Pair, Server, for_each_pair, for_each_pair_at_once, until};

/// What memguard adds to a command line.
const LOADS: &str = "--loadmodule=memguard.so --modparam=memguard:mode:s:observe";
/// Features of Debian's kamailio.cfg; what needs a database has one of text files, which the packages bring.
const FEATURES: [&[&str]; 5] = [
    &[],
    &["WITH_AUTH"],
    &["WITH_NAT"],
    &["WITH_TLS"],
    &[
        "WITH_AUTH",
        "WITH_NAT",
        "WITH_TLS",
        "WITH_PRESENCE",
        "WITH_USRLOCDB",
        "WITH_ANTIFLOOD",
    ],
];

/// build/VERSION/root: what Debian's packages install.
fn package_root(pair: &Pair) -> PathBuf {
    let folder = pair.kamailio.modules.parent().expect("build/VERSION");
    folder.join("root")
}

/// Debian's configuration, but for the folder in which its TLS files are, and what it needs: a database, a certificate.
fn configuration(pair: &Pair, folder: &Folder) -> PathBuf {
    let root = package_root(pair);
    for name in ["kamailio.cfg", "tls.cfg"] {
        let text =
            fs::read_to_string(root.join("etc/kamailio").join(name)).expect("a package has it");
        let moved = text.replace("/etc/kamailio/", &format!("{}/", folder.path().display()));
        fs::write(folder.file(name), moved).expect("the folder is ours");
    }
    let tables = root.join("usr/share/kamailio/dbtext/kamailio");
    fs::create_dir(folder.file("db")).expect("the folder is ours");
    for table in fs::read_dir(tables).expect("a package has them").flatten() {
        fs::copy(table.path(), folder.file("db").join(table.file_name())).expect("ours");
    }
    let subscribers = folder.file("db").join("subscriber");
    let text = fs::read_to_string(&subscribers).expect("the table of users");
    let columns = text
        .lines()
        .next()
        .expect("a line of columns")
        .split_whitespace();
    let row: Vec<&str> = columns
        .map(|column| match column.split('(').next() {
            Some("id") => "1",
            Some("username") => "alice",
            Some("domain") => "example.test",
            Some("password") => "secret",
            _ => "x", // none of them may be empty
        })
        .collect();
    fs::write(&subscribers, format!("{text}{}\n", row.join(":"))).expect("ours");
    folder.file("kamailio.cfg")
}

/// A command line of a page or a unit, for a test's configuration; what a feature needs is said by options as well.
fn server(pair: &Pair, line: &str, folder: &Folder, features: &[&str]) -> Server {
    let file = folder.file("kamailio.cfg").display().to_string();
    let line = line.replace("/etc/kamailio/kamailio.cfg", &file);
    let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let database = format!("DBURL=\"text://{}\"", folder.file("db").display());
    for define in features {
        words.extend(["-A".to_owned(), (*define).to_owned()]);
    }
    if features.contains(&"WITH_AUTH") {
        words.extend([
            "-A".to_owned(),
            database,
            "--loadmodule=db_text.so".to_owned(),
        ]);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let builder = Server::registrar(pair).without_memguard().line(&words);
    let builder = if line.contains("-P ") {
        builder.daemon()
    } else {
        builder
    };
    builder.at(free_port()).start()
}

fn md5(text: &str) -> String {
    let words = ["-c", "printf %s \"$0\" | md5sum", text];
    let output = Command::new("sh").args(words).output().expect("sh runs");
    String::from_utf8_lossy(&output.stdout)[..32].to_owned()
}

/// What a phone sends next when it is asked who it is.
fn with_credentials(request: &Request, challenge: &Reply) -> Request {
    let value = challenge.header("WWW-Authenticate").unwrap_or_default();
    let part = |name: &str| {
        let (_, rest) = value
            .split_once(&format!("{name}=\""))
            .expect("a challenge has it");
        rest.split('"').next().unwrap_or_default().to_owned()
    };
    let (realm, nonce) = (part("realm"), part("nonce"));
    let (who, what) = (
        md5(&format!("alice:{realm}:secret")),
        md5(&format!("{}:{}", request.method, request.uri)),
    );
    let response = md5(&format!("{who}:{nonce}:{what}"));
    request.next().header(&format!(
        "Authorization: Digest username=\"alice\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{}\", response=\"{response}\"",
        request.uri
    ))
}

/// What a phone and its neighbours are answered, in order: codes, and how many bindings each answer lists.
fn day(server: &Server) -> Vec<(&'static str, u16, usize)> {
    let phone = Request {
        uri: format!("sip:{}", server.sip()), // it serves the addresses that it listens at
        aor: "sip:alice@example.test".to_owned(),
        ..Request::register("alice")
    };
    let (udp, mut tcp) = (server.udp(), server.tcp());
    let mut answers = Vec::new();
    let mut last = phone.clone();
    for (what, expires) in [("register", 600), ("refresh", 900), ("unregister", 0)] {
        last = last.next().expires(expires);
        last.headers.clear();
        for by_tcp in [false, true] {
            let mut send = |request: &Request| {
                if by_tcp {
                    tcp.request(request)
                } else {
                    udp.request(request)
                }
            };
            last = last.next();
            let mut reply = send(&last);
            answers.push((what, reply.code, reply.all("Contact").len()));
            if reply.code == 401 {
                last = with_credentials(&last, &reply);
                reply = send(&last);
                answers.push((what, reply.code, reply.all("Contact").len()));
            }
        }
    }
    let other = |method: &str| Request {
        uri: phone.uri.clone(),
        ..Request::new(method, "alice")
    };
    answers.push(("options", udp.request(&other("OPTIONS")).code, 0));
    let nowhere = udp.request(&Request::register("mallory"));
    answers.push(("elsewhere", nowhere.code, 0));
    answers
}

/// What a day sends of REGISTERs.
fn registers(answers: &[(&str, u16, usize)]) -> i64 {
    answers
        .iter()
        .filter(|(what, ..)| *what != "options")
        .count() as i64
}

/// memguard answers, saw all and refuses nothing, not even what it counts as to be refused.
#[track_caller]
fn assert_observes(server: &Server, what: &str, expected: &[(&'static str, u16, usize)]) {
    let text = server
        .kamcmd(&["memguard.status"])
        .expect("kamcmd is answered");
    assert!(
        text.contains("mode: observe") && text.contains("level:"),
        "{what}: {text}"
    );
    let sent = registers(expected);
    until(SOON, "every REGISTER is counted", || {
        number(&server.registrations(), "received") >= sent
    });
    // As if memory had ended: the same day again.
    server.rpc("memguard.shed", json!([300]));
    assert_eq!(day(server), expected, "{what}: with memory at its end");
    until(SOON, "what enforce would have refused is counted", || {
        server.by_class("rejected_observed").values().sum::<i64>() > 0
    });
    assert_eq!(
        server.by_class("rejected").values().sum::<i64>(),
        0,
        "{what}: nothing is refused"
    );
    assert_eq!(word(&server.status(), "mode"), "observe", "{what}");
}

/// The lines of a unit file's section that set `name`.
fn settings<'a>(unit: &'a str, name: &str) -> Vec<&'a str> {
    let lines = unit.lines().map(str::trim);
    lines
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='))
        .collect()
}

/// The command line that systemd would run: the unit's with the drop-in's settings after it, its variables filled in.
fn of_the_drop_in(pair: &Pair) -> (String, String) {
    let unit = fs::read_to_string(package_root(pair).join("lib/systemd/system/kamailio.service"))
        .expect("Debian's unit");
    let drop_in = include_str!("../../systemd/memguard-observe.conf");
    let own = settings(&unit, "ExecStart");
    assert_eq!(own.len(), 1, "{unit}");
    // An empty one first: else a service would have two.
    let wanted = format!("{} {LOADS}", own[0]);
    assert_eq!(settings(drop_in, "ExecStart"), ["", wanted.as_str()]);
    let all: Vec<&str> = drop_in
        .lines()
        .filter(|l| !l.starts_with('#') && !l.is_empty())
        .collect();
    assert_eq!(all.len(), 3, "nothing else is changed: {all:?}");
    let fill = |line: &str| {
        let mut line = line.to_owned();
        for set in settings(&unit, "Environment") {
            let (name, value) = set.trim_matches('\'').split_once('=').expect("NAME=VALUE");
            line = line.replace(&format!("${name}"), value);
        }
        assert!(!line.contains('$'), "{line}");
        let line = line
            .strip_prefix("/usr/sbin/kamailio ")
            .expect("the program")
            .to_owned();
        line.replace("/run/kamailio/kamailio.pid", "FOLDER/pid")
    };
    (fill(own[0]), fill(&wanted))
}

#[test]
fn trial_by_the_drop_in_answers_phones_as_debians_own_configuration_does_whatever_is_switched_on() {
    for_each_pair_at_once(|pair| {
        let (without, with) = of_the_drop_in(pair);
        for features in FEATURES {
            let folder = Folder::of(pair, "trial");
            configuration(pair, &folder);
            let certificate = Certificate::new(&pair.kamailio);
            for (from, to) in [(certificate.key(), "key"), (certificate.file(), "pem")] {
                let to = folder.file(&format!("kamailio-selfsigned.{to}"));
                fs::copy(from, to).expect("the folder is ours");
            }
            let what = format!("{} {features:?}", pair.kamailio.version);
            let plain = server(pair, &without, &folder, features);
            let expected = day(&plain);
            plain.stop();
            let challenged = expected.iter().any(|(_, code, _)| *code == 401);
            assert_eq!(
                challenged,
                features.contains(&"WITH_AUTH"),
                "{what}: {expected:?}"
            );
            let registered = expected.iter().filter(|(_, code, _)| *code == 200).count();
            assert!(registered >= 6, "{what}: {expected:?}");

            let watched = server(pair, &with, &folder, features);
            assert_eq!(day(&watched), expected, "{what}");
            assert_observes(&watched, &what, &expected);
            watched.stop();
        }
    });
}

/// The first line of a page that starts a packaged Kamailio with memguard, without the program.
fn of_page(page: &str) -> &str {
    let of_a_package = |line: &&str| line.contains(" /etc/kamailio/kamailio.cfg");
    let found = page.lines().filter(of_a_package).find_map(|line| {
        let from = line.find("kamailio --loadmodule")?;
        line[from..].split(['`', '#']).next()
    });
    let line = found.expect("the page says how to try it");
    line.strip_prefix("kamailio ").expect("its program").trim()
}

#[test]
fn trial_by_the_line_of_the_pages_needs_no_change_of_the_configuration() {
    for_each_pair_at_once(|pair| {
        let pages = [
            include_str!("../../README.md"),
            include_str!("../../docs/install.md"),
        ];
        for page in pages {
            let folder = Folder::of(pair, "page");
            configuration(pair, &folder);
            let module = pair.kamailio.memguard.as_ref().expect("it was built");
            let line = of_page(page).replace("PATH", &module.display().to_string());
            let watched = server(pair, &line, &folder, &[]);
            assert_observes(&watched, &line, &day(&watched));
            watched.stop();
        }
    });
}

/// The daemon that a pid file names; it ends with the test.
struct Daemon(PathBuf);

impl Drop for Daemon {
    fn drop(&mut self) {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        if let Ok(pid) = text.trim().parse::<i32>() {
            // SAFETY: a plain call; the daemon wrote its own pid there and removes the file when it ends.
            unsafe { libc::kill(pid, libc::SIGTERM) };
            until(SOON, "the daemon ends", || !is_running(pid));
        }
    }
}

#[test]
fn three_lines_of_the_page_lead_from_a_clone_to_an_answer() {
    for_each_pair(|pair| {
        let whole = pair.kamailio.modules.parent().expect("build/VERSION");
        let source = whole.join("src").canonicalize().expect("its headers");
        if !whole.join("root/sbin/kamailio").exists()
            || package_root(pair).join("lib/systemd").exists()
        {
            println!(
                "-- {}: a package; the lines are for an own compile",
                pair.kamailio.version
            );
            return;
        }
        let page = include_str!("../../docs/install.md");
        let (_, rest) = page
            .split_once("three lines: begin -->\n```\n")
            .expect("the page has them");
        let lines: Vec<&str> = rest
            .split("\n```")
            .next()
            .expect("an end")
            .lines()
            .collect();
        assert_eq!(lines.len(), 3, "{lines:?}");

        // The checkout is the clone, its user's home has the tree, /usr/local is the prefix of this Kamailio.
        let folder = Folder::of(pair, "lines");
        let tree = source.parent().expect("a tree's src");
        std::os::unix::fs::symlink(tree, folder.file("kamailio")).expect("the folder is ours");
        let places = Places {
            folder: folder.path().to_owned(),
            sip: free_port(),
            http: free_port(),
            tls: free_port(),
        };
        let config = folder.file("kamailio.cfg");
        let text = Config::registrar().render(&places, &pair.kamailio.modules, &[]);
        fs::write(&config, text).expect("the folder is ours");
        let bin = pair.kamailio.program.parent().expect("a folder");
        let shell = format!(
            "set -e; git() {{ [ $1 = clone ]; }}; cd() {{ builtin cd '{root}'; }}; sudo() {{ \"$@\"; }}
             kamailio() {{ command kamailio -P '{here}/pid' -Y '{here}' -w '{here}' -m 32 -M 4 \"$@\"; }}
             kamcmd() {{ '{kamcmd}' -s 'unix:{ctl}' \"$@\"; }}\n",
            root = env!("CARGO_MANIFEST_DIR"),
            here = folder.path().display(),
            kamcmd = pair.kamailio.kamcmd.display(),
            ctl = places.ctl().display(),
        );
        let home = std::env::var("HOME").unwrap_or_default();
        let kept =
            |name: &str, below: &str| std::env::var(name).unwrap_or(format!("{home}/{below}"));
        let run = |script: &str| {
            let path = std::env::var("PATH").unwrap_or_default();
            // Into a file: the daemon keeps what it writes to, so a pipe's end would never come.
            let told = folder.file("said");
            let output = fs::File::create(&told).expect("the folder is ours");
            let status = Command::new("timeout")
                .args(["600", "bash", "-c", &format!("{shell}{script}")])
                .env("PATH", format!("{}:{path}", bin.display()))
                .env("CARGO_HOME", kept("CARGO_HOME", ".cargo"))
                .env("RUSTUP_HOME", kept("RUSTUP_HOME", ".rustup"))
                .env("HOME", folder.path())
                .current_dir(folder.path())
                .stdout(output.try_clone().expect("a descriptor"))
                .stderr(output)
                .status()
                .expect("bash runs");
            let said = fs::read_to_string(&told).expect("what was said");
            assert!(status.success(), "{script}: {said}");
            said
        };
        let lines = lines.join("\n");
        let local = "/usr/local/etc/kamailio/kamailio.cfg";
        assert!(lines.contains(local));
        let daemon = Daemon(folder.file("pid"));
        let said = run(&lines.replace(local, &config.display().to_string()));
        assert!(said.contains("mode: observe"), "{said}");
        let installed = pair.kamailio.modules.join("memguard.so");
        assert!(installed.is_file(), "{said}");
        drop(daemon);
        run("cd .; ./dev install --uninstall");
        assert!(!installed.exists());
    });
}

#[test]
fn trial_drop_in_is_one_that_systemd_takes() {
    let works = Command::new("systemd-analyze").arg("--version").output();
    if !works.is_ok_and(|output| output.status.success()) {
        println!("systemd-analyze is not here: the drop-in is read by the other tests only");
        return;
    }
    for_each_pair_at_once(|pair| {
        let folder = Folder::of(pair, "unit");
        let units = folder.file("units");
        fs::create_dir_all(units.join("kamailio.service.d")).expect("the folder is ours");
        let unit =
            fs::read_to_string(package_root(pair).join("lib/systemd/system/kamailio.service"))
                .expect("Debian's unit");
        // Where the program is on this machine, and a user that it has.
        let program = pair.kamailio.program.display().to_string();
        let here = |text: &str| text.replace("/usr/sbin/kamailio ", &format!("{program} "));
        let write = |path: &Path, text: &str| fs::write(path, text).expect("the folder is ours");
        write(
            &units.join("kamailio.service"),
            &here(&unit).replace("=kamailio\n", "=daemon\n"),
        );
        let drop_in = units.join("kamailio.service.d/memguard-observe.conf");
        let verify = |text: &str| {
            write(&drop_in, &here(text));
            let output = Command::new("systemd-analyze")
                .args(["verify", "--man=no", "kamailio.service"])
                .env("SYSTEMD_UNIT_PATH", format!("{}:", units.display()))
                .env("SYSTEMD_LOG_LEVEL", "info")
                .output()
                .expect("systemd-analyze runs");
            let said =
                String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            let ours: Vec<_> = said
                .lines()
                .filter(|l| l.contains("kamailio.service"))
                .map(str::to_owned)
                .collect();
            (output.status.success(), ours)
        };
        let drop_in = include_str!("../../systemd/memguard-observe.conf");
        let (good, said) = verify(drop_in);
        assert!(good && said.is_empty(), "{said:?}");
        // It is read: one without the empty line would make a service of two commands.
        let (good, said) = verify(&drop_in.replace("ExecStart=\n", "ExecStart=/nowhere/program\n"));
        assert!(!good || !said.is_empty(), "{said:?}");
    });
}
