//! From messages to bytes.

use bytes::Bytes;

use super::header::{Opcode, Written};
use super::{Close, Kind};
use crate::{ByteSize, EncodeError, WriteBuf};

/// Appends frames to a [`WriteBuf`]. A client gives a mask with each, that nobody can foresee; a server
/// gives none. No message is cut into fragments.
#[derive(Clone, Copy, Debug)]
pub struct Encoder {
    max_message: ByteSize,
}

impl Encoder {
    /// For messages of at most `max_message`.
    pub const fn new(max_message: ByteSize) -> Self {
        Self { max_message }
    }

    /// A message that is `head` and behind it `message`. Without a mask a large one is kept by reference.
    ///
    /// # Errors
    /// It is above the limit; nothing was appended.
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

    /// A ping; of `payload` at most 125 bytes.
    pub fn ping(&self, payload: &[u8], mask: Option<[u8; 4]>, out: &mut WriteBuf) {
        control(Opcode::Ping, payload, mask, out);
    }

    /// The answer to a ping with `payload`, of which at most 125 bytes.
    pub fn pong(&self, payload: &[u8], mask: Option<[u8; 4]>, out: &mut WriteBuf) {
        control(Opcode::Pong, payload, mask, out);
    }

    /// The last frame of this side.
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
