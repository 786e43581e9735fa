//! The direction in which messages come: exactly the next one is taken.

use std::time::Duration;

use bytes::Bytes;

use super::{Farewell, Sequence, Violation};

/// An acknowledgement goes alone after so long,
const ACK_AFTER: Duration = Duration::from_millis(100);
/// after so many messages,
const ACK_MESSAGES: u64 = 128;
/// or after so many bytes of them.
const ACK_BYTES: u64 = 1 << 20;

/// Half of what is kept by default: messages,
const MUCH_MESSAGES: u64 = 512;
/// and bytes of them.
const MUCH_BYTES: u64 = 4 << 20;

/// What came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// The next message, never to be seen again.
    Message {
        /// Its number, to be [committed](super::Session::commit).
        sequence: Sequence,
        /// The message.
        message: Bytes,
    },
    /// The other side will send no more.
    End,
    /// The other side has ended the session altogether.
    Bye(Farewell),
    /// The answer to a ping.
    Pong(u64),
}

#[derive(Clone, Debug)]
pub(super) struct Incoming {
    /// The consumer says when it took a message over.
    commits: bool,
    received: Sequence,
    taken: Sequence,
    /// What the other side was told last.
    told: Sequence,
    untold_bytes: u64,
    /// When it is to be told, at the latest.
    due: Option<Duration>,
    has_ended: bool,
    /// It did not notice, or what it was told may have been lost: it is told once more.
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

    /// Whether it is the next one, and not one that was received before.
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
        // Behind the end there is nothing that a consumer could commit.
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

    /// Forgets what came behind this one, so that it can come again. False, and nothing is done, if it
    /// was taken over already, or never came.
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
        // Who has ended waits for nothing but this.
        let is_last = waiting > 0 && self.has_ended && self.taken == self.received;
        self.tell_again || is_much || is_last || self.due.is_some_and(|due| due <= now)
    }

    pub(super) fn owes_much(&self) -> bool {
        let waiting = self.taken - self.told;
        waiting >= MUCH_MESSAGES || (waiting > 0 && self.untold_bytes >= MUCH_BYTES)
    }

    /// There is another connection. Something may have been taken over since the handshake said how
    /// far this side has come, so it is said again.
    pub(super) fn resume(&mut self) {
        self.tell_again = true;
    }

    /// What the other side was told last has not left.
    pub(super) fn untold(&mut self) {
        self.tell_again = true;
    }

    /// The other side is told how far this one has come.
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
