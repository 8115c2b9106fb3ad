//! What is in monitoring/, each against the module's real output: rules and dashboard in a real Prometheus, the Nagios
//! plugin in each state, the Zabbix template's names.
//! Forbidden here: traffic beyond loopback.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::harness::builder::free_port;
use super::harness::prometheus::{Prometheus, program, promtool};
use super::harness::{Server, for_each_pair, http, until};

const LIMIT: Duration = Duration::from_secs(5);

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("monitoring")
        .join(name)
}

fn document(name: &str) -> Value {
    let text = std::fs::read_to_string(file(name)).expect("the file is there");
    serde_json::from_str(&text).expect("the file is JSON")
}

/// Every value of a key, at any depth.
fn all<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, inner)| {
            if name == key {
                found.push(inner);
            }
            all(inner, key, found);
        }),
        Value::Array(list) => list.iter().for_each(|inner| all(inner, key, found)),
        _ => (),
    }
}

fn texts(value: &Value, key: &str) -> Vec<String> {
    let mut found = Vec::new();
    all(value, key, &mut found);
    found
        .into_iter()
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect()
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_name(c))
        .filter(|word| word.starts_with("kamailio_memguard_"))
        .map(str::to_owned)
        .collect()
}

fn served(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some(line.split([' ', '{']).next()?.to_owned()))
        .collect()
}

#[test]
fn rules_fire_and_do_not_fire_as_promtool_is_told() {
    let Some(promtool_path) = program("promtool") else {
        return;
    };
    let rules = file("memguard.rules.yml").display().to_string();
    let (good, text) = promtool(&promtool_path, &["check", "rules", &rules], "");
    assert!(good && !text.contains("lint"), "{text}");
    let tests = file("memguard.rules.test.yml").display().to_string();
    let (good, text) = promtool(&promtool_path, &["test", "rules", &tests], "");
    assert!(good && text.contains("SUCCESS"), "{text}");
    // Each alert is in the tests.
    let (rules, tests) = (
        std::fs::read_to_string(rules),
        std::fs::read_to_string(tests),
    );
    let (rules, tests) = (rules.expect("rules"), tests.expect("tests"));
    let alerts: Vec<&str> = rules
        .lines()
        .filter_map(|l| l.trim().strip_prefix("- alert: "))
        .collect();
    assert!(alerts.len() >= 10, "{alerts:?}");
    let missing: Vec<&&str> = alerts
        .iter()
        .filter(|alert| !tests.contains(**alert))
        .collect();
    assert!(missing.is_empty(), "without a test: {missing:?}");
}

#[test]
fn a_real_prometheus_scrapes_the_metrics_and_evaluates_rules_and_dashboard() {
    let Some(prometheus) = program("prometheus") else {
        return;
    };
    for_each_pair(|pair| {
        let address = free_port();
        let server = Server::registrar(pair)
            .param("listen", address)
            .param("sample_interval", 200)
            .start();
        let folder = server.places.folder.join("prometheus");
        let rules = file("memguard.rules.yml");
        let prometheus = Prometheus::start(&prometheus, &folder, address, &[&rules]);
        let value = |query: &str| prometheus.query(query).expect(query);
        until(Duration::from_secs(20), "three scrapes", || {
            value("count_over_time(kamailio_memguard_level[1m])")
                .first()
                .is_some_and(|(_, n)| *n >= 3.0)
        });
        assert_eq!(value("up{job=\"memguard\"}")[0].1, 1.0);
        let size = value("kamailio_memguard_shm_size_bytes")[0].1;
        assert!((f64::from(16 << 20) - size).abs() < 4096.0, "{size}");
        let workers = server.processes().len();
        assert_eq!(
            value("kamailio_memguard_worker_pkg_used_bytes").len(),
            workers
        );
        let text = http::get(address, "/metrics", LIMIT)
            .expect("an answer")
            .body;
        let known = served(&text);
        let scraped: BTreeSet<String> = value("{__name__=~\"kamailio_memguard_.*\"}")
            .iter()
            .filter_map(|(labels, _)| Some(labels["__name__"].as_str()?.to_owned()))
            .collect();
        assert_eq!(scraped, known);

        // The rules: all are evaluated without an error, none names what is not there, none fires on a healthy server.
        until(Duration::from_secs(20), "every rule was evaluated", || {
            let health = texts(&prometheus.api("rules").expect("rules"), "health");
            health.len() >= 10 && health.iter().all(|h| h == "ok")
        });
        let rules_text = std::fs::read_to_string(&rules).expect("the file is there");
        assert!(
            named(&rules_text).is_subset(&known),
            "{:?}",
            named(&rules_text).difference(&known)
        );
        assert!(value("ALERTS{alertstate=\"firing\"}").is_empty());

        // The dashboard: every query is answered; those that show a state are never empty.
        let dashboard = document("grafana-dashboard.json");
        let queries = texts(&dashboard, "expr");
        assert!(queries.len() > 20, "{queries:?}");
        for query in &queries {
            let query = query
                .replace("$__rate_interval", "1m")
                .replace("$instance", ".*");
            assert!(named(&query).is_subset(&known), "{query}");
            let rows = prometheus
                .query(&query)
                .unwrap_or_else(|e| panic!("{query}: {e}"));
            let may_be_empty = query.contains("changes(") || query.contains("== 1");
            assert!(
                may_be_empty || !rows.is_empty(),
                "nothing to show for {query}"
            );
        }
        let shown: BTreeSet<String> = queries.iter().flat_map(|q| named(q)).collect();
        let hidden: Vec<&String> = known.difference(&shown).collect();
        assert!(hidden.is_empty(), "the dashboard leaves out {hidden:?}");
    });
}

/// What Grafana asks of a file that is imported (no Grafana is in Debian: its documented model, schema version 39).
#[test]
fn the_dashboard_has_what_grafana_asks_of_an_import() {
    let dashboard = document("grafana-dashboard.json");
    assert!(dashboard["uid"].as_str().is_some_and(|uid| uid.len() <= 40));
    assert_eq!(dashboard["schemaVersion"], 39);
    assert!(
        dashboard.get("id").is_none_or(Value::is_null),
        "the importing Grafana gives the id"
    );
    let variables: Vec<&str> = dashboard["templating"]["list"]
        .as_array()
        .expect("variables")
        .iter()
        .filter_map(|variable| variable["name"].as_str())
        .collect();
    assert_eq!(variables, ["datasource", "instance"]);
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<i64> = panels.iter().filter_map(|p| p["id"].as_i64()).collect();
    assert_eq!(ids.len(), panels.len(), "each panel has an id of its own");
    let mut taken = BTreeSet::new();
    for panel in panels {
        let place = |name: &str| {
            let number = panel["gridPos"][name].as_i64();
            number.unwrap_or_else(|| panic!("no {name}: {panel}"))
        };
        let (x, y, w, h) = (place("x"), place("y"), place("w"), place("h"));
        assert!(x >= 0 && w > 0 && h > 0 && x + w <= 24, "{panel}");
        for column in x..x + w {
            for line in y..y + h {
                assert!(taken.insert((column, line)), "two panels overlap: {panel}");
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(
            panel["title"]
                .as_str()
                .is_some_and(|title| !title.is_empty())
        );
        let targets = panel["targets"].as_array().expect("targets");
        let refs: BTreeSet<&str> = targets.iter().filter_map(|t| t["refId"].as_str()).collect();
        assert!(
            !targets.is_empty() && refs.len() == targets.len(),
            "{panel}"
        );
        for source in std::iter::once(&panel["datasource"])
            .chain(targets.iter().map(|target| &target["datasource"]))
        {
            assert_eq!(source["type"], "prometheus", "{panel}");
            assert_eq!(
                source["uid"], "${datasource}",
                "chosen at the import: {panel}"
            );
        }
    }
}

#[test]
fn the_zabbix_template_asks_for_what_is_there_and_is_consistent() {
    let template = document("zabbix-template.json");
    let ids = texts(&template, "uuid");
    let unique: BTreeSet<&String> = ids.iter().collect();
    assert_eq!(unique.len(), ids.len());
    // Zabbix accepts version 4 only.
    let is_v4 = |id: &&String| id.len() == 32 && &id[12..13] == "4" && "89ab".contains(&id[16..17]);
    assert_eq!(ids.iter().find(|id| !is_v4(id)), None);
    let keys: BTreeSet<String> = texts(&template, "key").into_iter().collect();
    for expression in texts(&template, "expression") {
        for part in expression.split("/Kamailio memguard/").skip(1) {
            let key = part.split([',', ')']).next().unwrap_or_default();
            assert!(keys.contains(key), "{expression} asks for {key}");
        }
    }
    for_each_pair(|pair| {
        let address = free_port();
        let _server = Server::registrar(pair).param("listen", address).start();
        let text = http::get(address, "/metrics", LIMIT)
            .expect("an answer")
            .body;
        let mut lists = Vec::new();
        all(&template, "items", &mut lists);
        all(&template, "item_prototypes", &mut lists);
        let items: Vec<&Value> = lists
            .into_iter()
            .filter_map(Value::as_array)
            .flatten()
            .collect();
        let mut asked = 0;
        for item in items.iter().filter(|item| item["type"] == "DEPENDENT") {
            let master = &item["master_item"]["key"];
            assert!(
                items
                    .iter()
                    .any(|other| other["key"] == *master && other["type"] == "HTTP_AGENT"),
                "{item}"
            );
            let pattern = item["preprocessing"][0]["parameters"][0]
                .as_str()
                .expect("a pattern");
            let pattern = pattern.replace("{#WORKER}", "1");
            let values: Vec<f64> = text
                .lines()
                .filter_map(|line| line.strip_prefix(&pattern)?.strip_prefix([' ', '{']))
                .filter_map(|rest| rest.rsplit(' ').next()?.parse().ok())
                .collect();
            // Of more than one series, and of a number that its type does not hold, Zabbix takes none.
            assert_eq!(values.len(), 1, "{pattern}");
            let holds =
                item["value_type"] == "FLOAT" || (values[0] >= 0.0 && values[0].fract() == 0.0);
            assert!(holds, "{item}: {values:?}");
            asked += 1;
        }
        assert!(asked > 30, "{asked}");
    });
}

/// Exit status and output of monitoring/check_memguard.
pub fn plugin(words: &[&str]) -> (i32, String) {
    let output = Command::new(file("check_memguard"))
        .args(words)
        .output()
        .expect("sh is there");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[test]
fn check_memguard_says_each_state_in_the_plugins_form() {
    assert_eq!(plugin(&["--help"]).0, 0);
    let (code, text) = plugin(&["-k", "/nonexistent/kamcmd"]);
    assert!(
        code == 3 && text.starts_with("MEMGUARD UNKNOWN - "),
        "{code} {text}"
    );
    for bad in [
        &["-w", "1"][..],
        &["-w", "x", "-c", "2"],
        &["-W", "5", "-C", "1"],
        &["-x"],
        &["word"],
    ] {
        assert_eq!(plugin(bad).0, 3, "{bad:?}");
    }
    for_each_pair(|pair| {
        let server = Server::registrar(pair)
            .config(|c| {
                c.module("cfg_rpc");
            })
            .with_mgtest()
            .param("sample_interval", 100)
            .param("dwell", 0)
            .start();
        let (kamcmd, socket) = (
            pair.kamailio.kamcmd.display().to_string(),
            format!("unix:{}", server.places.ctl().display()),
        );
        let check = |more: &[&str]| plugin(&[&["-k", &kamcmd, "-s", &socket], more].concat());
        let comes_to = |code: i32, what: &str| {
            until(LIMIT, what, || check(&[]).0 == code);
            check(&[]).1
        };
        let text = comes_to(0, "a healthy server is OK");
        assert!(
            text.starts_with("MEMGUARD OK - level normal, ") && text.lines().count() == 1,
            "{text}"
        );
        let (_, perfdata) = text.split_once(" | ").expect("performance data");
        for value in perfdata.split_whitespace() {
            let (label, fields) = value.split_once('=').expect("label=value");
            assert!(
                label.chars().all(|c| c.is_ascii_lowercase() || c == '_'),
                "{value}"
            );
            assert!(
                fields.starts_with(|c: char| c.is_ascii_digit()) && fields.split(';').count() >= 4,
                "{value}"
            );
        }
        assert!(perfdata.starts_with("shm_used="), "{perfdata}");
        assert_eq!(
            check(&["-w", "1", "-c", "100"]).0,
            1,
            "limits of the caller"
        );
        assert_eq!(check(&["-w", "1", "-c", "2"]).0, 2);
        let (code, text) = check(&["-w", "90", "-c", "80"]);
        assert!(code == 3 && text.contains("ascending"), "{code} {text}");

        server.rpc("cfg.set_now_int", json!(["memguard", "shm_warning_pct", 1]));
        assert!(comes_to(1, "level warning is WARNING").contains("WARNING - shm at "));
        server.rpc(
            "cfg.set_now_int",
            json!(["memguard", "shm_warning_pct", 70]),
        );
        comes_to(0, "and OK again");
        server.rpc("memguard.shed", json!([60]));
        assert!(comes_to(2, "shedding is CRITICAL").contains("CRITICAL - level shedding"));
        server.rpc("memguard.resume", json!([]));
        comes_to(0, "and OK again");
        let _ = server.try_rpc("mgtest.fill_shm", json!([16]));
        comes_to(2, "no byte left is CRITICAL");
        until(LIMIT, "at level emergency", || {
            check(&[]).1.contains("level emergency")
        });

        let pid = sampler(&server);
        // SAFETY: the sampling process of our own server.
        unsafe { libc::kill(pid, libc::SIGSTOP) };
        until(
            Duration::from_secs(20),
            "a sampler that stands still is UNKNOWN",
            || check(&[]).0 == 3,
        );
        assert!(check(&[]).1.contains("the last sample is"));
        // SAFETY: as above.
        unsafe { libc::kill(pid, libc::SIGCONT) };
        comes_to(2, "and CRITICAL again");
    });
}

/// The sampling process by memguard's own table, which needs no memory.
fn sampler(server: &Server) -> i32 {
    let text = server
        .kamcmd(&["memguard.workers"])
        .expect("kamcmd is answered");
    let rows: Vec<&str> = text.split('}').collect();
    let row = rows
        .iter()
        .find(|row| row.contains("memguard sampler"))
        .expect("the sampling process");
    let pid = row
        .lines()
        .find_map(|line| line.trim().strip_prefix("sampling_pid: "));
    pid.and_then(|pid| pid.parse().ok()).expect("a pid")
}
