//! Errors of a conversation, and how its line ended.

use std::fmt;
use std::time::Duration;

use tieline_proto::{EncodeError, Fault};
use tieline_transport::{CloseReason, SendError, TransportError};

/// An error of a conversation.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The program was not found or could not be started.
    Launch(TransportError),
    /// A line was discarded, because it is not JSON or exceeds the limit. The conversation continues.
    Fault(Fault),
    /// A line is JSON but cannot be represented as a value. The conversation continues.
    Unreadable(serde_json::Error),
    /// The line cannot carry this message; the conversation continues.
    NotSent(EncodeError),
    /// The program refused a control request.
    Refused {
        /// The kind of request.
        request: String,
        /// The program's error message.
        message: String,
    },
    /// The response to a control request is invalid or was lost.
    BadAnswer {
        /// The kind of request.
        request: String,
        /// What is wrong with the response.
        problem: String,
    },
    /// A control request was not answered in time.
    TimedOut {
        /// The kind of request.
        request: String,
        /// The time limit.
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
            Self::Unreadable(_) => f.write_str("cannot read a message"),
            Self::NotSent(error) => error.fmt(f),
            Self::Refused { request, message } => {
                write!(f, "the program refused {request}: {message}")
            }
            Self::BadAnswer { request, problem } => {
                write!(f, "invalid response to {request}: {problem}")
            }
            Self::TimedOut { request, after } => {
                write!(f, "no response to {request} within {after:?}")
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
    /// Whether [`Cli::close`](super::Cli::close) was called while the program was alive.
    pub by_us: bool,
    /// The reason, as far as the operating system knows it. After a call to `close`, this is how the
    /// program reacted to the call.
    pub reason: CloseReason,
}

impl End {
    /// Returns whether the program ended by itself and with a failure.
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
