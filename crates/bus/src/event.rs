//! What a subscription receives.

use std::sync::Arc;

use bytes::Bytes;

use crate::message::Message;
use crate::queue::Weighed;
use crate::subject::Subject;

/// A message that a subscription has received. Cloning is cheap, because all subscriptions share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery(Arc<Published>);

/// A message and where it was published to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Published {
    subject: Subject,
    message: Message,
    /// The request that this is, if it is one.
    request: Option<u64>,
    size: usize,
}

impl Delivery {
    pub(crate) fn new(
        subject: Subject,
        (message, size): (Message, usize),
        request: Option<u64>,
    ) -> Self {
        Self(Arc::new(Published { subject, message, request, size }))
    }

    /// Returns the subject that the message was published to.
    pub fn subject(&self) -> &Subject {
        &self.0.subject
    }

    /// Returns the message.
    pub fn message(&self) -> &Message {
        &self.0.message
    }

    /// Returns the content of the message.
    pub fn payload(&self) -> &Bytes {
        &self.0.message.payload
    }

    /// Returns the subject to publish an answer to, if one is expected.
    pub fn reply(&self) -> Option<&Subject> {
        self.0.message.reply.as_ref()
    }

    /// Returns the message, which shares the payload.
    pub fn into_message(self) -> Message {
        Arc::unwrap_or_clone(self.0).message
    }

    pub(crate) fn request(&self) -> Option<u64> {
        self.0.request
    }
}

impl Weighed for Delivery {
    fn size(&self) -> usize {
        self.0.size
    }
}

/// What a subscription receives.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A message.
    Message(Delivery),
    /// Messages were lost here, because the queue was full.
    Gap {
        /// Their number.
        lost: u64,
    },
    /// The requester no longer waits for the answer to this request, which was received before.
    Cancel {
        /// The subject to which the answer was to be published.
        reply: Subject,
    },
    /// The subscription has ended; nothing follows.
    End(End),
}

/// Why a subscription has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// The bus was closed.
    Closed,
    /// The queue was full, and the subscription [disconnects](crate::Overflow::Disconnect) in this case.
    TooSlow,
    /// The connection to the broker has ended.
    Disconnected {
        /// Why.
        reason: Arc<str>,
    },
}
