//! A framing with one message per line, for NDJSON and for any program that reads and writes lines.

use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memchr2, memrchr};

use super::copies::{BLOCK, SHORT, block, take_message};
use super::first_bytes::expect_lines;
use super::{
    EncodeError, Ending, Fault, Frame, FrameError, Framing, FramingKind, Truncated, refuse_oversize,
};
use crate::DEFAULT_MAX_MESSAGE;
use crate::byte_size::ByteSize;
use crate::write_buf::WriteBuf;

/// A framing of lines that end with LF or CR LF; the line ending is not part of the message. Blank lines
/// are skipped.
///
/// A line above the limit is discarded as it arrives. It yields one [`Fault::Oversize`] as soon as the
/// limit is exceeded, and the next line is decoded normally. A message with a raw CR or LF is not sent,
/// because a receiver may treat either as the end of the line.
#[derive(Clone, Debug)]
pub struct Lines {
    max_message: ByteSize,
    /// How many bytes at the front of the buffer are known to contain no newline.
    scanned: usize,
    /// How many bytes of an oversize line were discarded, while its rest is still being discarded.
    discarding: Option<usize>,
    /// Complete lines that arrived together.
    block: Block,
}

impl Lines {
    /// Creates a framing for lines of at most `max_message`, not counting the line ending.
    pub const fn new(max_message: ByteSize) -> Self {
        Self { max_message, scanned: 0, discarding: None, block: Block::new() }
    }

    /// Returns whether an unfinished line is already above the limit. A CR at its end is not counted,
    /// because it may belong to a CR LF.
    fn is_beyond_limit(&self, unfinished: &[u8]) -> bool {
        without_cr(unfinished).len() > self.max_message.bytes()
    }

    /// Finds the next frame in the buffer. Called when the block is empty.
    #[inline(never)]
    fn find(&mut self, buffer: &mut BytesMut) -> Found {
        loop {
            if self.discarding.is_some_and(|gone| !self.discard(gone, buffer)) {
                return Found::Nothing;
            }
            let fresh = buffer.get(self.scanned..).unwrap_or_default();
            let Some(found) = memchr(b'\n', fresh) else {
                if self.is_beyond_limit(buffer) {
                    self.scanned = 0;
                    self.discarding = Some(buffer.len());
                    let oversize = self.oversize(buffer);
                    buffer.clear();
                    return oversize;
                }
                self.scanned = buffer.len();
                return Found::Nothing;
            };
            let end = self.scanned + found;
            self.scanned = 0;
            // The window is no larger than the limit, so no line in it can be above the limit.
            let window = BLOCK.min(self.max_message.bytes());
            if end <= SHORT && self.block.fill(buffer, window, end) {
                return Found::Block;
            }
            let line = without_cr(buffer.get(..end).unwrap_or_default());
            let length = line.len();
            if length > self.max_message.bytes() {
                let oversize = self.oversize(line);
                buffer.advance(end + 1);
                return oversize;
            }
            if is_blank(line) {
                buffer.advance(end + 1);
                continue;
            }
            let message = take_message(buffer, length, end + 1 - length);
            return Found::Frame(Frame::Message(message));
        }
    }

    fn oversize(&self, line: &[u8]) -> Found {
        Found::Frame(Frame::Fault(Fault::oversize(self.max_message, line)))
    }

    /// Discards the rest of an oversize line. Returns false if its end has not arrived yet.
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
    fn meet(&mut self, first: &[u8]) -> Result<bool, FrameError> {
        expect_lines(first)
    }

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

    fn kind(&self) -> Option<FramingKind> {
        Some(FramingKind::Lines)
    }

    fn limit_to(&mut self, most: ByteSize) -> Option<ByteSize> {
        Some(std::mem::replace(&mut self.max_message, most))
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

    fn holds_part(&self, buffer: &BytesMut) -> bool {
        self.discarding.is_some() || !self.block.is_empty() || !buffer.is_empty()
    }

    fn unread(&self, buffer: &BytesMut) -> usize {
        self.block.lines.len().saturating_sub(self.block.at) + buffer.len()
    }
}

/// The content that was found at the front of the buffer.
enum Found {
    /// Several lines, which were moved to the block.
    Block,
    Frame(Frame),
    Nothing,
}

/// Complete lines, each with its newline.
#[derive(Clone, Debug)]
struct Block {
    lines: Bytes,
    /// The offset of the next line.
    at: usize,
}

impl Block {
    const fn new() -> Self {
        Self { lines: Bytes::new(), at: 0 }
    }

    fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Moves the complete lines within the first `window` bytes of `buffer` to this block. Does nothing
    /// and returns false if only the first one, which ends at `end`, is complete.
    fn fill(&mut self, buffer: &mut BytesMut, window: usize, end: usize) -> bool {
        if buffer.len() == end + 1 {
            return false;
        }
        let window = buffer.get(..window).unwrap_or(buffer);
        match memrchr(b'\n', window) {
            Some(last) if last > end => {
                self.lines = block(window.get(..=last).unwrap_or_default());
                self.at = 0;
                buffer.advance(last + 1);
                true
            }
            _ => false,
        }
    }

    /// Takes the next line that is not blank.
    #[inline(always)]
    fn next(&mut self) -> Option<Bytes> {
        while let Some(rest) = self.lines.get(self.at..).filter(|rest| !rest.is_empty()) {
            let end = memchr(b'\n', rest).unwrap_or(rest.len());
            let line = without_cr(rest.get(..end).unwrap_or_default());
            let (begin, length) = (self.at, line.len());
            let is_blank = is_blank(line);
            self.at += end + 1;
            if self.at >= self.lines.len() {
                let line = self.last(begin, length);
                return (!is_blank).then_some(line);
            }
            if !is_blank {
                // The slice is created in the return expression, so that it is built in place and not
                // moved.
                return Some(self.lines.slice(begin..begin + length));
            }
        }
        None
    }

    /// Takes the last line, which takes over the block's reference.
    #[cold]
    fn last(&mut self, begin: usize, length: usize) -> Bytes {
        self.at = 0;
        std::mem::take(&mut self.lines).slice(begin..begin + length)
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The reference implementation: splits `all` into lines in the simplest way.
    fn plainly(all: &[u8], limit: usize) -> (Vec<Option<Vec<u8>>>, Ending) {
        let mut pieces: Vec<_> = all.split(|byte| *byte == b'\n').collect();
        let last = pieces.pop().unwrap_or_default();
        let fits = |line: &[u8]| line.len() <= limit;
        let mut frames: Vec<_> = pieces
            .into_iter()
            .map(without_cr)
            .filter(|line| !fits(line) || !is_blank(line))
            .map(|line| fits(line).then(|| line.to_vec()))
            .collect();
        let whole = last.len();
        let last = without_cr(last);
        let ending = if !fits(last) {
            frames.push(None);
            Ending::Truncated(Truncated { received: whole, expected: None })
        } else if is_blank(last) {
            Ending::Clean
        } else {
            Ending::Unterminated(Bytes::copy_from_slice(last))
        };
        (frames, ending)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// The stream is split at any position, and lines end at any position in a block.
        #[test]
        fn blocks_do_not_change_the_messages(
            lines in proptest::collection::vec(
                (
                    prop_oneof![
                        8 => 0usize..80, 2 => 900usize..1100, 3 => 4080usize..4110,
                        1 => 8180usize..8200, 1 => 16_380usize..16_390,
                    ],
                    0u8..8,
                ),
                0..60,
            ),
            limit in prop_oneof![
                1usize..64, 1000usize..1100, 4085usize..4105, 8180usize..8200, Just(1 << 20),
            ],
            cuts in proptest::collection::vec(
                prop_oneof![1usize..40, 4090usize..4100, 1usize..40_000], 1..20,
            ),
            unterminated: bool,
        ) {
            let mut all = Vec::new();
            for (index, (length, kind)) in lines.iter().enumerate() {
                let byte = match kind { 0 => b' ', 1 => b'\r', _ => b'a' + (index % 26) as u8 };
                all.resize(all.len() + length, byte);
                all.extend_from_slice(if *kind == 2 { b"\r\n" } else { b"\n" });
            }
            if unterminated {
                all.pop();
            }
            let (expected, expected_ending) = plainly(&all, limit);
            let mut framing = Lines::new(ByteSize::new(limit));
            let mut buffer = BytesMut::new();
            let mut rest = &all[..];
            let mut frames = Vec::new();
            for cut in cuts.iter().cycle() {
                let (piece, behind) = rest.split_at(*cut.min(&rest.len()));
                buffer.extend_from_slice(piece);
                rest = behind;
                while let Some(frame) = framing.decode(&mut buffer).unwrap() {
                    frames.push(match frame {
                        Frame::Message(line) => Some(line.to_vec()),
                        Frame::Fault(_) => None,
                    });
                }
                if rest.is_empty() { break }
            }
            prop_assert!(frames == expected, "the lines differ");
            let ending = framing.finish(&mut buffer);
            match (&ending, &expected_ending) {
                // The counts may differ by a CR.
                (Ending::Truncated(_), Ending::Truncated(_)) => {}
                _ => prop_assert_eq!(ending, expected_ending),
            }
        }
    }
}
