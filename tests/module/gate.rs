//! memguard-gate on real Kamailio: what leaks is found at its line, what only lives or fills is not.
//! Forbidden here: looking into the program; it is run as its users run it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::harness::builder::{Folder, free_port};
use super::harness::{Pair, Server, for_each_pair_at_once};

/// A file of this project.
fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
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
        let cfg = std::fs::read_to_string(&self.cfg).expect("the configuration is there");
        let line = cfg
            .lines()
            .position(|line| line.contains(text))
            .expect("the line is there")
            + 1;
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

/// Runs the gate on a configuration of this pair's Kamailio.
fn gate(pair: &Pair, cfg: &Path, arguments: &[&str]) -> Run {
    let kamailio = &pair.kamailio;
    let memguard = kamailio.memguard.clone().expect("memguard.so was built");
    let folder = Folder::of(pair, "gate");
    let own = memguard.parent().expect("it is in a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_memguard-gate"))
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
        .arg("--json")
        .arg(folder.file("json"))
        .arg("--sarif")
        .arg(folder.file("sarif"))
        .arg("--junit")
        .arg(folder.file("junit"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .args(arguments)
        .output()
        .expect("the gate can be started");
    let read = |name: &str| std::fs::read_to_string(folder.file(name)).unwrap_or_default();
    let parsed = |name: &str| serde_json::from_str(&read(name)).unwrap_or(Value::Null);
    let run = Run {
        cfg: cfg.to_owned(),
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

/// What SARIF 2.1.0's schema asks of the parts that are used here, and what GitHub asks beside it.
fn is_sarif(document: &Value) {
    let text = |value: &Value| value.as_str().is_some_and(|t| !t.is_empty());
    assert_eq!(document["version"], "2.1.0");
    assert_eq!(
        document["$schema"],
        "https://json.schemastore.org/sarif-2.1.0.json"
    );
    let run = &document["runs"][0];
    let driver = &run["tool"]["driver"];
    assert!(
        text(&driver["name"]) && text(&driver["semanticVersion"]),
        "{driver}"
    );
    let rules = driver["rules"].as_array().expect("there are rules");
    assert!(
        rules
            .iter()
            .all(|rule| text(&rule["id"]) && text(&rule["shortDescription"]["text"]))
    );
    for result in run["results"]
        .as_array()
        .expect("there are results, or none")
    {
        let rule = result["ruleIndex"].as_u64().expect("an index") as usize;
        assert_eq!(rules[rule]["id"], result["ruleId"]);
        assert!(
            ["none", "note", "warning", "error"]
                .map(Value::from)
                .contains(&result["level"])
        );
        assert!(text(&result["message"]["text"]), "{result}");
        let related = result["relatedLocations"].as_array().into_iter().flatten();
        for location in result["locations"]
            .as_array()
            .into_iter()
            .flatten()
            .chain(related)
        {
            let place = &location["physicalLocation"];
            assert!(text(&place["artifactLocation"]["uri"]), "{result}");
            assert!(place["region"]["startLine"].as_u64() >= Some(1), "{result}");
        }
        assert_eq!(result["locations"].as_array().map(Vec::len), Some(1));
    }
}

/// What the usual JUnit schema asks: suites that hold cases, with counts that are right.
fn is_junit(text: &str) {
    use quick_xml::events::Event;
    let mut reader = quick_xml::Reader::from_str(text);
    let (mut open, mut cases, mut failures) = (Vec::new(), 0, 0);
    let mut told = Vec::new();
    loop {
        let event = reader.read_event().expect("it is well-formed");
        let (Event::Start(tag) | Event::Empty(tag)) = &event else {
            match event {
                Event::End(_) => drop(open.pop()),
                Event::Eof => break,
                _ => (),
            }
            continue;
        };
        let name = String::from_utf8_lossy(tag.name().as_ref()).into_owned();
        let has = |wanted: &str| {
            tag.try_get_attribute(wanted)
                .ok()
                .flatten()
                .map(|a| String::from_utf8_lossy(&a.value).into_owned())
        };
        let inside = open.last().map(String::as_str);
        let (parent, needed): (Option<&str>, &[&str]) = match name.as_str() {
            "testsuites" => (None, &["tests", "failures", "time"]),
            "testsuite" => (
                Some("testsuites"),
                &["name", "tests", "failures", "errors", "time"],
            ),
            "testcase" => (Some("testsuite"), &["name", "classname", "time"]),
            "failure" => (Some("testcase"), &["message", "type"]),
            other => panic!("JUnit knows no {other}"),
        };
        assert_eq!(inside, parent, "{text}");
        for attribute in needed {
            assert!(
                has(attribute).is_some(),
                "{name} without {attribute}: {text}"
            );
        }
        cases += usize::from(name == "testcase");
        failures += usize::from(name == "failure");
        if name.starts_with("testsuite") {
            told.push([has("tests"), has("failures")]);
        }
        if matches!(event, Event::Start(_)) {
            open.push(name);
        }
    }
    assert!(open.is_empty() && cases > 0, "{text}");
    assert!(
        told.iter()
            .all(|t| *t == [Some(cases.to_string()), Some(failures.to_string())]),
        "{text}"
    );
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

#[test]
fn gate_the_examples_are_held() {
    for_each_pair_at_once(|pair| {
        let run = |name: &str, more: &[&str]| {
            let port = format!("SIP_PORT={}", free_port().port());
            let usual = [
                "--rounds",
                "3",
                "--warmup",
                "1",
                "--requests",
                "50",
                "--define",
                &port,
                "--define",
                "WORKERS=2",
            ];
            let dir = Folder::of(pair, "example");
            let (ctl, rpc) = (
                dir.file("c").display().to_string(),
                dir.file("r").display().to_string(),
            );
            let (ctl, rpc) = (
                format!("CTL_SOCKET=\"unix:{ctl}\""),
                format!("RPC_SOCKET=\"{rpc}\""),
            );
            let own = ["--define", &ctl, "--define", &rpc];
            let all = [&usual[..], &own, more].concat();
            gate(pair, &project("kamailio-cfg").join(name), &all).is_held();
        };
        let behind = Server::registrar(pair).start();
        let upstream = format!("REGISTRARS=\"sip:{}\"", behind.sip());
        std::thread::scope(|scope| {
            scope.spawn(|| run("registrar.cfg", &[]));
            scope.spawn(|| run("registrar-auth.cfg", &["--auth", "alice:wonderland"]));
            scope.spawn(|| run("proxy.cfg", &["--define", &upstream]));
        });
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
        let run = gate(pair, &project("tests/gate/planted/htable.cfg"), &SHORT);
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
        let silent = gate(pair, &healthy, &["--traffic", "true"]);
        assert_eq!(silent.code(), Some(3), "{}", silent.said());
        assert!(silent.said().contains("sent nothing"), "{}", silent.said());
        let failing = gate(pair, &healthy, &["--traffic", "echo broken pipe; false"]);
        assert_eq!(failing.code(), Some(3), "{}", failing.said());
        assert!(failing.said().contains("broken pipe"), "{}", failing.said());
        let kills = "kill -SEGV $(tr ' ' '\\n' </proc/$MEMGUARD_GATE_PID/task/$MEMGUARD_GATE_PID/children | head -1); sleep 5";
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
fn gate_stress_says_which_rate_holds_and_what_grows_without_end() {
    for_each_pair_at_once(|pair| {
        let common = [
            "--scenario",
            "register",
            "--rounds",
            "3",
            "--warmup",
            "1",
            "--requests",
            "20",
        ];
        let grows = gate(
            pair,
            &project("tests/gate/planted/htable.cfg"),
            &[&common[..], &["--limit", "100000", "--stress", "300", "4"]].concat(),
        );
        assert_eq!(grows.code(), Some(1), "{}", grows.said());
        let first = &grows.json["stress"][0];
        assert_eq!(first["growing"], true, "{}", grows.said());
        // 900 REGISTERs per second with a cell of a hundred bytes each.
        let hour = first["hour_bytes"].as_f64().unwrap_or(0.0);
        assert!(
            hour > 900.0 * 3600.0 * 40.0 && hour < 900.0 * 3600.0 * 400.0,
            "{}",
            grows.said()
        );
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
    });
}
