//! The black box without a server: what one run writes the next one and the reader find again, whatever happens between.
//!
//! * What was written is read back; a run without an end was killed, one with an end says how it ended.
//! * A new run keeps the former ones; short runs give way before long ones, and the last one is never overwritten.
//! * A file that is none of ours, or of another size, is renamed aside as it is.
//! * A path that can never work is told from a trouble of the moment.
//! * However a file is cut or changed, the reader answers: runs it is sure of, or one sentence; never a panic, and
//!   never a record that was not written.
//!
//! Forbidden here: Kamailio (tests/module/blackbox.rs).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use memguard::guard::decide::track::{Track, Values};
use memguard::guard::formats::blackbox::{
    format::{self, FILE_BYTES, Ring},
    reading::{self, Fate, Run},
    sentence::sentence,
    story::{self, Scene},
};
use memguard::guard::terms::{
    event::{Event, Reason},
    words::{Level, Pool},
};
use memguard::shared::files::blackbox::{self, Opened, Trouble};
use proptest::prelude::*;
use serde_json::json;

const START: u64 = 1_795_226_700;
const MIB: u64 = 1 << 20;

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("blackbox-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("the folder for temporary files is writable");
        Folder(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("box")
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("our folder").flatten();
        let mut names: Vec<_> = entries
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn identity(start_s: u64) -> String {
    json!({
        "start_ms": start_s * 1000, "boot": "one", "host": "sip1", "pid": 1, "version": "0.1.0",
        "kamailio": "kamailio 5.6.3 (x86_64/linux)", "shm_size": 64 * MIB, "pkg_size": 8 * MIB,
    })
    .to_string()
}

fn values(shm: u64, level: Level) -> Values {
    let mut values = [0; Track::COUNT];
    values[Track::ShmUsed.index()] = shm;
    values[Track::PkgUsed.index()] = MIB;
    values[Track::Headroom.index()] = 64 * MIB - shm;
    values[Track::Level.index()] = level.index() as u64;
    values[Track::Rejected.index()] = shm / MIB;
    values
}

fn payload(time_s: u64, values: &Values) -> Vec<u64> {
    std::iter::once(time_s).chain(*values).collect()
}

fn open(path: &Path, start_s: u64) -> Opened {
    match blackbox::open(path, &identity(start_s), start_s, None) {
        Ok(opened) => opened,
        Err(trouble) => panic!("{trouble:?}"),
    }
}

fn view(time: u64, why: &str) -> String {
    json!({
        "time": time, "why": why,
        "status": { "level": "emergency", "mode": "enforce", "tightest": "shm", "cause": "leak", "confidence": "high",
            "explanation": "one place holds more and more" },
        "pools": [{ "name": "os", "size": 4096 * MIB }],
        "sites": [
            { "pool": "pkg", "module": "core", "file": "a.c", "line": 1, "function": "small", "live_bytes": 9, "growth": 0.0 },
            { "pool": "shm", "module": "leaky", "file": "leaky.c", "line": 42, "function": "forgets",
              "live_bytes": 41 * MIB, "growth": 2000.0 },
        ],
        "failures": [{ "pool": "shm", "module": "tm", "file": "h.c", "line": 7, "function": "build", "size_max": 900,
            "count": 3, "first": time, "last": time }],
        "workers": [{ "index": 4, "pkg_real_used": MIB, "private": MIB, "leak": "none", "desc": "udp \u{1b}[31m receiver" }],
        "registrations": { "new_rejected": 50, "returning_rejected": 8 },
    })
    .to_string()
}

/// A run that leaks for `seconds`, and its level changes; nothing of an end.
fn leaking(path: &Path, start_s: u64, seconds: u64) -> Opened {
    let mut opened = open(path, start_s);
    let writer = &mut opened.writer;
    for second in 1..=seconds {
        let shm = 6 * MIB + 57 * MIB * second / seconds;
        let level = if shm > 50 * MIB {
            Level::Emergency
        } else {
            Level::Normal
        };
        let time = start_s + second;
        writer
            .put(Ring::Seconds, &payload(time, &values(shm, level)))
            .expect("written");
        if second % 60 == 0 {
            writer
                .put(Ring::Minutes, &payload(time, &values(shm, level)))
                .expect("written");
        }
        if second == seconds * 4 / 5 {
            let event = Event {
                time_ms: time * 1000,
                from: Level::Normal,
                to: Level::Emergency,
                pool: Pool::Shm,
                worker: None,
                percent: 97,
                reason: Reason::Memory,
            };
            writer.put(Ring::Events, &event.pack()).expect("written");
            writer
                .put_text(Ring::Views, time, &view(time, "level"))
                .expect("written");
        }
    }
    let last = start_s + seconds;
    writer
        .put_text(Ring::Latest, last, &view(last, "latest"))
        .expect("written");
    opened
}

fn read(path: &Path) -> Vec<Run> {
    reading::read(&fs::read(path).expect("the file"))
        .expect("runs")
        .runs
}

fn program(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_memguard-blackbox"))
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .expect("memguard-blackbox runs")
}

#[test]
fn a_killed_run_tells_when_why_who_and_its_last_values() {
    let folder = Folder::new("killed");
    let opened = leaking(&folder.file(), START, 5400);
    let file = folder.file();
    let name = file.to_str().expect("a name");
    let running = program(&[name]);
    let said = String::from_utf8_lossy(&running.stdout).into_owned();
    assert!(
        said.contains("it runs now") && said.contains("Now: level EMERGENCY"),
        "{said}"
    );
    drop(opened);
    let told = program(&[name]);
    let said = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.status.success() && told.stderr.is_empty(), "{told:?}");
    let mut at = 0;
    for words in [
        "1 run of the server",
        "RUN 1: 2026-11-21 02:05, 1h 30m: ",
        "How: no shutdown was written",
        "sip1, kamailio 5.6.3 (x86_64/linux), memguard 0.1.0",
        "At the end: level EMERGENCY; shm 98.4 % of 64.0 MiB used, 1.0 MiB left.",
        "Why: one place holds more and more (confidence high).",
        "Who: leaky leaky.c:42 forgets, 41.0 MiB held, +6.9 MiB/h.",
        "Refused since the start: 63 registrations.",
        "shm used, 1h 29m",
        "100 % |",
        "▁",
        "When the level changed",
        "03:17:00  normal    -> emergency  shm at 97 %",
        "cause leak; leaky leaky.c:42 forgets: 41.0 MiB, +6.9 MiB/h",
        "Who held memory",
        "Allocations that failed",
        "3 x, up to 900 B",
        "udp ?[31m receiver",
        "The last seconds",
        "03:35:00  emergency  98.4 %",
    ] {
        at += said[at..]
            .find(words)
            .unwrap_or_else(|| panic!("no \"{words}\" (in this order) in {said}"));
    }
    assert!(
        said.lines().all(|line| line.chars().count() <= 120),
        "{said}"
    );
    let run = &read(&file)[0];
    assert_eq!(
        (run.seconds.len(), run.minutes.len(), run.torn),
        (3600, 90, 0)
    );
    assert!(matches!(
        run.fate(false, Some("one")),
        Fate::Killed | Fate::MachineDown
    ));
    let plain = story::tell(
        &reading::read(&fs::read(&file).expect("the file")).expect("runs"),
        &Scene {
            is_plain: true,
            ..Scene::default()
        },
    );
    assert!(plain.is_ascii(), "{plain}");
}

#[test]
fn json_holds_what_was_recorded() {
    let folder = Folder::new("json");
    drop(leaking(&folder.file(), START, 100));
    let output = program(&["--json", folder.file().to_str().expect("a name")]);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let run = &found["runs"][0];
    assert_eq!(run["seconds"]["time"].as_array().map(Vec::len), Some(100));
    assert_eq!(run["seconds"]["shm_used"][99], 63 * MIB);
    assert_eq!(run["events"][0]["to"], "emergency");
    assert_eq!(run["views"][1]["sites"][1]["function"], "forgets");
    assert_eq!(
        (&run["fate"], &run["end"]),
        (&json!("machine_down"), &json!(null)),
        "this machine's boot is another"
    );
}

#[test]
fn an_end_that_was_written_is_told() {
    let folder = Folder::new("ends");
    for (how, who, fate) in [
        ("stopped", None, Fate::Stopped),
        (
            "process_died",
            Some("process 4 (pid 77, udp receiver)"),
            Fate::ProcessDied,
        ),
        ("main_vanished", None, Fate::MainVanished),
    ] {
        let mut opened = leaking(&folder.file(), START, 60);
        let end = json!({ "time": START + 61, "how": how, "who": who }).to_string();
        opened
            .writer
            .put_text(Ring::End, START + 61, &end)
            .expect("written");
        drop(opened);
        let runs = read(&folder.file());
        let run = runs.last().expect("a run");
        assert_eq!(
            (run.fate(false, Some("two")), run.last_s()),
            (fate, START + 61)
        );
        let said = program(&[folder.file().to_str().expect("a name")]);
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.contains(who.unwrap_or("RUN")), "{said}");
        let sentence = sentence(run, None).expect("it was no good end");
        assert!(
            sentence.contains("at level emergency, shm at 98.4 %"),
            "{sentence}"
        );
    }
    assert_eq!(read(&folder.file()).len(), 3);
}

#[test]
fn new_runs_keep_the_long_ones_and_the_last_one() {
    let folder = Folder::new("runs");
    let numbers = || -> Vec<u64> { read(&folder.file()).iter().map(|run| run.number).collect() };
    drop(leaking(&folder.file(), START, 3000)); // 1: long
    for run in 2..=9 {
        drop(leaking(&folder.file(), START + run * 10_000, 20)); // a server that dies again and again
        let kept = numbers();
        assert!(
            kept.contains(&1) && kept.contains(&run) && (run < 3 || kept.contains(&(run - 1))),
            "{kept:?}"
        );
    }
    assert_eq!(numbers().len(), format::RUNS);
    for run in 10..=13 {
        drop(leaking(&folder.file(), START + run * 10_000, 700));
    }
    assert_eq!(
        numbers(),
        [10, 11, 12, 13],
        "of long runs the oldest gives way"
    );
    drop(leaking(&folder.file(), START + 800_000, 20));
    let before = open(&folder.file(), START + 900_000).before;
    assert_eq!(before.last().map(|run| run.number), Some(14));
    assert_eq!(before.first().map(|run| run.seconds.len()), Some(700));
    assert_eq!(
        numbers(),
        [12, 13, 14, 15],
        "the last run stays, short as it was"
    );
}

#[test]
fn a_section_taken_over_shows_nothing_of_the_run_before() {
    let folder = Folder::new("over");
    (0..4).for_each(|run| drop(leaking(&folder.file(), START + run * 10_000, 700)));
    drop(open(&folder.file(), START + 90_000));
    let runs = read(&folder.file());
    let new = runs
        .iter()
        .find(|run| run.number == 5)
        .expect("the new run");
    assert_eq!(
        (
            new.seconds.len(),
            new.events.len(),
            new.views.len(),
            new.torn
        ),
        (0, 0, 0, 0)
    );
}

#[test]
fn what_is_no_black_box_is_kept_aside_as_it_is() {
    let folder = Folder::new("aside");
    let foreign = b"my only copy of something\n".to_vec();
    let cut = {
        drop(open(&folder.file(), START));
        let mut bytes = fs::read(folder.file()).expect("the file");
        bytes.truncate(FILE_BYTES - 1);
        bytes
    };
    for (number, content) in [foreign, cut].iter().enumerate() {
        fs::write(folder.file(), content).expect("written");
        let opened = open(&folder.file(), START);
        let (to, reason) = opened.aside.expect("it was renamed");
        assert_eq!(&fs::read(&to).expect("it is there"), content, "{reason}");
        let name = to.file_name().and_then(|n| n.to_str()).expect("a name");
        let expected = ["box.aside-1795226700", "box.aside-1795226700-1"][number];
        assert_eq!(name, expected);
        assert_eq!(
            fs::metadata(folder.file()).expect("a new one").len(),
            FILE_BYTES as u64
        );
    }
    assert_eq!(folder.names().len(), 3);
    fs::write(folder.file(), b"").expect("written");
    assert!(
        open(&folder.file(), START).aside.is_none(),
        "an empty file is nobody's"
    );
}

#[test]
fn a_path_that_can_never_work_is_told_from_a_trouble_of_the_moment() {
    let folder = Folder::new("paths");
    symlink(folder.0.join("elsewhere"), folder.0.join("link")).expect("a link");
    let trouble = |path: &Path| {
        blackbox::open(path, "{}", START, None)
            .map(|_| ())
            .expect_err("it cannot work")
    };
    for path in [
        folder.0.clone(),
        folder.0.join("no/such/folder"),
        folder.0.join("link"),
        "/dev/null".into(),
    ] {
        match trouble(&path) {
            Trouble::Path(said) => assert!(said.starts_with("parameter blackbox: "), "{said}"),
            other => panic!("{}: {other:?}", path.display()),
        }
    }
    assert!(matches!(trouble(Path::new("/dev/full")), Trouble::Path(_)));
    let held = open(&folder.file(), START);
    match trouble(&folder.file()) {
        Trouble::Now(said) => assert!(said.contains("is in use"), "{said}"),
        other => panic!("{other:?}"),
    }
    drop(held);
    drop(open(&folder.file(), START));
}

#[test]
fn a_file_that_is_cut_while_it_is_written_is_an_error_at_most() {
    let folder = Folder::new("cut");
    let mut opened = leaking(&folder.file(), START, 60);
    fs::OpenOptions::new()
        .write(true)
        .open(folder.file())
        .expect("ours")
        .set_len(0)
        .expect("cut");
    for second in 0..100 {
        let _ = opened.writer.put(
            Ring::Seconds,
            &payload(START + second, &values(MIB, Level::Normal)),
        );
    }
    drop(opened);
    let bytes = fs::read(folder.file()).expect("the file");
    let said = reading::read(&bytes).expect_err("its identity is gone");
    assert!(!said.is_empty() && !said.contains('\n'), "{said}");
}

#[test]
fn the_program_says_in_one_sentence_what_it_cannot_read() {
    let folder = Folder::new("said");
    let file = folder.file();
    let name = file.to_str().expect("a name");
    let mut other = format::head();
    other[8] = 9;
    for (content, status, part) in [
        (None, 1, "No such file"),
        (Some(vec![]), 1, "it is empty"),
        (
            Some(b"hello\n".to_vec()),
            1,
            "it is not a black box of memguard",
        ),
        (
            Some(vec![0; FILE_BYTES]),
            1,
            "it is not a black box of memguard",
        ),
        (Some(format::head()), 1, "too damaged: no run can be read"),
    ] {
        if let Some(content) = &content {
            fs::write(&file, content).expect("written");
        }
        let output = program(&[name]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{said}");
        assert!(
            said.contains(part) && said.lines().count() == 1 && output.stdout.is_empty(),
            "{said}"
        );
    }
    assert_eq!(program(&[]).status.code(), Some(2));
    assert_eq!(program(&["--what", name]).status.code(), Some(2));
    assert_eq!(program(&["--help"]).status.code(), Some(0));
}

#[test]
fn a_file_that_lost_its_head_or_its_tail_still_tells_its_runs() {
    let folder = Folder::new("damaged");
    (0..3).for_each(|run| drop(leaking(&folder.file(), START + run * 10_000, 300)));
    let whole = fs::read(folder.file()).expect("the file");
    let mut headless = whole.clone();
    headless[..64].fill(0x55);
    let found = reading::read(&headless).expect("the runs are there");
    assert_eq!((found.runs.len(), found.complaints.len()), (3, 1));
    assert!(found.complaints[0].contains("head of the file is damaged"));

    let third = format::section_place(2);
    let found =
        reading::read(&whole[..third + 4096 + 4096 + 96 * 50]).expect("the runs before the cut");
    assert_eq!(
        found.runs.len(),
        3,
        "the third one's identity is before the cut"
    );
    assert!(
        (40..=50).contains(&found.runs[2].seconds.len()),
        "{}",
        found.runs[2].seconds.len()
    );
    assert!(
        found.complaints[0].contains("the file is cut off"),
        "{:?}",
        found.complaints
    );
    assert_eq!(reading::read(&whole[..third]).expect("two").runs.len(), 2);
}

fn sample() -> &'static [u8] {
    static SAMPLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    SAMPLE.get_or_init(|| {
        let folder = Folder::new("sample");
        (0..2).for_each(|run| drop(leaking(&folder.file(), START + run * 10_000, 200)));
        fs::read(folder.file()).expect("the file")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Bytes are overwritten in the parts that hold something, pieces are moved, the end is cut: no panic, and what is
    /// told was written.
    #[test]
    fn a_mutated_file_never_tells_what_was_not_written(
        flips in proptest::collection::vec((0..2usize, 0..60_000usize, any::<u8>()), 0..40),
        moved in proptest::option::of((0..60_000usize, 0..60_000usize, 1..9000usize)),
        cut in proptest::option::of(0..FILE_BYTES),
    ) {
        let mut bytes = sample().to_vec();
        for (section, at, byte) in &flips {
            bytes[format::section_place(*section) + at] = *byte;
        }
        if let Some((from, to, length)) = moved {
            let piece = bytes[from..from + length].to_vec();
            let to = format::section_place(1) + to;
            bytes[to..to + length].copy_from_slice(&piece);
        }
        bytes.truncate(cut.unwrap_or(FILE_BYTES));
        match reading::read(&bytes) {
            Err(said) => prop_assert!(!said.is_empty() && !said.contains('\n')),
            Ok(found) => {
                for run in &found.runs {
                    prop_assert!(run.number == 1 || run.number == 2);
                    let start = START + (run.number - 1) * 10_000;
                    for (time, values) in &run.seconds {
                        let second = time - start;
                        prop_assert_eq!(values[0], 6 * MIB + 57 * MIB * second / 200);
                    }
                }
                let scene = Scene::default();
                prop_assert!(story::tell(&found, &scene).contains("RUN "));
                prop_assert!(story::json(&found, &scene)["runs"].is_array());
            }
        }
    }

    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..20_000)) {
        prop_assert!(reading::read(&bytes).is_err());
    }

    /// A view is JSON of whoever wrote it: whatever its shape, it is told without a panic or a control character.
    #[test]
    fn views_of_any_shape_are_told(text in "(\\PC|[\\x00-\\x1f\"{}\\[\\]:,0-9a-z]){0,80}", number in any::<f64>(), name in "[a-z]{1,12}") {
        let odd = json!({ name.clone(): text, "status": { "cause": text, "tightest": number, "explanation": [number] },
            "sites": [{ "pool": text, "growth": number, "live_bytes": text }, number], "pools": text,
            "workers": [text], "failures": [[number]], "registrations": number, "why": "level", "time": number });
        let mut run = Run { number: 1, identity: json!({ "start_ms": number, "shm_size": text }), views: vec![odd], ..Run::default() };
        run.seconds = vec![(u64::MAX, [u64::MAX; Track::COUNT]), (0, [0; Track::COUNT])];
        run.minutes = run.seconds.clone();
        let found = reading::BlackBox { runs: vec![run], complaints: vec![] };
        let said = story::tell(&found, &Scene::default());
        prop_assert!(said.chars().all(|c| c == '\n' || !c.is_control()), "{:?}", said);
    }
}
