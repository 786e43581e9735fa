//! The one error of this crate: what failed, where, while doing what, and what to do about it.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tieline_proto::EncodeError;
use tieline_proto::session::Refusal;

use crate::{CloseReason, Endpoint, PeerIdentity};

/// Something that a transport or a channel could not do.
///
/// `Display` prints one level; the operating system's own words are behind
/// [`source`](Error::source), what to do next is [`hint`](Self::hint).
#[derive(Clone, Debug)]
pub struct TransportError(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    kind: ErrorKind,
    operation: Operation,
    endpoint: Option<Endpoint>,
    source: Option<Arc<io::Error>>,
    hint: Option<Cow<'static, str>>,
}

impl TransportError {
    /// An error of `kind` that came up during `operation`.
    pub fn new(kind: ErrorKind, operation: Operation) -> Self {
        Self(Box::new(Inner { kind, operation, endpoint: None, source: None, hint: None }))
    }

    /// What the operating system has reported during `operation`, of the kind that it means everywhere:
    /// no permission, no descriptors or memory left, or anything else ([`ErrorKind::Io`]).
    pub fn of(error: io::Error, operation: Operation) -> Self {
        Self::new(common_kind(&error), operation).because(error)
    }

    /// The same error, at `endpoint`.
    #[must_use]
    pub fn at(mut self, endpoint: &Endpoint) -> Self {
        self.0.endpoint = Some(endpoint.clone());
        self
    }

    /// The same error, caused by `source`.
    #[must_use]
    pub fn because(mut self, source: io::Error) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// The same error, with other advice than its kind's.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// What failed.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// What was being done.
    pub fn operation(&self) -> Operation {
        self.0.operation
    }

    /// Where, if it is known.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.0.endpoint.as_ref()
    }

    /// Whether the same attempt may succeed later, with nothing changed by hand.
    pub fn is_retryable(&self) -> bool {
        use CloseReason::{ByPeer, Io, Truncated};
        match &self.0.kind {
            // A connection that broke in its handshake.
            ErrorKind::Closed(ByPeer | Truncated(_) | Io(_)) => {
                self.0.operation == Operation::Connect
            }
            kind => kind.is_retryable(),
        }
    }

    /// What to do next, as a sentence for people.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref().or_else(|| self.0.kind.hint())
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, operation, endpoint, .. } = &*self.0;
        write!(f, "cannot {operation}")?;
        if let Some(endpoint) = endpoint {
            write!(f, " {endpoint}")?;
        }
        write!(f, ": {kind}")
    }
}

impl Error for TransportError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match (&self.0.source, &self.0.kind) {
            (Some(source), _) => Some(&**source),
            // What it says itself is said already.
            (None, ErrorKind::Closed(CloseReason::Io(error))) => error.source(),
            (None, _) => None,
        }
    }
}

/// What was being done when an error came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Reading an endpoint's text.
    Parse,
    /// Checking a configuration.
    Configure,
    /// Connecting.
    Connect,
    /// Starting to listen.
    Listen,
    /// Accepting a connection.
    Accept,
    /// Starting a child process.
    Launch,
    /// Sending a message.
    Send,
    /// Receiving a message.
    Receive,
    /// Ending a connection.
    Close,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Parse => "read the endpoint",
            Self::Configure => "use the configuration for",
            Self::Connect => "connect to",
            Self::Listen => "listen on",
            Self::Accept => "accept a connection on",
            Self::Launch => "launch",
            Self::Send => "send to",
            Self::Receive => "receive from",
            Self::Close => "disconnect from",
        })
    }
}

/// What failed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The text is no endpoint.
    InvalidEndpoint {
        /// What is wrong with it.
        problem: String,
    },
    /// A configuration value is out of bounds.
    InvalidConfig(ConfigError),
    /// No transport is registered for the scheme.
    UnknownScheme {
        /// The schemes that are.
        known: Vec<String>,
    },
    /// This transport does not exist on this operating system.
    UnsupportedPlatform,
    /// This transport cannot do that, on any operating system.
    UnsupportedOperation,
    /// A Unix socket's path is longer than the operating system takes.
    PathTooLong {
        /// Its length in bytes.
        length: usize,
        /// The most that is possible.
        limit: usize,
    },
    /// A directory does not exist.
    DirectoryMissing(PathBuf),
    /// There is something else at the path.
    NotASocket,
    /// The operating system refuses it.
    PermissionDenied,
    /// Somebody is alive there.
    AddressInUse,
    /// A lock file belongs to another user.
    ForeignLock(PathBuf),
    /// There is nothing at the address.
    NotFound,
    /// There is a socket, and nobody listens on it.
    Refused,
    /// The process on the other end belongs to a user who is not allowed.
    PeerNotAllowed(PeerIdentity),
    /// Listening there would let anybody in.
    Unauthenticated,
    /// No such program.
    CommandNotFound {
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// The file is there and cannot be executed.
    NotExecutable(PathBuf),
    /// The operating system could not start the program.
    LaunchFailed,
    /// The operating system does not allow the namespaces in which the program was to be isolated.
    IsolationRefused,
    /// The operating system could not make the pipes for a child process.
    PipeFailed,
    /// This process's stdin and stdout were taken before.
    AlreadyTaken,
    /// It took too long.
    TimedOut(Duration),
    /// The process or the system has no descriptor or memory left.
    ResourcesExhausted,
    /// The message cannot be sent; the line goes on.
    Message(EncodeError),
    /// The line has ended.
    Closed(CloseReason),
    /// The line was lost under messages that had been taken and may not have left; it comes back.
    Lost {
        /// How many.
        messages: u64,
    },
    /// The other side does not grant the session, or not to us.
    SessionRefused(Refusal),
    /// The other side did not answer as one does that speaks the session protocol.
    NoSession {
        /// What it did instead.
        problem: String,
    },
    /// The server answers, and does not let us in.
    Denied {
        /// The HTTP status.
        status: u16,
    },
    /// The token would be sent without TLS to another machine.
    InTheClear,
    /// The other side did not answer as one does that speaks WebSocket.
    NoWebSocket {
        /// What it did instead.
        problem: String,
    },
    /// The other side did not answer with a stream of events, or not as one does that takes messages by
    /// POST.
    NoEvents {
        /// What it did instead.
        problem: String,
    },
    /// No trust in the other side, or none of it in us: TLS came to nothing.
    Tls,
    /// There is no connection.
    NotConnected,
    /// There is a connection already.
    AlreadyConnected,
    /// Anything else that the operating system reports.
    Io,
}

impl ErrorKind {
    fn is_retryable(&self) -> bool {
        if let Self::SessionRefused(refusal) = self {
            return refusal.may_pass();
        }
        if let Self::Denied { status } = self {
            return matches!(status, 408 | 429 | 502..=504);
        }
        matches!(
            self,
            Self::NotFound
                | Self::Refused
                | Self::TimedOut(_)
                | Self::ResourcesExhausted
                | Self::PipeFailed
        )
    }

    fn hint(&self) -> Option<&str> {
        Some(match self {
            Self::UnsupportedOperation => "choose another endpoint for this",
            Self::PathTooLong { .. } => "choose a shorter path, or a relative one",
            Self::DirectoryMissing(_) => {
                "create that directory first, for yourself alone (mkdir -p -m 700)"
            }
            Self::NotASocket => "choose another path; tieline removes nothing that is not its own",
            Self::PermissionDenied => {
                "check who owns the path and its directory; a server lets other users in with --allow-uid, --socket-group or --socket-mode"
            }
            Self::AddressInUse => "choose another path, or stop the program that listens there",
            Self::ForeignLock(_) => "choose another path; this one was used by another user",
            Self::NotFound => "start the server first, or check the path",
            Self::Refused => "the server that made this socket is gone; start it again",
            Self::PeerNotAllowed(_) => "if that user is trusted, allow its uid (--allow-uid UID)",
            Self::Unauthenticated => {
                "listen on unix:, or say that anybody may connect: --allow-unauthenticated-tcp"
            }
            Self::CommandNotFound { .. } => "install it, or give its full path",
            Self::NotExecutable(_) => "make the file executable (chmod +x)",
            Self::LaunchFailed => {
                "check that the file is a program for this machine and that the interpreter in its first line exists"
            }
            Self::IsolationRefused => {
                "allow namespaces (sysctl user.max_user_namespaces and the others there, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns; in a container, its security options), or do without --isolate"
            }
            Self::AlreadyTaken => "a process has one stdin and one stdout; use another endpoint",
            Self::TimedOut(_) => "try again, or allow more time",
            Self::UnsupportedPlatform => "choose a transport that exists here",
            Self::Closed(reason) => return reason.hint(),
            Self::Lost { .. } => "send them again if having them twice does no harm",
            Self::NoSession { .. } => {
                "leave out `resume+` if the other side is no resumable end of tieline's (serve --resume)"
            }
            Self::Denied { status: 401 } => {
                "give the server's token, which it prints when it starts"
            }
            Self::Denied { status: 403 } => {
                "the server does not know the name that it was called by, or the origin: see its lists of allowed ones"
            }
            Self::Denied { status: 200..500 } => {
                "check the path: at tieline's server /ws is for ws:, and /sse for http:"
            }
            Self::InTheClear => {
                "use wss:// or https://, or a tunnel to this machine; or send it all the same: --send-token-without-tls"
            }
            Self::NoWebSocket { .. } => {
                "check host, port and path, and whether TLS is spoken there"
            }
            Self::NoEvents { .. } => {
                "check the path, which is /sse at tieline's server, and whether it speaks events"
            }
            Self::Tls => {
                "check the name in the URL and who signed the server's certificate; one of your own is trusted with an extra root; where it asks for yours, give it (--tls-cert, --tls-key)"
            }
            Self::NotConnected => "connect first",
            Self::AlreadyConnected => "disconnect first, or use the connection there is",
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
                write!(f, "no transport has this scheme; there are {}", known.join(", "))
            }
            Self::UnsupportedPlatform => f.write_str("unsupported platform"),
            Self::UnsupportedOperation => f.write_str("unsupported operation"),
            Self::PathTooLong { length, limit } => {
                write!(f, "the path has {length} bytes, and a socket's path at most {limit}")
            }
            Self::DirectoryMissing(path) => write!(f, "there is no directory {}", path.display()),
            Self::NotASocket => f.write_str("the path is taken by something that is not a socket"),
            Self::PermissionDenied => f.write_str("permission denied"),
            Self::AddressInUse => f.write_str("somebody is alive there"),
            Self::ForeignLock(path) => {
                write!(f, "the lock file {} belongs to another user", path.display())
            }
            Self::NotFound => f.write_str("there is nothing at this address"),
            Self::Refused => f.write_str("nobody listens there"),
            Self::PeerNotAllowed(peer) => write!(f, "the peer ({peer}) is another user"),
            Self::Unauthenticated => f.write_str(
                "whoever reaches the port could connect, every web page in a browser included",
            ),
            Self::CommandNotFound { searched } => {
                f.write_str("no such program; looked for ")?;
                for (position, place) in searched.iter().enumerate() {
                    let separator = if position == 0 { "" } else { ", " };
                    write!(f, "{separator}{}", place.display())?;
                }
                Ok(())
            }
            Self::NotExecutable(path) => write!(f, "{} is not executable", path.display()),
            Self::LaunchFailed => f.write_str("the operating system did not start it"),
            Self::IsolationRefused => {
                f.write_str("the operating system does not allow the namespaces to isolate it in")
            }
            Self::PipeFailed => f.write_str("its pipes could not be made"),
            Self::Lost { messages } => {
                write!(f, "the line was lost, and {messages} messages may not have left")
            }
            Self::SessionRefused(refusal) => write!(f, "no session: {refusal}"),
            Self::NoSession { problem } => write!(f, "no session: {problem}"),
            Self::Denied { status } => write!(f, "the server answers with {status}"),
            Self::InTheClear => {
                f.write_str("whoever is on the way there could read the token: there is no TLS")
            }
            Self::NoWebSocket { problem } => write!(f, "no WebSocket: {problem}"),
            Self::NoEvents { problem } => write!(f, "no stream of events: {problem}"),
            Self::Tls => f.write_str("no TLS connection"),
            Self::NotConnected => f.write_str("there is no connection"),
            Self::AlreadyConnected => f.write_str("there is a connection already"),
            Self::AlreadyTaken => f.write_str("stdin and stdout were taken before"),
            Self::TimedOut(limit) => write!(f, "it took longer than {limit:?}"),
            Self::ResourcesExhausted => f.write_str("out of descriptors or memory"),
            Self::Message(error) => error.fmt(f),
            Self::Closed(reason) => write!(f, "the line has ended: {reason}"),
            Self::Io => f.write_str("the operating system reports an error"),
        }
    }
}

/// A configuration value that is out of bounds, found before any I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The field's name.
    pub field: &'static str,
    /// What it must be.
    pub must: &'static str,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} must {}", self.field, self.must)
    }
}

impl Error for ConfigError {}

impl From<ConfigError> for TransportError {
    fn from(error: ConfigError) -> Self {
        Self::new(ErrorKind::InvalidConfig(error), Operation::Configure)
    }
}

/// The hint where the system starts no more threads or processes (EAGAIN).
#[cfg_attr(windows, allow(dead_code))]
pub(crate) const NO_PROCESS: &str =
    "raise the limit of processes (ulimit -u, or a container's limit of pids), or start fewer";

/// What the error number means wherever it comes up; `None` where only the caller can tell.
pub(crate) fn common_kind(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
        io::ErrorKind::OutOfMemory => ErrorKind::ResourcesExhausted,
        _ if is_exhaustion(error) => ErrorKind::ResourcesExhausted,
        _ => ErrorKind::Io,
    }
}

#[cfg(unix)]
fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let number = Errno::from_io_error(error);
    matches!(number, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::AGAIN))
}

#[cfg(windows)]
use crate::windows::is_exhaustion;

#[cfg(not(any(unix, windows)))]
fn is_exhaustion(_: &io::Error) -> bool {
    false
}
