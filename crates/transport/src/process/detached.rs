//! Starts a process that may outlive this one.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::inherited::Program;

/// Starts a program in a session of its own, which is not tied to this process: no guardian holds it, and it
/// goes on when this process ends. `argv` includes `argv[0]`.
///
/// Its stdin is the null device. It inherits no descriptors except the given stdout and stderr, no blocked
/// signals, and no variables except those in `env`.
///
/// # Errors
/// The program cannot be started.
pub fn start_detached(
    program: &Path,
    argv: impl IntoIterator<Item = OsString>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
    stdout: impl Into<Stdio>,
    stderr: impl Into<Stdio>,
) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    Program::new(program, argv, env)?.start_by(&mut command);
    command.spawn()
}
