//! JSON-RPC 2.0 messages (JSON-RPC 2.0 Specification, sections 4 to 6). They are classified in one pass
//! without building values, and can be written.
//!
//! The peer's ids are kept byte for byte. Parameters, results and error data remain raw slices of the message
//! until they are parsed.

mod alone;
mod answers;
mod calls;
mod classify;
mod dialect;
mod id;
mod member;
mod outline;
mod ping;
mod rewrite;
mod sharing;
mod trace;
mod write;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::{Buf, Bytes};

pub use answers::{Answers, answers_in_text};
pub use calls::{CallId, Calls};
pub use classify::classify;
pub use dialect::{CancelStyle, Dialect, DialectState, Handshake, ProgressStyle, Thing};
pub use id::Id;
pub use member::{member, members};
pub use outline::Outline;
pub use ping::PingRules;
pub use rewrite::{DoubledMember, elements, locate};
pub use sharing::{LevelRules, ListenRules, Sharing, SharingRules};
pub use trace::{NoTraceParent, TraceParent};
pub use write::{write_error, write_notification, write_request, write_response, write_result};

use crate::json::{self, JsonError};

/// The longest id that is accepted, in bytes as written in the message: 4 KiB. An id is kept in memory
/// while its request is in flight.
pub const MAX_ID: usize = 4096;

/// The largest number of messages in a batch. Each message costs memory beyond its own bytes, and may
/// need a response.
pub const MAX_BATCH: usize = 1024;

/// A classified message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A request, which expects a response.
    Request(Request),
    /// A notification, which expects no response.
    Notification(Notification),
    /// A response.
    Response(Response),
    /// The messages of a batch, in order. None of them is itself a batch.
    Batch(Vec<Message>),
    /// A message that is not valid JSON-RPC.
    Invalid(Invalid),
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    message: Bytes,
    id: Span,
    method: Span,
    params: Option<Span>,
}

/// A notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    message: Bytes,
    method: Span,
    params: Option<Span>,
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    message: Bytes,
    /// `None` only for errors.
    id: Option<Span>,
    outcome: Result<Span, Span>,
}

/// A message that is not valid JSON-RPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    message: Bytes,
    id: Option<Span>,
    problem: InvalidProblem,
    is_response: bool,
    has_method: bool,
}

/// The problem of an invalid message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidProblem {
    /// The message is not JSON, or exceeds the limits on structure.
    Json(JsonError),
    /// The message is neither an object nor a batch.
    NotAnObject,
    /// An empty batch.
    EmptyBatch,
    /// A batch of more than [`MAX_BATCH`] messages.
    LongBatch,
    /// A batch in a dialect without batches.
    NoBatches,
    /// A member appears twice.
    Doubled(&'static str),
    /// A member is missing.
    Missing(&'static str),
    /// A member has the wrong type, is too long, or is incomplete.
    Wrong(&'static str),
    /// A response has both a result and an error.
    ResultAndError,
}

/// A range of bytes in a message. Messages are smaller than 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        let clamp = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self { start: clamp(range.start), end: clamp(range.end) }
    }
}

impl Span {
    fn of(self, message: &[u8]) -> &[u8] {
        message.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// Returns the range as text. The message was checked to be UTF-8 when it was classified.
    fn text(self, message: &[u8]) -> &str {
        std::str::from_utf8(self.of(message)).unwrap_or_default()
    }

    /// Reduces the message to this range, without a copy.
    fn cut_out(self, mut message: Bytes) -> Bytes {
        message.truncate(self.end as usize);
        message.advance((self.start as usize).min(message.len()));
        message
    }
}

impl Request {
    /// Returns the id as it was written: a JSON string, number or `null`.
    pub fn id(&self) -> &[u8] {
        self.id.of(&self.message)
    }

    /// Returns the method's name.
    pub fn method(&self) -> Cow<'_, str> {
        json::unescape(self.method.text(&self.message))
    }

    /// Returns the parameters as they were written, which are a JSON object or array, or `None` if there
    /// are none.
    pub fn params(&self) -> Option<&[u8]> {
        self.params.map(|params| params.of(&self.message))
    }

    /// Returns the whole message, including the batch that contains it.
    pub fn message(&self) -> &Bytes {
        &self.message
    }
}

impl Notification {
    /// Returns the method's name.
    pub fn method(&self) -> Cow<'_, str> {
        json::unescape(self.method.text(&self.message))
    }

    /// Returns the parameters as they were written, which are a JSON object or array, or `None` if there
    /// are none.
    pub fn params(&self) -> Option<&[u8]> {
        self.params.map(|params| params.of(&self.message))
    }

    /// Returns the whole message, including the batch that contains it.
    pub fn message(&self) -> &Bytes {
        &self.message
    }
}

impl Response {
    /// Returns the id as it was written, or `null` for an error without an id.
    pub fn id(&self) -> &[u8] {
        self.id.map_or(b"null", |id| id.of(&self.message))
    }

    /// Returns the result or the error object, as it was written.
    pub fn outcome(&self) -> Result<&[u8], &[u8]> {
        match self.outcome {
            Ok(result) => Ok(result.of(&self.message)),
            Err(error) => Err(error.of(&self.message)),
        }
    }

    /// Returns the whole message, including the batch that contains it.
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// Returns the result or the error object as a slice of the message, without a copy.
    pub fn into_outcome(self) -> Result<Bytes, Bytes> {
        match self.outcome {
            Ok(result) => Ok(result.cut_out(self.message)),
            Err(error) => Err(error.cut_out(self.message)),
        }
    }
}

impl Invalid {
    /// Returns the whole message, including the batch that contains it.
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// Returns the id to respond with as it was written, or `null` if it could not be determined.
    pub fn id(&self) -> &[u8] {
        self.id.map_or(b"null", |id| id.of(&self.message))
    }

    /// Returns the problem of the message.
    pub fn problem(&self) -> InvalidProblem {
        self.problem
    }

    /// Returns the problem of the message as a response: if it has neither `result` nor `error`, the
    /// `result` is reported as missing, not the `method`.
    pub fn response_problem(&self) -> InvalidProblem {
        match self.problem {
            InvalidProblem::Missing("method") => InvalidProblem::Missing("result"),
            problem => problem,
        }
    }

    /// Returns the error code to respond with: −32700 if the message is not JSON, −32600 otherwise.
    pub fn code(&self) -> i64 {
        match self.problem {
            InvalidProblem::Json(error) if !error.is_limit() => PARSE_ERROR,
            _ => INVALID_REQUEST,
        }
    }

    /// Returns whether the message is an invalid response: it has a `result` or an `error` and no string
    /// `method`. Responses must not be answered.
    pub fn is_response(&self) -> bool {
        self.is_response
    }

    /// Returns whether the message may be an invalid response: it has no string `method`, or cannot be
    /// parsed at all. A side that has made calls must not answer it.
    pub fn may_be_response(&self) -> bool {
        !self.has_method
    }
}

impl fmt::Display for InvalidProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => error.fmt(f),
            Self::NotAnObject => f.write_str("the message is not an object or an array of objects"),
            Self::EmptyBatch => f.write_str("the batch is empty"),
            Self::LongBatch => write!(f, "the batch has more than {MAX_BATCH} messages"),
            Self::NoBatches => f.write_str("batches are not supported"),
            Self::Doubled(member) => write!(f, "duplicate `{member}`"),
            Self::Missing(member) => write!(f, "`{member}` is missing"),
            Self::Wrong("id") => {
                write!(f, "`id` is not a string, a number or null of at most {MAX_ID} bytes")
            }
            Self::Wrong("jsonrpc") => f.write_str("`jsonrpc` is not \"2.0\""),
            Self::Wrong("params") => f.write_str("`params` is neither an array nor an object"),
            Self::Wrong("method") => f.write_str("`method` is not a string"),
            Self::Wrong(member) => {
                write!(f, "`{member}` is not an object with a code and a message")
            }
            Self::ResultAndError => f.write_str("the response has both a result and an error"),
        }
    }
}

/// The error code for a message that is not JSON.
pub const PARSE_ERROR: i64 = -32700;
/// The error code for JSON that is not a valid request.
pub const INVALID_REQUEST: i64 = -32600;
/// The error code for a method that does not exist.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// The error code for parameters that the method does not accept.
pub const INVALID_PARAMS: i64 = -32602;
/// The error code for a method that failed internally.
pub const INTERNAL_ERROR: i64 = -32603;
/// The error code for a request above the limit on requests in flight. It is from the range reserved for
/// implementations.
pub const OVERLOADED: i64 = -32000;
