//! `cargo xtask windows`: the workspace and its tests are built for Windows and run under Wine.
//!
//! Nothing passes silently: each test that ran is named, some must be among them, and those that Wine
//! cannot judge are expected to fail there.

mod list;
mod ran;
mod wine;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::debian::{TOOLCHAIN, Target};
use crate::needs::{Program, program};
use crate::workspace::{Workspace, output};
use crate::{Failure, is_ci, needs, usage, wants_help};
use list::UNPROVEN;
use ran::Ran;
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
const PACKAGES: [&str; 10] = [
    "tieline-proto",
    "tieline-transport",
    "tieline-http",
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
        match suites.iter().find(|suite| suite.name == unproven.suite) {
            Some(suite) => ran.unproven(unproven, |args| wine.run(suite, args))?,
            None => ran.lacks(unproven.suite),
        }
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
    // The standard library is one of them, and the tests take three times as long over it as it is by default.
    cargo.args(["--config", "profile.dev.package.'*'.opt-level=1"]);
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
