//! The metrics of the contract (design §8): one table of names, written as Prometheus text (format 0.0.4) and as statistics.
//! Forbidden here: reading anything, clocks, timestamps, and labels from open sets (no AoR, address, pid or site).

use std::fmt::Write;

use crate::guard::terms::words::Class;

/// In front of every name.
pub const PREFIX: &str = "kamailio_memguard_";

/// What the text is, for HTTP (Prometheus exposition formats, "Basic info").
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only grows, until the server starts again.
    Counter,
}

impl Kind {
    /// The word after the name in a TYPE line.
    pub const fn word(self) -> &'static str {
        match self {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        }
    }
}

/// Where the series of a family come from.
#[derive(Clone, Copy, Debug)]
pub enum Series {
    /// One, always 1, with the versions as labels.
    Build,
    /// One without labels.
    One(fn(&Measures) -> u64),
    /// One for each class.
    ByClass(fn(&Measures) -> &[u64; Class::COUNT]),
    /// One for each process.
    ByWorker(fn(&Worker) -> u64),
}

/// A metric: its name without the prefix, one line of help, its series.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Name without the prefix.
    pub name: &'static str,
    /// Gauge or counter.
    pub kind: Kind,
    /// One line of help, for HELP lines, `cnt.help` and the README.
    pub help: &'static str,
    /// Its series.
    pub series: Series,
}

/// Declares the metrics: a field and a line of the table for each, so that no series can be left out.
macro_rules! families {
    (
        one { $($one_kind:ident $one:ident $one_help:literal;)+ }
        by_class { $($class_kind:ident $class:ident $class_help:literal;)+ }
        by_worker { $($worker_kind:ident $worker:ident $metric:literal $worker_help:literal;)+ }
    ) => {
        /// The server's figures at one moment. Each field is the metric of its name, in the metric's unit.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Measures {
            $(#[doc = $one_help] pub $one: u64,)+
            $(#[doc = $class_help] pub $class: [u64; Class::COUNT],)+
        }

        /// One process's figures.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Worker {
            /// Its index in `core.psx`.
            pub index: u64,
            $(#[doc = $worker_help] pub $worker: u64,)+
        }

        /// Every metric.
        pub const FAMILIES: &[Family] = &[
            Family {
                name: "build_info",
                kind: Kind::Gauge,
                help: "always 1; the versions of memguard and Kamailio are its labels",
                series: Series::Build,
            },
            $(Family { name: stringify!($one), kind: Kind::$one_kind, help: $one_help, series: Series::One(|m| m.$one) },)+
            $(Family { name: stringify!($class), kind: Kind::$class_kind, help: $class_help, series: Series::ByClass(|m| &m.$class) },)+
            $(Family { name: $metric, kind: Kind::$worker_kind, help: $worker_help, series: Series::ByWorker(|w| w.$worker) },)+
        ];
    };
}

families! {
    one {
        Gauge level "how close memory is to its end: 0 normal, 1 warning, 2 shedding, 3 emergency";
        Gauge enforcing "1 while refusals are carried out (mode enforce), 0 in the modes observe and off";
        Counter level_changes_total "level changes of the server, its pools and its processes";
        Gauge shm_size_bytes "size of the shared memory pool";
        Gauge shm_used_bytes "shared memory used, the manager's overhead included (real_used)";
        Gauge shm_peak_bytes "largest use of shared memory that was sampled since the start or memguard.reset peaks";
        Gauge shm_drift_bytes "shared memory that the manager books as used and nobody holds; 0 when the books are right";
        Counter shm_failures_total "allocations of shared memory that failed";
        Gauge pkg_size_bytes "size of each process's private memory pool";
        Gauge pkg_used_max_bytes "private memory used by the fullest process, the manager's overhead included";
        Counter pkg_failures_total "allocations of private memory that failed";
        Gauge os_limit_bytes "limit of the machine's or container's memory that decides; 0 when unknown";
        Gauge os_used_bytes "use against os_limit_bytes";
        Gauge headroom_bytes "bytes left before the tightest pool or limit is full";
        Gauge exhaustion_seconds "time until the first pool or limit is full at its present growth; 2592000: none foreseen";
        Gauge full_at_this_rate_seconds "time until the first pool or limit is full at the pace of the last ten seconds; 2592000: none grows";
        Gauge forecast_valid "1 while exhaustion_seconds rests on enough samples";
        Gauge registration_cost_bytes "shared memory that one more registration takes, as learned; 0: not known yet";
        Gauge registrations_left "registrations that fit in before every new one is refused; 0 while registration_cost_bytes is 0";
        Counter fail_open_total "REGISTERs admitted because no decision or no answer could be made";
        Gauge known_bindings "bindings that are known and alive";
        Gauge queue_length "refused AoRs that have a slot in the queue still to come";
        Gauge storm "1 while new registrations come far above their usual rate";
        Gauge address_alarm "the watched addresses: 0 ok, 1 warning, 2 critical, the worst of them";
        Gauge address_missing "addresses that are needed and not on this machine, or not usable there (an IPv6 duplicate)";
        Gauge address_leased "addresses that are needed and leased: DHCP may give them to another machine";
        Counter address_claims_total "ARP frames of other machines that claimed an address while it was here";
        Gauge workers "processes of the server";
        Gauge workers_leaking "processes whose memory grows without an end in sight";
        Gauge draining "1 while memguard.drain runs";
        Gauge restart_advice "what memguard.restart advises: 0 none, 1 plan, 2 soon, 3 now, 4 wait";
        Gauge comeback_before "bindings of the run before that were alive at the start; 0: none were carried over";
        Gauge comeback_back "of comeback_before, bindings that were heard of since";
        Gauge comeback_overdue "AoRs of the run before that were not heard of until the last of their registrations had ended; 0 before that";
        Gauge last_sample_timestamp_seconds "Unix time of the last sample of the sampling process";
        Counter sample_errors_total "times the sampling process could not read the machine's memory or write the text file, had not enough memory, or was started again";
    }
    by_class {
        Counter registers_total "REGISTERs that arrived, retransmissions included";
        Counter rejected_total "REGISTERs that were refused";
        Counter rejected_observed_total "REGISTERs that mode enforce would have refused, in mode observe";
    }
    by_worker {
        Gauge pkg_used_bytes "worker_pkg_used_bytes" "private pool used by the process, the manager's overhead included";
        Gauge private_bytes "worker_private_bytes" "resident memory of the process outside of Kamailio's pools";
        Gauge leaking "worker_leaking" "1 while the process's memory grows without an end in sight";
    }
}

/// The versions that `build_info` carries.
#[derive(Clone, Copy, Debug, Default)]
pub struct Build<'a> {
    /// memguard's.
    pub version: &'a str,
    /// Kamailio's.
    pub kamailio: &'a str,
}

/// The whole text: every family with its HELP and TYPE, the last line ended.
pub fn text(build: Build<'_>, measures: &Measures, workers: &[Worker]) -> String {
    let mut out = String::with_capacity(8192 + 160 * workers.len());
    for family in FAMILIES {
        let Family { name, help, .. } = family;
        let kind = family.kind.word();
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}\n"
        );
        let _ = match family.series {
            Series::Build => {
                let (version, kamailio) = (Label(build.version), Label(build.kamailio));
                writeln!(
                    out,
                    "{PREFIX}{name}{{version=\"{version}\",kamailio=\"{kamailio}\"}} 1"
                )
            }
            Series::One(value) => writeln!(out, "{PREFIX}{name} {}", value(measures)),
            Series::ByClass(values) => {
                Class::ALL
                    .iter()
                    .zip(values(measures))
                    .try_for_each(|(class, value)| {
                        writeln!(out, "{PREFIX}{name}{{class=\"{class}\"}} {value}")
                    })
            }
            Series::ByWorker(value) => workers.iter().try_for_each(|worker| {
                let index = worker.index;
                writeln!(
                    out,
                    "{PREFIX}{name}{{worker=\"{index}\"}} {}",
                    value(worker)
                )
            }),
        };
    }
    out
}

/// A label's value with its three escapes (text format: backslash, quote, line feed).
struct Label<'a>(&'a str);

impl std::fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            c => f.write_char(c),
        })
    }
}

/// One statistic of group `memguard`: it cannot carry a label, so each class is a name of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statistic {
    /// Its name in the group; with [`PREFIX`] it is what xhttp_prom prints.
    pub name: String,
    /// One line of help.
    pub help: String,
}

/// Every statistic; its place is its number for [`statistic_value`]. Processes have none.
pub fn statistics() -> Vec<Statistic> {
    let names = FAMILIES.iter().flat_map(|family| match family.series {
        Series::Build | Series::One(_) => vec![Statistic {
            name: family.name.to_owned(),
            help: family.help.to_owned(),
        }],
        Series::ByClass(_) => Class::ALL
            .iter()
            .map(|class| {
                let stem = family.name.strip_suffix("_total").unwrap_or(family.name);
                Statistic {
                    name: format!("{stem}_{class}_total"),
                    help: format!("{}: class {class}", family.help),
                }
            })
            .collect(),
        Series::ByWorker(_) => Vec::new(),
    });
    names.collect()
}

/// The value of the statistic of a number; 0 for a number that no statistic has. Allocates nothing.
pub fn statistic_value(measures: &Measures, number: usize) -> u64 {
    let mut number = number;
    for family in FAMILIES {
        let count = match family.series {
            Series::Build | Series::One(_) => 1,
            Series::ByClass(_) => Class::COUNT,
            Series::ByWorker(_) => 0,
        };
        if number >= count {
            number -= count;
            continue;
        }
        return match family.series {
            Series::Build => 1,
            Series::One(value) => value(measures),
            Series::ByClass(values) => values(measures).get(number).copied().unwrap_or(0),
            Series::ByWorker(_) => 0,
        };
    }
    0
}
