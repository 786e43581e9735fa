//! Encoding messages into frames.

use bytes::Bytes;

use super::header::{Opcode, Written};
use super::{Close, Kind};
use crate::byte_size::ByteSize;
use crate::framing::EncodeError;
use crate::write_buf::WriteBuf;

/// An encoder that appends frames to a [`WriteBuf`]. A client passes an unpredictable mask with each
/// frame; a server passes none. Messages are never fragmented.
#[derive(Clone, Copy, Debug)]
pub struct Encoder {
    max_message: ByteSize,
}

impl Encoder {
    /// Creates an encoder for messages of at most `max_message`.
    pub const fn new(max_message: ByteSize) -> Self {
        Self { max_message }
    }

    /// Appends a message that consists of `head` followed by `message`. Without a mask, a large message is
    /// kept by reference.
    ///
    /// # Errors
    /// The message is above the limit. Nothing is appended.
    #[inline]
    pub fn message(
        &self,
        kind: Kind,
        (head, message): (&[u8], &Bytes),
        mask: Option<[u8; 4]>,
        out: &mut WriteBuf,
    ) -> Result<(), EncodeError> {
        let length = head.len().saturating_add(message.len());
        if length > self.max_message.bytes() {
            return Err(EncodeError::Oversize { length, limit: self.max_message });
        }
        let opcode = match kind {
            Kind::Text => Opcode::Text,
            Kind::Binary => Opcode::Binary,
        };
        let header = Written::of(opcode, length, mask);
        match mask {
            Some(mask) => out.put_masked(header.as_bytes(), head, message, mask),
            None if head.is_empty() => out.put_frame(header.as_bytes(), message, b""),
            None => out.put_frame(&[header.as_bytes(), head].concat(), message, b""),
        }
        Ok(())
    }

    /// Appends a ping with at most 125 bytes of `payload`.
    pub fn ping(&self, payload: &[u8], mask: Option<[u8; 4]>, out: &mut WriteBuf) {
        control(Opcode::Ping, payload, mask, out);
    }

    /// Appends a pong with at most 125 bytes of `payload`, the payload of the ping that it answers.
    pub fn pong(&self, payload: &[u8], mask: Option<[u8; 4]>, out: &mut WriteBuf) {
        control(Opcode::Pong, payload, mask, out);
    }

    /// Appends the end of this side's input. Call this only if the extension was negotiated. Control
    /// frames may still follow.
    pub fn end(&self, mask: Option<[u8; 4]>, out: &mut WriteBuf) {
        control(Opcode::End, b"", mask, out);
    }

    /// Appends a close frame, which is the last frame of this side.
    pub fn close(&self, close: Option<&Close>, mask: Option<[u8; 4]>, out: &mut WriteBuf) {
        let payload = close.map(Close::payload).unwrap_or_default();
        control(Opcode::Close, &payload, mask, out);
    }
}

fn control(opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>, out: &mut WriteBuf) {
    let payload = payload.get(..super::header::MAX_CONTROL).unwrap_or(payload);
    let header = Written::of(opcode, payload.len(), mask);
    match mask {
        Some(mask) => out.put_masked(header.as_bytes(), payload, b"", mask),
        None => out.put_frame(&[header.as_bytes(), payload].concat(), &Bytes::new(), b""),
    }
}
