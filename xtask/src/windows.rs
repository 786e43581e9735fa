//! `cargo xtask windows`: builds the workspace and its tests for Windows and runs them under Wine.
//!
//! No test is skipped silently: every test that ran is listed, certain tests must be among these, and
//! tests that are meaningless under Wine are expected to fail there.

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
Build the workspace and its tests for Windows, with Debian's compiler and mingw, and run them under
Wine.

Usage: cargo xtask windows [--install] [--unproven]

  --install   install missing Debian packages (as root or through sudo). CI=true in the environment
              implies it.
  --unproven  list the tests that Wine cannot judge, with the command to run on Windows

Every test that ran is listed, and a fixed set of tests must be among them. A test that Wine cannot
judge runs as well: it must fail in the way that Wine makes it fail, otherwise this command fails.

Build products, including the standard library, and the state of Wine are kept in ~/.cache/tieline (or
XDG_CACHE_HOME). The first run takes minutes.";

const WINDOWS: Target =
    Target { name: "windows", triple: "x86_64-pc-windows-gnu", std: "std,panic_abort" };

const PROGRAMS: [Program; 2] = [
    program("mingw-w64", &["x86_64-w64-mingw32-gcc", "--version"], &["gcc-mingw-w64-x86-64-win32"]),
    program("wine", &["wine", "--version"], &["wine64", "wine"]),
];

/// The packages that users get, and those that their tests need.
const PACKAGES: [&str; 12] = [
    "tieline-proto",
    "tieline-mcp",
    "tieline-transport",
    "tieline-http",
    "tieline-rpc",
    "tieline-link",
    "tieline-bus",
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
        [arg, ..] => Err(usage(format!("unknown argument for windows: {arg:?}"))),
    }
}

fn list_unproven() {
    println!("On Windows, with Rust for x86_64-pc-windows-msvc or -gnu, in the checkout:\n");
    for unproven in UNPROVEN {
        println!("{}\n  {}\n", unproven.why, unproven.command());
    }
}

/// Builds and runs all tests. The results are written to stderr.
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

/// A test binary.
struct Suite {
    name: String,
    /// The working directory that its tests expect.
    directory: PathBuf,
    program: PathBuf,
}

fn build(workspace: &Workspace) -> Result<Vec<Suite>, Failure> {
    let mut cargo = WINDOWS.cargo(workspace, "test")?;
    cargo.args(["--no-run", "--message-format=json-render-diagnostics"]);
    cargo.args(PACKAGES.iter().flat_map(|package| ["-p", package]));
    // The standard library is such a package. At the default level, it would make the tests three times
    // slower.
    cargo.args(["--config", "profile.dev.package.'*'.opt-level=1"]);
    cargo.env("CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER", "x86_64-w64-mingw32-gcc");
    let messages = output(&mut cargo)?;
    let mut suites: Vec<Suite> = messages.lines().filter_map(suite).collect();
    suites.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(suites)
}

/// Parses a line of cargo's messages. Returns `None` if it is not about a test binary.
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
