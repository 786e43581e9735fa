//! A framing with a big-endian `u32` length before each message, for any binary data.

use bytes::{Buf, Bytes, BytesMut};

use super::copies::{BLOCK, SHORT, block, take_message};
use super::first_bytes::expect_lengths;
use super::{
    EncodeError, Ending, Frame, FrameError, Framing, FramingKind, Truncated, refuse_oversize,
};
use crate::DEFAULT_MAX_MESSAGE;
use crate::byte_size::ByteSize;
use crate::write_buf::WriteBuf;

const PREFIX: usize = size_of::<u32>();

/// The longest head (see [`Framing::encode_with_head`]) that is copied next to the prefix. A longer head
/// is joined with the message first.
const MAX_HEAD: usize = 32;

/// A framing that writes the length of each message in bytes before the message, as an unsigned 32-bit
/// number, most significant byte first. A message can consist of any bytes and can be empty.
///
/// A length above the limit ends the line, because the next message cannot be found.
#[derive(Clone, Debug)]
pub struct LengthPrefix {
    max_message: ByteSize,
    /// Whether this line carries no session frames.
    has_no_sessions: bool,
    /// Complete short messages that arrived together, each with its prefix.
    block: Bytes,
    /// The offset of the next message in the block.
    at: usize,
}

impl LengthPrefix {
    /// Creates a framing for messages of at most `max_message`, capped at 4 GiB − 1.
    pub const fn new(max_message: ByteSize) -> Self {
        let largest = u32::MAX as usize;
        let max_message =
            if max_message.bytes() > largest { ByteSize::new(largest) } else { max_message };
        Self { max_message, has_no_sessions: false, block: Bytes::new(), at: 0 }
    }

    /// Makes a refusal, or a greeting that requests a session, in the peer's first bytes end the line with
    /// an error ([`Framing::meet`]). For lines that do not carry the frames of a session.
    #[must_use]
    pub const fn without_sessions(mut self) -> Self {
        self.has_no_sessions = true;
        self
    }

    /// Moves the complete messages at the front of `buffer` to the block. Does nothing and returns false
    /// if only the first one, which ends at `end`, is complete.
    fn fill(&mut self, buffer: &mut BytesMut, end: usize) -> bool {
        let window = buffer.get(..BLOCK).unwrap_or(buffer);
        let complete = |last: usize| {
            let length = announced(window.get(last..)?)?;
            let fits = length <= self.max_message.bytes() && length + PREFIX <= window.len() - last;
            fits.then_some(length)
        };
        let mut last = end;
        while let Some(length) = complete(last) {
            last += PREFIX + length;
        }
        if last == end {
            return false;
        }
        self.block = block(window.get(..last).unwrap_or_default());
        buffer.advance(last);
        true
    }

    /// Decodes the next message from the buffer. Called when the block is empty.
    #[inline(never)]
    fn find(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(length) = announced(buffer) else {
            return Ok(None);
        };
        if length > self.max_message.bytes() {
            return Err(FrameError::Oversize { length: length as u64, limit: self.max_message });
        }
        if buffer.len() - PREFIX < length {
            return Ok(None);
        }
        if length + PREFIX <= SHORT && self.fill(buffer, length + PREFIX) {
            if let Some(message) = self.next() {
                return Ok(Some(Frame::Message(message)));
            }
        }
        buffer.advance(PREFIX);
        Ok(Some(Frame::Message(take_message(buffer, length, 0))))
    }

    /// Takes the next message from the block. The last one takes over the block's reference.
    #[inline(always)]
    fn next(&mut self) -> Option<Bytes> {
        let begin = self.at + PREFIX;
        let end = begin + announced(self.block.get(self.at..)?)?;
        if end >= self.block.len() {
            self.at = 0;
            let block = std::mem::take(&mut self.block);
            return Some(block.slice(begin..end));
        }
        self.at = end;
        Some(self.block.slice(begin..end))
    }
}

impl Default for LengthPrefix {
    fn default() -> Self {
        Self::new(DEFAULT_MAX_MESSAGE)
    }
}

impl Framing for LengthPrefix {
    fn meet(&mut self, first: &[u8]) -> Result<bool, FrameError> {
        expect_lengths(first, self.max_message, !self.has_no_sessions)
    }

    #[inline(always)]
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        match self.next() {
            Some(message) => Ok(Some(Frame::Message(message))),
            None => self.find(buffer),
        }
    }

    fn kind(&self) -> Option<FramingKind> {
        Some(FramingKind::LengthPrefix)
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
        // The limit fits into 32 bits, so the length does too.
        out.put_frame(&(message.len() as u32).to_be_bytes(), message, b"");
        Ok(())
    }

    fn encode_with_head(
        &self,
        head: &[u8],
        message: &Bytes,
        out: &mut WriteBuf,
    ) -> Result<(), EncodeError> {
        let length = head.len() + message.len();
        refuse_oversize(length, self.max_message)?;
        let mut front = [0; PREFIX + MAX_HEAD];
        let Some(place) = front.get_mut(..PREFIX + head.len()) else {
            return self.encode(&[head, message].concat().into(), out);
        };
        let (prefix, behind) = place.split_at_mut(PREFIX);
        prefix.copy_from_slice(&(length as u32).to_be_bytes());
        behind.copy_from_slice(head);
        out.put_frame(place, message, b"");
        Ok(())
    }

    fn holds_part(&self, buffer: &BytesMut) -> bool {
        !self.block.is_empty() || !buffer.is_empty()
    }

    fn unread(&self, buffer: &BytesMut) -> usize {
        self.block.len().saturating_sub(self.at) + buffer.len()
    }

    fn missing(&self, buffer: &BytesMut) -> usize {
        announced(buffer)
            .filter(|length| *length <= self.max_message.bytes())
            .map_or(0, |length| (length + PREFIX).saturating_sub(buffer.len()))
    }
}

/// Returns the length in the prefix at the front of the buffer, once the prefix is complete.
#[inline]
fn announced(buffer: &[u8]) -> Option<usize> {
    let prefix = buffer.first_chunk::<PREFIX>()?;
    usize::try_from(u32::from_be_bytes(*prefix)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The stream is split at any position, and messages are at any position in a block.
        #[test]
        fn blocks_do_not_change_the_messages(
            lengths in proptest::collection::vec(
                prop_oneof![
                    2 => Just(0usize), 8 => 0usize..80, 2 => 900usize..1100, 3 => 4080usize..4110,
                    1 => 8180usize..8200,
                ],
                0..60,
            ),
            cuts in proptest::collection::vec(
                prop_oneof![1usize..40, 4090usize..4100, 1usize..40_000], 1..20,
            ),
            is_too_long_at_last: bool,
        ) {
            let limit = 8300;
            let mut all = Vec::new();
            let mut expected = Vec::new();
            for (index, length) in lengths.iter().enumerate() {
                all.extend_from_slice(&(*length as u32).to_be_bytes());
                all.resize(all.len() + length, index as u8);
                expected.push(vec![index as u8; *length]);
            }
            if is_too_long_at_last {
                all.extend_from_slice(&(limit + 1u32).to_be_bytes());
            }
            let mut framing = LengthPrefix::new(ByteSize::new(limit as usize));
            let mut buffer = BytesMut::new();
            let (mut rest, mut messages, mut error) = (&all[..], Vec::new(), None);
            for cut in cuts.iter().cycle() {
                let (piece, behind) = rest.split_at(*cut.min(&rest.len()));
                buffer.extend_from_slice(piece);
                rest = behind;
                loop {
                    match framing.decode(&mut buffer) {
                        Ok(Some(Frame::Message(message))) => messages.push(message.to_vec()),
                        Ok(_) => break,
                        Err(problem) => {
                            error = Some(problem);
                            break;
                        }
                    }
                }
                if rest.is_empty() || error.is_some() {
                    break;
                }
            }
            prop_assert_eq!(messages, expected);
            prop_assert_eq!(error.is_some(), is_too_long_at_last);
        }
    }

    #[test]
    fn messages_that_arrived_together_share_a_block() {
        let mut framing = LengthPrefix::default();
        let mut buffer = BytesMut::from(&b"\0\0\0\x02ab\0\0\0\x01c\0\0\0\0\0\0\0\x05par"[..]);
        let mut next = || match framing.decode(&mut buffer) {
            Ok(Some(Frame::Message(message))) => Some(message),
            _ => None,
        };
        let (one, two, three) = (next().unwrap(), next().unwrap(), next().unwrap());
        assert_eq!((&one[..], &two[..], &three[..]), (&b"ab"[..], &b"c"[..], &b""[..]));
        assert_eq!(one.as_ptr().addr() + 2 + PREFIX, two.as_ptr().addr());
        assert_eq!(next(), None);
        assert_eq!(&buffer[..], b"\0\0\0\x05par");
    }
}
