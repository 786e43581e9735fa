//! `cargo xtask windows`: the workspace and its tests are built for Windows and run under Wine.
//!
//! Nothing passes silently: each test that ran is named, some must be among them, and those that Wine
//! cannot judge are expected to fail there.

mod list;
mod wine;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::debian::{TOOLCHAIN, Target};
use crate::needs::{Program, program};
use crate::workspace::{Workspace, output};
use crate::{Failure, failed, is_ci, needs, usage, wants_help};
use list::{MUST_RUN, UNPROVEN};
use wine::Wine;

const HELP: &str = "\
Builds the workspace and its tests for Windows, with Debian's compiler and mingw, and runs them under
Wine.

Usage: cargo xtask windows [--install] [--unproven]

  --install   get what is missing: Debian packages (as root or through sudo). CI=true in the
              environment means it, too.
  --unproven  list what Wine cannot judge, with the command that judges it on Windows

Each test that ran is named, and a fixed list of tests must be among them. A test that Wine cannot
judge is run all the same: it must fail there as Wine makes it fail, and when it does not, this fails.

What is built, the standard library included, is kept in ~/.cache/tieline (or XDG_CACHE_HOME), and so
is Wine's own state: the first time takes minutes.";

const WINDOWS: Target =
    Target { name: "windows", triple: "x86_64-pc-windows-gnu", std: "std,panic_abort" };

const PROGRAMS: [Program; 2] = [
    program("mingw-w64", &["x86_64-w64-mingw32-gcc", "--version"], &["gcc-mingw-w64-x86-64-win32"]),
    program("wine", &["wine", "--version"], &["wine64", "wine"]),
];

/// What a user gets, and what it is tested with.
const PACKAGES: [&str; 9] = [
    "tieline-proto",
    "tieline-transport",
    "tieline-rpc",
    "tieline-link",
    "tieline-gateway",
    "tieline-agents",
    "tieline-testkit",
    "tieline",
    "tieline-cli",
];

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    if wants_help(args) {
        println!("{HELP}");
        return Ok(());
    }
    match args {
        [] => check(&Workspace::here()?, is_ci()),
        [arg] if arg == "--install" => check(&Workspace::here()?, true),
        [arg] if arg == "--unproven" => {
            list_unproven();
            Ok(())
        }
        [arg, ..] => Err(usage(format!("windows takes no argument {arg:?}"))),
    }
}

fn list_unproven() {
    println!("On Windows, with Rust for x86_64-pc-windows-msvc or -gnu, in the checkout:\n");
    for unproven in UNPROVEN {
        println!("{}\n  {}\n", unproven.why, unproven.command());
    }
}

/// Builds and runs everything. What is said of it goes to stderr.
pub(crate) fn check(workspace: &Workspace, may_install: bool) -> Result<(), Failure> {
    needs::programs(workspace, &TOOLCHAIN, "windows", may_install)?;
    needs::programs(workspace, &PROGRAMS, "windows", may_install)?;
    let suites = build(workspace)?;
    let wine = Wine::start(workspace, &WINDOWS.directory()?)?;
    let mut ran = Ran::default();
    for suite in &suites {
        ran.suite(&wine, suite)?;
    }
    for unproven in UNPROVEN {
        ran.unproven(&wine, &suites, unproven)?;
    }
    drop(wine);
    ran.judge()
}

/// A test binary: its package, its name, and where it is.
struct Suite {
    name: String,
    /// Where its tests expect to be run.
    directory: PathBuf,
    program: PathBuf,
}

fn build(workspace: &Workspace) -> Result<Vec<Suite>, Failure> {
    let mut cargo = WINDOWS.cargo(workspace, "test")?;
    cargo.args(["--no-run", "--message-format=json-render-diagnostics"]);
    cargo.args(PACKAGES.iter().flat_map(|package| ["-p", package]));
    cargo.env("CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER", "x86_64-w64-mingw32-gcc");
    let messages = output(&mut cargo)?;
    let mut suites: Vec<Suite> = messages.lines().filter_map(suite).collect();
    suites.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(suites)
}

/// What a line of cargo's is about, if that is a test binary.
fn suite(message: &str) -> Option<Suite> {
    let message: Value = serde_json::from_str(message).ok()?;
    let is_test = message.get("profile")?.get("test")?.as_bool()?;
    let program = message.get("executable")?.as_str()?;
    let manifest = Path::new(message.get("manifest_path")?.as_str()?);
    let directory = manifest.parent()?.to_owned();
    let target = message.get("target")?;
    let kind = target.get("kind")?.as_array()?.first()?.as_str()?;
    let package = directory.file_name()?.to_str()?;
    let name = match kind {
        "test" => format!("{package}::{}", target.get("name")?.as_str()?),
        "example" => format!("{package}::examples::{}", target.get("name")?.as_str()?),
        _ => package.to_owned(),
    };
    is_test.then(|| Suite { name, directory, program: program.into() })
}

/// What became of every test.
#[derive(Default)]
struct Ran {
    /// By its full name.
    tests: BTreeMap<String, Outcome>,
    problems: Vec<String>,
}

impl Ran {
    fn suite(&mut self, wine: &Wine, suite: &Suite) -> Result<(), Failure> {
        // Two at once: everything goes through one server of Wine's, and time has to pass there as well.
        let mut args = vec!["--test-threads=2", "--format=pretty"];
        for unproven in UNPROVEN.iter().filter(|it| it.suite == suite.name) {
            args.extend(["--skip", unproven.test]);
        }
        let said = wine.run(suite, &args)?;
        let mut passed = 0;
        for (test, outcome) in results(&said.stdout) {
            let name = format!("{}::{test}", suite.name);
            eprintln!("windows: {name} {outcome}");
            if outcome == Outcome::Failed {
                self.problems.push(format!("{name} failed"));
            }
            passed += usize::from(outcome == Outcome::Passed);
            self.tests.insert(name, outcome);
        }
        if !said.success {
            eprintln!("{}\n{}", said.stdout, said.stderr);
            self.problems.push(format!("{} ended with a failure", suite.name));
        }
        eprintln!("windows: {}: {passed} passed in {:.1?}", suite.name, said.took);
        Ok(())
    }

    /// One that must fail under Wine: there it shows what Wine is, and not what tieline is.
    fn unproven(
        &mut self,
        wine: &Wine,
        suites: &[Suite],
        unproven: &list::Unproven,
    ) -> Result<(), Failure> {
        let name = format!("{}::{}", unproven.suite, unproven.test);
        let Some(suite) = suites.iter().find(|suite| suite.name == unproven.suite) else {
            self.problems.push(format!("there is no {name}"));
            return Ok(());
        };
        let said = wine.run(suite, &["--exact", "--include-ignored", unproven.test])?;
        match results(&said.stdout).next() {
            None => self.problems.push(format!("there is no {name}")),
            Some((_, Outcome::Failed)) if said.stdout.contains(unproven.says) => {
                eprintln!("windows: {name}: expected deviation ({})", unproven.why);
            }
            Some((_, Outcome::Failed)) => {
                eprintln!("{}", said.stdout);
                self.problems.push(format!(
                    "{name} failed, and not with {:?}, as it does because of Wine",
                    unproven.says
                ));
            }
            Some((_, outcome)) => {
                eprintln!("windows: {name}: {outcome}");
                self.problems.push(format!(
                    "{name} did not fail, although Wine is believed not to pass it: {}",
                    unproven.why
                ));
            }
        }
        Ok(())
    }

    fn judge(mut self) -> Result<(), Failure> {
        for must in MUST_RUN {
            if matches!(self.tests.get(*must), None | Some(Outcome::Ignored)) {
                self.problems.push(format!("{must} did not run"));
            }
        }
        let count = |wanted| self.tests.values().filter(|outcome| **outcome == wanted).count();
        let (passed, ignored) = (count(Outcome::Passed), count(Outcome::Ignored));
        let unproven = UNPROVEN.len();
        eprintln!(
            "windows: {passed} passed under Wine, {ignored} are ignored, {unproven} are unproven there"
        );
        match self.problems.is_empty() {
            true => Ok(()),
            false => Err(failed(format!("windows: {}", self.problems.join("; ")))),
        }
    }
}

/// What became of a test.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Passed,
    Failed,
    Ignored,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "ok",
            Self::Failed => "FAILED",
            Self::Ignored => "ignored",
        })
    }
}

/// The tests that a harness names, and what became of them.
fn results(stdout: &str) -> impl Iterator<Item = (&str, Outcome)> {
    stdout.lines().filter_map(|line| {
        let (test, outcome) = line.trim_end().strip_prefix("test ")?.split_once(" ... ")?;
        // A reason may stand behind a comma.
        match outcome.split(',').next()? {
            "ok" => Some((test, Outcome::Passed)),
            "FAILED" => Some((test, Outcome::Failed)),
            "ignored" => Some((test, Outcome::Ignored)),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_harness_is_understood() {
        let said = "\r\nrunning 3 tests\r\ntest a::b ... ok\r\ntest c ... FAILED\r\n\
                    test d ... ignored\r\ntest e ... ignored, no screen\r\n\
                    test result: ok. 1 passed;\r\n";
        let expected = [
            ("a::b", Outcome::Passed),
            ("c", Outcome::Failed),
            ("d", Outcome::Ignored),
            ("e", Outcome::Ignored),
        ];
        assert_eq!(results(said).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_test_is_proven_or_not_and_listed_once() {
        for unproven in UNPROVEN {
            let name = format!("{}::{}", unproven.suite, unproven.test);
            assert!(!MUST_RUN.contains(&name.as_str()), "{name}");
            assert!(unproven.command().contains(unproven.test));
        }
        let mut names: Vec<_> = MUST_RUN.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), MUST_RUN.len());
    }
}
