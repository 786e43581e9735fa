//! The programs that the tests and benchmarks use and that are not Debian packages. They are built from
//! `fixtures/`, once for each state of their sources, into a cache outside the checkout. Environment
//! variables pass their locations to the tests.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs::{self, File};
use std::hash::Hasher;
use std::io;
use std::path::{Path, PathBuf};

use crate::workspace::{Workspace, run_aside};
use crate::{Failure, failed};

/// A program, or a folder of programs, that is built from a folder of `fixtures/`.
pub(crate) struct Fixture {
    name: &'static str,
    /// The environment variable that contains its location.
    pub(crate) variable: &'static str,
    source: PathBuf,
    /// The folder of the built fixture, which exists only if the build is complete. Its name contains a
    /// hash of the sources, so that a changed lock file or script leads to another build.
    directory: PathBuf,
    /// The path that the variable contains, relative to the directory.
    product: &'static str,
    build: Build,
}

/// Builds the sources into an empty folder. It may keep files in the cache that speed up the next build.
type Build = fn(workspace: &Workspace, source: &Path, into: &Path) -> Result<(), Failure>;

/// Returns all fixtures of the tests, whether they are built or not.
pub(crate) fn all(workspace: &Workspace) -> Result<[Fixture; 4], Failure> {
    Ok([
        Fixture::new(workspace, "node", "TIELINE_NODE_FIXTURES", "", install_node)?,
        Fixture::new(workspace, "python", "TIELINE_PYTHON_FIXTURES", "", install_python)?,
        Fixture::new(workspace, "xi-core", "TIELINE_XI_CORE", "bin/xi-core", install_xi_core)?,
        Fixture::new(workspace, "acp", "TIELINE_ACP_CLIENT", "bin/acp-client", install_acp)?,
    ])
}

/// Returns the libraries with which the benchmarks compare tieline, whether they are built or not. The
/// tests do not need them, and the build takes minutes.
pub(crate) fn peers(workspace: &Workspace) -> Result<Fixture, Failure> {
    Fixture::new(workspace, "peers", "TIELINE_PEERS", "bin/peers", install_peers)
}

/// Returns the gateways from npm with which the benchmarks compare tieline.
pub(crate) fn gateways(workspace: &Workspace) -> Result<Fixture, Failure> {
    Fixture::new(workspace, "gateways", "TIELINE_GATEWAYS", "", install_node)
}

/// Returns the MCP conformance suite with a program for it, whether they are built or not.
pub(crate) fn conformance(workspace: &Workspace) -> Result<Fixture, Failure> {
    Fixture::new(workspace, "conformance", "TIELINE_CONFORMANCE", "", install_node)
}

impl Fixture {
    fn new(
        workspace: &Workspace,
        name: &'static str,
        variable: &'static str,
        product: &'static str,
        build: Build,
    ) -> Result<Self, Failure> {
        let source = workspace.root().join("fixtures").join(name);
        let key = hash(&source).map_err(|error| failed_at(&source, &error))?;
        let directory = cache()?.join(format!("{name}-{key:016x}"));
        Ok(Self { name, variable, source, directory, product, build })
    }

    /// Returns the folder of the sources, by which users know the fixture.
    pub(crate) fn source_folder(&self) -> String {
        format!("fixtures/{}", self.name)
    }

    pub(crate) fn is_built(&self) -> bool {
        self.directory.exists()
    }

    /// Returns the value of the variable: the program, or the folder with the programs.
    pub(crate) fn location(&self) -> PathBuf {
        self.directory.join(self.product)
    }

    pub(crate) fn build(&self, workspace: &Workspace) -> Result<(), Failure> {
        once_in_cache(self.name, &self.directory, |into| {
            (self.build)(workspace, &self.source, into)
        })
    }
}

/// Fills a folder of the cache unless it exists. The folder is filled under a temporary name and then
/// renamed, so that an interrupted run is never mistaken for a complete one. Two concurrent runs take
/// turns.
pub(crate) fn once_in_cache(
    name: &str,
    directory: &Path,
    fill: impl FnOnce(&Path) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let cache = cache()?;
    let partial = cache.join(format!("{name}.partial"));
    let io = |error: io::Error| failed_at(&partial, &error);

    fs::create_dir_all(&cache).map_err(io)?;
    let lock = File::create(cache.join("lock")).map_err(io)?;
    lock.lock().map_err(io)?;
    if directory.exists() {
        return Ok(());
    }
    remove_if_there(&partial).map_err(io)?;
    fs::create_dir(&partial).map_err(io)?;
    fill(&partial)?;
    fs::rename(&partial, directory).map_err(io)
}

/// Copies the scripts and installs their dependencies from npm. Install scripts of packages are not
/// run.
fn install_node(workspace: &Workspace, source: &Path, into: &Path) -> Result<(), Failure> {
    for file in files(source).map_err(|error| failed_at(source, &error))? {
        let to = into.join(file.file_name().unwrap_or_default());
        fs::copy(&file, &to).map_err(|error| failed_at(&to, &error))?;
    }
    let quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
    run_aside(workspace.command("npm").arg("ci").args(quiet).current_dir(into))
}

/// Creates a virtual environment with exactly the listed packages. No code of the packages is run. The
/// environment works after it is renamed, except for the scripts in `bin`, which contain the original
/// path. Use `bin/python -m module` instead.
fn install_python(workspace: &Workspace, source: &Path, into: &Path) -> Result<(), Failure> {
    run_aside(workspace.command("python3").args(["-m", "venv"]).arg(into))?;
    let quiet = ["--quiet", "--no-input", "--disable-pip-version-check"];
    let exact = ["--no-deps", "--only-binary=:all:"];
    run_aside(
        workspace
            .command(into.join("bin/python"))
            .args(["-m", "pip", "install"])
            .args(quiet)
            .args(exact)
            .arg("--requirement")
            .arg(source.join("requirements.txt")),
    )
}

fn install_xi_core(workspace: &Workspace, source: &Path, into: &Path) -> Result<(), Failure> {
    install_crate(workspace, source, into, &["--debug"], "xi-core-target")
}

fn install_acp(workspace: &Workspace, source: &Path, into: &Path) -> Result<(), Failure> {
    install_crate(workspace, source, into, &["--debug"], "acp-target")
}

fn install_peers(workspace: &Workspace, source: &Path, into: &Path) -> Result<(), Failure> {
    install_crate(workspace, source, into, &[], "peers-target")
}

/// Installs a crate, in release mode unless `profile` selects another one. The target folder stays in
/// the cache, so that the build after a change to main.rs takes only seconds.
fn install_crate(
    workspace: &Workspace,
    source: &Path,
    into: &Path,
    profile: &[&str],
    target: &str,
) -> Result<(), Failure> {
    run_aside(
        workspace
            .cargo()
            .args(["install", "--quiet", "--locked", "--no-track"])
            .args(profile)
            .arg("--path")
            .arg(source)
            .arg("--root")
            .arg(into)
            .env("CARGO_TARGET_DIR", cache()?.join(target)),
    )
}

/// Returns the cache folder, which can be deleted at any time and is then rebuilt.
pub(crate) fn cache() -> Result<PathBuf, Failure> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("XDG_CACHE_HOME")
        .or_else(|| Some(variable("HOME")?.join(".cache")))
        .map(|caches| caches.join("tieline"))
        .ok_or_else(|| failed("cannot find a place for the cache: set HOME or XDG_CACHE_HOME"))
}

/// Hashes the names and contents of all files. Hashes are compared only on this machine and by this
/// program.
fn hash(source: &Path) -> io::Result<u64> {
    let mut hasher = DefaultHasher::new();
    for file in files(source)? {
        let content = fs::read(&file)?;
        hasher.write(file.strip_prefix(source).unwrap_or(&file).as_os_str().as_encoded_bytes());
        hasher.write_usize(content.len());
        hasher.write(&content);
    }
    Ok(hasher.finish())
}

/// Returns the source files in a folder and below, sorted, without the products of manual builds.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.ends_with("target") || path.ends_with("node_modules") {
            continue;
        }
        match path.is_dir() {
            true => found.extend(files(&path)?),
            false => found.push(path),
        }
    }
    found.sort();
    Ok(found)
}

fn remove_if_there(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn failed_at(path: &Path, error: &io::Error) -> Failure {
    failed(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_depends_on_names_and_contents_but_not_on_build_products() {
        let source = env::temp_dir().join(format!("tieline-xtask-hash-{}", std::process::id()));
        fs::create_dir_all(source.join("src")).unwrap();
        fs::write(source.join("lock"), "1").unwrap();
        let first = hash(&source).unwrap();

        fs::write(source.join("lock"), "2").unwrap();
        let other_content = hash(&source).unwrap();
        assert_ne!(first, other_content);

        fs::rename(source.join("lock"), source.join("src/lock")).unwrap();
        assert_ne!(other_content, hash(&source).unwrap());

        fs::rename(source.join("src/lock"), source.join("lock")).unwrap();
        fs::create_dir(source.join("target")).unwrap();
        fs::write(source.join("target/built"), "").unwrap();
        assert_eq!(other_content, hash(&source).unwrap());
        fs::remove_dir_all(&source).unwrap();
    }
}
