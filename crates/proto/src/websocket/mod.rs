//! WebSocket frames (RFC 6455) without I/O: bytes go in, messages and control frames come out.
//!
//! ```text
//!   bytes as they come              Decoder::decode            Event: Message │ Ping │ Pong │ Close
//!   [81 85 mask…] [89 00 …] ─────▶ BytesMut ───────────▶       or a Violation, which ends the line
//!
//!   Encoder::message, ping, pong, close ───────────────▶ WriteBuf
//! ```
//!
//! The handshake is HTTP's and not here. There are no extensions, so a set RSV bit is a violation.
//!
//! # What bounds it
//! - A length is held against the limit as soon as it is there, of a frame and of a message's fragments
//!   together, and nothing is allocated from it: the buffer is whoever reads into it's.
//! - Frames that carry next to nothing (pings, pongs, empty messages, fragments below
//!   [`FREE_FRAGMENT`]) are taken from an [allowance](Decoder::refill) of [`ALLOWANCE`] at once and
//!   [`ALLOWANCE_A_SECOND`]: ten million of them cost whoever sends them the line. A message in a few
//!   small fragments costs nothing once it is whole.

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

use crate::{ByteSize, FrameError};

/// Which side this is: a client masks what it sends, a server does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Who asked for the WebSocket.
    Client,
    /// Who granted it.
    Server,
}

/// What a message is said to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8, checked.
    Text,
    /// Any bytes.
    Binary,
}

impl Kind {
    /// Text where it is UTF-8, which every JSON message is; else binary.
    pub fn of(message: &[u8]) -> Self {
        if std::str::from_utf8(message).is_ok() { Self::Text } else { Self::Binary }
    }
}

/// What came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A whole message, its fragments joined.
    Message(Kind, Bytes),
    /// To be answered by a pong with the same payload; of several the last one is enough.
    Ping(Bytes),
    /// The answer to a ping, or a sign of life.
    Pong(Bytes),
    /// The last frame of that side; `None` where it gives no code. Nothing may be decoded behind it.
    Close(Option<Close>),
}

/// How the other side broke the protocol. The line has to end with
/// [`close_code`](Self::close_code).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// An RSV bit, and no extension that would give it a meaning.
    ReservedBits,
    /// An opcode that RFC 6455 does not know.
    UnknownOpcode(u8),
    /// A frame from a client that is not masked, or one from a server that is.
    Masking,
    /// A control frame in fragments.
    FragmentedControl,
    /// A control frame of more than 125 bytes.
    ControlOversize,
    /// A length that is written longer than it has to be, or with its highest bit set.
    MalformedLength,
    /// A continuation of nothing.
    Continuation,
    /// A new message inside another.
    Interleaved,
    /// A close frame with one byte, or with a code that must not be sent.
    MalformedClose,
    /// A text that is not UTF-8.
    NotUtf8,
    /// A message above the limit.
    Oversize {
        /// As far as it was announced, in bytes.
        length: u64,
        /// The largest message that would have been taken.
        limit: ByteSize,
    },
    /// Too many frames that carry next to nothing.
    TooManyFrames,
    /// A text where only binary messages are taken.
    Unsupported,
}

impl Violation {
    /// The code that tells the other side.
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
            Self::Continuation => f.write_str("a frame continues nothing"),
            Self::Interleaved => f.write_str("a message begins inside another"),
            Self::MalformedClose => f.write_str("a close frame is malformed"),
            Self::NotUtf8 => f.write_str("a text is not UTF-8"),
            Self::Oversize { length, limit } => {
                write!(f, "a message of {length} bytes is above the limit of {limit}")
            }
            Self::TooManyFrames => f.write_str("too many frames that carry next to nothing"),
            Self::Unsupported => f.write_str("a text came where only binary messages are taken"),
        }
    }
}

impl std::error::Error for Violation {}

#[cfg(test)]
mod tests;
