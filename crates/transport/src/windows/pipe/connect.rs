//! Connecting to a named pipe. Pipes of other users are refused.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::net::windows::named_pipe::{ClientOptions, NamedPipeClient};
use tokio::time::{sleep, timeout};
use windows_sys::Win32::Foundation::{ERROR_FILE_NOT_FOUND, ERROR_PATH_NOT_FOUND, ERROR_PIPE_BUSY};
use windows_sys::Win32::Storage::FileSystem::SECURITY_IDENTIFICATION;

use super::{End, PipeConnection, connection, path};
use crate::endpoint::Endpoint;
use crate::error::{ErrorKind, Operation, TransportError, common_kind};
use crate::pipe::config::PipeConfig;
use crate::windows::{is_code, security};

/// The first and the longest pause between attempts while every instance is busy. The system's function
/// that waits would need a thread.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// How long a pipe may be missing. There is a gap if a server creates its next instance only after the
/// last one has been connected.
const GAP: Duration = Duration::from_millis(200);

pub(crate) async fn connect(
    config: &PipeConfig,
    endpoint: &Endpoint,
) -> Result<PipeConnection, TransportError> {
    let path = path(config);
    let limit = config.connect_timeout;
    let opened = timeout(limit, open_patiently(&path)).await;
    let pipe = match opened {
        Ok(opened) => opened.map_err(explain)?,
        Err(_) => {
            return Err(TransportError::new(ErrorKind::TimedOut(limit), Operation::Connect)
                .with_hint("every instance of the pipe is busy; try again, or allow more time"));
        }
    };
    admit(End::Client(pipe), endpoint)
}

async fn open_patiently(path: &Path) -> io::Result<NamedPipeClient> {
    let mut options = ClientOptions::new();
    // The server may identify this process's user, but not act as that user.
    options.security_qos_flags(SECURITY_IDENTIFICATION);
    let begun = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match options.open(path) {
            Err(error) if is_code(&error, &[ERROR_PIPE_BUSY]) => {}
            Err(error) if is_missing(&error) && begun.elapsed() < GAP => {}
            opened => return opened,
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn is_missing(error: &io::Error) -> bool {
    is_code(error, &[ERROR_FILE_NOT_FOUND, ERROR_PATH_NOT_FOUND])
}

fn explain(error: io::Error) -> TransportError {
    let kind = if is_missing(&error) { ErrorKind::NotFound } else { common_kind(&error) };
    let failed = TransportError::new(kind, Operation::Connect);
    let failed = match failed.kind() {
        ErrorKind::NotFound => failed.with_hint("start the server first, or check the name"),
        ErrorKind::PermissionDenied => failed.with_hint(
            "the pipe admits only the server's own user, and if the server is elevated only elevated \
             programs; check which user runs it, or set --pipe-security there",
        ),
        _ => failed,
    };
    failed.because(error)
}

/// Checks the owner of the pipe, because any user may create a pipe of any free name.
fn admit(end: End, endpoint: &Endpoint) -> Result<PipeConnection, TransportError> {
    let fail = |error: io::Error| {
        TransportError::new(common_kind(&error), Operation::Connect).because(error)
    };
    let owner = end.ask(security::owner_of).map_err(fail)?;
    let mut peer = end.peer().map_err(fail)?;
    let is_right = owner.is_root() || owner == security::current_user().map_err(fail)?;
    if !is_right {
        peer.user = Some(owner);
        return Err(TransportError::new(ErrorKind::PeerNotAllowed(peer), Operation::Connect)
            .with_hint("another user has created a pipe of this name; choose another name"));
    }
    peer.user = peer.user.or(Some(owner));
    Ok(connection(end, peer, endpoint))
}
