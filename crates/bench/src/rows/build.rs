//! What it takes to build the program: the time of a cold release build and the number of crates.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::compare::{Bench, Result};
use crate::report::{Goal, Line, Unit};
use crate::run::workspace_root;

const TIMES: u32 = 3;
const PROGRAM: [&str; 3] = ["--locked", "--package", "tieline-cli"];

pub(super) fn run(_: &Bench) -> Result<Vec<Line>> {
    // What has to be downloaded is no part of building.
    succeed(cargo()?.args(["fetch", "--locked"]))?;
    let mut best = f64::INFINITY;
    for _ in 0..TIMES {
        best = best.min(build()?);
    }
    let minutes = 2.5;
    Ok(vec![
        Line::alone(
            format!("cold release build of the program, best of {TIMES}"),
            Unit::Time,
            best,
            Some(Goal::AtMost(minutes * 60.0, Unit::Time)),
        ),
        Line::alone(
            "crates of the program, its own included",
            Unit::Pieces,
            crates()? as f64,
            Some(Goal::AtMost(100.0, Unit::Pieces)),
        ),
    ])
}

/// Seconds for one build into an empty folder.
fn build() -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let mut cargo = cargo()?;
    cargo.args(["build", "--release", "--quiet"]).args(PROGRAM);
    // A wrapper would answer from its cache.
    cargo.env("CARGO_TARGET_DIR", folder.path()).env("RUSTC_WRAPPER", "");
    let begun = Instant::now();
    succeed(&mut cargo)?;
    Ok(begun.elapsed().as_secs_f64())
}

fn crates() -> Result<usize> {
    let mut cargo = cargo()?;
    cargo.args(["tree", "--edges", "normal,build", "--prefix", "none"]).args(PROGRAM);
    let output = cargo.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err("`cargo tree` failed".into());
    }
    Ok(unique(&String::from_utf8_lossy(&output.stdout)))
}

/// How many names with their versions are in the list.
fn unique(tree: &str) -> usize {
    let crates = tree.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?, words.next()?))
    });
    crates.collect::<BTreeSet<_>>().len()
}

fn cargo() -> Result<Command> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace_root()?);
    Ok(cargo)
}

fn succeed(cargo: &mut Command) -> Result<()> {
    if cargo.status()?.success() { Ok(()) } else { Err("cargo failed".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_counts_once_for_each_version() {
        let tree =
            "a v1.0.0 (somewhere)\nb v1.0.0\nb v2.0.0\nb v1.0.0 (*)\nc v0.1.0 (proc-macro)\n\n";
        assert_eq!(unique(tree), 4);
    }
}
