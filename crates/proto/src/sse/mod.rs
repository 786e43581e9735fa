//! Server-sent events: how a stream of events stands in bytes (WHATWG HTML, "Server-sent events",
//! section 9.2.5 "Parsing an event stream" and 9.2.6 "Interpreting an event stream").
//!
//! ```text
//!   bytes as they come         Parser::parse            one Item each
//!   "id: 7\r\nda", "ta: {}\n\n" ───────▶ Event { event: "", data: "{}", id: "7" }
//!
//!   data, event, id, retry     Encoder                  bytes
//! ```
//!
//! No connection, no retrying and no header is known here: what an id and a time mean is said by whoever
//! carries the stream. [`EventSession`] is for those who give ids the meaning of a session's numbers.

mod encoder;
mod parser;
mod session;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

pub use encoder::{EncodeError, Encoder, comment};
pub use parser::Parser;
pub use session::{EventSession, Stale, Taken};

use crate::{ByteSize, DEFAULT_MAX_MESSAGE};

/// The longest name of an event, and the longest id, that is taken or sent: 4 KiB. Both stay in memory
/// beside the data; real ones have some dozen bytes.
pub const MAX_NAME: ByteSize = ByteSize::kib(4);

/// How much of an event is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The data of an event, with the newlines between its lines; 16 MiB by default.
    pub max_data: ByteSize,
    /// How many fields an event may have, data lines among them; a million by default. They are not
    /// kept, so it is a matter of time and not of memory. Comments and unknown fields do not count.
    pub max_fields: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_data: DEFAULT_MAX_MESSAGE, max_fields: 1_000_000 }
    }
}

/// What a stream has brought.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Item {
    /// An event.
    Event(Event),
    /// After the loss of the stream, so long is to be waited before the next attempt.
    Retry(Duration),
    /// An event that was above a limit. It is said at the moment at which the limit is passed; what
    /// comes behind the event arrives.
    Lost(Excess),
}

/// An event, as it stood in the stream.
///
/// The bytes of `data` are those of the stream. Where they are not UTF-8 the standard has U+FFFD in
/// their place: as [`String::from_utf8_lossy`] has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// What kind it is. Empty means `message`.
    pub event: String,
    /// Its data; its lines are joined by LF, whatever ended them.
    pub data: Bytes,
    /// The last id that the stream has given, with this event or before. Empty: none, or one that was
    /// taken back.
    pub id: String,
}

/// What of an event was above its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Excess {
    /// [`Limits::max_data`].
    Data(ByteSize),
    /// Its name or its id: [`MAX_NAME`].
    Name,
    /// [`Limits::max_fields`].
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
