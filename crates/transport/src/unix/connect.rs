//! Connecting to a Unix socket, with a distinct error for each cause.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use tokio::net::UnixStream;

use super::{
    UnixAddress, UnixConfig, UnixConnection, admit, connection, directory, socket_address,
    stream_socket,
};
use crate::endpoint::Endpoint;
use crate::error::{ErrorKind, Operation, TransportError};

/// The first and the longest pause between attempts while the listener's backlog is full. Linux has no
/// event for this.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

pub(super) async fn connect(
    config: &UnixConfig,
    endpoint: &Endpoint,
) -> Result<UnixConnection, TransportError> {
    let address = socket_address(config, Operation::Connect).map_err(|error| error.at(endpoint))?;
    let limit = config.connect_timeout;
    let connected = tokio::time::timeout(limit, connect_patiently(&address)).await;
    let stream = connected
        .map_err(|_| {
            TransportError::new(ErrorKind::TimedOut(limit), Operation::Connect).at(endpoint)
        })?
        .map_err(|errno| explain(errno, &config.address).at(endpoint))?;
    let stream = std::os::unix::net::UnixStream::from(stream);
    let stream = UnixStream::from_std(stream).map_err(|error| {
        let kind = crate::error::common_kind(&error);
        TransportError::new(kind, Operation::Connect).at(endpoint).because(error)
    })?;
    let peer = admit(&stream, config, endpoint, Operation::Connect)?;
    Ok(connection(stream, peer, endpoint))
}

/// Connects. Waits while the backlog is full, because a running listener will make room.
async fn connect_patiently(address: &SocketAddrUnix) -> rustix::io::Result<OwnedFd> {
    let mut pause = FIRST_PAUSE;
    loop {
        match connect_once(address) {
            Err(Errno::AGAIN) => tokio::time::sleep(pause).await,
            Err(Errno::INTR) => {}
            result => return result,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Makes one attempt, which never blocks: a Unix socket connects at once or fails.
pub(super) fn connect_once(address: &SocketAddrUnix) -> rustix::io::Result<OwnedFd> {
    let socket = stream_socket()?;
    rustix::net::connect(&socket, address)?;
    Ok(socket)
}

fn explain(errno: Errno, address: &UnixAddress) -> TransportError {
    let kind = match (errno, address) {
        (Errno::NOENT, UnixAddress::Path(path)) if !directory(path).is_dir() => {
            ErrorKind::DirectoryMissing(directory(path).to_owned())
        }
        (Errno::NOENT, _) => ErrorKind::NotFound,
        // The kernel returns the same error for a regular file and for a socket without a listener.
        (Errno::CONNREFUSED, UnixAddress::Path(path)) if !is_socket(path) => ErrorKind::NotASocket,
        (Errno::CONNREFUSED, UnixAddress::Path(_)) => ErrorKind::Refused,
        (Errno::CONNREFUSED, UnixAddress::Abstract(_)) => ErrorKind::NotFound,
        (Errno::NOTDIR | Errno::PROTOTYPE, _) => ErrorKind::NotASocket,
        (other, _) => crate::error::common_kind(&io::Error::from(other)),
    };
    let is_no_socket = matches!(kind, ErrorKind::NotASocket);
    let error = TransportError::new(kind, Operation::Connect).because(errno.into());
    match errno {
        Errno::CONNREFUSED | Errno::NOTDIR if is_no_socket => error.with_hint("check the path"),
        Errno::PROTOTYPE => {
            error.with_hint("this is a datagram socket; tieline needs a stream one")
        }
        Errno::NOENT => error.with_hint("start the server first, or check the path"),
        Errno::CONNREFUSED if matches!(address, UnixAddress::Abstract(_)) => error.with_hint(
            "start the server first, or check the name: after `@` it is that of an abstract socket, which is no file. \
             A file whose name begins with `@` is written unix:./@NAME",
        ),
        _ => error,
    }
}

pub(super) fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}
