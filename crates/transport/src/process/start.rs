//! Starting a child with its pipes.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use tokio::net::unix::pipe;

use super::config::ProcessConfig;
#[cfg(target_os = "linux")]
use super::guardian::handle::{GuardianHandle, Refused};
use super::held::Held;
use super::inherited::{self, Program};
use super::pipes::ToChild;
use super::reaper;
use crate::anonymous_pipe::anonymous_pipe;
use crate::error::{ErrorKind, Operation, TransportError};
#[cfg(target_os = "linux")]
use crate::guardian::Hold;

/// A running child, and our ends of its pipes.
pub(super) struct Started {
    pub(super) held: Held,
    pub(super) stdin: ToChild,
    pub(super) stdout: pipe::Receiver,
    pub(super) stderr: pipe::Receiver,
}

pub(super) async fn start(
    config: &ProcessConfig,
    program: PathBuf,
) -> Result<Started, TransportError> {
    if inherited::reaps_itself() {
        return Err(TransportError::new(ErrorKind::LaunchFailed, Operation::Launch)
            .because(io::Error::other("SIGCHLD is ignored, so a child's exit would be lost"))
            .with_hint(
                "call reset_inherited() first in main, or give SIGCHLD its default action",
            ));
    }
    let (stdin, stdout, stderr, theirs) = make_pipes().map_err(|error| {
        TransportError::new(ErrorKind::PipeFailed, Operation::Launch).because(error)
    })?;
    let held = hold(config, &program, theirs).await.map_err(launch_failed)?;
    Ok(Started { held, stdin, stdout, stderr })
}

/// Creates our ends of a child's stdin, stdout and stderr, and the child's ends.
fn make_pipes() -> io::Result<(ToChild, pipe::Receiver, pipe::Receiver, [OwnedFd; 3])> {
    let (stdin, to_child) = anonymous_pipe()?;
    let (from_child, stdout) = anonymous_pipe()?;
    let (errors, stderr) = anonymous_pipe()?;
    Ok((
        ToChild::from_owned_fd(to_child)?,
        pipe::Receiver::from_owned_fd(from_child)?,
        pipe::Receiver::from_owned_fd(errors)?,
        [stdin, stdout, stderr],
    ))
}

/// Starts the child with its ends of the pipes.
async fn hold(config: &ProcessConfig, program: &Path, theirs: [OwnedFd; 3]) -> io::Result<Held> {
    #[cfg(target_os = "linux")]
    if let Some(guardian) = &config.guardian {
        let handle = GuardianHandle::start(guardian, config, program, theirs).await?;
        return Ok(Held::Guarded(handle));
    }
    let [stdin, stdout, stderr] = theirs;
    let argv = [&config.program].into_iter().chain(&config.args).cloned();
    let env = config.env.resolve(std::env::vars_os());
    let mut command = Command::new(program);
    Program::new(program, argv, env)?.start_by(&mut command);
    command.stdin(stdin).stdout(stdout).stderr(stderr);
    if let Some(cwd) = &config.cwd {
        command.current_dir(cwd);
    }
    Ok(Held::Group(reaper::spawn(command).await?))
}

pub(super) fn launch_failed(error: io::Error) -> TransportError {
    #[cfg(target_os = "linux")]
    if let Some(refused) = error.get_ref().and_then(|it| it.downcast_ref::<Refused>()) {
        let kind = match refused.hold {
            Hold::Isolated => ErrorKind::IsolationRefused,
            _ => ErrorKind::LaunchFailed,
        };
        return TransportError::new(kind, Operation::Launch).because(error);
    }
    if error.kind() == io::ErrorKind::WouldBlock {
        return TransportError::new(ErrorKind::ResourcesExhausted, Operation::Launch)
            .because(error)
            .with_hint(crate::error::NO_PROCESS);
    }
    let kind = match crate::error::common_kind(&error) {
        ErrorKind::Io => ErrorKind::LaunchFailed,
        kind => kind,
    };
    let is_too_long = error.kind() == io::ErrorKind::ArgumentListTooLong;
    let failed = TransportError::new(kind, Operation::Launch).because(error);
    match is_too_long {
        true => failed.with_hint(
            "the arguments and the environment are too large, or one of them is (Linux allows 128 KiB each): pass \
             large values in a file or on stdin",
        ),
        false => failed,
    }
}
