//! Debian's compiler together with the source of its standard library: with them the workspace is
//! built for operating systems whose standard library cannot be downloaded here. `-Z build-std`
//! builds that too, once, in a target folder of its own outside the checkout.

use std::path::PathBuf;
use std::process::Command;

use crate::Failure;
use crate::fixtures::cache;
use crate::needs::{Program, program};
use crate::workspace::Workspace;

/// What every such build needs. By their full paths: a newer toolchain may stand before them in
/// `PATH`, and an older `rustc` of Debian's knows no edition 2024.
pub(crate) const TOOLCHAIN: [Program; 3] = [
    program(
        "rustc of Debian",
        &["/usr/bin/rustc", "--edition=2024", "--print=cfg"],
        &["rustc-web"],
    ),
    program("cargo of Debian", &["/usr/bin/cargo", "--version"], &["cargo-web"]),
    program(
        "source of the standard library",
        &["test", "-e", "/usr/lib/rustlib/src/rust/library/std/Cargo.toml"],
        &["rust-web-src"],
    ),
];

/// An operating system that is built for from here.
pub(crate) struct Target {
    /// As people say it, and as the folder in the cache begins.
    pub(crate) name: &'static str,
    pub(crate) triple: &'static str,
    /// What of the standard library is built.
    pub(crate) std: &'static str,
}

impl Target {
    /// A cargo command, like `check`, for this target.
    pub(crate) fn cargo(&self, workspace: &Workspace, command: &str) -> Result<Command, Failure> {
        let mut cargo = workspace.command("/usr/bin/cargo");
        cargo
            .args([command, "--locked", "--target", self.triple, "-Z"])
            .arg(format!("build-std={}", self.std))
            // A warning is an error here as it is on Linux.
            .args(["-Z", "warnings"])
            .env("CARGO_BUILD_WARNINGS", "deny")
            .env("RUSTC", "/usr/bin/rustc")
            // It is what makes `-Z` known to a stable compiler.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_DIR", self.directory()?)
            // Those of the toolchain that started us do not fit.
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER")
            .env_remove("RUSTDOC");
        Ok(cargo)
    }

    /// Where all of it is built. Deleting it only costs time.
    pub(crate) fn directory(&self) -> Result<PathBuf, Failure> {
        Ok(cache()?.join(format!("{}-target", self.name)))
    }
}
