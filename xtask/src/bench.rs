//! `cargo xtask bench`: runs the benchmarks, which are built like a release. They write their results
//! themselves.

use crate::fixtures::{self, Fixture};
use crate::workspace::{Workspace, run_aside, succeeds};
use crate::{Failure, failed, wants_help};

/// The rows that compare tieline with other libraries and programs, and the fixtures that contain these.
const BESIDE: &[(&[&str], Find)] = &[
    (&["calls", "runtimes", "websocket"], fixtures::peers),
    (&["gateway", "mcp"], fixtures::gateways),
];

/// The rows that run the program `tieline`.
const PROGRAM: &[&str] = &["mcp", "shared"];

type Find = fn(&Workspace) -> Result<Fixture, Failure>;

const HELP: &str = "\
Run the benchmarks, built with the profile `dist`, and write bench/RESULTS.md.

Usage: cargo xtask bench [--quick] [arguments]

  --quick  take a few seconds for each row, to check only that the benchmarks run

The libraries that the rows `calls`, `runtimes` and `websocket` compare with, and the gateways that
the rows `gateway` and `mcp` compare with, are built first, once (into ~/.cache/tieline or
XDG_CACHE_HOME). TIELINE_PEERS and TIELINE_GATEWAYS pass their locations to the benchmark program.
websocketd comes from Debian, and its rows are skipped if it is not installed. The program `tieline`
is built for the rows `mcp` and `shared`, and TIELINE_PROGRAM is its path.

All arguments are passed to the benchmark program.";

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    if wants_help(args) {
        println!("{HELP}");
        return Ok(());
    }
    let workspace = Workspace::here()?;
    let fixed = ["--profile", "dist", "--locked", "--package"];
    let mut benchmarks = workspace.cargo();
    benchmarks.arg("run").args(fixed).args(["tieline-bench", "--"]).args(args);
    if wants(PROGRAM, args) {
        run_aside(workspace.cargo().arg("build").args(fixed).arg("tieline-cli"))?;
        benchmarks.env("TIELINE_PROGRAM", workspace.target()?.join("dist/tieline"));
    }
    for (_, find) in BESIDE.iter().filter(|(rows, _)| wants(rows, args)) {
        match built(&workspace, *find) {
            Ok(others) => benchmarks.env(others.variable, others.location()),
            // The other rows can be measured, and the table lists the missing comparison as skipped.
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

/// Returns whether one of the rows is selected, by name or because no row is named.
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
