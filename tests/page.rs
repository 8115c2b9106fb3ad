//! The page: small whatever it shows, nothing foreign is markup, nothing is loaded, well-formed, and says what matters first.
//! Forbidden here: a browser; how it looks is looked at in the pictures of ./dev screenshot.

use memguard::guard::decide::level::Thresholds;
use memguard::guard::formats::page::{
    AddressRow, EventRow, Outlook, Page, PoolRow, Registrations, SiteRow, WorkerRow, chart,
    history::Point,
};
use memguard::guard::net::terms::{Alarm, Origin, State};
use memguard::guard::terms::{
    text::NONE_FORESEEN_S,
    words::{Level, Mode, Pool},
};

const NOW: u64 = 1_795_226_700;

fn thresholds(pool: Pool) -> Thresholds {
    let [warning, shed, full, emergency] = match pool {
        Pool::Os => [80, 90, 95, 98],
        _ => [70, 80, 92, 97],
    };
    Thresholds {
        warning,
        shed,
        full,
        emergency,
    }
}

fn pool(
    pool: Pool,
    used_permyriad: u32,
    level: Level,
    whose: &str,
    growth: Option<f64>,
) -> PoolRow {
    let size: u64 = match pool {
        Pool::Shm => 64 << 20,
        Pool::Pkg => 8 << 20,
        Pool::Os => 4 << 30,
    };
    PoolRow {
        pool,
        size,
        used: size / 10_000 * u64::from(used_permyriad),
        used_permyriad,
        level,
        thresholds: thresholds(pool),
        whose: whose.into(),
        growth,
    }
}

/// An hour in which a worker leaks pkg and phones come and go.
fn history() -> Vec<Point> {
    (1..=3600u64)
        .map(|s| {
            let noise = (s * 2_654_435_761 % 97) as u32;
            Point {
                time_s: NOW - 3600 + s,
                shm: Some(3300 + (s / 12) as u32 % 400 + noise),
                pkg: Some(5200 + (s * 3100 / 3600) as u32 + noise / 4),
                os: (s > 300).then_some(4100 + noise / 8),
                new_rate: 2000 + u64::from(noise) * 30,
                refresh_rate: 21_000 + u64::from(noise) * 90,
                rejected_rate: if s > 3100 { 900 } else { 0 },
            }
        })
        .collect()
}

fn page(history: &[Point]) -> Page<'_> {
    Page {
        version: "0.1.0",
        kamailio: "5.6.3",
        now_s: NOW,
        uptime_s: 265_000,
        level: Level::Shedding,
        mode: Mode::Enforce,
        is_shed: false,
        shed_pct: 25,
        tightest: Pool::Pkg,
        outlook: Outlook {
            exhaustion_s: 1140,
            between_s: Some((960, 1500)),
            may_end_s: None,
            at_this_rate: None,
            grows: true,
            is_valid: true,
            pool: Some(Pool::Pkg),
            cause: "leak".into(),
            confidence: "high".into(),
            who: "process 5 (udp receiver child=1): siputils checks.c:212 ki_is_uri_user_e164"
                .into(),
        },
        pools: vec![
            pool(
                Pool::Shm,
                3710,
                Level::Normal,
                "shared memory of all processes",
                Some(0.02),
            ),
            pool(
                Pool::Pkg,
                8310,
                Level::Shedding,
                "process 5, udp receiver child=1",
                Some(0.86),
            ),
            pool(
                Pool::Os,
                4110,
                Level::Normal,
                "limit of the container (cgroup v2)",
                None,
            ),
        ],
        registrations: Registrations {
            known: 18_432,
            new_rate: 3400,
            refresh_rate: 24_100,
            rejected_rate: 900,
            rejected: 451,
            left: Some(21_900),
            storm: false,
        },
        workers: (0..16)
            .map(|index| WorkerRow {
                index,
                description: format!("udp receiver child={index} sock=192.0.2.10:5060"),
                pkg_used: 1_400_000 + 60_000 * (16 - index),
                pkg_permyriad: 1700 + 70 * (16 - index as u32),
                private: 4 << 20,
                messages: 1_200_000 / (index + 1),
                level: if index == 0 {
                    Level::Shedding
                } else {
                    Level::Normal
                },
                leak: if index == 0 { "confirmed" } else { "none" }.into(),
            })
            .collect(),
        sites: vec![
            SiteRow {
                pool: Pool::Pkg,
                place: "siputils checks.c:212 ki_is_uri_user_e164".into(),
                live: 5_400_000,
                growth: 702,
            },
            SiteRow {
                pool: Pool::Shm,
                place: "usrloc ucontact.c:88 new_ucontact".into(),
                live: 14_700_000,
                growth: -40,
            },
        ],
        events: vec![
            EventRow {
                time_s: NOW - 600,
                from: Level::Warning,
                to: Level::Shedding,
                pool: Pool::Pkg,
                worker: Some(5),
                percent: 80,
            },
            EventRow {
                time_s: NOW - 90_000,
                from: Level::Normal,
                to: Level::Warning,
                pool: Pool::Pkg,
                worker: Some(5),
                percent: 70,
            },
        ],
        warnings: vec![
            "no cgroup memory limit could be read: the machine's memory is held against /proc/meminfo only",
        ],
        notes: Vec::new(),
        addresses: Vec::new(),
        before: None,
        history,
    }
}

/// Everything as long, as many and as hostile as it can be.
fn worst(history: &[Point]) -> Page<'_> {
    let evil = "<script>alert('&\"')</script>\u{202e}\0".repeat(40);
    let mut page = page(history);
    page.outlook.cause = evil.clone();
    page.outlook.confidence = evil.clone();
    page.outlook.who = evil.clone();
    page.pools.iter_mut().for_each(|p| p.whose = evil.clone());
    page.workers = (0..512)
        .map(|index| WorkerRow {
            index,
            description: evil.clone(),
            leak: evil.clone(),
            messages: u64::MAX,
            private: u64::MAX,
            ..page.workers[0].clone()
        })
        .collect();
    page.sites = vec![
        SiteRow {
            pool: Pool::Shm,
            place: evil.clone(),
            live: u64::MAX,
            growth: i64::MIN,
        };
        500
    ];
    page.events = vec![page.events[1]; 256];
    page.warnings = vec![page.warnings[0]; 17];
    page.notes = vec!["Draining <b>&\"'</b>\u{202e} for another 5 s.".into()];
    page.before = Some("the run before <b>&\"'</b>\u{202e} was killed, all processes at once");
    page
}

/// Opened and closed in order; what HTML closes by itself is not opened.
fn is_well_formed(html: &str) -> Result<(), String> {
    let mut open: Vec<&str> = Vec::new();
    let body = html.replace("<!DOCTYPE html>", "");
    for part in body.split('<').skip(1) {
        let (tag, _) = part
            .split_once('>')
            .ok_or_else(|| format!("unended <{part}"))?;
        let name = tag.split([' ', '/']).find(|n| !n.is_empty()).unwrap_or("");
        if tag.starts_with('/') {
            let last = open.pop();
            if last != Some(name) {
                return Err(format!("</{name}> after {last:?}"));
            }
        } else if !tag.ends_with('/') && !["meta", "br"].contains(&name) {
            open.push(name);
        }
    }
    if open.is_empty() {
        Ok(())
    } else {
        Err(format!("not closed: {open:?}"))
    }
}

#[test]
fn the_page_stays_below_sixty_kilobytes_whatever_it_shows() {
    let history = history();
    let (usual, most) = (page(&history).html().len(), worst(&history).html().len());
    assert!(usual < 30_000 && most < 60 * 1024, "{usual}, {most}");
}

#[test]
fn foreign_text_never_becomes_markup_and_the_page_is_well_formed() {
    let history = history();
    for html in [
        page(&history).html(),
        worst(&history).html(),
        page(&[]).html(),
    ] {
        assert_eq!(is_well_formed(&html), Ok(()));
        assert!(!html.contains("<script") && !html.contains("alert('"));
        assert!(!html.contains('\0') && !html.contains('\u{202e}'));
        assert!(!html.contains("NaN") && !html.replace("meminfo", "").contains("inf"));
    }
}

#[test]
fn nothing_is_loaded_and_nothing_is_run() {
    let html = worst(&history()).html();
    for word in [
        "http://",
        "https://",
        " src=",
        "url(",
        "@import",
        "<link",
        "<img",
        "<iframe",
        "javascript:",
        "<form",
    ] {
        assert!(!html.contains(word), "{word}");
    }
    let targets: Vec<&str> = html
        .split("href=\"")
        .skip(1)
        .filter_map(|p| p.split('"').next())
        .collect();
    assert!(targets.iter().all(|t| t.starts_with('/')), "{targets:?}");
}

#[test]
fn the_first_screen_says_level_what_when_why_and_who() {
    let history = history();
    let html = page(&history).html();
    let start = html.split("</header>").next().expect("a header");
    let mut at = 0;
    for words in [
        "■ shedding</h1>",
        "pkg will be full in 19m 0s. 25 % of new registrations are refused.",
        "<dt>What</dt> <dd>pkg is tightest: 83.1 % of 8.0 MiB used <small>1.4 MiB left",
        "<dt>When</dt> <dd>full in 19m 0s <small>about 2026-11-21 02:24 UTC, at the earliest in 16m 0s, at the latest in 25m 0s",
        "<dt>Why</dt> <dd>a leak",
        "confidence: high",
        "<dt>Who</dt> <dd>process 5 (udp receiver child=1)",
        "18,432 bindings known",
        "room for 21,900 more",
    ] {
        at += start[at..]
            .find(words)
            .unwrap_or_else(|| panic!("{words} (in this order): {start}"));
    }
}

#[test]
fn a_healthy_server_says_that_nothing_is_running_out() {
    let mut page = page(&[]);
    (page.level, page.shed_pct) = (Level::Normal, 0);
    page.outlook = Outlook {
        exhaustion_s: NONE_FORESEEN_S,
        cause: "none".into(),
        ..Outlook::default()
    };
    assert_eq!(
        page.headline(),
        "Nothing is running out. Nobody is refused."
    );
    assert!(page.html().contains("too little was seen for a forecast"));
    page.outlook.may_end_s = Some((7_200, NONE_FORESEEN_S));
    assert!(page.html().contains("not before 2h 0m have passed"));
    page.outlook.may_end_s = Some((7_200, 90_000));
    assert!(
        page.html()
            .contains("if it goes on as it does, in 2h 0m to 1d 1h")
    );
    page.outlook.is_valid = true;
    assert!(page.html().contains("no end foreseen</dd>"));
    (page.mode, page.shed_pct, page.is_shed) = (Mode::Observe, 100, true);
    assert!(
        page.headline()
            .contains("100 % of new registrations would be refused (mode observe). An operator's")
    );
}

#[test]
fn what_fills_within_minutes_or_grows_is_never_nothing() {
    let mut page = page(&[]);
    (page.level, page.shed_pct) = (Level::Normal, 0);
    page.outlook = Outlook {
        exhaustion_s: NONE_FORESEEN_S,
        cause: "registrations".into(),
        at_this_rate: Some((Pool::Shm, 34)),
        pool: Some(Pool::Shm),
        grows: true,
        ..Outlook::default()
    };
    assert_eq!(
        page.headline(),
        "shm: at this rate full in 34 s. Nobody is refused."
    );
    assert!(
        page.html()
            .contains("<small>shm: at this rate full in 34 s</small>")
    );
    page.outlook.at_this_rate = Some((Pool::Shm, 4_000));
    assert_eq!(
        page.headline(),
        "shm grows; whether it runs out is not known yet. Nobody is refused."
    );
    // A forecast of an earlier end says more than the last seconds.
    (page.outlook.exhaustion_s, page.outlook.is_valid) = (300, true);
    page.outlook.at_this_rate = Some((Pool::Os, 500));
    assert!(page.headline().starts_with("shm will be full in 5m 0s."));
}

#[test]
fn the_hour_is_told_in_words_too() {
    let words = chart::in_words(&history(), NOW, |p| p.pkg);
    assert_eq!(words, "now 83.0 %, 59 min ago 52.0 %, highest 83.2 %");
    assert_eq!(chart::in_words(&[], NOW, |p| p.pkg), "not known");
}

#[test]
fn points_outside_of_the_hour_or_all_zero_are_drawn_without_harm() {
    for time_s in [0, NOW - 4000, NOW, NOW + 100, u64::MAX] {
        let points = [Point {
            time_s,
            shm: Some(u32::MAX),
            ..Point::default()
        }];
        let html = page(&points).html();
        assert_eq!(is_well_formed(&html), Ok(()));
        assert!(!html.contains("NaN") && !html.replace("meminfo", "").contains("inf"));
    }
}

#[test]
fn above_normal_something_is_running_out_though_no_end_is_foreseen() {
    let mut page = page(&[]);
    page.outlook.exhaustion_s = NONE_FORESEEN_S;
    for pool in [Some(Pool::Shm), None] {
        page.outlook.pool = pool;
        let said = page.headline();
        assert!(said.starts_with("pkg is running out. "), "{said}");
    }
}

#[test]
fn a_pool_that_does_not_grow_is_not_said_to_grow() {
    let mut page = page(&[]);
    page.level = Level::Normal;
    (page.outlook.exhaustion_s, page.outlook.grows) = (NONE_FORESEEN_S, false);
    let said = page.headline();
    assert!(said.starts_with("Nothing is running out. "), "{said}");
}

#[test]
fn a_pace_without_an_end_is_not_shown() {
    let mut page = page(&[]);
    page.outlook.at_this_rate = Some((Pool::Shm, NONE_FORESEEN_S));
    assert!(!page.html().contains("<small>shm: "));
}

#[test]
fn warnings_are_listed_and_escaped_and_without_any_there_is_no_heading() {
    let mut page = page(&[]);
    page.warnings = vec!["a < b & c"];
    let list = "<h2>Warnings</h2><ul><li>a &lt; b &amp; c</li>\n</ul>";
    assert!(page.html().contains(list));
    page.warnings.clear();
    assert!(!page.html().contains("<h2>Warnings"));
}

fn address(last: u8, alarm: Alarm, state: State) -> AddressRow {
    AddressRow {
        address: [192, 0, 2, last].into(),
        sockets: "udp tcp".into(),
        alarm,
        state,
        origin: Origin::Permanent,
        since_s: NOW,
        said: format!("sentence {last}"),
    }
}

#[test]
fn only_addresses_that_need_somebody_stand_at_the_top() {
    let mut page = page(&[]);
    page.addresses = vec![
        address(1, Alarm::Critical, State::Absent),
        address(2, Alarm::Warning, State::Present),
        address(3, Alarm::Ok, State::Present),
    ];
    let html = page.html();
    let list = "<h2>Addresses that need you</h2><ul>\
                <li>✖ <b>192.0.2.1</b> critical: sentence 1</li>\n\
                <li>▲ <b>192.0.2.2</b> warning: sentence 2</li>\n</ul>";
    assert!(html.contains(list), "{html}");
    assert!(html.contains("<td>● present</td>"), "{html}");
    page.addresses.drain(..2);
    assert!(!page.html().contains("Addresses that need you"));
}

/// One second of the hour, the last one.
fn now() -> [Point; 1] {
    [Point {
        time_s: NOW,
        shm: Some(5000),
        pkg: Some(2500),
        os: Some(7500),
        new_rate: 10_000,
        refresh_rate: 45_000,
        rejected_rate: 20_000,
    }]
}

#[test]
fn each_pool_is_drawn_in_percent_up_to_the_right_edge() {
    let points = now();
    let mut page = page(&points);
    page.pools.iter_mut().for_each(|pool| pool.growth = None);
    let html = page.html();
    for (style, y) in [("shm", "70.0"), ("pkg", "99.0"), ("os", "41.0")] {
        let line = format!("<path class=\"{style}\" d=\"M352.0 {y}h.1\"/>");
        assert!(html.contains(&line), "{line}: {html}");
    }
}

#[test]
fn growth_is_carried_on_over_the_future_that_all_charts_leave_room_for() {
    let points = now();
    let mut page = page(&points);
    page.pools.iter_mut().for_each(|pool| pool.growth = None);
    page.pools[0].growth = Some(10.0);
    let html = page.html();
    assert!(html.contains("<path class=\"next\" d=\"M288.4 70.0L352.0 52.6\"/>"));
    assert_eq!(html.matches("class=\"next\"").count(), 1);
    assert!(html.contains("<path class=\"os\" d=\"M288.4 41.0h.1\"/>"));
}

#[test]
fn rates_are_drawn_per_second_below_a_round_top() {
    let points = now();
    let html = page(&points).html();
    let (_, chart) = html.split_once("REGISTERs per second").expect("a chart");
    assert!(chart.contains("y=\"16.0\">100</text>"), "{chart}");
    for (style, y) in [("shm", "116.4"), ("pkg", "75.8"), ("os", "104.8")] {
        let line = format!("<path class=\"{style}\" d=\"M288.4 {y}h.1\"/>");
        assert!(chart.contains(&line), "{line}: {chart}");
    }
}

#[test]
fn the_top_of_the_rates_is_the_next_round_number_with_some_room() {
    for (rate, top) in [
        (0, "1.0"),
        (1000, "2.0"),
        (3000, "5.0"),
        (5000, "10"),
        (45_000, "100"),
        (100_000, "200"),
        (1_500_000, "2000"),
    ] {
        let points = [Point {
            time_s: NOW,
            refresh_rate: rate,
            ..Point::default()
        }];
        let html = page(&points).html();
        let (_, chart) = html.split_once("REGISTERs per second").expect("a chart");
        let label = format!("y=\"16.0\">{top}</text>");
        assert!(chart.contains(&label), "{label}: {chart}");
    }
}

fn site(growth: i64) -> SiteRow {
    SiteRow {
        pool: Pool::Shm,
        place: "usrloc ucontact.c:88".into(),
        live: 100,
        growth,
    }
}

#[test]
fn only_a_site_that_shrinks_has_a_sign() {
    let mut page = page(&[]);
    page.sites = vec![site(-40), site(0), site(30)];
    let html = page.html();
    for growth in [">−40 B/s<", ">0 B/s<", ">30 B/s<"] {
        assert!(html.contains(growth), "{growth}");
    }
}

#[test]
fn a_change_of_the_last_day_has_a_time_and_an_older_one_a_date() {
    let mut page = page(&[]);
    page.events = [86_399, 86_400]
        .map(|ago_s| EventRow {
            time_s: NOW - ago_s,
            from: Level::Normal,
            to: Level::Warning,
            pool: Pool::Pkg,
            worker: Some(5),
            percent: 70,
        })
        .into();
    let html = page.html();
    assert!(
        html.contains(
            "<td>02:05:01</td><td>normal → ▲ warning</td><td>pkg of process 5 at 70 %</td>"
        )
    );
    assert!(html.contains("<td>2026-11-20 02:05 UTC</td>"));
}

#[test]
fn a_table_of_more_than_24_rows_is_cut_and_says_where_the_rest_is() {
    let mut page = page(&[]);
    page.sites = vec![site(0); 24];
    assert!(!page.html().contains("more: kamcmd"));
    page.sites = vec![site(0); 27];
    let html = page.html();
    assert_eq!(html.matches("usrloc ucontact.c:88").count(), 24);
    assert!(html.contains("and 3 more: kamcmd memguard.sites"));
}

#[test]
fn a_table_of_nothing_is_left_out_but_processes_are_always_shown() {
    let mut page = page(&[]);
    (page.sites, page.addresses, page.events) = (vec![], vec![], vec![]);
    page.workers.clear();
    let html = page.html();
    assert!(html.contains("<h2>Processes, fullest first</h2>"));
    for title in ["Who holds", "Addresses", "Level changes"] {
        assert!(!html.contains(title), "{title}");
    }
}

/// Not a check: writes the pages for a look with a browser (`MEMGUARD_PAGES=FOLDER`).
#[test]
fn pages_can_be_written_for_a_look() {
    let Ok(folder) = std::env::var("MEMGUARD_PAGES") else {
        return;
    };
    let history = history();
    let mut healthy = page(&history);
    (healthy.level, healthy.shed_pct, healthy.tightest) = (Level::Normal, 0, Pool::Shm);
    healthy.outlook = Outlook {
        exhaustion_s: NONE_FORESEEN_S,
        is_valid: true,
        cause: "none".into(),
        confidence: "high".into(),
        ..Outlook::default()
    };
    for (name, page) in [
        ("leak", page(&history)),
        ("healthy", healthy),
        ("worst", worst(&history)),
    ] {
        std::fs::write(format!("{folder}/{name}.html"), page.html())
            .expect("the folder is writable");
    }
}
