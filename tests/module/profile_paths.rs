//! `memguard.profile`'s call paths: a real pprof shows the helper and the caller that leaks through it, by addresses
//! that the mappings cover and symbols can be found for; and the bytes are those of `memguard.paths`.
//! Forbidden here: reading the format by hand; leaks whose allocating place is the culprit.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::guard::{Guarded, SOON, number, rows, word};
use super::harness::builder::Folder;
use super::harness::pairs::Pair;
use super::harness::pprof::{pprof, program};
use super::harness::sip::Request;
use super::harness::{Server, for_each_pair, until};
use super::paths::line_of;

/// A server whose script leaks through helpers of the core, every allocation sampled.
fn leaking(pair: &Pair, folder: &Folder) -> Server {
    Server::registrar(pair)
        .with_mgtest()
        .workers(1)
        .param("profile_dir", folder.path().display())
        .param("sample_bytes", 1)
        .config(|c| {
            c.before = "mgtest_forget_params(\"a=1;b=2;c=3\");\n    \
                mgtest_forget_format(\"$ru and $ci\");\n    \
                mgtest_forget_xavp(\"a value of some length\");"
                .into();
        })
        .start()
}

fn path(answer: &Value, field: &str) -> PathBuf {
    PathBuf::from(word(answer, field))
}

/// A mapping as `pprof -raw` shows it.
struct Mapping<'a> {
    start: u64,
    limit: u64,
    offset: u64,
    file: &'a str,
    build_id: &'a str,
}

/// What `pprof -raw` says: labels and live bytes of the samples, number of mapping and address of the locations, the
/// mappings by number.
struct Raw<'a> {
    samples: Vec<(String, i64)>,
    locations: Vec<(u64, u64)>,
    mappings: BTreeMap<u64, Mapping<'a>>,
}

fn hex(text: &str) -> u64 {
    let digits = text.trim_start_matches("0x");
    u64::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("an address, not {text}"))
}

fn raw(text: &str) -> Raw<'_> {
    let (samples, rest) = text.split_once("\nLocations\n").expect("pprof -raw");
    let (locations, mappings) = rest.split_once("\nMappings\n").expect("pprof -raw");
    let mut found = Raw {
        samples: Vec::new(),
        locations: Vec::new(),
        mappings: BTreeMap::new(),
    };
    // "  12  3456: 7 8 9", and a line of labels
    let (_, samples) = samples.split_once("inuse_space/bytes").expect("its kinds");
    for line in samples.lines().skip(1) {
        let values: Vec<i64> = line
            .split(':')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .map_while(|word| word.parse().ok())
            .collect();
        match (values.as_slice(), found.samples.last_mut()) {
            ([_, bytes], _) => found.samples.push((String::new(), *bytes)),
            (_, Some((labels, _))) => labels.push_str(line),
            _ => panic!("no sample: {line}"),
        }
    }
    // "   7: 0x55aa M=1 name file:0:0 s=0", and a line for each further function
    for line in locations.lines() {
        let mut words = line.split_whitespace();
        let (_, Some(address)) = (words.next(), words.next()) else {
            continue;
        };
        if let Some(mapping) = words.next().and_then(|w| w.strip_prefix("M=")) {
            let mapping = mapping.parse().expect("a number");
            found.locations.push((mapping, hex(address)));
        }
    }
    // "1: 0x5500/0x5600/0x20000 /usr/sbin/kamailio 8fa3…"
    for line in mappings.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [number, range, file, ref build_id @ ..] = words[..] else {
            continue;
        };
        let range: Vec<u64> = range.split('/').map(hex).collect();
        let number = number.trim_end_matches(':').parse().expect("a number");
        let mapping = Mapping {
            start: range[0],
            limit: range[1],
            offset: range[2],
            file,
            build_id: build_id.first().unwrap_or(&""),
        };
        found.mappings.insert(number, mapping);
    }
    found
}

/// The stacks of `pprof -traces`: innermost first.
fn traces(text: &str) -> Vec<Vec<&str>> {
    text.split("-----------+-")
        .skip(1)
        .map(|stack| {
            let lines = stack.lines().skip(1);
            let frames = lines.filter(|line| !line.trim_start().contains(":  "));
            frames
                .map(|line| line.rsplit("  ").next().unwrap_or_default().trim())
                .filter(|frame| !frame.is_empty())
                .collect()
        })
        .collect()
}

/// Whether a stack leads from one to the other, the caller second.
fn leads(stack: &[&str], helper: &str, caller: &str) -> bool {
    let at = |name: &str| stack.iter().position(|frame| *frame == name);
    at(helper) == Some(0) && at(caller) > Some(0) && at("run_actions") > at(caller)
}

#[test]
fn profile_paths_show_a_real_pprof_the_helper_and_the_caller_that_leaks() {
    let Some(program) = program() else { return };
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "paths");
        let server = leaking(pair, &folder);
        let client = server.udp();
        for _ in 0..20 {
            client.request(&Request::options());
        }
        let answer = server.rpc("memguard.profile", json!([]));
        let file = path(&answer, "paths");
        let name = file.file_name().expect("a file").to_string_lossy();
        assert!(name.ends_with(".paths.pb"), "{name}");

        let focus = "-focus=^parse_params2$";
        let words = ["-traces", "-unit=B", "-symbolize=none", focus];
        let text = pprof(&program, &words, &file);
        let stacks = traces(&text);
        let is_seen = |helper, caller| stacks.iter().any(|stack| leads(stack, helper, caller));
        assert!(is_seen("parse_params2", "mgtest_forget_params"), "{text}");
        let line = line_of(&server, "mgtest_forget_params(");
        let line = format!("cfg:  kamailio.cfg:{line} route[DEFAULT_ROUTE]");
        assert!(text.contains(&line), "{line}: {text}");

        // What leaks most, by itself and by who is on the path.
        let cum = [
            "-top",
            "-cum",
            "-unit=B",
            "-symbolize=none",
            "-tagfocus=method=^OPTIONS$",
        ];
        let top = pprof(&program, &cum, &file);
        let caller = top
            .lines()
            .find(|line| line.ends_with(" mgtest_forget_params"));
        let own: Vec<&str> = caller
            .expect("the caller is there")
            .split_whitespace()
            .collect();
        assert_eq!(own[0], "0", "it allocates nothing itself: {top}");
        assert_ne!(own[3], "0", "yet it holds: {top}");
    });
}

#[test]
fn profile_paths_carry_addresses_that_symbols_are_found_for() {
    let Some(program) = program() else { return };
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "addresses");
        let server = leaking(pair, &folder);
        server.udp().request(&Request::options());
        let answer = server.rpc("memguard.profile", json!([]));
        let file = path(&answer, "paths");
        let text = pprof(&program, &["-raw", "-symbolize=none"], &file);
        let found = raw(&text);
        assert_eq!(found.samples.len() as i64, number(&answer, "paths_samples"));
        assert!(found.locations.len() > 20, "{text}");
        for (mapping, address) in &found.locations {
            let mapping = &found.mappings[mapping];
            assert!(
                (mapping.start..mapping.limit).contains(address),
                "{address:#x} is not in {}",
                mapping.file
            );
        }
        for name in ["/kamailio", "/mgtest.so", "/usrloc.so"] {
            let mapping = found.mappings.values().find(|m| m.file.ends_with(name));
            let mapping = mapping.unwrap_or_else(|| panic!("{name} is mapped: {text}"));
            let known = build_id(mapping.file);
            assert!(
                known.len() == 40 && known == mapping.build_id,
                "{name}: {known}, {}",
                mapping.build_id
            );
            assert!(
                mapping.offset > 0 || name == "/mgtest.so",
                "its code is not its beginning"
            );
        }

        // mgtest's functions but a few are static: no exported symbol names them, its file does.
        let stack = |text: &str| {
            let stacks = traces(text);
            let is_it = |stack: &&Vec<&str>| stack.first() == Some(&"pv_parse_format");
            let stack = stacks.iter().find(is_it);
            stack.unwrap_or_else(|| panic!("{text}")).join(" < ")
        };
        let words = ["-traces", "-unit=B", "-focus=pv_parse_format"];
        let plain = pprof(
            &program,
            &[&words[..], &["-symbolize=none"]].concat(),
            &file,
        );
        assert!(stack(&plain).contains("[mgtest.so]"), "{plain}");
        assert!(!stack(&plain).contains("w_forget_format"), "{plain}");
        let symbols = with_symbols(&program, &words, &file);
        assert!(stack(&symbols).contains("w_forget_format"), "{symbols}");
    });
}

/// The build id that binutils reads in a file.
fn build_id(file: &str) -> String {
    let output = Command::new("readelf").args(["-n", file]).output();
    let output = output.expect("readelf is there, as the compiler is");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let id = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Build ID: "));
    id.unwrap_or_default().to_owned()
}

/// What pprof prints when it may look into the binaries themselves.
fn with_symbols(program: &Path, words: &[&str], profile: &Path) -> String {
    let output = Command::new(program)
        .args(words)
        .arg("-symbolize=local")
        .arg(profile)
        .env("PPROF_TMPDIR", profile.parent().unwrap_or(Path::new(".")))
        .output()
        .expect("pprof can be started");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Live bytes of the samples of a profile whose labels hold all `words`, and of the folded stacks beside it.
fn sums(program: &Path, answer: &Value, words: &[&str]) -> (i64, i64) {
    let text = pprof(
        program,
        &["-raw", "-symbolize=none"],
        &path(answer, "paths"),
    );
    let found = raw(&text);
    let is_meant = |labels: &str| words.iter().all(|word| labels.contains(word));
    let samples = found.samples.iter().filter(|(labels, _)| is_meant(labels));
    let folded = fs::read_to_string(path(answer, "paths_folded")).expect("it was written");
    let bytes = |line: &str| -> i64 {
        assert!(
            line.starts_with("pkg;") || line.starts_with("shm;"),
            "{line}"
        );
        let bytes = line.rsplit_once(' ').expect("stack and bytes").1;
        bytes.parse().expect("a number")
    };
    (samples.map(|s| s.1).sum(), folded.lines().map(bytes).sum())
}

#[test]
fn profile_paths_hold_the_bytes_that_memguard_paths_says() {
    let Some(program) = program() else { return };
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "sums");
        let server = leaking(pair, &folder);
        let client = server.udp();
        for i in 0..20 {
            client.request(&Request::register(&format!("user{i}")));
        }
        let said = |pool: &str| -> i64 {
            let words = json!(["pool", pool, "worker", 1, "top", 500]);
            let answer = server.rpc("memguard.paths", words);
            let is_cut = |row: &Value| row.get("truncated").is_some();
            assert!(
                !rows(&answer).iter().any(is_cut),
                "too many paths: {answer}"
            );
            rows(&answer)
                .iter()
                .map(|row| number(row, "live_bytes"))
                .sum()
        };
        for pool in ["pkg", "shm"] {
            let (mut answer, mut held) = (Value::Null, 0);
            until(SOON, "nothing changes while it is written", || {
                held = said(pool);
                answer = server.rpc("memguard.profile", json!([pool, "worker", 1]));
                held == said(pool)
            });
            let labels = [format!("pool:[{pool}]"), "worker:[1]".to_owned()];
            let labels = labels.each_ref().map(String::as_str);
            assert!(held > 1000, "{pool}: {held}");
            assert_eq!(number(&answer, "paths_bytes"), held, "{pool}");
            assert_eq!(sums(&program, &answer, &labels), (held, held), "{pool}");
            let other = if pool == "pkg" {
                "pool:[shm]"
            } else {
                "pool:[pkg]"
            };
            assert_eq!(sums(&program, &answer, &[other]).0, 0, "{pool} only");
        }
        // every worker's, and each has the label of its own
        let answer = server.rpc("memguard.profile", json!([]));
        let all = sums(&program, &answer, &[]).0;
        assert_eq!(all, number(&answer, "paths_bytes"));
        let of = |worker: usize| sums(&program, &answer, &[&format!("worker:[{worker}]")]).0;
        let each: i64 = (0..server.workers().len()).map(of).sum();
        assert_eq!(each, all);
    });
}

#[test]
fn profile_has_no_paths_while_nothing_is_sampled() {
    for_each_pair(|pair| {
        let folder = Folder::of(pair, "none");
        let server = Server::registrar(pair)
            .param("profile_dir", folder.path().display())
            .param("sample_bytes", 0)
            .start();
        let answer = server.rpc("memguard.profile", json!([]));
        assert!(
            answer.get("paths").is_none() && answer.get("file").is_some(),
            "{answer}"
        );
        assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 2);
    });
}
