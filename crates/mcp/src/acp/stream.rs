//! One stream of a connection.

use std::time::Duration;

use bytes::BytesMut;
use tieline_proto::sse::Encoder;

use crate::kept::Kept;

/// A stream: that of the connection, or of a session.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) kept: Kept,
    /// The id of the session; `None` for the stream of the connection.
    pub(super) session: Option<Box<str>>,
    /// Whether the agent has named the session. The stream of another one exists only while it has a
    /// connection.
    pub(super) is_known: bool,
    /// The number of the HTTP connection to which the stream is written.
    pub(super) connection: Option<u64>,
    /// Whether nothing was written to this HTTP connection yet.
    pub(super) is_fresh: bool,
}

impl Stream {
    /// Begins a new HTTP connection that continues after message `last`, or with the oldest unwritten one.
    /// Returns how many messages after `last` are no longer kept, or `None` if `last` was never written.
    pub(super) fn attach(&mut self, connection: u64, last: Option<u64>) -> Option<u64> {
        let missing = match last {
            Some(last) => self.kept.resume(last)?,
            None => 0,
        };
        (self.connection, self.is_fresh) = (Some(connection), true);
        Some(missing)
    }

    /// Appends the next event to `out`. Returns false if there is none.
    ///
    /// The first one on a connection has an id and no data, which parsers of event streams do not dispatch.
    /// With it, a client that has received no message can resume the stream, too.
    pub(super) fn write_next(&mut self, number: u64, retry: Duration, out: &mut BytesMut) -> bool {
        if std::mem::take(&mut self.is_fresh) {
            let id = format!("{number}.{}", self.kept.last_written());
            if let Ok(encoder) = Encoder::default().retry(retry).id(&id) {
                encoder.alone(out);
            }
            return true;
        }
        let Some((message_number, message)) = self.kept.write_next() else { return false };
        if let Ok(encoder) = Encoder::default().id(&format!("{number}.{message_number}")) {
            // This cannot fail, because messages were parsed, so they are UTF-8.
            let _ = encoder.data(message, out);
        }
        true
    }
}
