//! The project's script runner, so that developers and CI run the same commands.
//!
//! Each subcommand is a module with its own help text. This file selects the subcommand and turns its
//! outcome into an exit status: 0 for success, 1 for a failure, and 2 for wrong usage.

mod bench;
mod conformance;
mod debian;
mod fixtures;
mod harness;
mod macos;
mod man;
mod needs;
mod processes;
mod test;
mod tidy;
mod windows;
mod workspace;

use std::env;
use std::ffi::OsString;
use std::fmt::Display;
use std::process::ExitCode;

const HELP: &str = "\
The project's script runner.

Usage: cargo xtask <command> [options]

Commands:
  test         check for (or install) the programs that the tests need, then run all tests
  bench        run the benchmarks and write bench/RESULTS.md
  conformance  run the MCP conformance suite against `tieline serve`
  tidy         check format, lints, docs and the project's own rules
  man          create the manual pages and completion scripts
  macos        type-check the workspace for macOS
  windows      build the workspace for Windows and run its tests under Wine

See `cargo xtask <command> --help` for details.
Exit status: 0 success, 1 failure, 2 wrong usage.";

fn main() -> ExitCode {
    match run(env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(why)) => {
            eprintln!("xtask: {why}\n\n{HELP}");
            ExitCode::from(2)
        }
        Err(Failure::Failed(why)) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: impl Iterator<Item = OsString>) -> Result<(), Failure> {
    let args = args
        .map(|arg| arg.into_string().map_err(|arg| usage(format!("{arg:?} is not UTF-8"))))
        .collect::<Result<Vec<_>, _>>()?;
    let Some((command, args)) = args.split_first() else {
        return Err(usage("missing command"));
    };
    match command.as_str() {
        "test" => test::run(args),
        test::suite::COMMAND => test::suite::run(args),
        "bench" => bench::run(args),
        "conformance" => conformance::run(args),
        "tidy" => tidy::run(args),
        "man" => man::run(args),
        "macos" => macos::run(args),
        "windows" => windows::run(args),
        "help" | "--help" | "-h" => {
            println!("{HELP}");
            Ok(())
        }
        unknown => Err(usage(format!("unknown command {unknown:?}"))),
    }
}

/// The reason why a command failed.
#[derive(Debug)]
enum Failure {
    Usage(String),
    Failed(String),
}

fn usage(why: impl Display) -> Failure {
    Failure::Usage(why.to_string())
}

fn failed(why: impl Display) -> Failure {
    Failure::Failed(why.to_string())
}

/// Returns whether help is requested. Arguments after `--` are not for xtask.
fn wants_help(args: &[String]) -> bool {
    args.iter().take_while(|arg| *arg != "--").any(|arg| arg == "--help" || arg == "-h")
}

/// Returns whether this is a CI machine, on which missing programs may be installed and all checks run.
fn is_ci() -> bool {
    env::var_os("CI").is_some_and(|value| value == "true")
}
