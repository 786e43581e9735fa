//! A framing for listeners that is chosen by the client's first bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::{Bytes, BytesMut};

use super::first_bytes::expect_lines;
use super::{ContentLength, EncodeError, Ending, Frame, FrameError, Framing, FramingKind, Lines};
use crate::byte_size::ByteSize;
use crate::write_buf::WriteBuf;

/// The framing of lines, for a listener whose clients may use `Content-Length` headers instead.
///
/// The first bytes of a client decide. If it sends a `Content-Length` header and such clients are accepted, both
/// directions use that framing from then on. Messages sent before the client's first bytes are written as lines.
#[derive(Clone, Debug)]
pub struct DetectedLines {
    lines: Lines,
    content_length: ContentLength,
    accepts: bool,
    /// Shared by the two directions of one line.
    is_content_length: Arc<AtomicBool>,
}

impl DetectedLines {
    /// Creates a framing for messages of at most `max_message`. `accepts` is whether clients that send
    /// `Content-Length` headers are accepted.
    pub fn new(max_message: ByteSize, accepts: bool) -> Self {
        Self {
            lines: Lines::new(max_message),
            content_length: ContentLength::new(max_message),
            accepts,
            is_content_length: Arc::default(),
        }
    }

    #[inline]
    fn is_content_length(&self) -> bool {
        self.is_content_length.load(Relaxed)
    }
}

impl Framing for DetectedLines {
    fn for_line(&self) -> Self {
        Self { is_content_length: Arc::default(), ..self.clone() }
    }

    fn meet(&mut self, first: &[u8]) -> Result<bool, FrameError> {
        match expect_lines(first) {
            Err(FrameError::OtherFraming { theirs: FramingKind::ContentLength, .. })
                if self.accepts =>
            {
                self.is_content_length.store(true, Relaxed);
                Ok(true)
            }
            met => met,
        }
    }

    #[inline]
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if self.is_content_length() {
            self.content_length.decode(buffer)
        } else {
            self.lines.decode(buffer)
        }
    }

    fn finish(&mut self, buffer: &mut BytesMut) -> Ending {
        if self.is_content_length() {
            self.content_length.finish(buffer)
        } else {
            self.lines.finish(buffer)
        }
    }

    #[inline]
    fn encode(&self, message: &Bytes, out: &mut WriteBuf) -> Result<(), EncodeError> {
        if self.is_content_length() {
            self.content_length.encode(message, out)
        } else {
            self.lines.encode(message, out)
        }
    }

    fn kind(&self) -> Option<FramingKind> {
        Some(FramingKind::Lines)
    }

    fn missing(&self, buffer: &BytesMut) -> usize {
        if self.is_content_length() {
            self.content_length.missing(buffer)
        } else {
            self.lines.missing(buffer)
        }
    }

    fn limit_to(&mut self, most: ByteSize) -> Option<ByteSize> {
        self.content_length.limit_to(most);
        self.lines.limit_to(most)
    }

    fn holds_part(&self, buffer: &BytesMut) -> bool {
        if self.is_content_length() {
            self.content_length.holds_part(buffer)
        } else {
            self.lines.holds_part(buffer)
        }
    }

    fn unread(&self, buffer: &BytesMut) -> usize {
        if self.is_content_length() {
            self.content_length.unread(buffer)
        } else {
            self.lines.unread(buffer)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_client_with_headers_is_answered_in_its_own_framing() {
        let of = |accepts| DetectedLines::new(ByteSize::kib(1), accepts);
        let encoded = |framing: &DetectedLines| {
            let mut out = WriteBuf::new();
            framing.encode(&Bytes::from_static(b"{}"), &mut out).unwrap();
            out.to_bytes()
        };
        let one = of(true).for_line();
        let (mut decoder, encoder) = (one.clone(), one.clone());
        assert_eq!(encoded(&encoder), "{}\n");
        let mut buffer = BytesMut::from(&b"Content-Length: 2\r\n\r\n[]"[..]);
        assert_eq!(decoder.meet(&buffer), Ok(true));
        assert_eq!(decoder.decode(&mut buffer), Ok(Some(Frame::Message("[]".into()))));
        assert_eq!(encoded(&encoder), "Content-Length: 2\r\n\r\n{}");
        assert_eq!(encoded(&one.for_line()), "{}\n", "lines share no state");
        let mut refusing = of(false);
        let encoder = refusing.clone();
        assert_eq!(
            refusing.meet(b"Content-Length: 2\r\n\r\n[]"),
            Err(FrameError::OtherFraming {
                theirs: FramingKind::ContentLength,
                ours: FramingKind::Lines
            })
        );
        assert_eq!(encoded(&encoder), "{}\n");
    }
}
