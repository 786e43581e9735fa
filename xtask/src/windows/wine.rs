//! Wine: a prefix of our own, the library it lacks, and its server, which ends with us.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Suite;
use crate::workspace::{Workspace, run_aside};
use crate::{Failure, failed};

/// No suite takes this long. One that does hangs, and Wine's `timeout` would not end what it started.
const LONGEST: Duration = Duration::from_secs(600);

/// A running Wine. Dropping it ends its server, and with that every process in it.
pub(super) struct Wine {
    prefix: PathBuf,
    /// Nobody else runs in the prefix: ending its server would end their tests.
    _alone: fs::File,
}

/// What a test binary said.
pub(super) struct Said {
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) success: bool,
    pub(super) took: Duration,
}

impl Wine {
    /// In a prefix beside what is built, with the library that Wine 8 lacks beside every program.
    pub(super) fn start(workspace: &Workspace, target: &Path) -> Result<Self, Failure> {
        let alone = target.join("wine.lock");
        let alone = fs::File::create(&alone)
            .and_then(|file| file.lock().map(|()| file))
            .map_err(|error| failed(format!("{}: {error}", alone.display())))?;
        let wine = Self { prefix: target.join("wine"), _alone: alone };
        let shim = target.join("bcryptprimitives.dll");
        run_aside(
            workspace
                .command("x86_64-w64-mingw32-gcc")
                .args(["-shared", "-O", "xtask/wine/bcryptprimitives.c", "-ladvapi32", "-o"])
                .arg(&shim),
        )?;
        let programs = target.join("x86_64-pc-windows-gnu/debug");
        for folder in ["", "deps", "examples"] {
            let to = programs.join(folder).join("bcryptprimitives.dll");
            fs::copy(&shim, &to).map_err(|error| failed(format!("{}: {error}", to.display())))?;
        }
        // It is made at the first start, and brought up to date when Wine is another one.
        run_aside(wine.environment(workspace.command("wine").args(["wineboot", "--init"])))?;
        Ok(wine)
    }

    pub(super) fn run(&self, suite: &Suite, args: &[&str]) -> Result<Said, Failure> {
        let io = |error: io::Error| failed(format!("{}: {error}", suite.name));
        let begun = Instant::now();
        let mut command = Command::new("wine");
        command.arg(&suite.program).args(args).current_dir(&suite.directory);
        // Children of a test that is given up may hold its pipes: files end nobody's waiting.
        let [stdout, stderr] =
            ["stdout", "stderr"].map(|name| self.prefix.join(format!("tieline-{name}")));
        command.stdin(Stdio::null());
        command.stdout(fs::File::create(&stdout).map_err(io)?);
        command.stderr(fs::File::create(&stderr).map_err(io)?);
        let mut child = self.environment(&mut command).spawn().map_err(io)?;
        let success = loop {
            match child.try_wait().map_err(io)? {
                Some(status) => break status.success(),
                None if begun.elapsed() > LONGEST => {
                    child.kill().map_err(io)?;
                    child.wait().map_err(io)?;
                    self.end();
                    break false;
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let [stdout, stderr] = [stdout, stderr].map(fs::read).map(|read| {
            read.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
        });
        Ok(Said { stdout, stderr, success, took: begun.elapsed() })
    }

    fn environment<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("WINEPREFIX", &self.prefix)
            .env("WINEDEBUG", "-all")
            .env("DISPLAY", "")
            // Neither a browser engine nor .NET is asked for.
            .env("WINEDLLOVERRIDES", "mscoree,mshtml=")
            .env("RUST_BACKTRACE", "0")
            .env_remove("RUST_LOG")
    }

    /// Ends the server of this prefix, and of no other.
    fn end(&self) {
        for how in ["--kill", "--wait"] {
            let ended = self.environment(Command::new("wineserver").arg(how)).status();
            if let Err(error) = ended {
                eprintln!("windows: wineserver {how}: {error}");
            }
        }
    }
}

impl Drop for Wine {
    fn drop(&mut self) {
        self.end();
    }
}
