//! Starting a child: its pipes, what holds it, and the connection over them.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

#[cfg(target_os = "linux")]
use super::guardian::leash::{Leash, Refused};
use super::held::Held;
use super::lifecycle::Lifecycle;
use super::{ChildStdin, ChildStdout, PROFILE, ProcessConfig, ProcessConnection, reaper, resolve};
#[cfg(target_os = "linux")]
use crate::Hold;
use crate::control::ControlBuilder;
use crate::{
    Capabilities, Endpoint, ErrorKind, IoConnection, Operation, TransportConfig, TransportError,
    TransportKind,
};

pub(super) async fn launch(
    config: &ProcessConfig,
    endpoint: &Endpoint,
) -> Result<ProcessConnection, TransportError> {
    config.validate()?;
    let program = resolve(&config.program, config.cwd.as_deref())?;
    let (ours, theirs) = make_pipes().map_err(|error| {
        TransportError::new(ErrorKind::PipeFailed, Operation::Launch).because(error)
    })?;
    let held = start(config, &program, theirs).await.map_err(launch_failed)?;
    // From here on the child is ended with this value, also when the rest fails.
    let lifecycle = Lifecycle::new(held, config).map_err(launch_failed)?;
    let [stdin, stdout, stderr] = ours;
    let read = ChildStdout::new(stdout, &lifecycle).map_err(launch_failed)?;
    let write = ChildStdin::new(stdin, &lifecycle).map_err(launch_failed)?;
    lifecycle.watch(stderr).map_err(launch_failed)?;
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

/// Our ends of a child's stdin, stdout and stderr, and its own.
fn make_pipes() -> io::Result<([OwnedFd; 3], [OwnedFd; 3])> {
    let (stdin, to_child) = io::pipe()?;
    let (from_child, stdout) = io::pipe()?;
    let (errors, stderr) = io::pipe()?;
    let ours = [to_child.into(), from_child.into(), errors.into()];
    Ok((ours, [stdin.into(), stdout.into(), stderr.into()]))
}

/// The child, with its ends of the pipes.
async fn start(config: &ProcessConfig, program: &Path, theirs: [OwnedFd; 3]) -> io::Result<Held> {
    #[cfg(target_os = "linux")]
    if let Some(guardian) = &config.guardian {
        let leash = Leash::start(guardian, config, program, theirs).await?;
        return Ok(Held::Leash(leash));
    }
    let [stdin, stdout, stderr] = theirs;
    let mut command = Command::new(program);
    command.args(&config.args);
    if !config.env.is_ours() {
        command.env_clear().envs(config.env.resolve(std::env::vars_os()));
    }
    command.stdin(stdin).stdout(stdout).stderr(stderr);
    command.arg0(&config.program).process_group(0);
    if let Some(cwd) = &config.cwd {
        command.current_dir(cwd);
    }
    Ok(Held::Group(reaper::spawn(command).await?))
}

fn launch_failed(error: io::Error) -> TransportError {
    #[cfg(target_os = "linux")]
    if let Some(refused) = error.get_ref().and_then(|it| it.downcast_ref::<Refused>()) {
        let kind = match refused.hold {
            Hold::Isolated => ErrorKind::IsolationRefused,
            _ => ErrorKind::LaunchFailed,
        };
        return TransportError::new(kind, Operation::Launch).because(error);
    }
    let kind = match crate::error::common_kind(&error) {
        ErrorKind::Io => ErrorKind::LaunchFailed,
        kind => kind,
    };
    TransportError::new(kind, Operation::Launch).because(error)
}
