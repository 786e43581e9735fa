//! Unix sockets. By default, they are accessible only to their owner, without a race, and they never
//! replace a live socket.

mod connect;
#[cfg(target_os = "linux")]
mod held;
mod identity;
mod listen;
mod lock;
pub(crate) mod path;
mod permissions;
mod refuse;
mod write_half;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::SocketAddrUnix;
use tieline_proto::ByteSize;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;

pub use identity::PeerIdentity;
pub use listen::UnixListener;
pub use write_half::UnixWriteHalf;

use self::path::MAX_PATH;
use crate::connection::{IoConnection, ReadEnd};
use crate::control::ControlBuilder;
use crate::endpoint::{Address, Endpoint};
use crate::error::{ConfigError, ErrorKind, Operation, TransportError};
use crate::info::{Capabilities, TransportKind};
use crate::options::{Options, validate_timeout};
use crate::profile::PerformanceProfile;
use crate::transport::{Transport, TransportConfig};

/// Unix stream sockets.
///
/// A listener's socket is accessible only to its owner from the moment it exists; if other users may
/// connect, its group and mode are set before it starts listening. An empty lock file (`….lock`) is
/// created beside it, and removed when the listener is dropped. An existing socket at the path is removed
/// only if its lock is free *and* nothing accepts connections there. Any other file at the path is never
/// removed.
///
/// On both sides, the peer process must belong to this process's user or root, unless its user is
/// allowed by [`UnixConfig::allow_uids`] or, on the listener's side, by [`UnixConfig::mode`] and
/// [`UnixConfig::group`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Unix;

/// A connection over a Unix socket.
pub type UnixConnection = IoConnection<OwnedReadHalf, UnixWriteHalf>;

impl ReadEnd for OwnedReadHalf {
    fn unread(&self) -> Option<u64> {
        crate::readiness::unread(self.as_ref())
    }
}

/// The configuration of [`Unix`].
#[derive(Clone, Debug)]
pub struct UnixConfig {
    /// The socket's address.
    pub address: UnixAddress,
    /// Users, besides this process's user and root, whose processes are accepted as peers.
    pub allow_uids: Vec<u32>,
    /// The permission bits of a listener's socket. With `None`, the default, they are `0o660` with a
    /// [`group`](Self::group), `0o666` with [`allow_uids`](Self::allow_uids), otherwise `0o600`.
    ///
    /// If `mode` or `group` is set and `allow_uids` is empty, these bits alone determine which users are
    /// accepted. With `allow_uids`, all other users are refused, even if the bits admit them.
    pub mode: Option<u32>,
    /// The group of a listener's socket. Only root and members of the group can set it.
    pub group: Option<u32>,
    /// How long connecting may take when the listener's backlog is full; 5 s by default.
    pub connect_timeout: Duration,
    /// How many connections can wait to be accepted; 1,024 by default, limited by the system's maximum.
    pub backlog: u16,
}

/// The address of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnixAddress {
    /// A path in the file system.
    Path(PathBuf),
    /// A name in Linux's abstract namespace. It can only be connected to, because any user may listen
    /// there.
    Abstract(OsString),
}

impl UnixConfig {
    /// Returns the default configuration for the socket at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            address: UnixAddress::Path(path.into()),
            allow_uids: Vec::new(),
            mode: None,
            group: None,
            connect_timeout: Duration::from_secs(5),
            backlog: 1024,
        }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::new(match &self.address {
            UnixAddress::Path(path) => Address::Unix(path.clone().into()),
            UnixAddress::Abstract(name) => Address::UnixAbstract(name.clone()),
        })
    }

    fn is_allowed(&self, peer: &PeerIdentity, operation: Operation) -> bool {
        let ours = rustix::process::geteuid().as_raw();
        // The kernel has already checked the permissions of the socket file.
        let by_file = operation == Operation::Accept
            && self.allow_uids.is_empty()
            && (self.mode.is_some() || self.group.is_some());
        peer.uid == ours || peer.uid == 0 || self.allow_uids.contains(&peer.uid) || by_file
    }

    /// Returns the mode of a listener's socket.
    fn socket_mode(&self) -> u32 {
        self.mode.unwrap_or(match (self.group, self.allow_uids.is_empty()) {
            (Some(_), _) => 0o660,
            (None, false) => 0o666,
            (None, true) => 0o600,
        })
    }
}

impl TransportConfig for UnixConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        validate_timeout("connect_timeout", self.connect_timeout)?;
        if self.backlog == 0 {
            return Err(ConfigError { field: "backlog", must: "be at least 1" });
        }
        let connects = |bits: u32| bits & 0o7 == 0 || bits & 0o2 != 0;
        let is_sound = |mode: u32| {
            mode <= 0o777 && mode & 0o600 == 0o600 && connects(mode) && connects(mode >> 3)
        };
        if self.mode.is_some_and(|mode| !is_sound(mode)) {
            let must = "be like 600, 660 or 666: connecting needs write permission";
            return Err(ConfigError { field: "socket_mode", must });
        }
        let is_empty = match &self.address {
            UnixAddress::Path(path) => path.as_os_str().is_empty(),
            UnixAddress::Abstract(name) => name.is_empty(),
        };
        if is_empty {
            return Err(ConfigError { field: "address", must: "not be empty" });
        }
        Ok(())
    }
}

impl Transport for Unix {
    type Config = UnixConfig;
    type Connection = UnixConnection;
    type Listener = UnixListener;

    fn kind(&self) -> TransportKind {
        TransportKind::UNIX
    }

    fn profile(&self) -> PerformanceProfile {
        PROFILE
    }

    fn config(&self, endpoint: &Endpoint, options: &Options) -> Result<UnixConfig, TransportError> {
        let address = match endpoint.address() {
            Address::Unix(path) => UnixAddress::Path(path.into()),
            Address::UnixAbstract(name) => UnixAddress::Abstract(name.clone()),
            _ => return Err(crate::endpoint::foreign(endpoint)),
        };
        Ok(UnixConfig {
            address,
            allow_uids: options.allow_uids.clone(),
            mode: options.socket_mode,
            group: options.socket_group,
            connect_timeout: options.connect_timeout,
            ..UnixConfig::new("")
        })
    }

    async fn connect(&self, config: &UnixConfig) -> Result<UnixConnection, TransportError> {
        let endpoint = config.endpoint();
        config.validate().map_err(|error| TransportError::from(error).at(&endpoint))?;
        connect::connect(config, &endpoint).await
    }

    async fn listen(&self, config: &UnixConfig) -> Result<UnixListener, TransportError> {
        let endpoint = config.endpoint();
        config.validate().map_err(|error| TransportError::from(error).at(&endpoint))?;
        listen::listen(config, endpoint)
    }
}

const PROFILE: PerformanceProfile = PerformanceProfile {
    connect: Duration::from_micros(100),
    round_trip: Duration::from_micros(100),
    throughput: ByteSize::new(1_000_000_000),
};

fn socket_address(
    config: &UnixConfig,
    operation: Operation,
) -> Result<SocketAddrUnix, TransportError> {
    let made = match &config.address {
        UnixAddress::Path(path) => {
            let length = path.as_os_str().len();
            if length > MAX_PATH {
                let kind = ErrorKind::PathTooLong { length, limit: MAX_PATH };
                return Err(TransportError::new(kind, operation));
            }
            SocketAddrUnix::new(path.as_path())
        }
        UnixAddress::Abstract(name) => abstract_address(name, operation)?,
    };
    made.map_err(|errno| TransportError::new(ErrorKind::Io, operation).because(errno.into()))
}

#[cfg(target_os = "linux")]
fn abstract_address(
    name: &std::ffi::OsStr,
    operation: Operation,
) -> Result<rustix::io::Result<SocketAddrUnix>, TransportError> {
    let length = name.len();
    if length > MAX_PATH {
        return Err(TransportError::new(
            ErrorKind::PathTooLong { length, limit: MAX_PATH },
            operation,
        ));
    }
    Ok(SocketAddrUnix::new_abstract_name(name.as_encoded_bytes()))
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(
    _: &std::ffi::OsStr,
    operation: Operation,
) -> Result<rustix::io::Result<SocketAddrUnix>, TransportError> {
    let error = TransportError::new(ErrorKind::UnsupportedPlatform, operation);
    Err(error.with_hint("abstract sockets exist only on Linux; use a path"))
}

/// Creates a non-blocking, close-on-exec stream socket.
fn stream_socket() -> rustix::io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketType};
    #[cfg(not(target_os = "macos"))]
    {
        use rustix::net::{SocketFlags, socket_with};
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
    }
    #[cfg(target_os = "macos")]
    {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(socket)
    }
}

/// Returns the peer of a connected stream, unless its user is not allowed.
fn admit(
    stream: &UnixStream,
    config: &UnixConfig,
    endpoint: &Endpoint,
    operation: Operation,
) -> Result<PeerIdentity, TransportError> {
    let credentials = stream.peer_cred().map_err(|error| {
        TransportError::new(crate::error::common_kind(&error), operation)
            .at(endpoint)
            .because(error)
    })?;
    let peer = PeerIdentity {
        pid: credentials.pid().and_then(|pid| pid.try_into().ok()),
        uid: credentials.uid(),
        gid: credentials.gid(),
    };
    if !config.is_allowed(&peer, operation) {
        return Err(TransportError::new(ErrorKind::PeerNotAllowed(peer), operation).at(endpoint));
    }
    Ok(peer)
}

/// Creates the connection for a connected stream.
fn connection(stream: UnixStream, peer: PeerIdentity, endpoint: &Endpoint) -> UnixConnection {
    let (read, write) = stream.into_split();
    let control = ControlBuilder {
        kind: TransportKind::UNIX,
        endpoint: endpoint.clone(),
        peer: Some(peer),
        capabilities: Capabilities {
            half_close: true,
            peer_identity: true,
            notices_hangup: true,
            ..Capabilities::default()
        },
        profile: PROFILE,
        backing: Arc::new(()),
    };
    IoConnection::new(read, UnixWriteHalf::new(write), control.build())
}

/// Returns a path's directory, which for a bare name is the current one.
fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
