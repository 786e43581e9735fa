//! `cargo xtask macos`: the workspace type-checks for macOS. It is not run there.

use crate::debian::{TOOLCHAIN, Target};
use crate::workspace::{Workspace, run_aside};
use crate::{Failure, is_ci, needs, usage, wants_help};

const HELP: &str = "\
Type-checks the workspace for macOS, with Debian's compiler and the source of its standard library.

Usage: cargo xtask macos [--install]

  --install  get what is missing: Debian packages (as root or through sudo). CI=true in the
             environment means it, too.

What a user gets is checked, and all tests of it. Nothing is run, so nothing is said of how it behaves.
What is built is kept in ~/.cache/tieline (or XDG_CACHE_HOME): the first time takes minutes.";

const MACOS: Target = Target { name: "macos", triple: "x86_64-apple-darwin", std: "std" };

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    if wants_help(args) {
        println!("{HELP}");
        return Ok(());
    }
    if let Some(unknown) = args.iter().find(|arg| *arg != "--install") {
        return Err(usage(format!("macos takes no argument {unknown:?}")));
    }
    check(&Workspace::here()?, !args.is_empty() || is_ci())
}

pub(crate) fn check(workspace: &Workspace, may_install: bool) -> Result<(), Failure> {
    needs::programs(workspace, &TOOLCHAIN, "macos", may_install)?;
    // The benchmarks and xtask itself are for Linux.
    let all = ["--workspace", "--exclude", "tieline-bench", "--exclude", "xtask", "--tests"];
    run_aside(MACOS.cargo(workspace, "check")?.args(all).envs(NO_COMPILER))
}

/// A dependency compiles C, which is needed to link and not to check: for what is not here, a program that
/// does nothing stands in.
const NO_COMPILER: [(&str, &str); 3] =
    [("CC_x86_64_apple_darwin", "true"), ("AR_x86_64_apple_darwin", "true"), ("SDKROOT", "/")];
