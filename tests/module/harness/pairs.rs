//! On which Kamailio and which memory manager a test runs, and how it says that it cannot.
//! Forbidden here: starting anything.

use std::io::Write;
use std::path::PathBuf;

/// One prepared version of Kamailio: a line of the table that `./dev` writes.
#[derive(Clone, Debug)]
pub struct Kamailio {
    pub version: String,
    pub program: PathBuf,
    pub kamcmd: PathBuf,
    pub sipp: PathBuf,
    pub modules: PathBuf,
    /// memguard.so for this version; `None` where it could not be built.
    pub memguard: Option<PathBuf>,
    /// The test module in C (tests/module/leaky).
    pub mgtest: PathBuf,
}

impl Kamailio {
    /// Another program of the folder in which kamailio's wrapper is.
    pub fn sibling(&self, name: &str) -> PathBuf {
        self.program.with_file_name(name)
    }

    /// What it calls itself, "kamailio 6.0.1 (x86_64/linux)": the name of a pair says more of an own compile, "6.0.1-make".
    pub fn said_version(&self) -> String {
        let bytes = std::fs::read(self.modules.join("pv.so")).expect("Kamailio has a module pv");
        let strings = memguard::fit::Strings::of(&bytes).expect("pv.so is a module");
        let identity = strings.identity().expect("its version can be read");
        format!("{} {}", identity.name, identity.version)
    }

    /// Its three numbers, of "5.8.8", "6.1.5-sid" and "6.2.0-dev1".
    #[track_caller]
    pub fn release(&self) -> (u32, u32, u32) {
        let release = self.version.split('-').next().unwrap_or_default();
        let numbers: Vec<u32> = release.split('.').filter_map(|n| n.parse().ok()).collect();
        match numbers[..] {
            [major, minor, patch] => (major, minor, patch),
            _ => panic!("a version of three numbers: {release}"),
        }
    }

    /// Its core's function that allocates an xavp (core/xavp.c): since 6.1 another one, which this one calls.
    pub fn xavp_maker(&self) -> &'static str {
        if self.release() < (6, 1, 0) {
            "xavp_new_value"
        } else {
            "xavp_new_value_mode"
        }
    }

    fn from_line(line: &str) -> Option<Kamailio> {
        let mut fields = line.split('\t').map(str::to_owned);
        let kamailio = Kamailio {
            version: fields.next().filter(|version| !version.starts_with('#'))?,
            program: fields.next()?.into(),
            kamcmd: fields.next()?.into(),
            sipp: fields.next()?.into(),
            modules: fields.next()?.into(),
            memguard: fields.next().filter(|path| path != "-").map(PathBuf::from),
            mgtest: fields.next()?.into(),
        };
        Some(kamailio)
    }
}

/// A version of Kamailio and a memory manager (`qm`, `fm` or `tlsf`) for pkg and shm.
#[derive(Clone, Debug)]
pub struct Pair {
    pub kamailio: Kamailio,
    pub manager: String,
}

/// Runs `test` on each pair of `MEMGUARD_PAIRS` ("5.6.3:qm,6.0.1:fm"); a pair that is not there is a skip, or a
/// failure where skipping is not allowed (`MEMGUARD_REQUIRE=1`, `CI=true`).
#[track_caller]
pub fn for_each_pair(test: impl Fn(&Pair)) {
    for pair in wanted() {
        println!("-- on {}:{}", pair.kamailio.version, pair.manager);
        test(&pair);
    }
}

/// Pairs of a test that are under way together: as many as the suite has. Six servers that start at once on two cores are
/// still starting when a test thinks that they are at rest.
const AT_ONCE: usize = 2;

/// As [`for_each_pair`], [`AT_ONCE`] pairs at the same time: for tests that mostly wait.
#[track_caller]
pub fn for_each_pair_at_once(test: impl Fn(&Pair) + Sync) {
    for together in wanted().chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let test = &test;
            for pair in together {
                scope.spawn(move || {
                    println!("-- on {}:{}", pair.kamailio.version, pair.manager);
                    test(pair);
                });
            }
        });
    }
}

#[track_caller]
fn wanted() -> Vec<Pair> {
    let wanted = std::env::var("MEMGUARD_PAIRS").unwrap_or_default();
    if wanted.is_empty() {
        skip("no Kamailio was prepared: run ./dev test module");
        return Vec::new();
    }
    let prepared = prepared();
    let pair = |word: &str| {
        let (version, manager) = word
            .split_once(':')
            .expect("MEMGUARD_PAIRS is VERSION:MANAGER,…");
        let kamailio = prepared.iter().find(|k| k.version == version).cloned();
        if kamailio.is_none() {
            skip(&format!("Kamailio {version} was not prepared"));
        }
        Some(Pair {
            kamailio: kamailio?,
            manager: manager.to_owned(),
        })
    };
    wanted.split(',').filter_map(pair).collect()
}

fn prepared() -> Vec<Kamailio> {
    let table = std::env::var("MEMGUARD_KAMAILIOS").unwrap_or_default();
    let text = std::fs::read_to_string(table).unwrap_or_default();
    text.lines().filter_map(Kamailio::from_line).collect()
}

/// Says that this test cannot run here, and why; `./dev` counts it.
#[track_caller]
pub fn skip(reason: &str) {
    let is_set = |name: &str, value: &str| std::env::var(name).is_ok_and(|v| v == value);
    assert!(
        !is_set("MEMGUARD_REQUIRE", "1") && !is_set("CI", "true"),
        "skipping is not allowed: {reason}"
    );
    let thread = std::thread::current();
    let line = format!("{}: {reason}\n", thread.name().unwrap_or("a test"));
    print!("SKIP: {line}");
    if let Ok(path) = std::env::var("MEMGUARD_SKIPS") {
        let file = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .expect("the list of skips is writable");
    }
}
