//! Why a call fails, and the error that a handler can return.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tieline_proto::Count;
use tieline_proto::jsonrpc::{INTERNAL_ERROR, INVALID_PARAMS, InvalidProblem, METHOD_NOT_FOUND};
use tieline_proto::{EncodeError, Fault};
use tieline_transport::CloseReason;

/// Why a call has no result.
#[derive(Debug)]
#[non_exhaustive]
pub enum CallError {
    /// The other side returned an error. A tieline peer returns −32000 without carrying out the request
    /// when too many requests are in progress or the line is closing.
    Remote(ErrorObject),
    /// The request was not sent: it is safe to call again.
    NotSent(NotSent),
    /// The request was sent, and the line ended or was lost before the response arrived. Whether it was
    /// carried out is unknown: only the caller can decide whether to call again.
    Unknown(CloseReason),
    /// No response arrived in time. A request that was still queued was removed. One that was sent was
    /// cancelled if the dialect supports it, and may have been carried out.
    TimedOut(Meanwhile),
    /// The result cannot be deserialized into the requested type.
    BadAnswer(serde_json::Error),
    /// The message that answers the call is not a valid response, or exceeds
    /// [`PeerOptions::limits`](crate::PeerOptions::limits).
    InvalidResponse {
        /// The problem with the message.
        problem: InvalidProblem,
        /// The first bytes of the message, at most 200.
        received: Box<[u8]>,
    },
    /// The response was discarded because it is longer than the line allows or is not JSON. It was
    /// matched to this call by its first bytes, or because no other call was pending. The request was
    /// most likely carried out.
    AnswerLost(Box<Fault>),
}

/// Data that arrived while a call waited, and that may have been its response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Meanwhile {
    /// How many bytes of an incomplete message have arrived. The program may have forgotten the newline.
    pub unfinished: usize,
    /// How many messages were dropped because they were not JSON or not JSON-RPC.
    pub unreadable: u64,
}

impl fmt::Display for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unreadable {
            0 => {}
            1 => f.write_str("; one message was dropped because it is not JSON-RPC")?,
            many => write!(f, "; {many} messages were dropped because they are not JSON-RPC")?,
        }
        match self.unfinished {
            0 => Ok(()),
            bytes => write!(
                f,
                "; {} of an incomplete message arrived: is a newline missing?",
                Count(bytes, "byte")
            ),
        }
    }
}

/// Why a request or a notification was not sent.
#[derive(Debug)]
#[non_exhaustive]
pub enum NotSent {
    /// The line has ended.
    Closed(CloseReason),
    /// The line is closing and accepts nothing new; or, for a call, the other side has ended its
    /// direction.
    Closing,
    /// The line was lost and has been replaced by another. The peer continues with that one.
    Reset(CloseReason),
    /// There is no connection at the moment, and the call was set to [fail
    /// fast](crate::Invocation::fail_fast).
    Away,
    /// The parameters do not serialize to a JSON object or array.
    Params(serde_json::Error),
    /// The line cannot carry the message.
    Message(EncodeError),
}

/// The alternate form (`{:#}`) leaves out the stderr output of a child process.
impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remote(error) => error.fmt(f),
            Self::NotSent(why) => {
                f.write_str("not sent: ")?;
                why.fmt(f)
            }
            Self::Unknown(reason) => {
                f.write_str("sent, but no response arrived: ")?;
                reason.fmt(f)
            }
            Self::TimedOut(meanwhile) => write!(f, "no response arrived in time{meanwhile}"),
            Self::BadAnswer(_) => f.write_str("the result is not of the expected type"),
            Self::InvalidResponse { problem, received } => {
                let received = String::from_utf8_lossy(received);
                write!(f, "invalid response: {problem}; received: {received:?}")
            }
            Self::AnswerLost(fault) => write!(f, "the response was lost: {fault}"),
        }
    }
}

impl Error for CallError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::BadAnswer(error) => Some(error),
            // `Display` already includes the reason.
            Self::NotSent(why) => why.source(),
            _ => None,
        }
    }
}

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(reason) => {
                f.write_str("the line has ended: ")?;
                reason.fmt(f)
            }
            Self::Closing => f.write_str("the line is closing"),
            Self::Reset(cause) => {
                f.write_str("the line was lost: ")?;
                cause.fmt(f)
            }
            Self::Away => f.write_str("not connected at the moment"),
            Self::Params(_) => f.write_str("the parameters cannot be sent"),
            Self::Message(_) => f.write_str("the message cannot be sent"),
        }
    }
}

impl Error for NotSent {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Params(error) => Some(error),
            Self::Message(error) => Some(error),
            Self::Closed(_) | Self::Closing | Self::Reset(_) | Self::Away => None,
        }
    }
}

impl From<NotSent> for CallError {
    fn from(why: NotSent) -> Self {
        Self::NotSent(why)
    }
}

/// An error object (JSON-RPC 2.0 Specification, section 5.1).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorObject {
    /// The kind of error; −32768 to −32000 are reserved.
    pub code: i64,
    /// A one-sentence description for people.
    #[serde(default)]
    pub message: Cow<'static, str>,
    /// Additional data, as unparsed JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
}

impl ErrorObject {
    /// Creates an error without data.
    pub fn new(code: i64, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    /// Creates the error for an unknown method (−32601).
    pub fn method_not_found(method: &str) -> Self {
        Self::new(METHOD_NOT_FOUND, format!("method not found: {method}"))
    }

    /// Creates the error for invalid parameters (−32602).
    pub fn invalid_params(why: impl fmt::Display) -> Self {
        Self::new(INVALID_PARAMS, format!("invalid params: {why}"))
    }

    /// Creates the error for a method that failed (−32603).
    pub fn internal(why: impl fmt::Display) -> Self {
        Self::new(INTERNAL_ERROR, format!("internal error: {why}"))
    }

    pub(crate) fn parse(raw: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(raw)
    }
}

impl fmt::Display for ErrorObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error {}: {}", self.code, self.message)
    }
}

impl Error for ErrorObject {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the messages of an error and its sources, outermost first.
    fn messages(error: &dyn Error) -> Vec<String> {
        let mut messages = vec![error.to_string()];
        let mut cause = error.source();
        while let Some(error) = cause {
            messages.push(error.to_string());
            cause = error.source();
        }
        messages
    }

    #[test]
    fn each_error_level_adds_its_own_message() {
        let not_json = || serde_json::from_str::<u8>("x").unwrap_err();
        let cause = not_json().to_string();
        assert_eq!(
            messages(&CallError::BadAnswer(not_json())),
            ["the result is not of the expected type", &*cause]
        );
        assert_eq!(
            messages(&CallError::from(NotSent::Params(not_json()))),
            ["not sent: the parameters cannot be sent", &*cause]
        );
        assert_eq!(
            messages(&CallError::from(NotSent::Message(EncodeError::RawNewline))),
            [
                "not sent: the message cannot be sent",
                "a message with a raw newline cannot be sent as one line"
            ]
        );
        assert_eq!(messages(&CallError::from(NotSent::Closing)), ["not sent: the line is closing"]);
    }
}
