//! `cargo xtask macos`: type-checks the workspace for macOS, without running any of it.

use crate::debian::{TOOLCHAIN, Target};
use crate::workspace::{Workspace, run_aside};
use crate::{Failure, is_ci, needs, usage, wants_help};

const HELP: &str = "\
Type-check the workspace for macOS, with Debian's compiler and the source of its standard library.

Usage: cargo xtask macos [--install]

  --install  install missing Debian packages (as root or through sudo). CI=true in the environment
             implies it.

Checks all crates that users get, and their tests. Nothing is run, so this does not check behavior.
Build products are kept in ~/.cache/tieline (or XDG_CACHE_HOME); the first run takes minutes.";

const MACOS: Target = Target { name: "macos", triple: "x86_64-apple-darwin", std: "std" };

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    if wants_help(args) {
        println!("{HELP}");
        return Ok(());
    }
    if let Some(unknown) = args.iter().find(|arg| *arg != "--install") {
        return Err(usage(format!("unknown argument for macos: {unknown:?}")));
    }
    check(&Workspace::here()?, !args.is_empty() || is_ci())
}

pub(crate) fn check(workspace: &Workspace, may_install: bool) -> Result<(), Failure> {
    needs::programs(workspace, &TOOLCHAIN, "macos", may_install)?;
    // The benchmarks and xtask support only Linux.
    let all = ["--workspace", "--exclude", "tieline-bench", "--exclude", "xtask", "--tests"];
    run_aside(MACOS.cargo(workspace, "check")?.args(all).envs(NO_COMPILER))
}

/// A dependency compiles C code, which is needed for linking but not for checking. A program that does
/// nothing replaces the missing C compiler.
const NO_COMPILER: [(&str, &str); 3] =
    [("CC_x86_64_apple_darwin", "true"), ("AR_x86_64_apple_darwin", "true"), ("SDKROOT", "/")];
