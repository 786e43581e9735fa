//! The error type of this crate, which contains the operation, the endpoint, the cause and a hint.

mod kind;

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use crate::close::CloseReason;
use crate::endpoint::Endpoint;

pub use self::kind::ErrorKind;

/// An operation of a transport or a channel that failed.
///
/// `Display` prints one level: operation, endpoint and kind. [`source`](Error::source) returns the
/// operating system's error, and [`hint`](Self::hint) returns advice on what to do next.
///
/// `Debug` prints the same with the source and the hint, so that the error is readable when `main`
/// returns it.
#[derive(Clone)]
pub struct TransportError(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    operation: Operation,
    endpoint: Option<Endpoint>,
    source: Option<Arc<io::Error>>,
    hint: Option<Cow<'static, str>>,
    is_retryable: Option<bool>,
}

impl TransportError {
    /// Returns an error of `kind` that occurred during `operation`.
    pub fn new(kind: ErrorKind, operation: Operation) -> Self {
        let (endpoint, source, hint, is_retryable) = (None, None, None, None);
        Self(Box::new(Inner { kind, operation, endpoint, source, hint, is_retryable }))
    }

    /// Returns the error of a handshake of `protocol` that failed while connecting. It is not
    /// [retryable](Self::is_retryable) unless [`retryable`](Self::retryable) is called.
    pub fn handshake(protocol: &'static str, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        Self::new(ErrorKind::Handshake { protocol, problem }, Operation::Connect)
    }

    /// Converts an error that the operating system reported during `operation`. The kind is
    /// [`ErrorKind::PermissionDenied`], [`ErrorKind::ResourcesExhausted`], or [`ErrorKind::Io`] for all
    /// other errors.
    pub fn of(error: io::Error, operation: Operation) -> Self {
        Self::new(common_kind(&error), operation).because(error)
    }

    /// Sets the endpoint.
    #[must_use]
    pub fn at(mut self, endpoint: &Endpoint) -> Self {
        self.0.endpoint = Some(endpoint.clone());
        self
    }

    /// Sets the error of the operating system that caused this one.
    #[must_use]
    pub fn because(mut self, source: io::Error) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// Replaces the default hint of the kind.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Overrides whether the error is retryable.
    #[must_use]
    pub fn retryable(mut self, is_retryable: bool) -> Self {
        self.0.is_retryable = Some(is_retryable);
        self
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// Returns the operation that failed.
    pub fn operation(&self) -> Operation {
        self.0.operation
    }

    /// Returns the endpoint, if it is known.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.0.endpoint.as_ref()
    }

    /// Returns true if the same attempt may succeed later without any change by the user.
    pub fn is_retryable(&self) -> bool {
        use CloseReason::{ByPeer, Io, Truncated};
        if let Some(is_retryable) = self.0.is_retryable {
            return is_retryable;
        }
        match &self.0.kind {
            // The connection broke during its handshake.
            ErrorKind::Closed(ByPeer | Truncated(_) | Io(_)) => {
                self.0.operation == Operation::Connect
            }
            kind => kind.is_retryable(),
        }
    }

    /// Returns advice for the user on what to do next.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref().or_else(|| self.0.kind.hint())
    }
}

impl fmt::Debug for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)?;
        let mut source = self.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        match self.hint() {
            Some(hint) => write!(f, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, operation, endpoint, .. } = &*self.0;
        match endpoint {
            Some(endpoint) => write!(f, "cannot {operation} {}: {kind}", endpoint.label()),
            None => write!(f, "cannot {}: {kind}", operation.words().0),
        }
    }
}

impl Error for TransportError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match (&self.0.source, &self.0.kind) {
            (Some(source), _) => Some(&**source),
            // The text of the close reason is already part of `Display`.
            (None, ErrorKind::Closed(CloseReason::Io(error))) => error.source(),
            (None, _) => None,
        }
    }
}

/// An operation that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Parsing the text of an endpoint.
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
    /// Disconnecting.
    Close,
}

impl Operation {
    /// Returns the words for the operation, and the preposition before the endpoint, if any.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Parse => ("parse the endpoint", ""),
            Self::Configure => ("use the configuration", " for"),
            Self::Connect => ("connect", " to"),
            Self::Listen => ("listen", " on"),
            Self::Accept => ("accept a connection", " on"),
            Self::Launch => ("launch", ""),
            Self::Send => ("send", " to"),
            Self::Receive => ("receive", " from"),
            Self::Close => ("disconnect", " from"),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (operation, joint) = self.words();
        write!(f, "{operation}{joint}")
    }
}

/// A configuration value that is out of bounds. It is detected before any I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The field's name.
    pub field: &'static str,
    /// The condition that the value must meet, to be read after "must".
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

/// The hint for EAGAIN when no more threads or processes can be started.
#[cfg_attr(windows, allow(dead_code))]
pub(crate) const NO_PROCESS: &str =
    "raise the limit of processes (ulimit -u, or a container's limit of pids), or start fewer";

/// Returns the kind of an error that has the same meaning for every operation, or [`ErrorKind::Io`] for
/// other errors.
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
