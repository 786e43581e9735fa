//! The published crates must build with the oldest Rust that they declare (`rust-version`).
//!
//! That compiler comes from Debian. It is the installed one, or, on Debian 12, a package that is
//! unpacked into the cache, because a newer package of the same name is installed for the other checks.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::compiler::above;
use crate::fixtures::{cache, once_in_cache};
use crate::tidy::Finding;
use crate::workspace::{Crate, Workspace, output, run_aside, succeeds};
use crate::{Failure, failed, needs};

pub(super) fn check(workspace: &Workspace) -> Result<Vec<Finding>, Failure> {
    let published = published(workspace)?;
    let oldest = oldest(&published)?;
    let Some(rustc) = Rustc::find(workspace, &oldest)? else {
        let what =
            format!("the build with Rust {oldest} was not checked: this compiler is missing");
        let remedy = "run `cargo xtask tidy --install`, which finds it in Debian 12 and 13";
        return Ok(vec![Finding::new("rust-version", what, remedy).note()]);
    };
    let mut cargo = workspace.cargo();
    cargo.args(["check", "--locked", "--all-features"]);
    cargo.args(published.iter().flat_map(|it| ["-p", &it.name]));
    rustc.use_for(&mut cargo);
    cargo.env("CARGO_TARGET_DIR", cache()?.join("msrv-target"));
    match succeeds(&mut cargo)? {
        true => Ok(Vec::new()),
        false => Ok(vec![above(&format!("Rust {oldest}"), "`cargo xtask tidy`")]),
    }
}

/// Unpacks the compiler into the cache if it is missing and Debian has it.
pub(super) fn install(workspace: &Workspace) -> Result<(), Failure> {
    let oldest = oldest(&published(workspace)?)?;
    if Rustc::find(workspace, &oldest)?.is_some() {
        return Ok(());
    }
    let version = match debian_version(workspace, &oldest)? {
        Some(version) => Some(version),
        // The package lists may be missing or old.
        None => {
            needs::update_lists(workspace)?;
            debian_version(workspace, &oldest)?
        }
    };
    let Some(version) = version else {
        // The check itself reports that the compiler is missing.
        return Ok(());
    };
    let of = |package: &str| format!("{package}={version}");
    let std = format!("libstd-rust-web-{oldest}");
    let mut packages = vec![of("rustc-web"), of("libstd-rust-web-dev"), of(&std)];
    packages.push(llvm(workspace, &of(&std))?);
    once_in_cache("rust-oldest", &unpacked(&oldest)?, |into| {
        let mut download = workspace.command("apt-get");
        run_aside(download.args(["--quiet", "download"]).args(&packages).current_dir(into))?;
        for package in into.read_dir().map_err(failed)? {
            let package = package.map_err(failed)?.path();
            run_aside(workspace.command("dpkg-deb").arg("-x").arg(&package).arg(into))?;
            std::fs::remove_file(&package).map_err(failed)?;
        }
        Ok(())
    })
}

fn published(workspace: &Workspace) -> Result<Vec<Crate>, Failure> {
    Ok(workspace.crates()?.into_iter().filter(|it| it.is_published).collect())
}

/// Returns the version that all published crates declare, such as `1.85`.
fn oldest(published: &[Crate]) -> Result<String, Failure> {
    let mut versions = published.iter().map(|it| it.rust_version.as_deref());
    let first = versions.next().flatten();
    match first {
        Some(version) if versions.all(|it| it == first) => Ok(version.to_owned()),
        _ => Err(failed("the published crates must declare the same rust-version")),
    }
}

fn unpacked(oldest: &str) -> Result<PathBuf, Failure> {
    Ok(cache()?.join(format!("rust-{oldest}")))
}

/// Returns the version of Debian's compiler package that contains this version of Rust.
fn debian_version(workspace: &Workspace, oldest: &str) -> Result<Option<String>, Failure> {
    let mut apt = workspace.command("apt-cache");
    let Ok(list) = apt.args(["madison", "rustc-web"]).stderr(Stdio::null()).output() else {
        // This system is not Debian.
        return Ok(None);
    };
    Ok(of_rust(&String::from_utf8_lossy(&list.stdout), oldest))
}

/// Returns the first package version with this version of Rust in lines such as `rustc-web |
/// 1.85.0+dfsg3-1~deb12u3 | http://…`.
fn of_rust(madison: &str, oldest: &str) -> Option<String> {
    let versions = madison.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim);
    let is_it = |version: &&str| {
        version.strip_prefix(oldest).is_some_and(|rest| rest.starts_with(['.', '+', '-']))
    };
    versions.into_iter().find(is_it).map(str::to_owned)
}

/// Returns the package of LLVM on which a package depends.
fn llvm(workspace: &Workspace, package: &str) -> Result<String, Failure> {
    let list = output(workspace.command("apt-cache").args(["show", package]))?;
    let depends = list.lines().filter_map(|line| line.strip_prefix("Depends:"));
    let names = depends.flat_map(|line| line.split([',', ' ', '|']));
    names
        .map(str::trim)
        .find(|name| name.starts_with("libllvm"))
        .map(str::to_owned)
        .ok_or_else(|| failed(format!("{package} does not depend on a package of LLVM")))
}

/// A compiler and the libraries that it needs.
struct Rustc {
    program: PathBuf,
    libraries: Option<PathBuf>,
}

impl Rustc {
    fn find(workspace: &Workspace, oldest: &str) -> Result<Option<Self>, Failure> {
        let system = Self { program: "/usr/bin/rustc".into(), libraries: None };
        let is_it = |it: &Self| it.version(workspace).is_some_and(|version| version == oldest);
        Ok([Self::below(&unpacked(oldest)?), system].into_iter().find(is_it))
    }

    fn below(root: &Path) -> Self {
        let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
        let libraries = root.join("usr/lib").join(triplet);
        Self { program: root.join("usr/bin/rustc"), libraries: Some(libraries) }
    }

    fn version(&self, workspace: &Workspace) -> Option<String> {
        if !self.program.exists() {
            return None;
        }
        let mut command = workspace.command(&self.program);
        self.use_for(&mut command);
        let output = command.arg("--version").stderr(Stdio::null()).output().ok()?;
        minor(&String::from_utf8_lossy(&output.stdout))
    }

    fn use_for(&self, command: &mut Command) {
        command.env("RUSTC", &self.program);
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        // The values for the toolchain that started xtask do not apply here.
        for variable in
            ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"]
        {
            command.env_remove(variable);
        }
    }
}

/// Returns the minor version, such as `1.85`, in the output `rustc 1.85.0 (…)`.
fn minor(version: &str) -> Option<String> {
    let number = version.split_ascii_whitespace().nth(1)?;
    number.rsplit_once('.').map(|(minor, _)| minor.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_package_with_the_oldest_rust_is_found() {
        let list = " rustc-web | 1.96.0+dfsg1-1~deb12u2 | http://x bookworm-security/main amd64 Packages\n \
                    rustc-web | 1.85.0+dfsg3-1~deb12u3 | http://x bookworm/main amd64 Packages\n";
        assert_eq!(of_rust(list, "1.85").as_deref(), Some("1.85.0+dfsg3-1~deb12u3"));
        assert_eq!(of_rust(list, "1.8"), None);
        assert_eq!(of_rust("", "1.85"), None);
    }

    #[test]
    fn version_of_the_compiler_is_parsed() {
        assert_eq!(
            minor("rustc 1.85.0 (4d91de4e4 2025-02-17) (built from a source tarball)\n").as_deref(),
            Some("1.85")
        );
        assert_eq!(minor(""), None);
    }
}
