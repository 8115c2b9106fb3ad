//! The scripts of tools/: what their shared parts promise.
//! Forbidden here: Kamailio, and anything that takes longer than a second.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// One run of a kind of tests, which has so many that pass, in this checkout.
fn run(folder: &std::path::Path, passed: u32) -> Child {
    let script = format!(
        ". tools/parts/say.sh; . tools/parts/test.sh; BUILD=$1
         tests same sh -c 'echo \"test result: ok. {passed} passed; 0 failed; 0 ignored\"; sleep 0.3'; verdict"
    );
    Command::new("bash")
        .args(["-c", &script, "bash"])
        .arg(folder)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("bash runs")
}

#[test]
fn two_test_runs_in_one_checkout_tell_their_own_verdict() {
    let folder =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("t{}", std::process::id()));
    let counts = [3, 5, 8];
    let runs = counts.map(|passed| run(&folder, passed));
    for (passed, run) in counts.into_iter().zip(runs) {
        let output = run.wait_with_output().expect("it ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
        let verdict = format!("{passed} passed, 0 failed, 0 skipped");
        assert!(text.contains(&verdict), "{passed}: {text}");
    }
    std::fs::remove_dir_all(folder).expect("it is ours");
}

#[test]
fn a_part_of_the_benchmarks_that_there_is_none_of_is_told_with_those_that_there_are() {
    let table = include_str!("../benches/table/main.rs");
    let modules = table
        .lines()
        .filter_map(|line| line.trim().strip_prefix("(\""));
    let parts: Vec<&str> = modules.filter_map(|rest| rest.split('"').next()).collect();
    assert!(parts.contains(&"calls"), "{parts:?}");
    let bench = |words: &[&str], variable: &str| {
        let output = Command::new("./dev")
            .arg("bench")
            .args(words)
            .env("MEMGUARD_BENCH", variable)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("dev runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text)
    };
    for (words, variable) in [(&["callz"][..], ""), (&[], "callz"), (&["callz"], "calls")] {
        let (status, text) = bench(words, variable);
        assert_eq!((status, text.lines().count()), (Some(2), 1), "{text}");
        let said = text
            .split_once("the parts are ")
            .map(|(_, list)| list.trim());
        let expected = format!("{} forecast", parts.join(" "));
        assert_eq!(said, Some(&*expected), "{text}");
    }
}
