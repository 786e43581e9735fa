//! A framing that checks that its messages are JSON.

use bytes::{Bytes, BytesMut};

use super::{
    EncodeError, Ending, FAULT_HEAD, Fault, Frame, FrameError, Framing, FramingKind, NotJson,
    Truncated,
};
use crate::byte_size::ByteSize;
use crate::json::{self, Limits};
use crate::write_buf::WriteBuf;

/// A wrapper for another framing that checks that each received message is JSON within [`Limits`].
///
/// A message that is not JSON becomes a [`Fault::NotJson`], and the line continues. When sending, a
/// message that the inner framing refuses because of raw newlines is checked, and its newlines between
/// tokens are replaced by spaces, which does not change the JSON value. Messages of one framing can
/// therefore be forwarded as lines, and one message never becomes two.
#[derive(Clone, Debug)]
pub struct Json<F> {
    framing: F,
    limits: Limits,
}

impl Fault {
    /// Returns the fault for a message that is not JSON within `limits`, or `None` if it is.
    pub fn unless_json(message: &Bytes, limits: Limits) -> Option<Self> {
        let error = json::check(message, limits).err()?;
        let length = message.len();
        let head = Bytes::copy_from_slice(message.get(..FAULT_HEAD).unwrap_or(message));
        Some(Self::NotJson(Box::new(NotJson { head, length, error })))
    }
}

impl<F: Framing> Json<F> {
    /// Wraps `framing` and checks its messages against `limits`.
    pub const fn new(framing: F, limits: Limits) -> Self {
        Self { framing, limits }
    }
}

impl<F: Framing> Framing for Json<F> {
    fn for_line(&self) -> Self {
        Self { framing: self.framing.for_line(), limits: self.limits }
    }

    fn meet(&mut self, first: &[u8]) -> Result<bool, FrameError> {
        self.framing.meet(first)
    }

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let frame = self.framing.decode(buffer)?;
        let Some(Frame::Message(message)) = frame else {
            return Ok(frame);
        };
        Ok(Some(match Fault::unless_json(&message, self.limits) {
            None => Frame::Message(json::without_byte_order_mark(message, self.limits)),
            Some(fault) => Frame::Fault(fault),
        }))
    }

    fn finish(&mut self, buffer: &mut BytesMut) -> Ending {
        match self.framing.finish(buffer) {
            // A last line that is not JSON was most likely cut off.
            Ending::Unterminated(line) if json::check(&line, self.limits).is_err() => {
                Ending::Truncated(Truncated { received: line.len(), expected: None })
            }
            Ending::Unterminated(line) => {
                Ending::Unterminated(json::without_byte_order_mark(line, self.limits))
            }
            ending => ending,
        }
    }

    fn encode(&self, message: &Bytes, out: &mut WriteBuf) -> Result<(), EncodeError> {
        match self.framing.encode(message, out) {
            Err(EncodeError::RawNewline) => {
                let line = json::to_one_line(message, self.limits).map_err(EncodeError::NotJson)?;
                self.framing.encode(&line, out)
            }
            result => result,
        }
    }

    fn kind(&self) -> Option<FramingKind> {
        self.framing.kind()
    }

    fn missing(&self, buffer: &BytesMut) -> usize {
        self.framing.missing(buffer)
    }

    fn limit_to(&mut self, most: ByteSize) -> Option<ByteSize> {
        self.framing.limit_to(most)
    }

    fn holds_part(&self, buffer: &BytesMut) -> bool {
        self.framing.holds_part(buffer)
    }

    fn unread(&self, buffer: &BytesMut) -> usize {
        self.framing.unread(buffer)
    }
}
