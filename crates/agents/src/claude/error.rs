//! What can go wrong with a conversation, and how a line of it ended.

use std::fmt;
use std::time::Duration;

use tieline_proto::{EncodeError, Fault};
use tieline_transport::{CloseReason, SendError, TransportError};

/// Something that did not work.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The program was not found, or could not be started.
    Launch(TransportError),
    /// A line that was no message: not JSON, or above the limit. The conversation goes on.
    Fault(Fault),
    /// A line that is JSON and says something that no value can hold. The conversation goes on.
    Unreadable(serde_json::Error),
    /// This message cannot be sent; the conversation goes on.
    NotSent(EncodeError),
    /// The program said no to a control request.
    Refused {
        /// What was asked for.
        request: String,
        /// Its words.
        message: String,
    },
    /// The answer to a control request cannot be used: it is no answer, or was lost.
    BadAnswer {
        /// What was asked for.
        request: String,
        /// What came, or what became of it.
        problem: String,
    },
    /// A control request was not answered in time.
    TimedOut {
        /// What was asked for.
        request: String,
        /// How long was waited.
        after: Duration,
    },
    /// The line has ended.
    Closed(CloseReason),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Launch(error) => error.fmt(f),
            Self::Fault(fault) => fault.fmt(f),
            Self::Unreadable(_) => f.write_str("a message cannot be read"),
            Self::NotSent(error) => error.fmt(f),
            Self::Refused { request, message } => write!(f, "{request} was refused: {message}"),
            Self::BadAnswer { request, problem } => {
                write!(f, "the answer to {request} cannot be used: {problem}")
            }
            Self::TimedOut { request, after } => {
                write!(f, "{request} was not answered within {after:?}")
            }
            Self::Closed(reason) => write!(f, "the line has ended: {reason}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Launch(error) => error.source(),
            Self::Unreadable(error) => Some(error),
            _ => None,
        }
    }
}

impl From<TransportError> for Error {
    fn from(error: TransportError) -> Self {
        Self::Launch(error)
    }
}

impl From<SendError> for Error {
    fn from(error: SendError) -> Self {
        match error.close_reason() {
            Some(reason) => Self::Closed(reason.clone()),
            None => match error {
                SendError::Message(refused) => Self::NotSent(refused.error),
                _ => Self::Closed(CloseReason::ByUs),
            },
        }
    }
}

/// How a line ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct End {
    /// [`Cli::close`](super::Cli::close) was called while the program was alive.
    pub by_us: bool,
    /// Why, as far as the operating system knows. After a close it is how the program took it.
    pub reason: CloseReason,
}

impl End {
    /// Whether it was nobody's wish: the program went by itself, and not well.
    pub fn is_failure(&self) -> bool {
        !self.by_us && !self.reason.is_clean()
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whose = if self.by_us { "disconnected by us" } else { "disconnected" };
        write!(f, "{whose}: {}", self.reason)
    }
}
