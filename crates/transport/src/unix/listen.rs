//! Listening on a Unix socket. A listener never replaces a live socket, removes only its own files, and
//! its socket is not accessible to other users even for a moment.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::Mode;
use rustix::io::Errno;
use tieline_proto::Count;
use tokio::net::UnixListener as TokioListener;

use super::connect::connect_once;
use super::lock::SocketLock;
use super::path::from_root;
use super::permissions;
use super::refuse::Refused;
use super::{
    UnixAddress, UnixConfig, UnixConnection, admit, connection, directory, socket_address,
    stream_socket,
};
use crate::endpoint::Endpoint;
use crate::error::{ErrorKind, Operation, TransportError, common_kind};
use crate::throttle::WarnThrottle;
use crate::transport::{Listener, RefusalNotice};

/// A listener on a Unix socket. Dropping it stops listening, and removes the socket at the path and the lock file
/// beside it, if they are still the listener's own.
#[derive(Debug)]
pub struct UnixListener {
    listener: TokioListener,
    config: UnixConfig,
    endpoint: Endpoint,
    refusals: WarnThrottle,
    refused: Refused,
    /// Dropped before the lock, so that the next holder of the lock does not find this socket.
    _socket: SocketFile,
    _lock: SocketLock,
}

pub(super) fn listen(
    config: &UnixConfig,
    endpoint: Endpoint,
) -> Result<UnixListener, TransportError> {
    let UnixAddress::Path(path) = &config.address else {
        return Err(TransportError::new(ErrorKind::UnsupportedOperation, Operation::Listen)
            .at(&endpoint)
            .with_hint("an abstract socket has no owner and no permissions; listen on a path"));
    };
    let bound = bind(path, config).map_err(|error| error.at(&endpoint))?;
    permissions::warn_if_unreachable(path, config, &endpoint);
    let (lock, socket_file, socket) = bound;
    let listener = std::os::unix::net::UnixListener::from(socket);
    let listener = TokioListener::from_std(listener).map_err(|error| {
        TransportError::new(common_kind(&error), Operation::Listen).at(&endpoint).because(error)
    })?;
    let named = endpoint.clone();
    let refusals = WarnThrottle::new(move |count| {
        tracing::warn!("refused {} on {named}", Count(count, "more connection"));
    });
    Ok(UnixListener {
        listener,
        config: config.clone(),
        endpoint,
        refusals,
        refused: Refused::default(),
        _socket: socket_file,
        _lock: lock,
    })
}

impl Listener for UnixListener {
    type Connection = UnixConnection;

    async fn accept(&mut self) -> Result<UnixConnection, TransportError> {
        loop {
            let accepted = self.listener.accept().await;
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    let kind = common_kind(&error);
                    let failed = TransportError::new(kind, Operation::Accept).because(error);
                    return Err(failed.at(&self.endpoint));
                }
            };
            match admit(&stream, &self.config, &self.endpoint, Operation::Accept) {
                Ok(peer) => return Ok(connection(stream, peer, &self.endpoint)),
                Err(error) if matches!(error.kind(), ErrorKind::ResourcesExhausted) => {
                    return Err(error);
                }
                // A refused client must not make the listener fail.
                Err(error) => {
                    // Clients of other users could fill the log.
                    if let Some(suppressed) = self.refusals.admit(Instant::now()) {
                        tracing::warn!(suppressed, "refused a connection: {error}");
                    }
                    self.refused.send(stream);
                }
            }
        }
    }

    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn refuse_with(&mut self, notice: RefusalNotice) {
        self.refused.notice = notice;
    }
}

fn bind(
    path: &Path,
    config: &UnixConfig,
) -> Result<(SocketLock, SocketFile, OwnedFd), TransportError> {
    let address = socket_address(config, Operation::Listen)?;
    refuse_missing_directory(directory(path))?;
    // No lock file is created for a path that is obviously not a socket.
    refuse_non_socket(path)?;
    let lock = SocketLock::take(path)?;
    remove_if_dead(path, &address)?;
    let fail = |errno: Errno| {
        let kind = match errno {
            Errno::ADDRINUSE => ErrorKind::AddressInUse,
            other => common_kind(&io::Error::from(other)),
        };
        TransportError::new(kind, Operation::Listen).because(errno.into())
    };
    let socket = stream_socket().map_err(fail)?;
    if cfg!(target_os = "linux") {
        // The socket file is created with this mode, so it never has a different mode.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(fail)?;
    }
    rustix::net::bind(&socket, &address).map_err(fail)?;
    let socket_file = SocketFile::of(path).map_err(|error| {
        TransportError::new(common_kind(&error), Operation::Listen).because(error)
    })?;
    // No client can connect before the socket listens.
    permissions::grant(path, (socket_file.device, socket_file.inode), config)?;
    rustix::net::listen(&socket, i32::from(config.backlog)).map_err(fail)?;
    Ok((lock, socket_file, socket))
}

fn refuse_missing_directory(directory: &Path) -> Result<(), TransportError> {
    match std::fs::metadata(directory) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(TransportError::new(ErrorKind::PermissionDenied, Operation::Listen).because(error))
        }
        _ => {
            let kind = ErrorKind::DirectoryMissing(directory.to_owned());
            Err(TransportError::new(kind, Operation::Listen))
        }
    }
}

fn refuse_non_socket(path: &Path) -> Result<(), TransportError> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => Ok(()),
        Ok(_) => Err(TransportError::new(ErrorKind::NotASocket, Operation::Listen)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            Err(TransportError::new(common_kind(&error), Operation::Listen).because(error))
        }
    }
}

/// Removes the socket at `path` if nothing accepts connections there. The lock is held, so no other
/// tieline process is about to listen on it. If the backlog is full, permission is denied, or the error
/// is unknown, the socket is considered alive.
fn remove_if_dead(
    path: &Path,
    address: &rustix::net::SocketAddrUnix,
) -> Result<(), TransportError> {
    refuse_non_socket(path)?;
    let alive = || TransportError::new(ErrorKind::AddressInUse, Operation::Listen);
    match connect_once(address) {
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::CONNREFUSED) if may_be_alive(path, address) => Err(alive()),
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path).map_err(|error| {
            TransportError::new(common_kind(&error), Operation::Listen).because(error)
        }),
        Err(errno) => Err(alive().because(errno.into())),
        Ok(_) => Err(alive()),
    }
}

/// Returns true if a process may hold the socket at `path` although the socket refused a connection:
/// that process may have been about to listen.
#[cfg(target_os = "linux")]
fn may_be_alive(path: &Path, address: &rustix::net::SocketAddrUnix) -> bool {
    match super::held::find(path) {
        None => false,
        Some(super::held::Held::Bound) => true,
        // If the listening socket is that at `path`, it accepts connections now. Otherwise, it only has
        // the same name.
        Some(super::held::Held::Listening) => {
            !matches!(connect_once(address), Err(Errno::CONNREFUSED))
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn may_be_alive(_: &Path, _: &rustix::net::SocketAddrUnix) -> bool {
    false
}

/// The socket file that `bind` created, identified by device and inode.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::symlink_metadata(path)?;
        // The working directory may change before the file is removed.
        let path = from_root(path)?;
        Ok(Self { path, device: metadata.dev(), inode: metadata.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let still_ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if !still_ours {
            return;
        }
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the socket could not be removed");
        }
    }
}
