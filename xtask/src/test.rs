//! `cargo xtask test`: everything the tests need, then all tests.
//!
//! The last lines on stdout are cargo test's own results: CI reads them, so nothing is repeated or
//! added behind them there.

use crate::workspace::{Workspace, succeeds};
use crate::{Failure, failed, is_ci, macos, needs, tidy, wants_help, windows};

const HELP: &str = "\
Finds what the tests need and runs all of them: unit, integration, documentation, examples.

Usage: cargo xtask test [--install] [--tidy] [--soak] [arguments for cargo test]

  --install  get what is missing: Debian packages (as root or through sudo), fixture
             programs from npm, PyPI and crates (into ~/.cache/tieline or XDG_CACHE_HOME).
             Without it, anything missing is named and the run fails.
  --tidy     run `cargo xtask tidy` first
  --soak     what is done again and again is done so ten thousand times, and not a few: for an hour
             in which nobody waits (TIELINE_SOAK=1)

CI=true in the environment means --install and --tidy, and, where nothing is singled out, `cargo xtask
macos` and `cargo xtask windows` as well. The tests are told where the fixtures are by
TIELINE_XI_CORE (the program), TIELINE_NODE_FIXTURES (the folder with node_modules) and
TIELINE_PYTHON_FIXTURES (the virtual environment).

  cargo xtask test -p tieline-proto lines     the tests of one crate whose name has `lines`
  cargo xtask test --test serve -- --nocapture";

/// What was asked for.
struct Options<'a> {
    install: bool,
    tidy: bool,
    soak: bool,
    cargo_args: Vec<&'a str>,
}

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    if wants_help(args) {
        println!("{HELP}");
        return Ok(());
    }
    let options = Options::read(args);
    let run_tidy = options.tidy || is_ci();
    let workspace = Workspace::here()?;
    let fixtures = needs::provide(&workspace, run_tidy, options.install || is_ci())?;

    let mut failures = Vec::new();
    if run_tidy && !tidy::check(&workspace) {
        failures.push("tidy".to_owned());
    }
    if is_ci() && options.cargo_args.is_empty() {
        for checked in [macos::check(&workspace, true), windows::check(&workspace, true)] {
            if let Err(Failure::Failed(why) | Failure::Usage(why)) = checked {
                eprintln!("xtask: {why}");
                failures.push(why);
            }
        }
    }
    let cargo_test = |more: &[&str]| {
        let mut command = workspace.cargo();
        command.args(["test", "--locked"]).args(more).args(&options.cargo_args);
        command.envs(options.soak.then_some(("TIELINE_SOAK", "1")));
        command.envs(fixtures.iter().map(|it| (it.variable, it.location())));
        succeeds(&mut command)
    };
    // `cargo test` only builds the examples; their tests run when asked for by name. They come
    // first, so that the last result on stdout is not that of an example without tests.
    let has_examples = workspace.crates()?.iter().any(|it| it.has_examples);
    if has_examples
        && !options.names_targets()
        && !cargo_test(&[options.breadth(), &["--examples"]].concat())?
    {
        failures.push("the tests of the examples".to_owned());
    }
    if !cargo_test(options.breadth())? {
        failures.push("cargo test".to_owned());
    }
    match failures.is_empty() {
        true => Ok(()),
        // Whole, although each was told when it came: of a long log people are shown the end.
        false => Err(failed(format!("failed: {}", failures.join(", ")))),
    }
}

impl<'a> Options<'a> {
    fn read(args: &'a [String]) -> Self {
        let ours = args.iter().take_while(|arg| *arg != "--").count();
        let is_ours =
            |at: usize, arg: &str| at < ours && matches!(arg, "--install" | "--tidy" | "--soak");
        let given = |name| args.iter().take(ours).any(|arg| arg == name);
        Self {
            install: given("--install"),
            tidy: given("--tidy"),
            soak: given("--soak"),
            cargo_args: (args.iter().map(String::as_str).enumerate())
                .filter(|(at, arg)| !is_ours(*at, arg))
                .map(|(_, arg)| arg)
                .collect(),
        }
    }

    /// Everything, unless packages are named; on CI one failure hides no other.
    fn breadth(&self) -> &'static [&'static str] {
        match (self.names(&["-p", "--package", "--workspace"]), is_ci()) {
            (true, false) => &[],
            (true, true) => &["--no-fail-fast"],
            (false, false) => &["--workspace"],
            (false, true) => &["--workspace", "--no-fail-fast"],
        }
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

    /// True where one of these options stands before the `--`, alone or with its value attached.
    fn names(&self, options: &[&str]) -> bool {
        self.cargo_args.iter().take_while(|arg| **arg != "--").any(|arg| {
            let name = arg.split_once('=').map_or(*arg, |(name, _)| name);
            options.contains(&name)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_options_are_taken_and_cargo_gets_the_rest() {
        let args = ["--install", "--soak", "-p", "x", "name", "--", "--tidy", "--nocapture"];
        let args = args.map(String::from);
        let options = Options::read(&args);
        assert!(options.install && options.soak);
        assert!(!options.tidy, "behind `--` it belongs to the tests");
        assert_eq!(options.cargo_args, ["-p", "x", "name", "--", "--tidy", "--nocapture"]);
    }

    #[test]
    fn examples_are_left_out_where_targets_are_named() {
        for (args, expected) in [
            (&[][..], false),
            (&["a_name"], false),
            (&["-p", "x"], false),
            (&["--test", "serve"], true),
            (&["--test=serve"], true),
            (&["--", "--test"], false),
        ] {
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            assert_eq!(Options::read(&args).names_targets(), expected, "{args:?}");
        }
    }
}
