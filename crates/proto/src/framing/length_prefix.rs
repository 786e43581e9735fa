//! A big-endian `u32` in front of each message: for serialized data of any kind.

use bytes::{Buf, Bytes, BytesMut};

use super::{
    EncodeError, Ending, Frame, FrameError, Framing, Truncated, refuse_oversize, take_message,
};
use crate::{ByteSize, DEFAULT_MAX_MESSAGE, WriteBuf};

const PREFIX: usize = size_of::<u32>();

/// What stands in front of a message is put together with the prefix if it is no longer than this.
const MOST_HEAD: usize = 32;

/// Each message stands behind its length in bytes as an unsigned 32-bit number, most significant
/// byte first. Any bytes are a message, none at all too.
///
/// A length above the limit ends the line: there is no way to find the next message.
#[derive(Clone, Debug)]
pub struct LengthPrefix {
    max_message: ByteSize,
}

impl LengthPrefix {
    /// Messages of at most `max_message`, which is taken as 4 GiB − 1 if it is more.
    pub const fn new(max_message: ByteSize) -> Self {
        let largest = u32::MAX as usize;
        let max_message =
            if max_message.bytes() > largest { ByteSize::new(largest) } else { max_message };
        Self { max_message }
    }
}

impl Default for LengthPrefix {
    fn default() -> Self {
        Self::new(DEFAULT_MAX_MESSAGE)
    }
}

impl Framing for LengthPrefix {
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(length) = announced(buffer) else {
            return Ok(None);
        };
        if length > self.max_message.bytes() {
            return Err(FrameError::Oversize { length: length as u64, limit: self.max_message });
        }
        if buffer.len() - PREFIX < length {
            return Ok(None);
        }
        buffer.advance(PREFIX);
        Ok(Some(Frame::Message(take_message(buffer, length, 0))))
    }

    fn limit_to(&mut self, most: ByteSize) -> Option<ByteSize> {
        Some(std::mem::replace(&mut self.max_message, most))
    }

    fn finish(&mut self, buffer: &mut BytesMut) -> Ending {
        let ending = match (buffer.len(), announced(buffer)) {
            (0, _) => Ending::Clean,
            (received, None) => Ending::Truncated(Truncated { received, expected: None }),
            (received, Some(expected)) => Ending::Truncated(Truncated {
                received: received - PREFIX,
                expected: Some(expected),
            }),
        };
        buffer.clear();
        ending
    }

    fn encode(&self, message: &Bytes, out: &mut WriteBuf) -> Result<(), EncodeError> {
        refuse_oversize(message.len(), self.max_message)?;
        // The limit fits 32 bits, so the length does.
        out.put_frame(&(message.len() as u32).to_be_bytes(), message, b"");
        Ok(())
    }

    fn encode_behind(
        &self,
        head: &[u8],
        message: &Bytes,
        out: &mut WriteBuf,
    ) -> Result<(), EncodeError> {
        let length = head.len() + message.len();
        refuse_oversize(length, self.max_message)?;
        let mut front = [0; PREFIX + MOST_HEAD];
        let Some(place) = front.get_mut(..PREFIX + head.len()) else {
            return self.encode(&[head, message].concat().into(), out);
        };
        let (prefix, behind) = place.split_at_mut(PREFIX);
        prefix.copy_from_slice(&(length as u32).to_be_bytes());
        behind.copy_from_slice(head);
        out.put_frame(place, message, b"");
        Ok(())
    }

    fn missing(&self, buffer: &BytesMut) -> usize {
        announced(buffer)
            .filter(|length| *length <= self.max_message.bytes())
            .map_or(0, |length| (length + PREFIX).saturating_sub(buffer.len()))
    }
}

/// What the prefix at the front of the buffer says, once it is there.
fn announced(buffer: &BytesMut) -> Option<usize> {
    let prefix = buffer.first_chunk::<PREFIX>()?;
    usize::try_from(u32::from_be_bytes(*prefix)).ok()
}
