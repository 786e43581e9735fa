//! Counts of instructions and allocations, which are repeatable, unlike times. Valgrind runs this
//! program with a hidden subcommand and counts them.
//!
//! The program is not instrumented, so that counting does not slow other rows down. All counts include
//! the cost of starting and exiting, which [`each`] subtracts.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::compare::Result;

/// The quantity that is counted.
#[derive(Clone, Copy)]
pub(crate) enum Count {
    Instructions,
    /// Allocations and reallocations.
    Allocations,
}

/// A count in progress. Run this program with [`command`](Self::command); the report is complete when
/// the program has exited.
pub(crate) struct Counting {
    count: Count,
    directory: TempDir,
}

/// Returns the cost of one unit of work: the difference between the costs of twice the work and of the
/// work, divided by the amount of work.
pub(crate) fn each(work: usize, count: impl Fn(usize) -> Result<u64>) -> Result<f64> {
    let (once, twice) = (count(work)?, count(2 * work)?);
    Ok(twice.saturating_sub(once) as f64 / work as f64)
}

pub(crate) fn is_installed() -> bool {
    Command::new("valgrind").arg("--version").output().is_ok()
}

/// Returns the count for this program with these arguments.
pub(crate) fn count(count: Count, args: &[&str]) -> Result<u64> {
    let counting = Counting::new(count)?;
    match counting.command()?.args(args).status()?.success() {
        true => counting.total(),
        false => Err(format!("the counted work failed: {}", args.join(" ")).into()),
    }
}

impl Counting {
    pub(crate) fn new(count: Count) -> Result<Self> {
        Ok(Self { count, directory: tempfile::tempdir()? })
    }

    /// Returns the command that runs this program under valgrind, without arguments.
    pub(crate) fn command(&self) -> Result<Command> {
        let option = |name: &str, file: PathBuf| {
            let mut option = OsString::from(name);
            option.push(file);
            option
        };
        let mut command = Command::new("valgrind");
        match self.count {
            Count::Instructions => command
                .arg("--tool=callgrind")
                .arg(option("--callgrind-out-file=", self.directory.path().join("record"))),
            Count::Allocations => command.args(["--tool=memcheck", "--leak-check=no"]),
        };
        command.arg(option("--log-file=", self.report())).arg(std::env::current_exe()?);
        Ok(command)
    }

    /// Returns the count after the command has exited.
    pub(crate) fn total(&self) -> Result<u64> {
        let report = fs::read_to_string(self.report())?;
        let total = match self.count {
            Count::Instructions => collected(&report),
            Count::Allocations => allocated(&report),
        };
        total.ok_or_else(|| format!("valgrind reported no count: {report}").into())
    }

    fn report(&self) -> PathBuf {
        self.directory.path().join("report")
    }
}

/// Parses the count in callgrind's report.
fn collected(report: &str) -> Option<u64> {
    report.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
}

/// Parses the count in memcheck's report: `total heap usage: 1,234 allocs, …`.
fn allocated(report: &str) -> Option<u64> {
    let (_, usage) = report.split_once("total heap usage: ")?;
    usage.split_once(" allocs")?.0.replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_found_in_the_reports() {
        let report = "==12== Events    : Ir\n==12== Collected : 1234567\n==12==\n";
        assert_eq!(collected(report), Some(1_234_567));
        assert_eq!(collected("==12== no such thing"), None);
        let report = "==12==   total heap usage: 1,226 allocs, 207 frees, 78,994 bytes allocated";
        assert_eq!(allocated(report), Some(1_226));
        assert_eq!(allocated("==12== no such thing"), None);
    }

    #[test]
    fn cost_of_starting_is_subtracted() {
        let count = |work: usize| Ok(1000 + 7 * work as u64);
        assert_eq!(each(10, count).unwrap(), 7.0);
    }
}
