//! Detection of the peer's framing from its first bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::{Bytes, BytesMut};

use super::{ContentLength, EncodeError, Ending, Frame, FrameError, Framing, FramingKind, Lines};
use crate::byte_size::ByteSize;
use crate::session;
use crate::write_buf::WriteBuf;

const HEADER: &[u8] = b"content-length:";
/// The longest value of a `Content-Length` header that is recognized.
const LONGEST_HEADER: usize = 64;

/// What the first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// A `Content-Length` header line.
    ContentLength,
    /// The refusal that a listener sends to clients that it does not accept.
    Refusal(FrameError),
    /// The beginning of one of these, too short to decide.
    Unclear,
    /// Neither of these.
    Other,
}

fn look(first: &[u8]) -> First {
    match first.first() {
        Some(b'c' | b'C') => header(first),
        Some(0) => refusal(first),
        Some(_) => First::Other,
        None => First::Unclear,
    }
}

/// Checks for `Content-Length: N` followed by CR LF.
fn header(first: &[u8]) -> First {
    let name = first.get(..HEADER.len().min(first.len())).unwrap_or_default();
    if !name.eq_ignore_ascii_case(HEADER.get(..name.len()).unwrap_or_default()) {
        return First::Other;
    }
    let value = first.get(HEADER.len()..).unwrap_or_default();
    let length = value.iter().take_while(|byte| matches!(byte, b' ' | b'0'..=b'9')).count();
    match value.get(length..) {
        _ if length > LONGEST_HEADER => First::Other,
        Some([] | [b'\r']) | None => First::Unclear,
        Some([b'\r', b'\n', ..]) if length > 0 => First::ContentLength,
        Some(_) => First::Other,
    }
}

/// Checks for a length-prefixed frame that refuses a session.
fn refusal(first: &[u8]) -> First {
    let Some((length, frame)) = first.split_first_chunk::<4>() else {
        // A short line that begins with NUL must not be held back until more bytes arrive.
        let is_possible = !first.contains(&b'\n');
        return if is_possible { First::Unclear } else { First::Other };
    };
    let length = u32::from_be_bytes(*length) as usize;
    let is_possible =
        session::may_be_refusal(frame) && (1..=session::LONGEST_REFUSAL).contains(&length);
    match frame.get(..length) {
        _ if !is_possible => First::Other,
        None => First::Unclear,
        Some(frame) => FrameError::of_refusal(frame).map_or(First::Other, First::Refusal),
    }
}

/// Fails if the peer does not send lines. Returns whether enough bytes were seen to decide.
pub(super) fn expect_lines(first: &[u8]) -> Result<bool, FrameError> {
    match look(first) {
        First::ContentLength => Err(FrameError::UnexpectedContentLength),
        First::Refusal(refusal) => Err(refusal),
        First::Unclear => Ok(false),
        First::Other => Ok(true),
    }
}

/// Fails if the peer refuses this client. Returns whether enough bytes were seen to decide.
pub(super) fn expect_no_refusal(first: &[u8]) -> Result<bool, FrameError> {
    match look(first) {
        First::Refusal(refusal) => Err(refusal),
        First::Unclear if first.first() == Some(&0) => Ok(false),
        _ => Ok(true),
    }
}

/// Lines, for a listener whose clients may use `Content-Length` headers instead.
///
/// The first bytes of a client decide. If it sends a `Content-Length` header, both directions use that
/// framing from then on: either its messages are accepted, or it is refused, and the refusal is sent in its
/// own framing. Messages sent before the client's first bytes are written as lines.
#[derive(Clone, Debug)]
pub struct DetectedLines {
    lines: Lines,
    content_length: ContentLength,
    accepts: bool,
    /// Shared by the two directions of one line.
    is_content_length: Arc<AtomicBool>,
}

impl DetectedLines {
    /// Creates a framing for messages of at most `max_message`. `accepts`: whether clients that send
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
        let met = expect_lines(first);
        if let Err(FrameError::UnexpectedContentLength) = met {
            self.is_content_length.store(true, Relaxed);
            if self.accepts {
                return Ok(true);
            }
        }
        met
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
    use crate::session::{Frame as SessionFrame, Refusal};

    fn refused(text: &str) -> Vec<u8> {
        let frame =
            SessionFrame::Refused { refusal: Refusal::Unasked, text: text.into() }.to_bytes();
        [&(frame.len() as u32).to_be_bytes(), &frame[..]].concat()
    }

    #[test]
    fn framing_is_recognized_only_from_a_complete_header_or_refusal() {
        let refused = refused("connect with resume+");
        for (whole, first) in [
            (&b"Content-Length: 12\r\n"[..], First::ContentLength),
            (b"content-length:2\r\n", First::ContentLength),
            (&refused[..], First::Refusal(FrameError::UnexpectedSession)),
            (&session::user_refusal()[..], First::Refusal(FrameError::UserNotAccepted)),
        ] {
            assert_eq!(look(whole), first);
            assert_eq!(look(&[whole, b"and more"].concat()), first);
            for cut in 0..whole.len() {
                assert_eq!(
                    look(&whole[..cut]),
                    First::Unclear,
                    "{cut} of {}",
                    whole.escape_ascii()
                );
            }
        }
        for other in [
            &b"{\"jsonrpc\":\"2.0\"}\n"[..],
            b"content\n",
            b"Content-Length\n",
            b"Content-Length: 12\n",
            b"Content-Length: 1x\r\n",
            b"Content-Length:\r\n",
            b"Content-Type: x\r\n",
            &[b"Content-Length: ".to_vec(), vec![b'1'; 100]].concat(),
            b"\0\0\0\x05hello",
            b"\0\0\0\x03\x03\x02\x0b",
            b"\0\xff\xff\xff\x03\x01",
            b"\n",
            b"\0\n",
            b"\0\0\n",
        ] {
            assert_eq!(look(other), First::Other, "{}", other.escape_ascii());
        }
    }

    #[test]
    fn client_with_headers_is_answered_in_its_own_framing() {
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
            Err(FrameError::UnexpectedContentLength)
        );
        assert_eq!(encoded(&encoder), "Content-Length: 2\r\n\r\n{}");
        assert_eq!(of(true).meet(&refused("connect")), Err(FrameError::UnexpectedSession));
    }
}
