//! A client that can connect and disconnect any number of times.

use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tieline_transport::{
    Channel, CloseReason, Control, DynConnector, Endpoint, ErrorKind, Incoming, Operation, Options,
    Receiver, Registry, SendError, SenderExt, TransportError,
};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::link::{Link, LinkOptions, LinkSender};
use crate::lock::lock;
use crate::receiver::LinkReceiver;
use crate::session::SessionOptions;
use crate::shared_link::SharedLink;
use crate::state::{LineState, LineStates, StatePublisher};

/// The options of a [`Client`].
#[derive(Clone, Copy, Debug)]
pub struct ClientOptions {
    /// How each of its connections recovers from lost lines.
    pub link: LinkOptions,
    /// How long a message waits for a line with room for it; 30 s by default.
    pub send_timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self { link: LinkOptions::default(), send_timeout: Duration::from_secs(30) }
    }
}

/// A client that can connect and disconnect any number of times.
///
/// Each connection is a separate [`Link`](crate::Link). All methods may be called from many tasks
/// concurrently. Dropping the client releases everything at once: the child process and its descendants,
/// all descriptors, and any attempt to connect. [`Messages`] and [`LineStates`] then end.
pub struct Client {
    connector: Arc<dyn DynConnector>,
    endpoint: Endpoint,
    options: ClientOptions,
    publisher: StatePublisher,
    slot: Mutex<Slot>,
}

enum Slot {
    Free,
    /// An attempt is running. A notification cancels it.
    Connecting(Arc<Notify>),
    Connected(Arc<Connection>),
}

struct Connection {
    shared: Arc<SharedLink>,
    control: Control,
    sender: Arc<tokio::sync::Mutex<LinkSender>>,
    receiver: Arc<Mutex<Option<LinkReceiver>>>,
}

impl Client {
    /// Creates a client for `endpoint`, without I/O.
    ///
    /// # Errors
    /// The scheme is unknown, or the endpoint or an option is invalid for it.
    pub fn new(
        registry: &Registry,
        endpoint: &Endpoint,
        options: &Options,
        client: ClientOptions,
    ) -> Result<Self, TransportError> {
        let connector = crate::connector(registry, endpoint, options, SessionOptions::default())?;
        Ok(Self::over(connector, endpoint.clone(), client))
    }

    /// Creates a client that uses `connector`; `endpoint` is only used in errors.
    pub fn over(
        connector: Arc<dyn DynConnector>,
        endpoint: Endpoint,
        options: ClientOptions,
    ) -> Self {
        let publisher = StatePublisher::first(LineState::Idle);
        Self { connector, endpoint, options, publisher, slot: Mutex::new(Slot::Free) }
    }

    /// Connects, and returns the incoming messages. Cancel-safe: a dropped attempt leaves nothing running.
    ///
    /// The messages must be received: the task that receives does the connection's work and detects its end.
    ///
    /// # Errors
    /// [`AlreadyConnected`](ErrorKind::AlreadyConnected) if a connection has not ended yet or another
    /// attempt is running. Otherwise the errors of the transport; each cause has its own [`ErrorKind`].
    pub async fn connect(&self) -> Result<Messages, TransportError> {
        let cancelled = Arc::new(Notify::new());
        let (replaced, publisher) = {
            let mut slot = lock(&self.slot);
            match &*slot {
                Slot::Connected(it) if it.control.close_reason().is_some() => {}
                Slot::Free => {}
                _ => return Err(self.error(ErrorKind::AlreadyConnected, Operation::Connect)),
            }
            let publisher = self.publisher.next(LineState::Connecting { attempt: 1 });
            (std::mem::replace(&mut *slot, Slot::Connecting(cancelled.clone())), publisher)
        };
        drop(replaced);
        let attempt = Attempt { client: self, cancelled };
        let connector = self.connector.clone();
        let connected = tokio::select! {
            biased;
            () = attempt.cancelled.notified() => return Err(attempt.given_up()),
            connected = Link::connect_as(connector, self.options.link, publisher) => connected,
        };
        let link = match connected {
            Ok(link) => link,
            Err(error) => {
                let reason = CloseReason::Unreachable(error.clone());
                attempt.end(LineState::Closed { by_us: false, reason });
                return Err(error);
            }
        };
        let (control, shared) = (link.control().clone(), link.shared());
        let (sender, receiver) = link.split();
        let receiver = Arc::new(Mutex::new(Some(receiver)));
        let sender = Arc::new(tokio::sync::Mutex::new(sender));
        let connection =
            Connection { shared, control: control.clone(), sender, receiver: receiver.clone() };
        let mut slot = lock(&self.slot);
        if !attempt.is_current(&slot) {
            drop(slot);
            drop(connection);
            return Err(attempt.given_up());
        }
        *slot = Slot::Connected(Arc::new(connection));
        Ok(Messages { receiver, control })
    }

    /// Ends the connection in stages, or cancels the attempt to connect, and returns how the connection
    /// ended. Messages that the peer sends until then are received. Waits only for the exit of a child
    /// process.
    ///
    /// Dropping the future stops at the current stage; the connection does not reconnect.
    ///
    /// # Errors
    /// [`NotConnected`](ErrorKind::NotConnected) if there is neither a connection nor an attempt.
    pub async fn disconnect(&self) -> Result<CloseReason, TransportError> {
        let connection = {
            let mut slot = lock(&self.slot);
            match &*slot {
                Slot::Connected(it) if it.control.close_reason().is_none() => it.clone(),
                Slot::Connecting(cancelled) => {
                    cancelled.notify_one();
                    *slot = Slot::Free;
                    self.publisher.next(gone());
                    return Ok(CloseReason::ByUs);
                }
                _ => return Err(self.error(ErrorKind::NotConnected, Operation::Close)),
            }
        };
        let reason = connection.stop().await;
        // Messages that have not been received yet remain available through `Messages`.
        let mut slot = lock(&self.slot);
        if matches!(&*slot, Slot::Connected(it) if Arc::ptr_eq(it, &connection)) {
            *slot = Slot::Free;
        }
        Ok(reason)
    }

    /// Sends one message, and returns once it has been handed to the operating system. If the line is
    /// lost, waits for the next one.
    ///
    /// If the future is dropped, either the whole message is sent or none of it.
    ///
    /// # Errors
    /// - [`NotConnected`](ErrorKind::NotConnected): there is no connection, or it has ended;
    /// - [`TimedOut`](ErrorKind::TimedOut): nothing was sent within [`ClientOptions::send_timeout`];
    /// - [`Lost`](ErrorKind::Lost): the line was lost while the message was being sent;
    /// - [`Message`](ErrorKind::Message): the message cannot be sent;
    /// - [`Closed`](ErrorKind::Closed): the connection ended in the meantime.
    pub async fn send(&self, message: impl Into<Bytes> + Send) -> Result<(), TransportError> {
        let connection = match &*lock(&self.slot) {
            Slot::Connected(it) if it.control.close_reason().is_none() => it.clone(),
            _ => return Err(self.error(ErrorKind::NotConnected, Operation::Send)),
        };
        let sender = connection.sender.clone();
        // Dropping the client must end the connection even while a message is being sent.
        drop(connection);
        let limit = self.options.send_timeout;
        let fed = timeout(limit, async {
            let mut sender = sender.lock().await;
            // The loss of an earlier message concerns another caller; report only the loss of this one.
            sender.feed_as_first(message.into()).await.map(|()| sender)
        });
        let sent = match fed.await {
            Ok(Ok(mut sender)) => sender.flush().await,
            Ok(Err(error)) => Err(error),
            Err(_) => return Err(self.error(ErrorKind::TimedOut(limit), Operation::Send)),
        };
        sent.map_err(|error: SendError| error.into_error(&self.endpoint))
    }

    /// Returns the current state.
    pub fn state(&self) -> LineState {
        self.publisher.present()
    }

    /// Returns the states from now on, across all connections.
    pub fn states(&self) -> LineStates {
        LineStates::of(&self.publisher, false)
    }

    /// Returns the endpoint that the client connects to.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Returns the control of the current connection, or of the last one until it is replaced or
    /// disconnected.
    pub fn control(&self) -> Option<Control> {
        match &*lock(&self.slot) {
            Slot::Connected(connection) => Some(connection.control.clone()),
            _ => None,
        }
    }

    fn error(&self, kind: ErrorKind, operation: Operation) -> TransportError {
        TransportError::new(kind, operation).at(&self.endpoint)
    }
}

/// Returns the state after this side has ended a connection or an attempt.
fn gone() -> LineState {
    LineState::Closed { by_us: true, reason: CloseReason::ByUs }
}

impl Drop for Client {
    fn drop(&mut self) {
        let slot = self.slot.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        drop(std::mem::replace(slot, Slot::Free));
        if !self.state().is_closed() {
            self.publisher.next(gone());
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Client").field("endpoint", &self.endpoint).field("state", &state).finish()
    }
}

/// An attempt to connect, which may be dropped at any time.
struct Attempt<'a> {
    client: &'a Client,
    cancelled: Arc<Notify>,
}

impl Attempt<'_> {
    fn is_current(&self, slot: &Slot) -> bool {
        matches!(slot, Slot::Connecting(it) if Arc::ptr_eq(it, &self.cancelled))
    }

    /// Ends the attempt, unless another has replaced it already.
    fn end(&self, state: LineState) {
        let mut slot = lock(&self.client.slot);
        if self.is_current(&slot) {
            *slot = Slot::Free;
            self.client.publisher.next(state);
        }
    }

    fn given_up(&self) -> TransportError {
        self.client.error(ErrorKind::Closed(CloseReason::ByUs), Operation::Connect)
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.end(gone());
    }
}

impl Connection {
    async fn stop(&self) -> CloseReason {
        let mut stop = pin!(self.control.stop());
        let reason = tokio::select! {
            biased;
            _ = async { self.sender.lock().await.close().await } => stop.await,
            // The sender is locked by a task that waits for a peer which does not read.
            reason = &mut stop => reason,
        };
        self.shared.hang_up();
        reason
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // After an orderly end, unread messages remain available; otherwise everything ends at once.
        if self.control.close_reason().is_none() {
            self.control.abort();
            drop(lock(&self.receiver).take());
        }
    }
}

/// The incoming messages of one connection of a [`Client`].
///
/// The task that receives does the connection's work. Once this is dropped, the connection no longer
/// reconnects, and nothing more is received. To end the connection, [disconnect](Client::disconnect).
pub struct Messages {
    receiver: Arc<Mutex<Option<LinkReceiver>>>,
    control: Control,
}

impl Messages {
    /// Returns the connection's control: its peer, its message counts, and why it ended.
    pub fn control(&self) -> &Control {
        &self.control
    }
}

impl Receiver for Messages {
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        match &mut *lock(&self.receiver) {
            Some(receiver) => receiver.poll_recv(cx),
            None => {
                let reason = self.control.close_reason().unwrap_or(CloseReason::ByUs);
                Poll::Ready(Incoming::End(reason))
            }
        }
    }

    fn unread(&self) -> u64 {
        lock(&self.receiver).as_ref().map_or(0, Receiver::unread)
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        drop(lock(&self.receiver).take());
    }
}
