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
    Reset(Box<Reset>),
    End(CloseReason),
}

impl Item {
    /// Returns the length of the message in bytes.
    pub(in crate::session) fn length(&self) -> u64 {
        match self {
            Self::Message(_, message) => message.len() as u64,
            Self::Fault(..) | Self::Reset(_) | Self::End(_) => 0,
        }
    }
}

/// A bounded queue of received items. The task stops reading when it is full.
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

    /// Queues an item. Without a receiver it is dropped, and not acknowledged.
    pub(super) fn push(&mut self, item: Item) {
        if self.is_receiver_gone {
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
