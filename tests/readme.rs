//! README.md and the examples say what the tables in the code say: parameters, RPC commands, statistics, `$memguard`.
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

/// A line of the README's table of parameters.
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
fn readme_has_every_parameter_with_default_bounds_and_meaning() {
    holds_all("README.md", &file("README.md"), params().map(row));
}

#[test]
fn readme_has_an_example_of_every_parameter() {
    holds_all("README.md", &file("README.md"), params().map(example));
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
fn readme_has_every_rpc_command_with_its_help() {
    let text = file("src/host/module/rpc.rs");
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
    holds_all("README.md", &file("README.md"), rows);
}

#[test]
fn readme_has_every_statistic() {
    let rows = memguard::guard::formats::metrics::statistics().into_iter();
    holds_all(
        "README.md",
        &file("README.md"),
        rows.map(|s| format!("| `{}` | {} |", s.name, s.help)),
    );
}

#[test]
fn readme_has_every_key_of_the_pseudo_variable() {
    let rows = table("src/host/module/variables.rs", "\nkeys! {").into_iter();
    holds_all(
        "README.md",
        &file("README.md"),
        rows.map(|(name, help)| format!("| `$memguard({name})` | {help} |")),
    );
}

#[test]
fn readme_names_files_and_commands_that_exist() {
    let text = file("README.md");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let words = text.split(['`', '(', ')', ' ', '\n']);
    let prefixes = [
        "src/",
        "tests/",
        "kamailio-cfg/",
        "c_shim/",
        "benches/",
        "fuzz/",
    ];
    for path in words
        .clone()
        .filter(|word| prefixes.iter().any(|prefix| word.starts_with(prefix)))
    {
        let path = path.trim_end_matches(['.', ',', ':', ';', '*', '/']);
        assert!(
            root.join(path).exists(),
            "README.md names {path}, which does not exist"
        );
    }
    for command in text
        .split("./dev ")
        .skip(1)
        .filter_map(|rest| rest.split(|c: char| !c.is_ascii_lowercase()).next())
    {
        assert!(
            command == "help" || root.join("tools").join(command).exists(),
            "README.md names ./dev {command}"
        );
    }
}

#[test]
fn readme_names_every_crate_that_is_loaded_into_the_server() {
    let text = file("Cargo.toml");
    let body = text
        .split_once("\n[dependencies]\n")
        .expect("there are dependencies")
        .1;
    let names = body
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(" = "));
    let readme = file("README.md");
    // What is optional is for the companion programs, not loaded.
    let loaded = |(name, how): &(&str, &str)| !name.starts_with('#') && !how.contains("optional");
    for (name, _) in names.filter(loaded) {
        assert!(
            readme.contains(&format!("\n| {name} | ")),
            "README.md lacks the crate {name}"
        );
    }
}
