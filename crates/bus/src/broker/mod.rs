//! The embedded broker: a bus within one process.

mod client;
mod deliver;
mod requests;
mod table;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use tieline_proto::ByteSize;

pub use client::{Client, ClientLimits};

use self::requests::Requests;
use self::table::Table;
use crate::bus::{Bus, Capabilities, Receipt, RequestOptions, SubscribeOptions};
use crate::error::Error;
use crate::event::End;
use crate::lock::{lock, read, write};
use crate::message::Message;
use crate::queue::QueueLimits;
use crate::rights::Rights;
use crate::subject::{Pattern, Subject};
use crate::subscriber::Subscriber;
use crate::subscription::Subscription;

/// The limits of a [`Broker`].
#[derive(Clone, Copy, Debug)]
pub struct BrokerConfig {
    /// The largest message, with its headers; 8 MiB by default.
    pub max_message: ByteSize,
    /// The maximum number of subscriptions of all clients together; 10,000 by default.
    pub max_subscriptions: usize,
    /// The maximum number of requests of all clients that wait for an answer; 65,536 by default.
    pub max_requests: usize,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self { max_message: ByteSize::mib(8), max_subscriptions: 10_000, max_requests: 65_536 }
    }
}

/// A bus within one process.
///
/// Clones are handles to the same broker, which may use all subjects except inboxes; other
/// [clients](Self::client) have rights of their own. When the last handle is dropped, the broker is
/// [closed](Self::close).
///
/// A broker has no task. Publishing puts the message into the queues of the subscriptions, which share its
/// payload.
#[derive(Clone)]
pub struct Broker {
    client: Client,
    closer: Arc<Closer>,
}

/// Figures about a broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerStats {
    /// The number of subscriptions.
    pub subscriptions: usize,
    /// The number of requests that wait for an answer.
    pub requests: usize,
    /// How many messages were lost because the queue of a subscription was full, counted for each
    /// subscription.
    pub lost: u64,
    /// How many answers arrived after their request had ended.
    pub late_answers: u64,
}

impl Broker {
    /// Creates a broker.
    pub fn new(config: BrokerConfig) -> Self {
        let shared = Arc::new(Shared {
            config,
            table: RwLock::default(),
            requests: Mutex::default(),
            clients: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            late_answers: AtomicU64::new(0),
        });
        let limits = ClientLimits {
            subscriptions: usize::MAX,
            requests: usize::MAX,
            queue: QueueLimits { messages: 65_536, bytes: ByteSize::mib(64) },
        };
        let client = Client::new(shared.clone(), Rights::all(), limits);
        Self { client, closer: Arc::new(Closer(shared)) }
    }

    /// Creates a client with its own rights and limits. It does not keep the broker open.
    pub fn client(&self, rights: Rights, limits: ClientLimits) -> Client {
        Client::new(self.closer.0.clone(), rights, limits)
    }

    /// Closes the broker: subscriptions end after what is in their queues, and requests fail.
    pub fn close(&self) {
        self.closer.0.close();
    }

    /// Returns figures about the broker.
    pub fn stats(&self) -> BrokerStats {
        let shared = &self.closer.0;
        BrokerStats {
            subscriptions: read(&shared.table).len(),
            requests: lock(&shared.requests).len(),
            lost: shared.lost.load(Ordering::Relaxed),
            late_answers: shared.late_answers.load(Ordering::Relaxed),
        }
    }
}

impl Default for Broker {
    fn default() -> Self {
        Self::new(BrokerConfig::default())
    }
}

impl Bus for Broker {
    async fn publish(&self, subject: &Subject, message: Message) -> Result<Receipt, Error> {
        self.client.publish(subject, message).await
    }

    async fn subscribe(
        &self,
        pattern: &Pattern,
        options: SubscribeOptions,
    ) -> Result<Subscription, Error> {
        self.client.subscribe(pattern, options).await
    }

    async fn request(
        &self,
        subject: &Subject,
        message: Message,
        options: RequestOptions,
    ) -> Result<Message, Error> {
        self.client.request(subject, message, options).await
    }

    fn capabilities(&self) -> Capabilities {
        self.client.capabilities()
    }
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// Closes the broker when the last handle is dropped.
struct Closer(Arc<Shared>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The state of a broker. Lock order: `table`, a group's balance, `requests`, a subscriber.
struct Shared {
    config: BrokerConfig,
    table: RwLock<Table>,
    requests: Mutex<Requests>,
    clients: AtomicU64,
    lost: AtomicU64,
    late_answers: AtomicU64,
}

impl Shared {
    fn close(&self) {
        let subscribers = write(&self.table).close();
        subscribers.iter().for_each(|it| it.end(End::Closed));
        let requests = lock(&self.requests).close();
        requests.into_iter().for_each(|it| it.fail(Error::Closed));
    }

    /// Removes a subscription. Its requests fail unless other responders have them; `untaken` are the
    /// requests that were still in its queue.
    fn unsubscribe(&self, subscriber: &Arc<Subscriber>, untaken: &[u64]) {
        if write(&self.table).remove(subscriber) {
            let failed = lock(&self.requests).responder_ended(subscriber, untaken);
            failed.into_iter().for_each(|it| it.fail_as_lost());
        }
    }

    /// Ends a request without an answer. Its responders no longer need to answer.
    fn abandon(&self, request: u64) {
        let Some(pending) = lock(&self.requests).remove(request) else { return };
        pending.responders.iter().for_each(|it| requests::withdraw(it, request));
    }
}
