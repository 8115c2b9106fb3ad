//! SARIF 2.1.0: each leak at its line of the configuration, as code scanning shows it.
//! Forbidden here: paths of this machine; a result without a location.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::report::{Report, Row};

const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

/// The document.
pub fn document(report: &Report, cfg: &Path) -> Value {
    let leak = |row: &Row| {
        let mut result = json!({
            "ruleId": "leak", "ruleIndex": 0, "level": "error",
            "message": { "text": row.sentence() },
            "locations": [ location(cfg, &row.cfg) ],
            // The same leak has the same fingerprint when lines move: it is not told anew.
            "partialFingerprints": { "memguardPlace/v1": format!("{}/{}/{}/{}", row.pool, row.module, row.file, row.function) },
            "properties": { "bytesPerRequest": row.per_request, "pool": row.pool },
        });
        if !row.others.is_empty() {
            let all = row.others.iter().enumerate().map(|(n, other)| {
                let mut location = location(cfg, other);
                location["id"] = json!(n + 1);
                location["message"] = json!({ "text": format!("also from {other}") });
                location
            });
            result["relatedLocations"] = all.collect();
        }
        result
    };
    let fault = |fault: &crate::faults::Fault| {
        json!({
            "ruleId": "fault", "ruleIndex": 1, "level": "error",
            "message": { "text": fault.sentence() },
            "locations": [ location(cfg, &fault.cfg) ],
            "partialFingerprints": { "memguardPlace/v1": format!("fault/{}", fault.place) },
        })
    };
    let results: Vec<Value> = report
        .leaks
        .iter()
        .map(leak)
        .chain(report.faults.iter().map(fault))
        .collect();
    let rule = |id: &str, name: &str, text: &str| {
        json!({
            "id": id, "name": name, "shortDescription": { "text": text },
            "fullDescription": { "text": text }, "defaultConfiguration": { "level": "error" },
        })
    };
    json!({
        "$schema": SCHEMA, "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "memguard-gate", "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": [
                    rule("leak", "MemoryKeptPerRequest", "Memory is kept of every request and never given back"),
                    rule("fault", "FailedAllocationNotSurvived", "An allocation that fails is not survived"),
                ],
            }},
            "results": results,
        }],
    })
}

/// The place in the configuration; without a line its first one.
fn location(cfg: &Path, line: &str) -> Value {
    let (file, line) = match crate::culprit::line_of(line) {
        Some((name, line)) => (file_of(cfg, name), line.max(1)),
        None => (cfg.to_owned(), 1),
    };
    json!({ "physicalLocation": {
        "artifactLocation": { "uri": uri(&file) },
        "region": { "startLine": line },
    }})
}

/// The path of a file that the configuration consists of, by its name: the configuration itself, or one beside it.
pub fn file_of(cfg: &Path, name: &str) -> PathBuf {
    if cfg.file_name().is_some_and(|own| own == name) {
        return cfg.to_owned();
    }
    let home = cfg.parent().unwrap_or(Path::new(""));
    let mut folders = vec![home.to_owned()];
    let mut looked = 0;
    while let Some(folder) = folders.pop() {
        let read = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            &folder
        };
        for entry in fs::read_dir(read).into_iter().flatten().flatten() {
            looked += 1;
            if entry.file_name() == name {
                return folder.join(name);
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && looked < 10_000 {
                folders.push(folder.join(entry.file_name()));
            }
        }
    }
    cfg.to_owned()
}

/// As a URI reference, relative where the path is below the working directory.
fn uri(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let path = path.strip_prefix(&here).unwrap_or(path);
    let text = path.to_string_lossy();
    let text = text.strip_prefix("./").unwrap_or(&text);
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    let encoded: String = text
        .bytes()
        .map(|b| {
            if plain(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect();
    match encoded.starts_with('/') {
        true => format!("file://{encoded}"),
        false => encoded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leak_stands_at_its_line_and_one_without_at_the_first() {
        let mut report = Report::default();
        for cfg in ["k.cfg:12 route[A]", ""] {
            report.leaks.push(Row {
                cfg: cfg.into(),
                ..Row::default()
            });
        }
        let document = document(&report, Path::new("etc/k.cfg"));
        let at = |n: usize| {
            let place = &document["runs"][0]["results"][n]["locations"][0]["physicalLocation"];
            (
                place["artifactLocation"]["uri"].clone(),
                place["region"]["startLine"].clone(),
            )
        };
        assert_eq!(at(0), (json!("etc/k.cfg"), json!(12)));
        assert_eq!(at(1), (json!("etc/k.cfg"), json!(1)));
    }

    #[test]
    fn a_path_is_a_uri_reference() {
        assert_eq!(uri(Path::new("./a b.cfg")), "a%20b.cfg");
        assert_eq!(uri(Path::new("/etc/k.cfg")), "file:///etc/k.cfg");
    }
}
