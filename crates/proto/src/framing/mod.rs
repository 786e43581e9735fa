//! How a byte stream is cut into messages.
//!
//! A decoder sees the bytes in whatever pieces the operating system hands over; the messages that
//! come out never depend on where the cuts fell. What a peer claims about a size is checked against
//! the limit before a byte is allocated for it.

mod content_length;
mod copies;
mod detect;
mod json;
mod length_prefix;
mod lines;

use std::fmt;
use std::str::FromStr;

use bytes::{Bytes, BytesMut};

pub use content_length::{ContentLength, MAX_HEADER_BLOCK};
pub(crate) use copies::take_message;
pub use detect::DetectedLines;
pub use json::Json;
pub use length_prefix::LengthPrefix;
pub use lines::Lines;

use crate::json::JsonError;
use crate::websocket::Violation;
use crate::{ByteSize, WriteBuf};

/// Cuts a byte stream into messages, and joins messages into a byte stream.
///
/// One value serves one direction of one line: decoding keeps state between calls.
pub trait Framing: Clone + Send + Sync + 'static {
    /// The same framing for another line, with no state in common with this one. The two directions of
    /// the line are clones of what it returns.
    fn for_line(&self) -> Self {
        self.clone()
    }

    /// Looks at the first bytes of the other side, before any of them is decoded, for a framing that is
    /// not this one. Returns whether enough was seen; until then it is called again with more.
    ///
    /// # Errors
    /// The other side speaks another framing.
    fn meet(&mut self, first: &[u8]) -> Result<bool, FrameError> {
        let _ = first;
        Ok(true)
    }

    /// Takes the next message from the front of `buffer`, or `None` when it is not whole yet.
    ///
    /// The caller appends to `buffer` and MUST NOT change what is already in it. `buffer` holds at
    /// most the largest message and its frame plus what one read brought.
    ///
    /// # Errors
    /// Only when the start of the next message cannot be found any more: the line is lost. A bad
    /// message that leaves the next one findable is [`Frame::Fault`].
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError>;

    /// Says how the stream ended, once no more bytes will come and `decode` gave `None`.
    fn finish(&mut self, buffer: &mut BytesMut) -> Ending;

    /// Appends one message to `out`. On an error nothing was appended.
    ///
    /// # Errors
    /// The message is too large, or the framing has no way to write it as one message.
    fn encode(&self, message: &Bytes, out: &mut WriteBuf) -> Result<(), EncodeError>;

    /// The same for a message that is `head` and behind it `message`, where they need not be joined
    /// first.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    fn encode_behind(
        &self,
        head: &[u8],
        message: &Bytes,
        out: &mut WriteBuf,
    ) -> Result<(), EncodeError> {
        self.encode(&[head, message].concat().into(), out)
    }

    /// Which of the framings that endpoints name this is; `None` for any other.
    fn kind(&self) -> Option<FramingKind> {
        None
    }

    /// How many more bytes the message under way certainly needs; never above the message limit.
    fn missing(&self, buffer: &BytesMut) -> usize {
        let _ = buffer;
        0
    }

    /// From here on takes messages of at most `most` bytes, and gives how many it took before; what is
    /// under way may keep its limit. `None`: it has no limit that could be changed, and does nothing.
    fn limit_to(&mut self, most: ByteSize) -> Option<ByteSize> {
        let _ = most;
        None
    }

    /// Whether a message is under way, of which some has come: it may be gone from the buffer already.
    fn holds_part(&self, buffer: &BytesMut) -> bool {
        !buffer.is_empty()
    }
}

/// What a decoder found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// One whole message.
    Message(Bytes),
    /// One message that could not be delivered; the line goes on behind it.
    Fault(Fault),
}

/// Why one message was not delivered, or a promise about messages not kept, while the line goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A message above the limit was discarded while it streamed by.
    Oversize(Box<Oversize>),
    /// A message that is not JSON where JSON is expected.
    NotJson(Box<NotJson>),
}

/// A message above the limit that was discarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oversize {
    /// The largest message that would have been taken.
    pub limit: ByteSize,
    /// The first bytes of the message, at most [`FAULT_HEAD`] and at most `limit`.
    pub head: Box<[u8]>,
}

/// A message that is not JSON where JSON is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotJson {
    /// Its first bytes, at most [`FAULT_HEAD`].
    pub head: Bytes,
    /// Its whole length in bytes.
    pub length: usize,
    /// Where and why it is not JSON.
    pub error: JsonError,
}

/// How many bytes of a message that was not delivered a [`Fault`] keeps, so that the call it belongs to
/// can be found: 4 KiB.
pub const FAULT_HEAD: usize = 4096;

/// How many of these bytes an error text shows.
const SHOWN: usize = 200;

impl Fault {
    /// The fault for a message above `limit` of which at least the first `limit` bytes are `message`.
    ///
    /// What is kept does not depend on how much had arrived when the limit was passed.
    pub fn oversize(limit: ByteSize, message: &[u8]) -> Self {
        let head = message.get(..FAULT_HEAD.min(limit.bytes())).unwrap_or(message);
        Self::Oversize(Box::new(Oversize { limit, head: head.into() }))
    }

    /// The first bytes of the message that was not delivered, at most [`FAULT_HEAD`].
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
                    "a message of {length} bytes is not JSON ({error}): {}",
                    head.get(..SHOWN).unwrap_or(head).escape_ascii()
                )
            }
        }
    }
}

/// How a byte stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Between two messages.
    Clean,
    /// Behind a last line that has no newline. After a clean end of the stream it is a message.
    Unterminated(Bytes),
    /// In the middle of a message.
    Truncated(Truncated),
}

/// The part of a message that arrived before the stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncated {
    /// How many bytes of the frame arrived, as far as they were kept.
    pub received: usize,
    /// How many bytes the whole message has, where the framing says so up front.
    pub expected: Option<usize>,
}

impl fmt::Display for Truncated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.expected {
            Some(expected) => {
                write!(f, "{} of {expected} bytes of a message arrived", self.received)
            }
            None => write!(f, "{} bytes of an unfinished message arrived", self.received),
        }
    }
}

/// The next message cannot be found any more; the line must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The peer announced a message above the limit.
    Oversize {
        /// What it announced, in bytes.
        length: u64,
        /// The largest message that would have been taken.
        limit: ByteSize,
    },
    /// A header block of more than [`MAX_HEADER_BLOCK`].
    HeaderBlockOversize,
    /// A header line that is not `Name: value` ended by CR LF.
    MalformedHeader,
    /// A header block without `Content-Length`.
    MissingContentLength,
    /// A header block with more than one `Content-Length`.
    DuplicateContentLength,
    /// A `Content-Length` that is not a plain decimal number below 2⁶⁴.
    InvalidContentLength,
    /// The other side sends `Content-Length` headers, and this line carries lines.
    UnexpectedContentLength,
    /// The other side sends lines of JSON, and this line carries messages behind `Content-Length` headers.
    UnexpectedLines,
    /// The other side takes sessions only, and this line is none.
    UnexpectedSession,
    /// The first message of a client is not JSON, where anybody may connect.
    FirstNotJson,
    /// What came is not WebSocket frames, or not as they have to be.
    WebSocket(Violation),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oversize { length, limit } => {
                write!(
                    f,
                    "the peer announced a message of {length} bytes, above the limit of {limit}"
                )
            }
            Self::HeaderBlockOversize => {
                write!(f, "a header block is longer than {MAX_HEADER_BLOCK}")
            }
            Self::MalformedHeader => {
                f.write_str("a header line is not `Name: value` with CR LF behind it")
            }
            Self::MissingContentLength => f.write_str("a header block has no Content-Length"),
            Self::DuplicateContentLength => {
                f.write_str("a header block has more than one Content-Length")
            }
            Self::InvalidContentLength => {
                f.write_str("a Content-Length is not a plain decimal number below 2^64")
            }
            Self::UnexpectedContentLength => f.write_str(
                "the other side sends Content-Length headers, and this line carries one message a line; \
                 put content-length+ in front of the endpoint, as in --listen content-length+unix:PATH \
                 (for the program of `serve`: --framing content-length)",
            ),
            Self::UnexpectedLines => f.write_str(
                "the other side sends JSON without Content-Length headers, and this line demands them; leave out \
                 content-length+, as in --listen unix:PATH, or put it in front of the other side's endpoint \
                 (for the program of `serve`: --framing lines)",
            ),
            Self::UnexpectedSession => f.write_str(
                "the other side takes sessions only; put resume+ in front of the endpoint, or add --resume",
            ),
            Self::FirstNotJson => f.write_str(
                "the first message is not JSON, which a listener that anybody may connect to demands",
            ),
            Self::WebSocket(violation) => violation.fmt(f),
        }
    }
}

impl std::error::Error for FrameError {}

/// The message was refused and nothing of it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncodeError {
    /// Nothing but white space, which the other side would not take for a message.
    Empty,
    /// A raw CR or LF would make two lines of one message.
    RawNewline,
    /// The message is above the limit.
    Oversize {
        /// Its length in bytes.
        length: usize,
        /// The largest message that is sent.
        limit: ByteSize,
    },
    /// The message has raw line breaks or comes from another framing, so only JSON can be passed on, and
    /// it is not JSON.
    NotJson(JsonError),
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("an empty or blank message cannot be sent here"),
            Self::RawNewline => {
                f.write_str("a message with a raw newline cannot be sent as one line")
            }
            Self::Oversize { length, limit } => {
                write!(f, "a message of {length} bytes is above the limit of {limit}")
            }
            Self::NotJson(error) => {
                write!(f, "only JSON can be changed to fit this line, and it is not JSON: {error}")
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
    /// One message a line (NDJSON); the default.
    #[default]
    Lines,
    /// A header block with `Content-Length`, as the Language Server Protocol has it.
    ContentLength,
    /// A big-endian `u32` in front of each message, for any bytes.
    LengthPrefix,
}

impl FramingKind {
    /// Every kind, in the order they are documented.
    pub const ALL: [Self; 3] = [Self::Lines, Self::ContentLength, Self::LengthPrefix];

    /// The name that stands in endpoints and options.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lines => "lines",
            Self::ContentLength => "content-length",
            Self::LengthPrefix => "length-prefix",
        }
    }

    /// A codec of this kind that takes and sends messages of at most `max_message`.
    pub const fn codec(self, max_message: ByteSize) -> Codec {
        match self {
            Self::Lines => Codec::Lines(Lines::new(max_message)),
            Self::ContentLength => Codec::ContentLength(ContentLength::new(max_message)),
            Self::LengthPrefix => Codec::LengthPrefix(LengthPrefix::new(max_message)),
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

/// The text names no framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownFraming;

impl fmt::Display for UnknownFraming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such framing; there are lines, content-length and length-prefix")
    }
}

impl std::error::Error for UnknownFraming {}

/// A framing chosen at run time.
#[derive(Clone, Debug)]
pub enum Codec {
    /// One message a line.
    Lines(Lines),
    /// A header block with `Content-Length`.
    ContentLength(ContentLength),
    /// A big-endian `u32` in front.
    LengthPrefix(LengthPrefix),
    /// One message a line, or what the other side turns out to speak.
    Detected(DetectedLines),
}

/// The same call on whichever framing was chosen.
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

    fn encode_behind(
        &self,
        head: &[u8],
        message: &Bytes,
        out: &mut WriteBuf,
    ) -> Result<(), EncodeError> {
        each!(self, framing => framing.encode_behind(head, message, out))
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
}
