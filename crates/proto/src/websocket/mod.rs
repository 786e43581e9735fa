//! WebSocket frames (RFC 6455) without I/O: bytes go in, messages and control frames come out.
//!
//! ```text
//!   bytes as they arrive            Decoder::decode            Event: Message │ Ping │ Pong │ Close
//!   [81 85 mask…] [89 00 …] ─────▶ BytesMut ───────────▶       or a Violation, which ends the line
//!
//!   Encoder::message, ping, pong, close ───────────────▶ WriteBuf
//! ```
//!
//! The handshake is HTTP and is not part of this module. No supported extension uses the RSV bits, so a set
//! RSV bit is a violation. The only extension is the end of input: the control frame 0xB without a payload,
//! which is a violation unless it was negotiated ([`Decoder::expect_end`]).
//!
//! # Limits
//! - A frame's length is checked as soon as it is received, together with the earlier fragments of its
//!   message. Nothing is allocated from it: the caller owns the buffer.
//! - Tiny frames (pings, pongs, empty messages, fragments shorter than [`FREE_FRAGMENT`]) consume an
//!   [allowance](Decoder::refill) of [`ALLOWANCE`] at once and [`ALLOWANCE_A_SECOND`] per second. A peer
//!   that exceeds it loses the line. A few small fragments of a message are refunded once the message is
//!   complete.

mod close;
mod decoder;
mod encoder;
mod header;
mod utf8;

use std::fmt;

use bytes::Bytes;

pub use close::{Close, CloseCode};
pub use decoder::{ALLOWANCE, ALLOWANCE_A_SECOND, Decoder, FREE_FRAGMENT};
pub use encoder::Encoder;
pub(crate) use header::apply_mask;

use crate::byte_size::ByteSize;
use crate::framing::FrameError;

/// The side of a WebSocket. A client masks the frames it sends, a server does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The side that requested the WebSocket.
    Client,
    /// The side that accepted it.
    Server,
}

/// The type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8, which is checked.
    Text,
    /// Any bytes.
    Binary,
}

impl Kind {
    /// Returns `Text` if the message is UTF-8, as every JSON message is, and `Binary` otherwise.
    pub fn of(message: &[u8]) -> Self {
        if std::str::from_utf8(message).is_ok() { Self::Text } else { Self::Binary }
    }
}

/// A decoded message or control frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A complete message, its fragments joined.
    Message(Kind, Bytes),
    /// A ping. Answer it with a pong that has the same payload; after several pings, answering the last one
    /// is enough.
    Ping(Bytes),
    /// A pong: the answer to a ping, or an unsolicited keep-alive.
    Pong(Bytes),
    /// The peer sends no more messages, but may still send control frames.
    End,
    /// The peer's last frame; `None` if it has no code. Nothing may be decoded after it.
    Close(Option<Close>),
}

/// How the peer violated the protocol. The line must be closed with [`close_code`](Self::close_code).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// A frame has an RSV bit set, although no extension was negotiated.
    ReservedBits,
    /// An opcode that RFC 6455 does not define.
    UnknownOpcode(u8),
    /// An unmasked frame from a client, or a masked one from a server.
    Masking,
    /// A fragmented control frame.
    FragmentedControl,
    /// A control frame of more than 125 bytes.
    ControlOversize,
    /// A length that is not in its shortest form, or that has its highest bit set.
    MalformedLength,
    /// A continuation frame without a message to continue.
    Continuation,
    /// A new message before the last fragment of another.
    Interleaved,
    /// A close frame with a payload of one byte, or with a code that must not be sent.
    MalformedClose,
    /// A text message, or the text of a close frame, that is not UTF-8.
    NotUtf8,
    /// A message above the limit.
    Oversize {
        /// The length announced so far, in bytes.
        length: u64,
        /// The limit on the size of a message.
        limit: ByteSize,
    },
    /// Too many tiny frames, see [`ALLOWANCE`].
    TooManyFrames,
    /// A text message where only binary messages are accepted.
    Unsupported,
    /// An end of input with a payload, in the middle of a message, or for the second time.
    MalformedEnd,
    /// A message after the end of input.
    AfterEnd,
}

impl Violation {
    /// Returns the code of the close frame that reports this violation to the peer.
    pub fn close_code(&self) -> CloseCode {
        match self {
            Self::NotUtf8 => CloseCode::INVALID_PAYLOAD,
            Self::Oversize { .. } => CloseCode::TOO_BIG,
            Self::TooManyFrames => CloseCode::POLICY,
            Self::Unsupported => CloseCode::UNSUPPORTED,
            _ => CloseCode::PROTOCOL_ERROR,
        }
    }
}

impl From<Violation> for FrameError {
    fn from(violation: Violation) -> Self {
        match violation {
            Violation::Oversize { length, limit } => Self::Oversize { length, limit },
            other => Self::WebSocket(other),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReservedBits => f.write_str("a frame has reserved bits set"),
            Self::UnknownOpcode(opcode) => write!(f, "a frame has the unknown opcode {opcode:#x}"),
            Self::Masking => {
                f.write_str("a client's frame is not masked, or a server's frame is masked")
            }
            Self::FragmentedControl => f.write_str("a control frame is fragmented"),
            Self::ControlOversize => f.write_str("a control frame is longer than 125 bytes"),
            Self::MalformedLength => f.write_str("a frame's length is malformed"),
            Self::Continuation => f.write_str("a continuation frame has no message to continue"),
            Self::Interleaved => f.write_str("a message begins before the previous one has ended"),
            Self::MalformedClose => f.write_str("a close frame is malformed"),
            Self::NotUtf8 => f.write_str("a text message or a close reason is not UTF-8"),
            Self::Oversize { length, limit } => {
                write!(f, "a message of {length} bytes is above the limit of {limit}")
            }
            Self::TooManyFrames => f.write_str("too many empty or tiny frames"),
            Self::Unsupported => {
                f.write_str("a text message was received where only binary ones are accepted")
            }
            Self::MalformedEnd => {
                f.write_str("an end of input has a payload, is inside a message, or is repeated")
            }
            Self::AfterEnd => f.write_str("a message follows the end of input"),
        }
    }
}

impl std::error::Error for Violation {}

#[cfg(test)]
mod tests;
