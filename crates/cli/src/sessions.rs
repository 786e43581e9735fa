//! Connects to and listens on endpoints, with sessions if the endpoint requests them.

use std::time::Duration;

use tieline_link::SessionOptions;
use tieline_proto::FramingKind;
use tieline_transport::{
    Address, BoxChannel, DynAcceptor, Endpoint, Options, Registry, TransportError,
};

use crate::report::Failure;

/// Returns the endpoint with a session. Refuses an endpoint with a framing, which the session would
/// replace.
pub(crate) fn resumable(endpoint: Endpoint) -> Result<Endpoint, Failure> {
    match endpoint.framing() {
        None => Ok(endpoint.resumable()),
        Some(framing) => Err(Failure::Usage(format!(
            "{endpoint}: a session uses its own framing; leave out `{framing}+`, or --resume"
        ))),
    }
}

pub(crate) async fn connect(
    registry: &Registry,
    endpoint: &Endpoint,
    options: &Options,
) -> Result<BoxChannel, TransportError> {
    let session = SessionOptions::default();
    let mut options = options.clone();
    if !matches!(endpoint.address(), Address::Stdio) {
        // A server does not read while its program is busy, so it has the limit of a program.
        options.channel.stall_timeout = options.channel.program_stall_timeout;
    }
    // An error of an open line, such as its end, does not contain the endpoint.
    let named = |error: TransportError| match error.endpoint() {
        Some(_) => error,
        None => error.at(endpoint),
    };
    let connector =
        tieline_link::connector(registry, endpoint, &options, session).map_err(named)?;
    connector.connect().await.map_err(named)
}

/// The session settings of a server.
#[derive(Clone, Copy)]
pub(crate) struct Served {
    /// If set, every endpoint requires sessions, and a session without a connection is kept for this
    /// time.
    pub(crate) resume: Option<Duration>,
    pub(crate) most: usize,
    /// The program's framing.
    pub(crate) framing: FramingKind,
    /// How long a program that clients share is kept without them.
    pub(crate) idle: Duration,
}

pub(crate) async fn listen(
    registry: &Registry,
    endpoint: Endpoint,
    options: &Options,
    served: Served,
) -> Result<Box<dyn DynAcceptor>, TransportError> {
    let endpoint = if served.resume.is_some() { endpoint.resumable() } else { endpoint };
    let usual = SessionOptions::default();
    let grace = served.resume.unwrap_or(usual.grace);
    let session = SessionOptions { grace, max_sessions: served.most, ..usual };
    tieline_link::listen(registry, &endpoint, options, session).await
}
