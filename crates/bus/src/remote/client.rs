//! The client's side of a connection: a bus.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tieline_proto::ByteSize;
use tieline_transport::{
    Channel, CloseReason, Incoming, Receiver, ReceiverExt, SendError, SenderExt,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;

use super::violation::Violation;
use super::window::Window;
use super::wire::{Encoded, FromBroker, FromClient, WireOptions};
use super::{Frames, HANDSHAKE, MAX_OPERATION_BYTES, MAX_OPERATIONS, write};
use crate::bus::{Bus, Capabilities, Receipt, RequestOptions, SubscribeOptions};
use crate::error::Error;
use crate::event::{Delivery, End};
use crate::lock::lock;
use crate::message::Message;
use crate::queue::{Overflow, QueueLimits};
use crate::subject::{Pattern, Subject};
use crate::subscriber::{Found, Subscriber};
use crate::subscription::{Subscription, Upstream};

/// A bus whose broker is at the other end of a channel, where [`Broker::serve`](crate::Broker::serve) runs.
///
/// Over a resumable session, messages, requests and answers survive the loss of a connection: they are
/// delivered once, in order. If the session itself is lost, operations fail with [`Error::Disconnected`],
/// subscriptions end, and the program connects again.
///
/// Clones are handles to the same connection. When the last one is dropped, the connection and its
/// subscriptions end. A task of the runtime drives the connection.
///
/// Subscriptions have two queues of the requested length, one here and one in the broker, where messages
/// wait that do not fit into the first. A cancelled request counts for its group as answered once the
/// cancellation was sent to the responder's process.
#[derive(Clone)]
pub struct RemoteBus {
    shared: Arc<Shared>,
    _task: Arc<Task>,
}

/// The task that drives the connection.
struct Task {
    shared: Arc<Shared>,
    handle: AbortHandle,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
        self.shared.end(Error::Closed, &End::Closed);
    }
}

struct Shared {
    /// The frames to be written. It is not bounded by itself: operations in flight, subscriptions and windows
    /// are.
    frames: mpsc::UnboundedSender<Encoded>,
    operations: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    numbers: AtomicU64,
    max_message: ByteSize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pending: HashMap<u64, oneshot::Sender<Result<Reply, Error>>>,
    subscriptions: HashMap<u64, Subscribed>,
    /// Why the connection has ended.
    end: Option<Error>,
}

struct Subscribed {
    subscriber: Arc<Subscriber>,
    window: Window,
    /// The messages that were taken and not reported, and their size.
    taken: (u64, u64),
}

/// The outcome of an operation.
enum Reply {
    Published(u64),
    Answer(Message),
    Subscribed,
}

impl RemoteBus {
    /// Greets the broker at the other end of the channel.
    ///
    /// # Errors
    /// [`Error::Disconnected`] if the other side is not a broker of this version, does not answer within
    /// 20 s, or the line has ended.
    pub async fn connect(channel: impl Channel) -> Result<Self, Error> {
        let (mut sender, mut receiver) = channel.split();
        let welcome = async {
            let hello = FromClient::Hello.encode();
            sender.send(hello.head).await.map_err(disconnected)?;
            match receive(&mut receiver).await.map_err(disconnected)? {
                FromBroker::Welcome { max_message } => Ok(max_message),
                FromBroker::Bye { text } => Err(disconnected(text)),
                _ => Err(disconnected(Violation::NotHello)),
            }
        };
        let max_message = match tokio::time::timeout(HANDSHAKE, welcome).await {
            Ok(outcome) => outcome?,
            Err(_) => {
                return Err(disconnected(format!(
                    "no answer to the greeting within {HANDSHAKE:?}"
                )));
            }
        };
        let (frames, written) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            frames,
            operations: Arc::new(Semaphore::new(MAX_OPERATIONS)),
            bytes: Arc::new(Semaphore::new(MAX_OPERATION_BYTES)),
            numbers: AtomicU64::new(0),
            max_message: ByteSize::new(usize::try_from(max_message).unwrap_or(usize::MAX)),
            state: Mutex::default(),
        });
        let of_task = shared.clone();
        let handle = tokio::spawn(async move {
            let reason = tokio::select! {
                reason = read(&of_task, &mut receiver) => reason,
                error = write(Frames::Unbounded(written), &mut sender) => Ended::Unsent(error),
            };
            let reason: Arc<str> = reason.to_string().into();
            let error = Error::Disconnected { reason: reason.clone() };
            of_task.end(error, &End::Disconnected { reason });
        });
        let task = Task { shared: shared.clone(), handle: handle.abort_handle() };
        Ok(Self { shared, _task: Arc::new(task) })
    }

    /// Waits until this connection has room for an operation, and begins it.
    async fn begin(&self, bytes: usize) -> Result<Pending, Error> {
        let limit = self.shared.max_message;
        if bytes > limit.bytes() {
            return Err(Error::TooLarge { bytes, limit });
        }
        let permits = u32::try_from(bytes.min(MAX_OPERATION_BYTES)).unwrap_or(u32::MAX);
        let closed = |_| Error::Closed;
        let operation = self.shared.operations.clone().acquire_owned().await.map_err(closed)?;
        let bytes = self.shared.bytes.clone().acquire_many_owned(permits).await.map_err(closed)?;
        let id = self.shared.numbers.fetch_add(1, Ordering::Relaxed);
        let (reply, outcome) = oneshot::channel();
        let mut state = lock(&self.shared.state);
        if let Some(end) = &state.end {
            return Err(end.clone());
        }
        state.pending.insert(id, reply);
        drop(state);
        let (shared, is_request) = (self.shared.clone(), false);
        Ok(Pending { id, shared, outcome, is_request, _permits: [operation, bytes] })
    }
}

/// An operation that waits for its outcome. Dropping it ends a request.
struct Pending {
    id: u64,
    shared: Arc<Shared>,
    outcome: oneshot::Receiver<Result<Reply, Error>>,
    is_request: bool,
    _permits: [OwnedSemaphorePermit; 2],
}

impl Pending {
    async fn outcome(&mut self) -> Result<Reply, Error> {
        (&mut self.outcome).await.unwrap_or(Err(Error::Closed))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let is_open = lock(&self.shared.state).pending.remove(&self.id).is_some();
        if is_open && self.is_request {
            self.shared.send(&FromClient::Cancel { id: self.id });
        }
    }
}

impl Shared {
    fn send(&self, frame: &FromClient) {
        // After the end of the connection there is nothing to send to.
        let _ = self.frames.send(frame.encode());
    }

    /// Ends all operations and subscriptions.
    fn end(&self, error: Error, end: &End) {
        let mut state = lock(&self.state);
        if state.end.is_some() {
            return;
        }
        state.end = Some(error.clone());
        let pending = std::mem::take(&mut state.pending);
        let subscriptions = std::mem::take(&mut state.subscriptions);
        drop(state);
        pending.into_values().for_each(|it| drop(it.send(Err(error.clone()))));
        subscriptions.into_values().for_each(|it| it.subscriber.end(end.clone()));
    }

    /// Handles a frame of the broker.
    fn handle(&self, frame: FromBroker) -> Result<(), Ended> {
        let (id, outcome) = match frame {
            FromBroker::Welcome { .. } => return Err(Violation::NotHello.into()),
            FromBroker::Bye { text } => return Err(Ended::Bye(text)),
            FromBroker::Published { id, matched } => (id, Ok(Reply::Published(matched))),
            FromBroker::Answer { id, message } => (id, Ok(Reply::Answer(message))),
            FromBroker::Subscribed { id } => (id, Ok(Reply::Subscribed)),
            FromBroker::Failed { id, error } => (id, Err(error)),
            FromBroker::Deliver { id, subject, message } => {
                return self.deliver(id, subject, message);
            }
            FromBroker::Gap { id, lost } => {
                self.subscriber(id).into_iter().for_each(|it| it.mark_gap(lost));
                return Ok(());
            }
            FromBroker::Cancelled { id, reply } => {
                self.cancel(id, &reply);
                return Ok(());
            }
            FromBroker::Ended { id, is_too_slow } => {
                let end = if is_too_slow { End::TooSlow } else { End::Closed };
                self.subscriber(id).into_iter().for_each(|it| it.end(end.clone()));
                return Ok(());
            }
        };
        // An operation that was dropped has no place any more.
        if let Some(reply) = lock(&self.state).pending.remove(&id) {
            let _ = reply.send(outcome);
        }
        Ok(())
    }

    fn subscriber(&self, id: u64) -> Option<Arc<Subscriber>> {
        lock(&self.state).subscriptions.get(&id).map(|it| it.subscriber.clone())
    }

    fn deliver(&self, id: u64, subject: Subject, message: Message) -> Result<(), Ended> {
        let mut state = lock(&self.state);
        // The subscription may have been dropped.
        let Some(subscribed) = state.subscriptions.get_mut(&id) else { return Ok(()) };
        if !subscribed.window.is_open() {
            return Err(Violation::Window(id).into());
        }
        let size = message.payload.len();
        subscribed.window.sent(size);
        let subscriber = subscribed.subscriber.clone();
        drop(state);
        let request = message.reply.as_ref().and_then(Subject::inbox_of).flatten();
        subscriber.push(Delivery::new(subject, (message, size), request));
        Ok(())
    }

    fn cancel(&self, id: u64, reply: &Subject) {
        let request = reply.inbox_of().flatten();
        let (Some(subscriber), Some(request)) = (self.subscriber(id), request) else { return };
        if let Found::InQueue(size) = subscriber.cancel(request) {
            self.taken(&subscriber, size);
        }
    }
}

impl Upstream for Shared {
    fn taken(&self, subscriber: &Subscriber, size: usize) {
        let mut state = lock(&self.state);
        let Some(subscribed) = state.subscriptions.get_mut(&subscriber.id) else { return };
        let (messages, bytes) = (subscribed.taken.0 + 1, subscribed.taken.1 + size as u64);
        subscribed.taken = (messages, bytes);
        if subscribed.window.is_due(messages, bytes) {
            subscribed.window.taken(messages, bytes);
            subscribed.taken = (0, 0);
            self.send(&FromClient::Taken { id: subscriber.id, messages, bytes });
        }
    }

    fn dropped(&self, subscriber: &Arc<Subscriber>) {
        subscriber.discard();
        if lock(&self.state).subscriptions.remove(&subscriber.id).is_some() {
            self.send(&FromClient::Unsubscribe { id: subscriber.id });
        }
    }
}

impl Bus for RemoteBus {
    async fn publish(&self, subject: &Subject, message: Message) -> Result<Receipt, Error> {
        let mut pending = self.begin(message.size()).await?;
        let (id, subject) = (pending.id, subject.clone());
        self.shared.send(&FromClient::Publish { id, subject, message });
        match pending.outcome().await? {
            Reply::Published(matched) => {
                Ok(Receipt { matched: Some(usize::try_from(matched).unwrap_or(usize::MAX)) })
            }
            _ => Err(disconnected(Violation::NumberInUse(id))),
        }
    }

    async fn subscribe(
        &self,
        pattern: &Pattern,
        options: SubscribeOptions,
    ) -> Result<Subscription, Error> {
        if let Some(group) = &options.group {
            Subject::from_token(group).map_err(Error::Group)?;
        }
        let mut pending = self.begin(0).await?;
        let id = pending.id;
        // The window bounds this queue.
        let queue = QueueLimits { messages: usize::MAX, bytes: ByteSize::new(usize::MAX) };
        let queue = (queue, Overflow::Block);
        let subscriber = Arc::new(Subscriber::new((id, 0), pattern.clone(), None, queue));
        let subscribed = Subscribed {
            subscriber: subscriber.clone(),
            window: Window::new(options.queue),
            taken: (0, 0),
        };
        lock(&self.shared.state).subscriptions.insert(id, subscribed);
        // Dropping it, also together with this future, ends the subscription at the broker.
        let subscription = Subscription::new(subscriber, self.shared.clone());
        let options = WireOptions {
            group: options.group.unwrap_or_default(),
            messages: options.queue.messages as u64,
            bytes: options.queue.bytes.bytes() as u64,
            overflow: options.overflow,
        };
        self.shared.send(&FromClient::Subscribe { id, pattern: pattern.clone(), options });
        match pending.outcome().await? {
            Reply::Subscribed => Ok(subscription),
            _ => Err(disconnected(Violation::NumberInUse(id))),
        }
    }

    async fn request(
        &self,
        subject: &Subject,
        message: Message,
        mut options: RequestOptions,
    ) -> Result<Message, Error> {
        let after = options.timeout;
        let work = async {
            let mut pending = self.begin(message.size()).await?;
            pending.is_request = true;
            let (id, subject) = (pending.id, subject.clone());
            self.shared.send(&FromClient::Request { id, subject, message });
            match pending.outcome().await? {
                Reply::Answer(message) => Ok(message),
                _ => Err(disconnected(Violation::NumberInUse(id))),
            }
        };
        tokio::select! {
            biased;
            outcome = work => outcome,
            () = options.cancelled() => Err(Error::Cancelled { subject: subject.shared() }),
            () = tokio::time::sleep(after) => Err(Error::Timeout { subject: subject.shared(), after }),
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            max_message: self.shared.max_message,
            is_remote: true,
            is_durable: false,
            counts_matches: true,
        }
    }
}

/// Why a connection has ended.
enum Ended {
    Closed(CloseReason),
    Unsent(SendError),
    /// The broker has ended it.
    Bye(String),
    Violation(Violation),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed(reason) => reason.fmt(f),
            Self::Unsent(error) => error.fmt(f),
            Self::Bye(text) => write!(f, "the broker refuses this client: {text}"),
            Self::Violation(violation) => {
                write!(f, "the broker has broken the protocol: {violation}")
            }
        }
    }
}

impl From<Violation> for Ended {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

async fn read(shared: &Shared, receiver: &mut impl Receiver) -> Ended {
    loop {
        let handled = match receive(receiver).await {
            Ok(frame) => shared.handle(frame),
            Err(ended) => Err(ended),
        };
        if let Err(ended) = handled {
            return ended;
        }
    }
}

async fn receive(receiver: &mut impl Receiver) -> Result<FromBroker, Ended> {
    loop {
        match receiver.recv().await {
            Incoming::Message(frame) => return Ok(FromBroker::decode(frame)?),
            Incoming::Fault(fault) => return Err(Violation::Fault(fault.to_string()).into()),
            // The broker does not know this client any more.
            Incoming::Reset(reset) => return Err(Ended::Closed(reset.cause)),
            Incoming::End(reason) => return Err(Ended::Closed(reason)),
            _ => {}
        }
    }
}

fn disconnected(reason: impl std::fmt::Display) -> Error {
    Error::Disconnected { reason: reason.to_string().into() }
}
