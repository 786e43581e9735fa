//! One message a line: NDJSON, and every program that talks in lines.

use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memchr2};

use super::{
    EncodeError, Ending, Fault, Frame, FrameError, Framing, Truncated, refuse_oversize,
    take_message,
};
use crate::{ByteSize, DEFAULT_MAX_MESSAGE, WriteBuf};

/// Lines ended by LF or CR LF; the ending is no part of the message. Blank lines are skipped.
///
/// A line above the limit is discarded while it streams by, costs one [`Fault::Oversize`] at the
/// moment the limit is passed, and the line behind it arrives. Nothing with a raw CR or LF is sent,
/// because a receiver may take either for the end of the line.
#[derive(Clone, Debug)]
pub struct Lines {
    max_message: ByteSize,
    /// This much of the buffer is known to hold no newline.
    scanned: usize,
    /// The rest of an oversize line is on its way; this much of it is gone.
    discarding: Option<usize>,
}

impl Lines {
    /// Lines of at most `max_message`, their ending not counted.
    pub const fn new(max_message: ByteSize) -> Self {
        Self { max_message, scanned: 0, discarding: None }
    }

    /// Without a newline in sight: can this still become a line within the limit? The CR of a
    /// coming CR LF does not count.
    fn is_beyond_limit(&self, unfinished: &[u8]) -> bool {
        without_cr(unfinished).len() > self.max_message.bytes()
    }

    /// Drops what is left of an oversize line; false when its end has not come yet.
    fn discard(&mut self, gone: usize, buffer: &mut BytesMut) -> bool {
        match memchr(b'\n', buffer) {
            Some(end) => {
                buffer.advance(end + 1);
                self.discarding = None;
                true
            }
            None => {
                self.discarding = Some(gone.saturating_add(buffer.len()));
                buffer.clear();
                false
            }
        }
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self::new(DEFAULT_MAX_MESSAGE)
    }
}

impl Framing for Lines {
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(gone) = self.discarding
                && !self.discard(gone, buffer)
            {
                return Ok(None);
            }
            let fresh = buffer.get(self.scanned..).unwrap_or_default();
            let Some(found) = memchr(b'\n', fresh) else {
                if self.is_beyond_limit(buffer) {
                    self.scanned = 0;
                    self.discarding = Some(buffer.len());
                    buffer.clear();
                    return Ok(Some(Frame::Fault(Fault::Oversize { limit: self.max_message })));
                }
                self.scanned = buffer.len();
                return Ok(None);
            };
            let end = self.scanned + found;
            self.scanned = 0;
            let line = without_cr(buffer.get(..end).unwrap_or_default());
            let length = line.len();
            if length > self.max_message.bytes() {
                buffer.advance(end + 1);
                return Ok(Some(Frame::Fault(Fault::Oversize { limit: self.max_message })));
            }
            if is_blank(line) {
                buffer.advance(end + 1);
                continue;
            }
            let message = take_message(buffer, length);
            buffer.advance(end + 1 - length);
            return Ok(Some(Frame::Message(message)));
        }
    }

    fn finish(&mut self, buffer: &mut BytesMut) -> Ending {
        self.scanned = 0;
        if let Some(gone) = self.discarding.take() {
            return Ending::Truncated(Truncated { received: gone, expected: None });
        }
        let length = without_cr(buffer).len();
        let line = buffer.split().freeze().slice(..length);
        if is_blank(&line) { Ending::Clean } else { Ending::Unterminated(line) }
    }

    fn encode(&self, message: &Bytes, out: &mut WriteBuf) -> Result<(), EncodeError> {
        refuse_oversize(message.len(), self.max_message)?;
        if memchr2(b'\n', b'\r', message).is_some() {
            return Err(EncodeError::RawNewline);
        }
        if is_blank(message) {
            return Err(EncodeError::Empty);
        }
        out.put_bytes(message);
        out.put_slice(b"\n");
        Ok(())
    }
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}
