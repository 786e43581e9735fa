//! A client of an embedded broker, with its rights and limits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use super::Shared;
use super::deliver::deliver;
use super::requests::withdraw;
use super::table::Route;
use crate::bus::{Bus, Capabilities, Receipt, RequestOptions, SubscribeOptions};
use crate::error::{Error, Operation};
use crate::lock::{lock, write};
use crate::message::Message;
use crate::queue::QueueLimits;
use crate::rights::{Rights, denied};
use crate::subject::{Pattern, Subject};
use crate::subscriber::Subscriber;
use crate::subscription::{Subscription, Upstream};

/// The limits of one client of a broker.
#[derive(Clone, Copy, Debug)]
pub struct ClientLimits {
    /// The maximum number of subscriptions; 1,024 by default.
    pub subscriptions: usize,
    /// The maximum number of requests that wait for an answer; 1,024 by default.
    pub requests: usize,
    /// The longest queue of a subscription; 256 messages and 4 MiB by default.
    pub queue: QueueLimits,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self { subscriptions: 1024, requests: 1024, queue: QueueLimits::default() }
    }
}

/// A client of a [`Broker`](crate::Broker), with its own [`Rights`] and limits. Clones are the same client.
/// Its operations fail once the broker is closed.
#[derive(Clone)]
pub struct Client {
    state: Arc<ClientState>,
}

struct ClientState {
    shared: Arc<Shared>,
    id: u64,
    rights: Rights,
    limits: ClientLimits,
    subscriptions: AtomicUsize,
    requests: AtomicUsize,
    /// The subject that was published to last, and its route, which saves the search in the table.
    recent: Mutex<Option<(Subject, Arc<Route>)>>,
}

impl Client {
    pub(super) fn new(shared: Arc<Shared>, rights: Rights, limits: ClientLimits) -> Self {
        let id = shared.clients.fetch_add(1, Ordering::Relaxed);
        let (subscriptions, requests) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let recent = Mutex::default();
        let state = ClientState { shared, id, rights, limits, subscriptions, requests, recent };
        Self { state: Arc::new(state) }
    }

    /// Returns the size of the message if it is within the limit.
    fn check_size(&self, message: &Message) -> Result<usize, Error> {
        let (bytes, limit) = (message.size(), self.state.shared.config.max_message);
        if bytes > limit.bytes() { Err(Error::TooLarge { bytes, limit }) } else { Ok(bytes) }
    }

    /// Delivers a message if that neither waits nor chooses. Returns the message otherwise.
    fn publish_now(
        &self,
        subject: &Subject,
        (message, size): (Message, usize),
    ) -> Result<Result<usize, Message>, Error> {
        let shared = &self.state.shared;
        // While another thread uses the place, or a task that this one wakes, the table is searched.
        let mut recent = self.state.recent.try_lock().ok();
        let known = recent.as_deref().and_then(Option::as_ref);
        let known = known.filter(|(known, route)| known == subject && route.is_current());
        let found;
        let route = match known {
            Some((_, route)) => route,
            None => {
                found = shared.route(subject)?;
                if let Some(recent) = recent.as_deref_mut() {
                    *recent = Some((subject.clone(), found.clone()));
                }
                &found
            }
        };
        if !route.is_simple {
            return Ok(Err(message));
        }
        Ok(Ok(shared.deliver_to_all(&route.plain, subject, (message, size))))
    }

    /// Settles a request with its answer. An answer after the end of its request is only counted.
    fn answer(
        &self,
        subject: &Subject,
        request: Option<u64>,
        message: Message,
    ) -> Result<Receipt, Error> {
        let shared = &self.state.shared;
        let answered = request.map(|it| (it, lock(&shared.requests).answered(it, self.state.id)));
        let (request, pending) = match answered {
            Some((request, Ok(Some(pending)))) => (request, pending),
            Some((_, Err(()))) => return Err(denied(Operation::Publish, subject.as_str())),
            _ => {
                shared.late_answers.fetch_add(1, Ordering::Relaxed);
                return Ok(Receipt { matched: Some(0) });
            }
        };
        for responder in &pending.responders {
            if responder.client == self.state.id {
                responder.load.settle();
            } else {
                withdraw(responder, request);
            }
        }
        pending.answer(message);
        Ok(Receipt { matched: Some(1) })
    }

    fn subscribe_now(
        &self,
        pattern: &Pattern,
        options: SubscribeOptions,
    ) -> Result<Subscription, Error> {
        let state = &self.state;
        state.rights.check_subscribe(pattern)?;
        if let Some(group) = &options.group {
            Subject::from_token(group).map_err(Error::Group)?;
        }
        let QueueLimits { messages, bytes } = state.limits.queue;
        if options.queue.messages > messages || options.queue.bytes > bytes {
            return Err(Error::QueueTooLong { messages, bytes });
        }
        let limit = state.limits.subscriptions;
        let more = |count| (count < limit).then_some(count + 1);
        let counted = state.subscriptions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.map_err(|_| Error::TooManySubscriptions { limit, of_client: true })?;
        let added = state.add(pattern, options);
        if added.is_err() {
            state.subscriptions.fetch_sub(1, Ordering::Relaxed);
        }
        Ok(Subscription::new(added?, state.clone()))
    }
}

impl Bus for Client {
    async fn publish(&self, subject: &Subject, message: Message) -> Result<Receipt, Error> {
        let size = self.check_size(&message)?;
        if let Some(request) = subject.inbox_of() {
            return self.answer(subject, request, message);
        }
        self.state.rights.check_publish(subject)?;
        let matched = match self.publish_now(subject, (message, size))? {
            Ok(matched) => matched,
            Err(message) => deliver(&self.state.shared, subject, message, None).await?,
        };
        Ok(Receipt { matched: Some(matched) })
    }

    async fn subscribe(
        &self,
        pattern: &Pattern,
        options: SubscribeOptions,
    ) -> Result<Subscription, Error> {
        self.subscribe_now(pattern, options)
    }

    async fn request(
        &self,
        subject: &Subject,
        mut message: Message,
        mut options: RequestOptions,
    ) -> Result<Message, Error> {
        self.check_size(&message)?;
        self.state.rights.check_publish(subject)?;
        let shared = &self.state.shared;
        let _counted = CountedRequest::new(&self.state)?;
        let most = shared.config.max_requests;
        let (number, answer) = lock(&shared.requests).add(subject, most)?;
        let _withdrawn = Withdrawn { shared, number };
        message.reply = Some(Subject::inbox(number));
        let after = options.timeout;
        let work = async {
            if deliver(shared, subject, message, Some(number)).await? == 0 {
                return Err(Error::NoResponders { subject: subject.shared() });
            }
            answer.await.unwrap_or(Err(Error::Closed))
        };
        tokio::select! {
            biased;
            outcome = work => outcome,
            () = options.cancelled() => Err(Error::Cancelled { subject: subject.shared() }),
            () = expiry(after) => {
                Err(Error::Timeout { subject: subject.shared(), after })
            }
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            max_message: self.state.shared.config.max_message,
            is_remote: false,
            is_durable: false,
            counts_matches: true,
        }
    }
}

impl ClientState {
    fn add(&self, pattern: &Pattern, options: SubscribeOptions) -> Result<Arc<Subscriber>, Error> {
        let mut table = write(&self.shared.table);
        let limit = self.shared.config.max_subscriptions;
        if table.is_closed() {
            return Err(Error::Closed);
        }
        if table.len() >= limit {
            return Err(Error::TooManySubscriptions { limit, of_client: false });
        }
        let (id, group) = table.prepare(options.group.as_deref());
        let queue = (options.queue, options.overflow);
        let subscriber = Arc::new(Subscriber::new((id, self.id), pattern.clone(), group, queue));
        table.insert(subscriber.clone());
        drop(table);
        if let Some(group) = &subscriber.group {
            group.wake();
        }
        Ok(subscriber)
    }
}

impl Upstream for ClientState {
    fn taken(&self, _: &Subscriber, _: usize) {}

    fn dropped(&self, subscriber: &Arc<Subscriber>) {
        self.subscriptions.fetch_sub(1, Ordering::Relaxed);
        let untaken = subscriber.discard();
        self.shared.unsubscribe(subscriber, &untaken);
    }
}

/// Waits for the timeout of a request. The first poll only schedules another one, because a responder in
/// the same runtime may answer before, and then there is no need for a timer, whose registration may be a
/// system call.
async fn expiry(after: Duration) {
    let mut is_first = true;
    std::future::poll_fn(|cx| {
        if !std::mem::take(&mut is_first) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    tokio::time::sleep(after).await;
}

/// Counts a request of the client until it is dropped.
struct CountedRequest<'a>(&'a AtomicUsize);

impl<'a> CountedRequest<'a> {
    fn new(state: &'a ClientState) -> Result<Self, Error> {
        let limit = state.limits.requests;
        if state.requests.fetch_add(1, Ordering::Relaxed) >= limit {
            state.requests.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::TooManyRequests { limit });
        }
        Ok(Self(&state.requests))
    }
}

impl Drop for CountedRequest<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Abandons a request when its future ends, unless it was answered.
struct Withdrawn<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for Withdrawn<'_> {
    fn drop(&mut self) {
        self.shared.abandon(self.number);
    }
}
