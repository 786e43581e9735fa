//! Runs Wine with its own prefix, with a library that it lacks, and with a server that ends with xtask.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Suite;
use crate::workspace::{Workspace, run_aside};
use crate::{Failure, failed};

/// The time after which a suite is considered to hang. Wine's `timeout` would not kill child processes.
const LONGEST: Duration = Duration::from_secs(600);

/// A running instance of Wine. Dropping it ends its server and thereby all processes.
pub(super) struct Wine {
    prefix: PathBuf,
    /// A shell that ends the server when its stdin is closed, which also happens if xtask is killed or
    /// interrupted with Ctrl-C.
    ending: Child,
}

/// The script of that shell. It ignores Ctrl-C, which is sent to the whole process group, because it has
/// to clean up afterwards.
const ENDING: &str = "trap '' INT TERM HUP; read line; wineserver --kill; wineserver --wait";

/// The output of a test binary.
pub(super) struct Said {
    pub(super) stdout: String,
    pub(super) stderr: String,
    /// The exit code, or `None` if there is none or the test binary was killed because it took too long.
    pub(super) code: Option<i32>,
    pub(super) took: Duration,
}

impl Wine {
    /// Starts Wine with a prefix next to the build products, and copies the library that Wine 8 lacks
    /// into the folder of every program.
    pub(super) fn start(workspace: &Workspace, target: &Path) -> Result<Self, Failure> {
        let alone = target.join("wine.lock");
        let alone = fs::File::create(&alone)
            .and_then(|file| file.lock().map(|()| file))
            .map_err(|error| failed(format!("{}: {error}", alone.display())))?;
        let prefix = target.join("wine");
        // The shell holds the lock as well. Another xtask must not use the prefix until the server has
        // ended, because its tests would be killed.
        let mut ending = Command::new("sh");
        let ending = environment(&prefix, ending.args(["-c", ENDING]))
            .stdin(Stdio::piped())
            .stdout(alone)
            .spawn()
            .map_err(|error| failed(format!("sh: {error}")))?;
        let wine = Self { prefix, ending };
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
        // The prefix is created at the first start and updated when the version of Wine changes.
        run_aside(wine.environment(workspace.command("wine").args(["wineboot", "--init"])))?;
        run_aside(wine.environment(Command::new("wineserver").arg("--wait")))?;
        wine.serve()?;
        Ok(wine)
    }

    pub(super) fn run(&self, suite: &Suite, args: &[&str]) -> Result<Said, Failure> {
        let io = |error: io::Error| failed(format!("{}: {error}", suite.name));
        let begun = Instant::now();
        let mut command = Command::new("wine");
        command.arg(&suite.program).args(args).current_dir(&suite.directory);
        // The output is written to files rather than pipes, because children of a killed test may keep
        // pipes open.
        let [stdout, stderr] =
            ["stdout", "stderr"].map(|name| self.prefix.join(format!("tieline-{name}")));
        command.stdin(Stdio::null());
        command.stdout(fs::File::create(&stdout).map_err(io)?);
        command.stderr(fs::File::create(&stderr).map_err(io)?);
        let mut child = self.environment(&mut command).spawn().map_err(io)?;
        let code = loop {
            match child.try_wait().map_err(io)? {
                Some(status) => break status.code(),
                None if begun.elapsed() > LONGEST => {
                    child.kill().map_err(io)?;
                    child.wait().map_err(io)?;
                    self.end();
                    self.serve()?;
                    break None;
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let [stdout, stderr] = [stdout, stderr].map(fs::read).map(|read| {
            read.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
        });
        Ok(Said { stdout, stderr, code, took: begun.elapsed() })
    }

    fn environment<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        environment(&self.prefix, command)
    }

    /// Starts the server in persistent mode. Otherwise each program would start a server that ends after
    /// the last program, and the next program would wait two seconds for that end.
    fn serve(&self) -> Result<(), Failure> {
        run_aside(self.environment(Command::new("wineserver").arg("--persistent")))
    }

    /// Kills the server and all processes of this prefix, and no others.
    fn end(&self) {
        for how in ["--kill", "--wait"] {
            let ended = self.environment(Command::new("wineserver").arg(how)).status();
            if let Err(error) = ended {
                eprintln!("windows: wineserver {how}: {error}");
            }
        }
    }
}

fn environment<'a>(prefix: &Path, command: &'a mut Command) -> &'a mut Command {
    command
        .env("WINEPREFIX", prefix)
        .env("WINEDEBUG", "-all")
        .env("DISPLAY", "")
        // Wine must not offer to install a browser engine or .NET.
        .env("WINEDLLOVERRIDES", "mscoree,mshtml=")
        .env("RUST_BACKTRACE", "0")
        .env_remove("RUST_LOG")
}

impl Drop for Wine {
    fn drop(&mut self) {
        drop(self.ending.stdin.take());
        if let Err(error) = self.ending.wait() {
            eprintln!("windows: cannot wait for wineserver: {error}");
        }
    }
}
