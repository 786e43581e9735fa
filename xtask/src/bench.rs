//! `cargo xtask bench`: the benchmarks, built as what is shipped. They write their results
//! themselves.

use crate::fixtures::{self, Fixture};
use crate::workspace::{Workspace, succeeds};
use crate::{Failure, failed, wants_help};

/// The rows that stand beside other libraries, which are a fixture.
const WITH_PEERS: &[&str] = &["calls", "websocket"];

const HELP: &str = "\
Runs the benchmarks, built with the profile `dist`; they write bench/RESULTS.md.

Usage: cargo xtask bench [--quick] [arguments]

  --quick  a few seconds for each: shows that they run, not how fast

The other libraries of the rows `calls` and `websocket` are built first, once (into ~/.cache/tieline or
XDG_CACHE_HOME); TIELINE_PEERS tells the benchmark program where they are.

All arguments go to the benchmark program as they are.";

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    if wants_help(args) {
        println!("{HELP}");
        return Ok(());
    }
    let workspace = Workspace::here()?;
    let fixed = ["run", "--profile", "dist", "--locked", "--package", "tieline-bench", "--"];
    let mut benchmarks = workspace.cargo();
    benchmarks.args(fixed).args(args);
    if wants_peers(args) {
        match built_peers(&workspace) {
            Ok(peers) => benchmarks.env(peers.variable, peers.location()),
            // All else can be measured, and the table says what is missing.
            Err(Failure::Failed(why) | Failure::Usage(why)) => {
                eprintln!("xtask: {why}; going on without the other libraries");
                &mut benchmarks
            }
        };
    }
    match succeeds(&mut benchmarks)? {
        true => Ok(()),
        false => Err(failed("the benchmarks failed")),
    }
}

fn built_peers(workspace: &Workspace) -> Result<Fixture, Failure> {
    let peers = fixtures::peers(workspace)?;
    peers.build(workspace)?;
    Ok(peers)
}

/// Whether the row is among those that are named, or none is.
fn wants_peers(args: &[String]) -> bool {
    let mut rows = args.iter().filter(|arg| !arg.starts_with('-')).peekable();
    rows.peek().is_none() || rows.any(|row| WITH_PEERS.contains(&row.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_libraries_are_built_only_for_their_row() {
        for (line, wanted) in [
            ("", true),
            ("--quick --check", true),
            ("calls", true),
            ("echo --quick calls", true),
            ("websocket", true),
            ("echo", false),
            ("--quick build", false),
        ] {
            let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            assert_eq!(wants_peers(&args), wanted, "{line}");
        }
    }
}
