//! The incoming direction, which accepts exactly the next message.

use std::time::Duration;

use bytes::Bytes;

use super::{Farewell, Sequence, Violation};

/// How long a consumed message may remain unacknowledged before an acknowledgement is sent without a
/// message.
const ACK_AFTER: Duration = Duration::from_millis(100);
/// How many consumed messages may remain unacknowledged.
const ACK_MESSAGES: u64 = 128;
/// How many bytes of messages may remain unacknowledged.
const ACK_BYTES: u64 = 1 << 20;

/// Half of the default number of messages kept for replay. See
/// [`SessionMachine::owes_much`](super::SessionMachine::owes_much).
const MUCH_MESSAGES: u64 = 512;
/// Half of the default number of bytes kept for replay.
const MUCH_BYTES: u64 = 4 << 20;

/// An item that a session received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// The next message. It is never returned again.
    Message {
        /// Its number, to be [committed](super::SessionMachine::commit).
        sequence: Sequence,
        /// The message.
        message: Bytes,
    },
    /// The end of input: the other end sends no more messages.
    End,
    /// The other end has ended the session in both directions.
    Bye(Farewell),
    /// The response to a ping.
    Pong(u64),
}

#[derive(Clone, Debug)]
pub(super) struct Incoming {
    /// Whether the consumer commits messages itself. See
    /// [`SessionConfig::commits`](super::SessionConfig::commits).
    commits: bool,
    received: Sequence,
    /// The last consumed message.
    taken: Sequence,
    /// The number in the last acknowledgement that was sent.
    told: Sequence,
    untold_bytes: u64,
    /// The latest time at which the next acknowledgement is due.
    due: Option<Duration>,
    has_ended: bool,
    /// True if the last acknowledgement may have been lost, so that another is due.
    tell_again: bool,
}

impl Incoming {
    pub(super) fn new(commits: bool) -> Self {
        Self {
            commits,
            received: 0,
            taken: 0,
            told: 0,
            untold_bytes: 0,
            due: None,
            has_ended: false,
            tell_again: false,
        }
    }

    pub(super) fn message(
        &mut self,
        now: Duration,
        sequence: Sequence,
        message: Bytes,
    ) -> Result<Option<Received>, Violation> {
        if !self.is_next(sequence)? {
            return Ok(None);
        }
        self.untold_bytes = self.untold_bytes.saturating_add(message.len() as u64);
        self.took(now, sequence);
        Ok(Some(Received::Message { sequence, message }))
    }

    pub(super) fn end(
        &mut self,
        now: Duration,
        sequence: Sequence,
    ) -> Result<Option<Received>, Violation> {
        if !self.is_next(sequence)? {
            return Ok(None);
        }
        self.has_ended = true;
        self.took(now, sequence);
        Ok(Some(Received::End))
    }

    /// Returns whether this is the next number, or false if it was received before.
    fn is_next(&mut self, sequence: Sequence) -> Result<bool, Violation> {
        if sequence <= self.received {
            self.tell_again = true;
            return Ok(false);
        }
        if self.has_ended {
            return Err(Violation::AfterEnd);
        }
        let expected = self.received + 1;
        if sequence != expected {
            return Err(Violation::Gap { expected, got: sequence });
        }
        Ok(true)
    }

    fn took(&mut self, now: Duration, sequence: Sequence) {
        self.received = sequence;
        // The end of input itself needs no commit.
        if !self.commits || (self.has_ended && self.taken + 1 == sequence) {
            self.take(now, sequence);
        }
    }

    pub(super) fn commit(&mut self, now: Duration, sequence: Sequence) {
        let last = if self.has_ended { self.received - 1 } else { self.received };
        let mut sequence = sequence.min(last);
        if self.has_ended && sequence == last {
            sequence = self.received;
        }
        self.take(now, sequence);
    }

    fn take(&mut self, now: Duration, sequence: Sequence) {
        if sequence > self.taken {
            self.taken = sequence;
            self.due.get_or_insert(now.saturating_add(ACK_AFTER));
        }
    }

    /// Forgets the messages received after this one, so that they can be received again. Does nothing
    /// and returns false if they were already consumed, or if this one was never received.
    pub(super) fn rewind(&mut self, sequence: Sequence) -> bool {
        if sequence < self.taken || sequence > self.received {
            return false;
        }
        self.has_ended &= sequence == self.received;
        self.received = sequence;
        true
    }

    pub(super) fn received(&self) -> Sequence {
        self.received
    }

    pub(super) fn acknowledged(&self) -> Sequence {
        self.taken
    }

    pub(super) fn due(&self) -> Option<Duration> {
        self.due
    }

    pub(super) fn is_due(&self, now: Duration) -> bool {
        let waiting = self.taken - self.told;
        let is_much = waiting >= ACK_MESSAGES || (waiting > 0 && self.untold_bytes >= ACK_BYTES);
        // The other end has finished and waits only for this acknowledgement.
        let is_last = waiting > 0 && self.has_ended && self.taken == self.received;
        self.tell_again || is_much || is_last || self.due.is_some_and(|due| due <= now)
    }

    pub(super) fn owes_much(&self) -> bool {
        let waiting = self.taken - self.told;
        waiting >= MUCH_MESSAGES || (waiting > 0 && self.untold_bytes >= MUCH_BYTES)
    }

    /// Begins a new connection. More messages may have been consumed since the position for the handshake was
    /// read, so an acknowledgement is due.
    pub(super) fn resume(&mut self) {
        self.tell_again = true;
    }

    /// Records that the last acknowledgement was not sent.
    pub(super) fn untold(&mut self) {
        self.tell_again = true;
    }

    /// Records that an acknowledgement was sent.
    pub(super) fn told(&mut self) {
        self.told = self.taken;
        self.untold_bytes = 0;
        self.due = None;
        self.tell_again = false;
    }

    pub(super) fn is_over(&self) -> bool {
        self.has_ended && self.told == self.received && !self.tell_again
    }
}
