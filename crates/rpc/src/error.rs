//! How a call can fail, and what a handler can answer instead of a result.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tieline_proto::jsonrpc::{INTERNAL_ERROR, INVALID_PARAMS, InvalidProblem, METHOD_NOT_FOUND};
use tieline_proto::{EncodeError, Fault};
use tieline_transport::CloseReason;

/// Why a call gave no result.
#[derive(Debug)]
#[non_exhaustive]
pub enum CallError {
    /// The other side answered with an error. A tieline peer answers −32000 when it has too many
    /// requests under way or is being closed: the request was not carried out.
    Remote(ErrorObject),
    /// The request was not sent: calling again is safe.
    NotSent(NotSent),
    /// The request was sent, and the line ended or was lost before an answer came. Whether it was carried out
    /// is unknown: only the caller can tell if calling again is safe.
    Unknown(CloseReason),
    /// No answer came in time. A request that was still queued was taken back; one that was sent was
    /// cancelled where the dialect can, and may have been carried out.
    TimedOut(Meanwhile),
    /// A result came, and it is not of the type that was asked for.
    BadAnswer(serde_json::Error),
    /// What answered the call is not a valid response, or is beyond
    /// [`PeerOptions::limits`](crate::PeerOptions::limits).
    InvalidResponse {
        /// What is wrong with it.
        problem: InvalidProblem,
        /// Its first bytes, at most 200.
        received: Box<[u8]>,
    },
    /// The answer was discarded on its way: it is longer than the line takes, or not JSON. Which call it
    /// was for is known from its beginning, or because no other call was pending. The call was carried
    /// out, as far as can be told.
    AnswerLost(Box<Fault>),
}

/// What came while a call waited in vain, and may have been its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Meanwhile {
    /// How many bytes of a message have come whose end has not: a program may have forgotten the
    /// newline.
    pub unfinished: usize,
    /// How many messages were dropped because they were not JSON, or not JSON-RPC.
    pub unreadable: u64,
}

impl fmt::Display for Meanwhile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unreadable {
            0 => {}
            1 => f.write_str("; one message that is not JSON-RPC was dropped meanwhile")?,
            many => write!(f, "; {many} messages that are not JSON-RPC were dropped meanwhile")?,
        }
        match self.unfinished {
            0 => Ok(()),
            bytes => write!(
                f,
                "; {bytes} bytes of a message without its end have arrived: is a newline missing?"
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
    /// The line is being closed and takes nothing new, or it was a call, and the other side says no more.
    Closing,
    /// The line was lost, and another has come in its place. The peer goes on with that one.
    Reset(CloseReason),
    /// There is no line at the moment, and the call was [to fail at once](crate::Invocation::fail_fast).
    Away,
    /// The parameters are not JSON, or not an object or an array.
    Params(serde_json::Error),
    /// The message is beyond what the line takes.
    Message(EncodeError),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remote(error) => error.fmt(f),
            Self::NotSent(why) => write!(f, "not sent: {why}"),
            Self::Unknown(reason) => write!(f, "sent, and no answer came: {reason}"),
            Self::TimedOut(meanwhile) => write!(f, "no answer came in time{meanwhile}"),
            Self::BadAnswer(_) => f.write_str("the answer is not what was asked for"),
            Self::InvalidResponse { problem, received } => {
                let received = String::from_utf8_lossy(received);
                write!(f, "the answer is not a valid response: {problem}; received: {received:?}")
            }
            Self::AnswerLost(fault) => write!(f, "the answer was lost: {fault}"),
        }
    }
}

impl Error for CallError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::BadAnswer(error) => Some(error),
            // What it says is said already.
            Self::NotSent(why) => why.source(),
            _ => None,
        }
    }
}

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(reason) => write!(f, "the line has ended: {reason}"),
            Self::Closing => f.write_str("the line is being closed"),
            Self::Reset(cause) => write!(f, "the line was lost: {cause}"),
            Self::Away => f.write_str("there is no line at the moment"),
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

/// An error as it travels (JSON-RPC 2.0 Specification, section 5.1).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ErrorObject {
    /// What kind of error it is; −32768 to −32000 are reserved.
    pub code: i64,
    /// What is wrong, as a sentence for people.
    #[serde(default)]
    pub message: Cow<'static, str>,
    /// More about it, as JSON that was not looked into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
}

impl ErrorObject {
    /// An error without data.
    pub fn new(code: i64, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    /// There is no such method (−32601).
    pub fn method_not_found(method: &str) -> Self {
        Self::new(METHOD_NOT_FOUND, format!("method not found: {method}"))
    }

    /// The parameters do not fit (−32602).
    pub fn invalid_params(why: impl fmt::Display) -> Self {
        Self::new(INVALID_PARAMS, format!("invalid params: {why}"))
    }

    /// The method has failed in itself (−32603).
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

    /// All that an error says, one level after the other.
    fn said(error: &dyn Error) -> Vec<String> {
        let mut said = vec![error.to_string()];
        let mut cause = error.source();
        while let Some(error) = cause {
            said.push(error.to_string());
            cause = error.source();
        }
        said
    }

    #[test]
    fn each_level_says_its_own_and_the_cause_stands_behind_it() {
        let not_json = || serde_json::from_str::<u8>("x").unwrap_err();
        let cause = not_json().to_string();
        assert_eq!(
            said(&CallError::BadAnswer(not_json())),
            ["the answer is not what was asked for", &*cause]
        );
        assert_eq!(
            said(&CallError::from(NotSent::Params(not_json()))),
            ["not sent: the parameters cannot be sent", &*cause]
        );
        assert_eq!(
            said(&CallError::from(NotSent::Message(EncodeError::RawNewline))),
            [
                "not sent: the message cannot be sent",
                "a message with a raw newline cannot be sent as one line"
            ]
        );
        assert_eq!(
            said(&CallError::from(NotSent::Closing)),
            ["not sent: the line is being closed"]
        );
    }
}
