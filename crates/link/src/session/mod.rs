//! Sessions: lines that survive their connections with nothing lost or doubled.
//!
//! ```text
//!  SessionSender ─▶ ┌────────────────────┐        ┌────────────────────┐ ─▶ SessionReceiver
//!                   │ proto's machine    │  Link  │ proto's machine    │
//!  SessionReceiver ◀┤ kept until         ├═══╪════┤ takes exactly      ├◀─ SessionSender
//!                   │ acknowledged       │ breaks │ the next           │
//!                   └────────────────────┘        └────────────────────┘
//!        client: its connector greets        server: the next connection is handed to it
//! ```
//!
//! Both ends stand on a [`Link`]: the client's dials and greets, the server's takes the connection
//! that the acceptor has for it. Above the Link is the machine of
//! [`tieline_proto::session`], under one lock; a task of its own reads, acknowledges and answers
//! while the consumer is busy, and ends with the last half. Whoever sends writes at once, without it;
//! and whoever waits for a message reads at once, for as long as nothing but messages comes (`intake`).
//!
//! Locks: `intake`, then a Link's `receiving`, then `core`, then a Link's others.

mod accept;
mod arriving;
mod assemble;
mod core;
mod dial;
mod driver;
mod intake;
mod receiver;
mod sender;
mod server;
mod shared;

use std::sync::Arc;
use std::time::Duration;

use tieline_proto::json::Limits;
use tieline_proto::session::{OVERHEAD, SessionConfig};
use tieline_proto::{BackoffConfig, ByteSize, HeartbeatConfig};
use tieline_transport::{
    BoxChannel, BoxFuture, Channel, ConfigError, Control, DynAcceptor, DynConnector, Endpoint,
    MemoryBudget, Options, Registry, TransportError,
};

use crate::{Recovery, States};

pub use accept::Sessions;
pub use receiver::{Commits, SessionReceiver};
pub use sender::SessionSender;

/// How a session behaves.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// How much is kept of what the other side has not acknowledged, and when what it sends is.
    pub session: SessionConfig,
    /// How a client comes back; by default as [suits the line](Recovery::suiting).
    pub recovery: Option<Recovery>,
    /// How long the other side may take for its part of the handshake; 5 s by default.
    pub handshake_timeout: Duration,
    /// How long a server keeps a session that has no connection; 2 min by default.
    pub grace: Duration,
    /// How many sessions a server keeps at once, and how many wait to be accepted; 1,024 by default.
    pub max_sessions: usize,
    /// Over how many connections, one after the other, a message is sent that does not get through, where nothing
    /// else moves the session on; 10 by default. Then the session ends with
    /// [`Undeliverable`](tieline_transport::LostBy::Undeliverable), but not before a minute has passed since
    /// the first of them was lost: a line that flaps for a moment is lived through.
    pub max_tries: u32,
    /// When a connection on which nothing comes is asked for a sign of life.
    pub heartbeat: HeartbeatConfig,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            session: SessionConfig::default(),
            recovery: None,
            handshake_timeout: Duration::from_secs(5),
            grace: Duration::from_secs(120),
            max_sessions: 1024,
            max_tries: 10,
            heartbeat: HeartbeatConfig::default(),
        }
    }
}

impl SessionOptions {
    /// Refuses values that are out of bounds.
    ///
    /// # Errors
    /// The first field that is out of bounds.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let positive = |is_positive: bool, field, must| match is_positive {
            true => Ok(()),
            false => Err(ConfigError { field, must }),
        };
        positive(self.session.replay_messages > 0, "replay_messages", "be at least 1")?;
        positive(self.session.replay_bytes > 0, "replay_bytes", "be at least 1")?;
        let longer = "be longer than zero";
        positive(!self.handshake_timeout.is_zero(), "handshake_timeout", longer)?;
        positive(self.max_sessions > 0, "max_sessions", "be at least 1")?;
        positive(self.max_tries > 0, "max_tries", "be at least 1")
    }

    /// A server's line comes back when the client does, and is not sought.
    fn as_server(self) -> Self {
        const AT_ONCE: BackoffConfig =
            BackoffConfig { first: Duration::ZERO, initial: Duration::ZERO, max: Duration::ZERO };
        Self { recovery: Some(Recovery::Reconnect(AT_ONCE)), ..self }
    }
}

/// A [`Channel`] that survives its connections: what was on its way when one broke is sent again on
/// the next, and nothing twice.
///
/// *Within a session every message is delivered once, in order, or the session ends with an error that
/// says what was delivered.* A client whose session cannot be resumed, because the server has
/// forgotten it, begins a new one: its receiver says
/// [`Reset`](tieline_transport::Incoming::Reset) with
/// [`SessionLost`](tieline_transport::CloseReason::SessionLost) as the cause, and its sender says once
/// how much may be [lost](tieline_transport::SendError::Lost). Until the receiver has given that reset,
/// the sender takes nothing: a message meant for the lost session never reaches the new one.
///
/// While there is no connection, messages are taken until the replay buffer is full; then senders
/// wait. [`settle`](SessionSender::settle) waits until the other side has taken over all that was sent.
///
/// Dropping both halves ends the session at once, and tells the other side if that is possible without
/// waiting. But where the sender was [closed](tieline_transport::SenderExt::close) before, what was sent
/// may still arrive: the session lives on, as long as the runtime does, until the other side has it all
/// or the grace is over.
pub struct Session {
    /// Dropped first: who drops a whole session does not end one direction of it before.
    receiver: SessionReceiver,
    sender: SessionSender,
    control: Control,
    states: States,
}

impl Session {
    /// Asks `connector` for a connection in the framing `length-prefix`, with room for
    /// [`OVERHEAD`] bytes beside a message, and the other side for a session. Cancel-safe: a dropped
    /// attempt leaves nothing behind.
    ///
    /// Needs a tokio runtime.
    ///
    /// # Errors
    /// There is no first connection, or no session on it.
    pub async fn connect(
        connector: Arc<dyn DynConnector>,
        options: SessionOptions,
        line: LineOptions,
    ) -> Result<Self, TransportError> {
        options.validate()?;
        dial::connect(connector, options, line).await
    }

    /// How far it has come, from here on. Ask before the split; what it gives outlives the session.
    pub fn states(&self) -> States {
        self.states.clone()
    }
}

impl Channel for Session {
    type Sender = SessionSender;
    type Receiver = SessionReceiver;

    fn control(&self) -> &Control {
        &self.control
    }

    fn split(self) -> (SessionSender, SessionReceiver) {
        (self.sender, self.receiver)
    }
}

/// What a session takes over of a line's [`Options`].
#[derive(Clone, Debug)]
pub struct LineOptions {
    /// The largest message either way.
    pub max_message: ByteSize,
    /// Every message that comes must be JSON within these limits; one that is not is a fault.
    pub json: Option<Limits>,
    /// What counts what a session keeps and what waits for its consumer; no bound by default.
    pub memory: Option<MemoryBudget>,
}

impl Default for LineOptions {
    fn default() -> Self {
        Self { max_message: tieline_proto::DEFAULT_MAX_MESSAGE, json: None, memory: None }
    }
}

impl LineOptions {
    /// What concerns a session.
    pub fn of(options: &Options) -> Self {
        let json = options.json.then(Limits::default);
        let memory = options.memory.clone();
        Self { max_message: options.channel.max_message, json, memory }
    }
}

/// The options for the connections that carry a session.
fn carrier(options: &Options) -> Options {
    let mut carrier = options.clone();
    let room = options.channel.max_message.bytes().saturating_add(OVERHEAD);
    carrier.channel.max_message = ByteSize::new(room.min(u32::MAX as usize));
    carrier.json = false;
    carrier
}

/// A connector for any endpoint: where it is [resumable](Endpoint::is_resumable), each channel is a
/// [`Session`]; else it is the registry's own.
///
/// # Errors
/// The scheme is unknown, or the endpoint or an option does not fit.
pub fn connector(
    registry: &Registry,
    endpoint: &Endpoint,
    options: &Options,
    session: SessionOptions,
) -> Result<Arc<dyn DynConnector>, TransportError> {
    if !endpoint.is_resumable() {
        return Ok(registry.connector(endpoint, options)?.into());
    }
    session.validate()?;
    let dialer = registry.connector(&endpoint.carrier(), &carrier(options))?;
    Ok(Arc::new(Resumable { dialer: dialer.into(), session, line: LineOptions::of(options) }))
}

/// Listens on any endpoint: where it is [resumable](Endpoint::is_resumable), with [`Sessions`]; else as
/// the registry does.
///
/// # Errors
/// As [`Registry::listen`].
pub async fn listen(
    registry: &Registry,
    endpoint: &Endpoint,
    options: &Options,
    session: SessionOptions,
) -> Result<Box<dyn DynAcceptor>, TransportError> {
    if !endpoint.is_resumable() {
        return registry.listen(endpoint, options).await;
    }
    session.validate()?;
    let acceptor = registry.listen(&endpoint.carrier(), &carrier(options)).await?;
    Ok(Box::new(Sessions::new(acceptor, session, LineOptions::of(options))))
}

struct Resumable {
    dialer: Arc<dyn DynConnector>,
    session: SessionOptions,
    line: LineOptions,
}

impl DynConnector for Resumable {
    fn connect(&self) -> BoxFuture<'_, Result<BoxChannel, TransportError>> {
        Box::pin(async move {
            let session =
                Session::connect(self.dialer.clone(), self.session, self.line.clone()).await?;
            Ok(session.boxed())
        })
    }
}
