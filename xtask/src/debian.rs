//! Debian's compiler with the source of its standard library, used to build the workspace for operating
//! systems whose standard library cannot be downloaded here. `-Z build-std` builds it as well, once, in a
//! separate target folder outside the checkout.

use std::path::PathBuf;
use std::process::Command;

use crate::Failure;
use crate::fixtures::cache;
use crate::needs::{Program, program};
use crate::workspace::Workspace;

/// The programs that every such build needs. Full paths are used because a newer toolchain may precede
/// them in `PATH`, and an older Debian `rustc` does not support edition 2024.
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

/// An operating system that can be built for from here.
pub(crate) struct Target {
    /// The name, also used as the prefix of its folder in the cache.
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
            // Makes a stable compiler accept `-Z`.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_DIR", self.directory()?)
            // The values of the toolchain that started xtask do not apply.
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER")
            .env_remove("RUSTDOC");
        Ok(cargo)
    }

    /// Returns the target folder. It can be deleted at any time and is then rebuilt.
    pub(crate) fn directory(&self) -> Result<PathBuf, Failure> {
        Ok(cache()?.join(format!("{}-target", self.name)))
    }
}
