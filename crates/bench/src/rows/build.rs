//! The cost of building the program: the time of a cold release build, the time from start to the first
//! answered message, and the number of crates.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::compare::{Bench, Result};
use crate::report::{Goal, TableLine, Unit};
use crate::workspace::workspace_root;

const TIMES: u32 = 3;
const PROGRAM: [&str; 3] = ["--locked", "--package", "tieline-cli"];

pub(super) fn run(_: &Bench) -> Result<Vec<TableLine>> {
    // Downloads are not part of the time to build.
    succeed(cargo()?.args(["fetch", "--locked"]))?;
    let (mut built, mut answered) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..TIMES {
        let folder = tempfile::tempdir()?;
        built = built.min(build(folder.path())?);
        answered = answered.min(first_answer(folder.path())?);
    }
    // This includes the web and TLS.
    let minutes = 3.5;
    Ok(vec![
        TableLine::alone(
            format!("cold release build of the program, best of {TIMES}"),
            Unit::Time,
            built,
            Some(Goal::AtMost(minutes * 60.0, Unit::Time)),
        ),
        TableLine::alone(
            format!("from its start to the first answered message, best of {TIMES}"),
            Unit::Time,
            answered,
            None,
        ),
        TableLine::alone(
            "crates of the program, its own included",
            Unit::Pieces,
            crates()? as f64,
            Some(Goal::AtMost(130.0, Unit::Pieces)),
        ),
    ])
}

/// Returns the duration of one build into an empty folder, in seconds.
fn build(folder: &Path) -> Result<f64> {
    let mut cargo = cargo()?;
    cargo.args(["build", "--release", "--quiet"]).args(PROGRAM);
    // A compiler wrapper would use its cache.
    cargo.env("CARGO_TARGET_DIR", folder).env("RUSTC_WRAPPER", "");
    let begun = Instant::now();
    succeed(&mut cargo)?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Returns the seconds from the start of the program until a response of its demo agent arrives.
fn first_answer(folder: &Path) -> Result<f64> {
    let socket = folder.join("bench.sock");
    let mut endpoint = std::ffi::OsString::from("unix:");
    endpoint.push(&socket);
    let begun = Instant::now();
    let mut server = Server(
        Command::new(folder.join("release/tieline"))
            .args(["serve", "--quiet", "--listen"])
            .arg(endpoint)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let stdout = server.0.stdout.take().ok_or("the program has no stdout")?;
    // The program prints the endpoint once it is listening.
    BufReader::new(stdout).read_line(&mut String::new())?;
    let mut stream = UnixStream::connect(&socket)?;
    stream.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\",\"params\":[\"x\"]}\n")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    let elapsed = begun.elapsed().as_secs_f64();
    if answer.contains("\"result\"") {
        Ok(elapsed)
    } else {
        Err(format!("unexpected response: {answer}").into())
    }
}

/// A running server, which is killed on drop. Its agent exits when the line ends.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn crates() -> Result<usize> {
    let mut cargo = cargo()?;
    cargo.args(["tree", "--edges", "normal,build", "--prefix", "none"]).args(PROGRAM);
    let output = cargo.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err("`cargo tree` failed".into());
    }
    Ok(unique(&String::from_utf8_lossy(&output.stdout)))
}

/// Returns the number of distinct combinations of name and version in the list.
fn unique(tree: &str) -> usize {
    let crates = tree.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?, words.next()?))
    });
    crates.collect::<BTreeSet<_>>().len()
}

fn cargo() -> Result<Command> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace_root()?);
    Ok(cargo)
}

fn succeed(cargo: &mut Command) -> Result<()> {
    if cargo.status()?.success() { Ok(()) } else { Err("cargo failed".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_of_a_crate_is_counted_once() {
        let tree =
            "a v1.0.0 (somewhere)\nb v1.0.0\nb v2.0.0\nb v1.0.0 (*)\nc v0.1.0 (proc-macro)\n\n";
        assert_eq!(unique(tree), 4);
    }
}
