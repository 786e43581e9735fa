//! Finds and installs the programs that the tests need in addition to Rust.
//!
//! Programs are checked as commands and not as packages, because node may have been installed in another
//! way, in which case Debian's must not be added.

use std::process::{Command, Stdio};

use crate::fixtures::{self, Fixture};
use crate::workspace::{Workspace, output, run_aside};
use crate::{Failure, failed, is_ci};

/// A command that must be available.
pub(crate) struct Program {
    name: &'static str,
    /// A command line that succeeds, and prints the version if a minimum version is required.
    check: &'static [&'static str],
    /// The major version of the oldest sufficient version, if there is a minimum.
    oldest: Option<u32>,
    from: Source,
}

enum Source {
    Debian(&'static [&'static str]),
    Rustup(&'static str),
}

const FOR_TESTS: &[Program] = &[
    program("C compiler", &["cc", "--version"], &["gcc", "libc6-dev"]),
    program("perl", &["perl", "-MPOSIX", "-e", "1"], &["perl-base"]),
    program("curl", &["curl", "--version"], &["curl"]),
    // nginx is in a directory that is only in the PATH of root.
    program("nginx", &["sh", "-c", "PATH=$PATH:/usr/sbin nginx -v"], &["nginx-light"]),
    program("groff", &["groff", "--version"], &["groff-base"]),
    program("socat", &["socat", "-V"], &["socat"]),
    program("python3", &["python3", "--version"], &["python3"]),
    program("python3 venv", &["python3", "-c", "import ensurepip, venv"], &["python3-venv"]),
    Program {
        name: "node (18 or newer)",
        oldest: Some(18),
        ..program("", &["node", "--version"], &["nodejs"])
    },
    program("npm", &["npm", "--version"], &["npm"]),
    program("chromium", &["chromium", "--version"], &["chromium"]),
];

const FOR_TIDY: &[Program] = &[
    program("git", &["git", "--version"], &["git"]),
    component("rustfmt", &["cargo", "fmt", "--version"]),
    component("clippy", &["cargo", "clippy", "--version"]),
];

pub(crate) const fn program(
    name: &'static str,
    check: &'static [&'static str],
    packages: &'static [&'static str],
) -> Program {
    Program { name, check, oldest: None, from: Source::Debian(packages) }
}

const fn component(name: &'static str, check: &'static [&'static str]) -> Program {
    Program { name, check, oldest: None, from: Source::Rustup(name) }
}

/// Returns all fixtures, which are built, after checking every program that they and the tests need.
/// Fails with the names of missing programs and fixtures, or installs these if that is allowed.
pub(crate) fn provide(
    workspace: &Workspace,
    for_tidy: bool,
    may_install: bool,
) -> Result<[Fixture; 4], Failure> {
    let fixtures = fixtures::all(workspace)?;
    let programs = || FOR_TESTS.iter().chain(FOR_TIDY.iter().filter(|_| for_tidy));

    let missing: Vec<&Program> = programs().filter(|it| !it.is_here(workspace)).collect();
    let unbuilt: Vec<&Fixture> = fixtures.iter().filter(|it| !it.is_built()).collect();
    if missing.is_empty() && unbuilt.is_empty() {
        return Ok(fixtures);
    }
    report(&missing, &unbuilt);
    if !may_install {
        let programs = missing.iter().map(|it| it.name.to_owned());
        let names = programs.chain(unbuilt.iter().map(|it| it.source_folder()));
        return Err(failed(format!(
            "missing: {} (run `cargo xtask test --install` to install all of it)",
            names.collect::<Vec<_>>().join(", ")
        )));
    }

    install_all(workspace, &missing)?;
    for fixture in unbuilt {
        fixture.build(workspace)?;
    }
    Ok(fixtures)
}

/// Checks that these programs are installed, for `cargo xtask COMMAND`. Fails with the names of missing
/// programs, or installs these if that is allowed.
pub(crate) fn programs(
    workspace: &Workspace,
    wanted: &[Program],
    command: &str,
    may_install: bool,
) -> Result<(), Failure> {
    let missing: Vec<&Program> = wanted.iter().filter(|it| !it.is_here(workspace)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    report(&missing, &[]);
    if !may_install {
        let names: Vec<_> = missing.iter().map(|it| it.name).collect();
        return Err(failed(format!(
            "missing: {} (run `cargo xtask {command} --install` to install all of it)",
            names.join(", ")
        )));
    }
    install_all(workspace, &missing)
}

fn install_all(workspace: &Workspace, missing: &[&Program]) -> Result<(), Failure> {
    install(workspace, missing)?;
    match missing.iter().find(|it| !it.is_here(workspace)) {
        Some(still) => Err(failed(format!("missing: {}, even after installing", still.name))),
        None => Ok(()),
    }
}

fn report(missing: &[&Program], unbuilt: &[&Fixture]) {
    eprintln!("xtask: missing:");
    for program in missing {
        let how = match program.from {
            Source::Debian(packages) => format!("apt-get install {}", packages.join(" ")),
            Source::Rustup(component) => format!("rustup component add {component}"),
        };
        eprintln!("  {:<20} {how}", program.name);
    }
    for fixture in unbuilt {
        eprintln!("  {:<20} cargo xtask test --install", fixture.source_folder());
    }
}

fn install(workspace: &Workspace, missing: &[&Program]) -> Result<(), Failure> {
    let mut packages = Vec::new();
    for program in missing {
        match program.from {
            Source::Debian(of_program) => packages.extend_from_slice(of_program),
            Source::Rustup(component) => {
                run_aside(workspace.command("rustup").args(["component", "add", component]))?;
            }
        }
    }
    match packages.is_empty() {
        true => Ok(()),
        false => install_packages(workspace, &packages),
    }
}

fn install_packages(workspace: &Workspace, packages: &[&str]) -> Result<(), Failure> {
    update_lists(workspace)?;
    apt_get(workspace, &[&["install", "-y", "--no-install-recommends"], packages].concat())
}

/// Downloads Debian's package lists. A failure is not an error, because it may not matter, for example
/// if one of many repositories is unreachable.
pub(crate) fn update_lists(workspace: &Workspace) -> Result<(), Failure> {
    if let Err(Failure::Failed(why)) = apt_get(workspace, &["update"]) {
        eprintln!("xtask: {why}; continuing with the existing package lists");
    }
    Ok(())
}

fn apt_get(workspace: &Workspace, args: &[&str]) -> Result<(), Failure> {
    let as_root = become_root(workspace)?;
    let command = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"];
    run_aside(&mut command_line(workspace, &[as_root, &command, args].concat()))
}

/// Returns the prefix with which a command runs as root.
fn become_root(workspace: &Workspace) -> Result<&'static [&'static str], Failure> {
    let is_root = output(workspace.command("id").arg("-u"))?.trim() == "0";
    match is_root {
        true => Ok(&[]),
        false if !starts(workspace, &["sudo", "--version"]) => {
            Err(failed("cannot install packages: run as root or install sudo"))
        }
        // On CI, a password cannot be entered.
        false if is_ci() => Ok(&["sudo", "--non-interactive"]),
        false => Ok(&["sudo"]),
    }
}

impl Program {
    fn is_here(&self, workspace: &Workspace) -> bool {
        let Some(oldest) = self.oldest else { return starts(workspace, self.check) };
        let version = stdout_of(workspace, self.check);
        version.and_then(|version| major(&version)).is_some_and(|major| major >= oldest)
    }
}

/// Returns the major version, as in `v20.20.2` or `3.11`.
fn major(version: &str) -> Option<u32> {
    version.trim().trim_start_matches('v').split('.').next()?.parse().ok()
}

fn starts(workspace: &Workspace, command: &[&str]) -> bool {
    stdout_of(workspace, command).is_some()
}

/// Returns the command's output, or `None` if the command is missing or fails. A file in PATH alone is
/// no proof that a program works.
fn stdout_of(workspace: &Workspace, command: &[&str]) -> Option<String> {
    let output = command_line(workspace, command).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn command_line(workspace: &Workspace, line: &[&str]) -> Command {
    let mut words = line.iter();
    let mut command = workspace.command(words.next().copied().unwrap_or_default());
    command.args(words);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn major_versions_are_parsed() {
        for (version, expected) in [
            ("v20.20.2\n", Some(20)),
            ("9.2.0", Some(9)),
            ("18", Some(18)),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(major(version), expected, "{version:?}");
        }
    }
}
