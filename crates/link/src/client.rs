//! A client that comes and goes: for hosts that connect, disconnect, and connect again.

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

use crate::shared::{Shared, lock};
use crate::state::StatePublisher;
use crate::{Link, LinkOptions, LinkReceiver, LinkSender, SessionOptions, State, States};

/// How a client behaves.
#[derive(Clone, Copy, Debug)]
pub struct ClientOptions {
    /// How each of its connections comes back.
    pub link: LinkOptions,
    /// How long a message waits until there is a line that has room for it; 30 s by default.
    pub send_timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self { link: LinkOptions::default(), send_timeout: Duration::from_secs(30) }
    }
}

/// A client that connects, disconnects, and connects again.
///
/// Each connection is a [`Link`](crate::Link) of its own. All methods may be called from many tasks at
/// once. Dropping the client releases everything at once: the child process and what came of it,
/// descriptors, and an attempt under way; [`Messages`] and [`States`] come to their ends.
pub struct Client {
    connector: Arc<dyn DynConnector>,
    endpoint: Endpoint,
    options: ClientOptions,
    told: StatePublisher,
    slot: Mutex<Slot>,
}

enum Slot {
    Free,
    /// Notified when it is not wanted any more.
    Connecting(Arc<Notify>),
    Connected(Arc<Connection>),
}

struct Connection {
    shared: Arc<Shared>,
    control: Control,
    sender: Arc<tokio::sync::Mutex<LinkSender>>,
    receiver: Arc<Mutex<Option<LinkReceiver>>>,
}

impl Client {
    /// A client of what `endpoint` names. Does no I/O.
    ///
    /// # Errors
    /// The scheme is unknown, or the endpoint or an option does not fit.
    pub fn new(
        registry: &Registry,
        endpoint: &Endpoint,
        options: &Options,
        client: ClientOptions,
    ) -> Result<Self, TransportError> {
        let connector = crate::connector(registry, endpoint, options, SessionOptions::default())?;
        Ok(Self::over(connector, endpoint.clone(), client))
    }

    /// A client of whatever `connector` connects to; `endpoint` names it in errors.
    pub fn over(
        connector: Arc<dyn DynConnector>,
        endpoint: Endpoint,
        options: ClientOptions,
    ) -> Self {
        let told = StatePublisher::first(State::Idle);
        Self { connector, endpoint, options, told, slot: Mutex::new(Slot::Free) }
    }

    /// Connects, and gives what comes in. Cancel-safe: a dropped attempt leaves nothing behind.
    ///
    /// The messages have to be taken: whoever takes them does the connection's work, and is the one
    /// through whom its end is noticed.
    ///
    /// # Errors
    /// [`AlreadyConnected`](ErrorKind::AlreadyConnected) while there is a connection that has not come to
    /// its end, or an attempt under way. Else as the transport's; each cause has its own [`ErrorKind`].
    pub async fn connect(&self) -> Result<Messages, TransportError> {
        let cancelled = Arc::new(Notify::new());
        let (replaced, told) = {
            let mut slot = lock(&self.slot);
            match &*slot {
                Slot::Connected(it) if it.control.close_reason().is_some() => {}
                Slot::Free => {}
                _ => return Err(self.error(ErrorKind::AlreadyConnected, Operation::Connect)),
            }
            let told = self.told.next(State::Connecting { attempt: 1 });
            (std::mem::replace(&mut *slot, Slot::Connecting(cancelled.clone())), told)
        };
        drop(replaced);
        let attempt = Attempt { client: self, cancelled };
        let connector = self.connector.clone();
        let connected = tokio::select! {
            biased;
            () = attempt.cancelled.notified() => return Err(attempt.given_up()),
            connected = Link::connect_as(connector, self.options.link, told) => connected,
        };
        let link = match connected {
            Ok(link) => link,
            Err(error) => {
                let reason = CloseReason::Unreachable(error.clone());
                attempt.end(State::Closed { by_us: false, reason });
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

    /// Ends the connection in stages, or gives up the attempt under way, and says how the other side
    /// took it. What it says until then arrives; only a child process is waited for.
    ///
    /// Dropping the future leaves the stages where they are; the connection does not come back.
    ///
    /// # Errors
    /// [`NotConnected`](ErrorKind::NotConnected) if there is nothing to end.
    pub async fn disconnect(&self) -> Result<CloseReason, TransportError> {
        let connection = {
            let mut slot = lock(&self.slot);
            match &*slot {
                Slot::Connected(it) if it.control.close_reason().is_none() => it.clone(),
                Slot::Connecting(cancelled) => {
                    cancelled.notify_one();
                    *slot = Slot::Free;
                    self.told.next(gone());
                    return Ok(CloseReason::ByUs);
                }
                _ => return Err(self.error(ErrorKind::NotConnected, Operation::Close)),
            }
        };
        let reason = connection.stop().await;
        // What has not been taken by now is still there for whoever has the messages.
        let mut slot = lock(&self.slot);
        if matches!(&*slot, Slot::Connected(it) if Arc::ptr_eq(it, &connection)) {
            *slot = Slot::Free;
        }
        Ok(reason)
    }

    /// Sends one message, and returns when it was handed to the operating system. While there is no
    /// line because one was lost, it waits for the next.
    ///
    /// Dropped half-way, it has sent the whole message or nothing of it.
    ///
    /// # Errors
    /// [`NotConnected`](ErrorKind::NotConnected), also once a connection has ended;
    /// [`TimedOut`](ErrorKind::TimedOut): nothing of it was sent within
    /// [`ClientOptions::send_timeout`]; [`Lost`](ErrorKind::Lost): the line was lost under it;
    /// [`Message`](ErrorKind::Message): it cannot be sent; [`Closed`](ErrorKind::Closed): the connection
    /// ended meanwhile.
    pub async fn send(&self, message: impl Into<Bytes> + Send) -> Result<(), TransportError> {
        let connection = match &*lock(&self.slot) {
            Slot::Connected(it) if it.control.close_reason().is_none() => it.clone(),
            _ => return Err(self.error(ErrorKind::NotConnected, Operation::Send)),
        };
        let sender = connection.sender.clone();
        // A client that is dropped does not wait for us.
        drop(connection);
        let limit = self.options.send_timeout;
        let fed = timeout(limit, async {
            let mut sender = sender.lock().await;
            // Of what others gave up half-way they heard: this is about ours.
            sender.feed_as_first(message.into()).await.map(|()| sender)
        });
        let sent = match fed.await {
            Ok(Ok(mut sender)) => sender.flush().await,
            Ok(Err(error)) => Err(error),
            Err(_) => return Err(self.error(ErrorKind::TimedOut(limit), Operation::Send)),
        };
        sent.map_err(|error: SendError| error.into_error(&self.endpoint))
    }

    /// How far it has come.
    pub fn state(&self) -> State {
        self.told.present()
    }

    /// How far it has come, from here on and through all connections.
    pub fn states(&self) -> States {
        States::of(&self.told, false)
    }

    /// Where it connects to.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The present connection's, or the last one's until it was replaced or disconnected.
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

/// Ended by us, before anything else could.
fn gone() -> State {
    State::Closed { by_us: true, reason: CloseReason::ByUs }
}

impl Drop for Client {
    fn drop(&mut self) {
        let slot = self.slot.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        drop(std::mem::replace(slot, Slot::Free));
        if !self.state().is_closed() {
            self.told.next(gone());
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Client").field("endpoint", &self.endpoint).field("state", &state).finish()
    }
}

/// An attempt under way, which may be dropped at any time.
struct Attempt<'a> {
    client: &'a Client,
    cancelled: Arc<Notify>,
}

impl Attempt<'_> {
    fn is_current(&self, slot: &Slot) -> bool {
        matches!(slot, Slot::Connecting(it) if Arc::ptr_eq(it, &self.cancelled))
    }

    /// Nothing came of it, unless it is somebody else's turn already.
    fn end(&self, state: State) {
        let mut slot = lock(&self.client.slot);
        if self.is_current(&slot) {
            *slot = Slot::Free;
            self.client.told.next(state);
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
            // Somebody sends to an other side that does not read.
            reason = &mut stop => reason,
        };
        self.shared.hang_up();
        reason
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // After a polite end there may be something left to be read; else all goes at once.
        if self.control.close_reason().is_none() {
            self.control.abort();
            drop(lock(&self.receiver).take());
        }
    }
}

/// What comes in over one connection of a [`Client`].
///
/// Whoever takes the messages does the connection's work. Dropping this ends the connection's coming
/// back, and nothing else is received; to end it, [disconnect](Client::disconnect).
pub struct Messages {
    receiver: Arc<Mutex<Option<LinkReceiver>>>,
    control: Control,
}

impl Messages {
    /// Who is on the other end, how many messages came and went, and why it ended.
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
}

impl Drop for Messages {
    fn drop(&mut self) {
        drop(lock(&self.receiver).take());
    }
}
