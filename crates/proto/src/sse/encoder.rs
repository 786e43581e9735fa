//! Events as bytes.

use std::fmt;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use memchr::memchr2_iter;

use super::{CR, LF, MAX_NAME};

/// What stands beside the data of an event.
///
/// ```
/// use bytes::BytesMut;
/// use tieline_proto::sse::Encoder;
///
/// let mut out = BytesMut::new();
/// Encoder::default().event("add")?.id("7")?.data(b"73857293", &mut out)?;
/// assert_eq!(out, "event: add\nid: 7\ndata: 73857293\n\n");
/// # Ok::<(), tieline_proto::sse::EncodeError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct Encoder<'a> {
    event: Option<&'a str>,
    id: Option<&'a str>,
    retry: Option<Duration>,
}

impl<'a> Encoder<'a> {
    /// What kind of event it is; without, and with the empty one, it is `message`.
    ///
    /// # Errors
    /// It has a CR, LF or NUL, or is longer than [`MAX_NAME`].
    pub fn event(self, event: &'a str) -> Result<Self, EncodeError> {
        check(event)?;
        Ok(Self { event: Some(event), ..self })
    }

    /// From where the stream is to be continued if it is lost behind this event. An empty one takes back
    /// those before.
    ///
    /// # Errors
    /// As [`event`](Self::event).
    pub fn id(self, id: &'a str) -> Result<Self, EncodeError> {
        check(id)?;
        Ok(Self { id: Some(id), ..self })
    }

    /// How long the other side is to wait after the loss of the stream, in whole milliseconds.
    pub fn retry(self, retry: Duration) -> Self {
        Self { retry: Some(retry), ..self }
    }

    /// Appends the event with this data to `out`. Each CR, LF and CR LF of it arrives as an LF. For every
    /// line of it, six bytes more are written.
    ///
    /// # Errors
    /// It is not UTF-8, which every stream of events is. Nothing was appended.
    pub fn data(&self, data: &[u8], out: &mut BytesMut) -> Result<(), EncodeError> {
        let data = std::str::from_utf8(data).map_err(|_| EncodeError::NotUtf8)?;
        self.fields(out);
        lines("data: ", data, out);
        out.put_u8(LF);
        Ok(())
    }

    /// Appends this without any data to `out`: that is no event, but the id and the time count.
    pub fn alone(&self, out: &mut BytesMut) {
        self.fields(out);
        out.put_u8(LF);
    }

    fn fields(&self, out: &mut BytesMut) {
        if let Some(event) = self.event {
            field("event: ", event, out);
        }
        if let Some(id) = self.id {
            field("id: ", id, out);
        }
        if let Some(retry) = self.retry {
            field("retry: ", &retry.as_millis().to_string(), out);
        }
    }
}

/// Appends a comment to `out`, which no parser gives out: a sign of life. It may stand between two events,
/// and nowhere else.
pub fn comment(text: &str, out: &mut BytesMut) {
    lines(": ", text, out);
    out.put_u8(LF);
}

/// Why an event cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncodeError {
    /// A CR, LF or NUL in its name or its id: what is behind would be another field, or another event.
    Forbidden,
    /// Its name or its id is longer than [`MAX_NAME`].
    TooLong,
    /// Its data is not UTF-8.
    NotUtf8,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forbidden => f.write_str("a CR, LF or NUL in the name or the id of an event"),
            Self::TooLong => {
                write!(f, "the name or the id of an event is above the limit of {MAX_NAME}")
            }
            Self::NotUtf8 => f.write_str("the data of an event is not UTF-8"),
        }
    }
}

impl std::error::Error for EncodeError {}

fn check(name: &str) -> Result<(), EncodeError> {
    if name.bytes().any(|byte| matches!(byte, CR | LF | 0)) {
        return Err(EncodeError::Forbidden);
    }
    if name.len() > MAX_NAME.bytes() { Err(EncodeError::TooLong) } else { Ok(()) }
}

fn field(name: &str, value: &str, out: &mut BytesMut) {
    out.put_slice(name.as_bytes());
    out.put_slice(value.as_bytes());
    out.put_u8(LF);
}

/// Each line of `text` behind `name`; without a line break it is one.
fn lines(name: &str, text: &str, out: &mut BytesMut) {
    let breaks = memchr2_iter(CR, LF, text.as_bytes()).count();
    out.reserve(text.len() + (breaks + 1) * (name.len() + 1) + 1);
    let mut rest = text;
    while let Some((line, behind)) = rest.split_once(['\r', '\n']) {
        let is_crlf = rest.as_bytes().get(line.len()) == Some(&CR);
        field(name, line, out);
        rest = if is_crlf { behind.strip_prefix('\n').unwrap_or(behind) } else { behind };
    }
    field(name, rest, out);
}
