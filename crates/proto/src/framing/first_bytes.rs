//! Recognizing a peer's protocol by its first bytes.
//!
//! Only unambiguous signs are used, because the first bytes may be any message. As long as they are too
//! short to decide, they are not a whole line, so that no complete message has to wait.

use super::refusals::JSON_REFUSAL;
use super::{FrameError, FramingKind, MAX_HEADER_BLOCK};
use crate::byte_size::ByteSize;
use crate::session::{self, Refusal};

const HEADER: &[u8] = b"content-length:";

/// The longest value of a `Content-Length` header that is recognized.
const LONGEST_HEADER: usize = 64;

/// The longest message that is recognized as length-prefixed although it is not a JSON object or array: 4 KiB.
const LONGEST_FRAME: usize = 4096;

/// The kinds of first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// A message in this framing, which is not `lines`.
    Framing(FramingKind),
    /// The refusal that a listener sends to clients that it does not accept.
    Refusal(Refusal),
    /// A greeting that requests a session.
    Greeting,
    /// A TLS record.
    Tls,
    /// An HTTP request or response.
    Http,
    /// The beginning of one of the above, but too short to decide.
    Unclear,
    /// None of the above.
    Other,
}

fn look(first: &[u8]) -> First {
    match first {
        [] => First::Unclear,
        [0, ..] => length_prefix(first),
        [b'C' | b'c', ..] => match header(first) {
            First::Other => http(first),
            header => header,
        },
        [b'A'..=b'Z', ..] => http(first),
        // An alert or a handshake, of any version.
        [0x15 | 0x16] | [0x15 | 0x16, 3] => First::Unclear,
        [0x15 | 0x16, 3, 0..=4, ..] => First::Tls,
        _ => First::Other,
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
        Some([b'\r', b'\n', ..]) if length > 0 => First::Framing(FramingKind::ContentLength),
        Some(_) => First::Other,
    }
}

/// Checks for the first line of an HTTP message: `GET / HTTP/1.1` or `HTTP/1.1 200 OK`, ending with CR LF.
fn http(first: &[u8]) -> First {
    let (line, is_whole) = first_line(first);
    let method = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    let may_be_http =
        method.iter().all(|byte| byte.is_ascii_uppercase() || b"/.012".contains(byte));
    match is_whole {
        true if line.strip_suffix(b"\r").is_some_and(is_http) => First::Http,
        false if may_be_http && line.len() < MAX_HEADER_BLOCK.bytes() => First::Unclear,
        _ => First::Other,
    }
}

/// Returns whether this is the request line or status line of an HTTP message, and not text that mentions HTTP.
fn is_http(line: &[u8]) -> bool {
    let mut words = line.split(|byte| *byte == b' ');
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(version), Some(status), ..) if is_version(version) => {
            status.len() == 3 && status.iter().all(u8::is_ascii_digit)
        }
        (Some(method), Some(target), Some(version), None) => {
            let is_target = matches!(target, [b'/' | b'*', ..]) || target.contains(&b':');
            method.iter().all(u8::is_ascii_uppercase) && is_target && is_version(version)
        }
        _ => false,
    }
}

fn is_version(word: &[u8]) -> bool {
    match word.strip_prefix(b"HTTP/") {
        Some([major] | [major, b'.', _]) => major.is_ascii_digit(),
        _ => false,
    }
}

/// Checks for a message that follows its length. Other bytes may also begin with NUL. Therefore, the
/// message must be a frame of the session protocol, a JSON object or array, or a short message after
/// which the bytes end or another length follows.
fn length_prefix(first: &[u8]) -> First {
    let unless_line = || if first.contains(&b'\n') { First::Other } else { First::Unclear };
    let Some((length, message)) = split_length(first) else { return unless_line() };
    if (1..=session::LONGEST_REFUSAL).contains(&length) && session::may_be_refusal(message) {
        return match message.get(..length) {
            Some(frame) => session::refusal_of(frame).map_or(First::Other, First::Refusal),
            // The head of a refusal has no line feed.
            None if message.len() > 1 => First::Unclear,
            None => unless_line(),
        };
    }
    match (session::is_greeting(length, message), message.first()) {
        (Some(true), _) => First::Greeting,
        (_, Some(b'{' | b'[')) => First::Framing(FramingKind::LengthPrefix),
        (None, _) | (_, None) if length > 0 => unless_line(),
        _ => short_frame(first).unwrap_or_else(unless_line),
    }
}

/// Checks for empty messages that are followed by a short one, each with its length. Returns `None` if
/// the message is incomplete.
fn short_frame(mut rest: &[u8]) -> Option<First> {
    let mut length = 0;
    while let (0, Some((next, behind))) = (length, split_length(rest)) {
        (length, rest) = (next, behind);
    }
    if length > LONGEST_FRAME {
        return Some(First::Other);
    }
    Some(match rest.get(length..)?.first() {
        None | Some(0) => First::Framing(FramingKind::LengthPrefix),
        Some(_) => First::Other,
    })
}

fn split_length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (length, behind) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*length) as usize, behind))
}

/// Returns the first line, without its line feed, and whether it is complete.
fn first_line(first: &[u8]) -> (&[u8], bool) {
    let end = memchr::memchr(b'\n', first);
    (first.get(..end.unwrap_or(first.len())).unwrap_or_default(), end.is_some())
}

/// Fails if the peer certainly does not use messages in the framing `ours`, or if it refuses this
/// client. Returns whether there were enough bytes to decide.
fn expect(ours: FramingKind, first: &[u8]) -> Result<bool, FrameError> {
    match look(first) {
        First::Framing(theirs) if theirs != ours => Err(FrameError::OtherFraming { theirs, ours }),
        First::Refusal(refusal) => Err(FrameError::of_refusal(refusal, ours)),
        First::Greeting => Err(FrameError::UnexpectedGreeting),
        First::Tls => Err(FrameError::UnexpectedTls),
        First::Http => Err(FrameError::UnexpectedHttp),
        First::Unclear => Ok(false),
        First::Framing(_) | First::Other => Ok(true),
    }
}

/// Fails if the peer does not send lines. Returns whether there were enough bytes to decide.
pub(super) fn expect_lines(first: &[u8]) -> Result<bool, FrameError> {
    expect(FramingKind::Lines, first)
}

/// Fails if the peer does not send headers. Returns whether there were enough bytes to decide.
pub(super) fn expect_headers(first: &[u8]) -> Result<bool, FrameError> {
    let ours = FramingKind::ContentLength;
    let is_clear = expect(ours, first)?;
    let (theirs, fits) = match first {
        _ if !is_clear => return Ok(false),
        // No header begins with NUL.
        [0, ..] => (FramingKind::LengthPrefix, Some(false)),
        _ if look(first) == First::Framing(ours) => {
            (FramingKind::Lines, refuses_in_json(first).map(|refuses| !refuses))
        }
        _ => (FramingKind::Lines, may_be_header(first)),
    };
    match fits {
        Some(false) => Err(FrameError::OtherFraming { theirs, ours }),
        fits => Ok(fits.is_some()),
    }
}

/// Fails if the peer does not send a length before each message, or sends frames of a session although the line
/// does not carry one. Returns whether there were enough bytes to decide.
pub(super) fn expect_lengths(
    first: &[u8],
    limit: ByteSize,
    is_session: bool,
) -> Result<bool, FrameError> {
    let ours = FramingKind::LengthPrefix;
    let is_clear = is_session && first.first() == Some(&0) || expect(ours, first)?;
    let length = first.get(..4).unwrap_or(first);
    if !is_clear || !length.iter().all(|byte| is_text(*byte)) {
        return Ok(is_clear);
    }
    let is_whole = length.len() == 4;
    if !is_whole && !length.contains(&b'\n') {
        return Ok(false);
    }
    let mut least = [0; 4];
    least.iter_mut().zip(length).for_each(|(place, byte)| *place = *byte);
    if u32::from_be_bytes(least) as usize > limit.bytes() {
        return Err(FrameError::OtherFraming { theirs: FramingKind::Lines, ours });
    }
    Ok(is_whole)
}

/// Returns whether a byte can occur in UTF-8 text.
fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~' | 0x80..=0xf4)
}

/// Returns whether the first line may be a header, or `None` if it is too short to decide.
fn may_be_header(first: &[u8]) -> Option<bool> {
    const CONTENT: &[u8] = b"content";

    let (line, is_whole) = first_line(first);
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    let has_colon = name.len() < line.len();
    let is_name = name.iter().all(|byte| is_token(*byte));
    let is_content =
        name.get(..CONTENT.len()).is_some_and(|start| start.eq_ignore_ascii_case(CONTENT));
    match is_whole {
        // A malformed `Content-Length` header, which the decoder reports.
        _ if is_content && has_colon => Some(true),
        // A blank line.
        _ if line == b"\r" => is_whole.then_some(true),
        true => Some(is_name && has_colon && line.ends_with(b"\r")),
        false if !is_name && !is_content => Some(false),
        false if line.len() >= MAX_HEADER_BLOCK.bytes() => Some(has_colon),
        false => None,
    }
}

/// Returns whether `byte` is allowed in a header name (RFC 9110, section 5.6.2).
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Returns whether a message with a `Content-Length` header is the refusal of a listener that uses
/// lines, or `None` if it is too short to decide.
fn refuses_in_json(first: &[u8]) -> Option<bool> {
    let (line, _) = first_line(first);
    let digits = line.get(HEADER.len()..).unwrap_or_default().trim_ascii();
    let length = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<usize>().ok());
    let block = first.get(line.len()..).unwrap_or_default();
    let refusal = ["\n\r\n", JSON_REFUSAL].concat();
    let is_possible = length.is_some_and(|length| length > JSON_REFUSAL.len())
        && block.iter().zip(refusal.as_bytes()).all(|(byte, other)| byte == other);
    if is_possible && block.len() < refusal.len() { None } else { Some(is_possible) }
}

#[cfg(test)]
mod tests;
