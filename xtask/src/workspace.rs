//! The checkout in which this program runs: its root, cargo, crates and files.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{Failure, failed};

/// The root of the checkout.
pub(crate) struct Workspace {
    root: PathBuf,
}

/// A member of the workspace, with the properties that the checks need.
pub(crate) struct Crate {
    pub(crate) name: String,
    /// The crate's folder, relative to the root, like all paths in findings.
    pub(crate) directory: PathBuf,
    pub(crate) is_published: bool,
    pub(crate) rust_version: Option<String>,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) has_library: bool,
}

pub(crate) struct Dependency {
    /// The package's name.
    pub(crate) name: String,
    /// The name that is used in code: without dashes, and the new name if the dependency is renamed.
    pub(crate) identifier: String,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    Dev,
    Build,
}

impl Workspace {
    /// Finds the checkout through cargo's environment, so that a binary that was built in one checkout
    /// and cached for another never uses the wrong one.
    pub(crate) fn here() -> Result<Self, Failure> {
        env::var_os("CARGO_MANIFEST_DIR")
            .and_then(|xtask| Path::new(&xtask).parent().map(Path::to_path_buf))
            .map(|root| Self { root })
            .ok_or_else(|| failed("start it as `cargo xtask`: CARGO_MANIFEST_DIR is not set"))
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns a command of the cargo that started this program, which runs in the root.
    pub(crate) fn cargo(&self) -> Command {
        self.command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
    }

    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).stdin(Stdio::null());
        command
    }

    pub(crate) fn crates(&self) -> Result<Vec<Crate>, Failure> {
        let metadata = self.metadata()?;
        array(&metadata, "packages").map(|package| self.read_crate(package)).collect()
    }

    /// Returns all packages of Cargo.lock that are built on this system, in the form of `cargo
    /// metadata`.
    pub(crate) fn packages(&self) -> Result<Vec<Value>, Failure> {
        let metadata = self.read_metadata(&["--locked", "--all-features"])?;
        Ok(array(&metadata, "packages").cloned().collect())
    }

    fn metadata(&self) -> Result<Value, Failure> {
        self.read_metadata(&["--no-deps"])
    }

    fn read_metadata(&self, options: &[&str]) -> Result<Value, Failure> {
        let args = ["metadata", "--format-version", "1"];
        let metadata = output(self.cargo().args(args).args(options))?;
        serde_json::from_str(&metadata).map_err(|error| failed(format!("cargo metadata: {error}")))
    }

    /// Returns cargo's target directory.
    pub(crate) fn target(&self) -> Result<PathBuf, Failure> {
        text(&self.metadata()?, "target_directory").map(PathBuf::from)
    }

    /// Returns all files that git tracks or would track, relative to the root. These are the files that
    /// a commit can contain.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>, Failure> {
        // With this option, git also works in a checkout that is owned by another user, as in a
        // container.
        let trust = format!("safe.directory={}", self.root.display());
        let list = output(self.command("git").args(["-c", &trust, "ls-files", "-z"]).args([
            "--cached",
            "--others",
            "--exclude-standard",
        ]))?;
        let mut files: Vec<PathBuf> = list
            .split_terminator('\0')
            .map(PathBuf::from)
            .filter(|file| self.root.join(file).is_file()) // deleted, but not yet in the index
            .collect();
        files.sort();
        files.dedup();
        Ok(files)
    }

    fn read_crate(&self, package: &Value) -> Result<Crate, Failure> {
        let manifest = Path::new(text(package, "manifest_path")?);
        let directory = manifest
            .parent()
            .and_then(|directory| directory.strip_prefix(&self.root).ok())
            .ok_or_else(|| failed(format!("{} is outside the root", manifest.display())))?;
        Ok(Crate {
            name: text(package, "name")?.to_owned(),
            directory: directory.to_owned(),
            // An absent value allows any registry, and an empty list is `publish = false`.
            is_published: !matches!(package.get("publish"), Some(Value::Array(to)) if to.is_empty()),
            rust_version: text(package, "rust_version").ok().map(str::to_owned),
            dependencies: array(package, "dependencies")
                .map(read_dependency)
                .collect::<Result<_, _>>()?,
            has_library: array(package, "targets")
                .any(|target| array(target, "kind").any(|kind| kind == "lib")),
        })
    }
}

fn read_dependency(dependency: &Value) -> Result<Dependency, Failure> {
    let name = text(dependency, "name")?;
    let used_as = dependency.get("rename").and_then(Value::as_str).unwrap_or(name);
    Ok(Dependency {
        name: name.to_owned(),
        identifier: used_as.replace('-', "_"),
        kind: match dependency.get("kind").and_then(Value::as_str) {
            None => Kind::Normal,
            Some("dev") => Kind::Dev,
            Some("build") => Kind::Build,
            Some(other) => {
                return Err(failed(format!("{name}: unknown kind of dependency {other:?}")));
            }
        },
    })
}

fn array<'a>(value: &'a Value, member: &str) -> impl Iterator<Item = &'a Value> {
    value.get(member).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, member: &str) -> Result<&'a str, Failure> {
    value
        .get(member)
        .and_then(Value::as_str)
        .ok_or_else(|| failed(format!("cargo metadata has no text {member:?}")))
}

/// Runs a command with the stdout and stderr of this process. Returns false if it failed.
pub(crate) fn succeeds(command: &mut Command) -> Result<bool, Failure> {
    command.status().map(|status| status.success()).map_err(|error| not_started(command, &error))
}

/// Runs a helper whose output is written to stderr, because stdout is for the results.
pub(crate) fn run_aside(command: &mut Command) -> Result<(), Failure> {
    eprintln!("xtask: {}", shown(command));
    match succeeds(command.stdout(io::stderr()))? {
        true => Ok(()),
        false => Err(failed(format!("`{}` failed", shown(command)))),
    }
}

/// Returns the output of a command on stdout. Fails if the command fails.
pub(crate) fn output(command: &mut Command) -> Result<String, Failure> {
    let output =
        command.stderr(Stdio::inherit()).output().map_err(|error| not_started(command, &error))?;
    if !output.status.success() {
        return Err(failed(format!("`{}` failed", shown(command))));
    }
    String::from_utf8(output.stdout)
        .map_err(|_| failed(format!("`{}` printed something that is not UTF-8", shown(command))))
}

fn not_started(command: &Command, error: &io::Error) -> Failure {
    failed(format!("cannot start `{}`: {error}", shown(command)))
}

/// Formats a command line for display, with the program's name instead of its path.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    std::iter::once(program)
        .chain(command.get_args())
        .map(|part| part.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
