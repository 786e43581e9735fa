//! Debian's compiler with the source of its standard library, which builds the workspace for operating
//! systems whose standard library cannot be downloaded here. `-Z build-std` builds the standard library
//! as well, once, in a separate target folder outside the checkout.

use std::path::PathBuf;
use std::process::Command;

use crate::Failure;
use crate::fixtures::cache;
use crate::needs::{Program, program};
use crate::workspace::Workspace;

/// The programs that every such build needs. Full paths are used, because a newer toolchain may precede
/// these programs in `PATH`. An older Debian `rustc` does not support edition 2024.
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

/// An operating system for which the workspace can be built on this machine.
pub(crate) struct Target {
    /// The name, which is also the prefix of its folder in the cache.
    pub(crate) name: &'static str,
    pub(crate) triple: &'static str,
    /// The crates of the standard library to build.
    pub(crate) std: &'static str,
}

impl Target {
    /// Returns a cargo command, such as `check`, for this target.
    pub(crate) fn cargo(&self, workspace: &Workspace, command: &str) -> Result<Command, Failure> {
        let mut cargo = workspace.command("/usr/bin/cargo");
        cargo
            .args([command, "--locked", "--target", self.triple, "-Z"])
            .arg(format!("build-std={}", self.std))
            // Warnings are errors, as on Linux.
            .args(["-Z", "warnings"])
            .env("CARGO_BUILD_WARNINGS", "deny")
            .env("RUSTC", "/usr/bin/rustc")
            // With this, a stable compiler accepts `-Z`.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_DIR", self.directory()?)
            // The values for the toolchain that started xtask do not apply here.
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER")
            .env_remove("RUSTDOC");
        Ok(cargo)
    }

    /// Returns the target folder. The folder can be deleted at any time and is then rebuilt.
    pub(crate) fn directory(&self) -> Result<PathBuf, Failure> {
        Ok(cache()?.join(format!("{}-target", self.name)))
    }
}
