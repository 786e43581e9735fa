//! Endpoints as the commands take them: where one asks for a session, there is one.

use std::time::Duration;

use tieline_link::SessionOptions;
use tieline_proto::FramingKind;
use tieline_transport::{
    Address, BoxChannel, DynAcceptor, Endpoint, ErrorKind, Options, Registry, TransportError,
};

use crate::report::Failure;

/// The same place, in a session; what was typed is refused where that would drop some of it.
pub(crate) fn resumable(endpoint: Endpoint) -> Result<Endpoint, Failure> {
    match endpoint.framing() {
        None => Ok(endpoint.resumable()),
        Some(framing) => Err(Failure::Usage(format!(
            "{endpoint}: a session has a framing of its own; leave out `{framing}+`, or --resume"
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
        // A server reads nothing while its program is at work.
        let of_program = options.channel.program_stall_timeout;
        options.channel.stall_timeout = options.channel.stall_timeout.max(of_program);
    }
    // An error that comes from a line, such as its end, names no endpoint.
    let named = |error: TransportError| match error.endpoint() {
        Some(_) => error,
        None => error.at(endpoint),
    };
    let connector =
        tieline_link::connector(registry, endpoint, &options, session).map_err(named)?;
    connector.connect().await.map_err(named)
}

/// How the sessions of a server behave.
#[derive(Clone, Copy)]
pub(crate) struct Served {
    /// Every endpoint is for sessions, and this is how long one is kept that has no connection.
    pub(crate) resume: Option<Duration>,
    pub(crate) most: usize,
    /// How the program is spoken to.
    pub(crate) framing: FramingKind,
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

/// Listens at the first of these that no other server has, and says so if it is not the first of all;
/// `None` if each is in use.
pub(crate) async fn listen_at_first_free(
    registry: &Registry,
    endpoints: impl Iterator<Item = Endpoint>,
    options: &Options,
    served: Served,
) -> Result<Option<Box<dyn DynAcceptor>>, TransportError> {
    let mut taken = None;
    for endpoint in endpoints {
        match listen(registry, endpoint.clone(), options, served).await {
            Err(error) if matches!(error.kind(), ErrorKind::AddressInUse) => {
                taken.get_or_insert(endpoint);
            }
            listening => {
                let acceptor = listening?;
                if let Some(taken) = taken {
                    let this = acceptor.endpoint();
                    tracing::info!("{taken} is another server's; this one listens on {this}");
                }
                return Ok(Some(acceptor));
            }
        }
    }
    Ok(None)
}
