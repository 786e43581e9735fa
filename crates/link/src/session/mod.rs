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
//! Both ends are built on a [`Link`](crate::Link): the client's Link connects and greets, and the
//! server's Link receives the session's connections from the acceptor. The session's state is a
//! [`tieline_proto::session::SessionMachine`] under one lock. A task reads, acknowledges and answers
//! pings while the consumer is busy. It ends with the session. A sender writes directly, without that
//! task, and a receiver that waits for a message reads directly as long as only messages arrive
//! (`intake`).
//!
//! Lock order: `intake`, a Link's `receiving`, `state`, the other locks of a Link.

mod accept;
mod assemble;
mod dial;
mod driver;
mod handed;
mod intake;
mod lifeline;
mod options;
mod receiver;
mod refuse;
mod sender;
mod shared_session;
mod state;
mod table;

use std::sync::Arc;

use tieline_proto::ByteSize;
use tieline_proto::session::OVERHEAD;
use tieline_transport::{
    BoxChannel, BoxFuture, Channel, DynAcceptor, DynConnector, Endpoint, Options, Registry,
    TransportError,
};

pub use accept::{SessionFailures, Sessions};
pub use assemble::Session;
pub use options::{LineOptions, SessionOptions};
pub use receiver::{Commits, SessionReceiver};
pub use sender::SessionSender;

/// Returns the options for the connections that carry a session.
fn carrier(options: &Options) -> Options {
    let mut carrier = options.clone();
    let room = options.channel.max_message.bytes().saturating_add(OVERHEAD);
    carrier.channel.max_message = ByteSize::new(room.min(u32::MAX as usize));
    carrier.json = false;
    carrier
}

/// Returns a connector for any endpoint: one for [`Session`]s if the endpoint is
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

/// Connects a [`Session`] to `endpoint`, which may begin with `resume+` but need not. Unlike the channel
/// of [`connector`], a `Session` provides its [`states`](Session::states). Cancel-safe: a dropped
/// attempt leaves nothing running.
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
