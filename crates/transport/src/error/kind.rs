//! The kinds of errors, with their texts and hints.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tieline_proto::{Count, EncodeError};

use super::ConfigError;
use crate::PeerIdentity;
use crate::close::CloseReason;
use crate::missing_feature::MissingFeature;

/// The maximum number of searched directories that an error names. The others are only counted.
const MAX_SHOWN_DIRECTORIES: usize = 3;

/// The kind of an error.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The text is not an endpoint.
    InvalidEndpoint {
        /// The problem with the text.
        problem: String,
    },
    /// A configuration value is out of bounds.
    InvalidConfig(ConfigError),
    /// No transport is registered for the scheme.
    UnknownScheme {
        /// The registered schemes.
        known: Vec<String>,
    },
    /// The transport does not exist on this operating system.
    UnsupportedPlatform,
    /// The transport does not support the operation on any operating system.
    UnsupportedOperation,
    /// The library was built without a feature that the endpoint needs.
    FeatureMissing(MissingFeature),
    /// The path of a Unix socket is longer than the operating system allows.
    PathTooLong {
        /// The length of the path in bytes.
        length: usize,
        /// The maximum length in bytes.
        limit: usize,
    },
    /// A directory does not exist.
    DirectoryMissing(PathBuf),
    /// The file at the path is not a socket.
    NotASocket,
    /// The operating system denied permission.
    PermissionDenied,
    /// Another process is listening there.
    AddressInUse,
    /// The lock file belongs to another user.
    ForeignLock(PathBuf),
    /// Nothing exists at the address.
    NotFound,
    /// The socket exists, but no process is listening on it.
    Refused,
    /// The process on the other end belongs to a user that is not allowed.
    PeerNotAllowed(PeerIdentity),
    /// Listening there would admit every client without authentication.
    Unauthenticated,
    /// The program was not found.
    CommandNotFound {
        /// The searched directories or paths.
        searched: Vec<PathBuf>,
    },
    /// The file exists but is not executable.
    NotExecutable(PathBuf),
    /// The operating system could not start the program.
    LaunchFailed,
    /// The operating system does not allow the namespaces that isolate the program.
    IsolationRefused,
    /// The operating system could not create the pipes of a child process.
    PipeFailed,
    /// Another channel of this process already uses its stdin and stdout.
    AlreadyTaken,
    /// The operation did not finish in time.
    TimedOut(Duration),
    /// The process or the system is out of file descriptors or memory.
    ResourcesExhausted,
    /// The maximum number of programs that the server allows is already running.
    TooManyPrograms {
        /// The limit.
        limit: usize,
    },
    /// The message cannot be sent. The line continues.
    Message(EncodeError),
    /// The line has ended.
    Closed(CloseReason),
    /// The connection was lost, and some of the messages that it had accepted may not have been sent.
    /// The line reconnects.
    Lost {
        /// The number of such messages.
        messages: u64,
    },
    /// The other side did not answer as the protocol requires, or it refused.
    Handshake {
        /// The protocol, such as `"WebSocket"`.
        protocol: &'static str,
        /// The other side's deviation from the protocol.
        problem: String,
    },
    /// The server denied access.
    Denied {
        /// The HTTP status.
        status: u16,
    },
    /// A credential would be sent to another machine without encryption.
    CleartextCredential,
    /// The TLS handshake failed: one side does not trust the other's certificate, or lacks one.
    Tls,
    /// There is no connection.
    NotConnected,
    /// A connection exists already.
    AlreadyConnected,
    /// The operating system reported another error.
    Io,
}

impl ErrorKind {
    pub(super) fn is_retryable(&self) -> bool {
        if let Self::Denied { status } = self {
            return matches!(status, 408 | 429 | 502..=504);
        }
        matches!(
            self,
            Self::NotFound
                | Self::Refused
                | Self::TimedOut(_)
                | Self::ResourcesExhausted
                | Self::TooManyPrograms { .. }
                | Self::PipeFailed
        )
    }

    pub(super) fn hint(&self) -> Option<&str> {
        Some(match self {
            Self::UnsupportedOperation => "use another kind of endpoint for this",
            Self::PathTooLong { .. } => "use a shorter path, or a relative one",
            Self::DirectoryMissing(_) => "create the directory first (mkdir -p -m 700)",
            Self::NotASocket => {
                "use another path; tieline does not remove files that are not sockets"
            }
            Self::PermissionDenied => {
                "check the owner and mode of the path and its directory; a server admits other users with --allow-uid, --socket-group or --socket-mode"
            }
            Self::AddressInUse => "stop that process, or use another path or port",
            Self::ForeignLock(_) => "use another path; another user has used this one",
            Self::NotFound => "start the server first, or check the path",
            Self::Refused => "the server that created this socket has exited; start it again",
            Self::PeerNotAllowed(_) => "if you trust that user, allow the uid (--allow-uid UID)",
            Self::Unauthenticated => {
                "listen on unix:, or allow unauthenticated clients: --allow-unauthenticated-tcp"
            }
            Self::CommandNotFound { .. } => "install it, or give its full path",
            Self::NotExecutable(_) => "make the file executable (chmod +x)",
            Self::LaunchFailed => {
                "check that the file is a program for this machine and that the interpreter in its first line exists"
            }
            Self::IsolationRefused => {
                "allow namespaces (sysctl user.max_user_namespaces and its neighbors, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns; in a container, its security options), or omit --isolate"
            }
            Self::AlreadyTaken => "a process has one stdin and one stdout; use another endpoint",
            Self::TimedOut(_) => "try again, or allow more time",
            Self::UnsupportedPlatform => "use a transport that exists on this system",
            Self::Closed(reason) => return reason.hint(),
            Self::Lost { .. } => "send them again if receiving them twice does no harm",
            Self::Denied { status: 401 } => {
                "pass the server's token; the server prints it when it starts"
            }
            Self::Denied { status: 403 } => {
                "the server does not allow this Host or Origin header: add it to the server's --allow-host or --allow-origin"
            }
            Self::Denied { status: 200..500 } => {
                "check the path: a tieline server has /ws for ws: and /sse for http:"
            }
            Self::CleartextCredential => {
                "use wss:// or https://, or a tunnel to this machine; or send it anyway: --send-token-without-tls"
            }
            Self::Tls => {
                "check the host name in the URL and the issuer of the server's certificate; add an issuer of your own with --tls-ca; if the server requires a client certificate, pass it with --tls-cert and --tls-key"
            }
            Self::NotConnected => "connect first",
            Self::AlreadyConnected => "disconnect first, or use the existing connection",
            Self::TooManyPrograms { .. } => {
                "wait until another program has ended, or raise the limit (--max-programs)"
            }
            Self::ResourcesExhausted | Self::PipeFailed => {
                "raise the limit of open files (ulimit -n), or use fewer connections"
            }
            _ => return None,
        })
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidEndpoint { problem } => f.write_str(problem),
            Self::InvalidConfig(error) => error.fmt(f),
            Self::UnknownScheme { known } => {
                write!(f, "unknown scheme; the known schemes are {}", known.join(", "))
            }
            Self::UnsupportedPlatform => f.write_str("unsupported on this operating system"),
            Self::UnsupportedOperation => f.write_str("unsupported operation"),
            Self::FeatureMissing(missing) => missing.fmt(f),
            Self::PathTooLong { length, limit } => {
                write!(f, "the path is {length} bytes long; the limit for sockets is {limit}")
            }
            Self::DirectoryMissing(path) => {
                write!(f, "the directory {} does not exist", path.display())
            }
            Self::NotASocket => f.write_str("the file at this path is not a socket"),
            Self::PermissionDenied => f.write_str("permission denied"),
            Self::AddressInUse => f.write_str("another process is listening there"),
            Self::ForeignLock(path) => {
                write!(f, "the lock file {} belongs to another user", path.display())
            }
            Self::NotFound => f.write_str("nothing exists at this address"),
            Self::Refused => f.write_str("connection refused: no process is listening there"),
            Self::PeerNotAllowed(peer) => write!(f, "the peer ({peer}) belongs to another user"),
            Self::Unauthenticated => f.write_str(
                "every client that reaches the port could connect, including any web page in a browser",
            ),
            Self::CommandNotFound { searched } => {
                f.write_str("program not found; searched ")?;
                for (position, place) in searched.iter().take(MAX_SHOWN_DIRECTORIES).enumerate() {
                    let separator = if position == 0 { "" } else { ", " };
                    write!(f, "{separator}{}", place.display())?;
                }
                match searched.len().saturating_sub(MAX_SHOWN_DIRECTORIES) {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
            Self::NotExecutable(path) => write!(f, "{} is not executable", path.display()),
            Self::LaunchFailed => f.write_str("the operating system could not start it"),
            Self::IsolationRefused => {
                f.write_str("the operating system does not allow the namespaces that isolate it")
            }
            Self::PipeFailed => f.write_str("its pipes could not be created"),
            Self::Lost { messages } => {
                let messages = Count(*messages, "message");
                write!(f, "the connection was lost, and {messages} may not have been sent")
            }
            Self::Handshake { protocol, problem } => {
                write!(f, "the {protocol} handshake failed: {problem}")
            }
            Self::Denied { status } => write!(f, "the server answered with status {status}"),
            Self::CleartextCredential => {
                f.write_str("a token, password or other credential would be sent in clear text (no TLS)")
            }
            Self::Tls => f.write_str("the TLS handshake failed"),
            Self::NotConnected => f.write_str("not connected"),
            Self::AlreadyConnected => f.write_str("already connected"),
            Self::AlreadyTaken => f.write_str("stdin and stdout are already in use"),
            Self::TimedOut(limit) => write!(f, "no success within {limit:?}"),
            Self::TooManyPrograms { limit } => {
                write!(f, "too many programs: the limit of {limit} is reached")
            }
            Self::ResourcesExhausted => f.write_str("out of file descriptors or memory"),
            Self::Message(error) => error.fmt(f),
            Self::Closed(reason) => write!(f, "the line has ended: {reason}"),
            Self::Io => f.write_str("the operating system reported an error"),
        }
    }
}
