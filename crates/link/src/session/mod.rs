//! Sessions: lines that survive the loss of their connections, without losing or duplicating messages.
//!
//! ```text
//!  SessionSender ─▶ ┌────────────────────┐        ┌────────────────────┐ ─▶ SessionReceiver
//!                   │ session state      │  Link  │ session state      │
//!  SessionReceiver ◀┤ keeps until        ├═══╪════┤ accepts exactly    ├◀─ SessionSender
//!                   │ acknowledged       │ breaks │ the next           │
//!                   └────────────────────┘        └────────────────────┘
//!        client: its connector greets        server: receives the next connection
//! ```
//!
//! Both ends are built on a [`Link`](crate::Link): the client's connects and greets, the server's receives
//! the connections that the acceptor has for it. The session's state is a
//! [`tieline_proto::session::Session`] under one lock. A task reads, acknowledges and answers while the
//! consumer is busy, and ends with the last half. A sender writes directly, without that task, and a
//! receiver that waits for a message reads directly as long as only messages arrive (`intake`).
//!
//! Lock order: `intake`, a Link's `receiving`, `core`, the other locks of a Link.

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

use crate::recovery::Recovery;
use crate::state::States;

pub use accept::Sessions;
pub use receiver::{Commits, SessionReceiver};
pub use sender::SessionSender;

/// The options of a session.
#[derive(Clone, Copy, Debug)]
pub struct SessionOptions {
    /// How many unacknowledged messages are kept, and when received messages are acknowledged.
    pub session: SessionConfig,
    /// How a client reconnects; by default as [suits the line](Recovery::suiting).
    pub recovery: Option<Recovery>,
    /// How long the other end may take for its part of the handshake; 5 s by default.
    pub handshake_timeout: Duration,
    /// How long a server keeps a session without a connection; 2 min by default.
    pub grace: Duration,
    /// How many sessions a server keeps at once, and how many may wait to be accepted; 1,024 by default.
    pub max_sessions: usize,
    /// Over how many consecutive connections a message is tried while the session makes no other progress;
    /// 10 by default. After that the session ends as
    /// [`Undeliverable`](tieline_transport::LostBy::Undeliverable), but at the earliest a minute after the
    /// first of these connections was lost, so that it survives a line that flaps briefly.
    pub max_tries: u32,
    /// When pings are sent on an idle connection, and when it is considered dead.
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
    /// Checks that all values are within their bounds.
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

    /// Returns the options for a server, which waits for the client to reconnect instead of connecting
    /// itself.
    fn as_server(self) -> Self {
        const AT_ONCE: BackoffConfig =
            BackoffConfig { first: Duration::ZERO, initial: Duration::ZERO, max: Duration::ZERO };
        Self { recovery: Some(Recovery::Reconnect(AT_ONCE)), ..self }
    }
}

/// A [`Channel`] that survives the loss of its connections: messages in flight are sent again on the next
/// one, and none is delivered twice.
///
/// *Within a session every message is delivered once, in order, or the session ends with an error that says
/// what was delivered.* If the server no longer knows a client's session, the client begins a new one: its
/// receiver returns [`Reset`](tieline_transport::Incoming::Reset) with
/// [`SessionLost`](tieline_transport::CloseReason::SessionLost) as the cause, and its sender reports once
/// how many messages may be [lost](tieline_transport::SendError::Lost). Until the receiver has returned
/// that reset, the sender accepts no messages, so a message meant for the lost session never reaches the
/// new one.
///
/// While there is no connection, messages are accepted until the replay buffer is full; then senders wait.
/// [`settle`](SessionSender::settle) waits until the other end has acknowledged all messages.
///
/// Dropping both halves ends the session at once, and informs the other end if that is possible without
/// waiting. If the sender was [closed](tieline_transport::SenderExt::close) before, the sent messages may
/// still arrive: the session continues in the background, as long as the runtime does, until the other end
/// has acknowledged them or the grace period is over.
pub struct Session {
    /// Dropped before the sender, so that dropping a whole session does not first end one direction.
    receiver: SessionReceiver,
    sender: SessionSender,
    control: Control,
    states: States,
}

impl Session {
    /// Connects with `connector` and requests a session. The connector's channels must use the framing
    /// `length-prefix`, with a limit that is [`OVERHEAD`] bytes above that of the session's messages.
    ///
    /// Cancel-safe: a dropped attempt leaves nothing running. Requires a tokio runtime.
    ///
    /// # Errors
    /// The first connection failed, or the other end did not grant a session.
    pub async fn connect(
        connector: Arc<dyn DynConnector>,
        options: SessionOptions,
        line: LineOptions,
    ) -> Result<Self, TransportError> {
        options.validate()?;
        dial::connect(connector, options, line).await
    }

    /// Returns the states from now on. Call this before splitting the session; the result outlives it.
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

/// The [`Options`] of a line that apply to its session.
#[derive(Clone, Debug)]
pub struct LineOptions {
    /// The largest message in either direction.
    pub max_message: ByteSize,
    /// If set, received messages must be JSON within these limits; others are faults.
    pub json: Option<Limits>,
    /// The budget for the messages that the session keeps and that wait for its consumer; unlimited by
    /// default.
    pub memory: Option<MemoryBudget>,
}

impl Default for LineOptions {
    fn default() -> Self {
        Self { max_message: tieline_proto::DEFAULT_MAX_MESSAGE, json: None, memory: None }
    }
}

impl LineOptions {
    /// Selects the options that apply to a session.
    pub fn of(options: &Options) -> Self {
        let json = options.json.then(Limits::default);
        let memory = options.memory.clone();
        Self { max_message: options.channel.max_message, json, memory }
    }
}

/// Returns the options for the connections that carry a session.
fn carrier(options: &Options) -> Options {
    let mut carrier = options.clone();
    let room = options.channel.max_message.bytes().saturating_add(OVERHEAD);
    carrier.channel.max_message = ByteSize::new(room.min(u32::MAX as usize));
    carrier.json = false;
    carrier
}

/// Returns a connector for any endpoint: of [`Session`]s if the endpoint is
/// [resumable](Endpoint::is_resumable), and otherwise the registry's own.
///
/// # Errors
/// The scheme is unknown, or the endpoint or an option is invalid for it.
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

/// Connects to `endpoint` with a [`Session`], with or without `resume+` in front of it. Unlike the channel of
/// [`connector`], a session shows its [`states`](Session::states). Cancel-safe: a dropped attempt leaves
/// nothing running.
///
/// # Errors
/// The endpoint or an option is invalid, the first connection fails, or the server refuses the session.
pub async fn connect_session(
    registry: &Registry,
    endpoint: &Endpoint,
    options: &Options,
    session: SessionOptions,
) -> Result<Session, TransportError> {
    session.validate()?;
    let dialer = registry.connector(&endpoint.carrier(), &carrier(options))?;
    Session::connect(dialer.into(), session, LineOptions::of(options)).await
}

/// Listens on any endpoint: with [`Sessions`] if the endpoint is [resumable](Endpoint::is_resumable), and
/// otherwise as the registry does.
///
/// # Errors
/// The same as [`Registry::listen`].
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
