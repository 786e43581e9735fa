//! `cargo xtask bench`: the benchmarks, in release mode. They write their results themselves.

use crate::workspace::{Workspace, succeeds};
use crate::{Failure, failed, wants_help};

const HELP: &str = "\
Runs the benchmarks in release mode; they write bench/RESULTS.md.

Usage: cargo xtask bench [--quick] [arguments]

  --quick  a few seconds for each: shows that they run, not how fast

All arguments go to the benchmark program as they are.";

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    if wants_help(args) {
        println!("{HELP}");
        return Ok(());
    }
    let workspace = Workspace::here()?;
    let fixed = ["run", "--release", "--locked", "--package", "tieline-bench", "--"];
    match succeeds(workspace.cargo().args(fixed).args(args))? {
        true => Ok(()),
        false => Err(failed("the benchmarks failed")),
    }
}
