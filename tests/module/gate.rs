//! memguard-gate on real Kamailio: what leaks is found at its line, what only lives or fills is not.
//! Forbidden here: looking into the program; it is run as its users run it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::harness::builder::{Folder, free_port};
use super::harness::schemas::Schemas;
use super::harness::{Pair, Server, for_each_pair_at_once, until};

/// A file of this project.
fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The number of the first line of a configuration, past its comments, that holds this text.
#[track_caller]
fn line_of(cfg: &Path, text: &str) -> usize {
    let cfg = std::fs::read_to_string(cfg).expect("the configuration is there");
    let is_it = |line: &str| !line.starts_with('#') && line.contains(text);
    cfg.lines().position(is_it).expect("the line is there") + 1
}

/// One run of the gate.
struct Run {
    cfg: PathBuf,
    output: Output,
    json: Value,
    sarif: Value,
    junit: String,
    _folder: Folder,
}

impl Run {
    fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    fn said(&self) -> String {
        let text = [self.output.stdout.clone(), self.output.stderr.clone()].concat();
        String::from_utf8_lossy(&text).into_owned()
    }

    #[track_caller]
    fn is_held(&self) {
        assert_eq!(self.code(), Some(0), "{}", self.said());
        assert_eq!(self.json["held"], true);
        assert_eq!(self.sarif["runs"][0]["results"], json!([]));
        assert!(self.junit.contains("failures=\"0\""), "{}", self.junit);
        assert!(self.said().contains("HELD: "), "{}", self.said());
    }

    /// Exit 1, and the first row is this place.
    #[track_caller]
    fn leaks_first(&self, pool: &str, module: &str, function: &str) -> &Value {
        assert_eq!(self.code(), Some(1), "{}", self.said());
        let first = &self.json["leaks"][0];
        let is = [&first["pool"], &first["module"], &first["function"]];
        assert_eq!(is, [pool, module, function], "{}", self.said());
        first
    }

    /// The first SARIF result stands at the line of the configuration that holds this text.
    #[track_caller]
    fn sarif_is_at(&self, text: &str) {
        let line = line_of(&self.cfg, text);
        let place = &self.sarif["runs"][0]["results"][0]["locations"][0]["physicalLocation"];
        assert_eq!(place["region"]["startLine"], line, "{}", self.said());
        let uri = place["artifactLocation"]["uri"]
            .as_str()
            .unwrap_or_default();
        assert!(
            uri.ends_with(
                &self
                    .cfg
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned()
            ),
            "{uri}"
        );
    }
}

/// The gate on a configuration of this pair's Kamailio, in this project's folder.
fn command(pair: &Pair, cfg: &Path, folder: &Folder) -> Command {
    let kamailio = &pair.kamailio;
    let memguard = kamailio.memguard.clone().expect("memguard.so was built");
    let own = memguard.parent().expect("it is in a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_memguard-gate"));
    command
        .current_dir(project(""))
        .arg(cfg)
        .arg("--kamailio")
        .arg(&kamailio.program)
        .arg("--modules")
        .arg(format!("{}:{}", own.display(), kamailio.modules.display()))
        .arg("--memguard")
        .arg(&memguard)
        .arg("--sipp-program")
        .arg(&kamailio.sipp)
        .args(["--manager", &pair.manager])
        .arg("--keep")
        .arg(folder.file("run"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Runs the gate, and holds its reports against their schemas.
fn gate(pair: &Pair, cfg: &Path, arguments: &[&str]) -> Run {
    let folder = Folder::of(pair, "gate");
    let output = command(pair, cfg, &folder)
        .arg("--json")
        .arg(folder.file("json"))
        .arg("--sarif")
        .arg(folder.file("sarif"))
        .arg("--junit")
        .arg(folder.file("junit"))
        .args(arguments)
        .output()
        .expect("the gate can be started");
    let read = |name: &str| std::fs::read_to_string(folder.file(name)).unwrap_or_default();
    let parsed = |name: &str| serde_json::from_str(&read(name)).unwrap_or(Value::Null);
    let run = Run {
        cfg: project("").join(cfg),
        json: parsed("json"),
        sarif: parsed("sarif"),
        junit: read("junit"),
        output,
        _folder: folder,
    };
    if matches!(run.code(), Some(0 | 1)) {
        is_sarif(&run.sarif);
        is_junit(&run.junit);
    }
    run
}

/// SARIF 2.1.0 by its schema, and what GitHub asks beside it: exactly one place with a line for each result.
fn is_sarif(document: &Value) {
    if let Some(schemas) = Schemas::find() {
        assert_eq!(schemas.sarif(document), [""; 0], "{document:#}");
    }
    let run = &document["runs"][0];
    let rules = &run["tool"]["driver"]["rules"];
    let results = run["results"]
        .as_array()
        .expect("there are results, or none");
    for result in results {
        let rule = result["ruleIndex"].as_u64().expect("an index") as usize;
        assert_eq!(rules[rule]["id"], result["ruleId"]);
        assert_eq!(result["locations"].as_array().map(Vec::len), Some(1));
        let place = &result["locations"][0]["physicalLocation"];
        assert!(place["region"]["startLine"].as_u64() >= Some(1), "{result}");
        assert!(
            result["message"]["text"]
                .as_str()
                .is_some_and(|t| !t.is_empty())
        );
    }
}

/// JUnit by the schemas of Jenkins and of Ant; and its counts are right.
fn is_junit(text: &str) {
    if let Some(schemas) = Schemas::find() {
        assert_eq!(schemas.junit(text), [""; 0], "{text}");
    }
    let suite = text.split("<testsuite ").nth(1).expect("there is a suite");
    for (attribute, tag) in [("tests", "<testcase "), ("failures", "<failure ")] {
        let count = format!("{attribute}=\"{}\"", text.matches(tag).count());
        assert!(suite.contains(&count), "{count}: {text}");
    }
}

/// With any of these left out, a report keeps to its schemas no more: what holds it against them is awake.
fn each_field_is_required(sarif: &Value, junit: &str) {
    let Some(schemas) = Schemas::find() else {
        return;
    };
    for (place, field) in [
        ("", "version"),
        ("", "runs"),
        ("/runs/0", "tool"),
        ("/runs/0/tool/driver", "name"),
        ("/runs/0/tool/driver/rules/0", "id"),
        ("/runs/0/results/0", "message"),
    ] {
        let mut less = sarif.clone();
        let object = less.pointer_mut(place).and_then(Value::as_object_mut);
        let removed = object.and_then(|object| object.remove(field));
        assert!(removed.is_some(), "{place} has {field}");
        let faults = schemas.sarif(&less).join("; ");
        assert!(faults.contains(field), "without {field}: {faults}");
    }
    let mut more = sarif.clone();
    more["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["region"]["startLine"] =
        json!(0);
    assert!(
        schemas.sarif(&more).join(" ").contains("below 1"),
        "line 0 is none"
    );
    for attribute in [
        "name",
        "tests",
        "failures",
        "errors",
        "time",
        "timestamp",
        "hostname",
    ] {
        let (before, suite) = junit.split_once("<testsuite ").expect("there is a suite");
        let less = format!(
            "{before}<testsuite {}",
            suite.replacen(&format!("{attribute}="), "data-x=", 1)
        );
        assert_ne!(schemas.junit(&less), [""; 0], "without {attribute}: {less}");
    }
}

/// Short rounds of requests without transactions.
const SHORT: [&str; 10] = [
    "--scenario",
    "options",
    "--scenario",
    "register",
    "--requests",
    "60",
    "--rounds",
    "4",
    "--warmup",
    "1",
];

/// The examples, and Debian's own configuration with what it offers and no database is needed for; short rounds.
fn the_examples_are_held(pair: &Pair) {
    let usual = ["--rounds", "3", "--warmup", "1", "--requests", "50"];
    let run = |name: &str, more: &[&str]| {
        let dir = Folder::of(pair, "example");
        let own = [
            format!("SIP_PORT={}", free_port().port()),
            "WORKERS=2".to_owned(),
            format!("CTL_SOCKET=\"unix:{}\"", dir.file("c").display()),
            format!("RPC_SOCKET=\"{}\"", dir.file("r").display()),
        ];
        let own = own.iter().flat_map(|define| ["--define", define.as_str()]);
        let all: Vec<&str> = usual
            .into_iter()
            .chain(own)
            .chain(more.iter().copied())
            .collect();
        gate(pair, &project("kamailio-cfg").join(name), &all).is_held();
    };
    let behind = Server::registrar(pair).start();
    let upstream = format!("REGISTRARS=\"sip:{}\"", behind.sip());
    std::thread::scope(|scope| {
        scope.spawn(|| run("registrar.cfg", &[]));
        scope.spawn(|| run("registrar-auth.cfg", &["--auth", "alice:wonderland"]));
        scope.spawn(|| run("proxy.cfg", &["--define", &upstream]));
        scope.spawn(|| {
            let more = ["--define", "WITH_NAT", "--define", "WITH_ANTIFLOOD"];
            gate(pair, &debians_own(pair), &[&usual[..], &more].concat()).is_held();
        });
    });
}

/// The kamailio.cfg of Debian's package.
fn debians_own(pair: &Pair) -> PathBuf {
    let folder = pair.kamailio.modules.parent().expect("build/VERSION");
    folder.join("root/etc/kamailio/kamailio.cfg")
}

#[test]
fn gate_the_examples_and_debians_own_configuration_are_held() {
    for_each_pair_at_once(the_examples_are_held);
}

#[test]
#[ignore = "ten minutes: ./dev steady"]
fn gate_steady_is_the_verdict_on_the_examples_and_on_debians_own_configuration() {
    let times = std::env::var("MEMGUARD_STEADY").ok();
    let times: u32 = times.and_then(|n| n.parse().ok()).unwrap_or(5);
    for_each_pair_at_once(|pair| {
        for n in 1..=times {
            let run = gate(pair, &debians_own(pair), &[]);
            run.is_held();
            the_examples_are_held(pair);
            let (version, took) = (&pair.kamailio.version, &run.json["seconds"]);
            println!("{version}: held, {n} of {times}; Debian's own took {took} s");
        }
    });
}

#[test]
fn gate_bindings_that_live_cells_that_expire_and_transactions_that_wait_are_no_leak() {
    for_each_pair_at_once(|pair| {
        let scenario = project("tests/gate/planted/comes.xml")
            .display()
            .to_string();
        let arguments = [
            "--sipp",
            &scenario,
            "--requests",
            "60",
            "--rounds",
            "4",
            "--warmup",
            "1",
        ];
        let run = gate(pair, &project("tests/gate/planted/healthy.cfg"), &arguments);
        run.is_held();
        assert!(run.json["requests"].as_u64() >= Some(240), "{}", run.said());
    });
}

#[test]
fn gate_a_table_that_is_filled_without_expiry_is_found_at_its_line() {
    for_each_pair_at_once(|pair| {
        let cfg = Path::new("tests/gate/planted/htable.cfg");
        let run = gate(pair, cfg, &SHORT);
        let first = run.leaks_first("shm", "htable", "ht_cell_new");
        assert_eq!(
            run.json["leaks"].as_array().map(Vec::len),
            Some(1),
            "{}",
            run.said()
        );
        let path = first["path"].to_string();
        assert!(path.contains("pv_set_ht_cell"), "{path}");
        run.sarif_is_at("$sht(seen=>");
        assert!(run.junit.contains("<failure"), "{}", run.junit);
        each_field_is_required(&run.sarif, &run.junit);
        if pair.kamailio.version == "5.6.3" {
            for page in ["README.md", "docs/pipeline.md"] {
                shows_the_output_of(page, &run);
            }
        }
    });
}

/// The block of a page that begins as the gate's table does is what this run printed, but for numbers.
fn shows_the_output_of(page: &str, run: &Run) {
    let text = std::fs::read_to_string(project(page)).expect("it is there");
    let mut blocks = text
        .split("```\n")
        .filter(|b| b.starts_with("   bytes per "));
    let shown = masked(blocks.next().expect("the page shows a table"));
    let printed = String::from_utf8_lossy(&run.output.stdout).into_owned();
    assert!(
        masked(&printed).contains(&shown),
        "{page} shows\n{shown}\nand the gate prints\n{printed}"
    );
}

/// With each number as N, and columns as one space.
fn masked(text: &str) -> String {
    let words = |line: &str| {
        let mask = |word: &str| {
            let mut out = String::new();
            for c in word.chars() {
                let is_number = c.is_ascii_digit() || (c == '.' && out.ends_with('N'));
                match is_number {
                    true if out.ends_with('N') => {}
                    true => out.push('N'),
                    false => out.push(c),
                }
            }
            out
        };
        line.split_whitespace()
            .map(mask)
            .collect::<Vec<_>>()
            .join(" ")
    };
    text.lines().map(words).collect::<Vec<_>>().join("\n")
}

#[test]
fn gate_what_a_timers_route_forgets_is_found_at_its_line_in_both_pools() {
    for_each_pair_at_once(|pair| {
        let cfg = project("tests/gate/planted/timer.cfg");
        let short = [
            "--scenario",
            "options",
            "--requests",
            "20",
            "--rounds",
            "3",
            "--warmup",
            "1",
        ];
        let run = gate(pair, &cfg, &short);
        assert_eq!(run.code(), Some(1), "{}", run.said());
        let leaks = run.json["leaks"].as_array().cloned().unwrap_or_default();
        for (pool, function, text) in [
            ("shm", "ht_cell_new", "$sht(ticks=>"),
            ("pkg", "w_leak_pkg", "mgtest_leak_pkg"),
        ] {
            let row = leaks
                .iter()
                .find(|row| row["pool"] == pool && row["function"] == function)
                .unwrap_or_else(|| panic!("{pool} {function}: {}", run.said()));
            let at = format!("timer.cfg:{} route[TICK]", line_of(&cfg, text));
            assert_eq!(row["cfg"], at, "{}", run.said());
        }
        assert_eq!(leaks.len(), 2, "{}", run.said());
        run.sarif_is_at(match leaks[0]["pool"] == "shm" {
            true => "$sht(ticks=>",
            false => "mgtest_leak_pkg",
        });
    });
}

#[test]
fn gate_what_a_module_forgets_of_libcs_heap_is_found_with_its_process() {
    for_each_pair_at_once(|pair| {
        let cfg = project("tests/gate/planted/libc.cfg");
        let more = ["--requests", "100"];
        let run = gate(pair, &cfg, &[&SHORT[..], &more].concat());
        assert_eq!(run.code(), Some(1), "{}", run.said());
        for row in run.json["leaks"].as_array().into_iter().flatten() {
            assert_eq!(
                (&row["pool"], &row["module"]),
                (&json!("outside"), &json!("libc")),
                "{}",
                run.said()
            );
            let name = row["function"].as_str().unwrap_or_default();
            assert!(name.starts_with("udp receiver"), "{}", run.said());
        }
        assert!(
            run.junit.contains("outside Kamailio&apos;s pools")
                || run.junit.contains("outside Kamailio's pools"),
            "{}",
            run.junit
        );
    });
}

#[test]
fn gate_a_module_that_forgets_pkg_in_one_worker_is_found_with_that_worker() {
    for_each_pair_at_once(|pair| {
        let run = gate(pair, &project("tests/gate/planted/pkg.cfg"), &SHORT);
        let first = run.leaks_first("pkg", "mgtest", "w_leak_pkg");
        assert_eq!(first["workers"], json!([2]), "{}", run.said());
        run.sarif_is_at("mgtest_leak_pkg");
        // The same place as a known one: held, and told.
        let known = Folder::of(pair, "allow");
        let file = known.file("allow");
        std::fs::write(&file, "mgtest * w_leak_pkg # planted\ntm * * # never\n")
            .expect("the folder is ours");
        let file = file.display().to_string();
        let allowed = gate(
            pair,
            &project("tests/gate/planted/pkg.cfg"),
            &[&SHORT[..], &["--allow", &file]].concat(),
        );
        allowed.is_held();
        assert!(allowed.said().contains("(planted)"), "{}", allowed.said());
        assert_eq!(
            allowed.json["unused_allow_lines"],
            json!([2]),
            "{}",
            allowed.said()
        );
        // And as one within the limit.
        gate(
            pair,
            &project("tests/gate/planted/pkg.cfg"),
            &[&SHORT[..], &["--limit", "500"]].concat(),
        )
        .is_held();
    });
}

#[test]
fn gate_a_python_script_that_remembers_is_found_with_its_process() {
    for_each_pair_at_once(|pair| {
        let script = format!(
            "SCRIPT=\"{}\"",
            project("tests/gate/planted/keeps.py").display()
        );
        let more = ["--define", &script, "--requests", "150"];
        let run = gate(
            pair,
            &project("tests/gate/planted/python.cfg"),
            &[&SHORT[..], &more].concat(),
        );
        assert_eq!(run.code(), Some(1), "{}", run.said());
        let first = &run.json["leaks"][0];
        assert_eq!(
            (&first["pool"], &first["module"]),
            (&json!("outside"), &json!("python")),
            "{}",
            run.said()
        );
        assert!(
            first["function"]
                .as_str()
                .is_some_and(|f| f.starts_with("udp receiver")),
            "{}",
            run.said()
        );
        run.sarif_is_at("modparam(\"app_python3\"");
    });
}

/// Leaks that the packaged versions have and that were fixed upstream later: configuration, module that took the
/// memory, function, versions that have it, traffic.
const REAL: [(&str, &str, &str, &str, &[&str]); 6] = [
    (
        "uri_param.cfg",
        "core",
        "parse_params2",
        "5.6.3",
        &["--scenario", "options"],
    ),
    (
        "require.cfg",
        "core",
        "parse_require",
        "5.6.3",
        &["--sipp", "require.xml"],
    ),
    (
        "uac_drop.cfg",
        "uac",
        "uac_send_info_clone",
        "5.6.3",
        &["--scenario", "options"],
    ),
    (
        "uac_drop.cfg",
        "tm",
        "build_uac_req",
        "5.6.3",
        &["--scenario", "options"],
    ),
    (
        "pv_headers.cfg",
        "pv_headers",
        "pvh_merge_uri",
        "5.6.3 6.0.1",
        &["--scenario", "options"],
    ),
    (
        "dmq_reply.cfg",
        "dmq",
        "build_notification_body",
        "5.6.3 6.0.1",
        &[
            "--sipp",
            "kdmq.xml",
            "--listen",
            "udp:ADDRESS",
            "--define",
            "PEER=\"sip:ADDRESS\"",
        ],
    ),
];

#[test]
fn gate_leaks_that_were_fixed_upstream_later_are_found() {
    for_each_pair_at_once(|pair| {
        for (cfg, module, function, versions, traffic) in REAL {
            if !versions.contains(&pair.kamailio.version) {
                continue;
            }
            let folder = project("tests/gate/real");
            let address = free_port().to_string();
            let word = |word: &&str| match word.ends_with(".xml") {
                true => folder.join(word).display().to_string(),
                false => word.replace("ADDRESS", &address),
            };
            let words: Vec<String> = traffic.iter().map(word).collect();
            let mut arguments: Vec<&str> = words.iter().map(String::as_str).collect();
            arguments.extend(["--requests", "40", "--rounds", "3", "--warmup", "1"]);
            let run = gate(pair, &folder.join(cfg), &arguments);
            assert_eq!(run.code(), Some(1), "{cfg}: {}", run.said());
            let leaks = run.json["leaks"].as_array().cloned().unwrap_or_default();
            let is_it = |row: &Value| row["module"] == module && row["function"] == function;
            assert!(leaks.iter().any(is_it), "{cfg}: {}", run.said());
            assert_eq!(
                leaks[0]["pool"] == "shm",
                cfg == "uac_drop.cfg" || cfg == "pv_headers.cfg"
            );
            // Every row is of what the configuration plants, and stands at a line of it.
            for row in &leaks {
                assert!(
                    row["cfg"].as_str().is_some_and(|c| c.starts_with(cfg)),
                    "{cfg}: {}",
                    run.said()
                );
            }
        }
    });
}

#[test]
fn gate_without_a_verdict_it_says_why_by_its_exit_code() {
    for_each_pair_at_once(|pair| {
        let healthy = project("tests/gate/planted/healthy.cfg");
        let usage = gate(pair, Path::new("/nowhere/kamailio.cfg"), &[]);
        assert_eq!(usage.code(), Some(2), "{}", usage.said());
        let broken = gate(
            pair,
            &healthy,
            &["--", "-A", "NOTHING", "-l", "udp:203.0.113.1:5060"],
        );
        assert_eq!(broken.code(), Some(3), "{}", broken.said());
        assert!(broken.said().contains("--listen"), "{}", broken.said());
        let folder = Folder::of(pair, "broken");
        let cfg = folder.file("kamailio.cfg");
        std::fs::write(
            &cfg,
            "#!KAMAILIO\nchildren=1\nrequest_route {\n    no_such_function();\n}\n",
        )
        .expect("the folder is ours");
        let wrong = gate(pair, &cfg, &[]);
        assert_eq!(wrong.code(), Some(3), "{}", wrong.said());
        assert!(
            wrong.said().contains("no_such_function"),
            "{}",
            wrong.said()
        );
        let silent = gate(pair, &healthy, &["--traffic", "true"]);
        assert_eq!(silent.code(), Some(3), "{}", silent.said());
        assert!(silent.said().contains("sent nothing"), "{}", silent.said());
        let failing = gate(pair, &healthy, &["--traffic", "echo broken pipe; false"]);
        assert_eq!(failing.code(), Some(3), "{}", failing.said());
        assert!(failing.said().contains("broken pipe"), "{}", failing.said());
        let kills = "kill -SEGV $(tr ' ' '\\n' </proc/$MEMGUARD_GATE_PID/task/$MEMGUARD_GATE_PID/children | head -1); sleep 60";
        let dies = gate(pair, &healthy, &["--traffic", kills]);
        assert_eq!(dies.code(), Some(4), "{}", dies.said());
        assert!(dies.said().contains("signal 11"), "{}", dies.said());
        let missing = Command::new(env!("CARGO_BIN_EXE_memguard-gate"))
            .args(["--sipp-program", "/nowhere/sipp", "--kamailio"])
            .arg(&pair.kamailio.program)
            .arg("--memguard")
            .arg(
                pair.kamailio
                    .memguard
                    .as_ref()
                    .expect("memguard.so was built"),
            )
            .arg("--modules")
            .arg(&pair.kamailio.modules)
            .arg(&healthy)
            .output()
            .expect("the gate can be started");
        let text = String::from_utf8_lossy(&missing.stderr);
        assert_eq!(missing.status.code(), Some(3), "{text}");
        assert!(text.contains("apt-get install sip-tester"), "{text}");
    });
}

#[test]
fn gate_listens_where_it_is_told_and_leaves_another_server_alone() {
    for_each_pair_at_once(|pair| {
        let other = Server::registrar(pair).start();
        let folder = Folder::of(pair, "other");
        let healthy = project("tests/gate/planted/healthy.cfg");
        let short = [
            &SHORT[..2],
            &["--requests", "20", "--rounds", "3", "--warmup", "0"],
        ]
        .concat();
        let at = |proto: &str| format!("{proto}:{}", free_port());
        let run = |sockets: &[String], cfg: &Path| {
            let words = sockets.iter().flat_map(|s| ["--listen", s.as_str()]);
            gate(
                pair,
                cfg,
                &short.iter().copied().chain(words).collect::<Vec<_>>(),
            )
        };
        // Several: the first of UDP on loopback is the one that is asked.
        let (tcp, udp) = (at("tcp"), at("udp"));
        let several = run(&[tcp.clone(), udp.clone(), at("udp")], &healthy);
        several.is_held();
        let told = format!("answers on udp {}", &udp[4..]);
        assert!(several.said().contains(&told), "{}", several.said());
        // TCP alone.
        let alone = run(&[at("tcp")], &healthy);
        alone.is_held();
        assert!(alone.said().contains("answers on tcp "), "{}", alone.said());
        // A port that is taken, by a Kamailio that runs here; and a control socket that it has.
        let taken = run(&[format!("udp:{}", other.places.sip)], &healthy);
        assert_eq!(taken.code(), Some(3), "{}", taken.said());
        let told = format!("another program listens on udp:{}", other.places.sip);
        assert!(taken.said().contains(&told), "{}", taken.said());
        // The same, where the line hides it: Kamailio starts, is seen not to be alone, and stops.
        let hidden = format!("OTHER=udp:{}", other.places.sip);
        let words = [&short[..], &["--define", &hidden]].concat();
        let listens = text_with(&healthy, "children=8", "listen=OTHER\nchildren=1");
        std::fs::write(folder.file("hidden.cfg"), listens).expect("the folder is ours");
        let shared = gate(pair, &folder.file("hidden.cfg"), &words);
        assert_eq!(shared.code(), Some(3), "{}", shared.said());
        assert!(shared.said().contains(&told), "{}", shared.said());
        let ctl = other.places.ctl().display().to_string();
        let loads = format!(
            "children=8\nloadmodule \"ctl.so\"\nmodparam(\"ctl\", \"binrpc\", \"unix:{ctl}\")"
        );
        std::fs::write(
            folder.file("ctl.cfg"),
            text_with(&healthy, "children=8", &loads),
        )
        .expect("the folder is ours");
        let shared = run(&[], &folder.file("ctl.cfg"));
        assert_eq!(shared.code(), Some(3), "{}", shared.said());
        assert!(
            shared
                .said()
                .contains(&format!("another program serves {ctl}")),
            "{}",
            shared.said()
        );
        // It has seen none of all this, and can still be asked.
        let output = Command::new(&pair.kamailio.kamcmd)
            .args(["-s", &format!("unix:{ctl}"), "core.version"])
            .output()
            .expect("kamcmd can be started");
        assert!(output.status.success(), "{output:?}");
        let requests = other.rpc("stats.fetch", json!(["core:rcv_requests"]));
        assert_eq!(requests["core.rcv_requests"], "0", "{requests}");
        other.stop();
    });
}

/// A configuration's text with one part replaced.
fn text_with(cfg: &Path, part: &str, by: &str) -> String {
    let text = std::fs::read_to_string(cfg).expect("it is there");
    assert!(text.contains(part), "{part}");
    text.replacen(part, by, 1)
}

#[test]
fn gate_that_is_interrupted_leaves_no_process_and_no_folder() {
    for_each_pair_at_once(|pair| {
        let folder = Folder::of(pair, "stop");
        let log = std::fs::File::create(folder.file("log")).expect("the folder is ours");
        let mut child = command(pair, &project("tests/gate/planted/healthy.cfg"), &folder)
            .args(["--requests", "2000", "--rate", "100"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the gate can be started");
        let own = folder.path().display().to_string();
        let running = || processes_of(&own);
        let has = |name: &str| running().iter().any(|line| line.contains(name));
        let soon = Duration::from_secs(60);
        until(soon, "Kamailio and sipp run", || {
            has("kamailio") && has("sipp")
        });
        // SAFETY: our own child, which has not been waited for.
        unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) };
        let status = child.wait().expect("it is ours");
        let said = std::fs::read_to_string(folder.file("log")).unwrap_or_default();
        assert_eq!(status.code(), Some(3), "{said}");
        assert!(said.contains("memguard-gate: interrupted"), "{said}");
        until(soon, "no process is left", || running().is_empty());
        for name in ["rpc", "gate", "gate.cfg"] {
            assert!(!folder.file("run").join(name).exists(), "{name} is left");
        }
    });
}

/// The command lines and working folders of all processes that name this folder, but for the gate's own.
fn processes_of(folder: &str) -> Vec<String> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let place = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        let is_own = line.contains(folder) || place.starts_with(folder);
        if is_own && !line.contains("memguard-gate ") {
            all.push(line);
        }
    }
    all
}

#[test]
fn gate_faults_a_crash_and_a_block_forgotten_after_a_failed_allocation_are_found_at_their_lines() {
    for_each_pair_at_once(|pair| {
        let cfg = project("tests/gate/planted/careless.cfg");
        let short = [
            "--faults",
            "--scenario",
            "options",
            "--rounds",
            "3",
            "--warmup",
            "0",
            "--requests",
            "10",
        ];
        let run = gate(pair, &cfg, &short);
        assert_eq!(run.code(), Some(1), "{}", run.said());
        assert_eq!(run.json["leaks"], json!([]), "{}", run.said());
        let faults = run.json["faults"].as_array().cloned().unwrap_or_default();
        let told: Vec<[&str; 2]> = faults
            .iter()
            .map(|f| ["scenario", "what"].map(|n| f[n].as_str().unwrap_or_default()))
            .collect();
        assert_eq!(told.len(), 2, "{}", run.said());
        assert_eq!(
            told[0],
            ["OPTIONS", "the server dies (signal 11)"],
            "{}",
            run.said()
        );
        assert!(
            told[1][0] == "REGISTER" && told[1][1].contains("private memory are kept"),
            "{}",
            run.said()
        );
        assert!(
            faults[0]["place"]
                .as_str()
                .is_some_and(|p| p.starts_with("w_careless, ")),
            "{}",
            run.said()
        );
        assert!(faults[0]["allocation"].as_u64() > Some(1), "{}", run.said());
        run.sarif_is_at("mgtest_careless");
        assert!(
            run.json["failed_allocations"].as_u64() > Some(30),
            "{}",
            run.said()
        );
    });
}

#[test]
fn gate_faults_can_only_be_made_where_the_configuration_says_so() {
    for_each_pair_at_once(|pair| {
        let server = Server::registrar(pair).start();
        let fault = server
            .try_rpc("memguard.fault", json!([1, 1]))
            .expect_err("faults is 0");
        assert!(format!("{fault:?}").contains("faults is 0"), "{fault:?}");
    });
}

#[test]
fn gate_stress_finds_the_rate_that_is_true_and_says_what_an_hour_leaves() {
    for_each_pair_at_once(|pair| {
        let run = |define: &str, rate: &str| {
            let mut words = vec!["--scenario", "options", "--rounds", "3", "--warmup", "1"];
            words.extend(["--requests", "20", "--limit", "100000", "--define", define]);
            words.extend(["--stress", rate, "3"]);
            let cfg = project("tests/gate/planted/pressed.cfg");
            gate(pair, &cfg, &words)
        };
        // Answers come up to 100 per second, by a limit that refuses the rest or by a worker that has no time.
        let rate_of = |define: &str| {
            let run = run(define, "40");
            assert_eq!(run.code(), Some(0), "{}", run.said());
            let steps = run.json["stress"].as_array().cloned().unwrap_or_default();
            let rate = |step: &Value| step["rate"].as_u64().unwrap_or(0);
            let holds = steps.iter().filter(|step| step["failing"] == false);
            let best = holds.map(rate).max().unwrap_or(0);
            let fails = |step: &Value| step["failing"] == true && rate(step) <= 320;
            let is_never_more = best <= 200 && steps.iter().any(fails);
            assert!(is_never_more, "{define}: {}", run.said());
            best >= 50
        };
        // On a machine that is busy sipp sends in bursts, and less is the truth: once in three it must come through.
        let rate_of = |define: &str| {
            let is_found = (0..3).any(|_| rate_of(define));
            assert!(
                is_found,
                "{define}: less than half of the true rate, three times"
            );
        };
        std::thread::scope(|scope| {
            scope.spawn(|| rate_of("LIMITED"));
            scope.spawn(|| rate_of("SLOW"));
            scope.spawn(|| {
                // 2000 bytes of each request that arrived, 3 seconds long; a manager rounds by a few.
                let grows = run("LEAKS", "100");
                assert_eq!(grows.code(), Some(1), "{}", grows.said());
                let first = &grows.json["stress"][0];
                assert_eq!(first["growing"], true, "{}", grows.said());
                let number = |name: &str| first[name].as_f64().unwrap_or(0.0);
                assert!(number("messages") >= 300.0, "{}", grows.said());
                let truth = 2000.0 * number("messages") / 3.0 * 3600.0;
                let hour = number("hour_bytes");
                assert!(
                    hour > truth * 0.98 && hour < truth * 1.1,
                    "{}",
                    grows.said()
                );
            });
        });
    });
}

#[test]
fn gate_what_the_page_on_pipelines_shows_is_what_is_run() {
    let read = |path: &str| std::fs::read_to_string(project(path)).expect("it is there");
    let page = read("docs/pipeline.md");
    assert!(
        page.contains(&read(".github/workflows/kamailio-memory.yml")),
        "the page shows the workflow as it is"
    );
    let line = page
        .split("```sh\n")
        .nth(1)
        .and_then(|rest| rest.lines().next())
        .expect("there is a shell line");
    let arguments = line
        .strip_prefix("memguard-gate kamailio.cfg ")
        .expect("it runs the gate");
    assert_eq!(
        page.matches(arguments).count(),
        3,
        "the shell line, GitHub's step and GitLab's job"
    );
    let gitlab = page
        .split("## GitLab")
        .nth(1)
        .expect("GitLab has a section");
    assert!(gitlab.contains(&format!("    - {line}\n")));
    for_each_pair_at_once(|pair| {
        // The line as it is, in a folder with a kamailio.cfg, where the programs are in PATH.
        let folder = Folder::of(pair, "line");
        let kamailio = &pair.kamailio;
        let own = kamailio.modules.parent().expect("it is in a folder");
        let put = |name: &str, text: String| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::write(folder.file(name), text).expect("the folder is ours");
            let all = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(folder.file(name), all).expect("the file is ours");
        };
        put(
            "kamailio",
            format!(
                "#!/bin/sh\nexec {} -L {}:{} \"$@\"\n",
                kamailio.program.display(),
                own.display(),
                kamailio.modules.display()
            ),
        );
        put(
            "sipp",
            format!("#!/bin/sh\nexec {} \"$@\"\n", kamailio.sipp.display()),
        );
        put(
            "memguard-gate",
            format!(
                "#!/bin/sh\nexec {} \"$@\"\n",
                env!("CARGO_BIN_EXE_memguard-gate")
            ),
        );
        std::fs::copy(
            own.join("root/etc/kamailio/kamailio.cfg"),
            folder.file("kamailio.cfg"),
        )
        .expect("it can be copied");
        let path = format!(
            "{}:{}",
            folder.path().display(),
            std::env::var("PATH").unwrap_or_default()
        );
        let output = Command::new("sh")
            .args(["-c", line])
            .current_dir(folder.path())
            .env("PATH", path)
            .env("GITHUB_ACTIONS", "true")
            .output()
            .expect("sh is there");
        let text = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{text}");
        is_junit(
            &std::fs::read_to_string(folder.file("memguard.xml")).expect("the report is there"),
        );
        let sarif =
            std::fs::read_to_string(folder.file("memguard.sarif")).expect("the report is there");
        is_sarif(&serde_json::from_str(&sarif).expect("it is JSON"));
        assert!(!text.contains("::error"), "{text}");
        // Seven rounds of two seconds and of tm's five; calls that fail say that the machine has no time for them.
        let seconds = text.trim_end().rsplit(", ").next();
        let seconds: Option<u64> = seconds.and_then(|t| t.strip_suffix(" s)")?.parse().ok());
        let seconds = seconds.unwrap_or_else(|| panic!("it says how long: {text}"));
        assert!(seconds < 90 || text.contains("not as planned"), "{text}");
    });
}
