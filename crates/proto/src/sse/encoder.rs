//! Writing events to a stream.

use std::fmt;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use memchr::memchr2_iter;

use super::{CR, LF, MAX_NAME};

/// An encoder of events with an optional name, id and retry time.
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
    /// Sets the event's name. Without one, or with an empty one, the name is `message`.
    ///
    /// # Errors
    /// The name contains a CR, LF or NUL, or is longer than [`MAX_NAME`].
    pub fn event(self, event: &'a str) -> Result<Self, EncodeError> {
        check(event)?;
        Ok(Self { event: Some(event), ..self })
    }

    /// Sets the event's id, from which a client resumes if the stream is lost after this event. An empty id
    /// resets earlier ones.
    ///
    /// # Errors
    /// The same as [`event`](Self::event).
    pub fn id(self, id: &'a str) -> Result<Self, EncodeError> {
        check(id)?;
        Ok(Self { id: Some(id), ..self })
    }

    /// Sets how long the client waits before it reconnects after losing the stream, in whole milliseconds.
    pub fn retry(self, retry: Duration) -> Self {
        Self { retry: Some(retry), ..self }
    }

    /// Appends the event with this data to `out`. Each CR, LF and CR LF in the data is received as an
    /// LF. Each line of the data takes six more bytes.
    ///
    /// # Errors
    /// The data is not UTF-8, which event streams require. Nothing is appended.
    pub fn data(&self, data: &[u8], out: &mut BytesMut) -> Result<(), EncodeError> {
        let data = std::str::from_utf8(data).map_err(|_| EncodeError::NotUtf8)?;
        self.fields(out);
        lines("data: ", data, out);
        out.put_u8(LF);
        Ok(())
    }

    /// Appends the fields without data to `out`. The client dispatches no event, but applies the id and the
    /// retry time.
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

/// Appends a comment to `out`, for example as a keep-alive. Parsers ignore it. Comments may only be written
/// between two events.
pub fn comment(text: &str, out: &mut BytesMut) {
    lines(": ", text, out);
    out.put_u8(LF);
}

/// The reason why an event cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncodeError {
    /// The name or the id contains a CR, LF or NUL. A line break would start another field or event.
    Forbidden,
    /// The name or the id is longer than [`MAX_NAME`].
    TooLong,
    /// The data is not UTF-8.
    NotUtf8,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forbidden => {
                f.write_str("the name or the id of an event contains a CR, LF or NUL")
            }
            Self::TooLong => {
                write!(f, "the name or the id of an event is longer than {MAX_NAME}")
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

/// Appends each line of `text` as a field called `name`. Text without a line break is one line.
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
