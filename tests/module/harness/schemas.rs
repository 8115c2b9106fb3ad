//! The published schemas of SARIF and JUnit, as `./dev` fetched them, and whether a document keeps to them.
//! Forbidden here: a keyword of a schema that is passed over; what is not known is a panic.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Map, Value};

use super::pairs;

/// The schemas.
pub struct Schemas {
    folder: PathBuf,
    sarif: Value,
}

impl Schemas {
    /// Where they are missing that is said as a skip.
    #[track_caller]
    pub fn find() -> Option<Schemas> {
        let folder = PathBuf::from(std::env::var("MEMGUARD_SCHEMAS").unwrap_or_default());
        let text = std::fs::read_to_string(folder.join("sarif-2.1.0.json"));
        let Ok(text) = text else {
            pairs::skip("the schemas of SARIF and JUnit are not here: run ./dev test module");
            return None;
        };
        let sarif = serde_json::from_str(&text).expect("a schema is JSON");
        Some(Schemas { folder, sarif })
    }

    /// What in a document does not keep to OASIS's schema of SARIF 2.1.0.
    pub fn sarif(&self, document: &Value) -> Vec<String> {
        let mut faults = Vec::new();
        json(&self.sarif, &self.sarif, document, "", &mut faults);
        faults
    }

    /// What in a document does not keep to Jenkins's schema of JUnit, or to Ant's.
    pub fn junit(&self, document: &str) -> Vec<String> {
        let one = |name: &str| {
            let mut child = Command::new(self.folder.join("xmllint"))
                .args(["--noout", "--nonet", "--schema"])
                .arg(self.folder.join(name))
                .arg("-")
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("xmllint can be started");
            let mut pipe = child.stdin.take().expect("it was asked for");
            pipe.write_all(document.as_bytes())
                .expect("xmllint reads all");
            drop(pipe);
            let output = child.wait_with_output().expect("it is ours");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            (!output.status.success()).then(|| format!("{name}: {said}"))
        };
        ["junit-jenkins.xsd", "junit-ant.xsd"]
            .into_iter()
            .filter_map(one)
            .collect()
    }
}

/// The keywords of JSON Schema that SARIF's uses; a format is a hint, and its URIs are plain text here.
fn json(root: &Value, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    let rules = schema.as_object().expect("a schema is an object");
    let mut wrong = |text: String| faults.push(format!("{at}: {text}"));
    let number = |limit: &Value| limit.as_f64().expect("a limit is a number");
    for (keyword, rule) in rules {
        match keyword.as_str() {
            "description" | "title" | "default" | "format" | "$schema" | "$id" | "definitions" => {}
            "type" if !is_of(rule, value) => wrong(format!("{value} is no {rule}")),
            "enum" if !rule.as_array().is_some_and(|all| all.contains(value)) => {
                wrong(format!("{value} is none of {rule}"))
            }
            "minimum" if value.as_f64().is_some_and(|n| n < number(rule)) => {
                wrong(format!("{value} is below {rule}"))
            }
            "maximum" if value.as_f64().is_some_and(|n| n > number(rule)) => {
                wrong(format!("{value} is above {rule}"))
            }
            "minItems"
                if value
                    .as_array()
                    .is_some_and(|all| (all.len() as f64) < number(rule)) =>
            {
                wrong(format!("fewer than {rule} items"))
            }
            "uniqueItems" if rule == &Value::Bool(true) && !are_unique(value) => {
                wrong("an item is there twice".into())
            }
            "required" => {
                let has = |name: &Value| value.get(name.as_str().unwrap_or_default()).is_some();
                let names = rule.as_array().into_iter().flatten();
                for name in names.filter(|name| value.is_object() && !has(name)) {
                    wrong(format!("{name} is missing"));
                }
            }
            "type" | "enum" | "minimum" | "maximum" | "minItems" | "uniqueItems" => {}
            // Deeper ones below, as they write faults of their own; patterns are of GUIDs, times and versions.
            "$ref" | "properties" | "additionalProperties" | "items" | "anyOf" | "oneOf" => {}
            "pattern" => assert!(value.is_null(), "{at}: a pattern is not read here: {rule}"),
            other => panic!("{at}: the keyword {other} is not known"),
        }
    }
    if let Some(Value::String(name)) = rules.get("$ref") {
        let place = name.trim_start_matches('#');
        let target = root.pointer(place).expect("what is referred to is there");
        json(root, target, value, at, faults);
    }
    if let Some(items) = rules.get("items") {
        for (n, item) in value.as_array().into_iter().flatten().enumerate() {
            json(root, items, item, &format!("{at}/{n}"), faults);
        }
    }
    let none = Map::new();
    let own = rules.get("properties").and_then(Value::as_object);
    let own = own.unwrap_or(&none);
    for (name, item) in value.as_object().unwrap_or(&none) {
        let inside = format!("{at}/{name}");
        match (own.get(name), rules.get("additionalProperties")) {
            (Some(rule), _) => json(root, rule, item, &inside, faults),
            (None, Some(Value::Bool(false))) => {
                faults.push(format!("{inside}: is not of the schema"))
            }
            (None, Some(rule @ Value::Object(_))) => json(root, rule, item, &inside, faults),
            (None, _) => {}
        }
    }
    for keyword in ["anyOf", "oneOf"] {
        let Some(all) = rules.get(keyword).and_then(Value::as_array) else {
            continue;
        };
        let fits = |rule: &&Value| {
            let mut own = Vec::new();
            json(root, rule, value, at, &mut own);
            own.is_empty()
        };
        let count = all.iter().filter(fits).count();
        if count == 0 || (keyword == "oneOf" && count > 1) {
            faults.push(format!("{at}: fits {count} of {keyword}"));
        }
    }
}

fn is_of(kind: &Value, value: &Value) -> bool {
    match kind {
        Value::Array(kinds) => kinds.iter().any(|kind| is_of(kind, value)),
        kind => match kind.as_str().expect("a type is a word") {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "null" => value.is_null(),
            other => panic!("no such type: {other}"),
        },
    }
}

fn are_unique(value: &Value) -> bool {
    let all = value.as_array().map_or(&[][..], Vec::as_slice);
    (1..all.len()).all(|n| !all[..n].contains(&all[n]))
}
