//! `cargo xtask test`: provides the programs that the tests need, and runs all tests.
//!
//! The last lines on stdout are the harnesses' own results. CI parses them, so no other output follows
//! them. Messages about flaky tests are written to stderr.

mod attempts;
mod docs;
mod record;
mod repeat;
pub(crate) mod suite;
mod watch;

use std::env;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use crate::fixtures::Fixture;
use crate::workspace::{Crate, Workspace, succeeds};
use crate::{Failure, conformance, failed, is_ci, macos, needs, tidy, usage, wants_help, windows};
use record::{Record, VARIABLE};
use repeat::{Load, Table};

const HELP: &str = "\
Check for the programs that the tests need, and run all tests: unit, integration, documentation,
examples.

Usage: cargo xtask test [--install] [--tidy] [--soak] [--repeat N] [--under-load]
                        [arguments for cargo test]

  --install     install missing programs: Debian packages (as root or through sudo), fixture
                programs from npm, PyPI and crates.io (into ~/.cache/tieline or XDG_CACHE_HOME).
                Without it, the run lists the missing programs and fails.
  --tidy        run `cargo xtask tidy` first
  --soak        repeat some tests ten thousand times instead of a few times, which takes an hour
                (TIELINE_SOAK=1)
  --repeat N    run the tests N times, print how often each of them failed, and fail if any did
  --under-load  build the workspace repeatedly in the meantime, in a separate folder in the target
                folder, which is removed at the end

On Linux, a test that fails runs once more, alone. If it passes then, it is considered passed, and
`flaky: NAME` is printed at the end and written to `flaky` in the target folder. More than two flaky
tests fail the run. A test binary that crashes, or that is killed after printing nothing for 15
minutes, runs once more as a whole, and so do the documentation tests.

CI=true in the environment implies --install and --tidy and, unless tests are selected, also runs
`cargo xtask macos`, `cargo xtask windows` and `cargo xtask conformance --alone`. The tests find the
fixtures through TIELINE_XI_CORE (the program), TIELINE_NODE_FIXTURES (the folder with node_modules),
TIELINE_PYTHON_FIXTURES (the virtual environment) and TIELINE_ACP_CLIENT (the program).

  cargo xtask test -p tieline-proto lines     the tests of one crate whose name contains `lines`
  cargo xtask test --test serve -- --nocapture
  cargo xtask test --repeat 30 --under-load -p tieline-cli --test serve";

/// The parsed command line.
struct Options<'a> {
    install: bool,
    tidy: bool,
    soak: bool,
    repeat: Option<usize>,
    under_load: bool,
    cargo_args: Vec<&'a str>,
}

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    if wants_help(args) {
        println!("{HELP}");
        return Ok(());
    }
    let options = Options::read(args)?;
    let run_tidy = options.tidy || is_ci();
    let workspace = Workspace::here()?;
    let fixtures = needs::provide(&workspace, run_tidy, options.install || is_ci())?;

    let mut failures = Vec::new();
    if run_tidy && !tidy::check(&workspace, options.install || is_ci()) {
        failures.push("tidy".to_owned());
    }
    if is_ci() && options.cargo_args.is_empty() {
        let checks = [
            macos::check(&workspace, true),
            windows::check(&workspace, true),
            conformance::check(&workspace),
        ];
        for checked in checks {
            if let Err(Failure::Failed(why) | Failure::Usage(why)) = checked {
                eprintln!("xtask: {why}");
                failures.push(why);
            }
        }
    }
    let tests = Tests {
        workspace: &workspace,
        options: &options,
        fixtures: &fixtures,
        supervisor: supervisor()?,
    };
    if options.repeat.is_some() || options.under_load {
        return tests.repeatedly();
    }
    let (record, others) = tests.run()?;
    failures.extend(others);
    failures.extend(record.problems());
    keep(&workspace.target()?.join("flaky"), &record.flaky())?;
    for flaky in record.flaky() {
        eprintln!("{flaky}");
    }
    match failures.is_empty() {
        true => Ok(()),
        // All failures are repeated here, because readers of a long log start at the end.
        false => Err(failed(format!("failed: {}", failures.join(", ")))),
    }
}

/// The selected tests.
struct Tests<'a> {
    workspace: &'a Workspace,
    options: &'a Options<'a>,
    fixtures: &'a [Fixture],
    /// The options with which cargo starts the supervisor of each test binary.
    supervisor: Vec<String>,
}

impl Tests<'_> {
    /// Runs the tests once. Returns the record of failed tests, and the other failures.
    fn run(&self) -> Result<(Record, Vec<String>), Failure> {
        let target = self.workspace.target()?;
        let file = target.join(format!("failures-{}", std::process::id()));
        let _removed = Removed(&file);
        fs::create_dir_all(&target).map_err(failed)?;
        let mut record = Record::create(&file)?;
        let mut others = Vec::new();
        let crates = self.workspace.crates()?;
        let (binaries, docs) = self.options.parts(&crates);
        let mut is_well = true;
        if let Some(binaries) = binaries {
            // Tests start the examples, which cargo does not build when test targets are selected.
            let mut build = self.workspace.cargo();
            build.args(["build", "--locked", "--examples"]).args(self.options.packages(&crates));
            if !succeeds(&mut build)? {
                return Ok((record, vec!["cargo build --examples".to_owned()]));
            }
            let mut cargo = self.cargo_test(&self.supervisor, binaries);
            cargo.env(VARIABLE, &file);
            is_well = succeeds(&mut cargo)?;
            record = Record::open(&file)?;
            if !is_well && record.problems().is_empty() {
                others.push("cargo test".to_owned());
            }
        }
        if docs && (is_well || !self.options.fails_fast()) {
            // rustdoc starts its tests through the same supervisor if there is one, and parses their
            // output. With --no-fail-fast, the second attempt begins after the first attempt of all
            // tests.
            let docs = || self.cargo_test(&[], &["--no-fail-fast", "--doc"]);
            if !docs::run(&mut record, docs)? && record.problems().is_empty() {
                others.push("cargo test --doc".to_owned());
            }
        }
        Ok((record, others))
    }

    fn repeatedly(&self) -> Result<(), Failure> {
        let load = match self.options.under_load {
            true => Some(Load::start(self.workspace, &self.workspace.target()?)),
            false => None,
        };
        let mut table = Table::default();
        let rounds = self.options.repeat.unwrap_or(1);
        for round in 1..=rounds {
            eprintln!("xtask: round {round} of {rounds}");
            let (record, others) = self.run()?;
            table.round(record.events(), &others);
        }
        drop(load);
        print!("{}", table.text());
        table.judge()
    }

    fn cargo_test(&self, supervisor: &[String], more: &[&str]) -> Command {
        let options = self.options;
        let mut command = self.workspace.cargo();
        command.args(["test", "--locked"]).args(supervisor);
        // Cargo refuses some options if they are repeated.
        let mut added = [options.breadth().as_slice(), more].concat();
        added.sort_unstable();
        added.dedup();
        let added = added.iter().filter(|arg| !options.names(&[arg]));
        command.args(added).args(&options.cargo_args);
        command.envs(options.soak.then_some(("TIELINE_SOAK", "1")));
        command.envs(self.fixtures.iter().map(|it| (it.variable, it.location())));
        command
    }
}

/// Returns the options with which cargo starts this program in place of each test binary, so that failed
/// tests get a second attempt.
fn supervisor() -> Result<Vec<String>, Failure> {
    if !cfg!(target_os = "linux") {
        return Ok(Vec::new());
    }
    let xtask = env::current_exe().map_err(failed)?;
    // A JSON array is also a TOML array.
    let runner = serde_json::json!([xtask.to_string_lossy(), suite::COMMAND]);
    let config = format!("target.'cfg(target_os = \"linux\")'.runner={runner}");
    Ok(vec!["--config".to_owned(), config])
}

/// Writes the list of flaky tests, or removes the list of an earlier run if there are none.
fn keep(file: &Path, flaky: &[String]) -> Result<(), Failure> {
    let kept = match flaky.is_empty() {
        true => fs::remove_file(file).or_else(|error| match error.kind() {
            ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        }),
        false => fs::write(file, flaky.join("\n") + "\n"),
    };
    kept.map_err(|error| failed(format!("{}: {error}", file.display())))
}

/// A file that is removed when this is dropped.
struct Removed<'a>(&'a Path);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0);
    }
}

impl<'a> Options<'a> {
    fn read(args: &'a [String]) -> Result<Self, Failure> {
        let (mut install, mut tidy, mut soak, mut under_load) = (false, false, false, false);
        let mut repeat = None;
        let mut cargo_args = Vec::new();
        let mut rest = args.iter().map(String::as_str);
        while let Some(arg) = rest.next() {
            match arg {
                "--install" => install = true,
                "--tidy" => tidy = true,
                "--soak" => soak = true,
                "--under-load" => under_load = true,
                "--repeat" => repeat = Some(rounds(rest.next().unwrap_or_default())?),
                "--" => {
                    cargo_args.push(arg);
                    cargo_args.extend(rest.by_ref());
                }
                _ => match arg.strip_prefix("--repeat=") {
                    Some(count) => repeat = Some(rounds(count)?),
                    None => cargo_args.push(arg),
                },
            }
        }
        Ok(Self { install, tidy, soak, repeat, under_load, cargo_args })
    }

    /// Returns the options that select all packages, unless some are named, and that let tests run after
    /// a failure, on CI and with --repeat.
    fn breadth(&self) -> Vec<&'static str> {
        let mut breadth = Vec::new();
        if !self.names(&["-p", "--package", "--workspace"]) {
            breadth.push("--workspace");
        }
        if !self.fails_fast() {
            breadth.push("--no-fail-fast");
        }
        breadth
    }

    fn fails_fast(&self) -> bool {
        !is_ci() && self.repeat.is_none() && !self.names(&["--no-fail-fast"])
    }

    /// Returns the arguments that select test binaries, if these are requested, and whether to run the
    /// documentation tests.
    fn parts(&self, crates: &[Crate]) -> (Option<&'static [&'static str]>, bool) {
        if self.names(&["--doc"]) {
            return (None, true);
        }
        if self.names_targets() {
            return (Some(&[]), false);
        }
        // Cargo refuses to test the documentation of packages without a library.
        let mut named = crates.iter().filter(|it| self.names_package(&it.name)).peekable();
        let has_docs = named.peek().is_none() || named.any(|it| it.has_library);
        (Some(&["--tests"]), has_docs)
    }

    /// Returns the arguments that select the named packages of the workspace, or all packages.
    fn packages<'c>(&self, crates: &'c [Crate]) -> Vec<&'c str> {
        let named = crates.iter().filter(|it| self.names_package(&it.name));
        let named: Vec<_> = named.flat_map(|it| ["-p", &it.name]).collect();
        if named.is_empty() { vec!["--workspace"] } else { named }
    }

    fn names_package(&self, name: &str) -> bool {
        let mut args = self.cargo_args.iter().take_while(|arg| **arg != "--").peekable();
        while let Some(arg) = args.next() {
            let named = match *arg {
                "-p" | "--package" => args.peek().is_some_and(|arg| **arg == name),
                _ => ["-p", "--package="].iter().any(|it| arg.strip_prefix(it) == Some(name)),
            };
            if named {
                return true;
            }
        }
        false
    }

    fn names_targets(&self) -> bool {
        self.names(&[
            "--lib",
            "--bins",
            "--bin",
            "--tests",
            "--test",
            "--examples",
            "--example",
            "--benches",
            "--bench",
            "--all-targets",
            "--doc",
        ])
    }

    /// Returns whether one of these options precedes the `--`, with or without an attached value.
    fn names(&self, options: &[&str]) -> bool {
        self.cargo_args.iter().take_while(|arg| **arg != "--").any(|arg| {
            let name = arg.split_once('=').map_or(*arg, |(name, _)| name);
            options.contains(&name)
        })
    }
}

fn rounds(count: &str) -> Result<usize, Failure> {
    let rounds = count.parse().ok().filter(|rounds| *rounds > 0);
    rounds.ok_or_else(|| usage(format!("--repeat takes a number of runs, not {count:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_options<T>(line: &str, ask: impl FnOnce(Options<'_>) -> T) -> T {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        ask(Options::read(&args).ok().unwrap())
    }

    #[test]
    fn own_options_are_parsed_and_the_others_are_passed_to_cargo() {
        let line = "--install --soak -p x --repeat 3 --under-load name -- --tidy --repeat 4";
        with_options(line, |options| {
            assert!(options.install && options.soak && options.under_load);
            assert!(!options.tidy, "arguments after `--` belong to the tests");
            assert_eq!(options.repeat, Some(3));
            assert_eq!(options.cargo_args, ["-p", "x", "name", "--", "--tidy", "--repeat", "4"]);
        });
        assert_eq!(with_options("--repeat=12", |options| options.repeat), Some(12));
        for line in ["--repeat", "--repeat 0", "--repeat=", "--repeat -1", "--repeat name"] {
            let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            assert!(matches!(Options::read(&args), Err(Failure::Usage(_))), "{line}");
        }
    }

    #[test]
    fn parts_depend_on_the_selected_tests() {
        let package = |name: &str, has_library| Crate {
            name: name.into(),
            directory: name.into(),
            is_published: true,
            rust_version: None,
            dependencies: Vec::new(),
            has_library,
        };
        let crates = [package("lib", true), package("bin", false)];
        let all: &[&str] = &["--tests"];
        for (line, expected) in [
            ("", (Some(all), true)),
            ("a_name", (Some(all), true)),
            ("-p lib", (Some(all), true)),
            ("-p bin", (Some(all), false)),
            ("--package=bin -pbin", (Some(all), false)),
            ("-p bin --package lib", (Some(all), true)),
            ("-p unknown", (Some(all), true)),
            ("--test serve", (Some(&[][..]), false)),
            ("--test=serve", (Some(&[]), false)),
            ("--doc -p lib", (None, true)),
            ("-- --test", (Some(all), true)),
        ] {
            let parts = with_options(line, |options| options.parts(&crates));
            assert_eq!(parts, expected, "{line}");
        }
    }

    #[test]
    fn examples_are_built_for_the_packages_that_are_tested() {
        let names = ["lib", "bin"].map(|name| Crate {
            name: name.into(),
            directory: name.into(),
            is_published: true,
            rust_version: None,
            dependencies: Vec::new(),
            has_library: true,
        });
        for (line, expected) in [
            ("", vec!["--workspace"]),
            ("--test serve a_name", vec!["--workspace"]),
            ("-p bin --test serve", vec!["-p", "bin"]),
            ("-pbin --package=lib", vec!["-p", "lib", "-p", "bin"]),
        ] {
            assert_eq!(with_options(line, |options| options.packages(&names)), expected, "{line}");
        }
    }

    #[test]
    fn file_of_flaky_tests_belongs_to_the_last_run() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("flaky");
        keep(&file, &["flaky: a".into(), "flaky: b".into()]).ok().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "flaky: a\nflaky: b\n");
        for _ in 0..2 {
            keep(&file, &[]).ok().unwrap();
            assert!(!file.exists());
        }
    }
}
