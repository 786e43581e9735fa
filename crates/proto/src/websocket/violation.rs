//! Violations of the protocol of WebSocket frames.

use std::fmt;

use crate::byte_size::ByteSize;
use crate::printable::Count;

/// A violation of the protocol by the peer. The line must be closed with
/// [`close_code`](Self::close_code).
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
    /// A length that is not in its shortest form or has its highest bit set.
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
    /// Too many tiny frames, see [`ALLOWANCE`](super::ALLOWANCE).
    TooManyFrames,
    /// A text message on a line that accepts only binary messages.
    Unsupported,
    /// An end of input that has a payload, is in the middle of a message, or is repeated.
    MalformedEnd,
    /// A message after the end of input.
    AfterEnd,
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
                let length = Count(*length, "byte");
                write!(f, "a message of {length} is above the limit of {limit}")
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
