//! The structure of the house: layers, rooms in one direction, heads, and where `unsafe` and atomics may stand.
//! Forbidden here: taste; each rule is one that a newcomer can read in docs/architecture.md.
//!
//! A failing test prints file, line and the mend.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms of `src/host`; a file may name its own room and those before it.
const ROOMS: [&str; 9] = [
    "kamailio", "net", "memory", "sip", "reports", "commands", "outputs", "sampler", "module",
];
/// These two know nothing of each other, whatever their order.
const APART: [(&str, &str); 1] = [("reports", "sip")];
/// The layers; a file may name its own layer and those before it.
const LAYERS: [&str; 3] = ["guard", "shared", "host"];
/// Where `unsafe` may stand: the C boundary and the mapping.
const UNSAFE: [&str; 2] = ["src/host/", "src/shared/"];
/// The only file that names std's atomics.
const ATOMICS: &str = "src/shared/parts/sync.rs";
/// Where every allocation and every message comes by: no lock of ours.
const UNLOCKED: [&str; 4] = [
    "src/guard/",
    "src/shared/",
    "src/host/memory/",
    "src/host/sip/",
];
/// What std and its crates call what waits for others; `once_cell::unsync` does not.
const LOCKS: [&str; 10] = [
    "Mutex", "RwLock", "Condvar", "Barrier", "Once", "OnceLock", "LazyLock", "mpsc", "RefCell",
    "park",
];
/// Kamailio's lock functions in the shim, each with the only function that may take it.
const SHIM_LOCKS: [(&str, &str); 2] = [
    ("usrloc.lock_udomain(", "int mg_usrloc_contacts("), // the gate, about a binding that the table does not know
    ("rec_lock_get(", "int mg_usrloc_slot("),            // once, the secondary timer
];
/// A circle of imports may not be larger than this.
const LARGEST_CIRCLE: usize = 2;

/// One source file: its module path below the crate, and its text without tests, comments and strings.
struct Source {
    path: PathBuf,
    module: Vec<String>,
    text: String,
    whole: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn gather(folder: &Path, into: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            gather(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// Every file of the library.
fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    for layer in LAYERS {
        gather(&root().join("src").join(layer), &mut paths);
    }
    paths.into_iter().map(read).collect()
}

fn read(path: PathBuf) -> Source {
    let whole = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let inside = path
        .strip_prefix(root().join("src"))
        .expect("below src")
        .with_extension("");
    let mut module: Vec<String> = inside
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    let path = path
        .strip_prefix(root())
        .expect("below the root")
        .to_owned();
    let is_test = |name: &str| name == "tests" || name == "model";
    let text = if module.last().is_some_and(|last| is_test(last)) {
        String::new()
    } else {
        bare(&whole)
    };
    Source {
        path,
        module,
        text,
        whole,
    }
}

/// The code without comments, strings and the test module at its end; lines stay where they are.
fn bare(whole: &str) -> String {
    let code = whole
        .find("\nmod tests {")
        .and_then(|at| whole.get(..at))
        .unwrap_or(whole);
    let without_strings = |line: &str| -> String {
        let mut out = String::new();
        let (mut is_text, mut is_escaped) = (false, false);
        for letter in line.chars() {
            match (is_text, letter) {
                (true, _) if is_escaped => is_escaped = false,
                (true, '\\') => is_escaped = true,
                (_, '"') => is_text = !is_text,
                (false, _) => out.push(letter),
                _ => (),
            }
        }
        out
    };
    code.lines()
        .map(|line| {
            let line = without_strings(line);
            line.split("//").next().unwrap_or_default().to_owned() + "\n"
        })
        .collect()
}

/// One path that a file names, with its line.
struct Named {
    line: usize,
    path: Vec<String>,
}

/// Every path of this crate that a file names: of its `use` lines, groups opened, and of its code.
fn named(source: &Source) -> Vec<Named> {
    let mut found = Vec::new();
    let mut rest = source.text.as_str();
    let mut line = 1;
    while let Some(at) = ["crate::", "super::"]
        .iter()
        .filter_map(|word| rest.find(word))
        .min()
    {
        line += rest[..at].matches('\n').count();
        rest = &rest[at..];
        let end = path_end(rest);
        for path in opened(&rest[..end]) {
            found.push(Named {
                line,
                path: absolute(&source.module, &path),
            });
        }
        line += rest[..end].matches('\n').count();
        rest = &rest[end..];
    }
    found
}

/// Where a path ends, its `{ }` groups included.
fn path_end(text: &str) -> usize {
    let mut depth = 0;
    for (at, letter) in text.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            _ if depth > 0 => (),
            ':' | '_' | '*' => (),
            _ if letter.is_alphanumeric() => (),
            _ => return at,
        }
        if letter == '}' && depth == 0 {
            return at + 1;
        }
    }
    text.len()
}

/// The single paths of `a::{b, c::{d}}`.
fn opened(text: &str) -> Vec<String> {
    let Some((front, inner)) = text.split_once('{') else {
        return vec![text.split_whitespace().collect()];
    };
    let inner = inner.strip_suffix('}').unwrap_or(inner);
    let (mut depth, mut start) = (0, 0);
    let mut parts = Vec::new();
    for (at, letter) in inner.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inner[start..at]);
                start = at + 1;
            }
            _ => (),
        }
    }
    parts.push(&inner[start..]);
    let front = front.trim();
    parts
        .into_iter()
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .flat_map(|part| opened(&format!("{front}{part}")))
        .collect()
}

fn absolute(module: &[String], path: &str) -> Vec<String> {
    let mut parts: Vec<&str> = path
        .split("::")
        .map(|p| p.split(" as ").next().unwrap_or(p))
        .collect();
    let mut base: Vec<String> = Vec::new();
    if parts.first() == Some(&"crate") {
        parts.remove(0);
    } else {
        base = module.to_vec();
        while parts.first() == Some(&"super") {
            parts.remove(0);
            base.pop();
        }
    }
    base.extend(parts.into_iter().map(str::to_owned));
    base
}

fn fail_with(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}\n{}\n", broken.join("\n"));
}

fn place_of(name: &str, order: &[&str]) -> Option<usize> {
    order.iter().position(|room| *room == name)
}

#[test]
fn layers_look_in_one_direction() {
    let mut broken = Vec::new();
    for source in &sources() {
        let own = place_of(&source.module[0], &LAYERS).expect("a layer");
        for name in named(source) {
            let Some(other) = name.path.first().and_then(|l| place_of(l, &LAYERS)) else {
                continue;
            };
            if other > own {
                broken.push(format!(
                    "{}:{}: {} names {}: hand the value in as an argument, or move the decision down",
                    source.path.display(),
                    name.line,
                    LAYERS[own],
                    name.path.join("::")
                ));
            }
        }
    }
    fail_with(
        "host may use shared and guard, shared may use guard, never back:",
        &broken,
    );
}

#[test]
fn rooms_of_host_look_in_one_direction() {
    let mut broken = Vec::new();
    for source in sources().iter().filter(|s| s.module[0] == "host") {
        let Some(room) = source.module.get(1) else {
            continue;
        };
        let own = place_of(room, &ROOMS)
            .unwrap_or_else(|| panic!("{}: {room} is no room of host", source.path.display()));
        for name in named(source) {
            let (Some(layer), Some(other_room)) = (name.path.first(), name.path.get(1)) else {
                continue;
            };
            let Some(other) = place_of(other_room, &ROOMS).filter(|_| layer == "host") else {
                continue;
            };
            let is_apart = APART.contains(&(room.as_str(), other_room.as_str()))
                || APART.contains(&(other_room.as_str(), room.as_str()));
            if other > own || is_apart {
                broken.push(format!(
                    "{}:{}: {room} names {}: move what it needs into {room} or a room before it",
                    source.path.display(),
                    name.line,
                    name.path.join("::")
                ));
            }
        }
    }
    fail_with(
        &format!(
            "rooms may name those before them only: {}",
            ROOMS.join(", ")
        ),
        &broken,
    );
}

#[test]
fn no_circle_of_imports_is_large() {
    let sources = sources();
    let modules: BTreeSet<&[String]> = sources.iter().map(|s| s.module.as_slice()).collect();
    let module_of = |path: &[String]| -> Option<Vec<String>> {
        (1..=path.len())
            .rev()
            .filter_map(|n| path.get(..n))
            .find(|front| modules.contains(front))
            .map(<[String]>::to_vec)
    };
    let mut arrows: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for source in &sources {
        let targets = named(source)
            .into_iter()
            .filter_map(|name| module_of(&name.path))
            // a folder's own mod.rs is its door, no room
            .filter(|target| *target != source.module && !source.module.starts_with(target))
            .collect();
        arrows.insert(source.module.clone(), targets);
    }
    let reach = |from: &Vec<String>| -> BTreeSet<Vec<String>> {
        let mut seen = BTreeSet::new();
        let mut open = vec![from.clone()];
        while let Some(at) = open.pop() {
            for next in arrows.get(&at).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<_, _> = arrows.keys().map(|m| (m.clone(), reach(m))).collect();
    let mut broken = BTreeSet::new();
    for (module, others) in &reached {
        let circle: BTreeSet<String> = others
            .iter()
            .filter(|other| {
                reached
                    .get(*other)
                    .is_some_and(|back| back.contains(module))
            })
            .map(|other| other.join("::"))
            .collect();
        if circle.len() > LARGEST_CIRCLE {
            broken.insert(circle.into_iter().collect::<Vec<_>>().join(", "));
        }
    }
    let broken: Vec<String> = broken.into_iter().collect();
    fail_with(
        "these files know each other in a circle; cut one arrow:",
        &broken,
    );
}

#[test]
fn every_file_says_what_it_is_for_and_what_is_forbidden() {
    let mut broken = Vec::new();
    for source in sources() {
        let head: Vec<&str> = source
            .whole
            .lines()
            .take_while(|line| line.starts_with("//!"))
            .collect();
        if source.module.last().is_none_or(|last| last != "tests")
            && !head.join("\n").contains("Forbidden here:")
        {
            broken.push(format!(
                "{}:1: the head lacks \"Forbidden here:\"",
                source.path.display()
            ));
        }
    }
    fail_with(
        "a file opens with what it is for and what is forbidden there:",
        &broken,
    );
}

#[test]
fn unsafe_and_atomics_stand_where_they_may() {
    let mut broken = Vec::new();
    for source in sources() {
        let path = source.path.to_string_lossy().into_owned();
        let may_unsafe =
            path.starts_with("src/host/") || UNSAFE.iter().any(|front| path.starts_with(front));
        for (number, line) in source.text.lines().enumerate() {
            let at = format!("{path}:{}", number + 1);
            let is_unsafe = line
                .split(|c: char| !(c.is_alphanumeric() || c == '_'))
                .any(|word| word == "unsafe");
            if is_unsafe && !may_unsafe {
                broken.push(format!("{at}: unsafe: guard is safe code only"));
            }
            if line.contains("std::sync::atomic")
                && path != ATOMICS
                && !path.starts_with("src/host/")
            {
                broken.push(format!(
                    "{at}: take atomics from {ATOMICS}, so that loom sees them"
                ));
            }
            if line.trim_start().starts_with("use super::*") {
                broken.push(format!("{at}: use super::*: name what is used"));
            }
        }
    }
    fail_with("unsafe, atomics and globs:", &broken);
}

#[test]
fn no_lock_stands_on_the_way_of_an_allocation_or_a_message() {
    let mut broken = Vec::new();
    for source in sources() {
        let path = source.path.to_string_lossy().into_owned();
        if !UNLOCKED.iter().any(|front| path.starts_with(front)) {
            continue;
        }
        for (number, line) in source.text.lines().enumerate() {
            let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
            if let Some(word) = words.find(|word| LOCKS.contains(word)) {
                broken.push(format!("{path}:{}: {word}: others would wait", number + 1));
            }
        }
    }
    let shim = fs::read_to_string(root().join("c_shim/shim.c")).expect("it is there");
    let mut function = "";
    for (number, line) in shim.lines().enumerate() {
        if line.starts_with(|c: char| c.is_alphabetic()) {
            function = line;
        }
        let takes =
            line.contains("lock_get(") || line.contains("lock_udomain(") || line.contains("lock(&");
        let is_known = |(lock, by): &(&str, &str)| line.contains(lock) && function.starts_with(by);
        let gives_back = line.contains("unlock");
        if takes && !gives_back && !SHIM_LOCKS.iter().any(is_known) {
            broken.push(format!("c_shim/shim.c:{}: {}", number + 1, line.trim()));
        }
    }
    fail_with("locks:", &broken);
}

#[test]
fn a_wrong_arrow_would_be_seen() {
    let planted = Source {
        path: PathBuf::from("src/host/memory/planted.rs"),
        module: ["host", "memory", "planted"].map(str::to_owned).to_vec(),
        text: bare(
            "use crate::guard::terms;\nuse crate::host::{\n    sip::{gate, learn::{self, end}},\n    kamailio::sys,\n};\nfn f() { super::super::sampler::tick() }\n",
        ),
        whole: String::new(),
    };
    let found: Vec<String> = named(&planted)
        .iter()
        .map(|name| format!("{} {}", name.line, name.path.join("::")))
        .collect();
    let wanted = [
        "1 guard::terms",
        "2 host::sip::gate",
        "2 host::sip::learn::self",
        "2 host::sip::learn::end",
        "2 host::kamailio::sys",
        "6 host::sampler::tick",
    ];
    assert_eq!(found, wanted);
}
