//! The outgoing direction, which keeps each message until it is acknowledged.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Delivered, Frame, Position, Refusal, Sequence, SessionConfig, Step, Violation};

#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    messages: usize,
    bytes: usize,
    /// The unacknowledged messages, oldest first. The oldest has the number `acknowledged + 1`.
    kept: VecDeque<Bytes>,
    kept_bytes: usize,
    acknowledged: Sequence,
    /// How many of the kept messages were written to the current connection.
    given: usize,
    /// The last number ever written to a connection. The other end cannot have seen a later one.
    shown: Sequence,
    end: End,
}

/// The state of the end of this direction, which is numbered like a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    /// To be written after all kept messages.
    Waiting,
    Given,
    Acknowledged,
}

impl Outgoing {
    pub(super) fn new(config: SessionConfig) -> Self {
        Self {
            messages: config.replay_messages,
            bytes: config.replay_bytes,
            kept: VecDeque::new(),
            kept_bytes: 0,
            acknowledged: 0,
            given: 0,
            shown: 0,
            end: End::Open,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.kept.is_empty() || (self.kept.len() < self.messages && self.kept_bytes < self.bytes)
    }

    pub(super) fn send(&mut self, message: Bytes) -> Option<Sequence> {
        if self.end != End::Open {
            return None;
        }
        self.kept_bytes += message.len();
        self.kept.push_back(message);
        Some(self.last_message())
    }

    pub(super) fn end(&mut self) {
        if self.end == End::Open {
            self.end = End::Waiting;
        }
    }

    fn last_message(&self) -> Sequence {
        self.acknowledged + self.kept.len() as u64
    }

    pub(super) fn next(&mut self, acknowledged: Sequence) -> Option<Step> {
        let sequence = self.acknowledged + self.given as u64 + 1;
        let step = if self.given < self.kept.len() {
            let place = self.given;
            self.given += 1;
            Step::Message { sequence, acknowledged, place }
        } else if self.end == End::Waiting {
            self.end = End::Given;
            Step::Other(Frame::End { sequence, acknowledged })
        } else {
            return None;
        };
        self.shown = self.shown.max(sequence);
        Some(step)
    }

    /// Returns the kept message at the position that [`next`](Self::next) returned.
    pub(super) fn message(&self, place: usize) -> &Bytes {
        static NONE: Bytes = Bytes::new();
        self.kept.get(place).unwrap_or(&NONE)
    }

    /// Processes an acknowledgement of all messages up to this one.
    pub(super) fn acknowledged(&mut self, sequence: Sequence) -> Result<(), Violation> {
        self.refuse_never_sent(sequence)?;
        self.release(sequence);
        Ok(())
    }

    /// Fails if a message with this number was never written to a connection.
    pub(super) fn refuse_never_sent(&self, sequence: Sequence) -> Result<(), Violation> {
        if sequence > self.shown {
            return Err(Violation::NeverSent { acknowledged: sequence, sent: self.shown });
        }
        Ok(())
    }

    fn release(&mut self, sequence: Sequence) {
        // An acknowledgement below the current one has no effect.
        while self.acknowledged < sequence {
            match self.kept.pop_front() {
                Some(message) => {
                    self.kept_bytes -= message.len();
                    self.given = self.given.saturating_sub(1);
                }
                None if self.end == End::Acknowledged => return,
                None => self.end = End::Acknowledged,
            }
            self.acknowledged += 1;
        }
    }

    pub(super) fn sent(&self) -> Sequence {
        self.shown
    }

    pub(super) fn check(&self, theirs: Position) -> Result<(), Refusal> {
        if theirs.received > self.shown || theirs.acknowledged > theirs.received {
            return Err(Refusal::NeverSent);
        }
        // The other end lacks messages that are no longer kept.
        if theirs.received < self.acknowledged { Err(Refusal::Gap) } else { Ok(()) }
    }

    pub(super) fn resume(&mut self, theirs: Position) -> u64 {
        self.release(theirs.acknowledged);
        if self.end == End::Given {
            self.end = End::Waiting;
        }
        let received = theirs.received.saturating_sub(self.acknowledged) as usize;
        self.given = received.min(self.kept.len());
        if received > self.kept.len() && self.end == End::Waiting {
            self.end = End::Given;
        }
        self.shown.saturating_sub(theirs.received)
    }

    pub(super) fn delivered(&self) -> Delivered {
        // The end is numbered but is not a message.
        let sent = self.last_message() - u64::from(self.end == End::Acknowledged);
        Delivered { acknowledged: self.acknowledged.min(sent), sent }
    }

    /// Discards the kept messages as if they had been acknowledged.
    pub(super) fn discard_kept(&mut self) {
        self.release(self.last_message());
    }

    pub(super) fn kept(&self) -> (usize, usize) {
        (self.kept.len(), self.kept_bytes)
    }

    pub(super) fn kept_message(&self, before: u64) -> Option<usize> {
        self.kept.get(usize::try_from(before).ok()?).map(Bytes::len)
    }

    pub(super) fn is_over(&self) -> bool {
        self.end == End::Acknowledged
    }
}
