//! WebSocket frames (RFC 6455) without I/O. Bytes are decoded to messages and control frames, and these
//! are encoded to bytes.
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
//!   message. No memory is allocated on the basis of that length, because the caller owns the buffer.
//! - Tiny frames (pings, pongs, empty messages, fragments shorter than [`FREE_FRAGMENT`]) consume an
//!   [allowance](Decoder::refill) of [`ALLOWANCE`] at once and [`ALLOWANCE_A_SECOND`] per second. If a
//!   peer exceeds it, the line ends. A few small fragments of a message are refunded once the message is
//!   complete.

mod close;
mod decoder;
mod encoder;
mod header;
mod mask;
mod utf8;
mod violation;

use bytes::Bytes;

pub use close::{Close, CloseCode};
pub use decoder::{ALLOWANCE, ALLOWANCE_A_SECOND, Decoder, FREE_FRAGMENT};
pub use encoder::Encoder;
pub(crate) use mask::apply_mask;
pub use violation::Violation;

/// The side of a WebSocket. A client masks the frames that it sends; a server does not.
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
    /// Text in UTF-8, which is checked.
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
    /// A complete message with its fragments joined.
    Message(Kind, Bytes),
    /// A ping. Answer it with a pong that has the same payload; after several pings, answering the last one
    /// is enough.
    Ping(Bytes),
    /// A pong: the answer to a ping, or an unsolicited keep-alive.
    Pong(Bytes),
    /// The peer sends no more messages, but may still send control frames.
    End,
    /// The peer's last frame. The value is `None` if the frame has no code. No more frames may be
    /// decoded after it.
    Close(Option<Close>),
}

#[cfg(test)]
mod tests;
