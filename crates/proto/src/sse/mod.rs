//! Server-sent events: parsing and writing event streams (WHATWG HTML, section 9.2 "Server-sent events",
//! 9.2.5 "Parsing an event stream" and 9.2.6 "Interpreting an event stream").
//!
//! ```text
//!   bytes as they arrive       Parser::parse            one Item each
//!   "id: 7\r\nda", "ta: {}\n\n" ───────▶ Event { event: "", data: "{}", id: "7" }
//!
//!   data, event, id, retry     Encoder                  bytes
//! ```
//!
//! This module is independent of connections, retries and headers: the code that carries the stream
//! interprets ids and retry times. [`EventSession`] is for streams whose ids are the sequence numbers of
//! a session.

mod encoder;
mod parser;
mod session;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

pub use encoder::{EncodeError, Encoder, comment};
pub use parser::Parser;
pub use session::{EventSession, Stale, Taken};

use crate::DEFAULT_MAX_MESSAGE;
use crate::byte_size::ByteSize;

/// The limit on the length of an event's name and of its id, received or sent: 4 KiB each. Both are kept
/// in memory in addition to the data. In practice, they have a few dozen bytes.
pub const MAX_NAME: ByteSize = ByteSize::kib(4);

/// Limits on the events that a [`Parser`] accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The maximum size of an event's data, including the newlines between its lines; 16 MiB by default.
    pub max_data: ByteSize,
    /// The maximum number of fields in an event, including `data` lines; a million by default. Comments
    /// and unknown fields are not counted. Fields are not stored, so this limits time, not memory.
    pub max_fields: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_data: DEFAULT_MAX_MESSAGE, max_fields: 1_000_000 }
    }
}

/// One item of an event stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Item {
    /// An event.
    Event(Event),
    /// How long to wait before reconnecting after the stream is lost.
    Retry(Duration),
    /// An event above a limit, reported as soon as the limit is exceeded. The event is discarded, and
    /// later events are parsed normally.
    Lost(Excess),
}

/// An event of a stream.
///
/// `data` contains the bytes of the stream unchanged. The standard replaces bytes that are not UTF-8 by
/// U+FFFD, as [`String::from_utf8_lossy`] does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The event's name. Empty means `message`.
    pub event: String,
    /// The event's data. Its lines are joined by LF, for any line endings in the stream.
    pub data: Bytes,
    /// The last id in the stream, set by this event or an earlier one. Empty if there was none, or if it was
    /// reset by an empty id.
    pub id: String,
}

/// The limit that an event exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Excess {
    /// The data exceeded [`Limits::max_data`].
    Data(ByteSize),
    /// The name or the id exceeded [`MAX_NAME`].
    Name,
    /// The number of fields exceeded [`Limits::max_fields`].
    Fields(usize),
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(limit) => write!(f, "an event with data above the limit of {limit}"),
            Self::Name => write!(f, "an event with a name or an id above the limit of {MAX_NAME}"),
            Self::Fields(limit) => write!(f, "an event with more than {limit} fields"),
        }
    }
}

const CR: u8 = b'\r';
const LF: u8 = b'\n';
