//! The receiving end of a subscription.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::message::Message;
use crate::subject::{Pattern, Subject};
use crate::subscriber::Subscriber;

/// A message that a subscription has received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The subject that it was published to.
    pub subject: Subject,
    /// The message. If it has a [`reply`](Message::reply), publish an answer to it.
    pub message: Message,
    /// The request that this is, if it is one.
    pub(crate) request: Option<u64>,
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

/// A subscription. Dropping it ends it: requests that it has not answered fail with
/// [`ResponderLost`](crate::Error::ResponderLost) unless another responder has them, and messages in its
/// queue are discarded.
pub struct Subscription {
    subscriber: Arc<Subscriber>,
    upstream: Arc<dyn Upstream>,
}

/// What is behind a subscription.
pub(crate) trait Upstream: Send + Sync {
    /// The subscription has taken a message of this size.
    fn taken(&self, subscriber: &Subscriber, size: usize);

    /// The subscription was dropped.
    fn dropped(&self, subscriber: &Arc<Subscriber>);
}

impl Subscription {
    pub(crate) fn new(subscriber: Arc<Subscriber>, upstream: Arc<dyn Upstream>) -> Self {
        Self { subscriber, upstream }
    }

    /// Returns the pattern.
    pub fn pattern(&self) -> &Pattern {
        &self.subscriber.pattern
    }

    /// Waits for the next event. After [`Event::End`], returns the same end again. Cancel-safe: if the
    /// future is dropped, nothing is lost.
    pub async fn next(&mut self) -> Event {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Polls for the next event. See [`next`](Self::next).
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        self.subscriber.poll_next(cx, &*self.upstream)
    }

    /// Waits for the next message, and skips gaps, which are logged, and cancellations. Returns `None` when
    /// the subscription has ended. Cancel-safe.
    pub async fn next_message(&mut self) -> Option<Delivery> {
        loop {
            match self.next().await {
                Event::Message(delivery) => return Some(delivery),
                Event::Gap { lost } => {
                    tracing::warn!(pattern = %self.pattern(), lost, "messages were lost");
                }
                Event::Cancel { .. } => {}
                Event::End(_) => return None,
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.upstream.dropped(&self.subscriber);
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").field("pattern", self.pattern()).finish_non_exhaustive()
    }
}
