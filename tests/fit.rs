//! Versions, build flags and source trees: what is read out of strings and files decides which module is built and loaded.
//! Forbidden here: a Kamailio; the texts are those that Kamailios of 5.6 to 6.2 and their trees have.

use memguard::fit::advice::{self, Way};
use memguard::fit::release::{Identity, Release};
use memguard::fit::{Strings, flags, tree};

const DEBIAN: &str = "USE_TCP, USE_TLS, USE_SCTP, TLS_HOOKS, USE_RAW_SOCKS, DISABLE_NAGLE, USE_MCAST, DNS_IP_HACK, SHM_MMAP, \
    PKG_MALLOC, MEM_JOIN_FREE, Q_MALLOC, F_MALLOC, TLSF_MALLOC, DBG_SR_MEMORY, USE_FUTEX, FAST_LOCK-ADAPTIVE_WAIT, \
    USE_DNS_CACHE, USE_DNS_FAILOVER, USE_NAPTR, USE_DST_BLOCKLIST, HAVE_RESOLV_RES, TLS_PTHREAD_MUTEX_SHARED";

fn release(text: &str) -> Release {
    Release::parse(text).unwrap_or_else(|| panic!("{text} is a release"))
}

fn identity(text: &str) -> Identity {
    Identity::parse(text).unwrap_or_else(|| panic!("{text} is an identity"))
}

#[test]
fn a_release_is_read_with_what_developers_and_packagers_add() {
    for (text, numbers, extra) in [
        ("5.6.3", (5, 6, 3), ""),
        ("6.2.0-dev1", (6, 2, 0), "-dev1"),
        ("6.1.3+bpo13", (6, 1, 3), "+bpo13"),
        ("6.0.0-rc0", (6, 0, 0), "-rc0"),
        ("10.11.12-acme", (10, 11, 12), "-acme"),
    ] {
        let read = release(text);
        assert_eq!((read.major, read.minor, read.patch), numbers, "{text}");
        assert_eq!(
            (read.extra.as_str(), read.to_string().as_str()),
            (extra, text)
        );
    }
    for text in [
        "",
        "6",
        "6.1",
        "6.1.",
        "v6.1.3",
        "6.1.x",
        "6.1.3.4",
        "6.1.3 x",
        "99999999999.1.1",
    ] {
        assert_eq!(Release::parse(text), None, "{text}");
    }
}

#[test]
fn the_same_source_is_the_same_numbers_and_the_same_state_of_development() {
    for (one, other, same) in [
        ("6.0.1", "6.0.1", true),
        ("6.0.1", "6.0.1-acme", true),
        ("6.1.3+bpo13", "6.1.3", true),
        ("6.0.1", "6.0.2", false),
        ("6.0.0-rc0", "6.0.0", false),
        ("6.2.0-dev0", "6.2.0-dev1", false),
        ("6.2.0-dev1", "6.2.0-dev1", true),
    ] {
        assert_eq!(
            release(one).same_source(&release(other)),
            same,
            "{one} {other}"
        );
        assert_eq!(
            release(other).same_source(&release(one)),
            same,
            "{other} {one}"
        );
    }
}

#[test]
fn an_identity_keeps_the_version_to_the_byte() {
    let own = identity("kamailio 6.2.0-dev1 (aarch64/Linux)");
    assert_eq!(
        (own.version.as_str(), own.arch.as_str(), own.os.as_str()),
        ("6.2.0-dev1", "aarch64", "Linux")
    );
    for text in [
        "kamailio",
        "kamailio 6.0.1",
        "kamailio 6.0.1 (x86_64)",
        "kamailio x (x86_64/linux)",
        "6.0.1 (x86_64/linux)",
    ] {
        assert_eq!(Identity::parse(text), None, "{text}");
    }
}

#[test]
fn defines_are_the_words_of_the_string_and_what_every_build_has() {
    let has = |list: &[String], word: &str| list.iter().any(|w| w == word);
    let make = flags::defines(&identity("kamailio 6.0.1 (x86_64/linux)"), DEBIAN);
    for word in [
        "NAME=\"kamailio\"",
        "VERSION=\"6.0.1\"",
        "OS_QUOTED=\"linux\"",
        "__CPU_x86_64",
        "__OS_linux",
        "VERSIONVAL=6000001",
        "FAST_LOCK",
        "ADAPTIVE_WAIT",
        "ADAPTIVE_WAIT_LOOPS=1024",
        "KSR_PTHREAD_MUTEX_SHARED",
        "DBG_SR_MEMORY",
        "STATISTICS",
    ] {
        assert!(has(&make, word), "{word}");
    }
    for word in [
        "FAST_LOCK-ADAPTIVE_WAIT",
        "TLS_PTHREAD_MUTEX_SHARED",
        "NOSMP",
        "BUSY_WAIT",
    ] {
        assert!(!has(&make, word), "{word}");
    }
    let mut sorted = make.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!(sorted.len(), make.len(), "a define stands twice");

    // CMake's builds: another spelling of the system, which only the quoted text keeps, and a futex alone.
    let cmake = flags::defines(
        &identity("kamailio 6.1.4 (x86_64/Linux)"),
        "USE_TCP, USE_FUTEX, DBG_SR_MEMORY",
    );
    assert!(
        has(&cmake, "OS_QUOTED=\"Linux\"") && has(&cmake, "__OS_linux") && has(&cmake, "USE_FUTEX")
    );
    assert!(!has(&cmake, "FAST_LOCK") && !has(&cmake, "KSR_PTHREAD_MUTEX_SHARED"));

    let one_cpu = flags::defines(
        &identity("kamailio 5.8.1 (arm/linux)"),
        "USE_TCP, FAST_LOCK-BUSY_WAIT-NOSMP",
    );
    assert!(
        ["FAST_LOCK", "BUSY_WAIT", "NOSMP"]
            .iter()
            .all(|word| has(&one_cpu, word))
    );
}

#[test]
fn joining_of_fragments_is_silent_in_5_6_and_a_word_of_the_string_later() {
    let joins = |version: &str, flags: &str| {
        let id = identity(&format!("kamailio {version} (x86_64/linux)"));
        flags::defines(&id, flags)
            .iter()
            .any(|w| w == "MEM_JOIN_FREE")
    };
    assert!(joins("5.6.3", "USE_TCP"));
    assert!(!joins("5.7.0", "USE_TCP"));
    assert!(joins("5.7.0", "USE_TCP, MEM_JOIN_FREE"));
}

const MAKEFILE: &str = "# version number\nVERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL =  4\nEXTRAVERSION = \n\
    VERSIONVAL = $(shell expr $(VERSION) \\* 1000000)\nRELEASE:=$(VERSION).$(PATCHLEVEL)\n";
const CMAKE: &str = "cmake_minimum_required(VERSION 3.13)\nproject(\n  kamailio\n  VERSION 6.2.0\n  DESCRIPTION \"x\"\n)\n\
    set(EXTRAVERSION \"-dev1\")\nset(RELEASE \"${PROJECT_VERSION}${EXTRAVERSION}\")\n";

#[test]
fn a_tree_says_its_release_to_make_and_to_cmake() {
    assert_eq!(tree::of_makefile(MAKEFILE), Some(release("6.1.4")));
    let master = MAKEFILE.replace("EXTRAVERSION = ", "EXTRAVERSION = -dev1 # next");
    assert_eq!(tree::of_makefile(&master), Some(release("6.1.4-dev1")));
    assert_eq!(tree::of_makefile("VERSION = 6\nPATCHLEVEL = 1\n"), None);
    assert_eq!(tree::of_cmake(CMAKE), Some(release("6.2.0-dev1")));
    assert_eq!(
        tree::of_cmake(&CMAKE.replace("\"-dev1\"", "\"\"")),
        Some(release("6.2.0"))
    );
    assert_eq!(
        tree::of_cmake("cmake_minimum_required(VERSION 3.13)\n"),
        None
    );
    assert_eq!(tree::of_cmake("project(kamailio)\n"), None);
}

#[test]
fn a_tree_fits_by_either_of_the_two_releases_that_it_says() {
    // 6.0.1's tree calls itself 6.0.0-rc0 when CMake builds it.
    let said = [release("6.0.1"), release("6.0.0-rc0")];
    for installed in [
        "kamailio 6.0.1 (x86_64/linux)",
        "kamailio 6.0.0-rc0 (x86_64/Linux)",
    ] {
        assert_eq!(
            tree::judge(&said, &identity(installed), false),
            Ok(None),
            "{installed}"
        );
    }
    assert!(tree::judge(&[], &identity("kamailio 6.0.1 (x86_64/linux)"), true).is_err());
}

#[test]
fn another_patch_level_needs_nearest_and_another_series_is_refused() {
    let said = [release("6.0.7")];
    let installed = identity("kamailio 6.0.1 (x86_64/linux)");
    let refused = tree::judge(&said, &installed, false).expect_err("6.0.7 is not 6.0.1");
    assert!(
        refused.contains("6.0.7") && refused.contains("6.0.1") && refused.contains("--nearest"),
        "{refused}"
    );
    let warning = tree::judge(&said, &installed, true).expect("--nearest takes it");
    assert!(warning.is_some_and(|w| w.contains("6.0.7") && w.contains("observe")));
    for nearest in [false, true] {
        let other = identity("kamailio 5.8.4 (x86_64/linux)");
        let refused = tree::judge(&said, &other, nearest).expect_err("6.0 is not 5.8");
        assert!(
            refused.contains("6.0.7")
                && refused.contains("5.8.4")
                && !refused.contains("--nearest"),
            "{refused}"
        );
        assert!(refused.contains("kamailio-5.8.4_src.tar.gz"), "{refused}");
    }
}

#[test]
fn advice_names_what_differs_and_is_silent_where_nothing_does() {
    let strings = |version: &str, flags: &str| Strings {
        version: version.to_owned(),
        flags: flags.to_owned(),
    };
    let installed = strings("kamailio 6.0.1 (x86_64/linux)", DEBIAN);
    assert!(advice::on(&installed, &installed, Way::Deb).is_empty());
    let told = |module: &Strings| advice::on(module, &installed, Way::Unknown).join("\n");
    let older = told(&strings("kamailio 5.6.3 (x86_64/linux)", "USE_TCP"));
    assert!(
        older.contains("5.6.3")
            && older.contains("6.0.1 is installed")
            && older.contains("./dev build"),
        "{older}"
    );
    let cmake = told(&strings("kamailio 6.0.1 (x86_64/Linux)", DEBIAN));
    assert!(cmake.contains("CMake"), "{cmake}");
    let flags = told(&strings(
        "kamailio 6.0.1 (x86_64/linux)",
        &DEBIAN.replace("USE_FUTEX, ", "NO_LOG, "),
    ));
    assert!(
        flags.contains("only the module has: NO_LOG")
            && flags.contains("only Kamailio has: USE_FUTEX"),
        "{flags}"
    );
    let foreign = told(&strings("something else", DEBIAN));
    assert!(foreign.contains("something else"), "{foreign}");
}

#[test]
fn advice_says_what_to_type_by_how_kamailio_came_here() {
    let strings = |version: &str| Strings {
        version: format!("kamailio {version} (x86_64/linux)"),
        flags: DEBIAN.to_owned(),
    };
    for (modules, way, words) in [
        (
            "/usr/lib/x86_64-linux-gnu/kamailio/modules/pv.so",
            Way::Deb,
            ["./dev package --kamailio 6.0.2", "sudo ./dev install"],
        ),
        (
            "/usr/lib64/kamailio/modules/pv.so",
            Way::Rpm,
            ["kamailio-6.0.2_src.tar.gz", "./dev build --source DIR"],
        ),
        (
            "/usr/local/lib64/kamailio/modules/pv.so",
            Way::Own,
            [
                "./dev build --source DIR",
                "the tree that 6.0.2 was compiled from",
            ],
        ),
        (
            "/opt/kamailio-6/lib/kamailio/modules/pv.so",
            Way::Own,
            ["./dev build --source DIR", "sudo ./dev install"],
        ),
        (
            "/usr/lib/kamailio/modules/pv.so",
            Way::Unknown,
            ["./dev build;", "--source ITS_TREE"],
        ),
        (
            "modules/pv.so",
            Way::Unknown,
            ["./dev build;", "./dev install"],
        ),
    ] {
        assert_eq!(Way::of(modules), way, "{modules}");
        let lines = advice::on(&strings("6.0.1"), &strings("6.0.2"), way);
        assert_eq!(
            lines.len(),
            2,
            "what differs and what to do; what not to do: {lines:?}"
        );
        for word in words.into_iter().chain(["6.0.1", "6.0.2 is installed"]) {
            assert!(lines[0].contains(word), "{word}: {lines:?}");
        }
        assert!(lines[1].contains("do not restart"), "{lines:?}");
    }
}

#[test]
fn a_file_that_is_no_module_is_told_apart() {
    for (bytes, what) in [
        (&b""[..], "not a 64-bit"),
        (&b"\x7fELF\x02\x01 and nothing more"[..], "not a 64-bit"),
    ] {
        let said = Strings::of(bytes).expect_err("no module");
        assert!(said.contains(what), "{said}");
    }
    let program = std::fs::read("/proc/self/exe").expect("this test is a file");
    let said = Strings::of(&program).expect_err("a test is no module");
    assert!(said.contains("module_version"), "{said}");
    // Cut anywhere, it is refused without a panic.
    for length in (0..program.len().min(40_000)).step_by(997) {
        let _ = Strings::of(&program[..length]);
    }
}
