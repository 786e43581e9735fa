//! One stream of a session: the messages that wait for its connection or are kept for a resumption.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tieline_proto::sse::Encoder;

use crate::kept::Kept;

/// The number of a stream in its session. 0 is the general stream, for a GET; each POST with requests
/// has its own stream.
pub(super) type StreamNumber = u64;

/// A stream. Its messages are numbered from 1; an event id is `STREAM.NUMBER`.
#[derive(Debug)]
pub(super) struct Stream {
    kept: Kept,
    /// The number of the connection to which the stream is written.
    pub(super) connection: Option<u64>,
    /// Whether the first event of the connection was not written yet.
    is_fresh: bool,
    /// The time until which the response to a POST may be plain JSON; `None` once this is decided.
    pub(super) undecided_until: Option<Duration>,
    /// The number of unanswered requests of the POST; 1 for the general stream, which is never finished.
    pub(super) open: usize,
    /// The time since which the stream has been finished and without a connection, so that it is only
    /// kept to be resumed.
    pub(super) idle_since: Option<Duration>,
}

/// The settings for the first event of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening {
    /// Whether the first event has an id and no data. Older clients fail to parse such an event.
    pub(super) primes: bool,
    /// How long a client waits before it reconnects.
    pub(super) retry: Duration,
}

impl Stream {
    pub(super) fn new(open: usize) -> Self {
        Self {
            kept: Kept::default(),
            connection: None,
            is_fresh: true,
            undecided_until: None,
            open,
            idle_since: None,
        }
    }

    pub(super) fn cost(&self) -> usize {
        self.kept.cost()
    }

    pub(super) fn unwritten(&self) -> usize {
        self.kept.unwritten()
    }

    pub(super) fn push(&mut self, message: Bytes) {
        self.kept.push(message);
    }

    /// Returns whether the stream's oldest message may be dropped.
    pub(super) fn can_evict(&self) -> bool {
        self.kept.can_evict(self.connection.is_some())
    }

    /// Removes the oldest message if it may be dropped. Returns whether it was never written, or `None`
    /// if no message was removed.
    pub(super) fn evict(&mut self) -> Option<bool> {
        self.kept.evict(self.connection.is_some())
    }

    /// Returns how many messages were never written.
    pub(super) fn unwritten_messages(&self) -> u64 {
        self.kept.unwritten_messages()
    }

    /// Begins a new connection that continues after message `last`, or with the oldest unwritten one. Returns
    /// how many messages after `last` are no longer kept, or `None` if `last` was never written.
    pub(super) fn attach(&mut self, connection: u64, last: Option<u64>) -> Option<u64> {
        let missing = match last {
            Some(last) => self.kept.resume(last)?,
            None => 0,
        };
        self.connection = Some(connection);
        (self.is_fresh, self.undecided_until, self.idle_since) = (true, None, None);
        Some(missing)
    }

    /// Ends the connection.
    pub(super) fn detach(&mut self, now: Duration) {
        (self.connection, self.undecided_until) = (None, None);
        self.idle_since = (self.open == 0).then_some(now);
    }

    /// Counts one request of the POST as settled. Returns whether it was the last one.
    pub(super) fn settle_one(&mut self, now: Duration) -> bool {
        self.open = self.open.saturating_sub(1);
        let is_finished = self.open == 0;
        self.idle_since = (is_finished && self.connection.is_none()).then_some(now);
        is_finished
    }

    /// Takes the message of a finished stream that has only one, if it was not written.
    pub(super) fn take_only(&mut self) -> Option<Bytes> {
        match self.open {
            0 => self.kept.take_only(),
            _ => None,
        }
    }

    /// Appends the next event to `out`. Returns false if there is none.
    pub(super) fn write_next(
        &mut self,
        number: StreamNumber,
        opening: Opening,
        out: &mut BytesMut,
    ) -> bool {
        let retry = |encoder: Encoder<'static>| encoder.retry(opening.retry);
        if self.is_fresh && opening.primes {
            self.is_fresh = false;
            let id = format!("{number}.{}", self.kept.last_written());
            let encoder = retry(Encoder::default());
            if let Ok(encoder) = encoder.id(&id) {
                let _ = encoder.data(b"", out);
            }
            return true;
        }
        let Some((message_number, message)) = self.kept.write_next() else { return false };
        let id = format!("{number}.{message_number}");
        let mut encoder = Encoder::default();
        if self.is_fresh {
            self.is_fresh = false;
            encoder = retry(encoder);
        }
        if let Ok(encoder) = encoder.id(&id).and_then(|encoder| encoder.event("message")) {
            // This cannot fail, because messages were parsed, so they are UTF-8.
            let _ = encoder.data(message, out);
        }
        true
    }
}
