//! The metrics: every series from the start, closed labels, few series, the same names and values as statistics.
//! Forbidden here: Kamailio; promtool's word on the text is asked in tests/module.

use std::collections::BTreeSet;

use memguard::guard::formats::metrics::{self, Build, FAMILIES, Measures, PREFIX, Worker};

/// The contract's names (design §8), typed a second time on purpose.
const NAMES: &str = "address_alarm address_claims_total address_leased address_missing build_info level enforcing level_changes_total shm_size_bytes shm_used_bytes shm_peak_bytes \
    shm_drift_bytes shm_failures_total pkg_size_bytes pkg_used_max_bytes pkg_failures_total os_limit_bytes \
    os_used_bytes headroom_bytes exhaustion_seconds full_at_this_rate_seconds forecast_valid \
    registration_cost_bytes registrations_left registers_total rejected_total rejected_observed_total fail_open_total known_bindings queue_length storm workers \
    workers_leaking draining restart_advice comeback_before comeback_back comeback_overdue last_sample_timestamp_seconds sample_errors_total worker_pkg_used_bytes worker_private_bytes \
    worker_leaking";

const BUILD: Build<'_> = Build {
    version: "0.1.0",
    kamailio: "5.6.3",
};

fn workers(count: u64) -> Vec<Worker> {
    (0..count)
        .map(|index| Worker {
            index,
            ..Worker::default()
        })
        .collect()
}

/// Name, labels and value of each sample line.
fn samples(text: &str) -> Vec<(String, String, u64)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            (
                name.strip_prefix(PREFIX).expect("the prefix").to_owned(),
                labels.trim_end_matches('}').to_owned(),
                value.parse().expect("a whole number"),
            )
        })
        .collect()
}

#[test]
fn the_names_are_those_of_the_contract_and_all_are_there_from_the_start() {
    let text = metrics::text(BUILD, &Measures::default(), &workers(1));
    let seen: BTreeSet<String> = samples(&text).into_iter().map(|(name, ..)| name).collect();
    let wanted: BTreeSet<String> = NAMES.split_whitespace().map(str::to_owned).collect();
    assert_eq!(seen, wanted);
}

#[test]
fn every_family_has_help_and_type_once_and_before_its_samples() {
    let text = metrics::text(BUILD, &Measures::default(), &workers(3));
    for family in FAMILIES {
        let name = format!("{PREFIX}{}", family.name);
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| {
                let line = line
                    .trim_start_matches("# HELP ")
                    .trim_start_matches("# TYPE ");
                line.split([' ', '{']).next() == Some(&name)
            })
            .collect();
        assert!(
            lines[0].starts_with("# HELP ") && lines[1].starts_with("# TYPE "),
            "{lines:?}"
        );
        assert!(
            lines[2..].iter().all(|l| !l.starts_with('#')) && lines.len() > 2,
            "{lines:?}"
        );
        assert_eq!(
            family.name.ends_with("_total"),
            family.kind == metrics::Kind::Counter,
            "{name}"
        );
    }
    assert!(text.ends_with('\n') && text.is_ascii());
}

#[test]
fn series_stay_within_their_bound_and_labels_within_closed_sets() {
    for count in [1, 16, 512] {
        let all = samples(&metrics::text(BUILD, &Measures::default(), &workers(count)));
        assert!(
            all.len() as u64 <= 60 + 6 * count,
            "{} of {count}",
            all.len()
        );
        let labels: BTreeSet<&str> = all
            .iter()
            .filter(|(name, ..)| name != "build_info")
            .filter_map(|(_, labels, _)| labels.split_once('=').map(|(label, _)| label))
            .collect();
        assert_eq!(labels, BTreeSet::from(["class", "worker"]));
        let unique: BTreeSet<_> = all.iter().map(|(name, labels, _)| (name, labels)).collect();
        assert_eq!(unique.len(), all.len(), "no series twice");
    }
}

#[test]
fn a_version_with_quotes_and_line_feeds_stays_within_its_label() {
    let build = Build {
        version: "a\"b\\c\nd",
        kamailio: "",
    };
    let text = metrics::text(build, &Measures::default(), &[]);
    assert!(text.contains(r#"build_info{version="a\"b\\c\nd",kamailio=""} 1"#));
}

#[test]
fn statistics_have_the_names_and_values_of_the_series_without_workers() {
    let measures = Measures {
        level: 2,
        shm_used_bytes: u64::MAX,
        registers_total: std::array::from_fn(|i| 100 + i as u64),
        rejected_observed_total: std::array::from_fn(|i| 200 + i as u64),
        sample_errors_total: 7,
        ..Measures::default()
    };
    let statistics = metrics::statistics();
    let said: BTreeSet<(String, u64)> = statistics
        .iter()
        .enumerate()
        .map(|(number, s)| (s.name.clone(), metrics::statistic_value(&measures, number)))
        .collect();
    assert_eq!(said.len(), statistics.len(), "no name twice");
    let scraped: BTreeSet<(String, u64)> = samples(&metrics::text(BUILD, &measures, &[]))
        .into_iter()
        .map(
            |(name, labels, value)| match labels.split_once("class=\"") {
                Some((_, class)) => {
                    let stem = name.strip_suffix("_total").expect("a counter");
                    (
                        format!("{stem}_{}_total", class.trim_end_matches('"')),
                        value,
                    )
                }
                None => (name, value),
            },
        )
        .collect();
    assert_eq!(said, scraped);
    assert!(said.contains(&("registers_new_total".into(), 106)));
    assert_eq!(metrics::statistic_value(&measures, statistics.len()), 0);
}
