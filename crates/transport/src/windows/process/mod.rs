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
    stdout: NamedPipeServer,
    stderr: NamedPipeServer,
}

pub(crate) async fn launch(
    config: &ProcessConfig,
    endpoint: &Endpoint,
) -> Result<ProcessConnection, TransportError> {
    config.validate()?;
    let program = resolve(&config.program, config.cwd.as_deref())?;
    // Starting a program takes milliseconds that a thread of the runtime does not have. A child that
    // nobody waits for any more goes with its job.
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

/// Without the `\\?\` that some programs do not understand in their own name.
fn plain(program: &Path) -> &Path {
    let text = program.to_str().and_then(|text| text.strip_prefix(r"\\?\"));
    text.filter(|text| !text.starts_with("UNC")).map_or(program, Path::new)
}

fn launch_failed(error: io::Error) -> TransportError {
    let is_refused = error.kind() == io::ErrorKind::InvalidInput;
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
