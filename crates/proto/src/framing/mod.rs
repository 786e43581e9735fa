//! Framing: splitting a byte stream into messages.
//!
//! A decoder receives the bytes in the pieces that the operating system returns. The decoded messages
//! never depend on where the stream was split. A size announced by the peer is checked against the limit
//! before memory is allocated for it.

mod content_length;
mod copies;
mod detect;
mod first_bytes;
mod frame_error;
mod json;
mod length_prefix;
mod lines;
mod refusals;

use std::fmt;
use std::str::FromStr;

use bytes::{Bytes, BytesMut};

pub use content_length::{ContentLength, MAX_HEADER_BLOCK};
pub(crate) use copies::take_message;
pub use detect::DetectedLines;
pub use frame_error::FrameError;
pub use json::Json;
pub use length_prefix::LengthPrefix;
pub use lines::Lines;

use crate::byte_size::ByteSize;
use crate::json::JsonError;
use crate::printable::Count;
use crate::write_buf::WriteBuf;

/// A framing, which splits a byte stream into messages and writes messages to a byte stream.
///
/// One value serves one direction of one line, because decoding keeps state between calls.
pub trait Framing: Clone + Send + Sync + 'static {
    /// Returns the same framing for another line, sharing no state with this one. The two directions of
    /// the new line use clones of the returned value.
    fn for_line(&self) -> Self {
        self.clone()
    }

    /// Checks whether the peer's first bytes belong to another framing, before any of them is decoded.
    ///
    /// Returns true if there were enough bytes to decide. Otherwise, this is called again with more
    /// bytes.
    ///
    /// # Errors
    /// The peer uses another framing.
    fn meet(&mut self, first: &[u8]) -> Result<bool, FrameError> {
        let _ = first;
        Ok(true)
    }

    /// Takes the next message from the front of `buffer`. Returns `None` while the message is
    /// incomplete.
    ///
    /// The caller appends to `buffer` and MUST NOT change the bytes that are already in it. `buffer`
    /// contains at most the largest message with its frame, plus the bytes of one read.
    ///
    /// # Errors
    /// The start of the next message can no longer be found, which ends the line. A bad message that can
    /// be skipped is not an error but a [`Frame::Fault`].
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError>;

    /// Returns how the stream ended. This is called at the end of the input, after `decode` has returned
    /// `None`.
    fn finish(&mut self, buffer: &mut BytesMut) -> Ending;

    /// Appends one message to `out`. On error, nothing is appended.
    ///
    /// # Errors
    /// The message is too large, or the framing cannot write it as one message.
    fn encode(&self, message: &Bytes, out: &mut WriteBuf) -> Result<(), EncodeError>;

    /// Appends one message that consists of `head` followed by `message`. Framings that can write the
    /// two parts without joining them first override this method.
    ///
    /// # Errors
    /// The same as [`encode`](Self::encode).
    fn encode_with_head(
        &self,
        head: &[u8],
        message: &Bytes,
        out: &mut WriteBuf,
    ) -> Result<(), EncodeError> {
        self.encode(&[head, message].concat().into(), out)
    }

    /// Returns the kind of this framing, or `None` if an endpoint cannot name it.
    fn kind(&self) -> Option<FramingKind> {
        None
    }

    /// Returns the minimum number of bytes that the partly received message still needs, which is never
    /// above the message limit.
    fn missing(&self, buffer: &BytesMut) -> usize {
        let _ = buffer;
        0
    }

    /// Sets the message limit to `most` and returns the previous one. A partly received message may keep
    /// the limit with which it started. Returns `None`, and changes nothing, if the framing has no
    /// adjustable limit.
    fn limit_to(&mut self, most: ByteSize) -> Option<ByteSize> {
        let _ = most;
        None
    }

    /// Returns whether a message was partly received. Its bytes may have left the buffer already.
    fn holds_part(&self, buffer: &BytesMut) -> bool {
        !buffer.is_empty()
    }

    /// Returns how many bytes were received but not returned as messages: the bytes in the buffer, and
    /// those that the framing has taken out of it.
    fn unread(&self, buffer: &BytesMut) -> usize {
        buffer.len()
    }
}

/// One item decoded from a byte stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// One whole message.
    Message(Bytes),
    /// One message that could not be delivered. Later messages can be.
    Fault(Fault),
}

/// The reason why one message could not be delivered. The line continues.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A message above the limit, which was discarded as it arrived.
    Oversize(Box<Oversize>),
    /// A message that is not JSON where JSON is expected.
    NotJson(Box<NotJson>),
}

/// A message above the limit that was discarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oversize {
    /// The limit on the size of a message.
    pub limit: ByteSize,
    /// The first bytes of the message, at most [`FAULT_HEAD`] and at most `limit`.
    pub head: Box<[u8]>,
}

/// A message that is not JSON where JSON is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotJson {
    /// The first bytes of the message, at most [`FAULT_HEAD`].
    pub head: Bytes,
    /// The full length of the message in bytes.
    pub length: usize,
    /// The position and the reason of the error.
    pub error: JsonError,
}

/// How many bytes of an undelivered message a [`Fault`] keeps: 4 KiB. They are searched for the id of
/// the call to which the message belongs.
pub const FAULT_HEAD: usize = 4096;

/// How many of these bytes the text of a fault shows.
const SHOWN: usize = 200;

impl Fault {
    /// Returns the fault for a message above `limit`. `message` contains at least its first `limit`
    /// bytes.
    ///
    /// The bytes that are kept do not depend on how many had arrived when the limit was exceeded.
    pub fn oversize(limit: ByteSize, message: &[u8]) -> Self {
        let head = message.get(..FAULT_HEAD.min(limit.bytes())).unwrap_or(message);
        Self::Oversize(Box::new(Oversize { limit, head: head.into() }))
    }

    /// Returns the first bytes of the undelivered message, at most [`FAULT_HEAD`].
    pub fn head(&self) -> &[u8] {
        match self {
            Self::Oversize(message) => &message.head,
            Self::NotJson(message) => &message.head,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oversize(message) => {
                write!(f, "a message above the limit of {} was discarded", message.limit)
            }
            Self::NotJson(message) => {
                let NotJson { head, length, error } = message.as_ref();
                write!(
                    f,
                    "a message of {} is not JSON ({error}): {}",
                    Count(*length, "byte"),
                    head.get(..SHOWN).unwrap_or(head).escape_ascii()
                )
            }
        }
    }
}

/// How a byte stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The stream ended between two messages.
    Clean,
    /// The stream ended after a last line without a newline. If the stream ended cleanly, the line is a
    /// message.
    Unterminated(Bytes),
    /// The stream ended in the middle of a message.
    Truncated(Truncated),
}

/// How much of a message had arrived when the stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated {
    /// The number of bytes that arrived.
    pub received: usize,
    /// The length of the whole message in bytes, if the framing announces it.
    pub expected: Option<usize>,
}

impl fmt::Display for Truncated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.expected {
            Some(expected) => {
                write!(f, "{} of {expected} bytes of a message arrived", self.received)
            }
            None => {
                write!(f, "{} of an unfinished message arrived", Count(self.received, "byte"))
            }
        }
    }
}

/// The error of a message that the framing cannot send. No part of the message was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncodeError {
    /// The message is empty or only whitespace, which the receiver would not treat as a message.
    Empty,
    /// The message contains a raw CR or LF, which would split it into two lines.
    RawNewline,
    /// The message is above the limit.
    Oversize {
        /// Its length in bytes.
        length: usize,
        /// The limit on the size of a message.
        limit: ByteSize,
    },
    /// The message has raw line breaks or comes from another framing. Only JSON can be converted, and the
    /// message is not JSON.
    NotJson(JsonError),
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("an empty or blank message cannot be sent on this line"),
            Self::RawNewline => {
                f.write_str("a message with a raw newline cannot be sent as one line")
            }
            Self::Oversize { length, limit } => {
                let length = Count(*length, "byte");
                write!(f, "a message of {length} is above the limit of {limit}")
            }
            Self::NotJson(error) => {
                write!(
                    f,
                    "the message cannot be converted for this line, as it is not JSON: {error}"
                )
            }
        }
    }
}

impl std::error::Error for EncodeError {}

#[inline]
fn refuse_oversize(length: usize, limit: ByteSize) -> Result<(), EncodeError> {
    if length > limit.bytes() {
        return Err(EncodeError::Oversize { length, limit });
    }
    Ok(())
}

/// The framings that an endpoint can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum FramingKind {
    /// One message per line (NDJSON); the default.
    #[default]
    Lines,
    /// A header block with `Content-Length`, as in the Language Server Protocol.
    ContentLength,
    /// A big-endian `u32` length before each message, which can be any bytes.
    LengthPrefix,
}

impl FramingKind {
    /// All kinds, in the order in which they are documented.
    pub const ALL: [Self; 3] = [Self::Lines, Self::ContentLength, Self::LengthPrefix];

    /// Returns the name used in endpoints and options.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lines => "lines",
            Self::ContentLength => "content-length",
            Self::LengthPrefix => "length-prefix",
        }
    }

    /// Returns a codec of this kind that receives and sends messages of at most `max_message`. It is not for the
    /// frames of a session.
    pub const fn codec(self, max_message: ByteSize) -> Codec {
        match self {
            Self::Lines => Codec::Lines(Lines::new(max_message)),
            Self::ContentLength => Codec::ContentLength(ContentLength::new(max_message)),
            Self::LengthPrefix => {
                Codec::LengthPrefix(LengthPrefix::new(max_message).without_sessions())
            }
        }
    }
}

impl fmt::Display for FramingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FramingKind {
    type Err = UnknownFraming;

    fn from_str(name: &str) -> Result<Self, UnknownFraming> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or(UnknownFraming)
    }
}

/// The error for text that names no [`FramingKind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownFraming;

impl fmt::Display for UnknownFraming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such framing; the framings are lines, content-length and length-prefix")
    }
}

impl std::error::Error for UnknownFraming {}

/// A framing chosen at run time.
#[derive(Clone, Debug)]
pub enum Codec {
    /// One message per line.
    Lines(Lines),
    /// A header block with `Content-Length`.
    ContentLength(ContentLength),
    /// A big-endian `u32` length before each message.
    LengthPrefix(LengthPrefix),
    /// One message per line, or `Content-Length` headers if the client sends those.
    Detected(DetectedLines),
}

/// Forwards a call to the framing that was chosen.
macro_rules! each {
    ($self:expr, $framing:ident => $call:expr) => {
        match $self {
            Self::Lines($framing) => $call,
            Self::ContentLength($framing) => $call,
            Self::LengthPrefix($framing) => $call,
            Self::Detected($framing) => $call,
        }
    };
}

impl Framing for Codec {
    fn for_line(&self) -> Self {
        match self {
            Self::Detected(framing) => Self::Detected(framing.for_line()),
            framing => framing.clone(),
        }
    }

    fn meet(&mut self, first: &[u8]) -> Result<bool, FrameError> {
        each!(self, framing => framing.meet(first))
    }

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        each!(self, framing => framing.decode(buffer))
    }

    fn finish(&mut self, buffer: &mut BytesMut) -> Ending {
        each!(self, framing => framing.finish(buffer))
    }

    fn encode(&self, message: &Bytes, out: &mut WriteBuf) -> Result<(), EncodeError> {
        each!(self, framing => framing.encode(message, out))
    }

    fn encode_with_head(
        &self,
        head: &[u8],
        message: &Bytes,
        out: &mut WriteBuf,
    ) -> Result<(), EncodeError> {
        each!(self, framing => framing.encode_with_head(head, message, out))
    }

    fn kind(&self) -> Option<FramingKind> {
        each!(self, framing => framing.kind())
    }

    fn missing(&self, buffer: &BytesMut) -> usize {
        each!(self, framing => framing.missing(buffer))
    }

    fn limit_to(&mut self, most: ByteSize) -> Option<ByteSize> {
        each!(self, framing => framing.limit_to(most))
    }

    fn holds_part(&self, buffer: &BytesMut) -> bool {
        each!(self, framing => framing.holds_part(buffer))
    }

    fn unread(&self, buffer: &BytesMut) -> usize {
        each!(self, framing => framing.unread(buffer))
    }
}
