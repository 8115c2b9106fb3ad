//! memguard-gate: starts a configuration, sends it the same traffic again and again, and fails when it keeps memory.
//! Forbidden here: changing the user's configuration; traffic to anybody but the server that it started.

mod allow;
mod culprit;
mod failure;
mod faults;
mod github;
mod junit;
mod options;
mod process;
mod progress;
mod report;
mod rpc;
mod run;
mod sarif;
mod server;
mod snapshot;
mod stress;
mod traffic;
mod verdict;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use failure::{FOUND, Failure, HELD};
use options::{Asked, HELP, Options};
use progress::Progress;
use report::Report;

fn main() -> ExitCode {
    let code = match options::parse(std::env::args_os().skip(1)) {
        Ok(Asked::Help) => {
            print!("{HELP}");
            Ok(HELD)
        }
        Ok(Asked::Version) => {
            println!("memguard-gate {}", env!("CARGO_PKG_VERSION"));
            Ok(HELD)
        }
        Ok(Asked::Run(options)) => gate(&options),
        Err(failure) => Err(failure),
    };
    ExitCode::from(code.unwrap_or_else(|failure| {
        eprintln!("memguard-gate: {}", failure.text());
        failure.code()
    }))
}

fn gate(options: &Options) -> Result<u8, Failure> {
    process::catch_signals();
    let report = run::run(options, Progress::new(options.silent))?;
    write(options, &report)?;
    println!("{}", report.text());
    if github::is_here() {
        for line in github::annotations(&report, &options.cfg) {
            println!("{line}");
        }
    }
    Ok(if report.held() { HELD } else { FOUND })
}

fn write(options: &Options, report: &Report) -> Result<(), Failure> {
    if let Some(path) = &options.junit {
        put(path, &junit::document(report).map_err(failure::not_run)?)?;
    }
    if let Some(path) = &options.sarif {
        put(
            path,
            &format!("{:#}\n", sarif::document(report, &options.cfg)),
        )?;
    }
    if let Some(path) = &options.json {
        put(path, &format!("{:#}\n", report.json()))?;
    }
    Ok(())
}

fn put(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|e| failure::not_run(format!("{}: {e}", path.display())))
}
