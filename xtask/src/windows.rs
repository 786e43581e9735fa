//! `cargo xtask windows`: the workspace and its tests are built for Windows and run under Wine.
//!
//! Nothing passes silently: each test that ran is named, some must be among them, and those that Wine
//! cannot judge are expected to fail there.

mod harness;
mod list;
mod wine;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::debian::{TOOLCHAIN, Target};
use crate::needs::{Program, program};
use crate::workspace::{Workspace, output};
use crate::{Failure, failed, is_ci, needs, usage, wants_help};
use harness::{FAILED, Outcome, failed_of, panic_of, results};
use list::{MUST_RUN, UNPROVEN};
use wine::{Said, Wine};

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
        ran.suite(suite, |args| wine.run(suite, args))?;
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

/// How a start fails, rarely, when Wine's process for it ends before it is one of Windows, which has no such
/// error for it. Whom it meets is run once more, alone.
const NOT_STARTED: &str = "code: 1359, ";

/// What became of every test.
#[derive(Default)]
struct Ran {
    /// By its full name.
    tests: BTreeMap<String, Outcome>,
    problems: Vec<String>,
}

impl Ran {
    fn suite(
        &mut self,
        suite: &Suite,
        mut run: impl FnMut(&[&str]) -> Result<Said, Failure>,
    ) -> Result<(), Failure> {
        // Two at once: everything goes through one server of Wine's, and time has to pass there as well.
        let mut args = vec!["--test-threads=2", "--format=pretty"];
        for unproven in UNPROVEN.iter().filter(|it| it.suite == suite.name) {
            args.extend(["--skip", unproven.test]);
        }
        let said = run(&args)?;
        let (mut passed, mut again) = (0, 0);
        let problems = self.problems.len();
        for (test, mut outcome) in results(&said.stdout) {
            let name = format!("{}::{test}", suite.name);
            let panic = panic_of(&said.stdout, test).unwrap_or_default();
            let was_started = !panic.first().is_some_and(|first| first.contains(NOT_STARTED));
            if outcome == Outcome::Failed && !was_started {
                eprintln!("windows: {name}: again, as Wine did not start a program for it");
                let alone = run(&["--exact", test])?;
                let is_well = alone.code == Some(0)
                    && results(&alone.stdout).next() == Some((test, Outcome::Passed));
                if is_well {
                    outcome = Outcome::Passed;
                    again += 1;
                } else {
                    eprintln!("{}\n{}", alone.stdout, alone.stderr);
                }
            }
            eprintln!("windows: {name} {outcome}");
            if outcome == Outcome::Failed {
                self.problems.push(format!("{name} failed: {:.500}", panic.join(" ")));
            }
            passed += usize::from(outcome == Outcome::Passed);
            self.tests.insert(name, outcome);
        }
        // Nothing else went wrong than what was put right, and the harness has come to its end.
        let is_excused = again > 0
            && self.problems.len() == problems
            && said.code == Some(FAILED)
            && failed_of(&said.stdout) == Some(again);
        if said.code != Some(0) && !is_excused {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// What becomes of a suite whose runs say this, one after the other: its problems, and how often it
    /// was run.
    fn judged(runs: &[(&str, Option<i32>)]) -> (Vec<String>, usize) {
        let suite = Suite { name: "s".into(), directory: "".into(), program: "".into() };
        let mut ran = Ran::default();
        let mut count = 0;
        ran.suite(&suite, |_| {
            let (stdout, code) = (runs[count].0.to_owned(), runs[count].1);
            count += 1;
            Ok(Said { stdout, stderr: String::new(), code, took: Duration::ZERO })
        })
        .ok()
        .unwrap();
        (ran.problems, count)
    }

    #[test]
    fn whom_wine_did_not_start_a_program_for_is_asked_once_more_and_nobody_else() {
        let failed = |why: &str, count: usize| {
            format!(
                "test a ... FAILED\ntest b ... ok\n\nfailures:\n\n---- a stdout ----\n\
                 thread 'a' panicked at x.rs:1:\n{why}\n\n\nfailures:\n    a\n\n\
                 test result: FAILED. 1 passed; {count} failed; 0 ignored;\n"
            )
        };
        const WINES: &str = "source: Some(Os { code: 1359, kind: Uncategorized })";
        let not_started = &failed(WINES, 1);
        let ok = ("test a ... ok\n\ntest result: ok. 1 passed;\n", Some(0));
        let end = vec!["s ended with a failure".to_owned()];
        let all = |with: &str| vec![format!("s::a failed: {with}"), end[0].clone()];
        let wines = || all(WINES);
        assert_eq!(judged(&[(not_started, Some(FAILED)), ok]), (vec![], 2));
        // It fails again, or is not to be found.
        let again = (&**not_started, Some(FAILED));
        assert_eq!(judged(&[again, again]), (wines(), 2));
        assert_eq!(judged(&[again, ("test result: ok. 0 passed;\n", Some(0))]), (wines(), 2));
        // It has failed with something else, or with something else besides.
        let of_ours = || (all("it is not so"), 1);
        assert_eq!(judged(&[(&failed("it is not so", 1), Some(FAILED))]), of_ours());
        let printed = failed("it is not so", 1).replace("thread", &format!("{WINES}\nthread"));
        assert_eq!(judged(&[(&printed, Some(FAILED))]), of_ours());
        let twice = failed(&format!("{WINES}\nthread 'a' panicked at x.rs:2:\nso"), 1);
        assert_eq!(judged(&[(&twice, Some(FAILED))]), (all(""), 1));
        // Somebody else has failed, whose line nobody can read; the harness has not come to its end, took
        // too long, or crashed behind it.
        assert_eq!(judged(&[(&failed(WINES, 2), Some(FAILED)), ok]), (end.clone(), 2));
        let cut = not_started.split("test result").next().unwrap();
        assert_eq!(judged(&[(cut, Some(FAILED)), ok]), (end.clone(), 2));
        assert_eq!(judged(&[(not_started, None), ok]), (end.clone(), 2));
        assert_eq!(judged(&[(not_started, Some(5)), ok]), (end, 2));
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
