//! Messages and their headers.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::subject::Subject;

/// The maximum number of headers of a message.
pub const MAX_HEADERS: usize = 16;

/// The maximum size of all headers of a message together: their names and values in bytes.
pub const MAX_HEADER_BYTES: usize = 4096;

/// A message: a payload, a few headers, and the subject to which an answer is published. Cloning is cheap,
/// because clones share the payload.
///
/// ```
/// use tieline_bus::Message;
///
/// let message = Message::new("hello").with_header("trace", "17")?;
/// assert_eq!((&message.payload[..], message.header("trace")), (&b"hello"[..], Some("17")));
/// # Ok::<(), tieline_bus::HeaderError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The content.
    pub payload: Bytes,
    /// The subject to which the receiver publishes an answer. A request sets it.
    pub reply: Option<Subject>,
    headers: Option<Arc<Headers>>,
}

/// Names and values.
type Headers = Vec<(Box<str>, Box<str>)>;

impl Message {
    /// Creates a message without headers.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self { payload: payload.into(), reply: None, headers: None }
    }

    /// Adds a header. Headers keep their order, and a name may occur more than once.
    ///
    /// # Errors
    /// The name is empty or contains characters other than letters, digits, `_` and `-`; the value contains
    /// control characters; or there are too many headers.
    pub fn with_header(mut self, name: &str, value: &str) -> Result<Self, HeaderError> {
        let is_name = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'_' | b'-');
        if name.is_empty() || !name.bytes().all(is_name) {
            return Err(HeaderError::Name);
        }
        if value.chars().any(char::is_control) {
            return Err(HeaderError::Value);
        }
        let bytes: usize = self.headers().map(|(name, value)| name.len() + value.len()).sum();
        if bytes + name.len() + value.len() > MAX_HEADER_BYTES
            || self.headers().len() == MAX_HEADERS
        {
            return Err(HeaderError::TooMany);
        }
        let headers = Arc::make_mut(self.headers.get_or_insert_default());
        headers.push((name.into(), value.into()));
        Ok(self)
    }

    /// Returns the first value of the header with this name, in which case is significant.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().find_map(|(known, value)| (known == name).then_some(value))
    }

    /// Returns the headers in order.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        let headers = self.headers.as_ref().map_or(&[][..], |it| it.as_slice());
        headers.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Returns the size that counts towards the limits of queues: the payload and the headers.
    pub(crate) fn size(&self) -> usize {
        let headers: usize = self.headers().map(|(name, value)| name.len() + value.len()).sum();
        self.payload.len() + headers
    }
}

impl<T: Into<Bytes>> From<T> for Message {
    fn from(payload: T) -> Self {
        Self::new(payload)
    }
}

/// Why a header was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderError {
    /// The name is not a header name.
    Name,
    /// The value contains control characters.
    Value,
    /// The message has too many headers, or they are too long.
    TooMany,
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str(
                "a header's name must consist of A-Z, a-z, 0-9, _ and -, and must not be empty",
            ),
            Self::Value => f.write_str(
                "a header's value contains a control character. Put binary data into the payload",
            ),
            Self::TooMany => write!(
                f,
                "a message has at most {MAX_HEADERS} headers with {MAX_HEADER_BYTES} bytes. Put data \
                 into the payload"
            ),
        }
    }
}

impl std::error::Error for HeaderError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_kept_in_order_and_bounded() {
        let message =
            Message::new("p").with_header("a", "1").unwrap().with_header("a", "2").unwrap();
        assert_eq!(message.headers().collect::<Vec<_>>(), [("a", "1"), ("a", "2")]);
        assert_eq!(
            (message.header("a"), message.header("A"), message.size()),
            (Some("1"), None, 5)
        );
        for (name, value, error) in [
            ("", "", HeaderError::Name),
            ("a:b", "", HeaderError::Name),
            ("a", "b\r\nc", HeaderError::Value),
            ("a", &"b".repeat(5000), HeaderError::TooMany),
        ] {
            assert_eq!(message.clone().with_header(name, value), Err(error), "{name:?}");
        }
        let many = (0..MAX_HEADERS).try_fold(Message::default(), |it, _| it.with_header("a", "b"));
        assert_eq!(many.unwrap().with_header("a", "b"), Err(HeaderError::TooMany));
    }
}
