//! The receiving end of a subscription.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use crate::event::{Delivery, Event};
use crate::queue::{Item, Weighed};
use crate::subject::Pattern;
use crate::subscriber::{Subscriber, Taken};

/// A subscription. Dropping it ends it: requests that it has not answered fail with
/// [`ResponderLost`](crate::Error::ResponderLost) unless another responder has them, and messages in its
/// queue are discarded.
pub struct Subscription {
    subscriber: Arc<Subscriber>,
    upstream: Arc<dyn Upstream>,
    /// Items that were taken from the queue in one go, to be returned one by one.
    taken: Taken,
}

/// What is behind a subscription.
pub(crate) trait Upstream: Send + Sync {
    /// The subscription has taken a message of this size.
    fn taken(&self, subscriber: &Subscriber, size: usize);

    /// The subscription was dropped, or ended by its owner. Called once.
    fn dropped(&self, subscriber: &Arc<Subscriber>);
}

impl Subscription {
    pub(crate) fn new(subscriber: Arc<Subscriber>, upstream: Arc<dyn Upstream>) -> Self {
        Self { subscriber, upstream, taken: Taken::default() }
    }

    /// Returns a handle that ends the subscription before it is dropped.
    pub(crate) fn ender(&self) -> Ender {
        Ender { subscriber: self.subscriber.clone(), upstream: self.upstream.clone() }
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
        let budget = ready!(tokio::task::coop::poll_proceed(cx));
        let event = self.poll_event(cx);
        if event.is_ready() {
            budget.made_progress();
        }
        event
    }

    fn poll_event(&mut self, cx: &Context<'_>) -> Poll<Event> {
        loop {
            match self.taken.pop() {
                Some(Item::Message(delivery)) => {
                    self.upstream.taken(&self.subscriber, delivery.size());
                    return Poll::Ready(Event::Message(delivery));
                }
                Some(Item::Notice(reply)) => {
                    // A responder that does not read its cancellations hangs, and stays loaded.
                    self.subscriber.load.settle();
                    return Poll::Ready(Event::Cancel { reply: *reply });
                }
                Some(Item::Gap(lost)) => return Poll::Ready(Event::Gap { lost }),
                None => {}
            }
            if let Some(end) = ready!(self.subscriber.poll_take(&mut self.taken, cx)) {
                return Poll::Ready(Event::End(end));
            }
        }
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
        self.ender().end();
    }
}

/// Ends a subscription.
pub(crate) struct Ender {
    subscriber: Arc<Subscriber>,
    upstream: Arc<dyn Upstream>,
}

impl Ender {
    /// Ends the subscription, unless it was ended before.
    pub(crate) fn end(&self) {
        if self.subscriber.is_first_end() {
            self.upstream.dropped(&self.subscriber);
        }
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").field("pattern", self.pattern()).finish_non_exhaustive()
    }
}
