//! Recognizing a peer's framing by its first bytes.

use super::FrameError;
use crate::session;

const HEADER: &[u8] = b"content-length:";

/// The longest value of a `Content-Length` header that is recognized.
const LONGEST_HEADER: usize = 64;

/// The kinds of first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// A `Content-Length` header line.
    ContentLength,
    /// The refusal that a listener sends to clients that it does not accept.
    Refusal(FrameError),
    /// The beginning of one of the above, but too short to decide.
    Unclear,
    /// None of the above.
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

/// Fails if the peer does not send lines. Returns whether there were enough bytes to decide.
pub(super) fn expect_lines(first: &[u8]) -> Result<bool, FrameError> {
    match look(first) {
        First::ContentLength => Err(FrameError::UnexpectedContentLength),
        First::Refusal(refusal) => Err(refusal),
        First::Unclear => Ok(false),
        First::Other => Ok(true),
    }
}

/// Fails if the peer refuses this client. Returns whether there were enough bytes to decide.
pub(super) fn expect_no_refusal(first: &[u8]) -> Result<bool, FrameError> {
    match look(first) {
        First::Refusal(refusal) => Err(refusal),
        First::Unclear if first.first() == Some(&0) => Ok(false),
        _ => Ok(true),
    }
}

/// Returns a refusal with its length prefix.
#[cfg(test)]
pub(super) fn refused(text: &str) -> Vec<u8> {
    let frame = session::Frame::Refused { refusal: session::Refusal::Unasked, text: text.into() }
        .to_bytes();
    [&(frame.len() as u32).to_be_bytes(), &frame[..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
