//! `cargo xtask bench`: runs the benchmarks, built like a release. They write their results themselves.

use crate::fixtures::{self, Fixture};
use crate::workspace::{Workspace, succeeds};
use crate::{Failure, failed, wants_help};

/// The rows that compare with other libraries and programs, which are fixtures.
const BESIDE: &[(&[&str], Find)] =
    &[(&["calls", "websocket"], fixtures::peers), (&["gateway"], fixtures::gateways)];

type Find = fn(&Workspace) -> Result<Fixture, Failure>;

const HELP: &str = "\
Run the benchmarks, built with the profile `dist`, and write bench/RESULTS.md.

Usage: cargo xtask bench [--quick] [arguments]

  --quick  take a few seconds for each: shows that they run, not how fast

The libraries that the rows `calls` and `websocket` compare with, and the gateways that the row
`gateway` compares with, are built first, once (into ~/.cache/tieline or XDG_CACHE_HOME).
TIELINE_PEERS and TIELINE_GATEWAYS tell the benchmark program where they are. websocketd comes from
Debian and is left out if it is not installed.

All arguments are passed to the benchmark program.";

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    if wants_help(args) {
        println!("{HELP}");
        return Ok(());
    }
    let workspace = Workspace::here()?;
    let fixed = ["run", "--profile", "dist", "--locked", "--package", "tieline-bench", "--"];
    let mut benchmarks = workspace.cargo();
    benchmarks.args(fixed).args(args);
    for (_, find) in BESIDE.iter().filter(|(rows, _)| wants(rows, args)) {
        match built(&workspace, *find) {
            Ok(others) => benchmarks.env(others.variable, others.location()),
            // Everything else can be measured, and the table says what is missing.
            Err(Failure::Failed(why) | Failure::Usage(why)) => {
                eprintln!("xtask: {why}; continuing without the comparison");
                &mut benchmarks
            }
        };
    }
    match succeeds(&mut benchmarks)? {
        true => Ok(()),
        false => Err(failed("the benchmarks failed")),
    }
}

fn built(workspace: &Workspace, find: Find) -> Result<Fixture, Failure> {
    let others = find(workspace)?;
    others.build(workspace)?;
    Ok(others)
}

/// Returns whether one of the rows is selected, or no row is named.
fn wants(rows: &[&str], args: &[String]) -> bool {
    let mut named = args.iter().filter(|arg| !arg.starts_with('-')).peekable();
    named.peek().is_none() || named.any(|row| rows.contains(&row.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_libraries_are_built_only_for_their_rows() {
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
            assert_eq!(wants(BESIDE[0].0, &args), wanted, "{line}");
        }
    }
}
