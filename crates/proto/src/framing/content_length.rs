//! `Content-Length` header blocks, the framing of the Language Server Protocol (specification, "Base
//! Protocol").

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;

use super::first_bytes::{expect_headers, is_token};
use super::{
    EncodeError, Ending, Frame, FrameError, Framing, FramingKind, Truncated, refuse_oversize,
    take_message,
};
use crate::DEFAULT_MAX_MESSAGE;
use crate::byte_size::ByteSize;
use crate::write_buf::WriteBuf;

/// The longest header block that is accepted, including its blank line: 8 KiB.
pub const MAX_HEADER_BLOCK: ByteSize = ByteSize::kib(8);

/// A framing with a header block before each message: `Name: value` lines that end with CR LF, and a
/// blank line. As many bytes follow as `Content-Length` announces.
///
/// `Content-Length` is required exactly once, in plain decimal digits. Other headers are allowed and
/// ignored. Any other input ends the line, because the next message cannot be found.
#[derive(Clone, Debug)]
pub struct ContentLength {
    max_message: ByteSize,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    /// `line` is the offset of the first header line that is not parsed yet.
    Header { line: usize, length: Option<u64> },
    /// The header block has been removed from the buffer; a body of `length` bytes follows.
    Body { length: usize },
}

const START: State = State::Header { line: 0, length: None };

impl ContentLength {
    /// Creates a framing for bodies of at most `max_message`.
    pub const fn new(max_message: ByteSize) -> Self {
        Self { max_message, state: START }
    }

    /// Parses the header lines received so far. Returns the lengths of the body and of the header block
    /// once the block is complete.
    fn header(&mut self, buffer: &BytesMut) -> Result<Option<(usize, usize)>, FrameError> {
        let State::Header { line, length } = &mut self.state else {
            return Ok(None);
        };
        let window = buffer.get(..MAX_HEADER_BLOCK.bytes()).unwrap_or(buffer);
        loop {
            let rest = window.get(*line..).unwrap_or_default();
            let Some(end) = memchr(b'\n', rest) else {
                refuse_nonsense(rest)?;
                if window.len() == MAX_HEADER_BLOCK.bytes() {
                    return Err(FrameError::HeaderBlockOversize);
                }
                return Ok(None);
            };
            *line += end + 1;
            let text = rest.get(..end).unwrap_or_default();
            let Some(text) = text.strip_suffix(b"\r") else {
                return Err(FrameError::MalformedHeader);
            };
            if text.is_empty() {
                let length = length.ok_or(FrameError::MissingContentLength)?;
                let header = *line;
                return Ok(Some((self.admit(length)?, header)));
            }
            let earlier = content_length(text)?.and_then(|found| length.replace(found));
            if earlier.is_some() {
                return Err(FrameError::DuplicateContentLength);
            }
        }
    }

    fn admit(&self, length: u64) -> Result<usize, FrameError> {
        usize::try_from(length)
            .ok()
            .filter(|length| *length <= self.max_message.bytes())
            .ok_or(FrameError::Oversize { length, limit: self.max_message })
    }
}

impl Default for ContentLength {
    fn default() -> Self {
        Self::new(DEFAULT_MAX_MESSAGE)
    }
}

impl Framing for ContentLength {
    fn meet(&mut self, first: &[u8]) -> Result<bool, FrameError> {
        expect_headers(first)
    }

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if let Some((length, header)) = self.header(buffer)? {
            buffer.advance(header);
            self.state = State::Body { length };
        }
        match self.state {
            State::Body { length } if buffer.len() >= length => {
                self.state = START;
                Ok(Some(Frame::Message(take_message(buffer, length, 0))))
            }
            _ => Ok(None),
        }
    }

    fn kind(&self) -> Option<FramingKind> {
        Some(FramingKind::ContentLength)
    }

    fn limit_to(&mut self, most: ByteSize) -> Option<ByteSize> {
        Some(std::mem::replace(&mut self.max_message, most))
    }

    fn finish(&mut self, buffer: &mut BytesMut) -> Ending {
        let received = buffer.len();
        let ending = match self.state {
            State::Header { .. } if received == 0 => Ending::Clean,
            State::Header { .. } => Ending::Truncated(Truncated { received, expected: None }),
            State::Body { length } => {
                Ending::Truncated(Truncated { received, expected: Some(length) })
            }
        };
        buffer.clear();
        self.state = START;
        ending
    }

    fn encode(&self, message: &Bytes, out: &mut WriteBuf) -> Result<(), EncodeError> {
        refuse_oversize(message.len(), self.max_message)?;
        let header = format!("Content-Length: {}\r\n\r\n", message.len());
        out.put_frame(header.as_bytes(), message, b"");
        Ok(())
    }

    fn missing(&self, buffer: &BytesMut) -> usize {
        match self.state {
            State::Header { .. } => 0,
            State::Body { length } => length.saturating_sub(buffer.len()),
        }
    }

    fn holds_part(&self, buffer: &BytesMut) -> bool {
        matches!(self.state, State::Body { .. }) || !buffer.is_empty()
    }
}

/// Returns the value of a `Content-Length` header line, or `None` for other headers.
fn content_length(line: &[u8]) -> Result<Option<u64>, FrameError> {
    let colon = memchr(b':', line).ok_or(FrameError::MalformedHeader)?;
    let (name, value) = line.split_at(colon);
    if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
        return Err(FrameError::MalformedHeader);
    }
    if !name.eq_ignore_ascii_case(b"Content-Length") {
        return Ok(None);
    }
    let digits = value.strip_prefix(b":").unwrap_or(value).trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(FrameError::InvalidContentLength);
    }
    let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    number.map(Some).ok_or(FrameError::InvalidContentLength)
}

/// Fails as soon as the unfinished line can no longer become a header. Without this, the line of a peer
/// that sends plain JSON would fail only after [`MAX_HEADER_BLOCK`] bytes.
fn refuse_nonsense(unfinished: &[u8]) -> Result<(), FrameError> {
    let name = memchr(b':', unfinished).and_then(|colon| unfinished.get(..colon));
    let is_blank_line_begun = unfinished == b"\r";
    if is_blank_line_begun || name.unwrap_or(unfinished).iter().all(|b| is_token(*b)) {
        return Ok(());
    }
    Err(FrameError::MalformedHeader)
}
