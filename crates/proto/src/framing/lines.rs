//! One message a line: NDJSON, and every program that talks in lines.

use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memchr2, memrchr};

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
    /// Lines that came together.
    block: Block,
}

impl Lines {
    /// Lines of at most `max_message`, their ending not counted.
    pub const fn new(max_message: ByteSize) -> Self {
        Self { max_message, scanned: 0, discarding: None, block: Block::new() }
    }

    /// Without a newline in sight: can this still become a line within the limit? The CR of a
    /// coming CR LF does not count.
    fn is_beyond_limit(&self, unfinished: &[u8]) -> bool {
        without_cr(unfinished).len() > self.max_message.bytes()
    }

    /// The next frame of the buffer, when the block is used up.
    fn find(&mut self, buffer: &mut BytesMut) -> Found {
        loop {
            if let Some(gone) = self.discarding
                && !self.discard(gone, buffer)
            {
                return Found::Nothing;
            }
            let fresh = buffer.get(self.scanned..).unwrap_or_default();
            let Some(found) = memchr(b'\n', fresh) else {
                if self.is_beyond_limit(buffer) {
                    self.scanned = 0;
                    self.discarding = Some(buffer.len());
                    buffer.clear();
                    return self.oversize();
                }
                self.scanned = buffer.len();
                return Found::Nothing;
            };
            let end = self.scanned + found;
            self.scanned = 0;
            // No line that fits into the window is above the limit.
            let window = BLOCK.min(self.max_message.bytes());
            if self.block.fill(buffer, window, end) {
                return Found::Block;
            }
            let line = without_cr(buffer.get(..end).unwrap_or_default());
            let length = line.len();
            if length > self.max_message.bytes() {
                buffer.advance(end + 1);
                return self.oversize();
            }
            if is_blank(line) {
                buffer.advance(end + 1);
                continue;
            }
            let message = take_message(buffer, length, end + 1 - length);
            return Found::Frame(Frame::Message(message));
        }
    }

    fn oversize(&self) -> Found {
        Found::Frame(Frame::Fault(Fault::Oversize { limit: self.max_message }))
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
    #[inline(always)]
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(line) = self.block.next() {
                return Ok(Some(Frame::Message(line)));
            }
            match self.find(buffer) {
                Found::Block => {}
                Found::Frame(frame) => return Ok(Some(frame)),
                Found::Nothing => return Ok(None),
            }
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

    #[inline]
    fn encode(&self, message: &Bytes, out: &mut WriteBuf) -> Result<(), EncodeError> {
        refuse_oversize(message.len(), self.max_message)?;
        match is_blank(message) {
            false if out.put_line(message) => Ok(()),
            true if memchr2(b'\n', b'\r', message).is_none() => Err(EncodeError::Empty),
            _ => Err(EncodeError::RawNewline),
        }
    }
}

/// What there is at the front of the buffer.
enum Found {
    /// Several lines, which are in the block now.
    Block,
    Frame(Frame),
    Nothing,
}

/// Short lines that came together are copied out of the read buffer together, this much at a time:
/// so a message is a slice that costs a fraction of a copy of its own, and whoever holds one keeps
/// no more than this alive.
const BLOCK: usize = 4096;

/// Whole lines, each with its newline.
#[derive(Clone, Debug)]
struct Block {
    lines: Bytes,
    /// Where the next line begins.
    at: usize,
}

impl Block {
    const fn new() -> Self {
        Self { lines: Bytes::new(), at: 0 }
    }

    /// Moves the whole lines within the first `window` bytes of `buffer` here, unless the first
    /// one, which ends at `end`, is the only one.
    fn fill(&mut self, buffer: &mut BytesMut, window: usize, end: usize) -> bool {
        if buffer.len() == end + 1 {
            return false;
        }
        let window = buffer.get(..window).unwrap_or(buffer);
        match memrchr(b'\n', window) {
            Some(last) if last > end => {
                self.lines = Bytes::copy_from_slice(window.get(..=last).unwrap_or_default());
                self.at = 0;
                buffer.advance(last + 1);
                true
            }
            _ => false,
        }
    }

    /// The next line that is not blank. The last one takes the block along.
    #[inline(always)]
    fn next(&mut self) -> Option<Bytes> {
        while let Some(rest) = self.lines.get(self.at..).filter(|rest| !rest.is_empty()) {
            let end = memchr(b'\n', rest).unwrap_or(rest.len());
            let line = without_cr(rest.get(..end).unwrap_or_default());
            let (begin, length) = (self.at, line.len());
            let is_blank = is_blank(line);
            self.at += end + 1;
            let lines = if self.at < self.lines.len() {
                if is_blank {
                    continue;
                }
                self.lines.clone()
            } else {
                std::mem::take(&mut self.lines)
            };
            if !is_blank {
                return Some(lines.slice(begin..begin + length));
            }
        }
        None
    }
}

#[inline]
fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[inline]
fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}
