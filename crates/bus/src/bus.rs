//! The operations that every bus has.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tieline_proto::ByteSize;
use tokio::sync::watch;

use crate::error::Error;
use crate::message::Message;
use crate::queue::{Overflow, QueueLimits};
use crate::subject::{Pattern, Subject};
use crate::subscription::Subscription;

/// Publishes messages, subscribes to them, and makes requests.
///
/// Messages that one task publishes one after the other arrive at each subscription in this order. There
/// is no order between publishers.
pub trait Bus: Send + Sync + 'static {
    /// Publishes a message, or an answer if the subject is the [`reply`](Message::reply) of a request.
    ///
    /// Waits while a queue that [blocks](Overflow::Block) is full. Cancel-safe: if the future of an
    /// embedded bus is dropped before it completes, nothing was published. A bus behind a connection may
    /// have sent the message.
    ///
    /// # Errors
    /// [`Error::Denied`], [`Error::TooLarge`], [`Error::Closed`], [`Error::Disconnected`]. Nothing was
    /// published, except that this is unknown after a disconnect.
    fn publish(
        &self,
        subject: &Subject,
        message: Message,
    ) -> impl Future<Output = Result<Receipt, Error>> + Send;

    /// Subscribes to the subjects that the pattern matches. The subscription receives what is published
    /// after this call has returned.
    ///
    /// Cancel-safe: if the future is dropped, there is no subscription. Dropping the subscription ends it.
    ///
    /// # Errors
    /// [`Error::Denied`], [`Error::Group`], [`Error::QueueTooLong`], [`Error::TooManySubscriptions`],
    /// [`Error::Closed`], [`Error::Disconnected`].
    fn subscribe(
        &self,
        pattern: &Pattern,
        options: SubscribeOptions,
    ) -> impl Future<Output = Result<Subscription, Error>> + Send;

    /// Publishes a request and waits for the first answer.
    ///
    /// Every matching subscription receives the request; of each group one member. If all their queues are
    /// full, the request waits for room. If the future is dropped, the request is cancelled: it is removed
    /// from the queues, and responders that have taken it receive
    /// [`Event::Cancel`](crate::Event::Cancel), as they do after a timeout.
    ///
    /// # Errors
    /// [`Error::NoResponders`] at once if no subscription matches; [`Error::Timeout`],
    /// [`Error::Cancelled`], [`Error::ResponderLost`], [`Error::TooManyRequests`], and those of
    /// [`publish`](Self::publish).
    fn request(
        &self,
        subject: &Subject,
        message: Message,
        options: RequestOptions,
    ) -> impl Future<Output = Result<Message, Error>> + Send;

    /// Returns what this bus can do.
    fn capabilities(&self) -> Capabilities;
}

/// The options of a subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// The name of a group, which must be one token of a subject. Each message goes to one member of the
    /// group: the one with the fewest unanswered requests, or among equals the one whose turn was longest
    /// ago. Subscriptions with different patterns may be in the same group.
    pub group: Option<String>,
    /// The bounds of the queue.
    pub queue: QueueLimits,
    /// What happens while the queue is full; by default the oldest messages are dropped.
    pub overflow: Overflow,
}

impl SubscribeOptions {
    /// Returns the options for a member of a group.
    pub fn group(name: &str) -> Self {
        Self { group: Some(name.to_owned()), ..Self::default() }
    }
}

/// The options of a request.
#[derive(Clone, Debug)]
pub struct RequestOptions {
    /// How long to wait, including the time for room in a queue; 30 s by default.
    pub timeout: Duration,
    cancel: Option<watch::Receiver<bool>>,
}

impl Default for RequestOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), cancel: None }
    }
}

impl RequestOptions {
    /// Returns options with this timeout.
    pub fn timeout(timeout: Duration) -> Self {
        Self { timeout, ..Self::default() }
    }

    /// Returns these options and a handle that cancels the requests made with them. Dropping the handle
    /// cancels nothing.
    pub fn cancellable(mut self) -> (Self, CancelHandle) {
        let (handle, cancel) = watch::channel(false);
        self.cancel = Some(cancel);
        (self, CancelHandle(handle))
    }

    /// Waits until the request is cancelled.
    pub(crate) async fn cancelled(&mut self) {
        if let Some(cancel) = &mut self.cancel {
            if cancel.wait_for(|is_cancelled| *is_cancelled).await.is_ok() {
                return;
            }
        }
        std::future::pending().await
    }
}

/// Cancels requests that are in flight.
#[derive(Clone, Debug)]
pub struct CancelHandle(watch::Sender<bool>);

impl CancelHandle {
    /// Cancels the requests: they return [`Error::Cancelled`], also those that are made later.
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }
}

/// The receipt for a published message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// How many subscriptions the message was for, counting one for each group, including those that have
    /// lost it because their queue was full. For an answer, 1 if the request was waiting for it. `None` if
    /// the bus does not know.
    pub matched: Option<usize>,
}

/// What a bus can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The largest message: its payload and headers.
    pub max_message: ByteSize,
    /// Whether the bus is in another process.
    pub is_remote: bool,
    /// Whether messages outlive the bus's process.
    pub is_durable: bool,
    /// Whether [`Receipt::matched`] is known.
    pub counts_matches: bool,
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The object-safe form of [`Bus`], which every bus implements.
pub trait DynBus: Send + Sync + 'static {
    /// See [`Bus::publish`].
    fn publish<'a>(
        &'a self,
        subject: &'a Subject,
        message: Message,
    ) -> BoxFuture<'a, Result<Receipt, Error>>;

    /// See [`Bus::subscribe`].
    fn subscribe<'a>(
        &'a self,
        pattern: &'a Pattern,
        options: SubscribeOptions,
    ) -> BoxFuture<'a, Result<Subscription, Error>>;

    /// See [`Bus::request`].
    fn request<'a>(
        &'a self,
        subject: &'a Subject,
        message: Message,
        options: RequestOptions,
    ) -> BoxFuture<'a, Result<Message, Error>>;

    /// See [`Bus::capabilities`].
    fn capabilities(&self) -> Capabilities;
}

impl<B: Bus> DynBus for B {
    fn publish<'a>(
        &'a self,
        subject: &'a Subject,
        message: Message,
    ) -> BoxFuture<'a, Result<Receipt, Error>> {
        Box::pin(Bus::publish(self, subject, message))
    }

    fn subscribe<'a>(
        &'a self,
        pattern: &'a Pattern,
        options: SubscribeOptions,
    ) -> BoxFuture<'a, Result<Subscription, Error>> {
        Box::pin(Bus::subscribe(self, pattern, options))
    }

    fn request<'a>(
        &'a self,
        subject: &'a Subject,
        message: Message,
        options: RequestOptions,
    ) -> BoxFuture<'a, Result<Message, Error>> {
        Box::pin(Bus::request(self, subject, message, options))
    }

    fn capabilities(&self) -> Capabilities {
        Bus::capabilities(self)
    }
}
