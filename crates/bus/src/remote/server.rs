//! The broker's side of a connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tieline_proto::ByteSize;
use tieline_transport::{
    Channel, CloseReason, Incoming, Receiver, ReceiverExt, SendError, SenderExt,
};
use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use super::in_flight::{InFlight, Operation};
use super::violation::Violation;
use super::window::Window;
use super::wire::{Encoded, FromBroker, FromClient, WireOptions};
use super::{Frames, HANDSHAKE, MAX_OPERATIONS, write};
use crate::broker::{Broker, Client, ClientLimits};
use crate::bus::{Bus, RequestOptions, SubscribeOptions};
use crate::event::{End, Event};
use crate::lock::lock;
use crate::message::Message;
use crate::queue::QueueLimits;
use crate::rights::Rights;
use crate::subject::{Pattern, Subject};
use crate::subscription::{Ender, Subscription};

/// The maximum number of frames that wait to be written, each with at most one message.
const MAX_FRAMES: usize = 8;

/// How long to wait until the client has received why its connection ends.
const FAREWELL: Duration = Duration::from_secs(5);

impl Broker {
    /// Serves a remote client, a [`RemoteBus`](crate::RemoteBus), until it disconnects. The channel's framing
    /// must carry binary messages. If the channel is a resumable session (crate `tieline-link`), the client
    /// loses nothing when its connection breaks.
    ///
    /// The caller decides the rights, by the principal that the channel's control returns.
    /// [`Rights::user`] suits processes of the same user, which are the only ones that a Unix socket admits
    /// by default.
    ///
    /// Dropping the future disconnects the client, and ends its subscriptions and requests.
    ///
    /// # Errors
    /// The client has broken the protocol. It was told how, and only its connection has ended.
    pub async fn serve(
        &self,
        channel: impl Channel,
        rights: Rights,
        limits: ClientLimits,
    ) -> Result<CloseReason, Violation> {
        let (mut sender, mut receiver) = channel.split();
        let (frames, written) = mpsc::channel(MAX_FRAMES);
        let (publications, published) = mpsc::channel(2 * MAX_OPERATIONS);
        let client = self.client(rights, limits);
        let mut connection = Connection {
            client: client.clone(),
            frames: frames.clone(),
            publications,
            in_flight: InFlight::default(),
            requests: Arc::default(),
            subscriptions: HashMap::new(),
            tasks: JoinSet::new(),
        };
        let outcome = tokio::select! {
            outcome = connection.read(&mut receiver) => outcome,
            reason = publish(client, published, frames) => reason,
            error = write(Frames::Bounded(written), &mut sender) => match error {
                SendError::Closed(reason) => Ok(*reason),
                error => Err(Violation::Fault(error.to_string())),
            },
        };
        // Subscriptions and requests end before the client can know.
        drop(connection);
        if let Err(violation) = &outcome {
            tracing::debug!(%violation, "a client of the bus has broken the protocol");
            let bye = FromBroker::Bye { text: violation.to_string() }.encode();
            let farewell = async {
                let _ = super::feed(&mut sender, bye).await;
                let _ = sender.close().await;
                // Until the client has received it and closed the line.
                while !matches!(receiver.recv().await, Incoming::End(_)) {}
            };
            let _ = tokio::time::timeout(FAREWELL, farewell).await;
        }
        outcome
    }
}

/// What a client has asked for.
struct Connection {
    client: Client,
    frames: mpsc::Sender<Encoded>,
    publications: mpsc::Sender<Publication>,
    in_flight: InFlight,
    requests: Arc<Mutex<HashMap<u64, AbortHandle>>>,
    subscriptions: HashMap<u64, Subscribed>,
    tasks: JoinSet<()>,
}

struct Publication {
    id: u64,
    subject: Subject,
    message: Message,
    operation: Operation,
}

struct Subscribed {
    window: Arc<(Mutex<Window>, Notify)>,
    ender: Ender,
    task: AbortHandle,
}

impl Drop for Subscribed {
    fn drop(&mut self) {
        self.task.abort();
        // The task may be dropped later, but the subscription ends now.
        self.ender.end();
    }
}

impl Connection {
    async fn read(&mut self, receiver: &mut impl Receiver) -> Result<CloseReason, Violation> {
        let mut is_first = true;
        loop {
            let incoming = if is_first {
                let first = tokio::time::timeout(HANDSHAKE, receiver.recv()).await;
                first.map_err(|_| Violation::NotHello)?
            } else {
                receiver.recv().await
            };
            let frame = match incoming {
                Incoming::Message(frame) => match FromClient::decode(frame) {
                    Err(Violation::Malformed(_)) if is_first => return Err(Violation::NotHello),
                    decoded => decoded?,
                },
                Incoming::Fault(fault) => return Err(Violation::Fault(fault.to_string())),
                Incoming::End(reason) => return Ok(reason),
                Incoming::Reset(reset) => return Ok(reset.cause),
                _ => continue,
            };
            if is_first != matches!(frame, FromClient::Hello) {
                return Err(Violation::NotHello);
            }
            is_first = false;
            // Finished tasks leave nothing behind.
            while self.tasks.try_join_next().is_some() {}
            self.handle(frame).await?;
        }
    }

    async fn handle(&mut self, frame: FromClient) -> Result<(), Violation> {
        match frame {
            FromClient::Hello => {
                let max_message = self.client.capabilities().max_message.bytes() as u64;
                self.send(&FromBroker::Welcome { max_message }).await;
            }
            FromClient::Publish { id, subject, message } => {
                let operation = self.in_flight.begin(message.payload.len())?;
                let publication = Publication { id, subject, message, operation };
                if publication.subject.inbox_of().is_some() {
                    // An answer never waits, so it must not wait for other publications.
                    publication.carry_out(&self.client, &self.frames).await;
                } else if self.publications.try_send(publication).is_err() {
                    return Err(Violation::TooMuchInFlight);
                }
            }
            FromClient::Request { id, subject, message } => {
                let operation = self.in_flight.begin(message.payload.len())?;
                self.request(id, subject, message, operation)?;
            }
            FromClient::Cancel { id } => {
                if let Some(task) = lock(&self.requests).remove(&id) {
                    task.abort();
                }
            }
            FromClient::Subscribe { id, pattern, options } => {
                self.subscribe(id, &pattern, options).await?;
            }
            FromClient::Unsubscribe { id } => drop(self.subscriptions.remove(&id)),
            FromClient::Taken { id, messages, bytes } => {
                // The subscription may have ended in the meantime.
                if let Some(subscribed) = self.subscriptions.get(&id) {
                    let (window, opened) = &*subscribed.window;
                    if !lock(window).taken(messages, bytes) {
                        return Err(Violation::Window(id));
                    }
                    opened.notify_one();
                }
            }
        }
        Ok(())
    }

    /// Queues a frame. The queue ends only together with this connection.
    async fn send(&self, frame: &FromBroker) {
        let _ = self.frames.send(frame.encode()).await;
    }

    fn request(
        &mut self,
        id: u64,
        subject: Subject,
        message: Message,
        operation: Operation,
    ) -> Result<(), Violation> {
        let mut requests = lock(&self.requests);
        if requests.contains_key(&id) {
            return Err(Violation::NumberInUse(id));
        }
        let (client, frames, open) =
            (self.client.clone(), self.frames.clone(), self.requests.clone());
        let task = self.tasks.spawn(async move {
            // The client keeps the time, and cancels.
            let options = RequestOptions::timeout(Duration::MAX);
            let outcome = client.request(&subject, message, options).await;
            lock(&open).remove(&id);
            drop(operation);
            let frame = match outcome {
                Ok(message) => FromBroker::Answer { id, message },
                Err(error) => FromBroker::Failed { id, error },
            };
            let _ = frames.send(frame.encode()).await;
        });
        requests.insert(id, task);
        Ok(())
    }

    async fn subscribe(
        &mut self,
        id: u64,
        pattern: &Pattern,
        options: WireOptions,
    ) -> Result<(), Violation> {
        // A subscription that has ended by itself is still in the table until the client drops it.
        if self.subscriptions.contains_key(&id) {
            return Err(Violation::NumberInUse(id));
        }
        let size = |it: u64| usize::try_from(it).unwrap_or(usize::MAX);
        let (messages, bytes) = (size(options.messages), ByteSize::new(size(options.bytes)));
        let queue = QueueLimits { messages, bytes };
        let group = Some(options.group).filter(|it| !it.is_empty());
        let options = SubscribeOptions { group, queue, overflow: options.overflow };
        let subscription = match self.client.subscribe(pattern, options).await {
            Ok(subscription) => subscription,
            Err(error) => {
                self.send(&FromBroker::Failed { id, error }).await;
                return Ok(());
            }
        };
        self.send(&FromBroker::Subscribed { id }).await;
        let window = Arc::new((Mutex::new(Window::new(queue)), Notify::new()));
        let ender = subscription.ender();
        let frames = self.frames.clone();
        let task = self.tasks.spawn(forward(id, subscription, window.clone(), frames));
        self.subscriptions.insert(id, Subscribed { window, ender, task });
        Ok(())
    }
}

impl Publication {
    async fn carry_out(self, client: &Client, frames: &mpsc::Sender<Encoded>) {
        let Self { id, subject, message, operation } = self;
        let outcome = client.publish(&subject, message).await;
        // Before the client can know.
        drop(operation);
        let frame = match outcome {
            Ok(receipt) => {
                let matched = receipt.matched.unwrap_or_default() as u64;
                FromBroker::Published { id, matched }
            }
            Err(error) => FromBroker::Failed { id, error },
        };
        let _ = frames.send(frame.encode()).await;
    }
}

/// Publishes messages one after the other, while the connection is read.
async fn publish(
    client: Client,
    mut publications: mpsc::Receiver<Publication>,
    frames: mpsc::Sender<Encoded>,
) -> Result<CloseReason, Violation> {
    while let Some(publication) = publications.recv().await {
        publication.carry_out(&client, &frames).await;
    }
    // The connection ends together with the queue.
    std::future::pending().await
}

/// Forwards what a subscription receives, as long as its window is open.
async fn forward(
    id: u64,
    mut subscription: Subscription,
    window: Arc<(Mutex<Window>, Notify)>,
    frames: mpsc::Sender<Encoded>,
) {
    let (window, opened) = &*window;
    loop {
        while !lock(window).is_open() {
            opened.notified().await;
        }
        let frame = match subscription.next().await {
            Event::Message(delivery) => {
                let subject = delivery.subject().clone();
                let message = delivery.message().clone();
                lock(window).sent(message.payload.len());
                FromBroker::Deliver { id, subject, message }
            }
            Event::Gap { lost } => FromBroker::Gap { id, lost },
            Event::Cancel { reply } => FromBroker::Cancelled { id, reply },
            Event::End(end) => {
                let is_too_slow = end == End::TooSlow;
                let _ = frames.send(FromBroker::Ended { id, is_too_slow }.encode()).await;
                return;
            }
        };
        if frames.send(frame.encode()).await.is_err() {
            return;
        }
    }
}
