//! Where an event stream is written to, and what is next on it.

/// A stream and its connection. It names the connection because a newer one may replace it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub(crate) stream: u64,
    pub(crate) connection: u64,
}

impl Place {
    /// Returns the number of the stream in its session or connection.
    pub fn stream(&self) -> u64 {
        self.stream
    }
}

/// The next event of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// An event was appended.
    Event,
    /// There is no event yet.
    Wait,
    /// The stream has ended, or another connection has taken it over.
    End,
}

/// Splits an event id `STREAM.NUMBER` into the numbers of its stream and its message.
pub(crate) fn read_event_id(id: &str) -> Option<(u64, u64)> {
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse().ok()).flatten()
    };
    let (stream, message) = id.split_once('.')?;
    Some((number(stream)?, number(message)?))
}
