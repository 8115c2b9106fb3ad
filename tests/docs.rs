//! README.md, docs/ and the examples say what the tables in the code say, and every link of theirs leads somewhere.
//! Forbidden here: judging prose.
//!
//! A failing test prints the lines that are missing, ready to be put in.

use std::fs;
use std::path::Path;

use memguard::guard::config::params::{INT_PARAMS, Kind, Param, TEXT_PARAMS};

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn params() -> impl Iterator<Item = &'static Param> {
    INT_PARAMS.iter().chain(TEXT_PARAMS)
}

/// Fails with all `lines` that `text` does not hold.
#[track_caller]
fn holds_all(name: &str, text: &str, lines: impl IntoIterator<Item = String>) {
    let own: Vec<&str> = text.lines().map(str::trim).collect();
    let missing: Vec<String> = lines
        .into_iter()
        .filter(|line| !own.contains(&line.as_str()))
        .collect();
    assert!(
        missing.is_empty(),
        "{name} lacks these lines:\n{}\n",
        missing.join("\n")
    );
}

/// As [`holds_all`], of one page.
#[track_caller]
fn holds_page(path: &str, lines: impl IntoIterator<Item = String>) {
    holds_all(path, &file(path), lines);
}

/// README.md, CONTRIBUTING.md and every page of docs/.
fn pages() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let names = fs::read_dir(folder).expect("there are pages");
    let mut paths: Vec<String> = names
        .map(|entry| entry.expect("a page").file_name())
        .map(|name| format!("docs/{}", name.to_string_lossy()))
        .filter(|path| path.ends_with(".md"))
        .chain(["README.md".into(), "CONTRIBUTING.md".into()])
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| (path.clone(), file(&path)))
        .collect()
}

/// The anchors of a page's headings, as they are made for links: lower case, words joined by hyphens.
fn anchors(text: &str) -> Vec<String> {
    let mut fence = 0; // backticks that began the code we are in: as many end it
    let mut found = Vec::new();
    for line in text.lines() {
        let ticks = line.chars().take_while(|c| *c == '`').count();
        match (ticks >= 3, fence) {
            (true, 0) => fence = ticks,
            (true, began) if ticks >= began => fence = 0,
            _ => {}
        }
        if let (0, true) = (fence, line.starts_with('#')) {
            let name = line.trim_start_matches('#').trim().to_lowercase();
            let kept = name
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            found.push(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
        }
    }
    found
}

/// A line of the table of parameters.
fn row(param: &Param) -> String {
    let (default, accepts) = match param.kind {
        Kind::Int { default, min, max } => (
            default.to_string(),
            format!("{min} to {max} {}", param.unit),
        ),
        Kind::Mode => ("enforce".into(), "enforce, observe, off".into()),
        Kind::Text {
            default: "",
            max_len,
        } => ("(empty)".into(), format!("up to {max_len} bytes")),
        Kind::Text { default, max_len } => (default.into(), format!("up to {max_len} bytes")),
        Kind::List { max_items } => ("(none)".into(), format!("up to {max_items} values")),
    };
    let runtime = match (param.kind, param.runtime) {
        (Kind::Mode, _) => "`memguard.mode`",
        (_, true) => "yes",
        (_, false) => "no",
    };
    format!(
        "| `{}` | {default} | {} | {runtime} | {} |",
        param.name,
        accepts.trim_end(),
        param.doc
    )
}

/// A parameter's example: its default, or a value where the default is nothing.
fn example(param: &Param) -> String {
    let value = match (param.kind, param.name) {
        (Kind::Int { default, .. }, _) => default.to_string(),
        (Kind::Mode, _) => "\"enforce\"".into(),
        (_, "reply_reason") => "\"Server Memory Low\"".into(),
        (_, "priority_aor") => "\"control-centre@example.org\"".into(),
        (_, "priority_domain") => "\"emergency.example.org\"".into(),
        (_, "priority_source" | "silent_source") => "\"192.0.2.0/24\"".into(),
        (_, "address_expect" | "address_floating") => "\"192.0.2.10\"".into(),
        (_, "event_callback") => "\"ksr_memguard_event\"".into(),
        (_, "listen") => "\"127.0.0.1:9494\"".into(),
        (_, "profile_dir") => "\"/var/lib/kamailio\"".into(),
        (_, name) => format!("\"/var/lib/kamailio/memguard.{name}\""),
    };
    format!("modparam(\"memguard\", \"{}\", {value})", param.name)
}

/// The first two quoted texts of every line of a macro table: name and one line of help.
fn table(source: &str, begin: &str) -> Vec<(String, String)> {
    let text = file(source);
    let body = text
        .split_once(begin)
        .unwrap_or_else(|| panic!("{source} has no {begin}"))
        .1;
    let body = body.split_once("\n}\n").expect("the table ends").0;
    let entry = |line: &str| {
        let mut quoted = line.strip_prefix("    \"")?.split('"');
        Some((quoted.next()?.to_owned(), quoted.nth(1)?.to_owned()))
    };
    let found: Vec<_> = body.lines().filter_map(entry).collect();
    assert!(
        found.len() > 5,
        "{source}: too few entries were found: {found:?}"
    );
    found
}

#[test]
fn docs_have_every_parameter_with_default_bounds_and_meaning() {
    holds_page("docs/parameters.md", params().map(row));
}

#[test]
fn docs_have_an_example_of_every_parameter() {
    holds_page("docs/parameters.md", params().map(example));
}

#[test]
fn the_registrar_shows_the_defaults_of_the_parameters_that_have_an_effect() {
    let text = file("kamailio-cfg/registrar.cfg");
    for line in text
        .lines()
        .filter_map(|line| line.strip_prefix("# modparam(\"memguard\", "))
    {
        let name = line.split('"').nth(1).expect("a quoted name");
        let param = params()
            .find(|p| p.name == name)
            .unwrap_or_else(|| panic!("there is no parameter {name}"));
        let shown = line
            .split(')')
            .next()
            .and_then(|l| l.split_once(", "))
            .expect("a value")
            .1;
        assert!(
            example(param).ends_with(&format!(", {shown})")),
            "{name} is shown as {shown}: {}",
            example(param)
        );
    }
}

#[test]
fn docs_have_every_rpc_command_with_its_help() {
    let text = file("src/host/commands/mod.rs");
    // A help may go on in the next line of the source, after a backslash.
    let quoted = |block: &str, field: &str| -> Option<String> {
        let (text, _) = block.split_once(field)?.1.split_once("\",\n")?;
        Some(text.split("\\\n").map(str::trim_start).collect())
    };
    let blocks = text.split("    Command {\n").skip(1);
    let rows: Vec<String> = blocks
        .filter_map(|block| Some((quoted(block, "name: \"")?, quoted(block, "help: \"")?)))
        .map(|(name, help)| format!("| `{name}` | {help} |"))
        .collect();
    assert!(rows.len() >= 12, "{rows:?}");
    holds_page("docs/rpc.md", rows);
}

#[test]
fn docs_have_every_statistic() {
    let rows = memguard::guard::formats::metrics::statistics().into_iter();
    holds_page(
        "docs/monitoring.md",
        rows.map(|s| format!("| `{}` | {} |", s.name, s.help)),
    );
}

#[test]
fn docs_have_every_key_of_the_pseudo_variable() {
    let rows = table("src/host/module/variables.rs", "\nkeys! {").into_iter();
    holds_page(
        "docs/functions.md",
        rows.map(|(name, help)| format!("| `$memguard({name})` | {help} |")),
    );
}

#[test]
fn pages_name_files_and_commands_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let prefixes = [
        "src/",
        "tests/",
        "tools/",
        "kamailio-cfg/",
        "c_shim/",
        "benches/",
    ];
    for (page, text) in pages() {
        let words = text.split(['`', '(', ')', ' ', '\n']);
        for path in words.filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix))) {
            let path = path.trim_end_matches(['.', ',', ':', ';', '*', '/', ']', '"', '\u{27}']);
            let path = path.split(':').next().unwrap_or(path);
            let is_pattern = path.contains('*') || path.contains("NAME");
            assert!(
                is_pattern || root.join(path).exists(),
                "{page} names {path}, which does not exist"
            );
        }
        for command in text
            .split("./dev ")
            .skip(1)
            .filter_map(|rest| rest.split(|c: char| !c.is_ascii_lowercase()).next())
        {
            assert!(
                command.is_empty()
                    || command == "help"
                    || root.join("tools").join(command).exists(),
                "{page} names ./dev {command}"
            );
        }
    }
}

#[test]
fn every_link_of_every_page_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut broken = Vec::new();
    for (page, text) in pages() {
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            if link.contains("://") || link.starts_with("mailto:") || link.contains(' ') {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => root.join(&page),
                _ => root.join(&page).parent().expect("a folder").join(path),
            };
            let is_there = match (target.exists(), anchor) {
                (true, "") => true,
                (true, anchor) => fs::read_to_string(&target)
                    .is_ok_and(|text| anchors(&text).iter().any(|name| name == anchor)),
                _ => false,
            };
            if !is_there {
                broken.push(format!("{page}: {link}"));
            }
        }
    }
    assert!(
        broken.is_empty(),
        "links that lead nowhere:\n{}\n",
        broken.join("\n")
    );
}

#[test]
fn readme_is_one_screen_to_run_and_one_to_install() {
    let text = file("README.md");
    assert!(text.len() < 12 * 1024, "README.md has {} bytes", text.len());
    assert!(text.lines().count() <= 200);
    for (page, _) in pages().iter().filter(|(page, _)| page.starts_with("docs/")) {
        assert!(
            text.contains(&format!("]({page})")),
            "README.md does not link {page}"
        );
    }
}

#[test]
fn architecture_names_every_crate_that_is_loaded_into_the_server() {
    let text = file("Cargo.toml");
    let body = text
        .split_once("\n[dependencies]\n")
        .expect("there are dependencies")
        .1;
    let names = body
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(" = "));
    let page = file("docs/architecture.md");
    // What is optional is for the companion programs, not loaded.
    let loaded = |(name, how): &(&str, &str)| !name.starts_with('#') && !how.contains("optional");
    for (name, _) in names.filter(loaded) {
        assert!(
            page.contains(&format!("\n| {name} | ")),
            "docs/architecture.md lacks the crate {name}"
        );
    }
}
