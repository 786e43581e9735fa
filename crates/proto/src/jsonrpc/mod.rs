//! JSON-RPC 2.0 messages: what one is, found in one pass and without building anything, and how one
//! is written (JSON-RPC 2.0 Specification, sections 4 to 6).
//!
//! Ids of others are kept byte for byte. Parameters, results and error data stay raw slices of the
//! message until somebody asks for their meaning.

mod answers;
mod calls;
mod classify;
mod dialect;
mod id;
mod outline;
mod trace;
mod write;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::{Buf, Bytes};

pub use answers::{Answers, answers_in_text};
pub use calls::{CallId, Calls};
pub use classify::{classify, member};
pub use dialect::{CancelStyle, Dialect, Handshake, ProgressStyle, State, Thing};
pub use id::Id;
pub use outline::Outline;
pub use trace::{NoTraceParent, TraceParent};
pub use write::{write_error, write_notification, write_request, write_response, write_result};

use crate::json::{self, JsonError};

/// The longest id that is taken, in bytes as they stand in the message: 4 KiB. An id is kept for as
/// long as its request is under way, and nobody needs more.
pub const MAX_ID: usize = 4096;

/// The most messages that one batch may have. Each costs memory beyond its own bytes, and an answer.
pub const MAX_BATCH: usize = 1024;

/// What a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// It asks, and wants an answer.
    Request(Request),
    /// It tells, and wants none.
    Notification(Notification),
    /// It answers.
    Response(Response),
    /// Several at once, in order; not one of them is a batch.
    Batch(Vec<Message>),
    /// None of these.
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
    /// Only an error may have none.
    id: Option<Span>,
    outcome: Result<Span, Span>,
}

/// A message that is no JSON-RPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    message: Bytes,
    id: Option<Span>,
    problem: InvalidProblem,
    is_response: bool,
    has_method: bool,
}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidProblem {
    /// It is not JSON, or beyond the limits on structure.
    Json(JsonError),
    /// It is neither an object nor a batch.
    NotAnObject,
    /// A batch without a message in it.
    EmptyBatch,
    /// A batch of more than [`MAX_BATCH`].
    LongBatch,
    /// A batch, in a dialect that has none.
    NoBatches,
    /// A member stands twice.
    Doubled(&'static str),
    /// A member is missing.
    Missing(&'static str),
    /// A member is of the wrong type, too long, or lacks something.
    Wrong(&'static str),
    /// A response has a result and an error.
    ResultAndError,
}

/// Where something stands in its message. Messages are below 4 GiB.
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

    /// The message is UTF-8: it was checked before anything was found in it.
    fn text(self, message: &[u8]) -> &str {
        std::str::from_utf8(self.of(message)).unwrap_or_default()
    }

    /// Nothing else of the message is left.
    fn cut_out(self, mut message: Bytes) -> Bytes {
        message.truncate(self.end as usize);
        message.advance((self.start as usize).min(message.len()));
        message
    }
}

impl Request {
    /// The id as it was written: a JSON string, number or `null`.
    pub fn id(&self) -> &[u8] {
        self.id.of(&self.message)
    }

    /// The method's name.
    pub fn method(&self) -> Cow<'_, str> {
        json::unescape(self.method.text(&self.message))
    }

    /// The parameters as they were written: a JSON object or array; `None` when there are none.
    pub fn params(&self) -> Option<&[u8]> {
        self.params.map(|params| params.of(&self.message))
    }

    /// The whole message.
    pub fn message(&self) -> &Bytes {
        &self.message
    }
}

impl Notification {
    /// The method's name.
    pub fn method(&self) -> Cow<'_, str> {
        json::unescape(self.method.text(&self.message))
    }

    /// The parameters as they were written: a JSON object or array; `None` when there are none.
    pub fn params(&self) -> Option<&[u8]> {
        self.params.map(|params| params.of(&self.message))
    }

    /// The whole message.
    pub fn message(&self) -> &Bytes {
        &self.message
    }
}

impl Response {
    /// The id as it was written; `null` for an error that has none.
    pub fn id(&self) -> &[u8] {
        self.id.map_or(b"null", |id| id.of(&self.message))
    }

    /// The result, or the error object, as it was written.
    pub fn outcome(&self) -> Result<&[u8], &[u8]> {
        match self.outcome {
            Ok(result) => Ok(result.of(&self.message)),
            Err(error) => Err(error.of(&self.message)),
        }
    }

    /// The whole message, the batch that it stands in included.
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// The same cut out of the message, without a copy.
    pub fn into_outcome(self) -> Result<Bytes, Bytes> {
        match self.outcome {
            Ok(result) => Ok(result.cut_out(self.message)),
            Err(error) => Err(error.cut_out(self.message)),
        }
    }
}

impl Invalid {
    /// All of what came, the batch that it stands in included.
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// The id to answer with, as it was written; `null` if it could not be determined.
    pub fn id(&self) -> &[u8] {
        self.id.map_or(b"null", |id| id.of(&self.message))
    }

    /// What is wrong.
    pub fn problem(&self) -> InvalidProblem {
        self.problem
    }

    /// What is wrong with it as a response: one without `result` and `error` lacks these and not a
    /// `method`.
    pub fn response_problem(&self) -> InvalidProblem {
        match self.problem {
            InvalidProblem::Missing("method") => InvalidProblem::Missing("result"),
            problem => problem,
        }
    }

    /// The error code to answer with: −32700 for what is not JSON, −32600 for everything else.
    pub fn code(&self) -> i64 {
        match self.problem {
            InvalidProblem::Json(error) if !error.is_limit() => PARSE_ERROR,
            _ => INVALID_REQUEST,
        }
    }

    /// It was meant as a response: it has a `result` or an `error` and no string `method`. Answering
    /// it would be answering an answer.
    pub fn is_response(&self) -> bool {
        self.is_response
    }

    /// It may have been meant as a response: it has no string `method`, or cannot be read at all. A side
    /// that has made calls must not answer it.
    pub fn may_be_response(&self) -> bool {
        !self.has_method
    }
}

impl fmt::Display for InvalidProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => error.fmt(f),
            Self::NotAnObject => f.write_str("a message is an object, or an array of objects"),
            Self::EmptyBatch => f.write_str("a batch has at least one message"),
            Self::LongBatch => write!(f, "a batch has at most {MAX_BATCH} messages"),
            Self::NoBatches => f.write_str("batches are not spoken here"),
            Self::Doubled(member) => write!(f, "`{member}` stands twice"),
            Self::Missing(member) => write!(f, "`{member}` is missing"),
            Self::Wrong("id") => {
                write!(f, "`id` is not a string, a number or null, of {MAX_ID} bytes at most")
            }
            Self::Wrong("jsonrpc") => f.write_str("`jsonrpc` is not \"2.0\""),
            Self::Wrong("params") => f.write_str("`params` is neither an array nor an object"),
            Self::Wrong("method") => f.write_str("`method` is not a string"),
            Self::Wrong(member) => {
                write!(f, "`{member}` is not an object with a code and a message")
            }
            Self::ResultAndError => f.write_str("a response has a result or an error, not both"),
        }
    }
}

/// The text is not JSON.
pub const PARSE_ERROR: i64 = -32700;
/// The JSON is no valid request.
pub const INVALID_REQUEST: i64 = -32600;
/// The method does not exist.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// The parameters do not fit the method.
pub const INVALID_PARAMS: i64 = -32602;
/// The method has failed in itself.
pub const INTERNAL_ERROR: i64 = -32603;
/// More requests than are taken at once; of the range that is left to implementations.
pub const OVERLOADED: i64 = -32000;
