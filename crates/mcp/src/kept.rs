//! The messages of an event stream that wait for a connection, or are kept so that a client can resume the
//! stream.

use std::collections::VecDeque;

use bytes::Bytes;

/// The cost of each message in addition to its bytes.
const EACH: usize = 64;

/// The kept messages of a stream. All messages of the stream are numbered from 1.
#[derive(Debug)]
pub(crate) struct Kept {
    /// The kept messages, oldest first.
    messages: VecDeque<Bytes>,
    /// The number of the oldest kept message, or of the next message if none is kept.
    first: u64,
    /// The number of the next message to write.
    cursor: u64,
    /// The cost of all kept messages.
    cost: usize,
    /// The cost of the kept messages that were not written yet.
    unwritten: usize,
}

impl Default for Kept {
    fn default() -> Self {
        Self { messages: VecDeque::new(), first: 1, cursor: 1, cost: 0, unwritten: 0 }
    }
}

impl Kept {
    /// Returns the cost of all kept messages.
    pub(crate) fn cost(&self) -> usize {
        self.cost
    }

    /// Returns the cost of the messages that were not written yet.
    pub(crate) fn unwritten(&self) -> usize {
        self.unwritten
    }

    /// Returns how many messages were never written.
    pub(crate) fn unwritten_messages(&self) -> u64 {
        self.first + self.messages.len() as u64 - self.cursor
    }

    /// Returns the number of the message that was written last; 0 if there is none.
    pub(crate) fn last_written(&self) -> u64 {
        self.cursor - 1
    }

    pub(crate) fn push(&mut self, message: Bytes) {
        let cost = message.len() + EACH;
        self.cost += cost;
        self.unwritten += cost;
        self.messages.push_back(message);
    }

    /// Returns whether the oldest message may be dropped. The newest message must be kept, and so must a
    /// message that waits to be written to a connection.
    pub(crate) fn can_evict(&self, is_connected: bool) -> bool {
        self.messages.len() > 1 && (self.first < self.cursor || !is_connected)
    }

    /// Removes the oldest message if it may be dropped. Returns whether it was never written, or `None` if
    /// no message was removed.
    pub(crate) fn evict(&mut self, is_connected: bool) -> Option<bool> {
        if !self.can_evict(is_connected) {
            return None;
        }
        let is_unwritten = self.first >= self.cursor;
        let cost = self.messages.pop_front()?.len() + EACH;
        self.first += 1;
        self.cost -= cost;
        if is_unwritten {
            self.cursor = self.first;
            self.unwritten -= cost;
        }
        Some(is_unwritten)
    }

    /// Continues after message `last`. Returns how many messages after it are no longer kept, or `None` if it
    /// was never written.
    pub(crate) fn resume(&mut self, last: u64) -> Option<u64> {
        let next = last.checked_add(1).filter(|next| *next <= self.cursor)?;
        self.cursor = next.max(self.first);
        let index = usize::try_from(self.cursor - self.first).unwrap_or(usize::MAX);
        self.unwritten = self.messages.iter().skip(index).map(|it| it.len() + EACH).sum();
        Some(self.first.saturating_sub(next))
    }

    /// Takes the message if only one is kept and it was not written.
    pub(crate) fn take_only(&mut self) -> Option<Bytes> {
        let is_only = self.messages.len() == 1 && self.first == self.cursor;
        is_only.then(|| self.messages.pop_front()).flatten()
    }

    /// Returns the next message to write and its number, and counts it as written.
    pub(crate) fn write_next(&mut self) -> Option<(u64, &Bytes)> {
        let index = usize::try_from(self.cursor - self.first).unwrap_or(usize::MAX);
        let message = self.messages.get(index)?;
        let number = self.cursor;
        self.cursor += 1;
        self.unwritten -= message.len() + EACH;
        Some((number, message))
    }
}
