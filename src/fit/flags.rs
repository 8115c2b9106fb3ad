//! The compiler options that an installed module was built with, derived from its two strings.
//! Forbidden here: an option that neither the strings name nor every Linux build has.

use crate::fit::release::Identity;

/// Words of `module_flags` whose text is not the define itself, as core/ver_defs.h spells them (5.6 to 6.2).
const RENAMED: &[(&str, &[&str])] = &[
    (
        "FAST_LOCK-ADAPTIVE_WAIT",
        &["FAST_LOCK", "ADAPTIVE_WAIT", "ADAPTIVE_WAIT_LOOPS=1024"],
    ),
    ("FAST_LOCK-BUSY_WAIT", &["FAST_LOCK", "BUSY_WAIT"]),
    ("TLS_PTHREAD_MUTEX_SHARED", &["KSR_PTHREAD_MUTEX_SHARED"]),
];

/// Defines of every Linux build that leave no word in `module_flags` (Makefile.defs, cmake/defs.cmake).
const SILENT: &[&str] = &[
    "USE_CORE_STATS",
    "STATISTICS",
    "MALLOC_STATS",
    "WITH_XAVP",
    "CC_GCC_LIKE_ASM",
    "HAVE_GETHOSTBYNAME2",
    "HAVE_UNION_SEMUN",
    "HAVE_SCHED_YIELD",
    "HAVE_MSG_NOSIGNAL",
    "HAVE_MSGHDR_MSG_CONTROL",
    "HAVE_ALLOCA_H",
    "HAVE_TIMEGM",
    "HAVE_SCHED_SETSCHEDULER",
    "HAVE_IP_MREQN",
    "HAVE_EPOLL",
    "HAVE_SIGIO_RT",
    "SIGINFO64_WORKARROUND",
    "HAVE_SELECT",
];

/// The first release that has a word for MEM_JOIN_FREE in its string; before it every build has it silently.
const JOINING_IS_NAMED: u32 = 5_007_000;

/// Options without their `-D`: `NAME="kamailio"`, `USE_TCP`, … but for MOD_NAME and MOD_NAMEID, which are the module's.
pub fn defines(kamailio: &Identity, flags: &str) -> Vec<String> {
    let mut list = vec![
        format!("NAME=\"{}\"", kamailio.name),
        format!("VERSION=\"{}\"", kamailio.version),
        format!("ARCH=\"{}\"", kamailio.arch),
        format!("OS_QUOTED=\"{}\"", kamailio.os),
        // Not "linux": that is a macro of gcc's own.
        "OS=linux_".to_owned(),
        "COMPILER=\"cc\"".to_owned(),
        format!("__CPU_{}", kamailio.arch),
        format!("__OS_{}", kamailio.os.to_ascii_lowercase()),
        format!("VERSIONVAL={}", kamailio.release.value()),
        "CFG_DIR=\"/etc/kamailio/\"".to_owned(),
        "SHARE_DIR=\"/usr/share/kamailio/\"".to_owned(),
        "RUN_DIR=\"/run/kamailio/\"".to_owned(),
    ];
    for word in flags.split(',').map(str::trim).filter(|w| !w.is_empty()) {
        // NOSMP alone is glued to the word before it.
        let (word, nosmp) = match word.strip_suffix("-NOSMP") {
            Some(word) => (word, true),
            None => (word, false),
        };
        match RENAMED.iter().find(|(text, _)| *text == word) {
            Some((_, defines)) => list.extend(defines.iter().map(|d| (*d).to_owned())),
            None => list.push(word.to_owned()),
        }
        if nosmp {
            list.push("NOSMP".to_owned());
        }
    }
    let silent = SILENT.iter().copied();
    let joining = (kamailio.release.value() < JOINING_IS_NAMED).then_some("MEM_JOIN_FREE");
    for word in silent.chain(joining) {
        if !list.iter().any(|d| d == word) {
            list.push(word.to_owned());
        }
    }
    list
}
