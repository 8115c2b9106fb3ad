//! The commands that change something, and the table of all.
//! Forbidden here: Kamailio's RPC interface (module/rpc.rs adapts it), and SIP.

pub mod changing;
pub mod evidence;
pub mod json;
pub mod learn;

use crate::guard::formats::report::{Answer, Fault};
use crate::host::reports::{self, forecast_reports, path_reports, profile, site_reports};

/// One command.
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// One line of help, arguments first.
    pub help: &'static str,
    /// Its answer is a list.
    pub is_list: bool,
    /// What answers it.
    pub run: fn(&[&str]) -> Result<Answer, Fault>,
}

/// All commands, in the order of the contract (design §6).
pub const COMMANDS: [Command; 31] = [
    Command {
        name: "memguard.status",
        help: "Level, what is tightest, how long it lasts, what is refused. No arguments.",
        is_list: false,
        run: reports::status,
    },
    Command {
        name: "memguard.pools",
        help: "Use of shm, of the fullest worker's pkg, and of the machine's memory. No arguments.",
        is_list: true,
        run: reports::pools,
    },
    Command {
        name: "memguard.workers",
        help: "Memory and messages per process. [pid N, rank N, index N, leaking or top N]",
        is_list: true,
        run: reports::workers,
    },
    Command {
        name: "memguard.registrations",
        help: "REGISTERs by class, rates, known bindings. No arguments.",
        is_list: false,
        run: reports::registrations,
    },
    Command {
        name: "memguard.sites",
        help: "The places that hold memory: what rises all the time first, then what is large. \
               [pool P] [worker INDEX] [module M] [by live, growth, failures or drift] [top N] [from N]",
        is_list: true,
        run: site_reports::sites,
    },
    Command {
        name: "memguard.modules",
        help: "What each module holds. [pool P] [worker INDEX]",
        is_list: true,
        run: site_reports::modules,
    },
    Command {
        name: "memguard.paths",
        help: "How the memory that is held was reached, from samples: call path, configuration line, SIP method. \
               [pool P] [worker INDEX] [module M] [top N] [from N]",
        is_list: true,
        run: path_reports::paths,
    },
    Command {
        name: "memguard.failures",
        help: "Allocations that failed, by worker and place. No arguments.",
        is_list: true,
        run: site_reports::failures,
    },
    Command {
        name: "memguard.mark",
        help: "Remembers what every place holds now; at most 8 marks, the oldest gives way. [NAME]",
        is_list: false,
        run: site_reports::mark,
    },
    Command {
        name: "memguard.diff",
        help: "What every place gained since a mark. [NAME] [top N]",
        is_list: false,
        run: site_reports::diff,
    },
    Command {
        name: "memguard.profile",
        help: "Writes the live heap by place and by sampled call path into profile_dir, for pprof and as folded stacks. [shm or pkg] [worker INDEX]",
        is_list: false,
        run: profile::profile,
    },
    Command {
        name: "memguard.forecast",
        help: "When each pool will be full, between when and when, and why. [shm, pkg or os]",
        is_list: true,
        run: forecast_reports::forecast,
    },
    Command {
        name: "memguard.history",
        help: "The last hour by second or the last day by minute of one figure. NAME [points] [step]",
        is_list: false,
        run: forecast_reports::history,
    },
    Command {
        name: "memguard.check",
        help: "Code, text and perfdata for Nagios and Icinga. [warn_pct crit_pct] [warn_s crit_s]",
        is_list: false,
        run: forecast_reports::check,
    },
    Command {
        name: "memguard.addresses",
        help: "Whether the addresses that Kamailio needs are here, and whether another machine uses one; the worst first. [ADDRESS]",
        is_list: true,
        run: reports::addresses,
    },
    Command {
        name: "memguard.events",
        help: "The last changes of level and of addresses, newest first. [N]",
        is_list: true,
        run: reports::events,
    },
    Command {
        name: "memguard.refusals",
        help: "The last refused REGISTERs, newest first: whose, from where, why. [N]",
        is_list: true,
        run: reports::refusals,
    },
    Command {
        name: "memguard.config",
        help: "Every parameter with the value in force. No arguments.",
        is_list: true,
        run: reports::config,
    },
    Command {
        name: "memguard.metrics",
        help: "The Prometheus text in one string, as /metrics serves it. No arguments.",
        is_list: false,
        run: reports::metrics,
    },
    Command {
        name: "memguard.json",
        help: "Everything as one JSON document in one string. No arguments.",
        is_list: false,
        run: json::json,
    },
    Command {
        name: "memguard.evidence",
        help: "Writes everything into a folder below profile_dir, with a report for the authors of the module that leaks; no phone is in it. No arguments.",
        is_list: false,
        run: evidence::evidence,
    },
    Command {
        name: "memguard.mode",
        help: "Shows or changes the mode, in force at once in every process. [enforce, observe or off]",
        is_list: false,
        run: changing::mode,
    },
    Command {
        name: "memguard.priority",
        help: "Shows or changes who is let in to the last, in force at once in every process, until the restart. \
               [list, add or remove] [aor, domain or source] [VALUE; kamcmd takes digits as a number: sip:0301234]",
        is_list: true,
        run: changing::priority,
    },
    Command {
        name: "memguard.shed",
        help: "Refuses new and returning registrations for a time, whatever the memory. SECONDS",
        is_list: false,
        run: changing::shed,
    },
    Command {
        name: "memguard.drain",
        help: "Takes the server out of service for a time: refuses new and returning registrations, /ready 503, with drain_options 1 \
               OPTIONS 503; answers what is left. [SECONDS; 0 ends it]",
        is_list: false,
        run: changing::drain,
    },
    Command {
        name: "memguard.comeback",
        help: "Who came back after the last restart, and how fast. No arguments.",
        is_list: false,
        run: reports::restart::comeback,
    },
    Command {
        name: "memguard.restart",
        help: "Whether to restart, by when, at which quiet hour, what it costs and what is in the way; restarts nothing. No arguments.",
        is_list: false,
        run: reports::restart::restart,
    },
    Command {
        name: "memguard.learn",
        help: "Takes another server's bindings_file over: its phones' refreshes pass here. FILE",
        is_list: false,
        run: learn::learn,
    },
    Command {
        name: "memguard.resume",
        help: "Ends memguard.shed and memguard.drain: refusing follows live use again. No arguments.",
        is_list: false,
        run: changing::resume,
    },
    Command {
        name: "memguard.fault",
        help: "Only with faults 1: lets the N-th allocation of a process fail, once, or says what became of it. [INDEX N]",
        is_list: false,
        run: changing::fault,
    },
    Command {
        name: "memguard.reset",
        help: "Starts peaks, the usual registration rate, failure counts or the queue of refused registrations anew. peaks, baseline, failures or queue",
        is_list: false,
        run: changing::reset,
    },
];
