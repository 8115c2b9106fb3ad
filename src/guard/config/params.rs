//! Every module parameter once: name, kind, default, bounds, unit, meaning. modparam, cfg, RPC and README follow it.
//! Forbidden here: reading or storing values; this is the table, the parser of one value, and the cross-check.

use crate::guard::terms::words::Mode;

/// What a parameter accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number between two bounds.
    Int {
        /// Value when the configuration says nothing.
        default: i64,
        /// Smallest accepted value.
        min: i64,
        /// Largest accepted value.
        max: i64,
    },
    /// `enforce`, `observe` or `off`; kept as [`Mode`]'s number.
    Mode,
    /// Free text up to a length in bytes; empty means unset.
    Text {
        /// Value when the configuration says nothing.
        default: &'static str,
        /// Longest accepted value in bytes.
        max_len: usize,
    },
    /// May be given several times; each value is kept.
    List {
        /// How many values are accepted.
        max_items: usize,
    },
}

/// One parameter of `modparam("memguard", …)`.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// Its name in the configuration, in `cfg.set_now_int` and in `memguard.config`.
    pub name: &'static str,
    /// What it accepts.
    pub kind: Kind,
    /// Unit of the value, for people: "percent", "s", "ms", "bytes", "" for none.
    pub unit: &'static str,
    /// Can be changed while the server runs.
    pub runtime: bool,
    /// One line for `memguard.config`, cfg help and the README.
    pub doc: &'static str,
}

/// Declares the integer parameters: an enum whose number is the index into every array of values, and the table.
macro_rules! ints {
    ($($variant:ident $name:literal $default:literal [$min:literal ..= $max:literal] $unit:literal $when:ident $doc:literal;)+) => {
        /// The parameters that hold a number (mode included), by their index in shared memory.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        #[allow(missing_docs)] // the table below is their documentation
        pub enum Int { Mode, $($variant),+ }

        impl Int {
            /// Every numeric parameter in the order of its index.
            pub const ALL: &'static [Int] = &[Int::Mode, $(Int::$variant),+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The parameter's line in the table.
            pub fn param(self) -> &'static Param {
                &INT_PARAMS[self as usize]
            }

            /// Value when the configuration says nothing.
            pub const fn default_value(self) -> i64 {
                match INT_PARAMS[self as usize].kind {
                    Kind::Int { default, .. } => default,
                    _ => Mode::Enforce as i64,
                }
            }

            /// Smallest and largest accepted value.
            pub const fn bounds(self) -> (i64, i64) {
                match INT_PARAMS[self as usize].kind {
                    Kind::Int { min, max, .. } => (min, max),
                    _ => (0, Mode::COUNT as i64 - 1),
                }
            }

            /// The parameter of a name.
            pub fn by_name(name: &str) -> Option<Int> {
                Self::ALL.iter().copied().find(|p| p.param().name == name)
            }
        }

        /// The numeric parameters' table, indexed by [`Int`].
        pub const INT_PARAMS: &[Param] = &[
            Param {
                name: "mode", kind: Kind::Mode, unit: "", runtime: true,
                doc: "enforce refuses, observe only counts what it would refuse, off decides nothing",
            },
            $(Param {
                name: $name, kind: Kind::Int { default: $default, min: $min, max: $max },
                unit: $unit, runtime: ints!(@ $when), doc: $doc,
            }),+
        ];
    };
    (@ run) => { true };
    (@ start) => { false };
}

ints! {
    Auto "auto" 1 [0 ..= 1] "" start "1: the gate runs before the script by itself; 0: the script calls memguard_admit()";
    ShmWarning "shm_warning_pct" 70 [1 ..= 100] "percent" run "shm use at which the level becomes warning";
    ShmShed "shm_shed_pct" 80 [1 ..= 100] "percent" run "shm use at which refusing of new registrations starts";
    ShmFull "shm_full_pct" 92 [1 ..= 100] "percent" run "shm use at which every new registration is refused";
    ShmEmergency "shm_emergency_pct" 97 [1 ..= 100] "percent" run "shm use at which every returning registration is refused too";
    PkgWarning "pkg_warning_pct" 70 [1 ..= 100] "percent" run "pkg use of a worker at which its level becomes warning";
    PkgShed "pkg_shed_pct" 80 [1 ..= 100] "percent" run "pkg use of a worker at which it starts to refuse new registrations";
    PkgFull "pkg_full_pct" 92 [1 ..= 100] "percent" run "pkg use of a worker at which it refuses every new registration";
    PkgEmergency "pkg_emergency_pct" 97 [1 ..= 100] "percent" run "pkg use of a worker at which it refuses every returning registration too";
    OsWarning "os_warning_pct" 80 [1 ..= 100] "percent" run "use of the machine's or container's memory at which the level becomes warning";
    OsShed "os_shed_pct" 90 [1 ..= 100] "percent" run "use of the machine's or container's memory at which refusing starts";
    OsFull "os_full_pct" 95 [1 ..= 100] "percent" run "use of the machine's or container's memory at which every new registration is refused";
    OsEmergency "os_emergency_pct" 98 [1 ..= 100] "percent" run "use of the machine's or container's memory at which every returning registration is refused too";
    ResumeGap "resume_gap_pct" 5 [0 ..= 50] "percent" run "how far use must fall below a threshold before its level is left";
    Dwell "dwell" 10 [0 ..= 3600] "s" run "how long use must have stayed that low before the level is left";
    SampleInterval "sample_interval" 1000 [100 ..= 60000] "ms" run "time between two samples of the sampling process";
    ReplyCode "reply_code" 503 [400 ..= 699] "" run "status code of a refusal to a client that talks to this server directly";
    ProxiedReplyCode "proxied_reply_code" 500 [400 ..= 699] "" run "status code of a refusal that goes back through a proxy (more than one Via)";
    RetryAfterMin "retry_after_min" 30 [1 ..= 86400] "s" run "smallest Retry-After of a refusal";
    RetryAfterMax "retry_after_max" 1800 [1 ..= 86400] "s" run "largest Retry-After of a refusal";
    RetryRate "retry_rate" 50 [1 ..= 100000] "per second" run "registrations per second that refused clients are spread to";
    AorMemory "aor_memory" 3600 [0 ..= 2592000] "s" run "how long an AoR counts as known after its last binding ended";
    PrioritySos "priority_sos" 1 [0 ..= 1] "" run "1: a Contact with the URI parameter sos is an emergency registration, admitted like priority_aor; 0: it is like any other";
    Bindings "bindings" 262144 [1024 ..= 16777216] "bindings" start "bindings that the table of known bindings is sized for";
    Ballast "ballast" 65536 [0 ..= 16777216] "bytes" start "pkg memory each SIP worker keeps to release when it cannot hold one more message; 0: none";
    Attribution "attribution" 1 [0 ..= 1] "" start "1: count memory by the place that allocated it; 0: totals only";
    SampleBytes "sample_bytes" 524288 [0 ..= 1073741824] "bytes" run "one allocation in about this many bytes carries its context (from the default on, a busy process takes 64 a second); 1: every one; 0: none";
    StormFactor "storm_factor" 5 [2 ..= 1000] "" run "new registrations above this many times their usual rate are called a storm";
    StormMinRate "storm_min_rate" 20 [1 ..= 1000000] "per second" run "no storm is called below this rate of new registrations";
    OsLimit "os_limit" 0 [0 ..= 1073741824] "MiB" start "memory limit to hold against instead of the detected one; 0: detect";
    Python "python" 1 [0 ..= 1] "" start "1: where app_python3 is loaded, count the interpreter's own memory; 0: leave it alone";
    Pprof "pprof" 0 [0 ..= 1] "" start "1: listen serves /debug/pprof/heap and /debug/pprof/allocs, for continuous profiling; 0: it does not";
    DrainOptions "drain_options" 0 [0 ..= 1] "" run "1: while memguard.drain runs, OPTIONS to this server itself get 503, so that a dispatcher takes it out; 0: the script answers them";
    AddressGuard "address_guard" 1 [0 ..= 1] "" start "1: watch the addresses that Kamailio listens on; 0: leave them alone";
    ArpWatch "arp_watch" 1 [0 ..= 1] "" start "1: see by ARP whether another machine uses a watched IPv4 address (needs CAP_NET_RAW at the start); 0: do not look";
    Faults "faults" 0 [0 ..= 1] "" start "1: memguard.fault can let an allocation fail, for memguard-gate --faults; never on a server that is used";
}

/// Declares the text and list parameters.
macro_rules! texts {
    ($($variant:ident $name:literal $kind:expr, $doc:literal;)+) => {
        /// The parameters that hold text or a list, by their index in the start-up settings.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        #[allow(missing_docs)] // the table below is their documentation
        pub enum Text { $($variant),+ }

        impl Text {
            /// Every text parameter in the order of its index.
            pub const ALL: &'static [Text] = &[$(Text::$variant),+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The parameter's line in the table.
            pub fn param(self) -> &'static Param {
                &TEXT_PARAMS[self as usize]
            }
        }

        /// The text parameters' table, indexed by [`Text`].
        pub const TEXT_PARAMS: &[Param] = &[
            $(Param { name: $name, kind: $kind, unit: "", runtime: false, doc: $doc }),+
        ];
    };
}

/// Longest path that a parameter may hold (Linux PATH_MAX is 4096; longer than this is a mistake).
const MAX_PATH: usize = 1024;

texts! {
    ReplyReason "reply_reason" Kind::Text { default: "Server Memory Low", max_len: 64 },
        "reason phrase of a refusal";
    PriorityAor "priority_aor" Kind::List { max_items: 256 },
        "AoR that is admitted until memory cannot hold one more registration (user, user@domain, with or without sip:); repeatable";
    PriorityDomain "priority_domain" Kind::List { max_items: 256 },
        "domain whose AoRs are admitted like priority_aor; repeatable";
    PrioritySource "priority_source" Kind::List { max_items: 256 },
        "address or network (CIDR) whose REGISTERs are admitted like priority_aor; repeatable";
    SilentSource "silent_source" Kind::List { max_items: 256 },
        "address or network (CIDR) that is never answered before the script, which drops it or calls memguard_admit() itself; repeatable";
    Listen "listen" Kind::Text { default: "", max_len: 64 },
        "address:port on which the sampling process serves metrics and the page; empty: off";
    TextFile "textfile" Kind::Text { default: "", max_len: MAX_PATH },
        "file into which the metrics are written for node_exporter's textfile collector; empty: off";
    BindingsFile "bindings_file" Kind::Text { default: "", max_len: MAX_PATH },
        "file that carries the table of known bindings over a restart; empty: off";
    ProfileDir "profile_dir" Kind::Text { default: "", max_len: MAX_PATH },
        "directory that memguard.profile and memguard.evidence write into; empty: off";
    EventCallback "event_callback" Kind::Text { default: "", max_len: 64 },
        "KEMI function that is called on a change of level or of an address, where the event routes cannot be written; empty: none";
    AddressExpect "address_expect" Kind::List { max_items: 64 },
        "address that must be on this machine although Kamailio does not name it (it listens on 0.0.0.0, say); repeatable";
    AddressFloating "address_floating" Kind::List { max_items: 64 },
        "address that may be here or on another machine: its absence is standby and no alarm; repeatable";
    BlackBox "blackbox" Kind::Text { default: "", max_len: MAX_PATH },
        "file that keeps the last hours for reading after a crash; empty: off";
}

/// Reads one integer as modparam or RPC gives it.
///
/// # Errors
/// A whole sentence for the operator: what was given and what is accepted.
pub fn parse_int(param: Int, text: &str) -> Result<i64, String> {
    let (min, max) = param.bounds();
    let name = param.param().name;
    if param == Int::Mode {
        let word = Mode::parse(text).map(|m| m as i64);
        let number = || text.parse::<i64>().ok().filter(|n| (min..=max).contains(n));
        return word.or_else(number).ok_or_else(|| {
            format!("parameter {name} is \"{text}\", but accepts enforce, observe or off")
        });
    }
    match text.trim().parse::<i64>() {
        Ok(value) => check_int(param, value),
        Err(_) => Err(format!(
            "parameter {name} is \"{text}\", but accepts a whole number from {min} to {max}"
        )),
    }
}

/// Holds one integer against its bounds.
///
/// # Errors
/// A whole sentence for the operator.
pub fn check_int(param: Int, value: i64) -> Result<i64, String> {
    let (min, max) = param.bounds();
    if (min..=max).contains(&value) {
        return Ok(value);
    }
    let name = param.param().name;
    Err(format!(
        "parameter {name} is {value}, but accepts {min} to {max}"
    ))
}

/// The defaults of all numeric parameters, by index.
pub const fn int_defaults() -> [i64; Int::COUNT] {
    let mut values = [0; Int::COUNT];
    let mut i = 0;
    while i < Int::COUNT {
        values[i] = Int::ALL[i].default_value();
        i += 1;
    }
    values
}

/// Thresholds of which each must be smaller than the one after it.
const LADDERS: [[Int; 4]; 3] = [
    [
        Int::ShmWarning,
        Int::ShmShed,
        Int::ShmFull,
        Int::ShmEmergency,
    ],
    [
        Int::PkgWarning,
        Int::PkgShed,
        Int::PkgFull,
        Int::PkgEmergency,
    ],
    [Int::OsWarning, Int::OsShed, Int::OsFull, Int::OsEmergency],
];

/// Whether there are no [`contradictions`]; without a sentence, for callers that must not allocate.
pub fn is_consistent(values: &[i64; Int::COUNT]) -> bool {
    let at = |p: Int| values[p as usize];
    let mut pairs = LADDERS.iter().flat_map(|ladder| ladder.windows(2));
    pairs.all(|pair| at(pair[0]) < at(pair[1])) && at(Int::RetryAfterMin) <= at(Int::RetryAfterMax)
}

/// The contradictions between numeric parameters, each as one sentence; empty when there are none.
///
/// Runs at start (all in one message) and before a run-time change is accepted.
pub fn contradictions(values: &[i64; Int::COUNT]) -> Vec<String> {
    use Int::*;
    let at = |p: Int| values[p as usize];
    let mut found = Vec::new();
    for ladder in LADDERS {
        for pair in ladder.windows(2) {
            if at(pair[0]) >= at(pair[1]) {
                found.push(format!(
                    "{} ({}) must be smaller than {} ({})",
                    pair[0].param().name,
                    at(pair[0]),
                    pair[1].param().name,
                    at(pair[1])
                ));
            }
        }
    }
    if at(RetryAfterMin) > at(RetryAfterMax) {
        found.push(format!(
            "retry_after_min ({}) must not be larger than retry_after_max ({})",
            at(RetryAfterMin),
            at(RetryAfterMax)
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found_again() {
        let mut names: Vec<_> = INT_PARAMS
            .iter()
            .chain(TEXT_PARAMS)
            .map(|p| p.name)
            .collect();
        for param in Int::ALL {
            assert_eq!(Int::by_name(param.param().name), Some(*param));
        }
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn defaults_lie_within_their_bounds_and_do_not_contradict() {
        for param in Int::ALL {
            assert!(
                check_int(*param, param.default_value()).is_ok(),
                "{param:?}"
            );
        }
        assert_eq!(contradictions(&int_defaults()), Vec::<String>::new());
    }

    #[test]
    fn bounds_fit_the_cfg_frameworks_32_bit_integers() {
        for param in Int::ALL {
            let (min, max) = param.bounds();
            assert!(min >= 0 && max <= i64::from(i32::MAX), "{param:?}");
        }
    }

    #[test]
    fn bad_values_get_a_sentence_with_value_and_range() {
        let said = parse_int(Int::Dwell, "soon").unwrap_err();
        assert_eq!(
            said,
            "parameter dwell is \"soon\", but accepts a whole number from 0 to 3600"
        );
        assert!(
            parse_int(Int::Dwell, "3601")
                .unwrap_err()
                .contains("0 to 3600")
        );
        assert_eq!(parse_int(Int::Mode, "observe"), Ok(Mode::Observe as i64));
        assert!(
            parse_int(Int::Mode, "on")
                .unwrap_err()
                .contains("enforce, observe or off")
        );
    }

    #[test]
    fn every_contradiction_is_reported_not_only_the_first() {
        let mut values = int_defaults();
        values[Int::ShmShed as usize] = 70;
        values[Int::RetryAfterMin as usize] = 2000;
        let found = contradictions(&values);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("shm_warning_pct (70)"));
    }

    #[test]
    fn what_has_contradictions_is_not_consistent_and_all_else_is() {
        assert!(is_consistent(&int_defaults()));
        let changes = [
            (Int::ShmShed, 70),
            (Int::PkgFull, 100),
            (Int::OsWarning, 99),
            (Int::RetryAfterMin, 1800),
            (Int::RetryAfterMin, 2000),
            (Int::RetryAfterMax, 1),
            (Int::SampleBytes, 1),
        ];
        for (param, value) in changes {
            let mut values = int_defaults();
            values[param as usize] = value;
            assert_eq!(
                is_consistent(&values),
                contradictions(&values).is_empty(),
                "{param:?} {value}"
            );
        }
    }
}
