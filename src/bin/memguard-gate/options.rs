//! The command line.
//! Forbidden here: looking at files, but for the names given.

use std::path::PathBuf;

use lexopt::prelude::*;

use crate::failure::Failure;

/// What `--help` prints.
pub const HELP: &str = "\
usage: memguard-gate kamailio.cfg [OPTIONS] [-- ARGUMENTS OF KAMAILIO]

Starts a Kamailio of its own on your configuration, with memguard in mode observe, sends it the same traffic again and
again, and fails when a place in the code keeps memory of every round. Your configuration stays as it is.

Traffic (one of them; without one: built-in scenarios by sipp, OPTIONS, REGISTER to un-REGISTER, INVITE to BYE)
  --traffic CMD         any command, run by sh in each round; it finds the server in $MEMGUARD_GATE_TARGET
                        (127.0.0.1:5060); also _HOST, _PORT, _TRANSPORT, _REQUESTS, _RATE, _ROUND, _PID
  --sipp SCENARIO.xml   a scenario of your own, as many calls in each round as --requests says
  --scenario NAME       only this built-in scenario: options, register or call; may be given again
  --auth USER:PASSWORD  credentials for the built-in scenarios, where the server asks for some
  --rounds N            measured rounds (5)
  --warmup N            rounds before them that are not measured (2)
  --requests N          requests or calls of each scenario in each round (200)
  --rate N              of them per second (100)

Verdict
  --limit BYTES         a place may keep this many bytes per request (0)
  --private-limit BYTES a process may keep this many per request outside Kamailio's pools, in Python or libc (64)
  --allow FILE          known places, one a line: module file function # the reason. '*' stands for any
  --quiet SECONDS       how long to wait after each round until transactions have ended (40)
  --faults              then fail each allocation of one OPTIONS, REGISTER and INVITE in turn: nobody may die or keep it
  --stress RATE SECONDS then send RATE requests per second and more: what holds, and what an hour of it leaves

Reports
  --junit FILE          JUnit XML, as GitLab and Jenkins show it
  --sarif FILE          SARIF 2.1.0, as GitHub's code scanning shows it: each leak at its configuration line
  --json FILE           everything, for programs
  --silent              no progress

The server
  --kamailio PATH       the program (kamailio)
  --modules DIR         where its modules are, several with ':' between them (its own default)
  --memguard PATH       memguard.so (the one among its modules)
  --manager qm|fm|tlsf  the memory manager, of both pools (Kamailio's default)
  --listen PROTO:ADDRESS:PORT
                        listen there, and nowhere else: replaces every listen line of the file; may be given again.
                        A file without listen lines listens on a free port of 127.0.0.1 anyway
  --define NAME[=VALUE] a #!define of the configuration; may be given again
  --keep DIR            the run folder (configuration, log, output of the traffic), kept; a new one is made otherwise
  --sipp-program PATH   sipp (sipp)

Exit code: 0 nothing leaks, 1 a leak or a fault, 2 wrong usage, 3 it could not be run, 4 the server died.
";

/// The memory managers that Kamailio's packages have.
const MANAGERS: [&str; 3] = ["qm", "fm", "tlsf"];

/// What to send.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Traffic {
    /// The built-in scenarios.
    #[default]
    BuiltIn,
    /// A command for sh.
    Command(String),
    /// A scenario file for sipp.
    Sipp(PathBuf),
}

/// The command line, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The configuration to test.
    pub cfg: PathBuf,
    /// What to send.
    pub traffic: Traffic,
    /// Which built-in scenarios; empty: all.
    pub scenarios: Vec<String>,
    /// User and password for them.
    pub auth: Option<(String, String)>,
    /// Measured rounds.
    pub rounds: usize,
    /// Rounds before them.
    pub warmup: usize,
    /// Requests of each scenario in each round.
    pub requests: u64,
    /// Of them per second.
    pub rate: u64,
    /// Bytes per request that a place may keep.
    pub limit: f64,
    /// Bytes per request that a process may keep outside the pools.
    pub private_limit: f64,
    /// File of known places.
    pub allow: Option<PathBuf>,
    /// Longest wait for quiet, in seconds.
    pub quiet: u64,
    /// Whether allocations are failed.
    pub faults: bool,
    /// Requests per second, seconds.
    pub stress: Option<(u64, u64)>,
    /// Report files.
    pub junit: Option<PathBuf>,
    /// As above.
    pub sarif: Option<PathBuf>,
    /// As above.
    pub json: Option<PathBuf>,
    /// No progress.
    pub silent: bool,
    /// The program.
    pub kamailio: PathBuf,
    /// Its modules; `None`: its default.
    pub modules: Option<String>,
    /// memguard.so.
    pub memguard: PathBuf,
    /// Memory manager of both pools.
    pub manager: Option<String>,
    /// Sockets in place of the file's.
    pub listen: Vec<String>,
    /// Definitions.
    pub defines: Vec<String>,
    /// The run folder.
    pub keep: Option<PathBuf>,
    /// The program sipp.
    pub sipp: PathBuf,
    /// Further arguments of Kamailio.
    pub arguments: Vec<String>,
}

/// What the command line asks for.
#[derive(Debug, PartialEq)]
pub enum Asked {
    /// A run.
    Run(Box<Options>),
    /// The help text.
    Help,
    /// The version.
    Version,
}

/// # Errors
/// Usage: a sentence.
pub fn parse(words: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Asked, Failure> {
    read(words).map_err(|e| Failure::Usage(format!("{e}; memguard-gate --help shows all options")))
}

fn read(words: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Asked, lexopt::Error> {
    let mut o = Options {
        cfg: PathBuf::new(),
        traffic: Traffic::default(),
        scenarios: Vec::new(),
        auth: None,
        rounds: 5,
        warmup: 2,
        requests: 200,
        rate: 100,
        limit: 0.0,
        private_limit: 64.0,
        allow: None,
        quiet: 40,
        faults: false,
        stress: None,
        junit: None,
        sarif: None,
        json: None,
        silent: false,
        kamailio: "kamailio".into(),
        modules: None,
        memguard: "memguard.so".into(),
        manager: None,
        listen: Vec::new(),
        defines: Vec::new(),
        keep: None,
        sipp: "sipp".into(),
        arguments: Vec::new(),
    };
    let mut cfg = None;
    let (words, arguments) = split(words);
    for word in arguments {
        o.arguments.push(word.string()?);
    }
    let mut parser = lexopt::Parser::from_args(words);
    while let Some(word) = parser.next()? {
        match word {
            Short('h') | Long("help") => return Ok(Asked::Help),
            Short('V') | Long("version") => return Ok(Asked::Version),
            Long("traffic") => traffic(&mut o, Traffic::Command(parser.value()?.string()?))?,
            Long("sipp") => traffic(&mut o, Traffic::Sipp(parser.value()?.into()))?,
            Long("scenario") => o.scenarios.push(scenario(parser.value()?.string()?)?),
            Long("auth") => {
                let both = parser.value()?.string()?;
                let (user, password) = both
                    .split_once(':')
                    .ok_or("--auth is USER:PASSWORD".to_owned())?;
                o.auth = Some((user.into(), password.into()));
            }
            Long("rounds") => o.rounds = at_least(&mut parser, "--rounds", 3)? as usize,
            Long("warmup") => o.warmup = at_least(&mut parser, "--warmup", 0)? as usize,
            Long("requests") => o.requests = at_least(&mut parser, "--requests", 1)?,
            Long("rate") => o.rate = at_least(&mut parser, "--rate", 1)?,
            Long("limit") => o.limit = bytes(&mut parser, "--limit")?,
            Long("private-limit") => o.private_limit = bytes(&mut parser, "--private-limit")?,
            Long("allow") => o.allow = Some(parser.value()?.into()),
            Long("quiet") => o.quiet = at_least(&mut parser, "--quiet", 1)?,
            Long("faults") => o.faults = true,
            Long("stress") => {
                let rate = at_least(&mut parser, "--stress", 1)?;
                o.stress = Some((rate, at_least(&mut parser, "the seconds of --stress", 2)?));
            }
            Long("junit") => o.junit = Some(parser.value()?.into()),
            Long("sarif") => o.sarif = Some(parser.value()?.into()),
            Long("json") => o.json = Some(parser.value()?.into()),
            Long("silent") => o.silent = true,
            Long("kamailio") => o.kamailio = parser.value()?.into(),
            Long("modules") => o.modules = Some(parser.value()?.string()?),
            Long("memguard") => o.memguard = parser.value()?.into(),
            Long("manager") => {
                let name = parser.value()?.string()?;
                if !MANAGERS.contains(&name.as_str()) {
                    return Err(format!("--manager is qm, fm or tlsf, not {name}").into());
                }
                o.manager = Some(name);
            }
            Long("listen") => o.listen.push(parser.value()?.string()?),
            Long("define") => o.defines.push(parser.value()?.string()?),
            Long("keep") => o.keep = Some(parser.value()?.into()),
            Long("sipp-program") => o.sipp = parser.value()?.into(),
            Value(file) if cfg.is_none() => cfg = Some(PathBuf::from(file)),
            other => return Err(other.unexpected()),
        }
    }
    o.cfg = cfg.ok_or("which configuration? give the path of a kamailio.cfg".to_owned())?;
    if !o.scenarios.is_empty() && o.traffic != Traffic::BuiltIn {
        return Err(
            "--scenario is for the built-in traffic: leave it or --traffic and --sipp out".into(),
        );
    }
    Ok(Asked::Run(Box::new(o)))
}

/// What stands before `--`, and what behind it.
fn split(
    words: impl IntoIterator<Item = std::ffi::OsString>,
) -> (Vec<std::ffi::OsString>, Vec<std::ffi::OsString>) {
    let all: Vec<_> = words.into_iter().collect();
    match all.iter().position(|word| word == "--") {
        Some(at) => (all[..at].to_vec(), all[at + 1..].to_vec()),
        None => (all, Vec::new()),
    }
}

fn traffic(options: &mut Options, wanted: Traffic) -> Result<(), lexopt::Error> {
    if options.traffic != Traffic::BuiltIn {
        return Err("one kind of traffic, please: --traffic or --sipp, once".into());
    }
    options.traffic = wanted;
    Ok(())
}

fn scenario(name: String) -> Result<String, lexopt::Error> {
    match crate::traffic::BUILT_IN.contains(&name.as_str()) {
        true => Ok(name),
        false => Err(format!(
            "--scenario is one of {}, not {name}",
            crate::traffic::BUILT_IN.join(", ")
        )
        .into()),
    }
}

fn at_least(parser: &mut lexopt::Parser, what: &str, least: u64) -> Result<u64, lexopt::Error> {
    let word = parser.value()?.string()?;
    let number = word.parse().ok().filter(|n| *n >= least);
    number.ok_or_else(|| format!("{what} is a number from {least} on, not {word}").into())
}

fn bytes(parser: &mut lexopt::Parser, what: &str) -> Result<f64, lexopt::Error> {
    let word = parser.value()?.string()?;
    let number = word.parse::<f64>().ok();
    number
        .filter(|n| n.is_finite() && *n >= 0.0)
        .ok_or_else(|| format!("{what} is a number of bytes, 0 or more, not {word}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Asked, Failure> {
        parse(line.split_whitespace().map(Into::into))
    }

    fn options(line: &str) -> Options {
        match parsed(line) {
            Ok(Asked::Run(options)) => *options,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_manual_page_has_every_option() {
        let page = include_str!("../../../debian/memguard-gate.1").replace("\\-", "-");
        let words = HELP.split(|c: char| !c.is_ascii_lowercase() && c != '-');
        for option in words.filter(|word| word.starts_with("--") && word.len() > 2) {
            assert!(page.contains(option), "{option}");
        }
    }

    #[test]
    fn a_configuration_alone_is_enough() {
        let o = options("kamailio.cfg");
        assert_eq!((o.rounds, o.warmup, o.requests), (5, 2, 200));
        assert_eq!((o.limit, o.traffic), (0.0, Traffic::BuiltIn));
    }

    #[test]
    fn what_stands_behind_two_dashes_is_kamailios() {
        let o = options("a.cfg --rounds 4 --stress 50 10 -- -m 32 --rounds");
        assert_eq!(o.arguments, ["-m", "32", "--rounds"]);
        assert_eq!((o.rounds, o.stress), (4, Some((50, 10))));
    }

    #[test]
    fn a_wrong_command_line_is_one_sentence_and_exit_code_2() {
        for line in [
            "",
            "a.cfg b.cfg",
            "a.cfg --rounds 2",
            "a.cfg --limit -1",
            "a.cfg --limit nan",
            "a.cfg --manager sys",
            "a.cfg --scenario bye",
            "a.cfg --traffic true --sipp x.xml",
            "a.cfg --auth alice",
            "a.cfg --unknown",
            "a.cfg --stress 10",
        ] {
            let failure = parsed(line).expect_err(line);
            assert_eq!(failure.code(), 2, "{line}");
            assert_eq!(failure.text().lines().count(), 1, "{}", failure.text());
        }
    }

    #[test]
    fn the_help_fits_a_terminal_and_names_every_option() {
        assert!(HELP.lines().all(|line| line.len() <= 120));
        for line in include_str!("options.rs").lines() {
            let line = line.trim_start();
            let is_arm = line.starts_with("Long(\"") || line.starts_with("Short(");
            let name = line.split("Long(\"").nth(1);
            let option = name
                .and_then(|rest| rest.split('"').next())
                .filter(|_| is_arm);
            let Some(option) = option.filter(|o| !["help", "version"].contains(o)) else {
                continue;
            };
            assert!(HELP.contains(&format!("--{option}")), "--{option}");
        }
    }
}
