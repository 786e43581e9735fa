//! A child process on Windows: in a job from before its first instruction, on pipes whose reads can be
//! cancelled.

mod job;
mod lifecycle;
mod pipes;
mod resolve;

use std::io;
use std::os::windows::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::windows::named_pipe::NamedPipeServer;
use tokio::process::Child;
use windows_sys::Win32::System::Threading::{
    CREATE_NEW_PROCESS_GROUP, CREATE_NO_WINDOW, CREATE_SUSPENDED,
};

pub use pipes::{ChildStdin, ChildStdout};
pub use resolve::resolve;

use crate::control::ControlBuilder;
use crate::process::PROFILE;
use crate::{
    Capabilities, Endpoint, ErrorKind, IoConnection, Operation, ProcessConfig, ProcessConnection,
    TransportConfig, TransportError, TransportKind,
};
use job::Job;
use lifecycle::Lifecycle;
use pipes::Output;

/// True: what a line has killed is the system's to clear away, and nothing is left to wait for.
pub fn until_children_are_gone(_: Duration) -> bool {
    true
}

/// A child that runs, in its job.
struct Started {
    child: Child,
    job: Job,
    /// It has our console, and so hears CTRL_BREAK.
    shares_console: bool,
    stdin: NamedPipeServer,
    stdout: Output,
    stderr: Output,
}

pub(crate) async fn launch(
    config: &ProcessConfig,
    endpoint: &Endpoint,
) -> Result<ProcessConnection, TransportError> {
    config.validate()?;
    let program = resolve(&config.program, config.cwd.as_deref())?;
    // Starting a program takes milliseconds that a thread of the runtime does not have. A child that
    // nobody waits for any more goes with its job.
    let is_batch_file = is_batch_file(&program);
    let launch_failed = |error| launch_failed(error, is_batch_file);
    let wanted = config.clone();
    let started = tokio::task::spawn_blocking(move || start(&wanted, program)).await;
    let started = started.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()));
    let Started { child, job, shares_console, stdin, stdout, stderr } =
        started.map_err(launch_failed)?;
    let lifecycle =
        Lifecycle::new(child, job, shares_console, config.stop).map_err(launch_failed)?;
    let read = ChildStdout::new(stdout, &lifecycle, config.stop.drain);
    let write = ChildStdin::new(stdin);
    lifecycle.watch(stderr, config.name());
    let control = ControlBuilder {
        kind: TransportKind::PROCESS,
        endpoint: endpoint.clone(),
        peer: None,
        capabilities: Capabilities {
            half_close: true,
            notices_hangup: true,
            ..Capabilities::default()
        },
        profile: PROFILE,
        backing: Arc::new(lifecycle),
    };
    Ok(IoConnection::new(read, write, control.build()))
}

/// Must be called in a runtime.
fn start(config: &ProcessConfig, program: PathBuf) -> io::Result<Started> {
    let (stdin, theirs_in) = pipes::to_child()?;
    let (stdout, theirs_out) = pipes::from_child()?;
    let (stderr, theirs_err) = pipes::from_child()?;
    let shares_console = job::has_console();
    let mut command = Command::new(plain(&program));
    command.args(&config.args);
    if !config.env.is_ours() {
        command.env_clear().envs(config.env.resolve(std::env::vars_os()));
    }
    command.stdin(Stdio::from(theirs_in)).stdout(Stdio::from(theirs_out));
    command.stderr(Stdio::from(theirs_err));
    // In a group of its own Ctrl-C is not for it: it ends when its line does. Where there is no console
    // to share, none is to pop up.
    let window = if shares_console { 0 } else { CREATE_NO_WINDOW };
    command.creation_flags(CREATE_SUSPENDED | CREATE_NEW_PROCESS_GROUP | window);
    if let Some(cwd) = &config.cwd {
        command.current_dir(cwd);
    }
    let job = Job::new()?;
    // Whatever fails from here on, the child goes with this value or with the job.
    let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
    let handle = child.raw_handle().ok_or(io::ErrorKind::NotFound)?;
    let pid = child.id().ok_or(io::ErrorKind::NotFound)?;
    let begun = job.take_in(handle).and_then(|()| job::resume(pid));
    if let Err(error) = begun {
        let _ = child.start_kill();
        return Err(error);
    }
    Ok(Started { child, job, shares_console, stdin, stdout, stderr })
}

/// Without the `\\?\` that some programs do not understand in their own name. Only before a drive: what
/// else may follow it would be a relative path without it, and be looked for somewhere else.
fn plain(program: &Path) -> &Path {
    let text = program.to_str().and_then(|text| text.strip_prefix(r"\\?\"));
    let on_drive = text.filter(
        |text| matches!(text.as_bytes(), [drive, b':', b'\\', ..] if drive.is_ascii_alphabetic()),
    );
    on_drive.map_or(program, Path::new)
}

/// Whether cmd.exe reads it.
fn is_batch_file(program: &Path) -> bool {
    let ending = program.extension();
    ending.is_some_and(|it| it.eq_ignore_ascii_case("cmd") || it.eq_ignore_ascii_case("bat"))
}

fn launch_failed(error: io::Error, is_batch_file: bool) -> TransportError {
    let is_refused = is_batch_file && error.kind() == io::ErrorKind::InvalidInput;
    let kind = match crate::error::common_kind(&error) {
        ErrorKind::Io => ErrorKind::LaunchFailed,
        kind => kind,
    };
    let failed = TransportError::new(kind, Operation::Launch).because(error);
    match is_refused {
        // What std says of an argument that it cannot quote for cmd.exe.
        true => failed.with_hint(
            "a .cmd or .bat file is read by cmd.exe, which would misread one of the arguments; \
             start the program that it starts",
        ),
        false => failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_taken_only_from_what_is_absolute_without_it() {
        for (program, expected) in [
            (r"\\?\C:\a\agent.exe", r"C:\a\agent.exe"),
            (r"C:\agent.exe", r"C:\agent.exe"),
            (r"\\?\UNC\server\share\agent.exe", r"\\?\UNC\server\share\agent.exe"),
            (r"\\?\Volume{1}\agent.exe", r"\\?\Volume{1}\agent.exe"),
            (r"\\?\C:agent.exe", r"\\?\C:agent.exe"),
        ] {
            assert_eq!(plain(Path::new(program)), Path::new(expected), "{program}");
        }
    }

    #[test]
    fn only_batch_files_are_read_by_a_shell() {
        for (program, expected) in
            [("a.cmd", true), ("a.BAT", true), ("a.exe", false), ("cmd", false)]
        {
            assert_eq!(is_batch_file(Path::new(program)), expected, "{program}");
        }
    }
}
