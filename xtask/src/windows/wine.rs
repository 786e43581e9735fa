//! Wine: a prefix of our own, the library it lacks, and its server, which ends with us.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Suite;
use crate::workspace::{Workspace, run_aside};
use crate::{Failure, failed};

/// No suite takes this long. One that does hangs, and Wine's `timeout` would not end what it started.
const LONGEST: Duration = Duration::from_secs(600);

/// A running Wine. Dropping it ends its server, and with that every process in it.
pub(super) struct Wine {
    prefix: PathBuf,
    /// Ends the server when its stdin does, which is also our end, however that comes: Ctrl-C leaves
    /// nobody here who could.
    ending: Child,
}

/// Ctrl-C is for all in the terminal's group; this one is there for what comes behind it.
const ENDING: &str = "trap '' INT TERM HUP; read line; wineserver --kill; wineserver --wait";

/// What a test binary said.
pub(super) struct Said {
    pub(super) stdout: String,
    pub(super) stderr: String,
    /// What it ended with; `None` where that is no number, or it was ended for taking too long.
    pub(super) code: Option<i32>,
    pub(super) took: Duration,
}

impl Wine {
    /// In a prefix beside what is built, with the library that Wine 8 lacks beside every program.
    pub(super) fn start(workspace: &Workspace, target: &Path) -> Result<Self, Failure> {
        let alone = target.join("wine.lock");
        let alone = fs::File::create(&alone)
            .and_then(|file| file.lock().map(|()| file))
            .map_err(|error| failed(format!("{}: {error}", alone.display())))?;
        let prefix = target.join("wine");
        // It holds the lock, too: nobody else is to run in the prefix before the server has ended, or it
        // would end their tests.
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
        // It is made at the first start, and brought up to date when Wine is another one.
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
        // Children of a test that is given up may hold its pipes: files end nobody's waiting.
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

    /// Starts the server, to stay whoever comes and goes: one that a program starts for itself ends with the
    /// last of them, and the next one waits two seconds for another.
    fn serve(&self) -> Result<(), Failure> {
        run_aside(self.environment(Command::new("wineserver").arg("--persistent")))
    }

    /// Ends what runs in this prefix, and in no other, with the server.
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
        // Neither a browser engine nor .NET is asked for.
        .env("WINEDLLOVERRIDES", "mscoree,mshtml=")
        .env("RUST_BACKTRACE", "0")
        .env_remove("RUST_LOG")
}

impl Drop for Wine {
    fn drop(&mut self) {
        drop(self.ending.stdin.take());
        if let Err(error) = self.ending.wait() {
            eprintln!("windows: the end of wineserver: {error}");
        }
    }
}
