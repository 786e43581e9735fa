//! The received items that wait for the consumer.

use std::collections::VecDeque;

use bytes::Bytes;
use tieline_proto::Fault;
use tieline_proto::session::Sequence;
use tieline_transport::{CloseReason, Reset};

/// How many received messages may wait for the consumer.
const INBOUND_MESSAGES: usize = 2048;
/// How many bytes of received messages may wait for the consumer, plus one message of any size. By
/// default this is more than the other end sends without an acknowledgement, so reading continues and
/// pings are answered even if the consumer takes nothing.
const INBOUND_BYTES: usize = 32 << 20;

/// An item that waits for the consumer.
pub(in crate::session) enum Item {
    Message(Sequence, Bytes),
    Fault(Sequence, Fault),
    /// The session was replaced by another one, which has this generation.
    Reset(u64, Box<Reset>),
    End(CloseReason),
}

impl Item {
    /// Returns the length of the message in bytes.
    pub(in crate::session) fn length(&self) -> u64 {
        match self {
            Self::Message(_, message) => message.len() as u64,
            Self::Fault(..) | Self::Reset(..) | Self::End(_) => 0,
        }
    }
}

/// A bounded queue of received items. The task stops reading when it is full. A full queue gets at most one
/// reset and one end.
#[derive(Default)]
pub(super) struct Inbound {
    items: VecDeque<Item>,
    bytes: usize,
    /// The bytes that the receiver took last, all of which it may still hold.
    taken_bytes: usize,
    is_receiver_gone: bool,
}

impl Inbound {
    pub(super) fn is_full(&self) -> bool {
        self.items.len() >= INBOUND_MESSAGES || self.bytes >= INBOUND_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn is_receiver_gone(&self) -> bool {
        self.is_receiver_gone
    }

    /// Returns the bytes that wait, and those that the receiver may still hold.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes + self.taken_bytes
    }

    /// Returns the bytes of waiting messages.
    pub(super) fn unread(&self) -> u64 {
        self.items.iter().map(Item::length).sum()
    }

    /// Queues an item. Without a receiver it is dropped, and not acknowledged. Consecutive resets become one:
    /// sessions may be replaced while nothing is read.
    pub(super) fn push(&mut self, item: Item) {
        if self.is_receiver_gone {
            return;
        }
        if let (Some(Item::Reset(last, before)), Item::Reset(generation, reset)) =
            (self.items.back_mut(), &item)
        {
            *last = *generation;
            before.epoch = reset.epoch;
            before.lost = before.lost.saturating_add(reset.lost);
            return;
        }
        if let Item::Message(_, message) = &item {
            self.bytes += message.len();
        }
        self.items.push_back(item);
    }

    /// Moves all items to the receiver, which has returned everything that it took before. Returns how
    /// many bytes it held before or holds now, whichever is more.
    pub(super) fn take(&mut self, into: &mut VecDeque<Item>) -> usize {
        std::mem::swap(&mut self.items, into);
        let before = std::mem::replace(&mut self.taken_bytes, self.bytes);
        self.bytes = 0;
        before.max(self.taken_bytes)
    }

    /// Handles the drop of the receiver.
    pub(super) fn close(&mut self) {
        self.is_receiver_gone = true;
        self.items.clear();
        (self.bytes, self.taken_bytes) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_without_a_message_in_between_take_one_place() {
        let mut inbound = Inbound::default();
        let reset = |generation, cause| {
            Item::Reset(generation, Box::new(Reset { epoch: generation + 1, lost: 2, cause }))
        };
        inbound.push(Item::Message(1, Bytes::from_static(b"m")));
        inbound.push(reset(1, CloseReason::TimedOut));
        for generation in 2..=3 {
            inbound.push(reset(generation, CloseReason::Stalled));
        }
        inbound.push(Item::Message(1, Bytes::from_static(b"m")));
        inbound.push(reset(4, CloseReason::Stalled));
        let mut taken = VecDeque::new();
        inbound.take(&mut taken);
        let resets: Vec<_> = taken
            .iter()
            .map(|item| match item {
                Item::Reset(generation, reset) => {
                    Some((*generation, reset.epoch, reset.lost, reset.cause.to_string()))
                }
                _ => None,
            })
            .collect();
        let first = (3, 4, 6, CloseReason::TimedOut.to_string());
        let second = (4, 5, 2, CloseReason::Stalled.to_string());
        assert_eq!(resets, [None, Some(first), None, Some(second)]);
    }
}
