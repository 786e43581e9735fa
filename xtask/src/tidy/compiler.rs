//! The checks by cargo and its tools. Their messages precede the findings, which name the command to
//! repeat.

use std::path::Path;
use std::process::Stdio;

use crate::tidy::Finding;
use crate::workspace::{Workspace, succeeds};
use crate::{Failure, failed};

pub(super) fn format(workspace: &Workspace) -> Result<Vec<Finding>, Failure> {
    let list = (workspace.cargo().args(["fmt", "--all", "--check", "--", "-l"]))
        .stderr(Stdio::inherit())
        .output()
        .map_err(failed)?;
    let stdout = String::from_utf8_lossy(&list.stdout);
    if !list.status.success() && stdout.is_empty() {
        return Err(failed("`cargo fmt` failed"));
    }
    let relative = |file| Path::new(file).strip_prefix(workspace.root()).unwrap_or(Path::new(file));
    Ok((stdout.lines().map(relative))
        .map(|file| Finding::new(file.display(), "is not formatted", "run `cargo fmt --all`"))
        .collect())
}

/// Checks the lock files, including those of the fixtures. When cargo built this program, it updated the
/// lock file of the workspace unless `--locked` was passed, as on CI. An updated file only has to be
/// committed.
pub(super) fn lock(workspace: &Workspace) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    for lock in workspace.files()?.iter().filter(|file| file.ends_with("Cargo.lock")) {
        let manifest = lock.with_file_name("Cargo.toml");
        let update = ["update", "--workspace", "--quiet", "--manifest-path"];
        if !succeeds(workspace.cargo().args(update).arg(&manifest).arg("--locked"))? {
            let remedy = format!("run `cargo {} {}`", update.join(" "), manifest.display());
            findings.push(Finding::new(lock.display(), "does not match its Cargo.toml", remedy));
        }
    }
    Ok(findings)
}

pub(super) fn lints(workspace: &Workspace) -> Result<Vec<Finding>, Failure> {
    let command = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    match succeeds(workspace.cargo().args(command))? {
        true => Ok(Vec::new()),
        false => Ok(vec![above("clippy", &format!("`cargo {}`", command.join(" ")))]),
    }
}

/// Checks that libraries and programs use their dependencies. Tests are not built for this check,
/// because they may use more.
pub(super) fn unused(workspace: &Workspace) -> Result<Vec<Finding>, Failure> {
    let command = ["clippy", "--workspace", "--lib", "--bins", "--all-features", "--locked"];
    let command = [&command[..], &["--", "-D", "unused_crate_dependencies"]].concat();
    match succeeds(workspace.cargo().args(&command))? {
        true => Ok(Vec::new()),
        false => Ok(vec![above("clippy", &format!("`cargo {}`", command.join(" ")))]),
    }
}

pub(super) fn docs(workspace: &Workspace) -> Result<Vec<Finding>, Failure> {
    let command = ["doc", "--workspace", "--all-features", "--no-deps", "--locked"];
    match succeeds(workspace.cargo().args(command).env("RUSTDOCFLAGS", "-D warnings"))? {
        true => Ok(Vec::new()),
        false => {
            let again = format!("`RUSTDOCFLAGS=\"-D warnings\" cargo {}`", command.join(" "));
            Ok(vec![above("rustdoc", &again)])
        }
    }
}

/// Checks the library with each combination of its features. Its tests always have all features.
pub(super) fn features(workspace: &Workspace) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    for features in combinations() {
        let command = ["clippy", "-p", "tieline", "--lib", "--locked", "--no-default-features"];
        let command = [&command[..], &["--features", &features, "--", "-D", "warnings"]].concat();
        if !succeeds(workspace.cargo().args(&command))? {
            findings.push(above("clippy", &format!("`cargo {}`", command.join(" "))));
        }
    }
    // Other features cannot be disabled in a test, because the tests use child processes and the
    // library's tests have all features.
    let command = ["test", "-p", "tieline-http", "--lib", "--locked", "--no-default-features"];
    let command = [&command[..], &["tls::"]].concat();
    if !succeeds(workspace.cargo().args(&command))? {
        findings.push(above("the tests without TLS", &format!("`cargo {}`", command.join(" "))));
    }
    Ok(findings)
}

/// Returns the combinations of the library's features, as lists for cargo. `tls` and `oauth` imply `web`.
fn combinations() -> Vec<String> {
    let groups: [&[&str]; 4] =
        [&["", "process"], &["", "rpc"], &["", "pool"], &["", "web", "tls", "oauth"]];
    groups.iter().fold(vec![String::new()], |lists, group| {
        let with =
            |list: &String| group.iter().map(|feature| format!("{list} {feature}")).collect();
        lists.iter().flat_map::<Vec<_>, _>(with).collect()
    })
}

/// Packages every crate as `cargo publish` would, without uploading it.
pub(super) fn package(workspace: &Workspace) -> Result<Vec<Finding>, Failure> {
    let command = ["package", "--workspace", "--no-verify", "--locked", "--allow-dirty"];
    match succeeds(workspace.cargo().args(command))? {
        true => Ok(Vec::new()),
        false => Ok(vec![above("cargo package", &format!("`cargo {}`", command.join(" ")))]),
    }
}

pub(super) fn above(tool: &str, again: &str) -> Finding {
    Finding::new(
        "workspace",
        format!("{tool} reported problems, see above"),
        format!("fix them and run {again}"),
    )
}
