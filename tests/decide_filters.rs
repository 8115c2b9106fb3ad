//! Facts about the arguments of RPC commands.
//!
//! * What the contract lists is accepted, filters in any order and each once.
//! * Everything else is one sentence that says what is accepted.

use memguard::guard::config::filters::*;
use memguard::guard::terms::words::{Mode, Pool};
use proptest::prelude::*;

#[test]
fn workers_are_chosen_in_one_way_at_a_time() {
    assert_eq!(workers(&[]), Ok(Workers::All));
    assert_eq!(workers(&["pid", "4711"]), Ok(Workers::Pid(4711)));
    assert_eq!(workers(&["rank", "-4"]), Ok(Workers::Rank(-4)));
    assert_eq!(workers(&["index", "0"]), Ok(Workers::Index(0)));
    assert_eq!(workers(&["leaking"]), Ok(Workers::Leaking));
    assert_eq!(workers(&["top", "5"]), Ok(Workers::Top(5)));
    for bad in [
        &["pid"][..],
        &["pid", "0"],
        &["pid", "x"],
        &["index", "-1"],
        &["top", "0"],
        &["leaking", "top"],
    ] {
        let said = workers(bad).unwrap_err();
        assert!(
            said.contains("pid N, rank N, index N, leaking, or top N"),
            "{said}"
        );
    }
}

#[test]
fn sites_are_narrowed_in_any_order() {
    let found = sites(&[
        "top", "20", "by", "growth", "pool", "shm", "module", "usrloc", "worker", "3",
    ]);
    let expected = Sites {
        pool: Some(Pool::Shm),
        worker: Some(3),
        module: Some("usrloc"),
        by: Some(By::Growth),
        top: Some(20),
        from: None,
    };
    assert_eq!(found, Ok(expected));
    assert_eq!(sites(&[]), Ok(Sites::default()));
    let by_live = Sites {
        by: Some(By::Live),
        ..Sites::default()
    };
    assert_eq!(
        sites(&["by", "live"]),
        Ok(by_live),
        "not the order without a word"
    );
    assert_eq!(
        sites(&["module", "pkg"]).unwrap().module,
        Some("pkg"),
        "a value is no filter"
    );
}

#[test]
fn a_filter_is_refused_when_it_is_unknown_incomplete_or_given_twice() {
    for bad in [
        &["pool", "os"][..],
        &["pool"],
        &["by", "size"],
        &["worker", "-1"],
        &["top", "0"],
        &["pool", "shm", "pool", "shm"],
        &["pool", "shm", "pkg"],
        &["by", "live", "by", "live"],
        &["sort", "live"],
        &[""],
    ] {
        let said = sites(bad).unwrap_err();
        assert!(
            said.starts_with("memguard.sites accepts pool shm or pkg"),
            "{bad:?}: {said}"
        );
    }
}

#[test]
fn places_are_ordered_by_each_of_the_four() {
    for (word, order) in [
        ("live", By::Live),
        ("growth", By::Growth),
        ("failures", By::Failures),
        ("drift", By::Drift),
    ] {
        assert_eq!(sites(&["by", word]).unwrap().by, Some(order));
    }
}

#[test]
fn each_list_knows_only_its_own_filters() {
    assert!(
        modules(&["module", "tm"])
            .unwrap_err()
            .starts_with("memguard.modules accepts")
    );
    assert!(modules(&["worker", "1", "pool", "pkg"]).is_ok());
    assert!(
        paths(&["by", "growth"])
            .unwrap_err()
            .starts_with("memguard.paths accepts")
    );
    assert_eq!(paths(&["module", "tm", "top", "9"]).unwrap().top, Some(9));
    assert_eq!(profile(&["shm"]).unwrap().pool, Some(Pool::Shm));
    assert_eq!(profile(&["worker", "2", "pkg"]).unwrap().worker, Some(2));
    for filter in ["top", "from"] {
        assert!(
            profile(&[filter, "2"])
                .unwrap_err()
                .starts_with("memguard.profile accepts")
        );
    }
    let paged = sites(&["from", "40", "top", "20"]).unwrap();
    assert_eq!((paged.from, paged.top), (Some(40), Some(20)));
}

#[test]
fn events_and_refusals_take_how_many() {
    assert_eq!(events(&[]), Ok(None));
    assert_eq!(refusals(&["7"]), Ok(Some(7)));
    assert!(
        events(&["0"])
            .unwrap_err()
            .starts_with("memguard.events accepts")
    );
    assert!(
        refusals(&["1", "2"])
            .unwrap_err()
            .starts_with("memguard.refusals accepts")
    );
}

#[test]
fn single_words_and_numbers_are_held_to_their_sets() {
    assert_eq!(mode(&["observe"]), Ok(Some(Mode::Observe)));
    assert_eq!(mode(&[]), Ok(None));
    assert!(
        mode(&["Enforce"])
            .unwrap_err()
            .contains("enforce, observe or off")
    );
    assert_eq!(shed(&["86400"]), Ok(86_400));
    for bad in [&[][..], &["0"], &["86401"], &["-1"], &["60", "s"]] {
        assert!(shed(bad).unwrap_err().contains("1 to 86400"), "{bad:?}");
    }
    let resets = ["peaks", "baseline", "failures", "queue"].map(|word| reset(&[word]));
    let all = [Reset::Peaks, Reset::Baseline, Reset::Failures, Reset::Queue];
    assert_eq!(resets, all.map(Ok));
    assert!(
        reset(&[])
            .unwrap_err()
            .contains("peaks, baseline, failures or queue")
    );
    assert_eq!(forecast(&[]), Ok(None));
    assert_eq!(mark(&[]), Ok(None));
    assert_eq!(forecast(&["os"]), Ok(Some(Pool::Os)));
    assert!(forecast(&["all"]).unwrap_err().contains("shm, pkg or os"));
}

#[test]
fn drain_asks_begins_or_ends_and_is_held_to_a_day() {
    assert_eq!(drain(&[]), Ok(None));
    assert_eq!(drain(&["0"]), Ok(Some(0)));
    assert_eq!(drain(&["600"]), Ok(Some(600)));
    assert_eq!(drain(&["86400"]), Ok(Some(86_400)));
    for bad in [&["86401"][..], &["-1"], &["x"], &["60", "s"]] {
        assert!(drain(bad).unwrap_err().contains("0 (end it) to 86400"));
    }
}

#[test]
fn learn_takes_one_whole_path() {
    assert_eq!(learn(&["/var/b"]), Ok("/var/b"));
    for bad in [&[][..], &["b"], &["./b"], &[""], &["/a", "/b"]] {
        assert!(learn(bad).unwrap_err().contains("whole path"), "{bad:?}");
    }
}

#[test]
fn fault_takes_a_worker_and_a_number_or_only_asks() {
    assert_eq!(fault(&[]), Ok(None));
    assert_eq!(fault(&["3", "0"]), Ok(Some((3, 0))));
    for bad in [&["3"][..], &["3", "x"], &["x", "3"], &["1", "2", "3"]] {
        assert!(fault(bad).unwrap_err().contains("0 for none"), "{bad:?}");
    }
}

#[test]
fn history_takes_points_and_step_by_place_or_by_name() {
    let expected = |points, step_s| {
        Ok(History {
            name: "shm",
            points,
            step_s,
        })
    };
    assert_eq!(history(&["shm"]), expected(None, None));
    assert_eq!(history(&["shm", "60"]), expected(Some(60), None));
    assert_eq!(history(&["shm", "60", "10"]), expected(Some(60), Some(10)));
    assert_eq!(history(&["shm", "points", "60"]), expected(Some(60), None));
    assert_eq!(history(&["shm", "step", "10"]), expected(None, Some(10)));
    for both in [
        ["step", "10", "points", "60"],
        ["points", "60", "step", "10"],
    ] {
        let [a, b, c, d] = both;
        assert_eq!(history(&["shm", a, b, c, d]), expected(Some(60), Some(10)));
    }
    for bad in [
        &[][..],
        &["shm", "0"],
        &["shm", "1", "2", "3"],
        &["shm", "step", "x"],
    ] {
        assert!(
            history(bad)
                .unwrap_err()
                .contains("name of a series (shm_used, pkg_used, "),
            "{bad:?}"
        );
    }
}

#[test]
fn marks_have_plain_names_and_diff_tells_a_name_from_a_filter() {
    assert_eq!(
        mark(&["before-upgrade_1.2"]),
        Ok(Some("before-upgrade_1.2"))
    );
    for bad in ["", "a b", "top", "\"x\"", &"n".repeat(33)] {
        assert!(mark(&[bad]).is_err(), "{bad:?}");
    }
    let top = |name, top| Ok(Diff { name, top });
    assert_eq!(diff(&["top", "5"]), top(None, Some(5)));
    assert_eq!(diff(&["base", "top", "5"]), top(Some("base"), Some(5)));
    assert_eq!(diff(&["base"]), top(Some("base"), None));
    assert_eq!(diff(&[]), Ok(Diff::default()));
    for bad in [
        &["base", "5"][..],
        &["a b"],
        &["top"],
        &["a b", "top", "5"],
        &["base", "top", "0"],
        &["top", "x"],
    ] {
        assert!(diff(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn check_takes_ascending_percents_and_descending_seconds() {
    let found = check(&["80", "90", "86400", "3600"]).unwrap();
    assert_eq!(
        (found.pct, found.seconds),
        (Some((80, 90)), Some((86_400, 3_600)))
    );
    assert_eq!(check(&[]), Ok(Check::default()));
    // Both alike, and the outermost of what is accepted.
    assert_eq!(check(&["1", "1"]).unwrap().pct, Some((1, 1)));
    assert_eq!(
        check(&["100", "100", "9", "9"]).unwrap().seconds,
        Some((9, 9))
    );
    for bad in [
        &["80"][..],
        &["90", "80"],
        &["80", "101"],
        &["0", "9"],
        &["80", "90", "1", "2"],
        &["a", "b"],
    ] {
        assert!(
            check(bad)
                .unwrap_err()
                .starts_with("memguard.check accepts"),
            "{bad:?}"
        );
    }
}

proptest! {
    #[test]
    fn no_words_make_a_parser_panic_and_every_error_names_its_command(
        words in prop::collection::vec(
            "pool|shm|pkg|worker|module|by|live|top|pid|rank|list|add|aor|step|points|-?[0-9]{1,20}|\\PC{0,9}", 0..7),
    ) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let errors = [
            ("workers", workers(&words).err()), ("sites", sites(&words).err()), ("modules", modules(&words).err()),
            ("paths", paths(&words).err()), ("profile", profile(&words).err()), ("events", events(&words).err()),
            ("refusals", refusals(&words).err()), ("mode", mode(&words).err()), ("shed", shed(&words).err()),
            ("reset", reset(&words).err()), ("history", history(&words).err()), ("forecast", forecast(&words).err()),
            ("mark", mark(&words).err()), ("diff", diff(&words).err()), ("check", check(&words).err()),
        ];
        for (command, error) in errors {
            let beginning = format!("memguard.{command} accepts ");
            prop_assert!(error.is_none_or(|said| said.starts_with(&beginning)));
        }
    }
}
